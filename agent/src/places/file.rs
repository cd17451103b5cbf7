//! The file: a line with what it is and the SHA-256 of the rest, then JSON. Written anew each time, under a lock that agents
//! share while one takes over from the other, and on disk before its name is.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use sha2::{Digest as _, Sha256};

use super::memory::Memory;
use crate::config::Stamp;

const NAME: &str = "labels";
const UNFINISHED: &str = "labels.new";
const KIND: &str = "chaperone-labels";
const VERSION: u32 = 1;

/// Agents hold the lock for as long as they write.
const PATIENCE: u32 = 100;
const PAUSE: Duration = Duration::from_millis(20);

#[derive(Debug, thiserror::Error)]
pub enum PlacesError {
    #[error("cannot read {path}: {source}; {HINT}")]
    Read { path: PathBuf, source: io::Error },
    #[error("{path} can be reached by group or others; chmod 600 it")]
    Exposed { path: PathBuf },
    #[error("{path} is damaged ({what}); {HINT}")]
    Damaged { path: PathBuf, what: &'static str },
    #[error(
        "{path} was written by a newer agent (version {version}, this one knows {VERSION}); use that one, or {HINT}"
    )]
    Newer { path: PathBuf, version: u32 },
    #[error("cannot write {path}: {source}")]
    Write { path: PathBuf, source: io::Error },
    #[error("cannot lock {path}: {source}")]
    Lock { path: PathBuf, source: io::Error },
}

/// What to do when it is of no use.
const HINT: &str = "it says where labelled columns are that were renamed beside the agent. Put a copy of it back; or see to it \
                    that each label names its column, and remove the file: what labels do not name is not masked then";

pub(super) fn path(dir: &Path) -> PathBuf {
    dir.join(NAME)
}

/// Nothing, when there is no file.
pub(super) fn read(dir: &Path) -> Result<Option<(Memory, Stamp)>, PlacesError> {
    let path = path(dir);
    let failed = |source| PlacesError::Read { path: path.clone(), source };
    let mut file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let metadata = file.metadata().map_err(failed)?;
    if metadata.mode() & 0o077 != 0 {
        return Err(PlacesError::Exposed { path });
    }
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).map_err(failed)?;
    let memory = parse(&bytes, &path)?;
    Ok(Some((memory, Stamp::from(&metadata))))
}

fn parse(bytes: &[u8], path: &Path) -> Result<Memory, PlacesError> {
    let damaged = |what| PlacesError::Damaged { path: path.to_owned(), what };
    let end = bytes.iter().position(|byte| *byte == b'\n').ok_or_else(|| damaged("no first line"))?;
    let (head, body) = bytes.split_at(end);
    let body = body.get(1..).unwrap_or_default();
    let head = std::str::from_utf8(head).map_err(|_| damaged("its first line is no text"))?;
    let mut words = head.split(' ');
    let (kind, version, sum) = (words.next(), words.next(), words.next());
    if kind != Some(KIND) {
        return Err(damaged("it begins with other words"));
    }
    let version: u32 =
        version.and_then(|version| version.parse().ok()).ok_or_else(|| damaged("it has no version"))?;
    if version > VERSION {
        return Err(PlacesError::Newer { path: path.to_owned(), version });
    }
    if version != VERSION || sum != Some(&sum_of(body)) || words.next().is_some() {
        return Err(damaged("its checksum is another"));
    }
    serde_json::from_slice(body).map_err(|_| damaged("it is not what its version has"))
}

fn sum_of(body: &[u8]) -> String {
    crate::hex(&Sha256::digest(body))
}

pub(super) fn text(memory: &Memory) -> Result<Vec<u8>, io::Error> {
    let body = serde_json::to_vec(memory)?;
    let mut text = format!("{KIND} {VERSION} {}\n", sum_of(&body)).into_bytes();
    text.extend_from_slice(&body);
    Ok(text)
}

/// Held while the file is read to be written anew.
#[derive(Debug)]
pub(super) struct Lock(File);

impl Lock {
    pub(super) fn take(dir: &Path) -> Result<Self, PlacesError> {
        let failed = |source| PlacesError::Lock { path: dir.to_owned(), source };
        let folder = File::open(dir).map_err(failed)?;
        let mut left = PATIENCE;
        loop {
            match folder.try_lock() {
                Ok(()) => return Ok(Self(folder)),
                Err(TryLockError::WouldBlock) if left > 0 => {
                    left -= 1;
                    std::thread::sleep(PAUSE);
                }
                Err(TryLockError::WouldBlock) => return Err(failed(io::ErrorKind::WouldBlock.into())),
                Err(TryLockError::Error(error)) => return Err(failed(error)),
            }
        }
    }

    /// Puts the memory in the place of the file.
    pub(super) fn write(&self, dir: &Path, memory: &Memory) -> Result<Stamp, PlacesError> {
        let (path, unfinished) = (path(dir), dir.join(UNFINISHED));
        let write = || {
            let text = text(memory)?;
            let mut options = OpenOptions::new();
            let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&unfinished)?;
            file.write_all(&text)?;
            file.sync_all()?;
            fs::rename(&unfinished, &path)?;
            self.0.sync_all()?;
            Stamp::of(&path)
        };
        write().map_err(|source| {
            // On a full disk it would only take room.
            let _ = fs::remove_file(&unfinished);
            PlacesError::Write { path: path.clone(), source }
        })
    }
}
