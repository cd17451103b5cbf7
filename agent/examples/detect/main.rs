//! How well and how fast `chaperone::detect` recognises a generated corpus: `cargo run --release --example detect`.

#![expect(clippy::print_stdout, reason = "a tool of the tests")]

mod corpus;

use std::collections::BTreeMap;
use std::time::Instant;

use chaperone::detect::{Kind, look};

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
}
