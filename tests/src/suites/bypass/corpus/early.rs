//! Sockets made and connected before there was an agent. The hooks that judge sockets are too late for them; what
//! they send is caught by the net that judges packets.

use super::super::technique::Record::{
    Kernel, KernelHop, KernelPacket, KernelSocket, OldConnection, SessionRefused,
};
use super::super::technique::Seat::{Container, Service};
use super::super::technique::{Attack, Record, Seat, Technique};

const PROGRAM: Attack = Attack::Early("early.py");
const NET: &[Record] = &[Kernel("dropped_egress")];

const UNREADABLE: &[Record] = &[KernelPacket("dropped_unparsable")];

pub(super) const TECHNIQUES: &[Technique] = &[
    Technique::new(
        "early-socket",
        "a socket made before, connected after",
        Service,
        PROGRAM,
        &["answered FATAL 28000"],
        &[SessionRefused],
    ),
    ended("early-tcp", "a connection made before", Service),
    ended("early-tcp-v6", "a connection made before, IPv6", Service),
    ended("early-pod", "a connection made before, in a container", Container),
    Technique::new(
        "early-pod-udp",
        "a UDP socket connected before, in a container",
        Container,
        PROGRAM,
        &["refused EPERM"],
        NET,
    ),
    dropped("early-udp", "a UDP socket connected before"),
    dropped("early-cork", "a datagram begun before, finished after"),
    dropped("early-raw", "a SYN through a raw socket made before"),
    dropped("early-raw-opts", "the same with IP options"),
    dropped("early-raw-spoof", "the same with somebody else's address"),
    dropped("early-raw-udp", "UDP through a raw socket"),
    dropped("early-raw-sctp", "SCTP through a raw socket"),
    dropped("early-fragments", "a SYN in two fragments"),
    dropped("early-tiny", "a SYN in two fragments, the first without flags"),
    dropped("early-raw-v6", "a SYN through a raw IPv6 socket"),
    dropped("early-hop-by-hop", "the same behind a hop-by-hop header"),
    dropped("early-extensions", "the same behind three extension headers"),
    dropped("early-tiny6", "the same, the first without ports").records(UNREADABLE),
    Technique::new(
        "early-lsrr",
        "a raw SYN to the host, and from there to the target: source routing",
        Container,
        PROGRAM,
        &["refused EPERM", "sent"],
        &[KernelHop("dropped_unparsable", "10.78.1.1")],
    ),
    dropped("early-fragment6", "the same in two IPv6 fragments"),
    Technique::new(
        "early-mptcp",
        "a Multipath TCP socket made before, connected after",
        Service,
        PROGRAM,
        &["answered FATAL 28000"],
        &[SessionRefused, KernelSocket("denied_mptcp")],
    ),
    dropped("early-deep", "the same behind thirteen extension headers").records(UNREADABLE),
    dropped("early-routing", "the same with a segment routing header").records(UNREADABLE),
];

/// It is ended for both sides as soon as the agent is there.
const fn ended(name: &'static str, says: &'static str, seat: Seat) -> Technique {
    Technique::new(name, says, seat, PROGRAM, &["refused ECONNABORTED"], &[OldConnection])
}

const fn dropped(name: &'static str, says: &'static str) -> Technique {
    Technique::new(name, says, Service, PROGRAM, &["silent", "refused", "sent"], NET)
}
