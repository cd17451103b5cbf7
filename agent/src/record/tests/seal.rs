//! Raw values in the journal: in the chain, found by their session, and open to auditors alone.

use std::os::unix::net::UnixStream;
use std::sync::Arc;

use age::secrecy::ExposeSecret as _;
use age::x25519::Identity;

use super::*;
use crate::record::query;
use crate::record::seal::{Auditors, Keys, OpenError};
use crate::record::{Burst, serve_predecessor};

const SESSION: &str = "0198c0de-0000-7000-8000-000000000001";
const SECRET: &[u8] = b"ada@example.com";

fn sealing() -> (State, Keys) {
    let key = Identity::generate();
    let mut state = State::with_segments_of(20_000);
    state.options.auditors = Auditors::new(&[key.to_public()]);
    (state, Keys::parse(key.to_string().expose_secret()).unwrap())
}

fn burst(offset: u64, bytes: &[u8]) -> Burst<'_> {
    Burst { session: SESSION, offset, bytes }
}

/// What is sealed, opened, and whether it is all there.
fn opened(state: &State, keys: &Keys) -> (Vec<u8>, bool) {
    let (mut all, mut whole) = (Vec::new(), true);
    let damage = query::sealed(state.journal_dir(), SESSION, |_, sealed| {
        whole &= sealed.offset == all.len() as u64;
        all.extend(keys.open(sealed).unwrap());
    });
    (all, whole && damage.unwrap().is_empty())
}

#[test]
fn what_is_sealed_is_in_the_chain_and_in_no_clear_byte() {
    let (state, keys) = sealing();
    let journal = state.open();
    let mut expected = Vec::new();
    for turn in 0..200 {
        journal.append(&[statement(turn, "select email from customers")]).unwrap();
        let raw = [SECRET, turn.to_string().as_bytes(), b"\n"].concat();
        journal.append_served(burst(turn * 3, b"***"), burst(expected.len() as u64, &raw), &[]).unwrap();
        expected.extend(raw);
    }
    journal.close().unwrap();
    let report = state.verify();
    assert!(report.ok && report.sealed == 200 && report.served == 200, "{report:#?}");
    assert!(state.segments().len() > 2);
    for indexed in [false, true] {
        assert_eq!(opened(&state, &keys), (expected.clone(), true), "indexed: {indexed}");
    }
    for entry in fs::read_dir(state.journal_dir()).unwrap() {
        let bytes = fs::read(entry.unwrap().path()).unwrap();
        assert!(!bytes.windows(SECRET.len()).any(|window| window == SECRET));
    }
    let stranger = Keys::parse(Identity::generate().to_string().expose_secret()).unwrap();
    query::sealed(state.journal_dir(), SESSION, |_, sealed| {
        assert!(matches!(stranger.open(sealed), Err(OpenError::NotForUs)));
    })
    .unwrap();
    let transcript = query::replay(state.journal_dir(), SESSION, 1).unwrap();
    assert_eq!((transcript.sealed_bytes, transcript.served_bytes), (expected.len() as u64, 600));
}

#[test]
fn a_change_of_what_is_sealed_is_found_at_its_record() {
    let (state, _) = sealing();
    let journal = state.open();
    for turn in 0..20 {
        journal.append_served(burst(turn * 3, b"***"), burst(turn * 15, SECRET), &[]).unwrap();
    }
    journal.close().unwrap();
    let sealed = state.places().into_iter().find(|place| place.kind == Kind::Sealed).unwrap();
    edit(&sealed.file, |bytes| bytes[sealed.at + sealed.len - 1] ^= 1);
    assert_found(&state.verify(), sealed.seq, &[ProblemKind::Edited]);
}

#[test]
fn with_nobody_to_read_it_nothing_of_the_burst_is_recorded() {
    let state = State::new();
    let journal = state.open();
    let before = journal.append(&[]).unwrap();
    let refused = journal.append_served(burst(0, b"***"), burst(0, SECRET), &[statement(1, "select 1")]);
    assert!(matches!(refused, Err(RecordError::Seal(_))), "{refused:?}");
    assert_eq!(journal.append(&[]).unwrap(), before);
}

#[test]
fn what_a_replaced_agent_seals_is_written_by_its_successor() {
    let (state, keys) = sealing();
    let old = state.open();
    let mut thread = None;
    let done = old.hand_over(|| {
        let (ours, theirs) = UnixStream::pair()?;
        let journal = Arc::new(state.open());
        thread = Some(std::thread::spawn(move || {
            let served = serve_predecessor(&journal, theirs);
            journal.close().unwrap();
            served
        }));
        std::io::Result::Ok(ours)
    });
    done.unwrap().unwrap();
    old.append(&[statement(1, "select email from customers")]).unwrap();
    old.append_served(burst(0, b"***"), burst(0, SECRET), &[]).unwrap();
    drop(old);
    thread.unwrap().join().unwrap().unwrap();
    assert!(state.verify().ok);
    assert_eq!(opened(&state, &keys), (SECRET.to_vec(), true));
}
