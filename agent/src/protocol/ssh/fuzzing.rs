//! Mutated bytes for sftp, packets and command lines, by the unit tests and the fuzzer in fuzz/. Whole conversations are mutated
//! beside the machine.

#![cfg_attr(test, expect(clippy::expect_used, reason = "a test fails by panicking"))]
#![cfg_attr(not(test), allow(clippy::expect_used, dead_code, reason = "a fuzzer finds by panicking"))]

use bytes::{Buf as _, BufMut as _, BytesMut};

use super::codec::{self, put_string};
use super::exec;
use super::packet::{Keys, Mac, Opener, Sealer, Suite};
use super::sftp::{FileStep, Returned, Sftp};

/// One step of a session: what happens, and the message that comes with it.
fn step<'a>(input: &mut &'a [u8]) -> Option<(u8, &'a [u8])> {
    let (kind, rest) = input.split_first()?;
    let length = usize::from(u16::from_be_bytes(*rest.first_chunk()?));
    let rest = rest.get(2..)?;
    let (message, rest) = rest.split_at(length.min(rest.len()));
    *input = rest;
    Some((*kind, message))
}

/// Steps of one byte that says whose they are, a length of two bytes, and a message.
fn steps(steps: &[(u8, &[u8])]) -> Vec<u8> {
    let mut out = Vec::new();
    for (kind, message) in steps {
        out.push(*kind);
        out.extend_from_slice(&u16::try_from(message.len()).unwrap_or(u16::MAX).to_be_bytes());
        out.extend_from_slice(message);
    }
    out
}

/// File transfers: even for the client, odd for the target. Everything is denied, so nothing that
/// names a path reaches the target. Gives how often something was denied.
pub fn sftp(mut input: &[u8]) -> usize {
    /// OPEN, LSTAT, SETSTAT, OPENDIR, REMOVE, MKDIR, RMDIR, STAT, RENAME, READLINK, SYMLINK: numbers of draft-ietf-secsh-filexfer-02.
    const NAMES_PATHS: [u8; 11] = [3, 7, 9, 11, 13, 14, 15, 17, 18, 19, 20];
    let (mut sftp, mut passed) = (Sftp::default(), BytesMut::new());
    let mut denied = 0;
    while let Some((kind, bytes)) = step(&mut input) {
        if kind % 2 == 1 {
            let Ok(parts) = sftp.server(bytes) else { return denied };
            let kept: usize = parts
                .iter()
                .map(|part| match part {
                    Returned::Pass(bytes) => bytes.len(),
                    Returned::Drop(count) => *count,
                })
                .sum();
            assert!(kept <= bytes.len() + (128 << 10), "more came back than the target sent");
        } else {
            sftp.client(bytes);
        }
        loop {
            match sftp.next(1 << 15) {
                Ok(FileStep::Wait) => break,
                Ok(FileStep::Ask(_)) => {
                    denied += 1;
                    sftp.deny("no");
                }
                Ok(FileStep::Pass(bytes)) => passed.extend_from_slice(&bytes),
                Ok(FileStep::Refuse { .. } | FileStep::Query(_)) => {}
                Err(_) => return denied,
            }
        }
        while let Some(length) = passed.first_chunk::<4>().map(|length| u32::from_be_bytes(*length) as usize)
        {
            if passed.len() < 4 + length {
                break;
            }
            let number = passed.get(4).copied().unwrap_or_default();
            assert!(!NAMES_PATHS.contains(&number), "request {number} passed");
            passed.advance(4 + length);
        }
    }
    sftp.finish();
    denied
}

/// Packets in each cipher: what was sealed comes back, anything else is refused or waited for.
pub fn packets(input: &[u8]) {
    let Some((choice, input)) = input.split_first() else { return };
    let mut opener = Opener::plain();
    let suite = match choice % 5 {
        0 => None,
        1 => Some(Suite::ChaCha20Poly1305),
        2 => Some(Suite::Aes256Gcm),
        3 => Some(Suite::Aes128Gcm),
        _ => Some(Suite::Aes128Ctr(Mac::Sha256Etm)),
    };
    let mut sealer = Sealer::plain();
    if let Some(suite) = suite {
        let (key, iv, mac) = suite.key_sizes();
        let keys = Keys { suite, key: vec![7; key], iv: vec![9; iv], mac: vec![3; mac] };
        assert!(sealer.rekey(&keys, false) && opener.rekey(&keys, false));
    }
    let mut wire = BytesMut::from(input);
    // Half of the runs begin with a packet that is right.
    if choice & 0x80 != 0 && !input.is_empty() {
        wire.clear();
        sealer.seal(input, &mut wire).expect("sealed");
        wire.extend_from_slice(input);
        let opened = opener.open(&mut wire).expect("what was sealed opens");
        assert_eq!(opened.as_deref(), Some(input));
    }
    while let Ok(Some(payload)) = opener.open(&mut wire) {
        assert!(suite.is_none(), "a packet that nobody sealed");
        let mut reader = codec::Reader::new(&payload);
        let _ = (reader.u8(), reader.names(), reader.mpint(), reader.u64(), reader.bool());
    }
}

/// A command line: what is said of it is said again of the same text.
pub fn command(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let analysis = exec::analyse(&text);
    let _ = (analysis.line(), analysis.template());
    let again = exec::analyse(&text);
    assert_eq!((analysis.programs(), analysis.dynamic), (again.programs(), again.dynamic));
}

enum Part<'a> {
    N(u32),
    S(&'a [u8]),
}
use Part::{N, S};

fn message(number: u8, parts: &[Part<'_>]) -> Vec<u8> {
    let mut out = vec![number];
    for part in parts {
        match part {
            N(value) => out.put_u32(*value),
            S(text) => put_string(&mut out, text),
        }
    }
    out
}

fn request(number: u8, parts: &[Part<'_>]) -> Vec<u8> {
    let mut out = Vec::new();
    put_string(&mut out, &message(number, parts));
    out
}

#[test]
fn fuzz_no_request_with_a_path_passes_where_everything_is_denied() {
    let init = request(1, &[N(3)]);
    let version = request(2, &[N(3), S(b"posix-rename@openssh.com"), S(b"1")]);
    let open = request(3, &[N(5), S(b"/a"), N(0x1a), N(0)]);
    let own = |path| request(104, &[N(0xc4a9_0001), N(1), S(path), S(b""), N(0)]);
    let rename = request(200, &[N(6), S(b"posix-rename@openssh.com"), S(b"a"), S(b"b")]);
    let write = request(6, &[N(7), S(b"h"), N(0), N(0), S(b"content")]);
    let read = request(5, &[N(8), S(b"h"), N(0), N(0), N(4096)]);
    let data = request(103, &[N(8), S(b"content")]);
    let link = request(20, &[N(9), S(b"a"), S(b"b")]);
    let seeds = [
        steps(&[(0, &init), (1, &version), (0, &open), (1, &own(b"/a"))]),
        steps(&[(0, &init), (1, &version), (0, &rename), (1, &own(b"/a")), (1, &own(b"/b"))]),
        steps(&[(0, &init), (0, &write), (0, &read), (1, &data), (0, &link)]),
    ];
    assert_eq!(
        seeds.each_ref().map(|seed| sftp(seed)),
        [1, 1, 0],
        "the transfers get as far as they are meant to"
    );
    crate::mutate::fuzz(&seeds, |input| {
        sftp(input);
    });
}

#[test]
fn fuzz_packets_that_nobody_sealed_do_not_open() {
    let seeds: Vec<Vec<u8>> = [0u8, 1, 2, 3, 4, 0x80, 0x81, 0x82, 0x83, 0x84]
        .iter()
        .map(|choice| [&[*choice][..], b"\0\0\0\x0c\x04\x5e\0\0\0\0\0\x02hi\0\0\0\0"].concat())
        .collect();
    crate::mutate::fuzz(&seeds, packets);
}

#[test]
fn fuzz_command_lines_are_understood_or_dynamic() {
    let seeds = [
        "cat 'a b' | head -n 3 && echo \"$HOME\" `id`",
        "bash -c 'rm -rf /' ; r\\m x > /etc/passwd",
        "rsync --server -vlogDtpre.iLsfxCIvu . /srv/x",
        "scp -t /tmp/x",
        "git-upload-pack '/srv/git/x.git'",
        "for i in $(seq 3); do echo ${i%%x}; done <<EOF\nx\nEOF",
    ];
    crate::mutate::fuzz(&seeds.map(|seed| seed.as_bytes().to_vec()), command);
}
