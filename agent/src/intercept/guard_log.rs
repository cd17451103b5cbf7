//! What the guard drops, packet by packet: its rules hand a copy of the headers to nfnetlink_log, which is read here.
//!
//! Evidence, not a complete list: the rules log a limited number per second, and the kernel drops what nobody reads.
//! Layouts: include/uapi/linux/netfilter/nfnetlink.h and nfnetlink_log.h. Numbers there are in network order, those of
//! netlink itself in host order.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::{AsRawFd as _, OwnedFd},
};

use nix::{
    net::if_::if_indextoname,
    sys::socket::{
        AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, sendto, socket,
    },
};

/// Bytes of each packet that are wanted: an IPv6 header, some extension headers, and ports.
pub(super) const SNAPSHOT: u32 = 128;

const ULOG: u16 = 4 << 8;
const PACKET: u16 = ULOG;
const CONFIGURE: u16 = ULOG | 1;
const NLMSG_ERROR: u16 = 2;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;

/// Attributes of a configuration.
const COMMAND: u16 = 1;
const MODE: u16 = 2;
const BIND: u8 = 1;
const COPY_PACKET: u8 = 2;

/// Attributes of a packet.
const INTERFACE: u16 = 4;
const PAYLOAD: u16 = 9;

/// A packet the guard dropped. Which process sent it, nothing tells: it came over a pod's interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuardDrop {
    /// As the packet claimed.
    pub source: SocketAddr,
    pub destination: SocketAddr,
    /// IP protocol number.
    pub protocol: u16,
    /// The host's side of the interface it came over.
    pub interface: String,
}

/// The reader of one group of the log.
pub struct GuardLog {
    group: u16,
    /// `None` while another agent, the one before this, still reads.
    socket: Option<OwnedFd>,
}

impl GuardLog {
    /// Listens from now on: what is dropped before somebody does, nobody hears of.
    pub(super) fn new(group: u16) -> Self {
        let mut log = Self { group, socket: None };
        log.listen();
        log
    }

    fn listen(&mut self) {
        if self.socket.is_some() {
            return;
        }
        match open(self.group) {
            Ok(socket) => self.socket = Some(socket),
            Err(error) => tracing::debug!(%error, group = self.group, "cannot read the guard's log"),
        }
    }

    /// What was dropped since the last time. Never waits.
    pub fn drain(&mut self) -> Vec<GuardDrop> {
        self.listen();
        let Some(socket) = &self.socket else { return Vec::new() };
        let mut drops = Vec::new();
        let mut buffer = vec![0; 64 << 10];
        // An error is "nothing there", or that packets were lost; the rest is read the next time.
        while let Ok(length) = recv(socket.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
            let mut rest = buffer.get(..length).unwrap_or_default();
            while let Some((kind, body, next)) = message(rest) {
                if kind == PACKET {
                    drops.extend(parse(body));
                }
                rest = next;
            }
        }
        drops
    }
}

fn open(group: u16) -> io::Result<OwnedFd> {
    let socket = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkNetFilter,
    )?;
    bind(socket.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
    let mut mode = SNAPSHOT.to_be_bytes().to_vec();
    mode.extend([COPY_PACKET, 0]);
    for (attribute, value) in [(COMMAND, vec![BIND]), (MODE, mode)] {
        sendto(
            socket.as_raw_fd(),
            &request(group, attribute, &value),
            &NetlinkAddr::new(0, 0),
            MsgFlags::empty(),
        )?;
        acknowledged(&socket)?;
    }
    Ok(socket)
}

fn request(group: u16, attribute: u16, value: &[u8]) -> Vec<u8> {
    let length = 20 + 4 + value.len();
    let padding = length.next_multiple_of(4) - length;
    let mut bytes = Vec::with_capacity(length + padding);
    bytes.extend(((length + padding) as u32).to_ne_bytes());
    bytes.extend(CONFIGURE.to_ne_bytes());
    bytes.extend((NLM_F_REQUEST | NLM_F_ACK).to_ne_bytes());
    bytes.extend([0; 8]);
    // Family and version, then the group.
    bytes.extend([0, 0]);
    bytes.extend(group.to_be_bytes());
    bytes.extend((4 + value.len() as u16).to_ne_bytes());
    bytes.extend(attribute.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(length + padding, 0);
    bytes
}

fn acknowledged(socket: &OwnedFd) -> io::Result<()> {
    let mut buffer = [0; 1024];
    let length = recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
    let (kind, body, _) =
        message(buffer.get(..length).unwrap_or_default()).ok_or(io::ErrorKind::InvalidData)?;
    match (kind, body.first_chunk::<4>().map(|code| i32::from_ne_bytes(*code))) {
        (NLMSG_ERROR, Some(0)) => Ok(()),
        (NLMSG_ERROR, Some(code)) => Err(io::Error::from_raw_os_error(code.wrapping_neg())),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// The first netlink message: its type, its body, and what follows.
fn message(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let length = u32::from_ne_bytes(*bytes.first_chunk::<4>()?) as usize;
    let kind = u16::from_ne_bytes(*bytes.get(4..)?.first_chunk::<2>()?);
    let body = bytes.get(16..length)?;
    Some((kind, body, bytes.get(length.next_multiple_of(4)..).unwrap_or_default()))
}

/// The attributes behind nfnetlink's own header of four bytes.
fn parse(body: &[u8]) -> Option<GuardDrop> {
    let mut rest = body.get(4..)?;
    let (mut interface, mut packet) = (None, None);
    while let Some(header) = rest.first_chunk::<4>() {
        let [a, b, c, d] = *header;
        let length = usize::from(u16::from_ne_bytes([a, b]));
        let value = rest.get(4..length)?;
        match u16::from_ne_bytes([c, d]) {
            INTERFACE => interface = value.first_chunk::<4>().map(|index| u32::from_be_bytes(*index)),
            PAYLOAD => packet = Some(value),
            _ => {}
        }
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    let (source, destination, protocol) = addresses(packet?)?;
    let name = interface.and_then(|index| if_indextoname(index).ok());
    let interface = name.map_or_else(String::new, |name| name.to_string_lossy().into_owned());
    Some(GuardDrop { source, destination, protocol, interface })
}

/// Both ends and the protocol of an IP packet. The ports are 0 where there are none to be read: in a later fragment, or a
/// first one that ends before them, and in protocols without.
fn addresses(packet: &[u8]) -> Option<(SocketAddr, SocketAddr, u16)> {
    let (source, destination, protocol, transport): (IpAddr, IpAddr, u8, Transport) = match packet.first()?
        >> 4
    {
        4 => {
            let address = |at: usize| Some(Ipv4Addr::from(*packet.get(at..)?.first_chunk::<4>()?));
            let header = usize::from(packet.first()? & 0x0f) * 4;
            let fragment = u16::from_be_bytes(*packet.get(6..)?.first_chunk::<2>()?);
            let transport = if fragment & 0x1fff == 0 { Transport::At(header) } else { Transport::Elsewhere };
            (address(12)?.into(), address(16)?.into(), *packet.get(9)?, transport)
        }
        6 => {
            let address = |at: usize| Some(Ipv6Addr::from(*packet.get(at..)?.first_chunk::<16>()?));
            let (protocol, transport) = behind_extensions(packet)?;
            (address(8)?.into(), address(24)?.into(), protocol, transport)
        }
        _ => return None,
    };
    let port = |at: usize| packet.get(at..)?.first_chunk::<2>().map(|bytes| u16::from_be_bytes(*bytes));
    let (from, to) = match transport {
        Transport::At(at) if has_ports(protocol) => (port(at)?, port(at + 2)?),
        Transport::At(_) | Transport::Elsewhere => (0, 0),
    };
    Some((SocketAddr::new(source, from), SocketAddr::new(destination, to), protocol.into()))
}

/// Where a packet's transport header is.
#[derive(Clone, Copy)]
enum Transport {
    At(usize),
    /// In another fragment.
    Elsewhere,
}

/// TCP, UDP, DCCP, SCTP, UDP-Lite.
fn has_ports(protocol: u8) -> bool {
    matches!(protocol, 6 | 17 | 33 | 132 | 136)
}

/// The transport protocol of an IPv6 packet, and where its header begins. In a fragment that is not the first, or that ends
/// too early, the protocol is what comes next as far as can be told.
fn behind_extensions(packet: &[u8]) -> Option<(u8, Transport)> {
    const HOP_BY_HOP: u8 = 0;
    const ROUTING: u8 = 43;
    const FRAGMENT: u8 = 44;
    const DESTINATION: u8 = 60;
    let (mut next, mut at, mut whole) = (*packet.get(6)?, 40, true);
    while matches!(next, HOP_BY_HOP | ROUTING | FRAGMENT | DESTINATION) {
        let Some([following, length, third, fourth]) = packet.get(at..).and_then(|rest| rest.first_chunk())
        else {
            return if whole { None } else { Some((next, Transport::Elsewhere)) };
        };
        if next == FRAGMENT && u16::from_be_bytes([*third, *fourth]) & 0xfff8 != 0 {
            return Some((*following, Transport::Elsewhere));
        }
        whole &= next != FRAGMENT;
        at += if next == FRAGMENT { 8 } else { (usize::from(*length) + 1) * 8 };
        next = *following;
    }
    let ports_are_there = packet.len() >= at + 4;
    Some((next, if whole || ports_are_there { Transport::At(at) } else { Transport::Elsewhere }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let mut bytes = (4 + value.len() as u16).to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn v4_syn() -> Vec<u8> {
        let mut packet = vec![0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0, 10, 78, 1, 2, 10, 77, 1, 9];
        packet.extend([0x9c, 0x40, 0x15, 0x38, 0, 0, 0, 0]);
        packet
    }

    #[test]
    fn a_logged_packet_gives_its_ends_and_its_interface() {
        let mut body = vec![2, 0, 0, 7];
        body.extend(attribute(1, &[0x08, 0, 2, 0]));
        body.extend(attribute(INTERFACE, &1_u32.to_be_bytes()));
        body.extend(attribute(PAYLOAD, &v4_syn()));
        let expected = GuardDrop {
            source: "10.78.1.2:40000".parse().unwrap(),
            destination: "10.77.1.9:5432".parse().unwrap(),
            protocol: 6,
            interface: "lo".into(),
        };
        assert_eq!(parse(&body), Some(expected));
    }

    #[test]
    fn ports_are_found_behind_extension_headers() {
        let mut packet = vec![0x60, 0, 0, 0, 0, 16, 0, 64];
        packet.extend("fd78::2".parse::<Ipv6Addr>().unwrap().octets());
        packet.extend("fd77::1".parse::<Ipv6Addr>().unwrap().octets());
        packet.extend([17, 0, 1, 4, 0, 0, 0, 0]);
        packet.extend([0, 1, 0x15, 0x38]);
        let (source, destination, protocol) = addresses(&packet).unwrap();
        assert_eq!((source.to_string().as_str(), protocol), ("[fd78::2]:1", 17));
        assert_eq!(destination.to_string(), "[fd77::1]:5432");
    }

    #[test]
    fn what_has_no_ports_is_described_without() {
        let mut later = v4_syn();
        later[7] = 3;
        let mut packed = v4_syn();
        packed[9] = 47;
        let ends = "10.77.1.9:0".parse().unwrap();
        assert_eq!(addresses(&later).map(|(_, to, protocol)| (to, protocol)), Some((ends, 6)));
        assert_eq!(addresses(&packed).map(|(_, to, protocol)| (to, protocol)), Some((ends, 47)));

        let fragment = |next: u8, offset: u16, rest: &[u8]| {
            let mut packet = vec![0x60, 0, 0, 0, 0, 16, 44, 64];
            packet.extend("fd78::2".parse::<Ipv6Addr>().unwrap().octets());
            packet.extend("fd77::1".parse::<Ipv6Addr>().unwrap().octets());
            packet.extend([next, 0]);
            packet.extend(offset.to_be_bytes());
            packet.extend([0, 0, 0, 7]);
            packet.extend(rest);
            addresses(&packet).map(|(_, to, protocol)| (to.to_string(), protocol))
        };
        let ports = [0x9c, 0x40, 0x15, 0x38];
        assert_eq!(fragment(6, 1, &ports), Some(("[fd77::1]:5432".into(), 6)));
        assert_eq!(fragment(6, 24, &ports), Some(("[fd77::1]:0".into(), 6)), "a later one");
        assert_eq!(
            fragment(60, 1, &[6, 0, 1, 4, 0, 0, 0, 0]),
            Some(("[fd77::1]:0".into(), 6)),
            "a first one without"
        );
        assert_eq!(fragment(60, 1, &[]), Some(("[fd77::1]:0".into(), 60)), "a first one with nothing");
    }

    #[test]
    fn every_truncation_is_no_packet_and_no_panic() {
        let mut body = vec![2, 0, 0, 7];
        body.extend(attribute(PAYLOAD, &v4_syn()));
        for length in 0..body.len() {
            let _none_or_some = parse(&body[..length]);
        }
        for length in 0..24 {
            assert_eq!(addresses(&v4_syn()[..length]), None, "{length}");
        }
    }
}
