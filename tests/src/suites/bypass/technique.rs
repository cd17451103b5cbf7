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
    /// Any of these must be found in the journal.
    pub(super) records: &'static [Record],
    /// The cgroup below the governed tree's top that the record must name; none = the seat's.
    pub(super) recorded_in: Option<&'static str>,
    pub(super) without: Without,
    pub(super) when: When,
}

/// Where the attacker sits.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Seat {
    /// A service on the host: root with Docker's capabilities, the host's files and network namespace.
    Service,
    /// The same as `nobody`.
    Nobody,
    /// The same with every capability: more than a container may have.
    Root,
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
    /// A Python program that gets ready before there is an agent, and attacks when there is one.
    Early(&'static str),
    /// More than one process: a function that runs them, and gives what the attacker's said.
    Staged(fn(&Yard, &Aim) -> Result<Output>),
}

/// What must be found in the journal.
pub(super) enum Record {
    /// The connection came to the agent, which refused it: where it was going and who asked.
    SessionRefused,
    /// The agent was dialled without a detour, and refused.
    Unannounced,
    /// A kernel program refused it, with this counter, at this destination.
    Kernel(&'static str),
    /// The same at the listener's own port.
    KernelListener(&'static str),
    /// A kernel program dropped a packet for this address whose ports it could not read.
    KernelPacket(&'static str),
    /// The same for a hop on the way to the target.
    KernelHop(&'static str, &'static str),
    /// The host's side dropped a packet that came over the container's cable.
    GuardDrop,
    /// The same of a fragment, which has no ports.
    GuardPart,
    /// The same of what was sent to another address, at the protected port or another.
    GuardAt(&'static str, Option<u16>),
    /// The agent ended a connection that stood before it came.
    OldConnection,
    /// A kernel program refused the socket, which had no destination yet.
    KernelSocket(&'static str),
}

/// What the same attack does where nothing governs it: the proof that it is an attack.
#[derive(Clone, Copy)]
pub(super) enum Without {
    /// It reaches the target.
    Reaches,
    /// The kernel of this machine cannot do it, and says so with one of these errors; then it must say the same when
    /// governed.
    MayBeMissing(&'static [&'static str]),
    /// It reaches nothing by itself: it is about the agent, which is not there.
    NeedsAgent,
}

/// In which state of the agent it is tried.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum When {
    /// It runs.
    Alive,
    /// It runs, and nothing else is tried meanwhile, because it would suffer.
    Alone,
    /// It was killed.
    Dead,
    /// It runs, and the attacker has what no container has. What happens is shown, and may be that the target is
    /// reached: the threat model says so, and what covers it.
    Beyond,
}

impl Technique {
    /// The usual case: tried while the agent runs; without the agent it reaches the target.
    pub(super) const fn new(
        name: &'static str,
        says: &'static str,
        seat: Seat,
        attack: Attack,
        sees: &'static [&'static str],
        records: &'static [Record],
    ) -> Self {
        let (recorded_in, without, when) = (None, Without::Reaches, When::Alive);
        Self { name, says, seat, attack, sees, records, recorded_in, without, when }
    }

    pub(super) const fn sees(mut self, sees: &'static [&'static str]) -> Self {
        self.sees = sees;
        self
    }

    pub(super) const fn records(mut self, records: &'static [Record]) -> Self {
        self.records = records;
        self
    }

    pub(super) const fn recorded_in(mut self, place: &'static str) -> Self {
        self.recorded_in = Some(place);
        self
    }

    pub(super) const fn without(mut self, without: Without) -> Self {
        self.without = without;
        self
    }

    pub(super) const fn when(mut self, when: When) -> Self {
        self.when = when;
        self
    }
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
