//! Records that are written together: nothing is settled that is not there, whatever the disk does.

use std::sync::atomic::Ordering;

use super::faults::open;
use super::handover::taken_over;
use super::*;
use crate::record::{Burst, Owed};

fn ops(state: &State) -> Vec<u64> {
    let op = |event: Event| match event {
        Event::Statement { op, .. } => Some(op),
        _ => None,
    };
    state.events().into_iter().filter_map(op).collect()
}

fn later(journal: &Journal, op: u64) -> Owed {
    journal.append_later(&[statement(op, "select later")]).unwrap()
}

#[test]
fn whoever_settles_first_writes_for_all() {
    let state = State::new();
    let journal = state.open();
    let first = later(&journal, 1);
    let bytes = Burst { session: "s", offset: 0, bytes: b"rows" };
    let second = journal.append_served_later(bytes, Burst::NOTHING, &[statement(2, "select 2")]).unwrap();
    assert!(ops(&state).is_empty());
    assert!(journal.settle(second).unwrap(), "the first one was in it");
    assert_eq!(ops(&state), [1, 2]);
    assert!(journal.settle(first).unwrap());
    let alone = later(&journal, 3);
    assert!(!journal.settle(alone).unwrap());
    assert!(!journal.settle(Owed::default()).unwrap());
    // Whatever is written, synced or signed has before it what waited.
    let waits = later(&journal, 4);
    journal.append(&[statement(5, "select 5")]).unwrap();
    assert_eq!(ops(&state), [1, 2, 3, 4, 5]);
    let waits = waits.and(later(&journal, 6));
    journal.sync_all().unwrap();
    assert_eq!(ops(&state), [1, 2, 3, 4, 5, 6]);
    let waits = waits.and(later(&journal, 7));
    journal.checkpoint().unwrap().unwrap();
    assert!(journal.settle(waits).unwrap());
    let _never_settled = later(&journal, 8);
    journal.close().unwrap();
    assert_eq!(ops(&state), [1, 2, 3, 4, 5, 6, 7, 8]);
    assert!(state.verify().ok);
}

#[test]
fn a_write_that_fails_takes_all_of_them_out_wherever_it_hits() {
    for room in [0, 1, 59, 60, 200, 300, 400, 500] {
        let state = State::new();
        let (journal, faults) = open(&state);
        journal.append(&[statement(1, "select 1")]).unwrap();
        let used = journal.usage();
        let (first, second) = (later(&journal, 2), later(&journal, 3));
        faults.room.store(room, Ordering::SeqCst);
        faults.armed.store(true, Ordering::SeqCst);
        assert!(journal.settle(first).unwrap_err().to_string().contains("No space left"), "room {room}");
        assert!(matches!(journal.settle(second), Err(RecordError::NotWritten)), "room {room}");
        assert!(matches!(journal.settle(first.and(second)), Err(RecordError::NotWritten)), "room {room}");
        assert_eq!(ops(&state), [1], "room {room}");
        assert!((journal.usage() - used).abs() < 1e-12);
        faults.armed.store(false, Ordering::SeqCst);
        let again = later(&journal, 4);
        // What was owed before the failure fails with it, although the last write succeeds.
        assert!(journal.settle(second.and(again)).is_err());
        journal.settle(again).unwrap();
        journal.close().unwrap();
        assert!(state.verify().ok, "room {room}");
        assert_eq!(ops(&state), [1, 4]);
    }
}

/// What several sessions do at the same time, in any order, on a disk that fails now and then.
#[test]
fn what_was_settled_is_there_and_what_failed_is_not() {
    let (mut all_settled, mut all_failed) = (0, 0);
    for seed in 1..=60u64 {
        let state = State::with_segments_of(3_000);
        let (journal, faults) = open(&state);
        let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut below = |limit: u64| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            (random >> 11) % limit
        };
        let (mut settled, mut failed, mut waiting) = (Vec::new(), Vec::new(), Vec::<(u64, Owed)>::new());
        let mut failures = 0;
        for op in 1..=200 {
            faults.room.store(below(900), Ordering::SeqCst);
            faults.armed.store(below(8) == 0, Ordering::SeqCst);
            match below(8) {
                0 => match journal.append(&[statement(op, "select now")]) {
                    Ok(_) => settled.push(op),
                    Err(_) => failures += 1,
                },
                1 => drop(journal.checkpoint()),
                2 | 3 => {
                    if let Some((op, owed)) = waiting.pop() {
                        match journal.settle(owed) {
                            Ok(_) => settled.push(op),
                            Err(_) => failed.push(op),
                        }
                    }
                }
                _ => match journal.append_later(&[statement(op, "select later")]) {
                    Ok(owed) => {
                        waiting.insert(usize::try_from(below(waiting.len() as u64 + 1)).unwrap(), (op, owed))
                    }
                    Err(_) => failures += 1,
                },
            }
        }
        faults.armed.store(false, Ordering::SeqCst);
        for (op, owed) in waiting {
            match journal.settle(owed) {
                Ok(_) => settled.push(op),
                Err(_) => failed.push(op),
            }
        }
        journal.close().unwrap();
        assert!(state.verify().ok, "seed {seed}: {:?}", state.verify().problems);
        let there = ops(&state);
        assert!(there.is_sorted(), "seed {seed}: each session's records are in their order");
        all_settled += settled.len();
        all_failed += failures + failed.len();
        for op in &settled {
            assert!(there.contains(op), "seed {seed}: {op} was settled and is gone");
        }
        assert!(there.len() >= settled.len());
    }
    assert!(
        all_settled > 3_000 && all_failed > 300,
        "{all_settled} settled, {all_failed} failed: that shows nothing"
    );
}

#[test]
fn what_is_owed_when_the_journal_is_handed_over_was_written() {
    let state = State::new();
    let old = state.open();
    let owed = later(&old, 1);
    let (new, thread) = taken_over(&state, &old);
    assert_eq!(ops(&state), [1]);
    assert!(old.settle(owed).unwrap());
    // With the other agent nothing is put off.
    let owed = owed.and(later(&old, 2));
    assert_eq!(ops(&state), [1, 2]);
    assert!(old.settle(owed).unwrap());
    drop(old);
    thread.join().unwrap().unwrap();
    new.close().unwrap();
    assert!(state.verify().ok);
}

#[test]
fn what_failed_before_the_journal_was_handed_over_is_not_there_after_it() {
    let state = State::new();
    let (old, faults) = open(&state);
    let (first, second) = (later(&old, 1), later(&old, 2));
    faults.armed.store(true, Ordering::SeqCst);
    assert!(old.settle(first).is_err());
    faults.armed.store(false, Ordering::SeqCst);
    let third = later(&old, 3);
    let (new, thread) = taken_over(&state, &old);
    assert!(matches!(old.settle(second), Err(RecordError::NotWritten)));
    assert!(old.settle(second.and(third)).is_err());
    assert!(old.settle(third).unwrap());
    assert_eq!(ops(&state), [3]);
    drop(old);
    thread.join().unwrap().unwrap();
    new.close().unwrap();
    assert!(state.verify().ok);
}
