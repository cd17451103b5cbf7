//! Questions have the same answers with indexes, without them, and with bad ones.

use regex::Regex;

use super::*;
use crate::record::event::Identity;
use crate::record::query::{self, Filter, Hit, Listing, Transcript};
use crate::record::{Burst, Stamp};

/// Sessions that overlap over several segments, agents that die between them, rows that are served.
fn busy() -> State {
    let state = State::with_segments_of(6_000);
    for agent in 0..3_u32 {
        let journal = state.open();
        let start = Event::AgentStart {
            version: "1".into(),
            host: "h".into(),
            pid: agent,
            config_sha256: "c".into(),
            policy_sha256: format!("{agent}{}", "f".repeat(63)),
            predecessor: (agent == 1).then_some(0),
        };
        journal.append(&[start]).unwrap();
        let id = |number: u32| format!("{agent}{number}-session");
        for number in 0..8 {
            journal.append(&[begun(&id(number), number)]).unwrap();
        }
        let mut offsets = [0; 8];
        for op in 1..=12 {
            for (number, offset) in (0..).zip(&mut offsets) {
                let mut events =
                    vec![statement_in(&id(number), op, &format!("select {op} -- of \u{e9} {number}"))];
                if let Event::Statement { policy, verdict, .. } = &mut events[0] {
                    *policy = format!("{agent}{}", "f".repeat(15)).into();
                    if op == 5 && number == 2 {
                        *verdict = Verdict::Deny;
                    }
                }
                journal.append(&events).unwrap();
                let session = id(number);
                let bytes = b"C\0\0\0\rSELECT 1\0".repeat(30);
                let burst = Burst { session: &session, offset: *offset, bytes: &bytes };
                *offset += bytes.len() as u64;
                let result = Event::Result {
                    session: session.as_str().into(),
                    op,
                    rows: op,
                    bytes: 10,
                    masked_cells: 0,
                    tag: "SELECT 1".into(),
                    sqlstate: None,
                    served_to: Some(*offset),
                };
                journal.append_served(burst, Burst::NOTHING, &[result]).unwrap();
            }
        }
        for number in 0..4 {
            let ended = Event::SessionEnd {
                session: id(number),
                reason: "the client went".into(),
                statements: 12,
                rows: 78,
                client_bytes: 1,
                upstream_bytes: 1,
            };
            journal.append(&[ended]).unwrap();
        }
        if agent == 2 {
            journal.close().unwrap();
        }
    }
    assert!(state.segments().len() > 10, "{}", state.segments().len());
    state
}

fn begun(session: &str, number: u32) -> Event {
    Event::SessionStart {
        session: session.into(),
        protocol: "postgres".into(),
        target: "shop".into(),
        original_destination: "10.0.0.5:5432".into(),
        client: "127.0.0.1:1".into(),
        workload: Box::default(),
        identity: Identity { name: format!("bot-{}", number % 3), groups: vec!["bots".into()] },
        claimed_user: "x".into(),
        database: "shop".into(),
        application: None,
        settings: Vec::new(),
        upstream_user: "app".into(),
    }
}

#[derive(Debug, PartialEq)]
struct Answers {
    listings: Vec<Listing>,
    hits: Vec<Hit>,
    transcripts: Vec<Transcript>,
    served: Vec<u8>,
    receipts: Vec<query::Receipt>,
}

fn ask(state: &State) -> Answers {
    let dir = state.journal_dir();
    let filters = [
        Filter::default(),
        Filter { denied: true, ..Filter::default() },
        Filter { identity: Some("bot-1".into()), ..Filter::default() },
        Filter { text: Some("SELECT 7 -- OF \u{c9} 3".into()), ..Filter::default() },
        Filter { since: Some(Stamp(u64::MAX)), ..Filter::default() },
    ];
    let mut hits = Vec::new();
    let damage =
        query::grep(dir, &Regex::new("select 1[12]? .*[36]$").unwrap(), |hit| hits.push(hit)).unwrap();
    assert_eq!(damage, Vec::<String>::new());
    let mut served = Vec::new();
    query::served(dir, "14", |bytes| served.extend_from_slice(bytes)).unwrap();
    Answers {
        listings: filters.iter().map(|filter| query::sessions(dir, filter).unwrap()).collect(),
        hits,
        transcripts: ["00", "14-session", "27"].map(|id| query::replay(dir, id, 5).unwrap()).into(),
        served,
        receipts: ["02/5", "16-session/12"].map(|id| query::receipt(dir, id).unwrap()).into(),
    }
}

fn indexes(state: &State) -> Vec<PathBuf> {
    let found = fs::read_dir(state.journal_dir()).unwrap().map(|entry| entry.unwrap().path());
    found.filter(|path| path.extension().is_some_and(|extension| extension == "chx")).collect()
}

/// Without any index, and none can be made.
fn ask_without(state: &State) -> Answers {
    let whole = state.copy();
    for segment in whole.segments() {
        // A directory in its place: neither read nor replaced.
        let in_the_way = segment.with_extension("chx");
        let _absent = fs::remove_file(&in_the_way);
        fs::create_dir_all(in_the_way.join("x")).unwrap();
    }
    ask(&whole)
}

#[test]
fn answers_are_the_same_with_fresh_kept_bad_and_stale_indexes() {
    let state = busy();
    let all = ask_without(&state);
    let counts = all.listings.iter().map(|listing| listing.sessions.len()).collect::<Vec<_>>();
    assert_eq!(counts, [24, 3, 9, 3, 4]);
    assert_eq!((all.hits.len(), all.served.len()), (18, 14 * 30 * 12));
    assert_eq!(all.receipts[0].policy_sha256.len(), 64);
    assert_eq!(ask(&state), all);
    let made = indexes(&state);
    assert_eq!(made.len(), state.segments().len() - 1);
    assert_eq!(ask(&state), all);
    // Bad at any byte: it is made anew.
    for (at, index) in made.iter().enumerate() {
        edit(index, |bytes| {
            let at = at * bytes.len() / made.len();
            bytes[at] ^= 0x40;
        });
    }
    assert_eq!(ask(&state), all);
    // The segments are others now: what the indexes say is not.
    let other = busy();
    for (from, to) in state.segments().iter().zip(other.segments()).skip(1).step_by(2) {
        // The newest one has none.
        let _copied = fs::copy(from.with_extension("chx"), to.with_extension("chx"));
    }
    assert_eq!(ask(&other).hits.len(), all.hits.len());
    assert!(state.verify().ok);
}

#[test]
fn an_index_hides_no_damage_and_goes_with_its_segment() {
    let state = busy();
    let journal = state.open();
    while indexes(&state).len() + 1 < state.segments().len() {
        journal.index_next().unwrap();
    }
    let segment = &state.segments()[3];
    let _ = ask(&state);
    edit(segment, |bytes| {
        let at = bytes.len() / 2;
        bytes[at] ^= 1;
    });
    let listing = query::sessions(state.journal_dir(), &Filter::default()).unwrap();
    assert_eq!(listing.damage.len(), 1, "{:?}", listing.damage);
    edit(segment, |bytes| {
        let at = bytes.len() / 2;
        bytes[at] ^= 1;
    });
    let wanted = crate::record::Wanted {
        older_than: None,
        to_bytes: Some(0),
        at_most: 4,
        why: "a test".into(),
        by: None,
    };
    journal.prune(&wanted).unwrap().unwrap();
    let left = state.segments();
    assert!(indexes(&state).iter().all(|index| left.contains(&index.with_extension("chj"))));
    let listing = query::sessions(state.journal_dir(), &Filter::default()).unwrap();
    assert_eq!(listing.damage, Vec::<String>::new());
}
