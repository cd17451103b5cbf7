//! Who lives where: the processes of the governed cgroups and their network namespaces.

use std::{
    collections::{HashMap, HashSet},
    fs,
    os::unix::fs::MetadataExt as _,
    path::Path,
};

use super::Governed;

/// Deeper trees than the kernel programs look at do not matter.
const MAX_DEPTH: u32 = chaperone_ebpf::MAX_CGROUP_DEPTH;

#[derive(Debug, Default)]
pub(super) struct Census {
    /// Ids of the governed cgroups.
    pub(super) cgroups: HashSet<u64>,
    pub(super) pids: Vec<u32>,
    /// Inodes of the network namespaces with governed processes, each with one of those.
    pub(super) dwellers: HashMap<u64, u32>,
}

/// What cannot be read is gone, or going: it is left out.
pub(super) fn take(governed: &Governed) -> Census {
    let mut census = Census::default();
    walk(&governed.root, governed, false, 0, &mut census);
    for pid in &census.pids {
        // Of the leader: a thread with a namespace of its own is found when it connects.
        if let Some(inode) = namespace_of(*pid) {
            census.dwellers.entry(inode).or_insert(*pid);
        }
    }
    census
}

/// Inode of a process's network namespace.
pub(super) fn namespace_of(pid: u32) -> Option<u64> {
    fs::metadata(format!("/proc/{pid}/ns/net")).ok().map(|metadata| metadata.ino())
}

/// The same of one of its threads, which may have gone elsewhere.
pub(super) fn namespace_of_thread(pid: u32, tid: u32) -> Option<u64> {
    fs::metadata(format!("/proc/{pid}/task/{tid}/ns/net")).ok().map(|metadata| metadata.ino())
}

fn walk(directory: &Path, governed: &Governed, mut bypassed: bool, depth: u32, census: &mut Census) {
    let Ok(metadata) = fs::metadata(directory) else { return };
    let id = metadata.ino();
    // As in the kernel: the nearest listed ancestor decides, and of both lists the refusing one.
    if governed.bypass.contains(directory) || id == governed.agent {
        bypassed = true;
    }
    if governed.deny.contains(directory) {
        bypassed = false;
    }
    if !bypassed {
        census.cgroups.insert(id);
        census.pids.extend(members(directory));
    }
    if depth >= MAX_DEPTH {
        return;
    }
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    for entry in entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        walk(&entry.path(), governed, bypassed, depth + 1, census);
    }
}

/// A threaded cgroup lists threads only; a thread's id serves as well in /proc.
fn members(directory: &Path) -> Vec<u32> {
    let listed = fs::read_to_string(directory.join("cgroup.procs"))
        .or_else(|_threaded| fs::read_to_string(directory.join("cgroup.threads")))
        .unwrap_or_default();
    // 0 stands for processes this pid namespace does not see.
    listed.lines().filter_map(|line| line.parse().ok()).filter(|pid| *pid != 0).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A tree that looks enough like cgroups: folders have inodes, and files that list who is in them.
    #[test]
    fn the_nearest_listed_ancestor_decides_and_the_agent_is_not_counted() {
        let folder = tempfile::tempdir().unwrap();
        let at = |path: &str| folder.path().join(path);
        for (path, file, pids) in [
            ("", "cgroup.procs", "1\n"),
            ("plain", "cgroup.procs", "2\n0\n3\n"),
            ("plain/threads", "cgroup.threads", "4\n"),
            ("free", "cgroup.procs", "5\n"),
            ("free/inside", "cgroup.procs", "6\n"),
            ("free/barred", "cgroup.procs", "7\n"),
            ("agent", "cgroup.procs", "8\n"),
        ] {
            fs::create_dir_all(at(path)).unwrap();
            fs::write(at(path).join(file), pids).unwrap();
        }
        let governed = Governed {
            root: folder.path().to_owned(),
            bypass: [at("free"), at("never-made")].into(),
            deny: [at("free/barred")].into(),
            agent: fs::metadata(at("agent")).unwrap().ino(),
        };
        let mut census = Census::default();
        walk(&governed.root, &governed, false, 0, &mut census);
        census.pids.sort_unstable();
        assert_eq!(census.pids, [1, 2, 3, 4, 7]);
        assert_eq!(census.cgroups.len(), 4);
        assert!(!census.cgroups.contains(&governed.agent));
    }
}
