//! Answers the machine's questions: what is asked in words, policy's decision on it, and the record of both.

mod hold;
mod reading;

use std::collections::BTreeSet;
use std::sync::Arc;

use chaperone_policy::{self as policy, Action, Approval, Decision, Effect, HostFacts, RecordMode};
use sha2::{Digest, Sha256};

use super::exec::Template;
use super::machine::{Asked, Question, Terms};
use super::mask::Masks;
use super::rsync::How;
use crate::gate::{
    Admission, Gate, HoldInfo, Lease, Loaded, Permit, Place, Staged, Ticket, approvals, connect,
};
use crate::protocol::Admitted;
use crate::record::event::{self, Event, Identity, Step, Workload};
use reading::{Reading, command_of, reading};

/// Longest text kept in the record; the digest is of all of it.
const RECORDED_TEXT_MAX: usize = 64 << 10;

pub(super) enum Answer {
    Permit(Permit, Terms),
    Deny(String),
    Hold(Box<Ticket>, String),
}

pub(super) struct Decider {
    gate: Arc<Gate>,
    policies: Arc<Loaded>,
    principal: policy::Principal,
    identity: Identity,
    owner: Option<String>,
    /// It sends again what needs an approval, instead of waiting.
    retry: bool,
    workload: Workload,
    /// What the session lives on; it ends with the session.
    lease: Lease,
    account: policy::Resource,
    session: String,
    target: String,
    env: String,
    /// The account that is used, and the one that was asked for.
    user: String,
    login: String,
    /// Whether what programs print is recorded where no policy says, and whether what is typed is, too.
    records: bool,
    records_input: bool,
    synced: bool,
    masks: Option<Arc<Masks>>,
}

impl Decider {
    pub(super) fn new(
        gate: Arc<Gate>,
        admitted: &Admitted,
        admission: Admission,
        (user, login): (&str, &str),
        masks: Option<Arc<Masks>>,
    ) -> Self {
        let target = &admitted.backend.target;
        Self {
            policies: gate.policies(),
            gate,
            identity: Identity {
                name: admission.principal.name().to_owned(),
                groups: admission.principal.groups().to_vec(),
            },
            principal: admission.principal,
            lease: admission.lease,
            owner: admitted.owner.clone(),
            retry: admitted.retry,
            workload: admitted.workload.clone(),
            account: policy::account(&target.name, &target.env, user),
            session: admitted.id.clone(),
            target: target.name.clone(),
            env: target.env.clone(),
            user: user.to_owned(),
            login: login.to_owned(),
            records: target.record_rows,
            records_input: target.ssh.as_ref().is_some_and(|ssh| ssh.record_input),
            synced: target.synced,
            masks,
        }
    }

    /// Who the session is on record as, with what it was lent.
    pub(super) fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Whether what is recorded has to be on disk before it counts.
    pub(super) fn synced(&self) -> bool {
        self.synced
    }

    /// The record of the grants it was let in on.
    pub(super) fn used_events(&self, session: &str) -> Vec<Event> {
        self.lease.used_events(session, None)
    }

    /// Whether this action is permitted on the account as such, without a person.
    pub(super) fn plainly(&self, action: Action) -> bool {
        self.permits(action, "")
    }

    fn permits(&self, action: Action, mask: &str) -> bool {
        let facts = HostFacts { login: &self.login, mask, ..HostFacts::default() };
        let request = policy::Request {
            host: Some(&facts),
            ..policy::Request::new(&self.principal, action, &self.account)
        };
        self.policies.set.decide(&request).effect == Effect::Permit
    }

    /// Looks again after a change of policy.
    ///
    /// # Errors
    /// When the session may not be any more; the text says why.
    pub(super) fn recheck(&mut self) -> Result<(), String> {
        self.policies = self.gate.policies();
        let place = Place { target: &self.target, env: &self.env, database: &self.user, host: true };
        let decision = connect(&self.policies, &self.principal, place, self.lease.given());
        if decision.effect == Effect::Permit { Ok(()) } else { Err(decision.reason) }
    }

    /// The record of something that is refused whatever policy says.
    pub(super) fn refused(&self, question: &Question, why: &str) -> Event {
        let reading = reading(&question.what, None);
        self.event(question, &reading, event::Verdict::Deny, Vec::new(), Some(why.to_owned()), None)
    }

    /// Whether a held request may be by what people gave; nothing of it is recorded.
    pub(super) fn allows(&self, question: &Question, approved: &HoldInfo) -> bool {
        let command = command_of(&question.what);
        let reading = reading(&question.what, command);
        let binding = self.binding(question, &reading.text);
        let needs = self.ask(&reading, command, &[], &binding).obligations.approvals;
        let given = approvals(&approved.given, &needs, &binding);
        reading.never.is_none()
            && approved.request == binding
            && self.ask(&reading, command, &given, &binding).effect == Effect::Permit
    }

    /// Answers a question and stages its record. With `approved`, the approval of exactly this request counts.
    pub(super) fn decide(
        &self,
        question: &Question,
        approved: Option<&HoldInfo>,
        staged: &mut Staged,
    ) -> Answer {
        let command = command_of(&question.what);
        let reading = reading(&question.what, command);
        if let Some(why) = &reading.never {
            let event =
                self.event(question, &reading, event::Verdict::Deny, Vec::new(), Some(why.clone()), None);
            self.gate.admit(event, staged);
            return Answer::Deny(self.denial("", why, None, question));
        }
        let binding = self.binding(question, &reading.text);
        let mut decision = self.ask(&reading, command, &[], &binding);
        if let Some(info) = approved.filter(|info| info.request == binding) {
            // What is asked for now counts, not what was asked for when it was held.
            let given = approvals(&info.given, &decision.obligations.approvals, &binding);
            decision = self.ask(&reading, command, &given, &binding);
        }
        let policies = decision.policies.clone();
        match decision.effect {
            Effect::Permit => {
                let ends = question.what.ends();
                let event = self.event(question, &reading, event::Verdict::Permit, policies, ends, None);
                match self.gate.admit(event, staged) {
                    Some(permit) => {
                        Answer::Permit(permit, self.terms(&reading, &decision.obligations.record))
                    }
                    None => Answer::Deny("no permit was made".to_owned()),
                }
            }
            Effect::Hold if approved.is_none() && question.what.can_wait() => match self.retry {
                true => self.retried(question, &reading, &decision, binding, staged),
                false => self.held(question, &reading, &decision, binding, staged),
            },
            Effect::Hold | Effect::Deny => {
                let mut why = decision.reason.clone();
                if decision.effect == Effect::Hold {
                    why = format!("{why}; it cannot wait for one here");
                } else if let Some(more) = &reading.why {
                    why = format!("{why} ({more})");
                }
                let event =
                    self.event(question, &reading, event::Verdict::Deny, policies, Some(why.clone()), None);
                self.gate.admit(event, staged);
                Answer::Deny(self.denial(decision.rule(), &why, decision.hint.as_deref(), question))
            }
        }
    }

    /// How the streams of a permitted program are treated. Those of a transfer are files, or a protocol of their own: they are
    /// neither changed nor kept, only counted.
    fn terms(&self, reading: &Reading<'_>, modes: &BTreeSet<RecordMode>) -> Terms {
        let transfer = reading.asks.iter().any(|ask| !ask.facts.via.is_empty());
        if transfer || !matches!(reading.step, Step::Exec | Step::Shell) {
            let Some(Template::Rsync { sends, options, .. }) = reading.analysis.template() else {
                return Terms::default();
            };
            return Terms { rsync: Some(How::new(sends, &options)), ..Terms::default() };
        }
        // Where policies differ, the record holds more.
        let asked = modes.contains(&RecordMode::Asciicast) || modes.contains(&RecordMode::Rows);
        let output = asked || (self.records && !modes.contains(&RecordMode::Meta));
        let shown = |mask: &str| self.permits(Action::Reveal, mask);
        let masks = self.masks.as_ref().and_then(|masks| masks.without(shown)).map(Arc::new);
        let (input, seals) = (output && self.records_input, modes.contains(&RecordMode::Raw));
        Terms { output, input, seals, masks, rsync: None }
    }

    fn denial(&self, rule: &str, why: &str, hint: Option<&str>, question: &Question) -> String {
        let by = if rule.is_empty() { String::new() } else { format!(" by policy \"{rule}\"") };
        let hint = hint.map(|hint| format!("; {hint}")).unwrap_or_default();
        format!("denied{by}: {why}{hint} (request {}/{})", self.session, question.op)
    }

    /// Everything policy has to say about a request: the strictest counts.
    fn ask(
        &self,
        reading: &Reading<'_>,
        command: Option<&str>,
        approvals: &[Approval],
        binding: &str,
    ) -> Decision {
        let (programs, line) = (reading.analysis.programs(), reading.analysis.line());
        let decisions: Vec<Decision> = reading
            .asks
            .iter()
            .map(|ask| {
                let facts = HostFacts {
                    login: &self.login,
                    command: command.unwrap_or_default(),
                    programs: &programs,
                    simple: !line.is_empty(),
                    line: &line,
                    ..ask.facts
                };
                self.policies.set.decide(&policy::Request {
                    host: Some(&facts),
                    approvals,
                    statement_hash: binding,
                    ..policy::Request::new(&self.principal, ask.action, &self.account)
                })
            })
            .collect();
        policy::combine(decisions)
    }

    fn event(
        &self,
        question: &Question,
        reading: &Reading<'_>,
        verdict: event::Verdict,
        policies: Vec<String>,
        reason: Option<String>,
        hold: Option<String>,
    ) -> Event {
        let mut end = reading.text.len().min(RECORDED_TEXT_MAX);
        while !reading.text.is_char_boundary(end) {
            end -= 1;
        }
        let digest = match &question.what {
            Asked::Exec(bytes) => Sha256::digest(bytes),
            _ => Sha256::digest(reading.text.as_bytes()),
        };
        Event::Statement {
            session: self.session.as_str().into(),
            op: question.op,
            step: reading.step,
            sql: reading.text.get(..end).unwrap_or_default().to_owned(),
            sql_sha256: crate::hex(&digest),
            prepared: None,
            binds: Arc::default(),
            verdict,
            policies: policies.into(),
            policy: Arc::clone(&self.policies.short_digest),
            reason,
            masked: Vec::new(),
            hold,
        }
    }
}
