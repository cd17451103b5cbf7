//! Limits of a statement, and what becomes of it at them.

use std::time::Duration;

use super::*;

fn limited(reads_only: bool) -> Arc<Plan> {
    plan(vec![StatementPlan {
        output: Output::Columns(vec![None]),
        max_rows: Some(2),
        max_bytes: Some(1_000),
        max_time: Some(Duration::from_secs(1)),
        reads_only,
        ..StatementPlan::default()
    }])
}

fn shape() -> BytesMut {
    description(&[(1, 1, 23)])
}

/// A machine whose query came to its second row and one more.
fn cut(reads_only: bool) -> Machine<Table7> {
    let mut machine = machine();
    client(&mut machine, query("SELECT"), |_| Ok(limited(reads_only)));
    let three = join(&[shape(), row(&["1"]), row(&["2"]), row(&["3"]), row(&["4"])]);
    assert_eq!(tags(server(&mut machine, three).unwrap().0), "TDD", "no row beyond the limit is served");
    assert!(machine.take_cancel_due() && !machine.take_cancel_due() && machine.is_cut());
    machine
}

pub(super) fn only_error(out: BytesMut) -> (String, String) {
    let mut out = out;
    let error = take(&mut out, WHOLE_MAX).unwrap().unwrap();
    assert_eq!(error.tag, b'E');
    let error = read(error.body()).unwrap();
    (error.sqlstate, error.message)
}

#[test]
fn the_servers_cancel_is_told_as_the_limit_it_was() {
    let mut machine = cut(false);
    let (out, outcomes) = server(&mut machine, join(&[error("57014"), ready(b'E')])).unwrap();
    assert!(out.ends_with(b"Z\0\0\0\x05E"));
    assert_eq!(only_error(out), ("54000".into(), "policy lets a statement return 2 rows at most".into()));
    assert_eq!((outcomes[0].rows, outcomes[0].sqlstate.as_deref()), (2, Some("54000")));
    assert!(machine.idle() && !machine.is_cut());
}

#[test]
fn what_only_read_and_completed_too_soon_is_failed_afterwards() {
    let mut machine = cut(true);
    let (out, outcomes) =
        server(&mut machine, join(&[row(&["5"]), complete("SELECT 5"), ready(b'T')])).unwrap();
    assert!(out.is_empty(), "the client is not told that it completed");
    assert_eq!((outcomes[0].rows, outcomes[0].sqlstate.as_deref()), (2, Some("54000")));
    assert!(machine.is_cut());
    let mut staged = Staged::default();
    machine.pay(&mut staged);
    assert_eq!(tags(staged.take_bytes()), "Q");
    assert!(!machine.is_cut());
    let (out, _) = server(&mut machine, join(&[error("42601"), ready(b'E')])).unwrap();
    assert!(out.ends_with(b"Z\0\0\0\x05E"), "its transaction has failed on the server");
    assert_eq!(only_error(out).0, "54000");
}

#[test]
fn what_wrote_and_completed_too_soon_ends_the_session() {
    let mut machine = cut(false);
    assert!(matches!(server(&mut machine, complete("INSERT 0 5")), Err(Fatal::Limit(Limit::Rows(2)))));
}

#[test]
fn in_the_extended_protocol_the_group_fails_as_a_whole() {
    let run = |answer: &[BytesMut], more: &[BytesMut]| {
        let mut machine = machine();
        let group = [parse("", "SELECT"), bind("", ""), execute("")];
        client(&mut machine, join(&[&group, more].concat()), |_| Ok(limited(true)));
        let start = [msg(b'1', b""), msg(b'2', b""), shape(), row(&["1"]), row(&["2"]), row(&["3"])];
        assert_eq!(tags(server(&mut machine, join(&start)).unwrap().0), "12DD");
        server(&mut machine, join(answer)).map(|(out, _)| (out, machine))
    };
    // The Sync is there already: a query of the agent's own fails behind it.
    let (out, mut machine) = run(&[complete("SELECT 3"), ready(b'T')], &[sync()]).unwrap();
    let mut staged = Staged::default();
    machine.pay(&mut staged);
    assert_eq!((tags(out).as_str(), tags(staged.take_bytes()).as_str()), ("", "Q"));
    let (out, _) = server(&mut machine, join(&[error("42601"), ready(b'E')])).unwrap();
    assert_eq!(tags(out), "EZ");
    // It is not: a step fails in front of it, and what comes before it is skipped.
    let (out, mut machine) = run(&[msg(b's', b"")], &[]).unwrap();
    machine.pay(&mut staged);
    assert_eq!((tags(out).as_str(), tags(staged.take_bytes()).as_str()), ("", "P"));
    let (sent, _) = client(&mut machine, join(&[execute(""), sync()]), |_| Ok(limited(true)));
    assert_eq!(tags(sent), "S");
    // More of the group may have run meanwhile.
    let more = [execute(""), sync()];
    assert!(matches!(run(&[complete("SELECT 3")], &more), Err(Fatal::Limit(_))));
    let (out, _) = run(&[error("57014"), ready(b'E')], &more).unwrap();
    assert_eq!(tags(out), "EZ");
}

#[test]
fn a_row_is_not_begun_that_would_be_too_many_bytes() {
    let mut machine = machine();
    client(&mut machine, query("SELECT"), |_| Ok(limited(true)));
    // Too long to wait until it is whole.
    let long = row(&["x".repeat(20_000).as_str()]);
    let (head, tail) = long.split_at(500);
    let (out, _) = server(&mut machine, join(&[shape(), BytesMut::from(head)])).unwrap();
    assert_eq!(tags(out), "T");
    assert!(machine.take_cancel_due());
    let rest = join(&[BytesMut::from(tail), error("57014"), ready(b'I')]);
    let (out, _) = server(&mut machine, rest).unwrap();
    assert_eq!(only_error(out).1, "policy lets a statement return 1000 bytes at most");
}

#[test]
fn time_is_kept_of_what_answers_and_completes_as_it_says_if_nothing_was_dropped() {
    let mut machine = machine();
    assert_eq!(machine.timed(), None);
    client(&mut machine, query("UPDATE"), |_| Ok(limited(false)));
    assert_eq!(machine.timed(), Some((1, 0, Duration::from_secs(1))));
    machine.time_is_over();
    assert!(machine.take_cancel_due() && machine.is_cut() && machine.timed().is_none());
    let (out, outcomes) = server(&mut machine, join(&[complete("UPDATE 1"), ready(b'I')])).unwrap();
    assert_eq!((tags(out).as_str(), outcomes[0].sqlstate.as_deref()), ("CZ", None));
    assert!(!machine.is_cut());
}
