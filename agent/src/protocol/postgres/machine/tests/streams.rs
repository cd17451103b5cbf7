//! What streams of replication carry, in whatever pieces it comes.

use chaperone_sql::{Access, Class, Flag, NameOp, Output as Rows, Reshapes, Statement, Verb};
use sha2::{Digest, Sha256};

use super::*;

fn replicating() -> Arc<Plan> {
    let statement = Statement {
        class: Class::Select,
        accesses: vec![Access { action: Verb::Replicate, relation: None }],
        flags: [Flag::Opaque].into(),
        output: Rows::CleanRows,
        strict: false,
        reshapes: Reshapes::Nothing,
        sets: false,
        names: NameOp::None,
        copy: None,
        transaction: None,
        range: 0..0,
    };
    Arc::new(Plan {
        unread: true,
        rows_recorded: false,
        analysis: [statement].into(),
        ..Plan::clone(&nothing())
    })
}

fn of(bytes: &[u8]) -> Streamed {
    Streamed { bytes: bytes.len() as u64, sha256: crate::hex(&Sha256::digest(bytes)) }
}

/// Plays a stream both ways, `size` bytes at a time; gives what was streamed by the outcome.
fn played(size: usize, begins: u8, down: &[&[u8]], up: &[&[u8]]) -> Option<Box<(Streamed, Streamed)>> {
    let mut machine = Machine::new(Table7, false, true);
    client(&mut machine, query("START_REPLICATION"), |_| Ok(replicating()));
    let mut outcomes = Vec::new();
    let mut serve = |machine: &mut Machine<Table7>, bytes: BytesMut| {
        let (mut input, mut out) = (BytesMut::new(), BytesMut::new());
        for piece in bytes.chunks(size) {
            input.extend_from_slice(piece);
            machine.server(&mut input, &mut out, &mut outcomes).unwrap();
        }
        assert_eq!(out, bytes);
    };
    serve(&mut machine, msg(begins, &[0, 0, 0]));
    for data in down {
        serve(&mut machine, msg(b'd', data));
    }
    let (mut input, mut staged) = (BytesMut::new(), Staged::default());
    for data in up {
        for piece in msg(b'd', data).chunks(size) {
            input.extend_from_slice(piece);
            assert!(matches!(machine.client(&mut input, &mut staged), Ok(Next::Input)));
        }
    }
    if begins == b'W' {
        client(&mut machine, msg(b'c', b""), |_| unreachable!());
    }
    serve(&mut machine, join(&[msg(b'c', b""), complete("COPY 0"), ready(b'I')]));
    assert_eq!(outcomes.len(), 1);
    outcomes.remove(0).streamed
}

#[test]
fn both_directions_are_summed_up_in_whatever_pieces_they_come() {
    let large: Vec<u8> = (0..50_000u32).map(|number| number.to_le_bytes()[0] ^ 0x5a).collect();
    let (down, up): ([&[u8]; 3], [&[u8]; 2]) = ([b"w first", &large, b"k"], [b"r one", &large]);
    let expect = (of(&down.concat()), of(&up.concat()));
    for size in [1, 3, 4_096, 20_000, 1 << 20] {
        assert_eq!(played(size, b'W', &down, &up).as_deref(), Some(&expect), "{size}");
    }
    let backup = (of(&down.concat()), of(b""));
    assert_eq!(played(777, b'H', &down, &[]).as_deref(), Some(&backup));
}

#[test]
fn a_stream_that_breaks_off_is_summed_up_so_far() {
    let mut machine = Machine::new(Table7, false, true);
    client(&mut machine, query("START_REPLICATION"), |_| Ok(replicating()));
    server(&mut machine, join(&[msg(b'W', &[0, 0, 0]), msg(b'd', b"some")])).unwrap();
    let streamed = machine.abandoned().remove(0).streamed;
    assert_eq!(streamed.as_deref(), Some(&(of(b"some"), of(b""))));
}
