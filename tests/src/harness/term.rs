//! A time that something was given for, as one sees it who asked for it.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

/// It began between the request and its answer, so its end is known as exactly as that.
pub(crate) struct Term {
    earliest: Instant,
    latest: Instant,
}

impl Term {
    /// What `give` gives for `time`.
    pub(crate) fn of<T>(time: Duration, give: impl FnOnce() -> Result<T>) -> Result<(T, Self)> {
        let earliest = Instant::now() + time;
        let given = give()?;
        Ok((given, Self { earliest, latest: Instant::now() + time }))
    }

    #[must_use]
    pub(crate) fn goes_on(&self) -> bool {
        Instant::now() < self.earliest
    }

    /// That it ended at `end`, not before its time and less than a second after it; how long after.
    pub(crate) fn ended(&self, end: Instant) -> Result<Duration> {
        ensure!(end >= self.earliest, "ended {:?} early", self.earliest - end);
        let late = end.saturating_duration_since(self.latest);
        ensure!(late < Duration::from_secs(1), "ended {late:?} late");
        Ok(late)
    }
}
