//! What crosses the boundary between the kernel programs and the agent: keys and values of the maps, counters
//! and diagnostic events.
//!
//! Everything is `repr(C)`, made of integers, padded by hand and of a size asserted below, so that both sides
//! read the same bytes. Addresses are four 32-bit words in memory (network) order, IPv4 as `::ffff:a.b.c.d`;
//! ports are in network order unless a field says otherwise. A change of a layout changes [`LAYOUT`].
#![cfg_attr(not(feature = "user"), no_std)]

pub mod process;
pub mod unix;

/// Version of the map layouts. Pinned maps of another version are refused, never reinterpreted.
pub const LAYOUT: u32 = 4;

/// Deepest cgroup level the programs look at when they search a policy among a cgroup's ancestors.
pub const MAX_CGROUP_DEPTH: u32 = 32;

/// Age at which the heartbeat counts as stale and governed connects are refused, nanoseconds.
pub const STALE_AFTER_NS: u64 = 3_000_000_000;

/// Bits of the prefix in [`TargetKey`] that come before the address: port and padding.
pub const TARGET_PREFIX_BITS: u32 = 32;

/// Words of the port filter: one bit for each port.
pub const PORT_WORDS: usize = 1024;

/// Slots of the listener map.
pub const SLOT_V4: u32 = 0;
pub const SLOT_V6: u32 = 1;

/// The third word of an IPv4-mapped IPv6 address as it lies in memory.
pub const MAPPED: u32 = 0x0000_ffff_u32.to_be();
/// 127.0.0.1 as it lies in memory.
pub const LOOPBACK_V4: u32 = 0x7f00_0001_u32.to_be();
/// The last word of ::1 as it lies in memory.
pub const LOOPBACK_V6: u32 = 1_u32.to_be();

/// An IPv4 address, given as it lies in memory, in the one form the maps know.
#[inline(always)]
pub const fn mapped(v4: u32) -> [u32; 4] {
    [0, 0, MAPPED, v4]
}

/// The address a connect to `words` really goes to: "any" means loopback, for IPv4 and IPv6 alike.
#[inline(always)]
pub const fn effective(words: [u32; 4]) -> [u32; 4] {
    let [a, b, c, d] = words;
    if a != 0 || b != 0 || d != 0 {
        return words;
    }
    match c {
        0 => [0, 0, 0, LOOPBACK_V6],
        MAPPED => mapped(LOOPBACK_V4),
        _ => words,
    }
}

/// Whether the address, in the maps' form, is loopback: 127.0.0.0/8 or ::1.
#[inline(always)]
pub const fn is_loopback(words: [u32; 4]) -> bool {
    let [a, b, c, d] = words;
    if a != 0 || b != 0 {
        return false;
    }
    match c {
        0 => d == LOOPBACK_V6,
        MAPPED => u32::from_be(d) >> 24 == 127,
        _ => false,
    }
}

/// The one entry of `CFG`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Config {
    pub agent_cgroup: u64,
    /// Cookie of the agent's own network namespace, which loopback addresses of targets are about.
    pub host_netns: u64,
    pub agent_tgid: u32,
    /// Host order.
    pub listen_port: u32,
    /// Offset of `group_leader` in `task_struct`; with `start_offset` 0 when unknown.
    pub leader_offset: u32,
    /// Offset of `start_boottime` in `task_struct`, 0 when unknown.
    pub start_offset: u32,
    /// First SYN timeout, in jiffies, of sockets in a namespace without a listener yet; 0 for the kernel's own.
    pub syn_timeout: u32,
    pub flags: u32,
    /// Process id of the agent before this one while its sessions live on, else 0. In the same cgroup, it is exempt
    /// like the agent.
    pub drain_tgid: u32,
    /// [`LAYOUT`] of the agent that wrote this; 0 before the first.
    pub layout: u32,
    /// When that ends at the latest, nanoseconds since boot: its process id may be another's by then.
    pub drain_until: u64,
}

/// Data of the key in `TARGETS`, behind the prefix length of the longest-prefix trie.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TargetKey {
    pub port: u16,
    pub pad: u16,
    pub addr: [u32; 4],
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TargetValue {
    pub target: u32,
    pub pad: u32,
}

/// Modes in [`CgroupPolicy`]. A cgroup without an entry in itself and its ancestors is governed.
pub const MODE_GOVERN: u32 = 0;
pub const MODE_BYPASS: u32 = 1;
pub const MODE_DENY: u32 = 2;

/// Value of `CGPOL`; the nearest ancestor with an entry decides.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CgroupPolicy {
    pub mode: u32,
    pub pad: u32,
}

/// Roles of a socket that has an entry in `SKS`.
pub const ROLE_NONE: u32 = 0;
/// Redirected: the entry says where it was going.
pub const ROLE_CLIENT: u32 = 1;
/// Opened by the agent towards a target.
pub const ROLE_AGENT: u32 = 2;
/// Accepted by some server from a peer whose address looks like a target's.
pub const ROLE_INBOUND: u32 = 3;
/// Accepted by the agent; the rest is the client's entry.
pub const ROLE_ACCEPTED: u32 = 4;
/// Connected to the loopback of another namespace than the host's: never a target, whatever its address says.
pub const ROLE_LOCAL: u32 = 5;

/// Where a socket was going and who asked, captured in the connect hook. Value of `SKS` and of `FLOW`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    pub role: u32,
    /// Non-zero when the rewritten destination is ::1, zero when it is 127.0.0.1 (also for mapped ones).
    pub via_v6: u32,
    pub addr: [u32; 4],
    pub port: u16,
    pub pad: u16,
    pub target: u32,
    pub tgid: u32,
    pub tid: u32,
    pub uid: u32,
    pub gid: u32,
    pub cookie: u64,
    pub cgroup: u64,
    pub netns: u64,
    /// Start of the thread group leader, nanoseconds since boot; 0 when the kernel has no BTF.
    pub start_boottime: u64,
    /// When connect was called, nanoseconds since boot.
    pub connected_at: u64,
    /// Key of `NODES`: which process running what; 0 when that is not known.
    pub exec_id: u64,
    pub comm: [u8; 16],
}

/// Key of `FLOW`: a redirected connection as the client's network namespace sees it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowKey {
    pub netns: u64,
    pub client: [u32; 4],
    pub listener: [u32; 4],
    pub client_port: u16,
    pub listener_port: u16,
    pub pad: u32,
}

/// Value of `NETNS` (key: the namespace's cookie): who serves a network namespace other than the host's.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Netns {
    /// Process id of the agent that has a listener there, 0 for none. What a former agent left is no listener: only
    /// the id in `CFG` counts.
    pub owner: u32,
    pub pad: u32,
    /// When the agent was last asked to serve it, nanoseconds since boot.
    pub asked_at: u64,
}

/// What `ASKS` carries: a redirected connection of a network namespace without a listener. Lost when the ring is full;
/// the next retransmission of the held SYN asks again.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ask {
    pub netns: u64,
    /// Cookie of the client's socket.
    pub cookie: u64,
    pub tgid: u32,
    pub tid: u32,
}

/// How long the agent is not asked again for the same namespace, nanoseconds. Shorter than the SYN timeout.
pub const ASK_AGAIN_NS: u64 = 20_000_000;

/// What `EVENTS` carries: diagnostics. The ring drops when it is full, so nothing may depend on it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Event {
    pub at: u64,
    /// Of the current task, or of the packet's socket for the egress program.
    pub cgroup: u64,
    pub addr: [u32; 4],
    /// 0 from the egress program, which may run for a packet nobody is sending right now.
    pub tgid: u32,
    pub uid: u32,
    /// One of [`Stat`], the counter that was raised with it.
    pub kind: u32,
    pub port: u16,
    pub protocol: u16,
    pub comm: [u8; 16],
}

macro_rules! stats {
    ($($(#[$doc:meta])* $name:ident = $value:literal, $text:literal;)*) => {
        /// Counters in `STATS`, and kinds of [`Event`].
        #[repr(u32)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Stat { $($(#[$doc])* $name = $value,)* }

        impl Stat {
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The counter's name, as `status` prints it.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            #[must_use]
            pub const fn from_u32(value: u32) -> Option<Self> {
                match value { $($value => Some(Self::$name),)* _ => None }
            }
        }
    };
}

stats! {
    Redirected = 0, "redirected";
    /// The agent found its client.
    Accepted = 1, "accepted";
    /// Connects of the agent's own to a target.
    AgentUpstream = 2, "agent_upstream";
    Bypassed = 3, "bypassed";
    DeniedCgroup = 4, "denied_cgroup";
    /// Connect to a target with something that is not TCP.
    DeniedProtocol = 5, "denied_protocol";
    DeniedStale = 6, "denied_stale";
    /// Connect to the listener's own port.
    DeniedListener = 7, "denied_listener";
    /// The socket's storage could not be filled, or the socket not be rebound to loopback.
    DeniedStorage = 8, "denied_storage";
    DeniedDatagram = 9, "denied_datagram";
    /// Packet to a target that no connect hook had redirected.
    DroppedEgress = 10, "dropped_egress";
    DroppedUnparsable = 11, "dropped_unparsable";
    DeniedSocketKind = 12, "denied_socket_kind";
    DeniedMptcp = 13, "denied_mptcp";
    DeniedBind = 14, "denied_bind";
    /// `FLOW` was full: the agent will refuse the connection.
    FlowFull = 15, "flow_full";
    /// Connections to the listener's port with no listener behind it.
    NoListener = 16, "no_listener";
    /// Connections to the listener's port that no hook had redirected.
    Unannounced = 17, "unannounced";
    /// Redirected connections that ended before the agent had them: nothing listened, or the way there was closed.
    Unserved = 18, "unserved";
    /// First packet of a connection that waits for a listener in its network namespace.
    HeldSyn = 19, "held_syn";
    /// Connects to the loopback of another namespace than the host's, at a target's address: left alone.
    ForeignLoopback = 20, "foreign_loopback";
    /// A process that came, or was made, into another cgroup.
    MovedIn = 21, "moved_in";
    /// CAP_NET_RAW was used in a governed cgroup.
    NetRawUsed = 22, "net_raw_used";
    /// The same, and the process was killed for it.
    NetRawKilled = 23, "net_raw_killed";
    /// Connect of a unix socket to a name that is not allowed.
    DeniedUnix = 24, "denied_unix";
}

const _: () = {
    assert!(size_of::<Config>() == 56);
    assert!(size_of::<TargetKey>() == 20);
    assert!(size_of::<TargetValue>() == 8);
    assert!(size_of::<CgroupPolicy>() == 8);
    assert!(size_of::<Origin>() == 112);
    assert!(size_of::<FlowKey>() == 48);
    assert!(size_of::<Netns>() == 16);
    assert!(size_of::<Ask>() == 24);
    assert!(size_of::<Event>() == 64);
};

#[cfg(feature = "user")]
mod pod {
    use super::{Ask, CgroupPolicy, Config, Event, FlowKey, Netns, Origin, TargetKey, TargetValue};

    macro_rules! pod {
        ($($name:ident),*) => {$(
            // SAFETY: repr(C), integers only, padding spelled out (the sizes are asserted above): every bit
            // pattern is a value and no byte is uninitialised.
            unsafe impl aya::Pod for $name {}
        )*};
    }
    pod!(Ask, CgroupPolicy, Config, Event, FlowKey, Netns, Origin, TargetKey, TargetValue);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_means_loopback_and_nothing_else_does() {
        let cases = [
            ([0, 0, 0, 0], [0, 0, 0, LOOPBACK_V6]),
            ([0, 0, MAPPED, 0], mapped(LOOPBACK_V4)),
            (mapped(LOOPBACK_V4), mapped(LOOPBACK_V4)),
            ([0, 0, 0, LOOPBACK_V6], [0, 0, 0, LOOPBACK_V6]),
            ([0, 0, 7, 0], [0, 0, 7, 0]),
            ([1, 0, 0, 0], [1, 0, 0, 0]),
        ];
        for (given, expected) in cases {
            assert_eq!(effective(given), expected, "{given:x?}");
        }
    }

    #[test]
    fn loopback_is_a_network_in_ipv4_and_one_address_in_ipv6() {
        let v4 = |octets: [u8; 4]| mapped(u32::from_ne_bytes(octets));
        let cases = [
            (v4([127, 0, 0, 1]), true),
            (v4([127, 255, 3, 4]), true),
            (v4([126, 255, 255, 255]), false),
            (v4([128, 0, 0, 1]), false),
            ([0, 0, 0, LOOPBACK_V6], true),
            ([0, 0, 0, 0], false),
            ([0, 1, 0, LOOPBACK_V6], false),
            ([0, 0, 0, LOOPBACK_V4], false),
        ];
        for (address, expected) in cases {
            assert_eq!(is_loopback(address), expected, "{address:x?}");
        }
    }

    #[test]
    fn counters_keep_their_numbers_without_gaps() {
        for (index, stat) in Stat::ALL.iter().enumerate() {
            assert_eq!(*stat as usize, index, "{}", stat.name());
            assert_eq!(Stat::from_u32(index as u32), Some(*stat));
        }
        assert_eq!(Stat::from_u32(Stat::ALL.len() as u32), None);
    }
}
