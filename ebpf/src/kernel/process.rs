//! Raw tracepoints of fork, exec and exit: who runs what, before it can connect anywhere.
//!
//! They run on the whole host: a governed process's ancestors are mostly not governed. Nothing is denied here; what is
//! missing in the maps is unknown later, and unknown matches no policy.

use aya_ebpf::{
    helpers::{
        bpf_get_current_pid_tgid,
        generated::{
            bpf_get_current_cgroup_id, bpf_get_current_task, bpf_ktime_get_boot_ns,
            bpf_probe_read_kernel_str, bpf_probe_read_user,
        },
    },
    macros::raw_tracepoint,
    programs::RawTracePointContext,
};
use chaperone_ebpf::{
    Stat,
    process::{ARGV, FILENAME, IMAGE_INTERPRETED, Image, Node, Offsets, Task, node_id},
};

use crate::{
    maps::{IMAGES, NODES, SCRATCH, TASKS},
    report,
    task::{self, read},
};

/// Nanoseconds of a clock tick, the unit in which /proc tells when a process started.
const TICK: u64 = 10_000_000;

/// What a process runs now, by its id and its start; 0 when that is not known.
#[inline(always)]
pub(crate) fn current_node(tgid: u32, start_boottime: u64) -> u64 {
    if task::offsets().is_none() {
        // Nobody keeps the entries up to date.
        return 0;
    }
    // SAFETY: words of a map value are read; a concurrent exec of the same process cannot be, it is in connect.
    match unsafe { TASKS.get(tgid) } {
        Some(task) if task.start_boottime / TICK == start_boottime / TICK => task.node,
        _ => 0,
    }
}

#[raw_tracepoint(tracepoint = "sched_process_fork")]
pub(crate) fn process_fork(ctx: RawTracePointContext) -> i32 {
    let _unknown = try_fork(&ctx);
    0
}

#[inline(always)]
fn try_fork(ctx: &RawTracePointContext) -> Option<()> {
    let offsets = task::offsets()?;
    let parent: u64 = ctx.arg(0);
    let child: u64 = ctx.arg(1);
    let tgid: u32 = read(child, offsets.task_tgid)?;
    if read::<u32>(child, offsets.task_pid)? != tgid {
        // A thread.
        return None;
    }
    report_move(child, tgid, offsets);
    let start_boottime = task::start_of(child, offsets)?;
    // SAFETY: a helper without arguments.
    let at = unsafe { bpf_ktime_get_boot_ns() };
    let id = node_id(at, tgid);
    let parent_tgid: u32 = read(parent, offsets.task_tgid)?;
    let parent_start = task::start_of(parent, offsets)?;
    // SAFETY: words of a map value are copied; the parent is here, in fork, and in no exec.
    let known = unsafe { TASKS.get(parent_tgid) }
        .filter(|task| task.start_boottime / TICK == parent_start / TICK)
        .copied()
        .unwrap_or_default();
    touch(&known);
    let node = Node { parent: known.node, image: known.image, start_boottime, at, tgid, forked: 1 };
    // A full map leaves the child unknown.
    let _full = NODES.insert(id, node, 0);
    let _full = TASKS.insert(tgid, Task { start_boottime, node: id, image: known.image }, 0);
    Some(())
}

/// Looking at an entry keeps it from being the next to be evicted.
#[inline(always)]
fn touch(task: &Task) {
    let _seen = NODES.get_ptr(task.node);
    let _seen = IMAGES.get_ptr(task.image);
}

/// clone3 can put a child into another cgroup, which the tracepoint of moves does not tell.
#[inline(always)]
fn report_move(child: u64, tgid: u32, offsets: &Offsets) {
    let Some(cgroup) = task::cgroup_of(child, offsets) else { return };
    // SAFETY: a helper without arguments.
    if cgroup != unsafe { bpf_get_current_cgroup_id() } {
        report::notice(Stat::MovedIn, tgid, cgroup, |_text| {});
    }
}

#[raw_tracepoint(tracepoint = "sched_process_exec")]
pub(crate) fn process_exec(ctx: RawTracePointContext) -> i32 {
    let _unknown = try_exec(&ctx);
    0
}

#[inline(always)]
fn try_exec(ctx: &RawTracePointContext) -> Option<()> {
    let offsets = task::offsets()?;
    let current: u64 = ctx.arg(0);
    let bprm: u64 = ctx.arg(2);
    let tgid = (bpf_get_current_pid_tgid() >> 32) as u32;
    // SAFETY: words of a map value are copied; only this process's own fork and exec write it.
    let before = unsafe { TASKS.get(tgid) }.copied().unwrap_or_default();
    // Whatever comes: this process does not run any more what it ran before.
    let _absent = TASKS.remove(tgid);
    let start_boottime = task::start_of(current, offsets)?;
    // SAFETY: a helper without arguments.
    let at = unsafe { bpf_ktime_get_boot_ns() };
    let id = node_id(at, tgid);
    let same = before.start_boottime / TICK == start_boottime / TICK;
    let parent = if same { before.node } else { 0 };
    touch(&before);

    let image = SCRATCH.get_ptr_mut(0)?;
    // SAFETY: this CPU's entry, which no other program uses.
    unsafe {
        (*image).at = at;
        (*image).flags = 0;
        (*image).path_len = 0;
        (*image).argv_len = 0;
        (*image).pad = 0;
    }
    describe_names(bprm, offsets, image);
    describe_argv(current, offsets, image);
    let node = Node { parent, image: id, start_boottime, at, tgid, forked: 0 };
    let described = task::describe_file(read(bprm, offsets.bprm_file)?, offsets, image).is_some();
    // SAFETY: as above.
    let image: &Image = unsafe { &*image };
    if described {
        // A full map leaves the image unknown.
        let _full = IMAGES.insert(id, image, 0);
    }
    let _full = NODES.insert(id, node, 0);
    let _full = TASKS.insert(tgid, Task { start_boottime, node: id, image: id }, 0);
    Some(())
}

#[inline(always)]
fn describe_names(bprm: u64, offsets: &Offsets, image: *mut Image) {
    let filename: u64 = read(bprm, offsets.bprm_filename).unwrap_or(0);
    let interp: u64 = read(bprm, offsets.bprm_interp).unwrap_or(0);
    // SAFETY: this CPU's entry; the helper ends what it writes with a zero byte, or writes zeroes.
    unsafe {
        let to = (&raw mut (*image).filename).cast();
        bpf_probe_read_kernel_str(to, FILENAME as u32, filename as *const _);
        if filename != interp {
            (*image).flags |= IMAGE_INTERPRETED;
        }
    }
}

/// The arguments as they were at the exec. The process may overwrite them later, as `ps` shows; not here.
#[inline(always)]
fn describe_argv(current: u64, offsets: &Offsets, image: *mut Image) {
    let Some(mm) = read::<u64>(current, offsets.task_mm) else { return };
    let Some(start) = read::<u64>(mm, offsets.mm_arg_start) else { return };
    let Some(end) = read::<u64>(mm, offsets.mm_arg_end) else { return };
    let length = end.wrapping_sub(start);
    let kept = if length > ARGV as u64 { ARGV as u64 } else { length };
    if length == 0 || end < start || kept > ARGV as u64 {
        return;
    }
    // SAFETY: this CPU's entry, `ARGV` bytes; the task is the current one, so its memory can be read.
    unsafe {
        let to = (&raw mut (*image).argv).cast();
        if bpf_probe_read_user(to, kept as u32, start as *const _) == 0 {
            (*image).argv_len = length as u32;
        }
    }
}

#[raw_tracepoint(tracepoint = "sched_process_exit")]
pub(crate) fn process_exit(_ctx: RawTracePointContext) -> i32 {
    let _still_alive = try_exit();
    0
}

/// Forgets the task; its node and image stay for whoever asks who it was.
#[inline(always)]
fn try_exit() -> Option<()> {
    let offsets = task::offsets()?;
    // SAFETY: a helper without arguments.
    let current = unsafe { bpf_get_current_task() };
    let signal: u64 = read(current, offsets.task_signal)?;
    // The count of live threads was lowered already; the leader need not be the last.
    if read::<u32>(signal, offsets.signal_live)? == 0 {
        let _absent = TASKS.remove((bpf_get_current_pid_tgid() >> 32) as u32);
    }
    Some(())
}
