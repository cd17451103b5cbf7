//! A journal of the form before, as an agent of that time left it (`older/`): read, gone on behind, gone back to, pruned.

use std::io::Read as _;

use regex::Regex;

use super::packed::{SESSION, result};
use super::*;
use crate::record::format::{Header, OLDEST, VERSION};
use crate::record::query::{self, Filter};
use crate::record::{Burst, Follower, Wanted, head, prove};

const READER: &str = "01a21ead719575eeb248e591ef300e02";
const KEEPER: &str = "01a21ead722c745a9b7baddd3780e992";

/// The files of the fixture, in a state directory.
fn older(segment_bytes: u64) -> State {
    let state = State::with_segments_of(segment_bytes);
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/record/tests/older");
    fs::create_dir(state.journal_dir()).unwrap();
    for file in ["journal-key", "journal-key.pub", "journal/head", "journal/journal-00000000000000000001.chj"]
    {
        fs::copy(from.join(file), state.dir.path().join(file)).unwrap();
    }
    let key = state.dir.path().join("journal-key");
    fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    state
}

fn forms(state: &State) -> Vec<u32> {
    let form = |path: PathBuf| {
        let mut bytes = [0; HEADER_LEN];
        fs::File::open(path).unwrap().read_exact(&mut bytes).unwrap();
        Header::decode(&bytes).unwrap().version
    };
    state.segments().into_iter().map(form).collect()
}

/// What a session leaves: a statement, what it was served, its result.
fn work(journal: &Journal, op: u64) {
    journal.append(&[statement_in(SESSION, op, "drop table later")]).unwrap();
    let burst = Burst { session: SESSION, offset: (op - 1) * 4, bytes: b"rows" };
    journal.append_served(burst, Burst::NOTHING, &[result(op, Some(op * 4))]).unwrap();
}

/// All that the fixture answers, whatever came behind it.
fn assert_answers(state: &State) {
    let dir = state.journal_dir();
    let report = state.verify();
    assert!(report.ok, "{report:#?}");
    let listing = query::sessions(dir, &Filter::default()).unwrap();
    assert!(listing.damage.is_empty(), "{:?}", listing.damage);
    let counts = |id: &str| {
        let found = listing.sessions.iter().find(|session| session.id == id).unwrap();
        (found.statements, found.denied, found.held, found.rows)
    };
    assert_eq!((counts(READER), counts(KEEPER)), ((6, 2, 0, 6), (2, 0, 1, 0)));
    let mut hits = Vec::new();
    query::grep(dir, &Regex::new("drop +table orders").unwrap(), |hit| hits.push(hit)).unwrap();
    assert_eq!(hits.len(), 1);
    assert_eq!((hits[0].id.as_str(), hits[0].verdict), ("01a21ead719575eeb248e591ef300e02/3", Verdict::Deny));
    assert_eq!(hits[0].identity.as_deref(), Some("billing-bot"));
    let receipt = serde_json::to_string(&query::receipt(dir, &hits[0].id).unwrap()).unwrap();
    assert!(receipt.contains("no-ddl"), "{receipt}");
    let transcript = serde_json::to_string(&query::replay(dir, READER, 10).unwrap()).unwrap();
    assert!(transcript.contains("grün") && transcript.contains("***"), "{transcript}");
    let held = serde_json::to_string(&query::replay(dir, KEEPER, 10).unwrap()).unwrap();
    assert!(held.contains("approved") && held.contains("DELETE 1"), "{held}");
    assert_eq!(prove::record(dir, &state.key(), hits[0].seq).unwrap().record.seq, hits[0].seq);
    let signed = head::load(dir, &state.key()).unwrap().unwrap().seq;
    let told = Follower::after(dir, state.key(), 0).next(signed, 1 << 20, 1 << 30).unwrap();
    assert!(told.iter().all(|followed| followed.event.is_some()));
    assert_eq!(told.iter().filter(|followed| followed.json.contains(READER)).count(), 12);
}

#[test]
fn what_an_older_version_wrote_is_read_as_it_was() {
    let state = older(1 << 20);
    assert_answers(&state);
    for at in (HEADER_LEN..20_000).step_by(997) {
        let state = state.copy();
        edit(&state.segments()[0], |bytes| bytes[at] ^= 1);
        assert!(!state.verify().ok, "byte {at}");
    }
}

/// The older agent finds its journal as it knows it, until the one that took over serves.
#[test]
fn until_the_agent_serves_the_journal_stays_in_the_form_it_has() {
    for segment_bytes in [1 << 20, 4_000] {
        let state = older(segment_bytes);
        let before = fs::read(&state.segments()[0]).unwrap();
        for _ in 0..2 {
            let journal = state.open();
            (1..=20).for_each(|op| work(&journal, op));
            journal.close().unwrap();
        }
        assert!(fs::read(&state.segments()[0]).unwrap().starts_with(&before));
        assert_eq!(state.segments().len() > 1, segment_bytes == 4_000);
        assert!(forms(&state).iter().all(|form| *form == OLDEST), "{:?}", forms(&state));
        let known = |place: &Place| !matches!(place.kind, Kind::Statement | Kind::Result);
        assert!(state.places().iter().all(known), "a kind of record that the older version does not know");
        assert_answers(&state);
    }
}

#[test]
fn an_agent_that_serves_goes_on_in_a_segment_of_its_own() {
    let state = older(1 << 20);
    let journal = state.open();
    work(&journal, 1);
    journal.settle().unwrap();
    journal.settle().unwrap();
    work(&journal, 2);
    drop(journal);
    // As after kill -9, and again.
    let journal = state.open();
    work(&journal, 3);
    journal.settle().unwrap();
    work(&journal, 4);
    journal.close().unwrap();
    assert_eq!(forms(&state), [OLDEST, VERSION]);
    assert_answers(&state);
    let packed: Vec<bool> =
        state.places().iter().map(|place| matches!(place.kind, Kind::Statement | Kind::Result)).collect();
    assert_eq!(packed.iter().filter(|packed| **packed).count(), 6);
    let own = query::recorded(state.journal_dir(), SESSION).unwrap();
    assert_eq!(own.len(), 8);
    let mut served = Vec::new();
    query::served(state.journal_dir(), SESSION, |bytes| served.extend_from_slice(bytes)).unwrap();
    assert_eq!(served, b"rowsrowsrowsrows");
    let mut hits = Vec::new();
    query::grep(state.journal_dir(), &Regex::new("later").unwrap(), |hit| hits.push(hit)).unwrap();
    assert_eq!(hits.len(), 4);
}

#[test]
fn what_is_older_goes_when_it_is_pruned_and_heads_of_that_time_are_gone_on_from() {
    let state = older(1 << 20);
    let kept = head::load(state.journal_dir(), &state.key()).unwrap().unwrap();
    let journal = state.open();
    journal.settle().unwrap();
    work(&journal, 1);
    let wanted = Wanted { older_than: None, to_bytes: Some(1), at_most: 32, why: "a test".into(), by: None };
    let gone = journal.prune(&wanted).unwrap().unwrap();
    work(&journal, 2);
    journal.close().unwrap();
    assert_eq!(forms(&state), [VERSION]);
    assert!(gone.through >= kept.seq);
    let report = verify(state.journal_dir(), &state.key(), Some(kept)).unwrap();
    assert!(report.ok && report.since.is_some() && report.pruned_through == gone.through, "{report:#?}");
}

/// As it will be for this version when the next one wrote.
#[test]
fn what_a_newer_version_wrote_is_refused_with_what_to_do() {
    let state = older(1 << 20);
    edit(&state.segments()[0], |bytes| {
        let header = Header { version: VERSION + 1, ..Header::decode(bytes).unwrap() };
        bytes[..HEADER_LEN].copy_from_slice(&header.encode());
    });
    let refusal = state.refusal();
    assert!(refusal.contains("a newer version of Chaperone wrote it"), "{refusal}");
    assert!(refusal.contains("move the whole journal away"), "{refusal}");
}
