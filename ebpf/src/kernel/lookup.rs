//! sk_lookup: connections to the listener's port on loopback go to the agent's own socket, whoever has bound what.
//!
//! The port is virtual: the agent's listeners have ephemeral ports of their own, so that a new agent never fights
//! an old one for the port, and after a crash nobody can take it. An empty slot refuses.

use aya_ebpf::{
    bindings::{bpf_sk_lookup, sk_action},
    macros::sk_lookup,
    programs::SkLookupContext,
};
use chaperone_ebpf::{LOOPBACK_V4, LOOPBACK_V6, SLOT_V4, SLOT_V6, Stat};

use crate::{
    maps::{CFG, LSOCK},
    report,
};

enum Outcome {
    Pass,
    Assigned,
    Refuse,
}

#[sk_lookup]
pub(crate) fn lookup(ctx: SkLookupContext) -> u32 {
    match try_lookup(&ctx) {
        // Nothing of ours, or the socket we chose: either way the kernel goes on.
        Outcome::Pass | Outcome::Assigned => sk_action::SK_PASS,
        // The client gets a reset.
        Outcome::Refuse => {
            report::count(Stat::NoListener);
            sk_action::SK_DROP
        }
    }
}

/// Reads one word at a constant offset of the context.
macro_rules! word {
    ($ctx:expr, $($field:tt)+) => {{
        let context: *mut bpf_sk_lookup = $ctx.lookup;
        // SAFETY: the kernel hands the program a valid context for the run of the program.
        unsafe { (&raw const (*context).$($field)+).read_volatile() }
    }};
}

#[inline(always)]
fn try_lookup(ctx: &SkLookupContext) -> Outcome {
    const IPPROTO_TCP: u32 = 6;
    const AF_INET: u32 = 2;
    let Some(config) = CFG.get(0) else { return Outcome::Pass };
    if word!(ctx, local_port) != config.listen_port || word!(ctx, protocol) != IPPROTO_TCP {
        return Outcome::Pass;
    }
    let v4 = word!(ctx, local_ip4);
    let v6 = [
        word!(ctx, local_ip6[0]),
        word!(ctx, local_ip6[1]),
        word!(ctx, local_ip6[2]),
        word!(ctx, local_ip6[3]),
    ];
    let slot = if word!(ctx, family) == AF_INET {
        if v4 != LOOPBACK_V4 {
            return Outcome::Pass;
        }
        SLOT_V4
    } else {
        if v6[0] != 0 || v6[1] != 0 || v6[2] != 0 || v6[3] != LOOPBACK_V6 {
            return Outcome::Pass;
        }
        SLOT_V6
    };
    match LSOCK.redirect_sk_lookup(ctx, slot, 0) {
        Ok(()) => Outcome::Assigned,
        Err(_empty_or_refused) => Outcome::Refuse,
    }
}
