//! What root with CAP_NET_ADMIN may do to packets in a container's network namespace.

use super::super::technique::Record::{GuardDrop, Kernel, SessionRefused};
use super::super::technique::Seat::{Admin, Container, Service};
use super::super::technique::When::Beyond;
use super::super::technique::{Attack, Record, Technique};

const PROGRAM: Attack = Attack::Python("admin.py");
const NET: &[Record] = &[Kernel("dropped_egress")];
const GUARD: &[Record] = &[GuardDrop];
/// The redirected connection comes to the agent, or ends before.
const HELD: &[Record] = &[SessionRefused, Kernel("unserved")];

pub(super) const TECHNIQUES: &[Technique] = &[
    silent("dnat-output", "NAT on the way out: elsewhere becomes the target", NET),
    silent("dnat-listener", "NAT of the redirected connection: the listener becomes the target", NET),
    silent("mangle", "addresses rewritten after routing", NET),
    silent("transparent", "a source address that is not ours (IP_TRANSPARENT)", HELD),
    silent("marks", "every mark that tools of this kind let pass", HELD).sees(&["answered FATAL 28000"]),
    silent("loopback-away", "loopback led out of the container", HELD),
    silent("tcp-repair", "a connection put together by hand (TCP_REPAIR)", HELD).sees(&[
        "answered FATAL 28000",
        "silent",
        "refused",
        "closed",
    ]),
    silent("source-route", "loose source routing: the target in an option", HELD),
    guarded("device-egress", "addresses rewritten at the device, behind every hook of sockets"),
    guarded("inner-netns", "a namespace behind ours, whose packets we forward and redirect"),
    guarded("tun", "a packet out of a TUN device, forwarded and masqueraded"),
    guarded("macvlan", "a frame through a macvlan device of our own"),
    guarded("overlay-away", "a tunnel of our own that is said to end at the target").sees(&["sent"]),
    guarded("packet", "a frame written to the device (AF_PACKET)"),
    guarded("packet-bypass", "the same past the queues (PACKET_QDISC_BYPASS)"),
    guarded("packet-spoofed", "the same with another container's address as source"),
    Technique::new(
        "packet-pod",
        "the same with no more than Docker's capabilities",
        Container,
        PROGRAM,
        &["silent"],
        GUARD,
    ),
    Technique::new(
        "packet-host",
        "a frame written to the host's own device, with CAP_NET_RAW over the host",
        Service,
        PROGRAM,
        &["reached"],
        &[],
    )
    .when(Beyond),
];

/// No hook of the container's sees it; the host's does.
const fn guarded(name: &'static str, says: &'static str) -> Technique {
    Technique::new(name, says, Admin, PROGRAM, &["silent"], GUARD)
}

const fn silent(name: &'static str, says: &'static str, records: &'static [Record]) -> Technique {
    Technique::new(name, says, Admin, PROGRAM, &["silent"], records)
}
