//! The agent's signs of life: an agent that runs records something every half a minute, so a longer silence says that it
//! was not running, that the clock was moved, or that records are missing where no other mark of it is left.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::super::Stamp;
use super::super::clock::TOLERATED;
use super::super::format::{Frame, Kind};
use super::{Quiet, SILENCE, SetBack};

/// What is less is a clock that was slewed, and not worth a word.
const BACK: Duration = Duration::from_nanos(TOLERATED);
/// Silences described one by one.
const DESCRIBED: usize = 20;

#[derive(Default)]
pub(super) struct Pulse {
    last: Option<(u64, Stamp)>,
    stopped: bool,
    quiet: Vec<Quiet>,
    set_back: Vec<SetBack>,
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
        if let Some((_, from)) = self.last
            && from.since(time) > BACK
            && self.set_back.len() < DESCRIBED
        {
            let recorded = is(br#"{"event":"clock_set""#);
            self.set_back.push(SetBack { at: seq, from, to: time, recorded });
        }
        if frame.kind.is_event() {
            // An operator may prune when no agent runs.
            self.stopped = is(br#"{"event":"agent_stop""#) || self.stopped && is(br#"{"event":"pruned""#);
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

    pub(super) fn set_back(&self) -> Vec<SetBack> {
        self.set_back.clone()
    }

    pub(super) fn quiet(&self) -> Vec<Quiet> {
        self.quiet.clone()
    }
}
