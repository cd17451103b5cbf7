//! Reads and writes the destination in the context of the socket address hooks.

use aya_ebpf::{
    bindings::{bpf_sock, bpf_sock_addr},
    programs::SockAddrContext,
};
use chaperone_ebpf::{effective, mapped};

/// Where a socket call goes.
#[derive(Clone, Copy)]
pub(crate) struct Destination {
    /// In the maps' form, "any" already replaced by loopback.
    pub(crate) addr: [u32; 4],
    /// Network order.
    pub(crate) port: u16,
}

/// Reads one word at a constant offset of the context.
macro_rules! word {
    ($ctx:expr, $($field:tt)+) => {{
        let context: *mut bpf_sock_addr = $ctx.sock_addr;
        // SAFETY: the kernel hands the program a valid context for the run of the program.
        unsafe { (&raw const (*context).$($field)+).read_volatile() }
    }};
}

/// Writes one word at a constant offset of the context.
macro_rules! set_word {
    ($ctx:expr, $value:expr, $($field:tt)+) => {{
        let context: *mut bpf_sock_addr = $ctx.sock_addr;
        // SAFETY: the kernel hands the program a valid context for the run of the program.
        unsafe { (&raw mut (*context).$($field)+).write_volatile($value) }
    }};
}

#[inline(always)]
pub(crate) fn read_v4(ctx: &SockAddrContext) -> Destination {
    let ip = word!(ctx, user_ip4);
    Destination { addr: effective(mapped(ip)), port: read_port(ctx) }
}

#[inline(always)]
pub(crate) fn read_v6(ctx: &SockAddrContext) -> Destination {
    let a = word!(ctx, user_ip6[0]);
    let b = word!(ctx, user_ip6[1]);
    let c = word!(ctx, user_ip6[2]);
    let d = word!(ctx, user_ip6[3]);
    Destination { addr: effective([a, b, c, d]), port: read_port(ctx) }
}

#[inline(always)]
pub(crate) fn write_v4(ctx: &SockAddrContext, ip: u32, port: u16) {
    set_word!(ctx, ip, user_ip4);
    set_word!(ctx, u32::from(port), user_port);
}

#[inline(always)]
pub(crate) fn write_v6(ctx: &SockAddrContext, words: [u32; 4], port: u16) {
    let [a, b, c, d] = words;
    set_word!(ctx, a, user_ip6[0]);
    set_word!(ctx, b, user_ip6[1]);
    set_word!(ctx, c, user_ip6[2]);
    set_word!(ctx, d, user_ip6[3]);
    set_word!(ctx, u32::from(port), user_port);
}

/// Network order, like the context's.
#[inline(always)]
pub(crate) fn read_port(ctx: &SockAddrContext) -> u16 {
    word!(ctx, user_port) as u16
}

#[inline(always)]
pub(crate) fn protocol(ctx: &SockAddrContext) -> u32 {
    word!(ctx, protocol)
}

/// SOCK_STREAM and the like.
#[inline(always)]
pub(crate) fn kind(ctx: &SockAddrContext) -> u32 {
    word!(ctx, type_)
}

#[inline(always)]
pub(crate) fn socket(ctx: &SockAddrContext) -> *mut bpf_sock {
    // SAFETY: the kernel hands the program a valid context, and its socket is never null in these hooks.
    unsafe { (*ctx.sock_addr).__bindgen_anon_1.sk }
}
