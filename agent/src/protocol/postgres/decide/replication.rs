//! Replication connections: backups and streams of changes, which carry whole tables as they are stored. No rule about
//! columns reaches into them, so where anything of the target has a label there are none, whatever policy says.

use chaperone_policy::Effect;
use chaperone_sql::{Access, Class, Statement, Verb};

use super::Decider;
use super::plan_of::{self, Facts};
use super::unread::unknown;
use crate::config::Detect;
use crate::protocol::postgres::plan::Plan;
use crate::protocol::postgres::response::{Report, sqlstate};
use crate::protocol::postgres::startup::Replication;

/// First words of commands that the server reads by the grammar of replication (repl_scanner.l). SHOW is SQL as well,
/// and is decided as that where SQL is understood.
const COMMANDS: [&str; 9] = [
    "IDENTIFY_SYSTEM",
    "READ_REPLICATION_SLOT",
    "BASE_BACKUP",
    "CREATE_REPLICATION_SLOT",
    "DROP_REPLICATION_SLOT",
    "ALTER_REPLICATION_SLOT",
    "START_REPLICATION",
    "TIMELINE_HISTORY",
    "UPLOAD_MANIFEST",
];

/// What PostgreSQL's own clients say first in a database. Names without a schema mean nothing from then on.
const CLEARED: &str = "SELECT pg_catalog.set_config('search_path', '', false);";

/// Whether a text is a command of replication and not SQL.
pub(super) fn is_command(kind: Replication, text: &str) -> bool {
    // In no database there is no SQL: the server refuses what is not a command.
    let first = || text.trim_ascii_start().split(|c: char| !c.is_ascii_alphabetic() && c != '_').next();
    kind == Replication::Physical || first().is_some_and(|word| COMMANDS.contains(&word)) || text == CLEARED
}

/// It changes nothing of the catalogue.
fn command() -> Statement {
    unknown(Class::Select, Access { action: Verb::Replicate, relation: None })
}

impl Decider {
    /// Makes it the decider of a replication connection.
    ///
    /// # Errors
    /// When there may be none: the report says why.
    pub(in crate::protocol::postgres) fn replicate(&mut self, kind: Replication) -> Result<(), Report> {
        let target = &self.backend.target;
        if !target.labels.is_empty() || target.detect == Detect::Mask {
            let why =
                format!("replication is denied at target \"{}\", where something is masked", target.name);
            return Err(Report::new(sqlstate::INSUFFICIENT_PRIVILEGE, why).hint(
                "Replication carries whole tables as they are stored. Read them with SELECT or COPY.",
            ));
        }
        let decision = self.decision(Facts::of(&[command()], false));
        match decision.effect {
            Effect::Permit => {
                self.replication = Some(kind);
                Ok(())
            }
            Effect::Deny => Err(plan_of::denied(decision.rule(), &decision.reason, decision.hint.as_deref())),
            Effect::Hold => Err(plan_of::denied(
                decision.rule(),
                "replication cannot wait for an approval",
                Some("Ask for a permit of sql:replicate, by a grant for instance."),
            )),
        }
    }

    /// The plan of a command. What it streams is summed up, and not recorded: it is the database itself.
    pub(super) fn replication_plan(&mut self) -> Plan {
        let statements = [command()];
        let decision = self.decision(Facts::of(&statements, false));
        let plan = plan_of::decided(self.version(), &statements, &[], &decision, false, &self.maskers);
        Plan { unread: true, rows_recorded: false, seals: false, ..plan }
    }

    /// Called when policy changed: a stream has no next statement at which it would be denied.
    pub(super) fn still_replicates(&mut self) -> Result<(), String> {
        match self.replication {
            Some(kind) => self.replicate(kind).map_err(|report| report.message),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_told_from_sql_by_their_first_word() {
        for (text, expect) in [
            ("IDENTIFY_SYSTEM", true),
            ("  START_REPLICATION SLOT \"s\" LOGICAL 0/0", true),
            ("BASE_BACKUP( LABEL 'x')", true),
            (CLEARED, true),
            ("SELECT pg_catalog.set_config('search_path', 'pg_temp', false);", false),
            ("identify_system", false),
            ("/* */ IDENTIFY_SYSTEM", false),
            ("IDENTIFY_SYSTEMS", false),
            ("drop table START_REPLICATION", false),
            ("SHOW server_version", false),
            ("", false),
        ] {
            assert_eq!(is_command(Replication::Logical, text), expect, "{text}");
            assert!(is_command(Replication::Physical, text), "{text}");
        }
    }
}
