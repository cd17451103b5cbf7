//! Statements that wait for a human.
//!
//! A hold is a one-shot: dropping the ticket withdraws it, dropping everything denies. Nothing here outlives the
//! agent, so a restart denies what was held.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::record::event::{Bind, Identity};

/// What an approver is shown: exactly what will run, for whom, and why it was held.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct HoldInfo {
    pub id: String,
    pub session: String,
    pub op: u64,
    pub identity: Identity,
    pub target: String,
    pub database: String,
    pub sql: String,
    pub binds: Vec<Bind>,
    /// SHA-256 over everything the approval is bound to, hex.
    pub binding: String,
    pub policies: Vec<String>,
    pub reason: Option<String>,
    /// Groups whose members may approve.
    pub groups: Vec<String>,
    pub created_unix_s: u64,
    pub expires_unix_s: u64,
}

/// How an approver decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolution {
    pub approved: bool,
    pub by: String,
    pub comment: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ResolveError {
    #[error("no statement is held under the id {0}; it may have been decided, withdrawn or timed out")]
    Unknown(String),
}

#[derive(Debug, Default)]
pub struct Holds {
    pending: Mutex<BTreeMap<String, Pending>>,
}

#[derive(Debug)]
struct Pending {
    info: HoldInfo,
    resolution_tx: oneshot::Sender<Resolution>,
}

/// The waiting side of a hold.
#[derive(Debug)]
pub struct Ticket {
    pub info: HoldInfo,
    pub deadline: Instant,
    resolution_rx: oneshot::Receiver<Resolution>,
    holds: Arc<Holds>,
}

impl Holds {
    /// Registers a held statement; `info.created` and `info.expires` are filled in here.
    #[must_use]
    pub fn open(self: &Arc<Self>, mut info: HoldInfo, timeout: Duration) -> Ticket {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        info.created_unix_s = now.as_secs();
        info.expires_unix_s = (now + timeout).as_secs();
        let (resolution_tx, resolution_rx) = oneshot::channel();
        self.lock().insert(info.id.clone(), Pending { info: info.clone(), resolution_tx });
        Ticket { info, deadline: Instant::now() + timeout, resolution_rx, holds: Arc::clone(self) }
    }

    #[must_use]
    pub fn list(&self) -> Vec<HoldInfo> {
        self.lock().values().map(|pending| pending.info.clone()).collect()
    }

    /// Hands a decision to the waiting session, once.
    ///
    /// # Errors
    /// When nothing waits under this id any more.
    pub fn resolve(&self, id: &str, resolution: Resolution) -> Result<HoldInfo, ResolveError> {
        let unknown = || ResolveError::Unknown(id.to_owned());
        let pending = self.lock().remove(id).ok_or_else(unknown)?;
        pending.resolution_tx.send(resolution).map_err(|_| unknown())?;
        Ok(pending.info)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Pending>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ticket {
    /// Waits for the decision; `None` when the time is up.
    pub async fn wait(&mut self) -> Option<Resolution> {
        tokio::time::timeout_at(self.deadline, &mut self.resolution_rx).await.ok()?.ok()
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.holds.lock().remove(&self.info.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(id: &str) -> HoldInfo {
        HoldInfo {
            id: id.into(),
            session: "s".into(),
            op: 1,
            identity: Identity { name: "bot".into(), groups: vec![] },
            target: "shop".into(),
            database: "crm".into(),
            sql: "DELETE FROM t".into(),
            binds: vec![],
            binding: String::new(),
            policies: vec![],
            reason: None,
            groups: vec![],
            created_unix_s: 0,
            expires_unix_s: 0,
        }
    }

    fn approved() -> Resolution {
        Resolution { approved: true, by: "root".into(), comment: None }
    }

    #[tokio::test(start_paused = true)]
    async fn a_hold_is_decided_once_or_times_out() {
        let holds = Arc::new(Holds::default());
        let mut ticket = holds.open(info("a"), Duration::from_secs(5));
        assert_eq!(holds.list().len(), 1);
        holds.resolve("a", approved()).unwrap();
        assert_eq!(holds.resolve("a", approved()).unwrap_err(), ResolveError::Unknown("a".into()));
        assert_eq!(ticket.wait().await, Some(approved()));

        let mut late = holds.open(info("b"), Duration::from_secs(5));
        assert_eq!(late.wait().await, None);
    }

    #[tokio::test]
    async fn a_dropped_ticket_withdraws_the_hold() {
        let holds = Arc::new(Holds::default());
        drop(holds.open(info("a"), Duration::from_secs(5)));
        assert!(holds.list().is_empty());
        assert!(holds.resolve("a", approved()).is_err());
    }
}
