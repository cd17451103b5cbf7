//! How much a session may have kept for it: texts of prepared statements, and values of portals. A client names as many as
//! it likes and makes each as long as a message may be, and pipelines more before the server has confirmed any.

use std::collections::HashSet;
use std::sync::Arc;

use super::{Expect, Machine, Portal, Prepared};
use crate::protocol::postgres::response::{Report, sqlstate};
use crate::protocol::postgres::rows::Origins;
use crate::record::event::Bind;

/// Messages up to this length are not measured: there is a most of names.
const SHORT: usize = 16 << 10;

/// Most that is kept beside one message.
const KEPT_MAX: usize = 256 << 20;

impl<O: Origins> Machine<O> {
    /// Why a message of `length` bytes cannot be kept; `replaces` says that it takes the place of what has no name.
    pub(super) fn no_room(&self, length: usize, replaces: bool) -> Option<Report> {
        if length <= SHORT {
            return None;
        }
        let mut kept = Kept::default();
        let statements = self.statements.values(!replaces);
        statements.for_each(|statement| kept.statement(statement));
        self.portals.values(!replaces).for_each(|portal| kept.portal(portal));
        for expect in &self.expect {
            match expect {
                Expect::Parse { statement, .. } => kept.statement(statement),
                Expect::Bind { portal, .. } => kept.portal(portal),
                _ => {}
            }
        }
        (kept.bytes > 0 && kept.bytes.saturating_add(length) > KEPT_MAX).then(|| {
            let reason = "prepared statements and portals of this session hold too much";
            Report::new(sqlstate::LIMIT_EXCEEDED, reason)
                .hint("Close or deallocate what is no longer used, or read answers more often.")
        })
    }
}

/// What is kept, each once however often it is named.
#[derive(Default)]
struct Kept {
    seen: HashSet<usize>,
    bytes: usize,
}

impl Kept {
    fn statement(&mut self, statement: &Arc<Prepared>) {
        if self.seen.insert(statement.sql.as_ptr().addr()) {
            self.bytes = self.bytes.saturating_add(statement.sql.len());
        }
    }

    fn portal(&mut self, portal: &Arc<Portal>) {
        self.statement(&portal.statement);
        if self.seen.insert(Arc::as_ptr(portal).addr()) {
            let values = portal.binds.iter().map(|bind| match bind {
                Bind::Text(text) | Bind::Binary(text) => text.len(),
                Bind::Null | Bind::Digest { .. } => size_of::<Bind>(),
            });
            self.bytes = self.bytes.saturating_add(values.sum());
        }
    }
}
