//! The time grants go by: the wall's, held against the kernel's count since boot, which nobody can set.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// One reading of both clocks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Now {
    /// Milliseconds since 1970, as the host believes.
    pub wall_ms: i64,
    /// Milliseconds since boot, time asleep included (CLOCK_BOOTTIME).
    pub boot_ms: i64,
    /// Which boot that is (`/proc/sys/kernel/random/boot_id`); empty when it cannot be read.
    pub boot: String,
}

impl Now {
    #[must_use]
    pub fn read() -> Self {
        let millis = |clock| {
            let time = clock_gettime(clock).map(Duration::from).unwrap_or_default();
            i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
        };
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        Self {
            wall_ms: millis(ClockId::CLOCK_REALTIME),
            boot_ms: millis(ClockId::CLOCK_BOOTTIME),
            boot: boot.trim().to_owned(),
        }
    }

    /// Minutes since midnight, UTC.
    pub(super) fn minute_of_day(&self) -> u16 {
        u16::try_from(self.wall_ms.div_euclid(60_000).rem_euclid(24 * 60)).unwrap_or_default()
    }
}

/// When something ends, on both clocks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Deadline {
    pub(super) wall_ms: i64,
    pub(super) boot_ms: i64,
    pub(super) boot: String,
}

impl Deadline {
    pub(super) fn after(now: &Now, time: Duration) -> Self {
        let time = i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
        Self {
            wall_ms: now.wall_ms.saturating_add(time),
            boot_ms: now.boot_ms.saturating_add(time),
            boot: now.boot.clone(),
        }
    }

    /// Passed as soon as either clock says so: a wall clock set back does not extend it. Made before the last boot,
    /// there is only the wall clock, and `latest_ms`, the latest it ever showed.
    pub(super) fn has_passed(&self, now: &Now, latest_ms: i64) -> bool {
        if !self.boot.is_empty() && self.boot == now.boot {
            return now.wall_ms >= self.wall_ms || now.boot_ms >= self.boot_ms;
        }
        now.wall_ms.max(latest_ms) >= self.wall_ms
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_set_back_does_not_extend() {
        let now = |wall_ms, boot_ms, boot: &str| Now { wall_ms, boot_ms, boot: boot.into() };
        let deadline = Deadline::after(&now(1_000_000, 5_000, "a"), Duration::from_secs(20));
        for (time, latest, passed) in [
            (now(1_019_999, 24_999, "a"), 0, false),
            (now(1_020_000, 24_000, "a"), 0, true),
            // Set back by a minute: the count since boot goes on.
            (now(959_999, 24_999, "a"), 0, false),
            (now(960_000, 25_000, "a"), 0, true),
            // Set forward: it ends early, never late.
            (now(2_000_000, 6_000, "a"), 0, true),
            // After a boot, with the clock set back behind what it had shown.
            (now(900_000, 10, "b"), 1_019_000, false),
            (now(900_000, 10, "b"), 1_020_000, true),
        ] {
            assert_eq!(deadline.has_passed(&time, latest), passed, "{time:?} {latest}");
        }
    }

    #[test]
    fn both_clocks_can_be_read() {
        let now = Now::read();
        assert!(now.wall_ms > 1_700_000_000_000 && now.boot_ms > 0 && now.boot.len() == 36, "{now:?}");
    }
}
