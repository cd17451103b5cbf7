//! The head: the newest checkpoint once more, in a file of its own.
//!
//! A chain cannot show that its end was cut off; a signed statement of how long it was can. It is written after the
//! records it speaks of are on stable storage, so a head ahead of the journal is never the work of a power cut alone.
//! Whoever cuts the journal and restores an older head is not found out by this file: copy it elsewhere for that.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::checkpoint::Checkpoint;
use super::error::io_error;
use super::format::hex;
use super::{PublicKey, RecordError, Stamp, files};

/// What is shown of a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HeadSummary {
    pub seq: u64,
    pub time: Stamp,
    pub root: String,
}

impl HeadSummary {
    pub(super) fn of(head: &Checkpoint) -> Self {
        Self { seq: head.seq, time: Stamp(head.time_ns), root: hex(&head.root) }
    }
}

#[must_use]
pub fn path(dir: &Path) -> PathBuf {
    dir.join("head")
}

/// The head of the journal in `dir`, or `None` where none was written yet.
///
/// # Errors
/// When it cannot be read; `Key` when it is not one, or not signed by `key`.
pub fn load(dir: &Path, key: &PublicKey) -> Result<Option<Checkpoint>, RecordError> {
    let path = path(dir);
    match fs::read_to_string(&path) {
        Ok(text) => signed(&path, &text, key).map(Some),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) if error.kind() == ErrorKind::InvalidData => signed(&path, "", key).map(Some),
        Err(error) => Err(io_error("read", &path)(error)),
    }
}

/// A checkpoint that somebody kept.
///
/// # Errors
/// As [`load`]; a missing file is an error too.
pub fn kept(path: &Path, key: &PublicKey) -> Result<Checkpoint, RecordError> {
    let text = fs::read_to_string(path).map_err(io_error("read the checkpoint", path))?;
    signed(path, &text, key)
}

fn signed(path: &Path, text: &str, key: &PublicKey) -> Result<Checkpoint, RecordError> {
    let problem = "holds no checkpoint signed by this host's key";
    Checkpoint::signed_by(text, key).ok_or(RecordError::Key { path: path.to_owned(), problem })
}

pub(super) fn store(head: &Checkpoint, dir: &Path) -> Result<(), RecordError> {
    files::replace(&path(dir), 0o600, head.text().as_bytes()).map(drop)
}
