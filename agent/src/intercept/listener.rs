//! The agent's listening sockets. Their own ports are whatever the kernel gives them: connections come through the
//! lookup program, which knows the sockets themselves.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};

use aya::maps::{MapData, SockMap};
use chaperone_ebpf::{SLOT_V4, SLOT_V6};
use socket2::{Domain, Protocol, Socket, Type};

use super::InterceptError;

/// Connections waiting for accept; the kernel caps it at net.core.somaxconn.
const BACKLOG: i32 = 4096;

/// Non-blocking, ready for an event loop.
#[derive(Debug)]
pub struct Listeners {
    pub v4: TcpListener,
    /// `None` where this network namespace has no IPv6 loopback; IPv6 connects are refused then.
    pub v6: Option<TcpListener>,
}

impl Listeners {
    /// The same sockets once more.
    pub(super) fn again(&self) -> Result<Self, InterceptError> {
        let again = |listener: &TcpListener| {
            listener.try_clone().map_err(|source| InterceptError::ListenAgain { source })
        };
        Ok(Self { v4: again(&self.v4)?, v6: self.v6.as_ref().map(again).transpose()? })
    }
}

pub(super) fn listen() -> Result<Listeners, InterceptError> {
    let v4 = listen_on(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), false)?;
    let v6 = match listen_on(SocketAddr::from((Ipv6Addr::LOCALHOST, 0)), false) {
        Ok(listener) => Some(listener),
        Err(error) => {
            tracing::warn!(%error, "no IPv6 listener: IPv6 connections to targets will be refused");
            None
        }
    };
    Ok(Listeners { v4, v6 })
}

/// For a namespace that is not ours. Its loopback may come up, and get its IPv6 address, later than the listeners:
/// they do not ask for the addresses to exist.
pub(super) fn listen_in_namespace() -> Result<Listeners, InterceptError> {
    let v4 = listen_on(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), true)?;
    // A kernel without IPv6 has none to redirect either.
    let v6 = listen_on(SocketAddr::from((Ipv6Addr::LOCALHOST, 0)), true).ok();
    Ok(Listeners { v4, v6 })
}

/// Puts the sockets into the slots, in place of an earlier agent's: from the next SYN on they are the listener.
pub(super) fn publish(slots: &mut SockMap<MapData>, listeners: &Listeners) -> Result<(), InterceptError> {
    let failed = |source| InterceptError::Map { name: "LSOCK", source };
    slots.set(SLOT_V4, &listeners.v4, 0).map_err(failed)?;
    if let Some(v6) = &listeners.v6 {
        slots.set(SLOT_V6, v6, 0).map_err(failed)?;
    }
    Ok(())
}

fn listen_on(address: SocketAddr, freebind: bool) -> Result<TcpListener, InterceptError> {
    let open = || {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        if address.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        match address {
            SocketAddr::V4(_) if freebind => socket.set_freebind_v4(true)?,
            SocketAddr::V6(_) if freebind => socket.set_freebind_v6(true)?,
            SocketAddr::V4(_) | SocketAddr::V6(_) => {}
        }
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        Ok(socket.into())
    };
    open().map_err(|source| InterceptError::Listen { address, source })
}
