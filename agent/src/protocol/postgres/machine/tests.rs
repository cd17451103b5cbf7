use bytes::BufMut;
use proptest::prelude::*;

use super::super::codec::{HEADER, WHOLE_MAX, put, take};
use super::super::plan::{Copy, Mask, Output, StatementPlan};
use super::super::response::{read, sqlstate};
use super::*;

mod limits;
mod looking;
mod names;
mod raw;
mod settings;
mod streams;

/// Column 2 of table 7 is masked.
struct Table7;

impl Origins for Table7 {
    fn masked(&self, table: u32, attribute: i16) -> bool {
        table == 7 && attribute == 2
    }
}

fn machine() -> Machine<Table7> {
    Machine::new(Table7, true, true)
}

fn plan(statements: Vec<StatementPlan>) -> Arc<Plan> {
    Arc::new(Plan::for_test(statements))
}

fn columns(masks: &[Option<Mask>]) -> Arc<Plan> {
    plan(vec![StatementPlan { output: Output::Columns(masks.to_vec()), ..StatementPlan::default() }])
}

fn nothing() -> Arc<Plan> {
    plan(vec![StatementPlan::default()])
}

fn msg(tag: u8, body: &[u8]) -> BytesMut {
    let mut out = BytesMut::new();
    put(&mut out, tag, |out| out.put_slice(body));
    out
}

fn query(sql: &str) -> BytesMut {
    msg(b'Q', format!("{sql}\0").as_bytes())
}

fn parse(name: &str, sql: &str) -> BytesMut {
    msg(b'P', &[name.as_bytes(), b"\0", sql.as_bytes(), b"\0\0\0"].concat())
}

fn bind(portal: &str, statement: &str) -> BytesMut {
    msg(b'B', &[portal.as_bytes(), b"\0", statement.as_bytes(), b"\0\0\0\0\0\0\0"].concat())
}

fn execute(portal: &str) -> BytesMut {
    msg(b'E', &[portal.as_bytes(), b"\0\0\0\0\0"].concat())
}

fn sync() -> BytesMut {
    msg(b'S', b"")
}

fn error(code: &str) -> BytesMut {
    msg(b'E', format!("SERROR\0VERROR\0C{code}\0Msecret\0\0").as_bytes())
}

fn complete(tag: &str) -> BytesMut {
    msg(b'C', format!("{tag}\0").as_bytes())
}

fn ready(status: u8) -> BytesMut {
    msg(b'Z', &[status])
}

fn description(columns: &[(u32, i16, u32)]) -> BytesMut {
    let mut body = BytesMut::new();
    body.put_i16(columns.len() as i16);
    for (table, attribute, type_oid) in columns {
        body.put_slice(b"c\0");
        body.put_u32(*table);
        body.put_i16(*attribute);
        body.put_u32(*type_oid);
        body.put_slice(&[0; 8]);
    }
    msg(b'T', &body)
}

fn row(values: &[&str]) -> BytesMut {
    let mut body = BytesMut::new();
    body.put_i16(values.len() as i16);
    for value in values {
        body.put_i32(value.len() as i32);
        body.put_slice(value.as_bytes());
    }
    msg(b'D', &body)
}

fn join(parts: &[BytesMut]) -> BytesMut {
    parts.iter().flat_map(|part| part.iter().copied()).collect()
}

fn tags(mut bytes: BytesMut) -> String {
    let mut tags = String::new();
    while let Some(message) = take(&mut bytes, WHOLE_MAX).unwrap() {
        tags.push(char::from(message.tag));
    }
    assert!(bytes.is_empty());
    tags
}

/// Feeds client bytes, answering each question as `decide` says; returns what went to the server.
fn client(
    machine: &mut Machine<Table7>,
    input: BytesMut,
    decide: impl Fn(&Question) -> Result<Arc<Plan>, Report>,
) -> (BytesMut, Next) {
    let (mut input, mut staged) = (input, Staged::default());
    loop {
        match machine.client(&mut input, &mut staged).unwrap() {
            Next::Ask(question) => match decide(&question) {
                Ok(plan) => machine.permit(Permit::for_test(), plan, &mut staged),
                Err(report) => machine.deny(report, &mut staged),
            },
            next => return (staged.take_bytes(), next),
        }
    }
}

fn server(machine: &mut Machine<Table7>, input: BytesMut) -> Result<(BytesMut, Vec<Outcome>), Fatal> {
    let (mut input, mut out, mut outcomes) = (input, BytesMut::new(), Vec::new());
    machine.server(&mut input, &mut out, &mut outcomes)?;
    Ok((out, outcomes))
}

fn denied() -> Report {
    Report::new(sqlstate::INSUFFICIENT_PRIVILEGE, "no")
}

#[test]
fn a_query_is_served_with_its_masked_cells_replaced() {
    let mut machine = machine();
    let (sent, _) =
        client(&mut machine, query("SELECT id, token FROM t"), |_| Ok(columns(&[None, Some(Mask::Redact)])));
    assert_eq!(tags(sent), "Q");
    let answer = join(&[
        description(&[(7, 1, 23), (7, 2, 25)]),
        row(&["1", "secret"]),
        row(&["2", "secret"]),
        complete("SELECT 2"),
        ready(b'I'),
    ]);
    // Whatever way the bytes are cut on the wire.
    for cut in 0..answer.len() {
        let mut machine = self::machine();
        client(&mut machine, query("SELECT id, token FROM t"), |_| Ok(columns(&[None, Some(Mask::Redact)])));
        let mut input = BytesMut::from(&answer[..cut]);
        let (mut out, mut outcomes) = (BytesMut::new(), Vec::new());
        machine.server(&mut input, &mut out, &mut outcomes).unwrap();
        input.extend_from_slice(&answer[cut..]);
        machine.server(&mut input, &mut out, &mut outcomes).unwrap();
        assert!(!out.windows(6).any(|window| window == b"secret"), "cut at {cut}");
        assert_eq!(tags(out), "TDDCZ");
        assert_eq!((outcomes.len(), outcomes[0].rows, outcomes[0].masked_cells), (1, 2, 2));
        assert!(machine.idle());
    }
}

#[test]
fn a_server_that_contradicts_the_plan_ends_the_session() {
    let check = |plan: Arc<Plan>, answer: &[BytesMut]| {
        let mut machine = machine();
        client(&mut machine, query("SELECT"), |_| Ok(Arc::clone(&plan)));
        assert!(server(&mut machine, join(answer)).is_err(), "{:?}", plan.statements);
    };
    check(columns(&[None]), &[description(&[(7, 2, 25)])]);
    check(columns(&[None, None]), &[description(&[(7, 1, 23)])]);
    check(columns(&[None]), &[row(&["1"])]);
    check(nothing(), &[description(&[(1, 1, 23)])]);
    check(nothing(), &[msg(b'H', b"\0\0\0")]);
    check(nothing(), &[msg(b'W', b"\0\0\0")]);
    check(nothing(), &[complete("A"), complete("B")]);
    check(nothing(), &[ready(b'I'), ready(b'I')]);
}

#[test]
fn a_denied_step_of_a_pipeline_is_poisoned_and_the_rest_of_its_group_goes_nowhere() {
    let mut machine = machine();
    let group = join(&[
        parse("", "INSERT 1"),
        bind("", ""),
        execute(""),
        parse("", "DENY"),
        bind("", ""),
        execute(""),
        parse("", "INSERT 2"),
        bind("", ""),
        execute(""),
        sync(),
    ]);
    let (sent, _) = client(&mut machine, group, |question| match &question.what {
        Asked::Prepare { sql } if &**sql == "DENY" => Err(denied()),
        _ => Ok(nothing()),
    });
    // The poison is a Parse; what follows it in the group is not sent at all.
    assert_eq!(tags(sent), "PBEPS");
    let answer = join(&[msg(b'1', b""), msg(b'2', b""), complete("INSERT 0 1"), error("42601"), ready(b'I')]);
    let (out, outcomes) = server(&mut machine, answer).unwrap();
    assert_eq!(outcomes.len(), 1);
    let mut out = out;
    let mut codes = Vec::new();
    while let Some(message) = take(&mut out, WHOLE_MAX).unwrap() {
        if message.tag == b'E' {
            codes.push(read(message.body()).unwrap().sqlstate);
        }
    }
    assert_eq!(codes, ["42501"], "the server's error is rewritten");
    assert!(machine.idle());
}

#[test]
fn a_denied_query_is_replaced_by_text_that_cannot_run() {
    let mut machine = machine();
    let (sent, _) = client(&mut machine, query("DROP TABLE t"), |_| Err(denied()));
    let text = String::from_utf8_lossy(&sent[HEADER..]).into_owned();
    assert!(text.contains("chaperone_denied") && !text.contains("DROP"), "{text}");
    // The transaction status is the server's own.
    let (out, _) = server(&mut machine, join(&[error("42601"), ready(b'E')])).unwrap();
    assert!(out.ends_with(b"Z\0\0\0\x05E"));
}

#[test]
fn rows_are_described_before_they_are_served_even_if_the_client_does_not_ask() {
    let mut machine = machine();
    let group = join(&[parse("", "SELECT token"), bind("", ""), execute(""), sync()]);
    let (sent, _) = client(&mut machine, group, |_| Ok(columns(&[Some(Mask::Redact)])));
    assert_eq!(tags(sent), "PBDES");
    let answer = join(&[
        msg(b'1', b""),
        msg(b'2', b""),
        description(&[(7, 2, 25)]),
        row(&["secret"]),
        complete("SELECT 1"),
        ready(b'I'),
    ]);
    let (out, _) = server(&mut machine, answer).unwrap();
    assert!(!out.windows(6).any(|window| window == b"secret"));
    assert_eq!(tags(out), "12DCZ", "the description was not asked for, so it is not passed on");
}

#[test]
fn a_description_of_the_statement_counts_for_executions_that_were_queued_behind_it() {
    let mut machine = machine();
    let group = join(&[
        parse("s", "SELECT token"),
        msg(b'D', b"Ss\0"),
        bind("", "s"),
        execute(""),
        execute(""),
        sync(),
    ]);
    let (sent, _) = client(&mut machine, group, |_| Ok(columns(&[Some(Mask::Redact)])));
    assert_eq!(tags(sent), "PDBEES", "described already");
    let answer = join(&[
        msg(b'1', b""),
        msg(b't', b"\0\0"),
        description(&[(7, 2, 25)]),
        msg(b'2', b""),
        row(&["secret"]),
        msg(b's', b""),
        row(&["secret"]),
        complete("SELECT 1"),
        ready(b'I'),
    ]);
    let (out, _) = server(&mut machine, answer).unwrap();
    assert!(!out.windows(6).any(|window| window == b"secret"));
}

#[test]
fn rows_for_a_copy_that_come_before_the_server_asks_for_them_wait() {
    let copy = plan(vec![StatementPlan { copy: Some(Copy::In), ..StatementPlan::default() }]);
    let early = join(&[query("COPY"), msg(b'd', b"1\n"), msg(b'c', b"")]);
    let check = |answer: BytesMut, expect: &str| {
        let (mut machine, mut input, mut staged) = (machine(), early.clone(), Staged::default());
        let Next::Ask(_) = machine.client(&mut input, &mut staged).unwrap() else { panic!() };
        machine.permit(Permit::for_test(), Arc::clone(&copy), &mut staged);
        assert!(matches!(machine.client(&mut input, &mut staged).unwrap(), Next::Wait));
        staged.take_bytes();
        server(&mut machine, answer).unwrap();
        machine.client(&mut input, &mut staged).unwrap();
        assert_eq!(tags(staged.take_bytes()), expect);
    };
    check(msg(b'G', b"\0\0\0"), "dc");
    check(join(&[error("42P01"), ready(b'I')]), "");
}

#[test]
fn what_was_held_while_its_group_failed_is_not_sent() {
    let mut machine = machine();
    let mut input = join(&[parse("", "A"), bind("", ""), execute("")]);
    let mut staged = Staged::default();
    let mut asked = 0;
    while let Next::Ask(question) = machine.client(&mut input, &mut staged).unwrap() {
        asked += 1;
        if matches!(question.what, Asked::Execute { .. }) {
            break;
        }
        machine.permit(Permit::for_test(), nothing(), &mut staged);
    }
    assert_eq!(asked, 2);
    staged.take_bytes();
    // The Bind fails while the Execute is held.
    server(&mut machine, join(&[msg(b'1', b""), error("22P02")])).unwrap();
    machine.permit(Permit::for_test(), nothing(), &mut staged);
    assert!(staged.take_bytes().is_empty());
    let (sent, _) = client(&mut machine, sync(), |_| Ok(nothing()));
    assert_eq!(tags(sent), "S");
    server(&mut machine, ready(b'I')).unwrap();
    assert!(machine.idle());
}

#[test]
fn a_sync_that_was_sent_along_with_a_copy_is_not_waited_for() {
    let mut machine = machine();
    let copy = plan(vec![StatementPlan { copy: Some(Copy::In), ..StatementPlan::default() }]);
    let group = join(&[parse("", "COPY"), bind("", ""), execute(""), sync()]);
    client(&mut machine, group, |_| Ok(Arc::clone(&copy)));
    server(&mut machine, join(&[msg(b'1', b""), msg(b'2', b""), msg(b'G', b"\0\0\0")])).unwrap();
    let data = join(&[msg(b'd', b"1\n"), msg(b'd', b"2\n"), msg(b'c', b""), sync()]);
    let (sent, _) = client(&mut machine, data, |_| Ok(nothing()));
    assert_eq!(tags(sent), "ddcS");
    server(&mut machine, join(&[complete("COPY 2"), ready(b'I')])).unwrap();
    assert!(machine.idle());
    // Stray data outside COPY goes nowhere.
    let (sent, _) = client(&mut machine, join(&[msg(b'd', b"3\n"), msg(b'c', b"")]), |_| Ok(nothing()));
    assert!(sent.is_empty());
}

#[test]
fn errors_of_a_masked_relation_lose_their_text() {
    let strict = plan(vec![StatementPlan { strict: true, ..StatementPlan::default() }]);
    let mut machine = machine();
    client(&mut machine, query("INSERT"), |_| Ok(Arc::clone(&strict)));
    let (out, outcomes) = server(&mut machine, join(&[error("23505"), ready(b'I')])).unwrap();
    assert!(!out.windows(6).any(|window| window == b"secret"));
    assert_eq!(outcomes[0].sqlstate.as_deref(), Some("23505"));
    client(&mut machine, query("INSERT"), |_| Ok(nothing()));
    let (out, _) = server(&mut machine, join(&[error("23505"), ready(b'I')])).unwrap();
    assert!(out.windows(6).any(|window| window == b"secret"), "other relations' errors pass as they are");
}

#[test]
fn a_notification_loses_what_it_carries_where_something_is_masked() {
    let notified = || msg(b'A', b"\0\0\0\x07orders\0secret\0");
    let (out, _) = server(&mut machine(), notified()).unwrap();
    assert_eq!(&out[..], b"A\0\0\0\x10\0\0\0\x07orders\0\0");
    let (out, _) = server(&mut Machine::new(Table7, false, false), notified()).unwrap();
    assert_eq!(out, notified());
    assert!(server(&mut machine(), msg(b'A', b"\0\0\0\x07orders")).is_err());
}

#[test]
fn messages_that_are_not_of_the_protocol_end_the_session() {
    let check = |bytes: &[u8]| {
        let outcome = machine().client(&mut BytesMut::from(bytes), &mut Staged::default());
        assert!(outcome.is_err_and(|fatal| fatal.by_client()), "{}", bytes.escape_ascii());
    };
    check(b"z\0\0\0\x04");
    check(b"p\0\0\0\x05\0");
    check(b"Q\0\0\0\x02");
    check(b"Q\xff\xff\xff\xff");
    check(b"Q\0\0\0\x06\xff\0");
    check(b"Q\0\0\0\x07a\0b");
    check(b"S\0\0\0\x05x");
    check(b"B\0\0\0\x06\0\0");
    check(b"C\0\0\0\x06Xa");
}

#[test]
fn a_function_call_message_is_asked_for_and_answered_like_a_query() {
    let call = || msg(b'F', b"\0\0\x03\xb8\0\0\0\x01\0\0\0\x01x\0\0");
    let mut machine = machine();
    let (sent, _) = client(&mut machine, call(), |_| Err(denied()));
    assert_eq!(tags(sent), "Q", "what is denied becomes a text that cannot run");
    server(&mut machine, join(&[error("42601"), ready(b'I')])).unwrap();
    let (sent, _) = client(&mut machine, call(), |question| match &question.what {
        Asked::Call { function: 952, binds } if **binds == [Bind::Text("x".into())] => Ok(nothing()),
        other => panic!("{other:?}"),
    });
    assert_eq!(tags(sent), "F");
    let (out, outcomes) = server(&mut machine, join(&[msg(b'V', b"\0\0\0\0"), ready(b'I')])).unwrap();
    assert_eq!((tags(out).as_str(), outcomes.len(), machine.idle()), ("VZ", 1, true));
    // Out of turn.
    client(&mut machine, query("SELECT"), |_| Ok(nothing()));
    assert!(server(&mut machine, msg(b'V', b"\0\0\0\0")).is_err());
}

#[test]
fn a_changed_catalogue_is_due_when_its_transaction_is_over() {
    let changes = plan(vec![StatementPlan { changes_catalogue: true, ..StatementPlan::default() }]);
    let mut machine = machine();
    client(&mut machine, query("ALTER"), |_| Ok(Arc::clone(&changes)));
    server(&mut machine, join(&[complete("ALTER TABLE"), ready(b'T')])).unwrap();
    assert_eq!((machine.changes_catalogue(), machine.take_catalogue_changed()), (true, false));
    client(&mut machine, query("COMMIT"), |_| Ok(nothing()));
    server(&mut machine, join(&[complete("COMMIT"), ready(b'I')])).unwrap();
    assert_eq!((machine.changes_catalogue(), machine.take_catalogue_changed()), (false, true));
    assert!(!machine.take_catalogue_changed());
}

#[test]
fn a_changed_schema_is_known_again_when_its_transaction_is_over() {
    let changes = plan(vec![StatementPlan { changes_schema: true, ..StatementPlan::default() }]);
    let mut machine = machine();
    assert_eq!(machine.schema(), Schema::Settled);
    client(&mut machine, query("ALTER"), |_| Ok(Arc::clone(&changes)));
    assert_eq!(machine.schema(), Schema::Settling, "the answer says whether a transaction is open");
    server(&mut machine, join(&[complete("ALTER TABLE"), ready(b'T')])).unwrap();
    assert_eq!(machine.schema(), Schema::Changed);
    client(&mut machine, query("COMMIT"), |_| Ok(nothing()));
    assert_eq!(machine.schema(), Schema::Settling);
    server(&mut machine, join(&[complete("COMMIT"), ready(b'I')])).unwrap();
    assert_eq!(machine.schema(), Schema::Settled);
    // Of what fails nothing is left.
    client(&mut machine, query("ALTER"), |_| Ok(Arc::clone(&changes)));
    server(&mut machine, join(&[error("42P01"), ready(b'I')])).unwrap();
    assert_eq!(machine.schema(), Schema::Settled);
}

#[test]
fn what_nobody_read_may_answer_as_it_likes_where_nothing_is_masked() {
    let unread = Arc::new(Plan { unread: true, ..Plan::clone(&columns(&[])) });
    let mut machine = Machine::new(Table7, false, true);
    client(&mut machine, query("SELCT"), |_| Ok(Arc::clone(&unread)));
    let answer = join(&[
        description(&[(1, 1, 23)]),
        row(&["1"]),
        complete("SELECT 1"),
        msg(b'H', b"\0\0\0"),
        msg(b'd', b"1\n"),
        msg(b'c', b""),
        complete("COPY 1"),
        msg(b'G', b"\0\0\0"),
    ]);
    let (out, outcomes) = server(&mut machine, answer).unwrap();
    assert_eq!((tags(out).as_str(), outcomes.len()), ("TDCHdcCG", 2));
    let (sent, _) = client(&mut machine, join(&[msg(b'd', b"2\n"), msg(b'c', b"")]), |_| Ok(nothing()));
    assert_eq!(tags(sent), "dc");
    server(&mut machine, join(&[complete("COPY 1"), ready(b'I')])).unwrap();
    assert!(machine.idle());
}

proptest! {
    #[test]
    fn no_bytes_of_either_side_make_it_panic(
        from_client in proptest::collection::vec(any::<u8>(), 0..200),
        from_server in proptest::collection::vec(any::<u8>(), 0..200),
    ) {
        let mut machine = machine();
        client(&mut machine, query("SELECT"), |_| Ok(columns(&[None, Some(Mask::Redact)])));
        let (mut out, mut outcomes) = (BytesMut::new(), Vec::new());
        let _ = machine.server(&mut BytesMut::from(&from_server[..]), &mut out, &mut outcomes);
        let mut input = BytesMut::from(&from_client[..]);
        let mut staged = Staged::default();
        while let Ok(Next::Ask(_)) = machine.client(&mut input, &mut staged) {
            machine.permit(Permit::for_test(), nothing(), &mut staged);
        }
    }
}
