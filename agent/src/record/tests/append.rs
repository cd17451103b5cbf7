//! What appending promises, as long as nothing goes wrong.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt as _;

use super::*;
use crate::record::format::CHECKPOINT_EVERY;

#[test]
fn what_was_appended_is_read_back_in_order() {
    let state = State::new();
    let journal = state.open();
    let events = (1..=5).map(|op| statement(op, "select 1")).collect::<Vec<_>>();
    let appended = journal.append(&events[..2]).unwrap();
    assert_eq!((appended.first_seq, appended.last_seq), (1, 2));
    let appended = journal.append(&events[2..]).unwrap();
    assert_eq!((appended.first_seq, appended.last_seq), (3, 5));
    journal.close().unwrap();
    assert_eq!(state.events(), events);
    let report = state.verify();
    assert!(report.ok, "{report:#?}");
    assert_eq!((report.events, report.checkpoints, report.unsigned_tail), (5, 1, 0));
    assert_eq!((report.last_seq, report.signed_through), (6, 5));
}

#[test]
fn nothing_to_append_is_an_empty_range() {
    let state = State::new();
    let journal = state.open();
    journal.append(&[statement(1, "select 1")]).unwrap();
    let appended = journal.append(&[]).unwrap();
    assert_eq!((appended.first_seq, appended.last_seq), (2, 1));
}

#[test]
fn an_acknowledged_record_is_read_while_the_journal_is_open() {
    let state = State::new();
    let journal = state.open();
    for op in 1..=10 {
        journal.append(&[statement(op, "select 1")]).unwrap();
        assert_eq!(state.records().unwrap().len() as u64, op);
    }
    let report = state.verify();
    assert!(report.ok && report.live, "{report:#?}");
    assert_eq!(report.unsigned_tail, 10);
}

#[test]
fn a_journal_goes_on_where_it_ended_over_many_segments() {
    let state = State::with_segments_of(2_000);
    let mut op = 0;
    for _start in 0..5 {
        let journal = state.open();
        for _ in 0..10 {
            op += 1;
            journal.append(&[statement(op, "select 1")]).unwrap();
        }
        journal.close().unwrap();
    }
    assert!(state.segments().len() > 5);
    let report = state.verify();
    assert!(report.ok, "{report:#?}");
    assert_eq!((report.events, report.checkpoints), (50, 5));
    assert_eq!(state.events(), (1..=50).map(|op| statement(op, "select 1")).collect::<Vec<_>>());
}

#[test]
fn a_batch_larger_than_a_segment_goes_into_one_of_its_own() {
    let state = State::with_segments_of(2_000);
    let journal = state.open();
    journal.append(&[statement(1, "select 1")]).unwrap();
    journal.append(&[statement(2, &"x".repeat(10_000)), statement(3, "select 3")]).unwrap();
    journal.append(&[statement(4, "select 4")]).unwrap();
    journal.close().unwrap();
    assert_eq!(state.segments().len(), 3);
    assert!(state.verify().ok);
}

#[test]
fn no_more_than_1024_records_follow_each_other_without_a_checkpoint() {
    for batch in [1, 7, 1000, 1024, 1025, 5000] {
        let state = State::new();
        let journal = state.open();
        let events = (0..batch).map(|op| statement(op, "select 1")).collect::<Vec<_>>();
        for _ in 0..5000 / batch {
            journal.append(&events).unwrap();
        }
        drop(journal);
        let mut run = 0;
        for record in state.records().unwrap() {
            run = if matches!(record.body, Body::Checkpoint(_)) { 0 } else { run + 1 };
            assert!(run <= CHECKPOINT_EVERY, "batches of {batch}");
        }
        let report = state.verify();
        assert!(report.ok && report.checkpoints >= 3, "batches of {batch}: {report:#?}");
    }
}

#[test]
fn a_checkpoint_is_made_once_and_only_when_something_was_appended() {
    let state = State::new();
    let journal = state.open();
    assert!(journal.checkpoint().unwrap().is_none());
    journal.append(&[statement(1, "select 1")]).unwrap();
    let head = journal.checkpoint().unwrap().unwrap();
    assert_eq!(head.seq, 1);
    assert!(journal.checkpoint().unwrap().is_none());
    let report = state.verify();
    assert!(report.ok && report.unsigned_tail == 0 && report.head.is_some_and(|head| head.seq == 1));
}

#[test]
fn every_segment_but_the_first_begins_with_the_tree() {
    let state = State::with_segments_of(500);
    let journal = state.open();
    for op in 0..20 {
        journal.append(&[statement(op, "select 1")]).unwrap();
        journal.checkpoint().unwrap().unwrap();
    }
    drop(journal);
    for (at, file) in state.segments().iter().enumerate() {
        let first = Frame::fields(&fs::read(file).unwrap()[HEADER_LEN..]).unwrap().kind;
        assert_eq!(first == Kind::Tree, at > 0, "{}", file.display());
    }
    state.open().close().unwrap();
    let report = state.verify();
    assert!(report.ok, "{report:#?}");
}

#[test]
fn appends_from_eight_threads_make_one_chain() {
    let state = State::with_segments_of(50_000);
    let journal = state.open();
    let mut given = BTreeSet::new();
    std::thread::scope(|scope| {
        let append = |thread: u64| {
            let journal = &journal;
            move || {
                let each = |op| {
                    let pair = [statement(op, "select 1"), statement(op, &format!("thread {thread}"))];
                    let appended = journal.append(&pair).unwrap();
                    assert_eq!(appended.last_seq, appended.first_seq + 1);
                    appended.first_seq
                };
                (0..500).map(each).collect::<Vec<_>>()
            }
        };
        let threads = (0..8).map(|thread| scope.spawn(append(thread))).collect::<Vec<_>>();
        for _ in 0..5 {
            journal.checkpoint().unwrap();
        }
        for thread in threads {
            for seq in thread.join().unwrap() {
                assert!(given.insert(seq), "{seq} given twice");
            }
        }
    });
    journal.close().unwrap();
    let report = state.verify();
    assert!(report.ok, "{report:#?}");
    assert_eq!((report.events, given.len()), (8_000, 4_000));
}

#[test]
fn a_closed_journal_takes_nothing_more() {
    let state = State::new();
    let journal = state.open();
    journal.append(&[statement(1, "select 1")]).unwrap();
    journal.close().unwrap();
    assert!(matches!(journal.append(&[statement(2, "select 2")]), Err(RecordError::Closed)));
    journal.close().unwrap();
    assert_eq!(state.verify().records, 2);
}

#[test]
fn a_full_journal_refuses_all_but_the_end_of_sessions() {
    let mut state = State::new();
    state.options.max_bytes = 100_000;
    let journal = state.open();
    let error = loop {
        if let Err(error) = journal.append(&[statement(1, "select 1")]) {
            break error;
        }
    };
    assert!(matches!(error, RecordError::Full { .. }), "{error}");
    assert!((0.9..=1.0).contains(&journal.usage()), "{}", journal.usage());
    let end = Event::SessionEnd {
        session: "s".into(),
        reason: "the journal is full".into(),
        statements: 1,
        rows: 0,
        client_bytes: 0,
        upstream_bytes: 0,
    };
    journal.append(&[end]).unwrap();
    assert!(journal.append(&[statement(1, "select 1")]).is_err());
    journal.close().unwrap();
    assert!(state.verify().ok);
    let used =
        fs::read_dir(state.journal_dir()).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len());
    assert!(used.sum::<u64>() <= 101_000);
}

#[test]
fn a_record_longer_than_a_reader_believes_is_refused() {
    let state = State::new();
    let journal = state.open();
    let error = journal.append(&[statement(1, &"x".repeat(17 << 20))]).unwrap_err();
    assert!(matches!(error, RecordError::TooLong { .. }), "{error}");
    journal.append(&[statement(1, &"x".repeat(15 << 20))]).unwrap();
    journal.close().unwrap();
    assert!(state.verify().ok);
}

#[test]
fn only_the_owner_reads_the_journal_and_its_key() {
    let state = State::new();
    state.open().append(&[statement(1, "select 1")]).unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(state.journal_dir()), 0o700);
    assert_eq!(mode(&state.options.key), 0o600);
    for file in state.segments() {
        assert_eq!(mode(&file), 0o600);
    }
    fs::set_permissions(&state.options.key, fs::Permissions::from_mode(0o640)).unwrap();
    assert!(state.refusal().contains("mode 0600"));
}

#[test]
fn the_key_files_are_what_openssl_reads() {
    let state = State::new();
    drop(state.open());
    let private = fs::read_to_string(&state.options.key).unwrap();
    let public = fs::read_to_string(public_path(&state.options.key)).unwrap();
    assert!(private.starts_with("-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEI"), "{private}");
    assert!(public.starts_with("-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEA"), "{public}");
}

#[test]
fn operators_are_told_once_that_the_journal_fills_up() {
    let mut state = State::new();
    state.options.max_bytes = 100_000;
    let journal = state.open();
    let told = || state.events().iter().filter(|event| matches!(event, Event::JournalFilling { .. })).count();
    while journal.usage() < 0.7 {
        journal.append(&[statement(1, "select 1")]).unwrap();
    }
    journal.checkpoint().unwrap();
    assert_eq!(told(), 0);
    while journal.usage() < 0.82 {
        journal.append(&[statement(1, "select 1")]).unwrap();
        journal.checkpoint().unwrap();
    }
    assert_eq!(told(), 1);
}
