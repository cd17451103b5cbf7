use super::super::host::{Host, Known};
use super::super::keys::{Pinned, SignKey};
use super::*;

struct Pair {
    server: Transport,
    client: Transport,
    /// What is on its way to the server and to the client.
    up: BytesMut,
    down: BytesMut,
}

fn host_keys() -> Arc<HostKeys> {
    Arc::new(HostKeys(
        ["ssh-ed25519", "ecdsa-sha2-nistp256"]
            .map(|name| SignKey::from_pkcs8(name, &SignKey::generate(name).unwrap()).unwrap())
            .into(),
    ))
}

fn pinned(keys: &HostKeys) -> Arc<Pinned> {
    Arc::new(Pinned::parse(keys.lines().iter().map(String::as_str)).unwrap())
}

fn pair(keys: &Arc<HostKeys>, trusted: Arc<Pinned>) -> Pair {
    let known = Known { keys: trusted.as_ref().clone(), ..Known::default() };
    let host = Host { known: Arc::new(known), address: "10.0.0.1".to_owned(), now: 0 };
    let (mut up, mut down) = (BytesMut::new(), BytesMut::new());
    let server = Transport::start(Local::Server(Arc::clone(keys)), &mut down).unwrap();
    let client = Transport::start(Local::Client(host), &mut up).unwrap();
    Pair { server, client, up, down }
}

impl Pair {
    /// Carries bytes both ways until nothing moves; messages that came out, to the server and to the client.
    fn run(&mut self) -> Result<[Vec<Bytes>; 2], TransportError> {
        let mut got = [Vec::new(), Vec::new()];
        loop {
            let before = (self.up.len(), self.down.len());
            let mut answers = BytesMut::new();
            while let Some(payload) = self.server.receive(&mut self.up, &mut self.down)? {
                got[0].push(payload);
            }
            while let Some(payload) = self.client.receive(&mut self.down, &mut answers)? {
                got[1].push(payload);
            }
            self.up.unsplit(answers);
            if before == (self.up.len(), self.down.len()) || (self.up.is_empty() && self.down.is_empty()) {
                return Ok(got);
            }
        }
    }
}

#[test]
fn two_sides_agree_and_carry_messages_both_ways() {
    let keys = host_keys();
    let mut pair = pair(&keys, pinned(&keys));
    pair.client.send(b"\x05early", &mut pair.up).unwrap();
    let got = pair.run().unwrap();
    assert_eq!(got[0], [Bytes::from_static(b"\x05early")]);
    assert!(pair.client.strict && pair.server.strict);
    assert_eq!(pair.client.session_id(), pair.server.session_id());
    pair.server.send(b"\x5ehello", &mut pair.down).unwrap();
    assert_eq!(pair.run().unwrap()[1], [Bytes::from_static(b"\x5ehello")]);
}

#[test]
fn keys_change_again_and_again_from_either_side_and_lose_nothing() {
    let keys = host_keys();
    let mut pair = pair(&keys, pinned(&keys));
    pair.run().unwrap();
    let id = pair.client.session_id().to_vec();
    for round in 0..6u8 {
        let (up, down) = ([94, round], [95, round]);
        match round % 3 {
            0 => pair.client.propose(&mut pair.up).unwrap(),
            1 => pair.server.propose(&mut pair.down).unwrap(),
            _ => {
                pair.client.propose(&mut pair.up).unwrap();
                pair.server.propose(&mut pair.down).unwrap();
            }
        }
        pair.client.send(&up, &mut pair.up).unwrap();
        pair.server.send(&down, &mut pair.down).unwrap();
        let got = pair.run().unwrap();
        assert_eq!(got, [vec![Bytes::copy_from_slice(&up)], vec![Bytes::copy_from_slice(&down)]]);
        assert_eq!(pair.client.session_id(), id);
        assert_eq!((pair.client.backlog(), pair.server.backlog()), (0, 0));
    }
}

#[test]
fn a_host_key_that_is_not_pinned_ends_it_before_anything_is_sent() {
    let (keys, others) = (host_keys(), host_keys());
    let mut pair = pair(&keys, pinned(&others));
    pair.client.send(b"\x05secret", &mut pair.up).unwrap();
    assert!(matches!(pair.run(), Err(TransportError::Host(HostError::Key(_)))));
    assert!(pair.up.is_empty());
}

#[test]
fn a_target_with_another_type_of_key_than_the_pinned_is_told_apart() {
    let keys = host_keys();
    let only = Pinned::parse([keys.lines()[1].as_str()]).unwrap();
    let mut pair = pair(&keys, Arc::new(only));
    pair.run().unwrap();
    assert!(pair.client.method.contains("ecdsa-sha2-nistp256"), "{}", pair.client.method);
}

#[test]
fn nothing_may_be_slipped_into_the_first_exchange() {
    for number in [msg::IGNORE, msg::DEBUG, msg::UNIMPLEMENTED, msg::EXT_INFO, msg::SERVICE_REQUEST, 94] {
        let keys = host_keys();
        let mut pair = pair(&keys, pinned(&keys));
        // Behind the version line, before the proposal.
        let mut input = BytesMut::from(&b"SSH-2.0-x\r\n"[..]);
        let mut out = BytesMut::new();
        Sealer::plain().seal(&[number, 0, 0, 0, 0], &mut input).unwrap();
        let outcome = pair.server.receive(&mut input, &mut out);
        assert!(
            matches!(outcome, Err(TransportError::Unexpected(n)) if n == number),
            "{number}: {outcome:?}"
        );
    }
}

#[test]
fn what_is_not_ssh_is_refused_early_and_with_bounded_input() {
    for text in [&b"GET / HTTP/1.1\r\n"[..], b"SSH-1.5-old\r\n", &[b'a'; LINE_MAX], b"\r\nSSH-2.0-x\r\n"] {
        let mut out = BytesMut::new();
        let mut server = Transport::start(Local::Server(host_keys()), &mut out).unwrap();
        let outcome = server.receive(&mut BytesMut::from(text), &mut out);
        assert!(matches!(outcome, Err(TransportError::Version(_))), "{outcome:?}");
    }
}
