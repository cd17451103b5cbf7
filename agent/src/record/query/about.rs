//! What the journal holds of one session, record by record.

use std::path::Path;

use serde::Serialize;

use super::super::RecordError;
use super::super::event::Event;
use super::super::format::{Frame, Kind};
use super::super::output::{Kind as OutputKind, Parts};
use super::super::packed;
use super::super::seal::{self, Sealed};
use super::super::served::{self, Served};
use super::super::stamp::Stamp;
use super::resolve::{NAMED, resolve};
use super::{Piece, walk};

/// An event as the journal holds it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Recorded {
    pub seq: u64,
    pub time: Stamp,
    pub event: Event,
}

/// The events of the session whose id is, or alone begins with, `id`, as they were written.
///
/// # Errors
/// As [`super::replay`].
pub fn recorded(dir: &Path, id: &str) -> Result<Vec<Recorded>, RecordError> {
    let id = resolve(dir, id)?;
    let mut found = Vec::new();
    about(dir, &id, |seq, time, part| {
        if let Part::Event(event) = part
            && event.session() == Some(&id)
        {
            found.push(Recorded { seq, time, event: *event });
        }
    })?;
    Ok(found)
}

/// Calls `each` with what the session was served, in order: the bytes as they went out; of programs what they printed.
///
/// # Errors
/// As [`super::replay`].
pub fn served(dir: &Path, id: &str, mut each: impl FnMut(&[u8])) -> Result<(), RecordError> {
    let id = resolve(dir, id)?;
    let mut programs = None;
    about(dir, &id, |_, _, part| match (part, &mut programs) {
        (Part::Event(event), programs) => {
            if matches!(&*event, Event::SessionStart { protocol, .. } if protocol == "ssh") {
                *programs = Some(Parts::default());
            }
        }
        (Part::Sealed(_), _) => {}
        (Part::Served(served), None) => each(&served.bytes),
        (Part::Served(served), Some(parts)) => parts.push(&served, |part| {
            if matches!(part.kind, OutputKind::Out | OutputKind::Err) {
                each(part.bytes);
            }
        }),
    })
    .map(drop)
}

/// Calls `each` with what is sealed of the session, in order, and the numbers of its records; returns what could not be
/// read.
///
/// # Errors
/// As [`super::replay`].
pub fn sealed(
    dir: &Path,
    id: &str,
    mut each: impl FnMut(u64, &Sealed<'_>),
) -> Result<Vec<String>, RecordError> {
    let id = resolve(dir, id)?;
    about(dir, &id, |seq, _, part| {
        if let Part::Sealed(sealed) = part {
            each(seq, &sealed);
        }
    })
}

/// Something a session left in the journal, or that says something about all sessions.
pub(super) enum Part<'a> {
    Event(Box<Event>),
    Served(Served<'a>),
    Sealed(Sealed<'a>),
}

/// Calls `each` with what the journal holds of a session, and with the beginnings of agents, which end what was open.
pub(super) fn about(
    dir: &Path,
    id: &str,
    mut each: impl FnMut(u64, Stamp, Part<'_>),
) -> Result<Vec<String>, RecordError> {
    let named = memchr::memmem::Finder::new(id.as_bytes());
    let uuid = packed::uuid(id);
    let mut unread = Vec::new();
    let mut take = |frame: &Frame<'_>| {
        let time = Stamp(frame.time_ns);
        match frame.kind {
            Kind::Served if served::session(frame.payload) == Some(id) => {
                if let Some(served) = packed::served(frame) {
                    each(frame.seq, time, Part::Served(served));
                }
            }
            Kind::Statement | Kind::Result if uuid.is_some() && packed::session(frame) == uuid => {
                if let Some(served) = packed::served(frame) {
                    each(frame.seq, time, Part::Served(served));
                }
                if let Some(event) = packed::event(frame) {
                    each(frame.seq, time, Part::Event(Box::new(event)));
                }
            }
            Kind::Sealed => {
                if let Some(sealed) = seal::decode(frame.payload).filter(|sealed| sealed.session == id) {
                    each(frame.seq, time, Part::Sealed(sealed));
                }
            }
            // An id that JSON would escape is not found by its bytes.
            Kind::Event
                if frame.payload.starts_with(br#"{"event":"agent_start""#)
                    || named.find(frame.payload).is_some()
                    || !id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') =>
            {
                if let Some(event) = packed::event(frame)
                    && (event.session() == Some(id) || matches!(event, Event::AgentStart { .. }))
                {
                    each(frame.seq, time, Part::Event(Box::new(event)));
                }
            }
            Kind::Event | Kind::Statement | Kind::Result | Kind::Served | Kind::Checkpoint | Kind::Tree => {}
        }
    };
    let mut damage = walk(dir, |piece| {
        let index = match piece {
            Piece::Record(frame) => {
                take(frame);
                return true;
            }
            Piece::Segment(index) => index,
        };
        let Some(places) = index.places(id) else { return false };
        for place in places {
            if !index.record(place, &mut take) {
                unread.push(format!("no record at byte {place} of a segment that had one there"));
            }
        }
        true
    })?;
    damage.extend(unread.into_iter().take(NAMED));
    Ok(damage)
}

/// Number of the record of a decision; `id` is SESSION/NUMBER, where the session's id may be cut.
///
/// # Errors
/// As [`super::replay`]; `NoSuchStatement`.
pub fn receipt_seq(dir: &Path, id: &str) -> Result<u64, RecordError> {
    let missing = || RecordError::NoSuchStatement(id.to_owned());
    let (session, number) = id.rsplit_once('/').ok_or_else(missing)?;
    let number: u64 = number.parse().map_err(|_not_a_number| missing())?;
    let is_it = |recorded: &Recorded| matches!(recorded.event, Event::Statement { op, .. } if op == number);
    recorded(dir, session)?.iter().find(|recorded| is_it(recorded)).map(|it| it.seq).ok_or_else(missing)
}
