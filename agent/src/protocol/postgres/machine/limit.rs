//! Limits of a statement: what is beyond them is dropped, the server is asked to cancel, and the client is told which limit
//! it was in place of the server's own words.
//!
//! The server may complete the statement before the cancel reaches it. What only read is failed afterwards, by text that
//! cannot parse, so that its transaction is what the client believes; for everything else the session ends.

use std::time::Duration;

use super::super::response::{Report, sqlstate};
use super::super::rows::Origins;
use super::{Expect, Fatal, Machine, Run};
use crate::gate::Staged;

/// What a statement may not exceed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Limit {
    #[error("policy lets a statement return {0} rows at most")]
    Rows(u64),
    #[error("policy lets a statement return {0} bytes at most")]
    Bytes(u64),
    #[error("policy lets a statement run for {} s at most", .0.as_secs())]
    Time(Duration),
}

impl Limit {
    #[must_use]
    pub fn report(&self) -> Report {
        let (code, hint) = match self {
            Self::Rows(_) => (sqlstate::LIMIT_EXCEEDED, "Ask for fewer rows, with LIMIT."),
            Self::Bytes(_) => (sqlstate::LIMIT_EXCEEDED, "Ask for fewer rows or columns."),
            Self::Time(_) => (sqlstate::QUERY_CANCELED, "Ask for less at a time."),
        };
        Report::new(code, self.to_string()).hint(hint)
    }
}

/// A failure the server has to be brought to.
#[derive(Debug)]
pub(super) struct Owed {
    op: u64,
    limit: Limit,
    /// In the place of a query, or of a step of a group that is still open.
    simple: bool,
}

/// What becomes of a statement that completed.
pub(super) enum Completed {
    AsItSays,
    /// The client is not told; it is told of a failure instead.
    Failed,
}

impl Run {
    /// Counts a row of so many bytes; false when it is beyond a limit.
    pub(super) fn count_row(&mut self, bytes: u64) -> bool {
        if self.cut.is_none() {
            let statement = self.plan.statement(self.index);
            let over = statement.and_then(|statement| {
                let rows = statement.max_rows.filter(|most| self.rows >= *most).map(Limit::Rows);
                let most = statement.max_bytes.filter(|most| self.bytes.saturating_add(bytes) > *most);
                rows.or(most.map(Limit::Bytes))
            });
            self.cut = over;
        }
        self.dropped |= self.cut.is_some();
        self.rows += u64::from(self.cut.is_none());
        self.cut.is_none()
    }
}

impl<O: Origins> Machine<O> {
    /// True once when the server has to be asked to cancel what it runs.
    pub fn take_cancel_due(&mut self) -> bool {
        std::mem::take(&mut self.cancel_due)
    }

    /// True while a statement that came to a limit is not over: nothing new may go to the server.
    pub fn is_cut(&self) -> bool {
        let cut = |expect: &Expect| match expect {
            Expect::Execute(run) | Expect::Query { run, failed: false } => run.cut.is_some(),
            _ => false,
        };
        self.owed.is_some() || self.expect.front().is_some_and(cut)
    }

    /// True while the server has not answered all of an operation.
    pub fn owes(&self, op: u64) -> bool {
        self.expect.iter().any(|expect| match expect {
            Expect::Execute(run) | Expect::Query { run, .. } => run.op == op,
            _ => false,
        })
    }

    /// True when the server has looked up the names of an operation's last statement: it has told what it returns.
    pub fn has_begun(&self, op: u64) -> bool {
        let (run, described) = match self.expect.front() {
            Some(Expect::Query { run, failed: false }) => (run, run.cells.is_some()),
            // What describes it can be older than its binding.
            Some(Expect::Execute(run)) => (run, false),
            _ => return false,
        };
        run.op == op && run.index + 1 >= run.plan.statements.len() && (described || run.rows > 0)
    }

    /// The statement that is answering, if it may only do so for a time.
    pub fn timed(&self) -> Option<(u64, usize, Duration)> {
        match self.expect.front() {
            Some(Expect::Execute(run) | Expect::Query { run, failed: false }) if run.cut.is_none() => {
                run.plan.statement(run.index)?.max_time.map(|time| (run.op, run.index, time))
            }
            _ => None,
        }
    }

    /// The time of the statement that is answering is over.
    pub fn time_is_over(&mut self) {
        let Some((_, _, time)) = self.timed() else { return };
        if let Some(run) = self.running() {
            run.cut = Some(Limit::Time(time));
            self.cancel_due = true;
        }
    }

    /// A statement that was cut says it completed, before it could be cancelled.
    ///
    /// # Errors
    /// When nothing can make that undone: the session ends.
    pub(super) fn cut_completed(&mut self) -> Result<Completed, Fatal> {
        let Some((op, limit, reads_only)) = self.running().and_then(|run| {
            let statement = run.plan.statement(run.index).filter(|_| run.plan.statements.len() == 1);
            Some((run.op, run.cut?, run.dropped.then(|| statement.is_some_and(|it| it.reads_only))))
        }) else {
            return Ok(Completed::AsItSays);
        };
        let simple = match (self.expect.front(), self.expect.get(1), self.expect.len()) {
            _ if reads_only.is_none() => return Ok(Completed::AsItSays),
            (Some(Expect::Query { .. }), None, _) | (Some(Expect::Execute(_)), Some(Expect::Sync), 2) => true,
            (Some(Expect::Execute(_)), None, _) => false,
            _ => return Err(Fatal::Limit(limit)),
        };
        if reads_only == Some(false) {
            return Err(Fatal::Limit(limit));
        }
        self.owed = Some(Owed { op, limit, simple });
        Ok(Completed::Failed)
    }

    /// True when the ReadyForQuery at hand belongs to a statement that has to be failed yet.
    pub(super) fn owes_a_failure(&self) -> bool {
        self.owed.is_some()
    }

    /// Fails the statement that completed although it was cut, once no cancel is under way that could hit another.
    pub fn pay(&mut self, staged: &mut Staged) {
        if !self.idle() {
            return;
        }
        if let Some(Owed { op, limit, simple }) = self.owed.take() {
            match simple {
                true => self.poison_query(op, limit.report(), staged),
                false => self.poison_step(op, limit.report(), staged),
            }
        }
    }
}
