//! What the programs of one session showed, in the order in which it was served.

use std::path::Path;

use serde::Serialize;

use super::super::RecordError;
use super::super::event::{Event, Verdict};
use super::super::output::{self, Parts};
use super::super::stamp::Stamp;
use super::about::{Part, about};
use super::resolve::resolve;
use super::transcript::millis;

/// The beginning of what a program printed, standard error among it. What is not UTF-8 is replaced.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Output {
    pub text: String,
    /// Bytes that are recorded and left out here.
    pub omitted: u64,
}

/// Bytes that are known by their number and digest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Content {
    /// `read`, `written`, or the name of a stream.
    pub what: &'static str,
    /// Which file, where there are several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    pub bytes: u64,
    pub sha256: Option<String>,
}

/// Something of a session's programs.
#[derive(Debug)]
pub enum Scene<'a> {
    /// The session began.
    Starts(Stamp),
    /// Operation `op` was let go on, or held: its command line.
    Begins {
        op: u64,
        text: &'a str,
    },
    Shows(output::Part<'a>),
    /// A command line that was read off the screen, which is a guess.
    Seen {
        op: u64,
        text: &'a str,
    },
}

/// Calls `each` with what the session showed whose id is, or alone begins with, `id`, and how many milliseconds after
/// its start; false when nothing is recorded of it in this way, as of a database's.
///
/// # Errors
/// As [`super::replay`].
pub fn screen(dir: &Path, id: &str, mut each: impl FnMut(u64, Scene<'_>)) -> Result<bool, RecordError> {
    let id = resolve(dir, id)?;
    let mut parts: Option<(Stamp, Parts)> = None;
    about(dir, &id, |_seq, time, part| match part {
        Part::Event(event) => match &*event {
            Event::SessionStart { protocol, .. } if protocol == "ssh" => {
                parts = Some((time, Parts::default()));
                each(0, Scene::Starts(time));
            }
            Event::Statement { op, sql, verdict: Verdict::Permit | Verdict::Hold, .. } => {
                if let Some((start, _)) = &parts {
                    each(millis(time, *start), Scene::Begins { op: *op, text: sql });
                }
            }
            Event::CommandSeen { op, text, .. } => {
                if let Some((start, _)) = &parts {
                    each(millis(time, *start), Scene::Seen { op: *op, text });
                }
            }
            _ => {}
        },
        Part::Sealed(_) => {}
        Part::Served(served) => {
            if let Some((start, parts)) = &mut parts {
                let at = millis(time, *start);
                parts.push(&served, |part| each(at, Scene::Shows(part)));
            }
        }
    })?;
    Ok(parts.is_some())
}
