//! Who is asking: the agent, or a cgroup and what is configured for it or for its nearest listed ancestor.

use aya_ebpf::{
    bindings::__sk_buff,
    helpers::{
        bpf_get_current_pid_tgid,
        generated::{
            bpf_get_current_ancestor_cgroup_id, bpf_get_current_cgroup_id, bpf_ktime_get_boot_ns,
            bpf_skb_ancestor_cgroup_id,
        },
    },
};
use chaperone_ebpf::{Config, MAX_CGROUP_DEPTH, MODE_BYPASS, MODE_DENY, MODE_GOVERN};

use crate::maps::CGPOL;

#[derive(Clone, Copy)]
pub(crate) enum Standing {
    Agent,
    Bypassed,
    Denied,
    Governed,
}

/// The current task's standing.
///
/// The agent is its cgroup *and* its process: a process moved into the agent's cgroup is not exempt, and a mark or
/// a user id, which others can have too, means nothing.
#[inline(always)]
pub(crate) fn current(config: &Config) -> Standing {
    if is_agent(config) {
        return Standing::Agent;
    }
    // SAFETY: the helper takes a level and returns 0 for one that does not exist.
    nearest(|level| unsafe { bpf_get_current_ancestor_cgroup_id(level) })
}

/// The standing of the cgroup the packet's socket was made in.
#[inline(always)]
pub(crate) fn of_packet(skb: *mut __sk_buff) -> Standing {
    // SAFETY: `skb` is the program's context; the helper returns 0 for a level that does not exist.
    nearest(|level| unsafe { bpf_skb_ancestor_cgroup_id(skb, level) })
}

#[inline(always)]
pub(crate) fn is_agent(config: &Config) -> bool {
    let tgid = (bpf_get_current_pid_tgid() >> 32) as u32;
    if tgid != config.agent_tgid && !is_draining(config, tgid) {
        return false;
    }
    // SAFETY: the helper takes nothing.
    unsafe { bpf_get_current_cgroup_id() == config.agent_cgroup }
}

/// The agent that was taken over from, until its last session has ended: not for longer than was agreed, and never
/// outside of the agent's cgroup, so that its process id alone is worth nothing to who gets it next.
#[inline(always)]
fn is_draining(config: &Config, tgid: u32) -> bool {
    // SAFETY: a helper without arguments.
    config.drain_tgid != 0
        && tgid == config.drain_tgid
        && unsafe { bpf_ktime_get_boot_ns() } < config.drain_until
}

/// Goes from the root down, so that the deepest entry is the last one seen.
#[inline(always)]
fn nearest(ancestor: impl Fn(i32) -> u64) -> Standing {
    let mut mode = MODE_GOVERN;
    for level in 0..MAX_CGROUP_DEPTH as i32 {
        let id = ancestor(level);
        if id == 0 {
            break;
        }
        // SAFETY: one aligned word of a map value is copied; entries are replaced whole.
        if let Some(policy) = unsafe { CGPOL.get(id) } {
            mode = policy.mode;
        }
    }
    match mode {
        MODE_BYPASS => Standing::Bypassed,
        MODE_DENY => Standing::Denied,
        // Unknown modes are governed like unknown cgroups.
        _ => Standing::Governed,
    }
}
