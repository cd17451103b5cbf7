//! Network namespaces: whether the agent has a listener in one, and asking for it where it has none.
//!
//! The asking may get lost and nothing depends on it: a connection without a listener is held, and each of its
//! retransmissions asks again.

use aya_ebpf::helpers::generated::bpf_ktime_get_boot_ns;
use chaperone_ebpf::{ASK_AGAIN_NS, Ask, Config, Netns, Origin};

use crate::maps::{ASKS, NETNS};

/// Whether redirected connections of this namespace find a listener: always in the host's own, which the agent
/// serves before it redirects anything.
#[inline(always)]
pub(crate) fn is_served(config: &Config, netns: u64) -> bool {
    if netns == config.host_netns {
        return true;
    }
    // SAFETY: one aligned word of a map value is copied.
    unsafe { NETNS.get(netns) }.is_some_and(|entry| entry.owner != 0 && entry.owner == config.agent_tgid)
}

/// Asks the agent to serve the namespace of a redirected socket, unless that was done a moment ago.
#[inline(never)]
pub(crate) fn ask(origin: &Origin) {
    // SAFETY: a helper without arguments.
    let now = unsafe { bpf_ktime_get_boot_ns() };
    if let Some(entry) = NETNS.get_ptr_mut(origin.netns) {
        // SAFETY: one aligned word of a map value. Two connections that race here ask twice, which is harmless.
        let asked_at = unsafe { (&raw const (*entry).asked_at).read_volatile() };
        if now.wrapping_sub(asked_at) < ASK_AGAIN_NS {
            return;
        }
    }
    let Some(mut ask) = ASKS.reserve(0) else { return };
    ask.write(Ask { netns: origin.netns, cookie: origin.cookie, tgid: origin.tgid, tid: origin.tid });
    ask.submit(0);
    match NETNS.get_ptr_mut(origin.netns) {
        // SAFETY: as above; the other fields are the agent's, which is why the entry is not replaced.
        Some(entry) => unsafe { (&raw mut (*entry).asked_at).write_volatile(now) },
        None => {
            // Full, or made by somebody else a moment ago: then the agent is asked more often.
            let entry = Netns { owner: 0, pad: 0, asked_at: now };
            let _full_or_there = NETNS.insert(origin.netns, entry, 1);
        }
    }
}
