//! cgroup_skb/egress: the net below the connect hooks. No packet leaves for a target but the agent's own, whatever
//! made it: raw sockets, NAT inside a pod, connections older than the agent.
//!
//! What cannot be parsed, or says that it is to go on from where it is sent (source routes), is dropped when the socket's
//! cgroup is governed. Let through without an entry are
//! segments that cannot carry a request: resets (of connections destroyed on purpose) and SYN-ACKs (of a server
//! whose peer's port looks like a target's; the handshake's last step marks that socket).
//!
//! Here too a connection waits for its listener: the SYN of a redirected socket is dropped, and asked for, until the
//! agent serves the socket's network namespace.

use aya_ebpf::{
    bindings::bpf_sock, helpers::generated::bpf_skb_cgroup_id, macros::cgroup_skb, programs::SkBuffContext,
};
use chaperone_ebpf::{
    Config, Origin, ROLE_ACCEPTED, ROLE_AGENT, ROLE_CLIENT, ROLE_INBOUND, ROLE_LOCAL, ROLE_NONE, Stat,
    is_loopback, mapped,
};

use crate::{
    address::Destination,
    maps::{self, CFG},
    netns,
    policy::{self, Standing},
    report,
};

const IPPROTO_TCP: u8 = 6;
const IPPROTO_UDP: u8 = 17;
const IPPROTO_DCCP: u8 = 33;
const IPPROTO_SCTP: u8 = 132;
const IPPROTO_UDPLITE: u8 = 136;

const NOWHERE: [u32; 4] = [0; 4];

/// What the headers say.
enum Parsed {
    /// A protocol without ports.
    Portless,
    Ports {
        destination: Destination,
        protocol: u8,
        transport: usize,
    },
    /// Whatever it is, it goes to this address.
    Unparsable([u32; 4]),
}

enum Outcome {
    Pass,
    /// To be sent again when there is a listener.
    Hold,
    Drop(Stat, Destination, u8),
}

#[cgroup_skb(egress)]
pub(crate) fn egress(ctx: SkBuffContext) -> i32 {
    match try_egress(&ctx) {
        Outcome::Pass => 1,
        // Nobody sees this: a SYN that cannot be sent is retransmitted.
        Outcome::Hold => {
            report::count(Stat::HeldSyn);
            0
        }
        // The sender gets EPERM where it waits for the packet; TCP goes on trying until it gives up.
        Outcome::Drop(stat, destination, protocol) => {
            // SAFETY: the helper takes this program's context.
            let cgroup = unsafe { bpf_skb_cgroup_id(ctx.skb.skb) };
            report::dropped(stat, cgroup, &destination, u16::from(protocol));
            0
        }
    }
}

#[inline(always)]
fn try_egress(ctx: &SkBuffContext) -> Outcome {
    const ETH_P_IP: u32 = 0x0800_u16.to_be() as u32;
    const ETH_P_IPV6: u32 = 0x86dd_u16.to_be() as u32;
    let role = role(ctx);
    // Wherever they send, and first: the agent's own packets are half of all there are.
    if matches!(role, ROLE_AGENT | ROLE_INBOUND | ROLE_ACCEPTED) {
        return Outcome::Pass;
    }
    let parsed = match ctx.skb.protocol() {
        ETH_P_IP => parse_v4(ctx),
        ETH_P_IPV6 => parse_v6(ctx),
        _ => Parsed::Unparsable(NOWHERE),
    };
    let (stat, destination, protocol) = match parsed {
        Parsed::Portless => return Outcome::Pass,
        Parsed::Ports { destination, protocol, transport } => {
            if is_held(ctx, &destination, protocol, transport) {
                return Outcome::Hold;
            }
            if maps::target(destination.addr, destination.port).is_none() {
                return Outcome::Pass;
            }
            if protocol == IPPROTO_TCP && cannot_ask(ctx, transport) {
                return Outcome::Pass;
            }
            (Stat::DroppedEgress, destination, protocol)
        }
        Parsed::Unparsable(addr) => (Stat::DroppedUnparsable, Destination { addr, port: 0 }, 0),
    };
    // A socket that stays in a namespace of its own, unless address translation sent it elsewhere.
    if role == ROLE_LOCAL && is_loopback(destination.addr) {
        return Outcome::Pass;
    }
    match policy::of_packet(ctx.skb.skb) {
        Standing::Bypassed => Outcome::Pass,
        // The agent's own sockets carry a mark; its cgroup alone is no pass.
        Standing::Agent | Standing::Denied | Standing::Governed => Outcome::Drop(stat, destination, protocol),
    }
}

/// Whether this is the first packet of a redirected connection, and its namespace has no listener yet.
#[inline(always)]
fn is_held(ctx: &SkBuffContext, destination: &Destination, protocol: u8, transport: usize) -> bool {
    let Some(config) = CFG.get(0) else { return false };
    if !is_for_listener(config, destination, protocol) || !is_syn(ctx, transport) {
        return false;
    }
    let Some(entry) = entry(ctx) else { return false };
    // SAFETY: `entry` is this socket's value, which only connect writes; the SYN is sent under the same lock.
    let origin: &Origin = unsafe { &*entry };
    if origin.role != ROLE_CLIENT || netns::is_served(config, origin.netns) {
        return false;
    }
    netns::ask(origin);
    true
}

#[inline(always)]
fn is_for_listener(config: &Config, destination: &Destination, protocol: u8) -> bool {
    protocol == IPPROTO_TCP
        && u16::from_be(destination.port) == config.listen_port as u16
        && is_loopback(destination.addr)
}

/// What the packet's socket is known as.
#[inline(always)]
fn role(ctx: &SkBuffContext) -> u32 {
    let Some(entry) = entry(ctx) else { return ROLE_NONE };
    // SAFETY: one aligned word of this socket's value.
    unsafe { (&raw const (*entry).role).read_volatile() }
}

/// The entry of the packet's socket, if there is one.
#[inline(always)]
fn entry(ctx: &SkBuffContext) -> Option<*mut Origin> {
    // SAFETY: the kernel hands the program a valid context; the socket in it may be null.
    let sk: *mut bpf_sock = unsafe { (*ctx.skb.skb).__bindgen_anon_2.sk };
    // SAFETY: `sk` is the context's.
    unsafe { maps::stored(sk) }
}

const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;

#[inline(always)]
fn is_syn(ctx: &SkBuffContext, transport: usize) -> bool {
    ctx.load::<u8>(transport + 13).is_ok_and(|flags| flags & (SYN | ACK) == SYN)
}

#[inline(always)]
fn cannot_ask(ctx: &SkBuffContext, transport: usize) -> bool {
    match ctx.load::<u8>(transport + 13) {
        Ok(flags) => flags & RST != 0 || flags & (SYN | ACK) == SYN | ACK,
        Err(_short) => false,
    }
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Ipv4Header {
    version_ihl: u8,
    tos: u8,
    length: u16,
    id: u16,
    fragment: u16,
    ttl: u8,
    protocol: u8,
    checksum: u16,
    source: u32,
    destination: u32,
}

/// What nearly all packets begin with, so that one call of the kernel's reads it: the calls are what parsing costs.
#[repr(C)]
#[derive(Clone, Copy)]
struct Usual<H> {
    header: H,
    ports: [u16; 2],
}

impl<H> Usual<H> {
    #[inline(always)]
    const fn parsed(&self, addr: [u32; 4], protocol: u8) -> Parsed {
        let destination = Destination { addr, port: self.ports[1] };
        Parsed::Ports { destination, protocol, transport: size_of::<H>() }
    }
}

#[inline(always)]
fn parse_v4(ctx: &SkBuffContext) -> Parsed {
    const NO_OPTIONS: u8 = 0x45;
    if let Ok(usual) = ctx.load::<Usual<Ipv4Header>>(0) {
        let header = &usual.header;
        let whole = u16::from_be(header.fragment) & 0x1fff == 0;
        if header.version_ihl == NO_OPTIONS && whole && has_ports(header.protocol) {
            return usual.parsed(mapped(header.destination), header.protocol);
        }
    }
    let Ok(header) = ctx.load::<Ipv4Header>(0) else { return Parsed::Unparsable(NOWHERE) };
    // Packets are cut after this hook: a later fragment here was made by hand.
    if u16::from_be(header.fragment) & 0x1fff != 0 {
        return Parsed::Unparsable(mapped(header.destination));
    }
    let transport = usize::from(header.version_ihl & 0x0f) * 4;
    if transport > size_of::<Ipv4Header>() && has_source_route(ctx, transport) {
        return Parsed::Unparsable(mapped(header.destination));
    }
    ports(ctx, header.protocol, transport, mapped(header.destination))
}

/// Whether the packet is to go on from its header's destination to one in its options (RFC 791): the next hop would
/// send it to whatever stands there. A list of options that cannot be read counts as one that does.
#[inline(always)]
fn has_source_route(ctx: &SkBuffContext, end: usize) -> bool {
    /// More than any honest packet has, padding included; a packet with more counts as one with a source route.
    const MAX_OPTIONS: usize = 12;
    const END: u8 = 0;
    const NO_OPERATION: u8 = 1;
    const LOOSE: u8 = 131;
    const STRICT: u8 = 137;
    let mut at = size_of::<Ipv4Header>();
    for _ in 0..MAX_OPTIONS {
        if at >= end {
            return false;
        }
        let Ok(kind) = ctx.load::<u8>(at) else { return true };
        match kind {
            END => return false,
            NO_OPERATION => at += 1,
            LOOSE | STRICT => return true,
            _ => match ctx.load::<u8>(at + 1) {
                Ok(length) if length >= 2 => at += usize::from(length),
                Ok(_) | Err(_) => return true,
            },
        }
    }
    true
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Ipv6Header {
    flow: u32,
    length: u16,
    next: u8,
    hops: u8,
    source: [u32; 4],
    destination: [u32; 4],
}

#[inline(always)]
fn parse_v6(ctx: &SkBuffContext) -> Parsed {
    /// More extension headers than any honest packet has.
    const MAX_EXTENSIONS: usize = 8;
    const HOP_BY_HOP: u8 = 0;
    const ROUTING: u8 = 43;
    const FRAGMENT: u8 = 44;
    const AUTHENTICATION: u8 = 51;
    const DESTINATION: u8 = 60;
    const MOBILITY: u8 = 135;
    const HIP: u8 = 139;
    const SHIM6: u8 = 140;
    if let Ok(usual) = ctx.load::<Usual<Ipv6Header>>(0)
        && has_ports(usual.header.next)
    {
        return usual.parsed(usual.header.destination, usual.header.next);
    }
    let Ok(header) = ctx.load::<Ipv6Header>(0) else { return Parsed::Unparsable(NOWHERE) };
    let mut next = header.next;
    let mut offset = size_of::<Ipv6Header>();
    for _ in 0..MAX_EXTENSIONS {
        if !matches!(
            next,
            HOP_BY_HOP | ROUTING | FRAGMENT | AUTHENTICATION | DESTINATION | MOBILITY | HIP | SHIM6
        ) {
            return ports(ctx, next, offset, header.destination);
        }
        let Ok([following, length, third, fourth]) = ctx.load::<[u8; 4]>(offset) else {
            return Parsed::Unparsable(header.destination);
        };
        offset += match next {
            // The header's own destination is only the next hop while segments are left.
            ROUTING if fourth != 0 => return Parsed::Unparsable(header.destination),
            FRAGMENT if u16::from_be_bytes([third, fourth]) & 0xfff8 != 0 => {
                return Parsed::Unparsable(header.destination);
            }
            FRAGMENT => 8,
            AUTHENTICATION => (usize::from(length) + 2) * 4,
            _ => (usize::from(length) + 1) * 8,
        };
        next = following;
    }
    Parsed::Unparsable(header.destination)
}

#[inline(always)]
const fn has_ports(protocol: u8) -> bool {
    matches!(protocol, IPPROTO_TCP | IPPROTO_UDP | IPPROTO_DCCP | IPPROTO_SCTP | IPPROTO_UDPLITE)
}

#[inline(always)]
fn ports(ctx: &SkBuffContext, protocol: u8, transport: usize, addr: [u32; 4]) -> Parsed {
    if !has_ports(protocol) {
        return Parsed::Portless;
    }
    match ctx.load::<[u16; 2]>(transport) {
        Ok([_source, port]) => Parsed::Ports { destination: Destination { addr, port }, protocol, transport },
        Err(_short) => Parsed::Unparsable(addr),
    }
}
