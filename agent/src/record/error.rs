//! What can go wrong with the journal, each with what was attempted and what an operator may do.

use std::io;
use std::path::{Path, PathBuf};

use super::format::HeaderError;

#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    #[error("cannot {attempt} {}: {source}", path.display())]
    Io { attempt: &'static str, path: PathBuf, source: io::Error },
    #[error("the journal {} is in use by another agent (pid {pid}); stop it first", dir.display())]
    InUse { dir: PathBuf, pid: String },
    #[error("{} {problem}", path.display())]
    Key { path: PathBuf, problem: &'static str },
    #[error("{}: {source}", path.display())]
    Header { path: PathBuf, source: HeaderError },
    #[error(
        "{}, byte {offset}, record {seq}: {problem}; run `chaperone verify`, then move the journal away and keep it \
         as evidence", path.display()
    )]
    Damaged { path: PathBuf, offset: u64, seq: u64, problem: String },
    #[error(
        "{}: records that were not written yet have no place in the journal any more: {problem}; run `chaperone verify`, \
         then move the file away and keep it as evidence", path.display()
    )]
    Misplaced { path: PathBuf, problem: &'static str },
    #[error("cannot start the thread that writes records: {0}")]
    Scribe(io::Error),
    #[error("the record cannot be encoded: {0}")]
    Encode(#[from] serde_json::Error),
    #[error("the record cannot be packed: {0}")]
    Pack(#[from] postcard::Error),
    #[error("a record of {bytes} bytes is longer than the {limit} a journal takes")]
    TooLong { bytes: usize, limit: usize },
    #[error(
        "the journal is full: {used} of {limit} bytes; `chaperone prune` makes room, or raise record.max_bytes"
    )]
    Full { used: u64, limit: u64 },
    #[error("cannot append to {}: {source}", path.display())]
    Append { path: PathBuf, source: io::Error },
    #[error("cannot cut the failed append off {}: {source}; nothing is appended until that succeeds", path.display())]
    Poisoned { path: PathBuf, source: io::Error },
    #[error("a sync of {} failed before; what was lost then is not known until the agent is started again", path.display())]
    SyncFailed { path: PathBuf },
    #[error("raw values cannot be sealed to auditors (record.auditors): {0}")]
    Seal(String),
    #[error("the agent that took over cannot be handed a record: {0}")]
    Successor(io::Error),
    #[error("the agent that took over could not record: {0}")]
    NotRecorded(String),
    #[error("the journal is closed")]
    Closed,
    #[error("a thread died while it held the journal; its state is unknown")]
    Abandoned,
    #[error(
        "record {seq} is not signed yet: the journal is signed up to record {signed}, once a second while it grows"
    )]
    NotSigned { seq: u64, signed: u64 },
    #[error("record {seq} is gone: records 1 to {through} were pruned, and only their hashes are kept")]
    Pruned { seq: u64, through: u64 },
    #[error("the first {seq} records are not those this host signed; run `chaperone verify`")]
    NotAsSigned { seq: u64 },
    #[error("no recorded session has an id that begins with {0:?}")]
    NoSuchSession(String),
    #[error(
        "no statement is recorded under {0:?}; an id is SESSION/NUMBER, as denials and `chaperone replay` give it, or that of a request (h-...)"
    )]
    NoSuchStatement(String),
    #[error("{prefix:?} is the beginning of more than one session id: {}", ids.join(", "))]
    Ambiguous { prefix: String, ids: Vec<String> },
}

impl RecordError {
    pub(super) fn is_not_found(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}

/// `io_error("open", path)` for `map_err`.
pub(super) fn io_error(attempt: &'static str, path: &Path) -> impl FnOnce(io::Error) -> RecordError {
    let path = path.to_owned();
    move |source| RecordError::Io { attempt, path, source }
}
