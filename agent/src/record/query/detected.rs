//! What sessions were served that looked like personal data, where no label said so.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;

use super::super::RecordError;
use super::super::event::Event;
use super::super::stamp::Stamp;

/// A place, and what its values look like.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Seen {
    pub target: String,
    pub database: String,
    pub place: String,
    pub column: bool,
    pub kind: String,
    /// When and in which session it was first told.
    pub time: Stamp,
    pub session: String,
    pub hits: u32,
    pub values: u32,
}

/// Each place and kind once, as first told, and what could not be read.
///
/// # Errors
/// When the directory cannot be listed.
pub fn detected(dir: &Path, wanted: Option<&str>) -> Result<(Vec<Seen>, Vec<String>), RecordError> {
    let mut seen = BTreeMap::new();
    let damage = super::events(dir, |_, time, event| {
        if let Event::Detected { session, target, database, place, column, kind, hits, values } = event
            && wanted.is_none_or(|wanted| wanted == target)
        {
            let key = (target.clone(), database.clone(), !column, place.clone(), kind.clone());
            seen.entry(key).or_insert(Seen {
                target,
                database,
                place,
                column,
                kind,
                time,
                session,
                hits,
                values,
            });
        }
    })?;
    Ok((seen.into_values().collect(), damage))
}
