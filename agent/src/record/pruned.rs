//! The host's word that the oldest records are gone with its consent: a signed note in the file `pruned`.
//!
//! Without it a journal that does not begin with record 1 had its beginning deleted. The note says how far, under which
//! root of the tree, and which record tells of it; what proofs need of the records that are gone is in [`super::frozen`].
//! It is written when everything that belongs to a pruning is on stable storage but the removal itself, so that a
//! pruning that was cut short is finished by whoever opens the journal next.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::checkpoint::{Checkpoint, KeyId};
use super::error::io_error;
use super::files::{self, INDEX, SegmentFile};
use super::format::{Hash, JournalId, unhex};
use super::{HostKey, PublicKey, RecordError, frozen};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pruned {
    pub journal: JournalId,
    /// Records 1 to this one are gone.
    pub through: u64,
    /// Root of the tree over them.
    pub root: Hash,
    /// Hash of the last of them, as the header of the segment behind it names it.
    pub last: Hash,
    /// Number of the record that tells of the pruning.
    pub event: u64,
    pub time_ns: u64,
    key: KeyId,
    signature: [u8; 64],
}

impl Pruned {
    pub(super) fn signed_with(
        key: &HostKey,
        journal: JournalId,
        (through, root, last): (u64, Hash, Hash),
        event: u64,
        time_ns: u64,
    ) -> Self {
        let unsigned = Self { journal, through, root, last, event, time_ns, key: [0; 4], signature: [0; 64] };
        let (key, signature) = key.sign_body(&journal, &unsigned.body());
        Self { key, signature, ..unsigned }
    }

    /// The text that is signed. Its second line is none of a checkpoint, so neither can be taken for the other.
    fn body(&self) -> String {
        format!(
            "{}\npruned {}\nroot {}\nlast {}\nevent {}\ntime_ns {}\n",
            Checkpoint::origin(&self.journal),
            self.through,
            STANDARD.encode(self.root),
            STANDARD.encode(self.last),
            self.event,
            self.time_ns,
        )
    }

    fn text(&self) -> String {
        let signature = STANDARD.encode([self.key.as_slice(), &self.signature].concat());
        format!("{}\n\u{2014} {} {signature}\n", self.body(), Checkpoint::origin(&self.journal))
    }

    /// Exactly what `text` writes, if `key` signed it.
    fn signed_by(text: &str, key: &PublicKey) -> Option<Self> {
        let (body, signature) = text.split_once("\n\n")?;
        let mut lines = body.lines();
        let journal = unhex(lines.next()?.strip_prefix("chaperone/journal/")?)?;
        let mut field = |name| lines.next()?.strip_prefix(name);
        let through = field("pruned ")?.parse().ok()?;
        let (root, last) = (hash(field("root ")?)?, hash(field("last ")?)?);
        let (event, time_ns) = (field("event ")?.parse().ok()?, field("time_ns ")?.parse().ok()?);
        let ours = format!("\u{2014} {} ", Checkpoint::origin(&journal));
        let bytes: [u8; 68] =
            STANDARD.decode(signature.trim_end().strip_prefix(&ours)?).ok()?.try_into().ok()?;
        let (id, signature) = bytes.split_first_chunk::<4>()?;
        let (id, signature) = (*id, *signature.first_chunk::<64>()?);
        let note = Self { journal, through, root, last, event, time_ns, key: id, signature };
        (note.text() == text && key.signed_body(&journal, &note.body(), id, &signature)).then_some(note)
    }
}

fn hash(text: &str) -> Option<Hash> {
    STANDARD.decode(text).ok()?.try_into().ok()
}

#[must_use]
pub fn path(dir: &Path) -> PathBuf {
    dir.join("pruned")
}

/// The note of the journal in `dir`, or `None` where nothing was pruned.
///
/// # Errors
/// When it cannot be read; `Key` when it is not one, or not signed by `key`.
pub fn load(dir: &Path, key: &PublicKey) -> Result<Option<Pruned>, RecordError> {
    let path = path(dir);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) if error.kind() == ErrorKind::InvalidData => String::new(),
        Err(error) => return Err(io_error("read", &path)(error)),
    };
    let problem = "holds no note about pruned records that is signed by this host's key";
    Pruned::signed_by(&text, key).map(Some).ok_or(RecordError::Key { path, problem })
}

pub(super) fn store(note: &Pruned, dir: &Path) -> Result<(), RecordError> {
    files::replace(&path(dir), 0o600, note.text().as_bytes())?;
    files::sync_dir(dir)
}

/// Removes the segments that begin up to record `upto`, oldest first, and what was made for a pruning of records after
/// `through`, which did not come to its note. Returns how many bytes that were.
pub(super) fn remove(dir: &Path, upto: u64, through: u64) -> Result<u64, RecordError> {
    let mut freed = 0;
    for segment in files::segments(dir)?.iter().filter(|segment| segment.first_seq <= upto) {
        freed += remove_segment(dir, segment)?;
    }
    // One that was made by a question while its segment went.
    for index in files::numbered(dir, INDEX)?.iter().filter(|index| index.first_seq <= upto) {
        freed += remove_file(&index.path)?;
    }
    for unfinished in frozen::files(dir)?.iter().filter(|frozen| frozen.first_seq > through) {
        freed += remove_file(&unfinished.path)?;
    }
    if freed > 0 {
        files::sync_dir(dir)?;
    }
    Ok(freed)
}

/// The segment after what lies beside it: as long as it is there, the next start finds the others by it.
fn remove_segment(dir: &Path, segment: &SegmentFile) -> Result<u64, RecordError> {
    let mut freed = 0;
    for path in files::beside(dir, segment)? {
        freed += remove_file(&path)?;
    }
    Ok(freed + remove_file(&segment.path)?)
}

fn remove_file(path: &Path) -> Result<u64, RecordError> {
    let bytes = fs::metadata(path).map_or(0, |meta| meta.len());
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(io_error("remove", path)(error)),
        _ => Ok(bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_read_back_and_not_when_touched_and_is_no_checkpoint() {
        let dir = tempfile::tempdir().unwrap();
        let key = HostKey::load_or_create(&dir.path().join("key")).unwrap();
        let note = Pruned::signed_with(&key, [7; 16], (41, [1; 32], [2; 32]), 99, 5);
        store(&note, dir.path()).unwrap();
        assert_eq!(load(dir.path(), &key.public()).unwrap(), Some(note));
        assert_eq!(Checkpoint::parse(&note.text()), None);
        for (from, to) in
            [("pruned 41", "pruned 42"), ("event 99", "event 98"), ("\n\n", "\nmore\n\n"), ("=\n", "\n")]
        {
            let touched = note.text().replacen(from, to, 1);
            assert_eq!(Pruned::signed_by(&touched, &key.public()), None, "{from:?}");
        }
        let other = HostKey::load_or_create(&dir.path().join("other")).unwrap();
        assert!(load(dir.path(), &other.public()).is_err());
    }
}
