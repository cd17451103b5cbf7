//! The sessions that live, and how to reach them. Knows nothing of what they do.

use std::collections::HashMap;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use crate::workload::Pod;

/// What can be asked of a live session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// End it now, telling the client why.
    Kill(String),
    /// Cancel what is held.
    Withdraw,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionInfo {
    pub id: String,
    pub identity: String,
    pub target: String,
    pub database: String,
    pub pid: u32,
    /// Where it was identified by, and what it is in without grants.
    pub cgroup: Option<String>,
    /// The pod as it was confirmed when the session began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<Pod>,
    pub groups: Vec<String>,
}

#[derive(Debug, Default)]
pub struct Registry {
    live: Mutex<HashMap<String, Entry>>,
    next_pid: AtomicI32,
}

#[derive(Debug)]
struct Entry {
    info: SessionInfo,
    command_tx: mpsc::Sender<Command>,
}

/// Takes its session out of the registry when dropped, however the session ended.
#[derive(Debug)]
pub struct Registration {
    id: String,
    registry: Arc<Registry>,
}

/// A place among the sessions at once; somebody else's when dropped.
#[derive(Debug)]
pub struct Place {
    _permit: OwnedSemaphorePermit,
}

impl Place {
    /// One that is free, if there is any.
    #[must_use]
    pub fn take(places: &Arc<Semaphore>) -> Option<Self> {
        Arc::clone(places).try_acquire_owned().ok().map(|permit| Self { _permit: permit })
    }
}

impl Registry {
    /// Enters a session; commands for it arrive on the receiver.
    #[must_use]
    pub fn enter(self: &Arc<Self>, info: SessionInfo) -> (Registration, mpsc::Receiver<Command>) {
        let (command_tx, command_rx) = mpsc::channel(4);
        let id = info.id.clone();
        self.lock().insert(id.clone(), Entry { info, command_tx });
        (Registration { id, registry: Arc::clone(self) }, command_rx)
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    #[must_use]
    pub fn list(&self) -> Vec<SessionInfo> {
        let mut list: Vec<_> = self.lock().values().map(|entry| entry.info.clone()).collect();
        list.sort_by(|a, b| a.id.cmp(&b.id));
        list
    }

    /// Sends a command; false when the session is gone or already has more commands than it reads.
    pub fn command(&self, id: &str, command: Command) -> bool {
        self.lock().get(id).is_some_and(|entry| entry.command_tx.try_send(command).is_ok())
    }

    pub fn command_all(&self, command: &Command) {
        for entry in self.lock().values() {
            let _ = entry.command_tx.try_send(command.clone());
        }
    }

    /// A process id for a client to know its session by; never 0.
    pub fn next_pid(&self) -> i32 {
        self.next_pid.fetch_add(1, Ordering::Relaxed).wrapping_add(1) & 0x3fff_ffff | 0x4000_0000
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Entry>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.registry.lock().remove(&self.id);
    }
}
