//! Bytes on their way to a target, and the rule that they only get there recorded.

use bytes::BytesMut;

use crate::record::event::Event;
use crate::record::{Burst, Journal, RecordError};

/// Proof that a statement was decided on and may run. Made by the gate alone, used once.
#[derive(Debug)]
#[must_use = "a permit that is not used lets nothing pass"]
pub struct Permit {
    _private: (),
}

impl Permit {
    pub(super) fn new() -> Self {
        Self { _private: () }
    }

    /// A permit for tests of machines, which ask no gate.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn for_test() -> Self {
        Self::new()
    }
}

/// A burst of bytes for the target with the events that account for it. The bytes are private until the events
/// are in the journal: `commit` is the only way out.
#[derive(Debug, Default)]
pub struct Staged {
    bytes: BytesMut,
    events: Vec<Event>,
}

impl Staged {
    /// A statement that was permitted.
    pub fn permitted(&mut self, permit: Permit, bytes: &[u8]) {
        let Permit { _private: () } = permit;
        self.bytes.extend_from_slice(bytes);
    }

    /// The same, written by `put`.
    pub fn permitted_as(&mut self, permit: Permit, put: impl FnOnce(&mut BytesMut)) {
        let Permit { _private: () } = permit;
        put(&mut self.bytes);
    }

    /// A message that only continues what was permitted: Bind, Describe, Sync, COPY data, goodbye.
    pub fn continuation(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Text that cannot run, in the place of what was denied.
    pub fn poison(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// An event that must be written before any byte staged so far, or from now on, moves.
    pub fn record(&mut self, event: Event) {
        self.events.push(event);
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty() && self.events.is_empty()
    }

    /// How many bytes wait for `commit`.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.bytes.len()
    }

    /// Writes the events, then lets the bytes go to `out`.
    ///
    /// # Errors
    /// When the journal cannot take the events; the bytes are gone then.
    pub fn commit(&mut self, journal: &Journal, out: &mut BytesMut) -> Result<(), RecordError> {
        self.commit_with(Burst::NOTHING, Burst::NOTHING, journal, out)
    }

    /// The same in one write with what the client is about to be served, and with what masks took out of that.
    ///
    /// # Errors
    /// As [`Self::commit`].
    pub fn commit_with(
        &mut self,
        served: Burst<'_>,
        raw: Burst<'_>,
        journal: &Journal,
        out: &mut BytesMut,
    ) -> Result<(), RecordError> {
        let plain = served.bytes.is_empty() && raw.bytes.is_empty();
        if !plain || !self.events.is_empty() {
            let written = match plain {
                true => journal.append(&self.events),
                false => journal.append_served(served, raw, &self.events),
            };
            self.events.clear();
            if let Err(error) = written {
                self.bytes.clear();
                return Err(error);
            }
        }
        if out.is_empty() {
            std::mem::swap(out, &mut self.bytes);
        } else {
            out.extend_from_slice(&self.bytes);
        }
        self.bytes.clear();
        Ok(())
    }

    /// What is staged, for tests of machines.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn take_bytes(&mut self) -> BytesMut {
        self.bytes.split()
    }
}
