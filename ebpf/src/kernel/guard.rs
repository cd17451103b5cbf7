//! A guard for what no cgroup hook sees: whoever uses CAP_NET_RAW in a governed cgroup can open an AF_PACKET socket, whose
//! frames pass every hook. The tracepoint of capability checks (kernels from 6.14 on) sees the use, also by io_uring.
//!
//! It sees every use: raw sockets (denied by `create` anyway), SO_MARK, SO_BINDTODEVICE, IP_TRANSPARENT, ping as root. Which
//! it was it does not tell, so killing is for workloads that have no business with any of them.

use aya_ebpf::{
    Global,
    helpers::{
        bpf_get_current_pid_tgid,
        generated::{bpf_get_current_cgroup_id, bpf_send_signal},
    },
    macros::raw_tracepoint,
    programs::RawTracePointContext,
};
use chaperone_ebpf::Stat;

use crate::{
    maps::CFG,
    policy::{self, Standing},
    report,
};

const CAP_NET_RAW: u32 = 13;
const SIGKILL: u32 = 9;

/// Set by the loader: whether the process is killed, or only told of.
#[unsafe(no_mangle)]
static NET_RAW_KILLS: Global<u32> = Global::new(0);

#[raw_tracepoint(tracepoint = "cap_capable")]
pub(crate) fn net_raw_used(ctx: RawTracePointContext) -> i32 {
    let _none_of_ours = try_guard(&ctx);
    0
}

#[inline(always)]
fn try_guard(ctx: &RawTracePointContext) -> Option<()> {
    let (capability, denied): (u32, i32) = (ctx.arg(3), ctx.arg(4));
    if capability != CAP_NET_RAW || denied != 0 {
        return None;
    }
    match policy::current(CFG.get(0)?) {
        Standing::Agent | Standing::Bypassed => return None,
        Standing::Denied | Standing::Governed => {}
    }
    let tgid = (bpf_get_current_pid_tgid() >> 32) as u32;
    // SAFETY: a helper without arguments.
    let cgroup = unsafe { bpf_get_current_cgroup_id() };
    if NET_RAW_KILLS.load() == 0 {
        report::notice(Stat::NetRawUsed, tgid, cgroup, |_text| {});
        return None;
    }
    report::notice(Stat::NetRawKilled, tgid, cgroup, |_text| {});
    // SAFETY: the helper sends the signal to the current process, before it returns to user space.
    let _sent = unsafe { bpf_send_signal(SIGKILL) };
    Some(())
}
