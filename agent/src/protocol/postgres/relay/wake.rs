//! What a session waits for, and in which order it counts.
//!
//! A session that serves statements goes to sleep twice a statement. What rarely comes is asked for the first time only:
//! entering and leaving the lists of those who wait cost more than reading the message.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker, ready};

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, watch};
use tokio::task::unconstrained;

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

/// What comes to a session from elsewhere: what operators ask for, and changes of policy.
pub(super) struct Ears<'a> {
    commands: &'a mut mpsc::Receiver<Command>,
    seen: watch::Receiver<u64>,
    changed: Change,
    /// Who is woken by the next of either, once asked.
    asked: Option<Waker>,
}

type Change = Pin<Box<dyn Future<Output = ()> + Send + Sync>>;

impl<'a> Ears<'a> {
    pub(super) fn new(commands: &'a mut mpsc::Receiver<Command>, seen: watch::Receiver<u64>) -> Self {
        let changed = change_after(&seen);
        Self { commands, seen, changed, asked: None }
    }

    /// What has come, without asking to be woken.
    fn heard(&mut self, cx: &mut Context<'_>) -> Poll<Wake> {
        if !self.commands.is_empty() || self.commands.is_closed() {
            return self.poll_both(cx);
        }
        // An error is the end of all changes, and nothing to hear of.
        if self.seen.has_changed().unwrap_or(false) {
            return Poll::Ready(self.adopt());
        }
        Poll::Pending
    }

    /// The same, and whoever waits is woken by what comes next. It is asked for once: only what comes takes it back.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Wake> {
        let heard = self.heard(cx);
        if heard.is_ready() || self.asked.as_ref().is_some_and(|asked| asked.will_wake(cx.waker())) {
            return heard;
        }
        let polled = self.poll_both(cx);
        if polled.is_pending() {
            self.asked = Some(cx.waker().clone());
        }
        polled
    }

    fn poll_both(&mut self, cx: &mut Context<'_>) -> Poll<Wake> {
        // A task whose budget is spent would be put off, and not be woken by what comes.
        let command = pin!(unconstrained(poll_fn(|cx| self.commands.poll_recv(cx)))).poll(cx);
        if let Poll::Ready(command) = command {
            self.asked = None;
            return Poll::Ready(Wake::Command(command));
        }
        ready!(pin!(unconstrained(self.changed.as_mut())).poll(cx));
        Poll::Ready(self.adopt())
    }

    /// What has changed so far is known from now on.
    fn adopt(&mut self) -> Wake {
        self.asked = None;
        self.seen.borrow_and_update();
        self.changed = change_after(&self.seen);
        Wake::Policy
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
    ears: &mut Ears<'_>,
    held: Option<&mut Held>,
    limits: &mut Limits,
    (wire, want): (&mut Wire<C, U>, Want),
) -> Wake
where
    C: AsyncRead + AsyncWrite + Unpin,
    U: AsyncRead + AsyncWrite + Unpin,
{
    if held.is_none() && limits.are_far() {
        return poll_fn(|cx| poll(ears, wire, want, cx)).await;
    }
    tokio::select! {
        biased;
        heard = poll_fn(|cx| ears.poll(cx)) => heard,
        woken = wait_for(held) => Wake::Held(woken),
        over = limits.over() => Wake::Over(over),
        moved = wire.exchange(want) => Wake::Moved(moved),
    }
}

/// Where only peers, operators and policy can be waited for.
fn poll<C, U>(ears: &mut Ears<'_>, wire: &mut Wire<C, U>, want: Want, cx: &mut Context<'_>) -> Poll<Wake>
where
    C: AsyncRead + AsyncWrite + Unpin,
    U: AsyncRead + AsyncWrite + Unpin,
{
    // Somebody who never stops sending cannot keep these from being heard.
    if let Poll::Ready(heard) = ears.heard(cx) {
        return Poll::Ready(heard);
    }
    if let Poll::Ready(moved) = wire.poll_exchange(cx, want) {
        return Poll::Ready(Wake::Moved(moved));
    }
    ears.poll(cx)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[derive(Default)]
    struct Woken(AtomicU32);

    impl std::task::Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    impl Woken {
        fn taken(&self) -> u32 {
            self.0.swap(0, Ordering::Relaxed)
        }
    }

    fn kill() -> Command {
        Command::Kill("a test".into())
    }

    #[test]
    fn whatever_comes_wakes_who_asked_once() {
        let (command_tx, mut commands) = mpsc::channel(4);
        let (policy_tx, seen) = watch::channel(0);
        let mut ears = Ears::new(&mut commands, seen);
        let woken = Arc::new(Woken::default());
        let waker = Arc::clone(&woken).into();
        let mut cx = Context::from_waker(&waker);
        for _ in 0..3 {
            for _ in 0..3 {
                assert!(ears.poll(&mut cx).is_pending() && ears.heard(&mut cx).is_pending());
            }
            command_tx.try_send(kill()).unwrap();
            assert_eq!(woken.taken(), 1);
            assert!(matches!(ears.heard(&mut cx), Poll::Ready(Wake::Command(Some(_)))));
            assert!(ears.poll(&mut cx).is_pending());
            policy_tx.send_modify(|version| *version += 1);
            assert_eq!(woken.taken(), 1);
            assert!(matches!(ears.heard(&mut cx), Poll::Ready(Wake::Policy)));
        }
        command_tx.try_send(kill()).unwrap();
        command_tx.try_send(kill()).unwrap();
        policy_tx.send_modify(|version| *version += 1);
        for _ in 0..2 {
            assert!(matches!(ears.poll(&mut cx), Poll::Ready(Wake::Command(Some(_)))));
        }
        assert!(matches!(ears.poll(&mut cx), Poll::Ready(Wake::Policy)));
        assert!(ears.poll(&mut cx).is_pending());
        // That nobody changes policies any more is nothing; that nobody gives orders any more is the end.
        woken.taken();
        drop(policy_tx);
        assert!(ears.poll(&mut cx).is_pending());
        woken.taken();
        drop(command_tx);
        assert_eq!(woken.taken(), 1);
        assert!(matches!(ears.heard(&mut cx), Poll::Ready(Wake::Command(None))));
    }

    #[test]
    fn another_task_that_asks_is_woken_in_the_place_of_the_first() {
        let (command_tx, mut commands) = mpsc::channel(4);
        let (_policy_tx, seen) = watch::channel(0);
        let mut ears = Ears::new(&mut commands, seen);
        let tasks = [(); 2].map(|()| Arc::new(Woken::default()));
        for task in &tasks {
            assert!(ears.poll(&mut Context::from_waker(&Arc::clone(task).into())).is_pending());
        }
        command_tx.try_send(kill()).unwrap();
        assert_eq!(tasks.map(|task| task.taken()), [0, 1]);
    }

    #[tokio::test]
    async fn a_task_whose_budget_is_spent_is_woken_all_the_same() {
        let (command_tx, mut commands) = mpsc::channel(4);
        let (_policy_tx, seen) = watch::channel(0);
        let mut ears = Ears::new(&mut commands, seen);
        let (work_tx, mut work) = mpsc::channel(1000);
        (0..1000).for_each(|item| work_tx.try_send(item).unwrap());
        let woken = Arc::new(Woken::default());
        let waker = Arc::clone(&woken).into();
        let mut cx = Context::from_waker(&waker);
        poll_fn(|_| {
            let done = (0..1000).take_while(|_| work.poll_recv(&mut cx).is_ready()).count();
            assert!((1..1000).contains(&done), "{done}: there is no budget");
            assert!(ears.poll(&mut cx).is_pending());
            Poll::Ready(())
        })
        .await;
        tokio::task::yield_now().await;
        woken.taken();
        command_tx.try_send(kill()).unwrap();
        assert_eq!(woken.taken(), 1);
    }
}
