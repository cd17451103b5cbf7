//! The two connections of a session and the bytes in flight between them, polled as one.
//!
//! Reads and writes both sides in one poll, so that a client that sends without reading cannot stop the server's
//! answers, and nothing needs a lock or a task of its own. Knows nothing of messages.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::io::poll_read_buf;

/// One read takes at most this much.
const READ: usize = 32 << 10;

/// Which connection something happened on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Client,
    Upstream,
}

#[derive(Debug)]
pub(super) struct IoError {
    pub(super) side: Side,
    pub(super) source: io::Error,
}

/// What a wait brought.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Progress {
    pub(super) client_closed: bool,
    pub(super) upstream_closed: bool,
}

/// What the relay can use right now.
#[derive(Debug, Clone, Copy)]
pub(super) struct Want {
    pub(super) client: bool,
    pub(super) upstream: bool,
}

pub(super) struct Wire<C, U> {
    client: C,
    upstream: U,
    pub(super) from_client: BytesMut,
    pub(super) to_upstream: BytesMut,
    pub(super) from_upstream: BytesMut,
    pub(super) to_client: BytesMut,
    /// Bytes written so far.
    pub(super) client_bytes: u64,
    pub(super) upstream_bytes: u64,
    client_flush: bool,
    upstream_flush: bool,
}

impl<C, U> Wire<C, U>
where
    C: AsyncRead + AsyncWrite + Unpin,
    U: AsyncRead + AsyncWrite + Unpin,
{
    pub(super) fn new(client: C, upstream: U) -> Self {
        Self {
            client,
            upstream,
            from_client: BytesMut::with_capacity(READ),
            to_upstream: BytesMut::with_capacity(READ),
            from_upstream: BytesMut::with_capacity(READ),
            to_client: BytesMut::with_capacity(READ),
            client_bytes: 0,
            upstream_bytes: 0,
            client_flush: false,
            upstream_flush: false,
        }
    }

    /// Writes what is to be written and waits until something was read, a side closed, or a full buffer drained.
    /// Cancelling loses nothing.
    pub(super) async fn exchange(&mut self, want: Want) -> Result<Progress, IoError> {
        poll_fn(|cx| self.poll_exchange(cx, want)).await
    }

    /// The same for whoever waits for other things too.
    pub(super) fn poll_exchange(
        &mut self,
        cx: &mut Context<'_>,
        want: Want,
    ) -> Poll<Result<Progress, IoError>> {
        let on = |side| move |source| IoError { side, source };
        // A buffer that kept the other side from being read and is empty now: the relay may go on reading.
        let mut any = false;
        // A buffer that is empty but not flushed yet still counts as owed: the wait is over only after the flush.
        let owed = !self.to_upstream.is_empty() || self.upstream_flush;
        if let Poll::Ready(outcome) = self.poll_write_upstream(cx) {
            outcome.map_err(on(Side::Upstream))?;
            any |= owed && !want.client;
        }
        let owed = !self.to_client.is_empty() || self.client_flush;
        if let Poll::Ready(outcome) = self.poll_write_client(cx) {
            outcome.map_err(on(Side::Client))?;
            any |= owed && !want.upstream;
        }
        let mut progress = Progress::default();
        if want.upstream
            && let Poll::Ready(outcome) = poll_fill(&mut self.upstream, &mut self.from_upstream, cx)
        {
            progress.upstream_closed = outcome.map_err(on(Side::Upstream))? == 0;
            any = true;
        }
        if want.client
            && let Poll::Ready(outcome) = poll_fill(&mut self.client, &mut self.from_client, cx)
        {
            progress.client_closed = outcome.map_err(on(Side::Client))? == 0;
            any = true;
        }
        if any { Poll::Ready(Ok(progress)) } else { Poll::Pending }
    }

    fn poll_write_client(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        poll_write_all(
            &mut self.client,
            &mut self.to_client,
            &mut self.client_bytes,
            &mut self.client_flush,
            cx,
        )
    }

    fn poll_write_upstream(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { upstream, to_upstream, upstream_bytes, upstream_flush, .. } = self;
        poll_write_all(upstream, to_upstream, upstream_bytes, upstream_flush, cx)
    }

    /// Writes what the client is still owed and says goodbye.
    ///
    /// # Errors
    /// When the client is gone.
    pub(super) async fn finish(&mut self) -> io::Result<()> {
        poll_fn(|cx| self.poll_write_client(cx)).await?;
        poll_fn(|cx| Pin::new(&mut self.client).poll_shutdown(cx)).await
    }

    /// Tells the target that nothing more will come; it still may answer.
    ///
    /// # Errors
    /// When the target is gone.
    pub(super) async fn end_upstream(&mut self) -> io::Result<()> {
        poll_fn(|cx| Pin::new(&mut self.upstream).poll_shutdown(cx)).await
    }

    /// Writes what the target is still to get.
    ///
    /// # Errors
    /// When the target is gone.
    pub(super) async fn flush_upstream(&mut self) -> io::Result<()> {
        poll_fn(|cx| self.poll_write_upstream(cx)).await
    }
}

fn poll_fill<S: AsyncRead + Unpin>(
    stream: &mut S,
    buffer: &mut BytesMut,
    cx: &mut Context<'_>,
) -> Poll<io::Result<usize>> {
    buffer.reserve(READ);
    poll_read_buf(Pin::new(stream), cx, buffer)
}

/// Writes all of `buffer`, then flushes: an encrypting stream may hold back what it took.
fn poll_write_all<S: AsyncWrite + Unpin>(
    stream: &mut S,
    buffer: &mut BytesMut,
    count: &mut u64,
    flush: &mut bool,
    cx: &mut Context<'_>,
) -> Poll<io::Result<()>> {
    while !buffer.is_empty() {
        *flush = true;
        let written = ready!(Pin::new(&mut *stream).poll_write(cx, buffer))?;
        if written == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        *count += written as u64;
        buffer.advance(written);
    }
    if *flush {
        ready!(Pin::new(stream).poll_flush(cx))?;
        *flush = false;
    }
    Poll::Ready(Ok(()))
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    #[tokio::test]
    async fn a_client_that_does_not_read_does_not_stop_what_it_sends() {
        let (mut client, near) = duplex(64);
        let (far, mut server) = duplex(64);
        let mut wire = Wire::new(near, far);
        wire.to_client.extend_from_slice(&[1; 1000]);
        client.write_all(b"hello").await.unwrap();
        wire.exchange(Want { client: true, upstream: true }).await.unwrap();
        assert_eq!(&wire.from_client[..], b"hello");
        wire.to_upstream.extend_from_slice(b"on");
        wire.from_client.clear();
        client.write_all(b"x").await.unwrap();
        wire.exchange(Want { client: true, upstream: true }).await.unwrap();
        let mut got = [0; 2];
        server.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"on");
    }

    /// Takes everything at once and needs a second poll to flush it, as an encrypting stream over a full socket does.
    struct SlowFlush {
        asked: bool,
    }

    impl AsyncWrite for SlowFlush {
        fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            Poll::Ready(Ok(bytes.len()))
        }

        fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            if std::mem::replace(&mut self.asked, true) {
                return Poll::Ready(Ok(()));
            }
            cx.waker().wake_by_ref();
            Poll::Pending
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    impl AsyncRead for SlowFlush {
        fn poll_read(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            _: &mut tokio::io::ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            Poll::Pending
        }
    }

    #[tokio::test]
    async fn a_full_buffer_that_is_flushed_late_still_lets_the_relay_go_on() {
        let (far, _server) = duplex(64);
        let mut wire = Wire::new(SlowFlush { asked: false }, far);
        wire.to_client.extend_from_slice(&[1; 1000]);
        let waited = std::time::Duration::from_secs(5);
        let exchange = wire.exchange(Want { client: false, upstream: false });
        tokio::time::timeout(waited, exchange).await.expect("it stalled").unwrap();
    }

    #[tokio::test]
    async fn closing_is_reported_for_the_side_that_closed() {
        let (client, near) = duplex(64);
        let (far, _server) = duplex(64);
        let mut wire = Wire::new(near, far);
        drop(client);
        let progress = wire.exchange(Want { client: true, upstream: true }).await.unwrap();
        assert!(progress.client_closed && !progress.upstream_closed);
    }
}
