mod beside;
mod fuzz;
mod tunnel;

use bytes::Bytes;
use proptest::prelude::*;

use super::super::codec::{Reader, put_string};
use super::*;
use crate::gate::{Permit, Staged};

/// A message with a channel and more numbers and strings.
fn message(number: u8, parts: &[Part<'_>]) -> Bytes {
    let mut out = vec![number];
    for part in parts {
        match part {
            Part::N(value) => out.put_u32(*value),
            Part::S(text) => put_string(&mut out, text.as_bytes()),
            Part::B(yes) => out.put_u8(u8::from(*yes)),
        }
    }
    out.into()
}

#[derive(Clone, Copy)]
enum Part<'a> {
    N(u32),
    S(&'a str),
    B(bool),
}
use Part::{B, N, S};

#[derive(Default)]
struct Session {
    machine: Machine,
    staged: Staged,
}

impl Session {
    fn client(&mut self, message: &Bytes) -> Option<Question> {
        self.machine.client(message, &mut self.staged).unwrap()
    }

    fn server(&mut self, message: &Bytes) -> Option<Question> {
        self.machine.server(message, &mut self.staged).unwrap()
    }

    /// A channel that is open both ways, under the numbers 7 (client) and 9 (target); ours is the first free.
    fn open(&mut self) -> u32 {
        self.client(&message(msg::CHANNEL_OPEN, &[S("session"), N(7), N(1 << 21), N(1 << 15)]));
        let up = self.up();
        let mut reader = Reader::new(&up[0][1..]);
        reader.string().unwrap();
        let id = reader.u32().unwrap();
        self.server(&message(msg::CHANNEL_OPEN_CONFIRMATION, &[N(id), N(9), N(0), N(1 << 15)]));
        self.server(&message(msg::CHANNEL_WINDOW_ADJUST, &[N(id), N(1 << 21)]));
        self.down();
        id
    }

    fn up(&mut self) -> Vec<Bytes> {
        let mut staged = self.staged.take_bytes();
        std::iter::from_fn(|| take_framed(&mut staged).map(|(_, message)| message.freeze())).collect()
    }

    fn down(&mut self) -> Vec<Bytes> {
        frames(&mut self.machine.served)
    }

    fn exec(&mut self, id: u32, command: &str) -> Question {
        self.client(&message(msg::CHANNEL_REQUEST, &[N(id), S("exec"), B(true), S(command)])).unwrap()
    }

    fn permit(&mut self, question: &Question) -> Option<Question> {
        let terms = Terms { output: true, ..Terms::default() };
        self.machine.permit(question, Permit::for_test(), terms, &mut self.staged);
        self.machine.resume(question.channel, &mut self.staged).unwrap()
    }

    fn deny(&mut self, question: &Question) -> Option<Question> {
        self.machine.deny(question, "no", &mut self.staged);
        self.machine.resume(question.channel, &mut self.staged).unwrap()
    }
}

fn frames(buffer: &mut BytesMut) -> Vec<Bytes> {
    std::iter::from_fn(|| take_frame(buffer).map(BytesMut::freeze)).collect()
}

fn numbers(messages: &[Bytes]) -> Vec<u8> {
    messages.iter().map(|message| message[0]).collect()
}

#[test]
fn nothing_of_a_command_goes_on_before_it_is_permitted() {
    let mut session = Session::default();
    let id = session.open();
    let question = session.exec(id, "cat");
    assert_eq!(question.what, Asked::Exec(b"cat".to_vec()));
    session.client(&message(msg::CHANNEL_DATA, &[N(id), S("input")]));
    session.client(&message(msg::CHANNEL_EOF, &[N(id)]));
    assert_eq!((session.up(), session.down()), (vec![], vec![]));
    assert_eq!(session.permit(&question), None);
    let up = session.up();
    assert_eq!(numbers(&up), [msg::CHANNEL_REQUEST, msg::CHANNEL_DATA, msg::CHANNEL_EOF]);
    assert_eq!(up[0], message(msg::CHANNEL_REQUEST, &[N(9), S("exec"), B(true), S("cat")]));
    assert_eq!(up[1], message(msg::CHANNEL_DATA, &[N(9), S("input")]));
}

#[test]
fn a_denied_command_is_over_at_once_on_both_sides_and_deaf_afterwards() {
    let mut session = Session::default();
    let id = session.open();
    let question = session.exec(id, "rm x");
    session.client(&message(msg::CHANNEL_DATA, &[N(id), S("input")]));
    assert_eq!(session.deny(&question), None);
    assert_eq!(numbers(&session.up()), [msg::CHANNEL_CLOSE]);
    let down = session.down();
    assert_eq!(
        numbers(&down),
        [
            msg::CHANNEL_SUCCESS,
            msg::CHANNEL_EXTENDED_DATA,
            msg::CHANNEL_REQUEST,
            msg::CHANNEL_EOF,
            msg::CHANNEL_CLOSE
        ]
    );
    assert_eq!(down[1], message(msg::CHANNEL_EXTENDED_DATA, &[N(7), N(1), S("chaperone: no\r\n")]));
    for late in [
        message(msg::CHANNEL_DATA, &[N(id), S("more")]),
        message(msg::CHANNEL_REQUEST, &[N(id), S("exec"), B(true), S("rm x")]),
        message(msg::CHANNEL_EOF, &[N(id)]),
        message(msg::CHANNEL_CLOSE, &[N(id)]),
    ] {
        assert_eq!(session.client(&late), None);
    }
    session.server(&message(msg::CHANNEL_CLOSE, &[N(id)]));
    assert_eq!((session.up(), session.down()), (vec![], vec![]));
    assert!(session.machine.channels.is_empty());
}

#[test]
fn a_channel_runs_one_program_only() {
    let mut session = Session::default();
    let id = session.open();
    let question = session.exec(id, "true");
    session.permit(&question);
    session.up();
    for (name, more) in [("exec", "rm x"), ("shell", ""), ("subsystem", "sftp"), ("pty-req", "")] {
        let request = message(msg::CHANNEL_REQUEST, &[N(id), S(name), B(false), S(more)]);
        assert_eq!(session.client(&request), None, "{name}");
        assert_eq!(session.up(), Vec::<Bytes>::new(), "{name}");
    }
    assert_eq!(session.machine.take_refused().len(), 4);
}

#[test]
fn answers_keep_the_order_of_the_requests() {
    let mut session = Session::default();
    let id = session.open();
    let env = |name| message(msg::CHANNEL_REQUEST, &[N(id), S("env"), B(true), S(name), S("v")]);
    session.client(&env("LC_TIME"));
    session.client(&env("LD_PRELOAD"));
    assert_eq!(session.down(), Vec::<Bytes>::new(), "the target has not answered the first yet");
    session.server(&message(msg::CHANNEL_SUCCESS, &[N(id)]));
    assert_eq!(numbers(&session.down()), [msg::CHANNEL_SUCCESS, msg::CHANNEL_FAILURE]);
    assert_eq!(session.up().len(), 1);
}

#[test]
fn a_variable_that_is_asked_about_goes_on_when_it_is_permitted_and_before_the_program() {
    let mut session = Session::default();
    let id = session.open();
    let env = message(msg::CHANNEL_REQUEST, &[N(id), S("env"), B(true), S("RELEASE"), S("7")]);
    for yes in [true, false] {
        let question = session.client(&env).unwrap();
        assert_eq!(question.what, Asked::Env { name: "RELEASE".to_owned(), value: "7".to_owned() });
        assert_eq!(session.up(), Vec::<Bytes>::new());
        let next = if yes { session.permit(&question) } else { session.deny(&question) };
        assert_eq!((next, session.up().len()), (None, usize::from(yes)));
    }
    session.server(&message(msg::CHANNEL_SUCCESS, &[N(id)]));
    assert_eq!(numbers(&session.down()), [msg::CHANNEL_SUCCESS, msg::CHANNEL_FAILURE]);
    // Remembered for a connection of the channel's own, where nobody waits for the answer.
    let again = message(msg::CHANNEL_REQUEST, &[N(9), S("env"), B(false), S("RELEASE"), S("7")]);
    assert_eq!(session.machine.channels[&id].before, [again]);
    let question = session.exec(id, "true");
    session.permit(&question);
    assert_eq!(session.up().len(), 1);
}

#[test]
fn variables_and_terminals_are_remembered_up_to_a_limit() {
    let mut session = Session::default();
    let id = session.open();
    let modes = "m".repeat(20 << 10);
    let pty = message(
        msg::CHANNEL_REQUEST,
        &[N(id), S("pty-req"), B(false), S("xterm"), N(80), N(24), N(0), N(0), S(&modes)],
    );
    for _ in 0..3 {
        let question = session.client(&pty).unwrap();
        session.permit(&question);
    }
    assert_eq!(session.client(&pty), None);
    assert_eq!(session.up().len(), 3);
    assert_eq!(session.machine.take_refused().len(), 1);
}

#[test]
fn a_client_that_closes_a_held_channel_withdraws_it() {
    let mut session = Session::default();
    let id = session.open();
    let question = session.exec(id, "touch x");
    session.machine.hold(&question, "wait");
    assert_eq!(numbers(&session.down()), [msg::CHANNEL_EXTENDED_DATA]);
    session.client(&message(msg::CHANNEL_CLOSE, &[N(id)]));
    assert_eq!(session.machine.withdrawn, [id]);
    assert_eq!(numbers(&session.up()), [msg::CHANNEL_CLOSE]);
    // A decision that comes too late finds nobody.
    session.permit(&question);
    assert!(!numbers(&session.up()).contains(&msg::CHANNEL_REQUEST));
}

#[test]
fn the_target_cannot_teach_keys_or_open_channels() {
    let mut session = Session::default();
    session.server(&message(msg::GLOBAL_REQUEST, &[S("hostkeys-00@openssh.com"), B(false), S("key")]));
    session.server(&message(msg::CHANNEL_OPEN, &[S("auth-agent@openssh.com"), N(3), N(9), N(9)]));
    assert_eq!(session.down(), Vec::<Bytes>::new());
    assert_eq!(numbers(&session.up()), [msg::CHANNEL_OPEN_FAILURE]);
}

#[test]
fn what_a_client_sends_ahead_is_bounded() {
    let mut session = Session::default();
    let id = session.open();
    session.exec(id, "cat");
    let data = message(msg::CHANNEL_REQUEST, &[N(id), S("signal"), B(false), S(&"x".repeat(32 << 10))]);
    let flooded = (0..200).any(|_| session.machine.client(&data, &mut session.staged).is_err());
    assert!(flooded, "everything was kept");
}

fn any_message() -> impl Strategy<Value = Bytes> {
    let names =
        prop::sample::select(vec!["session", "exec", "env", "subsystem", "sftp", "pty-req", "signal", "x"]);
    let part = prop_oneof![
        (0u32..4).prop_map(|n| n.to_be_bytes().to_vec()),
        any::<u32>().prop_map(|n| n.to_be_bytes().to_vec()),
        any::<bool>().prop_map(|b| vec![u8::from(b)]),
        names.prop_map(|name| {
            let mut out = Vec::new();
            put_string(&mut out, name.as_bytes());
            out
        }),
        prop::collection::vec(any::<u8>(), 0..60).prop_map(|bytes| {
            let mut out = Vec::new();
            put_string(&mut out, &bytes);
            out
        }),
    ];
    (80u8..101, prop::collection::vec(part, 0..6))
        .prop_map(|(number, parts)| std::iter::once(number).chain(parts.concat()).collect())
}

proptest! {
    /// Whatever either side sends, a program that was not permitted never reaches the target.
    #[test]
    fn no_sequence_of_messages_runs_what_was_not_permitted(
        steps in prop::collection::vec((any::<bool>(), any_message(), any::<bool>()), 0..80)
    ) {
        let mut session = Session::default();
        let id = session.open();
        prop_assert_eq!(id, 1);
        for (from_client, message, deny) in steps {
            let outcome = if from_client {
                session.machine.client(&message, &mut session.staged)
            } else {
                session.machine.server(&message, &mut session.staged)
            };
            let Ok(mut next) = outcome else { return Ok(()) };
            while let Some(question) = next {
                if deny {
                    session.machine.deny(&question, "no", &mut session.staged);
                } else {
                    session.machine.hold(&question, "wait");
                    break;
                }
                next = match session.machine.resume(question.channel, &mut session.staged) {
                    Ok(next) => next,
                    Err(_) => return Ok(()),
                };
            }
            for up in session.up() {
                let mut reader = Reader::new(&up[1..]);
                if up[0] == msg::CHANNEL_REQUEST && reader.u32().is_ok() {
                    let name = reader.text().unwrap_or_default();
                    prop_assert!(!matches!(name, "exec" | "shell" | "subsystem" | "pty-req"), "{name}");
                }
                prop_assert!(!matches!(up[0], msg::CHANNEL_DATA | msg::CHANNEL_EXTENDED_DATA));
            }
            session.down();
            prop_assert!(session.machine.ahead <= AHEAD_MAX + (256 << 10));
            prop_assert!(session.machine.channels.len() <= CHANNELS_MAX);
        }
    }
}
