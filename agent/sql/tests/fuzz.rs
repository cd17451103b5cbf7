//! Mutated statements: the analysis refuses what it does not understand, and never panics, hangs or overflows.

#![expect(clippy::expect_used, reason = "a test fails by panicking")]

#[path = "support/mutate.rs"]
mod mutate;
#[expect(dead_code, reason = "shared with the case files")]
mod support;

use std::cell::Cell;
use std::thread;

use chaperone_sql::{Statement, analyse, shape, shared_by_shape};

/// What the crate asks of its callers.
const STACK: usize = 32 << 20;

fn seeds() -> Vec<Vec<u8>> {
    ["leaks.txt", "ordinary.txt", "psql.txt"]
        .iter()
        .flat_map(|name| {
            let text =
                std::fs::read_to_string(support::directory().join("cases").join(name)).expect("readable");
            let lines = text.lines().filter_map(|line| line.split_once(" | "));
            lines.map(|(_, sql)| sql.as_bytes().to_vec()).collect::<Vec<_>>()
        })
        .collect()
}

#[test]
fn any_text_is_analysed_or_refused() {
    let seeds = seeds();
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

/// The same text with other values in the places of those that its shape leaves out.
fn filled(shape: &str, mut next: impl FnMut() -> usize) -> String {
    const NUMBERS: [&str; 6] = ["0", "1", "2", "007", "1259", "999999999"];
    const STRINGS: [&str; 7] = ["''", "'1'", "'pg_class'", "'a b'", "'--'", "'\"'", "'{1,2}'"];
    let mut text = String::new();
    let mut rest = shape;
    while let Some((before, behind)) = rest.split_once('\0') {
        text.push_str(before);
        let values: &[&str] = if behind.starts_with('n') { &NUMBERS } else { &STRINGS };
        text.push_str(values.get(next() % values.len()).copied().unwrap_or_default());
        rest = behind.get(1..).unwrap_or_default();
    }
    text + rest
}

fn without_places(mut statements: Vec<Statement>) -> Vec<Statement> {
    for statement in &mut statements {
        statement.range = 0..0;
    }
    statements
}

#[test]
fn texts_of_one_shape_are_analysed_alike() {
    let analysis = || {
        let (view, plain) = (support::labelled(), support::unlabelled());
        let (compared, count) = (Cell::new(0), Cell::new(0usize));
        let check = |input: &[u8]| {
            let mut form = String::new();
            let text = String::from_utf8_lossy(input);
            if !shape(&text, &mut form) {
                return;
            }
            for view in [&view, &plain] {
                let Ok(found) = analyse(&text, view) else { continue };
                if !shared_by_shape(&found) {
                    continue;
                }
                let found = without_places(found);
                for _ in 0..4 {
                    let other = filled(&form, || {
                        count.set(count.get() + 1);
                        count.get().wrapping_mul(2_654_435_761) >> 7
                    });
                    let mut again = String::new();
                    assert!(shape(&other, &mut again) && again == form, "{text}\n{other}");
                    let analysed = analyse(&other, view).map(without_places);
                    assert_eq!(analysed.as_ref(), Ok(&found), "{text}\n{other}");
                    compared.set(compared.get() + 1);
                }
            }
        };
        let seeds = seeds();
        seeds.iter().for_each(|seed| check(seed));
        mutate::fuzz(&seeds, check);
        assert!(compared.get() > 2_000, "only {} were compared", compared.get());
    };
    let worker = thread::Builder::new().stack_size(STACK).spawn(analysis).expect("a thread");
    assert!(worker.join().is_ok(), "the analysis panicked; its input is above");
}
