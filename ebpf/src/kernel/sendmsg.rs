//! sendmsg4, sendmsg6: no datagram to a target, whatever it carries.

use aya_ebpf::{macros::cgroup_sock_addr, programs::SockAddrContext};
use chaperone_ebpf::Stat;

use crate::{
    address::{self, Destination},
    maps::{self, CFG},
    policy::{self, Standing},
    report,
};

enum Outcome {
    Pass,
    Deny,
}

#[cgroup_sock_addr(sendmsg4)]
pub(crate) fn sendmsg4(ctx: SockAddrContext) -> i32 {
    let destination = address::read_v4(&ctx);
    verdict(&ctx, &destination, try_sendmsg(&destination))
}

#[cgroup_sock_addr(sendmsg6)]
pub(crate) fn sendmsg6(ctx: SockAddrContext) -> i32 {
    let destination = address::read_v6(&ctx);
    verdict(&ctx, &destination, try_sendmsg(&destination))
}

#[inline(always)]
fn verdict(ctx: &SockAddrContext, destination: &Destination, outcome: Outcome) -> i32 {
    match outcome {
        Outcome::Pass => 1,
        // The caller gets EPERM.
        Outcome::Deny => {
            report::refused(Stat::DeniedDatagram, destination, address::protocol(ctx) as u16);
            0
        }
    }
}

#[inline(always)]
fn try_sendmsg(destination: &Destination) -> Outcome {
    if maps::target(destination.addr, destination.port).is_none() {
        return Outcome::Pass;
    }
    let Some(config) = CFG.get(0) else { return Outcome::Deny };
    match policy::current(config) {
        Standing::Agent | Standing::Bypassed => Outcome::Pass,
        Standing::Denied | Standing::Governed => Outcome::Deny,
    }
}
