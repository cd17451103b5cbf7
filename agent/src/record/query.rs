//! What the command line asks of a journal: which sessions there were, and what one of them did.
//!
//! Functions over the reader; nothing is kept between calls. They read past damage and say that there was some:
//! whoever looks into an incident needs what is left. They prove nothing, `verify` does.

mod sessions;
mod transcript;

pub use sessions::{Filter, Listing, SessionState, SessionSummary, sessions};
pub use transcript::{Hold, Operation, Outcome, Recorded, Start, Transcript, receipt_seq, recorded, replay};

use std::path::Path;

use super::event::Event;
use super::reader::{Body, Check, Reader};
use super::stamp::Stamp;
use super::{Record, RecordError};

/// Descriptions of damage kept; what follows is only more of the same.
const DAMAGE_KEPT: usize = 20;

/// Calls `each` with every event, and returns what could not be read.
fn events(dir: &Path, mut each: impl FnMut(u64, Stamp, Event)) -> Result<Vec<String>, RecordError> {
    let mut damage = Vec::new();
    for record in Reader::open(dir, Check::Checksums)? {
        match record {
            Ok(Record { seq, time_ns, body: Body::Event(event) }) => each(seq, Stamp(time_ns), *event),
            Ok(Record { body: Body::Checkpoint(_) | Body::Tree | Body::Unknown(_), .. }) => {}
            Err(error) if damage.len() < DAMAGE_KEPT => damage.push(error.to_string()),
            Err(_more) => {}
        }
    }
    Ok(damage)
}
