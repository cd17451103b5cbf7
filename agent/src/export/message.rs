//! An event on its way out: the journal's own JSON with its numbers, or as OCSF.

use serde_json::{Value, json};

use super::ocsf;
use crate::record::Followed;
use crate::record::event::{Event, Verdict};

/// What is the same in all messages to a receiver.
pub(super) struct Origin {
    pub(super) host: String,
    pub(super) ocsf: Option<ocsf::Mapper>,
}

pub(super) struct Message {
    /// Counts from 1 and leaves nothing out: a receiver that misses one sees it.
    pub(super) number: u64,
    pub(super) time_ns: u64,
    pub(super) host: String,
    /// What happened was refused, or somebody should look at it.
    pub(super) bad: bool,
    /// Name of the event.
    pub(super) kind: String,
    /// One line.
    pub(super) json: String,
}

impl Message {
    pub(super) fn new(origin: &mut Origin, number: u64, followed: &Followed) -> Self {
        let mut event: Value = serde_json::from_str(&followed.json).unwrap_or(Value::Null);
        let kind = event.get("event").and_then(Value::as_str).unwrap_or("unknown").to_owned();
        let bad = kind == "export_gap"
            || matches!(
                followed.event,
                Some(
                    Event::SessionRefused { .. }
                        | Event::KernelRefusal { .. }
                        | Event::Tampered { .. }
                        | Event::ForeignCredential { .. }
                        | Event::JournalFilling { .. }
                        | Event::Statement { verdict: Verdict::Deny, .. }
                )
            );
        let numbers = json!({
            "number": number,
            "seq": followed.seq,
            "time": format!("{:#}", followed.time),
            "host": origin.host,
        });
        let whole = match &mut origin.ocsf {
            Some(mapper) => mapper.map(followed, &event, &numbers),
            None => {
                if let (Some(event), Some(numbers)) = (event.as_object_mut(), numbers.as_object()) {
                    event.extend(numbers.clone());
                }
                event
            }
        };
        let (host, time_ns) = (origin.host.clone(), followed.time.0);
        Self { number, time_ns, host, bad, kind, json: whole.to_string() }
    }
}
