//! Names that SQL defines and uses: PREPARE, DEALLOCATE, DECLARE, CLOSE, EXECUTE, FETCH. The server keeps them where it
//! keeps the protocol's own, and so does the machine: pending until the statement that defines them completed.

use std::sync::Arc;

use bytes::Bytes;

use super::super::plan::{Names as Effect, Plan, StatementPlan};
use super::super::response::{Report, sqlstate};
use super::super::rows::Origins;
use super::names::Found;
use super::{Cursor, Expect, Machine, Portal, Prepared, Question, Run, Under};

/// A name on its way to the server.
#[derive(Debug)]
pub(super) enum Definition {
    Statement(Bytes, Arc<Prepared>),
    Portal(Bytes, Arc<Portal>),
}

/// What the session's own statements do to the schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Schema {
    /// Nothing that is not known.
    Settled,
    /// Something, and it will be known when the server has answered what it was sent.
    Settling,
    /// The open transaction changed it, or is about to.
    Changed,
}

/// What the names of a session stand for when the next message is read.
pub trait Named {
    fn statement(&self, name: &str) -> Found<Prepared>;
    fn portal(&self, name: &str) -> Found<Portal>;
    fn schema(&self) -> Schema;
    /// Under which settings a statement runs that is sent now.
    fn under(&self, question: &Question, plan: &Plan) -> Under;
    /// Why a text that defines so many statements and cursors cannot be kept.
    fn refuses(&self, text: &str, statements: usize, cursors: usize) -> Option<Report>;
}

impl<O: Origins> Named for Machine<O> {
    fn statement(&self, name: &str) -> Found<Prepared> {
        self.statements.find(name.as_bytes(), self.group)
    }

    fn portal(&self, name: &str) -> Found<Portal> {
        self.portals.find(name.as_bytes(), self.group)
    }

    fn refuses(&self, text: &str, statements: usize, cursors: usize) -> Option<Report> {
        if !self.statements.has_room(statements) || !self.portals.has_room(cursors) {
            let report = Report::new(
                sqlstate::LIMIT_EXCEEDED,
                "too many prepared statements and cursors in this session",
            );
            return Some(report.hint("Deallocate and close those that are no longer used."));
        }
        self.no_room(text.len(), false)
    }

    fn under(&self, question: &Question, plan: &Plan) -> Under {
        self.runs_under(question, plan)
    }

    fn schema(&self) -> Schema {
        let changes = |plan: &Plan| plan.statements.iter().any(|statement| statement.changes_schema);
        let under_way = self.expect.iter().any(|expect| match expect {
            Expect::Execute(run) | Expect::Query { run, .. } => changes(&run.plan),
            _ => false,
        });
        if !under_way && !self.schema_changed {
            return Schema::Settled;
        }
        let ends = self.expect.iter().any(|expect| {
            matches!(expect, Expect::Sync | Expect::Query { .. } | Expect::Poison { simple: true, .. })
        });
        if ends { Schema::Settling } else { Schema::Changed }
    }
}

impl<O: Origins> Machine<O> {
    /// Notes the names a text defines, as pending in the current group.
    pub(super) fn define(&mut self, op: u64, sql: &Arc<str>, plan: &Arc<Plan>) -> Vec<(usize, Definition)> {
        let mut defines = Vec::new();
        if plan.statements.iter().all(|statement| statement.names.defined().is_none()) {
            return defines;
        }
        let read_under = self.settings_now();
        for (index, statement) in plan.statements.iter().enumerate() {
            let prepared = |of: &Arc<Plan>| {
                let (sql, plan) = (Arc::clone(sql), Arc::clone(of));
                Arc::new(Prepared::new(op, sql, plan, Some(index), read_under.clone()))
            };
            let definition = match &statement.names {
                Effect::Prepare(name, of) => {
                    let (name, value) = (Bytes::copy_from_slice(name.as_bytes()), prepared(of));
                    self.statements.define(&name, self.group, Arc::clone(&value));
                    Definition::Statement(name, value)
                }
                Effect::Declare { name, held, of } => {
                    let cursor = Some(Cursor { held: *held });
                    let value = Arc::new(Portal {
                        statement: prepared(of),
                        binds: Arc::default(),
                        read_under: read_under.clone(),
                        formats: Box::default(),
                        cursor,
                    });
                    let name = Bytes::copy_from_slice(name.as_bytes());
                    self.portals.define(&name, self.group, Arc::clone(&value));
                    Definition::Portal(name, value)
                }
                _ => continue,
            };
            defines.push((index, definition));
        }
        defines
    }

    /// A statement completed: what it defined stands, what it closed is gone.
    pub(super) fn settle_names(&mut self, defined: Option<Definition>, statement: &StatementPlan) {
        match defined {
            Some(Definition::Statement(name, value)) => self.statements.confirm(&name, value),
            Some(Definition::Portal(name, value)) => self.portals.confirm(&name, value),
            None => {}
        }
        match &statement.names {
            Effect::Deallocate(name) => self.statements.close(name.as_bytes()),
            Effect::DeallocateAll => self.statements.close_all(),
            Effect::Close(name) => self.portals.close(name.as_bytes()),
            Effect::CloseAll => self.portals.close_all(),
            Effect::Nothing | Effect::Prepare(..) | Effect::Declare { .. } | Effect::Uses => {}
        }
    }

    /// The rest of a run is not going to happen, nor what it would have defined.
    pub(super) fn abandon_names(&mut self, defines: Vec<(usize, Definition)>) {
        for (_, definition) in defines {
            match definition {
                Definition::Statement(name, value) => self.statements.abandon(&name, &value),
                Definition::Portal(name, value) => self.portals.abandon(&name, &value),
            }
        }
    }
}

impl Run {
    /// What the statement that just completed defines.
    pub(super) fn take_definition(&mut self) -> Option<Definition> {
        let index = self.index;
        let at = self.defines.iter().position(|(of, _)| *of == index)?;
        Some(self.defines.remove(at).1)
    }
}
