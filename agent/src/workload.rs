//! Who opened a connection, as the kernel described it, completed from /proc while the process still exists.

pub mod grammar;

use std::path::Path;

use procfs::process::Process;

use crate::intercept::{self, Origin};
use crate::record::event::Workload;

/// Describes the process behind a redirected connection.
#[must_use]
pub fn describe(origin: &Origin, cgroup2: &Path) -> Workload {
    Workload {
        pid: origin.tgid,
        start_boottime_ns: origin.start_boottime_ns,
        uid: origin.uid,
        comm: origin.comm.clone(),
        exe: executable(origin),
        cgroup_id: origin.cgroup_id,
        cgroup: cgroup(origin.cgroup_id, cgroup2),
        netns_cookie: origin.netns_cookie,
        netns_inode: origin.netns_inode,
    }
}

/// The path of a cgroup below the cgroup2 mount. By id, not by pid: right even when the process has moved or gone.
#[must_use]
pub fn cgroup(id: u64, cgroup2: &Path) -> Option<String> {
    let path = intercept::cgroup_path(id, cgroup2).ok().flatten()?;
    let below = path.strip_prefix(cgroup2).unwrap_or(&path).display().to_string();
    Some(format!("/{}", below.trim_start_matches('/')))
}

/// The executable's path, if the process of that pid is still the one that connected.
fn executable(origin: &Origin) -> Option<String> {
    let process = Process::new(i32::try_from(origin.tgid).ok()?).ok()?;
    let exe = process.exe().ok()?;
    // Read the start time after the link: had the pid been reused in between, this would show it.
    let started = process.stat().ok()?.starttime;
    let ticks = procfs::ticks_per_second().max(1);
    let expected = origin.start_boottime_ns / (1_000_000_000 / ticks);
    (origin.start_boottime_ns == 0 || started.abs_diff(expected) <= 1).then(|| exe.display().to_string())
}
