//! Which session the beginning of an id means.

use std::collections::BTreeSet;
use std::path::Path;

use uuid::Uuid;

use super::super::RecordError;
use super::super::format::Kind;
use super::super::packed;
use super::{Piece, walk};

/// Candidates named when a prefix fits several sessions.
pub(super) const NAMED: usize = 5;

/// Just enough of an event to see whose it is.
#[derive(serde::Deserialize)]
struct Peek<'a> {
    #[serde(borrow, default)]
    session: Option<std::borrow::Cow<'a, str>>,
}

pub(super) fn resolve(dir: &Path, prefix: &str) -> Result<String, RecordError> {
    let (mut ids, mut exact) = (BTreeSet::new(), false);
    let mut candidate = |session: &str| {
        if session.starts_with(prefix) {
            exact |= session == prefix;
            if ids.len() <= NAMED && !ids.contains(session) {
                ids.insert(session.to_owned());
            }
        }
    };
    // Damage is told of by the pass that reads the session.
    walk(dir, |piece| {
        match piece {
            Piece::Segment(index) => {
                let told = index.directory.sessions.iter().filter(|entry| entry.summary.is_some());
                told.for_each(|entry| candidate(&entry.id));
            }
            Piece::Record(frame) if frame.kind == Kind::Event => {
                if let Ok(Peek { session: Some(session) }) = serde_json::from_slice(frame.payload) {
                    candidate(&session);
                }
            }
            Piece::Record(frame) => {
                if let Some(session) = packed::session(frame) {
                    candidate(session.simple().encode_lower(&mut Uuid::encode_buffer()));
                }
            }
        }
        true
    })?;
    if exact {
        return Ok(prefix.to_owned());
    }
    match (ids.len(), ids.first()) {
        (1, Some(id)) if !prefix.is_empty() => Ok(id.clone()),
        (0, _) => Err(RecordError::NoSuchSession(prefix.to_owned())),
        _ => Err(RecordError::Ambiguous {
            prefix: prefix.to_owned(),
            ids: ids.into_iter().take(NAMED).collect(),
        }),
    }
}
