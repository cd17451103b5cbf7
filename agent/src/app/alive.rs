//! Alive or dead, nothing between: a heartbeat never goes on while nothing is served.
//!
//! A panic in a session ends that session, and nobody else's. A panic anywhere else, a session thread that hangs, or
//! a journal that a dying thread left in an unknown state ends the process: the kernel refuses connections from then
//! on, and whoever supervises the agent starts it again.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tracing::error;

/// What threads that run sessions are called, up to their number.
pub(super) const SESSION_THREAD: &str = "sessions-";

/// A thread that has not come round for so long is not said to be alive.
const LATE: Duration = Duration::from_secs(10);

/// And for so long is dead.
const HUNG: Duration = Duration::from_secs(60);

const TICK: Duration = Duration::from_millis(500);

/// Makes every panic outside of sessions the end of the process.
pub(super) fn contain_panics() {
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        print(info);
        let thread = std::thread::current();
        let name = thread.name().unwrap_or("without a name");
        if name.starts_with(SESSION_THREAD) {
            error!(thread = name, "a session failed by a bug: it ends, the others go on");
            return;
        }
        fatal(&format!("thread {name} failed by a bug"));
    }));
}

/// Ends the process at once, without a word to anyone but the log.
pub(super) fn fatal(why: &str) -> ! {
    error!(why, "the agent cannot go on; connections are refused until it is started again");
    std::process::abort();
}

/// When each thread that serves was last seen alive.
#[derive(Clone)]
pub(super) struct Pulse {
    begin: Instant,
    /// Milliseconds since `begin`.
    seen: Arc<[AtomicU64]>,
}

impl Pulse {
    pub(super) fn new(threads: usize) -> Self {
        Self { begin: Instant::now(), seen: (0..threads).map(|_| AtomicU64::new(0)).collect() }
    }

    /// Runs on the thread it tells of.
    pub(super) async fn tick(self, thread: usize) {
        loop {
            self.mark(thread);
            tokio::time::sleep(TICK).await;
        }
    }

    fn mark(&self, thread: usize) {
        let now = u64::try_from(self.begin.elapsed().as_millis()).unwrap_or(u64::MAX);
        if let Some(seen) = self.seen.get(thread) {
            seen.store(now, Ordering::Relaxed);
        }
    }

    /// Whether connections may be taken; does not return when a thread hangs for good.
    pub(super) fn is_fresh(&self) -> bool {
        let oldest = self.seen.iter().map(|seen| seen.load(Ordering::Relaxed)).min().unwrap_or(0);
        let age = self.begin.elapsed().saturating_sub(Duration::from_millis(oldest));
        if age > HUNG {
            fatal("a thread hangs");
        }
        if age > LATE {
            error!(seconds = age.as_secs(), "a thread is late; connections are refused meanwhile");
        }
        age <= LATE
    }
}
