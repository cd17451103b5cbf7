//! bind4, bind6: the listener's port is the agent's.
//!
//! Where the lookup program is attached the port cannot be taken over on loopback anyway; this guards the network
//! namespaces where it is not (yet).

use aya_ebpf::{macros::cgroup_sock_addr, programs::SockAddrContext};
use chaperone_ebpf::Stat;

use crate::{
    address::{self, Destination},
    maps::CFG,
    policy, report,
};

enum Outcome {
    Pass,
    Deny,
}

#[cgroup_sock_addr(bind4)]
pub(crate) fn bind4(ctx: SockAddrContext) -> i32 {
    let wanted = address::read_v4(&ctx);
    verdict(&ctx, &wanted, try_bind(&wanted))
}

#[cgroup_sock_addr(bind6)]
pub(crate) fn bind6(ctx: SockAddrContext) -> i32 {
    let wanted = address::read_v6(&ctx);
    verdict(&ctx, &wanted, try_bind(&wanted))
}

#[inline(always)]
fn verdict(ctx: &SockAddrContext, wanted: &Destination, outcome: Outcome) -> i32 {
    match outcome {
        Outcome::Pass => 1,
        // The caller gets EPERM.
        Outcome::Deny => {
            report::refused(Stat::DeniedBind, wanted, address::protocol(ctx) as u16);
            0
        }
    }
}

#[inline(always)]
fn try_bind(wanted: &Destination) -> Outcome {
    let Some(config) = CFG.get(0) else { return Outcome::Pass };
    if u16::from_be(wanted.port) != config.listen_port as u16 || policy::is_agent(config) {
        return Outcome::Pass;
    }
    Outcome::Deny
}
