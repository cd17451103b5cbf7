//! Hands the journal's events on to other systems: at least once, in order, numbered without gaps.
//!
//! Owns a thread for each receiver, which follows the journal on disk and keeps its place in a file of its own. So a
//! receiver that is slow, dead or wrong holds up nobody and loses nothing: it is told everything when it is back, as
//! long as the journal has it, and what the journal does not have any more, it is told of. What it is told is signed
//! and on disk first.

mod cursor;
mod message;
mod metrics;
mod ocsf;
mod peer;
mod push;
mod queue;
mod sink;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tracing::{info, warn};

use crate::config::Export;
use crate::record::{Follower, Journal, PublicKey, RecordError};
pub use metrics::{Family, Kind, of_exports, serve};
pub use push::Push;

use cursor::Cursor;
use message::{Message, Origin};
use sink::Sink;

/// Events in one message, or one write, and bytes of them: collectors refuse what is much larger.
const BATCH: usize = 500;
const BATCH_BYTES: usize = 1 << 20;
/// How often the journal is looked at. It is signed once a second, so more would find nothing.
const LOOK: Duration = Duration::from_secs(1);
/// Longest wait before a receiver that failed is tried again.
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    #[error("export \"{name}\": {source}")]
    Sink { name: String, source: SinkError },
    #[error("export \"{name}\": cannot {attempt} {path}: {source}")]
    Cursor { name: String, attempt: &'static str, path: PathBuf, source: std::io::Error },
    #[error("export \"{name}\": {source}")]
    Journal { name: String, source: RecordError },
    #[error(
        "export \"{name}\": the receiver was told of record {told}, and the journal ends at {signed}: it was put back; \
         `chaperone verify --since` tells more"
    )]
    PutBack { name: String, told: u64, signed: u64 },
    #[error("export \"{name}\": cannot start its thread: {source}")]
    Thread { name: String, source: std::io::Error },
}

#[derive(Debug, thiserror::Error)]
pub enum SinkError {
    #[error("cannot write {path}: {source}")]
    File { path: PathBuf, source: std::io::Error },
    #[error("{address} has no address")]
    Unknown { address: String },
    #[error("{address}: {source}")]
    Network { address: String, source: std::io::Error },
    #[error("{path}: {problem}")]
    Certificate { path: PathBuf, problem: String },
    #[error("{address} is not the name of a host")]
    Name { address: String },
    #[error("{address} answered {status}")]
    Refused { address: String, status: String },
}

/// How far a receiver is.
#[derive(Debug, Default)]
pub struct Progress {
    pub name: String,
    /// Number of the newest record it was told of.
    pub seq: AtomicU64,
    /// Records that are signed and that it was not told of.
    pub behind: AtomicU64,
    /// Events it was told of, over all agents.
    pub sent: AtomicU64,
    /// The last try failed.
    pub failing: AtomicBool,
}

/// A receiver that is known as far as that goes without reaching it.
pub struct Prepared {
    name: String,
    ocsf: bool,
    sink: Sink,
}

/// Reads what receivers are known by.
///
/// # Errors
/// When a certificate cannot be read, or something is no host's name. That one cannot be reached is no error here.
pub fn prepare(exports: &[Export]) -> Result<Vec<Prepared>, ExportError> {
    let one = |export: &Export| {
        let name = export.name.clone();
        let sink = Sink::new(export).map_err(|source| ExportError::Sink { name: name.clone(), source })?;
        Ok(Prepared { name, ocsf: export.ocsf, sink })
    };
    exports.iter().map(one).collect()
}

/// Starts a thread for each receiver.
///
/// # Errors
/// When how far one was told cannot be read, or a thread not be started.
pub fn spawn(
    exports: Vec<Prepared>,
    state_dir: &Path,
    journal: &Arc<Journal>,
    key: &PublicKey,
    host: &str,
) -> Result<Vec<Arc<Progress>>, ExportError> {
    let mut all = Vec::new();
    for Prepared { name, ocsf, sink } in exports {
        let cursor = Cursor::open(state_dir, &name)?;
        let progress = Arc::new(Progress { name: name.clone(), ..Progress::default() });
        progress.seq.store(cursor.seq, Ordering::Relaxed);
        progress.sent.store(cursor.sent, Ordering::Relaxed);
        let exporter = Exporter {
            follower: Follower::after(journal.dir(), *key, cursor.seq),
            origin: Origin { host: host.to_owned(), ocsf: ocsf.then(ocsf::Mapper::default) },
            journal: Arc::clone(journal),
            progress: Arc::clone(&progress),
            cursor,
            sink,
        };
        std::thread::Builder::new()
            .name(format!("export-{name}"))
            .spawn(move || exporter.run())
            .map_err(|source| ExportError::Thread { name, source })?;
        all.push(progress);
    }
    Ok(all)
}

struct Exporter {
    follower: Follower,
    origin: Origin,
    journal: Arc<Journal>,
    progress: Arc<Progress>,
    cursor: Cursor,
    sink: Sink,
}

impl Exporter {
    /// To the end of the process.
    fn run(mut self) {
        let mut wait = LOOK;
        loop {
            // Once another agent has the journal, it tells the receivers.
            if !self.journal.is_here() {
                std::thread::sleep(LOOK);
                continue;
            }
            match self.round() {
                Ok(all_told) => {
                    if self.progress.failing.swap(false, Ordering::Relaxed) {
                        info!(export = self.progress.name, "the receiver is back");
                    }
                    wait = LOOK;
                    if all_told {
                        std::thread::sleep(LOOK);
                    }
                }
                Err(error) => {
                    if !self.progress.failing.swap(true, Ordering::Relaxed) {
                        warn!(%error, "the receiver is not told; what it misses waits in the journal");
                    }
                    self.follower.back_to(self.cursor.seq);
                    std::thread::sleep(wait);
                    wait = (wait * 2).min(PATIENCE);
                }
            }
        }
    }

    /// Tells the receiver what is new; whether that is all there is.
    fn round(&mut self) -> Result<bool, ExportError> {
        let name = self.progress.name.clone();
        let unread = |source| ExportError::Journal { name: name.clone(), source };
        let Some(head) = self.follower.signed().map_err(unread)? else { return Ok(true) };
        let journal = crate::hex(&head.journal);
        if self.cursor.is_of_another(&journal) {
            warn!(export = name, "the journal is another one; the receiver is told all of it");
            self.cursor.begin(&journal);
            self.follower.back_to(0);
        }
        if head.seq < self.cursor.seq {
            return Err(ExportError::PutBack { name, told: self.cursor.seq, signed: head.seq });
        }
        self.progress.behind.store(head.seq - self.cursor.seq, Ordering::Relaxed);
        let events = self.follower.next(head.seq, BATCH, BATCH_BYTES).map_err(unread)?;
        let seen = self.follower.seen();
        if !events.is_empty() {
            let first = self.cursor.sent + 1;
            let messages: Vec<Message> = (first..)
                .zip(&events)
                .map(|(number, event)| Message::new(&mut self.origin, number, event))
                .collect();
            self.sink.send(&messages).map_err(|source| ExportError::Sink { name: name.clone(), source })?;
            self.cursor.advance(seen, self.cursor.sent + events.len() as u64, &journal)?;
        }
        self.progress.seq.store(self.cursor.seq, Ordering::Relaxed);
        self.progress.sent.store(self.cursor.sent, Ordering::Relaxed);
        self.progress.behind.store(head.seq.saturating_sub(seen), Ordering::Relaxed);
        Ok(seen >= head.seq)
    }
}
