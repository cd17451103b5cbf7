//! Access for a time: asked for, granted, used, ended.

use serde::{Deserialize, Serialize};

use super::{Identity, Workload};

/// A connection that waits for somebody to grant it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccessAsked {
    pub session: String,
    pub hold: String,
    pub target: String,
    pub database: String,
    pub identity: Identity,
    pub workload: Workload,
    pub claimed_user: String,
    pub policies: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GrantIssued {
    pub grant: String,
    pub identity: String,
    /// None: every target.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub database: Option<String>,
    /// Groups lent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<String>,
    pub expires_unix_ms: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hours: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_uses: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_rows: Option<u64>,
    pub reason: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ticket: Option<String>,
    /// Who gave it.
    pub by: Vec<String>,
    /// The request it answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold: Option<String>,
}
