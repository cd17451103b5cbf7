//! connect4, connect6: a governed TCP connect to a target is sent to the agent's listener, and the socket
//! remembers where it was going and who asked.
//!
//! These hooks also run for the destination of `sendto(MSG_FASTOPEN)` and of io_uring's connect.

use aya_ebpf::{
    EbpfContext as _,
    helpers::{
        bpf_get_current_comm, bpf_get_current_pid_tgid, bpf_get_current_uid_gid, bpf_probe_read_kernel,
        generated::{
            bpf_get_current_cgroup_id, bpf_get_current_task, bpf_get_netns_cookie, bpf_get_socket_cookie,
            bpf_ktime_get_boot_ns, bpf_setsockopt,
        },
    },
    macros::cgroup_sock_addr,
    programs::SockAddrContext,
};
use aya_log_ebpf::warn;
use chaperone_ebpf::{
    Config, LOOPBACK_V4, LOOPBACK_V6, MAPPED, Origin, ROLE_AGENT, ROLE_CLIENT, ROLE_LOCAL, STALE_AFTER_NS,
    Stat, is_loopback, mapped,
};

use crate::{
    address::{self, Destination},
    maps::{self, BEAT, CFG},
    netns,
    policy::{self, Standing},
    process, report,
};

const IPPROTO_TCP: u32 = 6;

enum Outcome {
    /// None of ours.
    Pass,
    /// To a target, by somebody who may.
    Allow(Stat),
    /// To the listener at this port (network order); `v6` when the destination is no IPv4 in disguise.
    Redirect {
        port: u16,
        v6: bool,
    },
    Deny(Stat),
}

#[cgroup_sock_addr(connect4)]
pub(crate) fn connect4(ctx: SockAddrContext) -> i32 {
    let destination = address::read_v4(&ctx);
    let outcome = try_connect(&ctx, &destination);
    verdict(&ctx, &destination, outcome, |port, _v6| address::write_v4(&ctx, LOOPBACK_V4, port))
}

#[cgroup_sock_addr(connect6)]
pub(crate) fn connect6(ctx: SockAddrContext) -> i32 {
    let destination = address::read_v6(&ctx);
    let outcome = try_connect(&ctx, &destination);
    verdict(&ctx, &destination, outcome, |port, v6| {
        let listener = if v6 { [0, 0, 0, LOOPBACK_V6] } else { mapped(LOOPBACK_V4) };
        address::write_v6(&ctx, listener, port);
    })
}

#[inline(always)]
fn verdict(
    ctx: &SockAddrContext,
    destination: &Destination,
    outcome: Outcome,
    rewrite: impl FnOnce(u16, bool),
) -> i32 {
    match outcome {
        Outcome::Pass => 1,
        Outcome::Allow(stat) => {
            report::count(stat);
            1
        }
        Outcome::Redirect { port, v6 } => {
            rewrite(port, v6);
            report::count(Stat::Redirected);
            1
        }
        // The caller gets EPERM.
        Outcome::Deny(stat) => {
            report::refused(stat, destination, address::protocol(ctx) as u16);
            0
        }
    }
}

#[inline(always)]
fn try_connect(ctx: &SockAddrContext, destination: &Destination) -> Outcome {
    let Some(config) = CFG.get(0) else { return Outcome::Deny(Stat::DeniedStale) };
    if is_listener(config, destination) && !policy::is_agent(config) {
        return Outcome::Deny(Stat::DeniedListener);
    }
    let sk = address::socket(ctx);
    let Some(target) = maps::target(destination.addr, destination.port) else {
        // A socket may be used again after AF_UNSPEC: getpeername must not go on about its former target.
        // SAFETY: `sk` is the context's socket.
        unsafe { maps::forget(sk) };
        return Outcome::Pass;
    };
    // SAFETY: the helper takes this program's context.
    let netns = unsafe { bpf_get_netns_cookie(ctx.as_ptr()) };
    if netns != config.host_netns && is_loopback(destination.addr) {
        return vouch(ctx, ROLE_LOCAL, Stat::ForeignLoopback);
    }
    match policy::current(config) {
        // The mark is what the egress program lets through: not the agent's cgroup, which others could be moved into.
        Standing::Agent => vouch(ctx, ROLE_AGENT, Stat::AgentUpstream),
        Standing::Bypassed => {
            // SAFETY: `sk` is the context's socket.
            unsafe { maps::forget(sk) };
            Outcome::Allow(Stat::Bypassed)
        }
        Standing::Denied => Outcome::Deny(Stat::DeniedCgroup),
        Standing::Governed => redirect(ctx, config, destination, target, netns),
    }
}

/// Lets the connect through, and marks the socket for the egress program.
#[inline(always)]
fn vouch(ctx: &SockAddrContext, role: u32, stat: Stat) -> Outcome {
    // SAFETY: the socket is the context's.
    let Some(entry) = (unsafe { maps::storage(address::socket(ctx)) }) else {
        return Outcome::Deny(Stat::DeniedStorage);
    };
    // SAFETY: `entry` is this socket's value, and the socket is locked by the connect that runs us.
    unsafe { (&raw mut (*entry).role).write(role) };
    Outcome::Allow(stat)
}

#[inline(always)]
fn redirect(
    ctx: &SockAddrContext,
    config: &Config,
    destination: &Destination,
    target: u32,
    netns: u64,
) -> Outcome {
    if address::protocol(ctx) != IPPROTO_TCP {
        return Outcome::Deny(Stat::DeniedProtocol);
    }
    // SAFETY: a helper without arguments.
    let now = unsafe { bpf_ktime_get_boot_ns() };
    if is_stale(now) {
        return Outcome::Deny(Stat::DeniedStale);
    }
    let v6 = !is_v4(destination.addr);
    // SAFETY: the socket is the context's.
    let Some(entry) = (unsafe { maps::storage(address::socket(ctx)) }) else {
        warn!(ctx, "no storage for a socket: connect denied");
        return Outcome::Deny(Stat::DeniedStorage);
    };
    // Into the entry at once: a copy on the stack is more than older kernels leave room for.
    // SAFETY: `entry` is this socket's value, and the socket is locked by the connect that runs us.
    let origin = unsafe { &mut *entry };
    fill(origin, ctx, config, destination);
    (origin.target, origin.connected_at, origin.netns) = (target, now, netns);
    if !onto_loopback(ctx) {
        return Outcome::Deny(Stat::DeniedStorage);
    }
    if !netns::is_served(config, netns) {
        netns::ask(origin);
    }
    Outcome::Redirect { port: (config.listen_port as u16).to_be(), v6 }
}

/// Where to, and who asks.
#[inline(always)]
fn fill(origin: &mut Origin, ctx: &SockAddrContext, config: &Config, destination: &Destination) {
    let pid_tgid = bpf_get_current_pid_tgid();
    let uid_gid = bpf_get_current_uid_gid();
    origin.role = ROLE_CLIENT;
    origin.via_v6 = u32::from(!is_v4(destination.addr));
    origin.addr = destination.addr;
    origin.port = destination.port;
    origin.pad = 0;
    origin.tgid = (pid_tgid >> 32) as u32;
    origin.tid = pid_tgid as u32;
    origin.uid = uid_gid as u32;
    origin.gid = (uid_gid >> 32) as u32;
    // SAFETY: the helper takes this program's context.
    origin.cookie = unsafe { bpf_get_socket_cookie(ctx.as_ptr()) };
    // SAFETY: a helper without arguments.
    origin.cgroup = unsafe { bpf_get_current_cgroup_id() };
    origin.start_boottime = start_boottime(config);
    origin.exec_id = process::current_node(origin.tgid, origin.start_boottime);
    origin.comm = bpf_get_current_comm().unwrap_or_default();
}

/// When the current process (its thread group leader) started: with the pid, its name for good.
#[inline(always)]
fn start_boottime(config: &Config) -> u64 {
    if config.start_offset == 0 {
        return 0;
    }
    // SAFETY: a helper without arguments; what it returns is only read through probe reads.
    let task = unsafe { bpf_get_current_task() };
    let leader = task.wrapping_add(u64::from(config.leader_offset)) as *const u64;
    // SAFETY: a probe read of a wrong address fails; the offset is from the running kernel's BTF.
    let Ok(leader) = (unsafe { bpf_probe_read_kernel(leader) }) else { return 0 };
    let start = leader.wrapping_add(u64::from(config.start_offset)) as *const u64;
    // SAFETY: as above.
    unsafe { bpf_probe_read_kernel(start) }.unwrap_or(0)
}

/// A socket bound to a device cannot reach the listener on loopback: bind it there.
#[inline(always)]
fn onto_loopback(ctx: &SockAddrContext) -> bool {
    const SOL_SOCKET: i32 = 1;
    const SO_BINDTODEVICE: i32 = 25;
    // SAFETY: the context's socket is valid, and its first word is the device's index.
    let bound = unsafe { (&raw const (*address::socket(ctx)).bound_dev_if).read_volatile() };
    if bound == 0 {
        return true;
    }
    let mut name = *b"lo\0\0";
    // SAFETY: the helper takes this program's context and reads `name`, which outlives the call.
    0 == unsafe {
        bpf_setsockopt(ctx.as_ptr(), SOL_SOCKET, SO_BINDTODEVICE, name.as_mut_ptr().cast(), name.len() as i32)
    }
}

#[inline(always)]
fn is_stale(now: u64) -> bool {
    let Some(beat) = BEAT.get_ptr(0) else { return true };
    // SAFETY: one aligned word of an array that is never freed while the program runs.
    let beat = unsafe { beat.read_volatile() };
    now > beat.wrapping_add(STALE_AFTER_NS)
}

#[inline(always)]
fn is_listener(config: &Config, destination: &Destination) -> bool {
    if u16::from_be(destination.port) != config.listen_port as u16 {
        return false;
    }
    let [a, b, c, d] = destination.addr;
    a == 0 && b == 0 && ((c == MAPPED && d == LOOPBACK_V4) || (c == 0 && d == LOOPBACK_V6))
}

#[inline(always)]
fn is_v4([a, b, c, _d]: [u32; 4]) -> bool {
    a == 0 && b == 0 && c == MAPPED
}
