//! Who did it: the process as the kernel described it, and whom it was taken for.

use serde::{Deserialize, Serialize};

/// The process that opened the connection, as the kernel described it in the connect hook.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Workload {
    /// Thread group id in the host's pid namespace.
    pub pid: u32,
    /// Start time of the thread group leader, nanoseconds since boot; pid and start time name a process for good.
    pub start_boottime_ns: u64,
    pub uid: u32,
    pub comm: String,
    /// Path of the executable, when the process still existed as the connection arrived.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exe: Option<String>,
    pub cgroup_id: u64,
    /// Path below the cgroup2 mount, when the cgroup still existed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cgroup: Option<String>,
    /// Cookie of the network namespace the socket lives in.
    pub netns_cookie: u64,
    /// Inode of that namespace, as `lsns` and `/proc/PID/ns/net` show it, when it was known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub netns_inode: Option<u64>,
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

/// A non-human identity as policy sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    pub name: String,
    pub groups: Vec<String>,
}
