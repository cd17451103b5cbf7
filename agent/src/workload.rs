//! Who opened a connection: the process, its executable and what started it, as the kernel noted them down at fork,
//! exec and connect. /proc is asked for nothing that policy may see: by the time it answers, the process may have
//! ended, or run something else.

mod argv;
mod executable;
pub mod grammar;
mod hash;
mod verity;

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use chaperone_policy as policy;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use self::hash::{Digests, Hasher};
use crate::intercept::{self, Chain, Image, Origin, Processes, Step};
pub use crate::record::event::Pod;
use crate::record::event::{Ancestor, Workload};

/// Files that are looked for at the same time; those that hang stay among them.
const LOOKS: usize = 16;

/// Longest a file is looked for.
const PATIENCE: Duration = Duration::from_secs(2);

/// What the kernel noted down, and what was worked out from it.
pub struct Provenance {
    processes: Processes,
    cgroup2: PathBuf,
    /// Inode numbers of the mount namespaces whose names are the host's: that of its first process, and ours.
    host: Vec<u64>,
    hasher: Hasher,
    looks: Arc<Semaphore>,
}

impl Provenance {
    #[must_use]
    pub fn new(processes: Processes, cgroup2: PathBuf) -> Self {
        let host = ["1", "self"].iter().flat_map(|process| fs::metadata(format!("/proc/{process}/ns/mnt")));
        let host = host.map(|namespace| namespace.ino()).collect();
        Self { processes, cgroup2, host, hasher: Hasher::default(), looks: Arc::new(Semaphore::new(LOOKS)) }
    }

    /// Describes the process behind a redirected connection.
    pub async fn describe(&self, origin: &Origin) -> Workload {
        let chain = self.processes.chain(origin.node);
        let image = chain.steps.first().and_then(|step| step.image.clone());
        let mut workload = Workload {
            pid: origin.tgid,
            start_boottime_ns: origin.start_boottime_ns,
            uid: origin.uid,
            gid: origin.gid,
            comm: origin.comm.clone(),
            cgroup_id: origin.cgroup_id,
            cgroup: self.cgroup(origin.cgroup_id),
            netns_cookie: origin.netns_cookie,
            netns_inode: origin.netns_inode,
            exec_id: (origin.node != 0).then_some(origin.node),
            ancestors: self.ancestors(&chain),
            ancestors_complete: chain.complete,
            ..Workload::default()
        };
        let Some(image) = image else {
            workload.exe_unhashed = Some("the kernel has no note of its exec".to_owned());
            return workload;
        };
        workload.exe = self.name(&image);
        workload.script.clone_from(&image.script);
        workload.argv = argv::redacted(&image.argv);
        workload.argv_cut = image.argv_cut;
        match self.digest(&image, origin.tgid, &chain, workload.cgroup.as_deref()).await {
            Ok(Digests { sha256, verity }) => {
                workload.exe_sha256 = Some(sha256.as_ref().to_owned());
                workload.exe_verity = verity.map(|verity| verity.as_ref().to_owned());
            }
            Err(why) => workload.exe_unhashed = Some(why),
        }
        workload
    }

    /// The path of a cgroup below the cgroup2 mount. By id, not by pid: right even when the process has moved or gone,
    /// and for a cgroup made since the start of the agent, when that is gone too.
    #[must_use]
    pub fn cgroup(&self, id: u64) -> Option<String> {
        let path = match self.processes.cgroup(id) {
            Some(path) => path,
            None => intercept::cgroup_path(id, &self.cgroup2).ok().flatten()?,
        };
        Some(format!("/{}", path.display().to_string().trim_start_matches('/')))
    }

    async fn digest(
        &self,
        image: &Arc<Image>,
        pid: u32,
        chain: &Chain,
        cgroup: Option<&str>,
    ) -> Result<Digests, String> {
        executable::vouched_for(image)?;
        if let Some(digests) = self.hasher.known(image.file) {
            return Ok(digests);
        }
        let cgroup = cgroup.map(|path| self.cgroup2.join(path.trim_start_matches('/')));
        let file = self.look(image, pid, chain, cgroup).await?;
        self.hasher.digest(image.file, file).await.map_err(|why| why.as_ref().to_owned())
    }

    /// Finds the file beside the sessions: whoever owns a directory on the way may have mounted something there that never
    /// answers, and then only this look hangs.
    async fn look(
        &self,
        image: &Arc<Image>,
        pid: u32,
        chain: &Chain,
        cgroup: Option<PathBuf>,
    ) -> Result<File, String> {
        let hangs = || "looking for it took too long".to_owned();
        let place = timeout(PATIENCE, Arc::clone(&self.looks).acquire_owned()).await;
        let place = place.ok().and_then(Result::ok).ok_or_else(hangs)?;
        let (image, chain) = (Arc::clone(image), chain.clone());
        let looking = tokio::task::spawn_blocking(move || {
            let found = executable::open(&image, pid, &chain, cgroup.as_deref());
            drop(place);
            found
        });
        timeout(PATIENCE, looking).await.ok().and_then(Result::ok).ok_or_else(hangs)?
    }

    /// Nearest first. What a process was before an exec of its own counts: it led here as much as a parent did.
    fn ancestors(&self, chain: &Chain) -> Vec<Ancestor> {
        let pairs = chain.steps.iter().zip(chain.steps.iter().skip(1));
        pairs
            .filter(|(child, step)| !is_copy(child, step))
            .map(|(_, step)| Ancestor {
                pid: step.tgid,
                start_boottime_ns: step.start_boottime_ns,
                exe: step.image.as_ref().and_then(|image| self.name(image)),
            })
            .collect()
    }

    /// An executable's path as record and policy write it. Only a name in the host's own mount namespace stands bare:
    /// in another, whoever made the namespace chose what lies under it.
    fn name(&self, image: &Image) -> Option<String> {
        let path = image.path.as_ref()?.display();
        Some(if image.nameless {
            format!("nameless:{path}")
        } else if self.host.contains(&image.mount_ns) {
            path.to_string()
        } else {
            format!("elsewhere:{path}")
        })
    }
}

/// The moment between fork and exec: the same process, with its parent's image, which is the parent's to show.
fn is_copy(child: &Step, step: &Step) -> bool {
    step.forked && step.tgid == child.tgid && !child.forked
}

/// What policy may know of a workload: of what is recorded, that which the process cannot choose.
#[must_use]
pub fn facts(workload: &Workload) -> policy::Workload {
    policy::Workload {
        exe: workload.exe.clone(),
        exe_sha256: workload.exe_sha256.clone(),
        uid: workload.uid,
        gid: workload.gid,
        cgroup: workload.cgroup.clone(),
        ancestors: workload.ancestors.iter().filter_map(|ancestor| ancestor.exe.clone()).collect(),
        ancestors_complete: workload.ancestors_complete,
        unverified: workload.unverified.is_some(),
        confirmed_by: workload.confirmed_by.clone(),
    }
}
