//! Records that are written together with those of others.

use std::sync::atomic::Ordering;

use super::{Journal, Place};
use crate::record::RecordError;
use crate::record::event::Event;
use crate::record::served::Burst;
use crate::record::waiting::Writes;

/// Records that have their place in the journal and may not be written yet. What they speak of waits until
/// [`Journal::settle`] says that they are.
#[derive(Debug, Clone, Copy, Default)]
#[must_use = "what is recorded this way may not happen before it is settled"]
pub struct Owed {
    writes: Option<Writes>,
    era: u64,
}

impl Owed {
    /// Both of them.
    pub fn and(self, later: Self) -> Self {
        match (self.writes, later.writes) {
            (Some(first), Some(last)) if self.era == later.era => {
                Self { writes: Some(Writes { first: first.first, last: last.last }), era: later.era }
            }
            // It was handed over and taken back in between. No write has this number, so nobody is told that both were made.
            (Some(_), Some(last)) => Self { writes: Some(Writes { first: 0, ..last }), era: later.era },
            (None, Some(_)) => later,
            (_, None) => self,
        }
    }

    #[must_use]
    pub fn is_nothing(&self) -> bool {
        self.writes.is_none()
    }
}

impl Journal {
    /// As [`Self::append`], but written together with what other sessions record at the same time.
    ///
    /// # Errors
    /// As [`Self::append`].
    pub fn append_later(&self, events: &[Event]) -> Result<Owed, RecordError> {
        let place = self.place();
        let owed = match &*place {
            Place::Here(local) => self.owed(local.append_later(events)?),
            Place::Away(away) => away.append(events).map(|_| Owed::default())?,
            Place::Nowhere => return Err(RecordError::Closed),
        };
        self.tally.count(events);
        Ok(owed)
    }

    /// As [`Self::append_served`], in the same way.
    ///
    /// # Errors
    /// As [`Self::append_served`].
    pub fn append_served_later(
        &self,
        burst: Burst<'_>,
        raw: Burst<'_>,
        events: &[Event],
    ) -> Result<Owed, RecordError> {
        let sealed = self.options.auditors.seal(raw)?;
        let place = self.place();
        let owed = match &*place {
            Place::Here(local) => self.owed(local.append_served_later(burst, &sealed, events)?),
            Place::Away(away) => away.append_served(burst, sealed, events).map(|_| Owed::default())?,
            Place::Nowhere => return Err(RecordError::Closed),
        };
        self.tally.count(events);
        Ok(owed)
    }

    /// Only while the place is held.
    fn owed(&self, writes: Option<Writes>) -> Owed {
        Owed { writes, era: self.era.load(Ordering::Relaxed) }
    }

    /// Sees to it that what is owed is written. True when the write held what others recorded, too.
    ///
    /// # Errors
    /// When it was not recorded. What it speaks of must then not happen.
    pub fn settle(&self, owed: Owed) -> Result<bool, RecordError> {
        let Some(writes) = owed.writes else { return Ok(false) };
        let place = self.place();
        let era = self.era.load(Ordering::Relaxed);
        match &*place {
            Place::Here(local) if owed.era == era => local.settle(writes),
            // Handing the journal over wrote what was waiting; what had failed before stayed out.
            _ if owed.era + 1 == era && self.failed_then.load(Ordering::Relaxed) < writes.first => Ok(true),
            Place::Here(_) | Place::Away(_) | Place::Nowhere => Err(RecordError::NotWritten),
        }
    }
}
