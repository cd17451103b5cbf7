//! The accept loop.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tracing::warn;

use crate::intercept::{Listeners, Lookup};
use crate::session::{self, Shared};

/// Starts a loop per listener. Connections beyond `limit` at once, logged in or not, are closed unanswered.
pub(super) fn spawn<L: Lookup + 'static>(
    listeners: Listeners,
    shared: &Arc<Shared<L>>,
    limit: usize,
) -> Result<Vec<JoinHandle<()>>> {
    let places = Arc::new(Semaphore::new(limit));
    let mut tasks = Vec::new();
    for listener in [Some(listeners.v4), listeners.v6].into_iter().flatten() {
        let listener = TcpListener::from_std(listener).context("cannot use the listener")?;
        tasks.push(tokio::spawn(accept(listener, Arc::clone(shared), Arc::clone(&places))));
    }
    Ok(tasks)
}

async fn accept<L: Lookup + 'static>(listener: TcpListener, shared: Arc<Shared<L>>, places: Arc<Semaphore>) {
    let mut turned_away = 0u64;
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
                    turned_away += 1;
                    if turned_away.is_power_of_two() {
                        warn!(%peer, turned_away, "too many connections at once");
                    }
                    continue;
                };
                let shared = Arc::clone(&shared);
                tokio::spawn(async move {
                    session::serve(shared, stream, peer).await;
                    drop(place);
                });
            }
            // Out of file descriptors, or the connection died in the queue: neither is a reason to stop.
            Err(error) => {
                warn!(%error, "accept failed");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }
}
