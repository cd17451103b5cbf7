//! What a statement leaves behind in the journal.

use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::Decider;
use super::hold::binds;
use crate::protocol::postgres::machine::{Asked, Question};
use crate::protocol::postgres::plan::Plan;
use crate::record::event::{self, Event, Step};

/// The journal keeps this much of a statement; its digest covers all of it.
const RECORDED_TEXT_MAX: usize = 64 << 10;

impl Decider {
    pub(super) fn event(
        &self,
        question: &Question,
        sql: &str,
        step: Step,
        plan: &Plan,
        verdict: event::Verdict,
        hold: Option<String>,
    ) -> Event {
        let mut end = sql.len().min(RECORDED_TEXT_MAX);
        while !sql.is_char_boundary(end) {
            end -= 1;
        }
        let (text, digest, prepared) = match &question.what {
            // The text is in the record of the operation that prepared it.
            Asked::Execute { portal } => (String::new(), String::new(), Some(portal.statement.op)),
            Asked::Query { .. } | Asked::Prepare { .. } | Asked::Call { .. } => {
                let text = sql.get(..end).unwrap_or_default().to_owned();
                (text, crate::hex(&Sha256::digest(sql.as_bytes())), None)
            }
        };
        Event::Statement {
            session: Arc::clone(&self.session),
            op: question.op,
            step,
            sql: text,
            sql_sha256: digest,
            prepared,
            binds: binds(question),
            verdict,
            policies: Arc::clone(&plan.policies),
            policy: Arc::clone(&self.policies.short_digest),
            reason: plan.reason.clone(),
            masked: plan.statements.iter().flat_map(|statement| statement.masked.iter().cloned()).collect(),
            hold,
        }
    }
}
