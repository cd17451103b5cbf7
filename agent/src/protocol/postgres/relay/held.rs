//! Statements that wait for a person: what wakes them, and what becomes of them.

use std::pin::Pin;

use tokio::io::{AsyncRead, AsyncWrite};

use super::super::decide::Answer;
use super::super::response::{Report, sqlstate};
use super::{End, Pause, Relay};
use crate::gate::{InTheWay, Resolution, Ticket};
use crate::record::event::{Event, HoldOutcome};

pub(super) struct Held {
    pub(super) ticket: Box<Ticket>,
    pub(super) question: super::super::machine::Question,
    /// Comes back when others have waited too long for what the session has locked.
    pub(super) watch: Pin<Box<dyn Future<Output = InTheWay> + Send + Sync>>,
}

/// What a held statement waits for.
pub(super) enum Woken {
    /// A person's answer; `None`: the time is up.
    Resolved(Option<Resolution>),
    InTheWay(InTheWay),
}

impl<C, U> Relay<'_, C, U>
where
    C: AsyncRead + AsyncWrite + Unpin,
    U: AsyncRead + AsyncWrite + Unpin,
{
    /// What was held is held no more.
    pub(super) fn take_held(&mut self) -> Option<Held> {
        match std::mem::replace(&mut self.pause, Pause::None) {
            Pause::Hold(held) => Some(held),
            other => {
                self.pause = other;
                None
            }
        }
    }

    /// A human decided, or the time is up.
    pub(super) async fn resolved(&mut self, held: Held, resolution: Option<Resolution>) -> Result<(), End> {
        let request = format!("request {}", held.ticket.info.id);
        let Some(resolution) = resolution else {
            self.record_hold(&held, HoldOutcome::Expired, None, None);
            let report =
                Report::new(sqlstate::INSUFFICIENT_PRIVILEGE, "nobody approved the statement in time")
                    .detail(request)
                    .hint("Ask an approver, then send the statement again.");
            self.machine.deny(report, &mut self.staged);
            return Ok(());
        };
        let by = resolution.by();
        let Resolution { approved, given, comment, terms: _ } = resolution;
        let outcome = if approved { HoldOutcome::Approved } else { HoldOutcome::Denied };
        self.record_hold(&held, outcome, Some(by.clone()), comment.clone());
        if !approved {
            let why = comment.map(|comment| format!(": {comment}")).unwrap_or_default();
            let report = Report::new(
                sqlstate::INSUFFICIENT_PRIVILEGE,
                format!("an approver denied the statement{why}"),
            )
            .detail(request);
            self.machine.deny(report, &mut self.staged);
            return Ok(());
        }
        // What watched it is done with.
        let Held { mut ticket, question, watch: _ } = held;
        ticket.info.given = given;
        // Decided again at the release: policy or catalogue may have moved while it waited.
        self.poll_catalogue().await?;
        match self.decider.decide(&question, Some(&ticket.info), &self.machine, &mut self.staged).await? {
            Answer::Permit(permit, plan) => self.machine.permit(permit, plan, &mut self.staged),
            Answer::Deny(report) => self.machine.deny(report, &mut self.staged),
            Answer::Hold(..) | Answer::Wait => {
                let report = Report::new(
                    sqlstate::INSUFFICIENT_PRIVILEGE,
                    "the statement needs another approval: policy changed while it was held",
                );
                self.machine.deny(report, &mut self.staged);
            }
        }
        Ok(())
    }

    /// The statement fails, and with it the transaction lets go of what it has locked.
    pub(super) fn stand_aside(&mut self, held: &Held, found: InTheWay) {
        let InTheWay { sessions, seconds, who: _ } = found;
        let why =
            format!("{sessions} sessions have waited for {seconds} s for what its transaction has locked");
        self.record_hold(held, HoldOutcome::Denied, None, Some(why.clone()));
        let report = Report::new(sqlstate::LOCK_NOT_AVAILABLE, "the statement cannot wait for its approval")
            .detail(format!("request {}: {why}", held.ticket.info.id))
            .hint(
                "Roll back, ask for the approval before the transaction locks anything, and send it again.",
            );
        self.machine.deny(report, &mut self.staged);
    }

    /// People are told who waits; the statement goes on waiting for them.
    pub(super) fn escalate(&mut self, held: Held, found: InTheWay) -> Result<(), End> {
        let InTheWay { sessions, seconds, who } = found.clone();
        let hold = held.ticket.info.id.clone();
        let (session, op) = (self.session.to_string(), held.question.op);
        self.staged.record(Event::HoldEscalated { session, op, hold: hold.clone(), sessions, seconds, who });
        self.staged.commit(self.journal, &mut self.wire.to_upstream)?;
        self.decider.tell_again(&hold, found);
        // Once is enough: it stands in the list until somebody decides, or the time is up.
        self.pause = Pause::Hold(Held { watch: Box::pin(std::future::pending()), ..held });
        Ok(())
    }

    /// The client cancelled: what is held is not going to run.
    pub(super) fn withdraw(&mut self) {
        let Some(held) = self.take_held() else { return };
        self.record_hold(&held, HoldOutcome::Withdrawn, None, Some("cancelled by the client".into()));
        let report = Report::new(sqlstate::QUERY_CANCELED, "canceling statement due to user request");
        self.machine.deny(report, &mut self.staged);
    }
}

pub(super) async fn wait_for(held: Option<&mut Held>) -> Woken {
    let Some(Held { ticket, watch, .. }) = held else { return std::future::pending().await };
    tokio::select! {
        biased;
        resolution = ticket.wait() => Woken::Resolved(resolution),
        found = watch => Woken::InTheWay(found),
    }
}
