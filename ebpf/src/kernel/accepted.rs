//! sock_ops of the agent's own cgroup: when a handshake with the listener completes, the announcement moves onto
//! the accepted socket, where the agent reads it.
//!
//! Done here and not by a look-up at accept: between handshake and accept the client may abort, and the same
//! addresses may be announced again by somebody else; the data of the first would then be taken for the second's.
//! The child socket is locked until this has run, so accept cannot return it too early.

use aya_ebpf::{
    EbpfContext as _, bindings::BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB,
    helpers::generated::bpf_get_netns_cookie, macros::sock_ops, programs::SockOpsContext,
};
use chaperone_ebpf::{FlowKey, ROLE_ACCEPTED, Stat, mapped};

use crate::{
    maps::{self, CFG, FLOW},
    report,
    sockops::{self, word},
};
use aya_ebpf::bindings::bpf_sock_ops;

#[sock_ops]
pub(crate) fn accepted(ctx: SockOpsContext) -> u32 {
    // Nothing can be denied here; the agent refuses an accepted socket that has no entry.
    let _unannounced = try_accepted(&ctx);
    1
}

#[inline(always)]
fn try_accepted(ctx: &SockOpsContext) -> Option<()> {
    const AF_INET: u32 = 2;
    if word!(ctx, op) != BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB {
        return None;
    }
    let port = word!(ctx, local_port);
    if port != CFG.get(0)?.listen_port {
        return None;
    }
    let (client, client_port) = sockops::remote(ctx);
    let v4 = word!(ctx, local_ip4);
    let v6 = sockops::local_v6(ctx);
    let key = FlowKey {
        // SAFETY: the helper takes this program's context.
        netns: unsafe { bpf_get_netns_cookie(ctx.as_ptr()) },
        client,
        listener: if word!(ctx, family) == AF_INET { mapped(v4) } else { v6 },
        client_port,
        listener_port: (port as u16).to_be(),
        pad: 0,
    };
    let Some(announced) = FLOW.get_ptr(key) else {
        report::count(Stat::Unannounced);
        return None;
    };
    // SAFETY: the socket is the context's.
    let entry = unsafe { maps::storage(sockops::socket(ctx)) }?;
    // SAFETY: `announced` is a map value that only its own client could replace, and that one is in the middle of
    // this handshake; `entry` is this socket's value, and the socket is locked.
    unsafe {
        entry.write(*announced);
        (&raw mut (*entry).role).write(ROLE_ACCEPTED);
    }
    let _absent = FLOW.remove(key);
    report::count(Stat::Accepted);
    Some(())
}
