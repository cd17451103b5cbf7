use bytes::BufMut as _;

use super::*;

/// What rsync 3.5.0 said, both ends: `scripts` below tell how.
fn how(pulls: bool, options: &[&str]) -> How {
    How::new(pulls, &options.iter().map(|option| (*option).to_owned()).collect::<Vec<_>>()).unwrap()
}

const LISTS: &str = "xxh128 xxh3 xxh64 md5 md4 none";

fn vstring(out: &mut Vec<u8>, text: &str) {
    out.push(u8::try_from(text.len()).unwrap());
    out.extend_from_slice(text.as_bytes());
}

fn frame(code: u8, bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    out.put_u32_le(u32::from(code + 7) << 24 | u32::try_from(bytes.len()).unwrap());
    out.extend_from_slice(bytes);
    out
}

fn entry(out: &mut Vec<u8>, name: &str, mode: u32) {
    // Nothing is as before, and the flags take two bytes.
    out.extend_from_slice(&[0x80, 0x01]);
    vstring(out, name);
    out.extend_from_slice(&[0, 4, 0, 0, 1, 2, 3]);
    out.put_u32_le(mode);
}

fn file(out: &mut Vec<u8>, difference: u8, pieces: &[&[u8]], known: bool) {
    out.push(difference);
    out.put_u16_le(item_transfer());
    out.extend_from_slice(&[0; 16]);
    for piece in pieces {
        out.put_i32_le(i32::try_from(piece.len()).unwrap());
        out.extend_from_slice(piece);
    }
    if known {
        out.put_i32_le(-1);
    }
    out.put_i32_le(0);
    out.extend_from_slice(&[7; 16]);
}

const fn item_transfer() -> u16 {
    1 << 15
}

/// The two ends of a push of four files, one of them by differences, in one list.
fn push() -> (Vec<u8>, Vec<u8>) {
    let mut client = 32u32.to_le_bytes().to_vec();
    vstring(&mut client, LISTS);
    let mut server = 31u32.to_le_bytes().to_vec();
    server.extend_from_slice(&[0x81, 0xfe]);
    vstring(&mut server, LISTS);
    server.put_u32_le(4711);
    let mut said = Vec::new();
    for (name, mode) in
        [("b", 0o100_644), ("d", 0o040_755), ("a", 0o100_644), ("d/x", 0o100_600), (".", 0o040_755)]
    {
        entry(&mut said, name, mode);
    }
    said.extend_from_slice(&[0, 0]);
    // In order: ".", "a", "b", "d", "d/x". Folders are told about, and have no content.
    said.extend_from_slice(&[1, 0, 0]);
    file(&mut said, 1, &[b"hel", b"lo"], false);
    file(&mut said, 1, &[b"piece"], true);
    file(&mut said, 2, &[], false);
    said.extend_from_slice(&[0, 0, 0, 9, 9, 9]);
    let (first, second) = said.split_at(40);
    client.extend([frame(0, first), frame(2, b"a message"), frame(0, second)].concat());
    (client, server)
}

fn sha256(text: &str) -> Option<String> {
    Some(crate::hex(ring::digest::digest(&ring::digest::SHA256, text.as_bytes()).as_ref()))
}

#[test]
fn files_are_named_and_those_sent_whole_have_a_digest_however_the_bytes_are_cut() {
    let (client, server) = push();
    for cut in [1, 2, 3, 7, 100, 10_000] {
        let mut transfer = Transfer::new(5, &Ok(how(false, &["-rtpre.iLsfxCIvu"])));
        server.chunks(cut).for_each(|bytes| transfer.server(bytes));
        client.chunks(cut).for_each(|bytes| transfer.client(bytes));
        let told: Vec<_> =
            transfer.take_done().into_iter().map(|it| (it.path.unwrap(), it.written, it.sha256)).collect();
        let expect = [
            ("a".to_owned(), 5, sha256("hello")),
            ("b".to_owned(), 5, None),
            ("d/x".to_owned(), 0, sha256("")),
        ];
        assert_eq!((told.as_slice(), transfer.lost()), (&expect[..], None), "{cut}");
    }
}

#[test]
fn a_file_that_is_cut_off_is_named_with_what_went_through() {
    let (client, server) = push();
    let mut transfer = Transfer::new(5, &Ok(how(false, &["-rtpre.iLsfxCIvu"])));
    transfer.server(&server);
    // In the last piece of the second file.
    let end = client.windows(5).position(|bytes| bytes == b"piece").unwrap() + 3;
    transfer.client(&client[..end]);
    let told: Vec<_> =
        transfer.finish().into_iter().map(|it| (it.path.unwrap(), it.written, it.sha256)).collect();
    assert_eq!(told, [("a".to_owned(), 5, sha256("hello")), ("b".to_owned(), 3, None)]);
    assert!(transfer.finish().is_empty());
}

#[test]
fn what_is_not_understood_is_said_and_keeps_nothing() {
    let (client, server) = push();
    let play = |how: &How, client: &[u8], server: &[u8]| {
        let mut transfer = Transfer::new(5, &Ok(how.clone()));
        transfer.server(server);
        transfer.client(client);
        let kept = transfer.client.len() + transfer.server.len();
        (transfer.lost(), kept)
    };
    let plain = how(false, &["-rtpre.iLsfxCIvu"]);
    assert_eq!(play(&plain, &client, &server).0, None);
    let old = [&29u32.to_le_bytes(), &server[4..]].concat();
    assert_eq!(play(&plain, &client, &old), (Some("a version that is not known here"), 0));
    assert!(play(&plain, &[b'x'; 5000], &server).0.is_some());
    let cut = [&client[..60], &[0; 80]].concat();
    let (lost, kept) = play(&plain, &cut, &server);
    assert!(lost.is_some() && kept == 0, "{lost:?}");
    for options in [&["-Xre.iLsfxCIvu"][..], &["-re31.14iLs"], &["-r"], &["-nre.iLsfxCIvu"]] {
        let options: Vec<String> = options.iter().map(|option| (*option).to_owned()).collect();
        assert!(How::new(false, &options).is_err(), "{options:?}");
    }
}

#[test]
fn lists_without_end_are_given_up_and_forgotten_ones_count_no_more() {
    let (client, mut server) = push();
    // Folders one by one.
    server[4] = 0x81;
    server[5] = 0xff;
    let start = &client[..4 + 1 + LISTS.len()];
    let empty = [0xff, 100, 0, 0];
    let play = |said: &[u8]| {
        let mut transfer = Transfer::new(5, &Ok(how(false, &["-rtpre.iLsfxCIvu"])));
        transfer.server(&server);
        transfer.client(start);
        transfer.client(&frame(0, &[0, 0]));
        said.chunks(1 << 15).for_each(|bytes| transfer.client(&frame(0, bytes)));
        transfer.lost()
    };
    // The difference to the last index of its kind is written.
    let lists: Vec<u8> =
        [0xff, 100, 0, 0].into_iter().chain([0xff, 0xfe, 0, 0, 0, 0].repeat(200_000)).collect();
    assert_eq!(play(&lists), Some("too many names"));
    assert_eq!(play(&empty), None);
    let forgotten: Vec<u8> = empty.into_iter().chain([0xff, 0xfe, 0, 0, 0, 0, 0].repeat(200_000)).collect();
    assert_eq!(play(&forgotten), None);
}

#[test]
fn fuzz_rsync_transfers() {
    let (client, server) = push();
    let seed = |client: &[u8], server: &[u8]| {
        let mut out = u16::try_from(server.len()).unwrap().to_be_bytes().to_vec();
        out.extend_from_slice(server);
        out.extend_from_slice(client);
        out
    };
    let seeds = [seed(&client, &server), seed(&server, &client)];
    let ways = [
        how(false, &["-rtpre.iLsfxCIvu"]),
        how(true, &["-rtpre.iLsfxCIvu"]),
        how(false, &["-vlogDtprczUmHe.iLsfxCIvu", "--delete"]),
        how(true, &["-logDtpre.iLsfxCI"]),
    ];
    crate::mutate::fuzz(&seeds, |input| {
        let Some((length, rest)) = input.split_first_chunk::<2>() else { return };
        let (server, client) = rest.split_at(usize::from(u16::from_be_bytes(*length)).min(rest.len()));
        for how in &ways {
            let mut transfer = Transfer::new(1, &Ok(how.clone()));
            server.chunks(31).for_each(|bytes| transfer.server(bytes));
            client.chunks(31).for_each(|bytes| transfer.client(bytes));
            let waits = transfer.client.len() + transfer.server.len();
            assert!(waits <= 2 * HANDSHAKE_MAX, "{waits}");
            assert!(transfer.take_done().len() <= input.len());
        }
    });
}
