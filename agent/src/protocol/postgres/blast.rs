//! What an approver is told besides the statement, and what is watched while it waits: both asked of the target over a
//! connection of the agent's own, never the session's.
//!
//! Planned rows come from EXPLAIN without the bind values, in a transaction that cannot write. Nothing a client wrote runs
//! for it: only statements that call nothing but harmless functions are planned, each as the one statement that the server
//! parses it to be. Locks are looked at once a second: a statement that waits for a person inside a transaction holds
//! up whoever needs what that transaction has locked.

use std::collections::HashSet;
use std::fmt::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, BytesMut};
use chaperone_sql::{Class, Statement, Verb};
use tokio::io::AsyncWriteExt;
use tokio::time::Instant;
use tracing::{debug, warn};

use super::catalogue::{self, CatalogueError};
use super::codec::{self, put_c_str};
use super::open::{Opened, open};
use super::startup::Startup;
use crate::gate::{Blast, Holds, InTheWay};
use crate::upstream::{Backend, Stream};

/// Longest a planner is waited for.
const PLANNING: &str = "2s";

/// Longest for everything that is told besides.
const TELLING: Duration = Duration::from_secs(5);

/// Of those who wait, so many are named.
const MOST_NAMED: usize = 10;

const LOOK_EVERY: Duration = Duration::from_secs(1);

/// References that are shown.
const MOST_REFERENCES: usize = 20;

/// A held statement and where it waits.
pub(super) struct Waiting {
    pub(super) backend: Arc<Backend>,
    pub(super) address: SocketAddr,
    pub(super) database: String,
    pub(super) search_path: String,
    /// The server's process of the session.
    pub(super) server_pid: Option<i32>,
    pub(super) sql: Arc<str>,
    pub(super) analysis: Arc<[Statement]>,
    pub(super) holds: Arc<Holds>,
    pub(super) id: String,
    /// How long others may wait for what the session has locked.
    pub(super) patience: Duration,
}

/// Tells, then watches. Comes back only when others have waited too long.
pub(super) async fn watch(waiting: Waiting) -> InTheWay {
    match attend(&waiting).await {
        Ok(found) => found,
        Err(error) => {
            warn!(hold = waiting.id, %error, "what a held statement would touch, and who waits for it, is not known");
            waiting
                .holds
                .describe(&waiting.id, Blast { unknown: Some(error.to_string()), ..Blast::default() });
            std::future::pending().await
        }
    }
}

/// Tells of what is parked, beside the session: it is for approvers, and the client has its answer by then.
pub(super) fn tell_alone(waiting: Waiting) {
    tokio::spawn(async move {
        // So that who sends a hundred of them opens no hundred connections.
        let _turn = waiting.holds.turn().await;
        let told = tokio::time::timeout(TELLING, open_and_tell(&waiting)).await;
        let blast = told.unwrap_or(Err(CatalogueError::Timeout)).unwrap_or_else(|error| {
            debug!(hold = waiting.id, %error, "no plan");
            Blast { unknown: Some(error.to_string()), ..Blast::default() }
        });
        waiting.holds.describe(&waiting.id, blast);
    });
}

async fn open_and_tell(waiting: &Waiting) -> Result<Blast, CatalogueError> {
    let login = Startup { database: waiting.database.clone(), ..Startup::default() };
    let path = Some(waiting.search_path.as_str());
    let Opened { mut stream, mut rest, .. } = open(&waiting.backend, waiting.address, &login, path).await?;
    tell(&mut Connection { stream: &mut stream, buffer: &mut rest }, waiting).await
}

async fn attend(waiting: &Waiting) -> Result<InTheWay, CatalogueError> {
    let login = Startup { database: waiting.database.clone(), ..Startup::default() };
    let path = Some(waiting.search_path.as_str());
    let Opened { mut stream, mut rest, .. } = open(&waiting.backend, waiting.address, &login, path).await?;
    let mut connection = Connection { stream: &mut stream, buffer: &mut rest };
    let told = tokio::time::timeout(TELLING, tell(&mut connection, waiting)).await;
    match told.unwrap_or(Err(CatalogueError::Timeout)) {
        Ok(blast) => waiting.holds.describe(&waiting.id, blast),
        // Half an answer may be on its way: another connection for the locks.
        Err(error) => {
            debug!(hold = waiting.id, %error, "no plan");
            waiting
                .holds
                .describe(&waiting.id, Blast { unknown: Some(error.to_string()), ..Blast::default() });
            let Opened { mut stream, mut rest, .. } =
                open(&waiting.backend, waiting.address, &login, path).await?;
            return locks(&mut Connection { stream: &mut stream, buffer: &mut rest }, waiting).await;
        }
    }
    locks(&mut connection, waiting).await
}

struct Connection<'a> {
    stream: &'a mut Stream,
    buffer: &'a mut BytesMut,
}

impl Connection<'_> {
    async fn query(&mut self, name: &'static str, sql: &str) -> Result<catalogue::Rows, CatalogueError> {
        catalogue::query(self.stream, self.buffer, name, sql).await
    }

    /// Has a text parsed under a name. The extended protocol takes one statement and no more (52.2.3).
    async fn parse(&mut self, name: &'static str, sql: &str) -> Result<(), CatalogueError> {
        let mut out = BytesMut::new();
        codec::put(&mut out, b'P', |out| {
            put_c_str(out, name.as_bytes());
            put_c_str(out, sql.as_bytes());
            out.put_i16(0);
        });
        codec::put(&mut out, b'S', |_| ());
        self.stream.write_all(&out).await?;
        self.stream.flush().await?;
        catalogue::answer(self.stream, self.buffer, "the statement").await.map(drop)
    }
}

async fn tell(connection: &mut Connection<'_>, waiting: &Waiting) -> Result<Blast, CatalogueError> {
    let mut blast = Blast { tables: touched(&waiting.analysis), ..Blast::default() };
    blast.references = references(connection, &waiting.analysis).await?;
    if !can_be_planned(&waiting.analysis) {
        blast.unknown = Some("it is not a statement that can be planned without running anything".to_owned());
        return Ok(blast);
    }
    let begin = format!(
        "BEGIN READ ONLY; SET LOCAL statement_timeout = '{PLANNING}'; SET LOCAL plan_cache_mode = force_generic_plan"
    );
    connection.query("transaction", &begin).await?;
    match planned(connection, &waiting.sql).await {
        Ok(rows) => blast.rows = rows,
        Err(CatalogueError::Query { message, .. }) => blast.unknown = Some(message),
        Err(error) => return Err(error),
    }
    connection.query("transaction", "ROLLBACK").await?;
    Ok(blast)
}

const NAME: &str = "chaperone_held";

/// Rows the planner expects the statement to touch.
async fn planned(connection: &mut Connection<'_>, sql: &str) -> Result<Option<u64>, CatalogueError> {
    connection.parse(NAME, sql).await?;
    let count = "SELECT cardinality(parameter_types) FROM pg_catalog.pg_prepared_statements WHERE name = 'chaperone_held'";
    let count = connection.query("its parameters", count).await?;
    let count: usize = first(&count).and_then(|count| count.parse().ok()).unwrap_or(0);
    // A generic plan is made without the values.
    let values = vec!["NULL"; count].join(", ");
    let values = if values.is_empty() { values } else { format!("({values})") };
    let plan = connection.query("its plan", &format!("EXPLAIN (FORMAT JSON) EXECUTE {NAME}{values}")).await?;
    let plan: Option<serde_json::Value> = first(&plan).and_then(|text| serde_json::from_str(text).ok());
    Ok(plan.as_ref().and_then(|plan| rows_of(plan.get(0)?.get("Plan")?)))
}

/// A node that changes rows says how many it returns; how many it changes its input says.
fn rows_of(plan: &serde_json::Value) -> Option<u64> {
    let rows = |node: &serde_json::Value| node.get("Plan Rows").and_then(serde_json::Value::as_f64);
    let expected = match plan.get("Node Type")?.as_str()? {
        "ModifyTable" => plan.get("Plans")?.as_array()?.iter().filter_map(rows).sum(),
        _ => rows(plan)?,
    };
    Some(expected.max(0.0) as u64)
}

/// One statement, that calls nothing whose effect is not known: a planner runs what is immutable.
fn can_be_planned(analysis: &[Statement]) -> bool {
    let [statement] = analysis else { return false };
    let class = matches!(
        statement.class,
        Class::Select | Class::Insert | Class::Update | Class::Delete | Class::Merge
    );
    class && statement.accesses.iter().all(|access| access.action != Verb::Call)
}

fn touched(analysis: &[Statement]) -> Vec<String> {
    let accesses = analysis.iter().flat_map(|statement| &statement.accesses);
    let mut tables: Vec<String> =
        accesses.filter_map(|access| access.relation.as_ref().map(ToString::to_string)).collect();
    tables.sort();
    tables.dedup();
    tables
}

/// Foreign keys that point at the tables that are written to: what would be deleted along, or stand in the way.
async fn references(
    connection: &mut Connection<'_>,
    analysis: &[Statement],
) -> Result<Vec<String>, CatalogueError> {
    let written = |verb: Verb| matches!(verb, Verb::Update | Verb::Delete | Verb::Merge | Verb::Truncate);
    let accesses = analysis.iter().flat_map(|statement| &statement.accesses);
    let tables: HashSet<_> = accesses
        .filter(|access| written(access.action))
        .filter_map(|access| access.relation.as_ref())
        .collect();
    if tables.is_empty() {
        return Ok(Vec::new());
    }
    let mut names = String::new();
    for table in tables {
        let comma = if names.is_empty() { "" } else { ", " };
        let _ = write!(names, "{comma}({}, {})", literal(&table.schema), literal(&table.table));
    }
    let sql = format!(
        "SELECT c.conrelid::pg_catalog.regclass::text, t.relname, c.confdeltype FROM pg_catalog.pg_constraint c \
         JOIN pg_catalog.pg_class t ON t.oid = c.confrelid JOIN pg_catalog.pg_namespace n ON n.oid = t.relnamespace \
         WHERE c.contype = 'f' AND (n.nspname, t.relname) IN ({names}) ORDER BY 1, 2 LIMIT {MOST_REFERENCES}"
    );
    let rows = connection.query("foreign keys", &sql).await?;
    let told = |row: &Vec<Option<String>>| {
        let [Some(from), Some(to), Some(how)] = row.as_slice() else { return None };
        let how = match how.as_str() {
            "c" => "rows go with those they refer to",
            "n" | "d" => "their references are reset",
            _ => "they stand in the way of a DELETE",
        };
        Some(format!("{from} refers to {to}: {how}"))
    };
    Ok(rows.iter().filter_map(told).collect())
}

/// A literal that means the same whatever `standard_conforming_strings` is.
fn literal(text: &str) -> String {
    format!("E'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
}

/// Looks who waits for the session, until somebody has for too long.
async fn locks(connection: &mut Connection<'_>, waiting: &Waiting) -> Result<InTheWay, CatalogueError> {
    let Some(server_pid) = waiting.server_pid else { return std::future::pending().await };
    let sql = format!(
        "SELECT pid, usename, application_name FROM pg_catalog.pg_stat_activity WHERE {server_pid} = ANY (pg_catalog.pg_blocking_pids(pid))"
    );
    let mut since: Option<Instant> = None;
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let blocked = connection.query("locks", &sql).await?;
        if blocked.is_empty() {
            since = None;
            continue;
        }
        let waited = since.get_or_insert_with(Instant::now).elapsed();
        if waited >= waiting.patience {
            let who = blocked.iter().take(MOST_NAMED).map(|row| name(row)).collect();
            return Ok(InTheWay { sessions: blocked.len() as u64, seconds: waited.as_secs(), who });
        }
    }
}

fn name(row: &[Option<String>]) -> String {
    let part =
        |at: usize| row.get(at).and_then(Option::as_deref).filter(|text| !text.is_empty()).unwrap_or("-");
    format!("{} by {} (process {})", part(1), part(2), part(0))
}

fn first(rows: &catalogue::Rows) -> Option<&str> {
    rows.first()?.first()?.as_deref()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_rows_of_a_plan_are_those_it_touches() {
        let scan = |rows: u64| json!({"Node Type": "Seq Scan", "Plan Rows": rows});
        assert_eq!(rows_of(&scan(7)), Some(7));
        let delete = json!({"Node Type": "ModifyTable", "Operation": "Delete", "Plan Rows": 0, "Plans": [scan(3), scan(4)]});
        assert_eq!(rows_of(&delete), Some(7));
        assert_eq!(rows_of(&json!({})), None);
    }

    #[test]
    fn a_name_cannot_leave_its_literal() {
        assert_eq!(literal("plain"), "E'plain'");
        assert_eq!(literal("a'b"), "E'a''b'");
        assert_eq!(literal("a\\' OR 1=1 --"), "E'a\\\\'' OR 1=1 --'");
    }
}
