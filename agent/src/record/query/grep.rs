//! Statements that match a pattern, over all sessions.

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::Path;

use regex::Regex;
use serde::{Deserialize, Serialize};

use super::super::RecordError;
use super::super::event::{Event, Verdict};
use super::super::format::{Frame, Kind};
use super::super::packed;
use super::super::stamp::Stamp;
use super::index::Index;
use super::{Piece, walk};

/// A statement that matches.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Hit {
    /// As `replay`, `why` and `prove` take it.
    pub id: String,
    pub seq: u64,
    pub time: Stamp,
    pub identity: Option<String>,
    pub target: Option<String>,
    pub verdict: Verdict,
    pub sql: String,
}

/// As much of a statement as is needed to see whether it matches; texts that JSON did not escape are not copied.
#[derive(Deserialize)]
struct Statement<'a> {
    #[serde(borrow)]
    session: Cow<'a, str>,
    op: u64,
    #[serde(borrow)]
    sql: Cow<'a, str>,
    verdict: Verdict,
}

impl<'a> Statement<'a> {
    /// Packed or as JSON.
    fn of(frame: &Frame<'a>) -> Option<Self> {
        match frame.kind {
            Kind::Event if frame.payload.starts_with(br#"{"event":"statement""#) => {
                serde_json::from_slice(frame.payload).ok()
            }
            Kind::Statement => packed::statement(frame.payload).map(|packed| Self {
                session: packed.session().into(),
                op: packed.op,
                sql: packed.sql.into(),
                verdict: packed.verdict,
            }),
            Kind::Event | Kind::Result | Kind::Checkpoint | Kind::Tree | Kind::Served | Kind::Sealed => None,
        }
    }
}

/// Calls `each` with every statement whose text `pattern` matches somewhere, oldest first, and returns what could not be
/// read. An execution has the text of what was prepared, and is not a statement of its own here.
///
/// # Errors
/// When the directory cannot be listed.
pub fn grep(dir: &Path, pattern: &Regex, mut each: impl FnMut(Hit)) -> Result<Vec<String>, RecordError> {
    let mut sessions = HashMap::<String, (String, String)>::new();
    walk(dir, |piece| {
        let frame = match piece {
            Piece::Segment(index) => return in_segment(index, pattern, &mut sessions, &mut each),
            Piece::Record(frame) => frame,
        };
        if frame.kind == Kind::Event
            && frame.payload.starts_with(br#"{"event":"session_start""#)
            && let Some(Event::SessionStart { session, identity, target, .. }) = packed::event(frame)
        {
            sessions.insert(session, (identity.name, target));
        }
        if let Some(statement) = Statement::of(frame)
            && !statement.sql.is_empty()
            && pattern.is_match(&statement.sql)
        {
            let known = sessions.get(statement.session.as_ref());
            each(Hit {
                id: format!("{}/{}", statement.session, statement.op),
                seq: frame.seq,
                time: Stamp(frame.time_ns),
                identity: known.map(|(identity, _)| identity.clone()),
                target: known.map(|(_, target)| target.clone()),
                verdict: statement.verdict,
                sql: statement.sql.into_owned(),
            });
        }
        true
    })
}

fn in_segment(
    index: &Index,
    pattern: &Regex,
    sessions: &mut HashMap<String, (String, String)>,
    each: &mut impl FnMut(Hit),
) -> bool {
    for part in index.directory.sessions.iter().filter_map(|entry| entry.summary.as_ref()) {
        // A session that was refused has no statements.
        if let (Some(_), Some(identity), Some(target)) = (&part.protocol, &part.identity, &part.target) {
            sessions.insert(part.id.clone(), (identity.clone(), target.clone()));
        }
    }
    index.texts(|text| {
        let Some(entry) = index.directory.sessions.get(text.session).filter(|_| pattern.is_match(text.sql))
        else {
            return;
        };
        let known = sessions.get(&entry.id);
        each(Hit {
            id: format!("{}/{}", entry.id, text.op),
            seq: text.seq,
            time: text.time,
            identity: known.map(|(identity, _)| identity.clone()),
            target: known.map(|(_, target)| target.clone()),
            verdict: text.verdict,
            sql: text.sql.to_owned(),
        });
    })
}
