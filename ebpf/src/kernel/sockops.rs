//! sock_ops of the governed tree: announces a redirected connection before its SYN leaves, takes the announcement
//! back when the socket closes first, and marks sockets that were accepted rather than opened.
//!
//! `TCP_CONNECT_CB` and not `ACTIVE_ESTABLISHED_CB`: the latter comes after the peer may have accepted, and with
//! TCP Fast Open even after data arrived.

use aya_ebpf::{
    bindings::{
        BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB, BPF_SOCK_OPS_STATE_CB, BPF_SOCK_OPS_STATE_CB_FLAG,
        BPF_SOCK_OPS_TCP_CONNECT_CB, BPF_SOCK_OPS_TIMEOUT_INIT, BPF_TCP_CLOSE, bpf_sock, bpf_sock_ops,
    },
    macros::sock_ops,
    programs::SockOpsContext,
};
use aya_log_ebpf::warn;
use chaperone_ebpf::{FlowKey, Origin, ROLE_CLIENT, ROLE_INBOUND, ROLE_NONE, Stat, mapped};

use crate::{
    maps::{self, CFG, FLOW},
    netns, report,
};

/// Reads one word at a constant offset of the context.
macro_rules! word {
    ($ctx:expr, $($field:tt)+) => {{
        let context: *mut bpf_sock_ops = $ctx.ops;
        // SAFETY: the kernel hands the program a valid context for the run of the program.
        unsafe { (&raw const (*context).$($field)+).read_volatile() }
    }};
}
pub(crate) use word;

#[sock_ops]
pub(crate) fn sock_events(ctx: SockOpsContext) -> u32 {
    // The return value of the hook only says whether `reply` counts; nothing can be denied here.
    let _nothing_to_do = try_sockops(&ctx);
    1
}

#[inline(always)]
fn try_sockops(ctx: &SockOpsContext) -> Option<()> {
    match word!(ctx, op) {
        BPF_SOCK_OPS_TIMEOUT_INIT => hasten(ctx),
        BPF_SOCK_OPS_TCP_CONNECT_CB => announce(ctx),
        BPF_SOCK_OPS_STATE_CB => withdraw(ctx),
        BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB => mark_inbound(ctx),
        _ => None,
    }
}

/// A short SYN timeout where the first SYN is about to be held because the namespace has no listener yet.
#[inline(always)]
fn hasten(ctx: &SockOpsContext) -> Option<()> {
    let entry = client(ctx)?;
    // SAFETY: `entry` is this socket's value; the socket is locked by connect.
    let netns = unsafe { (*entry).netns };
    let config = CFG.get(0)?;
    if config.syn_timeout != 0 && !netns::is_served(config, netns) {
        ctx.set_reply(config.syn_timeout);
    }
    Some(())
}

#[inline(always)]
fn announce(ctx: &SockOpsContext) -> Option<()> {
    let entry = client(ctx)?;
    // SAFETY: `entry` is this socket's value; the socket is locked by connect.
    let origin: &Origin = unsafe { &*entry };
    let key = client_key(ctx, origin);
    if FLOW.insert(key, origin, 0).is_err() {
        report::count(Stat::FlowFull);
        warn!(ctx, "no room to announce a connection: the agent will refuse it");
        return None;
    }
    let flags = ctx.cb_flags() | BPF_SOCK_OPS_STATE_CB_FLAG;
    // Without the callback a connection that closes unaccepted leaves its entry; the next one with the same
    // addresses overwrites it.
    let _flags = ctx.set_cb_flags(flags as i32);
    Some(())
}

#[inline(always)]
fn withdraw(ctx: &SockOpsContext) -> Option<()> {
    // args: old state, new state.
    if word!(ctx, __bindgen_anon_1.args[1]) != BPF_TCP_CLOSE {
        return None;
    }
    let entry = client(ctx)?;
    // SAFETY: `entry` is this socket's value; the socket is locked in this callback.
    let origin: &Origin = unsafe { &*entry };
    let key = client_key(ctx, origin);
    // SAFETY: one word is read; a concurrent replacement of the entry has another cookie either way.
    let announced = unsafe { FLOW.get(key) }?.cookie;
    if announced == origin.cookie {
        let _absent = FLOW.remove(key);
        // The agent does not know of it, so nobody else would tell.
        report::unserved(origin);
    }
    Some(())
}

/// A server's replies to a peer whose own port happens to be a target's must not be taken for a way around us.
#[inline(always)]
fn mark_inbound(ctx: &SockOpsContext) -> Option<()> {
    let (addr, port) = remote(ctx);
    maps::target(addr, port)?;
    // SAFETY: the socket is the context's.
    let entry = unsafe { maps::storage(socket(ctx)) }?;
    // SAFETY: `entry` is this socket's value; the socket is locked in this callback.
    unsafe {
        if (*entry).role == ROLE_NONE {
            (&raw mut (*entry).role).write(ROLE_INBOUND);
        }
    }
    Some(())
}

/// The entry of a redirected socket.
#[inline(always)]
fn client(ctx: &SockOpsContext) -> Option<*mut Origin> {
    // SAFETY: the socket is the context's.
    let entry = unsafe { maps::stored(socket(ctx)) }?;
    // SAFETY: `entry` is this socket's value.
    (unsafe { (*entry).role } == ROLE_CLIENT).then_some(entry)
}

#[inline(always)]
fn client_key(ctx: &SockOpsContext, origin: &Origin) -> FlowKey {
    let v4 = (mapped(word!(ctx, local_ip4)), mapped(word!(ctx, remote_ip4)));
    let v6 = (local_v6(ctx), remote_v6(ctx));
    // A mapped connection lives in an IPv6 socket, and the listener sees IPv4: the rewrite knows which it is.
    let (client, listener) = if origin.via_v6 == 0 { v4 } else { v6 };
    FlowKey {
        netns: origin.netns,
        client,
        listener,
        client_port: (word!(ctx, local_port) as u16).to_be(),
        listener_port: (u32::from_be(word!(ctx, remote_port)) as u16).to_be(),
        pad: 0,
    }
}

/// Peer of an accepted socket: address in the maps' form, port in network order.
#[inline(always)]
pub(crate) fn remote(ctx: &SockOpsContext) -> ([u32; 4], u16) {
    const AF_INET: u32 = 2;
    let port = (u32::from_be(word!(ctx, remote_port)) as u16).to_be();
    let v4 = word!(ctx, remote_ip4);
    let v6 = remote_v6(ctx);
    if word!(ctx, family) == AF_INET { (mapped(v4), port) } else { (v6, port) }
}

#[inline(always)]
fn remote_v6(ctx: &SockOpsContext) -> [u32; 4] {
    [
        word!(ctx, remote_ip6[0]),
        word!(ctx, remote_ip6[1]),
        word!(ctx, remote_ip6[2]),
        word!(ctx, remote_ip6[3]),
    ]
}

#[inline(always)]
pub(crate) fn local_v6(ctx: &SockOpsContext) -> [u32; 4] {
    [word!(ctx, local_ip6[0]), word!(ctx, local_ip6[1]), word!(ctx, local_ip6[2]), word!(ctx, local_ip6[3])]
}

#[inline(always)]
pub(crate) fn socket(ctx: &SockOpsContext) -> *mut bpf_sock {
    // SAFETY: the kernel hands the program a valid context; the socket in it may be null.
    unsafe { (*ctx.ops).__bindgen_anon_2.sk }
}
