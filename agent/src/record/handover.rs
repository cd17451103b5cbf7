//! The journal as everything else holds it: written here, or, once another agent has taken over, by that one.
//!
//! A journal has one writer. While sessions of a replaced agent live on, their records go to its successor over a
//! socket, and are served upon once the successor says that it has written them: recorded before served holds as
//! before, in one chain. A successor that does not answer is a record that was not made.
//!
//! The frames on the socket are lengths and bytes, little-endian. A request is a kind (one byte), a number of payloads
//! (four bytes) and each with its length (four bytes) before it. An answer is 0, first and last number and the share
//! of the ceiling that is used; or 1 and a text with its length before it.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError, RwLock, RwLockReadGuard, TryLockError};
use std::time::Duration;

use super::event::Event;
use super::format::{CHECKPOINT_EVERY, MAX_PAYLOAD};
use super::journal::{self, Journal as Local};
use super::scribe::Scribe;
use super::served::{Burst, Encoder};
use super::{Appended, Checkpoint, Gone, Options, RecordError, Repaired, Tally, Wanted};

/// Longest wait for the successor: what takes longer was not recorded.
const PATIENCE: Duration = Duration::from_secs(5);

const APPEND: u8 = 1;
/// As `APPEND`, and the reserve of a full journal may be used.
const LAST_WORDS: u8 = 2;
/// The one payload is the number up to which to sync.
const SYNC: u8 = 3;

const WRITTEN: u8 = 0;
const REFUSED: u8 = 1;

/// Where records go. Share it in an `Arc`.
pub struct Journal {
    options: Options,
    place: RwLock<Place>,
    /// Share of the ceiling in use when it was last handed over or failed to be, as bits.
    usage_then: AtomicU64,
    tally: Tally,
    pub(super) scribe: Scribe,
}

enum Place {
    Here(Box<Local>),
    /// Another agent has it.
    Away(Away),
    /// It was given away and could not be taken back.
    Nowhere,
}

impl Journal {
    /// Opens the journal, or makes it. Cuts an incomplete last record off and appends that it did.
    ///
    /// # Errors
    /// `InUse` when another agent holds the directory; `Damaged` or `Header` when the journal is not what an agent
    /// with this key left there; otherwise when files cannot be read, made or written.
    pub fn open(options: &Options) -> Result<Self, RecordError> {
        Ok(Self::holding(options, Local::open(options)?))
    }

    #[cfg(test)]
    pub(super) fn open_on(
        options: &Options,
        mount: super::tail::Mount,
        clocks: super::clock::Clocks,
    ) -> Result<Self, RecordError> {
        Ok(Self::holding(options, Local::open_on(options, mount, clocks)?))
    }

    #[cfg(test)]
    pub(super) fn prune_by_steps(
        &self,
        wanted: &Wanted,
        step: &mut dyn FnMut(u32) -> Result<(), RecordError>,
    ) -> Result<Option<Gone>, RecordError> {
        match &*self.place() {
            Place::Here(local) => local.prune_by_steps(wanted, step),
            Place::Away(_) | Place::Nowhere => Err(RecordError::Closed),
        }
    }

    fn holding(options: &Options, local: Local) -> Self {
        Self {
            options: options.clone(),
            place: RwLock::new(Place::Here(Box::new(local))),
            usage_then: AtomicU64::new(0),
            tally: Tally::default(),
            scribe: Scribe::default(),
        }
    }

    /// To be called once nothing keeps this agent from serving. A journal that an older version wrote is gone on with in
    /// that version's form until then, so that the older agent finds its journal as it knows it when this one fails; from
    /// then on it is in this version's form.
    ///
    /// # Errors
    /// When the journal's state is unknown. Nothing else is recorded then either.
    pub fn settle(&self) -> Result<(), RecordError> {
        match &*self.place() {
            Place::Here(local) => local.settle(),
            Place::Away(_) | Place::Nowhere => Ok(()),
        }
    }

    /// What opening had to cut off. Already recorded.
    #[must_use]
    pub fn repaired(&self) -> Vec<Repaired> {
        match &*self.place() {
            Place::Here(local) => local.repaired().to_vec(),
            Place::Away(_) | Place::Nowhere => Vec::new(),
        }
    }

    /// Puts `events` at the end of the journal, in their order and with nothing between them, by one write (for more
    /// than 1,024 events one per 1,024). When it returns they survive the death of the agent, not that of the host.
    ///
    /// Does not block on storage except when a segment is full, and may be called from asynchronous tasks. While
    /// another agent takes over it waits, a moment as a rule.
    ///
    /// # Errors
    /// When not all events were recorded. What they speak of must then not happen. A later call may succeed.
    pub fn append(&self, events: &[Event]) -> Result<Appended, RecordError> {
        let appended = match &*self.place() {
            Place::Here(local) => local.append(events),
            Place::Away(away) => away.append(events),
            Place::Nowhere => Err(RecordError::Closed),
        }?;
        self.tally.count(events);
        self.scribe.wake();
        Ok(appended)
    }

    /// Puts what a client is about to be served at the end of the journal, and `events` behind it, in the same way. In front
    /// of it, sealed to auditors, the values that masks took out of it: `raw`, mostly nothing.
    ///
    /// # Errors
    /// As [`Self::append`]; then it must not be served. `Seal` when there is nobody to seal to.
    pub fn append_served(
        &self,
        burst: Burst<'_>,
        raw: Burst<'_>,
        events: &[Event],
    ) -> Result<Appended, RecordError> {
        // Before anything is locked: it takes longer than a write.
        let sealed = self.options.auditors.seal(raw)?;
        let appended = match &*self.place() {
            Place::Here(local) => local.append_served(burst, &sealed, events),
            Place::Away(away) => away.append_served(burst, sealed, events),
            Place::Nowhere => Err(RecordError::Closed),
        }?;
        self.tally.count(events);
        self.scribe.wake();
        Ok(appended)
    }

    /// Writes what is recorded and not in its segment yet, for those who read segments.
    ///
    /// # Errors
    /// When it cannot be written. It stays recorded, and nothing else is before it is written.
    pub fn flush(&self) -> Result<(), RecordError> {
        match &*self.place() {
            Place::Here(local) => local.flush(),
            Place::Away(_) | Place::Nowhere => Ok(()),
        }
    }

    /// Signs what was appended since the last checkpoint, makes it durable, and then writes the head. Blocks on storage.
    /// `None` when nothing was appended, or another agent does it.
    ///
    /// # Errors
    /// When the checkpoint cannot be appended, or the journal or the head not be synced.
    pub fn checkpoint(&self) -> Result<Option<Checkpoint>, RecordError> {
        match &*self.place() {
            Place::Here(local) => local.checkpoint(),
            Place::Away(_) => Ok(None),
            Place::Nowhere => Err(RecordError::Closed),
        }
    }

    /// Removes the oldest segments as `wanted`. `None` when there is nothing that may go. Blocks on
    /// storage, and reads what it removes.
    ///
    /// # Errors
    /// `Damaged` when what would go is not what this host wrote; nothing was removed then. `Closed` when another agent
    /// has the journal. Otherwise when files cannot be read, written or removed.
    pub fn prune(&self, wanted: &Wanted) -> Result<Option<Gone>, RecordError> {
        match &*self.place() {
            Place::Here(local) => local.prune(wanted),
            Place::Away(_) | Place::Nowhere => Err(RecordError::Closed),
        }
    }

    /// Removes what the configuration says is to go. Meant to be called every second.
    ///
    /// # Errors
    /// As [`Self::prune`].
    pub fn retain(&self) -> Result<Option<Gone>, RecordError> {
        match &*self.place() {
            Place::Here(local) => local.retain(),
            Place::Away(_) | Place::Nowhere => Ok(None),
        }
    }

    /// Makes the index of one full segment that has none, for the questions of the command line. Meant to be called
    /// every second.
    ///
    /// # Errors
    /// When files cannot be read or written. Nothing depends on it.
    pub fn index_next(&self) -> Result<(), RecordError> {
        match &*self.place() {
            Place::Here(local) => local.index_next(),
            Place::Away(_) | Place::Nowhere => Ok(()),
        }
    }

    /// Waits until record `seq` is on stable storage. Callers that wait together share one fdatasync: this is where
    /// durability `synced` goes.
    ///
    /// # Errors
    /// When the sync fails, or one failed before.
    pub fn sync(&self, seq: u64) -> Result<(), RecordError> {
        match &*self.place() {
            Place::Here(local) => local.sync(seq),
            Place::Away(away) => away.sync(seq),
            Place::Nowhere => Err(RecordError::Closed),
        }
    }

    /// Waits until everything recorded so far is on stable storage.
    ///
    /// # Errors
    /// As [`Self::sync`].
    pub fn sync_all(&self) -> Result<(), RecordError> {
        match &*self.place() {
            Place::Here(local) => local.sync_all(),
            // What was recorded there before this was asked has a lower number than anything can have.
            Place::Away(away) => away.sync(u64::MAX),
            Place::Nowhere => Err(RecordError::Closed),
        }
    }

    /// Last checkpoint, sync, head; after it every append is refused. Nothing when another agent has the journal.
    ///
    /// # Errors
    /// As [`Self::checkpoint`].
    pub fn close(&self) -> Result<(), RecordError> {
        match &*self.place() {
            Place::Here(local) => local.close(),
            Place::Away(_) | Place::Nowhere => Ok(()),
        }
    }

    /// Where the segments are.
    #[must_use]
    pub fn dir(&self) -> &std::path::Path {
        &self.options.dir
    }

    /// The ceiling for all its files together.
    #[must_use]
    pub fn max_bytes(&self) -> u64 {
        self.options.max_bytes
    }

    /// What this agent recorded, counted.
    #[must_use]
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// Number of the newest record; 0 when another agent writes them.
    #[must_use]
    pub fn records(&self) -> u64 {
        match &*self.place() {
            Place::Here(local) => local.records(),
            Place::Away(_) | Place::Nowhere => 0,
        }
    }

    /// Whether this agent writes it, and not another one that took over.
    #[must_use]
    pub fn is_here(&self) -> bool {
        matches!(*self.place(), Place::Here(_))
    }

    /// Share of the ceiling that is used, 0 to 1. Never waits.
    #[must_use]
    pub fn usage(&self) -> f64 {
        let place = match self.place.try_read() {
            Ok(place) => place,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            // Just being handed over.
            Err(TryLockError::WouldBlock) => return f64::from_bits(self.usage_then.load(Ordering::Relaxed)),
        };
        match &*place {
            Place::Here(local) => local.usage(),
            Place::Away(away) => f64::from_bits(away.usage.load(Ordering::Relaxed)),
            Place::Nowhere => 1.0,
        }
    }

    /// Closes the journal and lets `take` hand it to another agent; appends wait meanwhile. With the stream `take`
    /// returns, records go to that agent from now on; when it fails, they are written here again.
    ///
    /// # Errors
    /// The outer one when the journal could not be closed, or not be opened again: nothing is recorded then. The inner
    /// one is that of `take`.
    pub fn hand_over<E>(
        &self,
        take: impl FnOnce() -> Result<UnixStream, E>,
    ) -> Result<Result<(), E>, RecordError> {
        let mut place = self.place.write().unwrap_or_else(PoisonError::into_inner);
        let Place::Here(local) = &*place else { return Err(RecordError::Closed) };
        let usage = local.usage();
        self.usage_then.store(usage.to_bits(), Ordering::Relaxed);
        local.close()?;
        // Dropping it lets go of the directory's lock.
        *place = Place::Nowhere;
        match take() {
            Ok(stream) => {
                *place = Place::Away(Away::new(stream, usage).map_err(RecordError::Successor)?);
                Ok(Ok(()))
            }
            Err(error) => {
                *place = Place::Here(Box::new(Local::open(&self.options)?));
                Ok(Err(error))
            }
        }
    }

    fn place(&self) -> RwLockReadGuard<'_, Place> {
        self.place.read().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A journal that another agent writes.
struct Away {
    /// One request at a time.
    stream: Mutex<UnixStream>,
    usage: AtomicU64,
}

impl Away {
    fn new(stream: UnixStream, usage: f64) -> io::Result<Self> {
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self { stream: Mutex::new(stream), usage: AtomicU64::new(usage.to_bits()) })
    }

    fn append(&self, events: &[Event]) -> Result<Appended, RecordError> {
        let kind = if journal::last_words(events) { LAST_WORDS } else { APPEND };
        let mut all: Option<Appended> = None;
        for chunk in events.chunks(MOST_PAYLOADS) {
            let payloads = chunk.iter().map(serde_json::to_vec).collect::<Result<Vec<_>, _>>()?;
            let part = self.ask(kind, &payloads)?;
            all = Some(Appended { first_seq: all.map_or(part.first_seq, |all| all.first_seq), ..part });
        }
        Ok(all.unwrap_or(Appended { first_seq: 1, last_seq: 0 }))
    }

    fn append_served(
        &self,
        burst: Burst<'_>,
        sealed: Vec<Vec<u8>>,
        events: &[Event],
    ) -> Result<Appended, RecordError> {
        for payload in sealed {
            self.ask(APPEND, &[payload])?;
        }
        let mut encoder = Encoder::default();
        for part in burst.parts() {
            let mut payload = Vec::new();
            encoder.put(part, &mut payload);
            self.ask(APPEND, &[payload])?;
        }
        self.append(events)
    }

    fn sync(&self, seq: u64) -> Result<(), RecordError> {
        self.ask(SYNC, &[seq.to_le_bytes().to_vec()]).map(drop)
    }

    fn ask(&self, kind: u8, payloads: &[Vec<u8>]) -> Result<Appended, RecordError> {
        if let Some(long) = payloads.iter().find(|payload| payload.len() > MAX_PAYLOAD) {
            return Err(RecordError::TooLong { bytes: long.len(), limit: MAX_PAYLOAD });
        }
        let stream = self.stream.lock().map_err(|_poisoned| RecordError::Abandoned)?;
        self.exchange(&stream, kind, payloads).map_err(|error| {
            // Half a request or half an answer: whatever came next would be misread.
            let _closed_already = stream.shutdown(std::net::Shutdown::Both);
            RecordError::Successor(error)
        })?
    }

    fn exchange(
        &self,
        mut stream: &UnixStream,
        kind: u8,
        payloads: &[Vec<u8>],
    ) -> io::Result<Result<Appended, RecordError>> {
        let mut request = vec![kind];
        request.extend(u32_of(payloads.len())?);
        for payload in payloads {
            request.extend(u32_of(payload.len())?);
            request.extend(payload);
        }
        stream.write_all(&request)?;
        match read_array::<1>(&mut stream)? {
            [WRITTEN] => {
                let mut number = || read_array(&mut stream).map(u64::from_le_bytes);
                let (first_seq, last_seq, usage) = (number()?, number()?, number()?);
                self.usage.store(usage, Ordering::Relaxed);
                Ok(Ok(Appended { first_seq, last_seq }))
            }
            [REFUSED] => {
                let why = read_payload(&mut stream)?;
                Ok(Err(RecordError::NotRecorded(String::from_utf8_lossy(&why).into_owned())))
            }
            [_] => Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

/// Writes what the agent before this one sends, until it is gone. Blocks: give it a thread.
///
/// # Errors
/// When the connection fails, or what comes makes no sense. Its end is none.
pub fn serve_predecessor(journal: &Journal, mut stream: UnixStream) -> io::Result<()> {
    loop {
        let mut kind = [0];
        if stream.read(&mut kind)? == 0 {
            return Ok(());
        }
        let count = u32::from_le_bytes(read_array(&mut stream)?) as usize;
        if count > MOST_PAYLOADS {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let payloads = (0..count).map(|_| read_payload(&mut stream)).collect::<io::Result<Vec<_>>>()?;
        let answer = match write_for(journal, kind, &payloads) {
            Ok(appended) => {
                let numbers = [appended.first_seq, appended.last_seq, journal.usage().to_bits()];
                std::iter::once(WRITTEN).chain(numbers.iter().flat_map(|n| n.to_le_bytes())).collect()
            }
            Err(error) => {
                let why = error.to_string().into_bytes();
                let mut answer = vec![REFUSED];
                answer.extend(u32_of(why.len())?);
                answer.extend(why);
                answer
            }
        };
        stream.write_all(&answer)?;
    }
}

fn write_for(journal: &Journal, kind: [u8; 1], payloads: &[Vec<u8>]) -> Result<Appended, RecordError> {
    let place = journal.place();
    let Place::Here(local) = &*place else { return Err(RecordError::Closed) };
    let slices: Vec<&[u8]> = payloads.iter().map(Vec::as_slice).collect();
    match (kind, slices.as_slice()) {
        ([APPEND], payloads) => local.append_encoded(payloads, false),
        ([LAST_WORDS], payloads) => local.append_encoded(payloads, true),
        ([SYNC], [seq]) => {
            let seq = (*seq).try_into().map_or(u64::MAX, u64::from_le_bytes);
            local.sync(seq).map(|()| Appended { first_seq: 1, last_seq: 0 })
        }
        _ => Err(RecordError::NotRecorded("what was asked is not known here".to_owned())),
    }
}

/// As many as one write to the journal takes.
#[expect(clippy::cast_possible_truncation, reason = "1024")]
const MOST_PAYLOADS: usize = CHECKPOINT_EVERY as usize;

fn u32_of(length: usize) -> io::Result<[u8; 4]> {
    u32::try_from(length).map(u32::to_le_bytes).map_err(|_| io::ErrorKind::InvalidData.into())
}

fn read_array<const N: usize>(stream: &mut impl Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    stream.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn read_payload(stream: &mut impl Read) -> io::Result<Vec<u8>> {
    let length = u32::from_le_bytes(read_array(stream)?) as usize;
    if length > MAX_PAYLOAD {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes)?;
    Ok(bytes)
}
