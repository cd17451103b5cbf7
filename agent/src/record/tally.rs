//! Counts what this agent has recorded, for whoever wants numbers and not events.

use std::sync::atomic::{AtomicU64, Ordering};

use super::event::{Event, Verdict};

/// Since this agent started; each only grows.
#[derive(Debug, Default)]
pub struct Tally {
    pub sessions: AtomicU64,
    pub sessions_refused: AtomicU64,
    pub permitted: AtomicU64,
    pub denied: AtomicU64,
    pub held: AtomicU64,
    pub rows: AtomicU64,
    /// Of rows as they were served.
    pub bytes: AtomicU64,
    pub masked_cells: AtomicU64,
    /// Login names that were not the client's own.
    pub foreign: AtomicU64,
}

impl Tally {
    pub(super) fn count(&self, events: &[Event]) {
        let add = |counter: &AtomicU64, value| counter.fetch_add(value, Ordering::Relaxed);
        for event in events {
            match event {
                Event::Statement { verdict: Verdict::Permit, .. } => add(&self.permitted, 1),
                Event::Statement { verdict: Verdict::Deny, .. } => add(&self.denied, 1),
                Event::Statement { verdict: Verdict::Hold, .. } => add(&self.held, 1),
                Event::Result { rows, bytes, masked_cells, .. } => {
                    add(&self.rows, *rows);
                    add(&self.bytes, *bytes);
                    add(&self.masked_cells, *masked_cells)
                }
                Event::SessionStart { .. } => add(&self.sessions, 1),
                Event::ForeignCredential { .. } => add(&self.foreign, 1),
                Event::SessionRefused { .. } => add(&self.sessions_refused, 1),
                _ => continue,
            };
        }
    }
}
