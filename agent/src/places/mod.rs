//! Where labelled columns are: what labels of the configuration named in the databases of targets, kept in `state_dir`, so that
//! what somebody renames beside the agent stays masked, also when no agent runs.
//!
//! Owns the memory and its file. Does not know where catalogues come from or what is done with what they say.

mod file;
mod memory;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use chaperone_sql::{Catalog, ColumnPath};

pub use file::PlacesError;
use memory::Memory;
pub use memory::{Elsewhere, Home};

use crate::config::{Config, Protocol, Stamp, Target};

/// Names that are written out in one remark.
const NAMED_MAX: usize = 3;

/// What all targets share.
#[derive(Debug)]
pub struct Places {
    /// None: nothing outlives the process.
    dir: Option<PathBuf>,
    state: Mutex<State>,
    /// Counts what was forgotten: what was learned before is to be learned again.
    generation: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    memory: Memory,
    /// The file the memory was read from or written to.
    stamp: Option<Stamp>,
    /// The file does not say what the memory does.
    unsaved: bool,
    /// It was said that it cannot be kept.
    complained: bool,
    /// Labels of each target; none before the configuration is in force.
    wanted: Option<BTreeMap<String, BTreeSet<String>>>,
}

impl State {
    /// What a target has no label for any more is forgotten. One that is not configured may come back under another name: what
    /// it had is forgotten when no target has such a label.
    fn keeps(&self, target: &str, label: &str) -> bool {
        let Some(wanted) = &self.wanted else { return true };
        match wanted.get(target) {
            Some(labels) => labels.contains(label),
            None => wanted.values().any(|labels| labels.contains(label)),
        }
    }
}

/// A reading of a database, and whose labels are looked for in it.
#[derive(Debug, Clone, Copy)]
pub struct Reading<'a> {
    pub target: &'a str,
    pub home: &'a Home,
    pub catalog: &'a Catalog,
    pub labels: &'a [ColumnPath],
}

/// What a reading told.
#[derive(Debug, Default)]
pub struct Learned {
    pub elsewhere: Elsewhere,
    /// Labels that cover nothing, here or in another database of the target.
    pub idle: Vec<ColumnPath>,
    /// Of the memory that it was learned with.
    pub generation: u64,
}

impl Places {
    /// Reads what is remembered.
    ///
    /// # Errors
    /// When it cannot be read: then nobody knows what labels cover.
    pub fn open(state_dir: &Path) -> Result<Self, PlacesError> {
        let mut state = State::default();
        if let Some((memory, stamp)) = file::read(state_dir)? {
            (state.memory, state.stamp) = (memory, Some(stamp));
        }
        Ok(Self { dir: Some(state_dir.to_owned()), state: Mutex::new(state), generation: AtomicU64::new(0) })
    }

    /// Remembers for as long as the process lives.
    #[must_use]
    pub fn in_memory() -> Self {
        Self { dir: None, state: Mutex::default(), generation: AtomicU64::new(0) }
    }

    /// What counts from now on is this configuration: what its targets have no label for any more is forgotten.
    pub fn follow(&self, config: &Config) {
        let postgres = config.targets.iter().filter(|target| target.protocol == Protocol::Postgres);
        let labels = |target: &Target| target.labels.iter().map(|label| label.path().to_string()).collect();
        let wanted = postgres.map(|target| (target.name.clone(), labels(target))).collect();
        let mut guard = self.state();
        let state = &mut *guard;
        state.wanted = Some(wanted);
        let mut memory = std::mem::take(&mut state.memory);
        let forgotten = memory.retain(&|target, label| state.keeps(target, label));
        state.memory = memory;
        if forgotten.is_empty() {
            return;
        }
        self.generation.fetch_add(1, Ordering::SeqCst);
        for (target, label) in forgotten {
            tracing::info!(
                target,
                label,
                "the label is not configured any more: where its columns were is forgotten"
            );
        }
        state.unsaved = true;
        self.save(state);
    }

    /// Takes in a reading and says where labelled columns are that labels do not name. What is new is on disk when this
    /// returns, or it was said that it cannot be. Blocks.
    pub fn learn(&self, reading: Reading<'_>) -> Learned {
        let Reading { target, home, catalog, labels } = reading;
        let mut guard = self.state();
        let state = &mut *guard;
        // What cannot be taken in is told when it is written.
        let _ = self.catch_up(state);
        let before = state.memory.clone();
        let mut memory = std::mem::take(&mut state.memory);
        let elsewhere = memory.learn(target, home, catalog, labels, &|label| state.keeps(target, label));
        let covers = |label: &ColumnPath| memory.covers(target, &label.to_string());
        let idle = labels.iter().filter(|label| {
            state.keeps(target, &label.to_string()) && catalog.family(label).is_empty() && !covers(label)
        });
        let idle = idle.cloned().collect();
        state.memory = memory;
        if state.unsaved || state.memory != before {
            state.unsaved = true;
            self.save(state);
        }
        Learned { elsewhere, idle, generation: self.generation() }
    }

    /// Columns that these labels cover in a database although they do not name them, by the names they were last seen under.
    pub fn away(&self, target: &str, database: &str, labels: &[ColumnPath]) -> Vec<ColumnPath> {
        self.state().memory.away_in(target, Some(database), labels)
    }

    /// Changes when something was forgotten.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::SeqCst)
    }

    /// Whether what is remembered waits for room to be written.
    pub fn is_unsaved(&self) -> bool {
        self.state().unsaved
    }

    /// Another agent may have written: the one before this, whose sessions go on.
    ///
    /// # Errors
    /// When it is a newer one, whose file is to be left as it is.
    fn catch_up(&self, state: &mut State) -> Result<(), PlacesError> {
        let Some(dir) = &self.dir else { return Ok(()) };
        if Stamp::of(&file::path(dir)).ok() == state.stamp {
            return Ok(());
        }
        match file::read(dir) {
            Ok(Some((theirs, stamp))) => {
                let mut memory = std::mem::take(&mut state.memory);
                memory.merge(theirs.clone(), &|target, label| state.keeps(target, label));
                state.unsaved |= memory != theirs;
                (state.memory, state.stamp) = (memory, Some(stamp));
            }
            Ok(None) => state.unsaved = true,
            Err(error @ PlacesError::Newer { .. }) => {
                state.unsaved = true;
                return Err(error);
            }
            Err(error) => {
                tracing::error!(%error, "what somebody else wrote is replaced by what this agent knows");
                state.unsaved = true;
            }
        }
        Ok(())
    }

    fn save(&self, state: &mut State) {
        let Some(dir) = &self.dir else {
            state.unsaved = false;
            return;
        };
        let written = file::Lock::take(dir).and_then(|lock| {
            self.catch_up(state)?;
            lock.write(dir, &state.memory)
        });
        match written {
            Ok(stamp) => {
                (state.stamp, state.unsaved, state.complained) = (Some(stamp), false, false);
            }
            Err(error) if !state.complained => {
                state.complained = true;
                tracing::error!(
                    %error,
                    "where labelled columns are cannot be kept; it is tried again. Until then, what is renamed while no agent \
                     runs is not masked by the next one"
                );
            }
            Err(error) => tracing::debug!(%error, "where labelled columns are cannot be kept"),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// As [`Places::away`], by what an agent left or keeps in its file; of no database, in all of them.
///
/// # Errors
/// When what is remembered cannot be read.
pub fn away(
    config: &Config,
    target: &str,
    database: Option<&str>,
    labels: &[ColumnPath],
) -> Result<Vec<ColumnPath>, PlacesError> {
    let memory = file::read(&config.state_dir)?.map(|(memory, _)| memory).unwrap_or_default();
    Ok(memory.away_in(target, database, labels))
}

/// What an operator should know of the labels, by what was read of databases so far: a line each.
///
/// # Errors
/// When what is remembered cannot be read.
pub fn remarks(config: &Config) -> Result<Vec<String>, PlacesError> {
    let memory = file::read(&config.state_dir)?.map(|(memory, _)| memory).unwrap_or_default();
    let mut remarks = Vec::new();
    for target in &config.targets {
        let labels: BTreeSet<String> = target.labels.iter().map(|label| label.path().to_string()).collect();
        for label in labels {
            remarks.extend(remark(&memory, &target.name, &label));
        }
    }
    Ok(remarks)
}

fn remark(memory: &Memory, target: &str, label: &str) -> Vec<String> {
    let read = memory.read(target, label);
    if !read.is_empty() && !memory.covers(target, label) {
        let read: Vec<&str> = read.into_iter().collect();
        return vec![format!(
            "label {label} of target {target} names no column of the databases that were read: {}",
            shortened(&read)
        )];
    }
    let away = memory.away(target, label).into_iter();
    away.map(|(database, columns)| {
        format!(
            "label {label} of target {target} covers, in database {database}, what has another name now: {}",
            shortened(&columns)
        )
    })
    .collect()
}

/// The first of these names, and how many more there are.
pub fn shortened<T: ToString>(names: &[T]) -> String {
    let list: Vec<String> = names.iter().take(NAMED_MAX).map(ToString::to_string).collect();
    match names.len().saturating_sub(NAMED_MAX) {
        0 => list.join(", "),
        more => format!("{} and {more} more", list.join(", ")),
    }
}
