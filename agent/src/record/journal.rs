//! The journal as the agent holds it: open, append, checkpoint, close.

mod opening;
mod prune;

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use super::checkpoint::Checkpoint;
use super::clock::Clocks;
use super::error::io_error;
use super::event::Event;
use super::files::{self, DirLock};
use super::format::{CHECKPOINT_EVERY, Kind, VERSION};
use super::recover;
use super::seal::{self, Auditors};
use super::served::{self, Burst};
use super::spool::{self, Restored};
use super::tail::{Batch, Fixed, Mount, Tail};
use super::{HEARTBEAT, HostKey, RecordError, Repaired, head};

use opening::{fresh_id, open_spool, open_tail};

pub use opening::complete;
pub use prune::{Gone, Wanted};

/// Records that end what was recorded before, and those that say that the agent lives, may use this much of the ceiling
/// that others may not, so that a full journal still says how its sessions ended.
const RESERVE: u64 = 1 << 20;
/// How often an append that finds no room lets something go and tries again.
const ROOM_TRIES: usize = 16;
/// Share of the ceiling from which on operators are told, and the one below which they may be told again.
const FILLING: f64 = 0.8;
const EMPTIED: f64 = 0.75;
/// Longest buffer that a thread keeps.
const KEPT_CAPACITY: usize = 1 << 20;

thread_local! {
    /// From one append of a thread to its next.
    static KEPT: Cell<Option<Batch>> = const { Cell::new(None) };
}

#[derive(Debug, Clone)]
pub struct Options {
    /// The directory of the segments; made when missing.
    pub dir: PathBuf,
    /// The host's private key; made when missing.
    pub key: PathBuf,
    /// Ceiling for all files of `dir` together.
    pub max_bytes: u64,
    /// A segment that would become longer is closed and the next one begun.
    pub segment_bytes: u64,
    pub retention: Retention,
    /// To whom raw values are sealed.
    pub auditors: Auditors,
    /// Where records stay until many of them are written to a segment, in memory that outlives the agent; see `spool`.
    pub spool: Option<PathBuf>,
}

/// Which records the agent itself removes. By default none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Retention {
    /// Those that are older.
    pub keep: Option<Duration>,
    /// The oldest, before the ceiling is reached.
    pub when_full: bool,
}

impl Options {
    /// `journal` and `journal-key` below `state_dir`, segments of 64 MiB, or of a sixteenth of a smaller ceiling, so that
    /// there is always something that may go.
    #[must_use]
    pub fn new(state_dir: &Path, max_bytes: u64) -> Self {
        Self {
            dir: state_dir.join("journal"),
            key: state_dir.join("journal-key"),
            max_bytes,
            segment_bytes: (max_bytes / 16).clamp(64 << 10, 64 << 20),
            retention: Retention::default(),
            auditors: Auditors::default(),
            spool: None,
        }
    }
}

/// Numbers of the records of one append. Empty (`last_seq` before `first_seq`) when there was nothing to append.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    pub first_seq: u64,
    pub last_seq: u64,
}

/// The one writer of a journal directory; [`super::Journal`] is what is shared.
pub(super) struct Journal {
    fixed: Fixed,
    max_bytes: u64,
    retention: Retention,
    /// Held while segments are removed.
    pruning: Mutex<()>,
    looks: Mutex<Looks>,
    /// Segments up to the one that begins with this record have an index, or were tried.
    indexed: AtomicU64,
    tail: Mutex<Tail>,
    /// The journal is in an older form, and goes on in that one. Changes to false, after the tail did, and never back.
    older: AtomicBool,
    /// Taken before `tail` where both are held.
    synced: Mutex<Synced>,
    told_of_filling: AtomicBool,
    repaired: Vec<Repaired>,
    _lock: DirLock,
}

/// When the oldest records are looked at next: for their age, and at all after they could not go.
struct Looks {
    age: Instant,
    broken: Instant,
}

/// What is known to be on stable storage.
struct Synced {
    seq: u64,
    head_seq: u64,
}

impl Journal {
    /// Opens the journal, or makes it. Cuts an incomplete last record off and appends that it did.
    ///
    /// # Errors
    /// `InUse` when another agent holds the directory; `Damaged` or `Header` when the journal is not what an agent
    /// with this key left there; otherwise when files cannot be read, made or written.
    pub(super) fn open(options: &Options) -> Result<Self, RecordError> {
        Self::open_on(options, Box::new(|file| Arc::new(file)), Clocks::host())
    }

    pub(super) fn open_on(options: &Options, mount: Mount, clocks: Clocks) -> Result<Self, RecordError> {
        let dir = &options.dir;
        files::create_dir(dir)?;
        let lock = DirLock::take(dir)?;
        let key = HostKey::load_or_create(&options.key)?;
        let lost = match options.spool.as_deref().map(|path| spool::restore(path, dir, true)).transpose()? {
            Some(Restored::Written(bytes)) => {
                tracing::info!(bytes, "what an agent that died had recorded is written to the journal now");
                None
            }
            Some(Restored::Lost(lost)) => Some(lost),
            Some(Restored::None) | None => None,
        };
        let mut recovered = recover::recover(dir, &key.public())?;
        recovered.repaired.extend(lost);
        let journal = match &recovered.end {
            Some(end) => end.journal,
            None => fresh_id(dir)?,
        };
        let used = AtomicU64::new(files::used_bytes(dir)?);
        let fixed = Fixed {
            dir: dir.clone(),
            key,
            journal,
            segment_bytes: options.segment_bytes,
            mount,
            used,
            clocks,
        };
        let repaired = recovered.repaired.clone();
        let head_seq = recovered.head_seq;
        let mut tail = open_tail(&fixed, recovered)?;
        tail.spool = options.spool.as_deref().and_then(|path| open_spool(path, journal));
        let opened = Self {
            fixed,
            max_bytes: options.max_bytes,
            retention: options.retention,
            pruning: Mutex::new(()),
            looks: Mutex::new(Looks { age: Instant::now(), broken: Instant::now() }),
            indexed: AtomicU64::new(0),
            older: AtomicBool::new(tail.form < VERSION),
            tail: Mutex::new(tail),
            synced: Mutex::new(Synced { seq: 0, head_seq }),
            told_of_filling: AtomicBool::new(false),
            repaired,
            _lock: lock,
        };
        let repairs = opened.repaired.iter().map(Repaired::event).collect::<Vec<_>>();
        opened.write(Burst::NOTHING, &[], &repairs, u64::MAX)?;
        Ok(opened)
    }

    /// What opening had to cut off. Already recorded.
    #[must_use]
    pub(super) fn repaired(&self) -> &[Repaired] {
        &self.repaired
    }

    /// Records are in this version's own form from now on, in a new segment where the newest one is of an older form.
    ///
    /// # Errors
    /// `Abandoned`.
    pub(super) fn settle(&self) -> Result<(), RecordError> {
        let mut tail = lock(&self.tail)?;
        if tail.form < VERSION {
            tail.form = VERSION;
            tail.rotating = true;
        }
        // Whoever packs sees the rotation due: the lock is taken after the batch is made.
        self.older.store(false, Ordering::Release);
        Ok(())
    }

    /// Puts `events` at the end of the journal, in their order and with nothing between them, by one write (for more
    /// than 1,024 events one per 1,024). When it returns they survive the death of the agent, not that of the host.
    ///
    /// Does not block on storage except when a segment is full, and may be called from asynchronous tasks.
    ///
    /// # Errors
    /// When not all events were recorded. What they speak of must then not happen. A later call may succeed.
    pub(super) fn append(&self, events: &[Event]) -> Result<Appended, RecordError> {
        let reserve = if last_words(events) { 0 } else { RESERVE.min(self.max_bytes / 16) };
        self.write(Burst::NOTHING, &[], events, self.max_bytes - reserve)
    }

    /// Puts what is sealed and what a client is about to be served at the end of the journal, and `events` behind it, in
    /// the same way.
    ///
    /// # Errors
    /// As [`Self::append`].
    pub(super) fn append_served(
        &self,
        burst: Burst<'_>,
        sealed: &[Vec<u8>],
        events: &[Event],
    ) -> Result<Appended, RecordError> {
        self.write(burst, sealed, events, self.max_bytes - RESERVE.min(self.max_bytes / 16))
    }

    /// The same for what another agent encoded; `last_words` when they may use the reserve.
    ///
    /// # Errors
    /// As [`Self::append`]; `Encode` or `NotRecorded` when something is not as this journal holds it.
    pub(super) fn append_encoded(
        &self,
        payloads: &[&[u8]],
        last_words: bool,
    ) -> Result<Appended, RecordError> {
        let reserve = if last_words { 0 } else { RESERVE.min(self.max_bytes / 16) };
        let mut batch = Batch::default();
        batch.clear();
        for payload in payloads {
            if payload.first() == Some(&served::VERSION) {
                served::decode(payload)
                    .ok_or(RecordError::NotRecorded("served bytes of an unknown form".into()))?;
                batch.push_encoded(Kind::Served, payload)?;
            } else if payload.first() == Some(&seal::VERSION) {
                seal::decode(payload)
                    .ok_or(RecordError::NotRecorded("sealed values of an unknown form".into()))?;
                batch.push_encoded(Kind::Sealed, payload)?;
            } else {
                let _named: Named = serde_json::from_slice(payload)?;
                batch.push_encoded(Kind::Event, payload)?;
            }
        }
        self.put(&mut batch, self.max_bytes - reserve)
    }

    /// Signs what was appended since the last checkpoint, makes it durable, and then writes the head; and records that the
    /// agent lives, when nothing else did for [`HEARTBEAT`]. Meant to be called every second. Blocks on storage. `None` when nothing was appended.
    ///
    /// # Errors
    /// When the checkpoint cannot be appended, or the journal or the head not be synced.
    pub(super) fn checkpoint(&self) -> Result<Option<Checkpoint>, RecordError> {
        match self.heartbeat() {
            // What is there is signed all the same.
            Ok(()) | Err(RecordError::Full { .. }) => {}
            Err(error) => return Err(error),
        }
        self.tell_of_filling();
        let signed = self.sign(false)?;
        self.publish(signed)
    }

    /// Waits until record `seq` is on stable storage. Callers that wait together share one fdatasync: this is where
    /// durability `synced` goes.
    ///
    /// # Errors
    /// When the sync fails, or one failed before.
    pub(super) fn sync(&self, seq: u64) -> Result<(), RecordError> {
        let mut synced = lock(&self.synced)?;
        self.sync_locked(&mut synced, seq)
    }

    /// Writes what is recorded and not in its segment yet.
    ///
    /// # Errors
    /// When it cannot be written. It stays recorded, and nothing else is before it is written.
    pub(super) fn flush(&self) -> Result<(), RecordError> {
        lock(&self.tail)?.flush()
    }

    /// Number of the newest record.
    pub(super) fn records(&self) -> u64 {
        lock(&self.tail).map_or(0, |tail| tail.link.seq.saturating_sub(1))
    }

    /// Waits until everything recorded so far is on stable storage.
    ///
    /// # Errors
    /// As [`Self::sync`].
    pub(super) fn sync_all(&self) -> Result<(), RecordError> {
        let last = lock(&self.tail)?.link.seq - 1;
        self.sync(last)
    }

    /// Last checkpoint, sync, head; after it every append is refused.
    ///
    /// # Errors
    /// As [`Self::checkpoint`].
    pub(super) fn close(&self) -> Result<(), RecordError> {
        let signed = self.sign(true)?;
        self.publish(signed).map(drop)
    }

    /// Share of the ceiling that is used, 0 to 1.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a share, to be compared with 0.95")]
    pub(super) fn usage(&self) -> f64 {
        self.fixed.used() as f64 / self.max_bytes.max(1) as f64
    }

    /// Says, once each time, that the ceiling is near.
    fn tell_of_filling(&self) {
        let usage = self.usage();
        if usage < EMPTIED {
            self.told_of_filling.store(false, Ordering::Relaxed);
        }
        if usage < FILLING || self.told_of_filling.swap(true, Ordering::Relaxed) {
            return;
        }
        let (used_bytes, max_bytes) = (self.fixed.used(), self.max_bytes);
        tracing::warn!(used_bytes, max_bytes, "the journal fills up; at 95 % no new sessions are let in");
        // A journal that cannot take it is full already, and says so to everyone who tries.
        let _told_in_the_log = self.append(&[Event::JournalFilling { used_bytes, max_bytes }]);
    }

    /// Records that the agent lives, when nothing else said so.
    fn heartbeat(&self) -> Result<(), RecordError> {
        if lock(&self.tail)?.silent(&self.fixed) < HEARTBEAT {
            return Ok(());
        }
        let used_bytes = self.fixed.used();
        self.append(&[Event::Heartbeat { used_bytes, max_bytes: self.max_bytes }]).map(drop)
    }

    /// One write for every 1,024 records: what is sealed, what is served, then the events.
    fn write(
        &self,
        burst: Burst<'_>,
        sealed: &[Vec<u8>],
        events: &[Event],
        limit: u64,
    ) -> Result<Appended, RecordError> {
        let mut all: Option<Appended> = None;
        let mut batch = KEPT.take().unwrap_or_default();
        let mut sealed = sealed.iter().peekable();
        let mut parts = burst.parts().peekable();
        let mut events = events.iter().peekable();
        while sealed.peek().is_some() || parts.peek().is_some() || events.peek().is_some() {
            batch.clear();
            batch.plain = self.older.load(Ordering::Acquire);
            while batch.records() < CHECKPOINT_EVERY {
                if let Some(payload) = sealed.next() {
                    batch.push_encoded(Kind::Sealed, payload)?;
                } else if let Some(part) = parts.next() {
                    let is_last = parts.peek().is_none();
                    let result = events.next_if(|event| is_last && matches!(event, Event::Result { .. }));
                    batch.push_served(part, result)?;
                } else if let Some(event) = events.next() {
                    batch.push(event)?;
                } else {
                    break;
                }
            }
            let part = self.put(&mut batch, limit)?;
            all = Some(Appended { first_seq: all.map_or(part.first_seq, |all| all.first_seq), ..part });
        }
        if batch.capacity() <= KEPT_CAPACITY {
            KEPT.set(Some(batch));
        }
        match all {
            Some(appended) => Ok(appended),
            None => {
                let next = lock(&self.tail)?.link.seq;
                Ok(Appended { first_seq: next, last_seq: next - 1 })
            }
        }
    }

    /// Where the configuration says so, room is made by what is oldest.
    fn put(&self, batch: &mut Batch, limit: u64) -> Result<Appended, RecordError> {
        let may_prune = self.retention.when_full && limit != u64::MAX;
        // Others take room that was just made; each time one segment goes.
        for _ in 0..ROOM_TRIES {
            let appended = lock(&self.tail)?.append(&self.fixed, batch, limit, false);
            if !matches!(appended, Err(RecordError::Full { .. })) || !may_prune || !self.make_room() {
                return appended;
            }
        }
        lock(&self.tail)?.append(&self.fixed, batch, limit, false)
    }

    fn sign(&self, close: bool) -> Result<Option<Checkpoint>, RecordError> {
        let mut tail = lock(&self.tail)?;
        if tail.unsigned > 0 && !tail.closed {
            let mut batch = Batch::default();
            batch.clear();
            // Under the ceiling or not: what is recorded must be signed, and it is some 400 bytes a second at most.
            tail.append(&self.fixed, &mut batch, u64::MAX, true)?;
        }
        if close {
            tail.flush()?;
            tail.closed = true;
        }
        Ok(tail.signed)
    }

    fn publish(&self, signed: Option<Checkpoint>) -> Result<Option<Checkpoint>, RecordError> {
        let Some(head) = signed else { return Ok(None) };
        let mut synced = lock(&self.synced)?;
        if head.seq <= synced.head_seq {
            return Ok(None);
        }
        // The record of the checkpoint itself is the one after those it covers.
        self.sync_locked(&mut synced, head.seq + 1)?;
        head::store(&head, &self.fixed.dir)?;
        synced.head_seq = head.seq;
        Ok(Some(head))
    }

    fn sync_locked(&self, synced: &mut Synced, seq: u64) -> Result<(), RecordError> {
        if synced.seq >= seq {
            return Ok(());
        }
        let (medium, path, last) = {
            let mut tail = lock(&self.tail)?;
            tail.flush()?;
            if tail.failed {
                return Err(RecordError::SyncFailed { path: tail.path.clone() });
            }
            (Arc::clone(&tail.medium), tail.path.clone(), tail.link.seq - 1)
        };
        // Segments before this one were synced when they were left.
        if let Err(error) = medium.sync() {
            // The kernel may have dropped what it could not write, and the next sync would succeed all the same.
            lock(&self.tail)?.failed = true;
            return Err(io_error("sync", &path)(error));
        }
        synced.seq = last;
        Ok(())
    }
}

/// Whether these are records with which sessions and the agent end, or that say that it lives.
pub(super) fn last_words(events: &[Event]) -> bool {
    events.iter().all(|event| {
        matches!(event, Event::SessionEnd { .. } | Event::AgentStop { .. } | Event::Heartbeat { .. })
    })
}

/// What every event has, of whichever version.
#[derive(serde::Deserialize)]
struct Named {
    #[expect(dead_code, reason = "read for being there")]
    event: String,
}

fn lock<T>(mutex: &Mutex<T>) -> Result<MutexGuard<'_, T>, RecordError> {
    mutex.lock().map_err(|_poisoned| RecordError::Abandoned)
}
