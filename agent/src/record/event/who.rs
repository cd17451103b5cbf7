//! Who did it: the process as the kernel described it, and whom it was taken for.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The process that opened the connection, as the kernel described it in the connect hook.
///
/// Executables are named as they were when they were run: bare when the name is one of the host's own mount namespace,
/// `elsewhere:/path` when it is another's (a container's), `nameless:/name` when the file was in no directory.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Workload {
    /// Thread group id in the host's pid namespace.
    pub pid: u32,
    /// Start time of the thread group leader, nanoseconds since boot; pid and start time name a process for good.
    pub start_boottime_ns: u64,
    pub uid: u32,
    #[serde(default)]
    pub gid: u32,
    pub comm: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exe: Option<String>,
    /// Of the file that was run, hex.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exe_sha256: Option<String>,
    /// The digest by which the kernel vouches for that file (fs-verity), with its algorithm's name in front; when it
    /// has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exe_verity: Option<String>,
    /// Why there is no digest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exe_unhashed: Option<String>,
    /// What was named to execve when something else was run for it: a script, by the name the caller used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub script: Option<String>,
    /// The arguments at the exec: the caller's words, without the passwords that were recognised.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub argv: Vec<String>,
    /// There were more arguments than were kept.
    #[serde(default, skip_serializing_if = "is_false")]
    pub argv_cut: bool,
    /// What was run before and by whom, nearest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ancestors: Vec<Ancestor>,
    /// The ancestors go back to the first process of the host, all of them known.
    #[serde(default)]
    pub ancestors_complete: bool,
    /// The kernel's number of this process running this executable; absent when it had none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exec_id: Option<u64>,
    pub cgroup_id: u64,
    /// Path below the cgroup2 mount, when it was known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cgroup: Option<String>,
    /// The authority that confirmed what the cgroup's name says, when it was asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confirmed_by: Option<String>,
    /// Why none did, when one was needed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unverified: Option<String>,
    /// The pod it is in, as whoever confirmed it says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<Pod>,
    /// Cookie of the network namespace the socket lives in.
    pub netns_cookie: u64,
    /// Inode of that namespace, as `lsns` and `/proc/PID/ns/net` show it, when it was known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub netns_inode: Option<u64>,
}

/// A Kubernetes pod, by the names its cluster knows it by.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pod {
    pub namespace: String,
    pub name: String,
    /// Known to the kubelet alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_account: Option<String>,
    /// Known to the kubelet alone, and not recorded: whoever makes the pod writes what and as much as they like.
    #[serde(skip)]
    pub labels: BTreeMap<String, String>,
}

/// A connection to a target that had not come through the agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OldConnection {
    /// Inode of the network namespace it was in.
    pub netns_inode: u64,
    pub local: String,
    pub destination: String,
    pub uid: u32,
    /// A process that held it, when that was how it was found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// The cgroup its socket was made in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cgroup_id: Option<u64>,
}

/// A process that a workload descends from, or the same process before it executed something else.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ancestor {
    pub pid: u32,
    pub start_boottime_ns: u64,
    /// As in [`Workload`]; absent when it is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exe: Option<String>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the shape serde calls")]
fn is_false(value: &bool) -> bool {
    !value
}

/// A non-human identity as policy sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    pub name: String,
    pub groups: Vec<String>,
}
