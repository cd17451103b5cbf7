//! Records that wait to be written together: sessions that one thread serves share a write, as those that ask for `synced`
//! share a sync. They are numbered and in the chain; a write that fails takes all of them out again.

use super::checkpoint::Checkpoint;
use super::clock::Watch;
use super::scan::Link;
use super::tree::Tree;

/// More bytes than these wait for nobody.
const MOST: usize = 256 << 10;
const KEPT_CAPACITY: usize = 1 << 20;

#[derive(Default)]
pub(super) struct Waiting {
    bytes: Vec<u8>,
    /// The end of the journal before the first of them; `None` when nothing waits.
    before: Option<Before>,
    appends: u64,
    /// Writes so far, those that failed included.
    writes: u64,
    /// The newest write that failed; numbered from 1.
    failed: u64,
}

/// What the end of the journal was.
pub(super) struct Before {
    pub(super) offset: u64,
    pub(super) link: Link,
    pub(super) tree: Tree,
    pub(super) unsigned: u64,
    pub(super) signed: Option<Checkpoint>,
    pub(super) watch: Watch,
}

/// Which writes hold what somebody waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Writes {
    pub(super) first: u64,
    pub(super) last: u64,
}

impl Waiting {
    /// Puts records there; `before` is asked when they are the first ones.
    pub(super) fn push(&mut self, bytes: &[u8], before: impl FnOnce() -> Before) {
        self.before.get_or_insert_with(before);
        self.bytes.extend_from_slice(bytes);
        self.appends += 1;
    }

    /// Takes everything there is to be written now.
    pub(super) fn take(&mut self) -> Option<(Before, Vec<u8>)> {
        let before = self.before.take()?;
        self.appends = 0;
        self.writes += 1;
        Some((before, std::mem::take(&mut self.bytes)))
    }

    /// What was taken last was written, or not.
    pub(super) fn written(&mut self, mut buffer: Vec<u8>, done: bool) {
        if !done {
            self.failed = self.writes;
        }
        if buffer.capacity() <= KEPT_CAPACITY {
            buffer.clear();
            self.bytes = buffer;
        }
    }

    pub(super) fn is_full(&self) -> bool {
        self.bytes.len() > MOST
    }

    /// How many wait together.
    pub(super) fn appends(&self) -> u64 {
        self.appends
    }

    /// The newest write that failed.
    pub(super) fn failed(&self) -> u64 {
        self.failed
    }

    /// The write that holds what was put there last.
    pub(super) fn last(&self) -> Writes {
        let last = self.writes + u64::from(self.before.is_some());
        Writes { first: last, last }
    }

    /// Whether all of these were written; `None` when one is still to come. Of what was asked for late, a failure
    /// in between counts as its own.
    pub(super) fn all_done(&self, writes: Writes) -> Option<bool> {
        (writes.last <= self.writes).then_some(self.failed < writes.first)
    }
}
