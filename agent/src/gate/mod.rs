//! The gate: the only maker of a `Permit`.
//!
//! Asks the policy set, keeps what waits for a human, and records before it answers. It does not know protocols:
//! a request comes as principal, action, resource and flags, and goes out as a decision.

pub mod approvers;
mod enter;
mod grants;
mod holds;
mod staged;
mod yes;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use chaperone_policy::{Decision, LoadErrors, PolicySet, Request, Source};
use tokio::sync::{mpsc, watch};

pub use approvers::Approvers;
pub use enter::{Admission, Entry, Place, approvals, connect};
pub use grants::{Given, Grant, GrantError, Grants, Hours, Lease, Now, Revoked, Swept, Terms};
pub use holds::{
    AccessTerms, Asker, Blast, Held, HoldInfo, Holds, InTheWay, Need, Resolution, Ticket, TooMany, Vote,
    VoteError, Voted,
};
pub use staged::{Permit, Staged};
pub use yes::Granting;

use crate::config::{Approver, LockAction, Stamp, changing, read_whole};
use crate::record::event::{Event, GrantIssued, Verdict};

#[derive(Debug, thiserror::Error)]
pub enum GateError {
    #[error("cannot read policies in {path}: {source}")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{path} holds no *.cedar file, so everything would be denied")]
    Empty { path: PathBuf },
    #[error(
        "{file}:1:1: there is no policy in it; if it was not cut short, remove it, or give it another ending than .cedar"
    )]
    NoPolicy { file: String },
    #[error("{0}")]
    Policy(#[from] LoadErrors),
}

/// A policy set and its place in the order of those that were in force.
pub struct Loaded {
    pub set: PolicySet,
    /// The first 16 digits of its digest.
    pub short_digest: Arc<str>,
    pub version: u64,
    /// When it was put in force.
    pub since: SystemTime,
}

impl Loaded {
    fn now(set: PolicySet, version: u64) -> Self {
        let short_digest = set.digest().get(..16).unwrap_or(set.digest()).into();
        Self { set, short_digest, version, since: SystemTime::now() }
    }
}

/// What of the configuration the gate goes by.
pub struct Options {
    pub hold_timeout: Duration,
    /// How long others may wait for what a held session has locked.
    pub lock_patience: Duration,
    pub longest_grant: Duration,
    pub approvers: Vec<Approver>,
    pub announce_tx: Option<mpsc::Sender<HoldInfo>>,
}

pub struct Gate {
    loaded: watch::Sender<Arc<Loaded>>,
    version: watch::Sender<u64>,
    holds: Arc<Holds>,
    hold_timeout: Duration,
    lock_patience: Duration,
    escalates: AtomicBool,
    grants: Arc<Grants>,
    longest_grant: Duration,
    approvers: RwLock<Arc<Approvers>>,
}

impl Gate {
    #[must_use]
    pub fn new(set: PolicySet, grants: Grants, options: Options) -> Self {
        Self {
            loaded: watch::Sender::new(Arc::new(Loaded::now(set, 1))),
            version: watch::Sender::new(1),
            holds: Arc::new(Holds::announcing(options.announce_tx)),
            hold_timeout: options.hold_timeout,
            lock_patience: options.lock_patience,
            escalates: AtomicBool::new(false),
            grants: Arc::new(grants),
            longest_grant: options.longest_grant,
            approvers: RwLock::new(Arc::new(Approvers::new(options.approvers))),
        }
    }

    #[must_use]
    pub fn grants(&self) -> &Arc<Grants> {
        &self.grants
    }

    /// Who may approve by a signature.
    #[must_use]
    pub fn approvers(&self) -> Arc<Approvers> {
        Arc::clone(&self.approvers.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub fn replace_approvers(&self, people: Vec<Approver>) {
        let next = Arc::new(self.approvers().with(people));
        *self.approvers.write().unwrap_or_else(PoisonError::into_inner) = next;
    }

    /// The set in force.
    #[must_use]
    pub fn policies(&self) -> Arc<Loaded> {
        Arc::clone(&self.loaded.borrow())
    }

    /// Puts another set in force; sessions look at it before their next statement.
    pub fn replace(&self, set: PolicySet) {
        let version = self.policies().version + 1;
        self.loaded.send_replace(Arc::new(Loaded::now(set, version)));
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

    /// What happens when others have waited that long.
    pub fn set_lock_action(&self, action: LockAction) {
        self.escalates.store(action == LockAction::Escalate, Ordering::Relaxed);
    }

    #[must_use]
    pub fn escalates(&self) -> bool {
        self.escalates.load(Ordering::Relaxed)
    }

    /// How long others may wait for what a held session has locked.
    #[must_use]
    pub fn lock_patience(&self) -> Duration {
        self.lock_patience
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

/// The record of a grant.
#[must_use]
pub fn issued_event(grant: &Grant) -> GrantIssued {
    GrantIssued {
        grant: grant.id.clone(),
        identity: grant.identity.clone(),
        target: grant.target.clone(),
        database: grant.database.clone(),
        groups: grant.groups.clone(),
        expires_unix_ms: grant.expires_ms(),
        hours: grant.hours.map(|hours| hours.to_string()),
        max_uses: grant.max_uses,
        max_rows: grant.max_rows,
        reason: grant.reason.clone(),
        ticket: grant.ticket.clone(),
        by: grant.given.iter().map(|given| given.by.clone()).collect(),
        hold: None,
        signature: None,
        login: None,
    }
}

/// Reads every `*.cedar` file of a directory, in the order of their names.
///
/// # Errors
/// When the directory or a file cannot be read, holds no policy, changes meanwhile, or a policy is not valid.
pub fn load(dir: &Path) -> Result<PolicySet, GateError> {
    let before = survey(dir)?;
    let mut sources = Vec::new();
    for path in before.keys() {
        let text = read_whole(path).map_err(|source| GateError::Read { path: path.clone(), source })?;
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        sources.push(Source { name, text });
    }
    if sources.is_empty() {
        return Err(GateError::Empty { path: dir.to_owned() });
    }
    let set = PolicySet::load(&sources)?;
    if let Some(source) = sources.iter().find(|source| !set.has_any_of(&source.name)) {
        return Err(GateError::NoPolicy { file: source.name.clone() });
    }
    // Each file was whole; together they are what somebody meant only if none came, went or changed meanwhile.
    if survey(dir)? != before {
        return Err(GateError::Read { path: dir.to_owned(), source: changing() });
    }
    Ok(set)
}

fn survey(dir: &Path) -> Result<BTreeMap<PathBuf, Stamp>, GateError> {
    let failed = |path: &Path, source| GateError::Read { path: path.to_owned(), source };
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(dir).map_err(|error| failed(dir, error))? {
        let path = entry.map_err(|error| failed(dir, error))?.path();
        if path.extension().is_some_and(|extension| extension == "cedar") {
            let stamp = Stamp::of(&path).map_err(|error| failed(&path, error))?;
            found.insert(path, stamp);
        }
    }
    Ok(found)
}
