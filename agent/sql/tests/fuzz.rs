//! Mutated statements: the analysis refuses what it does not understand, and never panics, hangs or overflows.

#![expect(clippy::expect_used, reason = "a test fails by panicking")]

#[path = "support/mutate.rs"]
mod mutate;
#[expect(dead_code, reason = "shared with the case files")]
mod support;

use std::thread;

use chaperone_sql::analyse;

/// What the crate asks of its callers.
const STACK: usize = 32 << 20;

#[test]
fn any_text_is_analysed_or_refused() {
    let seeds: Vec<Vec<u8>> = ["leaks.txt", "ordinary.txt", "psql.txt"]
        .iter()
        .flat_map(|name| {
            let text =
                std::fs::read_to_string(support::directory().join("cases").join(name)).expect("readable");
            let lines = text.lines().filter_map(|line| line.split_once(" | "));
            lines.map(|(_, sql)| sql.as_bytes().to_vec()).collect::<Vec<_>>()
        })
        .collect();
    let analysis = move || {
        let view = support::labelled();
        mutate::fuzz(&seeds, |input| {
            let text = String::from_utf8_lossy(input);
            if let Ok(statements) = analyse(&text, &view) {
                assert!(
                    statements.iter().all(|statement| !statement.accesses.is_empty()),
                    "policy is asked nothing: {text}"
                );
            }
        });
    };
    let worker = thread::Builder::new().stack_size(STACK).spawn(analysis).expect("a thread");
    assert!(worker.join().is_ok(), "the analysis panicked; its input is above");
}
