//! What is kept of a segment that was pruned: the tree over its records without the records.
//!
//! For every stretch from one signed checkpoint to the next, the roots of the largest complete subtrees in it. That is
//! enough to prove that the journal goes on from any checkpoint the host ever signed, and for every proof about the
//! records that are left. Nothing in here needs to be believed: all of it together has to make the root that the note
//! about the pruning is signed over.

use std::fs;
use std::path::{Path, PathBuf};

use super::RecordError;
use super::error::io_error;
use super::files::{self, SegmentFile};
use super::format::{Hash, JournalId};
use super::pruned::Pruned;
use super::tree::{Stretch, Tree};

const MAGIC: [u8; 8] = *b"\x89CHF\r\n\x1a\n";
const VERSION: u32 = 1;
const HEAD_LEN: usize = 44;
const SUFFIX: &str = ".chf";

/// What a journal's tree is made of, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Piece<'a> {
    /// A complete subtree of 2^level entries.
    Subtree(u32, &'a Hash),
    /// A checkpoint was signed over as many records, or a segment ended here.
    End(u64),
}

/// Gathers the stretches of one segment.
pub(super) struct Freezer {
    bytes: Vec<u8>,
    stretch: Stretch,
    begun: u64,
}

impl Freezer {
    /// For the segment that begins with record `first`.
    pub(super) fn new(journal: &JournalId, first: u64) -> Self {
        let mut bytes = Vec::new();
        bytes.extend(MAGIC);
        bytes.extend(VERSION.to_le_bytes());
        bytes.extend(first.to_le_bytes());
        bytes.extend([0; 8]);
        bytes.extend(journal);
        Self { bytes, stretch: Stretch::new(first - 1), begun: first - 1 }
    }

    pub(super) fn push(&mut self, entry: &Hash) {
        self.stretch.push(entry);
    }

    /// Ends a stretch here, unless it is empty.
    pub(super) fn end(&mut self) {
        let end = self.stretch.end();
        if end > self.begun {
            self.bytes.extend(end.to_le_bytes());
            for (_, root) in self.stretch.subtrees() {
                self.bytes.extend(root);
            }
            (self.stretch, self.begun) = (Stretch::new(end), end);
        }
    }

    /// Writes it for a segment whose successor begins with the record after the last one that was pushed.
    pub(super) fn store(mut self, dir: &Path, first: u64) -> Result<u64, RecordError> {
        self.end();
        let next = (self.begun + 1).to_le_bytes();
        if let Some(field) = self.bytes.get_mut(20..28) {
            field.copy_from_slice(&next);
        }
        let crc = crc32fast::hash(&self.bytes);
        self.bytes.extend(crc.to_le_bytes());
        files::replace(&path(dir, first), 0o600, &self.bytes)?;
        Ok(self.bytes.len() as u64)
    }
}

fn path(dir: &Path, first: u64) -> PathBuf {
    files::segment_path(dir, first).with_extension(SUFFIX.trim_start_matches('.'))
}

/// What is kept of pruned segments, in order.
pub(super) fn files(dir: &Path) -> Result<Vec<SegmentFile>, RecordError> {
    files::numbered(dir, SUFFIX)
}

/// Calls `each` with the pieces of the tree over the records that are gone.
///
/// # Errors
/// `Damaged` when they are not all there, or do not make the root the note is signed over: what came before was nothing
/// to rely on then.
pub(super) fn walk(dir: &Path, note: &Pruned, mut each: impl FnMut(Piece<'_>)) -> Result<(), RecordError> {
    let mut tree = Tree::default();
    for file in files(dir)?.iter().filter(|file| file.first_seq <= note.through) {
        let damaged = |problem: &str| RecordError::Damaged {
            path: file.path.clone(),
            offset: 0,
            seq: file.first_seq,
            problem: problem.to_owned(),
        };
        if file.first_seq != tree.size() + 1 {
            return Err(damaged("what was kept of the pruned segment before this one is missing"));
        }
        let bytes = fs::read(&file.path).map_err(io_error("read", &file.path))?;
        walk_one(&bytes, &note.journal, &mut tree, &mut each)
            .ok_or_else(|| damaged("is not what was kept of a pruned segment"))?;
    }
    if tree.size() == note.through && tree.root() == note.root {
        return Ok(());
    }
    Err(RecordError::Damaged {
        path: dir.to_owned(),
        offset: 0,
        seq: note.through,
        problem: "what was kept of pruned records is not what this host signed when it pruned them"
            .to_owned(),
    })
}

fn walk_one(
    bytes: &[u8],
    journal: &JournalId,
    tree: &mut Tree,
    each: &mut impl FnMut(Piece<'_>),
) -> Option<()> {
    let (body, crc) = bytes.split_last_chunk::<4>()?;
    let (head, mut rest) = body.split_at_checked(HEAD_LEN)?;
    let first = u64::from_le_bytes(*head.get(12..)?.first_chunk()?);
    let next = u64::from_le_bytes(*head.get(20..)?.first_chunk()?);
    let is_one = head.starts_with(&MAGIC)
        && head.get(8..12)? == VERSION.to_le_bytes()
        && head.get(28..)? == journal
        && first == tree.size() + 1
        && u32::from_le_bytes(*crc) == crc32fast::hash(body);
    while is_one && !rest.is_empty() {
        let (end, roots) = rest.split_first_chunk::<8>()?;
        let end = u64::from_le_bytes(*end);
        rest = roots;
        for level in Stretch::levels(tree.size(), end) {
            let (root, after) = rest.split_first_chunk::<32>()?;
            tree.push_subtree(level, root).then_some(())?;
            each(Piece::Subtree(level, root));
            rest = after;
        }
        (tree.size() == end).then_some(())?;
        each(Piece::End(end));
    }
    (is_one && tree.size() + 1 == next).then_some(())
}
