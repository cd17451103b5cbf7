//! Where an accepted connection was going, and who opened it.

use std::{
    net::{IpAddr, Ipv6Addr, SocketAddr},
    os::fd::{AsRawFd as _, BorrowedFd},
    sync::Arc,
};

use aya::maps::{MapData, MapError, SkStorage};
use chaperone_ebpf::{Origin as RawOrigin, ROLE_ACCEPTED, is_loopback};

use super::{InterceptError, netns::Inodes};

/// The address and port the client asked the kernel for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct OrigDst(pub SocketAddr);

impl std::fmt::Display for OrigDst {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(formatter)
    }
}

/// Captured by the kernel inside the client's connect(2); true even when the process is gone by now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// IPv4-mapped destinations are IPv4 here, and "any" is loopback.
    pub destination: OrigDst,
    /// [`super::Target::id`] of the target that matched.
    pub target_id: u32,
    /// Cookie of the client's socket (SO_COOKIE).
    pub cookie: u64,
    pub cgroup_id: u64,
    /// In the host's pid namespace.
    pub tgid: u32,
    /// The thread that called connect; io_uring's own worker when it was io_uring.
    pub tid: u32,
    pub uid: u32,
    pub gid: u32,
    /// Name of the connecting thread. Anyone can name a thread anything: evidence only.
    pub comm: String,
    /// Start of the process (its thread group leader), nanoseconds since boot; with `tgid` its name for good. 0 when
    /// the kernel has no BTF.
    pub start_boottime_ns: u64,
    /// Cookie of the client's network namespace (SO_NETNS_COOKIE).
    pub netns_cookie: u64,
    /// Its inode, which is how other tools name it, when it is known.
    pub netns_inode: Option<u64>,
    pub connected_at_boottime_ns: u64,
    /// Which process running what, for [`super::Processes::chain`]; 0 when that is not known.
    pub node: u64,
}

/// Finds the origin of accepted connections: socket storage in production, a table in tests.
pub trait Lookup: Send + Sync {
    /// `None` when no hook redirected this connection: somebody connected to the listener itself. Refuse it.
    ///
    /// `connection` is the socket accept returned, `peer` the address it returned with it.
    fn take(&self, connection: BorrowedFd<'_>, peer: SocketAddr) -> Result<Option<Origin>, InterceptError>;
}

/// The kernel's answers; cheap to clone.
#[derive(Clone)]
pub struct Redirects {
    storage: Arc<SkStorage<MapData, RawOrigin>>,
    inodes: Inodes,
    /// Cookie of the agent's own network namespace.
    host: u64,
}

impl Redirects {
    pub(super) fn new(storage: SkStorage<MapData, RawOrigin>, inodes: Inodes, host: u64) -> Self {
        Self { storage: Arc::new(storage), inodes, host }
    }
}

impl Lookup for Redirects {
    fn take(&self, connection: BorrowedFd<'_>, _peer: SocketAddr) -> Result<Option<Origin>, InterceptError> {
        match self.storage.get(&connection.as_raw_fd(), 0) {
            // The kernel leaves these alone. Were one to arrive, dialling it would mean another machine's loopback.
            Ok(raw) if is_loopback(raw.addr) && raw.netns != self.host => Ok(None),
            Ok(raw) if raw.role == ROLE_ACCEPTED => {
                let netns_inode = self.inodes.get(raw.netns);
                Ok(Some(Origin { netns_inode, ..Origin::from(raw) }))
            }
            Ok(_) | Err(MapError::KeyNotFound) => Ok(None),
            Err(source) => Err(InterceptError::Origin { source }),
        }
    }
}

impl From<RawOrigin> for Origin {
    fn from(raw: RawOrigin) -> Self {
        Self {
            destination: OrigDst(SocketAddr::new(address(raw.addr), u16::from_be(raw.port))),
            target_id: raw.target,
            cookie: raw.cookie,
            cgroup_id: raw.cgroup,
            tgid: raw.tgid,
            tid: raw.tid,
            uid: raw.uid,
            gid: raw.gid,
            comm: comm(&raw.comm),
            start_boottime_ns: raw.start_boottime,
            netns_cookie: raw.netns,
            netns_inode: None,
            connected_at_boottime_ns: raw.connected_at,
            node: raw.exec_id,
        }
    }
}

/// An address in the maps' form; IPv4-mapped becomes IPv4.
pub(super) fn address(words: [u32; 4]) -> IpAddr {
    let mut octets = [0; 16];
    for (bytes, word) in octets.chunks_exact_mut(4).zip(words) {
        bytes.copy_from_slice(&word.to_ne_bytes());
    }
    Ipv6Addr::from(octets).to_canonical()
}

/// A task's name: up to the first zero byte, whatever bytes they are.
pub(super) fn comm(bytes: &[u8; 16]) -> String {
    let name = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(name).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_read_back_as_the_address_they_came_from() {
        for text in ["127.0.0.1", "10.1.2.3", "::1", "fd00::12:3", "2001:db8::ffff"] {
            let expected: IpAddr = text.parse().unwrap();
            let octets = match expected {
                IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
                IpAddr::V6(v6) => v6.octets(),
            };
            let mut words = [0; 4];
            for (word, bytes) in words.iter_mut().zip(octets.chunks_exact(4)) {
                *word = u32::from_ne_bytes(bytes.try_into().unwrap());
            }
            assert_eq!(address(words), expected);
        }
    }

    #[test]
    fn a_name_ends_at_its_first_zero_byte() {
        let cases: [(&[u8; 16], &str); 3] = [
            (b"psql\0\0\0\0\0\0\0\0\0\0\0\0", "psql"),
            (b"sixteen bytes ab", "sixteen bytes ab"),
            (b"\0hidden\0\0\0\0\0\0\0\0\0", ""),
        ];
        for (bytes, expected) in cases {
            assert_eq!(comm(bytes), expected);
        }
    }
}
