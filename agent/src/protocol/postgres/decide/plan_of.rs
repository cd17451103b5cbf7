//! Plans made of what the analysis found and policy said. No state, no I/O.

use std::collections::HashMap;
use std::sync::Arc;

use chaperone_policy::{self as policy, Action, Approval, Decision, Effect, PolicySet, Principal, Request};
use chaperone_sql as sql;
use chaperone_sql::{NameOp, Refusal, RefusalKind, Statement, TransactionOp, Verb};

use crate::protocol::postgres::plan::{
    Copy, CopyFormat, HoldTerms, Mask, Names, Output, Plan, StatementPlan, Verdict, Version,
};
use crate::protocol::postgres::response::{Report, sqlstate};
use crate::protocol::postgres::style::{PseudonymKey, Style};
use crate::protocol::postgres::value::Change;

/// Everything policy is asked about a text: two texts with the same facts have the same decision.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Facts {
    accesses: Vec<sql::Access>,
    flags: Vec<policy::Flag>,
    /// Runs or stores code nobody has seen, on a target where something is masked.
    opaque: bool,
}

impl Facts {
    pub(super) fn of(statements: &[Statement], guarded: bool) -> Self {
        let mut accesses: Vec<_> =
            statements.iter().flat_map(|statement| statement.accesses.iter().cloned()).collect();
        accesses.sort();
        accesses.dedup();
        let mut flags: Vec<_> =
            statements.iter().flat_map(|statement| &statement.flags).filter_map(flag).collect();
        if statements.len() > 1 {
            flags.push(policy::Flag::MultiStatement);
        }
        flags.sort();
        flags.dedup();
        // Where nothing is masked for this principal, what would take labels away from others is opaque still.
        let opaque = statements.iter().any(|statement| {
            statement.flags.contains(&sql::Flag::Opaque) && (guarded || because(statement).is_some())
        });
        Self { accesses, flags, opaque }
    }

    pub(super) fn decide(
        &self,
        set: &PolicySet,
        principal: &Principal,
        database: &policy::Database,
        approvals: &[Approval],
        hash: &str,
    ) -> Decision {
        let whole = database.resource();
        let resources: Vec<_> = self
            .accesses
            .iter()
            .map(|access| match (&access.relation, access.action) {
                (None, _) => whole.clone(),
                (Some(name), Verb::Call) => database.routine(&name.schema, &name.table),
                (Some(name), _) => database.table(&name.schema, &name.table),
            })
            .collect();
        let tables: Vec<_> =
            resources.iter().filter(|resource| resource.kind() == policy::Kind::Table).cloned().collect();
        let ask = |action, resource| {
            set.decide(&Request {
                flags: &self.flags,
                tables: &tables,
                approvals,
                statement_hash: hash,
                ..Request::new(principal, action, resource)
            })
        };
        let asked = self.accesses.iter().zip(&resources);
        let mut decisions: Vec<_> =
            asked.map(|(access, resource)| ask(action(access.action), resource)).collect();
        if self.opaque || decisions.is_empty() {
            // What cannot be seen into can read everything: that takes the right to everything. And an empty
            // text asks for nothing but to be a session.
            decisions.push(ask(if self.opaque { Action::Admin } else { Action::Session }, &whole));
        }
        policy::combine(decisions)
    }
}

fn action(verb: Verb) -> Action {
    match verb {
        Verb::Select => Action::Select,
        Verb::Insert => Action::Insert,
        Verb::Update => Action::Update,
        Verb::Delete => Action::Delete,
        Verb::Merge => Action::Merge,
        Verb::Truncate => Action::Truncate,
        Verb::CopyIn => Action::CopyIn,
        Verb::CopyOut => Action::CopyOut,
        Verb::Ddl => Action::Ddl,
        Verb::Call => Action::Call,
        Verb::Admin => Action::Admin,
        Verb::Session => Action::Session,
        Verb::Listen => Action::Listen,
        Verb::Replicate => Action::Replicate,
    }
}

/// Why a change of the schema takes the right to everything.
fn because(statement: &Statement) -> Option<&str> {
    statement.flags.iter().find_map(|flag| match flag {
        sql::Flag::Because(why) => Some(why.as_str()),
        _ => None,
    })
}

fn flag(flag: &sql::Flag) -> Option<policy::Flag> {
    match flag {
        sql::Flag::NoWhere => Some(policy::Flag::NoWhere),
        sql::Flag::ConstantWhere => Some(policy::Flag::ConstantWhere),
        sql::Flag::RowLock => Some(policy::Flag::Locking),
        sql::Flag::Cascade => Some(policy::Flag::Cascade),
        sql::Flag::NestedWrite => Some(policy::Flag::ModifyingCte),
        sql::Flag::OpaqueFunction(_)
        | sql::Flag::Opaque
        | sql::Flag::Because(_)
        | sql::Flag::MaskedRelation
        | sql::Flag::Compares(..) => None,
    }
}

/// The plan of a text that policy decided on.
///
/// `inner` has the plans of what PREPARE and DECLARE keep for later, by statement. `rows_recorded` is what the target says
/// where no policy does.
pub(super) fn decided(
    version: Version,
    statements: &[Statement],
    inner: &[Option<Arc<Plan>>],
    decision: &Decision,
    rows_recorded: bool,
    maskers: &Maskers,
) -> Plan {
    let verdict = match decision.effect {
        Effect::Permit => Verdict::Permit,
        Effect::Deny => {
            let why = statements.iter().find_map(because);
            let reason = match why {
                Some(why) => format!("{} (this takes sql:admin, too: {why})", decision.reason),
                None => decision.reason.clone(),
            };
            Verdict::Deny(denied(decision.rule(), &reason, decision.hint.as_deref()))
        }
        Effect::Hold => Verdict::Hold(HoldTerms { needs: decision.obligations.approvals.clone() }),
    };
    let obligations = &decision.obligations;
    Plan {
        version,
        verdict,
        statements: statements
            .iter()
            .zip(inner.iter().map(Option::as_ref).chain(std::iter::repeat(None)))
            .map(|(statement, inner)| plan(statement, inner, obligations, maskers))
            .collect(),
        policies: decision.policies.as_slice().into(),
        reason: (decision.effect != Effect::Permit).then(|| decision.reason.clone()),
        analysis: statements.into(),
        linked: false,
        texts: Vec::new(),
        read_under: Vec::new(),
        unread: false,
        // Where policies differ, the record holds more.
        rows_recorded: obligations.record.contains(&policy::RecordMode::Rows)
            || (rows_recorded && !obligations.record.contains(&policy::RecordMode::Meta)),
        seals: obligations.record.contains(&policy::RecordMode::Raw),
    }
}

/// The plan of a text that no policy could make sound to serve.
pub(super) fn refused(version: Version, refusal: &Refusal) -> Plan {
    let rule = match refusal.kind {
        RefusalKind::Syntax | RefusalKind::Nul => "syntax",
        RefusalKind::TooComplex => "too-complex",
        RefusalKind::LabelledUse { .. } => "flow-only",
        RefusalKind::PinnedSetting(_) => "pinned-setting",
        _ => "not-understood",
    };
    let hint = (!refusal.hint.is_empty()).then_some(refusal.hint.as_str());
    builtin(version, rule, denied(rule, &refusal.reason, hint))
}

/// A plan that denies by a rule of the agent's own.
pub(super) fn builtin(version: Version, rule: &str, report: Report) -> Plan {
    Plan {
        version,
        statements: Vec::new(),
        policies: [format!("builtin:{rule}")].into(),
        reason: Some(report.message.clone()),
        verdict: Verdict::Deny(report),
        analysis: Arc::default(),
        linked: false,
        texts: Vec::new(),
        read_under: Vec::new(),
        unread: false,
        rows_recorded: true,
        seals: false,
    }
}

/// What the client is told of a denial.
pub(super) fn denied(rule: &str, reason: &str, hint: Option<&str>) -> Report {
    let report =
        Report::new(sqlstate::INSUFFICIENT_PRIVILEGE, format!("denied by policy \"{rule}\": {reason}"));
    match hint {
        Some(hint) => report.hint(hint),
        None => report,
    }
}

/// What masks of one identity hang on beside the value.
pub(super) struct Maskers {
    pub(super) pseudonyms: PseudonymKey,
    /// By the labelled column.
    pub(super) changes: HashMap<sql::ColumnPath, Change>,
}

fn changed(masked: &sql::MaskedColumn, maskers: &Maskers) -> Mask {
    match maskers.changes.get(&masked.path) {
        Some(change) if change.fits(masked.type_oid) => {
            Mask::Changed { change: change.clone(), type_oid: masked.type_oid }
        }
        _ => Mask::Null,
    }
}

fn mask(masked: &sql::MaskedColumn, mask_with: Option<policy::MaskWith>, maskers: &Maskers) -> Mask {
    match (masked.kind, mask_with) {
        (sql::MaskKind::Null, _) | (_, Some(policy::MaskWith::Null)) => Mask::Null,
        (sql::MaskKind::Fixed | sql::MaskKind::Shift | sql::MaskKind::Bucket, None) if !masked.text_like => {
            changed(masked, maskers)
        }
        _ if !masked.text_like => Mask::Null,
        (sql::MaskKind::Redact, _) | (_, Some(policy::MaskWith::Redact)) => Mask::Redact,
        (sql::MaskKind::Partial(partial), None) => Mask::Styled(Style::Partial(partial)),
        (sql::MaskKind::Pseudonym, None) => Mask::Styled(Style::Pseudonym(maskers.pseudonyms.clone())),
        (sql::MaskKind::Fixed, None) => match maskers.changes.get(&masked.path) {
            Some(Change::Fixed(text)) => Mask::Styled(Style::Fixed(Arc::clone(text))),
            _ => Mask::Redact,
        },
        // Nothing of a text can be shifted or lies in a bucket.
        (sql::MaskKind::Shift | sql::MaskKind::Bucket, None) => Mask::Redact,
    }
}

fn plan(
    statement: &Statement,
    inner: Option<&Arc<Plan>>,
    obligations: &policy::Obligations,
    maskers: &Maskers,
) -> StatementPlan {
    let output = match &statement.output {
        sql::Output::NoRows => Output::Nothing,
        sql::Output::CleanRows => Output::Opaque,
        sql::Output::OfName => Output::OfName,
        sql::Output::Columns(columns) => Output::Columns(
            columns
                .iter()
                .map(|column| {
                    // COPY has no types on the wire, so what fits the column's type is settled here.
                    column.mask.as_ref().map(|masked| mask(masked, obligations.mask_with, maskers))
                })
                .collect(),
        ),
    };
    let masked = match &statement.output {
        sql::Output::Columns(columns) => columns
            .iter()
            .filter_map(|column| column.mask.as_ref().map(|masked| masked.path.to_string()))
            .collect(),
        _ => Vec::new(),
    };
    StatementPlan {
        output,
        masked,
        strict: statement.strict,
        copy: statement.copy.as_ref().map(copy),
        max_rows: obligations.max_rows,
        max_bytes: obligations.max_bytes,
        max_time: obligations.max_time,
        reads_only: reads_only(statement),
        changes_catalogue: matches!(statement.class, sql::Class::Ddl | sql::Class::Call | sql::Class::Admin),
        changes_schema: matches!(statement.class, sql::Class::Ddl | sql::Class::Call),
        names: names(&statement.names, inner),
        transaction: statement.transaction.is_some(),
        sets: statement.sets || runs_unseen(statement),
        restores: matches!(
            statement.transaction,
            Some(
                TransactionOp::Commit { .. } | TransactionOp::Rollback { .. } | TransactionOp::RollbackTo(_)
            )
        ),
    }
}

/// Whether it runs code that could change settings. Of the server's own functions that are called by name, those do not that
/// sleep, lock or count.
fn runs_unseen(statement: &Statement) -> bool {
    const HARMLESS: [&str; 5] = ["pg_sleep", "pg_advisory_", "pg_try_advisory_", "nextval", "setval"];
    let unseen = |access: &sql::Access| {
        access.action == Verb::Call
            && access.relation.as_ref().is_none_or(|name| {
                &*name.schema != "pg_catalog" || !HARMLESS.iter().any(|start| name.table.starts_with(start))
            })
    };
    statement.flags.contains(&sql::Flag::Opaque)
        || statement.class == sql::Class::Admin
        || statement.accesses.iter().any(unseen)
}

fn reads_only(statement: &Statement) -> bool {
    let harmless = |flag: &sql::Flag| matches!(flag, sql::Flag::MaskedRelation | sql::Flag::RowLock);
    statement.accesses.iter().all(|access| matches!(access.action, Verb::Select | Verb::CopyOut))
        && statement.flags.iter().all(harmless)
        && matches!(statement.class, sql::Class::Select | sql::Class::Copy)
}

fn names(names: &NameOp, inner: Option<&Arc<Plan>>) -> Names {
    match (names, inner) {
        (NameOp::Prepare { name, .. }, Some(of)) => Names::Prepare(name.clone(), Arc::clone(of)),
        (NameOp::DeclareCursor { name, hold, .. }, Some(of)) => {
            Names::Declare { name: name.clone(), held: *hold, of: Arc::clone(of) }
        }
        (NameOp::Deallocate(Some(name)), _) => Names::Deallocate(name.clone()),
        (NameOp::Deallocate(None), _) => Names::DeallocateAll,
        (NameOp::CloseCursor(Some(name)), _) => Names::Close(name.clone()),
        (NameOp::CloseCursor(None), _) => Names::CloseAll,
        (NameOp::Execute(_) | NameOp::Fetch { .. }, _) => Names::Uses,
        (NameOp::None | NameOp::Prepare { .. } | NameOp::DeclareCursor { .. }, _) => Names::Nothing,
    }
}

fn copy(copy: &sql::CopyPlan) -> Copy {
    if copy.direction == sql::CopyDirection::In {
        return Copy::In;
    }
    let (delimiter, null, header) = (copy.delimiter, copy.null.clone(), copy.header);
    Copy::Out(match copy.format {
        sql::CopyFormat::Text => CopyFormat::Text { delimiter, null, header },
        sql::CopyFormat::Csv => {
            CopyFormat::Csv { delimiter, quote: copy.quote, escape: copy.escape, null, header }
        }
        sql::CopyFormat::Binary => CopyFormat::Binary { table: copy.table },
    })
}
