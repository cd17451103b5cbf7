//! Follows what the interception says of network namespaces: accepts where it opened listeners, stops where it let go,
//! and records the old connections it ended.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tracing::{error, info, warn};

use super::accept::Acceptor;
use crate::intercept::{Notice, OldConnection};
use crate::record::Journal;
use crate::record::event::{Event, OldConnection as Recorded};

/// Runs until it is aborted, which closes the listeners. `settled_tx` fires once the namespaces that existed at the start
/// are served.
pub(super) async fn follow(
    mut notice_rx: mpsc::Receiver<Notice>,
    acceptor: Acceptor,
    journal: Arc<Journal>,
    settled_tx: oneshot::Sender<()>,
) {
    let mut accepting = Accepting::default();
    let mut settled_tx = Some(settled_tx);
    while let Some(notice) = notice_rx.recv().await {
        match notice {
            Notice::Opened { cookie, inode, listeners } => match acceptor.listen(listeners) {
                Ok(loops) => accepting.start(cookie, loops),
                Err(error) => error!(inode, %error, "cannot accept from a network namespace"),
            },
            Notice::Closed { cookie } => accepting.stop(cookie),
            Notice::Destroyed(connections) => record(&journal, connections),
            Notice::Mended(found) => record_mended(&journal, &found.join(", ")),
            Notice::Settled => {
                // Nobody waits for it any more when the start took too long.
                let _late = settled_tx.take().map(|settled_tx| settled_tx.send(()));
            }
        }
    }
    // Another agent took over, or the thread failed: what has arrived already is served to the end.
    std::future::pending::<()>().await;
}

/// The accept loops by the cookie of their namespace.
#[derive(Default)]
struct Accepting(HashMap<u64, Vec<JoinHandle<()>>>);

impl Accepting {
    fn start(&mut self, cookie: u64, loops: Vec<JoinHandle<()>>) {
        self.0.entry(cookie).or_default().extend(loops);
    }

    fn stop(&mut self, cookie: u64) {
        for task in self.0.remove(&cookie).into_iter().flatten() {
            task.abort();
        }
    }
}

impl Drop for Accepting {
    fn drop(&mut self) {
        for task in self.0.drain().flat_map(|(_, loops)| loops) {
            task.abort();
        }
    }
}

fn record_mended(journal: &Journal, found: &str) {
    warn!(found, "tampering: put back");
    if let Err(error) = journal.append(&[Event::Tampered { found: found.to_owned(), error: None }]) {
        warn!(%error, "tampering could not be recorded");
    }
}

fn record(journal: &Journal, connections: Vec<OldConnection>) {
    let recorded: Vec<Recorded> = connections
        .into_iter()
        .map(|connection| Recorded {
            netns_inode: connection.netns_inode,
            local: connection.local.to_string(),
            destination: connection.destination.to_string(),
            uid: connection.uid,
            pid: connection.pid,
            cgroup_id: connection.cgroup_id,
        })
        .collect();
    info!(count = recorded.len(), "ended connections to targets that had not come through the agent");
    if let Err(error) = journal.append(&[Event::OldConnections { connections: recorded }]) {
        warn!(%error, "ended connections could not be recorded");
    }
}
