//! Mutated conversations: whatever two sides say in whatever order, nothing panics, what is kept is bounded, and the target
//! hears of no program, terminal or forwarding that was not permitted.

use super::super::super::variable::{self, Sort};
use super::*;

const FROM_CLIENT: u8 = 0;
const FROM_TARGET: u8 = 1;
const FROM_BESIDE: u8 = 2;
/// The number the first channel gets.
const ID: u32 = 1;

/// What an input is made of: who speaks, how long, and what.
fn said(script: &[(u8, Bytes)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (who, message) in script {
        out.push(*who);
        out.put_u16(u16::try_from(message.len()).unwrap());
        out.extend_from_slice(message);
    }
    out
}

fn next<'a>(input: &mut &'a [u8]) -> Option<(u8, &'a [u8])> {
    let (head, rest) = input.split_first_chunk::<3>()?;
    let length = usize::from(u16::from_be_bytes([head[1], head[2]])).min(rest.len());
    let (message, rest) = rest.split_at(length);
    *input = rest;
    Some((head[0] % 3, message))
}

fn opened(script: &mut Vec<(u8, Bytes)>) {
    script.extend([
        (FROM_CLIENT, message(msg::CHANNEL_OPEN, &[S("session"), N(7), N(1 << 21), N(1 << 15)])),
        (FROM_TARGET, message(msg::CHANNEL_OPEN_CONFIRMATION, &[N(ID), N(9), N(1 << 21), N(1 << 15)])),
    ]);
}

fn request(name: &str, parts: &[Part<'_>]) -> (u8, Bytes) {
    let mut all = vec![N(ID), S(name), B(true)];
    all.extend(parts.iter().copied());
    (FROM_CLIENT, message(msg::CHANNEL_REQUEST, &all))
}

fn sftp(kind: u8, body: &[u8]) -> String {
    let mut packet = u32::try_from(body.len() + 1).unwrap().to_be_bytes().to_vec();
    packet.push(kind);
    packet.extend_from_slice(body);
    String::from_utf8(packet).unwrap()
}

fn seeds() -> Vec<Vec<u8>> {
    let mut exec = Vec::new();
    opened(&mut exec);
    exec.extend([
        request("env", &[S("LANG"), S("C")]),
        request("env", &[S("RELEASE"), S("7")]),
        request("exec", &[S("cat /etc/passwd")]),
        (FROM_CLIENT, message(msg::CHANNEL_DATA, &[N(ID), S("input")])),
        (FROM_TARGET, message(msg::CHANNEL_SUCCESS, &[N(ID)])),
        (FROM_TARGET, message(msg::CHANNEL_DATA, &[N(ID), S("output")])),
        (FROM_TARGET, message(msg::CHANNEL_EXTENDED_DATA, &[N(ID), N(1), S("error")])),
        (FROM_TARGET, message(msg::CHANNEL_REQUEST, &[N(ID), S("exit-status"), B(false), N(0)])),
        (FROM_CLIENT, message(msg::CHANNEL_EOF, &[N(ID)])),
        (FROM_TARGET, message(msg::CHANNEL_EOF, &[N(ID)])),
        (FROM_TARGET, message(msg::CHANNEL_CLOSE, &[N(ID)])),
        (FROM_CLIENT, message(msg::CHANNEL_CLOSE, &[N(ID)])),
    ]);
    let mut shell = Vec::new();
    opened(&mut shell);
    shell.extend([
        request("pty-req", &[S("xterm"), N(80), N(24), N(0), N(0), S("")]),
        request("shell", &[]),
        request("window-change", &[N(100), N(40), N(0), N(0)]),
        request("x11-req", &[B(false), S("MIT"), S("00"), N(0)]),
        request("auth-agent-req@openssh.com", &[]),
        request("signal", &[S("INT")]),
        (FROM_CLIENT, message(msg::CHANNEL_WINDOW_ADJUST, &[N(ID), N(1 << 20)])),
        (FROM_BESIDE, message(msg::CHANNEL_DATA, &[N(ID), S("beside")])),
    ]);
    let mut files = Vec::new();
    opened(&mut files);
    files.extend([
        request("subsystem", &[S("sftp")]),
        (FROM_CLIENT, message(msg::CHANNEL_DATA, &[N(ID), S(&sftp(1, b"\0\0\0\x03"))])),
        (FROM_TARGET, message(msg::CHANNEL_DATA, &[N(ID), S(&sftp(2, b"\0\0\0\x03"))])),
        (
            FROM_CLIENT,
            message(msg::CHANNEL_DATA, &[N(ID), S(&sftp(3, b"\0\0\0\x01\0\0\0\x02/x\0\0\0\x01\0\0\0\0"))]),
        ),
        (
            FROM_TARGET,
            message(
                msg::CHANNEL_DATA,
                &[N(ID), S(&sftp(104, b"\0\0\0\x01\0\0\0\x01\0\0\0\x02/x\0\0\0\0\0\0\0\0"))],
            ),
        ),
        (FROM_TARGET, message(msg::CHANNEL_DATA, &[N(ID), S(&sftp(102, b"\0\0\0\x01\0\0\0\x01h"))])),
        (
            FROM_CLIENT,
            message(
                msg::CHANNEL_DATA,
                &[N(ID), S(&sftp(5, b"\0\0\0\x02\0\0\0\x01h\0\0\0\0\0\0\0\0\0\0\x10\0"))],
            ),
        ),
        (FROM_CLIENT, message(msg::CHANNEL_DATA, &[N(ID), S(&sftp(4, b"\0\0\0\x03\0\0\0\x01h"))])),
    ]);
    let forwards = vec![
        (FROM_CLIENT, message(msg::GLOBAL_REQUEST, &[S("tcpip-forward"), B(true), S("localhost"), N(8080)])),
        (FROM_CLIENT, message(msg::GLOBAL_REQUEST, &[S("keepalive@openssh.com"), B(true)])),
        (FROM_TARGET, message(msg::GLOBAL_REQUEST, &[S("hostkeys-00@openssh.com"), B(false)])),
        (
            FROM_CLIENT,
            message(
                msg::CHANNEL_OPEN,
                &[S("direct-tcpip"), N(3), N(1 << 21), N(1 << 15), S("10.0.0.1"), N(22), S("::1"), N(5)],
            ),
        ),
        (
            FROM_TARGET,
            message(
                msg::CHANNEL_OPEN,
                &[S("forwarded-tcpip"), N(4), N(1 << 21), N(1 << 15), S("a"), N(1), S("b"), N(2)],
            ),
        ),
        (FROM_TARGET, message(msg::REQUEST_SUCCESS, &[])),
        (FROM_CLIENT, message(msg::CHANNEL_DATA, &[N(ID), S("SSH-2.0-x\r\n")])),
    ];
    [exec, shell, files, forwards].iter().map(|script| said(script)).collect()
}

/// Of each kind of program and terminal: how many were permitted, and how many the target heard of.
#[derive(Default)]
struct Count {
    permitted: BTreeMap<&'static str, u32>,
    heard: BTreeMap<&'static str, u32>,
}

impl Count {
    fn permit(&mut self, what: &Asked) {
        let kind = match what {
            Asked::Exec(_) => "exec",
            Asked::Shell => "shell",
            Asked::Pty => "pty-req",
            Asked::Subsystem(_) => "subsystem",
            Asked::Env { .. } => "env",
            Asked::Tunnel { .. } | Asked::Forward(_) | Asked::Feature(_) | Asked::File(_) => return,
        };
        *self.permitted.entry(kind).or_default() += 1;
    }

    fn hear(&mut self, message: &[u8]) {
        let mut reader = Reader::new(&message[1..]);
        match message[0] {
            msg::CHANNEL_REQUEST => {
                let _recipient = reader.u32().unwrap();
                let name = reader.string().unwrap();
                assert!(
                    !matches!(name, b"x11-req" | b"auth-agent-req@openssh.com"),
                    "the target heard of a forwarding"
                );
                let kinds = ["exec", "shell", "pty-req", "subsystem", "env"];
                // Some variables pass without a question.
                let passes = name == b"env" && {
                    reader.bool().unwrap();
                    variable::sort(reader.text().unwrap(), "") == Sort::Passes
                };
                let kind = kinds.into_iter().find(|kind| kind.as_bytes() == name && !passes);
                if let Some(kind) = kind {
                    *self.heard.entry(kind).or_default() += 1;
                }
            }
            msg::CHANNEL_OPEN => assert_eq!(reader.string().unwrap(), b"session"),
            msg::GLOBAL_REQUEST => {
                let name = reader.string().unwrap();
                assert!(
                    !name.ends_with(b"-forward") && !name.starts_with(b"streamlocal"),
                    "{}",
                    name.escape_ascii()
                );
            }
            _ => {}
        }
        for (kind, heard) in &self.heard {
            assert!(heard <= self.permitted.get(kind).unwrap_or(&0), "{kind} was not permitted");
        }
    }
}

/// `turn` decides what is permitted, and what is answered later.
fn play(input: &[u8], mut turn: usize) -> Count {
    let mut session = Session::default();
    let mut count = Count::default();
    let mut rest = input;
    let mut waiting: VecDeque<Question> = VecDeque::new();
    while let Some((who, text)) = next(&mut rest) {
        turn += 1;
        let text = Bytes::copy_from_slice(text);
        let (machine, staged) = (&mut session.machine, &mut session.staged);
        let outcome = match who {
            FROM_CLIENT => machine.client(&text, staged),
            FROM_TARGET => machine.server(&text, staged),
            _ => machine.server_beside(ID, &text, staged),
        };
        let Ok(mut question) = outcome else { break };
        tunnels(&mut session, &mut waiting, turn);
        // Some answers come at once, some later, in another order.
        while let Some(asked) = question.take() {
            if turn.is_multiple_of(5) {
                waiting.push_front(asked);
            } else {
                question = answer(&mut session, &mut count, &asked, !turn.is_multiple_of(3));
            }
            turn += 1;
        }
        if turn.is_multiple_of(4)
            && let Some(asked) = waiting.pop_back()
        {
            question = answer(&mut session, &mut count, &asked, turn.is_multiple_of(8));
            waiting.extend(question);
        }
        for message in session.up() {
            count.hear(&message);
        }
        let down: usize = session.down().iter().map(Bytes::len).sum();
        assert!(down <= 64 * (input.len() + 1024), "{down} bytes for the client");
        assert!(session.machine.channels.len() <= CHANNELS_MAX && session.machine.ahead <= AHEAD_MAX);
        assert!(session.machine.owed_client.len() <= OWED_MAX);
    }
    let _ = session.machine.abandoned();
    count
}

/// What the relay does about tunnels, as far as the machine is concerned.
fn tunnels(session: &mut Session, waiting: &mut VecDeque<Question>, turn: usize) {
    let machine = &mut session.machine;
    for opening in machine.take_openings() {
        match turn % 7 {
            0 => machine.refuse_tunnel(&opening, "no"),
            _ => waiting.extend(machine.ask_tunnel(&opening, ("web", "s"))),
        }
    }
    for id in ID..ID + 3 {
        if let Some((bytes, _)) = machine.tunnel_takes(id) {
            machine.tunnel_took(id, bytes.len());
            machine.tunnel_gives(id, &mut BytesMut::from(&b"from there"[..]));
        }
    }
}

/// The next question of that channel, if the session goes on.
fn answer(session: &mut Session, count: &mut Count, asked: &Question, yes: bool) -> Option<Question> {
    let (machine, staged) = (&mut session.machine, &mut session.staged);
    if yes {
        count.permit(&asked.what);
        let terms = Terms { output: true, ..Terms::default() };
        machine.permit(asked, Permit::for_test(), terms, staged);
    } else {
        machine.deny(asked, "no", staged);
    }
    machine.resume(asked.channel, staged).ok().flatten()
}

#[test]
fn fuzz_conversations_of_two_sides() {
    let seeds = seeds();
    let mut heard = BTreeSet::new();
    for (seed, turn) in seeds.iter().flat_map(|seed| (0..60).map(move |turn| (seed, turn))) {
        heard.extend(play(seed, turn).heard.into_keys());
    }
    assert_eq!(heard.len(), 5, "what is played gets nowhere: {heard:?}");
    crate::mutate::fuzz(&seeds, |input| drop(play(input, input.len())));
}
