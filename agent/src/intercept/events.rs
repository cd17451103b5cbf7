//! Diagnostics from the kernel: what was refused and whose it was, and the programs' log lines. Both rings drop when
//! nobody reads them in time; nothing may depend on them.

use std::{
    net::SocketAddr,
    os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd},
};

use aya::{
    Ebpf,
    maps::{MapData, RingBuf},
};
use aya_log::EbpfLogger;
use chaperone_ebpf::{Event, Stat};

use super::origin::{address, comm};

/// The counters that are raised with an event each.
pub(super) const TOLD: [Stat; 12] = [
    Stat::DeniedCgroup,
    Stat::DeniedProtocol,
    Stat::DeniedStale,
    Stat::DeniedListener,
    Stat::DeniedStorage,
    Stat::DeniedDatagram,
    Stat::DroppedEgress,
    Stat::DroppedUnparsable,
    Stat::DeniedSocketKind,
    Stat::DeniedMptcp,
    Stat::DeniedBind,
    Stat::Unserved,
];

/// Something a program refused.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Refusal {
    /// Name of the counter that was raised with it.
    pub kind: &'static str,
    pub at_boottime_ns: u64,
    /// Of the process, or of the socket when a packet was dropped.
    pub cgroup_id: u64,
    /// Unspecified when there was no destination yet.
    pub destination: SocketAddr,
    /// IP protocol number.
    pub protocol: u16,
    /// 0 when a packet was dropped.
    pub tgid: u32,
    pub uid: u32,
    pub comm: String,
}

/// Wait for its descriptor to be readable, then drain.
pub struct Events {
    ring: RingBuf<MapData>,
}

impl Events {
    pub(super) fn new(ring: RingBuf<MapData>) -> Self {
        Self { ring }
    }

    /// The next event, if one is there.
    pub fn next_refusal(&mut self) -> Option<Refusal> {
        loop {
            let item = self.ring.next()?;
            // An item of another size or kind is of a newer program than this agent.
            if let Some(refusal) = parse(&item) {
                return Some(refusal);
            }
        }
    }
}

impl AsFd for Events {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ring.as_fd()
    }
}

impl AsRawFd for Events {
    fn as_raw_fd(&self) -> RawFd {
        self.ring.as_raw_fd()
    }
}

/// Wait for its descriptor to be readable, then flush.
pub struct KernelLog {
    logger: EbpfLogger<&'static dyn log::Log>,
}

impl KernelLog {
    pub(super) fn new(ebpf: &mut Ebpf) -> Option<Self> {
        EbpfLogger::init(ebpf).ok().map(|logger| Self { logger })
    }

    /// Hands what is there to the `log` crate's logger, and through its bridge to `tracing`.
    pub fn flush(&mut self) {
        self.logger.flush();
    }
}

impl AsFd for KernelLog {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.logger.as_fd()
    }
}

impl AsRawFd for KernelLog {
    fn as_raw_fd(&self) -> RawFd {
        self.logger.as_raw_fd()
    }
}

fn parse(bytes: &[u8]) -> Option<Refusal> {
    if bytes.len() != size_of::<Event>() {
        return None;
    }
    // SAFETY: the length is an event's, an event is integers only, and the read needs no alignment.
    let event: Event = unsafe { bytes.as_ptr().cast::<Event>().read_unaligned() };
    Some(Refusal {
        kind: Stat::from_u32(event.kind)?.name(),
        at_boottime_ns: event.at,
        cgroup_id: event.cgroup,
        destination: SocketAddr::new(address(event.addr), u16::from_be(event.port)),
        protocol: event.protocol,
        tgid: event.tgid,
        uid: event.uid,
        comm: comm(&event.comm),
    })
}
