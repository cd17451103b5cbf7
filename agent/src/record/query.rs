//! What the command line asks of a journal: which sessions there were, and what one of them did.
//!
//! Functions over the segments, each read by its index where it has one. They read past damage and say that there was some:
//! whoever looks into an incident needs what is left. They prove nothing, `verify` does.

mod about;
mod detected;
mod grep;
mod held;
mod index;
mod receipt;
mod resolve;
mod rows;
mod screen;
mod sessions;
mod transcript;

pub(super) use index::make_next as make_next_index;

pub use about::{Recorded, receipt_seq, recorded, sealed, served};
pub use detected::{Seen, detected};
pub use grep::{Hit, grep};
pub use receipt::{Receipt, receipt};
pub use rows::Table;
pub use screen::{Content, Output, Scene, screen};
pub use sessions::{Filter, Listing, SessionState, SessionSummary, sessions};
pub use transcript::{Hold, Operation, Outcome, Start, Transcript, replay};

use std::path::Path;

use super::RecordError;
use super::event::Event;
use super::files::{self, SegmentFile};
use super::format::Frame;
use super::packed;
use super::reader::{Check, Reader};
use super::scan::{self, Scanner};
use super::stamp::Stamp;
use index::Index;

/// Descriptions of damage kept; what follows is only more of the same.
const DAMAGE_KEPT: usize = 20;

/// What a question is asked of: a full segment by its index, or one record after the other.
enum Piece<'a> {
    Segment(&'a Index),
    Record(&'a Frame<'a>),
}

/// Goes through the journal in order and returns what could not be read. Where `each` says `false` to the index of a
/// segment, its records follow one by one.
fn walk(dir: &Path, mut each: impl FnMut(Piece<'_>) -> bool) -> Result<Vec<String>, RecordError> {
    let mut damage = Vec::new();
    let segments = files::segments(dir)?;
    // What is foreign shows beside the others only.
    let indexed = if is_one_journal(&segments) { segments.len().saturating_sub(1) } else { 0 };
    let mut unread = Vec::new();
    for (at, segment) in segments.into_iter().enumerate() {
        if at < indexed && Index::of(&segment).is_some_and(|index| each(Piece::Segment(&index))) {
            continue;
        }
        unread.push(segment);
        if at < indexed {
            read(std::mem::take(&mut unread), false, &mut damage, &mut each);
        }
    }
    read(unread, true, &mut damage, &mut each);
    Ok(damage)
}

/// Reads `segments` one record after the other; the newest one may end within a record when it is among them.
fn read(
    segments: Vec<SegmentFile>,
    newest: bool,
    damage: &mut Vec<String>,
    each: &mut impl FnMut(Piece<'_>) -> bool,
) {
    let mut reader = Reader::over(segments, Check::Checksums, newest);
    while let Some(frame) = reader.next_frame() {
        match frame {
            Ok(frame) => {
                let _nothing_else_to_read = each(Piece::Record(&frame));
            }
            Err(error) if damage.len() < DAMAGE_KEPT => damage.push(error.to_string()),
            Err(_more) => {}
        }
    }
}

fn is_one_journal(segments: &[SegmentFile]) -> bool {
    let journal = |segment: &SegmentFile| {
        let (_, bytes) = Scanner::open(&segment.path).ok()?;
        scan::header(&segment.path, &bytes).ok().map(|header| header.journal)
    };
    let mut journals = segments.iter().map(journal);
    let first = journals.next().flatten();
    // The newest one may just be begun.
    first.is_some() && journals.take(segments.len().saturating_sub(2)).all(|journal| journal == first)
}

/// Calls `each` with every event, whatever indexes there are, and returns what could not be read.
fn events(dir: &Path, mut each: impl FnMut(u64, Stamp, Event)) -> Result<Vec<String>, RecordError> {
    let mut damage = Vec::new();
    read(files::segments(dir)?, true, &mut damage, &mut |piece| {
        if let Piece::Record(frame) = piece
            && let Some(event) = packed::event(frame)
        {
            each(frame.seq, Stamp(frame.time_ns), event);
        }
        true
    });
    Ok(damage)
}
