//! Mutated bytes for everything that reads what others wrote: nothing panics, and what is let through is what was meant.

#[path = "../sql/tests/support/mutate.rs"]
mod mutate;

use bytes::{BufMut, BytesMut};
use chaperone::detect;
use chaperone::protocol::postgres::codec::{self, Fields, WHOLE_MAX};
use chaperone::protocol::postgres::copy::CopyMasker;
use chaperone::protocol::postgres::plan::{CopyFormat, Mask, Output};
use chaperone::protocol::postgres::rows::{self, Cell, Origins};
use chaperone::protocol::postgres::watch::Watch;
use chaperone::protocol::postgres::{response, startup};
use chaperone::record::format::{Decoded, Frame, Kind, seal};
use mutate::fuzz;

/// Column 2 of table 7 is masked.
struct Table7;

impl Origins for Table7 {
    fn masked(&self, table: u32, attribute: i16) -> bool {
        table == 7 && attribute == 2
    }
}

fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let mut out = BytesMut::new();
    codec::put(&mut out, tag, |out| out.put_slice(body));
    out.to_vec()
}

fn row(values: &[&[u8]]) -> Vec<u8> {
    let mut out = vec![0, u8::try_from(values.len()).unwrap_or(0)];
    for value in values {
        out.put_i32(i32::try_from(value.len()).unwrap_or(0));
        out.put_slice(value);
    }
    out
}

fn description() -> Vec<u8> {
    let mut out = vec![0, 2];
    for number in [1i16, 2] {
        out.put_slice(b"name\0");
        out.put_u32(7);
        out.put_i16(number);
        out.put_u32(25);
        out.put_slice(&[0, 4, 0, 0, 0, 0, 0, 0]);
    }
    out
}

#[test]
fn messages_are_taken_apart_or_refused() {
    let seeds = [
        message(b'Q', b"select 1\0"),
        message(b'T', &description()),
        message(b'D', &row(&[b"1", b"secret"])),
        message(b'E', b"SERROR\0C42501\0Mno\0\0"),
        [message(b'C', b"SELECT 1\0"), message(b'Z', b"I")].concat(),
    ];
    fuzz(&seeds, |input| {
        let mut rest = BytesMut::from(input);
        let mut taken = 0;
        while let Ok(Some(message)) = codec::take(&mut rest, WHOLE_MAX) {
            taken += message.bytes.len();
            if matches!(message.tag, b'E' | b'N') {
                let _ = response::put_scrubbed(&mut BytesMut::new(), message.tag, message.body());
            }
        }
        assert_eq!(taken + rest.len(), input.len(), "bytes got lost");
        Watch::default().feed(input);
        let _ = detect::look(input);
    });
}

#[test]
fn opening_packets_are_understood_or_refused() {
    let mut out = BytesMut::new();
    startup::put_startup(&mut out, "ada", "shop", &startup::Startup::default(), Some("public"));
    let mut ssl = BytesMut::new();
    startup::put_ssl_request(&mut ssl);
    let cancel = [0, 0, 0, 16, 4, 210, 22, 46, 0, 0, 0, 1, 0, 0, 0, 2].to_vec();
    fuzz(&[out.to_vec(), ssl.to_vec(), cancel], |input| {
        let mut input = BytesMut::from(input);
        let _ = startup::take_opening(&mut input);
    });
}

/// Whatever the server sends: a masked cell of a row that passes is not in what goes out.
#[test]
fn masked_cells_do_not_pass_in_any_row() {
    const SECRET: &[u8] = b"kwzpqrtxvm";
    let seeds =
        [row(&[b"1", SECRET]), row(&[b"", b""]), vec![0, 2, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]];
    fuzz(&seeds, |input| {
        let mut out = BytesMut::new();
        let cells = [Cell::Keep, Cell::Redact];
        if rows::put_masked(&mut out, Fields::new(b'D', input), &cells, Some(&[1])).is_ok() {
            assert!(out.ends_with(b"\0\0\0\x03***"), "{}", out.escape_ascii());
        }
    });
    fuzz(&[description()], |input| {
        let output = Output::Columns(vec![None, Some(Mask::Redact)]);
        if let Ok(cells) = rows::check(Fields::new(b'T', input), &output, &Table7) {
            assert_eq!(cells.len(), 2);
            assert_ne!(cells.get(1), Some(&Cell::Keep));
        }
    });
}

#[test]
fn masked_fields_do_not_pass_in_any_row_of_copy() {
    let csv =
        |header| CopyFormat::Csv { delimiter: b',', quote: b'"', escape: b'"', null: String::new(), header };
    let text = CopyFormat::Text { delimiter: b'\t', null: "\\N".to_owned(), header: false };
    let seeds: [&[u8]; 5] = [
        b"1\tkwzpqrtxvm\n",
        b"1,kwzpqrtxvm\n",
        b"\"a\"\"b\",\"kwzp,qrt\"\n",
        b"\\N\t\\N\n",
        b"a\\\tb\tkwzpqrtxvm\n",
    ];
    let seeds = seeds.map(<[u8]>::to_vec);
    for format in [text, csv(false)] {
        fuzz(&seeds, |input| {
            let mut masker = CopyMasker::new(format.clone(), vec![None, Some(Mask::Redact)]);
            let mut out = BytesMut::new();
            if masker.put(&mut out, input).is_ok() {
                let line = out.get(5..).unwrap_or_default();
                let end: &[u8] = if line.ends_with(b"\n") { b"***\n" } else { b"***" };
                assert!(line.ends_with(end), "{}", out.escape_ascii());
            }
        });
    }
}

#[test]
fn records_are_read_or_refused() {
    let mut frame = vec![0; 60];
    frame.extend_from_slice(br#"{"event":"agent_stop","reason":"x"}"#);
    let digest = chaperone::record::format::payload_digest(frame.get(60..).unwrap_or_default());
    let _ = seal(&mut frame, Kind::Event, 1, 1, &[0; 32], &digest);
    assert!(matches!(Frame::decode(&frame), Decoded::Frame(_)), "the seed is a record");
    fuzz(std::slice::from_ref(&frame), |input| {
        if let Decoded::Frame(read) = Frame::decode(input) {
            assert!(input.starts_with(&frame), "a changed record was believed: {read:?}");
        }
    });
}
