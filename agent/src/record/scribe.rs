//! The thread that writes what is in the spool, a moment after the first of it was put there.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::thread::Thread;
use std::time::Duration;

use super::{Journal, RecordError};

/// How long records may be in the spool alone: readers of the journal do not see them before. A thread that is woken
/// more often costs more than it saves.
const LINGER: Duration = Duration::from_millis(5);

/// Wakes the thread, if there is one.
#[derive(Default)]
pub(super) struct Scribe {
    awake: AtomicBool,
    thread: OnceLock<Thread>,
}

impl Scribe {
    /// There is something to write.
    pub(super) fn wake(&self) {
        if !self.awake.load(Ordering::Relaxed)
            && !self.awake.swap(true, Ordering::AcqRel)
            && let Some(thread) = self.thread.get()
        {
            thread.unpark();
        }
    }
}

impl Journal {
    /// From now on what is in the spool is written a moment after it was put there, for as long as the journal is there.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn start_scribe(self: &Arc<Self>) -> Result<(), RecordError> {
        let journal = Arc::downgrade(self);
        let started = std::thread::Builder::new().name("scribe".to_owned()).spawn(move || write(&journal));
        let thread = started.map_err(RecordError::Scribe)?.thread().clone();
        // What was recorded before it could be woken is looked for.
        self.scribe.thread.get_or_init(|| thread).unpark();
        Ok(())
    }
}

fn write(journal: &Weak<Journal>) {
    loop {
        let asleep = |journal: Arc<Journal>| !journal.scribe.awake.load(Ordering::Acquire);
        if journal.upgrade().is_some_and(asleep) {
            std::thread::park();
            continue;
        }
        std::thread::sleep(LINGER);
        let Some(journal) = journal.upgrade() else { return };
        // What comes from here on wakes again.
        journal.scribe.awake.store(false, Ordering::Release);
        if let Err(error) = journal.flush() {
            // Whoever records next is told, and does not get to do what it wanted recorded.
            tracing::debug!(%error, "the spool could not be written");
        }
    }
}
