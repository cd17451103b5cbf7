//! TCP sockets used in every way a program may use them.

use super::super::technique::Record::{KernelSocket, SessionRefused};
use super::super::technique::Seat::{Admin, Container, Nobody, Service};
use super::super::technique::Without::Reaches;
use super::super::technique::{Attack, Record, Seat, Technique};

/// What the agent tells somebody it does not let in.
const REFUSAL: &[&str] = &["answered FATAL 28000"];

pub(super) const TECHNIQUES: &[Technique] = &[
    redirected("plain-v4", "connect to the target", Service),
    redirected("plain-v6", "connect over IPv6", Service),
    redirected("mapped", "connect an IPv6 socket to the IPv4-mapped address", Nobody),
    redirected("any-v4", "connect to 0.0.0.0, which means here", Service),
    redirected("any-v6", "connect to ::, which means here", Service),
    redirected("any-mapped", "connect to ::ffff:0.0.0.0", Service),
    redirected("any-loopback6", "connect to ::1, a target on the host itself", Nobody),
    redirected("non-blocking", "connect without waiting", Nobody),
    redirected("reuse", "a socket of a harmless connection, connected anew", Service),
    redirected("reuse-refused", "a socket of a redirected connection, connected anew", Service),
    redirected("source-port", "a source port that another connection has too", Service),
    redirected("bound-address", "bind to an address of the uplink first", Service),
    redirected("bind-device", "SO_BINDTODEVICE to the uplink", Service),
    redirected("freebind", "IP_FREEBIND and a late source port", Service),
    redirected("tfo-sendto", "TCP Fast Open by sendto: data in the SYN", Service),
    redirected("tfo-connect", "TCP Fast Open by socket option", Nobody),
    redirected("tfo-v6", "TCP Fast Open over IPv6", Nobody),
    redirected("inherited", "a socket inherited over two forks and an exec", Service),
    redirected("fork-exit", "a child that connects and is gone at once", Service).sees(&["gone"]),
    redirected("mark", "SO_MARK, by which others know their own", Service),
    redirected("priority", "SO_PRIORITY 6", Service),
    redirected("pod-plain-v4", "connect from a container", Container),
    redirected("pod-plain-v6", "connect from a container over IPv6", Admin),
    refused("mptcp", "Multipath TCP", Nobody, KernelSocket("denied_mptcp"), &["refused EPROTONOSUPPORT"]),
];

/// A TCP connection that comes to the agent and is turned away there.
const fn redirected(name: &'static str, says: &'static str, seat: Seat) -> Technique {
    refused(name, says, seat, SessionRefused, REFUSAL)
}

const fn refused(
    name: &'static str,
    says: &'static str,
    seat: Seat,
    record: Record,
    sees: &'static [&'static str],
) -> Technique {
    Technique { name, says, seat, attack: Attack::Python("streams.py"), sees, record, without: Reaches }
}

impl Technique {
    const fn sees(mut self, sees: &'static [&'static str]) -> Self {
        self.sees = sees;
        self
    }
}
