//! One request, one decision.
//!
//! Deny over hold over permit, and nothing without a permit:
//! 1. a forbid that applies denies, unless it carries `@approval`;
//! 2. a permit has to apply, otherwise nothing an approver says could help;
//! 3. forbids with `@approval` hold until what they ask for is given, and then let go.
//!
//! A policy that cannot be evaluated denies (Cedar alone would skip it). Steps 1 and 2 do not look at approvals, so
//! a hold is only ever offered for what an approval would really release.
//!
//! Deliberately does not know how a statement is hashed, who authenticated the approver, or what time it is.

use std::cell::OnceCell;
use std::collections::BTreeSet;
use std::time::Duration;

use cedar_policy::{ActionConstraint, Authorizer, Context, Entities, Request as CedarRequest};

use crate::annotation::ApprovalNeed;
use crate::context::{approving, host, statement};
use crate::entity::{Principal, Resource};
use crate::index::{Bucket, RuleNo, Stage};
use crate::load::{PolicySet, Rule};
use crate::vocabulary::{Action, ContextOf, Flag, MaskWith, RecordMode};

/// Named in a denial that no rule ordered.
pub(crate) const DEFAULT_DENY: &str = "default-deny";
/// Named in a denial of a request that makes no sense, such as connecting to a column.
pub(crate) const INVALID_REQUEST: &str = "invalid-request";

/// What is asked: may this identity do this to that.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    pub principal: &'a Principal,
    pub action: Action,
    pub resource: &'a Resource,
    pub flags: &'a [Flag],
    /// Every table of the whole statement.
    pub tables: &'a [Resource],
    /// What is asked of a host, with the actions that are about hosts.
    pub host: Option<&'a HostFacts<'a>>,
    /// What is approved, with the action that is about approving.
    pub approving: Option<&'a Approving<'a>>,
    /// What has been given for this statement so far.
    pub approvals: &'a [Approval],
    /// What an approval has to have been given for. Empty: nothing can be approved.
    pub statement_hash: &'a str,
}

impl<'a> Request<'a> {
    /// A request without statement facts and approvals.
    pub fn new(principal: &'a Principal, action: Action, resource: &'a Resource) -> Request<'a> {
        Request {
            principal,
            action,
            resource,
            flags: &[],
            tables: &[],
            host: None,
            approving: None,
            approvals: &[],
            statement_hash: "",
        }
    }
}

/// What is known of a request to a host. Which of it counts depends on the action.
#[derive(Debug, Clone, Copy, Default)]
pub struct HostFacts<'a> {
    /// The name the client asked to log in with.
    pub login: &'a str,
    pub command: &'a str,
    pub programs: &'a [String],
    pub simple: bool,
    pub line: &'a str,
    pub path: &'a str,
    pub via: &'a str,
    /// The name of a pattern that hides something.
    pub mask: &'a str,
    /// A variable.
    pub name: &'a str,
    pub value: &'a str,
    pub forward: Forward<'a>,
}

/// Where a tunnel leads: as it was asked for, and the target that is.
#[derive(Debug, Clone, Copy, Default)]
pub struct Forward<'a> {
    pub host: &'a str,
    pub port: u16,
    pub target: &'a str,
}

/// What a person would say yes to.
#[derive(Debug, Clone, Copy)]
pub struct Approving<'a> {
    /// Who it is for, through the process that waits.
    pub identity: &'a Principal,
    /// The person behind the identity.
    pub owner: Option<&'a str>,
    /// `statement`, `access` or `grant`.
    pub kind: &'a str,
    /// The rules that hold it.
    pub rules: &'a [String],
}

/// One approver's yes. The caller vouches for `by` and `groups`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Approval {
    pub by: String,
    pub groups: BTreeSet<String>,
    pub statement_hash: String,
    /// How long ago it was given.
    pub age: Duration,
}

/// Ordered: the larger wins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Effect {
    Permit,
    Hold,
    Deny,
}

/// Why a decision is what it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cause {
    /// The rules in `policies` ordered it.
    Rules,
    /// No permit applied.
    NoPermit,
    /// A policy could not be evaluated; it is the one in `policies`.
    Error,
    /// The request itself is impossible.
    InvalidRequest,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    pub effect: Effect,
    pub cause: Cause,
    /// The ids of the rules that decided, in the order of the sources.
    pub policies: Vec<String>,
    pub reason: String,
    /// What may be done instead.
    pub hint: Option<String>,
    pub obligations: Obligations,
}

/// What a permit is bound to. On a hold: what it will be bound to once released.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Obligations {
    /// What is still missing; each has to be satisfied. Empty unless the effect is a hold.
    pub approvals: Vec<ApprovalNeed>,
    pub max_rows: Option<u64>,
    pub max_bytes: Option<u64>,
    pub max_time: Option<Duration>,
    pub record: BTreeSet<RecordMode>,
    /// Overrides the mask of the column if this one shows less.
    pub mask_with: Option<MaskWith>,
}

impl Decision {
    /// The rule to name to the client: the first that decided, or a fixed name if no rule did.
    pub fn rule(&self) -> &str {
        match self.cause {
            Cause::InvalidRequest => INVALID_REQUEST,
            _ => self.policies.first().map_or(DEFAULT_DENY, String::as_str),
        }
    }

    pub(crate) fn deny(
        cause: Cause,
        policies: Vec<String>,
        reason: String,
        hint: Option<String>,
    ) -> Decision {
        Decision { effect: Effect::Deny, cause, policies, reason, hint, obligations: Obligations::default() }
    }
}

impl PolicySet {
    pub fn decide(&self, request: &Request<'_>) -> Decision {
        let mut decision = self.try_decide(request).unwrap_or_else(|denial| *denial);
        if decision.cause == Cause::NoPermit {
            decision.hint = self.what_else(request);
        }
        decision
    }

    /// Whether a column may be shown in clear. Anything but a plain permit masks.
    pub fn unmask(&self, principal: &Principal, column: &Resource) -> bool {
        self.try_decide(&Request::new(principal, Action::Unmask, column))
            .is_ok_and(|decision| decision.effect == Effect::Permit)
    }

    /// Whether a person may approve. Where no permit is about approving, whoever a rule's `@approval` names may; a forbid
    /// counts in any case.
    ///
    /// # Errors
    /// The denial.
    pub fn may_approve(
        &self,
        person: &Principal,
        resource: &Resource,
        approving: &Approving<'_>,
    ) -> Result<(), Box<Decision>> {
        let request =
            Request { approving: Some(approving), ..Request::new(person, Action::Approve, resource) };
        match self.try_decide(&request) {
            Ok(decision) if decision.effect == Effect::Permit => Ok(()),
            Ok(decision) => Err(Box::new(decision)),
            Err(denial) if denial.cause == Cause::NoPermit && !self.says_who_approves() => Ok(()),
            Err(denial) => Err(denial),
        }
    }

    fn says_who_approves(&self) -> bool {
        let about_it = |rule: &Rule| {
            rule.permit
                && rule.actions.contains(&Action::Approve)
                && !matches!(rule.policy.action_constraint(), ActionConstraint::Any)
        };
        self.rules.iter().any(about_it)
    }

    fn try_decide(&self, request: &Request<'_>) -> Result<Decision, Box<Decision>> {
        self.try_decide_sharing(request, &Shared::default())
    }

    fn try_decide_sharing(&self, request: &Request<'_>, shared: &Shared) -> Result<Decision, Box<Decision>> {
        if !self.index.applies(request.action, request.resource.kind()) {
            return Err(invalid(request, "the action does not apply to such a resource"));
        }
        let buckets =
            self.index.candidates(request.action, request.principal.lineage(), request.resource.lineage());
        let mut evaluation = Evaluation { policies: self, request, shared, prepared: None };

        let forbids = evaluation.satisfied(&buckets, |bucket| &bucket.forbids)?;
        let (conditional, plain): (Vec<&Rule>, Vec<&Rule>) =
            forbids.into_iter().partition(|rule| rule.annotations.approval.is_some());
        if !plain.is_empty() {
            return Err(Box::new(Decision::deny(
                Cause::Rules,
                ids(&plain),
                reason(&plain).unwrap_or_else(|| format!("{} is forbidden", what(request))),
                first_hint(&plain),
            )));
        }

        let permits = evaluation.satisfied(&buckets, |bucket| &bucket.permits)?;
        if permits.is_empty() {
            let reason = format!("no policy permits {}", what(request));
            return Err(Box::new(Decision::deny(Cause::NoPermit, Vec::new(), reason, None)));
        }

        let (released, holding): (Vec<&Rule>, Vec<&Rule>) = conditional
            .into_iter()
            .partition(|rule| rule.annotations.approval.as_ref().is_none_or(|need| is_given(need, request)));
        let mut obligations = Obligations::default();
        for rule in permits.iter().chain(&released).chain(&holding) {
            obligations.add(rule);
        }
        if holding.is_empty() {
            let policies = permits.iter().chain(&released).map(|rule| rule.id.clone()).collect();
            let reason = reason(&permits).unwrap_or_else(|| format!("{} is permitted", what(request)));
            return Ok(Decision {
                effect: Effect::Permit,
                cause: Cause::Rules,
                policies,
                reason,
                hint: None,
                obligations,
            });
        }
        obligations.approvals = holding.iter().filter_map(|rule| rule.annotations.approval.clone()).collect();
        Ok(Decision {
            effect: Effect::Hold,
            cause: Cause::Rules,
            policies: ids(&holding),
            reason: reason(&holding).unwrap_or_else(|| format!("{} needs approval", what(request))),
            hint: first_hint(&holding),
            obligations,
        })
    }

    /// For a client that was refused by no rule in particular: what it may do to the same resource.
    fn what_else(&self, request: &Request<'_>) -> Option<String> {
        let mut permitted = Vec::new();
        let mut held = Vec::new();
        let shared = Shared::default();
        for action in
            Action::ALL.iter().filter(|action| action.is_done() && self.can_permit(**action, request))
        {
            let other = Request { action: *action, approvals: &[], ..*request };
            match self.try_decide_sharing(&other, &shared).map(|decision| decision.effect) {
                Ok(Effect::Permit) => permitted.push(action.as_str()),
                Ok(Effect::Hold) => held.push(action.as_str()),
                Ok(Effect::Deny) | Err(_) => {}
            }
        }
        let path = request.resource.path();
        match (permitted.is_empty(), held.is_empty()) {
            (true, true) => None,
            (false, true) => Some(format!("permitted on {path}: {}", permitted.join(", "))),
            (true, false) => Some(format!("after approval on {path}: {}", held.join(", "))),
            (false, false) => Some(format!(
                "permitted on {path}: {}; after approval: {}",
                permitted.join(", "),
                held.join(", ")
            )),
        }
    }
}

impl PolicySet {
    /// False when the scopes alone say no, which is most of the time and needs no evaluation.
    fn can_permit(&self, action: Action, request: &Request<'_>) -> bool {
        if !self.index.applies(action, request.resource.kind()) {
            return false;
        }
        let (principal, resource) = (request.principal.lineage(), request.resource.lineage());
        let buckets = self.index.candidates(action, principal, resource);
        let plain =
            |number: &RuleNo| self.rules.get(*number).is_some_and(|rule| rule.annotations.approval.is_none());
        let forbidden = buckets.iter().flat_map(|bucket| &bucket.forbids.certain).any(plain);
        let some = |stage: &Stage| !stage.certain.is_empty() || !stage.conditional.is_empty();
        !forbidden && buckets.iter().any(|bucket| some(&bucket.permits))
    }
}

impl Obligations {
    fn add(&mut self, rule: &Rule) {
        let annotations = &rule.annotations;
        self.max_rows = smallest(self.max_rows, annotations.max_rows);
        self.max_bytes = smallest(self.max_bytes, annotations.max_bytes);
        self.max_time = smallest(self.max_time, annotations.max_time);
        self.record.extend(&annotations.record);
        self.mask_with = self.mask_with.max(annotations.mask_with);
    }
}

pub(crate) fn smallest<T: Ord>(a: Option<T>, b: Option<T>) -> Option<T> {
    a.into_iter().chain(b).min()
}

/// What requests that differ in nothing but the action have in common.
#[derive(Default)]
struct Shared {
    statement: OnceCell<Context>,
}

/// Evaluates against Cedar, building its request only if some rule needs it.
struct Evaluation<'a> {
    policies: &'a PolicySet,
    request: &'a Request<'a>,
    shared: &'a Shared,
    prepared: Option<(CedarRequest, Entities)>,
}

impl<'a> Evaluation<'a> {
    /// The rules of one stage that apply, in order.
    fn satisfied(
        &mut self,
        buckets: &[&'a Bucket],
        stage: impl Fn(&'a Bucket) -> &'a Stage,
    ) -> Result<Vec<&'a Rule>, Box<Decision>> {
        let mut numbers: Vec<RuleNo> = Vec::new();
        for stage in buckets.iter().map(|bucket| stage(bucket)) {
            numbers.extend(&stage.certain);
            if !stage.conditional.is_empty() {
                self.evaluate(stage, &mut numbers)?;
            }
        }
        numbers.sort_unstable();
        numbers.dedup();
        Ok(numbers.into_iter().filter_map(|number| self.policies.rules.get(number)).collect())
    }

    fn evaluate(&mut self, stage: &Stage, numbers: &mut Vec<RuleNo>) -> Result<(), Box<Decision>> {
        let policies = self.policies;
        let (request, entities) = self.prepare()?;
        let response = Authorizer::new().is_authorized(request, &stage.conditional, entities);
        let failed = response
            .diagnostics()
            .errors()
            .map(|cedar_policy::AuthorizationError::PolicyEvaluationError(error)| error);
        // Several can fail; which one is named must not depend on a hash.
        if let Some(error) = failed.min_by_key(|error| error.policy_id().clone()) {
            return Err(Box::new(Decision::deny(
                Cause::Error,
                vec![error.policy_id().to_string()],
                format!("the policy could not be evaluated: {}", error.inner()),
                None,
            )));
        }
        numbers.extend(response.diagnostics().reason().filter_map(|id| policies.index.number(id)));
        Ok(())
    }

    fn prepare(&mut self) -> Result<&(CedarRequest, Entities), Box<Decision>> {
        if self.prepared.is_none() {
            let request = self.request;
            let built = self
                .policies
                .cedar_request(request, self.shared)
                .map_err(|error| invalid(request, &error))?;
            self.prepared = Some(built);
        }
        self.prepared.as_ref().ok_or_else(|| invalid(self.request, "it could not be built"))
    }
}

impl PolicySet {
    fn cedar_request(
        &self,
        request: &Request<'_>,
        shared: &Shared,
    ) -> Result<(CedarRequest, Entities), String> {
        let principal = request.principal.lineage();
        let resource = request.resource.lineage();
        let action = self.index.action(request.action).ok_or("the schema does not know the action")?;
        let asked_for = request.approving.map(|approving| approving.identity.lineage().entity.clone());
        let entities = request
            .resource
            .store()?
            .add_entities([principal.entity.clone(), action.clone()].into_iter().chain(asked_for), None)
            .map_err(|error| error.to_string())?;
        let context = match request.action.context() {
            ContextOf::Nothing => request.principal.facts().alone()?,
            ContextOf::Statement => match shared.statement.get() {
                Some(context) => context.clone(),
                None => {
                    let context = statement(request)?;
                    shared.statement.get_or_init(|| context).clone()
                }
            },
            ContextOf::Approving => approving(request)?,
            of => host(of, request)?,
        };
        // The types above leave nothing for the schema to object to, and asking it costs about 8 us.
        let schema = cfg!(debug_assertions).then_some(&self.schema);
        CedarRequest::new(principal.uid.clone(), action.uid(), resource.uid.clone(), context, schema)
            .map(|request| (request, entities))
            .map_err(|error| error.to_string())
    }
}

/// Counts people, not clicks; nobody approves for themselves, another statement, or too long ago.
fn is_given(need: &ApprovalNeed, request: &Request<'_>) -> bool {
    let approvers: BTreeSet<&str> = request
        .approvals
        .iter()
        .filter(|approval| {
            !request.statement_hash.is_empty() && approval.statement_hash == request.statement_hash
        })
        .filter(|approval| approval.by != request.principal.name() && !approval.by.is_empty())
        .filter(|approval| approval.age <= need.ttl)
        .filter(|approval| need.groups.iter().any(|group| approval.groups.contains(group)))
        .map(|approval| approval.by.as_str())
        .collect();
    approvers.len() >= need.quorum as usize
}

fn invalid(request: &Request<'_>, why: &str) -> Box<Decision> {
    let reason = format!("{} is not a possible request: {why}", what(request));
    Box::new(Decision::deny(Cause::InvalidRequest, Vec::new(), reason, None))
}

fn what(request: &Request<'_>) -> String {
    format!("{} on {}", request.action, request.resource.path())
}

fn ids(rules: &[&Rule]) -> Vec<String> {
    rules.iter().map(|rule| rule.id.clone()).collect()
}

/// Every reason the rules give, each once.
fn reason(rules: &[&Rule]) -> Option<String> {
    let mut reasons: Vec<&str> = Vec::new();
    for reason in rules.iter().filter_map(|rule| rule.annotations.reason.as_deref()) {
        if !reasons.contains(&reason) {
            reasons.push(reason);
        }
    }
    (!reasons.is_empty()).then(|| reasons.join("; "))
}

fn first_hint(rules: &[&Rule]) -> Option<String> {
    rules.iter().find_map(|rule| rule.annotations.hint.clone())
}
