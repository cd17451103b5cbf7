//! One session in full, statement by statement.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use serde::Serialize;
use sha2::{Digest as _, Sha256};

use super::super::RecordError;
use super::super::event::{AccessAsked, Bind, Event, GrantUsed, HoldOutcome, Step, Verdict, Vote, Workload};
use super::super::format::hex;
use super::super::output::{Kind as OutputKind, Parts};
use super::super::served::Served;
use super::super::stamp::Stamp;
use super::about::{Part, about};
use super::resolve::resolve;
use super::rows::{Stream, Table};
use super::screen::{Content, Output};
use super::sessions::{Found, SessionSummary};

/// Of a program's output, as much is shown for each row that would be of a result.
const LINE: usize = 120;

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Transcript {
    pub session: SessionSummary,
    /// How it began; `None` when it was refused before, or that record is lost.
    pub start: Option<Start>,
    /// The connection as far as it was known, of a session that was refused.
    pub refused: Option<Event>,
    /// Who waited for somebody to let them in.
    pub asked: Option<AccessAsked>,
    pub operations: Vec<Operation>,
    /// Grants it lived on, as it began.
    pub grants: Vec<GrantUsed>,
    /// Bytes that were served and are recorded.
    pub served_bytes: u64,
    /// Bytes of raw values that are sealed to auditors.
    pub sealed_bytes: u64,
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
    /// What the program printed, where it is recorded; what went through it, or into a file and out of it.
    pub output: Option<Output>,
    pub contents: Vec<Content>,
    /// Command lines that were read off its terminal, which is a guess.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub seen: Vec<Seen>,
    /// Why files may be missing in that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unlisted: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Seen {
    /// After the session's start.
    pub offset_ms: u64,
    pub text: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Hold {
    pub id: String,
    /// `None` while it is waiting, or when the agent died before.
    pub outcome: Option<HoldOutcome>,
    pub by: Option<String>,
    pub comment: Option<String>,
    pub waited_ms: Option<u64>,
    /// What people said, those whose word did not count among them.
    pub votes: Vec<Vote>,
    /// By which dates in the statement are read: it was decided for these.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub settings: BTreeMap<String, String>,
}

impl Hold {
    fn waiting(id: String) -> Self {
        Self {
            id,
            outcome: None,
            by: None,
            comment: None,
            waited_ms: None,
            votes: Vec::new(),
            settings: BTreeMap::new(),
        }
    }
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
    /// What was left of limited grants behind it.
    pub grants: Vec<GrantUsed>,
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
        self.grants.extend(next.grants);
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
    let mut sealed_bytes = 0;
    let damage = about(dir, &id, |seq, time, part| match part {
        Part::Event(event) => {
            found.take(time, &event);
            if event.session() == Some(&id) {
                builder.take(seq, time, *event);
            }
        }
        Part::Served(served) => builder.served(&served),
        Part::Sealed(sealed) => sealed_bytes += u64::from(sealed.length),
    })?;
    builder.attach_outputs();
    let session = found.into_summary(&id).ok_or(RecordError::NoSuchSession(id))?;
    let Builder { start, refused, asked, operations, grants, served_bytes, .. } = builder;
    Ok(Transcript { session, start, refused, asked, operations, grants, served_bytes, sealed_bytes, damage })
}

struct Builder {
    begin: Option<Stamp>,
    start: Option<Start>,
    refused: Option<Event>,
    asked: Option<AccessAsked>,
    operations: Vec<Operation>,
    grants: Vec<GrantUsed>,
    places: HashMap<u64, usize>,
    stream: Stream,
    served_bytes: u64,
    /// Of a host's programs, with how much of each one's output is kept.
    programs: Option<Parts>,
    output_max: usize,
    outputs: HashMap<u64, (Vec<u8>, u64)>,
}

impl Builder {
    fn new(rows: usize) -> Self {
        Self {
            begin: None,
            start: None,
            refused: None,
            asked: None,
            operations: Vec::new(),
            grants: Vec::new(),
            places: HashMap::new(),
            stream: Stream::new(rows),
            served_bytes: 0,
            programs: None,
            output_max: rows.saturating_mul(LINE),
            outputs: HashMap::new(),
        }
    }

    fn served(&mut self, served: &Served<'_>) {
        self.served_bytes += served.bytes.len() as u64;
        let Some(parts) = &mut self.programs else { return self.stream.push(served) };
        parts.push(served, |part| {
            if !matches!(part.kind, OutputKind::Out | OutputKind::Err) {
                return;
            }
            let (kept, omitted) = self.outputs.entry(part.op).or_default();
            let room = self.output_max.saturating_sub(kept.len()).min(part.bytes.len());
            let (keep, rest) = part.bytes.split_at_checked(room).unwrap_or((part.bytes, &[]));
            kept.extend_from_slice(keep);
            *omitted += rest.len() as u64;
        });
    }

    /// What programs printed goes to their operations.
    fn attach_outputs(&mut self) {
        for (op, (kept, omitted)) in std::mem::take(&mut self.outputs) {
            if let Some(operation) = self.operation(op) {
                let text = String::from_utf8_lossy(&kept).into_owned();
                operation.output = Some(Output { text, omitted });
            }
        }
    }

    fn take(&mut self, seq: u64, time: Stamp, event: Event) {
        let offset_ms = millis(time, *self.begin.get_or_insert(time));
        match event {
            Event::SessionStart {
                protocol,
                client,
                original_destination,
                workload,
                claimed_user,
                database,
                application,
                upstream_user,
                ..
            } => {
                if protocol == "ssh" {
                    self.programs = Some(Parts::default());
                }
                self.start = Some(Start {
                    client,
                    original_destination,
                    workload: *workload,
                    claimed_user,
                    database,
                    application,
                    upstream_user,
                });
            }
            Event::SessionRefused { ref policies, ref reason, .. } => {
                if !self.places.contains_key(&0) {
                    self.connection(seq, time, Verdict::Deny, policies.clone(), Some(reason.clone()));
                }
                self.refused = Some(event);
            }
            Event::AccessAsked(asked) => {
                let AccessAsked { hold, policies, reason, .. } = *asked.clone();
                self.connection(seq, time, Verdict::Hold, policies, reason);
                if let Some(operation) = self.operation(0) {
                    operation.hold = Some(Hold::waiting(hold));
                }
                self.asked = Some(*asked);
            }
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
                let hold = hold.map(Hold::waiting);
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
                    binds: binds.to_vec(),
                    verdict,
                    policies: policies.to_vec(),
                    policy: policy.as_ref().to_owned(),
                    reason,
                    masked,
                    hold,
                    outcome: None,
                    table: None,
                    output: None,
                    contents: Vec::new(),
                    unlisted: None,
                    seen: Vec::new(),
                });
            }
            Event::HoldResolved { op, hold, outcome, by, comment, settings, .. } => {
                if let Some(operation) = self.operation(op) {
                    let waited_ms = Some(millis(time, operation.time));
                    let votes = operation.hold.take().map(|hold| hold.votes).unwrap_or_default();
                    let outcome = Some(outcome);
                    operation.hold =
                        Some(Hold { id: hold, outcome, by, comment, waited_ms, votes, settings });
                }
            }
            Event::Result { op, rows, bytes, masked_cells, tag, sqlstate, served_to, .. } => {
                let prepared = self.operation(op).and_then(|operation| operation.prepared);
                let table = served_to.and_then(|to| self.stream.table(prepared, to));
                if let Some(operation) = self.operation(op) {
                    operation.table = table.or(operation.table.take());
                    let grants = Vec::new();
                    let outcome = Outcome { offset_ms, rows, bytes, masked_cells, tag, sqlstate, grants };
                    match &mut operation.outcome {
                        Some(sum) => sum.add(outcome),
                        none => *none = Some(outcome),
                    }
                }
            }
            Event::Streams {
                op,
                stdin_bytes,
                stdin_sha256,
                stdout_bytes,
                stdout_sha256,
                stderr_bytes,
                stderr_sha256,
                masked,
                unlisted,
                ..
            } => {
                if let Some(operation) = self.operation(op) {
                    operation.masked.extend(masked);
                    operation.unlisted = unlisted;
                    for (what, bytes, sha256) in [
                        ("stdin", stdin_bytes, stdin_sha256),
                        ("stdout", stdout_bytes, stdout_sha256),
                        ("stderr", stderr_bytes, stderr_sha256),
                    ] {
                        operation.contents.push(Content { what, path: None, bytes, sha256: Some(sha256) });
                    }
                }
            }
            Event::Replicated {
                op,
                to_client_bytes,
                to_client_sha256,
                to_server_bytes,
                to_server_sha256,
                ..
            } => {
                if let Some(operation) = self.operation(op) {
                    for (what, bytes, sha256) in [
                        ("to client", to_client_bytes, to_client_sha256),
                        ("to server", to_server_bytes, to_server_sha256),
                    ] {
                        operation.contents.push(Content { what, path: None, bytes, sha256: Some(sha256) });
                    }
                }
            }
            Event::FileContent { op, path, read_bytes, written_bytes, sha256, .. } => {
                if let Some(operation) = self.operation(op) {
                    let (what, bytes) =
                        if written_bytes > 0 { ("written", written_bytes) } else { ("read", read_bytes) };
                    operation.contents.push(Content { what, path, bytes, sha256 });
                }
            }
            Event::CommandSeen { op, text, .. } => {
                let offset_ms = millis(time, *self.begin.get_or_insert(time));
                if let Some(operation) = self.operation(op) {
                    operation.seen.push(Seen { offset_ms, text });
                }
            }
            Event::GrantUsed(used) => match used.op {
                None => self.grants.push(*used),
                Some(op) => {
                    if let Some(outcome) = self.operation(op).and_then(|it| it.outcome.as_mut()) {
                        outcome.grants.retain(|before| before.grant != used.grant);
                        outcome.grants.push(*used);
                    }
                }
            },
            Event::Vote(vote) => {
                if let Some(hold) = self.operation(vote.op).and_then(|it| it.hold.as_mut()) {
                    hold.votes.push(*vote);
                }
            }
            Event::SessionEnd { .. }
            | Event::HoldEscalated { .. }
            | Event::AgentStart { .. }
            | Event::HandOver { .. }
            | Event::Tampered { .. }
            | Event::AgentStop { .. }
            | Event::Reload { .. }
            | Event::Heartbeat { .. }
            | Event::JournalFilling { .. }
            | Event::Repair { .. }
            | Event::Pruned { .. }
            | Event::ClockSet { .. }
            | Event::KernelRefusal { .. }
            | Event::RefusalsUnlisted { .. }
            | Event::GrantIssued(_)
            | Event::GrantEnded { .. }
            | Event::ForeignCredential { .. }
            | Event::AccountPowers { .. }
            | Event::LabelMoved { .. }
            | Event::Detected { .. }
            | Event::GuardDrop { .. }
            | Event::OldConnections { .. }
            | Event::Control { .. } => {}
        }
    }

    /// The decision about the connection itself: number 0.
    fn connection(
        &mut self,
        seq: u64,
        time: Stamp,
        verdict: Verdict,
        policies: Vec<String>,
        reason: Option<String>,
    ) {
        self.places.insert(0, self.operations.len());
        self.operations.push(Operation {
            op: 0,
            seq,
            time,
            offset_ms: 0,
            step: Step::Connect,
            prepared: None,
            sql: String::new(),
            sql_sha256: String::new(),
            sql_cut: false,
            binds: Vec::new(),
            verdict,
            policies,
            policy: String::new(),
            reason,
            masked: Vec::new(),
            hold: None,
            outcome: None,
            table: None,
            output: None,
            contents: Vec::new(),
            unlisted: None,
            seen: Vec::new(),
        });
    }

    fn operation(&mut self, op: u64) -> Option<&mut Operation> {
        self.places.get(&op).and_then(|at| self.operations.get_mut(*at))
    }
}

pub(super) fn millis(time: Stamp, begin: Stamp) -> u64 {
    u64::try_from(time.since(begin).as_millis()).unwrap_or(u64::MAX)
}
