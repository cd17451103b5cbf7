//! getpeername4, getpeername6: a redirected socket shows the peer its owner asked for.

use aya_ebpf::{macros::cgroup_sock_addr, programs::SockAddrContext};
use chaperone_ebpf::{Origin, ROLE_CLIENT};

use crate::{address, maps};

#[cgroup_sock_addr(getpeername4)]
pub(crate) fn getpeername4(ctx: SockAddrContext) -> i32 {
    if let Some(Origin { addr: [_, _, _, ip], port, .. }) = try_getpeername(&ctx) {
        address::write_v4(&ctx, ip, port);
    }
    // Nothing to deny here: the program only answers.
    1
}

#[cgroup_sock_addr(getpeername6)]
pub(crate) fn getpeername6(ctx: SockAddrContext) -> i32 {
    if let Some(Origin { addr, port, .. }) = try_getpeername(&ctx) {
        address::write_v6(&ctx, addr, port);
    }
    1
}

#[inline(always)]
fn try_getpeername(ctx: &SockAddrContext) -> Option<Origin> {
    // SAFETY: the socket is the context's.
    let entry = unsafe { maps::stored(address::socket(ctx)) }?;
    // SAFETY: `entry` is this socket's value; it is only written under the socket's lock, by connect.
    let origin = unsafe { entry.read() };
    (origin.role == ROLE_CLIENT).then_some(origin)
}
