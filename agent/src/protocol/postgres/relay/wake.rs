//! What a session waits for, and in which order it counts.
//!
//! A session that serves statements goes to sleep twice a statement. What rarely comes is asked for only then, and keeps
//! its place among those that wait for a change of policy: entering and leaving it cost more than reading the message.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, watch};

use super::held::{self, Held, wait_for};
use super::limits::{Limits, Over};
use crate::protocol::wire::{IoError, Progress, Want, Wire};
use crate::registry::Command;

/// What there was to wait for.
pub(super) enum Wake {
    /// `None`: nobody can ask for anything any more.
    Command(Option<Command>),
    Policy,
    Held(held::Woken),
    Over(Over),
    Moved(Result<Progress, IoError>),
}

/// Changes of policy, as a session waits for them.
pub(super) struct Policy {
    seen: watch::Receiver<u64>,
    next: Change,
}

type Change = Pin<Box<dyn Future<Output = ()> + Send + Sync>>;

impl Policy {
    pub(super) fn new(seen: watch::Receiver<u64>) -> Self {
        let next = change_after(&seen);
        Self { seen, next }
    }

    fn is_due(&self) -> bool {
        // An error is the end of all changes, and waits below.
        self.seen.has_changed().unwrap_or(false)
    }

    fn poll_changed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        ready!(self.next.as_mut().poll(cx));
        self.adopt();
        Poll::Ready(())
    }

    /// What has changed so far is known from now on.
    fn adopt(&mut self) {
        self.seen.borrow_and_update();
        self.next = change_after(&self.seen);
    }
}

/// Waits for the first change after what `seen` saw.
fn change_after(seen: &watch::Receiver<u64>) -> Change {
    let mut seen = seen.clone();
    Box::pin(async move {
        if seen.changed().await.is_err() {
            std::future::pending().await
        }
    })
}

/// Waits for what there is to wait for.
pub(super) async fn wait<C, U>(
    command_rx: &mut mpsc::Receiver<Command>,
    policy: &mut Policy,
    held: Option<&mut Held>,
    limits: &mut Limits,
    (wire, want): (&mut Wire<C, U>, Want),
) -> Wake
where
    C: AsyncRead + AsyncWrite + Unpin,
    U: AsyncRead + AsyncWrite + Unpin,
{
    if held.is_none() && limits.are_far() {
        return poll_fn(|cx| poll(command_rx, policy, wire, want, cx)).await;
    }
    tokio::select! {
        biased;
        command = command_rx.recv() => Wake::Command(command),
        () = poll_fn(|cx| policy.poll_changed(cx)) => Wake::Policy,
        woken = wait_for(held) => Wake::Held(woken),
        over = limits.over() => Wake::Over(over),
        moved = wire.exchange(want) => Wake::Moved(moved),
    }
}

/// Where only peers, operators and policy can be waited for.
fn poll<C, U>(
    command_rx: &mut mpsc::Receiver<Command>,
    policy: &mut Policy,
    wire: &mut Wire<C, U>,
    want: Want,
    cx: &mut Context<'_>,
) -> Poll<Wake>
where
    C: AsyncRead + AsyncWrite + Unpin,
    U: AsyncRead + AsyncWrite + Unpin,
{
    // Somebody who never stops sending cannot keep these from being heard.
    if !command_rx.is_empty() {
        return command_rx.poll_recv(cx).map(Wake::Command);
    }
    if policy.is_due() {
        policy.adopt();
        return Poll::Ready(Wake::Policy);
    }
    if let Poll::Ready(moved) = wire.poll_exchange(cx, want) {
        return Poll::Ready(Wake::Moved(moved));
    }
    if let Poll::Ready(command) = command_rx.poll_recv(cx) {
        return Poll::Ready(Wake::Command(command));
    }
    policy.poll_changed(cx).map(|()| Wake::Policy)
}
