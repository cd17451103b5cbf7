//! Proofs come out of a journal of several segments, and a checkpoint that was kept finds a journal that was put back.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::*;
use crate::record::format::{Hash, unhex};
use crate::record::{Checkpoint, head, prove, tree};

fn hashes(proof: &[String]) -> Vec<Hash> {
    proof.iter().map(|hash| STANDARD.decode(hash).unwrap().try_into().unwrap()).collect()
}

fn grow(state: &State, from: u64, to: u64) {
    let journal = state.open();
    for op in from..=to {
        journal.append(&[statement(op, "select 1")]).unwrap();
    }
    journal.close().unwrap();
}

#[test]
fn every_signed_record_is_proved() {
    let state = State::with_segments_of(1_500);
    grow(&state, 1, 25);
    assert!(state.segments().len() > 3);
    let key = state.key();
    let signed = head::load(state.journal_dir(), &key).unwrap().unwrap().seq;
    for seq in 1..=signed {
        let given = prove::record(state.journal_dir(), &key, seq).unwrap();
        let checkpoint = Checkpoint::signed_by(&given.checkpoint, &key).unwrap();
        let entry = unhex(&given.record.hash).unwrap();
        let proof = hashes(&given.proof);
        assert!(tree::included(&entry, given.index, checkpoint.seq, &proof, &checkpoint.root), "{seq}");
    }
    let unsigned = prove::record(state.journal_dir(), &key, signed + 1).unwrap_err();
    assert!(unsigned.to_string().contains("not signed yet"), "{unsigned}");
}

/// By the crate ct-merkle, which nobody here had a hand in: it makes the same tree of the records, and takes every proof.
#[test]
fn proofs_are_right_by_another_implementation() {
    use ct_merkle::mem_backed_tree::MemoryBackedTree;
    use ct_merkle::{ConsistencyProof, InclusionProof, RootHash};
    use sha2_of_ct_merkle::Sha256;

    let state = State::with_segments_of(1_500);
    let mut heads = Vec::new();
    for step in 0..6 {
        grow(&state, step * 5 + 1, step * 5 + 5);
        heads.push(head::load(state.journal_dir(), &state.key()).unwrap().unwrap());
    }
    let (dir, key, newest) = (state.journal_dir(), state.key(), *heads.last().unwrap());
    let root = |checkpoint: &Checkpoint| RootHash::<Sha256>::new(checkpoint.root.into(), checkpoint.seq);
    let bytes = |proof: &[String]| hashes(proof).concat();
    let mut theirs = MemoryBackedTree::<Sha256, Hash>::new();
    let mut roots = Vec::new();
    for seq in 1..=newest.seq {
        let given = prove::record(dir, &key, seq).unwrap();
        let entry = unhex(&given.record.hash).unwrap();
        let proof = InclusionProof::<Sha256>::try_from_bytes(bytes(&given.proof)).unwrap();
        root(&newest).verify_inclusion(&entry, given.index, &proof).unwrap();
        let mut other = entry;
        other[0] ^= 1;
        assert!(root(&newest).verify_inclusion(&other, given.index, &proof).is_err());
        theirs.push(entry);
        roots.extend(heads.iter().any(|head| head.seq == seq).then(|| theirs.root()));
    }
    assert!(roots.iter().eq(heads.iter().map(root).collect::<Vec<_>>().iter()));
    for since in &heads[..heads.len() - 1] {
        let grown = prove::growth(dir, &key, since).unwrap();
        let proof = ConsistencyProof::<Sha256>::try_from_bytes(bytes(&grown.proof)).unwrap();
        root(&newest).verify_consistency(&root(since), &proof).unwrap();
        let wrong = RootHash::<Sha256>::new([7; 32].into(), since.seq);
        assert!(root(&newest).verify_consistency(&wrong, &proof).is_err());
    }
}

#[test]
fn a_kept_checkpoint_is_gone_on_from_and_finds_what_was_put_back() {
    let state = State::with_segments_of(3_000);
    grow(&state, 1, 10);
    let (older, key) = (state.copy(), state.key());
    let first = head::load(state.journal_dir(), &key).unwrap().unwrap();
    grow(&state, 11, 30);
    let kept = head::load(state.journal_dir(), &key).unwrap().unwrap();
    for since in [first, kept] {
        let report = verify(state.journal_dir(), &key, Some(since)).unwrap();
        assert!(report.ok && report.since.is_some(), "{report:#?}");
    }
    let grown = prove::growth(state.journal_dir(), &key, &first).unwrap();
    let proof = hashes(&grown.proof);
    assert!(tree::consistent(first.seq, &first.root, kept.seq, &kept.root, &proof));

    // The older copy is a journal in itself, and goes on with other records under the same key.
    assert!(older.verify().ok);
    for step in [0, 30] {
        if step > 0 {
            grow(&older, 11, 10 + step);
        }
        let report = verify(older.journal_dir(), &key, Some(kept)).unwrap();
        assert_found(&report, kept.seq, &[ProblemKind::RolledBack]);
        assert_eq!(report.problems.len(), 1);
    }
    let other = State::with_segments_of(3_000);
    fs::copy(&state.options.key, &other.options.key).unwrap();
    grow(&other, 1, 40);
    assert_found(
        &verify(other.journal_dir(), &key, Some(kept)).unwrap(),
        kept.seq,
        &[ProblemKind::RolledBack],
    );
}

#[test]
fn the_tree_goes_on_behind_a_record_that_was_changed() {
    let state = State::with_segments_of(3_000);
    grow(&state, 1, 30);
    let untouched = state.verify().root.unwrap();
    let places = state.places();
    for place in &places[..places.len() - 1] {
        let copy = state.copy();
        let file = copy.journal_dir().join(place.file.file_name().unwrap());
        edit(&file, |bytes| bytes[place.at + FRAME_LEN + 5] ^= 1);
        let report = copy.verify();
        assert_found(&report, place.seq, &[ProblemKind::Edited]);
        assert_eq!((report.problems.len(), report.root.as_ref()), (1, Some(&untouched)), "{report:#?}");
    }
}

#[test]
fn silence_of_an_agent_that_ran_shows() {
    let state = State::new();
    grow(&state, 1, 3);
    assert!(state.verify().quiet.is_empty());
    let copy = state.copy();
    edit(&copy.segments()[0], |bytes| {
        // The last but one record is moved two minutes away; only its checksum is made to hold.
        let place = &state.places()[2];
        let frame = &mut bytes[place.at..place.at + place.len];
        let (seq, time, previous, digest) = {
            let frame = Frame::fields(frame).unwrap();
            (frame.seq, frame.time_ns, frame.previous, crate::record::format::payload_digest(frame.payload))
        };
        let _hash =
            crate::record::format::seal(frame, Kind::Event, seq, time + 120_000_000_000, &previous, &digest);
    });
    let report = copy.verify();
    assert_eq!(report.quiet.iter().map(|quiet| quiet.after).collect::<Vec<_>>(), [2]);
}
