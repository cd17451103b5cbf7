//! From a statement to an answer: analyse, ask the gate, record. Keeps what was decided for texts seen before.

mod account;
pub(super) mod budget;
mod changing;
mod detected;
mod hold;
mod labels;
mod link;
mod overtaken;
mod plan_of;
mod plans;
mod refresh;
mod replication;
mod unread;

use std::collections::HashMap;
use std::sync::Arc;

use chaperone_policy::{self as policy, Effect};
use chaperone_sql::{NameOp, Origin, Refusal, RefusalKind, View};

use self::overtaken::OnTheirWay;
use self::plan_of::{Facts, Maskers};
use self::plans::Plans;
use super::blast::Waiting;
use super::catalogue::{Catalogue, Snapshot};
use super::machine::{Asked, Named, Question};
use super::plan::{Names, Plan, Verdict, Version};
use super::relay::End;
use super::response::{Report, sqlstate};
use super::rows::Origins;
use super::startup::Replication;
use super::style::PseudonymKey;
use crate::gate::{Admission, Gate, HoldInfo, Lease, Loaded, Permit, Place, Staged, Ticket, connect};
use crate::protocol::Admitted;
use crate::record::event::{self, Event, Identity, Step, Workload};
use crate::upstream::Backend;

/// What to do with a statement.
pub(super) enum Answer {
    Permit(Permit, Arc<Plan>),
    Deny(Report),
    /// With what its notice says, and what is to be told and watched while it waits.
    Hold(Box<Ticket>, Report, Box<Waiting>),
    /// What a name stands for depends on an answer the server has not given yet: ask again after it.
    Wait,
}

/// Which columns are masked for this session, by the server's own numbering.
#[derive(Clone)]
pub(super) struct MaskedOrigins {
    masked: Arc<View>,
    /// As if nothing labelled were shown to the principal; only where unlabelled values are looked at.
    labelled: Option<Arc<View>>,
}

impl Origins for MaskedOrigins {
    fn masked(&self, table: u32, attribute: i16) -> bool {
        !matches!(self.masked.origin(table, attribute), Origin::Clean)
    }

    fn labelled(&self, table: u32, attribute: i16) -> bool {
        let labelled = self.labelled.as_ref().unwrap_or(&self.masked);
        !matches!(labelled.origin(table, attribute), Origin::Clean)
    }
}

pub(super) struct Decider {
    gate: Arc<Gate>,
    backend: Arc<Backend>,
    session: Arc<str>,
    principal: policy::Principal,
    identity: Identity,
    owner: Option<String>,
    retry: bool,
    workload: Workload,
    /// What the session lives on; it ends with the session.
    lease: Lease,
    database: policy::Database,
    database_name: String,
    catalogue: Arc<Catalogue>,
    snapshot: Arc<Snapshot>,
    /// The schemas on the session's path, and how the server was told: those of its login, whatever a new one would have.
    path: Vec<String>,
    search_path: String,
    policies: Arc<Loaded>,
    maskers: Maskers,
    /// The server's process of this session.
    server_pid: Option<i32>,
    view: Arc<View>,
    labelled: Option<Arc<View>>,
    plans: Plans,
    /// Something ran that was not analysed.
    unseen: bool,
    /// The session was, or is, free to change how its texts are read.
    free: bool,
    /// The server reads literals in another way than the analysis does.
    misread: bool,
    /// The catalogue was changed and not read again yet.
    behind: bool,
    /// The session's open transaction changed the catalogue: its locks would keep a reading waiting for itself.
    busy: bool,
    /// Statements the server has not begun to answer.
    on_their_way: OnTheirWay,
    decisions: policy::Kept<Facts>,
    /// Set for a replication connection.
    replication: Option<Replication>,
}

impl Decider {
    pub(super) fn new(
        gate: Arc<Gate>,
        admitted: &Admitted,
        admission: Admission,
        database: &str,
        catalogue: Arc<Catalogue>,
        snapshot: Arc<Snapshot>,
    ) -> Result<Self, Report> {
        let backend = Arc::clone(&admitted.backend);
        let target = &backend.target;
        let policies = gate.policies();
        let decider = Self {
            session: admitted.id.as_str().into(),
            maskers: Maskers {
                pseudonyms: PseudonymKey::of(
                    backend.credentials.pseudonym_secret.expose(),
                    admission.principal.name(),
                ),
                changes: HashMap::new(),
            },
            identity: Identity {
                name: admission.principal.name().to_owned(),
                groups: admission.principal.groups().to_vec(),
            },
            principal: admission.principal,
            owner: admitted.owner.clone(),
            retry: admitted.retry,
            workload: admitted.workload.clone(),
            lease: admission.lease,
            database: policy::Database::new(&target.name, &target.env, database),
            database_name: database.to_owned(),
            view: Arc::new(View::build(Arc::clone(&snapshot.catalog), &Default::default())),
            path: snapshot.catalog.search_path().to_vec(),
            search_path: snapshot.search_path.clone(),
            labelled: None,
            plans: Plans::default(),
            unseen: false,
            free: false,
            misread: false,
            behind: false,
            busy: false,
            on_their_way: OnTheirWay::default(),
            decisions: policy::Kept::default(),
            server_pid: None,
            replication: None,
            gate,
            backend,
            catalogue,
            snapshot,
            policies,
        };
        decider.with_view()
    }

    fn with_view(mut self) -> Result<Self, Report> {
        self.rebuild()?;
        Ok(self)
    }

    /// Says which process of the server the session is.
    pub(super) fn serves(&mut self, server_pid: Option<i32>) {
        self.server_pid = server_pid;
    }

    /// The record of the grants the session lives on, or of what operation `op` took of them.
    pub(super) fn used_events(&self, op: Option<u64>) -> Vec<event::Event> {
        self.lease.used_events(&self.session, op)
    }

    /// Who it is, lent groups included.
    pub(super) fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The masked columns as the machine needs them, and whether there are any.
    pub(super) fn origins(&self) -> (MaskedOrigins, bool) {
        let origins = MaskedOrigins { masked: Arc::clone(&self.view), labelled: self.labelled.clone() };
        (origins, self.guarded())
    }

    /// Whether what is served is recorded where no policy says.
    pub(super) fn rows_recorded(&self) -> bool {
        self.backend.target.record_rows
    }

    /// Whether what is recorded has to be on disk before it counts.
    pub(super) fn synced(&self) -> bool {
        self.backend.target.synced
    }

    /// Says whether the session's open transaction changed the catalogue.
    pub(super) fn set_busy(&mut self, busy: bool) {
        self.busy = busy;
    }

    /// Whether anything of this target is masked for the principal.
    fn guarded(&self) -> bool {
        !self.view.is_clear()
    }

    /// Answers a question and stages its record. With `approved`, the approval of exactly this statement counts.
    pub(super) async fn decide(
        &mut self,
        question: &Question,
        approved: Option<&HoldInfo>,
        names: &impl Named,
        staged: &mut Staged,
    ) -> Result<Answer, End> {
        let (sql, step, prepared) = match &question.what {
            Asked::Query { sql } => (Arc::clone(sql), Step::Query, None),
            Asked::Prepare { sql } => (Arc::clone(sql), Step::Prepare, None),
            Asked::Execute { portal } => (Arc::clone(&portal.statement.sql), Step::Execute, Some(portal)),
            Asked::Call { function, .. } => (unread::call_text(*function), Step::Query, None),
        };
        let mut plan = match prepared {
            None => match &question.what {
                Asked::Call { function, .. } => Arc::new(self.call_plan(*function)),
                Asked::Query { .. } | Asked::Prepare { .. } | Asked::Execute { .. } => {
                    self.plan(&sql).await?
                }
            },
            Some(portal) => match self.current(&portal.statement).await? {
                Ok(plan) => plan,
                Err(report) => {
                    let before = Arc::clone(&portal.statement.plan);
                    return Ok(self.denied(question, &sql, step, &before, report, staged));
                }
            },
        };
        // Parsing EXECUTE or FETCH looks at nothing; what the name stands for then may be another thing when it runs.
        if plan.uses_names() && step != Step::Prepare && plan.verdict_is_open() {
            match self.link(&plan, names).await? {
                link::Linked::Plan(linked) => plan = Arc::new(linked),
                link::Linked::Wait => return Ok(Answer::Wait),
                link::Linked::Deny(report) => {
                    return Ok(self.denied(question, &sql, step, &plan, report, staged));
                }
            }
        }
        match self.unsettled(&plan, names) {
            Some(changing::Unsettled::Wait) => return Ok(Answer::Wait),
            Some(changing::Unsettled::Deny(report)) => {
                return Ok(self.denied(question, &sql, step, &plan, report, staged));
            }
            None => {}
        }
        if let Some(report) = self.in_the_way(&plan).or_else(|| too_much(&plan, step, &sql, names)) {
            return Ok(self.denied(question, &sql, step, &plan, report, staged));
        }
        match &plan.verdict {
            Verdict::Deny(report) => Ok(self.denied(question, &sql, step, &plan, report.clone(), staged)),
            // Parsing runs nothing: what needs an approval is held when it is executed.
            Verdict::Permit => self.permitted(question, &sql, step, plan, None, staged),
            Verdict::Hold(_) if step == Step::Prepare => {
                self.permitted(question, &sql, step, plan, None, staged)
            }
            Verdict::Hold(terms) => {
                let Some(under) = self.under(question, &plan, names) else { return Ok(Answer::Wait) };
                let bound = match under {
                    Ok(settings) => self.bound(question, &sql, &plan, &settings),
                    Err(report) => return Ok(self.denied(question, &sql, step, &plan, report, staged)),
                };
                match approved {
                    Some(info) if info.request == bound.request && self.released(&plan, info) => {
                        self.permitted(question, &sql, step, plan, None, staged)
                    }
                    Some(_) => Ok(self.denied(question, &sql, step, &plan, changed_meanwhile(), staged)),
                    None if self.retry => self.retried(question, &sql, step, plan, bound, staged),
                    None => Ok(self.held(question, &sql, step, &plan, terms, bound, staged)),
                }
            }
        }
    }

    fn permitted(
        &mut self,
        question: &Question,
        sql: &str,
        step: Step,
        plan: Arc<Plan>,
        hold: Option<String>,
        staged: &mut Staged,
    ) -> Result<Answer, End> {
        if step != Step::Prepare
            && let Err(report) = self.compare(&plan)
        {
            return Ok(self.denied(question, sql, step, &plan, report, staged));
        }
        let event = self.event(question, sql, step, &plan, event::Verdict::Permit, hold);
        // The plan that is executed is the prepared one, so that its description stays its own.
        let plan = match &question.what {
            Asked::Execute { portal } if !plan.linked => Arc::clone(&portal.statement.plan),
            Asked::Execute { .. } | Asked::Query { .. } | Asked::Prepare { .. } | Asked::Call { .. } => plan,
        };
        self.unseen |= plan.ran_unseen();
        self.free |= plan.unread;
        if step != Step::Prepare {
            self.sent(question.op, &plan);
        }
        let plan = self.within_grants(plan);
        let permit =
            self.gate.admit(event, staged).ok_or_else(|| End::Killed("no permit was made".into()))?;
        Ok(Answer::Permit(permit, plan))
    }

    /// Where a grant limits rows, no statement is served more than are left.
    fn within_grants(&self, plan: Arc<Plan>) -> Arc<Plan> {
        let Some(left) = self.lease.rows_left() else { return plan };
        let mut plan = Plan::clone(&plan);
        for statement in &mut plan.statements {
            statement.max_rows = Some(statement.max_rows.map_or(left, |most| most.min(left)));
        }
        Arc::new(plan)
    }

    /// Rows that were served, for the grants that limit them.
    pub(super) fn count_rows(&self, rows: u64) {
        self.lease.count_rows(rows);
    }

    fn denied(
        &self,
        question: &Question,
        sql: &str,
        step: Step,
        plan: &Plan,
        report: Report,
        staged: &mut Staged,
    ) -> Answer {
        let mut event = self.event(question, sql, step, plan, event::Verdict::Deny, None);
        if let Event::Statement { reason, .. } = &mut event {
            reason.get_or_insert_with(|| report.message.clone());
        }
        self.gate.admit(event, staged);
        Answer::Deny(report.detail(format!("request {}/{}", self.session, question.op)))
    }

    /// The plan of a text, decided now or before under the same policy and catalogue.
    async fn plan(&mut self, sql: &Arc<str>) -> Result<Arc<Plan>, End> {
        if self.replication.is_some_and(|kind| replication::is_command(kind, sql)) {
            return Ok(Arc::new(self.replication_plan()));
        }
        if self.misread {
            return Ok(Arc::new(self.unread_text()));
        }
        self.catch_up().await?;
        let version = self.version();
        if let Some(plan) = self.plans.find(sql, version) {
            return Ok(plan);
        }
        let analysed = match chaperone_sql::analyse(sql, &self.view) {
            // A reading would wait for the locks of the session's own transaction, and not see what it changed.
            Err(refusal) if names_unknown(&refusal) && !self.busy && !self.may_anything() => {
                // It may have come into being since the catalogue was read.
                if self.adopt(self.catalogue.for_unknown(&self.backend).await)? {
                    chaperone_sql::analyse(sql, &self.view)
                } else {
                    Err(refusal)
                }
            }
            analysed => analysed,
        };
        // What somebody makes beside the agent is looked for again when the same text comes again.
        let unknown = matches!(&analysed, Err(refusal) if names_unknown(refusal));
        let plan = Arc::new(match analysed {
            Ok(statements) => self.judge(&statements),
            Err(refusal) => self.not_understood(&refusal),
        });
        if !unknown {
            self.plans.keep(sql, &plan);
        }
        Ok(plan)
    }

    fn judge(&mut self, statements: &[chaperone_sql::Statement]) -> Plan {
        let version = self.version();
        // What PREPARE and DECLARE keep for later is decided for itself, too.
        let mut inner = Vec::new();
        for statement in statements {
            inner.push(match &statement.names {
                NameOp::Prepare { inner, .. } | NameOp::DeclareCursor { inner, .. } => {
                    let inner = std::slice::from_ref(&**inner);
                    let decision = self.decision(Facts::of(inner, self.guarded()));
                    Some(Arc::new(plan_of::decided(
                        version,
                        inner,
                        &[],
                        &decision,
                        self.rows_recorded(),
                        &self.maskers,
                    )))
                }
                _ => None,
            });
        }
        // Preparing runs nothing: what needs an approval is held when it is executed.
        let decision =
            self.decide_but(statements, |_, statement| matches!(statement.names, NameOp::Prepare { .. }));
        plan_of::decided(version, statements, &inner, &decision, self.rows_recorded(), &self.maskers)
    }

    /// Decides on all of a text. A hold counts only if it is not for the statements of which `settled` is true alone.
    fn decide_but(
        &mut self,
        statements: &[chaperone_sql::Statement],
        settled: impl Fn(usize, &chaperone_sql::Statement) -> bool,
    ) -> policy::Decision {
        let decision = self.decision(Facts::of(statements, self.guarded()));
        if decision.effect != Effect::Hold {
            return decision;
        }
        let asking: Vec<_> = statements
            .iter()
            .enumerate()
            .filter(|(index, statement)| !settled(*index, statement))
            .map(|(_, statement)| statement.clone())
            .collect();
        if asking.len() == statements.len() {
            return decision;
        }
        self.decision(Facts::of(&asking, self.guarded()))
    }

    fn decision(&mut self, facts: Facts) -> policy::Decision {
        let Self { decisions, policies, principal, database, .. } = self;
        decisions.decision(facts, |facts| facts.decide(&policies.set, principal, database, &[], ""))
    }

    fn version(&self) -> Version {
        Version { policy: self.policies.version, catalogue: self.snapshot.epoch }
    }

    /// Looks again after a change of policy.
    ///
    /// # Errors
    /// When the session may not be any more; the text says why.
    pub(super) async fn recheck(&mut self) -> Result<(), String> {
        self.policies = self.gate.policies();
        self.decisions.forget();
        self.plans.clear();
        self.rebuild().map_err(|report| report.message)?;
        self.still_sound()?;
        self.still_replicates()?;
        let target = &self.backend.target;
        let place =
            Place { target: &target.name, env: &target.env, database: &self.database_name, host: false };
        let decision = connect(&self.policies, &self.principal, place, self.lease.given());
        if decision.effect == Effect::Permit { Ok(()) } else { Err(decision.reason) }
    }
}

/// Why the names that a text defines cannot be kept.
fn too_much(plan: &Plan, step: Step, sql: &str, names: &impl Named) -> Option<Report> {
    let (mut statements, mut cursors) = (0, 0);
    for statement in plan.statements.iter().filter(|_| step != Step::Prepare) {
        match &statement.names {
            Names::Prepare(..) => statements += 1,
            Names::Declare { .. } => cursors += 1,
            _ => {}
        }
    }
    (statements + cursors > 0).then(|| names.refuses(sql, statements, cursors))?
}

fn names_unknown(refusal: &Refusal) -> bool {
    matches!(
        refusal.kind,
        RefusalKind::UnknownRelation(_)
            | RefusalKind::UnknownColumn(_)
            | RefusalKind::UnlistedFunction(_)
            | RefusalKind::UnlistedType(_)
    )
}

fn changed_meanwhile() -> Report {
    Report::new(
        sqlstate::FEATURE_NOT_SUPPORTED,
        "policy or catalogue changed after the statement was prepared",
    )
    .hint("Prepare the statement again.")
}
