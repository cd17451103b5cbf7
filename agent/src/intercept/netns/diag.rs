//! sock_diag(7): the TCP sockets of the namespace this thread is in, and ending one.
//!
//! Layouts: include/uapi/linux/netlink.h, sock_diag.h, inet_diag.h. Numbers are in host order unless they travel.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream},
    os::fd::{AsRawFd as _, OwnedFd},
};

use nix::{
    errno::Errno,
    sys::socket::{
        AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, sendto, socket,
    },
};

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const SOCK_DESTROY: u16 = 21;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_DUMP: u16 = 0x300;
const IPPROTO_TCP: u8 = 6;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const INET_DIAG_CGROUP_ID: u16 = 21;

/// Sockets that have, or wait for, a peer: established, syn-sent, fin-wait-1 and -2, close-wait, last-ack, closing.
const CONNECTED: u32 = 1 << 1 | 1 << 2 | 1 << 4 | 1 << 5 | 1 << 8 | 1 << 9 | 1 << 11;

const HEADER: usize = 16;
const ID: usize = 48;
const MESSAGE: usize = 72;

/// A TCP socket as the kernel describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Connection {
    family: u8,
    id: [u8; ID],
    pub(super) local: SocketAddr,
    pub(super) remote: SocketAddr,
    pub(super) inode: u32,
    pub(super) uid: u32,
    /// The cgroup the socket was made in.
    pub(super) cgroup: Option<u64>,
}

pub(super) struct Diag {
    socket: OwnedFd,
}

impl Diag {
    /// For the namespace this thread is in.
    pub(super) fn open() -> io::Result<Self> {
        let socket = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::NetlinkSockDiag,
        )?;
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
        Ok(Self { socket })
    }

    /// All connected TCP sockets, IPv4 and IPv6.
    pub(super) fn connections(&self) -> io::Result<Vec<Connection>> {
        let mut found = Vec::new();
        for family in [AF_INET, AF_INET6] {
            self.send(&request(
                SOCK_DIAG_BY_FAMILY,
                NLM_F_REQUEST | NLM_F_DUMP,
                family,
                CONNECTED,
                &[0; ID],
            ))?;
            let mut done = false;
            while !done {
                done = self.receive(|kind, body| {
                    if kind == SOCK_DIAG_BY_FAMILY {
                        found.extend(parse(body));
                    }
                })?;
            }
        }
        Ok(found)
    }

    /// The owner's calls fail with ECONNABORTED from now on, and the peer gets a reset. A socket that is closed
    /// already is no error.
    pub(super) fn destroy(&self, connection: &Connection) -> io::Result<()> {
        self.send(&request(SOCK_DESTROY, NLM_F_REQUEST | NLM_F_ACK, connection.family, 0, &connection.id))?;
        match self.receive(|_, _| {}) {
            Err(error) if error.raw_os_error() == Some(Errno::ENOENT as i32) => Ok(()),
            other => other.map(drop),
        }
    }

    fn send(&self, message: &[u8]) -> io::Result<()> {
        sendto(self.socket.as_raw_fd(), message, &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
        Ok(())
    }

    /// Reads one datagram; true when it ends the answer.
    fn receive(&self, mut each: impl FnMut(u16, &[u8])) -> io::Result<bool> {
        let mut buffer = vec![0; 64 << 10];
        let length = recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
        let mut rest = buffer.get(..length).unwrap_or_default();
        while let Some((kind, body, next)) = message(rest) {
            match kind {
                NLMSG_DONE => return Ok(true),
                NLMSG_ERROR => {
                    return match number::<4>(body, 0).map(i32::from_ne_bytes) {
                        Some(0) => Ok(true),
                        Some(code) => Err(io::Error::from_raw_os_error(code.wrapping_neg())),
                        None => Err(io::ErrorKind::InvalidData.into()),
                    };
                }
                _ => each(kind, body),
            }
            rest = next;
        }
        Ok(false)
    }
}

/// Whether this kernel ends sockets on request (CONFIG_INET_DIAG_DESTROY), tried on a connection of our own.
pub(in crate::intercept) fn can_destroy() -> bool {
    let attempt = || -> io::Result<bool> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let stream = TcpStream::connect(listener.local_addr()?)?;
        let diag = Diag::open()?;
        let local = stream.local_addr()?;
        let Some(own) = diag.connections()?.into_iter().find(|connection| connection.local == local) else {
            return Ok(false);
        };
        diag.destroy(&own)?;
        Ok(stream.take_error()?.is_some_and(|error| error.kind() == io::ErrorKind::ConnectionAborted))
    };
    attempt().unwrap_or(false)
}

fn request(kind: u16, flags: u16, family: u8, states: u32, id: &[u8; ID]) -> Vec<u8> {
    let mut message = Vec::with_capacity(HEADER + 8 + ID);
    message.extend((u32::try_from(HEADER + 8 + ID).unwrap_or(0)).to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend(flags.to_ne_bytes());
    // Sequence number and port: one question at a time, on a socket of our own.
    message.extend([0; 8]);
    message.extend([family, IPPROTO_TCP, 0, 0]);
    message.extend(states.to_ne_bytes());
    message.extend(id);
    message
}

/// The first message's kind and body, and what follows it.
fn message(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let length = usize::try_from(u32::from_ne_bytes(number(bytes, 0)?)).ok()?;
    let kind = u16::from_ne_bytes(number(bytes, 4)?);
    let body = bytes.get(HEADER..length)?;
    Some((kind, body, bytes.get(aligned(length)..).unwrap_or_default()))
}

/// `struct inet_diag_msg` and its attributes.
fn parse(body: &[u8]) -> Option<Connection> {
    let &family = body.first()?;
    let id: [u8; ID] = number(body, 4)?;
    let address = |at: usize| match family {
        AF_INET => Some(IpAddr::V4(Ipv4Addr::from(number::<4>(&id, at)?))),
        AF_INET6 => Some(Ipv6Addr::from(number::<16>(&id, at)?).to_canonical()),
        _ => None,
    };
    let port = |at: usize| number(&id, at).map(u16::from_be_bytes);
    Some(Connection {
        family,
        local: SocketAddr::new(address(4)?, port(0)?),
        remote: SocketAddr::new(address(20)?, port(2)?),
        uid: u32::from_ne_bytes(number(body, 64)?),
        inode: u32::from_ne_bytes(number(body, 68)?),
        cgroup: attribute(body.get(MESSAGE..)?, INET_DIAG_CGROUP_ID)
            .and_then(|value| number(value, 0))
            .map(u64::from_ne_bytes),
        id,
    })
}

fn attribute(mut attributes: &[u8], wanted: u16) -> Option<&[u8]> {
    loop {
        let length = usize::from(u16::from_ne_bytes(number(attributes, 0)?));
        let kind = u16::from_ne_bytes(number(attributes, 2)?);
        let value = attributes.get(4..length)?;
        if kind == wanted {
            return Some(value);
        }
        attributes = attributes.get(aligned(length)..)?;
    }
}

fn number<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

fn aligned(length: usize) -> usize {
    length.next_multiple_of(4)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(family: u8, addresses: (&[u8], &[u8]), attributes: &[u8]) -> Vec<u8> {
        let mut id = [0; ID];
        id[0..2].copy_from_slice(&40_000_u16.to_be_bytes());
        id[2..4].copy_from_slice(&5432_u16.to_be_bytes());
        id[4..4 + addresses.0.len()].copy_from_slice(addresses.0);
        id[20..20 + addresses.1.len()].copy_from_slice(addresses.1);
        let mut body = vec![family, 1, 0, 0];
        body.extend(id);
        body.extend([0; 12]);
        body.extend(1000_u32.to_ne_bytes());
        body.extend(77_u32.to_ne_bytes());
        body.extend(attributes);
        body
    }

    #[test]
    fn a_socket_is_read_with_its_cgroup() {
        let mut attributes = vec![5, 0, 8, 0, 1, 0, 0, 0];
        attributes.extend([12, 0, 21, 0]);
        attributes.extend(4711_u64.to_ne_bytes());
        let body = answer(AF_INET, (&[10, 0, 0, 1], &[10, 0, 0, 5]), &attributes);
        let connection = parse(&body).unwrap();
        assert_eq!(connection.local, "10.0.0.1:40000".parse().unwrap());
        assert_eq!(connection.remote, "10.0.0.5:5432".parse().unwrap());
        assert_eq!((connection.uid, connection.inode, connection.cgroup), (1000, 77, Some(4711)));
    }

    #[test]
    fn a_mapped_address_is_ipv4() {
        let mapped = "::ffff:10.0.0.5".parse::<Ipv6Addr>().unwrap().octets();
        let connection = parse(&answer(AF_INET6, (&mapped, &mapped), &[])).unwrap();
        assert_eq!(connection.remote, "10.0.0.5:5432".parse().unwrap());
        assert_eq!(connection.cgroup, None);
    }

    #[test]
    fn what_is_cut_short_is_no_socket() {
        let body = answer(AF_INET, (&[1; 4], &[2; 4]), &[12, 0, 21, 0, 1, 2, 3, 4, 5, 6, 7, 8]);
        for length in 0..MESSAGE {
            assert_eq!(parse(&body[..length]), None, "{length}");
        }
        for length in MESSAGE..body.len() {
            assert_eq!(parse(&body[..length]).unwrap().cgroup, None, "{length}");
        }
    }

    #[test]
    fn messages_are_walked_to_the_end_and_not_further() {
        let one = request(SOCK_DIAG_BY_FAMILY, 0, AF_INET, 0, &[0; ID]);
        let two = [one.clone(), one.clone()].concat();
        let (kind, body, rest) = message(&two).unwrap();
        assert_eq!((kind, body.len(), rest.len()), (SOCK_DIAG_BY_FAMILY, 56, one.len()));
        assert!(message(&one[..one.len() - 1]).is_none());
        assert!(message(&[]).is_none());
        // A length shorter than the header leads nowhere.
        assert!(message(&[4, 0, 0, 0, 20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]).is_none());
    }
}
