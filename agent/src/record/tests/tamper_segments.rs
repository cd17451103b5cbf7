//! Whatever is done to whole segments, `verify` says so.

use super::*;
use ProblemKind::{
    EndMissing, FirstSegmentMissing, ForeignSegment, HeadInvalid, HeaderEdited, HeaderTruncated, Misnamed,
    SegmentMissing, Torn,
};

fn journal(key_of: Option<&State>) -> State {
    let state = State::with_segments_of(2_000);
    if let Some(other) = key_of {
        fs::copy(&other.options.key, &state.options.key).unwrap();
    }
    let journal = state.open();
    for op in 1..=30 {
        journal.append(&[statement(op, "select 1")]).unwrap();
    }
    journal.close().unwrap();
    drop(journal);
    state
}

#[test]
fn what_is_done_to_segments_is_found() {
    let segment = |state: &State, at: usize| state.segments()[at].clone();
    type Case = (&'static str, ProblemKind, fn(&State, PathBuf));
    let cases: [Case; 7] = [
        ("header truncated", HeaderTruncated, |_, file| edit(&file, |bytes| bytes.truncate(100))),
        ("emptied", HeaderTruncated, |_, file| edit(&file, Vec::clear)),
        ("header edited", HeaderEdited, |_, file| edit(&file, |bytes| bytes[15] ^= 1)),
        ("header of another version", HeaderEdited, |_, file| {
            edit(&file, |bytes| {
                bytes[8] = 9;
                let crc = crc32fast::hash(&bytes[..HEADER_LEN - 4]);
                bytes[HEADER_LEN - 4..HEADER_LEN].copy_from_slice(&crc.to_le_bytes());
            })
        }),
        ("removed", SegmentMissing, |_, file| fs::remove_file(file).unwrap()),
        ("torn in the middle of the journal", Torn, |_, file| {
            edit(&file, |bytes| bytes.truncate(bytes.len() - 5))
        }),
        ("given another name", Misnamed, |state, file| {
            fs::rename(file, state.journal_dir().join("journal-00000000000000000008.chj")).unwrap();
        }),
    ];
    for (name, kind, change) in cases {
        let state = journal(None);
        let file = segment(&state, 2);
        let first = state.places().iter().find(|place| place.file == file).unwrap().seq;
        change(&state, file.clone());
        let report = state.verify();
        let found = report.problems.iter().find(|problem| problem.kind == kind);
        let found = found.unwrap_or_else(|| panic!("{name}: {report:#?}"));
        assert!(!report.ok && found.seq >= first && found.seq < first + 6, "{name}: {report:#?}");
    }
}

#[test]
fn missing_segments_are_named_by_their_records() {
    for (gone, kind) in [(0, FirstSegmentMissing), (3, SegmentMissing)] {
        let state = journal(None);
        let file = state.segments()[gone].clone();
        let lost = state.places().into_iter().filter(|place| place.file == file).map(|place| place.seq);
        let (first, last) = (lost.clone().min().unwrap(), lost.max().unwrap());
        fs::remove_file(file).unwrap();
        let report = state.verify();
        let [problem] = &report.problems[..] else { panic!("{report:#?}") };
        assert_eq!((problem.kind, problem.seq, problem.last_seq), (kind, first, last));
    }
}

#[test]
fn a_missing_last_segment_shows_at_the_head() {
    let state = journal(None);
    let file = state.segments().pop().unwrap();
    let first = state.places().iter().find(|place| place.file == file).unwrap().seq;
    fs::remove_file(file).unwrap();
    assert_found(&state.verify(), first, &[EndMissing]);
}

#[test]
fn segments_of_another_host_or_another_journal_are_named() {
    let state = journal(None);
    for other in [journal(None), journal(Some(&state))] {
        let copy = state.copy();
        let name = state.segments()[2].file_name().unwrap().to_owned();
        fs::copy(other.journal_dir().join(&name), copy.journal_dir().join(&name)).unwrap();
        let report = copy.verify();
        assert!(report.problems.iter().any(|problem| problem.kind == ForeignSegment), "{report:#?}");
        assert_eq!(report.problems[0].file, name.to_str().unwrap());
    }
}

#[test]
fn an_older_copy_of_a_segment_is_found() {
    let state = State::with_segments_of(2_000);
    let journal = state.open();
    for op in 1..=5 {
        journal.append(&[statement(op, "select 1")]).unwrap();
    }
    let file = state.segments().pop().unwrap();
    let older = fs::read(&file).unwrap();
    for op in 6..=30 {
        journal.append(&[statement(op, "select 1")]).unwrap();
    }
    journal.close().unwrap();
    drop(journal);
    fs::write(&file, older).unwrap();
    assert_found(&state.verify(), 6, &[SegmentMissing]);
}

#[test]
fn a_head_that_is_not_this_hosts_is_found() {
    type Change = fn(&mut Vec<u8>);
    let changes: [Change; 4] = [
        |head| head[30] ^= 1,
        |head| head.truncate(100),
        |head| *head = String::from_utf8_lossy(head).replace("\n\n", "\nmore\n\n").into_bytes(),
        |head| *head = String::from_utf8_lossy(head).replace("time_ns ", "time_ns 1").into_bytes(),
    ];
    for change in changes {
        let state = journal(None);
        edit(&state.journal_dir().join("head"), change);
        let report = state.verify();
        assert!(report.problems.iter().any(|problem| problem.kind == HeadInvalid), "{report:#?}");
        assert!(state.refusal().contains("checkpoint signed by this host's key"));
    }
}

#[test]
fn another_hosts_key_verifies_nothing() {
    let (state, other) = (journal(None), journal(None));
    let report = verify(state.journal_dir(), &other.key(), None).unwrap();
    assert!(!report.ok && report.checkpoints == 0, "{report:#?}");
}

#[test]
fn a_torn_end_is_reported_when_no_agent_is_writing_it() {
    let state = State::new();
    let journal = state.open();
    journal.append(&[statement(1, "select 1"), statement(2, "select 2")]).unwrap();
    let whole = fs::read(&state.segments()[0]).unwrap();
    edit(&state.segments()[0], |bytes| bytes.truncate(whole.len() - 1));
    let report = state.verify();
    assert!(report.live && report.ok && report.records == 1, "{report:#?}");
    drop(journal);
    assert_found(&state.verify(), 2, &[Torn]);
}
