//! Grants on disk: one SQLite file, one writer, every change synced before it counts.

use std::path::{Path, PathBuf};

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::clock::Deadline;
use super::{Given, Grant, GrantError};

/// One step per version of the file; a step is never changed once released.
const MIGRATIONS: [&str; 1] = ["
    CREATE TABLE grants (
        id TEXT PRIMARY KEY,
        identity TEXT NOT NULL,
        target TEXT,
        database TEXT,
        groups TEXT NOT NULL,
        hours TEXT,
        max_uses INTEGER,
        uses INTEGER NOT NULL DEFAULT 0,
        max_rows INTEGER,
        rows INTEGER NOT NULL DEFAULT 0,
        reason TEXT NOT NULL,
        ticket TEXT,
        given TEXT NOT NULL,
        created_ms INTEGER NOT NULL,
        expires_ms INTEGER NOT NULL,
        expires_boot_ms INTEGER NOT NULL,
        boot TEXT NOT NULL,
        ended TEXT
    ) STRICT;
    CREATE INDEX open_grants ON grants (identity) WHERE ended IS NULL;
    CREATE TABLE clock (one INTEGER PRIMARY KEY CHECK (one = 1), latest_ms INTEGER NOT NULL) STRICT;
    INSERT INTO clock VALUES (1, 0);
"];

#[derive(Debug)]
pub(super) struct Store {
    /// `None` while another agent has the file, which stores what ends from then on.
    connection: Option<Connection>,
    path: PathBuf,
}

impl Store {
    pub(super) fn open(path: &Path) -> Result<Self, GrantError> {
        let failed = |source| GrantError::Store { path: path.to_owned(), source };
        let connection = Connection::open(path).map_err(failed)?;
        let mut store = Self { connection: None, path: path.to_owned() };
        store.prepare(connection)?;
        Ok(store)
    }

    /// Closes the file, for another agent to open.
    pub(super) fn release(&mut self) {
        self.connection = None;
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn is_released(&self) -> bool {
        self.connection.is_none()
    }

    fn connection(&self) -> Result<&Connection, GrantError> {
        self.connection.as_ref().ok_or_else(|| GrantError::HandedOver { path: self.path.clone() })
    }

    #[cfg(test)]
    pub(super) fn allow_no_growth(&self) {
        let connection = self.connection().unwrap();
        let pages: i64 = connection.query_row("PRAGMA page_count", [], |row| row.get(0)).unwrap();
        connection.query_row(&format!("PRAGMA max_page_count = {pages}"), [], |_| Ok(())).unwrap();
    }

    fn prepare(&mut self, mut connection: Connection) -> Result<(), GrantError> {
        let path = self.path.clone();
        let failed = |source| GrantError::Store { path: path.clone(), source };
        // In this order: a file that is no database says so at the first statement that reads it.
        let health: String =
            connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0)).map_err(failed)?;
        if health != "ok" {
            return Err(GrantError::Damaged { path, what: health });
        }
        connection
            .execute_batch(
                "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA trusted_schema = OFF;
                 PRAGMA locking_mode = EXCLUSIVE;",
            )
            .map_err(failed)?;
        let version: usize =
            connection.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(failed)?;
        if version > MIGRATIONS.len() {
            return Err(GrantError::Newer { path, version, known: MIGRATIONS.len() });
        }
        for (done, step) in MIGRATIONS.iter().enumerate().skip(version) {
            let transaction = connection.transaction().map_err(failed)?;
            transaction.execute_batch(step).map_err(failed)?;
            transaction.pragma_update(None, "user_version", done + 1).map_err(failed)?;
            transaction.commit().map_err(failed)?;
        }
        self.connection = Some(connection);
        Ok(())
    }

    pub(super) fn insert(&self, grant: &Grant) -> Result<(), GrantError> {
        let sql = "INSERT INTO grants (id, identity, target, database, groups, hours, max_uses, uses, max_rows, rows, \
                   reason, ticket, given, created_ms, expires_ms, expires_boot_ms, boot, ended) \
                   VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18)";
        let values = params![
            grant.id,
            grant.identity,
            grant.target,
            grant.database,
            json(&grant.groups),
            grant.hours.map(|hours| hours.to_string()),
            grant.max_uses,
            grant.uses,
            grant.max_rows,
            grant.rows,
            grant.reason,
            grant.ticket,
            json(&grant.given),
            grant.created_ms,
            grant.deadline.wall_ms,
            grant.deadline.boot_ms,
            grant.deadline.boot,
            grant.ended,
        ];
        self.execute(sql, values).map(drop)
    }

    /// Counts a use, if one is left.
    pub(super) fn count_use(&self, id: &str) -> Result<bool, GrantError> {
        let sql = "UPDATE grants SET uses = uses + 1 \
                   WHERE id = ?1 AND ended IS NULL AND (max_uses IS NULL OR uses < max_uses)";
        Ok(self.execute(sql, params![id])? == 1)
    }

    pub(super) fn set_rows(&self, id: &str, rows: u64) -> Result<(), GrantError> {
        self.execute("UPDATE grants SET rows = ?2 WHERE id = ?1", params![id, rows]).map(drop)
    }

    /// Ends a grant; false when it had ended before.
    pub(super) fn end(&self, id: &str, why: &str) -> Result<bool, GrantError> {
        let sql = "UPDATE grants SET ended = ?2 WHERE id = ?1 AND ended IS NULL";
        Ok(self.execute(sql, params![id, why])? == 1)
    }

    pub(super) fn list(&self, all: bool) -> Result<Vec<Grant>, GrantError> {
        let filter = if all { "" } else { "WHERE ended IS NULL" };
        let sql = format!("SELECT * FROM grants {filter} ORDER BY created_ms, id");
        let connection = self.connection()?;
        let read = || {
            let mut statement = connection.prepare(&sql)?;
            statement.query_map([], grant)?.collect::<Result<Vec<_>, _>>()
        };
        read().map_err(|source| self.failed(source))
    }

    /// The latest time the wall clock was seen to show.
    pub(super) fn latest_ms(&self) -> Result<i64, GrantError> {
        let read =
            self.connection()?.query_row("SELECT latest_ms FROM clock", [], |row| row.get(0)).optional();
        read.map(Option::unwrap_or_default).map_err(|source| self.failed(source))
    }

    pub(super) fn set_latest_ms(&self, ms: i64) -> Result<(), GrantError> {
        self.execute("UPDATE clock SET latest_ms = max(latest_ms, ?1)", params![ms]).map(drop)
    }

    /// From here on every write fails, as on a full disk.
    #[cfg(test)]
    pub(super) fn refuse_writes_for_test(&self) {
        self.connection().unwrap().pragma_update(None, "query_only", true).unwrap();
    }

    #[cfg(test)]
    pub(super) fn accept_writes_for_test(&self) {
        self.connection().unwrap().pragma_update(None, "query_only", false).unwrap();
    }

    fn execute(&self, sql: &str, values: &[&dyn rusqlite::ToSql]) -> Result<usize, GrantError> {
        self.connection()?.execute(sql, values).map_err(|source| self.failed(source))
    }

    fn failed(&self, source: rusqlite::Error) -> GrantError {
        GrantError::Store { path: self.path.clone(), source }
    }
}

fn grant(row: &Row<'_>) -> rusqlite::Result<Grant> {
    let hours: Option<String> = row.get("hours")?;
    let given: Vec<Given> = from_json(&row.get::<_, String>("given")?);
    Ok(Grant {
        id: row.get("id")?,
        identity: row.get("identity")?,
        target: row.get("target")?,
        database: row.get("database")?,
        groups: from_json(&row.get::<_, String>("groups")?),
        // Hours that cannot be read allow no minute.
        hours: hours.map(|hours| hours.parse().unwrap_or_default()),
        max_uses: row.get("max_uses")?,
        uses: row.get("uses")?,
        max_rows: row.get("max_rows")?,
        rows: row.get("rows")?,
        reason: row.get("reason")?,
        ticket: row.get("ticket")?,
        given,
        created_ms: row.get("created_ms")?,
        deadline: Deadline {
            wall_ms: row.get("expires_ms")?,
            boot_ms: row.get("expires_boot_ms")?,
            boot: row.get("boot")?,
        },
        ended: row.get("ended")?,
    })
}

fn json<T: serde::Serialize>(value: &T) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

/// What cannot be read is nobody's approval and no group.
fn from_json<T: serde::de::DeserializeOwned + Default>(text: &str) -> T {
    serde_json::from_str(text).unwrap_or_default()
}
