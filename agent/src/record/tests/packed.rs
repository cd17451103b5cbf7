//! What is packed comes back as it was; what cannot be packed is recorded all the same.

use proptest::prelude::*;

use super::*;
use crate::record::Burst;
use crate::record::event::Bind;
use crate::record::format::hex;
use crate::record::packed::{self, pack};
use crate::record::query;

pub(super) const SESSION: &str = "0198c0de000070008000000000000001";

fn statement(op: u64, sql: &str) -> Event {
    statement_in(SESSION, op, sql)
}

fn packed_as(event: &Event) -> Option<(Kind, Vec<u8>)> {
    let mut out = b"before".to_vec();
    let kind = pack(event, &mut out).unwrap();
    assert!(out.starts_with(b"before") && (kind.is_some() || out.len() == 6), "{out:?}");
    kind.map(|kind| (kind, out.split_off(6)))
}

/// A frame around a payload, as far as it is looked at.
fn unpacked(kind: Kind, payload: &[u8]) -> Option<Event> {
    let mut bytes = vec![0; FRAME_LEN];
    bytes.extend_from_slice(payload);
    let _hash = crate::record::format::seal(&mut bytes, kind, 1, 0, &[0; 32], &[0; 32]);
    packed::event(&Frame::fields(&bytes).unwrap())
}

pub(super) fn result(op: u64, served_to: Option<u64>) -> Event {
    Event::Result {
        session: SESSION.into(),
        op,
        rows: 3,
        bytes: 300,
        masked_cells: 2,
        tag: "SELECT 3".into(),
        sqlstate: None,
        served_to,
    }
}

fn texts() -> impl Strategy<Value = Vec<String>> {
    prop::collection::vec(".{0,20}", 0..4)
}

fn binds() -> impl Strategy<Value = Vec<Bind>> {
    let bind = prop_oneof![
        Just(Bind::Null),
        ".{0,300}".prop_map(Bind::Text),
        "[A-Za-z0-9+/]{0,40}".prop_map(Bind::Binary),
        (any::<u64>(), "[0-9a-f]{64}").prop_map(|(bytes, sha256)| Bind::Digest { bytes, sha256 }),
    ];
    prop::collection::vec(bind, 0..5)
}

fn statements() -> impl Strategy<Value = Event> {
    let steps =
        [Step::Query, Step::Prepare, Step::Execute, Step::Exec, Step::Shell, Step::Pty, Step::Subsystem]
            .into_iter()
            .chain([Step::File, Step::Feature, Step::Connect])
            .collect::<Vec<_>>();
    let verdicts = vec![Verdict::Permit, Verdict::Deny, Verdict::Hold];
    let digest = prop_oneof![Just(String::new()), any::<[u8; 32]>().prop_map(|digest| hex(&digest))];
    let asked = (any::<u128>(), any::<u64>(), prop::sample::select(steps), ".{0,200}", digest, binds());
    let optional = || prop::option::of(".{0,40}");
    let policy = prop_oneof![Just(String::new()), any::<[u8; 8]>().prop_map(|digest| hex(&digest))];
    let decided = (prop::sample::select(verdicts), texts(), policy, optional(), texts(), optional());
    (asked, decided, any::<Option<u64>>()).prop_map(|(asked, decided, prepared)| {
        let (session, op, step, sql, sql_sha256, binds) = asked;
        let (verdict, policies, policy, reason, masked, hold) = decided;
        let session = uuid::Uuid::from_u128(session).simple().to_string().into();
        let (binds, policies, policy) = (binds.into(), policies.into(), policy.into());
        Event::Statement {
            session,
            op,
            step,
            sql,
            sql_sha256,
            prepared,
            binds,
            verdict,
            policies,
            policy,
            reason,
            masked,
            hold,
        }
    })
}

fn results() -> impl Strategy<Value = Event> {
    let counts = any::<[u64; 4]>();
    (counts, ".{0,40}", prop::option::of("[0-9A-Z]{5}"), any::<Option<u64>>()).prop_map(
        |([op, rows, bytes, masked_cells], tag, sqlstate, served_to)| Event::Result {
            session: SESSION.into(),
            op,
            rows,
            bytes,
            masked_cells,
            tag,
            sqlstate,
            served_to,
        },
    )
}

proptest! {
    #[test]
    fn what_is_packed_comes_back_and_no_part_of_it_does(event in prop_oneof![statements(), results()]) {
        let (kind, payload) = packed_as(&event).expect("an event that is packed");
        prop_assert_eq!(unpacked(kind, &payload), Some(event.clone()));
        prop_assert_eq!(serde_json::to_value(unpacked(kind, &payload)).unwrap(), serde_json::to_value(&event).unwrap());
        for cut in 0..payload.len() {
            prop_assert_eq!(unpacked(kind, &payload[..cut]), None);
        }
        prop_assert_eq!(unpacked(kind, &[&payload[..], b"x"].concat()), None);
    }

    #[test]
    fn nothing_makes_the_reader_fall_over(payload in prop::collection::vec(any::<u8>(), 0..200), statement: bool) {
        let _whatever = unpacked(if statement { Kind::Statement } else { Kind::Result }, &payload);
    }
}

/// Fields and numbers of enumerations are in the order they are declared: who moves one makes another version.
#[test]
fn the_form_is_the_one_that_is_documented() {
    let mut event = statement(300, "x");
    if let Event::Statement { prepared, binds, policy, reason, masked, hold, step, .. } = &mut event {
        *step = Step::Execute;
        (*prepared, *reason, *hold) = (Some(2), Some("why".into()), Some("h-1".into()));
        *binds = [Bind::Null, Bind::Text("t".into()), Bind::Binary("AA==".into())].into();
        *policy = "0123456789abcdef".into();
        *masked = vec!["public.t.c".into()];
    }
    let (kind, payload) = packed_as(&event).unwrap();
    let expected = [
        "00",                                                                  // version
        "10 0198c0de000070008000000000000001",                                 // session
        "ac02 02 00",                                                          // op, step, verdict
        "01 78",                                                               // sql
        "20 2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881", // digest
        "01 02",                                                               // prepared
        "03 00 01 01 74 02 04 41413d3d",                                       // binds
        "01 09 726561642d73686f70",                                            // policies
        "08 0123456789abcdef",                                                 // policy
        "01 03 776879",                                                        // reason
        "01 0a 7075626c69632e742e63",                                          // masked
        "01 03 682d31",                                                        // hold
    ];
    assert_eq!((kind, hex(&payload)), (Kind::Statement, expected.concat().replace(' ', "")));
    let (kind, payload) = packed_as(&result(300, Some(128))).unwrap();
    let expected = [
        "00 10 0198c0de000070008000000000000001 ac02",
        "03 ac02 02",          // rows, bytes, masked cells
        "08 53454c4543542033", // tag
        "00 01 8001 00",       // sqlstate, served_to, part
    ];
    assert_eq!((kind, hex(&payload)), (Kind::Result, expected.concat().replace(' ', "")));
    let mut other = payload;
    other[0] = 1;
    assert_eq!(unpacked(kind, &other), None, "another version");
}

#[test]
fn what_is_not_like_the_others_is_json() {
    for id in ["s-1", "", &SESSION.to_uppercase(), "0198c0de-0000-7000-8000-000000000001", &SESSION[1..]] {
        assert_eq!(packed_as(&statement_in(id, 1, "select 1")), None, "{id}");
    }
    for digest in ["0", "g".repeat(64).as_str(), "A".repeat(64).as_str(), "0".repeat(66).as_str()] {
        let mut event = statement(1, "select 1");
        if let Event::Statement { sql_sha256, .. } = &mut event {
            *sql_sha256 = digest.to_owned();
        }
        assert_eq!(packed_as(&event), None, "{digest}");
        let state = State::new();
        let journal = state.open();
        journal.append(&[event.clone()]).unwrap();
        journal.flush().unwrap();
        assert_eq!(state.events(), [event]);
    }
}

#[test]
fn a_result_is_in_the_record_of_what_is_served_up_to_it() {
    let state = State::new();
    let journal = state.open();
    let session = SESSION;
    let long = "row ".repeat(1_000);
    let serve = |offset, bytes: &[u8], events: &[Event]| {
        let appended =
            journal.append_served(Burst { session, offset, bytes }, Burst::NOTHING, events).unwrap();
        appended.last_seq + 1 - appended.first_seq
    };
    journal.append(&[statement(1, "select 1"), statement(2, "select 2")]).unwrap();
    assert_eq!(serve(0, b"begun", &[]), 1);
    assert_eq!(serve(5, b"ended", &[result(1, Some(10)), result(2, Some(10))]), 2);
    assert_eq!(serve(10, long.as_bytes(), &[result(3, None)]), 1, "compressed");
    assert_eq!(serve(4_010, b"", &[result(4, None)]), 1);
    let others = statement_in("0198c0de000070008000000000000002", 1, "select 3");
    assert_eq!(serve(4_010, b"next", &[others.clone(), result(5, None)]), 3);
    let huge = vec![b'x'; (2 << 20) + 1];
    assert_eq!(serve(4_014, &huge, &[result(6, None)]), 3);
    journal.close().unwrap();
    assert!(state.verify().ok);

    let mut served = Vec::new();
    query::served(state.journal_dir(), session, |bytes| served.extend_from_slice(bytes)).unwrap();
    assert_eq!(served, [b"begunended", long.as_bytes(), b"next", &huge].concat());
    let mut events = vec![statement(1, "select 1"), statement(2, "select 2")];
    events.extend([result(1, Some(10)), result(2, Some(10)), result(3, None), result(4, None)]);
    let own = events.iter().cloned().chain([result(5, None), result(6, None)]).collect::<Vec<_>>();
    let recorded = query::recorded(state.journal_dir(), session).unwrap();
    assert_eq!(recorded.into_iter().map(|recorded| recorded.event).collect::<Vec<_>>(), own);
    events.extend([others, result(5, None), result(6, None)]);
    assert_eq!(state.events(), events);
}
