//! A clock that is set does not change the order of records, and is told of where times change.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::*;
use crate::record::clock;

const SECOND: u64 = 1_000_000_000;

/// The clock that somebody sets, and the one nobody can, in seconds.
#[derive(Clone, Default)]
struct Clocks(Arc<(AtomicU64, AtomicU64)>);

impl Clocks {
    fn set(&self, wall: u64, boot: u64) {
        self.0.0.store(wall, Ordering::SeqCst);
        self.0.1.store(boot, Ordering::SeqCst);
    }

    fn open(&self, state: &State) -> Journal {
        let read = |clock: &AtomicU64| clock.load(Ordering::SeqCst) * SECOND;
        let (wall, boot) = (self.clone(), self.clone());
        let clocks = clock::Clocks::of(Box::new(move || read(&wall.0.0)), Box::new(move || read(&boot.0.1)));
        Journal::open_on(&state.options, Box::new(|file| Arc::new(file)), clocks).unwrap()
    }
}

fn clock_set(by: i64, expected: u64, found: u64) -> Event {
    Event::ClockSet { by_ms: by * 1000, expected_unix_ms: expected * 1000, found_unix_ms: found * 1000 }
}

#[test]
fn a_clock_set_back_or_forward_is_recorded_before_the_first_record_with_its_time() {
    let (state, clocks) = (State::with_segments_of(1_500), Clocks::default());
    clocks.set(10_000, 100);
    let journal = clocks.open(&state);
    let mut expected = Vec::new();
    // Wall clock, clock since boot, and what is to be told.
    let steps = [
        (10_001, 101, None),
        (4_000, 102, Some((-6_002, 10_002, 4_000))),
        (4_001, 103, None),
        (9_000, 104, Some((4_998, 4_002, 9_000))),
        (9_900, 1_004, None),
    ];
    for (op, (wall, boot, told)) in (1..).zip(steps) {
        clocks.set(wall, boot);
        journal.append(&[statement(op, "select 1")]).unwrap();
        expected.extend(told.map(|(by, expected, found)| clock_set(by, expected, found)));
        expected.push(statement(op, "select 1"));
    }
    journal.close().unwrap();
    drop(journal);
    // Set back while no agent ran.
    clocks.set(7_000, 5);
    let journal = clocks.open(&state);
    journal.append(&[statement(9, "select 1")]).unwrap();
    journal.close().unwrap();
    drop(journal);
    expected.extend([clock_set(-2_900, 9_900, 7_000), statement(9, "select 1")]);
    assert_eq!(state.events(), expected);
    let report = state.verify();
    assert!(report.ok, "{report:#?}");
    let back = report.set_back.iter().map(|back| (back.to.0 / SECOND, back.recorded)).collect::<Vec<_>>();
    assert_eq!(back, [(4_000, true), (7_000, true)]);
}

#[test]
fn a_clock_that_leaps_makes_nothing_old() {
    let (mut state, clocks) = (State::with_segments_of(1_500), Clocks::default());
    state.options.retention.keep = Some(std::time::Duration::from_secs(24 * 3600));
    clocks.set(1_000_000, 100);
    let journal = clocks.open(&state);
    for op in 1..30 {
        journal.append(&[statement(op, "select 1")]).unwrap();
    }
    let segments = state.segments().len();
    clocks.set(900_000_000, 101);
    journal.append(&[statement(30, "select 1")]).unwrap();
    assert_eq!(journal.retain().unwrap(), None);
    assert_eq!(state.segments().len(), segments);
    journal.close().unwrap();
    drop(journal);
    // A host that was off for long does make its records old.
    let journal = clocks.open(&state);
    let gone = journal.retain().unwrap().unwrap();
    assert!(gone.segments > 0 && state.segments().len() < segments, "{gone:?}");
    journal.close().unwrap();
    drop(journal);
    assert!(state.verify().ok);
}
