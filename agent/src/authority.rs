//! Whether a cgroup's name tells the truth, asked of whoever gives such names out: systemd for units, the container
//! engine for containers, the kubelet or the Kubernetes runtime for pods.
//!
//! The grammar says what a path claims to be. Here the claim is confirmed, or it is not: no answer, a late answer and a
//! wrong answer are all doubts. Does not know identities or policies.

mod cri;
mod engine;
mod kubelet;
mod systemd;

use std::collections::HashMap;
use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

pub use self::kubelet::KubeletError;

use crate::config;
use crate::workload::Pod;
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

/// That it is what it claims to be, and what is known of the pod if it is in one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Confirmed {
    pub by: &'static str,
    pub pod: Option<Pod>,
}

type Answer<'a> = Pin<Box<dyn Future<Output = Result<Option<Pod>, Doubt>> + Send + 'a>>;

/// Somebody who knows which units or containers there are.
pub trait Authority: Send + Sync {
    /// As policies and records call it.
    fn name(&self) -> &'static str;

    /// Confirms the claim, or doubts it.
    fn confirm<'a>(&'a self, claim: &'a Claim) -> Answer<'a>;

    /// How long its word holds for a cgroup.
    fn believed(&self) -> Duration {
        BELIEVED
    }
}

/// Reads the certificates that asking takes, and forgets them.
///
/// # Errors
/// When one cannot be used.
pub fn check(config: &config::Authorities) -> Result<(), KubeletError> {
    config.kubelet.as_ref().map(kubelet::Kubelet::new).transpose().map(drop)
}

/// All of them, and what they have said.
pub struct Authorities {
    systemd: Box<dyn Authority>,
    docker: Box<dyn Authority>,
    podman: Box<dyn Authority>,
    cri: Box<dyn Authority>,
    kubelet: Option<Box<dyn Authority>>,
    /// By cgroup id.
    known: Mutex<HashMap<u64, Known>>,
}

struct Known {
    cgroup: String,
    answer: Result<Confirmed, Doubt>,
    until: Instant,
}

impl Known {
    fn is_fresh(&self) -> bool {
        Instant::now() < self.until
    }
}

impl Authorities {
    /// # Errors
    /// When the kubelet cannot be asked as it is configured.
    pub fn new(config: &config::Authorities, cgroup2: &Path) -> Result<Self, KubeletError> {
        let kubelet = config.kubelet.as_ref().map(kubelet::Kubelet::new).transpose()?;
        Ok(Self {
            systemd: Box::new(systemd::Systemd::new(&config.systemd, cgroup2)),
            docker: Box::new(engine::Engine::new("docker", &config.docker)),
            podman: Box::new(engine::Engine::new("podman", &config.podman)),
            cri: Box::new(cri::Cri::new(&config.cri)),
            kubelet: kubelet.map(|kubelet| Box::new(kubelet) as Box<dyn Authority>),
            known: Mutex::default(),
        })
    }

    /// Who confirmed what this cgroup claims to be, and what else it is by their word.
    ///
    /// # Errors
    /// When nobody did.
    pub async fn confirm(&self, cgroup_id: u64, cgroup: &str) -> Result<Confirmed, Doubt> {
        let fresh = |known: &&Known| known.cgroup == cgroup && known.is_fresh();
        let remembered = self.known().get(&cgroup_id).filter(fresh).map(|known| known.answer.clone());
        if let Some(answer) = remembered {
            return answer;
        }
        let (answer, lasts) = self.asked(cgroup).await;
        let mut known = self.known();
        if known.len() >= MOST_KNOWN {
            known.retain(|_, known| known.is_fresh());
        }
        if known.len() < MOST_KNOWN {
            let (answer, until) = (answer.clone(), Instant::now() + lasts);
            known.insert(cgroup_id, Known { cgroup: cgroup.to_owned(), answer, until });
        }
        answer
    }

    /// The same, without remembering.
    ///
    /// # Errors
    /// When nobody confirmed it.
    pub async fn ask(&self, cgroup: &str) -> Result<Confirmed, Doubt> {
        self.asked(cgroup).await.0
    }

    /// The answer, and how long it lasts.
    async fn asked(&self, cgroup: &str) -> (Result<Confirmed, Doubt>, Duration) {
        let parsed = grammar::parse_path(cgroup, Options::default());
        let claim = Claim { placement: parsed.placement, root: parsed.root };
        let Some(authority) = self.responsible(&claim.placement) else {
            return (Err(Doubt::NobodyToAsk), DOUBTED);
        };
        let by = authority.name();
        match tokio::time::timeout(PATIENCE, authority.confirm(&claim)).await {
            Ok(Ok(pod)) => (Ok(Confirmed { by, pod }), authority.believed()),
            Ok(Err(doubt)) => (Err(doubt), DOUBTED),
            Err(_) => (Err(Doubt::Slow { authority: by }), DOUBTED),
        }
    }

    fn responsible(&self, placement: &Placement) -> Option<&dyn Authority> {
        let authority = match (placement.kind, placement.runtime.as_deref()) {
            (Kind::Container, Some("docker")) => &self.docker,
            (Kind::Container, Some("podman")) => &self.podman,
            (Kind::K8s, _) => self.kubelet.as_ref().unwrap_or(&self.cri),
            (Kind::Container, Some("containerd" | "cri-o")) => &self.cri,
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
