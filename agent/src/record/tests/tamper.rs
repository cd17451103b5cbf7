//! Whatever is done to the records of a closed journal, `verify` says so, and says which record.

use std::sync::OnceLock;

use proptest::prelude::*;
use proptest::sample::Index;

use super::*;
use crate::record::Checkpoint;
use crate::record::format::{payload_digest, seal};
use crate::record::tree::Tree;
use ProblemKind::{
    CheckpointMismatch, CheckpointMissing, Deleted, Edited, EndMissing, HeaderEdited, Inserted, Reordered,
    Rewritten, SegmentMissing, Torn,
};

/// Closed, a few segments, checkpoints here and there; the same one in another place for every test.
fn journal() -> State {
    static WRITTEN: OnceLock<State> = OnceLock::new();
    WRITTEN.get_or_init(written).copy()
}

fn written() -> State {
    let state = State::with_segments_of(3_500);
    let journal = state.open();
    for op in 1..=40 {
        // Some of them packed.
        let session = ["s-1", "0198c0de000070008000000000000001"][usize::from(op % 3 == 0)];
        let sql = "select 1 ".repeat(usize::try_from(op % 7).unwrap());
        journal.append(&[statement_in(session, op, &sql)]).unwrap();
        if op % 9 == 0 {
            journal.checkpoint().unwrap();
        }
    }
    journal.close().unwrap();
    drop(journal);
    assert!(state.verify().ok && state.segments().len() >= 4);
    state
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_changed_byte_is_found_at_its_record(segment: Index, at: Index, flip in 1_u8..) {
        let state = journal();
        let file = segment.get(&state.segments()).clone();
        let places = state.places();
        let at = at.index(fs::read(&file).unwrap().len());
        edit(&file, |bytes| bytes[at] ^= flip);
        let report = state.verify();
        match places.iter().find(|place| place.file == file && (place.at..place.at + place.len).contains(&at)) {
            Some(place) => assert_found(&report, place.seq, &[Edited, Torn]),
            None => assert!(report.problems.iter().any(|problem| problem.kind == HeaderEdited), "{report:#?}"),
        }
        prop_assert_eq!(report.problems.len(), if report.head.is_some() { expected(&report) } else { 0 });
    }

    #[test]
    fn any_deleted_record_is_found(which: Index) {
        let state = journal();
        let place = which.get(&state.places()).clone();
        edit(&place.file, |bytes| drop(bytes.drain(place.at..place.at + place.len)));
        assert_found(&state.verify(), place.seq, &[Deleted, SegmentMissing, EndMissing]);
    }

    #[test]
    fn any_deleted_bytes_are_found(segment: Index, from: Index, len in 1_usize..600) {
        let state = journal();
        let file = segment.get(&state.segments()).clone();
        edit(&file, |bytes| {
            let from = from.index(bytes.len());
            bytes.drain(from..(from + len).min(bytes.len()));
        });
        prop_assert!(!state.verify().ok);
    }

    #[test]
    fn a_record_repeated_anywhere_is_found(which: Index, before: Index) {
        let state = journal();
        let (place, before) = (which.get(&state.places()).clone(), before.get(&state.places()).clone());
        let copy = fs::read(&place.file).unwrap()[place.at..place.at + place.len].to_vec();
        edit(&before.file, |bytes| drop(bytes.splice(before.at..before.at, copy)));
        assert_found(&state.verify(), place.seq, &[Inserted, Reordered, Deleted]);
    }

    #[test]
    fn bytes_put_between_records_are_found(before: Index, junk in prop::collection::vec(any::<u8>(), 1..300)) {
        let state = journal();
        let before = before.get(&state.places()).clone();
        edit(&before.file, |bytes| drop(bytes.splice(before.at..before.at, junk)));
        assert_found(&state.verify(), before.seq, &[Inserted, Edited]);
    }

    #[test]
    fn any_two_swapped_records_are_found(segment: Index, one: Index, other: Index) {
        let state = journal();
        let file = segment.get(&state.segments()).clone();
        let places = state.places().into_iter().filter(|place| place.file == file).collect::<Vec<_>>();
        let (first, second) = (one.index(places.len()), other.index(places.len()));
        prop_assume!(first != second);
        let (first, second) = (first.min(second), first.max(second));
        edit(&file, |bytes| {
            let mut order = (0..places.len()).collect::<Vec<_>>();
            order.swap(first, second);
            let records = order.iter().flat_map(|at| bytes[places[*at].at..places[*at].at + places[*at].len].to_vec());
            let changed = bytes[..HEADER_LEN].iter().copied().chain(records).collect();
            *bytes = changed;
        });
        assert_found(&state.verify(), places[first].seq, &[Reordered]);
    }

    #[test]
    fn a_record_rewritten_with_its_checksum_is_found(which: Index) {
        let state = journal();
        let place = which.get(&state.places()).clone();
        rewrite(&place.file, place.at, place.len);
        // The newest record has no successor that names it. Here it is the last checkpoint.
        assert_found(&state.verify(), place.seq, &[Rewritten, CheckpointMismatch]);
    }

    #[test]
    fn a_history_rewritten_from_a_record_on_is_found_by_the_next_checkpoint(which: Index) {
        let state = journal();
        let place = which.get(&state.places()).clone();
        // Whoever computes everything anew restores what a segment says of the tree.
        prop_assume!(place.kind != Kind::Tree);
        rewrite(&place.file, place.at, place.len);
        rechain(&state);
        let report = state.verify();
        assert_found(&report, place.seq, &[CheckpointMismatch]);
        prop_assert_eq!(report.problems[0].kind, CheckpointMismatch);
        let range = (report.problems[0].seq, report.problems[0].last_seq);
        let checkpoints = state.places().iter().filter(|place| place.kind == Kind::Checkpoint).map(|place| place.seq).collect::<Vec<_>>();
        let covering = checkpoints.iter().find(|checkpoint| **checkpoint >= place.seq);
        if let Some(covering) = covering {
            prop_assert!(range.1 == *covering, "{:?} not before {}", range, covering);
            prop_assert!(range.1 - range.0 <= 11, "{:?} says little", range);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_that_may_stand_in_a_segment_stops_the_reading(
        junk in prop::collection::vec(any::<u8>(), 0..2_000),
        frames in prop::collection::vec((any::<bool>(), prop::num::u64::ANY, 0_usize..200), 0..10),
        append: bool,
    ) {
        let state = journal();
        edit(&state.segments()[1], |bytes| {
            if !append {
                bytes.truncate(HEADER_LEN);
            }
            for (checkpoint, seq, len) in frames {
                let mut frame = vec![0xff; FRAME_LEN + if checkpoint { 104 } else { len }];
                let digest = payload_digest(&frame[FRAME_LEN..]);
                let kind = if checkpoint { Kind::Checkpoint } else { Kind::Event };
                let seq = if seq % 3 == 0 { seq % 40 } else { seq };
                let _hash = seal(&mut frame, kind, seq, seq, &[7; 32], &digest);
                bytes.extend(frame);
            }
            bytes.extend(junk);
        });
        let changed = fs::metadata(&state.segments()[1]).unwrap().len() != fs::metadata(&journal().segments()[1]).unwrap().len();
        prop_assert_eq!(state.verify().ok, !changed);
        for check in [Check::Chain, Check::Checksums] {
            let _read = Reader::open(state.journal_dir(), check).unwrap().count();
        }
        let _opened_or_refused = Journal::open(&state.options).err();
    }
}

/// Problems that one damaged byte may make: the place itself, and the head where the end is concerned.
fn expected(report: &Report) -> usize {
    1 + usize::from(report.problems.iter().any(|problem| problem.kind == EndMissing))
}

/// Changes the last byte of a record's payload and makes its checksum hold.
fn rewrite(file: &Path, at: usize, len: usize) {
    edit(file, |bytes| {
        let frame = &mut bytes[at..at + len];
        frame[len - 1] ^= 1;
        let (kind, seq, time, previous) = {
            let frame = Frame::fields(frame).unwrap();
            (frame.kind, frame.seq, frame.time_ns, frame.previous)
        };
        let digest = payload_digest(&frame[FRAME_LEN..]);
        let _hash = seal(frame, kind, seq, time, &previous, &digest);
    });
}

/// Recomputes every hash, checksum and header, as anybody can, and the checkpoints as far as is possible without the
/// key: what they speak of fits, their signatures are the old ones.
fn rechain(state: &State) {
    let mut last = [0; 32];
    let mut tree = Tree::default();
    for file in state.segments() {
        edit(&file, |bytes| {
            let mut header = super::super::format::Header::decode(bytes).unwrap();
            header.previous = last;
            let header = header.encode();
            bytes[..HEADER_LEN].copy_from_slice(&header);
            let mut previous = super::super::format::Header::hash(&header);
            let mut at = HEADER_LEN;
            while at < bytes.len() {
                let len = Frame::claimed_len(&bytes[at..]).unwrap();
                let (kind, seq, time) = {
                    let frame = Frame::fields(&bytes[at..at + len]).unwrap();
                    (frame.kind, frame.seq, frame.time_ns)
                };
                let payload = &mut bytes[at + FRAME_LEN..at + len];
                if kind == Kind::Checkpoint {
                    let old = str::from_utf8(payload).ok().and_then(Checkpoint::parse);
                    if let Some(old) = old {
                        let new = Checkpoint { seq: seq - 1, root: tree.root(), last: previous, ..old };
                        payload.copy_from_slice(new.text().as_bytes());
                    }
                }
                if kind == Kind::Tree {
                    payload.copy_from_slice(&tree.peaks());
                }
                let digest = payload_digest(&bytes[at + FRAME_LEN..at + len]);
                previous = seal(&mut bytes[at..at + len], kind, seq, time, &previous, &digest);
                tree.push(&previous);
                at += len;
            }
            last = previous;
        });
    }
}

/// A sequence of numbers that is the same in every run.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % limit as u64).unwrap()
    }
}

/// In several journals at once, each edit of another kind at another place, taken back before the next.
fn random_edits(count: usize) {
    const THREADS: usize = 4;
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            scope.spawn(move || {
                let state = journal();
                let (places, segments) = (state.places(), state.segments());
                let mut numbers = Numbers(0x2545_f491_4f6c_dd1d + thread as u64);
                for turn in (thread..count).step_by(THREADS) {
                    let file = &segments[numbers.below(segments.len())];
                    let whole = fs::read(file).unwrap();
                    random_edit(&state, file, &places, turn % 5, &mut numbers);
                    fs::write(file, whole).unwrap();
                }
                assert!(state.verify().ok);
            });
        }
    });
}

fn random_edit(state: &State, file: &Path, places: &[Place], kind: usize, numbers: &mut Numbers) {
    let own = places.iter().filter(|place| place.file == *file).collect::<Vec<_>>();
    let mut pick = || own[numbers.below(own.len())];
    let record = |bytes: &[u8], place: &Place| bytes[place.at..place.at + place.len].to_vec();
    match kind {
        0 => {
            let place = pick();
            edit(file, |bytes| drop(bytes.drain(place.at..place.at + place.len)));
            assert_found(&state.verify(), place.seq, &[Deleted, SegmentMissing, EndMissing]);
        }
        1 => {
            let (place, before) = (pick(), pick());
            edit(file, |bytes| drop(bytes.splice(before.at..before.at, record(bytes, place))));
            assert_found(&state.verify(), place.seq, &[Inserted, Reordered, Deleted]);
        }
        2 => {
            let (first, second) = (pick(), pick());
            let (first, second) = if first.seq < second.seq { (first, second) } else { (second, first) };
            if first.seq == second.seq {
                return;
            }
            edit(file, |bytes| {
                let swapped = [
                    record(bytes, second),
                    bytes[first.at + first.len..second.at].to_vec(),
                    record(bytes, first),
                ];
                bytes.splice(first.at..second.at + second.len, swapped.concat());
            });
            assert_found(&state.verify(), first.seq, &[Reordered]);
        }
        3 => {
            let place = pick();
            rewrite(file, place.at, place.len);
            assert_found(&state.verify(), place.seq, &[Rewritten, CheckpointMismatch]);
        }
        _ => {
            let length = usize::try_from(fs::metadata(file).unwrap().len()).unwrap();
            let (at, flip) = (numbers.below(length), u8::try_from(1 + numbers.below(255)).unwrap());
            edit(file, |bytes| bytes[at] ^= flip);
            let report = state.verify();
            match own.iter().find(|place| (place.at..place.at + place.len).contains(&at)) {
                Some(place) => assert_found(&report, place.seq, &[Edited, Torn]),
                None => {
                    assert!(report.problems.iter().any(|problem| problem.kind == HeaderEdited), "{report:#?}")
                }
            }
        }
    }
}

#[test]
fn random_edits_are_each_found_at_their_record() {
    random_edits(500);
}

/// The long variant: `cargo test -p chaperone ten_thousand -- --ignored`.
#[test]
#[ignore = "takes a minute"]
fn ten_thousand_random_edits_are_each_found_at_their_record() {
    random_edits(10_000);
}

#[test]
fn a_change_in_the_unsigned_tail_is_counted_as_possible_not_found() {
    let state = State::new();
    let journal = state.open();
    journal.append(&[statement(1, "select 1")]).unwrap();
    journal.checkpoint().unwrap();
    journal.append(&[statement(2, "select 2"), statement(3, "select 3")]).unwrap();
    drop(journal);
    let place = state.places().pop().unwrap();
    rewrite(&place.file, place.at, place.len);
    rechain(&state);
    let report = state.verify();
    assert!(report.ok && report.unsigned_tail == 2 && report.signed_through == 1, "{report:#?}");
}

#[test]
fn checkpoints_that_were_taken_out_are_missed() {
    let state = State::new();
    let journal = state.open();
    for op in 0..2_100 {
        journal.append(&[statement(op, "select 1")]).unwrap();
    }
    journal.close().unwrap();
    drop(journal);
    fs::remove_file(state.journal_dir().join("head")).unwrap();
    edit(&state.segments()[0], |bytes| {
        let (mut kept, mut at, mut seq) = (bytes[..HEADER_LEN].to_vec(), HEADER_LEN, 1);
        while at < bytes.len() {
            let len = Frame::claimed_len(&bytes[at..]).unwrap();
            let mut record = bytes[at..at + len].to_vec();
            let frame = Frame::fields(&bytes[at..at + len]).unwrap();
            if frame.kind == Kind::Event {
                let digest = payload_digest(frame.payload);
                let _hash = seal(&mut record, frame.kind, seq, frame.time_ns, &frame.previous, &digest);
                kept.append(&mut record);
                seq += 1;
            }
            at += len;
        }
        *bytes = kept;
    });
    rechain(&state);
    let report = state.verify();
    assert_found(&report, 1_000, &[CheckpointMissing]);
    assert_eq!((report.checkpoints, report.unsigned_tail), (0, 2_100));
}

#[test]
fn a_damaged_journal_is_read_past_the_damage() {
    let state = journal();
    let place = state.places()[10].clone();
    edit(&place.file, |bytes| bytes[place.at + 70] ^= 1);
    for check in [Check::Chain, Check::Checksums] {
        let (good, bad): (Vec<_>, Vec<_>) =
            Reader::open(state.journal_dir(), check).unwrap().partition(Result::is_ok);
        assert_eq!((good.len(), bad.len()), (state.places().len() - 1, 1), "{bad:?}");
        let error = bad[0].as_ref().unwrap_err().to_string();
        assert!(error.contains(&format!("byte {}, record {}", place.at, place.seq)), "{error}");
    }
}

#[test]
fn only_the_first_twenty_problems_are_described() {
    let state = State::new();
    let journal = state.open();
    for op in 0..100 {
        journal.append(&[statement(op, "select 1")]).unwrap();
    }
    drop(journal);
    for place in state.places().iter().step_by(2) {
        edit(&place.file, |bytes| bytes[place.at + 65] ^= 1);
    }
    let report = state.verify();
    assert_eq!((report.problems.len(), report.more_problems), (20, 30), "{report:#?}");
    assert_eq!(report.problems[19].seq, 39);
}
