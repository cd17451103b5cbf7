//! Records that are written with those of others.

use super::{Journal, lock};
use crate::record::RecordError;
use crate::record::event::Event;
use crate::record::served::Burst;
use crate::record::tail::How;
use crate::record::waiting::Writes;

impl Journal {
    /// Number of the newest write that failed; 0 when none did.
    pub(in crate::record) fn failed_write(&self) -> u64 {
        lock(&self.tail).map_or(u64::MAX, |tail| tail.waiting.failed())
    }

    /// Number of the newest record, written or waiting.
    pub(in crate::record) fn records(&self) -> u64 {
        lock(&self.tail).map_or(0, |tail| tail.link.seq.saturating_sub(1))
    }

    /// As [`Self::append`], but they may not be written when it returns: what they speak of has to wait for
    /// [`Self::settle`].
    ///
    /// # Errors
    /// As [`Self::append`].
    pub(in crate::record) fn append_later(&self, events: &[Event]) -> Result<Option<Writes>, RecordError> {
        self.write(Burst::NOTHING, &[], events, self.limit(events), How::Later).map(|(_, writes)| writes)
    }

    /// As [`Self::append_served`], in the same way.
    ///
    /// # Errors
    /// As [`Self::append`].
    pub(in crate::record) fn append_served_later(
        &self,
        burst: Burst<'_>,
        sealed: &[Vec<u8>],
        events: &[Event],
    ) -> Result<Option<Writes>, RecordError> {
        let limit = self.max_bytes - super::RESERVE.min(self.max_bytes / 16);
        self.write(burst, sealed, events, limit, How::Later).map(|(_, writes)| writes)
    }

    /// Sees to it that these writes were made. True when others were in them, too.
    ///
    /// # Errors
    /// When one failed: what was to be recorded was not.
    pub(in crate::record) fn settle(&self, writes: Writes) -> Result<bool, RecordError> {
        let mut tail = lock(&self.tail)?;
        let made = tail.waiting.all_done(writes).is_some();
        let shared = made || tail.waiting.appends() > 1;
        if !made {
            tail.flush(&self.fixed)?;
        }
        match tail.waiting.all_done(writes) {
            Some(true) => Ok(shared),
            _ => Err(RecordError::NotWritten),
        }
    }
}
