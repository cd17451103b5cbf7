//! Rows, COPY and single values: a masked one of what passes is not in what goes out.
#![no_main]

use bytes::BytesMut;
use chaperone::protocol::postgres::codec::Fields;
use chaperone::protocol::postgres::copy::CopyMasker;
use chaperone::protocol::postgres::plan::{CopyFormat, Mask, Output};
use chaperone::protocol::postgres::rows::{self, Cell, Origins};
use chaperone::protocol::postgres::watch::Place;
use libfuzzer_sys::fuzz_target;

/// Column 2 of table 7 is masked.
struct Table7;

impl Origins for Table7 {
    fn masked(&self, table: u32, attribute: i16) -> bool {
        table == 7 && attribute == 2
    }
}

fuzz_target!(|input: &[u8]| {
    let Some((choice, input)) = input.split_first() else { return };
    let masks = vec![None, Some(Mask::Redact)];
    let looking = choice & 0x80 != 0;
    let (delimiter, quote) = (if choice & 0x40 == 0 { b',' } else { b';' }, b'"');
    let escape = if choice & 0x20 == 0 { quote } else { b'\\' };
    let format = match choice % 5 {
        0 => return row(input),
        1 => return description(input),
        2 => CopyFormat::Text { delimiter: b'\t', null: "\\N".to_owned(), header: false },
        3 => CopyFormat::Csv { delimiter, quote, escape, null: String::new(), header: false },
        _ => CopyFormat::Binary { table: choice & 0x20 == 0 },
    };
    let binary = matches!(format, CopyFormat::Binary { .. });
    let mut masker = CopyMasker::new(format, masks).looking(looking);
    let mut out = BytesMut::new();
    if masker.put(&mut out, input).is_ok() && !binary {
        let line = out.get(5..).unwrap_or_default();
        assert!(line.ends_with(b"***\n"), "{}", out.escape_ascii());
    }
});

fn row(input: &[u8]) {
    let looked = Cell::Looked { place: Place::Position(1), text: true };
    for first in [Cell::Keep, looked] {
        let mut out = BytesMut::new();
        let cells = [first, Cell::Redact];
        if rows::put_masked(&mut out, Fields::new(b'D', input), &cells, Some(&[1])).is_ok() {
            assert!(out.ends_with(b"\0\0\0\x03***"), "{}", out.escape_ascii());
        }
        let _ = rows::taken(Fields::new(b'D', input), &cells, None);
    }
}

fn description(input: &[u8]) {
    let output = Output::Columns(vec![None, Some(Mask::Redact)]);
    if let Ok(cells) = rows::check(Fields::new(b'T', input), &output, &Table7) {
        assert_eq!(cells.len(), 2);
        assert_ne!(cells.get(1), Some(&Cell::Keep));
    }
    let _ = rows::looked_at(Fields::new(b'T', input), &Table7);
}
