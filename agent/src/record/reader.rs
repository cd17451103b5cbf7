//! Streams the records of a journal, oldest first, in bounded memory.
//!
//! Checks the chain as it goes, or on demand only the checksums. It does not explain damage: that is `verify`.

use std::collections::VecDeque;
use std::fs::File;
use std::path::{Path, PathBuf};

use super::RecordError;
use super::checkpoint::Checkpoint;
use super::error::io_error;
use super::event::Event;
use super::files::{self, SegmentFile};
use super::format::{Frame, HEADER_LEN, JournalId, Kind};
use super::packed;
use super::scan::{self, Link, Place, Scanner, Span};

/// How much of the chain a reader checks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Check {
    /// Every number and every hash.
    Chain,
    /// Each record's checksum only: quick, and no proof of anything.
    Checksums,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    pub seq: u64,
    /// Nanoseconds since the Unix epoch, by the host's clock, which may have been set back.
    pub time_ns: u64,
    pub body: Body,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    /// A result may have brought what was served up to it; that is for [`super::query`].
    Event(Box<Event>),
    Checkpoint(Box<Checkpoint>),
    /// The tree as it was before a segment.
    Tree,
    /// Bytes a client was served; the payload as [`super::served`] decodes it.
    Served(Vec<u8>),
    /// Raw values that are sealed to auditors.
    Sealed(Vec<u8>),
    /// An event this version does not know: the JSON as it stands.
    Unknown(String),
}

/// An iterator over all records there were when it was opened, and maybe some that came after.
///
/// An `Err` says what is damaged; the records after it follow. The incomplete end of the newest segment, which a
/// running agent may just be writing, ends the iteration without one.
pub struct Reader {
    waiting: VecDeque<SegmentFile>,
    current: Option<(Scanner<File>, PathBuf)>,
    check: Check,
    journal: Option<JournalId>,
    link: Option<Link>,
    /// Number of the newest record read.
    newest: u64,
    /// The last segment is the one that an agent may be writing.
    live: bool,
}

impl Reader {
    /// # Errors
    /// When the directory cannot be listed.
    pub fn open(dir: &Path, check: Check) -> Result<Self, RecordError> {
        Self::open_after(dir, check, 0)
    }

    /// Begins with the first segment after record `through`. Where the chain begins, it is taken as it is.
    pub(super) fn open_after(dir: &Path, check: Check, through: u64) -> Result<Self, RecordError> {
        let mut segments = files::segments(dir)?;
        segments.retain(|segment| segment.first_seq > through);
        Ok(Self::over(segments, check, true))
    }

    /// Reads some of the segments of a journal; `live` when its newest one is among them.
    pub(super) fn over(segments: Vec<SegmentFile>, check: Check, live: bool) -> Self {
        let waiting = VecDeque::from(segments);
        let link = waiting.front().is_none_or(|first| first.first_seq == 1).then_some(Link::START);
        Self { waiting, current: None, check, journal: None, link, newest: 0, live }
    }

    /// The next frame, undecoded.
    pub(super) fn next_frame(&mut self) -> Option<Result<Frame<'_>, RecordError>> {
        let span = match self.find()? {
            Ok(span) => span,
            Err(error) => return Some(Err(error)),
        };
        let (scanner, path) = self.current.as_ref()?;
        let frame = scanner.frame(&span)?;
        self.newest = frame.seq;
        if self.check == Check::Chain {
            // After damage the chain is taken up again wherever the records go on.
            let mut link =
                self.link.unwrap_or(Link { seq: frame.seq, previous: frame.previous, last: frame.previous });
            let stepped = link.step(&frame);
            self.link = stepped.is_ok().then_some(link);
            if let Err(problem) = stepped {
                return Some(Err(damaged(path, span.offset, link.seq, problem)));
            }
        }
        Some(Ok(frame))
    }

    fn find(&mut self) -> Option<Result<Span, RecordError>> {
        loop {
            let Some((scanner, path)) = self.current.as_mut() else {
                let segment = self.waiting.pop_front()?;
                match self.enter(segment) {
                    // An agent may prune what is listed. Whether it went by right is for `verify` to say.
                    Err(error) if error.is_not_found() && self.may_be_pruned() => {}
                    Err(error) => return Some(Err(error)),
                    Ok(()) => {}
                }
                continue;
            };
            match scanner.find() {
                Err(error) => {
                    let error = io_error("read", path)(error);
                    self.current = None;
                    return Some(Err(error));
                }
                Ok(None) => self.current = None,
                Ok(Some(Place::Frame(span))) => return Some(Ok(span)),
                Ok(Some(Place::Damage(damage))) if damage.to_end && self.live && self.waiting.is_empty() => {
                    return None;
                }
                Ok(Some(Place::Damage(damage))) => {
                    self.link = None;
                    let problem = format!("{} bytes are no record", damage.len);
                    return Some(Err(damaged(path, damage.offset, self.newest + 1, problem)));
                }
            }
        }
    }

    /// The oldest go first: a chain that was begun has no business with a gap.
    fn may_be_pruned(&self) -> bool {
        self.check == Check::Checksums || self.journal.is_none()
    }

    /// Goes to the next segment. One that is refused is passed over.
    fn enter(&mut self, segment: SegmentFile) -> Result<(), RecordError> {
        let link = self.link.take();
        let (scanner, bytes) = Scanner::open(&segment.path)?;
        if bytes.len() < HEADER_LEN && self.live && self.waiting.is_empty() {
            return Ok(());
        }
        let header = scan::header(&segment.path, &bytes)?;
        let journal = *self.journal.get_or_insert(header.journal);
        if journal != header.journal {
            return Err(damaged(
                &segment.path,
                0,
                header.first_seq,
                "the segment belongs to another journal".into(),
            ));
        }
        let mut next =
            link.unwrap_or(Link { seq: header.first_seq, previous: header.previous, last: header.previous });
        let entered = next.enter(&header, &bytes);
        self.link = entered.is_ok().then_some(next);
        self.current = Some((scanner, segment.path.clone()));
        match entered {
            Err(problem) if self.check == Check::Chain => Err(damaged(&segment.path, 0, next.seq, problem)),
            _ => Ok(()),
        }
    }
}

impl Iterator for Reader {
    type Item = Result<Record, RecordError>;

    fn next(&mut self) -> Option<Self::Item> {
        let frame = match self.next_frame()? {
            Ok(frame) => frame,
            Err(error) => return Some(Err(error)),
        };
        Some(Ok(Record { seq: frame.seq, time_ns: frame.time_ns, body: body(&frame) }))
    }
}

fn body(frame: &Frame<'_>) -> Body {
    let known = match frame.kind {
        Kind::Checkpoint => {
            Checkpoint::of_record(frame.payload).map(|checkpoint| Body::Checkpoint(Box::new(checkpoint)))
        }
        Kind::Tree => Some(Body::Tree),
        Kind::Served => Some(Body::Served(frame.payload.to_vec())),
        Kind::Sealed => Some(Body::Sealed(frame.payload.to_vec())),
        Kind::Event | Kind::Statement | Kind::Result => {
            packed::event(frame).map(|event| Body::Event(Box::new(event)))
        }
    };
    known.unwrap_or_else(|| Body::Unknown(String::from_utf8_lossy(frame.payload).into_owned()))
}

fn damaged(path: &Path, offset: u64, seq: u64, problem: String) -> RecordError {
    RecordError::Damaged { path: path.to_owned(), offset, seq, problem }
}
