//! TCP sockets used in every way a program may use them.

use super::super::technique::Record::{Kernel, KernelSocket, SessionRefused};
use super::super::technique::Seat::{Admin, Container, Nobody, Service};
use super::super::technique::{Attack, Seat, Technique};

/// What the agent tells somebody it does not let in.
const REFUSAL: &[&str] = &["answered FATAL 28000"];

const PROGRAM: Attack = Attack::Python("streams.py");

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
    redirected("tfo-again", "TCP Fast Open on a socket of a harmless connection", Nobody),
    redirected("flip", "an address that changes while the kernel reads it", Nobody),
    redirected("tfo-v6", "TCP Fast Open over IPv6", Nobody),
    redirected("inherited", "a socket inherited over two forks and an exec", Service),
    redirected("fork-exit", "a child that connects and is gone at once", Service).sees(&["gone"]),
    redirected("mark", "SO_MARK, by which others know their own", Service),
    redirected("priority", "SO_PRIORITY 6", Service),
    redirected("pod-plain-v4", "connect from a container", Container),
    redirected("pod-plain-v6", "connect from a container over IPv6", Admin),
    redirected("pod-mapped", "the IPv4-mapped address, in a container", Container),
    redirected("pod-non-blocking", "connect without waiting, in a container", Container),
    redirected("pod-reuse", "a socket connected anew, in a container", Container),
    redirected("pod-bind-device", "SO_BINDTODEVICE, in a container", Container),
    redirected("pod-bound-address", "bind to the container's address first", Container),
    redirected("pod-tfo-sendto", "TCP Fast Open in a container: data in the SYN", Container),
    redirected("pod-tfo-v6", "the same over IPv6", Admin),
    redirected("pod-inherited", "an inherited socket, in a container", Container),
    redirected("pod-fork-exit", "a child that is gone at once, in a container", Container).sees(&["gone"]),
    redirected("pod-mark", "SO_MARK in a container", Admin),
    Technique::new(
        "no-room",
        "a socket with no room left to remember where it goes",
        Admin,
        PROGRAM,
        &["refused EPERM"],
        &[Kernel("denied_storage")],
    ),
    Technique::new(
        "mptcp",
        "Multipath TCP",
        Nobody,
        PROGRAM,
        &["refused EPROTONOSUPPORT"],
        &[KernelSocket("denied_mptcp")],
    ),
];

/// A TCP connection that comes to the agent and is turned away there.
const fn redirected(name: &'static str, says: &'static str, seat: Seat) -> Technique {
    Technique::new(name, says, seat, PROGRAM, REFUSAL, &[SessionRefused])
}
