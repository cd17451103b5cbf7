//! The list of sessions, one line of numbers each.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::super::RecordError;
use super::super::event::{Event, Step, Verdict};
use super::super::packed;
use super::super::stamp::Stamp;
use super::index::Index;
use super::{Piece, walk};

/// What a session must be like to be listed; the default lists all. All that is set must hold.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    pub identity: Option<String>,
    pub target: Option<String>,
    /// Sessions that were there at or after this moment.
    pub since: Option<Stamp>,
    /// Sessions that began before this moment.
    pub until: Option<Stamp>,
    /// With at least one denied statement, or refused altogether.
    pub denied: bool,
    /// With at least one statement that was held for approval.
    pub held: bool,
    /// With this text in a statement, whatever its case.
    pub text: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SessionState {
    /// No end is recorded and the agent was not started again since.
    Open,
    Ended,
    /// The connection did not become a session.
    Refused,
    /// No end is recorded, and the agent was started again since: it had died.
    Lost,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionSummary {
    pub id: String,
    pub state: SessionState,
    pub start: Stamp,
    pub end: Option<Stamp>,
    pub identity: Option<String>,
    pub groups: Vec<String>,
    pub protocol: Option<String>,
    pub target: Option<String>,
    pub database: Option<String>,
    /// The user name the client sent: a claim, used for nothing.
    pub claimed_user: Option<String>,
    pub statements: u64,
    pub denied: u64,
    pub held: u64,
    /// Rows that the results of its statements had.
    pub rows: u64,
    /// Why it ended, or why it was refused.
    pub end_reason: Option<String>,
}

/// What was found, in the order of the sessions' beginnings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Listing {
    pub sessions: Vec<SessionSummary>,
    /// Places of the journal that could not be read.
    pub damage: Vec<String>,
}

/// # Errors
/// When the directory cannot be listed.
pub fn sessions(dir: &Path, filter: &Filter) -> Result<Listing, RecordError> {
    let mut found = Found::new(filter.text.as_deref());
    let damage = walk(dir, |piece| match piece {
        Piece::Segment(index) => found.take_segment(index),
        Piece::Record(frame) => {
            if let Some(event) = packed::event(frame) {
                found.take(Stamp(frame.time_ns), &event);
            }
            true
        }
    })?;
    let sessions = found.rows.into_iter().filter(|row| filter.takes(row)).map(|row| row.summary).collect();
    Ok(Listing { sessions, damage })
}

impl Filter {
    fn takes(&self, row: &Row) -> bool {
        let Row { summary, has_text } = row;
        let same = |wanted: &Option<String>, is: &Option<String>| wanted.is_none() || wanted == is;
        same(&self.identity, &summary.identity)
            && same(&self.target, &summary.target)
            && self.since.is_none_or(|since| summary.end.is_none_or(|end| end >= since))
            && self.until.is_none_or(|until| summary.start < until)
            && (!self.denied || summary.denied > 0 || summary.state == SessionState::Refused)
            && (!self.held || summary.held > 0)
            && (self.text.is_none() || *has_text)
    }
}

/// The sessions seen so far.
#[derive(Default)]
pub(super) struct Found {
    text: Option<String>,
    places: HashMap<String, usize>,
    rows: Vec<Row>,
    /// Sessions before this place cannot be open any more.
    settled: usize,
}

struct Row {
    summary: SessionSummary,
    has_text: bool,
}

impl Found {
    pub(super) fn new(text: Option<&str>) -> Self {
        Self { text: text.map(str::to_lowercase), places: HashMap::new(), rows: Vec::new(), settled: 0 }
    }

    pub(super) fn take(&mut self, time: Stamp, event: &Event) {
        if let Event::AgentStart { predecessor, .. } = event {
            return self.agent_start(time, predecessor.is_some());
        }
        let Some(session) = event.session() else { return };
        let text = self.text.clone();
        if let Some(row) = self.row(session, time) {
            row.take(time, event, text.as_deref());
        }
    }

    /// What a whole segment says; `false`, and nothing was taken, when its index is damaged.
    fn take_segment(&mut self, index: &Index) -> bool {
        let mut with_text = HashSet::new();
        if let Some(wanted) = &self.text
            && !index.texts(|text| {
                if !with_text.contains(&text.session) && text.sql.to_lowercase().contains(wanted) {
                    with_text.insert(text.session);
                }
            })
        {
            return false;
        }
        let mut starts = index.directory.starts.iter().peekable();
        for (at, entry) in index.directory.sessions.iter().enumerate() {
            while let Some(start) = starts.next_if(|start| start.seq < entry.seq) {
                self.agent_start(start.time, start.took_over);
            }
            let Some(part) = &entry.summary else { continue };
            if let Some(row) = self.row(&part.id, part.start) {
                row.add(part, with_text.contains(&at));
            }
        }
        starts.for_each(|start| self.agent_start(start.time, start.took_over));
        true
    }

    fn agent_start(&mut self, time: Stamp, took_over: bool) {
        // The sessions of an agent that was taken over from live on.
        if !took_over {
            self.agent_started(time);
        }
    }

    pub(super) fn into_summaries(self) -> impl Iterator<Item = SessionSummary> {
        self.rows.into_iter().map(|row| row.summary)
    }

    pub(super) fn into_summary(self, id: &str) -> Option<SessionSummary> {
        let at = *self.places.get(id)?;
        self.rows.into_iter().nth(at).map(|row| row.summary)
    }

    fn row(&mut self, session: &str, time: Stamp) -> Option<&mut Row> {
        let at = match self.places.get(session) {
            Some(at) => *at,
            None => {
                self.rows.push(Row::new(session, time));
                self.places.insert(session.to_owned(), self.rows.len() - 1);
                self.rows.len() - 1
            }
        };
        self.rows.get_mut(at)
    }

    fn agent_started(&mut self, time: Stamp) {
        let open = self.rows.iter_mut().skip(self.settled).map(|row| &mut row.summary);
        for summary in open.filter(|summary| summary.state == SessionState::Open) {
            summary.state = SessionState::Lost;
            // No later than this; when exactly is not known.
            summary.end = Some(time);
            summary.end_reason = Some("no end was recorded: the agent died".to_owned());
        }
        self.settled = self.rows.len();
    }
}

impl Row {
    fn new(session: &str, start: Stamp) -> Self {
        let summary = SessionSummary {
            id: session.to_owned(),
            state: SessionState::Open,
            start,
            end: None,
            identity: None,
            groups: Vec::new(),
            protocol: None,
            database: None,
            claimed_user: None,
            target: None,
            statements: 0,
            denied: 0,
            held: 0,
            rows: 0,
            end_reason: None,
        };
        Self { summary, has_text: false }
    }

    /// What came later of the same session.
    fn add(&mut self, part: &SessionSummary, has_text: bool) {
        let Self { summary, has_text: had_text } = self;
        if part.protocol.is_some() || part.state == SessionState::Refused {
            summary.identity.clone_from(&part.identity);
            summary.groups.clone_from(&part.groups);
            summary.target.clone_from(&part.target);
        }
        if part.protocol.is_some() {
            summary.protocol.clone_from(&part.protocol);
            summary.database.clone_from(&part.database);
            summary.claimed_user.clone_from(&part.claimed_user);
        }
        summary.statements += part.statements;
        summary.denied += part.denied;
        summary.held += part.held;
        summary.rows += part.rows;
        if part.state != SessionState::Open {
            (summary.state, summary.end) = (part.state, part.end);
            summary.end_reason.clone_from(&part.end_reason);
        }
        *had_text |= has_text;
    }

    fn take(&mut self, time: Stamp, event: &Event, text: Option<&str>) {
        let Self { summary, has_text } = self;
        match event {
            Event::SessionStart { protocol, target, identity, database, claimed_user, .. } => {
                summary.database = Some(database.clone());
                summary.claimed_user = Some(claimed_user.clone());
                summary.identity = Some(identity.name.clone());
                summary.groups.clone_from(&identity.groups);
                summary.protocol = Some(protocol.clone());
                summary.target = Some(target.clone());
            }
            Event::SessionRefused { target, identity, reason, .. } => {
                summary.state = SessionState::Refused;
                summary.end = Some(time);
                summary.identity = identity.as_ref().map(|identity| identity.name.clone());
                summary.groups =
                    identity.as_ref().map(|identity| identity.groups.clone()).unwrap_or_default();
                summary.target.clone_from(target);
                summary.end_reason = Some(reason.clone());
            }
            Event::Statement { sql, verdict, step, .. } => {
                // What was only prepared did not run.
                summary.statements += u64::from(*step != Step::Prepare);
                summary.denied += u64::from(*verdict == Verdict::Deny);
                summary.held += u64::from(*verdict == Verdict::Hold);
                *has_text = *has_text || text.is_some_and(|text| sql.to_lowercase().contains(text));
            }
            Event::Result { rows, .. } => summary.rows += rows,
            Event::SessionEnd { reason, .. } => {
                summary.state = SessionState::Ended;
                summary.end = Some(time);
                summary.end_reason = Some(reason.clone());
            }
            Event::HoldResolved { .. }
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
            | Event::AccessAsked(_)
            | Event::GrantIssued(_)
            | Event::GrantUsed(_)
            | Event::Vote(_)
            | Event::GrantEnded { .. }
            | Event::ForeignCredential { .. }
            | Event::AccountPowers { .. }
            | Event::LabelMoved { .. }
            | Event::Detected { .. }
            | Event::GuardDrop { .. }
            | Event::OldConnections { .. }
            | Event::Streams { .. }
            | Event::Replicated { .. }
            | Event::FileContent { .. }
            | Event::CommandSeen { .. }
            | Event::Control { .. } => {}
        }
    }
}
