//! What the journal says about a session, as `chaperone sessions` and `chaperone replay` tell it.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::agent::Agent;
use super::packed;
use super::spawn::wait_for;

/// The events of one session, in order.
pub(crate) struct Trail {
    pub(crate) session: String,
    events: Vec<Value>,
}

impl Trail {
    /// The last session whose client claimed to be `user`, once it has ended.
    pub(crate) fn of(agent: &Agent, user: &str) -> Result<Self> {
        Self::when(agent, user, |trail| trail.first("session_end").is_ok())
    }

    /// The same, as soon as `enough` is content.
    pub(crate) fn when(agent: &Agent, user: &str, enough: impl Fn(&Self) -> bool) -> Result<Self> {
        let what = format!("a complete record of the session of `{user}`");
        let mut last = Self { session: String::new(), events: Vec::new() };
        let found = wait_for(&what, Duration::from_secs(10), || {
            let Some(session) = session_of(agent, user)? else { return Ok(None) };
            let text = agent.command(&["replay", &session, "--events"])?.ok()?;
            last = Self { session, events: values(&text).with_context(|| text.clone())? };
            Ok(enough(&last).then_some(()))
        });
        found.with_context(|| format!("recorded so far: {}", Value::from(last.events.clone())))?;
        Ok(last)
    }

    pub(crate) fn all(&self, kind: &str) -> Vec<&Value> {
        self.events.iter().map(body).filter(|event| event["event"] == kind).collect()
    }

    pub(crate) fn first(&self, kind: &str) -> Result<&Value> {
        self.all(kind).into_iter().next().with_context(|| format!("no {kind} in {}", self.session))
    }

    /// The record of the statement with this text; psql sends the semicolon along. Of a prepared statement, that of
    /// its first execution, if it was executed.
    pub(crate) fn statement(&self, sql: &str) -> Result<&Value> {
        let statements = self.all("statement");
        let found = statements.iter().find(|event| text(event, "sql") == sql).copied();
        let found =
            found.with_context(|| format!("no statement `{sql}` in {}: {statements:?}", self.session))?;
        Ok(statements.into_iter().find(|event| event["prepared"] == found["op"]).unwrap_or(found))
    }

    /// The record of what the target answered to it.
    pub(crate) fn result(&self, sql: &str) -> Result<&Value> {
        let op = &self.statement(sql)?["op"];
        let found = self.all("result").into_iter().find(|event| &event["op"] == op);
        found.with_context(|| format!("no result of `{sql}` (op {op}) in {}", self.session))
    }

    /// The id of a hold nobody has decided on yet.
    pub(crate) fn open_hold(&self) -> Option<String> {
        let resolved: Vec<&Value> =
            self.all("hold_resolved").into_iter().map(|event| &event["hold"]).collect();
        let statements = self.all("statement").into_iter().filter(|event| event["verdict"] == "hold");
        let open = statements.map(|event| &event["hold"]).find(|hold| !resolved.contains(hold))?;
        open.as_str().map(str::to_owned)
    }

    /// Every statement with its verdict, for comparing at a glance.
    pub(crate) fn verdicts(&self) -> Vec<(String, String)> {
        self.all("statement").into_iter().map(|event| (text(event, "sql"), text(event, "verdict"))).collect()
    }
}

/// Asserts fields of an event; `wanted` is an object whose fields the event must hold with these values.
pub(crate) fn holds(event: &Value, wanted: &Value) -> Result<()> {
    for (name, value) in wanted.as_object().context("a test compares with an object")? {
        ensure!(&event[name] == value, "{name} is {}, expected {value}, in {event}", event[name]);
    }
    Ok(())
}

/// The sessions `chaperone sessions --json` lists.
pub(crate) fn sessions(agent: &Agent) -> Result<Vec<Value>> {
    let text = agent.command(&["sessions", "--json"])?.ok()?;
    let listing: Value = serde_json::from_str(&text).with_context(|| text.clone())?;
    ensure!(listing["damage"] == Value::Array(Vec::new()), "damage in the journal: {text}");
    Ok(listing["sessions"].as_array().cloned().unwrap_or_default())
}

/// Every event in the journal, also those that belong to no session, read from its segments as docs/journal.md
/// describes them.
pub(crate) fn everything(agent: &Agent) -> Result<Vec<Value>> {
    const HEADER: usize = 120;
    const FRAME: usize = 60;
    const EVENT: u32 = 1;
    let mut segments: Vec<PathBuf> =
        fs::read_dir(agent.written_journal()?)?.flatten().map(|entry| entry.path()).collect();
    segments.retain(|path| path.extension().is_some_and(|extension| extension == "chj"));
    segments.sort();
    let mut events = Vec::new();
    for segment in segments {
        let bytes = fs::read(&segment)?;
        let mut rest = bytes.get(HEADER..).unwrap_or_default();
        while let Some(length) = rest.first_chunk::<4>() {
            let Some((frame, after)) = rest.split_at_checked(8 + u32::from_le_bytes(*length) as usize) else {
                break; // Being written right now.
            };
            rest = after;
            let kind = u32::from_le_bytes(frame[8..12].try_into()?);
            if kind == EVENT {
                events.push(serde_json::from_slice(&frame[FRAME..]).context("reading an event")?);
            } else {
                events.extend(packed::event(kind, &frame[FRAME..])?);
            }
        }
    }
    Ok(events)
}

fn session_of(agent: &Agent, user: &str) -> Result<Option<String>> {
    let found = sessions(agent)?.into_iter().rev().find(|session| session["claimed_user"] == user);
    Ok(found.and_then(|session| session["id"].as_str().map(str::to_owned)))
}

/// One value per line.
fn values(text: &str) -> Result<Vec<Value>> {
    let stream = serde_json::Deserializer::from_str(text).into_iter::<Value>();
    stream.collect::<Result<Vec<_>, _>>().context("reading JSON")
}

fn text(event: &Value, field: &str) -> String {
    event[field].as_str().unwrap_or_default().trim_end_matches(';').to_owned()
}

/// The event inside its envelope of number and time.
fn body(record: &Value) -> &Value {
    &record["event"]
}
