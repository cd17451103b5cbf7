//! Journals in temporary directories, and ways to damage them.

mod append;

use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::event::{Event, Verdict};
use super::verify::{Report, verify};
use super::{Check, Journal, Options, PublicKey, Reader, Record, RecordError, public_path};

/// A state directory of its own for each test.
pub(super) struct State {
    dir: TempDir,
    pub(super) options: Options,
}

impl State {
    pub(super) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let options = Options::new(dir.path(), 1 << 30);
        Self { dir, options }
    }

    pub(super) fn small_segments(mut self, bytes: u64) -> Self {
        self.options.segment_bytes = bytes;
        self
    }

    pub(super) fn path(&self) -> &Path {
        self.dir.path()
    }

    pub(super) fn journal_dir(&self) -> &Path {
        &self.options.dir
    }

    pub(super) fn open(&self) -> Journal {
        Journal::open(&self.options).unwrap()
    }

    pub(super) fn key(&self) -> PublicKey {
        PublicKey::load(&public_path(&self.options.key)).unwrap()
    }

    pub(super) fn verify(&self) -> Report {
        verify(self.journal_dir(), &self.key()).unwrap()
    }

    pub(super) fn segments(&self) -> Vec<PathBuf> {
        super::files::segments(self.journal_dir()).unwrap().into_iter().map(|segment| segment.path).collect()
    }

    pub(super) fn records(&self) -> Result<Vec<Record>, RecordError> {
        Reader::open(self.journal_dir(), Check::Chain)?.collect()
    }
}

pub(super) fn statement(op: u64, sql: &str) -> Event {
    Event::Statement {
        session: "0198c0de-0000-7000-8000-000000000001".into(),
        op,
        sql: sql.into(),
        sql_sha256: "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855".into(),
        binds: vec![],
        verdict: Verdict::Permit,
        policies: vec!["read-shop".into()],
        reason: None,
        masked: vec![],
        hold: None,
    }
}
