//! Values without a label that look like something: replaced in rows, COPY, errors, notices and notifications.

use super::*;
use crate::detect::Kind;
use crate::protocol::postgres::plan::{Copy, CopyFormat};
use crate::protocol::postgres::watch::Place;

const CARD: &str = "4111111111111111";
const MAIL: &str = "write to ada@example.com";

fn looking(guarded: bool) -> Machine<Table7> {
    let mut machine = Machine::new(Table7, guarded, true);
    machine.look();
    machine
}

fn has(out: &[u8], part: &str) -> bool {
    out.windows(part.len()).any(|window| window == part.as_bytes())
}

fn places(machine: &mut Machine<Table7>) -> Vec<(Place, Kind)> {
    machine.take_sightings().into_iter().map(|seen| (seen.place, seen.kind)).collect()
}

#[test]
fn rows_lose_what_looks_like_something_by_their_types() {
    // int4, text, jsonb, bpchar with a label that is shown or masked as the plan says.
    let described = || description(&[(7, 1, 23), (9, 2, 25), (9, 3, 3802), (7, 2, 1042)]);
    for guarded in [true, false] {
        let mut machine = looking(guarded);
        let plan = columns(&[None, None, None, guarded.then_some(Mask::Redact)]);
        client(&mut machine, query("SELECT"), |_| Ok(Arc::clone(&plan)));
        let rows = join(&[
            described(),
            row(&[CARD, MAIL, MAIL, MAIL]),
            row(&["1", "nothing", "{}", CARD]),
            complete("SELECT 2"),
            ready(b'I'),
        ]);
        let (out, outcomes) = server(&mut machine, rows).unwrap();
        // Numbers in number types are not looked at, nor is what has a label: that decides.
        let last = |shown: &str| if guarded { "***".to_owned() } else { shown.to_owned() };
        let mut first = row(&[CARD, "***", "", &last(MAIL)]);
        let at = first.windows(4).position(|window| window == [0, 0, 0, 0]).unwrap();
        first[at..at + 4].copy_from_slice(&[0xff; 4]);
        let expect = join(&[first, row(&["1", "nothing", "{}", &last(CARD)])]);
        assert!(out.windows(expect.len()).any(|window| window == expect), "{}", out.escape_ascii());
        assert_eq!(outcomes[0].masked_cells, if guarded { 4 } else { 2 });
        assert_eq!(
            places(&mut machine),
            [(Place::Column(9, 2), Kind::Email), (Place::Column(9, 3), Kind::Email)]
        );
    }
}

#[test]
fn what_nobody_describes_is_asked_for_first() {
    let mut machine = looking(false);
    let all = join(&[parse("", "SELECT"), bind("", ""), execute(""), sync()]);
    let (sent, _) = client(&mut machine, all, |_| Ok(columns(&[None])));
    assert_eq!(tags(sent), "PBDES");
    let answers = join(&[
        msg(b'1', b""),
        msg(b'2', b""),
        description(&[(0, 0, 25)]),
        row(&[MAIL]),
        complete("SELECT 1"),
        ready(b'I'),
    ]);
    let (out, _) = server(&mut machine, answers).unwrap();
    assert!(!has(&out, "ada@") && has(&out, "***"), "{}", out.escape_ascii());
    assert_eq!(places(&mut machine), [(Place::Position(1), Kind::Email)]);
}

#[test]
fn a_row_is_served_when_it_is_whole_and_not_before() {
    let mut machine = looking(false);
    client(&mut machine, query("SELECT"), |_| Ok(columns(&[None])));
    let long = row(&[&format!("{} {MAIL}", "x".repeat(100_000))]);
    let (cut, rest) = long.split_at(60_000);
    let mut input = join(&[description(&[(9, 1, 25)]), BytesMut::from(cut)]);
    let (mut out, mut outcomes) = (BytesMut::new(), Vec::new());
    machine.server(&mut input, &mut out, &mut outcomes).unwrap();
    assert!(!has(&out, "xxx"), "half a row was served");
    input.extend_from_slice(rest);
    machine.server(&mut input, &mut out, &mut outcomes).unwrap();
    assert!(out.ends_with(b"\0\x01\0\0\0\x03***"), "{}", out.escape_ascii());
}

#[test]
fn copied_fields_become_null() {
    let format = CopyFormat::Text { delimiter: b'\t', null: "\\N".into(), header: false };
    let copy = plan(vec![StatementPlan { copy: Some(Copy::Out(format)), ..StatementPlan::default() }]);
    let mut machine = looking(false);
    client(&mut machine, query("COPY"), |_| Ok(Arc::clone(&copy)));
    let data = join(&[
        msg(b'H', b"\0\0\x02\0\0\0\0"),
        msg(b'd', b"1\t4111 1111 1111 1111\n"),
        msg(b'd', b"2\tnothing\n"),
        msg(b'c', b""),
        complete("COPY 2"),
        ready(b'I'),
    ]);
    let (out, outcomes) = server(&mut machine, data).unwrap();
    assert!(has(&out, "1\t\\N\n") && has(&out, "2\tnothing\n"), "{}", out.escape_ascii());
    assert_eq!((outcomes[0].masked_cells, places(&mut machine)), (1, vec![(Place::Copy, Kind::Card)]));
}

#[test]
fn errors_notices_and_notifications_lose_their_texts() {
    let mut machine = looking(false);
    let told = |tag| msg(tag, format!("SERROR\0VERROR\0C22P02\0Mbad: {MAIL}\0Hlook\0\0").as_bytes());
    client(&mut machine, query("SELECT"), |_| Ok(nothing()));
    let notified = msg(b'A', format!("\0\0\0\x07news\0{MAIL}\0").as_bytes());
    let (out, _) = server(&mut machine, join(&[told(b'N'), told(b'E'), ready(b'I'), notified])).unwrap();
    assert!(!has(&out, "ada@") && has(&out, "Hlook") && has(&out, "C22P02"), "{}", out.escape_ascii());
    assert!(out.ends_with(b"A\0\0\0\x0e\0\0\0\x07news\0\0"), "{}", out.escape_ascii());
    let seen: Vec<Place> = places(&mut machine).into_iter().map(|(place, _)| place).collect();
    assert_eq!(seen, [Place::Notice, Place::Error, Place::Notification]);
}
