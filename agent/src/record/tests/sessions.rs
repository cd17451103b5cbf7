//! The questions of the command line.

use super::*;
use crate::record::Stamp;
use crate::record::event::{Bind, HoldOutcome, Identity, Workload};
use crate::record::query::{Filter, SessionState, replay, sessions};

pub(super) const ONE: &str = "0198c0de-0000-7000-8000-000000000001";
pub(super) const TWO: &str = "0198c0de-0000-7000-8000-000000000002";
pub(super) const THREE: &str = "0298c0de-0000-7000-8000-000000000003";

pub(super) fn start(session: &str, identity: &str, target: &str) -> Event {
    Event::SessionStart {
        session: session.into(),
        protocol: "postgres".into(),
        target: target.into(),
        original_destination: "127.0.0.1:5432".into(),
        client: "127.0.0.1:40001".into(),
        workload: Box::new(Workload {
            pid: 4711,
            start_boottime_ns: 1,
            uid: 1000,
            comm: "python3".into(),
            exe: Some("/usr/bin/python3".into()),
            cgroup_id: 77,
            cgroup: Some("/agents.slice/billing-bot.service".into()),
            netns_cookie: 1,
            netns_inode: Some(4_026_531_840),
            ..Workload::default()
        }),
        identity: Identity { name: identity.into(), groups: vec!["ai-agents".into()] },
        claimed_user: "postgres".into(),
        database: "shop".into(),
        application: Some("psql".into()),
        settings: Vec::new(),
        upstream_user: "shop_app".into(),
    }
}

pub(super) fn end(session: &str) -> Event {
    Event::SessionEnd {
        session: session.into(),
        reason: "the client closed".into(),
        statements: 3,
        rows: 3,
        client_bytes: 100,
        upstream_bytes: 200,
    }
}

fn agent_start() -> Event {
    Event::AgentStart {
        version: "0.1.0".into(),
        host: "db1".into(),
        pid: 1,
        config_sha256: String::new(),
        policy_sha256: String::new(),
        predecessor: None,
    }
}

fn judged(session: &str, op: u64, sql: &str, to: Verdict) -> Event {
    let Event::Statement { session, op, sql, sql_sha256, policies, .. } = statement_in(session, op, sql)
    else {
        unreachable!()
    };
    let hold = (to == Verdict::Hold).then(|| "hold-1".to_owned());
    let reason = (to == Verdict::Deny).then(|| "no writes".to_owned());
    let (binds, masked) =
        (vec![Bind::Text("4711".into()), Bind::Null], vec!["public.customers.email".into()]);
    let (step, prepared) = (Step::Query, None);
    Event::Statement {
        session,
        op,
        step,
        prepared,
        sql,
        sql_sha256,
        binds: binds.into(),
        verdict: to,
        policies,
        policy: "".into(),
        reason,
        masked,
        hold,
    }
}

fn result(session: &str, op: u64, rows: u64, sqlstate: Option<&str>) -> Event {
    Event::Result {
        session: session.into(),
        op,
        rows,
        bytes: 10 * rows,
        masked_cells: rows,
        tag: format!("SELECT {rows}"),
        sqlstate: sqlstate.map(Into::into),
        served_to: None,
    }
}

/// One that ended, one that the agent's death ended, one refused, one open.
pub(super) fn day() -> State {
    let state = State::new();
    let journal = state.open();
    let events = [
        agent_start(),
        start(ONE, "billing-bot", "shop"),
        start(TWO, "billing-bot", "stock"),
        judged(ONE, 1, "SELECT email\nFROM customers", Verdict::Permit),
        judged(ONE, 2, "DELETE FROM customers", Verdict::Deny),
        judged(ONE, 3, "SELECT 3", Verdict::Hold),
        result(ONE, 1, 3, None),
        judged(TWO, 1, "SELECT 1", Verdict::Permit),
        Event::HoldResolved {
            session: ONE.into(),
            op: 3,
            hold: "hold-1".into(),
            outcome: HoldOutcome::Approved,
            by: Some("root".into()),
            comment: Some("fine".into()),
            settings: [("DateStyle".into(), "ISO, DMY".into())].into(),
        },
        result(ONE, 3, 0, Some("57014")),
        end(ONE),
        Event::SessionRefused {
            session: THREE.into(),
            target: Some("shop".into()),
            original_destination: None,
            client: "127.0.0.1:40002".into(),
            workload: None,
            identity: None,
            policies: vec!["only-agents".into()],
            reason: "no identity".into(),
        },
        agent_start(),
        start("0398", "cleaner", "shop"),
    ];
    for event in &events {
        journal.append(std::slice::from_ref(event)).unwrap();
    }
    journal.close().unwrap();
    state
}

#[test]
fn sessions_are_listed_with_what_became_of_them() {
    let state = day();
    let listing = sessions(state.journal_dir(), &Filter::default()).unwrap();
    assert!(listing.damage.is_empty());
    let rows = listing.sessions.iter().map(|s| {
        (
            s.id.as_str(),
            s.state,
            s.identity.as_deref(),
            s.target.as_deref(),
            s.statements,
            s.denied,
            s.held,
            s.rows,
        )
    });
    assert_eq!(
        rows.collect::<Vec<_>>(),
        [
            (ONE, SessionState::Ended, Some("billing-bot"), Some("shop"), 3, 1, 1, 3),
            (TWO, SessionState::Lost, Some("billing-bot"), Some("stock"), 1, 0, 0, 0),
            (THREE, SessionState::Refused, None, Some("shop"), 0, 0, 0, 0),
            ("0398", SessionState::Open, Some("cleaner"), Some("shop"), 0, 0, 0, 0),
        ]
    );
    let reasons = listing.sessions.iter().map(|session| session.end_reason.as_deref());
    let expected =
        [Some("the client closed"), Some("no end was recorded: the agent died"), Some("no identity"), None];
    assert_eq!(reasons.collect::<Vec<_>>(), expected);
    assert_eq!(listing.sessions[0].groups, ["ai-agents"]);
    assert!(listing.sessions[0].end >= Some(listing.sessions[0].start) && listing.sessions[3].end.is_none());
}

#[test]
fn filters_leave_the_sessions_that_meet_all_of_them() {
    let state = day();
    let some = |text: &str| Some(text.to_owned());
    let none = Filter::default;
    let later = Some(Stamp(u64::MAX));
    let cases: [(Filter, &[&str]); 11] = [
        (Filter { identity: some("billing-bot"), ..none() }, &[ONE, TWO]),
        (Filter { identity: some("billing"), ..none() }, &[]),
        (Filter { target: some("shop"), ..none() }, &[ONE, THREE, "0398"]),
        (Filter { target: some("shop"), identity: some("billing-bot"), ..none() }, &[ONE]),
        (Filter { denied: true, ..none() }, &[ONE, THREE]),
        (Filter { held: true, ..none() }, &[ONE]),
        (Filter { text: some("from CUSTOMERS"), ..none() }, &[ONE]),
        (Filter { text: some("nothing like it"), ..none() }, &[]),
        (Filter { since: later, ..none() }, &["0398"]),
        (Filter { until: Some(Stamp(1)), ..none() }, &[]),
        (Filter { until: later, ..none() }, &[ONE, TWO, THREE, "0398"]),
    ];
    for (filter, expected) in cases {
        let listing = sessions(state.journal_dir(), &filter).unwrap();
        let ids = listing.sessions.iter().map(|session| session.id.as_str()).collect::<Vec<_>>();
        assert_eq!(ids, expected, "{filter:?}");
    }
}

#[test]
fn a_replay_tells_what_became_of_every_statement() {
    let state = day();
    let transcript = replay(state.journal_dir(), ONE, 100).unwrap();
    assert_eq!(transcript.start.as_ref().unwrap().workload.pid, 4711);
    let [one, two, three] = &transcript.operations[..] else { panic!("{transcript:#?}") };
    assert_eq!((one.op, one.verdict, one.outcome.as_ref().unwrap().rows), (1, Verdict::Permit, 3));
    assert_eq!((one.sql.as_str(), one.sql_cut), ("SELECT email\nFROM customers", false));
    assert_eq!((one.binds.len(), &one.masked[..]), (2, &["public.customers.email".to_owned()][..]));
    assert_eq!((two.verdict, two.reason.as_deref(), &two.outcome), (Verdict::Deny, Some("no writes"), &None));
    let hold = three.hold.as_ref().unwrap();
    assert_eq!((hold.outcome, hold.by.as_deref()), (Some(HoldOutcome::Approved), Some("root")));
    assert_eq!(three.outcome.as_ref().unwrap().sqlstate.as_deref(), Some("57014"));
    assert_eq!(transcript.session, sessions(state.journal_dir(), &Filter::default()).unwrap().sessions[0]);
}

#[test]
fn an_id_may_be_the_beginning_of_one() {
    let state = day();
    let dir = state.journal_dir();
    for (prefix, expected) in [("02", THREE), (TWO, TWO), ("0398", "0398")] {
        assert_eq!(replay(dir, prefix, 100).unwrap().session.id, expected);
    }
    for prefix in ["", "0", "0198c0de"] {
        let error = replay(dir, prefix, 100).unwrap_err();
        assert!(matches!(&error, RecordError::Ambiguous { ids, .. } if ids.len() > 1), "{error}");
    }
    assert!(matches!(replay(dir, "04", 100), Err(RecordError::NoSuchSession(_))));
}

#[test]
fn an_id_that_begins_another_is_still_its_own() {
    let state = State::new();
    state.open().append(&[start("aa", "x", "y"), start("a", "x", "y"), start("aaa", "x", "y")]).unwrap();
    assert_eq!(replay(state.journal_dir(), "a", 100).unwrap().session.id, "a");
    assert!(matches!(replay(state.journal_dir(), "", 100), Err(RecordError::Ambiguous { .. })));
}

#[test]
fn what_is_left_of_a_damaged_session_is_told_and_the_damage_too() {
    let state = day();
    let place = state.places().into_iter().find(|place| place.seq == 4).unwrap();
    edit(&place.file, |bytes| bytes[place.at + 100] ^= 1);
    let transcript = replay(state.journal_dir(), ONE, 100).unwrap();
    assert_eq!(transcript.operations.len(), 2);
    assert!(transcript.damage[0].contains("record 4"), "{:?}", transcript.damage);
    assert_eq!(sessions(state.journal_dir(), &Filter::default()).unwrap().damage.len(), 1);
}

#[test]
fn a_cut_statement_is_told_by_its_digest() {
    let state = State::new();
    let mut cut = statement_in(ONE, 1, "select a long list");
    if let Event::Statement { sql, .. } = &mut cut {
        "select a".clone_into(sql);
    }
    state.open().append(&[cut]).unwrap();
    assert!(replay(state.journal_dir(), ONE, 100).unwrap().operations[0].sql_cut);
}
