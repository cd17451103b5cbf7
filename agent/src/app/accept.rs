//! The accept loop, and the threads that run sessions.
//!
//! A session lives on one thread, with a runtime of its own, from accept to its end: its two sockets wake no other
//! thread, which is what most of a small statement's cost would otherwise be. Sessions fill one thread before the next one
//! is used, as long as it has time: a thread that finds several of them ready neither sleeps nor is woken between
//! their statements.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinHandle;
use tracing::{error, warn};

use super::alive::{Pulse, SESSION_THREAD};
use crate::intercept::{Listeners, Lookup};
use crate::session::{self, Shared};
use load::{Load, Stay};

mod load;

/// Stack of a thread that analyses statements: the grammar and the analysis recurse, and their own limits keep
/// them far below this.
pub(super) const STACK: usize = 32 << 20;

/// Connections on their way to a thread.
const QUEUE: usize = 256;

/// A connection that was accepted, with its place among those at once and on its thread.
struct Accepted {
    stream: std::net::TcpStream,
    peer: SocketAddr,
    place: OwnedSemaphorePermit,
    stay: Stay,
}

/// A session thread, as those see it who hand connections to it.
#[derive(Clone)]
struct Thread {
    accepted_tx: mpsc::Sender<Accepted>,
    load: Arc<Load>,
}

/// Hands connections to the session threads, from however many listeners.
#[derive(Clone)]
pub(super) struct Acceptor {
    threads: Vec<Thread>,
    places: Arc<Semaphore>,
    limit: usize,
    pub(super) pulse: Pulse,
}

impl Acceptor {
    /// Starts the session threads. Connections beyond `limit` at once, logged in or not, are closed unanswered; as many places
    /// there are in what is shared.
    pub(super) fn start<L: Lookup + 'static>(shared: &Arc<Shared<L>>, limit: usize) -> Result<Self> {
        let shared = Arc::clone(shared);
        Self::serving(limit, Arc::clone(&shared.places), move |stream, peer| {
            session::serve(Arc::clone(&shared), stream, peer)
        })
    }

    fn serving<S, F>(limit: usize, places: Arc<Semaphore>, serve: S) -> Result<Self>
    where
        S: Fn(TcpStream, SocketAddr) -> F + Clone + Send + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        // The session threads, and the runtime of everything else.
        let pulse = Pulse::new(threads + 1);
        tokio::spawn(pulse.clone().tick(threads));
        let threads = (0..threads)
            .map(|number| session_thread(number, serve.clone(), &pulse))
            .collect::<Result<Vec<_>>>()?;
        Ok(Self { threads, places, limit, pulse })
    }

    /// Starts a loop per listener; they end when aborted, and close their listeners then.
    pub(super) fn listen(&self, listeners: Listeners) -> Result<Vec<JoinHandle<()>>> {
        let loops = [Some(listeners.v4), listeners.v6].into_iter().flatten().map(|listener| {
            let listener = TcpListener::from_std(listener).context("cannot use the listener")?;
            Ok(tokio::spawn(accept(listener, self.threads.clone(), Arc::clone(&self.places))))
        });
        loops.collect()
    }

    /// Connections that were accepted and have not ended, logged in or not.
    pub(super) fn connections(&self) -> usize {
        self.limit.saturating_sub(self.places.available_permits())
    }
}

/// A thread with a runtime of its own; it ends with the process.
fn session_thread<S, F>(number: usize, serve: S, pulse: &Pulse) -> Result<Thread>
where
    S: Fn(TcpStream, SocketAddr) -> F + Send + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    let (accepted_tx, mut accepted_rx) = mpsc::channel::<Accepted>(QUEUE);
    let pulse = pulse.clone();
    let load = Arc::new(Load::default());
    let thread = Thread { accepted_tx, load: Arc::clone(&load) };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start a runtime")?;
    std::thread::Builder::new()
        .name(format!("{SESSION_THREAD}{number}"))
        .stack_size(STACK)
        .spawn(move || {
            runtime.block_on(async move {
                tokio::spawn(pulse.tick(number));
                tokio::spawn(load.measure());
                while let Some(Accepted { stream, peer, place, stay }) = accepted_rx.recv().await {
                    match TcpStream::from_std(stream) {
                        Ok(stream) => {
                            let session = serve(stream, peer);
                            // A panic in it ends the task, and gives the place back.
                            tokio::spawn(async move {
                                session.await;
                                drop((place, stay));
                            });
                        }
                        Err(error) => error!(%peer, %error, "cannot use the connection"),
                    }
                }
                // No more connections; those that live are drained until the process ends, and this thread with it.
                std::future::pending::<()>().await;
            });
        })
        .context("cannot start a session thread")?;
    Ok(thread)
}

async fn accept(listener: TcpListener, threads: Vec<Thread>, places: Arc<Semaphore>) {
    let mut turned_away = 0u64;
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                let place = Arc::clone(&places).try_acquire_owned().ok();
                let handed_over = place.and_then(|place| {
                    let thread = threads.iter().min_by_key(|thread| thread.load.rank())?;
                    let accepted = Accepted {
                        stream: stream.into_std().ok()?,
                        peer,
                        place,
                        stay: Load::stay(&thread.load),
                    };
                    thread.accepted_tx.try_send(accepted).ok()
                });
                if handed_over.is_none() {
                    turned_away += 1;
                    if turned_away.is_power_of_two() {
                        warn!(%peer, turned_away, "too many connections at once");
                    }
                }
            }
            // Out of file descriptors, or the connection died in the queue: neither is a reason to stop.
            Err(error) => {
                warn!(%error, "accept failed");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }
}

#[cfg(test)]
mod tests;
