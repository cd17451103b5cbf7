//! Follows a journal that grows, from a record on, for those that hand its events on.
//!
//! Gives only what the host has signed and synced: an event that was handed on is one that no crash takes back. Keeps
//! its place, so that a look at what is new costs what is new. It does not check the chain: that is `verify`.

use std::fs::File;
use std::io::{Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::checkpoint::Checkpoint;
use super::error::io_error;
use super::event::Event;
use super::format::{Frame, HEADER_LEN, Kind};
use super::packed;
use super::scan::{Found, Scanner};
use super::stamp::Stamp;
use super::{PublicKey, RecordError, files, head};

/// An event with its place and time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Followed {
    pub seq: u64,
    pub time: Stamp,
    /// `None` for one that this version does not know.
    pub event: Option<Event>,
    /// The JSON as it stands, of a packed record made from it.
    pub json: String,
}

pub struct Follower {
    dir: PathBuf,
    key: PublicKey,
    /// Number of the record that is looked at next.
    next: u64,
    /// The segment it is in, and where.
    place: Option<(PathBuf, u64)>,
}

impl Follower {
    /// Everything after record `seen`.
    #[must_use]
    pub fn after(dir: &Path, key: PublicKey, seen: u64) -> Self {
        Self { dir: dir.to_owned(), key, next: seen + 1, place: None }
    }

    /// Goes back to where it was after record `seen`.
    pub fn back_to(&mut self, seen: u64) {
        self.next = seen + 1;
        self.place = None;
    }

    /// Number of the newest record that was looked at.
    #[must_use]
    pub const fn seen(&self) -> u64 {
        self.next - 1
    }

    /// The newest checkpoint that is on disk.
    ///
    /// # Errors
    /// When the head cannot be read or is not this host's.
    pub fn signed(&self) -> Result<Option<Checkpoint>, RecordError> {
        head::load(&self.dir, &self.key)
    }

    /// Up to `most` of the events that follow, up to record `signed`, and not many more bytes than `most_bytes`. Where
    /// records are not in the journal any more, an event says so in their place: `export_gap`.
    ///
    /// # Errors
    /// When files cannot be read; `Damaged` where what is there is not what was signed.
    pub fn next(
        &mut self,
        signed: u64,
        most: usize,
        most_bytes: usize,
    ) -> Result<Vec<Followed>, RecordError> {
        let mut found = Vec::new();
        let mut room = Room { events: most, bytes: most_bytes };
        while self.next <= signed && room.is_left() {
            let (before, elsewhere) = (self.next, self.place.is_some());
            self.read(signed, &mut room, &mut found)?;
            // At the end of a segment the next one is looked for; where that holds nothing either, something is gone.
            if self.next == before && !elsewhere {
                let problem = "what was signed cannot be read here".to_owned();
                let path = self.place.take().map_or_else(|| self.dir.clone(), |(path, _)| path);
                return Err(RecordError::Damaged { path, offset: 0, seq: self.next, problem });
            }
        }
        Ok(found)
    }

    /// Reads on in one segment.
    fn read(&mut self, signed: u64, room: &mut Room, found: &mut Vec<Followed>) -> Result<(), RecordError> {
        let (path, offset) = match self.place.take() {
            Some(place) => place,
            None => (self.segment(found)?, HEADER_LEN as u64),
        };
        let mut file = File::open(&path).map_err(io_error("open", &path))?;
        file.seek(SeekFrom::Start(offset)).map_err(io_error("read", &path))?;
        let mut scanner = Scanner::at(file, offset);
        loop {
            let offset = scanner.offset();
            if self.next > signed || !room.is_left() {
                self.place = Some((path, offset));
                return Ok(());
            }
            match scanner.next().map_err(io_error("read", &path))? {
                Some(Found::Frame(frame)) if frame.seq < self.next => {}
                Some(Found::Frame(frame)) => {
                    self.next = frame.seq + 1;
                    if frame.kind.is_event() {
                        let event = packed::event(&frame);
                        let json = match &event {
                            _ if frame.kind == Kind::Event => {
                                String::from_utf8_lossy(frame.payload).into_owned()
                            }
                            Some(event) => serde_json::to_string(event)?,
                            None => unreadable(&frame),
                        };
                        room.take(json.len());
                        found.push(Followed { seq: frame.seq, time: Stamp(frame.time_ns), event, json });
                    }
                }
                // The next segment is found by its number.
                Some(Found::Damage(_)) | None => return Ok(()),
            }
        }
    }

    /// The segment with the next record; the first one, and a word about what is missing, when that is gone.
    fn segment(&mut self, found: &mut Vec<Followed>) -> Result<PathBuf, RecordError> {
        let segments = files::segments(&self.dir)?;
        if let Some(segment) = segments.iter().rev().find(|segment| segment.first_seq <= self.next) {
            return Ok(segment.path.clone());
        }
        let first = segments.into_iter().next().ok_or_else(|| RecordError::Damaged {
            path: self.dir.clone(),
            offset: 0,
            seq: self.next,
            problem: "there is no segment".to_owned(),
        })?;
        let (from, to) = (self.next, first.first_seq - 1);
        found.push(Followed {
            seq: to,
            time: Stamp(now()),
            event: None,
            json: serde_json::json!({ "event": "export_gap", "from_seq": from, "to_seq": to }).to_string(),
        });
        self.next = first.first_seq;
        Ok(first.path)
    }
}

/// In the place of a packed record of a later version: what whoever has that version looks for.
fn unreadable(frame: &Frame<'_>) -> String {
    serde_json::json!({ "event": "unreadable", "kind": frame.kind.code(), "seq": frame.seq }).to_string()
}

fn now() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)
}

/// How much may still be taken.
struct Room {
    events: usize,
    bytes: usize,
}

impl Room {
    fn is_left(&self) -> bool {
        self.events > 0 && self.bytes > 0
    }

    fn take(&mut self, bytes: usize) {
        self.events = self.events.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(bytes);
    }
}
