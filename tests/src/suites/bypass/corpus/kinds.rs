//! Sockets of other kinds than TCP and UDP.

use super::super::technique::Record::KernelSocket;
use super::super::technique::Seat::{Container, Service};
use super::super::technique::Without::{MayBeMissing, Reaches};
use super::super::technique::{Attack, Seat, Technique, Without};

/// What socket(2) says where the kernel has no such protocol, kind or family.
const NO_SUCH_SOCKET: Without = MayBeMissing(&["EPROTONOSUPPORT", "ESOCKTNOSUPPORT", "EAFNOSUPPORT"]);

pub(super) const TECHNIQUES: &[Technique] = &[
    denied("raw-v4", "a SYN made by hand, IP header included", Service, Reaches),
    denied("raw-tcp", "a SYN made by hand in a raw TCP socket", Service, Reaches),
    denied("raw-v6", "a SYN made by hand, IPv6", Service, Reaches),
    denied("raw-spoofed", "a SYN made by hand with somebody else's address", Service, Reaches),
    denied("raw-pod", "a SYN made by hand in a container", Container, Reaches),
    denied("sctp", "SCTP", Service, NO_SUCH_SOCKET),
    denied("sctp-seqpacket", "SCTP, one socket for many peers", Service, NO_SUCH_SOCKET),
    denied("dccp", "DCCP", Service, NO_SUCH_SOCKET),
    denied("smc", "SMC, the family", Service, NO_SUCH_SOCKET),
    denied("smc-inet", "SMC, the protocol", Service, NO_SUCH_SOCKET),
    denied("tipc", "TIPC", Service, NO_SUCH_SOCKET),
    denied("rds", "RDS", Service, NO_SUCH_SOCKET),
];

const fn denied(name: &'static str, says: &'static str, seat: Seat, without: Without) -> Technique {
    let records = &[KernelSocket("denied_socket_kind")];
    Technique::new(name, says, seat, Attack::Python("kinds.py"), &["refused EPERM"], records).without(without)
}
