//! Tunnels: asked about under a channel of their own, which is the client's when it is told so and not before.

use super::*;

fn ask(session: &mut Session) -> Question {
    let open = [S("direct-tcpip"), N(3), N(1 << 21), N(1 << 15), S("db"), N(5432), S("::1"), N(5)];
    assert_eq!(session.client(&message(msg::CHANNEL_OPEN, &open)), None);
    let opening = session.machine.take_openings().pop().unwrap();
    session.machine.ask_tunnel(&opening, ("shop", "s1")).unwrap()
}

#[test]
fn a_tunnel_is_open_when_it_is_permitted_and_the_target_hears_nothing_of_it() {
    let mut session = Session::default();
    let question = ask(&mut session);
    assert_eq!(question.what.ends().unwrap(), "ends at target shop, session s1");
    assert_eq!(session.down(), Vec::<Bytes>::new());
    assert_eq!(session.permit(&question), None);
    let down = session.down();
    assert_eq!(numbers(&down), [msg::CHANNEL_OPEN_CONFIRMATION]);
    session.client(&message(msg::CHANNEL_DATA, &[N(question.channel), S("hello")]));
    assert_eq!(session.machine.tunnel_takes(question.channel).unwrap().0, "hello");
    assert_eq!(session.up(), Vec::<Bytes>::new());
}

#[test]
fn a_tunnel_that_is_denied_leaves_nothing_behind() {
    let mut session = Session::default();
    let question = ask(&mut session);
    assert_eq!(session.deny(&question), None);
    let down = session.down();
    assert_eq!(down[0][..9], message(msg::CHANNEL_OPEN_FAILURE, &[N(3), N(1)])[..]);
    assert!(session.machine.channels.is_empty());
    // An answer that comes once more finds nobody.
    session.permit(&question);
    assert_eq!((session.up(), session.down()), (vec![], vec![]));
}

#[test]
fn a_tunnel_that_waits_cannot_be_used_and_says_nothing_on_a_channel_that_is_not_there() {
    for number in [msg::CHANNEL_DATA, msg::CHANNEL_EOF, msg::CHANNEL_CLOSE, msg::CHANNEL_WINDOW_ADJUST] {
        let mut session = Session::default();
        let question = ask(&mut session);
        session.machine.hold(&question, "wait");
        assert_eq!(session.down(), Vec::<Bytes>::new());
        let early = message(number, &[N(question.channel), S("early")]);
        assert!(session.machine.client(&early, &mut session.staged).is_err(), "{number}");
    }
}
