//! The maps. All but `AYA_LOGS` are pinned by the agent, so that a restart finds them filled.

use aya_ebpf::{
    btf_maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, RingBuf, SkStorage, SockMap},
    helpers::generated::{bpf_sk_storage_delete, bpf_sk_storage_get},
    macros::btf_map,
};
use chaperone_ebpf::{
    Ask, CgroupPolicy, Config, Event, FlowKey, Netns, Origin, PORT_WORDS, TargetKey, TargetValue,
    process::{CgroupPath, Image, Node, Notice, Offsets, Task},
    unix::{UnixConfig, UnixName, UnixRule},
};

#[btf_map]
pub(crate) static CFG: Array<Config, 1> = Array::new();

/// The agent's heartbeat, nanoseconds since boot. Apart from `CFG`, so that an agent that is being replaced can
/// never write old configuration back.
#[btf_map]
pub(crate) static BEAT: Array<u64, 1> = Array::new();

/// One bit per port (host order) that some target has: what keeps other traffic cheap.
#[btf_map]
pub(crate) static PORTS: Array<u64, PORT_WORDS> = Array::new();

#[btf_map]
pub(crate) static TARGETS: LpmTrie<TargetKey, TargetValue, 4096> = LpmTrie::new();

#[btf_map]
pub(crate) static CGPOL: HashMap<u64, CgroupPolicy, 16384> = HashMap::new();

/// Lives and dies with its socket: no capacity, no eviction.
#[btf_map]
pub(crate) static SKS: SkStorage<Origin> = SkStorage::new();

/// Redirected connections between connect and handshake. Not LRU: one tenant must not evict another's.
#[btf_map]
pub(crate) static FLOW: HashMap<FlowKey, Origin, 65536> = HashMap::new();

/// Network namespaces other than the host's that have, or wait for, a listener of the agent's.
#[btf_map]
pub(crate) static NETNS: HashMap<u64, Netns, 16384> = HashMap::new();

/// The agent's listeners in one network namespace, each of which has its own instance of this map and of the program
/// that reads it. A socket here is the listener, whatever port it has.
#[btf_map]
pub(crate) static LSOCK: SockMap<2> = SockMap::new();

#[btf_map]
pub(crate) static STATS: PerCpuArray<u64, 64> = PerCpuArray::new();

/// Apart from `EVENTS`: a flood of refusals must not keep a namespace from being served.
#[btf_map]
pub(crate) static ASKS: RingBuf<Ask, 65536> = RingBuf::new();

#[btf_map]
pub(crate) static EVENTS: RingBuf<Event, 1048576> = RingBuf::new();

/// How much each cgroup was told of lately: one that floods must not fill the ring for all. Not pinned: a new agent begins
/// anew.
#[btf_map]
pub(crate) static TOLD: LruHashMap<u64, Told, 4096> = LruHashMap::new();

/// Value of `TOLD`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Told {
    pub(crate) window: u64,
    pub(crate) count: u64,
}

#[btf_map]
pub(crate) static OFFSETS: Array<Offsets, 1> = Array::new();

/// What each live process runs. Not LRU: entries go when processes do, and a process that finds no room is unknown.
#[btf_map]
pub(crate) static TASKS: HashMap<u32, Task, 65536> = HashMap::new();

/// LRU, because they outlive their processes; the agent looks after those that live ones descend from.
#[btf_map]
pub(crate) static NODES: LruHashMap<u64, Node, 65536> = LruHashMap::new();

#[btf_map]
pub(crate) static IMAGES: LruHashMap<u64, Image, 8192> = LruHashMap::new();

/// Where an image is put together: too large for a program's stack.
#[btf_map]
pub(crate) static SCRATCH: PerCpuArray<Image, 1> = PerCpuArray::new();

/// Paths of cgroups made since the programs were attached, by id; a removed one stays until others need its place.
#[btf_map]
pub(crate) static CGPATHS: LruHashMap<u64, CgroupPath, 8192> = LruHashMap::new();

/// What is configured for a path, whether it exists or not: copied to `CGPOL` as it is made.
#[btf_map]
pub(crate) static CGRULES: HashMap<CgroupPath, CgroupPolicy, 4096> = HashMap::new();

#[btf_map]
pub(crate) static PATH_SCRATCH: PerCpuArray<CgroupPath, 1> = PerCpuArray::new();

#[btf_map]
pub(crate) static NOTICES: RingBuf<Notice, 262144> = RingBuf::new();

#[btf_map]
pub(crate) static UNIXCFG: Array<UnixConfig, 1> = Array::new();

/// Names of unix sockets that governed processes may connect to.
#[btf_map]
pub(crate) static UNIXALLOW: LpmTrie<UnixName, UnixRule, 1024> = LpmTrie::new();

/// Whether some target has this port (host order).
#[inline(always)]
pub(crate) fn port_is_protected(port: u16) -> bool {
    match PORTS.get(u32::from(port >> 6)) {
        Some(word) => (word >> (port & 63)) & 1 == 1,
        // The array has a word for each port.
        None => true,
    }
}

/// The target at an address in the maps' form and a port in network order.
#[inline(always)]
pub(crate) fn target(addr: [u32; 4], port: u16) -> Option<u32> {
    if !port_is_protected(u16::from_be(port)) {
        return None;
    }
    let key = aya_ebpf::btf_maps::lpm_trie::Key::new(160, TargetKey { port, pad: 0, addr });
    TARGETS.get(&key).map(|value| value.target)
}

fn sks() -> *mut core::ffi::c_void {
    (&raw const SKS).cast_mut().cast()
}

/// The socket's entry, if it has one.
///
/// # Safety
/// `sk` is null or a socket pointer taken from the program's context.
#[inline(always)]
pub(crate) unsafe fn stored<T>(sk: *mut T) -> Option<*mut Origin> {
    if sk.is_null() {
        return None;
    }
    // SAFETY: the map is a socket storage; the caller says what `sk` is, and the verifier checks it.
    let entry = unsafe { bpf_sk_storage_get(sks(), sk.cast(), core::ptr::null_mut(), 0) };
    (!entry.is_null()).then_some(entry.cast())
}

/// The socket's entry, made (all zero) when there is none.
///
/// # Safety
/// As for [`stored`].
#[inline(always)]
pub(crate) unsafe fn storage<T>(sk: *mut T) -> Option<*mut Origin> {
    const CREATE: u64 = 1;
    if sk.is_null() {
        return None;
    }
    // SAFETY: as in `stored`.
    let entry = unsafe { bpf_sk_storage_get(sks(), sk.cast(), core::ptr::null_mut(), CREATE) };
    (!entry.is_null()).then_some(entry.cast())
}

/// Forgets the socket's entry; a socket without one is no error.
///
/// # Safety
/// As for [`stored`].
#[inline(always)]
pub(crate) unsafe fn forget<T>(sk: *mut T) {
    if !sk.is_null() {
        // SAFETY: as in `stored`.
        let _absent = unsafe { bpf_sk_storage_delete(sks(), sk.cast()) };
    }
}
