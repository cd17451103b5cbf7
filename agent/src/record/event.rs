//! What the journal holds: one enum, one variant per thing that can happen.
//!
//! The JSON written is this enum as serde spells it; docs/journal.md documents it field by field. Adding a
//! field is compatible (readers ignore what they do not know, and `#[serde(default)]` fills what is missing);
//! renaming or removing one needs a new `VERSION` in the segment header.

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
}

/// A non-human identity as policy sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    pub name: String,
    pub groups: Vec<String>,
}

/// What became of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    Permit,
    Deny,
    Hold,
}

/// How a statement came: whole, or in the steps of the extended protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    #[default]
    Query,
    /// Parsed under a name; nothing runs yet.
    Prepare,
    Execute,
}

/// How a hold ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HoldOutcome {
    Approved,
    Denied,
    Expired,
    /// The client hung up or cancelled while it waited.
    Withdrawn,
}

/// One bind value of an extended-protocol statement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Bind {
    Null,
    /// Text format, valid UTF-8.
    Text(String),
    /// Binary format, or text that is not UTF-8: base64.
    Binary(String),
    /// Longer than the journal keeps: length in bytes and SHA-256 in hex.
    Digest {
        bytes: u64,
        sha256: String,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    AgentStart {
        version: String,
        host: String,
        pid: u32,
        config_sha256: String,
        policy_sha256: String,
    },
    AgentStop {
        reason: String,
    },
    /// A reload that was applied, or refused with the last good set kept (`error` is set then).
    Reload {
        policy_sha256: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        error: Option<String>,
    },
    /// The tail of the last segment was cut off by a crash; `bytes` were an incomplete record and were removed.
    Repair {
        segment: String,
        offset: u64,
        bytes: u64,
    },
    SessionStart {
        session: String,
        protocol: String,
        target: String,
        /// `address:port` the client asked the kernel for.
        original_destination: String,
        client: String,
        workload: Workload,
        identity: Identity,
        /// What the client claimed in its own login; evidence, never identity.
        claimed_user: String,
        database: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        application: Option<String>,
        /// The account Chaperone logs in with.
        upstream_user: String,
    },
    /// A connection that did not become a session.
    SessionRefused {
        session: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        target: Option<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        original_destination: Option<String>,
        client: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        workload: Option<Workload>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        identity: Option<Identity>,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        policies: Vec<String>,
        reason: String,
    },
    /// A statement, written before anything of it reaches the target.
    Statement {
        session: String,
        /// Number of the statement in its session, from 1.
        op: u64,
        #[serde(default)]
        step: Step,
        /// The text; empty for an execution, whose text is that of the operation `prepared`.
        sql: String,
        /// SHA-256 of the whole statement text in hex; `sql` may be cut.
        sql_sha256: String,
        /// Number of the operation that prepared what is executed.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        prepared: Option<u64>,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        binds: Vec<Bind>,
        verdict: Verdict,
        /// Ids of the policies that decided.
        policies: Vec<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
        /// Output columns that will be masked, `schema.table.column` each.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        masked: Vec<String>,
        /// Request id of the hold, with verdict `hold`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        hold: Option<String>,
    },
    HoldResolved {
        session: String,
        op: u64,
        hold: String,
        outcome: HoldOutcome,
        /// Who decided, as the kernel named the caller of the control socket.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        by: Option<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        comment: Option<String>,
    },
    /// What the target answered, written before the completion is served.
    Result {
        session: String,
        op: u64,
        rows: u64,
        /// Bytes of row data served to the client, after masking.
        bytes: u64,
        /// Number of cells replaced.
        masked_cells: u64,
        /// The server's command tag, or empty after an error.
        tag: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        sqlstate: Option<String>,
    },
    SessionEnd {
        session: String,
        reason: String,
        statements: u64,
        rows: u64,
        client_bytes: u64,
        upstream_bytes: u64,
    },
    /// Something a kernel program refused. Evidence, not a complete list: the ring it comes by drops when full.
    KernelRefusal {
        /// Name of the counter that was raised with it.
        kind: String,
        destination: String,
        /// IP protocol number.
        protocol: u16,
        /// 0 when a packet was dropped, which belongs to a socket and not to a process.
        pid: u32,
        uid: u32,
        comm: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        cgroup: Option<String>,
    },
    /// An operator's act on the control socket that is not a hold's decision.
    Control {
        by: String,
        action: String,
    },
}

impl Event {
    /// The session an event belongs to, if any.
    #[must_use]
    pub fn session(&self) -> Option<&str> {
        match self {
            Self::SessionStart { session, .. }
            | Self::SessionRefused { session, .. }
            | Self::Statement { session, .. }
            | Self::HoldResolved { session, .. }
            | Self::Result { session, .. }
            | Self::SessionEnd { session, .. } => Some(session),
            Self::AgentStart { .. }
            | Self::AgentStop { .. }
            | Self::Reload { .. }
            | Self::Repair { .. }
            | Self::KernelRefusal { .. }
            | Self::Control { .. } => None,
        }
    }
}
