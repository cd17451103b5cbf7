//! What the programs are told once, at the start: who the agent is, and where the kernel's structures have what they
//! read.

use std::time::Duration;

use chaperone_ebpf::{Config, LAYOUT, process::Offsets};
use nix::time::{ClockId, clock_getres};

use super::{Draining, InterceptError, Options, btf, state, state::State};

/// First SYN timeout in a namespace without a listener: some ticks more than making one takes.
const SYN_TIMEOUT: Duration = Duration::from_millis(40);

/// The timeout in the kernel's ticks; its coarse clocks tell how long one is.
fn syn_timeout() -> Result<u32, InterceptError> {
    let tick = clock_getres(ClockId::CLOCK_MONOTONIC_COARSE)
        .map_err(|source| InterceptError::Clock { source })
        .map(Duration::from)?;
    let ticks = SYN_TIMEOUT.as_nanos().div_ceil(tick.as_nanos().max(1));
    Ok(u32::try_from(ticks).unwrap_or(0))
}

/// Makes this process the agent, and in a way that leaves the one before it exempt at every instant: a map's value is
/// not replaced in one step.
pub(super) fn announce(
    state: &mut State,
    own: Config,
    draining: Option<Draining>,
) -> Result<(), InterceptError> {
    let Some(draining) = draining else { return state.set_config(own) };
    let limit = u64::try_from(draining.limit.as_nanos()).unwrap_or(u64::MAX);
    let (drain_tgid, drain_until) = (draining.tgid, state::boottime_ns()?.saturating_add(limit));
    state.set_config(Config { drain_tgid, drain_until, ..state.config()? })?;
    state.set_config(Config { drain_tgid, drain_until, ..own })
}

/// All zero, and the tracepoints idle, when the kernel does not tell them all.
pub(super) fn offsets(types: Option<&btf::KernelTypes>) -> Offsets {
    let Some(types) = types else {
        tracing::warn!("no BTF: executables and ancestors of workloads will be unknown");
        return Offsets::default();
    };
    Offsets::find(|structure, path| types.member(structure, path)).unwrap_or_else(|missing| {
        tracing::warn!(
            missing,
            "this kernel's BTF lacks a member: executables and ancestors will be unknown"
        );
        Offsets::default()
    })
}

pub(super) fn config(
    options: &Options,
    host_netns: u64,
    types: Option<&btf::KernelTypes>,
) -> Result<Config, InterceptError> {
    let offset = |member| types.and_then(|types| types.offset("task_struct", member));
    let (leader_offset, start_offset) = match (offset("group_leader"), offset("start_boottime")) {
        (Some(leader), Some(start)) => (leader, start),
        _ => {
            tracing::warn!("no BTF for task_struct: process start times will be missing");
            (0, 0)
        }
    };
    Ok(Config {
        agent_cgroup: options.agent_cgroup_id,
        host_netns,
        agent_tgid: std::process::id(),
        listen_port: u32::from(options.listen_port),
        leader_offset,
        start_offset,
        syn_timeout: syn_timeout()?,
        flags: 0,
        drain_tgid: 0,
        layout: LAYOUT,
        drain_until: 0,
    })
}
