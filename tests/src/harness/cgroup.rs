//! A cgroup tree of our own below the cgroup2 mount.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::spawn::wait_for;

/// What our trees' names begin with; the rest is the suite and the process that made it.
const PREFIX: &str = "chaperone-e2e-";

/// A suite of this ending has a tree that looks like one of systemd's slices, below which containers have scopes.
const SLICE: &str = ".slice";

/// One cgroup, removed with everything in and below it on drop.
pub(crate) struct Cgroup {
    path: PathBuf,
    name: String,
}

impl Cgroup {
    /// The top of a suite's tree. Trees whose makers are dead are taken away first.
    pub(crate) fn top(suite: &str) -> Result<Self> {
        let mount = mount_point()?;
        remove_orphans(&mount);
        legacy_mounts().iter().for_each(|mount| remove_orphans(mount));
        let (stem, ending) = suite.strip_suffix(SLICE).map_or((suite, ""), |stem| (stem, SLICE));
        let name = format!("/{PREFIX}{stem}-{}{ending}", std::process::id());
        Self::make(mount.join(name.trim_start_matches('/')), name)
    }

    /// A tree of this name at the root, where nobody has one in use. What was left there empty is taken away first.
    pub(crate) fn exactly(name: &str) -> Result<Self> {
        let path = mount_point()?.join(name);
        // Another run of the same suite may have it for a while.
        let in_use = || {
            let events = fs::read_to_string(path.join("cgroup.events")).unwrap_or_default();
            events.lines().any(|line| line == "populated 1")
        };
        let free = format!("cgroup {} without processes", path.display());
        wait_for(&free, Duration::from_secs(90), || Ok((!in_use()).then_some(())))?;
        if path.exists() {
            remove(&path);
        }
        Self::make(path, format!("/{name}"))
    }

    pub(crate) fn child(&self, name: &str) -> Result<Self> {
        Self::make(self.path.join(name), format!("{}/{name}", self.name))
    }

    fn make(path: PathBuf, name: String) -> Result<Self> {
        fs::create_dir_all(&path).with_context(|| format!("making cgroup {}", path.display()))?;
        Ok(Self { path, name })
    }

    /// Makes room for processes: where controllers are handed down, as container runtimes do on their way to their own
    /// cgroup, a cgroup of the unified hierarchy takes none (cgroups(7), "no internal processes").
    pub(crate) fn admit(&self) -> Result<()> {
        let control = self.path.join("cgroup.subtree_control");
        for name in fs::read_to_string(&control)?.split_whitespace() {
            fs::write(&control, format!("-{name}"))
                .with_context(|| format!("{}: {name}", control.display()))?;
        }
        Ok(())
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The path below the mount, as the agent's configuration wants it.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        remove(&self.path);
        for mount in legacy_mounts() {
            let twin = mount.join(self.name.trim_start_matches('/'));
            if twin.exists() {
                remove(&twin);
            }
        }
    }
}

/// The older hierarchies of a hybrid machine, in which container runtimes make cgroups of the same name.
fn legacy_mounts() -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let legacy = mounts.lines().filter_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        after.starts_with("cgroup ").then(|| before.split(' ').nth(4).map(PathBuf::from))?
    });
    legacy.collect()
}

/// Where cgroup2 is mounted: /sys/fs/cgroup on most machines, a folder below it on hybrid ones.
pub(crate) fn mount_point() -> Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").context("reading /proc/self/mountinfo")?;
    mounts
        .lines()
        .find_map(|line| {
            let (before, after) = line.split_once(" - ")?;
            after.starts_with("cgroup2 ").then(|| before.split(' ').nth(4).map(PathBuf::from))?
        })
        .context("no cgroup2 mount on this machine")
}

fn remove_orphans(mount: &Path) {
    let Ok(entries) = fs::read_dir(mount) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let rest = name.strip_prefix(PREFIX).map(|rest| rest.trim_end_matches(SLICE));
        let maker = rest.and_then(|rest| rest.rsplit('-').next()?.parse::<i32>().ok());
        if maker.is_some_and(|pid| kill(Pid::from_raw(pid), None).is_err()) {
            remove(&entry.path());
        }
    }
}

fn remove(path: &Path) {
    // Kernels before 5.14 have no cgroup.kill; there the processes are found one by one.
    if fs::write(path.join("cgroup.kill"), "1").is_err() {
        kill_members(path);
    }
    for child in fs::read_dir(path).into_iter().flatten().flatten() {
        if child.path().is_dir() {
            remove(&child.path());
        }
    }
    // The dead leave a moment after they are killed. What stays is found by the next run.
    let _ = wait_for("an empty cgroup", Duration::from_secs(5), || {
        Ok((!path.exists() || fs::remove_dir(path).is_ok()).then_some(()))
    });
}

fn kill_members(path: &Path) {
    let members = fs::read_to_string(path.join("cgroup.procs")).unwrap_or_default();
    for pid in members.lines().filter_map(|line| line.parse().ok()) {
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
}
