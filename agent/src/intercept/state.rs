//! What the programs read: configuration, targets, cgroup policy and heartbeat, written into the pinned maps.
//!
//! Changes never open a gap: new entries go in before old ones go out.

use std::{
    collections::{HashMap as StdHashMap, HashSet},
    net::IpAddr,
    path::Path,
    sync::{Mutex, PoisonError},
};

use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, HashMap, LpmTrie, Map, MapData, MapError, MapInfo, PerCpuArray, lpm_trie::Key},
};
use chaperone_ebpf::{
    CgroupPolicy, Config, FlowKey, LAYOUT, Origin, PORT_WORDS, Stat, TARGET_PREFIX_BITS, TargetKey,
    TargetValue,
    process::{CgroupPath, Image, Node, Offsets, Task},
    unix::{UnixConfig, UnixName, UnixRule},
};
use nix::time::{ClockId, clock_gettime};

use super::{CgroupMode, InterceptError, Target, bpffs::Pins};

/// Pinned maps with the sizes of their keys and values, which must be this version's.
const PINNED: &[(&str, usize, usize)] = &[
    // What is refused while no agent runs is recorded by the next one.
    ("EVENTS", 0, 0),
    ("CFG", 4, size_of::<Config>()),
    ("BEAT", 4, 8),
    ("PORTS", 4, 8),
    ("TARGETS", 4 + size_of::<TargetKey>(), size_of::<TargetValue>()),
    ("CGPOL", 8, size_of::<CgroupPolicy>()),
    ("SKS", 4, size_of::<Origin>()),
    ("FLOW", size_of::<FlowKey>(), size_of::<Origin>()),
    ("NETNS", 8, size_of::<chaperone_ebpf::Netns>()),
    ("LSOCK", 4, 4),
    ("STATS", 4, 8),
    ("OFFSETS", 4, size_of::<Offsets>()),
    ("TASKS", 4, size_of::<Task>()),
    ("NODES", 8, size_of::<Node>()),
    ("IMAGES", 8, size_of::<Image>()),
    ("CGPATHS", 8, size_of::<CgroupPath>()),
    ("NOTICES", 0, 0),
    ("UNIXCFG", 4, size_of::<UnixConfig>()),
    ("UNIXALLOW", 4 + size_of::<UnixName>(), size_of::<UnixRule>()),
    ("CGRULES", size_of::<CgroupPath>(), size_of::<CgroupPolicy>()),
];

/// Names of the maps that are pinned.
pub(super) fn pinned_names() -> impl Iterator<Item = &'static str> {
    PINNED.iter().map(|(name, ..)| *name)
}

/// Tells the loader to take each map from its pin, or to pin the one it makes.
pub(super) fn use_pins(loader: &mut EbpfLoader<'_>, pins: &Pins) -> Result<(), InterceptError> {
    for &(name, key, value) in PINNED {
        let path = pins.map(name);
        if path.exists() {
            let info = MapInfo::from_pin(&path).map_err(|source| InterceptError::Map { name, source })?;
            if info.key_size() as usize != key || info.value_size() as usize != value {
                return Err(InterceptError::PinnedMapDiffers { name });
            }
        }
        loader.map_pin_path(name, path);
    }
    Ok(())
}

/// The maps the agent writes and counts.
pub(super) struct State {
    config: Array<MapData, Config>,
    /// Behind a lock because the heart beats beside everything else.
    beat: Mutex<Array<MapData, u64>>,
    ports: Array<MapData, u64>,
    targets: LpmTrie<MapData, TargetKey, TargetValue>,
    cgroups: HashMap<MapData, u64, CgroupPolicy>,
    rules: HashMap<MapData, CgroupPath, CgroupPolicy>,
    offsets: Array<MapData, Offsets>,
    flows: HashMap<MapData, FlowKey, Origin>,
    stats: PerCpuArray<MapData, u64>,
}

impl State {
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Self, InterceptError> {
        Ok(Self {
            config: take(ebpf, "CFG")?,
            beat: Mutex::new(take(ebpf, "BEAT")?),
            ports: take(ebpf, "PORTS")?,
            targets: take(ebpf, "TARGETS")?,
            cgroups: take(ebpf, "CGPOL")?,
            rules: take(ebpf, "CGRULES")?,
            offsets: take(ebpf, "OFFSETS")?,
            flows: take(ebpf, "FLOW")?,
            stats: take(ebpf, "STATS")?,
        })
    }

    /// Refuses maps that an agent of another layout filled: sizes alone do not show what the words mean.
    pub(super) fn check_layout(&self) -> Result<(), InterceptError> {
        let layout = self.config.get(&0, 0).map_err(failed("CFG"))?.layout;
        if layout == 0 || layout == LAYOUT {
            return Ok(());
        }
        Err(InterceptError::PinnedMapDiffers { name: "CFG" })
    }

    pub(super) fn config(&self) -> Result<Config, InterceptError> {
        self.config.get(&0, 0).map_err(failed("CFG"))
    }

    pub(super) fn set_config(&mut self, config: Config) -> Result<(), InterceptError> {
        self.config.set(0, config, 0).map_err(failed("CFG"))
    }

    /// The kernel lets governed connects through to the agent only while the beat is fresh.
    pub(super) fn beat(&self) -> Result<(), InterceptError> {
        let ns = boottime_ns()?;
        let mut beat = self.beat.lock().unwrap_or_else(PoisonError::into_inner);
        beat.set(0, ns, 0).map_err(failed("BEAT"))
    }

    pub(super) fn set_targets(&mut self, targets: &[Target]) -> Result<(), InterceptError> {
        let wanted: StdHashMap<(u32, TargetKey), u32> =
            targets.iter().map(|target| (target_key(target), target.id)).collect();
        let ports = port_words(targets);

        for (index, word) in ports.iter().enumerate() {
            let index = index as u32;
            let old = self.ports.get(&index, 0).map_err(failed("PORTS"))?;
            if old | word != old {
                self.ports.set(index, old | word, 0).map_err(failed("PORTS"))?;
            }
        }
        for ((prefix, key), id) in &wanted {
            let value = TargetValue { target: *id, pad: 0 };
            self.targets.insert(&Key::new(*prefix, *key), value, 0).map_err(failed("TARGETS"))?;
        }
        let present: Vec<Key<TargetKey>> =
            self.targets.keys().collect::<Result<_, _>>().map_err(failed("TARGETS"))?;
        for key in present {
            if !wanted.contains_key(&(key.prefix_len(), key.data())) {
                self.targets.remove(&key).map_err(failed("TARGETS"))?;
            }
        }
        for (index, word) in ports.iter().enumerate() {
            let index = index as u32;
            if self.ports.get(&index, 0).map_err(failed("PORTS"))? != *word {
                self.ports.set(index, word, 0).map_err(failed("PORTS"))?;
            }
        }
        Ok(())
    }

    /// What the cgroups of these paths are to be, those that exist and those that do not yet.
    pub(super) fn set_cgroups(&mut self, modes: &[CgroupMode], mount: &Path) -> Result<(), InterceptError> {
        self.set_rules(modes)?;
        // Stale exemptions go first below, so the gap there would be is one of protection too much. Read before the
        // paths are looked for: what the tracepoint adds from here on stays.
        let present: HashSet<u64> = self.cgroups.keys().collect::<Result<_, _>>().map_err(failed("CGPOL"))?;
        let mut wanted = StdHashMap::new();
        for CgroupMode { path, mode } in modes {
            let directory = mount.join(path.trim_start_matches('/'));
            if directory.is_dir() {
                wanted.insert(super::cgroup_id(&directory)?, *mode);
            }
        }
        for id in present.iter().filter(|id| !wanted.contains_key(id)) {
            self.cgroups.remove(id).map_err(failed("CGPOL"))?;
        }
        for (id, mode) in wanted {
            self.cgroups.insert(id, CgroupPolicy { mode, pad: 0 }, 0).map_err(failed("CGPOL"))?;
        }
        Ok(())
    }

    fn set_rules(&mut self, modes: &[CgroupMode]) -> Result<(), InterceptError> {
        let mut wanted = Vec::new();
        for CgroupMode { path, mode } in modes {
            let key = CgroupPath::new(path.as_bytes())
                .ok_or_else(|| InterceptError::LongCgroupPath { path: path.clone() })?;
            wanted.push((key, *mode));
        }
        let present: Vec<CgroupPath> =
            self.rules.keys().collect::<Result<_, _>>().map_err(failed("CGRULES"))?;
        for key in present.iter().filter(|key| !wanted.iter().any(|(wanted, _)| wanted == *key)) {
            self.rules.remove(key).map_err(failed("CGRULES"))?;
        }
        for (key, mode) in wanted {
            self.rules.insert(key, CgroupPolicy { mode, pad: 0 }, 0).map_err(failed("CGRULES"))?;
        }
        Ok(())
    }

    /// Where the members of the kernel's structures lie; without it the tracepoints do nothing.
    pub(super) fn set_offsets(&mut self, offsets: Offsets) -> Result<(), InterceptError> {
        self.offsets.set(0, offsets, 0).map_err(failed("OFFSETS"))
    }

    /// Connections announced and not yet accepted (or given up).
    pub(super) fn flows(&self) -> Result<usize, InterceptError> {
        self.flows.keys().try_fold(0, |count, key| key.map(|_| count + 1)).map_err(failed("FLOW"))
    }

    pub(super) fn count(&self, stat: Stat) -> Result<u64, InterceptError> {
        let per_cpu = self.stats.get(&(stat as u32), 0).map_err(failed("STATS"))?;
        Ok(per_cpu.iter().sum())
    }
}

/// A pinned map once more, for another owner.
pub(super) fn pinned<M>(
    pins: &Pins,
    name: &'static str,
    kind: fn(MapData) -> Map,
) -> Result<M, InterceptError>
where
    M: TryFrom<Map, Error = MapError>,
{
    M::try_from(kind(open_pinned(pins, name)?)).map_err(failed(name))
}

pub(super) fn open_pinned(pins: &Pins, name: &'static str) -> Result<MapData, InterceptError> {
    MapData::from_pin(pins.map(name)).map_err(failed(name))
}

pub(super) fn boottime_ns() -> Result<u64, InterceptError> {
    let now = clock_gettime(ClockId::CLOCK_BOOTTIME).map_err(|source| InterceptError::Clock { source })?;
    Ok(now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64)
}

/// Takes a map out of the object as what it is used as.
pub(super) fn take<M>(ebpf: &mut Ebpf, name: &'static str) -> Result<M, InterceptError>
where
    M: TryFrom<Map, Error = MapError>,
{
    let map = ebpf.take_map(name).ok_or(InterceptError::Missing { name })?;
    M::try_from(map).map_err(failed(name))
}

/// Opens a pinned map once more, beside the loader's own handle.
pub(super) fn open<M>(pins: &Pins, name: &'static str) -> Result<M, InterceptError>
where
    M: TryFrom<Map, Error = MapError>,
{
    let data = MapData::from_pin(pins.map(name)).map_err(failed(name))?;
    M::try_from(Map::from_map_data(data).map_err(failed(name))?).map_err(failed(name))
}

fn failed(name: &'static str) -> impl Fn(MapError) -> InterceptError {
    move |source| InterceptError::Map { name, source }
}

/// Refuses targets that could never match, or never be reached.
pub(super) fn check(targets: &[Target], listen_port: u16) -> Result<(), InterceptError> {
    for target in targets {
        let reason = if target.port == 0 {
            "there is no port 0"
        } else if target.prefix > max_prefix(target.addr) {
            "the prefix is longer than the address"
        } else if target.addr.is_unspecified() && target.prefix == max_prefix(target.addr) {
            "the unspecified address is no destination; name the loopback address"
        } else if target.port == listen_port && target.addr.is_loopback() {
            "this is the port of the agent's own listener"
        } else {
            continue;
        };
        let Target { addr, prefix, port, .. } = *target;
        return Err(InterceptError::Target { addr, prefix, port, reason });
    }
    Ok(())
}

fn max_prefix(addr: IpAddr) -> u8 {
    if addr.is_ipv4() { 32 } else { 128 }
}

/// Prefix length and data of the trie's key, host bits cleared so that equal networks have equal keys.
fn target_key(target: &Target) -> (u32, TargetKey) {
    let (bits, prefix) = match target.addr {
        IpAddr::V4(v4) => (u128::from(v4.to_ipv6_mapped()), u32::from(target.prefix) + 96),
        IpAddr::V6(v6) => (u128::from(v6), u32::from(target.prefix)),
    };
    let network = bits & u128::MAX.checked_shl(128 - prefix).unwrap_or(0);
    let key = TargetKey { port: target.port.to_be(), pad: 0, addr: words(network) };
    (TARGET_PREFIX_BITS + prefix, key)
}

/// The address as four words in memory order.
fn words(bits: u128) -> [u32; 4] {
    [96, 64, 32, 0].map(|shift| ((bits >> shift) as u32).to_be())
}

fn port_words(targets: &[Target]) -> [u64; PORT_WORDS] {
    let mut words = [0; PORT_WORDS];
    for target in targets {
        if let Some(word) = words.get_mut(usize::from(target.port >> 6)) {
            *word |= 1 << (target.port & 63);
        }
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(addr: &str, prefix: u8, port: u16) -> Target {
        Target { id: 7, addr: addr.parse().unwrap(), prefix, port }
    }

    #[test]
    fn keys_are_networks_in_mapped_form() {
        let cases = [
            (target("10.1.2.3", 8, 5432), 32 + 96 + 8, "::ffff:10.0.0.0"),
            (target("10.1.2.3", 32, 5432), 160, "::ffff:10.1.2.3"),
            (target("0.0.0.0", 0, 5432), 32 + 96, "::ffff:0.0.0.0"),
            (target("fd00::1", 64, 5432), 96, "fd00::"),
            (target("::1", 128, 5432), 160, "::1"),
            (target("::", 0, 5432), 32, "::"),
        ];
        for (target, prefix, network) in cases {
            let octets = network.parse::<std::net::Ipv6Addr>().unwrap().octets();
            let (length, key) = target_key(&target);
            assert_eq!(length, prefix, "{target:?}");
            assert_eq!(key.addr.map(u32::to_ne_bytes).concat(), octets, "{target:?}");
            assert_eq!(key.port.to_ne_bytes(), [0x15, 0x38], "{target:?}");
        }
    }

    #[test]
    fn each_port_has_its_bit() {
        let words = port_words(&[target("::1", 128, 1), target("::1", 128, 5432), target("::1", 128, 65535)]);
        let set: Vec<usize> = (0..=65535).filter(|port| words[port >> 6] >> (port & 63) & 1 == 1).collect();
        assert_eq!(set, [1, 5432, 65535]);
    }

    #[test]
    fn targets_that_can_never_match_are_refused() {
        let good = [target("127.0.0.1", 32, 5432), target("10.0.0.0", 8, 15001), target("0.0.0.0", 0, 5432)];
        check(&good, 15001).unwrap();
        let bad = [
            target("127.0.0.1", 33, 5432),
            target("::1", 129, 5432),
            target("10.0.0.1", 32, 0),
            target("0.0.0.0", 32, 5432),
            target("::", 128, 5432),
            target("127.0.0.1", 32, 15001),
        ];
        for target in bad {
            assert!(check(std::slice::from_ref(&target), 15001).is_err(), "{target:?}");
        }
    }
}
