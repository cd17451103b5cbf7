//! How well and how fast `chaperone::detect` recognises a generated corpus, and what replacing it in rows costs: `cargo run --release --example detect`.

#![expect(clippy::print_stdout, reason = "a tool of the tests")]

mod corpus;

use std::collections::BTreeMap;
use std::time::Instant;

use bytes::{BufMut, BytesMut};
use chaperone::detect::{Kind, look};
use chaperone::protocol::postgres::codec::Fields;
use chaperone::protocol::postgres::rows::{Cell, put_masked};
use chaperone::protocol::postgres::watch::Place;

const VALUES: usize = 400_000;

fn main() {
    let mut random = corpus::Random(1);
    let values: Vec<corpus::Value> = (0..VALUES).map(|_| corpus::value(&mut random)).collect();
    let bytes: usize = values.iter().map(|(text, _)| text.len()).sum();
    let started = Instant::now();
    let found: Vec<Option<Kind>> = values.iter().map(|(text, _)| look(text.as_bytes())).collect();
    let seconds = started.elapsed().as_secs_f64();
    // Right, found where it is not, missed.
    let mut counts: BTreeMap<&str, [f64; 3]> = BTreeMap::new();
    for ((_, kind), found) in values.iter().zip(found) {
        let found = found.map(Kind::as_str);
        let mut count = |kind: Option<&'static str>, what: usize| {
            if let Some(count) = kind.and_then(|kind| counts.entry(kind).or_default().get_mut(what)) {
                *count += 1.0;
            }
        };
        if *kind == found {
            count(found, 0);
        } else {
            count(found, 1);
            count(*kind, 2);
        }
    }
    for (kind, [right, false_ones, missed]) in counts {
        let (precision, recall) = (right / (right + false_ones), right / (right + missed));
        println!("{kind:28} precision {precision:.3}  recall {recall:.3}");
    }
    let (megabytes, nanoseconds) = (bytes as f64 / 1e6 / seconds, seconds * 1e9 / VALUES as f64);
    println!("{VALUES} values of {} bytes: {megabytes:.0} MB/s, {nanoseconds:.0} ns each", bytes / VALUES);
    replaced(&values);
}

/// Rows of four such values, as they are and with what is recognised replaced.
fn replaced(values: &[corpus::Value]) {
    let rows: Vec<BytesMut> = values
        .chunks_exact(4)
        .map(|values| {
            let mut row = BytesMut::new();
            row.put_i16(4);
            for (text, _) in values {
                row.put_i32(i32::try_from(text.len()).unwrap_or(0));
                row.put_slice(text.as_bytes());
            }
            row
        })
        .collect();
    let looked = |column| Cell::Looked { place: Place::Position(column), text: true };
    let bytes: usize = rows.iter().map(|row| row.len()).sum();
    for (name, cells) in [("kept", [1, 2, 3, 4].map(|_| Cell::Keep)), ("masked", [1, 2, 3, 4].map(looked))] {
        let (mut out, mut count) = (BytesMut::with_capacity(1 << 16), 0);
        let started = Instant::now();
        for row in &rows {
            out.clear();
            count += put_masked(&mut out, Fields::new(b'D', row), &cells, None).unwrap_or(0);
        }
        let megabytes = bytes as f64 / 1e6 / started.elapsed().as_secs_f64();
        println!("rows of four, {name}: {megabytes:.0} MB/s, {count} values replaced");
    }
}
