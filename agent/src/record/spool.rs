//! Records that are not in their segment yet, in memory that outlives the agent.
//!
//! What is recorded has to survive the death of the agent before anything of it is served. A write into a file does; so
//! does a copy into a file of a file system that is memory (tmpfs, where the agent's run directory is as a rule), which is
//! mapped here and costs no system call. From there records go to their segment many at a time: by whoever needs them there,
//! by the next that finds no room, and a moment later at the latest (`scribe`). A start after a death writes first what was
//! left ([`restore`]).
//!
//! The file: 8 bytes that name the form, the journal's id (16), and three numbers of 8 bytes, little-endian: the first record
//! of the segment that the bytes belong to, where in it they begin, and how many there are. From byte 64 on the bytes, whole
//! frames. Their number is written last and set to 0 first: what is half done is not there.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::atomic::{Ordering, fence};

use memmap2::{MmapMut, MmapOptions};
use rustix::fs::{FallocateFlags, OFlags, StatFs};

use super::error::io_error;
use super::files;
use super::format::JournalId;
use super::recover::{self, Repaired};
use super::{RecordError, scan};

const FORM: [u8; 8] = *b"CHSPOOL1";
const HEAD: usize = 64;
/// The number that says how many bytes there are.
const COUNT: std::ops::Range<usize> = 40..48;
/// How much it holds.
const ROOM: usize = 512 << 10;
/// More than this goes to the segment by itself: one copy less.
const SHORT: usize = 64 << 10;

pub(super) struct Spool {
    map: MmapMut,
    journal: JournalId,
    /// Where in its segment the first byte belongs, while there is one.
    begin: u64,
    len: usize,
}

impl Spool {
    /// Makes the file at `path`, or takes it over: what it holds has to be [`restore`]d before. `None` where the file system
    /// is not memory: there it would be no faster than the segment, and less safe.
    ///
    /// # Errors
    /// When the file cannot be made, or there is no room for it.
    pub(super) fn open(path: &Path, journal: JournalId) -> Result<Option<Self>, RecordError> {
        let failed = |source| io_error("make", path)(source);
        let file = open_file(path, true).map_err(failed)?;
        let place = rustix::fs::fstatfs(&file).map_err(|errno| failed(errno.into()))?;
        if !is_memory(&place) {
            drop(file);
            std::fs::remove_file(path).map_err(io_error("remove", path))?;
            return Ok(None);
        }
        file.set_len((HEAD + ROOM) as u64).map_err(failed)?;
        // Pages that turn out to be missing would end the agent by a signal.
        rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, (HEAD + ROOM) as u64)
            .map_err(|errno| failed(errno.into()))?;
        // SAFETY: the file is root's, whom alone it lets in (0600), and the lock of the journal's directory is held: no other
        // agent or command changes or cuts it while it is mapped.
        let map = unsafe { MmapOptions::new().len(HEAD + ROOM).populate().map_mut(&file) }.map_err(failed)?;
        let mut spool = Self { map, journal, begin: 0, len: 0 };
        spool.clear();
        Ok(Some(spool))
    }

    /// Puts `bytes` there, whose place is at `offset` of the segment that begins with record `segment`; behind those that
    /// are there already. False when they find no room, are too many to be copied twice, or do not follow.
    #[must_use]
    pub(super) fn put(&mut self, bytes: &[u8], segment: u64, offset: u64) -> bool {
        let end = self.len + bytes.len();
        let follows = self.len == 0 || self.begin + self.len as u64 == offset;
        if bytes.len() > SHORT || end > ROOM || !follows {
            return false;
        }
        if self.len == 0 {
            self.begin = offset;
            let head = [&FORM[..], &self.journal, &segment.to_le_bytes(), &offset.to_le_bytes()].concat();
            self.write(0, &head);
        }
        self.write(HEAD + self.len, bytes);
        self.count(end);
        true
    }

    /// What is there, and where in its segment it begins.
    pub(super) fn bytes(&self) -> &[u8] {
        self.map.get(HEAD..HEAD + self.len).unwrap_or_default()
    }

    pub(super) const fn begin(&self) -> u64 {
        self.begin
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// What was there is in its segment.
    pub(super) fn clear(&mut self) {
        self.count(0);
    }

    fn count(&mut self, count: usize) {
        // The compiler must not move it before the bytes that are counted.
        fence(Ordering::Release);
        self.write(COUNT.start, &(count as u64).to_le_bytes());
        self.len = count;
    }

    fn write(&mut self, at: usize, bytes: &[u8]) {
        if let Some(to) = self.map.get_mut(at..at + bytes.len()) {
            to.copy_from_slice(bytes);
        }
    }
}

/// Whether files in `dir` are in memory, or will be when it is made.
#[must_use]
pub fn in_memory(dir: &Path) -> bool {
    let place = dir.ancestors().find_map(|dir| rustix::fs::statfs(dir).ok());
    place.is_some_and(|place| is_memory(&place))
}

fn is_memory(place: &StatFs) -> bool {
    // /usr/include/linux/magic.h: tmpfs, ramfs.
    matches!(place.f_type, 0x0102_1994 | 0x8584_58f6)
}

fn open_file(path: &Path, make: bool) -> io::Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(make)
        .truncate(false)
        .mode(0o600)
        .custom_flags(OFlags::NOFOLLOW.bits().cast_signed())
        .open(path)?;
    let found = file.metadata()?;
    if !found.is_file() || found.uid() != rustix::process::geteuid().as_raw() {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "somebody else made it"));
    }
    Ok(file)
}

/// What became of the records that an agent left which died.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Restored {
    /// There were none.
    None,
    /// So many bytes of them are in their place.
    Written(u64),
    /// Records before them are gone, which no sync was known of; they were kept apart.
    Lost(Repaired),
}

/// Writes what an agent that died left at `path` to its place in `dir`. The lock of `dir` has to be held. Done again, it
/// changes nothing.
///
/// A disk that failed may have lost what stands before them: then they are kept apart, if `apart` says so.
///
/// # Errors
/// `Misplaced` when they have no place there: the segment is gone, ends before them, or holds something else. Otherwise when
/// files cannot be read or written.
pub(super) fn restore(path: &Path, dir: &Path, apart: bool) -> Result<Restored, RecordError> {
    let mut file = match open_file(path, false) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Restored::None),
        opened => opened.map_err(io_error("open", path))?,
    };
    let Some(left) = Left::read(&mut file).map_err(io_error("read", path))? else {
        return Ok(Restored::None);
    };
    let segments = files::segments(dir)?;
    let Some(last) = segments.last() else {
        // Another journal is begun here, by whoever removed that one.
        tracing::warn!(path = %path.display(), "records of a journal that is gone were left, and are dropped");
        return left.done(&file).map_err(io_error("write", path)).map(|()| Restored::None);
    };
    let (_, head) = scan::Scanner::open(&last.path)?;
    if scan::header(&last.path, &head)?.journal != left.journal {
        tracing::warn!(path = %path.display(), "records of another journal were left, and are dropped");
        return left.done(&file).map_err(io_error("write", path)).map(|()| Restored::None);
    }
    let segment = segments.iter().find(|segment| segment.first_seq == left.segment);
    let misplaced = |problem| RecordError::Misplaced { path: path.to_owned(), problem };
    let segment = segment.ok_or_else(|| misplaced("their segment is gone"))?;
    let failed = |source| io_error("write", &segment.path)(source);
    let to = OpenOptions::new().read(true).write(true).open(&segment.path).map_err(failed)?;
    let there = to.metadata().map_err(failed)?.len();
    if there < left.offset {
        if !apart {
            return Err(misplaced("their segment ends before them"));
        }
        let repaired = recover::keep(&segment.path, left.offset, &left.bytes)?;
        left.done(&file).map_err(io_error("write", path))?;
        return Ok(Restored::Lost(repaired));
    }
    let end = left.offset + left.bytes.len() as u64;
    let mut written = vec![0; usize::try_from(there.min(end) - left.offset).unwrap_or(0)];
    to.read_exact_at(&mut written, left.offset).map_err(failed)?;
    // They may have been written in part; then that part is the same.
    if there > end || !left.bytes.starts_with(&written) {
        return Err(misplaced("the journal went on without them"));
    }
    to.write_all_at(&left.bytes, left.offset).map_err(failed)?;
    left.done(&file).map_err(io_error("write", path))?;
    Ok(Restored::Written(left.bytes.len() as u64))
}

/// What an agent left.
struct Left {
    journal: JournalId,
    segment: u64,
    offset: u64,
    bytes: Vec<u8>,
}

impl Left {
    /// `None` when there is nothing, or it is no such file.
    fn read(file: &mut File) -> io::Result<Option<Self>> {
        let mut all = Vec::new();
        file.take((HEAD + ROOM) as u64).read_to_end(&mut all)?;
        let number = |at: usize| Some(u64::from_le_bytes(all.get(at..at + 8)?.try_into().ok()?));
        let found = || {
            let count = usize::try_from(number(COUNT.start)?).ok().filter(|count| *count > 0)?;
            Some(Self {
                journal: all.get(8..24)?.try_into().ok()?,
                segment: number(24)?,
                offset: number(32)?,
                bytes: all.get(HEAD..HEAD + count)?.to_vec(),
            })
        };
        Ok(all.starts_with(&FORM).then(found).flatten())
    }

    fn done(&self, file: &File) -> io::Result<()> {
        file.write_all_at(&0u64.to_le_bytes(), COUNT.start as u64)
    }
}
