//! Raw tracepoints of cgroups: what an id is called, the mode configured for a cgroup before anybody can be in it, and
//! who is moved where.

use aya_ebpf::{
    helpers::generated::bpf_probe_read_kernel_str, macros::raw_tracepoint, programs::RawTracePointContext,
};
use chaperone_ebpf::{
    Stat,
    process::{CGROUP_PATH, CgroupPath, Offsets},
};

use crate::{
    maps::{CGPATHS, CGPOL, CGRULES, PATH_SCRATCH},
    report,
    task::{self, read},
};

#[raw_tracepoint(tracepoint = "cgroup_mkdir")]
pub(crate) fn cgroup_made(ctx: RawTracePointContext) -> i32 {
    let _unknown = try_made(&ctx);
    0
}

#[inline(always)]
fn try_made(ctx: &RawTracePointContext) -> Option<()> {
    let id = unified(ctx.arg(0), task::offsets()?)?;
    let path = PATH_SCRATCH.get_ptr_mut(0)?;
    let name: u64 = ctx.arg(1);
    // SAFETY: this CPU's entry, which no other program uses; the helper writes at most its length.
    let length = unsafe {
        // As a key its bytes count to the last.
        path.write(CgroupPath { bytes: [0; CGROUP_PATH] });
        bpf_probe_read_kernel_str(path.cast(), CGROUP_PATH as u32, name as *const _)
    };
    if length <= 0 || length >= CGROUP_PATH as i64 {
        return None;
    }
    // SAFETY: as above.
    let path = unsafe { &*path };
    let _full = CGPATHS.insert(id, path, 0);
    // SAFETY: one word of a map value is copied.
    let policy = unsafe { CGRULES.get(path) }.copied()?;
    let _full = CGPOL.insert(id, policy, 0);
    Some(())
}

/// The last reference is gone, those of sockets included: the id will not come again.
#[raw_tracepoint(tracepoint = "cgroup_release")]
pub(crate) fn cgroup_gone(ctx: RawTracePointContext) -> i32 {
    if let Some(id) = task::offsets().and_then(|offsets| unified(ctx.arg(0), offsets)) {
        let _absent = CGPOL.remove(id);
    }
    0
}

#[raw_tracepoint(tracepoint = "cgroup_attach_task")]
pub(crate) fn cgroup_moved(ctx: RawTracePointContext) -> i32 {
    let _unknown = try_moved(&ctx);
    0
}

#[inline(always)]
fn try_moved(ctx: &RawTracePointContext) -> Option<()> {
    let offsets = task::offsets()?;
    let id = unified(ctx.arg(0), offsets)?;
    let tgid: u32 = read(ctx.arg(2), offsets.task_tgid)?;
    report::notice(Stat::MovedIn, tgid, id, |_text| {});
    Some(())
}

/// The id of a cgroup, if it is one of the unified hierarchy.
#[inline(always)]
fn unified(cgroup: u64, offsets: &Offsets) -> Option<u64> {
    let root: u64 = read(cgroup, offsets.cgroup_root)?;
    if read::<i32>(root, offsets.cgroup_root_hierarchy)? != 0 {
        return None;
    }
    task::cgroup_id(cgroup, offsets)
}
