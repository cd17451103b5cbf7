//! Requests that wait for people, and those that are sent again after their yes.

use chaperone_policy::{ApprovalNeed, Decision};
use sha2::{Digest, Sha256};

use super::{Answer, Decider, Reading};
use crate::gate::{Asker, HoldInfo, Need, Place, Staged};
use crate::protocol::ssh::machine::{Asked, Question};
use crate::record::event;

impl Decider {
    pub(super) fn held(
        &self,
        question: &Question,
        reading: &Reading<'_>,
        decision: &Decision,
        binding: String,
        staged: &mut Staged,
    ) -> Answer {
        let info = self.info(question, reading, decision, binding);
        self.stage_hold(question, reading, decision, &info.id, staged);
        let needs = &decision.obligations.approvals;
        let most = self.gate.hold_timeout();
        let timeout = needs.iter().map(|need| need.ttl).min().map_or(most, |ttl| ttl.min(most));
        let notice = format!(
            "held for approval, request {}: {} (by {}; waits {} s at most)",
            info.id,
            decision.reason,
            groups(needs),
            timeout.as_secs()
        );
        Answer::Hold(Box::new(self.gate.holds().open(info, timeout)), notice)
    }

    /// Lets pass what was approved since it was sent before, or notes the request and refuses.
    pub(super) fn retried(
        &self,
        question: &Question,
        reading: &Reading<'_>,
        decision: &Decision,
        binding: String,
        staged: &mut Staged,
    ) -> Answer {
        let mut info = self.info(question, reading, decision, binding);
        if let Some((id, given)) = self.gate.holds().take_ready(&info.request) {
            (info.id, info.given) = (id, given);
            if self.gate.still_approved(&info) {
                self.stage_hold(question, reading, decision, &info.id, staged);
                let notice = format!("approved, request {}", info.id);
                return Answer::Hold(Box::new(self.gate.holds().decided(info)), notice);
            }
            // What was approved by whoever may not any more is asked for anew.
            let random = HoldInfo::fresh_id();
            (info.id, info.given) = (random, Vec::new());
        }
        let needs = &decision.obligations.approvals;
        let ttl = needs.iter().map(|need| need.ttl).min().unwrap_or_default();
        let stands = self.gate.hold_timeout();
        match self.gate.holds().park(info, stands) {
            Ok((id, _)) => {
                self.stage_hold(question, reading, decision, &id, staged);
                Answer::Deny(format!(
                    "pending approval, request {id}: {} (by {}); send exactly the same again once it is approved. The \
                     request stands for {} s, the approval then for {} s",
                    decision.reason,
                    groups(needs),
                    stands.as_secs(),
                    ttl.as_secs()
                ))
            }
            Err(error) => {
                let why = error.to_string();
                let policies = decision.policies.clone();
                let denied = event::Verdict::Deny;
                let event = self.event(question, reading, denied, policies, Some(why.clone()), None);
                self.gate.admit(event, staged);
                Answer::Deny(self.denial(decision.rule(), &why, decision.hint.as_deref(), question))
            }
        }
    }

    /// The record that it was held.
    fn stage_hold(
        &self,
        question: &Question,
        reading: &Reading<'_>,
        decision: &Decision,
        id: &str,
        staged: &mut Staged,
    ) {
        let (policies, reason) = (decision.policies.clone(), Some(decision.reason.clone()));
        let held = event::Verdict::Hold;
        let event = self.event(question, reading, held, policies, reason, Some(id.to_owned()));
        self.gate.admit(event, staged);
    }

    fn info(
        &self,
        question: &Question,
        reading: &Reading<'_>,
        decision: &Decision,
        binding: String,
    ) -> HoldInfo {
        let asker = Asker {
            session: &self.session,
            identity: self.identity.clone(),
            owner: self.owner.as_deref(),
            workload: &self.workload,
        };
        let place = Place { target: &self.target, env: &self.env, database: &self.user, host: true };
        HoldInfo {
            op: question.op,
            sql: reading.text.clone(),
            policies: decision.policies.clone(),
            reason: Some(decision.reason.clone()),
            needs: decision.obligations.approvals.iter().map(Need::from).collect(),
            ..HoldInfo::new(HoldInfo::fresh_id(), binding, asker, place)
        }
    }

    /// What an approval is bound to, besides the deadline: exact bytes, who, where, and which moment. Who sends it again sends it at another
    /// moment, so there the approval's time is what bounds it.
    pub(super) fn binding(&self, question: &Question, text: &str) -> String {
        let mut hash = Sha256::new();
        let (session, op) = match self.retry {
            true => ("", String::new()),
            false => (self.session.as_str(), question.op.to_string()),
        };
        let (kind, raw): (&[u8], &[u8]) = match &question.what {
            Asked::Exec(bytes) => (b"exec", bytes),
            _ => (b"", b""),
        };
        // In words, two paths can read like others.
        let paths = match &question.what {
            Asked::File(op) => op.accesses.as_slice(),
            _ => &[],
        };
        let parts: [&[u8]; 9] = [
            b"chaperone approval v3",
            self.identity.name.as_bytes(),
            self.target.as_bytes(),
            self.user.as_bytes(),
            session.as_bytes(),
            op.as_bytes(),
            kind,
            text.as_bytes(),
            raw,
        ];
        let paths = paths.iter().map(|(_, path)| path.as_bytes());
        // A name can come to mean another target.
        let target = match &question.what {
            Asked::Forward(way) => Some(way.target.as_bytes()),
            _ => None,
        };
        for part in parts.into_iter().chain(paths).chain(target) {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        crate::hex(&hash.finalize())
    }
}

/// Short enough to be typed, and not to be guessed among what waits.
fn groups(needs: &[ApprovalNeed]) -> String {
    let mut groups: Vec<&str> =
        needs.iter().flat_map(|need| need.groups.iter().map(String::as_str)).collect();
    groups.sort_unstable();
    groups.dedup();
    groups.join(" or ")
}
