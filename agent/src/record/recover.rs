//! What is done with a journal before it is appended to: look whether it is the one this host left, and cut off what
//! a crash left incomplete.
//!
//! Reads all headers and the last two segments in full; `verify` reads everything. A doubt about anything but the very
//! end of the journal is a refusal to start. The end is an incomplete last record, and what begins at a hole behind
//! everything that is known to be on the disk: a kernel that could not write some of its pages may have written later ones.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use super::checkpoint::Checkpoint;
use super::error::io_error;
use super::event::Event;
use super::files::{self, SegmentFile};
use super::format::{CHECKPOINT_EVERY, FRAME_LEN, Frame, HEADER_LEN, Header, JournalId, Kind};
use super::pruned::{self, Pruned};
use super::scan::{self, Found, Link, Scanner};
use super::tail::file_name;
use super::tree::Tree;
use super::{PublicKey, RecordError, head};

/// An incomplete end that was cut off a segment. The bytes are kept beside it, in `<segment>.cut-<offset>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repaired {
    pub segment: String,
    pub offset: u64,
    pub bytes: u64,
}

impl Repaired {
    pub(super) fn event(&self) -> Event {
        Event::Repair { segment: self.segment.clone(), offset: self.offset, bytes: self.bytes }
    }
}

pub(super) struct Recovered {
    /// `None` when there is no segment yet.
    pub(super) end: Option<End>,
    pub(super) repaired: Vec<Repaired>,
    /// Record up to which the head file speaks, 0 without one.
    pub(super) head_seq: u64,
}

/// Where the next record goes.
pub(super) struct End {
    pub(super) journal: JournalId,
    pub(super) path: PathBuf,
    /// The number of its first record.
    pub(super) segment: u64,
    /// Of its form.
    pub(super) version: u32,
    pub(super) file: File,
    pub(super) offset: u64,
    pub(super) link: Link,
    pub(super) tree: Tree,
    pub(super) unsigned: u64,
    pub(super) signed: Option<Checkpoint>,
    /// Time of the last record, 0 when there is none.
    pub(super) time_ns: u64,
}

pub(super) fn recover(dir: &Path, key: &PublicKey) -> Result<Recovered, RecordError> {
    remove_unfinished(dir)?;
    let head = head::load(dir, key)?;
    let pruned = pruned::load(dir, key)?;
    if let Some(note) = pruned
        && !head.is_some_and(|head| head.journal == note.journal && head.seq >= note.event)
    {
        // It came here from another journal, or from a later state of this one: nothing goes by it.
        let problem = "the note about pruned records and the head are not of one journal at one time";
        return Err(damaged(&pruned::path(dir), 0, note.event, problem));
    }
    let through = pruned.map_or(0, |note| note.through);
    pruned::remove(dir, through, through)?;
    let mut segments = files::segments(dir)?;
    let mut repaired = Vec::new();
    if let Some(last) = segments.last()
        && fs::metadata(&last.path).map_err(io_error("inspect", &last.path))?.len() < beginning_len(last)
        && head.is_none_or(|head| head.seq + 1 < last.first_seq)
    {
        repaired.push(cut(&last.path, 0)?);
        fs::remove_file(&last.path).map_err(io_error("remove", &last.path))?;
        segments.pop();
    }
    let head_seq = head.map_or(0, |head| head.seq);
    let end = Walk::over(dir, key, (head, pruned), &segments)?
        .map(|walk| walk.finish(&mut repaired))
        .transpose()?;
    Ok(Recovered { end, repaired, head_seq })
}

/// Bytes of a segment without any record but the tree it begins with: it has its name only with all of them.
fn beginning_len(segment: &SegmentFile) -> u64 {
    let peaks = u64::from((segment.first_seq - 1).count_ones()) * 32;
    HEADER_LEN as u64 + if segment.first_seq > 1 { FRAME_LEN as u64 + peaks } else { 0 }
}

/// The state of reading the last segments.
struct Walk<'a> {
    key: &'a PublicKey,
    head: Option<Checkpoint>,
    pruned: Option<Pruned>,
    journal: JournalId,
    path: &'a Path,
    /// The number its name gives it.
    first_seq: u64,
    version: u32,
    link: Link,
    /// Over all records up to the last; `None` before the first record that is read.
    tree: Option<Tree>,
    unsigned: u64,
    signed: Option<Checkpoint>,
    /// End of the last whole record.
    offset: u64,
    /// From where on in the segment no sync is known of.
    unsynced: u64,
    /// Of the last record.
    time_ns: u64,
    /// Whether something incomplete follows `offset`.
    torn: bool,
}

impl<'a> Walk<'a> {
    fn over(
        dir: &'a Path,
        key: &'a PublicKey,
        (head, pruned): (Option<Checkpoint>, Option<Pruned>),
        segments: &'a [SegmentFile],
    ) -> Result<Option<Self>, RecordError> {
        let headers = headers(key, head.as_ref(), pruned.as_ref(), segments)?;
        let from = headers.len().saturating_sub(2);
        let (Some(first), Some(segment)) = (headers.get(from), segments.get(from)) else {
            return match head {
                None => Ok(None),
                Some(head) => Err(damaged(dir, 0, head.seq, "the segments are gone, the head is not")),
            };
        };
        let mut walk = Self {
            key,
            head,
            pruned,
            journal: first.journal,
            path: &segment.path,
            first_seq: segment.first_seq,
            version: first.version,
            link: Link { seq: first.first_seq, previous: first.previous, last: first.previous },
            tree: (first.first_seq == 1).then(Tree::default),
            // Where the last checkpoint lies further back than is read, one is due at once.
            unsigned: if from == 0 { 0 } else { CHECKPOINT_EVERY },
            signed: None,
            offset: 0,
            unsynced: 0,
            time_ns: 0,
            torn: false,
        };
        let rest = segments.get(from..).unwrap_or_default();
        for (at, segment) in rest.iter().enumerate() {
            (walk.path, walk.first_seq) = (&segment.path, segment.first_seq);
            walk.segment(at + 1 == rest.len())?;
        }
        match head {
            // The record of the checkpoint that became the head is one more.
            Some(head) if head.seq + 1 >= walk.link.seq => Err(walk.damaged(format!(
                "the journal ends here, but this host signed it up to record {}: its end was cut off",
                head.seq
            ))),
            _ => Ok(Some(walk)),
        }
    }

    fn segment(&mut self, is_last: bool) -> Result<(), RecordError> {
        let (mut scanner, bytes) = Scanner::open(self.path)?;
        self.offset = 0;
        let header = scan::header(self.path, &bytes)?;
        self.version = header.version;
        self.link.enter(&header, &bytes).map_err(|problem| self.damaged(problem))?;
        self.unsynced = HEADER_LEN as u64;
        loop {
            self.offset = scanner.offset();
            match scanner.next().map_err(io_error("read", self.path))? {
                None => return Ok(()),
                Some(Found::Frame(frame)) => self.record(&frame)?,
                Some(Found::Damage(damage)) => {
                    if is_last && (damage.to_end || self.is_lost(damage.len)?) {
                        self.torn = true;
                        return Ok(());
                    }
                    return Err(self.damaged(format!("{} bytes are no record", damage.len)));
                }
            }
        }
    }

    /// Whether `len` bytes from here on are what a failed sync or a power cut makes of records that no sync was known of:
    /// a block that was never written reads as zeros. Who changes a record leaves no such block.
    fn is_lost(&self, len: u64) -> Result<bool, RecordError> {
        const BLOCK: u64 = 512;
        if self.head.is_none_or(|head| head.seq + 1 >= self.link.seq) {
            return Ok(false);
        }
        let file = File::open(self.path).map_err(io_error("open", self.path))?;
        let (mut at, end) = (self.offset.next_multiple_of(BLOCK), self.offset + len);
        let mut block = [0; BLOCK as usize];
        while at + BLOCK <= end {
            file.read_exact_at(&mut block, at).map_err(io_error("read", self.path))?;
            if block.iter().all(|byte| *byte == 0) {
                return Ok(true);
            }
            at += BLOCK;
        }
        Ok(false)
    }

    fn record(&mut self, frame: &Frame<'_>) -> Result<(), RecordError> {
        let begins = self.offset == HEADER_LEN as u64;
        self.link.step(frame).map_err(|problem| self.damaged(problem))?;
        if begins && frame.seq > 1 {
            self.enter_tree(frame)?;
        }
        self.unsigned += 1;
        self.time_ns = frame.time_ns;
        if self.head.is_some_and(|head| head.seq + 1 >= frame.seq) {
            self.unsynced = self.offset + frame.len() as u64;
        }
        if frame.kind == Kind::Checkpoint {
            self.checkpoint(frame)?;
        }
        // The record after those the head speaks of is its checkpoint, which is never the first of a segment.
        if let Some(head) = self.head.filter(|head| head.seq + 1 == frame.seq)
            && (head.last != frame.previous || self.tree.as_ref().map(Tree::root) != Some(head.root))
        {
            return Err(self.damaged("this host's head speaks of other records before this one"));
        }
        if let Some(tree) = &mut self.tree {
            tree.push(&frame.hash());
        }
        Ok(())
    }

    /// The first record of a segment says what the tree was before it.
    fn enter_tree(&mut self, frame: &Frame<'_>) -> Result<(), RecordError> {
        let stated =
            (frame.kind == Kind::Tree).then(|| Tree::from_peaks(frame.seq - 1, frame.payload)).flatten();
        match (stated, &self.tree) {
            (Some(stated), Some(tree)) if stated != *tree => {
                Err(self.damaged("the segment begins with another tree than that of the records before it"))
            }
            (Some(stated), None)
                if self
                    .pruned
                    .is_some_and(|note| note.through == stated.size() && note.root != stated.root()) =>
            {
                Err(self.damaged(
                    "the segment begins with another tree than that of the records that were pruned",
                ))
            }
            (Some(stated), _) => {
                self.tree = Some(stated);
                Ok(())
            }
            (None, _) => {
                Err(self.damaged("the segment does not begin with the tree of the records before it"))
            }
        }
    }

    fn checkpoint(&mut self, frame: &Frame<'_>) -> Result<(), RecordError> {
        let signed = Checkpoint::of_record(frame.payload).filter(|checkpoint| {
            self.key.signed(checkpoint)
                && checkpoint.journal == self.journal
                && checkpoint.seq == frame.seq - 1
                && checkpoint.last == frame.previous
                && self.tree.as_ref().is_some_and(|tree| tree.root() == checkpoint.root)
        });
        if signed.is_none() {
            let problem = "the checkpoint is not this host's signature of what stands before it";
            return Err(self.damaged(problem));
        }
        self.unsigned = 0;
        self.signed = signed;
        Ok(())
    }

    fn finish(self, repaired: &mut Vec<Repaired>) -> Result<End, RecordError> {
        if self.torn {
            repaired.push(cut(self.path, self.offset)?);
        }
        if self.unsynced < self.offset {
            write_again(self.path, self.offset)?;
        }
        let file = OpenOptions::new()
            .write(true)
            .open(self.path)
            .map_err(io_error("open for writing", self.path))?;
        Ok(End {
            journal: self.journal,
            path: self.path.to_owned(),
            segment: self.first_seq,
            version: self.version,
            file,
            offset: self.offset,
            link: self.link,
            tree: self.tree.unwrap_or_default(),
            unsigned: self.unsigned,
            signed: self.signed,
            time_ns: self.time_ns,
        })
    }

    fn damaged(&self, problem: impl Into<String>) -> RecordError {
        damaged(self.path, self.offset, self.link.seq, problem)
    }
}

/// All headers, each with its segment's name, one host, one journal, in one order.
fn headers(
    key: &PublicKey,
    head: Option<&Checkpoint>,
    pruned: Option<&Pruned>,
    segments: &[SegmentFile],
) -> Result<Vec<Header>, RecordError> {
    let mut headers = Vec::<Header>::with_capacity(segments.len());
    for segment in segments {
        let (_, bytes) = Scanner::open(&segment.path)?;
        let header = scan::header(&segment.path, &bytes)?;
        let refuse = |problem: &str| Err(damaged(&segment.path, 0, segment.first_seq, problem));
        let journal = head.map(|head| head.journal).or_else(|| headers.first().map(|first| first.journal));
        if header.host != key.host() {
            return refuse("the segment was written with another host's key");
        }
        if journal.is_some_and(|journal| journal != header.journal) {
            return refuse("the segment belongs to another journal");
        }
        if header.first_seq != segment.first_seq {
            return refuse("the segment does not begin with the record its name gives");
        }
        if headers.is_empty() {
            let (first, previous) = pruned.map_or((1, [0; 32]), |note| (note.through + 1, note.last));
            if header.first_seq != first {
                return refuse("the segments before this one are missing");
            }
            if header.previous != previous || pruned.is_some_and(|note| note.journal != header.journal) {
                return refuse("the segment does not follow the records that were pruned");
            }
        }
        headers.push(header);
    }
    Ok(headers)
}

/// Puts a segment, of whose end no sync is known, on stable storage: as a file of its own that takes the place of the
/// first. After a sync that failed the kernel holds bytes that it takes for written and the disk does not have; and
/// written once more in the same place, ext4 may put them into blocks that it still knows as never written.
fn write_again(path: &Path, len: u64) -> Result<(), RecordError> {
    let from = File::open(path).map_err(io_error("open", path))?;
    let mut part = vec![0; 1 << 20];
    let mut copy_to = |to: &File| -> std::io::Result<()> {
        let mut at = 0;
        while at < len {
            let most = usize::try_from(len - at).unwrap_or(usize::MAX).min(part.len());
            let part = part.get_mut(..most).unwrap_or_default();
            from.read_exact_at(part, at)?;
            to.write_all_at(part, at)?;
            at += part.len() as u64;
        }
        to.sync_all()
    };
    if files::replace_with(path, 0o600, &mut copy_to).is_ok() {
        return path.parent().map_or(Ok(()), files::sync_dir);
    }
    // Where there is no room for another one, the same place is better than nothing.
    let same = OpenOptions::new().write(true).open(path).map_err(io_error("open for writing", path))?;
    copy_to(&same).map_err(io_error("write again", path))
}

/// Moves what follows `offset` out of the segment into a file of its own.
fn cut(path: &Path, offset: u64) -> Result<Repaired, RecordError> {
    let mut file = OpenOptions::new().read(true).write(true).open(path).map_err(io_error("open", path))?;
    let mut rest = Vec::new();
    file.seek(SeekFrom::Start(offset))
        .and_then(|_| file.read_to_end(&mut rest))
        .map_err(io_error("read", path))?;
    let repaired = keep(path, offset, &rest)?;
    file.set_len(offset).and_then(|()| file.sync_all()).map_err(io_error("cut", path))?;
    Ok(repaired)
}

/// Keeps `bytes`, which belong to `offset` of the segment at `path` and have no place there, beside it.
pub(super) fn keep(path: &Path, offset: u64, bytes: &[u8]) -> Result<Repaired, RecordError> {
    let kept = free_name(path, offset);
    fs::File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&kept)
        .and_then(|mut kept| {
            std::io::Write::write_all(&mut kept, bytes)?;
            kept.sync_all()
        })
        .map_err(io_error("write", &kept))?;
    Ok(Repaired { segment: file_name(path), offset, bytes: bytes.len() as u64 })
}

fn free_name(path: &Path, offset: u64) -> PathBuf {
    let name = |suffix: String| {
        let mut name = OsString::from(path);
        name.push(suffix);
        PathBuf::from(name)
    };
    let first = name(format!(".cut-{offset}"));
    if !first.exists() {
        return first;
    }
    (2..).map(|again| name(format!(".cut-{offset}-{again}"))).find(|path| !path.exists()).unwrap_or(first)
}

fn remove_unfinished(dir: &Path) -> Result<(), RecordError> {
    for entry in fs::read_dir(dir).map_err(io_error("list", dir))? {
        let path = entry.map_err(io_error("list", dir))?.path();
        if path.to_string_lossy().ends_with(files::UNFINISHED) {
            fs::remove_file(&path).map_err(io_error("remove", &path))?;
        }
    }
    Ok(())
}

fn damaged(path: &Path, offset: u64, seq: u64, problem: impl Into<String>) -> RecordError {
    RecordError::Damaged { path: path.to_owned(), offset, seq, problem: problem.into() }
}
