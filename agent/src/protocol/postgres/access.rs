//! A connection that asks for access: told so, waiting, and let in once it is granted.
//!
//! The client is logged in as far as its protocol goes, so that it can be told something and hangs up cleanly; no
//! byte goes to the target before the grant.

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use chaperone_policy::Decision;
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;
use tracing::info;

use super::greeting::{Client, LoginFailure};
use super::response::{Report, sqlstate};
use super::startup::{self, Startup};
use crate::gate::{Admission, Entry, Gate, GrantError, Held, HoldInfo, Need, Now, Place, Resolution, Ticket};
use crate::protocol::Admitted;
use crate::record::Journal;
use crate::record::event::{AccessAsked, Event, GrantIssued, HoldOutcome};
use crate::registry::Command;

/// A client that says more than this before it is let in is up to something.
const AHEAD_MAX: usize = 64 << 10;

/// Connections of one identity that wait at once: each takes one of the places for all.
const MOST_WAITING: usize = 32;

/// Everything the question is about.
pub(super) struct Asking<'a> {
    pub(super) gate: &'a Arc<Gate>,
    pub(super) journal: &'a Journal,
    pub(super) admitted: &'a Admitted,
    pub(super) startup: &'a Startup,
}

/// What ended the wait.
enum Woken {
    Resolved(Option<Resolution>),
    /// A grant or a policy changed.
    Changed,
    Killed(String),
    Client(Result<(), LoginFailure>),
}

impl Asking<'_> {
    fn place(&self) -> Place<'_> {
        let target = &self.admitted.backend.target;
        Place { target: &target.name, env: &target.env, database: &self.startup.database, host: false }
    }

    /// Whether the identity may in: at once, or after somebody granted it.
    pub(super) async fn enter(
        &self,
        client: &mut Client,
        command_rx: &mut mpsc::Receiver<Command>,
    ) -> Result<Admission, (LoginFailure, Vec<String>)> {
        match self.decide()? {
            Ok(admission) => Ok(admission),
            Err(decision) if self.admitted.retry => Err((self.park(&decision), decision.policies)),
            Err(decision) => self.wait(client, command_rx, decision).await,
        }
    }

    /// Let in, or the decision that holds it.
    fn decide(&self) -> Result<Result<Admission, Decision>, (LoginFailure, Vec<String>)> {
        let entry = self.gate.enter(&self.admitted.principal, self.place(), &self.admitted.id);
        match entry.map_err(|error| (storage(&error), Vec::new()))? {
            Entry::Admitted(admission) => Ok(Ok(admission)),
            Entry::Ask(decision) => Ok(Err(decision)),
            Entry::Refused(decision) => {
                let rule = decision.rule().to_owned();
                let message = format!("connection denied by policy \"{rule}\": {}", decision.reason);
                let mut report = Report::new(sqlstate::INVALID_AUTHORIZATION, message)
                    .detail(format!("session {}", self.admitted.id));
                report.hint = decision.hint;
                Err((refused(report), decision.policies))
            }
        }
    }

    /// Notes the request and refuses; it is granted, or not, without anybody waiting.
    fn park(&self, decision: &Decision) -> LoginFailure {
        let info = self.hold(decision);
        let mut asked = self.asked(&info);
        let timeout = self.gate.hold_timeout();
        let id = match self.gate.holds().park(info, timeout) {
            Ok((id, new)) => {
                asked.hold.clone_from(&id);
                if new && let Err(failure) = self.record(Event::AccessAsked(Box::new(asked))) {
                    return failure;
                }
                id
            }
            Err(error) => return refused(Report::new(sqlstate::INVALID_AUTHORIZATION, error.to_string())),
        };
        let report = Report::new(sqlstate::INVALID_AUTHORIZATION, format!("access asked for, request {id}"))
            .detail(format!("{}: {}", decision.policies.join(", "), decision.reason))
            .hint(format!(
                "Connect again once it is granted; the request stands for {} s.",
                timeout.as_secs()
            ));
        refused(report)
    }

    async fn wait(
        &self,
        client: &mut Client,
        command_rx: &mut mpsc::Receiver<Command>,
        decision: Decision,
    ) -> Result<Admission, (LoginFailure, Vec<String>)> {
        let policies = decision.policies.clone();
        let failed = |failure| (failure, policies.clone());
        if self.gate.holds().asking(self.admitted.principal.name()) >= MOST_WAITING {
            let report = Report::new(
                sqlstate::INVALID_AUTHORIZATION,
                format!("{MOST_WAITING} connections of this identity wait for access already"),
            );
            return Err(failed(refused(report)));
        }
        let mut grants_rx = self.gate.grants().subscribe();
        let mut policy_rx = self.gate.subscribe();
        let info = self.hold(&decision);
        let id = info.id.clone();
        // The record of the request goes first, as of everything the client is told.
        self.record(Event::AccessAsked(Box::new(self.asked(&info)))).map_err(failed)?;
        let ttl = info.needs.iter().map(|need| Duration::from_secs(need.ttl_s)).min();
        let timeout = ttl.map_or(self.gate.hold_timeout(), |ttl| ttl.min(self.gate.hold_timeout()));
        let mut ticket = self.gate.holds().open(info, timeout);
        info!(hold = id, "access asked for");
        tell(client, &ticket.info, timeout).await.map_err(failed)?;
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
            let (outcome, by, comment, failure) = match woken {
                Woken::Changed => match self.decide() {
                    Ok(Ok(admission)) => {
                        self.resolved(&id, HoldOutcome::Approved, None, Some("granted".into()))
                            .map_err(failed)?;
                        return Ok(admission);
                    }
                    Ok(Err(_)) => continue,
                    Err((failure, _)) => {
                        let why = Some("it may not be asked for any more".to_owned());
                        (HoldOutcome::Withdrawn, None, why, failure)
                    }
                },
                Woken::Resolved(Some(resolution)) if resolution.approved => {
                    return self.granted(&ticket, &resolution, &decision);
                }
                Woken::Client(Ok(())) if client.ahead() <= AHEAD_MAX => continue,
                Woken::Client(Ok(())) => {
                    let report =
                        Report::new(sqlstate::PROTOCOL_VIOLATION, "the client talks before it is let in");
                    (HoldOutcome::Withdrawn, None, None, refused(report))
                }
                Woken::Client(Err(failure)) => (HoldOutcome::Withdrawn, None, None, failure),
                Woken::Killed(why) => {
                    let report = Report::new(sqlstate::ADMIN_SHUTDOWN, format!("terminated: {why}"));
                    (HoldOutcome::Withdrawn, None, Some(why), refused(report))
                }
                Woken::Resolved(None) => {
                    let report =
                        Report::new(sqlstate::INVALID_AUTHORIZATION, "nobody granted access in time")
                            .detail(format!("request {id}"))
                            .hint("Ask an approver, then connect again.");
                    (HoldOutcome::Expired, None, None, refused(report))
                }
                Woken::Resolved(Some(resolution)) => {
                    let by = resolution.by();
                    let why = resolution.comment.as_ref().map(|comment| format!(": {comment}"));
                    let message = format!("an approver denied access{}", why.unwrap_or_default());
                    let report =
                        Report::new(sqlstate::INVALID_AUTHORIZATION, message).detail(format!("request {id}"));
                    (HoldOutcome::Denied, Some(by), resolution.comment, refused(report))
                }
            };
            self.resolved(&id, outcome, by, comment).map_err(failed)?;
            return Err(failed(failure));
        }
    }

    /// Turns the people's yes into a grant, and goes in on it.
    fn granted(
        &self,
        ticket: &Ticket,
        resolution: &Resolution,
        decision: &Decision,
    ) -> Result<Admission, (LoginFailure, Vec<String>)> {
        let failed = |failure| (failure, decision.policies.clone());
        let id = &ticket.info.id;
        let by = resolution.by();
        self.resolved(id, HoldOutcome::Approved, Some(by), resolution.comment.clone()).map_err(failed)?;
        let terms = self.gate.access_terms(&ticket.info, resolution);
        let issued = self.gate.grants().issue(&Now::read(), terms, resolution.given.clone());
        let grant = issued.map_err(|error| failed(storage(&error)))?;
        self.record(Event::GrantIssued(Box::new(GrantIssued {
            hold: Some(id.clone()),
            ..crate::gate::issued_event(&grant)
        })))
        .map_err(failed)?;
        self.decide()?.map_err(|decision| {
            let message = "access was granted, and policy asks for more by now";
            (refused(Report::new(sqlstate::INVALID_AUTHORIZATION, message)), decision.policies)
        })
    }

    fn hold(&self, decision: &Decision) -> HoldInfo {
        let admitted = self.admitted;
        let random = uuid::Uuid::now_v7().simple().to_string();
        let id = format!("h-{}", random.get(22..).unwrap_or(&random));
        let target = &admitted.backend.target.name;
        let mut hash = Sha256::new();
        let parts = [
            "chaperone access v1",
            admitted.principal.name(),
            target,
            &self.startup.database,
            // Who connects again has another session, and asks for the same.
            if admitted.retry { "" } else { &admitted.id },
            if admitted.retry { "" } else { &id },
        ];
        for part in parts {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        HoldInfo {
            binding: crate::hex(&hash.finalize()),
            id,
            what: Held::Access,
            session: admitted.id.clone(),
            op: 0,
            identity: admitted.identity(),
            owner: admitted.owner.clone(),
            workload: Some(admitted.workload.clone()),
            target: target.clone(),
            env: admitted.backend.target.env.clone(),
            database: self.startup.database.clone(),
            host: false,
            sql: String::new(),
            binds: Vec::new(),
            policies: decision.policies.clone(),
            reason: Some(decision.reason.clone()),
            needs: decision.obligations.approvals.iter().map(Need::from).collect(),
            given: Vec::new(),
            blast: None,
            created_unix_s: 0,
            expires_unix_s: 0,
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
            claimed_user: self.startup.user.clone(),
            policies: info.policies.clone(),
            reason: info.reason.clone(),
        }
    }

    fn resolved(
        &self,
        hold: &str,
        outcome: HoldOutcome,
        by: Option<String>,
        comment: Option<String>,
    ) -> Result<(), LoginFailure> {
        let (session, hold) = (self.admitted.id.clone(), hold.to_owned());
        self.record(Event::HoldResolved { session, op: 0, hold, outcome, by, comment })
    }

    fn record(&self, event: Event) -> Result<(), LoginFailure> {
        let unrecorded = |_| {
            refused(Report::new(
                sqlstate::DISK_FULL,
                "the request cannot be recorded, so it cannot be granted",
            ))
        };
        self.journal.append(&[event]).map(drop).map_err(unrecorded)
    }
}

async fn tell(client: &mut Client, info: &HoldInfo, timeout: Duration) -> Result<(), LoginFailure> {
    let mut out = BytesMut::new();
    startup::put_welcome(&mut out);
    let groups: Vec<&str> = info.needs.iter().flat_map(|need| &need.groups).map(String::as_str).collect();
    Report::new("01000", format!("access asked for, request {}", info.id))
        .detail(format!("{} needs an approval by {}", info.policies.join(", "), groups.join(" or ")))
        .hint(format!(
            "Wait: the connection goes on when it is granted, and is refused after {} s.",
            timeout.as_secs()
        ))
        .put_notice(&mut out);
    client.welcomed = true;
    client.write(&out).await
}

fn refused(report: Report) -> LoginFailure {
    LoginFailure::Refused(Box::new(report))
}

fn storage(error: &GrantError) -> LoginFailure {
    tracing::warn!(%error, "grants");
    let report = Report::new(sqlstate::INVALID_AUTHORIZATION, format!("the grant cannot be used: {error}"))
        .hint("Connect again; if it stays, tell whoever runs this host.");
    refused(report)
}
