//! Reading and writing a connection that is not encrypted, as tokio does it but by the system call itself: in a program of
//! many threads libc makes a point of cancellation of each, which takes longer than the agent has for a statement's decision.

use std::io;
use std::task::{Context, Poll, ready};

use rustix::net::{RecvFlags, SendFlags, recv, send};
use tokio::io::{Interest, ReadBuf};
use tokio::net::TcpStream;

pub(super) fn poll_read(
    stream: &TcpStream,
    cx: &mut Context<'_>,
    buf: &mut ReadBuf<'_>,
) -> Poll<io::Result<()>> {
    loop {
        ready!(stream.poll_read_ready(cx))?;
        // SAFETY: nothing is read of it, and nothing written but what the kernel read.
        let room = unsafe { buf.unfilled_mut() };
        let most = room.len();
        let mut taken = Taken::default();
        let tried = stream.try_io(Interest::READABLE, || {
            let ((read, _), _) = recv(stream, room, RecvFlags::DONTWAIT)?;
            taken.so_much(read.len(), most)
        });
        if let Some(read) = taken.0 {
            // SAFETY: the kernel wrote so many.
            unsafe { buf.assume_init(read) };
            buf.advance(read);
            return Poll::Ready(Ok(()));
        }
        match tried {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            other => return Poll::Ready(other),
        }
    }
}

pub(super) fn poll_write(stream: &TcpStream, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
    loop {
        ready!(stream.poll_write_ready(cx))?;
        let mut taken = Taken::default();
        let tried = stream.try_io(Interest::WRITABLE, || {
            taken.so_much(send(stream, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL)?, bytes.len())
        });
        match (taken.0, tried) {
            (Some(written), _) => return Poll::Ready(Ok(written)),
            (None, Err(error)) if error.kind() != io::ErrorKind::WouldBlock => {
                return Poll::Ready(Err(error));
            }
            (None, _) => {}
        }
    }
}

/// How much was read or written.
#[derive(Default)]
struct Taken(Option<usize>);

impl Taken {
    /// Less than there was room for is all there was, or all that fits, and the next try would wait: it is said so now.
    fn so_much(&mut self, count: usize, most: usize) -> io::Result<()> {
        self.0 = Some(count);
        if 0 < count && count < most { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::super::Stream;
    use super::*;

    async fn pair() -> (Stream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (Stream::Plain(near), listener.accept().await.unwrap().0)
    }

    #[tokio::test]
    async fn more_than_fits_goes_both_ways_and_ends_as_it_began() {
        const MUCH: usize = 16 << 20;
        let (near, mut far) = pair().await;
        let (mut reads, mut writes) = tokio::io::split(near);
        let bytes: Vec<u8> = (0..=u8::MAX).cycle().take(MUCH).collect();
        let echo = tokio::spawn(async move {
            let mut all = Vec::new();
            far.read_to_end(&mut all).await.unwrap();
            far.write_all(&all).await.unwrap();
        });
        let sent = bytes.clone();
        let sender = async move {
            writes.write_all(&sent).await.unwrap();
            writes.shutdown().await.unwrap();
        };
        let receiver = async move {
            let mut all = Vec::new();
            reads.read_to_end(&mut all).await.unwrap();
            all
        };
        let ((), all) = tokio::join!(sender, receiver);
        echo.await.unwrap();
        assert!(all == bytes, "{} of {MUCH} came back", all.len());
    }

    #[tokio::test]
    async fn what_comes_in_small_parts_is_read_as_it_comes() {
        let (mut near, mut far) = pair().await;
        let mut room = [0; 64];
        for part in [&b"a"[..], b"bcd", &[7; 64], b"e"] {
            far.write_all(part).await.unwrap();
            let read = near.read(&mut room).await.unwrap();
            assert_eq!(room.get(..read), Some(part));
        }
        drop(far);
        assert_eq!(near.read(&mut room).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn a_peer_that_is_gone_is_an_error_and_no_signal() {
        let (mut near, far) = pair().await;
        drop(far);
        let mut last = Ok(());
        for _ in 0..100 {
            last = near.write_all(&[0; 4096]).await;
            if last.is_err() {
                break;
            }
            tokio::task::yield_now().await;
        }
        let kind = last.unwrap_err().kind();
        assert!(matches!(kind, io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset), "{kind:?}");
    }
}
