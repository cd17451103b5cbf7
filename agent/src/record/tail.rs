//! The end of the journal, where records are put: numbering, chaining, one write, rotation, and cutting back a write
//! that failed. Everything here happens under the journal's lock.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::checkpoint::{Checkpoint, NOTE_MAX};
use super::clock::{Clocks, Moment, Set, Watch};
use super::error::io_error;
use super::event::Event;
use super::files::{self, Medium};
use super::format::{
    CHECKPOINT_EVERY, FRAME_LEN, HEADER_LEN, Hash, Header, JournalId, Kind, MAX_PAYLOAD, payload_digest, seal,
};
use super::packed::{self, Outcome};
use super::scan::Link;
use super::served::{Burst, Encoder};
use super::spool::Spool;
use super::tree::Tree;
use super::{Appended, HostKey, RecordError};

/// Room at the beginning of every batch for a checkpoint that may turn out to be due; it stands at its end.
const ROOM: usize = FRAME_LEN + NOTE_MAX;

/// Makes the medium of a freshly created or reopened segment; the tests put a faulty disk in between.
pub(super) type Mount = Box<dyn Fn(std::fs::File) -> Arc<dyn Medium> + Send + Sync>;

/// What does not change while a journal is open.
pub(super) struct Fixed {
    pub(super) dir: PathBuf,
    pub(super) key: HostKey,
    pub(super) journal: JournalId,
    pub(super) segment_bytes: u64,
    pub(super) mount: Mount,
    /// Bytes of the directory; read without the lock.
    pub(super) used: AtomicU64,
    pub(super) clocks: Clocks,
}

impl Fixed {
    pub(super) fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    pub(super) fn add_used(&self, bytes: u64) {
        self.used.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn sub_used(&self, bytes: u64) {
        let less = |used: u64| Some(used.saturating_sub(bytes));
        let _always_some = self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
    }
}

/// Frames with their payloads in place, encoded before the lock is taken.
#[derive(Default)]
pub(super) struct Batch {
    bytes: Vec<u8>,
    frames: Vec<Draft>,
    /// Of the records as they were put into the chain.
    hashes: Vec<Hash>,
    encoder: Encoder,
    /// Nothing is packed: the journal is still in the form that an older version reads.
    pub(super) plain: bool,
}

struct Draft {
    kind: Kind,
    start: usize,
    end: usize,
    digest: Hash,
}

impl Batch {
    pub(super) fn clear(&mut self) {
        // Whatever stands in the room: a checkpoint overwrites as much as is written.
        self.bytes.truncate(ROOM);
        self.bytes.resize(ROOM, 0);
        self.frames.clear();
        self.hashes.clear();
    }

    pub(super) fn push(&mut self, event: &Event) -> Result<(), RecordError> {
        let start = self.begin();
        let packed = if self.plain { None } else { packed::pack(event, &mut self.bytes)? };
        if packed.is_none() {
            serde_json::to_writer(&mut self.bytes, event)?;
        }
        self.end(packed.unwrap_or(Kind::Event), start)
    }

    /// Puts the result that ends what is served into the same record, where it can be.
    pub(super) fn push_served(&mut self, part: Burst<'_>, result: Option<&Event>) -> Result<(), RecordError> {
        let start = self.begin();
        let of_session = result.filter(|result| !self.plain && result.session() == Some(part.session));
        if let Some(outcome) = of_session.and_then(Outcome::of) {
            outcome.with(self.encoder.part(part)).put(&mut self.bytes)?;
            return self.end(Kind::Result, start);
        }
        self.encoder.put(part, &mut self.bytes);
        self.end(Kind::Served, start)?;
        result.map_or(Ok(()), |result| self.push(result))
    }

    /// What is encoded already.
    pub(super) fn push_encoded(&mut self, kind: Kind, payload: &[u8]) -> Result<(), RecordError> {
        let start = self.begin();
        self.bytes.extend_from_slice(payload);
        self.end(kind, start)
    }

    fn begin(&mut self) -> usize {
        let start = self.bytes.len();
        self.bytes.resize(start + FRAME_LEN, 0);
        start
    }

    fn end(&mut self, kind: Kind, start: usize) -> Result<(), RecordError> {
        let end = self.bytes.len();
        let payload = self.bytes.get(start + FRAME_LEN..end).unwrap_or_default();
        if payload.len() > MAX_PAYLOAD {
            return Err(RecordError::TooLong { bytes: payload.len(), limit: MAX_PAYLOAD });
        }
        let digest = payload_digest(payload);
        self.frames.push(Draft { kind, start, end, digest });
        Ok(())
    }

    pub(super) fn capacity(&self) -> usize {
        self.bytes.capacity()
    }

    pub(super) fn records(&self) -> u64 {
        self.frames.len() as u64
    }
}

pub(super) struct Tail {
    pub(super) medium: Arc<dyn Medium>,
    pub(super) path: PathBuf,
    /// Version of the segments that are begun.
    pub(super) form: u32,
    /// The number of the segment's first record.
    pub(super) segment: u64,
    /// End of the last whole record of the segment.
    pub(super) offset: u64,
    /// What `offset` was when the segment was begun, or less.
    pub(super) begun: u64,
    pub(super) link: Link,
    /// Over all records up to the last.
    pub(super) tree: Tree,
    /// Records after the newest checkpoint.
    pub(super) unsigned: u64,
    pub(super) signed: Option<Checkpoint>,
    /// The segment may be longer than `offset`.
    pub(super) dirty: bool,
    /// A rotation is due, or was begun and not finished: its file may exist, so nothing may be added to the segment before it.
    pub(super) rotating: bool,
    /// A sync failed: the kernel may have dropped what it had not written, and says so once. Nothing may follow what is
    /// perhaps not there.
    pub(super) failed: bool,
    pub(super) closed: bool,
    pub(super) watch: Watch,
    /// When the newest record was made, in nanoseconds since boot.
    pub(super) recorded_ns: u64,
    /// Ends at `offset`, where there is one: the segment is as much shorter.
    pub(super) spool: Option<Spool>,
    /// What is in the spool could not be written.
    pub(super) stuck: bool,
}

impl Tail {
    /// Writes all records of `batch`, before them a checkpoint if one is due or `sign` asks for it.
    pub(super) fn append(
        &mut self,
        fixed: &Fixed,
        batch: &mut Batch,
        limit: u64,
        sign: bool,
    ) -> Result<Appended, RecordError> {
        if self.closed {
            return Err(RecordError::Closed);
        }
        if self.failed {
            return Err(RecordError::SyncFailed { path: self.path.clone() });
        }
        let mut watch = self.watch;
        let (now, set) = watch.read(&fixed.clocks);
        if let Some(set) = set {
            let mut word = Batch::default();
            word.clear();
            word.push(&clock_set(&set))?;
            // Under the ceiling or not: times must not go back without a word.
            self.put(fixed, &mut word, u64::MAX, false, now)?;
        }
        self.watch = watch;
        self.put(fixed, batch, limit, sign, now)
    }

    fn put(
        &mut self,
        fixed: &Fixed,
        batch: &mut Batch,
        limit: u64,
        sign: bool,
        now: Moment,
    ) -> Result<Appended, RecordError> {
        self.cut_back()?;
        let sign = sign || self.unsigned + batch.records() > CHECKPOINT_EVERY;
        let most = (batch.bytes.len() - if sign { 0 } else { ROOM }) as u64;
        self.make_room(fixed, most, limit)?;

        let time_ns = now.wall_ns;
        let mut link = self.link;
        let mut signed = self.signed;
        let mut skip = ROOM;
        if sign {
            let checkpoint = self.checkpoint(fixed, time_ns);
            let note = checkpoint.text();
            skip = NOTE_MAX - note.len().min(NOTE_MAX);
            put(&mut batch.bytes, skip + FRAME_LEN, note.as_bytes());
            let digest = payload_digest(note.as_bytes());
            let draft = Draft { kind: Kind::Checkpoint, start: skip, end: ROOM, digest };
            batch.hashes.push(add(&mut batch.bytes, &draft, time_ns, &mut link));
            signed = Some(checkpoint);
        }
        let first_seq = link.seq;
        for draft in &batch.frames {
            batch.hashes.push(add(&mut batch.bytes, draft, time_ns, &mut link));
        }
        let bytes = batch.bytes.get(skip..).unwrap_or_default();
        self.store(bytes)?;

        self.offset += bytes.len() as u64;
        fixed.add_used(bytes.len() as u64);
        self.unsigned = if sign { 0 } else { self.unsigned } + batch.records();
        self.signed = signed;
        self.link = link;
        self.recorded_ns = now.boot_ns;
        batch.hashes.iter().for_each(|hash| self.tree.push(hash));
        Ok(Appended { first_seq, last_seq: link.seq - 1 })
    }

    /// How long ago the newest record was made, as far as this process knows.
    pub(super) fn silent(&self, fixed: &Fixed) -> Duration {
        Duration::from_nanos(fixed.clocks.boot_ns().saturating_sub(self.recorded_ns))
    }

    /// Puts records where they survive the agent: into the spool, or else into the segment.
    fn store(&mut self, bytes: &[u8]) -> Result<(), RecordError> {
        if !self.stuck && self.spooled(bytes) {
            return Ok(());
        }
        self.flush()?;
        if self.spooled(bytes) { Ok(()) } else { self.write(bytes) }
    }

    fn spooled(&mut self, bytes: &[u8]) -> bool {
        self.spool.as_mut().is_some_and(|spool| spool.put(bytes, self.segment, self.offset))
    }

    /// Writes what is in the spool. When that fails it stays there, and nothing is recorded before it is written.
    pub(super) fn flush(&mut self) -> Result<(), RecordError> {
        let Some(mut spool) = self.spool.take_if(|spool| !spool.is_empty()) else { return Ok(()) };
        let end = std::mem::replace(&mut self.offset, spool.begin());
        let written = match self.failed {
            true => Err(RecordError::SyncFailed { path: self.path.clone() }),
            false => self.cut_back().and_then(|()| self.write(spool.bytes())),
        };
        self.offset = end;
        self.stuck = written.is_err();
        if !self.stuck {
            spool.clear();
        }
        self.spool = Some(spool);
        written
    }

    /// How long the segment is without what is in the spool.
    fn written(&self) -> u64 {
        self.spool.as_ref().filter(|spool| !spool.is_empty()).map_or(self.offset, Spool::begin)
    }

    /// Signs everything up to the last record.
    fn checkpoint(&self, fixed: &Fixed, time_ns: u64) -> Checkpoint {
        fixed.key.sign(Checkpoint {
            journal: fixed.journal,
            seq: self.tree.size(),
            root: self.tree.root(),
            last: self.link.last,
            time_ns,
            key: [0; 4],
            signature: [0; 64],
        })
    }

    /// Sees to it that `len` bytes fit under the ceiling, and begins the next segment when this one is long enough.
    fn make_room(&mut self, fixed: &Fixed, len: u64, limit: u64) -> Result<(), RecordError> {
        let rotate = self.rotating
            || (self.offset > self.begun && self.offset.saturating_add(len) > fixed.segment_bytes);
        let used = fixed.used();
        let begin = if rotate { beginning_len(&self.tree) } else { 0 };
        let wanted = used.saturating_add(len).saturating_add(begin);
        if wanted > limit {
            return Err(RecordError::Full { used, limit });
        }
        if rotate {
            self.flush()?;
            self.rotate(fixed)?;
        }
        Ok(())
    }

    fn rotate(&mut self, fixed: &Fixed) -> Result<(), RecordError> {
        self.rotating = true;
        self.medium.sync().map_err(|error| {
            self.failed = true;
            io_error("sync", &self.path)(error)
        })?;
        let Begun { path, medium, first_seq, len } =
            begin_segment(fixed, self.form, &mut self.link, &mut self.tree)?;
        (self.path, self.medium, self.segment) = (path, medium, first_seq);
        (self.begun, self.offset) = (len, len);
        self.unsigned += 1;
        self.rotating = false;
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), RecordError> {
        let mut rest = bytes;
        let mut offset = self.offset;
        while !rest.is_empty() {
            let error = match self.medium.write_at(rest, offset) {
                Ok(0) => std::io::ErrorKind::WriteZero.into(),
                Ok(wrote) => {
                    offset += wrote as u64;
                    rest = rest.get(wrote..).unwrap_or_default();
                    continue;
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(error) => error,
            };
            self.dirty = true;
            // Tried again before the next append, where a second failure is reported.
            let _again_later = self.cut_back();
            return Err(RecordError::Append { path: self.path.clone(), source: error });
        }
        Ok(())
    }

    fn cut_back(&mut self) -> Result<(), RecordError> {
        if self.dirty {
            let poisoned = |source| RecordError::Poisoned { path: self.path.clone(), source };
            self.medium.set_len(self.written()).map_err(poisoned)?;
            self.dirty = false;
        }
        Ok(())
    }
}

/// A segment that was just made, and how long it is.
pub(super) struct Begun {
    pub(super) path: PathBuf,
    pub(super) medium: Arc<dyn Medium>,
    pub(super) first_seq: u64,
    pub(super) len: u64,
}

/// Creates the segment that begins with record `link.seq`, which is the state of the tree unless it is the first.
/// All of it is on stable storage before it has its name.
pub(super) fn begin_segment(
    fixed: &Fixed,
    form: u32,
    link: &mut Link,
    tree: &mut Tree,
) -> Result<Begun, RecordError> {
    let created_ns = fixed.clocks.wall_ns();
    let header = Header {
        version: form,
        host: fixed.key.public().host(),
        journal: fixed.journal,
        first_seq: link.seq,
        previous: link.last,
        created_ns,
    };
    let mut bytes = header.encode().to_vec();
    let mut next = Link { previous: Header::hash(&bytes), ..*link };
    let has_tree = link.seq > 1;
    if has_tree {
        let peaks = tree.peaks();
        bytes.resize(HEADER_LEN + FRAME_LEN, 0);
        bytes.extend_from_slice(&peaks);
        let digest = payload_digest(&peaks);
        let draft = Draft { kind: Kind::Tree, start: HEADER_LEN, end: bytes.len(), digest };
        add(&mut bytes, &draft, created_ns, &mut next);
    }
    let path = files::segment_path(&fixed.dir, link.seq);
    let file = files::replace(&path, 0o600, &bytes)?;
    files::sync_dir(&fixed.dir)?;
    fixed.add_used(bytes.len() as u64);
    *link = next;
    if has_tree {
        tree.push(&next.last);
    }
    Ok(Begun { path, medium: (fixed.mount)(file), first_seq: header.first_seq, len: bytes.len() as u64 })
}

/// Bytes of a segment that would be begun now.
fn beginning_len(tree: &Tree) -> u64 {
    (HEADER_LEN + FRAME_LEN + tree.peaks().len()) as u64
}

fn add(bytes: &mut [u8], draft: &Draft, time_ns: u64, link: &mut Link) -> Hash {
    let frame = bytes.get_mut(draft.start..draft.end).unwrap_or_default();
    link.last = seal(frame, draft.kind, link.seq, time_ns, &link.previous, &draft.digest);
    link.previous = link.last;
    link.seq += 1;
    link.last
}

fn put(bytes: &mut [u8], at: usize, from: &[u8]) {
    if let Some(to) = bytes.get_mut(at..at + from.len()) {
        to.copy_from_slice(from);
    }
}

fn clock_set(set: &Set) -> Event {
    let millis = |ns: u64| ns / 1_000_000;
    let (expected_unix_ms, found_unix_ms) = (millis(set.expected_ns), millis(set.found_ns));
    Event::ClockSet {
        by_ms: found_unix_ms.cast_signed() - expected_unix_ms.cast_signed(),
        expected_unix_ms,
        found_unix_ms,
    }
}

/// For messages: the file's name without its directory.
pub(super) fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}
