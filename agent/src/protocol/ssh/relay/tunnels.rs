//! Tunnels that end here: each is a connection to a target, and is served by that target's protocol as a session of its
//! own, which has a record, decisions and a login of its own.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Buf as _, BytesMut};
use tokio::io::AsyncWrite;
use tokio::net::{TcpStream, UnixStream};
use tokio_util::io::poll_read_buf;

use super::super::machine::Machine;
use crate::log::InSpan;
use crate::protocol::{Admitted, Protocol, Services};

/// At once, in one session.
const TUNNELS_MAX: usize = 16;
/// What waits for the client of a tunnel.
const WAITING_MAX: usize = 64 << 10;

/// By the number of the channel of each.
#[derive(Default)]
pub(super) struct Tunnels {
    /// Where those lead that are not decided yet.
    waiting: BTreeMap<u32, (Admitted, Protocol)>,
    open: BTreeMap<u32, Tunnel>,
}

/// Our end of a tunnel.
struct Tunnel {
    near: UnixStream,
    /// From the client; how much of it is not accounted for yet.
    inward: BytesMut,
    taken: usize,
    outward: BytesMut,
    /// The client will send no more, and the other end knows.
    ended: bool,
    told: bool,
    /// The other end will send no more.
    over: bool,
}

/// Begins to serve a connection of its own; its client is the other end of what is returned.
fn begin(services: Services<'_>, admitted: Admitted, protocol: Protocol) -> std::io::Result<UnixStream> {
    let (near, far) = UnixStream::pair()?;
    // A socket is a socket: protocols read and write it, and know where it comes from by what they are told.
    let far = TcpStream::from_std(std::net::TcpStream::from(OwnedFd::from(far.into_std()?)))?;
    let (gate, journal, registry) =
        (Arc::clone(services.gate), Arc::clone(services.journal), Arc::clone(services.registry));
    let span = tracing::info_span!("session", id = admitted.id, identity = admitted.principal.name());
    let serving: Pin<Box<dyn Future<Output = ()> + Send>> = Box::pin(async move {
        let services = Services { gate: &gate, journal: &journal, registry: &registry };
        protocol.serve(services, admitted, far).await;
    });
    tokio::spawn(InSpan::new(span, serving));
    Ok(near)
}

impl Tunnels {
    pub(super) fn full(&self) -> bool {
        self.waiting.len() + self.open.len() >= TUNNELS_MAX
    }

    /// One that is asked about.
    pub(super) fn wait(&mut self, id: u32, inner: (Admitted, Protocol)) {
        self.waiting.insert(id, inner);
    }

    /// It may not be.
    pub(super) fn give_up(&mut self, id: u32) {
        self.waiting.remove(&id);
    }

    /// It may be, if the channel is one that was asked about.
    pub(super) fn open(&mut self, id: u32, services: Services<'_>) -> std::io::Result<()> {
        let Some((admitted, protocol)) = self.waiting.remove(&id) else { return Ok(()) };
        let near = begin(services, admitted, protocol)?;
        let (inward, outward) = (BytesMut::new(), BytesMut::new());
        let tunnel = Tunnel { near, inward, taken: 0, outward, ended: false, told: false, over: false };
        self.open.insert(id, tunnel);
        Ok(())
    }

    /// Moves what the machine has for tunnels, and what they have for it; whether anything moved.
    pub(super) fn pump(&mut self, machine: &mut Machine) -> bool {
        let mut moved = false;
        self.open.retain(|id, tunnel| {
            let Some((bytes, ended)) = machine.tunnel_takes(*id) else { return false };
            moved |= !bytes.is_empty() || tunnel.taken > 0;
            tunnel.inward.unsplit(bytes);
            tunnel.ended |= ended;
            machine.tunnel_took(*id, std::mem::take(&mut tunnel.taken));
            let before = tunnel.outward.len();
            machine.tunnel_gives(*id, &mut tunnel.outward);
            moved |= before != tunnel.outward.len();
            if tunnel.over && tunnel.outward.is_empty() {
                machine.close_tunnel(*id);
                moved = true;
                return false;
            }
            true
        });
        moved
    }

    /// Waits until something moved at one of the other ends.
    pub(super) async fn exchange(&mut self) {
        poll_fn(|cx| {
            let mut moved = false;
            for tunnel in self.open.values_mut() {
                moved |= tunnel.poll(cx);
            }
            if moved { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }
}

impl Tunnel {
    fn poll(&mut self, cx: &mut Context<'_>) -> bool {
        let mut moved = false;
        while !self.inward.is_empty() {
            match Pin::new(&mut self.near).poll_write(cx, &self.inward) {
                Poll::Ready(Ok(count)) if count > 0 => {
                    self.inward.advance(count);
                    self.taken += count;
                    moved = true;
                }
                Poll::Ready(_) => {
                    moved |= !std::mem::replace(&mut self.over, true);
                    self.inward.clear();
                }
                Poll::Pending => break,
            }
        }
        if self.ended && self.inward.is_empty() && !self.told {
            self.told = Pin::new(&mut self.near).poll_shutdown(cx).is_ready();
        }
        while !self.over && self.outward.len() < WAITING_MAX {
            match poll_read_buf(Pin::new(&mut self.near), cx, &mut self.outward) {
                Poll::Ready(Ok(count)) if count > 0 => moved = true,
                Poll::Ready(_) => (self.over, moved) = (true, true),
                Poll::Pending => break,
            }
        }
        moved
    }
}
