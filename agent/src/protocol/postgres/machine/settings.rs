//! What is known of the settings by which dates and times are read. The server reports them when they change (manual,
//! "Asynchronous Operations"), from version 14 on in front of ReadyForQuery: from a statement that may change them to the
//! ReadyForQuery of its group nobody knows them.
//!
//! What is not seen: code that tables run of their own accord (triggers), and a change of the server's own configuration, which takes
//! effect with the next message. Neither is in a client's hands.

use std::sync::Arc;

use super::super::codec::{CodecError, Fields};
use super::super::plan::{Plan, StatementPlan};
use super::super::rows::Origins;
use super::super::settings::{ReadUnder, Settings};
use super::{Asked, Machine, Question, Waiting};

/// Under which settings a statement runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Under {
    These(Arc<Settings>),
    /// It will be known when the server has answered what it was sent.
    Settling,
    /// It cannot be known, or not all of it means what it would under one: why.
    Unknown(&'static str),
}

/// What the server said of them, and what it may have to say yet.
#[derive(Debug, Default)]
pub(super) struct Reported {
    values: Arc<Settings>,
    /// The last group with a statement that may change them.
    changed_in: Option<u64>,
    /// How many groups are over.
    over: u64,
    /// The open transaction may have changed them: its end may take that back.
    in_transaction: bool,
}

impl Reported {
    pub(super) fn hear(&mut self, fields: Fields<'_>) -> Result<(), CodecError> {
        Arc::make_mut(&mut self.values).hear(fields)
    }

    /// ReadyForQuery: what changed in its group was reported in front of it.
    pub(super) fn ready(&mut self, transaction: u8) {
        self.over += 1;
        if self.changed_in.is_some_and(|group| group < self.over) {
            self.changed_in = None;
        }
        self.in_transaction &= transaction != b'I' || self.changed_in.is_some();
    }

    fn may_change(&self, statement: &StatementPlan) -> bool {
        statement.sets || self.in_transaction && statement.restores
    }
}

impl<O: Origins> Machine<O> {
    /// What the server said of its settings at the login.
    pub fn begin_under(&mut self, settings: Settings) {
        self.settings.values = Arc::new(settings);
    }

    /// The settings at the place of the next message, if they are known.
    pub(super) fn settings_now(&self) -> ReadUnder {
        let known = self.settings.changed_in.is_none() && self.settings.values.are_known();
        known.then(|| Arc::clone(&self.settings.values))
    }

    /// Notes what is about to be sent.
    pub(super) fn settings_may_change(&mut self, waiting: &Waiting, plan: &Plan) {
        let runs = !matches!(waiting, Waiting::Parse { .. });
        if runs && plan.statements.iter().any(|statement| self.settings.may_change(statement)) {
            self.settings.changed_in = Some(self.group);
            self.settings.in_transaction = true;
        }
    }

    pub(super) fn runs_under(&self, question: &Question, plan: &Plan) -> Under {
        let Some(now) = self.settings_now() else {
            return match self.settings.changed_in {
                Some(group) if group < self.group => Under::Settling,
                Some(_) => Under::Unknown("a statement in front of it, before its Sync, may change them"),
                None => Under::Unknown("the server does not report them"),
            };
        };
        // The last one changes nothing for another.
        let before = plan.statements.split_last().map_or(&[][..], |(_, before)| before);
        if before.iter().any(|statement| self.settings.may_change(statement)) {
            return Under::Unknown("its own text may change them on the way");
        }
        let now_too = |then: &ReadUnder| then.as_ref() == Some(&now);
        let bound = match &question.what {
            Asked::Execute { portal } => now_too(&portal.read_under),
            Asked::Query { .. } | Asked::Prepare { .. } | Asked::Call { .. } => true,
        };
        match bound && plan.read_under.iter().all(now_too) {
            true => Under::These(now),
            false => Under::Unknown("it was prepared, or its values were bound, under others"),
        }
    }
}
