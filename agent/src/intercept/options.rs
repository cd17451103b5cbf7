//! What the interception is asked for.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
};

use chaperone_ebpf::{MODE_BYPASS, MODE_DENY};

use super::{GuardMode, UnixSockets};

/// Destinations that may only be reached through the agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Comes back in [`super::Origin::target_id`].
    pub id: u32,
    pub addr: IpAddr,
    /// Length of the network prefix in bits.
    pub prefix: u8,
    pub port: u16,
}

impl Target {
    /// The address with its host bits cleared.
    pub(super) fn network(&self) -> IpAddr {
        match self.addr {
            IpAddr::V4(addr) => {
                let host_bits = 32 - u32::from(self.prefix).min(32);
                Ipv4Addr::from_bits(addr.to_bits() & u32::MAX.checked_shl(host_bits).unwrap_or(0)).into()
            }
            IpAddr::V6(addr) => {
                let host_bits = 128 - u32::from(self.prefix).min(128);
                Ipv6Addr::from_bits(addr.to_bits() & u128::MAX.checked_shl(host_bits).unwrap_or(0)).into()
            }
        }
    }

    /// Whether this is one of the target's addresses. The address must not be a mapped one.
    pub(super) fn contains(&self, destination: SocketAddr) -> bool {
        if destination.port() != self.port {
            return false;
        }
        let (own, other, bits) = match (self.addr, destination.ip()) {
            (IpAddr::V4(own), IpAddr::V4(other)) => (own.to_bits().into(), other.to_bits().into(), 32),
            (IpAddr::V6(own), IpAddr::V6(other)) => (own.to_bits(), other.to_bits(), 128),
            _ => return false,
        };
        let (own, other): (u128, u128) = (own, other);
        let host_bits: u32 = bits - u32::from(self.prefix).min(bits);
        (own ^ other).checked_shr(host_bits).unwrap_or(0) == 0
    }
}

/// What happens to a governed process that uses CAP_NET_RAW.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum NetRaw {
    /// Nobody looks.
    #[default]
    Off,
    Record,
    Kill,
}

/// What a cgroup is to be, whether it exists yet or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CgroupMode {
    /// Below the cgroup2 mount, with a leading slash.
    pub path: String,
    pub(super) mode: u32,
}

impl CgroupMode {
    /// Left alone.
    #[must_use]
    pub fn bypass(path: &str) -> Self {
        Self { path: path.to_owned(), mode: MODE_BYPASS }
    }

    pub(super) fn is_deny(&self) -> bool {
        self.mode == MODE_DENY
    }

    /// May not reach any target.
    #[must_use]
    pub fn deny(path: &str) -> Self {
        Self { path: path.to_owned(), mode: MODE_DENY }
    }
}

#[derive(Debug, Clone)]
pub struct Options {
    /// Directory of the cgroup everything below which is governed.
    pub cgroup: PathBuf,
    /// Directory for pins, on a bpf file system.
    pub bpffs: PathBuf,
    /// The port redirected connects go to on 127.0.0.1 and ::1. Nothing listens on it as a port: the lookup program
    /// hands its connections to the agent's sockets.
    pub listen_port: u16,
    pub targets: Vec<Target>,
    /// Cgroups that are not simply governed, each with all below it. The nearest listed ancestor decides.
    pub modes: Vec<CgroupMode>,
    pub unix: UnixSockets,
    pub net_raw: NetRaw,
    /// The cgroup this process is in, and stays in.
    pub agent_cgroup_id: u64,
    pub guard: GuardMode,
    /// Interfaces whose forwarded packets are let through, by name.
    pub guard_exempt: Vec<String>,
}
