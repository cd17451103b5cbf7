//! Counters, and diagnostic events for what was refused.

use aya_ebpf::helpers::{
    bpf_get_current_comm, bpf_get_current_pid_tgid, bpf_get_current_uid_gid,
    generated::{bpf_get_current_cgroup_id, bpf_ktime_get_boot_ns},
};
use chaperone_ebpf::{
    Event, Origin, Stat,
    process::{NOTICE_TEXT, Notice},
};

use crate::{
    address::Destination,
    maps::{EVENTS, NOTICES, STATS, TOLD, Told},
};

/// Refusals of one cgroup that are told of in one window of about a second; the others are counted only. The ring holds
/// those of some dozens of cgroups.
const TOLD_AT_ONCE: u64 = 400;

/// Nanoseconds of such a window, as a power of two.
const WINDOW: u32 = 30;

#[inline(always)]
pub(crate) fn count(stat: Stat) {
    if let Some(counter) = STATS.get_ptr_mut(stat as u32) {
        // SAFETY: the pointer is this CPU's slot of a per-CPU array and lives as long as the program runs. An
        // interrupting program may lose one count, which a counter can bear.
        unsafe { *counter += 1 };
    }
}

/// Whether another refusal of this cgroup is told of. Programs that race here tell of a few more.
#[inline(always)]
fn may_tell(cgroup: u64) -> bool {
    // SAFETY: a helper without arguments.
    let window = unsafe { bpf_ktime_get_boot_ns() } >> WINDOW;
    if let Some(told) = TOLD.get_ptr_mut(cgroup) {
        // SAFETY: aligned words of a map value; whoever else writes them counts, too.
        let told = unsafe { &mut *told };
        if told.window == window {
            told.count += 1;
            return told.count <= TOLD_AT_ONCE;
        }
        *told = Told { window, count: 1 };
        return true;
    }
    let _full = TOLD.insert(cgroup, Told { window, count: 1 }, 0);
    true
}

/// Counts, and tells who did it. For hooks that run in the caller's own context.
#[inline(never)]
pub(crate) fn refused(stat: Stat, destination: &Destination, protocol: u16) {
    count(stat);
    // SAFETY: a helper without arguments.
    let cgroup = unsafe { bpf_get_current_cgroup_id() };
    if !may_tell(cgroup) {
        return;
    }
    let Some(mut entry) = EVENTS.reserve(0) else { return };
    entry.write(Event {
        // SAFETY: a helper without arguments.
        at: unsafe { bpf_ktime_get_boot_ns() },
        cgroup,
        addr: destination.addr,
        tgid: (bpf_get_current_pid_tgid() >> 32) as u32,
        uid: bpf_get_current_uid_gid() as u32,
        kind: stat as u32,
        port: destination.port,
        protocol,
        comm: bpf_get_current_comm().unwrap_or_default(),
    });
    entry.submit(0);
}

/// Counts, and tells which cgroup's socket a packet was dropped of.
#[inline(never)]
pub(crate) fn dropped(stat: Stat, cgroup: u64, destination: &Destination, protocol: u16) {
    count(stat);
    if !may_tell(cgroup) {
        return;
    }
    let Some(mut entry) = EVENTS.reserve(0) else { return };
    entry.write(Event {
        // SAFETY: a helper without arguments.
        at: unsafe { bpf_ktime_get_boot_ns() },
        cgroup,
        addr: destination.addr,
        tgid: 0,
        uid: 0,
        kind: stat as u32,
        port: destination.port,
        protocol,
        comm: [0; 16],
    });
    entry.submit(0);
}

/// Counts a redirected connection that never came to the agent, and tells who had opened it. Runs when the socket
/// closes, in whatever context that is: everything is from the connect.
#[inline(never)]
pub(crate) fn unserved(origin: &Origin) {
    const IPPROTO_TCP: u16 = 6;
    count(Stat::Unserved);
    if !may_tell(origin.cgroup) {
        return;
    }
    let Some(mut entry) = EVENTS.reserve(0) else { return };
    entry.write(Event {
        // SAFETY: a helper without arguments.
        at: unsafe { bpf_ktime_get_boot_ns() },
        cgroup: origin.cgroup,
        addr: origin.addr,
        tgid: origin.tgid,
        uid: origin.uid,
        kind: Stat::Unserved as u32,
        port: origin.port,
        protocol: IPPROTO_TCP,
        comm: origin.comm,
    });
    entry.submit(0);
}

/// Counts, and tells of something that is no refused connection. `text` gets what it is about to fill in.
#[inline(always)]
pub(crate) fn notice(stat: Stat, tgid: u32, cgroup: u64, text: impl FnOnce(*mut u8)) {
    count(stat);
    let Some(mut entry) = NOTICES.reserve(0) else { return };
    entry.write(Notice {
        // SAFETY: a helper without arguments.
        at: unsafe { bpf_ktime_get_boot_ns() },
        cgroup,
        tgid,
        uid: bpf_get_current_uid_gid() as u32,
        kind: stat as u32,
        pad: 0,
        comm: bpf_get_current_comm().unwrap_or_default(),
        text: [0; NOTICE_TEXT],
    });
    // SAFETY: `entry` is the reserved entry, written whole above.
    text(unsafe { (&raw mut (*entry.as_mut_ptr()).text).cast() });
    entry.submit(0);
}
