//! The receipt of a decision: everything the journal knows about who asked what, who decided, and what came of it.

use std::path::Path;

use serde::Serialize;

use super::super::RecordError;
use super::super::event::{AccessAsked, Event, GrantUsed, Identity, Step, Verdict, Workload};
use super::super::format::Kind;
use super::super::packed;
use super::super::stamp::Stamp;
use super::Piece;
use super::transcript::{Hold, Outcome, Start, replay};

/// Of one statement, or of the connection itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Receipt {
    pub id: String,
    /// The record of the decision, for `prove`.
    pub seq: u64,
    pub time: Stamp,
    pub identity: Option<Identity>,
    pub workload: Option<Workload>,
    pub client: Option<String>,
    pub target: Option<String>,
    pub original_destination: Option<String>,
    pub database: Option<String>,
    /// What the client said it was: a claim.
    pub claimed_user: Option<String>,
    pub upstream_user: Option<String>,
    pub step: Step,
    pub sql: String,
    pub sql_sha256: String,
    pub binds: usize,
    pub verdict: Verdict,
    pub policies: Vec<String>,
    /// Digest of the policies that were asked: all of it where the journal says which were in force.
    pub policy_sha256: String,
    pub reason: Option<String>,
    pub masked: Vec<String>,
    pub hold: Option<Hold>,
    pub outcome: Option<Outcome>,
    /// Grants the session lived on, with what was left of them: behind this statement, where it took of them, else when the
    /// session began.
    pub grants: Vec<GrantUsed>,
    /// Whether what was served is in the journal, or only that it was.
    pub rows_recorded: bool,
}

/// The receipt of the statement `id`: SESSION/NUMBER, where the session's id may be cut as far as it stays the only one;
/// number 0 is the connection, where that was asked for or refused. Or the id of a request that waited for an approval.
///
/// # Errors
/// `NoSuchStatement`, and as [`replay`].
pub fn receipt(dir: &Path, id: &str) -> Result<Receipt, RecordError> {
    let missing = || RecordError::NoSuchStatement(id.to_owned());
    let statement = match id.starts_with("h-") {
        true => super::held::statement_of(dir, id)?.ok_or_else(missing)?,
        false => id.to_owned(),
    };
    let (session, number) = statement.rsplit_once('/').ok_or_else(missing)?;
    let number: u64 = number.parse().map_err(|_not_a_number| missing())?;
    let transcript = replay(dir, session, 0)?;
    let operation =
        transcript.operations.into_iter().find(|operation| operation.op == number).ok_or_else(missing)?;
    let (start, summary) = (transcript.start, transcript.session);
    let mut grants = transcript.grants;
    for behind in operation.outcome.iter().flat_map(|outcome| &outcome.grants) {
        grants.retain(|before| before.grant != behind.grant);
        grants.push(behind.clone());
    }
    let who = Who::of(start, transcript.refused, transcript.asked);
    let policy_sha256 = match operation.policy.as_str() {
        "" => String::new(),
        beginning => whole_digest(dir, beginning)?.unwrap_or_else(|| beginning.to_owned()),
    };
    Ok(Receipt {
        id: format!("{}/{number}", summary.id),
        seq: operation.seq,
        time: operation.time,
        identity: summary.identity.map(|name| Identity { name, groups: summary.groups }),
        workload: who.workload,
        client: who.client,
        target: summary.target.or(who.target),
        original_destination: who.original_destination,
        database: summary.database.or(who.database),
        claimed_user: who.claimed_user,
        upstream_user: who.upstream_user,
        step: operation.step,
        sql: operation.sql,
        sql_sha256: operation.sql_sha256,
        binds: operation.binds.len(),
        verdict: operation.verdict,
        policies: operation.policies,
        policy_sha256,
        reason: operation.reason,
        masked: operation.masked,
        hold: operation.hold,
        outcome: operation.outcome,
        grants,
        rows_recorded: operation.table.is_some() || operation.output.is_some(),
    })
}

/// Who it was, as far as that got to be known.
#[derive(Default)]
struct Who {
    client: Option<String>,
    original_destination: Option<String>,
    workload: Option<Workload>,
    claimed_user: Option<String>,
    upstream_user: Option<String>,
    target: Option<String>,
    database: Option<String>,
}

impl Who {
    fn of(start: Option<Start>, refused: Option<Event>, asked: Option<AccessAsked>) -> Self {
        let mut who = Self::default();
        if let Some(asked) = asked {
            who.workload = Some(asked.workload);
            who.claimed_user = Some(asked.claimed_user);
            (who.target, who.database) = (Some(asked.target), Some(asked.database));
        }
        if let Some(Event::SessionRefused { client, workload, original_destination, .. }) = refused {
            who.client = Some(client);
            who.workload = workload.map(|workload| *workload).or(who.workload);
            who.original_destination = original_destination;
        }
        if let Some(start) = start {
            who.client = Some(start.client);
            who.original_destination = Some(start.original_destination);
            who.workload = Some(start.workload);
            who.claimed_user = Some(start.claimed_user);
            who.upstream_user = Some(start.upstream_user);
        }
        who
    }
}

/// The digest of policies that were once in force, of which `beginning` is the beginning.
fn whole_digest(dir: &Path, beginning: &str) -> Result<Option<String>, RecordError> {
    let mut found = None;
    let told: [&[u8]; 2] = [br#"{"event":"agent_start""#, br#"{"event":"reload""#];
    super::walk(dir, |piece| {
        let frame = match piece {
            Piece::Segment(index) => {
                let mut whole = index.directory.policies.iter();
                let fits = |digest: &&String| !beginning.is_empty() && digest.starts_with(beginning);
                found = found.take().or_else(|| whole.find(fits).cloned());
                return true;
            }
            Piece::Record(frame) => frame,
        };
        if found.is_none()
            && frame.kind == Kind::Event
            && told.iter().any(|event| frame.payload.starts_with(event))
            && let Some(Event::AgentStart { policy_sha256, .. } | Event::Reload { policy_sha256, .. }) =
                packed::event(frame)
            && !beginning.is_empty()
            && policy_sha256.starts_with(beginning)
        {
            found = Some(policy_sha256);
        }
        true
    })?;
    Ok(found)
}
