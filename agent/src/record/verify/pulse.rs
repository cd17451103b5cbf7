//! The agent's signs of life: an agent that runs records something every half a minute, so a longer silence says that it
//! was not running, that the clock was moved, or that records are missing where no other mark of it is left.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::super::Stamp;
use super::super::format::{Frame, Kind};
use super::{Quiet, SILENCE};

/// Silences described one by one.
const DESCRIBED: usize = 20;

#[derive(Default)]
pub(super) struct Pulse {
    last: Option<(u64, Stamp)>,
    stopped: bool,
    quiet: Vec<Quiet>,
}

impl Pulse {
    pub(super) fn beat(&mut self, seq: u64, frame: &Frame<'_>) {
        let time = Stamp(frame.time_ns);
        let is = |event: &[u8]| frame.kind == Kind::Event && frame.payload.starts_with(event);
        // What died says nothing any more: only until the next start is silence strange, and a start begins anew.
        let started = is(br#"{"event":"agent_start""#) || is(br#"{"event":"repair""#);
        if let Some((after, from)) = self.last
            && !self.stopped
            && !started
            && time.since(from) > SILENCE
            && self.quiet.len() < DESCRIBED
        {
            self.quiet.push(Quiet { after, from, to: time });
        }
        if frame.kind == Kind::Event {
            self.stopped = is(br#"{"event":"agent_stop""#);
        }
        self.last = Some((seq, time));
    }

    /// What is wrong with the newest record being as old as it is, while an agent runs.
    pub(super) fn silent_now(&self) -> Option<String> {
        let (_, last) = self.last?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let silent = now.saturating_sub(Duration::from_nanos(last.0));
        (silent > SILENCE).then(|| {
            format!(
                "an agent has the journal open, and the newest record is {} s old: it hangs, or its newest records were \
                 taken away",
                silent.as_secs()
            )
        })
    }

    pub(super) fn last_time(&self) -> Option<Stamp> {
        self.last.map(|(_, time)| time)
    }

    pub(super) const fn stopped(&self) -> bool {
        self.stopped
    }

    pub(super) fn quiet(&self) -> Vec<Quiet> {
        self.quiet.clone()
    }
}
