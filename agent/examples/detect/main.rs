//! How well and how fast `chaperone::detect` recognises a generated corpus, and what replacing it in rows costs: `cargo run --release --example detect`.

#![expect(clippy::print_stdout, reason = "a tool of the tests")]

mod corpus;
mod texts;

use std::collections::BTreeMap;
use std::time::Instant;

use bytes::{BufMut, BytesMut};
use chaperone::detect::{Kind, find, look};
use chaperone::protocol::postgres::codec::Fields;
use chaperone::protocol::postgres::copy::CopyMasker;
use chaperone::protocol::postgres::plan::CopyFormat;
use chaperone::protocol::postgres::rows::{Cell, put_masked};
use chaperone::protocol::postgres::watch::Place;

const VALUES: usize = 400_000;
const ROUNDS: usize = 7;

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
    println!("that was {VALUES} values, {:.0} MB, in {seconds:.2} s\n", bytes as f64 / 1e6);
    println!(
        "MB/s of one core, median of {ROUNDS}: recognising | rows of four values, taken apart and put together,"
    );
    println!(
        "with nothing done to them | with what is recognised replaced | COPY's lines of four, in the same two ways"
    );
    let mixed: Vec<String> = values.into_iter().map(|(text, _)| text).collect();
    measure("short cells, half of them with something", &mixed);
    for (name, text) in texts::CLEAN {
        let mut values = Vec::new();
        let mut size = 0;
        while size < bytes {
            let value = text(&mut random);
            size += value.len();
            values.push(value);
        }
        measure(name, &values);
    }
}

/// One kind of text, in all the ways it can come.
fn measure(name: &str, values: &[String]) {
    let bytes: usize = values.iter().map(String::len).sum();
    let columns = [1, 2, 3, 4];
    let looked = columns.map(|column| Cell::Looked { place: Place::Position(column), text: true });
    let (rows, lines) = (rows(values), lines(values));
    let recognised =
        || values.iter().filter(|text| find(text.as_bytes()).is_some()).fold(0, |count, _| count + 1);
    let results = [
        rate(bytes, recognised),
        rate(bytes, || rewritten(&rows, &columns.map(|_| Cell::Keep))),
        rate(bytes, || rewritten(&rows, &looked)),
        rate(bytes, || copied(&lines, false)),
        rate(bytes, || copied(&lines, true)),
    ];
    let rates: Vec<String> = results.iter().map(|(rate, _)| format!("{rate:.0}")).collect();
    let replaced: Vec<String> = results.iter().map(|(_, count)| count.to_string()).collect();
    println!("{name}, {:.0} MB in {} values: {}", bytes as f64 / 1e6, values.len(), rates.join(" | "));
    println!("    recognised or replaced: {}", replaced.join(" | "));
}

/// MB/s of the median round, and what the work counted.
fn rate(bytes: usize, mut work: impl FnMut() -> u64) -> (f64, u64) {
    let mut count = 0;
    let mut times: Vec<f64> = Vec::new();
    for _ in 0..ROUNDS {
        let started = Instant::now();
        count = work();
        times.push(started.elapsed().as_secs_f64());
    }
    times.sort_by(f64::total_cmp);
    let median = times.get(ROUNDS / 2).copied().unwrap_or(f64::INFINITY);
    (bytes as f64 / 1e6 / median, count)
}

/// Rows of four values, as DataRow has them.
fn rows(values: &[String]) -> Vec<BytesMut> {
    let row = |values: &[String]| {
        let mut row = BytesMut::new();
        row.put_i16(4);
        for text in values {
            row.put_i32(i32::try_from(text.len()).unwrap_or(0));
            row.put_slice(text.as_bytes());
        }
        row
    };
    values.chunks_exact(4).map(row).collect()
}

/// The same in the text format of COPY.
fn lines(values: &[String]) -> Vec<String> {
    let escaped = |text: &String| text.replace('\\', "\\\\").replace('\n', "\\n").replace('\t', "\\t");
    let line = |values: &[String]| values.iter().map(escaped).collect::<Vec<_>>().join("\t") + "\n";
    values.chunks_exact(4).map(line).collect()
}

fn rewritten(rows: &[BytesMut], cells: &[Cell]) -> u64 {
    let (mut out, mut count) = (BytesMut::with_capacity(1 << 16), 0);
    for row in rows {
        out.clear();
        count += put_masked(&mut out, Fields::new(b'D', row), cells, None).unwrap_or(0);
    }
    count
}

fn copied(lines: &[String], looking: bool) -> u64 {
    let format = CopyFormat::Text { delimiter: b'\t', null: "\\N".to_owned(), header: false };
    let mut masker = CopyMasker::new(format, vec![None; 4]).looking(looking);
    let (mut out, mut count) = (BytesMut::with_capacity(1 << 16), 0);
    for line in lines {
        out.clear();
        count += masker.put(&mut out, line.as_bytes()).unwrap_or(0);
    }
    count
}
