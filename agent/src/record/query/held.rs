//! Which statement a request was about that waited for an approval.

use std::path::Path;

use super::super::RecordError;
use super::super::event::Event;
use super::super::packed;
use super::{Piece, walk};

/// SESSION/NUMBER of what waited under this id: clients are told the id, not the number.
pub(super) fn statement_of(dir: &Path, hold: &str) -> Result<Option<String>, RecordError> {
    let mut found = None;
    // Damage is told of by the pass that reads the session.
    walk(dir, |piece| {
        // An index does not tell of holds.
        let Piece::Record(frame) = piece else { return found.is_some() };
        let mentioned = || frame.payload.windows(hold.len()).any(|window| window == hold.as_bytes());
        if found.is_none()
            && mentioned()
            && let Some(event) = packed::event(frame)
        {
            found = statement(&event, hold);
        }
        true
    })?;
    Ok(found)
}

fn statement(event: &Event, id: &str) -> Option<String> {
    match event {
        Event::Statement { session, op, hold: Some(hold), .. } if hold == id => {
            Some(format!("{session}/{op}"))
        }
        Event::HoldResolved { session, op, hold, .. } if hold == id => Some(format!("{session}/{op}")),
        Event::AccessAsked(asked) if asked.hold == id => Some(format!("{}/0", asked.session)),
        _ => None,
    }
}
