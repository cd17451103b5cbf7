//! Unix sockets: the allow-list, and the program of a hook that aya does not know.
//!
//! aya's own reader of objects finds the program and puts the maps' descriptors into it; loading and attaching are
//! libbpf's. One program, so the set is small enough to keep beside the others.

use std::{
    collections::HashSet,
    fs, io,
    os::{
        fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd},
        unix::fs::MetadataExt as _,
    },
    path::Path,
};

use aya::maps::{Array, LpmTrie, MapData, lpm_trie::Key};
use aya_obj::Object;
use chaperone_ebpf::unix::{
    UNIX_ABSTRACT, UNIX_ABSTRACT_PREFIX, UNIX_NAME, UNIX_PATH, UNIX_PATH_MAX, UNIX_PATH_PREFIX, UNIX_ROOTS,
    UnixConfig, UnixName, UnixRule,
};
use libbpf_sys as bpf;

use super::{InterceptError, OBJECT, bpffs::Pins, btf::KernelTypes, programs, state};

const PROGRAM: &str = "connect_unix";

/// What an ordinary program connects to without asking: the log, name services. Nothing that starts programs elsewhere
/// for its caller, as a message bus does.
const ORDINARY: &[&str] = &[
    "/dev/log",
    "/run/systemd/journal/*",
    "/run/systemd/userdb/*",
    "/run/systemd/resolve/*",
    "/run/nscd/socket",
    "/var/run/nscd/socket",
    "/var/lib/sss/pipes/*",
];

/// What governed processes may connect to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UnixSockets {
    /// Whether some database's socket is protected; if none is, everything passes.
    pub protected: bool,
    /// Paths or, behind `@`, abstract names; a `*` at the end stands for the rest of a name.
    pub allow: Vec<String>,
}

/// The maps of the program, and whether it is there at all.
pub(super) struct Guard {
    config: Array<MapData, UnixConfig>,
    allow: LpmTrie<MapData, UnixName, UnixRule>,
    attached: bool,
}

impl Guard {
    pub(super) fn open(pins: &Pins) -> Result<Self, InterceptError> {
        Ok(Self {
            config: state::open(pins, "UNIXCFG")?,
            allow: state::open(pins, "UNIXALLOW")?,
            attached: false,
        })
    }

    /// Puts a list in force.
    pub(super) fn set(&mut self, sockets: &UnixSockets) -> Result<(), InterceptError> {
        if sockets.protected && !self.attached {
            return Err(InterceptError::NoUnixHook);
        }
        let wanted = rules(sockets)?;
        let failed = |source| InterceptError::Map { name: "UNIXALLOW", source };
        for (key, rule) in &wanted {
            self.allow.insert(key, rule, 0).map_err(failed)?;
        }
        let kept: HashSet<(u32, [u8; UNIX_NAME])> =
            wanted.iter().map(|(key, _)| (key.prefix_len(), key.data().bytes)).collect();
        let present: Vec<Key<UnixName>> = self.allow.keys().collect::<Result<_, _>>().map_err(failed)?;
        for key in present.iter().filter(|key| !kept.contains(&(key.prefix_len(), key.data().bytes))) {
            self.allow.remove(key).map_err(failed)?;
        }
        let config = config(sockets.protected);
        self.config.set(0, config, 0).map_err(|source| InterceptError::Map { name: "UNIXCFG", source })
    }

    /// Attaches the program, or gives a pinned link this version's. Where the kernel has no such hook nothing is
    /// attached, which only matters once a socket is to be protected.
    pub(super) fn attach(
        &mut self,
        pins: &Pins,
        place: &programs::Places,
        types: Option<&KernelTypes>,
    ) -> Result<(), InterceptError> {
        if !types.is_some_and(context_is_as_expected) {
            tracing::debug!(
                "no hook for connects of unix sockets: the kernel has none, or its context differs"
            );
            return Ok(());
        }
        let program = load(pins)?;
        let pin = pins.link(PROGRAM);
        programs::attach_by_hand(program.as_fd(), bpf::BPF_CGROUP_UNIX_CONNECT, &pin, PROGRAM, place)?;
        self.attached = true;
        Ok(())
    }
}

/// Refuses lists that could not be put in force, or would be none.
pub(super) fn check(sockets: &UnixSockets) -> Result<(), InterceptError> {
    if sockets.protected && !has_hook() {
        return Err(InterceptError::NoUnixHook);
    }
    sockets.allow.iter().filter(|path| path.starts_with('/')).try_for_each(|path| only_roots(path))?;
    rules(sockets).map(drop)
}

fn rules(sockets: &UnixSockets) -> Result<Vec<(Key<UnixName>, UnixRule)>, InterceptError> {
    ORDINARY.iter().copied().chain(sockets.allow.iter().map(String::as_str)).map(rule).collect()
}

/// Whether this kernel has the hook (6.7), as the program expects it.
pub(super) fn has_hook() -> bool {
    KernelTypes::load().is_some_and(|types| context_is_as_expected(&types))
}

/// The program reads the kernel's own context, whose layout is nobody's promise.
fn context_is_as_expected(types: &KernelTypes) -> bool {
    let offset = |member| types.offset("bpf_sock_addr_kern", member);
    offset("uaddr") == Some(8) && offset("uaddrlen") == Some(32)
}

fn load(pins: &Pins) -> Result<OwnedFd, InterceptError> {
    let broken = |error: &dyn std::fmt::Display| InterceptError::UnixProgram {
        source: io::Error::other(error.to_string()),
        log: String::new(),
    };
    let mut object = Object::parse(OBJECT).map_err(|error| broken(&error))?;
    object.programs.retain(|name, _| name == PROGRAM);
    let key = object.programs.values().next().map(aya_obj::Program::function_key);
    let key = key.ok_or(InterceptError::Missing { name: PROGRAM })?;
    let maps = std::mem::take(&mut object.maps);
    // Maps that are not pinned belong to other programs, whose instructions are not loaded here.
    let open: Vec<(&str, Option<MapData>, &aya_obj::Map)> =
        maps.iter().map(|(name, map)| (name.as_str(), MapData::from_pin(pins.map(name)).ok(), map)).collect();
    let text: HashSet<usize> = object.functions.keys().map(|(section, _)| *section).collect();
    let descriptors = open.iter().map(|(name, data, map)| {
        (*name, data.as_ref().map_or(-1, |data| data.fd().as_fd().as_raw_fd()), *map)
    });
    object.relocate_maps(descriptors, &text).map_err(|error| broken(&error))?;
    object.relocate_calls(&text).map_err(|error| broken(&error))?;
    let function = object.functions.get(&key).ok_or(InterceptError::Missing { name: PROGRAM })?;
    load_instructions(&function.instructions)
}

fn load_instructions(instructions: &[aya_obj::generated::bpf_insn]) -> Result<OwnedFd, InterceptError> {
    let mut log = vec![0_u8; 1 << 20];
    let mut options = bpf::bpf_prog_load_opts {
        sz: size_of::<bpf::bpf_prog_load_opts>() as bpf::size_t,
        expected_attach_type: bpf::BPF_CGROUP_UNIX_CONNECT,
        log_level: 1,
        log_size: log.len() as u32,
        log_buf: log.as_mut_ptr().cast(),
        ..Default::default()
    };
    // SAFETY: names are terminated strings; the instructions are the kernel's own struct in both crates' bindings, 8
    // bytes each, as many as said; options and log outlive the call.
    let fd = unsafe {
        bpf::bpf_prog_load(
            bpf::BPF_PROG_TYPE_CGROUP_SOCK_ADDR,
            c"connect_unix".as_ptr(),
            c"Dual MIT/GPL".as_ptr(),
            instructions.as_ptr().cast(),
            instructions.len() as bpf::size_t,
            &raw mut options,
        )
    };
    if fd < 0 {
        let said =
            String::from_utf8_lossy(log.split(|byte| *byte == 0).next().unwrap_or_default()).into_owned();
        let tail: Vec<&str> = said.lines().rev().take(6).collect();
        return Err(InterceptError::UnixProgram {
            source: io::Error::from_raw_os_error(-fd),
            log: tail.into_iter().rev().collect::<Vec<_>>().join(" | "),
        });
    }
    // SAFETY: the call returned a descriptor that nobody else has.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn config(protected: bool) -> UnixConfig {
    let mut config = UnixConfig { active: u32::from(protected), ..UnixConfig::default() };
    let roots = ["self", "1"].map(root_of);
    let slots = config.root_mounts.iter_mut().zip(config.root_inodes.iter_mut());
    for ((mount, inode), root) in slots.zip(roots).take(UNIX_ROOTS) {
        (*mount, *inode) = root.unwrap_or_default();
    }
    config
}

/// Mount id and inode number of a process's root directory.
fn root_of(process: &str) -> Option<(u32, u64)> {
    let mounts = fs::read_to_string(format!("/proc/{process}/mountinfo")).ok()?;
    // Of several on top of each other the last is the one that is seen.
    let mount = mounts.lines().rfind(|line| line.split(' ').nth(4) == Some("/"))?;
    let inode = fs::metadata(format!("/proc/{process}/root/")).ok()?.ino();
    Some((mount.split(' ').next()?.parse().ok()?, inode))
}

/// The key and rule of a name as it is configured.
fn rule(text: &str) -> Result<(Key<UnixName>, UnixRule), InterceptError> {
    let (name, prefix) = match text.strip_suffix('*') {
        Some(name) => (name, true),
        None => (text, false),
    };
    let mut bytes = name.as_bytes().to_vec();
    let is_abstract = name.starts_with('@');
    if let (true, Some(first)) = (is_abstract, bytes.first_mut()) {
        *first = 0;
    }
    let length = bytes.len() as u32;
    let kind = match (is_abstract, prefix) {
        (false, false) => UNIX_PATH,
        (false, true) => UNIX_PATH_PREFIX,
        (true, false) => UNIX_ABSTRACT,
        (true, true) => UNIX_ABSTRACT_PREFIX,
    };
    // A whole path ends with its zero byte, which makes the key.
    let compared = if kind == UNIX_PATH { length + 1 } else { length };
    let mut key = UnixName { bytes: [0; UNIX_NAME] };
    let room = key.bytes.get_mut(..bytes.len()).filter(|_| compared as usize <= UNIX_PATH_MAX);
    room.ok_or_else(|| InterceptError::UnixName { name: text.to_owned() })?.copy_from_slice(&bytes);
    Ok((Key::new(compared * 8, key), UnixRule { kind, length }))
}

/// Refuses a path in whose directories somebody else than root could put a link to a protected socket.
fn only_roots(path: &str) -> Result<(), InterceptError> {
    for directory in Path::new(path).ancestors().skip(1).filter(|directory| directory.exists()) {
        let metadata = fs::metadata(directory)
            .map_err(|source| InterceptError::Read { path: directory.to_owned(), source })?;
        if metadata.uid() != 0 || metadata.mode() & 0o022 != 0 {
            return Err(InterceptError::UnixDirectory {
                name: path.to_owned(),
                directory: directory.to_owned(),
            });
        }
    }
    Ok(())
}

/// A name as it is configured and recorded.
pub(super) fn shown(bytes: &[u8]) -> String {
    let trimmed = |bytes: &[u8]| {
        let end = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        String::from_utf8_lossy(bytes.get(..end).unwrap_or_default()).into_owned()
    };
    match bytes.split_first() {
        Some((0, rest)) if rest.iter().any(|byte| *byte != 0) => format!("@{}", trimmed(rest)),
        _ => String::from_utf8_lossy(bytes.split(|byte| *byte == 0).next().unwrap_or_default()).into_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_keys_that_match_nothing_else() {
        let cases = [
            ("/dev/log", UNIX_PATH, 8, 9 * 8),
            ("/run/systemd/journal/*", UNIX_PATH_PREFIX, 21, 21 * 8),
            ("@name", UNIX_ABSTRACT, 5, 5 * 8),
            ("@name*", UNIX_ABSTRACT_PREFIX, 5, 5 * 8),
        ];
        for (text, kind, length, bits) in cases {
            let (key, found) = rule(text).unwrap();
            assert_eq!((found.kind, found.length, key.prefix_len()), (kind, length, bits), "{text}");
            assert_eq!(shown(&key.data().bytes), text.trim_end_matches('*'), "{text}");
        }
        let longest = format!("/{}", "x".repeat(106));
        assert!(rule(&longest).is_ok());
        assert!(rule(&format!("{longest}x")).is_err(), "no room for the zero byte");
    }

    #[test]
    fn a_directory_that_is_not_roots_alone_allows_nothing() {
        assert!(only_roots("/tmp/x.sock").is_err());
        assert!(only_roots("/run/no-such-directory/x.sock").is_ok());
    }
}
