//! A connection that asks for access: told so, waiting, and let in once it is granted.
//!
//! No byte goes to the target before the grant. How a client is told something in its own protocol, and how it is told no, is
//! the protocol's business.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use chaperone_policy::Decision;
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;
use tracing::info;

use super::Admitted;
use crate::gate::{
    Admission, Asker, Entry, Gate, GrantError, Held, HoldInfo, Need, Now, Place, Resolution, Ticket, TooMany,
};
use crate::record::Journal;
use crate::record::event::{AccessAsked, Event, GrantIssued, HoldOutcome};
use crate::registry::Command;

/// A client that says more than this before it is let in is up to something.
const AHEAD_MAX: usize = 64 << 10;

/// Connections of one identity that wait at once: each takes one of the places for all.
const MOST_WAITING: usize = 32;

/// The client of a connection that waits.
pub(super) trait Waiting {
    /// Why it cannot be reached any more.
    type Failure;

    /// Says that its request waits, and for how long at most.
    async fn tell(&mut self, info: &HoldInfo, timeout: Duration) -> Result<(), Self::Failure>;

    /// Waits until it says something, or hangs up. Cancelling loses nothing.
    async fn read(&mut self) -> Result<(), Self::Failure>;

    /// Bytes it sent that nobody has looked at.
    fn ahead(&self) -> usize;
}

/// Everything the question is about.
pub(super) struct Asking<'a> {
    pub(super) gate: &'a Arc<Gate>,
    pub(super) journal: &'a Journal,
    pub(super) admitted: &'a Admitted,
    pub(super) place: Place<'a>,
    /// As whom the client wants to log in.
    pub(super) claimed_user: &'a str,
}

/// Why a connection is not let in. `F` is what may happen to its client.
#[derive(Debug)]
pub(super) enum No<F> {
    Denied(Box<Decision>),
    Grant(GrantError),
    Unrecorded,
    /// The request is noted; who connects again after the yes gets in.
    Parked {
        id: String,
        why: Box<Decision>,
        stands: Duration,
    },
    NotParked(TooMany),
    /// As many connections of the identity wait already.
    TooMany(usize),
    TooMuchAhead,
    Client(F),
    Killed(String),
    Expired(String),
    Refused {
        id: String,
        comment: Option<String>,
    },
    /// It was granted, and is not enough by now.
    NeedsMore,
}

/// With the rules that decided.
type Refusal<F> = (No<F>, Vec<String>);

/// What ended the wait.
enum Woken<F> {
    Resolved(Option<Resolution>),
    /// A grant or a policy changed.
    Changed,
    Killed(String),
    Client(Result<(), F>),
}

impl Asking<'_> {
    /// Whether the identity may in: at once, or after somebody granted it.
    pub(super) async fn enter<W: Waiting>(
        &self,
        client: &mut W,
        command_rx: &mut mpsc::Receiver<Command>,
    ) -> Result<Admission, Refusal<W::Failure>> {
        match self.decide()? {
            Ok(admission) => Ok(admission),
            Err(decision) if self.admitted.retry => {
                let policies = decision.policies.clone();
                Err((self.park(decision), policies))
            }
            Err(decision) => self.wait(client, command_rx, &decision).await,
        }
    }

    /// Let in, or the decision that holds it.
    fn decide<F>(&self) -> Result<Result<Admission, Box<Decision>>, Refusal<F>> {
        let entry = self.gate.enter(&self.admitted.principal, self.place, &self.admitted.id);
        match entry.map_err(|error| (No::Grant(error), Vec::new()))? {
            Entry::Admitted(admission) => Ok(Ok(admission)),
            Entry::Ask(decision) => Ok(Err(Box::new(decision))),
            Entry::Refused(decision) => {
                let policies = decision.policies.clone();
                Err((No::Denied(Box::new(decision)), policies))
            }
        }
    }

    /// Notes the request and refuses; it is granted, or not, without anybody waiting.
    fn park<F>(&self, why: Box<Decision>) -> No<F> {
        let info = self.hold(&why);
        let mut asked = self.asked(&info);
        let stands = self.gate.hold_timeout();
        let id = match self.gate.holds().park(info, stands) {
            Ok((id, new)) => {
                asked.hold.clone_from(&id);
                if new && let Err(no) = self.record(Event::AccessAsked(Box::new(asked))) {
                    return no;
                }
                id
            }
            Err(error) => return No::NotParked(error),
        };
        No::Parked { id, why, stands }
    }

    async fn wait<W: Waiting>(
        &self,
        client: &mut W,
        command_rx: &mut mpsc::Receiver<Command>,
        decision: &Decision,
    ) -> Result<Admission, Refusal<W::Failure>> {
        let failed = |no| (no, decision.policies.clone());
        if self.gate.holds().asking(self.admitted.principal.name()) >= MOST_WAITING {
            return Err(failed(No::TooMany(MOST_WAITING)));
        }
        let mut grants_rx = self.gate.grants().subscribe();
        let mut policy_rx = self.gate.subscribe();
        let info = self.hold(decision);
        let id = info.id.clone();
        // The record of the request goes first, as of everything the client is told.
        self.record(Event::AccessAsked(Box::new(self.asked(&info)))).map_err(failed)?;
        let ttl = info.needs.iter().map(|need| Duration::from_secs(need.ttl_s)).min();
        let timeout = ttl.map_or(self.gate.hold_timeout(), |ttl| ttl.min(self.gate.hold_timeout()));
        let mut ticket = self.gate.holds().open(info, timeout);
        info!(hold = id, "access asked for");
        if let Err(failure) = client.tell(&ticket.info, timeout).await {
            self.resolved(&id, HoldOutcome::Withdrawn, None, None).map_err(failed)?;
            return Err(failed(No::Client(failure)));
        }
        loop {
            let woken = tokio::select! {
                biased;
                command = command_rx.recv() => match command {
                    Some(Command::Withdraw) => continue,
                    Some(Command::Kill(why)) => Woken::Killed(why),
                    None => Woken::Killed("the agent is shutting down".into()),
                },
                resolution = ticket.wait() => Woken::Resolved(resolution),
                _ = grants_rx.changed() => Woken::Changed,
                _ = policy_rx.changed() => Woken::Changed,
                read = client.read() => Woken::Client(read),
            };
            let (outcome, by, comment, no) = match woken {
                Woken::Changed => match self.decide() {
                    Ok(Ok(admission)) => {
                        self.resolved(&id, HoldOutcome::Approved, None, Some("granted".into()))
                            .map_err(failed)?;
                        return Ok(admission);
                    }
                    Ok(Err(_)) => continue,
                    Err((no, _)) => {
                        let why = Some("it may not be asked for any more".to_owned());
                        (HoldOutcome::Withdrawn, None, why, no)
                    }
                },
                Woken::Resolved(Some(resolution)) if resolution.approved => {
                    return self.granted(&ticket, &resolution, decision);
                }
                Woken::Client(Ok(())) if client.ahead() <= AHEAD_MAX => continue,
                Woken::Client(Ok(())) => (HoldOutcome::Withdrawn, None, None, No::TooMuchAhead),
                Woken::Client(Err(failure)) => (HoldOutcome::Withdrawn, None, None, No::Client(failure)),
                Woken::Killed(why) => (HoldOutcome::Withdrawn, None, Some(why.clone()), No::Killed(why)),
                Woken::Resolved(None) => (HoldOutcome::Expired, None, None, No::Expired(id.clone())),
                Woken::Resolved(Some(resolution)) => {
                    let (by, comment) = (resolution.by(), resolution.comment);
                    let no = No::Refused { id: id.clone(), comment: comment.clone() };
                    (HoldOutcome::Denied, Some(by), comment, no)
                }
            };
            self.resolved(&id, outcome, by, comment).map_err(failed)?;
            return Err(failed(no));
        }
    }

    /// Turns the people's yes into a grant, and goes in on it.
    fn granted<F>(
        &self,
        ticket: &Ticket,
        resolution: &Resolution,
        decision: &Decision,
    ) -> Result<Admission, Refusal<F>> {
        let failed = |no| (no, decision.policies.clone());
        let id = &ticket.info.id;
        let by = resolution.by();
        self.resolved(id, HoldOutcome::Approved, Some(by), resolution.comment.clone()).map_err(failed)?;
        let terms = self.gate.access_terms(&ticket.info, resolution);
        let issued = self.gate.grants().issue(&Now::read(), terms, resolution.given.clone());
        let grant = issued.map_err(|error| failed(No::Grant(error)))?;
        self.record(Event::GrantIssued(Box::new(GrantIssued {
            hold: Some(id.clone()),
            ..crate::gate::issued_event(&grant)
        })))
        .map_err(failed)?;
        self.decide()?.map_err(|decision| (No::NeedsMore, decision.policies))
    }

    fn hold(&self, decision: &Decision) -> HoldInfo {
        let (admitted, place) = (self.admitted, self.place);
        let id = HoldInfo::fresh_id();
        let mut hash = Sha256::new();
        let parts = [
            "chaperone access v1",
            admitted.principal.name(),
            place.target,
            place.database,
            // Who connects again has another session, and asks for the same.
            if admitted.retry { "" } else { &admitted.id },
            if admitted.retry { "" } else { &id },
        ];
        for part in parts {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        let asker = Asker {
            session: &admitted.id,
            identity: admitted.identity(),
            owner: admitted.owner.as_deref(),
            workload: &admitted.workload,
        };
        HoldInfo {
            what: Held::Access,
            policies: decision.policies.clone(),
            reason: Some(decision.reason.clone()),
            needs: decision.obligations.approvals.iter().map(Need::from).collect(),
            ..HoldInfo::new(id, crate::hex(&hash.finalize()), asker, place)
        }
    }

    fn asked(&self, info: &HoldInfo) -> AccessAsked {
        AccessAsked {
            session: info.session.clone(),
            hold: info.id.clone(),
            target: info.target.clone(),
            database: info.database.clone(),
            identity: info.identity.clone(),
            workload: self.admitted.workload.clone(),
            claimed_user: self.claimed_user.to_owned(),
            policies: info.policies.clone(),
            reason: info.reason.clone(),
        }
    }

    fn resolved<F>(
        &self,
        hold: &str,
        outcome: HoldOutcome,
        by: Option<String>,
        comment: Option<String>,
    ) -> Result<(), No<F>> {
        let (session, hold) = (self.admitted.id.clone(), hold.to_owned());
        self.record(Event::HoldResolved {
            session,
            op: 0,
            hold,
            outcome,
            by,
            comment,
            settings: BTreeMap::new(),
        })
    }

    fn record<F>(&self, event: Event) -> Result<(), No<F>> {
        self.journal.append(&[event]).map(drop).map_err(|_| No::Unrecorded)
    }
}

/// Who may say yes, in words.
pub(super) fn approvers(info: &HoldInfo) -> String {
    let groups: Vec<&str> = info.needs.iter().flat_map(|need| &need.groups).map(String::as_str).collect();
    groups.join(" or ")
}
