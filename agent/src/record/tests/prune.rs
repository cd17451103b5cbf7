//! What is pruned is gone with the host's word for it, and everything that is left is proved as before.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::*;
use crate::record::format::{Hash, unhex};
use crate::record::query::{Filter, sessions};
use crate::record::{Checkpoint, Gone, Wanted, head, prove, pruned, tree};

fn hashes(proof: &[String]) -> Vec<Hash> {
    proof.iter().map(|hash| STANDARD.decode(hash).unwrap().try_into().unwrap()).collect()
}

fn down_to(bytes: u64) -> Wanted {
    Wanted { older_than: None, to_bytes: Some(bytes), at_most: 32, why: "a test".into(), by: None }
}

/// Appends, with a checkpoint after every third record; all heads there were.
fn grow(state: &State, journal: &Journal, from: u64, to: u64) -> Vec<Checkpoint> {
    let mut heads = Vec::new();
    for op in from..=to {
        journal.append(&[statement(op, "select 1")]).unwrap();
        if op % 3 == 0 {
            journal.checkpoint().unwrap();
            heads.extend(head::load(state.journal_dir(), &state.key()).unwrap());
        }
    }
    heads
}

/// Everything that can be proved is, of records and of heads.
fn assert_proved(state: &State, heads: &[Checkpoint], gone: u64) {
    let (dir, key) = (state.journal_dir(), state.key());
    let report = state.verify();
    assert!(report.ok && report.pruned_through == gone, "{report:#?}");
    let newest = head::load(dir, &key).unwrap().unwrap();
    for old in heads.iter().step_by(2) {
        let report = verify(dir, &key, Some(*old)).unwrap();
        assert!(report.ok && report.since.is_some(), "{} {report:#?}", old.seq);
        let grown = prove::growth(dir, &key, old).unwrap();
        let proof = hashes(&grown.proof);
        assert!(tree::consistent(old.seq, &old.root, newest.seq, &newest.root, &proof), "{}", old.seq);
        let mut other = *old;
        other.root[0] ^= 1;
        assert!(!verify(dir, &key, Some(other)).unwrap().ok, "{}", old.seq);
    }
    // Every one of some, in turn.
    for seq in (1 + newest.seq % 5..=newest.seq)
        .step_by(5)
        .chain([gone, gone + 1, newest.seq])
        .filter(|seq| *seq > 0)
    {
        let given = prove::record(dir, &key, seq);
        if seq <= gone {
            assert!(matches!(given, Err(RecordError::Pruned { .. })), "{seq}");
            continue;
        }
        let given = given.unwrap();
        let entry = unhex(&given.record.hash).unwrap();
        let proof = hashes(&given.proof);
        assert!(tree::included(&entry, given.index, newest.seq, &proof, &newest.root), "{seq}");
    }
}

#[test]
fn what_is_left_is_proved_and_every_old_head_is_gone_on_from() {
    let state = State::with_segments_of(3_000);
    let journal = state.open();
    let mut heads = grow(&state, &journal, 1, 60);
    let mut gone = 0;
    // More than once, with and without an agent in between, down to the segment that is written.
    for (turn, bytes) in [15_000, 15_000, 9_000, 0].into_iter().enumerate() {
        if let Some(went) = journal.prune(&down_to(bytes)).unwrap() {
            assert_eq!(went.through - gone, went.records);
            gone = went.through;
        }
        let from = 100 * (turn as u64 + 1);
        heads.extend(grow(&state, &journal, from, from + 10));
        assert_proved(&state, &heads, gone);
    }
    assert!(gone > 50, "{gone}");
    journal.close().unwrap();
    drop(journal);
    let journal = state.open();
    heads.extend(grow(&state, &journal, 900, 930));
    journal.close().unwrap();
    assert_proved(&state, &heads, gone);
    let told = state
        .events()
        .into_iter()
        .filter(|event| matches!(event, Event::Pruned { through, .. } if *through == gone));
    assert_eq!(told.count(), 1);
}

/// A journal of several segments, and what went of it.
fn pruned_once() -> (State, Gone) {
    let state = State::with_segments_of(3_000);
    let journal = state.open();
    grow(&state, &journal, 1, 60);
    let gone = journal.prune(&down_to(15_000)).unwrap().unwrap();
    journal.append(&[statement(61, "select 1")]).unwrap();
    journal.close().unwrap();
    assert!(gone.segments > 2 && state.segments().len() > 3);
    (state, gone)
}

fn frozen(state: &State) -> Vec<PathBuf> {
    let mut found =
        fs::read_dir(state.journal_dir()).unwrap().map(|entry| entry.unwrap().path()).collect::<Vec<_>>();
    found.retain(|path| path.extension().is_some_and(|extension| extension == "chf"));
    found.sort();
    found
}

#[test]
fn segments_that_are_gone_without_the_hosts_word_are_missing() {
    let (state, gone) = pruned_once();
    // One more than the host let go.
    let copy = state.copy();
    fs::remove_file(&copy.segments()[0]).unwrap();
    assert_found(&copy.verify(), gone.through + 1, &[ProblemKind::FirstSegmentMissing]);
    assert!(copy.refusal().contains("missing"), "{}", copy.refusal());
    // The word taken away, or replaced by an older one, or by one of nobody.
    let copy = state.copy();
    fs::remove_file(pruned::path(copy.journal_dir())).unwrap();
    assert_found(&copy.verify(), 1, &[ProblemKind::FirstSegmentMissing]);
    assert!(copy.refusal().contains("missing"), "{}", copy.refusal());
    let older = fs::read(pruned::path(state.journal_dir())).unwrap();
    let copy = state.copy();
    let journal = copy.open();
    let more = journal.prune(&down_to(9_000)).unwrap().unwrap();
    journal.close().unwrap();
    drop(journal);
    fs::write(pruned::path(copy.journal_dir()), older).unwrap();
    assert_found(&copy.verify(), more.through, &[ProblemKind::FirstSegmentMissing]);
    let copy = state.copy();
    edit(&pruned::path(copy.journal_dir()), |bytes| bytes[60] ^= 1);
    assert!(copy.verify().problems.iter().any(|problem| problem.kind == ProblemKind::PrunedInvalid));
    assert!(copy.refusal().contains("not") || copy.refusal().contains("no note"), "{}", copy.refusal());
}

#[test]
fn nothing_goes_by_a_word_about_another_journal_or_a_later_state_of_this_one() {
    let (state, _) = pruned_once();
    let note = fs::read(pruned::path(state.journal_dir())).unwrap();
    // Another journal of the same host.
    let other = State::with_segments_of(3_000);
    for file in [state.options.key.clone(), public_path(&state.options.key)] {
        fs::copy(&file, other.dir.path().join(file.file_name().unwrap())).unwrap();
    }
    let journal = other.open();
    grow(&other, &journal, 1, 60);
    journal.close().unwrap();
    drop(journal);
    let before = other.segments();
    fs::write(pruned::path(other.journal_dir()), &note).unwrap();
    assert!(other.refusal().contains("not of one journal at one time"), "{}", other.refusal());
    assert_eq!(other.segments(), before);
    assert!(!other.verify().ok);
}

#[test]
fn what_is_kept_of_pruned_records_cannot_be_changed() {
    let (state, _) = pruned_once();
    let kept = frozen(&state);
    for file in &kept {
        let name = file.file_name().unwrap();
        let len = fs::read(file).unwrap().len();
        for at in (0..len).step_by(7) {
            let copy = state.copy();
            edit(&copy.journal_dir().join(name), |bytes| {
                bytes[at] ^= 1;
                let body = bytes.len() - 4;
                // As somebody would who knows the format.
                let crc = crc32fast::hash(&bytes[..body]);
                bytes[body..].copy_from_slice(&crc.to_le_bytes());
                if at >= body {
                    bytes[at] ^= 1;
                }
            });
            let report = copy.verify();
            assert!(
                report.problems.iter().any(|problem| problem.kind == ProblemKind::PrunedInvalid),
                "{name:?} {at}"
            );
        }
        let copy = state.copy();
        fs::remove_file(copy.journal_dir().join(name)).unwrap();
        assert!(copy.verify().problems.iter().any(|problem| problem.kind == ProblemKind::PrunedInvalid));
    }
}

#[test]
fn a_segment_that_was_tampered_with_is_not_pruned_away() {
    for (kind, change) in [("edited", 0), ("missing", 1), ("rewritten", 2)] {
        let state = State::with_segments_of(3_000);
        let journal = state.open();
        grow(&state, &journal, 1, 60);
        let segments = state.segments();
        match change {
            0 => edit(&segments[1], |bytes| bytes[400] ^= 1),
            1 => fs::remove_file(&segments[0]).unwrap(),
            _ => {
                let other = State::with_segments_of(3_000);
                fs::copy(&state.options.key, &other.options.key).unwrap();
                let forged = other.open();
                grow(&other, &forged, 1, 60);
                fs::copy(&other.segments()[0], &segments[0]).unwrap();
            }
        }
        let before = state.segments();
        let error = journal.prune(&down_to(0)).unwrap_err();
        assert!(matches!(error, RecordError::Damaged { .. }), "{kind}: {error}");
        assert_eq!(state.segments(), before, "{kind}");
        assert!(!state.verify().ok, "{kind}");
    }
}

#[test]
fn a_pruning_that_dies_between_any_two_steps_is_finished_or_as_if_it_had_not_begun() {
    let mut died = 0;
    for last in 0.. {
        let state = State::with_segments_of(3_000);
        let journal = state.open();
        let heads = grow(&state, &journal, 1, 60);
        let mut steps = 0;
        let outcome = journal.prune_by_steps(&down_to(9_000), &mut |_| {
            steps += 1;
            if steps > last { Err(RecordError::Closed) } else { Ok(()) }
        });
        // As a kill leaves it: nothing is closed.
        drop(journal);
        let report = state.verify();
        assert!(report.ok, "after step {last}: {report:#?}");
        let journal = state.open();
        let gone = pruned::load(state.journal_dir(), &state.key()).unwrap().map_or(0, |note| note.through);
        let first = crate::record::files::segments(state.journal_dir()).unwrap()[0].first_seq;
        assert_eq!(first, gone + 1, "after step {last}");
        assert_eq!(frozen(&state).is_empty(), gone == 0, "after step {last}");
        assert_proved(&state, &heads, gone);
        // Whatever was left, the next one does it all.
        let again = journal.prune(&down_to(6_000)).unwrap().unwrap();
        journal.close().unwrap();
        assert_proved(&state, &heads, again.through);
        match outcome {
            Ok(gone) => {
                assert!(gone.is_some());
                break;
            }
            Err(_) => died += 1,
        }
    }
    assert!(died > 10, "{died}");
}

#[test]
fn a_full_journal_prunes_where_it_may_and_stops_where_not() {
    let mut state = State::new();
    state.options = Options::new(state.dir.path(), 1 << 20);
    let journal = state.open();
    let fill = |journal: &Journal| {
        (1..5_000).take_while(|op| journal.append(&[statement(*op, "select 1")]).is_ok()).count()
    };
    assert!(fill(&journal) < 4_000);
    assert!(journal.append(&[statement(1, "")]).unwrap_err().to_string().contains("full"));
    journal.close().unwrap();
    drop(journal);
    state.options.retention.when_full = true;
    let journal = state.open();
    assert_eq!(fill(&journal), 4_999);
    assert!(journal.usage() < 1.0);
    journal.close().unwrap();
    let report = state.verify();
    assert!(report.ok && report.pruned_through > 3_000, "{report:#?}");
    let used = crate::record::files::used_bytes(state.journal_dir()).unwrap();
    assert!(used <= 1 << 20, "{used}");
    assert!(
        (journal.usage() * f64::from(1 << 20) - used as f64).abs() < 2_000.0,
        "{used} {}",
        journal.usage()
    );
}

#[test]
fn records_go_by_their_age() {
    let state = State::with_segments_of(3_000);
    let journal = state.open();
    grow(&state, &journal, 1, 30);
    let older = |age: u64| Wanted {
        older_than: Some(std::time::Duration::from_millis(age)),
        to_bytes: None,
        ..down_to(0)
    };
    assert_eq!(journal.prune(&older(60_000)).unwrap(), None);
    std::thread::sleep(std::time::Duration::from_millis(60));
    assert!(journal.prune(&older(50)).unwrap().is_some());
    // The one that was written stays, however old, and another one where the word about it found no room in that.
    assert!(state.segments().len() <= 2);
    journal.close().unwrap();
    assert!(state.verify().ok);
}

#[test]
fn who_looks_while_records_are_pruned_is_not_told_of_damage() {
    let state = State::with_segments_of(3_000);
    let journal = state.open();
    grow(&state, &journal, 1, 90);
    let rounds = 40;
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for round in 1..=rounds {
                grow(&state, &journal, round * 100, round * 100 + 20);
                journal.prune(&down_to(12_000)).unwrap();
            }
            done.store(true, std::sync::atomic::Ordering::Release);
        });
        let mut looks = 0;
        while !done.load(std::sync::atomic::Ordering::Acquire) || looks == 0 {
            let report = state.verify();
            assert!(report.ok, "look {looks}: {report:#?}");
            let found = sessions(state.journal_dir(), &Filter::default()).unwrap();
            assert!(found.damage.is_empty(), "look {looks}: {:?}", found.damage);
            looks += 1;
        }
    });
    journal.close().unwrap();
    assert!(state.verify().pruned_through > 1_000);
}
