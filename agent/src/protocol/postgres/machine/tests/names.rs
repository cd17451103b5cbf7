use super::super::super::plan::Names as Effect;
use super::*;

#[test]
fn a_name_whose_definition_is_not_settled_makes_the_next_group_wait() {
    let mut machine = machine();
    let input = join(&[parse("s", "A"), sync(), bind("", "s"), execute(""), sync()]);
    let mut input = input;
    let mut staged = Staged::default();
    let Next::Ask(_) = machine.client(&mut input, &mut staged).unwrap() else { panic!() };
    machine.permit(Permit::for_test(), nothing(), &mut staged);
    assert!(matches!(machine.client(&mut input, &mut staged).unwrap(), Next::Wait));
    assert_eq!(tags(staged.take_bytes()), "PS");
    // The server refuses the definition: the name is unknown, and is not sent on.
    server(&mut machine, join(&[error("42601"), ready(b'I')])).unwrap();
    assert!(matches!(machine.client(&mut input, &mut staged).unwrap(), Next::Input));
    assert_eq!(tags(staged.take_bytes()), "PS", "a poison and the Sync");
    let (out, _) = server(&mut machine, join(&[error("42601"), ready(b'I')])).unwrap();
    let message = take(&mut out.clone(), WHOLE_MAX).unwrap().unwrap();
    assert_eq!(read(message.body()).unwrap().sqlstate, "26000");
}

#[test]
fn names_that_the_server_would_cut_to_the_same_are_refused() {
    let long = "n".repeat(64);
    let longest = "n".repeat(63);
    let check = |bytes: BytesMut, expect: &str| {
        let (sent, _) = client(&mut machine(), join(&[bytes, sync()]), |_| Ok(nothing()));
        assert_eq!(tags(sent), expect);
    };
    check(parse(&longest, "A"), "PS");
    check(join(&[parse(&longest, "A"), bind(&longest, &longest)]), "PBS");
    // A poison is a Parse, too: what matters is that neither name nor text arrives.
    let (sent, _) = client(&mut machine(), parse(&long, "A"), |_| Ok(nothing()));
    assert!(!sent.windows(64).any(|window| window == long.as_bytes()));
    check(join(&[parse("s", "A"), bind(&long, "s")]), "PPS");
    check(msg(b'C', format!("S{long}\0").as_bytes()), "PS");
    check(msg(b'C', format!("P{long}\0").as_bytes()), "PS");
}

/// A text that prepares `name`, whose rows are masked.
fn prepares(name: &str) -> Arc<Plan> {
    let names = Effect::Prepare(name.to_owned(), columns(&[Some(Mask::Redact)]));
    plan(vec![StatementPlan { names, ..StatementPlan::default() }])
}

#[test]
fn a_name_that_sql_prepares_counts_once_the_server_confirmed_it() {
    let found = |machine: &Machine<Table7>| match machine.statement("p") {
        Found::This(prepared) => prepared.sql.to_string(),
        Found::Unsettled => "unsettled".to_owned(),
        Found::Nothing => "nothing".to_owned(),
    };
    let mut machine = machine();
    client(&mut machine, query("PREPARE p 1"), |_| Ok(prepares("p")));
    assert_eq!(found(&machine), "unsettled");
    server(&mut machine, join(&[complete("PREPARE"), ready(b'I')])).unwrap();
    assert_eq!(found(&machine), "PREPARE p 1");
    // Refused, or not reached in its string: the name keeps its meaning.
    client(&mut machine, query("PREPARE p 2"), |_| Ok(prepares("p")));
    server(&mut machine, join(&[error("42P05"), ready(b'I')])).unwrap();
    assert_eq!(found(&machine), "PREPARE p 1");
    let group = join(&[parse("", "PREPARE p 3"), bind("", ""), execute(""), sync()]);
    client(&mut machine, group, |_| Ok(prepares("p")));
    server(&mut machine, join(&[msg(b'1', b""), error("22P02"), ready(b'I')])).unwrap();
    assert_eq!(found(&machine), "PREPARE p 1");
    let close = StatementPlan { names: Effect::Deallocate("p".into()), ..StatementPlan::default() };
    client(&mut machine, query("DEALLOCATE p"), |_| Ok(plan(vec![close.clone()])));
    server(&mut machine, join(&[complete("DEALLOCATE"), ready(b'I')])).unwrap();
    assert_eq!(found(&machine), "nothing");
}

#[test]
fn what_a_name_returns_is_described_at_each_execution() {
    let unlinked =
        || plan(vec![StatementPlan { output: Output::OfName, names: Effect::Uses, ..Default::default() }]);
    let linked = |mask| {
        let plan = columns(&[mask]);
        Arc::new(Plan { linked: true, ..(*plan).clone() })
    };
    let mut machine = machine();
    let group = join(&[parse("s", "FETCH c"), msg(b'D', b"Ss\0"), bind("", "s"), execute(""), sync()]);
    let (sent, _) = client(&mut machine, group, |question| match question.what {
        Asked::Execute { .. } => Ok(linked(Some(Mask::Redact))),
        _ => Ok(unlinked()),
    });
    assert_eq!(tags(sent), "PDBDES");
    let shape = || description(&[(7, 2, 25)]);
    let head = join(&[msg(b'1', b""), msg(b't', b"\0\0"), shape(), msg(b'2', b"")]);
    let (out, _) =
        server(&mut machine, join(&[head, shape(), row(&["secret"]), complete("FETCH 1"), ready(b'I')]))
            .unwrap();
    assert!(!out.windows(6).any(|window| window == b"secret"));
    assert_eq!(tags(out), "1tT2DCZ");
    // The same statement later, when the server says that the name stands for something else than the plan knows.
    client(&mut machine, join(&[bind("", "s"), execute(""), sync()]), |_| Ok(linked(None)));
    assert!(server(&mut machine, join(&[msg(b'2', b""), shape(), row(&["secret"])])).is_err());
}

#[test]
fn a_message_that_waits_is_looked_at_again_when_the_server_answers() {
    let mut machine = machine();
    let mut input = join(&[parse("s", "A"), sync(), parse("", "B"), bind("", "s"), execute(""), sync()]);
    let mut staged = Staged::default();
    while let Next::Ask(_) = machine.client(&mut input, &mut staged).unwrap() {
        machine.permit(Permit::for_test(), nothing(), &mut staged);
    }
    let before = machine.answers();
    server(&mut machine, join(&[msg(b'1', b""), ready(b'I')])).unwrap();
    assert_ne!(machine.answers(), before);
    // The server keeps its answer to the second Parse until it is told to flush: nothing may wait for that.
    assert!(!machine.idle());
    assert!(matches!(machine.client(&mut input, &mut staged).unwrap(), Next::Ask(_)));
}

#[test]
fn portals_end_with_their_transaction() {
    let mut machine = machine();
    client(&mut machine, join(&[parse("s", "A"), bind("p", "s"), execute("p"), sync()]), |_| Ok(nothing()));
    let done = join(&[msg(b'1', b""), msg(b'2', b""), complete("A"), ready(b'I')]);
    server(&mut machine, done).unwrap();
    let (sent, _) = client(&mut machine, join(&[execute("p"), sync()]), |_| Ok(nothing()));
    assert_eq!(tags(sent), "PS", "a poison: the portal is gone");
}

#[test]
fn what_is_kept_for_a_session_has_an_end() {
    let long = "x".repeat(50 << 20);
    let sent_for = |machine: &mut Machine<Table7>, bytes: BytesMut| {
        let (sent, _) = client(machine, bytes, |_| Ok(nothing()));
        assert!(!sent.is_empty());
        sent.len() > long.len()
    };
    let mut machine = machine();
    for name in ["a", "b", "c", "d", "e"] {
        assert!(sent_for(&mut machine, join(&[parse(name, &long), sync()])));
        server(&mut machine, join(&[msg(b'1', b""), ready(b'I')])).unwrap();
    }
    assert!(!sent_for(&mut machine, join(&[parse("f", &long), sync()])));
    let (out, _) = server(&mut machine, join(&[error("42601"), ready(b'I')])).unwrap();
    assert_eq!(limits::only_error(out).0, "54000");
    // What is closed makes room, and what has no name takes the place of its like.
    client(&mut machine, join(&[msg(b'C', b"Sa\0"), sync()]), |_| Ok(nothing()));
    server(&mut machine, join(&[msg(b'3', b""), ready(b'I')])).unwrap();
    for _ in 0..3 {
        assert!(sent_for(&mut machine, join(&[parse("", &long), sync()])));
        server(&mut machine, join(&[msg(b'1', b""), ready(b'I')])).unwrap();
    }
    // Unconfirmed, each is kept.
    assert!(sent_for(&mut machine, join(&[parse("", &long), msg(b'H', b"")])));
    assert!(!sent_for(&mut machine, join(&[parse("", &long), msg(b'H', b"")])));
}
