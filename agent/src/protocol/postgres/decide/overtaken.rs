//! Statements on masked relations beside changes of the schema by other sessions. Those of the session itself come in
//! order, and are looked at in `changing`.

use std::collections::VecDeque;
use std::sync::Arc;

use chaperone_sql::{RelName, Verb};

use super::Decider;
use crate::protocol::postgres::machine::Machine;
use crate::protocol::postgres::plan::Plan;
use crate::protocol::postgres::response::{Report, sqlstate};
use crate::protocol::postgres::rows::{Mismatch, Origins};

/// Statements that the server has not begun to answer, with the generation of the catalogue's changes they were decided in.
#[derive(Debug, Default)]
pub(super) struct OnTheirWay {
    sent: VecDeque<(u64, u64, Arc<Plan>)>,
    /// Up to this generation nothing came in between.
    seen: u64,
    /// The generation before what is being decided was looked at.
    noted: u64,
    /// The session changes something itself.
    changes: bool,
}

impl Decider {
    /// Why a statement cannot be served just now: what it reads is being changed by another session, and the server may find a masked column
    /// where the analysis saw another one.
    pub(super) fn in_the_way(&mut self, plan: &Plan) -> Option<Report> {
        if !self.guarded() {
            return None;
        }
        self.on_their_way.noted = self.catalogue.changes.generation();
        let strict = plan.statements.iter().any(|statement| statement.strict);
        let near = |name: &&RelName| strict || self.view.has_masked_namesake(&name.table);
        let relation = self.catalogue.under_way(&self.session, used(plan))?;
        Some(&relation).filter(near).map(|relation| {
            let reason =
                format!("{relation} is being changed, and columns are masked that it could be taken for");
            Report::new(sqlstate::OBJECT_IN_USE, reason)
                .hint("Send the statement after the change is committed, and that was answered.")
        })
    }

    /// Notes what goes to the server.
    pub(super) fn sent(&mut self, op: u64, plan: &Arc<Plan>) {
        let changes = &self.catalogue.changes;
        for statement in &*plan.analysis {
            self.on_their_way.changes |= changes.begin(&self.session, &statement.reshapes);
        }
        if self.guarded() && plan.statements.iter().any(|statement| statement.strict) {
            self.on_their_way.sent.push_back((op, self.on_their_way.noted, Arc::clone(plan)));
        }
    }

    /// The session has nothing under way.
    pub(in crate::protocol::postgres) fn settled(&mut self) {
        self.on_their_way.sent.clear();
        if std::mem::take(&mut self.on_their_way.changes) {
            self.catalogue.changes.end(&self.session);
        }
    }

    /// Whether what the server says next can be served.
    ///
    /// # Errors
    /// When another session changed what a statement reads before the server came to it.
    pub(in crate::protocol::postgres) fn not_overtaken<O: Origins>(
        &mut self,
        machine: &Machine<O>,
    ) -> Result<(), Mismatch> {
        let Self { on_their_way: OnTheirWay { sent, seen, .. }, catalogue, session, .. } = self;
        let now = catalogue.changes.generation();
        while sent.front().is_some_and(|(op, ..)| !machine.owes(*op)) {
            sent.pop_front();
        }
        if now == *seen {
            return Ok(());
        }
        for (op, generation, plan) in sent.iter().filter(|(op, ..)| !machine.has_begun(*op)) {
            if let Some(relation) = catalogue.changes.since(*generation, session, used(plan)) {
                tracing::warn!(op, %relation, "changed before the server came to a statement on it");
                return Err(Mismatch::Overtaken(relation.to_string()));
            }
        }
        *seen = now;
        Ok(())
    }
}

impl Drop for Decider {
    fn drop(&mut self) {
        if self.on_their_way.changes {
            self.catalogue.abandon(&self.session);
        }
    }
}

/// What a text reads and writes.
fn used(plan: &Plan) -> impl Iterator<Item = &RelName> {
    let accesses = plan.analysis.iter().flat_map(|statement| &statement.accesses);
    accesses.filter(|access| access.action != Verb::Ddl).filter_map(|access| access.relation.as_ref())
}
