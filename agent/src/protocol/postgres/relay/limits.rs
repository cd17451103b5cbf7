//! What a session does about limits: asks the target to cancel what came to one, and keeps the time of what may only run so
//! long.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use super::Relay;
use crate::protocol::postgres::open::{CancelAt, cancel};

pub(super) struct Limits {
    route: Option<CancelAt>,
    /// A cancel request on its way. Until the target has taken it, nothing goes there that it could hit.
    cancelling: Option<Pin<Box<dyn Future<Output = ()> + Send + Sync>>>,
    /// Which statement is timed, and until when.
    clock: Option<((u64, usize), Instant)>,
}

/// What there was to wait for.
pub(super) enum Over {
    Cancelled,
    Time,
}

impl Limits {
    pub(super) fn new(route: Option<CancelAt>) -> Self {
        Self { route, cancelling: None, clock: None }
    }

    fn time(&mut self, timed: Option<(u64, usize, Duration)>) {
        let running = self.clock.map(|(of, _)| of);
        match timed {
            None => self.clock = None,
            Some((op, index, _)) if running == Some((op, index)) => {}
            Some((op, index, time)) => self.clock = Some(((op, index), Instant::now() + time)),
        }
    }

    /// Whether there is nothing of theirs to wait for.
    pub(super) fn are_far(&self) -> bool {
        self.cancelling.is_none() && self.clock.is_none()
    }

    pub(super) async fn over(&mut self) -> Over {
        if let Some(cancelling) = &mut self.cancelling {
            cancelling.await;
            self.cancelling = None;
            return Over::Cancelled;
        }
        match self.clock {
            Some((_, until)) => tokio::time::sleep_until(until).await,
            None => std::future::pending().await,
        }
        Over::Time
    }
}

impl<C, U> Relay<'_, C, U>
where
    C: AsyncRead + AsyncWrite + Unpin,
    U: AsyncRead + AsyncWrite + Unpin,
{
    /// Looks at what the target said: whether something has to be cancelled, or failed after all.
    pub(super) fn keep_limits(&mut self) {
        if self.machine.take_cancel_due()
            && let Some(route) = self.limits.route.clone()
        {
            self.limits.cancelling = Some(Box::pin(cancel(route)));
        }
        if self.limits.cancelling.is_none() && self.machine.is_cut() {
            self.machine.pay(&mut self.staged);
        }
    }

    /// Looks at what runs now, before there is anything to wait for.
    pub(super) fn keep_time(&mut self) {
        self.limits.time(self.machine.timed());
    }

    pub(super) fn limit_reached(&mut self, over: Over) {
        match over {
            Over::Cancelled => {}
            Over::Time => {
                self.limits.clock = None;
                self.machine.time_is_over();
            }
        }
    }
}
