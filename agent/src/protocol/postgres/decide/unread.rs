//! What the analysis does not serve, from those who may do anything: where nothing is masked, a text that was not
//! understood hides nothing from the agent that its sender could not have anyway. Policy is asked for the right to
//! everything; whoever has not got it is told what was not understood.

use std::collections::BTreeSet;
use std::sync::Arc;

use chaperone_policy::Effect;
use chaperone_sql::{
    Access, Class, Flag, NameOp, Output, Refusal, RefusalKind, RelName, Reshapes, Statement, Verb,
};

use super::plan_of::{self, Facts};
use super::{Decider, Snapshot};
use crate::protocol::postgres::plan::Plan;
use crate::protocol::postgres::response::{Report, sqlstate};

/// The setting the machine itself hangs on: it reads texts as UTF-8.
const NEVER_SET: &str = "client_encoding";

/// Functions of pg_catalog that libpq calls by their numbers, for large objects (pg_proc.dat: numbers do not change).
const LARGE_OBJECTS: [(u32, &str); 13] = [
    (715, "lo_create"),
    (952, "lo_open"),
    (953, "lo_close"),
    (954, "loread"),
    (955, "lowrite"),
    (956, "lo_lseek"),
    (957, "lo_creat"),
    (958, "lo_tell"),
    (964, "lo_unlink"),
    (1004, "lo_truncate"),
    (3170, "lo_lseek64"),
    (3171, "lo_tell64"),
    (3172, "lo_truncate64"),
];

fn large_object(function: u32) -> Option<&'static str> {
    LARGE_OBJECTS.iter().find(|(number, _)| *number == function).map(|(_, name)| *name)
}

/// What stands in the record for a FunctionCall.
pub(super) fn call_text(function: u32) -> Arc<str> {
    match large_object(function) {
        Some(name) => format!("/* function call */ pg_catalog.{name}").into(),
        None => format!("/* function call */ {function}").into(),
    }
}

/// A statement of which nothing is known.
pub(super) fn unknown(class: Class, access: Access) -> Statement {
    Statement {
        class,
        accesses: vec![access],
        flags: BTreeSet::from([Flag::Opaque]),
        output: Output::CleanRows,
        strict: false,
        names: NameOp::None,
        copy: None,
        transaction: None,
        reshapes: Reshapes::Nothing,
        sets: false,
        range: 0..0,
    }
}

/// Everything there is.
fn anything() -> Statement {
    unknown(Class::Admin, Access { action: Verb::Admin, relation: None })
}

impl Decider {
    /// The plan of a text that was not understood.
    pub(super) fn not_understood(&mut self, refusal: &Refusal) -> Plan {
        let pinned = match &refusal.kind {
            RefusalKind::PinnedSetting(name) => name == NEVER_SET,
            RefusalKind::Nul => true,
            _ => false,
        };
        match !pinned && self.may_anything() {
            true => self.unread_text(),
            false => plan_of::refused(self.version(), refusal),
        }
    }

    /// The plan of a text that was not looked at.
    pub(super) fn unread_text(&mut self) -> Plan {
        self.unread(anything())
    }

    /// The plan of a FunctionCall, which names a function by its number and has no text.
    pub(super) fn call_plan(&mut self, function: u32) -> Plan {
        if self.guarded() {
            let reason = "function call messages are denied where columns are masked";
            let report =
                Report::new(sqlstate::INSUFFICIENT_PRIVILEGE, reason).hint("Call the function in a SELECT.");
            return plan_of::builtin(self.version(), "function-call", report);
        }
        let access = match large_object(function) {
            Some(name) => {
                let name = RelName { schema: "pg_catalog".into(), table: name.into() };
                Access { action: Verb::Call, relation: Some(name) }
            }
            None => Access { action: Verb::Admin, relation: None },
        };
        self.unread(unknown(Class::Select, access))
    }

    fn unread(&mut self, statement: Statement) -> Plan {
        let statements = [statement];
        let decision = self.decision(Facts::of(&statements, false));
        let plan = plan_of::decided(
            self.version(),
            &statements,
            &[],
            &decision,
            self.rows_recorded(),
            &self.maskers,
        );
        Plan { unread: true, ..plan }
    }

    /// Whether nothing hangs on what a text means: nothing is masked, and policy permits everything, without asking anybody.
    pub(super) fn may_anything(&mut self) -> bool {
        !self.guarded() && self.decision(Facts::of(&[anything()], false)).effect == Effect::Permit
    }

    /// Whether the session's settings have to be such that the analysis reads texts as the server does. Where they have
    /// not, temporary tables come first, as they do without an agent.
    pub(in crate::protocol::postgres) fn pins_settings(&mut self) -> bool {
        self.free = self.may_anything();
        !self.free
    }

    pub(in crate::protocol::postgres) fn is_free(&self) -> bool {
        self.free
    }

    /// Says whether the server reads literals in another way than the analysis does.
    pub(in crate::protocol::postgres) fn set_misread(&mut self, misread: bool) {
        self.misread = misread;
    }

    /// Called when policy or catalogue changed: what the session did while it was free to do anything may have changed
    /// what its texts mean.
    pub(super) fn still_sound(&mut self) -> Result<(), String> {
        let bound = self.free && !self.may_anything();
        match bound || self.unseen && self.guarded() {
            true => Err("the session has done what is not permitted, or could not be analysed, under the rules of now; \
                         connect again"
                .into()),
            false => Ok(()),
        }
    }

    /// Reads the catalogue again if the session changed it a while ago.
    pub(super) async fn catch_up(&mut self) -> Result<(), super::End> {
        if self.behind && !self.busy && Snapshot::is_old(&self.snapshot) {
            self.behind = false;
            let read = self.catalogue.for_unknown(&self.backend).await;
            self.adopt(read)?;
        }
        Ok(())
    }
}
