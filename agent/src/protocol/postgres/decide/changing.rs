//! What is read while the session's own transaction changes the schema: the catalogue is that of before, and columns may
//! stand in other places by now.

use chaperone_sql::Verb;

use super::Decider;
use crate::protocol::postgres::machine::{Named, Schema};
use crate::protocol::postgres::plan::Plan;
use crate::protocol::postgres::response::{Report, sqlstate};

/// What a statement has to do because of a change that is under way.
pub(super) enum Unsettled {
    /// The change is over with an answer that is on its way.
    Wait,
    Deny(Report),
}

impl Decider {
    /// Whether the statement reads relations with masked columns, whose places nobody knows until the change is committed.
    pub(super) fn unsettled(&self, plan: &Plan, names: &impl Named) -> Option<Unsettled> {
        if !self.guarded() || !plan.verdict_is_open() || !plan.analysis.iter().any(reads_masked) {
            return None;
        }
        match names.schema() {
            Schema::Settled => None,
            Schema::Settling => Some(Unsettled::Wait),
            Schema::Changed => Some(Unsettled::Deny(
                Report::new(
                    sqlstate::INSUFFICIENT_PRIVILEGE,
                    "denied by policy \"schema-changed\": this transaction changed the schema, and what is masked \
                     is not known until it is committed",
                )
                .hint("Commit first, or use tables without masked columns."),
            )),
        }
    }
}

/// What only changes the schema asks for that alone; what stores a query's rows, or keeps the query, reads.
fn reads_masked(statement: &chaperone_sql::Statement) -> bool {
    let reads = statement.accesses.iter().any(|access| {
        matches!(
            access.action,
            Verb::Select
                | Verb::Insert
                | Verb::Update
                | Verb::Delete
                | Verb::Merge
                | Verb::CopyIn
                | Verb::CopyOut
        )
    });
    reads && statement.strict
}
