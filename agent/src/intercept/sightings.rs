//! What the kernel tells beside refused connections: processes that moved, capabilities that were used, unix sockets that
//! were not allowed. The ring drops when nobody reads it in time; nothing may depend on it.

use aya::maps::{MapData, RingBuf};
use chaperone_ebpf::{Stat, process::Notice as RawNotice};

use super::{origin::comm, unix};

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// A process came into the cgroup, or was made in another than its parent's.
    MovedIn,
    /// CAP_NET_RAW was used.
    NetRaw,
    /// A connect to a unix socket of this name was refused.
    Unix { name: String },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sighting {
    /// Name of the counter that was raised with it.
    pub kind: &'static str,
    pub what: What,
    pub at_boottime_ns: u64,
    pub cgroup_id: u64,
    pub tgid: u32,
    pub uid: u32,
    pub comm: String,
}

pub struct Sightings {
    ring: RingBuf<MapData>,
}

impl Sightings {
    pub(super) fn new(ring: RingBuf<MapData>) -> Self {
        Self { ring }
    }

    /// The next notice, if one is there.
    pub fn next_sighting(&mut self) -> Option<Sighting> {
        loop {
            let item = self.ring.next()?;
            // An item of another size or kind is of a newer program than this agent.
            if let Some(notice) = parse(&item) {
                return Some(notice);
            }
        }
    }
}

fn parse(bytes: &[u8]) -> Option<Sighting> {
    if bytes.len() != size_of::<RawNotice>() {
        return None;
    }
    // SAFETY: the length is a notice's, a notice is integers and bytes only, and the read needs no alignment.
    let raw: RawNotice = unsafe { bytes.as_ptr().cast::<RawNotice>().read_unaligned() };
    let kind = Stat::from_u32(raw.kind)?;
    let what = match kind {
        Stat::MovedIn => What::MovedIn,
        Stat::NetRawUsed | Stat::NetRawKilled => What::NetRaw,
        Stat::DeniedUnix => What::Unix { name: unix::shown(&raw.text) },
        _ => return None,
    };
    Some(Sighting {
        kind: kind.name(),
        what,
        at_boottime_ns: raw.at,
        cgroup_id: raw.cgroup,
        tgid: raw.tgid,
        uid: raw.uid,
        comm: comm(&raw.comm),
    })
}
