//! What the journal holds: one enum, one variant per thing that can happen.
//!
//! The JSON written is this enum as serde spells it; docs/journal.md documents it field by field. Adding a
//! field is compatible (readers ignore what they do not know, and `#[serde(default)]` fills what is missing);
//! renaming or removing one needs a new `VERSION` in the segment header.

mod access;
mod statement;
mod who;

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub use access::{AccessAsked, GrantIssued, GrantUsed, Login, Signature, Vote};
pub use statement::{Bind, HoldOutcome, Step, Verdict};
pub use who::{Ancestor, Identity, OldConnection, Pod, Workload};

/// An event is moved a few times on its way to the journal, two a statement: what makes one long stands apart.
const _: () = assert!(size_of::<Event>() <= 300);

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    AgentStart {
        version: String,
        host: String,
        pid: u32,
        config_sha256: String,
        policy_sha256: String,
        /// Process id of the agent it took over from, whose sessions live on.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        predecessor: Option<u32>,
    },
    /// Another agent is about to take over; what the one that writes this still records comes through that one.
    HandOver {
        pid: u32,
        successor: u32,
        version: String,
    },
    /// Something that protects was found missing or changed, and what was done about it.
    Tampered {
        found: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        error: Option<String>,
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
    /// The agent lives; written every half a minute, so that an end that was cut off shows by its age.
    Heartbeat {
        /// Bytes of the journal, and how many there may be.
        used_bytes: u64,
        max_bytes: u64,
    },
    /// The journal passed four fifths of its ceiling.
    JournalFilling {
        used_bytes: u64,
        max_bytes: u64,
    },
    /// The tail of the last segment was cut off by a crash; `bytes` were an incomplete record and were removed.
    Repair {
        segment: String,
        offset: u64,
        bytes: u64,
    },
    /// The oldest records are about to be removed, and everything up to number `through` is gone then.
    Pruned {
        through: u64,
        records: u64,
        segments: u64,
        bytes: u64,
        /// What asked for it: the configuration, or an operator.
        why: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        by: Option<String>,
    },
    /// The host's clock was set: records before this one have times by the one, from here on by the other.
    ClockSet {
        by_ms: i64,
        expected_unix_ms: u64,
        found_unix_ms: u64,
    },
    SessionStart {
        session: String,
        protocol: String,
        target: String,
        /// `address:port` the client asked the kernel for.
        original_destination: String,
        client: String,
        workload: Box<Workload>,
        identity: Identity,
        /// What the client claimed in its own login; evidence, never identity.
        claimed_user: String,
        database: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        application: Option<String>,
        /// Settings the client asked for at login, that were passed on: the last of a name counts.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        settings: Vec<(String, String)>,
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
        workload: Option<Box<Workload>>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        identity: Option<Identity>,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        policies: Vec<String>,
        reason: String,
    },
    /// A statement, written before anything of it reaches the target.
    Statement {
        session: Arc<str>,
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
        #[serde(default, skip_serializing_if = "none")]
        binds: Arc<[Bind]>,
        verdict: Verdict,
        /// Ids of the policies that decided.
        policies: Arc<[String]>,
        /// The first 16 digits of the digest of the policies that were asked.
        #[serde(default, skip_serializing_if = "empty")]
        policy: Arc<str>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
        /// Output columns that will be masked, `schema.table.column` each.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        masked: Vec<String>,
        /// Request id of the hold, with verdict `hold`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        hold: Option<String>,
    },
    /// Others have waited too long for what a session has locked that waits for an approval; the approvers were told again.
    HoldEscalated {
        session: String,
        op: u64,
        hold: String,
        /// How many wait at the target, and how long.
        sessions: u64,
        seconds: u64,
        /// Some of them, as the target knows them.
        who: Vec<String>,
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
        /// By which dates in the statement are read: the decision was for these.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        settings: BTreeMap<String, String>,
    },
    /// What the target answered, written before the completion is served.
    Result {
        session: Arc<str>,
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
        /// Where it ends in the recorded stream of what the session was served.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        served_to: Option<u64>,
    },
    /// What a program on a host was given and gave, written before its end is served.
    Streams {
        session: String,
        op: u64,
        stdin_bytes: u64,
        stdin_sha256: String,
        stdout_bytes: u64,
        stdout_sha256: String,
        stderr_bytes: u64,
        stderr_sha256: String,
        /// Names of the patterns that were hidden in what it printed.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        masked: Vec<String>,
        /// The program transferred files, and why some of them may not be listed.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        unlisted: Option<String>,
    },
    /// What a stream of replication carried, written before its result.
    Replicated {
        session: String,
        op: u64,
        /// Of the data alone, without the messages around it.
        to_client_bytes: u64,
        to_client_sha256: String,
        to_server_bytes: u64,
        to_server_sha256: String,
    },
    /// What was read from or written to a file, written when it is closed, or has gone through.
    FileContent {
        session: String,
        /// The operation that opened it, or transferred it.
        op: u64,
        /// Which of those it transferred, as it said.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        path: Option<String>,
        read_bytes: u64,
        written_bytes: u64,
        /// Of what was transferred, when that went from front to back; of the whole of it, when it was one of several.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        sha256: Option<String>,
    },
    /// A command line that was read off the screen of a terminal. A guess: nothing was decided on it.
    CommandSeen {
        session: String,
        /// The program the terminal belongs to.
        op: u64,
        text: String,
        /// Always true.
        heuristic: bool,
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
        /// `address:port`, `unix:/path` or `unix:@name`, or `cap_net_raw`.
        destination: String,
        /// IP protocol number; 0 for what is none.
        protocol: u16,
        /// 0 when a packet was dropped, which belongs to a socket and not to a process.
        pid: u32,
        uid: u32,
        comm: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        cgroup: Option<String>,
        /// How often it was, all alike, since the last round.
        #[serde(default = "once", skip_serializing_if = "is_once")]
        count: u64,
    },
    /// Refusals of the last round that are not in the record one by one.
    RefusalsUnlisted {
        /// There were too many different ones.
        unlisted: u64,
        /// The kernel counted them, and did not tell of them one by one: some cgroup floods, or there was no room.
        lost: u64,
    },
    AccessAsked(Box<AccessAsked>),
    GrantIssued(Box<GrantIssued>),
    GrantUsed(Box<GrantUsed>),
    Vote(Box<Vote>),
    /// By its time, its rows, or somebody's word.
    GrantEnded {
        grant: String,
        identity: String,
        why: String,
    },
    /// A client that presented a login name that is not its own.
    ForeignCredential {
        session: String,
        identity: String,
        claimed_user: String,
        /// Whose it is.
        belongs_to: String,
    },
    /// What the account of a target could read of labelled columns without anybody's help, as texts.
    AccountPowers {
        target: String,
        database: String,
        account: String,
        findings: Vec<String>,
    },
    /// What a label names has another name now, by somebody beside the agent, and stays masked.
    LabelMoved {
        target: String,
        database: String,
        /// What the label says: `schema.table.column`.
        from: String,
        /// What the column is called now.
        to: String,
        /// Of its table in that database, and of the column there: what stays when either is renamed.
        table_oid: u32,
        column_number: i16,
    },
    /// What a session was served looked like personal data or a secret, where no label says so.
    Detected {
        session: String,
        target: String,
        database: String,
        /// `schema.table.column`, or where else it was: a position, COPY, an error.
        place: String,
        /// The place is a column.
        #[serde(default)]
        column: bool,
        kind: String,
        /// How many of the values seen so far.
        hits: u32,
        values: u32,
    },
    /// A packet to a target that came to the host from a pod without having passed the agent. Evidence, as above.
    GuardDrop {
        /// As the packet claimed.
        source: String,
        destination: String,
        /// IP protocol number.
        protocol: u16,
        /// The host's side of the pod's interface.
        interface: String,
    },
    /// Connections to targets that had not come through the agent, and were ended.
    OldConnections {
        connections: Vec<OldConnection>,
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
            | Self::HoldEscalated { session, .. }
            | Self::HoldResolved { session, .. }
            | Self::Streams { session, .. }
            | Self::Replicated { session, .. }
            | Self::FileContent { session, .. }
            | Self::CommandSeen { session, .. }
            | Self::SessionEnd { session, .. }
            | Self::Detected { session, .. }
            | Self::ForeignCredential { session, .. } => Some(session),
            Self::Statement { session, .. } | Self::Result { session, .. } => Some(session),
            Self::AccessAsked(asked) => Some(&asked.session),
            Self::GrantUsed(used) => Some(&used.session),
            Self::Vote(vote) => Some(&vote.session),
            Self::AgentStart { .. }
            | Self::HandOver { .. }
            | Self::Tampered { .. }
            | Self::AgentStop { .. }
            | Self::Reload { .. }
            | Self::Heartbeat { .. }
            | Self::JournalFilling { .. }
            | Self::Repair { .. }
            | Self::Pruned { .. }
            | Self::ClockSet { .. }
            | Self::KernelRefusal { .. }
            | Self::RefusalsUnlisted { .. }
            | Self::GrantIssued(_)
            | Self::GrantEnded { .. }
            | Self::AccountPowers { .. }
            | Self::LabelMoved { .. }
            | Self::GuardDrop { .. }
            | Self::OldConnections { .. }
            | Self::Control { .. } => None,
        }
    }
}

fn none<T>(list: &Arc<[T]>) -> bool {
    list.is_empty()
}

fn empty(text: &Arc<str>) -> bool {
    text.is_empty()
}

fn once() -> u64 {
    1
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the shape serde calls")]
fn is_once(count: &u64) -> bool {
    *count == 1
}
