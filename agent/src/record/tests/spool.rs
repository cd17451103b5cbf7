//! Records that are in memory and not in their segment yet: they outlive the agent, whatever the disk does.

use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::faults::open;
use super::*;
use crate::record::{Burst, complete};

/// A journal with a spool, which is elsewhere: `state` alone is what a disk would hold.
pub(super) struct Spooled {
    pub(super) state: State,
    memory: TempDir,
}

impl Spooled {
    pub(super) fn new() -> Self {
        Self::with_segments_of(1 << 20)
    }

    fn with_segments_of(bytes: u64) -> Self {
        let memory = tempfile::tempdir_in("/dev/shm").unwrap();
        let mut state = State::with_segments_of(bytes);
        state.options.spool = Some(memory.path().join("spool"));
        Self { state, memory }
    }

    fn file(&self) -> PathBuf {
        self.memory.path().join("spool")
    }

    /// What is in the segments.
    fn ops(&self) -> Vec<u64> {
        let op = |event: Event| match event {
            Event::Statement { op, .. } => Some(op),
            _ => None,
        };
        self.state.events().into_iter().filter_map(op).collect()
    }

    /// The same files in another place, with the spool as it is.
    fn copy(&self) -> Self {
        let mut copy = Self { state: self.state.copy(), memory: tempfile::tempdir_in("/dev/shm").unwrap() };
        copy.state.options.spool = Some(copy.file());
        fs::copy(self.file(), copy.file()).unwrap();
        copy
    }
}

fn recorded(journal: &Journal, op: u64) {
    journal.append(&[statement(op, "select spooled")]).unwrap();
}

#[test]
fn what_a_killed_agent_recorded_is_written_by_the_next_or_for_who_reads() {
    let spooled = Spooled::new();
    let journal = spooled.state.open();
    (1..=3).for_each(|op| recorded(&journal, op));
    let bytes = Burst { session: "s", offset: 0, bytes: b"rows" };
    journal.append_served(bytes, Burst::NOTHING, &[statement(4, "select 4")]).unwrap();
    assert!(spooled.ops().is_empty());
    complete(&spooled.state.options).unwrap();
    assert!(spooled.ops().is_empty(), "the agent lives");
    // It dies without a word.
    drop(journal);
    let for_readers = spooled.copy();
    complete(&for_readers.state.options).unwrap();
    for spooled in [&for_readers, &spooled] {
        let journal = spooled.state.open();
        assert_eq!(spooled.ops(), [1, 2, 3, 4]);
        recorded(&journal, 5);
        journal.flush().unwrap();
        assert_eq!(spooled.ops(), [1, 2, 3, 4, 5]);
        recorded(&journal, 6);
        journal.sync_all().unwrap();
        assert_eq!(spooled.ops(), [1, 2, 3, 4, 5, 6]);
        recorded(&journal, 7);
        journal.checkpoint().unwrap().unwrap();
        assert_eq!(spooled.ops(), [1, 2, 3, 4, 5, 6, 7]);
        recorded(&journal, 8);
        journal.close().unwrap();
        assert!(spooled.state.verify().ok);
        assert_eq!(spooled.ops(), [1, 2, 3, 4, 5, 6, 7, 8]);
    }
}

#[test]
fn an_agent_killed_while_it_wrote_leaves_a_part_that_is_completed() {
    let spooled = Spooled::new();
    let journal = spooled.state.open();
    recorded(&journal, 1);
    journal.checkpoint().unwrap();
    (2..=4).for_each(|op| recorded(&journal, op));
    drop(journal);
    let bytes = fs::read(spooled.file()).unwrap();
    let count = usize::try_from(u64::from_le_bytes(bytes[40..48].try_into().unwrap())).unwrap();
    assert!(count > 500);
    for part in [0, 1, 7, 59, 60, count / 2, count - 1, count] {
        let copy = spooled.copy();
        let segment = copy.state.segments().pop().unwrap();
        let begin = fs::metadata(&segment).unwrap().len();
        let file = fs::OpenOptions::new().write(true).open(&segment).unwrap();
        file.write_all_at(&bytes[64..64 + part], begin).unwrap();
        let journal = copy.state.open();
        assert!(journal.repaired().is_empty(), "{part} of {count}");
        recorded(&journal, 5);
        journal.close().unwrap();
        assert_eq!(copy.ops(), [1, 2, 3, 4, 5], "{part} of {count}");
        assert!(copy.state.verify().ok);
    }
}

#[test]
fn what_has_no_place_any_more_keeps_the_agent_from_starting() {
    let spooled = Spooled::new();
    let journal = spooled.state.open();
    recorded(&journal, 1);
    journal.checkpoint().unwrap();
    recorded(&journal, 2);
    drop(journal);

    // Somebody went on without it.
    let mut went_on = spooled.copy();
    let spool = went_on.state.options.spool.take();
    let journal = went_on.state.open();
    recorded(&journal, 3);
    journal.close().unwrap();
    drop(journal);
    went_on.state.options.spool = spool;
    let refusal = went_on.state.refusal();
    assert!(refusal.contains("the journal went on without them"), "{refusal}");
    assert!(refusal.contains("chaperone verify"), "{refusal}");
    assert_eq!(went_on.ops(), [1, 3], "nothing is written over");
    fs::remove_file(went_on.file()).unwrap();
    drop(went_on.state.open());

    // And what is changed in memory does not pass for a record.
    let changed = spooled.copy();
    edit(&changed.file(), |bytes| bytes[64 + 70] ^= 1);
    let journal = changed.state.open();
    assert_eq!(journal.repaired().len(), 1);
    journal.close().unwrap();
    assert_eq!(changed.ops(), [1]);
}

#[test]
fn what_stands_behind_records_that_the_disk_lost_is_kept_apart() {
    let spooled = Spooled::new();
    let journal = spooled.state.open();
    recorded(&journal, 1);
    journal.checkpoint().unwrap();
    recorded(&journal, 2);
    journal.flush().unwrap();
    recorded(&journal, 3);
    drop(journal);
    // What no sync is known of: a record, or a part of it.
    let whole = spooled.state.places();
    let last = whole.last().unwrap();
    for len in [last.at, last.at + 1, last.at + last.len - 1] {
        let cut = spooled.copy();
        edit(&cut.state.segments()[0], |bytes| bytes.truncate(len));
        assert!(
            complete(&cut.state.options).unwrap_err().to_string().contains("their segment ends before them")
        );
        let journal = cut.state.open();
        let kept = journal.repaired().pop().unwrap();
        assert_eq!(kept.offset, (last.at + last.len) as u64);
        recorded(&journal, 4);
        journal.close().unwrap();
        assert_eq!(cut.ops(), [1, 4]);
        assert!(cut.state.verify().ok);
        let beside = cut.state.journal_dir().join(format!("{}.cut-{}", kept.segment, kept.offset));
        assert_eq!(fs::metadata(beside).unwrap().len(), kept.bytes);
        assert!(kept.bytes > 200);
    }
    // What was synced cannot be lost that way.
    let cut = spooled.copy();
    edit(&cut.state.segments()[0], |bytes| bytes.truncate(whole[0].at + whole[0].len));
    assert!(cut.state.refusal().contains("its end was cut off"), "{}", cut.state.refusal());
}

#[test]
fn what_was_left_of_another_journal_is_dropped() {
    let spooled = Spooled::new();
    let journal = spooled.state.open();
    recorded(&journal, 1);
    drop(journal);
    // With all that was written, and its host's key.
    fs::remove_dir_all(spooled.state.journal_dir()).unwrap();
    let journal = spooled.state.open();
    recorded(&journal, 2);
    drop(journal);
    let other = Spooled::new();
    fs::copy(spooled.file(), other.file()).unwrap();
    let mut without = State { dir: tempfile::tempdir().unwrap(), options: other.state.options.clone() };
    without.options.spool = None;
    drop(without.open());
    let journal = other.state.open();
    assert!(other.ops().is_empty());
    recorded(&journal, 3);
    journal.close().unwrap();
    assert_eq!(other.ops(), [3]);
    assert!(other.state.verify().ok);
}

#[test]
fn a_disk_that_fails_loses_nothing_and_stops_what_comes_next() {
    for room in [0, 1, 59, 60, 200, 400, 900] {
        let spooled = Spooled::new();
        let (journal, faults) = open(&spooled.state);
        recorded(&journal, 1);
        journal.flush().unwrap();
        recorded(&journal, 2);
        recorded(&journal, 3);
        faults.room.store(room, Ordering::SeqCst);
        faults.armed.store(true, Ordering::SeqCst);
        if room < 900 {
            assert!(journal.flush().unwrap_err().to_string().contains("No space left"), "room {room}");
            let error = journal.append(&[statement(4, "select refused")]).unwrap_err();
            assert!(error.to_string().contains("No space left"), "room {room}: {error}");
            assert!(journal.close().is_err());
            assert_eq!(spooled.ops(), [1], "room {room}");
            // An agent that starts now, with room again, finds them.
            let next = spooled.copy();
            drop(next.state.open());
            assert_eq!(next.ops(), [1, 2, 3]);
        }
        faults.armed.store(false, Ordering::SeqCst);
        recorded(&journal, 5);
        journal.close().unwrap();
        assert_eq!(spooled.ops(), [1, 2, 3, 5], "room {room}");
        assert!(spooled.state.verify().ok, "room {room}");
    }
}

/// What several agents, one after another, record on a disk that fails now and then.
#[test]
fn whatever_happens_what_was_recorded_is_there_in_its_order() {
    let mut refused = 0;
    for seed in 1..=16u64 {
        let spooled = Spooled::with_segments_of(4_000);
        let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut below = |limit: u64| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            (random >> 11) % limit
        };
        let mut expected = Vec::new();
        let mut op = 0;
        for _agent in 0..4 {
            let (journal, faults) = open(&spooled.state);
            for _ in 0..60 {
                faults.room.store(below(900), Ordering::SeqCst);
                faults.armed.store(below(6) == 0, Ordering::SeqCst);
                op += 1;
                // Some are more than is copied, or than a segment takes.
                let long = match below(10) {
                    0 => 70_000,
                    1..=4 => 3_000,
                    _ => 10,
                };
                let sql = "x".repeat(long);
                match below(8) {
                    0 => drop(journal.flush()),
                    1 => drop(journal.checkpoint()),
                    _ => match journal.append(&[statement(op, &sql)]) {
                        Ok(_) => expected.push(op),
                        Err(_) => refused += 1,
                    },
                }
            }
        }
        let journal = spooled.state.open();
        journal.close().unwrap();
        assert_eq!(spooled.ops(), expected, "seed {seed}");
        let report = spooled.state.verify();
        assert!(report.ok, "seed {seed}: {report:#?}");
    }
    assert!(refused > 20, "{refused}");
}

#[test]
fn the_scribe_writes_what_nobody_asks_for() {
    let spooled = Spooled::new();
    let journal = Arc::new(spooled.state.open());
    recorded(&journal, 1);
    journal.start_scribe().unwrap();
    for op in 1..=20 {
        let begun = Instant::now();
        while spooled.ops().last() != Some(&op) {
            assert!(begun.elapsed() < Duration::from_secs(30), "record {op} is not written");
            std::thread::sleep(Duration::from_millis(1));
        }
        recorded(&journal, op + 1);
    }
}

#[test]
fn on_a_disk_there_is_no_spool() {
    let disk = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
    let mut state = State::new();
    state.options.spool = Some(disk.path().join("spool"));
    let journal = state.open();
    recorded(&journal, 1);
    assert_eq!(state.events(), [statement(1, "select spooled")]);
    assert!(!disk.path().join("spool").exists());
}
