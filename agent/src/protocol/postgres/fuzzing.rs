//! Mutated sessions: whatever a client and a server say, no statement reaches the server that was not permitted. Driven by
//! the unit tests, and longer by the fuzzer in fuzz/.

use std::sync::Arc;

use bytes::{BufMut as _, BytesMut};

use super::codec;
use super::machine::{Asked, Machine, Next, Question};
use super::plan::{Mask, Output, Plan, StatementPlan};
use super::response::Report;
use super::rows::Origins;
use crate::gate::{Permit, Staged};

/// Column 2 of table 7 is masked.
struct Table7;

impl Origins for Table7 {
    fn masked(&self, table: u32, attribute: i16) -> bool {
        table == 7 && attribute == 2
    }
}

const POISON: &[u8] = b" */ chaperone_denied";

/// A shorter text may be part of what is sent in its place.
const TELLING: usize = 80;

/// Steps of one byte, a length of two and bytes: 0 and 1 are the client's, 2 and 3 the server's, 4 permits what waits, 5
/// denies it. What is denied does not reach the server, and no statement does without a permit of its own.
/// Gives how many statements reached the server.
#[must_use]
pub fn session(mut input: &[u8]) -> usize {
    let mut machine = Machine::new(Table7, true, true);
    let (mut client, mut server) = (BytesMut::new(), BytesMut::new());
    let mut waiting: Option<Question> = None;
    let (mut sent, mut permits, mut statements) = (BytesMut::new(), 0usize, 0usize);
    while let Some((kind, rest)) = input.split_first() {
        let Some(length) = rest.first_chunk().map(|length| usize::from(u16::from_be_bytes(*length))) else {
            break;
        };
        let rest = rest.get(2..).unwrap_or_default();
        let (bytes, rest) = rest.split_at(length.min(rest.len()));
        input = rest;
        let mut staged = Staged::default();
        match kind % 6 {
            0 | 1 => client.extend_from_slice(bytes),
            2 | 3 => {
                server.extend_from_slice(bytes);
                let (mut out, mut outcomes) = (BytesMut::new(), Vec::new());
                if machine.server(&mut server, &mut out, &mut outcomes).is_err() {
                    break;
                }
                for outcome in &outcomes {
                    assert!(outcome.at <= out.len(), "an outcome behind what was served");
                }
                machine.take_unrecorded();
                machine.take_raw();
            }
            4 if waiting.take().is_some() => {
                permits += 1;
                machine.permit(Permit::for_test(), plan(), &mut staged);
            }
            5 => {
                let Some(question) = waiting.take() else { continue };
                machine.deny(Report::new("42501", "no"), &mut staged);
                let instead = staged.take_bytes();
                if let Asked::Query { sql } | Asked::Prepare { sql } = &question.what
                    && sql.len() > TELLING
                {
                    let there = instead.windows(sql.len()).any(|window| window == sql.as_bytes());
                    assert!(!there, "what was denied is sent: {sql}");
                }
                staged.continuation(&instead);
            }
            _ => continue,
        }
        if waiting.is_none() {
            match machine.client(&mut client, &mut staged) {
                Ok(Next::Ask(question)) => waiting = Some(question),
                Ok(Next::Input | Next::Wait) => {}
                Ok(Next::Terminate) | Err(_) => break,
            }
        }
        sent.extend_from_slice(&staged.take_bytes());
        while let Some(length) = sent.get(1..).and_then(|rest| rest.first_chunk::<4>()) {
            let total = 1 + u32::from_be_bytes(*length) as usize;
            if sent.len() < total {
                break;
            }
            let message = sent.split_to(total);
            // What cannot parse stands in the place of what names nothing, with no question asked.
            let poison = message.windows(POISON.len()).any(|window| window == POISON);
            statements += usize::from(!poison && matches!(message.first(), Some(b'Q' | b'P' | b'F')));
        }
        assert!(statements <= permits, "{statements} statements sent, {permits} permitted");
    }
    machine.abandoned();
    statements
}

fn plan() -> Arc<Plan> {
    let output = Output::Columns(vec![None, Some(Mask::Redact)]);
    Arc::new(Plan::for_test(vec![StatementPlan { output, ..StatementPlan::default() }]))
}

fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let mut out = BytesMut::new();
    codec::put(&mut out, tag, |out| out.put_slice(body));
    out.to_vec()
}

fn steps(steps: &[(u8, &[u8])]) -> Vec<u8> {
    let mut out = Vec::new();
    for (kind, bytes) in steps {
        out.push(*kind);
        out.put_u16(u16::try_from(bytes.len()).unwrap_or(u16::MAX));
        out.extend_from_slice(bytes);
    }
    out
}

/// Sessions to begin with: a query, prepared statements, denials, COPY.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let query = message(
        b'Q',
        b"select id, email from customers where name is not null and id between 1 and 9 order by id, name\0",
    );
    let parse = message(b'P', b"s\0select id, email from customers\0\0\0");
    let bind = message(b'B', b"p\0s\0\0\0\0\0\0\0");
    let (describe, execute) = (message(b'D', b"Pp\0"), message(b'E', b"p\0\0\0\0\0"));
    let (sync, ready) = (message(b'S', b""), message(b'Z', b"I"));
    let mut columns = vec![0, 2];
    for number in [1i16, 2] {
        columns.put_slice(b"name\0");
        columns.put_u32(7);
        columns.put_i16(number);
        columns.put_slice(&[0, 0, 0, 25, 0, 4, 0, 0, 0, 0, 0, 0]);
    }
    let described = message(b'T', &columns);
    let row = message(b'D', b"\0\x02\0\0\0\x011\0\0\0\x06secret");
    let done = message(b'C', b"SELECT 1\0");
    let rows = [&described[..], &row, &done, &ready].concat();
    let extended = [&parse[..], &bind, &describe, &execute, &sync].concat();
    let answers = [&message(b'1', b"")[..], &message(b'2', b""), &described, &row, &done, &ready].concat();
    let error = [message(b'E', b"SERROR\0C42601\0Mno\0\0"), ready.clone()].concat();
    let copy = [message(b'G', b"\0\0\0"), message(b'C', b"COPY 1\0"), ready].concat();
    let data = [message(b'd', b"1\tsecret\n"), message(b'c', b"")].concat();
    vec![
        steps(&[(0, &query), (4, b""), (2, &rows), (0, &query), (5, b""), (2, &error)]),
        steps(&[(0, &extended), (4, b""), (4, b""), (2, &answers)]),
        steps(&[(0, &extended), (4, b""), (5, b""), (2, &answers), (2, &error)]),
        steps(&[(0, &query), (4, b""), (2, &copy), (0, &data), (0, &sync)]),
    ]
}

#[test]
fn fuzz_what_is_not_permitted_does_not_reach_the_server() {
    let seeds = seeds();
    let sent: Vec<usize> = seeds.iter().map(|seed| session(seed)).collect();
    assert_eq!(sent, [1, 1, 1, 1], "the sessions get as far as they are meant to");
    crate::mutate::fuzz(&seeds, |input| {
        let _ = session(input);
    });
}
