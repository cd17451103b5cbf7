//! What the target's database holds, read over a connection of the agent's own and shared by its sessions.
//!
//! A catalogue is immutable; a different one takes its place under a higher epoch. It is read again after DDL that
//! passed, when a statement names something unknown, and when it is older than the target's `catalogue_max_age_s`: by the
//! session whose statement comes next, while others go on. Between two readings a DBA's change is not seen; the
//! cross-check of row descriptions stands behind that.

use std::collections::{BTreeSet, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::BytesMut;
use chaperone_sql::{Catalog, ColumnPath, QUERIES, RelName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::changes::Changes;
use super::codec::{self, WHOLE_MAX, put_c_str};
use super::decide::budget::Comparisons;
use super::open::{OpenError, Opened, open};
use super::placing;
use super::response;
use super::startup::Startup;
use crate::config::LeastPrivilege;
use crate::detect::Kind;
use crate::places::{Elsewhere, Home, Places};
use crate::privileges;
use crate::record::{Journal, RecordError};
use crate::upstream::{Backend, Stream};

/// A reading because of age must end within this, or what is known stays until it is tried again: somebody's DDL that is
/// not committed yet can hold it up.
const POLL_TIMEOUT: Duration = Duration::from_secs(2);

/// Unknown names make it be read again at most this often.
const UNKNOWN_AT_MOST: Duration = Duration::from_secs(1);

/// Reading must end within this, or the session is refused.
const READ_TIMEOUT: Duration = Duration::from_secs(30);

#[derive(Debug, thiserror::Error)]
pub(super) enum CatalogueError {
    #[error("{0}")]
    Open(#[from] OpenError),
    #[error("query \"{query}\" failed: {message}")]
    Query { query: &'static str, message: String },
    #[error("connection broke while the catalogue was read: {0}")]
    Io(#[from] std::io::Error),
    #[error(transparent)]
    Codec(#[from] codec::CodecError),
    #[error("{0}")]
    Build(String),
    #[error("reading took longer than {} s", READ_TIMEOUT.as_secs())]
    Timeout,
    #[error("a thread that looked for labelled columns panicked")]
    Panicked,
    #[error("where labelled columns are cannot be recorded: {0}")]
    Record(#[from] RecordError),
}

/// More places than these are not recorded until the agent starts again.
const SIGHTED_MAX: usize = 4096;

/// One reading of a catalogue.
#[derive(Clone)]
pub(super) struct Snapshot {
    pub(super) epoch: u64,
    pub(super) catalog: Arc<Catalog>,
    /// Schemas that names without one are looked up in, as a value of `search_path`, `pg_temp` last.
    pub(super) search_path: String,
    /// What the account may do past every mask, where the target's configuration asks.
    pub(super) powers: Vec<String>,
    /// Columns that labels cover and do not name, for each label that was looked for.
    pub(super) elsewhere: Arc<Elsewhere>,
    /// Of the memory that they were found with.
    pub(super) generation: u64,
    pub(super) home: Home,
    read_at: Instant,
    /// Of what was read, whatever its order.
    pub(super) digest: u64,
}

impl Snapshot {
    fn is_the_same(&self, other: &Self) -> bool {
        (self.digest, &self.search_path, &self.powers, &self.elsewhere)
            == (other.digest, &other.search_path, &other.powers, &other.elsewhere)
    }

    fn new(epoch: u64, catalog: Arc<Catalog>) -> Self {
        Self {
            epoch,
            catalog,
            search_path: String::new(),
            powers: Vec::new(),
            elsewhere: Arc::default(),
            generation: 0,
            home: Home::default(),
            read_at: Instant::now(),
            digest: 0,
        }
    }

    /// Whether a session that lags behind its own changes should look again.
    pub(super) fn is_old(&self) -> bool {
        self.read_at.elapsed() >= UNKNOWN_AT_MOST
    }
}

#[cfg(test)]
impl Snapshot {
    /// A reading that was not read from a server.
    pub(super) fn for_test(epoch: u64, catalog: Arc<Catalog>) -> Self {
        Self::new(epoch, catalog)
    }
}

/// The catalogue of one database of one target.
pub(super) struct Catalogue {
    pub(super) database: String,
    address: SocketAddr,
    /// Of the digests of readings.
    keys: RandomState,
    current: Mutex<Option<Arc<Snapshot>>>,
    /// The epoch of it.
    epoch: AtomicU64,
    /// When it was last read, or the reading given up, because of its age.
    looked_at: std::sync::Mutex<Option<Instant>>,
    /// When a session last changed it.
    changed_at: std::sync::Mutex<Option<Instant>>,
    /// The powers that were recorded last.
    told: std::sync::Mutex<Vec<String>>,
    /// Places and what they were seen to hold, as they were recorded.
    sighted: std::sync::Mutex<BTreeSet<(String, Kind)>>,
    comparisons: Comparisons,
    /// What sessions are changing of it.
    pub(super) changes: Changes,
    pub(super) places: Arc<Places>,
    pub(super) journal: Arc<Journal>,
    /// What was said of labels: that they cover a column they do not name, or nothing.
    pub(super) said: std::sync::Mutex<BTreeSet<(ColumnPath, Option<ColumnPath>)>>,
}

impl Catalogue {
    #[must_use]
    pub(super) fn new(
        database: &str,
        address: SocketAddr,
        places: Arc<Places>,
        journal: Arc<Journal>,
    ) -> Self {
        Self {
            database: database.to_owned(),
            address,
            keys: RandomState::new(),
            current: Mutex::new(None),
            epoch: AtomicU64::new(0),
            looked_at: std::sync::Mutex::default(),
            changed_at: std::sync::Mutex::default(),
            told: std::sync::Mutex::default(),
            sighted: std::sync::Mutex::default(),
            comparisons: Comparisons::default(),
            changes: Changes::default(),
            places,
            journal,
            said: std::sync::Mutex::default(),
        }
    }

    /// Of no database: nothing is in it, and it is never read.
    #[must_use]
    pub(super) fn nowhere() -> Arc<Snapshot> {
        Arc::new(Snapshot::new(0, Arc::default()))
    }

    /// Whether what the account may do has not been told in these words.
    pub(super) fn is_news(&self, powers: &[String]) -> bool {
        let mut told = self.told.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let news = *told != powers;
        if news {
            *told = powers.to_vec();
        }
        news
    }

    /// Whether that place was not yet said to hold such values.
    pub(super) fn is_new(&self, place: &str, kind: Kind) -> bool {
        let mut sighted = self.sighted.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        sighted.len() < SIGHTED_MAX && sighted.insert((place.to_owned(), kind))
    }

    /// Where it is read.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The catalogue for a new session.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(super) async fn fresh(&self, backend: &Backend) -> Result<Arc<Snapshot>, CatalogueError> {
        self.no_older_than(backend.target.catalogue_age, backend).await
    }

    /// The catalogue for a statement that names something unknown.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(super) async fn for_unknown(&self, backend: &Backend) -> Result<Arc<Snapshot>, CatalogueError> {
        self.no_older_than(UNKNOWN_AT_MOST, backend).await
    }

    /// The catalogue as it is now.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(super) async fn changed(&self, backend: &Backend) -> Result<Arc<Snapshot>, CatalogueError> {
        self.no_older_than(Duration::ZERO, backend).await
    }

    /// Whether an identity may compare a masked column with so many values more.
    pub(super) fn may_compare(&self, identity: &str, column: &str, count: u32) -> bool {
        self.comparisons.spend(Instant::now().into_std(), identity, column, count)
    }

    /// One of these relations that another session is changing.
    pub(super) fn under_way<'a>(
        &self,
        session: &str,
        relations: impl IntoIterator<Item = &'a RelName>,
    ) -> Option<RelName> {
        self.changes.under_way(|| Instant::now().into_std(), session, relations)
    }

    /// A session ended, and nobody knows what became of its changes.
    pub(super) fn abandon(&self, session: &str) {
        self.changes.abandon(session, Instant::now().into_std());
    }

    /// A reading from before now will not do for sessions to come.
    pub(super) fn outdate(&self) {
        let mut changed_at = self.changed_at.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        *changed_at = Some(Instant::now());
    }

    fn is_outdated(&self, snapshot: &Snapshot) -> bool {
        let changed_at = self.changed_at.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        changed_at.is_some_and(|changed_at| snapshot.read_at < changed_at)
    }

    async fn no_older_than(&self, age: Duration, backend: &Backend) -> Result<Arc<Snapshot>, CatalogueError> {
        let asked_at = Instant::now();
        // Held while reading: sessions that arrive meanwhile wait for this reading and share it.
        let mut current = self.current.lock().await;
        if let Some(snapshot) = &*current
            && (snapshot.read_at >= asked_at
                || snapshot.read_at.elapsed() < age && !self.is_outdated(snapshot))
        {
            let known = Arc::clone(snapshot);
            return self.complete(&mut current, known, backend).await;
        }
        self.read_into(&mut current, READ_TIMEOUT, backend).await
    }

    async fn read_into(
        &self,
        current: &mut Option<Arc<Snapshot>>,
        limit: Duration,
        backend: &Backend,
    ) -> Result<Arc<Snapshot>, CatalogueError> {
        let epoch = current.as_ref().map_or(0, |snapshot| snapshot.epoch) + 1;
        let read = read(backend, self.address, &self.database, epoch, &self.places, &self.keys);
        let snapshot = tokio::time::timeout(limit, read).await.map_err(|_| CatalogueError::Timeout)??;
        let mut snapshot = self.placed(snapshot, current.as_deref(), backend).await?;
        // What did not change keeps its epoch, and with it all that was decided under it.
        if let Some(known) = current.as_ref().filter(|known| known.is_the_same(&snapshot)) {
            snapshot.epoch = known.epoch;
            snapshot.catalog = Arc::clone(&known.catalog);
        }
        let snapshot = Arc::new(snapshot);
        *current = Some(Arc::clone(&snapshot));
        self.epoch.store(snapshot.epoch, Ordering::Relaxed);
        self.look(Instant::now());
        Ok(snapshot)
    }

    /// A reading that does, with what is to be known of the labels of this configuration.
    async fn complete(
        &self,
        current: &mut Option<Arc<Snapshot>>,
        known: Arc<Snapshot>,
        backend: &Backend,
    ) -> Result<Arc<Snapshot>, CatalogueError> {
        if self.is_placed(&known, backend) {
            return Ok(known);
        }
        let again = Snapshot { epoch: known.epoch + 1, ..(*known).clone() };
        let placed = Arc::new(self.placed(again, Some(&known), backend).await?);
        *current = Some(Arc::clone(&placed));
        self.epoch.store(placed.epoch, Ordering::Relaxed);
        Ok(placed)
    }

    fn look(&self, now: Instant) {
        *self.looked_at.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(now);
    }

    /// Whether a session with this reading should ask for a newer one.
    pub(super) fn is_due(&self, snapshot: &Snapshot, age: Duration) -> bool {
        if self.epoch.load(Ordering::Relaxed) != snapshot.epoch {
            return true;
        }
        let looked_at = *self.looked_at.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        looked_at.is_none_or(|looked_at| looked_at.elapsed() >= age)
    }

    /// The catalogue as it is, read again if it is too old; none while somebody else reads it, or when it cannot be read
    /// in time: then what is known stays.
    pub(super) async fn poll(&self, backend: &Backend) -> Option<Arc<Snapshot>> {
        let mut current = self.current.try_lock().ok()?;
        let age = backend.target.catalogue_age;
        let known = current.clone().filter(|snapshot| !self.is_due(snapshot, age));
        let read = match known {
            Some(known) => self.complete(&mut current, known, backend).await,
            None => {
                self.look(Instant::now());
                self.read_into(&mut current, POLL_TIMEOUT, backend).await
            }
        };
        match read {
            Ok(snapshot) => Some(snapshot),
            Err(error) => {
                tracing::warn!(%error, database = self.database, "the catalogue could not be read again");
                None
            }
        }
    }
}

async fn read(
    backend: &Backend,
    address: SocketAddr,
    database: &str,
    epoch: u64,
    places: &Places,
    keys: &RandomState,
) -> Result<Snapshot, CatalogueError> {
    let read_at = Instant::now();
    let login = Startup { database: database.to_owned(), ..Startup::default() };
    let Opened { mut stream, rest, .. } = open(backend, address, &login, None).await?;
    let mut buffer = rest;
    // An account may have limits that are meant for its statements; this reading has its own. The server keeps them, too:
    // behind a lock it would not notice that nobody waits any more, and such readings would use up its connections.
    let limit = READ_TIMEOUT.as_millis();
    let limits = format!(
        "SELECT set_config('statement_timeout', '{limit}', false), set_config('lock_timeout', '{limit}', false)"
    );
    query(&mut stream, &mut buffer, "limits", &limits).await?;
    const PATH: &str = "SELECT s, quote_ident(s) FROM unnest(current_schemas(false)) AS s";
    let path = query(&mut stream, &mut buffer, "search_path", PATH).await?;
    let column = |index: usize| -> Vec<String> {
        path.iter().filter_map(|row| row.get(index).cloned().flatten()).collect()
    };
    let (schemas, mut quoted) = (column(0), column(1));
    let mut rows = HashMap::new();
    for catalogue_query in QUERIES {
        let answer = query(&mut stream, &mut buffer, catalogue_query.name, catalogue_query.sql).await?;
        rows.insert(catalogue_query.name.to_owned(), answer);
    }
    let powers = powers(&mut stream, &mut buffer, backend, database, places).await?;
    let home = placing::home(&mut stream, &mut buffer, database).await?;
    // Terminate; the answer does not matter any more.
    let _ = stream.write_all(b"X\0\0\0\x04").await;
    let catalog =
        Catalog::build(&rows, &schemas).map_err(|error| CatalogueError::Build(error.to_string()))?;
    // Temporary objects are searched first unless the path says otherwise, and could shadow a labelled table.
    quoted.push("pg_temp".to_owned());
    let (catalog, search_path) = (Arc::new(catalog), quoted.join(", "));
    let digest = digest(&rows, keys);
    Ok(Snapshot { search_path, powers, home, read_at, digest, ..Snapshot::new(epoch, catalog) })
}

/// The server gives rows in any order. With keys that nobody knows: who may change the schema chooses names, and could choose two
/// that sum up alike, so that a change would not be seen.
fn digest(rows: &HashMap<String, Rows>, keys: &RandomState) -> u64 {
    let hashes = rows.iter().flat_map(|(name, rows)| rows.iter().map(move |row| keys.hash_one((name, row))));
    hashes.fold(0, u64::wrapping_add)
}

/// What the account could read of labelled columns without anybody's help.
async fn powers(
    stream: &mut Stream,
    buffer: &mut BytesMut,
    backend: &Backend,
    database: &str,
    places: &Places,
) -> Result<Vec<String>, CatalogueError> {
    let target = &backend.target;
    let labels = target.labels.iter().filter(|label| label.may_be_in(database));
    let mut labels: Vec<_> = labels.map(|label| label.path()).collect();
    if labels.is_empty() || target.least_privilege == LeastPrivilege::Off {
        return Ok(Vec::new());
    }
    // By the names of the reading before this.
    labels.extend(places.away(&target.name, database, &labels));
    let sql = privileges::check(&target.user, &labels);
    match query(stream, buffer, "privileges", &sql).await {
        Ok(rows) => Ok(rows.into_iter().filter_map(|row| row.into_iter().next().flatten()).collect()),
        // What could not be looked at is not taken for harmless.
        Err(CatalogueError::Query { message, .. }) => Ok(vec![format!("cannot be looked at: {message}")]),
        Err(error) => Err(error),
    }
}

/// Rows of text.
pub(super) type Rows = Vec<Vec<Option<String>>>;

/// Runs one simple query and collects its rows.
pub(super) async fn query(
    stream: &mut Stream,
    buffer: &mut BytesMut,
    name: &'static str,
    sql: &str,
) -> Result<Rows, CatalogueError> {
    let mut out = BytesMut::new();
    codec::put(&mut out, b'Q', |out| put_c_str(out, sql.as_bytes()));
    stream.write_all(&out).await?;
    stream.flush().await?;
    answer(stream, buffer, name).await
}

/// The rows up to the next ReadyForQuery.
pub(super) async fn answer(
    stream: &mut Stream,
    buffer: &mut BytesMut,
    name: &'static str,
) -> Result<Rows, CatalogueError> {
    let mut rows = Vec::new();
    let mut failure = None;
    loop {
        while let Some(message) = codec::take(buffer, WHOLE_MAX)? {
            let mut fields = message.body();
            match message.tag {
                b'D' => {
                    let count = fields.i16()?;
                    let mut row = Vec::new();
                    for _ in 0..count {
                        let value = fields.value()?;
                        row.push(value.map(|bytes| String::from_utf8_lossy(bytes).into_owned()));
                    }
                    rows.push(row);
                }
                b'E' => failure = Some(response::read(fields)?.message),
                b'Z' => {
                    return match failure {
                        None => Ok(rows),
                        Some(message) => Err(CatalogueError::Query { query: name, message }),
                    };
                }
                _ => {}
            }
        }
        if stream.read_buf(buffer).await? == 0 {
            return Err(CatalogueError::Io(std::io::ErrorKind::UnexpectedEof.into()));
        }
    }
}
