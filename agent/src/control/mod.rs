//! The control socket: what an operator on this host asks of a running agent.
//!
//! One JSON object per line each way, over a unix socket only root can open. The kernel says who calls: a process
//! in a governed cgroup is refused whatever its user id, so that a held identity cannot approve itself.

mod client;
mod server;

use serde::{Deserialize, Serialize};

pub use client::{ClientError, call};
pub use server::{Callers, Operator, serve};

use crate::gate::HoldInfo;
use crate::registry::SessionInfo;

/// Name of the socket in the run directory.
pub const SOCKET: &str = "control.sock";

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub enum Request {
    Status,
    Approvals,
    Resolve { id: String, approve: bool, comment: Option<String> },
    Sessions,
    Kill { id: String, reason: String },
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "snake_case")]
pub enum Response {
    Status(Status),
    Approvals { holds: Vec<HoldInfo> },
    Sessions { sessions: Vec<SessionInfo> },
    Done { what: String },
    Refused { why: String },
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    pub version: String,
    pub pid: u32,
    pub policy_sha256: String,
    pub policies: usize,
    pub sessions: usize,
    pub holds: usize,
    /// Share of the journal's ceiling, in percent.
    pub journal_percent: f64,
    /// What the kernel programs counted.
    pub kernel: Vec<(String, u64)>,
}
