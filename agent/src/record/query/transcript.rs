//! One session in full, statement by statement.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;

use serde::Serialize;
use sha2::{Digest as _, Sha256};

use super::super::RecordError;
use super::super::event::{Bind, Event, HoldOutcome, Step, Verdict, Workload};
use super::super::format::{Frame, Kind, hex};
use super::super::served::{self, Served};
use super::super::stamp::Stamp;
use super::rows::{Stream, Table};
use super::sessions::{Found, SessionSummary};
use super::{Piece, walk};

/// Candidates named when a prefix fits several sessions.
const NAMED: usize = 5;

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Transcript {
    pub session: SessionSummary,
    /// How it began; `None` when it was refused before, or that record is lost.
    pub start: Option<Start>,
    /// The connection as far as it was known, of a session that was refused.
    pub refused: Option<Event>,
    pub operations: Vec<Operation>,
    /// Bytes that were served and are recorded.
    pub served_bytes: u64,
    /// Places of the journal that could not be read; what was there may have been this session's.
    pub damage: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Start {
    pub client: String,
    pub original_destination: String,
    pub workload: Workload,
    pub claimed_user: String,
    pub database: String,
    pub application: Option<String>,
    pub upstream_user: String,
}

/// A statement and everything that became of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Operation {
    pub op: u64,
    /// Number of its record in the journal.
    pub seq: u64,
    pub time: Stamp,
    /// After the session's start.
    pub offset_ms: u64,
    /// Whole, or a step of the extended protocol.
    pub step: Step,
    /// The operation that prepared what is executed here; `sql` is its text.
    pub prepared: Option<u64>,
    pub sql: String,
    pub sql_sha256: String,
    /// `sql` is only the beginning of the text that the digest is of.
    pub sql_cut: bool,
    pub binds: Vec<Bind>,
    pub verdict: Verdict,
    pub policies: Vec<String>,
    /// The first 16 digits of the digest of the policies that were asked.
    pub policy: String,
    pub reason: Option<String>,
    pub masked: Vec<String>,
    pub hold: Option<Hold>,
    pub outcome: Option<Outcome>,
    /// The rows as they were served, where they are recorded.
    pub table: Option<Table>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Hold {
    pub id: String,
    /// `None` while it is waiting, or when the agent died before.
    pub outcome: Option<HoldOutcome>,
    pub by: Option<String>,
    pub comment: Option<String>,
    pub waited_ms: Option<u64>,
}

/// What the target answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Outcome {
    pub offset_ms: u64,
    pub rows: u64,
    pub bytes: u64,
    pub masked_cells: u64,
    pub tag: String,
    pub sqlstate: Option<String>,
}

impl Outcome {
    /// A string of several statements has a result for each.
    fn add(&mut self, next: Self) {
        self.offset_ms = next.offset_ms;
        self.rows += next.rows;
        self.bytes += next.bytes;
        self.masked_cells += next.masked_cells;
        self.tag.push_str("; ");
        self.tag.push_str(&next.tag);
        self.sqlstate = next.sqlstate.or(self.sqlstate.take());
    }
}

/// The session whose id is, or alone begins with, `id`, with up to `rows` rows of each result.
///
/// # Errors
/// `NoSuchSession`, `Ambiguous`; otherwise when the directory cannot be listed.
pub fn replay(dir: &Path, id: &str, rows: usize) -> Result<Transcript, RecordError> {
    let id = resolve(dir, id)?;
    let mut found = Found::new(None);
    let mut builder = Builder::new(rows);
    let damage = about(dir, &id, |seq, time, part| match part {
        Part::Event(event) => {
            found.take(time, &event);
            if event.session() == Some(&id) {
                builder.take(seq, time, *event);
            }
        }
        Part::Served(served) => builder.served(&served),
    })?;
    let session = found.into_summary(&id).ok_or(RecordError::NoSuchSession(id))?;
    let Builder { start, refused, operations, served_bytes, .. } = builder;
    Ok(Transcript { session, start, refused, operations, served_bytes, damage })
}

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
/// As [`replay`].
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

/// Calls `each` with the parts of what the session was served, in their order: the bytes as they went out.
///
/// # Errors
/// As [`replay`].
pub fn served(dir: &Path, id: &str, mut each: impl FnMut(&[u8])) -> Result<(), RecordError> {
    let id = resolve(dir, id)?;
    about(dir, &id, |_, _, part| {
        if let Part::Served(served) = part {
            each(&served.bytes);
        }
    })
    .map(drop)
}

/// Something a session left in the journal, or that says something about all sessions.
enum Part<'a> {
    Event(Box<Event>),
    Served(Served<'a>),
}

/// Calls `each` with what the journal holds of a session, and with the beginnings of agents, which end what was open.
fn about(
    dir: &Path,
    id: &str,
    mut each: impl FnMut(u64, Stamp, Part<'_>),
) -> Result<Vec<String>, RecordError> {
    let named = memchr::memmem::Finder::new(id.as_bytes());
    let mut unread = Vec::new();
    let mut take = |frame: &Frame<'_>| {
        let time = Stamp(frame.time_ns);
        match frame.kind {
            Kind::Served if served::session(frame.payload) == Some(id) => {
                if let Some(served) = served::decode(frame.payload) {
                    each(frame.seq, time, Part::Served(served));
                }
            }
            // An id that JSON would escape is not found by its bytes.
            Kind::Event
                if frame.payload.starts_with(br#"{"event":"agent_start""#)
                    || named.find(frame.payload).is_some()
                    || !id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') =>
            {
                if let Some(event) = super::event(frame)
                    && (event.session() == Some(id) || matches!(event, Event::AgentStart { .. }))
                {
                    each(frame.seq, time, Part::Event(Box::new(event)));
                }
            }
            Kind::Event | Kind::Served | Kind::Checkpoint | Kind::Tree => {}
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

/// Number of the record of a statement's decision; `id` is the session's id, or what alone begins with it, a slash and the
/// statement's number in it.
///
/// # Errors
/// As [`replay`]; `NoSuchStatement`.
pub fn receipt_seq(dir: &Path, id: &str) -> Result<u64, RecordError> {
    let missing = || RecordError::NoSuchStatement(id.to_owned());
    let (session, number) = id.rsplit_once('/').ok_or_else(missing)?;
    let number: u64 = number.parse().map_err(|_not_a_number| missing())?;
    let is_it = |recorded: &Recorded| matches!(recorded.event, Event::Statement { op, .. } if op == number);
    recorded(dir, session)?.iter().find(|recorded| is_it(recorded)).map(|it| it.seq).ok_or_else(missing)
}

/// Just enough of an event to see whose it is.
#[derive(serde::Deserialize)]
struct Peek<'a> {
    #[serde(borrow, default)]
    session: Option<std::borrow::Cow<'a, str>>,
}

fn resolve(dir: &Path, prefix: &str) -> Result<String, RecordError> {
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
            Piece::Record(_) => {}
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

struct Builder {
    begin: Option<Stamp>,
    start: Option<Start>,
    refused: Option<Event>,
    operations: Vec<Operation>,
    places: HashMap<u64, usize>,
    stream: Stream,
    served_bytes: u64,
}

impl Builder {
    fn new(rows: usize) -> Self {
        Self {
            begin: None,
            start: None,
            refused: None,
            operations: Vec::new(),
            places: HashMap::new(),
            stream: Stream::new(rows),
            served_bytes: 0,
        }
    }

    fn served(&mut self, served: &Served<'_>) {
        self.served_bytes += served.bytes.len() as u64;
        self.stream.push(served);
    }

    fn take(&mut self, seq: u64, time: Stamp, event: Event) {
        let offset_ms = millis(time, *self.begin.get_or_insert(time));
        match event {
            Event::SessionStart {
                client,
                original_destination,
                workload,
                claimed_user,
                database,
                application,
                upstream_user,
                ..
            } => {
                self.start = Some(Start {
                    client,
                    original_destination,
                    workload,
                    claimed_user,
                    database,
                    application,
                    upstream_user,
                });
            }
            Event::SessionRefused { .. } => self.refused = Some(event),
            Event::Statement {
                op,
                step,
                mut sql,
                mut sql_sha256,
                prepared,
                binds,
                verdict,
                policies,
                policy,
                reason,
                masked,
                hold,
                ..
            } => {
                if step == Step::Prepare && verdict == Verdict::Permit {
                    self.stream.parses(op);
                }
                if let Some(origin) = prepared.and_then(|prepared| self.operation(prepared)) {
                    sql.clone_from(&origin.sql);
                    sql_sha256.clone_from(&origin.sql_sha256);
                }
                let sql_cut = hex(&Sha256::digest(&sql)) != sql_sha256;
                let hold =
                    hold.map(|id| Hold { id, outcome: None, by: None, comment: None, waited_ms: None });
                self.places.insert(op, self.operations.len());
                self.operations.push(Operation {
                    op,
                    seq,
                    time,
                    offset_ms,
                    step,
                    prepared,
                    sql,
                    sql_sha256,
                    sql_cut,
                    binds,
                    verdict,
                    policies,
                    policy,
                    reason,
                    masked,
                    hold,
                    outcome: None,
                    table: None,
                });
            }
            Event::HoldResolved { op, hold, outcome, by, comment, .. } => {
                if let Some(operation) = self.operation(op) {
                    let waited_ms = Some(millis(time, operation.time));
                    operation.hold = Some(Hold { id: hold, outcome: Some(outcome), by, comment, waited_ms });
                }
            }
            Event::Result { op, rows, bytes, masked_cells, tag, sqlstate, served_to, .. } => {
                let prepared = self.operation(op).and_then(|operation| operation.prepared);
                let table = served_to.and_then(|to| self.stream.table(prepared, to));
                if let Some(operation) = self.operation(op) {
                    operation.table = table.or(operation.table.take());
                    let outcome = Outcome { offset_ms, rows, bytes, masked_cells, tag, sqlstate };
                    match &mut operation.outcome {
                        Some(sum) => sum.add(outcome),
                        none => *none = Some(outcome),
                    }
                }
            }
            Event::SessionEnd { .. }
            | Event::AgentStart { .. }
            | Event::HandOver { .. }
            | Event::Tampered { .. }
            | Event::AgentStop { .. }
            | Event::Reload { .. }
            | Event::Heartbeat { .. }
            | Event::Repair { .. }
            | Event::Pruned { .. }
            | Event::ClockSet { .. }
            | Event::KernelRefusal { .. }
            | Event::RefusalsUnlisted { .. }
            | Event::AccessAsked(_)
            | Event::GrantIssued(_)
            | Event::GrantUsed { .. }
            | Event::GrantEnded { .. }
            | Event::ForeignCredential { .. }
            | Event::AccountPowers { .. }
            | Event::Detected { .. }
            | Event::GuardDrop { .. }
            | Event::OldConnections { .. }
            | Event::Streams { .. }
            | Event::FileContent { .. }
            | Event::Control { .. } => {}
        }
    }

    fn operation(&mut self, op: u64) -> Option<&mut Operation> {
        self.places.get(&op).and_then(|at| self.operations.get_mut(*at))
    }
}

fn millis(time: Stamp, begin: Stamp) -> u64 {
    u64::try_from(time.since(begin).as_millis()).unwrap_or(u64::MAX)
}
