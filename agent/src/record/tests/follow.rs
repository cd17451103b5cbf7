use super::*;
use crate::record::Follower;

fn journal() -> State {
    let state = State::with_segments_of(4_000);
    let journal = state.open();
    for op in 1..=40 {
        journal.append(&[statement(op, "select 1")]).unwrap();
    }
    journal.close().unwrap();
    drop(journal);
    assert!(state.segments().len() >= 4);
    state
}

/// What is told from record `seen` on, in batches of `most`: the texts, and where it stands then.
fn told(state: &State, seen: u64, most: usize, most_bytes: usize) -> (Vec<String>, u64) {
    let mut follower = Follower::after(state.journal_dir(), state.key(), seen);
    let signed = follower.signed().unwrap().unwrap().seq;
    let mut all = Vec::new();
    while follower.seen() < signed {
        let batch = follower.next(signed, most, most_bytes).unwrap();
        assert!(batch.len() <= most + 1);
        all.extend(batch.into_iter().map(|followed| followed.json));
    }
    (all, follower.seen())
}

#[test]
fn every_event_is_told_once_in_order_whatever_the_batches() {
    let state = journal();
    let whole: Vec<String> =
        state.events().iter().map(|event| serde_json::to_string(event).unwrap()).collect();
    let (all, end) = told(&state, 0, 500, 1 << 20);
    assert_eq!(all, whole);
    for (most, most_bytes) in [(1, 1 << 20), (7, 1 << 20), (500, 1), (500, 900)] {
        assert_eq!(told(&state, 0, most, most_bytes), (whole.clone(), end));
    }
    let (rest, _) = told(&state, end / 2, 3, 1 << 20);
    assert!(whole.ends_with(&rest) && rest.len() < whole.len());
}

#[test]
fn what_is_not_signed_is_not_told() {
    let state = State::new();
    let journal = state.open();
    journal.append(&[statement(1, "select 1")]).unwrap();
    let mut follower = Follower::after(state.journal_dir(), state.key(), 0);
    assert!(follower.signed().unwrap().is_none());
    journal.checkpoint().unwrap();
    let signed = follower.signed().unwrap().unwrap().seq;
    journal.append(&[statement(2, "select 2")]).unwrap();
    assert_eq!(follower.next(signed, 9, 1 << 20).unwrap().len(), 1);
    assert_eq!(follower.next(signed, 9, 1 << 20).unwrap(), []);
    journal.checkpoint().unwrap();
    let signed = follower.signed().unwrap().unwrap().seq;
    assert_eq!(follower.next(signed, 9, 1 << 20).unwrap().len(), 1);
}

#[test]
fn what_is_gone_is_told_as_a_gap() {
    let state = journal();
    let second = state.places().iter().find(|place| place.file == state.segments()[1]).unwrap().seq;
    fs::remove_file(&state.segments()[0]).unwrap();
    let (all, _) = told(&state, 0, 500, 1 << 20);
    let gap: serde_json::Value = serde_json::from_str(&all[0]).unwrap();
    assert_eq!(gap, serde_json::json!({ "event": "export_gap", "from_seq": 1, "to_seq": second - 1 }));
    let events = state.places().iter().filter(|place| place.kind == Kind::Event).count();
    assert_eq!(all.len(), 1 + events);
}

#[test]
fn what_was_signed_and_is_broken_is_an_error() {
    let state = journal();
    let place = state.places().into_iter().nth(5).unwrap();
    edit(&place.file, |bytes| bytes[place.at + 70] ^= 1);
    let mut follower = Follower::after(state.journal_dir(), state.key(), 0);
    let signed = follower.signed().unwrap().unwrap().seq;
    let told = follower.next(signed, 500, 1 << 20);
    assert!(matches!(told, Err(RecordError::Damaged { seq, .. }) if seq == place.seq), "{told:?}");
}

/// A packed record of a version to come: told as what it is, with nothing of its bytes.
#[test]
fn a_packed_record_that_cannot_be_read_is_told_as_such() {
    use crate::record::format::{CHECKPOINT_EVERY, payload_digest, seal};

    let state = State::new();
    let journal = state.open();
    journal.append(&[statement_in(super::packed::SESSION, 1, "select 1")]).unwrap();
    journal.flush().unwrap();
    let place = state.places().into_iter().find(|place| place.kind == Kind::Statement).unwrap();
    drop(journal);
    edit(&place.file, |bytes| {
        let frame = Frame::fields(&bytes[place.at..place.at + place.len]).unwrap();
        let (time_ns, previous) = (frame.time_ns, frame.previous);
        let whole = &mut bytes[place.at..place.at + place.len];
        whole[FRAME_LEN] = 9;
        let digest = payload_digest(&whole[FRAME_LEN..]);
        let _hash = seal(whole, Kind::Statement, place.seq, time_ns, &previous, &digest);
    });
    let mut follower = Follower::after(state.journal_dir(), state.key(), 0);
    let told = follower.next(place.seq, CHECKPOINT_EVERY as usize, 1 << 20).unwrap();
    let [followed] = told.as_slice() else { panic!("{told:?}") };
    assert_eq!((followed.seq, &followed.event), (place.seq, &None));
    let json: serde_json::Value = serde_json::from_str(&followed.json).unwrap();
    assert_eq!(json, serde_json::json!({ "event": "unreadable", "kind": 6, "seq": place.seq }));
}
