//! What was asked and what became of it, as far as a statement's events share it.

use serde::{Deserialize, Serialize};

/// What became of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    Permit,
    Deny,
    Hold,
}

/// How a request came: a statement whole or in the steps of the extended protocol, or what is asked of a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    #[default]
    Query,
    /// Parsed under a name; nothing runs yet.
    Prepare,
    Execute,
    /// A command line, for a host's shell.
    Exec,
    /// An interactive shell.
    Shell,
    /// A terminal.
    Pty,
    /// A file transfer as a whole.
    Subsystem,
    /// One operation of a file transfer.
    File,
    /// A tunnel, a forwarding, or another feature of the protocol.
    Feature,
    /// The connection itself. In no event: those about it are of their own kinds.
    Connect,
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
