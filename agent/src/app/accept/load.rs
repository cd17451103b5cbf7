//! How much a session thread has to do.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};

/// Sessions that one thread takes before another one is asked: enough to keep it from sleeping when they are busy, few
/// enough that what they ask for at most is about what one core can do.
const FULL: usize = 8;

/// Percent of its time from which on a thread is spared new sessions.
const BUSY: usize = 75;

/// Long enough that logins, and reading a catalogue for the first of them, are not taken for a busy thread.
const EVERY: Duration = Duration::from_secs(1);

/// What one session thread carries.
#[derive(Default)]
pub(super) struct Load {
    sessions: AtomicUsize,
    /// Percent of the last interval that the thread was on a core.
    busy: AtomicUsize,
}

/// A session's stay on its thread.
pub(super) struct Stay(Arc<Load>);

impl Load {
    pub(super) fn stay(load: &Arc<Self>) -> Stay {
        load.sessions.fetch_add(1, Ordering::Relaxed);
        Stay(Arc::clone(load))
    }

    /// Threads of the lowest rank take the next session; among equals the first one, so that they fill up in order.
    pub(super) fn rank(&self) -> (u8, usize) {
        let sessions = self.sessions.load(Ordering::Relaxed);
        match self.busy.load(Ordering::Relaxed) {
            BUSY.. => (2, sessions),
            _ if sessions >= FULL => (1, sessions),
            _ => (0, 0),
        }
    }

    /// Runs on the thread it measures.
    pub(super) async fn measure(self: Arc<Self>) {
        let mut before = (Instant::now(), on_core());
        loop {
            tokio::time::sleep(EVERY).await;
            let now = (Instant::now(), on_core());
            let (passed, used) = (now.0.duration_since(before.0), now.1.saturating_sub(before.1));
            let percent = used.as_micros() * 100 / passed.as_micros().max(1);
            self.busy.store(usize::try_from(percent).unwrap_or(100), Ordering::Relaxed);
            before = now;
        }
    }
}

/// Processor time of this thread since it began; where the kernel does not tell, it counts as idle.
fn on_core() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}

impl Drop for Stay {
    fn drop(&mut self) {
        self.0.sessions.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn next(threads: &[Arc<Load>]) -> usize {
        let ranks = threads.iter().enumerate().min_by_key(|(_, load)| load.rank());
        ranks.map(|(number, _)| number).unwrap()
    }

    #[test]
    fn a_thread_is_filled_before_the_next_one_and_a_busy_one_is_spared() {
        let threads = [(); 3].map(|()| Arc::new(Load::default()));
        let mut stays = Vec::new();
        let mut order = Vec::new();
        for _ in 0..20 {
            let number = next(&threads);
            order.push(number);
            stays.push((number, Load::stay(threads.get(number).unwrap())));
        }
        assert_eq!(order, [[0; 8].as_slice(), &[1; 8], &[2; 4]].concat());
        // One that ends makes room where it was.
        let first = stays.iter().position(|(number, _)| *number == 1).unwrap();
        drop(stays.remove(first));
        assert_eq!(next(&threads), 1);
        // All full: the one with the fewest.
        for (number, stays_more) in [(1, 1), (2, 6)] {
            stays.extend((0..stays_more).map(|_| (number, Load::stay(threads.get(number).unwrap()))));
        }
        assert_eq!(next(&threads), 0);
        // One that is busy is the last to be asked, however few it has.
        let busy = threads.first().unwrap();
        busy.busy.store(80, Ordering::Relaxed);
        stays.retain(|(number, _)| *number != 0);
        assert_eq!(next(&threads), 1);
    }

    #[tokio::test]
    async fn a_thread_that_works_is_seen_to_be_busy() {
        let load = Arc::new(Load::default());
        tokio::spawn(Arc::clone(&load).measure());
        let begun = Instant::now();
        // However slow the machine is, it is seen sooner or later.
        while load.busy.load(Ordering::Relaxed) == 0 && begun.elapsed() < Duration::from_secs(60) {
            std::hint::black_box((0..200_000u64).sum::<u64>());
            tokio::task::yield_now().await;
        }
        assert!(load.busy.load(Ordering::Relaxed) > 0);
    }
}
