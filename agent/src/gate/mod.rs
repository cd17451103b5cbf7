//! The gate: the only maker of a `Permit`.
//!
//! Asks the policy set, keeps what waits for a human, and records before it answers. It does not know protocols:
//! a request comes as principal, action, resource and flags, and goes out as a decision.

mod holds;
mod staged;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use chaperone_policy::{Decision, LoadErrors, PolicySet, Request, Source};
use tokio::sync::watch;

pub use holds::{HoldInfo, Holds, Resolution, ResolveError, Ticket};
pub use staged::{Permit, Staged};

use crate::record::event::{Event, Verdict};

#[derive(Debug, thiserror::Error)]
pub enum GateError {
    #[error("cannot read policies in {path}: {source}")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{path} holds no *.cedar file, so everything would be denied")]
    Empty { path: PathBuf },
    #[error("{0}")]
    Policy(#[from] LoadErrors),
}

/// A policy set and its place in the order of those that were in force.
pub struct Loaded {
    pub set: PolicySet,
    pub version: u64,
}

pub struct Gate {
    loaded: watch::Sender<Arc<Loaded>>,
    version: watch::Sender<u64>,
    holds: Arc<Holds>,
    hold_timeout: Duration,
}

impl Gate {
    #[must_use]
    pub fn new(set: PolicySet, hold_timeout: Duration) -> Self {
        Self {
            loaded: watch::Sender::new(Arc::new(Loaded { set, version: 1 })),
            version: watch::Sender::new(1),
            holds: Arc::new(Holds::default()),
            hold_timeout,
        }
    }

    /// The set in force.
    #[must_use]
    pub fn policies(&self) -> Arc<Loaded> {
        Arc::clone(&self.loaded.borrow())
    }

    /// Puts another set in force; sessions look at it before their next statement.
    pub fn replace(&self, set: PolicySet) {
        let version = self.policies().version + 1;
        self.loaded.send_replace(Arc::new(Loaded { set, version }));
        self.version.send_replace(version);
    }

    /// Changes whenever the policy set does.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    #[must_use]
    pub fn holds(&self) -> &Arc<Holds> {
        &self.holds
    }

    /// How long a held statement waits when its policy does not say.
    #[must_use]
    pub fn hold_timeout(&self) -> Duration {
        self.hold_timeout
    }

    #[must_use]
    pub fn decide(&self, request: &Request<'_>) -> Decision {
        self.policies().set.decide(request)
    }

    /// Stages the record of a decision and, if it permits, makes the permit. What the permit lets pass is staged
    /// behind the record, and leaves only when that is written.
    pub fn admit(&self, event: Event, staged: &mut Staged) -> Option<Permit> {
        let permitted = matches!(event, Event::Statement { verdict: Verdict::Permit, .. });
        staged.record(event);
        permitted.then(Permit::new)
    }
}

/// Reads every `*.cedar` file of a directory, in the order of their names.
///
/// # Errors
/// When the directory or a file cannot be read, holds no policy, or a policy is not valid.
pub fn load(dir: &Path) -> Result<PolicySet, GateError> {
    let failed = |source| GateError::Read { path: dir.to_owned(), source };
    let mut sources = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.extension().is_some_and(|extension| extension == "cedar") {
            let text = std::fs::read_to_string(&path)
                .map_err(|source| GateError::Read { path: path.clone(), source })?;
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            sources.push(Source { name, text });
        }
    }
    if sources.is_empty() {
        return Err(GateError::Empty { path: dir.to_owned() });
    }
    sources.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(PolicySet::load(&sources)?)
}
