//! The time of records: the host's clock, and whether somebody set it.
//!
//! The order of records is their number; their time is whatever the host's clock said. A clock that was set is told
//! from one that ran by a second clock that nobody can set and that goes on while the host sleeps.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::time::{ClockId, clock_gettime};

/// What is less may be a clock that is slewed, or one that is read a little late.
pub(super) const TOLERATED: u64 = 1_000_000_000;

/// Both clocks, in nanoseconds: since the Unix epoch, and since boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Moment {
    pub(super) wall_ns: u64,
    pub(super) boot_ns: u64,
}

/// How the time is read; the tests set clocks of their own.
pub(super) struct Clocks {
    wall: Clock,
    boot: Clock,
}

/// In nanoseconds.
type Clock = Box<dyn Fn() -> u64 + Send + Sync>;

impl Clocks {
    pub(super) fn host() -> Self {
        let wall = || nanos(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default());
        // Without it every look is the first one, and only a clock before the newest record shows.
        let boot = || nanos(clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(Duration::ZERO, Duration::from));
        Self { wall: Box::new(wall), boot: Box::new(boot) }
    }

    #[cfg(test)]
    pub(super) fn of(wall: Clock, boot: Clock) -> Self {
        Self { wall, boot }
    }

    pub(super) fn wall_ns(&self) -> u64 {
        (self.wall)()
    }

    pub(super) fn boot_ns(&self) -> u64 {
        (self.boot)()
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// The clock was set: what it would have said, and what it says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Set {
    pub(super) expected_ns: u64,
    pub(super) found_ns: u64,
}

/// Watches the clock from one record to the next.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Watch {
    last: Option<Moment>,
    /// Time of the newest record of an earlier agent: how long ago that was is not known, only that it was before.
    before_ns: u64,
    /// It was set forward far.
    leapt: bool,
}

/// The other clock is not read again while the first goes on by less: a clock that was set by so little is tolerated.
const NEAR: u64 = TOLERATED / 10;

/// A clock that was set forward by more must not decide what is old.
const LEAP: u64 = 24 * 3600 * 1_000_000_000;

impl Watch {
    /// Goes on after a record with the time `before_ns`.
    pub(super) fn after(before_ns: u64) -> Self {
        Self { before_ns, ..Self::default() }
    }

    /// The time of the next record, and whether the clock was set before it.
    pub(super) fn read(&mut self, clocks: &Clocks) -> (Moment, Option<Set>) {
        let wall_ns = clocks.wall_ns();
        if let Some(last) = self.last
            && wall_ns.checked_sub(last.wall_ns).is_some_and(|since| since < NEAR)
        {
            return (Moment { wall_ns, ..last }, None);
        }
        let now = Moment { wall_ns, boot_ns: clocks.boot_ns() };
        (now, self.look(now))
    }

    fn look(&mut self, now: Moment) -> Option<Set> {
        let expected_ns = match self.last.replace(now) {
            Some(last) => last.wall_ns.saturating_add(now.boot_ns.saturating_sub(last.boot_ns)),
            // Later is what is expected of a start.
            None => now.wall_ns.max(self.before_ns),
        };
        if expected_ns.abs_diff(now.wall_ns) <= TOLERATED {
            return None;
        }
        if now.wall_ns.saturating_sub(expected_ns) > LEAP {
            self.leapt = true;
        }
        Some(Set { expected_ns, found_ns: now.wall_ns })
    }

    /// Whether the clock leapt forward while this agent ran: then it says nothing about how old a record is.
    pub(super) const fn leapt(&self) -> bool {
        self.leapt
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn a_clock_that_is_set_is_told_from_one_that_runs_and_from_a_host_that_slept() {
        let mut watch = Watch::after(500 * SECOND);
        let mut at = |wall, boot| watch.look(Moment { wall_ns: wall * SECOND, boot_ns: boot * SECOND });
        // Long after the agent before this one.
        assert_eq!(at(1_000, 10), None);
        assert_eq!(at(1_005, 15), None);
        // Both clocks went on while the host slept.
        assert_eq!(at(9_005, 8_015), None);
        let set = |expected, found| Some(Set { expected_ns: expected * SECOND, found_ns: found * SECOND });
        assert_eq!(at(8_007, 8_017), set(9_007, 8_007));
        assert_eq!(at(8_008, 8_018), None);
        assert_eq!(at(90_000, 8_019), set(8_009, 90_000));
        assert!(!watch.leapt());
        let mut at = |wall, boot| watch.look(Moment { wall_ns: wall * SECOND, boot_ns: boot * SECOND });
        assert_eq!(at(290_000, 8_020), set(90_001, 290_000));
        assert!(watch.leapt());
    }

    #[test]
    fn a_clock_that_is_set_between_two_looks_is_told_at_once_or_at_the_next() {
        const MILLI: u64 = 1_000_000;
        let set =
            |expected: u64, found: u64| Some(Set { expected_ns: expected * MILLI, found_ns: found * MILLI });
        let mut watch = Watch::after(0);
        let mut at = |wall: u64, boot: u64| {
            watch.read(&Clocks::of(Box::new(move || wall * MILLI), Box::new(move || boot * MILLI)))
        };
        assert_eq!(at(50_000, 1_000), (Moment { wall_ns: 50_000 * MILLI, boot_ns: 1_000 * MILLI }, None));
        // The other clock was not read.
        assert_eq!(at(50_099, 9_999), (Moment { wall_ns: 50_099 * MILLI, boot_ns: 1_000 * MILLI }, None));
        assert_eq!(at(50_100, 1_100).0.boot_ns, 1_100 * MILLI);
        // Back by a second and more, and forward.
        assert_eq!(at(49_000, 1_150).1, set(50_150, 49_000));
        assert_eq!(at(53_000, 1_160).1, set(49_010, 53_000));
        // By so little at a time that no look tells, but not unseen for longer than that.
        assert_eq!(at(53_090, 3_160).1, None);
        assert_eq!(at(53_100, 3_200).1, set(55_040, 53_100));
    }

    #[test]
    fn a_start_before_the_newest_record_is_a_clock_that_was_set_back() {
        let found = Watch::after(500 * SECOND).look(Moment { wall_ns: 400 * SECOND, boot_ns: 0 });
        assert_eq!(found, Some(Set { expected_ns: 500 * SECOND, found_ns: 400 * SECOND }));
    }
}
