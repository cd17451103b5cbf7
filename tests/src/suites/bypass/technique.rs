//! What a technique is: who tries it, what they run, what must come of it and what must be in the record.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::Result;

use super::yard::Yard;
use crate::harness::spawn::Output;

/// One way to try to reach a protected target past the gate.
pub(super) struct Technique {
    /// At most 15 characters: the attacker's processes carry it as their name into the record.
    pub(super) name: &'static str,
    /// What is tried, for a person.
    pub(super) says: &'static str,
    pub(super) seat: Seat,
    pub(super) attack: Attack,
    /// What the attacker must see: the beginnings of what the program may say.
    pub(super) sees: &'static [&'static str],
    pub(super) record: Record,
    pub(super) without: Without,
}

/// Where the attacker sits.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Seat {
    /// A service on the host: root with Docker's capabilities, the host's files and network namespace.
    Service,
    /// The same as `nobody`.
    Nobody,
    /// A container as Docker makes it by default.
    Container,
    /// A container with CAP_NET_ADMIN, /dev/net/tun and no filter of system calls.
    Admin,
}

/// What is run. Programs get the technique's name, its two addresses, the protected port and the listener's.
pub(super) enum Attack {
    /// A Python program of tests/attacks.
    Python(&'static str),
    /// A C program of tests/attacks, compiled for the run.
    Program(&'static str),
    /// More than one process: a function that runs them, and gives what the attacker's said.
    Staged(fn(&Yard, &Aim) -> Result<Output>),
}

/// What must be found in the journal.
pub(super) enum Record {
    /// The connection came to the agent, which refused it: where it was going and who asked.
    SessionRefused,
    /// A kernel program refused it, with this counter, at this destination.
    Kernel(&'static str),
    /// A kernel program refused the socket, which had no destination yet.
    KernelSocket(&'static str),
}

/// What the same attack does where nothing governs it: the proof that it is an attack.
pub(super) enum Without {
    /// It reaches the target.
    Reaches,
    /// The kernel of this machine cannot do it, and says so with this error; then it must say the same when governed.
    MayBeMissing(&'static [&'static str]),
}

/// A technique's own addresses of the protected networks: what arrives there is this technique's and nobody else's.
#[derive(Clone, Copy)]
pub(super) struct Aim {
    pub(super) v4: Ipv4Addr,
    pub(super) v6: Ipv6Addr,
    pub(super) name: &'static str,
}

/// The protected networks, as the configuration has them.
pub(super) const NETWORKS: [&str; 2] = ["10.77.0.0/16", "fd77::/32"];

impl Aim {
    pub(super) fn number(index: usize, name: &'static str) -> Self {
        let number = u16::try_from(index + 1).unwrap_or(u16::MAX);
        let [high, low] = number.to_be_bytes();
        Self {
            v4: Ipv4Addr::new(10, 77, high + 1, low),
            v6: Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, number, 1),
            name,
        }
    }

    /// Whether the technique aims at "this host" instead of its own addresses.
    pub(super) fn means_here(&self) -> bool {
        self.name.starts_with("any-")
    }

    pub(super) fn addresses(&self) -> [IpAddr; 2] {
        [self.v4.into(), self.v6.into()]
    }
}

/// Whether an address is one of the protected networks.
pub(super) fn is_protected(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.octets().starts_with(&[10, 77]),
        IpAddr::V6(v6) => v6.segments().starts_with(&[0xfd77, 0]),
    }
}
