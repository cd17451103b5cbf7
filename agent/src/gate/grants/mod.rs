//! Grants: what an identity may for a time, beyond what it always may.
//!
//! A grant lets an identity into a target whose policy holds connections for an approval, and lends it groups. It ends
//! by its time, by its rows, or by somebody's word, and with it the sessions that live on it. Owns their state on disk
//! and who lives on which; does not know policies, and ends no session itself: `sweep` says which have to go.

mod clock;
mod hours;
mod store;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

pub use clock::Now;
pub use hours::Hours;

use clock::Deadline;
use store::Store;

use crate::record::event::{Event, GrantUsed};

/// How far the stored reading of the wall clock may lag behind.
const LATEST_EVERY_MS: i64 = 10_000;

/// What could not be stored is tried again after so long.
const AGAIN_AFTER_MS: i64 = 1_000;

#[derive(Debug, thiserror::Error)]
pub enum GrantError {
    #[error("grants in {path}: {source}")]
    Store { path: PathBuf, source: rusqlite::Error },
    #[error("{path} is damaged ({what}); move it away to start without grants, or restore it")]
    Damaged { path: PathBuf, what: String },
    #[error("{path} was written by a newer version (format {version}; this one knows {known})")]
    Newer { path: PathBuf, version: usize, known: usize },
    #[error("{path} is another agent's by now: nothing new is granted here")]
    HandedOver { path: PathBuf },
    #[error("no grant {0} is in force")]
    Unknown(String),
    #[error("grant {0} has no use left")]
    UsedUp(String),
}

/// One person's word for a request or a grant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Given {
    pub by: String,
    /// Groups of the person; none said: whoever may use the control socket, who runs this host.
    pub groups: Option<BTreeSet<String>>,
}

/// What may be granted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Terms {
    pub identity: String,
    /// None: every target.
    pub target: Option<String>,
    pub database: Option<String>,
    /// Groups lent while it lasts.
    pub groups: Vec<String>,
    pub for_s: u64,
    pub hours: Option<Hours>,
    /// Sessions that may begin.
    pub max_uses: Option<u64>,
    /// Rows all its sessions together may be served.
    pub max_rows: Option<u64>,
    pub reason: String,
    pub ticket: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    pub id: String,
    pub identity: String,
    pub target: Option<String>,
    pub database: Option<String>,
    pub groups: Vec<String>,
    pub hours: Option<Hours>,
    pub max_uses: Option<u64>,
    pub uses: u64,
    pub max_rows: Option<u64>,
    pub rows: u64,
    pub reason: String,
    pub ticket: Option<String>,
    pub given: Vec<Given>,
    pub created_ms: i64,
    deadline: Deadline,
    /// Why it ended, once it has.
    pub ended: Option<String>,
}

impl Grant {
    #[must_use]
    pub fn expires_ms(&self) -> i64 {
        self.deadline.wall_ms
    }

    fn covers(&self, identity: &str, target: &str, database: &str) -> bool {
        let is = |wanted: &Option<String>, name: &str| wanted.as_deref().is_none_or(|wanted| wanted == name);
        self.identity == identity && is(&self.target, target) && is(&self.database, database)
    }

    fn has_uses(&self) -> bool {
        self.max_uses.is_none_or(|most| self.uses < most)
    }

    /// Why it is not in force at this moment, if it is not.
    fn not_now(&self, now: &Now, latest_ms: i64) -> Option<String> {
        if let Some(why) = &self.ended {
            return Some(why.clone());
        }
        if self.deadline.has_passed(now, latest_ms) {
            return Some("expired".into());
        }
        if self.max_rows.is_some_and(|most| self.rows >= most) {
            return Some("its rows are used up".into());
        }
        let hours = self.hours.filter(|hours| !hours.hold(now.minute_of_day()))?;
        Some(format!("it is outside of its hours, {hours} UTC"))
    }
}

#[derive(Debug)]
pub struct Grants {
    inner: Mutex<Inner>,
    version: watch::Sender<u64>,
}

#[derive(Debug)]
struct Inner {
    store: Store,
    live: BTreeMap<String, Live>,
    latest_ms: i64,
    /// When something could not be stored last, since boot.
    failed_ms: Option<i64>,
}

/// A grant in force, or one that has just ended and whose sessions are still to go.
#[derive(Debug)]
struct Live {
    grant: Grant,
    sessions: BTreeSet<String>,
    rows_to_store: bool,
    /// It has ended, and the file does not say so yet.
    end_to_store: bool,
}

/// A grant that was ended by somebody's word.
#[derive(Debug)]
pub struct Revoked {
    pub grant: Grant,
    /// Why the file does not say so yet. It is tried again; a restart before that would put the grant back in force.
    pub unstored: Option<GrantError>,
}

/// What a sweep found.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Grants that have just ended.
    pub ended: Vec<Grant>,
    /// Sessions that have to go, and why.
    pub cut: Vec<(String, String)>,
}

impl Grants {
    /// Reads the grants in `dir`, making the file if there is none.
    ///
    /// # Errors
    /// When the file cannot be used as it is.
    pub fn open(dir: &Path) -> Result<Self, GrantError> {
        let store = Store::open(&dir.join("grants.sqlite"))?;
        let live = store.list(false)?.into_iter().map(|grant| (grant.id.clone(), Live::of(grant))).collect();
        let latest_ms = store.latest_ms()?;
        let inner = Mutex::new(Inner { store, live, latest_ms, failed_ms: None });
        Ok(Self { inner, version: watch::Sender::new(0) })
    }

    /// Lets go of the file, for an agent that takes over. Sessions that live on grants live on, until these end by
    /// themselves or are revoked here, too; nothing is granted or used any more, and nothing stored.
    ///
    /// # Errors
    /// When rows that were served could not be stored before.
    pub fn release(&self) -> Result<(), GrantError> {
        let mut inner = self.lock();
        let Inner { store, live, .. } = &mut *inner;
        live.values_mut().try_for_each(|one| one.store(store))?;
        store.release();
        Ok(())
    }

    /// Takes the file back when nobody took over after all.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn reclaim(&self) -> Result<(), GrantError> {
        let mut inner = self.lock();
        if !inner.store.is_released() {
            return Ok(());
        }
        let path = inner.store.path().to_owned();
        inner.store = Store::open(&path)?;
        Ok(())
    }

    /// Changes whenever a grant begins or ends.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    /// Puts a grant in force.
    ///
    /// # Errors
    /// When it cannot be stored.
    pub fn issue(&self, now: &Now, terms: Terms, given: Vec<Given>) -> Result<Grant, GrantError> {
        let random = uuid::Uuid::now_v7().simple().to_string();
        let grant = Grant {
            id: format!("g-{}", random.get(22..).unwrap_or(&random)),
            identity: terms.identity,
            target: terms.target,
            database: terms.database,
            groups: terms.groups,
            hours: terms.hours,
            max_uses: terms.max_uses,
            uses: 0,
            max_rows: terms.max_rows,
            rows: 0,
            reason: terms.reason,
            ticket: terms.ticket,
            given,
            created_ms: now.wall_ms,
            deadline: Deadline::after(now, Duration::from_secs(terms.for_s)),
            ended: None,
        };
        let mut inner = self.lock();
        inner.store.insert(&grant)?;
        inner.live.insert(grant.id.clone(), Live::of(grant.clone()));
        drop(inner);
        self.changed();
        Ok(grant)
    }

    /// Ends a grant by somebody's word. Its sessions go with the next sweep.
    ///
    /// # Errors
    /// When it is not in force.
    pub fn revoke(&self, id: &str, why: &str) -> Result<Revoked, GrantError> {
        let mut inner = self.lock();
        let Inner { store, live, .. } = &mut *inner;
        let one = live.get_mut(id).filter(|one| one.grant.ended.is_none());
        let one = one.ok_or_else(|| GrantError::Unknown(id.to_owned()))?;
        one.grant.ended = Some(why.to_owned());
        one.end_to_store = !store.is_released();
        let unstored = one.store(store).err();
        let grant = one.grant.clone();
        drop(inner);
        self.changed();
        Ok(Revoked { grant, unstored })
    }

    /// Grants in force, or all there ever were.
    ///
    /// # Errors
    /// When the past cannot be read.
    pub fn list(&self, all: bool) -> Result<Vec<Grant>, GrantError> {
        let inner = self.lock();
        if all {
            return inner.store.list(true);
        }
        Ok(inner.live.values().map(|live| live.grant.clone()).filter(|grant| grant.ended.is_none()).collect())
    }

    /// What a new session of this identity there could live on.
    #[must_use]
    pub fn matching(&self, now: &Now, identity: &str, target: &str, database: &str) -> Vec<Grant> {
        let inner = self.lock();
        let latest_ms = inner.latest_ms;
        let usable = inner.live.values().map(|live| &live.grant).filter(|grant| {
            grant.covers(identity, target, database)
                && grant.has_uses()
                && grant.not_now(now, latest_ms).is_none()
        });
        usable.cloned().collect()
    }

    /// Lets a session live on grants; each counts one use.
    ///
    /// # Errors
    /// When one of them has ended meanwhile or has no use left, or the use cannot be stored.
    pub fn take(self: &Arc<Self>, now: &Now, session: &str, ids: &[String]) -> Result<Lease, GrantError> {
        let mut inner = self.lock();
        let taken = inner.take(now, session, ids);
        if taken.is_err() {
            // All or none: who gets no lease lives on nothing.
            inner.give_back(session, ids);
        }
        drop(inner);
        Ok(Lease { given: taken?, grants: Arc::clone(self), session: session.to_owned(), ids: ids.to_vec() })
    }

    /// Ends what has ended by itself, and says which sessions have to go; they are named until they are gone.
    ///
    /// # Errors
    /// When something cannot be stored. What has ended has ended all the same.
    pub fn sweep(&self, now: &Now) -> (Swept, Option<GrantError>) {
        let mut swept = Swept::default();
        let mut failed = None;
        let mut inner = self.lock();
        let Inner { store, live, latest_ms, failed_ms } = &mut *inner;
        // What ends in the hands of another agent is stored and recorded there.
        let ours = !store.is_released();
        // A disk that is full now is full in a tenth of a second.
        let again = failed_ms.is_none_or(|failed| now.boot_ms.saturating_sub(failed) >= AGAIN_AFTER_MS);
        if ours && now.wall_ms.saturating_sub(*latest_ms) >= LATEST_EVERY_MS {
            *latest_ms = now.wall_ms;
            failed = store.set_latest_ms(now.wall_ms).err();
        }
        for (id, one) in live.iter_mut() {
            if ours && again {
                failed = one.store(store).err().or(failed);
            }
            let Some(why) = one.grant.not_now(now, *latest_ms) else { continue };
            // Hours come round again; everything else is an end.
            let is_end = one.grant.hours.is_none_or(|hours| hours.hold(now.minute_of_day()));
            if one.grant.ended.is_none() && (is_end || one.grant.deadline.has_passed(now, *latest_ms)) {
                one.grant.ended = Some(why.clone());
                if ours {
                    one.end_to_store = true;
                    failed = one.store(store).err().or(failed);
                    swept.ended.push(one.grant.clone());
                }
            }
            swept
                .cut
                .extend(one.sessions.iter().map(|session| (session.clone(), format!("grant {id}: {why}"))));
        }
        live.retain(|_, one| one.grant.ended.is_none() || !one.sessions.is_empty() || one.end_to_store);
        if failed.is_some() {
            *failed_ms = Some(now.boot_ms);
        }
        drop(inner);
        if !swept.ended.is_empty() {
            self.changed();
        }
        (swept, failed)
    }

    fn changed(&self) {
        self.version.send_modify(|version| *version += 1);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn take(&mut self, now: &Now, session: &str, ids: &[String]) -> Result<Vec<Given>, GrantError> {
        let mut given = Vec::new();
        for id in ids {
            let live = self.live.get_mut(id);
            let live = live.filter(|live| live.grant.not_now(now, self.latest_ms).is_none());
            let live = live.ok_or_else(|| GrantError::Unknown(id.clone()))?;
            if !live.grant.has_uses() || !self.store.count_use(id)? {
                return Err(GrantError::UsedUp(id.clone()));
            }
            live.grant.uses += 1;
            live.sessions.insert(session.to_owned());
            given.extend(live.grant.given.iter().cloned());
        }
        Ok(given)
    }

    fn give_back(&mut self, session: &str, ids: &[String]) {
        for id in ids {
            if let Some(live) = self.live.get_mut(id) {
                live.sessions.remove(session);
            }
        }
    }
}

impl Live {
    fn of(grant: Grant) -> Self {
        Self { grant, sessions: BTreeSet::new(), rows_to_store: false, end_to_store: false }
    }

    /// Brings the file up to date; what cannot be stored stays to be.
    fn store(&mut self, store: &Store) -> Result<(), GrantError> {
        if self.rows_to_store {
            store.set_rows(&self.grant.id, self.grant.rows)?;
            self.rows_to_store = false;
        }
        if self.end_to_store {
            store.end(&self.grant.id, self.grant.ended.as_deref().unwrap_or_default())?;
            self.end_to_store = false;
        }
        Ok(())
    }
}

/// A session's hold on its grants; given back when dropped.
#[derive(Debug)]
pub struct Lease {
    grants: Arc<Grants>,
    session: String,
    given: Vec<Given>,
    ids: Vec<String>,
}

impl Lease {
    #[must_use]
    pub fn ids(&self) -> &[String] {
        &self.ids
    }

    /// Who gave them.
    #[must_use]
    pub fn given(&self) -> &[Given] {
        &self.given
    }

    /// Rows that may still be served, where a grant limits them.
    #[must_use]
    pub fn rows_left(&self) -> Option<u64> {
        if self.ids.is_empty() {
            return None;
        }
        let inner = self.grants.lock();
        let left = |id: &String| {
            let grant = &inner.live.get(id)?.grant;
            grant.max_rows.map(|most| most.saturating_sub(grant.rows))
        };
        self.ids.iter().filter_map(left).min()
    }

    /// The record of its use: when a session begins, or of an operation whose rows were counted, where that is limited.
    #[must_use]
    pub fn used_events(&self, session: &str, op: Option<u64>) -> Vec<Event> {
        if self.ids.is_empty() {
            return Vec::new();
        }
        let inner = self.grants.lock();
        let used = |id: &String| {
            let grant = inner.live.get(id).map(|live| &live.grant);
            let left = |most: Option<u64>, used: u64| most.map(|most| most.saturating_sub(used));
            GrantUsed {
                session: session.to_owned(),
                grant: id.clone(),
                op,
                uses_left: grant.and_then(|grant| left(grant.max_uses, grant.uses)),
                rows_left: grant.and_then(|grant| left(grant.max_rows, grant.rows)),
            }
        };
        let all = self.ids.iter().map(used);
        all.filter(|used| op.is_none() || used.rows_left.is_some())
            .map(|used| Event::GrantUsed(Box::new(used)))
            .collect()
    }

    /// Counts rows that were served.
    pub fn count_rows(&self, rows: u64) {
        if rows == 0 || self.ids.is_empty() {
            return;
        }
        let mut inner = self.grants.lock();
        for id in &self.ids {
            if let Some(live) = inner.live.get_mut(id).filter(|live| live.grant.max_rows.is_some()) {
                live.grant.rows = live.grant.rows.saturating_add(rows);
                live.rows_to_store = true;
            }
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if self.ids.is_empty() {
            return;
        }
        self.grants.lock().give_back(&self.session, &self.ids);
    }
}

#[cfg(test)]
mod tests;
