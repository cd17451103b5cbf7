use proptest::prelude::*;

use super::*;

fn packet(number: u8, parts: &[&[u8]]) -> Vec<u8> {
    let mut body = vec![number];
    body.extend(parts.concat());
    let mut out = Vec::new();
    put_string(&mut out, &body);
    out
}

fn text(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    put_string(&mut out, text.as_bytes());
    out
}

/// A session that has begun.
fn begun() -> Sftp {
    let mut sftp = Sftp::default();
    sftp.client(&packet(kind::INIT, &[&3u32.to_be_bytes()]));
    assert!(matches!(sftp.next(1 << 15), Ok(FileStep::Pass(_))));
    sftp
}

/// Answers a query with the path it asked for, behind `/home`, and gives the question that follows.
fn resolve(sftp: &mut Sftp) -> FileOp {
    loop {
        match sftp.next(1 << 15).unwrap() {
            FileStep::Query(query) => {
                let mut reader = Reader::new(&query[5..]);
                let id = reader.u32().unwrap();
                let path = reader.text().unwrap();
                let real = if path.starts_with('/') { path.to_owned() } else { format!("/home/{path}") };
                let answer = packet(
                    kind::NAME,
                    &[&id.to_be_bytes(), &1u32.to_be_bytes(), &text(&real), &text(""), &[0; 4]],
                );
                for part in sftp.server(&answer).unwrap() {
                    assert!(matches!(part, Returned::Drop(_)), "our answer reached the client");
                }
            }
            FileStep::Ask(op) => return op,
            _ => panic!("neither a query nor a question"),
        }
    }
}

fn id() -> [u8; 4] {
    5u32.to_be_bytes()
}

#[test]
fn every_request_with_a_path_is_asked_about_with_what_it_does() {
    use Access::{List, Read, Remove, Write};
    for (number, rest, verb, expect) in [
        (kind::OPEN, [text("/a"), 1u32.to_be_bytes().to_vec()].concat(), "read", vec![(Read, "/a")]),
        (kind::OPEN, [text("/a"), 0x1au32.to_be_bytes().to_vec()].concat(), "write", vec![(Write, "/a")]),
        (
            kind::OPEN,
            [text("a"), 3u32.to_be_bytes().to_vec()].concat(),
            "write",
            vec![(Write, "/home/a"), (Read, "/home/a")],
        ),
        (kind::OPEN, [text("/a"), 0u32.to_be_bytes().to_vec()].concat(), "read", vec![(Read, "/a")]),
        (kind::LSTAT, text("/a/b/"), "stat", vec![(List, "/a/b")]),
        (kind::STAT, text("/a"), "stat", vec![(List, "/a")]),
        (kind::OPENDIR, text("/a"), "list", vec![(List, "/a")]),
        (kind::READLINK, text("/a/b"), "readlink", vec![(List, "/a/b")]),
        (kind::SETSTAT, text("/a"), "setstat", vec![(Write, "/a")]),
        (kind::MKDIR, text("/a/b"), "mkdir", vec![(Write, "/a/b")]),
        (kind::REMOVE, text("b"), "remove", vec![(Remove, "/home/./b")]),
        (kind::RMDIR, text("/b"), "rmdir", vec![(Remove, "/b")]),
        (
            kind::RENAME,
            [text("/a/x"), text("/b/y")].concat(),
            "rename",
            vec![(Read, "/a/x"), (Remove, "/a/x"), (Write, "/b/y")],
        ),
        (
            kind::EXTENDED,
            [text("posix-rename@openssh.com"), text("/a/x"), text("/b/y")].concat(),
            "rename",
            vec![(Read, "/a/x"), (Remove, "/a/x"), (Write, "/b/y")],
        ),
        (
            kind::EXTENDED,
            [text("lsetstat@openssh.com"), text("/a/x")].concat(),
            "setstat",
            vec![(Write, "/a/x")],
        ),
        (kind::EXTENDED, [text("statvfs@openssh.com"), text("/a")].concat(), "statvfs", vec![(List, "/a")]),
    ] {
        let mut sftp = begun();
        sftp.client(&packet(number, &[&id(), &rest]));
        let op = resolve(&mut sftp);
        let expect: Vec<(Access, String)> =
            expect.into_iter().map(|(access, path)| (access, path.to_owned())).collect();
        assert_eq!((op.verb, op.accesses), (verb, expect), "{number}");
        assert!(matches!(sftp.next(1 << 15).unwrap(), FileStep::Wait), "it went on without an answer");
    }
}

#[test]
fn links_and_unknown_requests_are_refused_without_a_question() {
    for (number, rest) in [
        (kind::SYMLINK, [text("/a"), text("/b")].concat()),
        (kind::EXTENDED, [text("hardlink@openssh.com"), text("/a"), text("/b")].concat()),
        (kind::EXTENDED, [text("copy-data"), text("/a")].concat()),
        (kind::EXTENDED, text("nobody@knows")),
        (kind::FSETSTAT, text("no such handle")),
        (42, text("?")),
    ] {
        let mut sftp = begun();
        sftp.client(&packet(number, &[&id(), &rest]));
        let FileStep::Refuse { answer, .. } = sftp.next(1 << 15).unwrap() else { panic!("{number} passed") };
        assert_eq!((answer[4], &answer[5..9]), (kind::STATUS, &id()[..]));
    }
}

#[test]
fn a_file_open_for_reading_never_passes_for_one_open_for_writing() {
    let mut sftp = begun();
    let open = |flags: u32| packet(kind::OPEN, &[&id(), &text("/a"), &flags.to_be_bytes()]);
    sftp.client(&open(1));
    resolve(&mut sftp);
    sftp.permit(1);
    assert!(matches!(sftp.next(1 << 15), Ok(FileStep::Pass(_))));
    // A second open under the same number, before the first is answered.
    sftp.client(&open(2));
    assert_eq!(sftp.next(1 << 15).map(|_| ()), Err(SftpError::Reused(5)));

    let mut sftp = begun();
    sftp.client(&open(1));
    resolve(&mut sftp);
    sftp.permit(1);
    assert!(matches!(sftp.next(1 << 15), Ok(FileStep::Pass(_))));
    sftp.server(&packet(kind::HANDLE, &[&id(), &text("h")])).unwrap();
    sftp.client(&packet(kind::FSETSTAT, &[&id(), &text("h"), &[0; 4]]));
    assert!(matches!(sftp.next(1 << 15), Ok(FileStep::Refuse { .. })));
}

#[test]
fn a_path_the_target_does_not_resolve_is_refused() {
    for answer in ["relative", "/a/../b", ""] {
        let mut sftp = begun();
        sftp.client(&packet(kind::STAT, &[&id(), &text("/x")]));
        let FileStep::Query(query) = sftp.next(1 << 15).unwrap() else { panic!("no query") };
        let answer =
            packet(kind::NAME, &[&query[5..9], &1u32.to_be_bytes(), &text(answer), &text(""), &[0; 4]]);
        sftp.server(&answer).unwrap();
        assert!(matches!(sftp.next(1 << 15).unwrap(), FileStep::Refuse { .. }));
    }
}

#[test]
fn extensions_that_are_not_understood_are_not_offered() {
    let version = packet(
        kind::VERSION,
        &[
            &3u32.to_be_bytes(),
            &text("hardlink@openssh.com"),
            &text("1"),
            &text("fsync@openssh.com"),
            &text("1"),
        ],
    );
    let mut sftp = begun();
    let mut passed = Vec::new();
    let mut dropped = 0;
    for byte in &version {
        for part in sftp.server(&[*byte]).unwrap() {
            match part {
                Returned::Pass(bytes) => passed.extend_from_slice(&bytes),
                Returned::Drop(count) => dropped += count,
            }
        }
    }
    assert_eq!(passed, packet(kind::VERSION, &[&3u32.to_be_bytes(), &text("fsync@openssh.com"), &text("1")]));
    assert_eq!(passed.len() + dropped, version.len());
}

#[test]
fn what_does_not_begin_with_init_ends() {
    let mut sftp = Sftp::default();
    sftp.client(&packet(kind::WRITE, &[&id(), &text("h"), &[0; 8], &text("data")]));
    assert_eq!(sftp.next(1 << 15).map(|_| ()), Err(SftpError::NoInit));
}

proptest! {
    /// Bytes are accounted for, and what names a path never passes without a permit.
    #[test]
    fn nothing_with_a_path_passes_unasked(
        packets in prop::collection::vec((1u8..22, prop::collection::vec(any::<u8>(), 0..40)), 0..20),
        cut in 1usize..50
    ) {
        let mut sftp = begun();
        let bytes: Vec<u8> = packets.iter().flat_map(|(number, rest)| packet(*number, &[&id(), rest])).collect();
        let mut passed = BytesMut::new();
        for chunk in bytes.chunks(cut) {
            sftp.client(chunk);
            loop {
                match sftp.next(64) {
                    Ok(FileStep::Wait) => break,
                    Ok(FileStep::Pass(bytes)) => passed.extend_from_slice(&bytes),
                    Ok(FileStep::Ask(_)) => sftp.deny("no"),
                    Ok(FileStep::Refuse { .. }) => {}
                    Ok(FileStep::Query(query)) => {
                        let answer = packet(kind::NAME, &[&query[5..9], &1u32.to_be_bytes(), &text("/r"), &text(""), &[0; 4]]);
                        sftp.server(&answer).unwrap();
                    }
                    Err(_) => return Ok(()),
                }
            }
        }
        while passed.len() >= 5 {
            let length = u32::from_be_bytes(passed[..4].try_into().unwrap()) as usize;
            prop_assert!(
                matches!(passed[4], kind::CLOSE | kind::READ | kind::WRITE | kind::FSTAT | kind::READDIR | kind::REALPATH),
                "{} passed", passed[4]
            );
            if passed.len() < 4 + length { break; }
            let _ = passed.split_to(4 + length);
        }
    }

    #[test]
    fn no_bytes_of_a_target_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..400), cut in 1usize..50) {
        let mut sftp = begun();
        for chunk in bytes.chunks(cut) {
            if sftp.server(chunk).is_err() { break; }
        }
    }
}
