//! Under which settings a statement's dates are read, and when nobody can know.

use std::cell::RefCell;

use super::*;
use crate::protocol::postgres::settings::Settings;

fn begun() -> Machine<Table7> {
    let mut machine = Machine::new(Table7, false, true);
    machine.begin_under(Settings::for_test("ISO, MDY"));
    machine
}

fn sets() -> StatementPlan {
    StatementPlan { sets: true, ..StatementPlan::default() }
}

fn restores() -> StatementPlan {
    StatementPlan { restores: true, ..StatementPlan::default() }
}

fn style(value: &str) -> BytesMut {
    msg(b'S', format!("DateStyle\0{value}\0").as_bytes())
}

/// Sends a message of its own and has it answered.
fn ran(machine: &mut Machine<Table7>, statement: StatementPlan, said: &[BytesMut], status: u8) {
    client(machine, query("X"), |_| Ok(plan(vec![statement.clone()])));
    server(machine, join(&[complete("X"), join(said), ready(status)])).unwrap();
}

fn of(machine: &Machine<Table7>, statements: Vec<StatementPlan>) -> Under {
    machine.under(&Question { op: 1, what: Asked::Query { sql: "X".into() } }, &plan(statements))
}

fn one(machine: &Machine<Table7>) -> Under {
    of(machine, vec![StatementPlan::default()])
}

fn these(style: &str) -> Under {
    Under::These(Arc::new(Settings::for_test(style)))
}

#[test]
fn settings_that_may_change_are_known_when_the_server_is_ready_again() {
    let mut machine = begun();
    assert_eq!(one(&machine), these("ISO, MDY"));
    client(&mut machine, query("SET"), |_| Ok(plan(vec![sets()])));
    assert_eq!(one(&machine), Under::Settling);
    server(&mut machine, complete("SET")).unwrap();
    assert_eq!(one(&machine), Under::Settling, "newer servers report it behind this");
    server(&mut machine, join(&[style("ISO, DMY"), ready(b'I')])).unwrap();
    assert_eq!(one(&machine), these("ISO, DMY"));

    let group = join(&[parse("", "SET"), bind("", ""), execute("")]);
    client(&mut machine, group, |_| Ok(plan(vec![sets()])));
    assert!(matches!(one(&machine), Under::Unknown(_)), "its group has no end yet");
    server(&mut machine, join(&[msg(b'1', b""), msg(b'2', b""), complete("SET")])).unwrap();
    assert!(matches!(one(&machine), Under::Unknown(_)));
    client(&mut machine, sync(), |_| Ok(nothing()));
    assert_eq!(one(&machine), Under::Settling);
    server(&mut machine, join(&[style("ISO, MDY"), ready(b'I')])).unwrap();
    assert_eq!(one(&machine), these("ISO, MDY"));
}

#[test]
fn a_text_that_changes_its_own_settings_has_none() {
    let other = StatementPlan::default;
    let mut machine = begun();
    assert!(matches!(of(&machine, vec![sets(), other()]), Under::Unknown(_)));
    assert_eq!(of(&machine, vec![other(), sets()]), these("ISO, MDY"), "it changes nothing for itself");
    // The end of a transaction takes back what was set in it, and nothing else.
    ran(&mut machine, other(), &[], b'T');
    assert_eq!(of(&machine, vec![restores(), other()]), these("ISO, MDY"));
    ran(&mut machine, sets(), &[style("ISO, DMY")], b'T');
    assert_eq!(one(&machine), these("ISO, DMY"));
    assert!(matches!(of(&machine, vec![restores(), other()]), Under::Unknown(_)));
    client(&mut machine, query("ROLLBACK"), |_| Ok(plan(vec![restores()])));
    assert_eq!(one(&machine), Under::Settling);
    server(&mut machine, join(&[complete("ROLLBACK"), style("ISO, MDY"), ready(b'I')])).unwrap();
    assert_eq!(of(&machine, vec![restores(), other()]), these("ISO, MDY"));
}

#[test]
fn what_was_prepared_or_bound_under_others_means_something_else() {
    let asked = RefCell::new(None);
    let executed = |machine: &mut Machine<Table7>, messages: BytesMut| {
        client(machine, messages, |question| {
            asked.replace(Some(question.clone()));
            Ok(nothing())
        });
        machine.under(&asked.take().unwrap(), &nothing())
    };
    let mut machine = begun();
    client(&mut machine, join(&[parse("d", "DELETE"), sync()]), |_| Ok(nothing()));
    server(&mut machine, join(&[msg(b'1', b""), ready(b'T')])).unwrap();
    let run = || join(&[bind("p", "d"), execute("p"), sync()]);
    let answer = || join(&[msg(b'2', b""), complete("DELETE 0"), ready(b'T')]);
    assert_eq!(executed(&mut machine, run()), these("ISO, MDY"));
    server(&mut machine, answer()).unwrap();

    ran(&mut machine, sets(), &[style("ISO, DMY")], b'T');
    assert!(matches!(executed(&mut machine, run()), Under::Unknown(_)), "prepared under others");
    server(&mut machine, answer()).unwrap();
    // A portal that was bound there stays one of there.
    client(&mut machine, join(&[bind("q", "d"), sync()]), |_| Ok(nothing()));
    server(&mut machine, join(&[msg(b'2', b""), ready(b'T')])).unwrap();
    ran(&mut machine, sets(), &[style("ISO, MDY")], b'T');
    assert!(matches!(executed(&mut machine, join(&[execute("q"), sync()])), Under::Unknown(_)), "bound");
    server(&mut machine, join(&[complete("DELETE 0"), ready(b'T')])).unwrap();
    assert_eq!(executed(&mut machine, run()), these("ISO, MDY"));
}

#[test]
fn settings_that_are_not_reported_are_not_known() {
    let machine = Machine::new(Table7, false, true);
    assert!(matches!(one(&machine), Under::Unknown(_)));
}
