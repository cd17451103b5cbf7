//! Connections to targets that did not come through the agent: those that are older than it, and those a process
//! brought along into a governed cgroup. They are ended, so that their owners get an error instead of silence.

use std::{
    collections::{HashMap, HashSet},
    fs, io,
    net::SocketAddr,
};

use super::{
    Governed, Target,
    census::Census,
    diag::{Connection, Diag},
};

/// A connection that was ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OldConnection {
    /// Inode of its network namespace.
    pub netns_inode: u64,
    pub local: SocketAddr,
    pub destination: SocketAddr,
    /// Of the socket's owner.
    pub uid: u32,
    /// The cgroup the socket was made in.
    pub cgroup_id: Option<u64>,
    /// A process that held it, when that was how it was found.
    pub pid: Option<u32>,
}

/// What is looked for, and where.
pub(super) struct Hunt<'a> {
    pub(super) targets: &'a [Target],
    pub(super) governed: &'a Governed,
    pub(super) census: &'a Census,
    /// Whether the thread is in the host's namespace; in another one, loopback is somebody else's.
    pub(super) in_host: bool,
    pub(super) netns_inode: u64,
}

impl Hunt<'_> {
    /// Ends the governed cgroups' own connections to targets, in the namespace this thread is in.
    pub(super) fn made_by_the_governed(&self) -> io::Result<Vec<OldConnection>> {
        let diag = Diag::open()?;
        let found = self.towards_targets(&diag)?;
        let own = found.into_iter().filter(|connection| self.is_governed(connection.cgroup));
        self.end(&diag, own.map(|connection| (connection, None)))
    }

    /// Ends connections to targets that these processes hold, whoever made them.
    pub(super) fn held_by(&self, pids: &[u32]) -> io::Result<Vec<OldConnection>> {
        let diag = Diag::open()?;
        // The agent's own are never among them, not even when somebody managed to get hold of one.
        let mut found = self.towards_targets(&diag)?;
        found.retain(|connection| connection.cgroup != Some(self.governed.agent));
        if found.is_empty() {
            return Ok(Vec::new());
        }
        let holders = holders(pids, &found.iter().map(|connection| connection.inode).collect());
        let held = found.into_iter().filter_map(|connection| {
            let pid = holders.get(&connection.inode).copied()?;
            Some((connection, Some(pid)))
        });
        self.end(&diag, held)
    }

    fn towards_targets(&self, diag: &Diag) -> io::Result<Vec<Connection>> {
        let mut found = diag.connections()?;
        found.retain(|connection| {
            let Connection { remote, .. } = connection;
            (self.in_host || !remote.ip().is_loopback())
                && self.targets.iter().any(|target| target.contains(*remote))
        });
        Ok(found)
    }

    /// A cgroup that is gone tells nothing; its sockets are found by who holds them.
    fn is_governed(&self, cgroup: Option<u64>) -> bool {
        cgroup.is_some_and(|id| self.census.cgroups.contains(&id))
    }

    fn end(
        &self,
        diag: &Diag,
        connections: impl Iterator<Item = (Connection, Option<u32>)>,
    ) -> io::Result<Vec<OldConnection>> {
        let mut ended = Vec::new();
        for (connection, pid) in connections {
            diag.destroy(&connection)?;
            ended.push(OldConnection {
                netns_inode: self.netns_inode,
                local: connection.local,
                destination: connection.remote,
                uid: connection.uid,
                cgroup_id: connection.cgroup,
                pid,
            });
        }
        Ok(ended)
    }
}

/// Which of these sockets the processes have open, by inode.
fn holders(pids: &[u32], sockets: &HashSet<u32>) -> HashMap<u32, u32> {
    let mut holders = HashMap::new();
    for pid in pids {
        let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        for link in descriptors.filter_map(|entry| fs::read_link(entry.path()).ok()) {
            if let Some(inode) = socket_inode(&link.to_string_lossy())
                && sockets.contains(&inode)
            {
                holders.entry(inode).or_insert(*pid);
            }
        }
    }
    holders
}

/// `socket:[4711]`, proc_pid_fd(5).
fn socket_inode(link: &str) -> Option<u32> {
    link.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_sockets_have_a_socket_inode() {
        let cases = [
            ("socket:[4711]", Some(4711)),
            ("pipe:[4711]", None),
            ("/tmp/socket:[4711]", None),
            ("socket:[]", None),
        ];
        for (link, expected) in cases {
            assert_eq!(socket_inode(link), expected, "{link}");
        }
    }
}
