//! The target that must stay alone: every address of its networks is taken by one host, which accepts every TCP
//! connection, reads every datagram, and writes down every single packet that arrives for it, whatever it carries.
//!
//! What a technique is judged by is the packets: a technique that got one through has escaped, answered or not.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, socket};

use crate::harness::net::Netns;

/// What everybody who gets through is told.
const BANNER: &[u8] = b"WITNESS\n";

/// Listens in a namespace until it is dropped.
pub(super) struct Witness {
    seen: Arc<Mutex<Seen>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// By the address they were sent to: one line for each packet, connection and datagram.
type Seen = BTreeMap<IpAddr, Vec<String>>;

struct Sockets {
    tcp: Vec<TcpListener>,
    udp: Vec<UdpSocket>,
    /// Only where the addresses are the witness's alone: loopback has traffic of others.
    packets: Option<OwnedFd>,
}

impl Witness {
    /// On all addresses of `netns`, with every packet that arrives for one of `ours`.
    pub(super) fn everywhere(netns: &Netns, port: u16, ours: fn(IpAddr) -> bool) -> Result<Self> {
        let sockets = netns.enter(|| {
            let packets = socket(
                AddressFamily::Packet,
                // Without the link's header: what is read begins with the IP header.
                SockType::Datagram,
                SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC,
                SockProtocol::EthAll,
            )?;
            let mut sockets = Sockets::open(&["::"], port)?;
            sockets.packets = Some(packets);
            Ok(sockets)
        })?;
        Self::watch(sockets, ours)
    }

    /// On the loopback addresses of `netns`.
    pub(super) fn on_loopback(netns: &Netns, port: u16) -> Result<Self> {
        let sockets = netns.enter(|| Sockets::open(&["127.0.0.1", "::1"], port))?;
        Self::watch(sockets, |_| true)
    }

    fn watch(mut sockets: Sockets, ours: fn(IpAddr) -> bool) -> Result<Self> {
        let seen = Arc::new(Mutex::new(Seen::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let (theirs, asked) = (Arc::clone(&seen), Arc::clone(&stop));
        let thread = std::thread::Builder::new().name("witness".into()).spawn(move || {
            let mut open = Vec::new();
            while !asked.load(Ordering::Relaxed) {
                sockets.look(&theirs, &mut open, ours);
                std::thread::sleep(Duration::from_millis(2));
            }
        })?;
        Ok(Self { seen, stop, thread: Some(thread) })
    }

    /// What was seen at an address so far.
    pub(super) fn at(&self, address: IpAddr) -> Vec<String> {
        self.lock().get(&address).cloned().unwrap_or_default()
    }

    /// Everything so far: where it was seen, and what.
    pub(super) fn all(&self) -> Vec<(IpAddr, String)> {
        let seen = self.lock();
        seen.iter().flat_map(|(address, lines)| lines.iter().map(|line| (*address, line.clone()))).collect()
    }

    pub(super) fn forget(&self) {
        self.lock().clear();
    }

    pub(super) fn forget_at(&self, addresses: &[IpAddr]) {
        self.lock().retain(|address, _| !addresses.contains(address));
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Sockets {
    fn open(hosts: &[&str], port: u16) -> Result<Self> {
        let mut sockets = Self { tcp: Vec::new(), udp: Vec::new(), packets: None };
        for host in hosts {
            let at = || format!("the witness at {host} port {port}");
            let tcp = TcpListener::bind((*host, port)).with_context(at)?;
            tcp.set_nonblocking(true)?;
            sockets.tcp.push(tcp);
            let udp = UdpSocket::bind((*host, port)).with_context(at)?;
            udp.set_nonblocking(true)?;
            sockets.udp.push(udp);
        }
        Ok(sockets)
    }

    /// Reads whatever there is. Connections stay open: some techniques use theirs again later.
    fn look(&mut self, seen: &Mutex<Seen>, open: &mut Vec<(IpAddr, TcpStream)>, ours: fn(IpAddr) -> bool) {
        let note = |address: IpAddr, line: String| {
            seen.lock()
                .unwrap_or_else(PoisonError::into_inner)
                .entry(address.to_canonical())
                .or_default()
                .push(line);
        };
        for listener in &self.tcp {
            while let Ok((mut stream, peer)) = listener.accept() {
                let Ok(local) = stream.local_addr() else { continue };
                note(local.ip(), format!("accepted a connection from {peer}"));
                let _ = stream.set_nonblocking(true);
                let _ = stream.write_all(BANNER);
                open.push((local.ip(), stream));
            }
        }
        let mut buffer = [0; 2048];
        open.retain_mut(|(address, stream)| match stream.read(&mut buffer) {
            Ok(0) => false,
            Ok(bytes) => {
                note(*address, format!("read {bytes} bytes"));
                true
            }
            Err(error) => error.kind() == ErrorKind::WouldBlock,
        });
        for socket in &self.udp {
            while socket.recv_from(&mut buffer).is_ok_and(|(_, peer)| socket.send_to(BANNER, peer).is_ok()) {}
        }
        let Some(packets) = &self.packets else { return };
        while let Ok(length) = recv(packets.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
            if let Some(Packet { from, to, line }) = buffer.get(..length).and_then(describe)
                && ours(to)
                // What the target's own kernel says to itself, an ICMP error for instance, nobody sent it.
                && !ours(from)
            {
                note(to, line);
            }
        }
    }
}

const TCP: u8 = 6;
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;

struct Packet {
    from: IpAddr,
    to: IpAddr,
    line: String,
}

/// An IP packet, as a person would want to know it.
fn describe(packet: &[u8]) -> Option<Packet> {
    let version = packet.first()? >> 4;
    let (to, from, protocol, rest): (IpAddr, IpAddr, u8, &[u8]) = match version {
        4 => {
            let address = |at: usize| Some(Ipv4Addr::from(*packet.get(at..)?.first_chunk::<4>()?));
            let header = usize::from(packet.first()? & 15) * 4;
            (address(16)?.into(), address(12)?.into(), *packet.get(9)?, packet.get(header..)?)
        }
        6 => {
            let address = |at: usize| Some(Ipv6Addr::from(*packet.get(at..)?.first_chunk::<16>()?));
            (address(24)?.into(), address(8)?.into(), *packet.get(6)?, packet.get(40..)?)
        }
        _ => return None,
    };
    let port = |at: usize| rest.get(at..)?.first_chunk::<2>().map(|bytes| u16::from_be_bytes(*bytes));
    let ports = format!("{} -> {}", port(0).unwrap_or_default(), port(2).unwrap_or_default());
    if (protocol == TCP && is_bare_reset(rest)) || is_error(protocol, rest) {
        return None;
    }
    let line = format!("packet of protocol {protocol} from {from}, ports {ports}, {} bytes", packet.len());
    Some(Packet { from, to, line })
}

/// A reset without data: how a connection that stood before the agent came is ended for both sides. It asks nothing.
fn is_bare_reset(segment: &[u8]) -> bool {
    const RST: u8 = 0x04;
    let (Some(offset), Some(flags)) = (segment.get(12), segment.get(13)) else { return false };
    flags & RST != 0 && segment.len() <= usize::from(offset >> 4) * 4
}

/// An ICMP error: the answer of some router to what the target said to somebody who has gone. It reaches no port.
fn is_error(protocol: u8, message: &[u8]) -> bool {
    match (protocol, message.first()) {
        // Unreachable, time exceeded, parameter problem.
        (ICMP, Some(kind)) => matches!(kind, 3 | 11 | 12),
        (ICMPV6, Some(kind)) => (1..=4).contains(kind),
        _ => false,
    }
}
