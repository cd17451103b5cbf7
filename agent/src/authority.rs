//! Whether a cgroup's name tells the truth, asked of whoever gives such names out: systemd for units, the container
//! engine or the Kubernetes runtime for containers.
//!
//! The grammar says what a path claims to be. Here the claim is confirmed, or it is not: no answer, a late answer and a
//! wrong answer are all doubts. Does not know identities or policies.

mod cri;
mod engine;
mod systemd;

use std::collections::HashMap;
use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::config;
use crate::workload::grammar::{self, Kind, Options, Placement};

/// Longest an authority is waited for; the connection waits as long.
const PATIENCE: Duration = Duration::from_secs(3);

/// A cgroup's id is never given out again, so what was confirmed stays so; asked again all the same, because containers
/// end before their last process does.
const BELIEVED: Duration = Duration::from_secs(300);

/// Who is refused comes again soon, and a container may be younger than its runtime's answer.
const DOUBTED: Duration = Duration::from_secs(1);

const MOST_KNOWN: usize = 4096;

/// Why a claim is not confirmed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Doubt {
    #[error("no authority can be asked about a cgroup of this kind")]
    NobodyToAsk,
    #[error("{authority} cannot be asked: {why}")]
    Unreachable { authority: &'static str, why: String },
    #[error("{authority} did not answer within {} s", PATIENCE.as_secs())]
    Slow { authority: &'static str },
    #[error("{authority} says otherwise: {why}")]
    Otherwise { authority: &'static str, why: String },
}

/// What a cgroup's path claims.
#[derive(Debug, Clone)]
pub struct Claim {
    pub placement: Placement,
    /// The cgroup of the unit or container itself, below the cgroup2 mount.
    pub root: String,
}

type Answer<'a> = Pin<Box<dyn Future<Output = Result<(), Doubt>> + Send + 'a>>;

/// Somebody who knows which units or containers there are.
pub trait Authority: Send + Sync {
    /// As policies and records call it.
    fn name(&self) -> &'static str;

    /// Confirms the claim, or doubts it.
    fn confirm<'a>(&'a self, claim: &'a Claim) -> Answer<'a>;
}

/// All of them, and what they have said.
pub struct Authorities {
    systemd: Box<dyn Authority>,
    docker: Box<dyn Authority>,
    podman: Box<dyn Authority>,
    cri: Box<dyn Authority>,
    /// By cgroup id.
    known: Mutex<HashMap<u64, Known>>,
}

struct Known {
    cgroup: String,
    answer: Result<&'static str, Doubt>,
    at: Instant,
}

impl Known {
    fn is_fresh(&self) -> bool {
        self.at.elapsed() < if self.answer.is_ok() { BELIEVED } else { DOUBTED }
    }
}

impl Authorities {
    #[must_use]
    pub fn new(config: &config::Authorities, cgroup2: &Path) -> Self {
        Self {
            systemd: Box::new(systemd::Systemd::new(&config.systemd, cgroup2)),
            docker: Box::new(engine::Engine::new("docker", &config.docker)),
            podman: Box::new(engine::Engine::new("podman", &config.podman)),
            cri: Box::new(cri::Cri::new(&config.cri)),
            known: Mutex::default(),
        }
    }

    /// Who confirmed what this cgroup claims to be.
    ///
    /// # Errors
    /// When nobody did.
    pub async fn confirm(&self, cgroup_id: u64, cgroup: &str) -> Result<&'static str, Doubt> {
        let fresh = |known: &&Known| known.cgroup == cgroup && known.is_fresh();
        let remembered = self.known().get(&cgroup_id).filter(fresh).map(|known| known.answer.clone());
        if let Some(answer) = remembered {
            return answer;
        }
        let answer = self.ask(cgroup).await;
        let mut known = self.known();
        if known.len() >= MOST_KNOWN {
            known.retain(|_, known| known.is_fresh());
        }
        if known.len() < MOST_KNOWN {
            let (answer, at) = (answer.clone(), Instant::now());
            known.insert(cgroup_id, Known { cgroup: cgroup.to_owned(), answer, at });
        }
        answer
    }

    /// The same, without remembering.
    ///
    /// # Errors
    /// When nobody confirmed it.
    pub async fn ask(&self, cgroup: &str) -> Result<&'static str, Doubt> {
        let parsed = grammar::parse_path(cgroup, Options::default());
        let claim = Claim { placement: parsed.placement, root: parsed.root };
        let authority = self.responsible(&claim.placement).ok_or(Doubt::NobodyToAsk)?;
        let name = authority.name();
        let answer = tokio::time::timeout(PATIENCE, authority.confirm(&claim)).await;
        answer.unwrap_or(Err(Doubt::Slow { authority: name })).map(|()| name)
    }

    fn responsible(&self, placement: &Placement) -> Option<&dyn Authority> {
        let authority = match (placement.kind, placement.runtime.as_deref()) {
            (Kind::Container, Some("docker")) => &self.docker,
            (Kind::Container, Some("podman")) => &self.podman,
            (Kind::Container, Some("containerd" | "cri-o")) | (Kind::K8s, _) => &self.cri,
            (kind, _) if kind.is_unit() => &self.systemd,
            _ => return None,
        };
        Some(authority.as_ref())
    }

    fn known(&self) -> MutexGuard<'_, HashMap<u64, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether the process that a runtime calls the container's first is in the container's cgroup. Asked of /proc, so the
/// agent has to see the host's processes.
fn holds_process(root: &str, pid: i32) -> Result<(), String> {
    let cgroups = procfs::process::Process::new(pid)
        .and_then(|process| process.cgroups())
        .map_err(|error| format!("its process {pid} cannot be looked at: {error}"))?;
    let unified = cgroups.into_iter().find(|cgroup| cgroup.hierarchy == 0).map(|cgroup| cgroup.pathname);
    let unified =
        unified.ok_or_else(|| format!("its process {pid} has no cgroup in the unified hierarchy"))?;
    let inside = unified.strip_prefix(root).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    if inside { Ok(()) } else { Err(format!("that container lives in {unified}, not in {root}")) }
}

#[cfg(test)]
mod tests;
