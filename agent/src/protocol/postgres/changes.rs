//! What sessions of the agent are changing of a catalogue. A statement is analysed by the names and columns that were
//! read last; the server looks them up when it comes to it, and that can be later: behind a slow statement, or when a lock
//! is let go. A change between the two would let it find a masked column where the analysis saw another one.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use chaperone_sql::{RelName, Reshapes};

/// More relations than these are not told apart: then every one counts as changed.
const CHANGED_MAX: usize = 4096;

/// How long the changes of a session count that ended before they were answered. The catalogue is read again meanwhile.
const ABANDONED: Duration = Duration::from_secs(60);

#[derive(Debug, Default)]
pub(super) struct Changes {
    /// Counts changes, from the moment they may be sent.
    generation: AtomicU64,
    /// Sessions that have some under way.
    open: AtomicUsize,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    /// What a session changed and did not commit, or did not read again.
    open: HashMap<Arc<str>, Open>,
    /// The last change by each session of what has a name.
    changed: HashMap<Arc<str>, HashMap<Arc<str>, u64>>,
    /// Its last change of nobody knows what.
    everything: HashMap<Arc<str>, u64>,
    /// Of changes up to this one nothing is kept.
    forgotten: u64,
}

/// Tables are told apart by their names alone: which schema's is meant can change with the change.
#[derive(Debug, Default)]
struct Open {
    names: HashSet<Arc<str>>,
    everything: bool,
    /// The session has ended without a word of what became of it.
    until: Option<Instant>,
}

impl Changes {
    pub(super) fn generation(&self) -> u64 {
        self.generation.load(Ordering::SeqCst)
    }

    /// A session is about to change these; false if that is nothing.
    pub(super) fn begin(&self, session: &str, what: &Reshapes) -> bool {
        if *what == Reshapes::Nothing {
            return false;
        }
        let session: Arc<str> = session.into();
        let mut known = self.known();
        let now = self.generation.fetch_add(1, Ordering::SeqCst).saturating_add(1);
        if known.changed.len() >= CHANGED_MAX || known.everything.len() >= CHANGED_MAX {
            known.changed.clear();
            known.everything.clear();
            known.forgotten = now;
        }
        match what {
            Reshapes::Nothing => {}
            Reshapes::Names(names) => {
                for name in names {
                    known.changed.entry(Arc::clone(name)).or_default().insert(Arc::clone(&session), now);
                }
                known.open.entry(session).or_default().names.extend(names.iter().cloned());
            }
            Reshapes::Everything => {
                known.everything.insert(Arc::clone(&session), now);
                known.open.entry(session).or_default().everything = true;
            }
        }
        self.open.store(known.open.len(), Ordering::SeqCst);
        true
    }

    /// All that the session changed is known to everybody, or did not come about.
    pub(super) fn end(&self, session: &str) {
        let mut known = self.known();
        known.open.remove(session);
        self.open.store(known.open.len(), Ordering::SeqCst);
    }

    /// The session is gone, and the server may go on with what it sent.
    pub(super) fn abandon(&self, session: &str, now: Instant) {
        if let Some(open) = self.known().open.get_mut(session) {
            open.until = now.checked_add(ABANDONED);
        }
    }

    /// One of these that another session is changing.
    pub(super) fn under_way<'a>(
        &self,
        now: impl FnOnce() -> Instant,
        session: &str,
        relations: impl IntoIterator<Item = &'a RelName>,
    ) -> Option<RelName> {
        if self.open.load(Ordering::SeqCst) == 0 {
            return None;
        }
        let mut known = self.known();
        let now = now();
        known.open.retain(|_, open| open.until.is_none_or(|until| now < until));
        self.open.store(known.open.len(), Ordering::SeqCst);
        let others = || known.open.iter().filter(|(other, _)| &***other != session);
        let changing =
            |name: &RelName| others().any(|(_, open)| open.everything || open.names.contains(&name.table));
        relations.into_iter().find(|name| changing(name)).cloned()
    }

    /// One of these that another session changed after that generation.
    pub(super) fn since<'a>(
        &self,
        generation: u64,
        session: &str,
        relations: impl IntoIterator<Item = &'a RelName>,
    ) -> Option<RelName> {
        let known = self.known();
        let later = |(other, at): (&Arc<str>, &u64)| &**other != session && *at > generation;
        let all = known.forgotten > generation || known.everything.iter().any(later);
        let changed = |name: &RelName| all || known.changed.get(&name.table).into_iter().flatten().any(later);
        relations.into_iter().find(|name| changed(name)).cloned()
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(table: &str) -> Reshapes {
        Reshapes::Names([table.into()].into())
    }

    fn named(table: &str) -> RelName {
        RelName { schema: "app".into(), table: table.into() }
    }

    #[test]
    fn a_change_is_under_way_until_its_session_is_done_with_it() {
        let (changes, now) = (Changes::default(), Instant::now());
        let (a, b) = (named("a"), named("b"));
        assert_eq!(changes.under_way(|| now, "two", [&a]), None);
        changes.begin("one", &of("a"));
        assert_eq!(changes.under_way(|| now, "two", [&b, &a]), Some(a.clone()));
        assert_eq!(changes.under_way(|| now, "two", [&b]), None);
        assert_eq!(changes.under_way(|| now, "one", [&a]), None, "its own are looked at elsewhere");
        changes.end("one");
        assert_eq!(changes.under_way(|| now, "two", [&a]), None);
        // Nobody knows what became of it, so it goes on counting.
        changes.begin("one", &of("a"));
        changes.abandon("one", now);
        assert_eq!(changes.under_way(|| now, "two", [&a]), Some(a.clone()));
        assert_eq!(changes.under_way(|| now + ABANDONED, "two", [&a]), None);
    }

    #[test]
    fn what_was_sent_before_a_change_by_another_session_is_told_from_what_came_after() {
        let changes = Changes::default();
        let (a, b) = (named("a"), named("b"));
        let before = changes.generation();
        changes.begin("one", &of("a"));
        changes.end("one");
        assert_eq!(changes.since(before, "two", [&a]), Some(a.clone()));
        assert_eq!(changes.since(before, "two", [&b]), None);
        assert_eq!(changes.since(before, "one", [&a]), None, "its own statements come in order");
        assert_eq!(changes.since(changes.generation(), "two", [&a]), None);
    }

    #[test]
    fn what_is_not_kept_counts_as_changed() {
        let changes = Changes::default();
        let before = changes.generation();
        for number in 0..=CHANGED_MAX {
            changes.begin("one", &of(&number.to_string()));
        }
        assert!(changes.since(before, "two", [&named("never")]).is_some());
    }

    #[test]
    fn a_name_is_changed_in_every_schema_and_what_is_not_known_everywhere() {
        let (changes, now) = (Changes::default(), Instant::now());
        let before = changes.generation();
        assert!(!changes.begin("one", &Reshapes::Nothing));
        let elsewhere = RelName { schema: "other".into(), table: "a".into() };
        changes.begin("one", &of("a"));
        assert_eq!(changes.since(before, "two", [&elsewhere]), Some(elsewhere.clone()));
        assert_eq!(changes.since(before, "two", [&named("b")]), None);
        changes.end("one");
        let before = changes.generation();
        changes.begin("one", &Reshapes::Everything);
        assert_eq!(changes.under_way(|| now, "two", [&named("b")]), Some(named("b")));
        assert_eq!(changes.under_way(|| now, "one", [&named("b")]), None);
        assert_eq!(changes.since(before, "two", [&named("b")]), Some(named("b")));
        assert_eq!(changes.since(before, "one", [&named("b")]), None);
        changes.end("one");
        assert_eq!(changes.under_way(|| now, "two", [&named("b")]), None);
    }
}
