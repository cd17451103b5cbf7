//! Datagrams to the target: UDP, and what QUIC would be made of, in every form the socket calls allow.

use super::super::technique::Record::Kernel;
use super::super::technique::Seat::{Container, Nobody, Service};
use super::super::technique::Without::MayBeMissing;
use super::super::technique::{Attack, Record, Seat, Technique};

const DATAGRAM: &[Record] = &[Kernel("denied_datagram")];
/// A connected datagram socket is refused where it is connected.
const PROTOCOL: &[Record] = &[Kernel("denied_protocol")];

pub(super) const TECHNIQUES: &[Technique] = &[
    denied("udp", "a UDP datagram", Service, DATAGRAM),
    denied("udp-v6", "a UDP datagram over IPv6", Nobody, DATAGRAM),
    denied("udp-connected", "a connected UDP socket", Service, PROTOCOL),
    denied("udp-connected6", "a connected UDP socket, IPv6", Nobody, PROTOCOL),
    denied("udp-mapped", "UDP to the IPv4-mapped address", Nobody, DATAGRAM),
    denied("udp-mapped-con", "UDP connected to the IPv4-mapped address", Nobody, PROTOCOL),
    denied("udp-v4-on-v6", "an AF_INET address on an AF_INET6 socket", Nobody, DATAGRAM),
    denied("udp-unspec", "an address whose family is AF_UNSPEC", Nobody, DATAGRAM),
    denied("udp-sendmmsg", "sendmmsg: one for somebody else, one for the target", Nobody, DATAGRAM),
    denied("udp-segmented", "one send that the kernel cuts into ten datagrams", Nobody, DATAGRAM),
    denied("udp-corked", "a datagram put together from two sends", Nobody, DATAGRAM),
    denied("udp-flip", "an address that changes while the kernel reads it", Nobody, DATAGRAM),
    denied("udp-reconnected", "sendto on a socket connected elsewhere", Nobody, DATAGRAM),
    denied("udp-pod", "a UDP datagram from a container", Container, DATAGRAM),
    denied("quic", "the first packet of QUIC", Container, DATAGRAM),
    denied("udplite", "UDP-Lite", Service, DATAGRAM)
        .without(MayBeMissing(&["EPROTONOSUPPORT", "ESOCKTNOSUPPORT"])),
];

const fn denied(name: &'static str, says: &'static str, seat: Seat, records: &'static [Record]) -> Technique {
    Technique::new(name, says, seat, Attack::Python("datagrams.py"), &["refused EPERM"], records)
}
