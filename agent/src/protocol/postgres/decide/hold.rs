//! Statements that wait for people: what they are shown, what their yes is bound to, and whether it suffices.

use std::collections::BTreeMap;
use std::sync::Arc;

use chaperone_policy::Effect;
use sha2::{Digest, Sha256};

use super::plan_of::Facts;
use super::{Answer, Decider};
use crate::gate::{Asker, HoldInfo, InTheWay, Need, Place, Staged, approvals};
use crate::protocol::postgres::blast::{self, Waiting};
use crate::protocol::postgres::machine::{Asked, Named, Question, Under};
use crate::protocol::postgres::plan::{HoldTerms, Plan, Verdict};
use crate::protocol::postgres::relay::End;
use crate::protocol::postgres::response::{Report, sqlstate};
use crate::protocol::postgres::settings::Settings;
use crate::record::event::{self, Bind, Step};

/// What an approval of a statement is for.
pub(super) struct Bound {
    /// The digest over all of it.
    pub(super) request: String,
    settings: BTreeMap<String, String>,
}

impl Decider {
    #[expect(clippy::too_many_arguments, reason = "all of it is shown to the approver")]
    pub(super) fn held(
        &self,
        question: &Question,
        sql: &str,
        step: Step,
        plan: &Plan,
        terms: &HoldTerms,
        bound: Bound,
        staged: &mut Staged,
    ) -> Answer {
        let id = HoldInfo::fresh_id();
        let event = self.event(question, sql, step, plan, event::Verdict::Hold, Some(id.clone()));
        self.gate.admit(event, staged);
        let ttl = terms.needs.iter().map(|need| need.ttl).min();
        let timeout = ttl.map_or(self.gate.hold_timeout(), |ttl| ttl.min(self.gate.hold_timeout()));
        let notice = Report::new("01000", format!("held for approval, request {id}"))
            .detail(wanted(plan, terms))
            .hint(format!(
                "Wait: it runs when approved, and is denied after {} s. Cancel to withdraw it.",
                timeout.as_secs()
            ));
        let waiting = self.waiting(&id, sql, plan);
        let info = self.info(id, question, sql, plan, bound);
        Answer::Hold(Box::new(self.gate.holds().open(info, timeout)), notice, Box::new(waiting))
    }

    fn waiting(&self, id: &str, sql: &str, plan: &Plan) -> Waiting {
        // What a name stands for is not in the text.
        let analysis = if plan.linked { Arc::from([]) } else { Arc::clone(&plan.analysis) };
        Waiting {
            backend: Arc::clone(&self.backend),
            address: self.catalogue.address(),
            database: self.database_name.clone(),
            search_path: self.search_path.clone(),
            server_pid: self.server_pid,
            sql: sql.into(),
            analysis,
            holds: Arc::clone(self.gate.holds()),
            id: id.to_owned(),
            patience: self.gate.lock_patience(),
        }
    }

    /// Whether people are told when others have waited too long, instead of the statement being denied.
    pub(in crate::protocol::postgres) fn escalates(&self) -> bool {
        self.gate.escalates()
    }

    pub(in crate::protocol::postgres) fn tell_again(&self, hold: &str, found: InTheWay) {
        self.gate.holds().escalate(hold, found);
    }

    /// Lets pass what was approved since it was sent before, or notes the request and refuses.
    pub(super) fn retried(
        &mut self,
        question: &Question,
        sql: &Arc<str>,
        step: Step,
        plan: Arc<Plan>,
        bound: Bound,
        staged: &mut Staged,
    ) -> Result<Answer, End> {
        let mut info = self.info(HoldInfo::fresh_id(), question, sql, &plan, bound);
        if let Some((id, given)) = self.gate.holds().take_ready(&info.request) {
            info.given = given;
            if self.released(&plan, &info) {
                return self.permitted(question, sql, step, plan, Some(id), staged);
            }
            // Whoever said yes to what is not enough any more says so again.
            info.given = Vec::new();
        }
        let timeout = self.gate.hold_timeout();
        let ttl = info.needs.iter().map(|need| need.ttl_s).min().unwrap_or_default();
        let groups: Vec<String> = info.needs.iter().map(|need| need.groups.join(" or ")).collect();
        let report = match self.gate.holds().park(info, timeout) {
            Ok((id, new)) => {
                if new {
                    blast::tell_alone(self.waiting(&id, sql, &plan));
                }
                let event = self.event(question, sql, step, &plan, event::Verdict::Hold, Some(id.clone()));
                self.gate.admit(event, staged);
                let seconds = timeout.as_secs();
                Report::new(sqlstate::INSUFFICIENT_PRIVILEGE, format!("pending approval, request {id}"))
                    .detail(format!("{} needs an approval by {}", plan.policies.join(", "), groups.join(", and by ")))
                    .hint(format!(
                        "Send exactly the same again once it is approved. The request stands for {seconds} s, \
                         the approval then for {ttl} s."
                    ))
            }
            Err(error) => {
                let report = Report::new(sqlstate::INSUFFICIENT_PRIVILEGE, error.to_string());
                return Ok(self.denied(question, sql, step, &plan, report, staged));
            }
        };
        Ok(Answer::Deny(report))
    }

    fn info(&self, id: String, question: &Question, sql: &str, plan: &Plan, bound: Bound) -> HoldInfo {
        let needs = match &plan.verdict {
            Verdict::Hold(terms) => terms.needs.iter().map(Need::from).collect(),
            Verdict::Permit | Verdict::Deny(_) => Vec::new(),
        };
        let asker = Asker {
            session: &self.session,
            identity: self.identity.clone(),
            owner: self.owner.as_deref(),
            workload: &self.workload,
        };
        let target = &self.backend.target;
        let place =
            Place { target: &target.name, env: &target.env, database: &self.database_name, host: false };
        HoldInfo {
            op: question.op,
            sql: shown(sql, plan),
            binds: binds(question).to_vec(),
            policies: plan.policies.to_vec(),
            reason: plan.reason.clone(),
            needs,
            settings: bound.settings,
            ..HoldInfo::new(id, bound.request, asker, place)
        }
    }

    /// Whether the policies in force let the statement go with these approvals.
    pub(super) fn released(&self, plan: &Plan, info: &HoldInfo) -> bool {
        if !self.gate.still_approved(info) {
            return false;
        }
        let facts = Facts::of(&plan.analysis, self.guarded());
        // What is asked for now counts, not what was asked for when it was held.
        let asked = facts.decide(&self.policies.set, &self.principal, &self.database, &[], "");
        let given = approvals(&info.given, &asked.obligations.approvals, &info.request);
        let decision =
            facts.decide(&self.policies.set, &self.principal, &self.database, &given, &info.request);
        decision.effect == Effect::Permit
    }

    /// The settings under which a statement that needs an approval runs, or why it does not; `None`: ask again after the server's next answer.
    ///
    /// While it waits for its yes, its session sends nothing, so they are the same when it runs.
    pub(super) fn under(
        &self,
        question: &Question,
        plan: &Plan,
        names: &impl Named,
    ) -> Option<Result<Arc<Settings>, Report>> {
        let why = match names.under(question, plan) {
            Under::These(settings) => return Some(Ok(settings)),
            Under::Settling => return None,
            Under::Unknown(why) => why,
        };
        let report = Report::new(
            sqlstate::INSUFFICIENT_PRIVILEGE,
            format!("it needs an approval, and DateStyle, IntervalStyle and TimeZone are not certain: {why}"),
        );
        Some(Err(
            report.hint("Change settings by a message of their own, then prepare and send the statement.")
        ))
    }

    /// What an approval is bound to, besides the deadline: exact bytes and values, the settings by which dates are read, who, where, and which
    /// moment. Who sends it again sends it at another moment, so there the approval's time is what bounds it.
    pub(super) fn bound(&self, question: &Question, sql: &str, plan: &Plan, settings: &Settings) -> Bound {
        let settings = settings.shown();
        let mut hash = Sha256::new();
        let binds = serde_json::to_vec(&*binds(question)).unwrap_or_default();
        let (session, op) = match self.retry {
            true => ("", String::new()),
            false => (&*self.session, question.op.to_string()),
        };
        let parts: [&[u8]; 9] = [
            b"chaperone approval v3",
            self.identity.name.as_bytes(),
            self.backend.target.name.as_bytes(),
            self.database_name.as_bytes(),
            self.search_path.as_bytes(),
            session.as_bytes(),
            op.as_bytes(),
            sql.as_bytes(),
            &binds,
        ];
        let set = settings.iter().flat_map(|(name, value)| [name.as_bytes(), value.as_bytes()]);
        let texts = plan.texts.iter().map(|text| text.as_bytes());
        for part in parts.into_iter().chain(set).chain(texts) {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        Bound { request: crate::hex(&hash.finalize()), settings }
    }
}

pub(super) fn binds(question: &Question) -> Arc<[Bind]> {
    match &question.what {
        Asked::Execute { portal } => Arc::clone(&portal.binds),
        Asked::Call { binds, .. } => Arc::clone(binds),
        Asked::Query { .. } | Asked::Prepare { .. } => Arc::default(),
    }
}

/// A statement as an approver has to see it: what EXECUTE runs stands behind a name.
fn shown(sql: &str, plan: &Plan) -> String {
    let mut shown = sql.to_owned();
    for text in &plan.texts {
        shown.push_str("\n\nwith a name defined by:\n");
        shown.push_str(text);
    }
    shown
}

/// Short enough to be typed, and not to be guessed among what waits.
fn wanted(plan: &Plan, terms: &HoldTerms) -> String {
    let people = |need: &chaperone_policy::ApprovalNeed| {
        let groups = need.groups.join(" or ");
        if need.quorum > 1 { format!("{} people of {groups}", need.quorum) } else { groups }
    };
    let people: Vec<String> = terms.needs.iter().map(people).collect();
    format!("{} needs an approval by {}", plan.policies.join(", "), people.join(", and by "))
}
