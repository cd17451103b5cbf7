//! What the command line asks of a journal: which sessions there were, and what one of them did.
//!
//! Functions over the reader; nothing is kept between calls. They read past damage and say that there was some:
//! whoever looks into an incident needs what is left. They prove nothing, `verify` does.

mod detected;
mod grep;
mod receipt;
mod rows;
mod sessions;
mod transcript;

pub use detected::{Seen, detected};
pub use grep::{Hit, grep};
pub use receipt::{Receipt, receipt};
pub use rows::Table;
pub use sessions::{Filter, Listing, SessionState, SessionSummary, sessions};
pub use transcript::{
    Hold, Operation, Outcome, Recorded, Start, Transcript, receipt_seq, recorded, replay, served,
};

use std::path::Path;

use super::RecordError;
use super::event::Event;
use super::format::{Frame, Kind};
use super::reader::{Check, Reader};
use super::stamp::Stamp;

/// Descriptions of damage kept; what follows is only more of the same.
const DAMAGE_KEPT: usize = 20;

/// Calls `each` with every record, undecoded, and returns what could not be read.
fn frames(dir: &Path, mut each: impl FnMut(&Frame<'_>)) -> Result<Vec<String>, RecordError> {
    let mut damage = Vec::new();
    let mut reader = Reader::open(dir, Check::Checksums)?;
    while let Some(frame) = reader.next_frame() {
        match frame {
            Ok(frame) => each(&frame),
            Err(error) if damage.len() < DAMAGE_KEPT => damage.push(error.to_string()),
            Err(_more) => {}
        }
    }
    Ok(damage)
}

/// The event in a record, if it is one that is known here.
fn event(frame: &Frame<'_>) -> Option<Event> {
    (frame.kind == Kind::Event).then(|| serde_json::from_slice(frame.payload).ok()).flatten()
}

/// Calls `each` with every event, and returns what could not be read.
fn events(dir: &Path, mut each: impl FnMut(u64, Stamp, Event)) -> Result<Vec<String>, RecordError> {
    frames(dir, |frame| {
        if let Some(event) = event(frame) {
            each(frame.seq, Stamp(frame.time_ns), event);
        }
    })
}
