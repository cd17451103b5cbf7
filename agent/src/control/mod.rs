//! The control socket: what an operator on this host asks of a running agent.
//!
//! One JSON object per line each way, over a unix socket only root can open. The kernel says who calls: a process
//! in a governed cgroup is refused whatever its user id, so that a held identity cannot approve itself.

mod caller;
mod client;
mod hosts;
mod operator;
mod server;
mod voice;

use serde::{Deserialize, Serialize};

pub use caller::{Callers, below};
pub use client::{ClientError, call, call_draining};
pub use hosts::{HOSTS_SOCKET, HostBook, KeysOf, serve_hosts};
pub use operator::{Known, Operator, Site, Successor};
pub use server::Socket;
pub use voice::{Bearer, Person, WhoLoggedIn};

use crate::gate::approvers::Signed;
use crate::gate::{AccessTerms, Given, Grant, HoldInfo, Hours, Terms};
use crate::record::Gone;
use crate::registry::SessionInfo;

/// Name of the socket in the run directory.
pub const SOCKET: &str = "control.sock";

/// Where the socket of an agent is that another one took over from, until its last session has ended.
pub const DRAINING: &str = "draining.sock";

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub enum Request {
    Status,
    /// Write to the journal's files what is recorded and not there yet, for those who read them.
    Flush,
    Approvals,
    Resolve {
        id: String,
        approve: bool,
        comment: Option<String>,
        /// Of the grant that a yes to a connection makes.
        #[serde(default)]
        terms: AccessTerms,
    },
    Sessions,
    Kill {
        id: String,
        reason: String,
    },
    /// Grants in force, or all there ever were.
    Grants {
        all: bool,
    },
    Grant {
        terms: Terms,
    },
    Revoke {
        id: String,
        reason: String,
    },
    /// One of the others, signed by an approver.
    Signed {
        signed: Signed,
    },
    /// One of the others, said by somebody who is logged in at the identity provider.
    LoggedIn {
        token: Bearer,
        /// Of what is held, as the person was shown it.
        binding: Option<String>,
        request: Box<Request>,
    },
    /// From a new agent: what follows on this connection is between the two of them.
    TakeOver {
        version: String,
        layout: u32,
    },
    /// Remove the oldest segments of the journal: those older than this, and those above so many bytes.
    Prune {
        older_than_s: Option<u64>,
        to_bytes: Option<u64>,
    },
    /// Start the agent's program again, to take over from this process.
    Upgrade,
    /// From the agent that took over, to the one it took over from: read the policies again.
    Reload,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "snake_case")]
pub enum Response {
    Status(Status),
    Approvals {
        holds: Vec<HoldInfo>,
    },
    Sessions {
        sessions: Vec<SessionInfo>,
    },
    Grants {
        grants: Vec<GrantInfo>,
    },
    Granted {
        grant: GrantInfo,
    },
    /// What was pruned now, if anything may have gone; there may be more.
    Pruned {
        gone: Option<Gone>,
    },
    /// The answer to `TakeOver`: the agent that would be replaced, and how long its sessions may go on after that.
    Offer {
        pid: u32,
        drain_s: u64,
    },
    Done {
        what: String,
    },
    Refused {
        why: String,
    },
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    pub version: String,
    pub pid: u32,
    pub policy_sha256: String,
    pub policies: usize,
    pub sessions: usize,
    pub holds: usize,
    /// Another agent has taken over; this one only brings its sessions to their ends.
    #[serde(default)]
    pub draining: bool,
    /// Share of the journal's ceiling, in percent.
    pub journal_percent: f64,
    /// What the kernel programs counted.
    pub kernel: Vec<(String, u64)>,
}

/// A grant as it is shown.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GrantInfo {
    pub id: String,
    pub identity: String,
    pub target: Option<String>,
    pub database: Option<String>,
    pub groups: Vec<String>,
    pub hours: Option<Hours>,
    pub uses: u64,
    pub max_uses: Option<u64>,
    pub rows: u64,
    pub max_rows: Option<u64>,
    pub reason: String,
    pub ticket: Option<String>,
    pub given: Vec<Given>,
    pub created_unix_ms: i64,
    pub expires_unix_ms: i64,
    pub ended: Option<String>,
}

impl From<&Grant> for GrantInfo {
    fn from(grant: &Grant) -> Self {
        Self {
            id: grant.id.clone(),
            identity: grant.identity.clone(),
            target: grant.target.clone(),
            database: grant.database.clone(),
            groups: grant.groups.clone(),
            hours: grant.hours,
            uses: grant.uses,
            max_uses: grant.max_uses,
            rows: grant.rows,
            max_rows: grant.max_rows,
            reason: grant.reason.clone(),
            ticket: grant.ticket.clone(),
            given: grant.given.clone(),
            created_unix_ms: grant.created_ms,
            expires_unix_ms: grant.expires_ms(),
            ended: grant.ended.clone(),
        }
    }
}
