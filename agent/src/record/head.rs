//! The head: the newest checkpoint once more, in a small text file of its own.
//!
//! A chain cannot show that its end was cut off; a signed statement of how long it was can. It is written after the
//! records it speaks of are on stable storage, so a head ahead of the journal is never the work of a power cut alone.
//! Whoever cuts the journal and restores an older head is not found out by this file: copy it elsewhere for that.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::error::io_error;
use super::format::{Checkpoint, HostId, JournalId, hex};
use super::{PublicKey, RecordError, Stamp, files};

const FIRST_LINE: &str = "chaperone journal head 1";

/// A checkpoint with everything that is needed to check it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    pub host: HostId,
    pub journal: JournalId,
    pub time_ns: u64,
    pub checkpoint: Checkpoint,
}

/// What is shown of a head.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HeadSummary {
    pub seq: u64,
    pub time: Stamp,
    pub hash: String,
}

impl Head {
    #[must_use]
    pub fn path(dir: &Path) -> PathBuf {
        dir.join("head")
    }

    /// The head of the journal in `dir`, or `None` where none was written yet.
    ///
    /// # Errors
    /// When it cannot be read; `Key` when it is not one, or not signed by `key`.
    pub fn load(dir: &Path, key: &PublicKey) -> Result<Option<Self>, RecordError> {
        let path = Self::path(dir);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(io_error("read", &path)(error)),
        };
        let head = Self::parse(&text).filter(|head| {
            head.host == key.host() && key.signed(&head.journal, head.time_ns, &head.checkpoint)
        });
        let problem = "holds no head signed by this host's key";
        head.map(Some).ok_or(RecordError::Key { path, problem })
    }

    pub(super) fn store(&self, dir: &Path) -> Result<(), RecordError> {
        files::replace(&Self::path(dir), 0o600, self.text().as_bytes()).map(drop)
    }

    #[must_use]
    pub fn summary(&self) -> HeadSummary {
        HeadSummary { seq: self.checkpoint.seq, time: Stamp(self.time_ns), hash: hex(&self.checkpoint.hash) }
    }

    fn text(&self) -> String {
        format!(
            "{FIRST_LINE}\nhost {}\njournal {}\nseq {}\ntime_ns {}\nhash {}\nsignature {}\n",
            hex(&self.host),
            hex(&self.journal),
            self.checkpoint.seq,
            self.time_ns,
            hex(&self.checkpoint.hash),
            hex(&self.checkpoint.signature),
        )
    }

    /// Exactly what `text` writes, and nothing else.
    fn parse(text: &str) -> Option<Self> {
        let mut lines = text.lines();
        (lines.next()? == FIRST_LINE).then_some(())?;
        let mut field = |name: &str| lines.next()?.strip_prefix(name)?.strip_prefix(' ');
        let host = unhex(field("host")?)?;
        let journal = unhex(field("journal")?)?;
        let seq = field("seq")?.parse().ok()?;
        let time_ns = field("time_ns")?.parse().ok()?;
        let hash = unhex(field("hash")?)?;
        let signature = unhex(field("signature")?)?;
        let head = Self { host, journal, time_ns, checkpoint: Checkpoint { seq, hash, signature } };
        (head.text() == text).then_some(head)
    }
}

fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let mut out = [0; N];
    let digits = text.as_bytes();
    if digits.len() != 2 * N {
        return None;
    }
    for (byte, pair) in out.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(out)
}
