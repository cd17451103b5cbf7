//! A channel that goes on to a connection of its own.

use super::*;

fn beside(window: u32) -> Place {
    Place { number: 33, window, packet: 1 << 15 }
}

impl Session {
    fn up_on(&mut self) -> Vec<(u32, Bytes)> {
        let mut staged = self.staged.take_bytes();
        std::iter::from_fn(|| take_framed(&mut staged).map(|(on, message)| (on, message.freeze()))).collect()
    }

    fn server_beside(&mut self, id: u32, message: &Bytes) -> Option<Question> {
        self.machine.server_beside(id, message, &mut self.staged).unwrap()
    }
}

#[test]
fn a_channel_moves_with_what_was_asked_for_before_and_what_was_sent_ahead() {
    let mut session = Session::default();
    let id = session.open();
    session.client(&message(msg::CHANNEL_REQUEST, &[N(id), S("env"), B(false), S("LC_X"), S("y")]));
    let question = session.exec(id, "touch x");
    session.client(&message(msg::CHANNEL_DATA, &[N(id), S("input")]));
    session.client(&message(msg::CHANNEL_EOF, &[N(id)]));
    session.up();
    assert!(session.machine.could_go_beside(&question, &beside(1 << 21)));
    let permitted = (Permit::for_test(), Terms::default());
    session.machine.permit_beside(&question, permitted, &beside(1 << 21), &mut session.staged);
    session.machine.resume(id, &mut session.staged).unwrap();
    let up = session.up_on();
    assert_eq!(up[0], (MAIN, message(msg::CHANNEL_CLOSE, &[N(9)])));
    // As much as the client was promised on the first connection.
    assert_eq!((up[1].0, up[1].1[0]), (id, msg::CHANNEL_WINDOW_ADJUST));
    let rest: Vec<Bytes> =
        up[2..].iter().map(|(on, message)| (*on == id).then(|| message.clone()).unwrap()).collect();
    assert_eq!(
        rest,
        [
            message(msg::CHANNEL_REQUEST, &[N(33), S("env"), B(false), S("LC_X"), S("y")]),
            message(msg::CHANNEL_REQUEST, &[N(33), S("exec"), B(true), S("touch x")]),
            message(msg::CHANNEL_DATA, &[N(33), S("input")]),
            message(msg::CHANNEL_EOF, &[N(33)]),
        ]
    );
    // The end on the first connection is not the client's; what comes by the other is.
    session.server(&message(msg::CHANNEL_CLOSE, &[N(id)]));
    assert_eq!(session.down(), Vec::<Bytes>::new());
    session.server_beside(id, &message(msg::CHANNEL_SUCCESS, &[N(id)]));
    session.server_beside(id, &message(msg::CHANNEL_DATA, &[N(id), S("output")]));
    assert_eq!(numbers(&session.down()), [msg::CHANNEL_SUCCESS, msg::CHANNEL_DATA]);
    let late = message(msg::CHANNEL_DATA, &[N(id), S("forged")]);
    assert!(
        session.machine.server(&late, &mut session.staged).is_err(),
        "the first connection has no such channel"
    );
    session.machine.lost_beside(id, &mut session.staged).unwrap();
    assert_eq!(numbers(&session.down()), [msg::CHANNEL_CLOSE]);
    assert!(!session.machine.is_beside(id));
}

#[test]
fn one_channel_is_no_other_and_smaller_windows_do_not_do() {
    let mut session = Session::default();
    let (first, second) = (session.open(), session.open());
    let question = session.exec(first, "touch x");
    assert!(!session.machine.could_go_beside(&question, &beside(1 << 10)), "the client was promised more");
    assert!(!session.machine.could_go_beside(&question, &Place { packet: 1024, ..beside(1 << 21) }));
    let permitted = (Permit::for_test(), Terms::default());
    session.machine.permit_beside(&question, permitted, &beside(1 << 21), &mut session.staged);
    for stray in [
        message(msg::CHANNEL_DATA, &[N(second), S("x")]),
        message(msg::CHANNEL_OPEN_CONFIRMATION, &[N(first), N(1), N(1), N(1)]),
        message(msg::REQUEST_SUCCESS, &[]),
    ] {
        assert!(session.machine.server_beside(first, &stray, &mut session.staged).is_err(), "{stray:?}");
    }
    assert!(session.machine.server_beside(second, &stray_data(second), &mut session.staged).is_err());
}

fn stray_data(id: u32) -> Bytes {
    message(msg::CHANNEL_DATA, &[N(id), S("x")])
}
