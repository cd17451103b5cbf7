//! What a container may put on its wire, or have the host unpack, so that a packet to the target comes of it. No hook of
//! sockets sees these; the host's side of the cable does.

use super::super::technique::Record::{GuardAt, GuardDrop, GuardPart};
use super::super::technique::Seat::{Container, Nobody, Service};
use super::super::technique::When::Beyond;
use super::super::technique::Without::MayBeMissing;
use super::super::technique::{Attack, Record, Technique};

const GATEWAY: &str = "10.78.1.1";
const HOST: &str = "10.66.0.1";

/// The port of the overlay that the yard's host is an end of.
pub(in super::super) const OVERLAY_PORT: u16 = 8472;

/// None of the cgroup's hooks is run for what the segments lead to; the net that judges packets is.
const UNREADABLE: &[Record] = &[Record::KernelPacket("dropped_unparsable")];

pub(super) const TECHNIQUES: &[Technique] = &[
    frame("frag-pod", "a SYN in two fragments, in frames of our own", &[GuardDrop]),
    frame("frag6-pod", "a SYN in two IPv6 fragments", &[GuardDrop, GuardPart]),
    frame("tiny6-pod", "the same, the first without ports", &[GuardPart]),
    frame("ext6-pod", "a SYN behind extension headers", &[GuardDrop]),
    frame("lsrr-pod", "to the host, and from there to the target: source routing", &[GuardAt(GATEWAY, None)]),
    frame(
        "overlay-pod",
        "packed up in a datagram for the host's overlay (VXLAN)",
        &[GuardAt(GATEWAY, Some(OVERLAY_PORT))],
    ),
    Technique::new(
        "overlay-host",
        "the same from a service on the host, to itself",
        Service,
        Attack::Python("frames.py"),
        &["sent"],
        &[GuardAt(HOST, Some(OVERLAY_PORT))],
    ),
    frame("xdp-pod", "a frame through a ring shared with the device (AF_XDP)", &[GuardDrop])
        .without(MayBeMissing(&["EAFNOSUPPORT"])),
    Technique::new(
        "srh",
        "connect to somebody else, by way of the target (segment routing)",
        Nobody,
        Attack::Python("streams.py"),
        &["silent", "refused"],
        UNREADABLE,
    ),
    Technique::new(
        "udp-srh",
        "a datagram to somebody else, by way of the target",
        Nobody,
        Attack::Python("datagrams.py"),
        &["refused EPERM", "sent"],
        UNREADABLE,
    ),
    Technique::new(
        "vsock",
        "a socket past the network (AF_VSOCK)",
        Service,
        Attack::Python("kinds.py"),
        &["reached"],
        &[],
    )
    .without(MayBeMissing(&["EAFNOSUPPORT", "ENODEV", "ECONNRESET", "ETIMEDOUT"]))
    .when(Beyond),
];

const fn frame(name: &'static str, says: &'static str, records: &'static [Record]) -> Technique {
    Technique::new(name, says, Container, Attack::Python("frames.py"), &["sent"], records)
}
