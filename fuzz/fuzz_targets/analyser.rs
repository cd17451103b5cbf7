//! The analysis of statements over the catalogue of the published cases: understood, with something to ask policy, or refused.
#![no_main]

#[allow(dead_code)]
#[path = "../../agent/sql/tests/support/mod.rs"]
mod support;

use std::sync::LazyLock;
use std::thread;

use chaperone_sql::{View, analyse};
use libfuzzer_sys::fuzz_target;

/// What the crate asks of its callers.
const STACK: usize = 32 << 20;

static VIEW: LazyLock<View> = LazyLock::new(support::labelled);

fuzz_target!(|input: &[u8]| {
    let text = String::from_utf8_lossy(input).into_owned();
    let analysis = move || {
        if let Ok(statements) = analyse(&text, &VIEW) {
            assert!(statements.iter().all(|statement| !statement.accesses.is_empty()), "policy is asked nothing");
        }
    };
    let worker = thread::Builder::new().stack_size(STACK).spawn(analysis).expect("a thread");
    assert!(worker.join().is_ok());
});
