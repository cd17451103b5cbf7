//! Network namespaces other than the host's: the agent's listeners in them, and connections to targets that are older
//! than the agent.
//!
//! One thread does all of it, because entering a namespace is a property of a thread. It serves the namespaces that
//! governed processes live in before they connect (a census of the governed cgroups), and those it is asked for by
//! the kernel programs, which hold the first SYN meanwhile. A namespace that no governed process lives in any more is
//! let go of, so that it can end. Sockets towards targets are never made here: they belong to the host's namespace.

mod census;
mod destroy;
mod diag;
mod find;
mod hunt;
mod program;
mod serve;
mod sys;
mod worker;

use std::{
    collections::{HashMap, HashSet},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock, mpsc},
};

use nix::sys::eventfd::{EfdFlags, EventFd};

use super::{CgroupMode, InterceptError, Listeners, Target};

pub use destroy::OldConnection;
pub(super) use diag::can_destroy;

/// Notices on their way to the agent. When it does not take them, the thread waits.
const NOTICES: usize = 256;

/// What the agent has to act on.
#[derive(Debug)]
pub enum Notice {
    /// Redirected connections of this namespace arrive here.
    Opened { cookie: u64, inode: u64, listeners: Listeners },
    /// Nobody lives there any more: close the listeners, which are what keeps it.
    Closed { cookie: u64 },
    /// Connections to targets that had not come through the agent, and are no more.
    Destroyed(Vec<OldConnection>),
    /// What somebody had taken away of what keeps namespaces, and was put back.
    Mended(Vec<String>),
    /// The namespaces that existed at the start are served.
    Settled,
}

/// Whose connections are governed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Governed {
    /// Directory of the cgroup everything below which is governed.
    pub(super) root: PathBuf,
    /// Directories of cgroups, whether they exist yet or not.
    pub(super) bypass: HashSet<PathBuf>,
    pub(super) deny: HashSet<PathBuf>,
    pub(super) agent: u64,
}

impl Governed {
    pub(super) fn set(&mut self, modes: &[CgroupMode], mount: &Path) {
        let listed = |deny: bool| {
            let of_kind = modes.iter().filter(move |mode| mode.is_deny() == deny);
            of_kind.map(|mode| mount.join(mode.path.trim_start_matches('/'))).collect()
        };
        self.bypass = listed(false);
        self.deny = listed(true);
    }
}

pub(super) enum Command {
    Consider(u32),
    Reconfigure { governed: Governed, targets: Vec<Target> },
    Resume,
}

/// The thread's handle; when it is dropped the thread ends, and what it served goes on refusing.
pub struct Namespaces {
    command_tx: mpsc::Sender<Command>,
    wake: Arc<EventFd>,
}

impl Namespaces {
    /// A process has just come into a governed cgroup: serve its namespace, and end the connections to targets that
    /// it brought along. A process that is gone is no error.
    pub fn consider(&self, pid: u32) {
        self.tell(Command::Consider(pid));
    }

    /// This agent serves again after another one had begun to take over: what connected meanwhile is waiting.
    pub fn resume(&self) {
        self.tell(Command::Resume);
    }

    pub(super) fn reconfigure(&self, governed: Governed, targets: Vec<Target>) {
        self.tell(Command::Reconfigure { governed, targets });
    }

    fn tell(&self, command: Command) {
        // Both fail only when the thread has ended, which it has logged.
        let _ended = self.command_tx.send(command);
        let _ended = self.wake.write(1);
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        // The closed channel ends the thread once it looks.
        let (closed, _) = mpsc::channel();
        self.command_tx = closed;
        let _ended = self.wake.write(1);
    }
}

/// Inodes of known network namespaces by cookie, which is how other tools name them (`lsns`, `/proc/PID/ns/net`).
#[derive(Debug, Clone, Default)]
pub(super) struct Inodes(Arc<RwLock<HashMap<u64, u64>>>);

impl Inodes {
    pub(super) fn get(&self, cookie: u64) -> Option<u64> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(&cookie).copied()
    }

    pub(super) fn set(&self, cookie: u64, inode: u64) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).insert(cookie, inode);
    }

    pub(super) fn count(&self) -> usize {
        self.0.read().unwrap_or_else(PoisonError::into_inner).len()
    }

    fn forget(&self, cookie: u64) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).remove(&cookie);
    }
}

/// Cookie and inode of the namespace this thread is in.
pub(super) fn own() -> Result<(u64, u64), InterceptError> {
    let failed = |source| InterceptError::Netns { what: "identify the agent's own", source };
    let cookie = sys::cookie_here().map_err(failed)?;
    let inode = std::fs::metadata("/proc/thread-self/ns/net").map_err(failed)?.ino();
    Ok((cookie, inode))
}

/// Starts the thread. Its notices have to be taken from then on.
pub(super) fn start(
    parts: worker::Parts,
) -> Result<(Namespaces, tokio::sync::mpsc::Receiver<Notice>), InterceptError> {
    let failed = |source| InterceptError::Netns { what: "start the thread for", source };
    let wake = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK);
    let wake = Arc::new(wake.map_err(|errno| failed(errno.into()))?);
    let (command_tx, command_rx) = mpsc::channel();
    let (notice_tx, notice_rx) = tokio::sync::mpsc::channel(NOTICES);
    let worker = worker::Worker::new(parts, command_rx, Arc::clone(&wake), notice_tx)?;
    std::thread::Builder::new().name("namespaces".into()).spawn(move || worker.run()).map_err(failed)?;
    Ok((Namespaces { command_tx, wake }, notice_rx))
}

pub(super) use program::LookupProgram;
pub(super) use worker::Parts;
