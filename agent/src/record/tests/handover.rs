//! One journal, two agents: what the replaced one records is in the chain of the one that took over.

use std::os::unix::net::UnixStream;
use std::sync::Arc;

use super::*;
use crate::record::serve_predecessor;

/// Hands `old` over to a journal opened in its place, served by a thread.
pub(super) fn taken_over(
    state: &State,
    old: &Journal,
) -> (Arc<Journal>, std::thread::JoinHandle<std::io::Result<()>>) {
    let mut new = None;
    let done = old.hand_over(|| {
        let (ours, theirs) = UnixStream::pair()?;
        let journal = Arc::new(state.open());
        new = Some((Arc::clone(&journal), std::thread::spawn(move || serve_predecessor(&journal, theirs))));
        std::io::Result::Ok(ours)
    });
    done.unwrap().unwrap();
    new.unwrap()
}

#[test]
fn both_agents_records_are_in_one_chain() {
    let state = State::new();
    let old = state.open();
    old.append(&[control("before")]).unwrap();
    let (new, thread) = taken_over(&state, &old);
    let first = new.append(&[control("new")]).unwrap();
    let second = old.append(&[control("old"), control("old again")]).unwrap();
    assert_eq!((second.first_seq, second.last_seq), (first.last_seq + 1, first.last_seq + 2));
    old.sync(second.last_seq).unwrap();
    assert!(old.checkpoint().unwrap().is_none(), "only the writer signs");
    assert!((old.usage() - new.usage()).abs() < 1e-9);
    drop(old);
    thread.join().unwrap().unwrap();
    new.close().unwrap();
    assert!(state.verify().problems.is_empty());
    let actions: Vec<String> = actions(&state);
    assert_eq!(actions, ["before", "new", "old", "old again"]);
}

#[test]
fn a_successor_that_is_gone_records_nothing() {
    let state = State::new();
    let old = state.open();
    old.hand_over(|| UnixStream::pair().map(|(ours, _dropped)| ours)).unwrap().unwrap();
    assert!(old.append(&[control("lost")]).is_err());
    assert!(old.append(&[control("lost")]).is_err());
    assert!(actions(&state).is_empty());
}

#[test]
fn a_journal_nobody_took_is_written_here_again() {
    let state = State::new();
    let old = state.open();
    old.append(&[control("before")]).unwrap();
    let failed = old.hand_over(|| Err::<UnixStream, _>("the successor died")).unwrap();
    assert_eq!(failed.unwrap_err(), "the successor died");
    old.append(&[control("after")]).unwrap();
    assert!(matches!(Journal::open(&state.options), Err(RecordError::InUse { .. })));
    old.close().unwrap();
    assert!(state.verify().problems.is_empty());
    assert_eq!(actions(&state), ["before", "after"]);
}

#[test]
fn what_is_no_event_is_refused_and_the_connection_goes_on() {
    use std::io::{Read, Write};
    let state = State::new();
    let journal = Arc::new(state.open());
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    let served = Arc::clone(&journal);
    let thread = std::thread::spawn(move || serve_predecessor(&served, theirs));
    for payload in [b"[]".as_slice(), b"{\"no\":1}", b"\xff"] {
        let mut request = vec![1, 1, 0, 0, 0];
        request.extend(u32::try_from(payload.len()).unwrap().to_le_bytes());
        request.extend(payload);
        ours.write_all(&request).unwrap();
        let mut head = [0; 5];
        ours.read_exact(&mut head).unwrap();
        assert_eq!(head[0], 1);
        let length = u32::from_le_bytes(head[1..].try_into().unwrap());
        let mut why = vec![0; length as usize];
        ours.read_exact(&mut why).unwrap();
    }
    // A newer agent's event, unknown here, is kept as it is.
    let unknown = br#"{"event":"of_tomorrow","field":7}"#;
    let mut request = vec![1, 1, 0, 0, 0];
    request.extend(u32::try_from(unknown.len()).unwrap().to_le_bytes());
    request.extend(unknown);
    ours.write_all(&request).unwrap();
    let mut answer = [0; 25];
    ours.read_exact(&mut answer).unwrap();
    assert_eq!(answer[0], 0);
    drop(ours);
    thread.join().unwrap().unwrap();
    journal.close().unwrap();
    let bytes = fs::read(&state.segments()[0]).unwrap();
    assert!(bytes.windows(unknown.len()).any(|window| window == unknown));
}

fn control(action: &str) -> Event {
    Event::Control { by: "test".to_owned(), action: action.to_owned() }
}

fn actions(state: &State) -> Vec<String> {
    let action = |event| match event {
        Event::Control { action, .. } => Some(action),
        _ => None,
    };
    state.events().into_iter().filter_map(action).collect()
}
