//! Labels and a reading of the catalogue: which columns a label covers although it does not name them, and what is said
//! of it in the journal and in the log.

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError};

use bytes::BytesMut;
use chaperone_sql::{Catalog, ColumnPath};

use super::catalogue::{Catalogue, CatalogueError, Snapshot, query};
use crate::places::{Home, Learned, Reading, shortened};
use crate::record::RecordError;
use crate::record::event::Event;
use crate::upstream::{Backend, Stream};

const DATABASE: &str = "SELECT oid FROM pg_database WHERE datname = current_database()";

/// Of the cluster since its first start; copies of its files have it, dumps have not.
const CLUSTER: &str = "SELECT system_identifier FROM pg_control_system()";

/// What the server says the database is.
///
/// # Errors
/// When it does not say.
pub(super) async fn home(
    stream: &mut Stream,
    buffer: &mut BytesMut,
    database: &str,
) -> Result<Home, CatalogueError> {
    let first = |rows: Vec<Vec<Option<String>>>| rows.into_iter().flatten().flatten().next();
    let oid = first(query(stream, buffer, "database", DATABASE).await?);
    let cluster = match query(stream, buffer, "cluster", CLUSTER).await {
        Ok(rows) => first(rows).unwrap_or_default(),
        // An account can be kept from asking. Databases are told apart by target and number then.
        Err(CatalogueError::Query { .. }) => String::new(),
        Err(error) => return Err(error),
    };
    let oid = oid.and_then(|oid| oid.parse().ok());
    let oid = oid.ok_or_else(|| CatalogueError::Build("the database has no number".to_owned()))?;
    Ok(Home { cluster, oid, name: database.to_owned() })
}

impl Catalogue {
    fn labels(&self, backend: &Backend) -> impl Iterator<Item = ColumnPath> {
        let labels = backend.target.labels.iter();
        labels.filter(|label| label.may_be_in(&self.database)).map(|label| label.path())
    }

    /// Whether all labels were looked for in this reading, and nothing was forgotten since.
    pub(super) fn is_placed(&self, snapshot: &Snapshot, backend: &Backend) -> bool {
        let generation = self.places.generation();
        self.labels(backend)
            .all(|label| snapshot.generation == generation && snapshot.elsewhere.contains_key(&label))
    }

    /// Looks for the labels in a reading, and keeps where their columns are before anybody is served by it. Sessions of
    /// another configuration may go on with `before`: its labels are looked for as well.
    ///
    /// # Errors
    /// When that panicked, or what is new of them cannot be recorded.
    pub(super) async fn placed(
        &self,
        mut snapshot: Snapshot,
        before: Option<&Snapshot>,
        backend: &Backend,
    ) -> Result<Snapshot, CatalogueError> {
        let reads_the_same =
            |before: &&Snapshot| (before.digest, &before.home) == (snapshot.digest, &snapshot.home);
        if let Some(before) = before.filter(reads_the_same)
            && self.is_placed(before, backend)
            && !self.places.is_unsaved()
        {
            (snapshot.elsewhere, snapshot.generation) = (Arc::clone(&before.elsewhere), before.generation);
            return Ok(snapshot);
        }
        let known = before.into_iter().flat_map(|before| before.elsewhere.keys().cloned());
        let labels: BTreeSet<ColumnPath> = self.labels(backend).chain(known).collect();
        if labels.is_empty() {
            return Ok(snapshot);
        }
        let (places, catalog) = (Arc::clone(&self.places), Arc::clone(&snapshot.catalog));
        let (target, home) = (backend.target.name.clone(), snapshot.home.clone());
        let learned = tokio::task::spawn_blocking(move || {
            let labels: Vec<ColumnPath> = labels.into_iter().collect();
            places.learn(Reading { target: &target, home: &home, catalog: &catalog, labels: &labels })
        });
        let learned = learned.await.map_err(|_| CatalogueError::Panicked)?;
        self.tell(&learned, &snapshot.catalog, &backend.target.name)?;
        (snapshot.elsewhere, snapshot.generation) = (Arc::new(learned.elsewhere), learned.generation);
        Ok(snapshot)
    }

    /// Says once what an operator should correct, and records it before anybody is served by it.
    fn tell(&self, learned: &Learned, catalog: &Catalog, target: &str) -> Result<(), RecordError> {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        let database = &self.database;
        for (label, columns) in &learned.elsewhere {
            let is_new = |column: &&ColumnPath| !said.contains(&(label.clone(), Some((*column).clone())));
            let new: Vec<&ColumnPath> = columns.iter().filter(is_new).collect();
            if !new.is_empty() {
                let moved = |column: &&ColumnPath| self.moved(label, column, catalog, target);
                self.journal.append(&new.iter().map(moved).collect::<Vec<_>>())?;
                said.extend(new.iter().map(|column| (label.clone(), Some((*column).clone()))));
                tracing::warn!(
                    target, database, %label, columns = shortened(&new),
                    "what a label named has another name now; it stays masked as long as the label is there: correct it"
                );
            }
        }
        for label in &learned.idle {
            if said.insert((label.clone(), None)) {
                tracing::warn!(target, database, %label, "a label names no column of this database, or of another that was read");
            }
        }
        Ok(())
    }

    fn moved(&self, label: &ColumnPath, column: &ColumnPath, catalog: &Catalog, target: &str) -> Event {
        let spot = catalog.spot(column);
        Event::LabelMoved {
            target: target.to_owned(),
            database: self.database.clone(),
            from: label.to_string(),
            to: column.to_string(),
            table_oid: spot.as_ref().map_or(0, |spot| spot.oid),
            column_number: spot.map_or(0, |spot| spot.number),
        }
    }
}
