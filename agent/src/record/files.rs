//! The journal's directory: names of segments, the lock, and writing that survives a power cut.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::RecordError;
use super::error::io_error;
use super::format::MAX_SEQ;

const LOCK: &str = "lock";
/// A segment or head that is being made; never read, removed at the next start.
pub(super) const UNFINISHED: &str = ".new";
const SEGMENT: &str = ".chj";
/// What is called as its segment but for this is derived from it.
pub(super) const INDEX: &str = ".chx";

/// An open segment, as far as appending needs it. The other implementer is the tests' faulty disk.
pub(super) trait Medium: Send + Sync {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize>;
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Data, and what of the metadata is needed to read it, on stable storage.
    fn sync(&self) -> io::Result<()>;
}

impl Medium for File {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        std::os::unix::fs::FileExt::write_at(self, bytes, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        File::set_len(self, len)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }
}

/// A segment file and the first number its name gives it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SegmentFile {
    pub(super) first_seq: u64,
    pub(super) path: PathBuf,
}

#[must_use]
pub(super) fn segment_path(dir: &Path, first_seq: u64) -> PathBuf {
    dir.join(format!("journal-{first_seq:020}.chj"))
}

/// The segments of `dir` in the order of their names.
pub(super) fn segments(dir: &Path) -> Result<Vec<SegmentFile>, RecordError> {
    numbered(dir, SEGMENT)
}

/// The files of `dir` that are called as segments are, but for their `suffix`, in the order of their names.
pub(super) fn numbered(dir: &Path, suffix: &str) -> Result<Vec<SegmentFile>, RecordError> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).map_err(io_error("list", dir))? {
        let path = entry.map_err(io_error("list", dir))?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let digits = name.strip_prefix("journal-").and_then(|name| name.strip_suffix(suffix));
        let seq = digits.filter(|digits| digits.len() == 20).and_then(|digits| digits.parse().ok());
        let seq = seq.filter(|seq| (1..=MAX_SEQ).contains(seq));
        if let Some(first_seq) = seq {
            found.push(SegmentFile { first_seq, path });
        }
    }
    found.sort_by_key(|segment| segment.first_seq);
    Ok(found)
}

/// What lies beside a segment and goes with it: what repairs cut off, its index.
pub(super) fn beside(dir: &Path, segment: &SegmentFile) -> Result<Vec<PathBuf>, RecordError> {
    let name = segment.path.with_extension("");
    let stem = name.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).map_err(io_error("list", dir))? {
        let path = entry.map_err(io_error("list", dir))?.path();
        let rest = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_prefix(&stem));
        if rest.is_some_and(|rest| rest.starts_with(".chj.cut-") || rest == INDEX) {
            found.push(path);
        }
    }
    Ok(found)
}

/// Bytes of all plain files in `dir`.
pub(super) fn used_bytes(dir: &Path) -> Result<u64, RecordError> {
    let mut sum = 0;
    for entry in fs::read_dir(dir).map_err(io_error("list", dir))? {
        let entry = entry.map_err(io_error("list", dir))?;
        // A file may vanish between listing and looking; what is not there takes no room.
        sum += entry.metadata().map_or(0, |meta| if meta.is_file() { meta.len() } else { 0 });
    }
    Ok(sum)
}

pub(super) fn create_dir(dir: &Path) -> Result<(), RecordError> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(io_error("create the directory", dir))
}

/// Held for as long as the journal is open; the kernel lets go of it when the agent dies, however it dies.
#[derive(Debug)]
pub(super) struct DirLock(#[expect(dead_code, reason = "held for its lock")] File);

impl DirLock {
    pub(super) fn take(dir: &Path) -> Result<Self, RecordError> {
        let path = dir.join(LOCK);
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(io_error("open", &path))?;
        match patiently(|| file.try_lock()) {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut pid = String::new();
                let _unnamed = file.read_to_string(&mut pid);
                let pid = if pid.trim().is_empty() { "unknown" } else { pid.trim() };
                return Err(RecordError::InUse { dir: dir.to_owned(), pid: pid.to_owned() });
            }
            Err(TryLockError::Error(error)) => return Err(io_error("lock", &path)(error)),
        }
        let pid = format!("{}\n", std::process::id());
        file.set_len(0)
            .and_then(|()| file.write_all_at(pid.as_bytes(), 0))
            .map_err(io_error("write the pid to", &path))?;
        Ok(Self(file))
    }

    /// Whether some agent has the journal open now.
    pub(super) fn is_taken(dir: &Path) -> bool {
        let Ok(file) = File::open(dir.join(LOCK)) else { return false };
        // Shared, so that two verifications do not take each other for an agent.
        matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock))
    }
}

/// A verification that looks whether the lock is taken holds it for a moment; only an agent holds it for longer.
fn patiently(try_lock: impl Fn() -> Result<(), TryLockError>) -> Result<(), TryLockError> {
    for _ in 0..5 {
        match try_lock() {
            Err(TryLockError::WouldBlock) => std::thread::sleep(Duration::from_millis(20)),
            other => return other,
        }
    }
    try_lock()
}

/// Puts `bytes` at `path` in one step: after a crash there is the old content or the new one. Which of the two is
/// certain only after [`sync_dir`].
pub(super) fn replace(path: &Path, mode: u32, bytes: &[u8]) -> Result<File, RecordError> {
    replace_with(path, mode, |mut file| {
        file.write_all(bytes)?;
        file.sync_all()
    })
}

/// The same, by what `fill` writes and syncs.
pub(super) fn replace_with(
    path: &Path,
    mode: u32,
    fill: impl FnOnce(&File) -> io::Result<()>,
) -> Result<File, RecordError> {
    let mut unfinished = path.as_os_str().to_owned();
    unfinished.push(UNFINISHED);
    let unfinished = PathBuf::from(unfinished);
    let written = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .mode(mode)
        .open(&unfinished)
        .and_then(|file| fill(&file).map(|()| file))
        .and_then(|file| fs::rename(&unfinished, path).map(|()| file));
    written.map_err(|error| {
        // Left behind it would only take room on a disk that may be full.
        let _best_effort = fs::remove_file(&unfinished);
        io_error("write", path)(error)
    })
}

/// Makes creations, renames and removals in `dir` survive a power cut.
pub(super) fn sync_dir(dir: &Path) -> Result<(), RecordError> {
    let dir = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(io_error("sync", dir))
}
