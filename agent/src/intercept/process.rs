//! Which process runs what, and who started it, as the tracepoints noted it down.
//!
//! Only the kernel's notes count: /proc tells what a process runs by the time it is looked at, and a process that
//! connected may run something else by then, or nothing.

use std::{
    ffi::OsString,
    os::unix::ffi::OsStringExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use aya::maps::{HashMap, MapData, MapError};
use chaperone_ebpf::process::{
    ARGV, CgroupPath, IMAGE_FOUND, IMAGE_INTERPRETED, IMAGE_NAMELESS, IMAGE_PATH_CUT, IMAGE_USER_MOUNT,
    Image as RawImage, Node,
};

use super::{InterceptError, bpffs::Pins, state};

/// Generations that are followed; who has more ancestors has an incomplete chain.
const MOST_GENERATIONS: usize = 64;

/// An executable as it was when it was run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// When it was run, nanoseconds since boot.
    pub at_boottime_ns: u64,
    /// Absolute, from the root of its mount namespace, or the only name a nameless one has; `None` when it is too long.
    pub path: Option<PathBuf>,
    /// In no directory when it was run: a memfd, or removed before.
    pub nameless: bool,
    /// Inode number of the mount namespace that the path belongs to; 0 when it belongs to none.
    pub mount_ns: u64,
    /// The file system was mounted from inside a user namespace: what a file holds there is its owner's to say.
    pub user_mount: bool,
    /// Magic number of the file system, statfs(2).
    pub magic: u32,
    pub file: FileId,
    /// The name given to execve, when another file than that was run: a script's.
    pub script: Option<String>,
    /// The arguments at the exec, as far as they were kept.
    pub argv: Vec<String>,
    /// There are more arguments than were kept.
    pub argv_cut: bool,
    /// It ran already when the agent started: read from /proc then.
    pub found: bool,
}

/// What tells one state of one file from others. Nobody but root can set a change time, and not without the clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FileId {
    /// In the kernel's encoding: 20 bits of minor number below the major.
    pub device: u32,
    pub inode: u64,
    pub size: u64,
    pub ctime_s: i64,
    pub ctime_ns: u32,
}

/// A process running an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// In the host's pid namespace.
    pub tgid: u32,
    /// Start of the process, nanoseconds since boot.
    pub start_boottime_ns: u64,
    /// `None` when it is not known (any more).
    pub image: Option<Arc<Image>>,
    /// Came about by fork, and never executed anything itself.
    pub forked: bool,
}

/// A process and what led to it, nearest first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Chain {
    pub steps: Vec<Step>,
    /// It goes back to the first process of the host without a gap, and every image is known.
    pub complete: bool,
}

/// The kernel's notes; cheap to clone.
#[derive(Clone)]
pub struct Processes(Arc<Maps>);

struct Maps {
    nodes: HashMap<MapData, u64, Node>,
    images: HashMap<MapData, u64, RawImage>,
    cgroups: HashMap<MapData, u64, CgroupPath>,
}

impl Processes {
    pub(super) fn open(pins: &Pins) -> Result<Self, InterceptError> {
        Ok(Self(Arc::new(Maps {
            nodes: state::open(pins, "NODES")?,
            images: state::open(pins, "IMAGES")?,
            cgroups: state::open(pins, "CGPATHS")?,
        })))
    }

    /// The chain that begins with `node`, an [`super::Origin::node`].
    #[must_use]
    pub fn chain(&self, node: u64) -> Chain {
        let mut chain = Chain::default();
        let mut next = node;
        let mut gaps = node == 0;
        while next != 0 {
            let found = self.0.nodes.get(&next, 0).ok().filter(|_| chain.steps.len() < MOST_GENERATIONS);
            let Some(node) = found else {
                gaps = true;
                break;
            };
            let image = self.image(node.image);
            // Kernel threads run nothing.
            gaps |= image.is_none() && node.parent != 0;
            chain.steps.push(Step {
                tgid: node.tgid,
                start_boottime_ns: node.start_boottime,
                image,
                forked: node.forked != 0,
            });
            next = node.parent;
        }
        let at_the_root = chain.steps.last().is_some_and(|step| matches!(step.tgid, 1 | 2));
        chain.complete = at_the_root && !gaps;
        chain
    }

    fn image(&self, id: u64) -> Option<Arc<Image>> {
        self.0.images.get(&id, 0).ok().map(|raw| Arc::new(Image::from(&raw)))
    }

    /// The path of a cgroup made since the programs were attached, below the cgroup2 mount, also of one that is gone.
    #[must_use]
    pub fn cgroup(&self, id: u64) -> Option<PathBuf> {
        match self.0.cgroups.get(&id, 0) {
            Ok(CgroupPath { bytes }) => Some(PathBuf::from(os_string(until_zero(&bytes)))),
            Err(MapError::KeyNotFound) => None,
            Err(error) => {
                tracing::warn!(%error, "cannot read the paths of cgroups");
                None
            }
        }
    }
}

impl From<&RawImage> for Image {
    fn from(raw: &RawImage) -> Self {
        let flag = |flag| raw.flags & flag != 0;
        let components = raw.components.get(..raw.path_len as usize).unwrap_or_default();
        let kept = (raw.argv_len as usize).min(ARGV);
        Self {
            at_boottime_ns: raw.at,
            path: (!flag(IMAGE_PATH_CUT)).then(|| path(components)),
            nameless: flag(IMAGE_NAMELESS),
            mount_ns: u64::from(raw.mount_ns),
            user_mount: flag(IMAGE_USER_MOUNT),
            magic: raw.magic,
            file: FileId {
                device: raw.device,
                inode: raw.inode,
                size: raw.size,
                ctime_s: raw.ctime_s,
                ctime_ns: raw.ctime_ns,
            },
            script: flag(IMAGE_INTERPRETED).then(|| lossy(until_zero(&raw.filename))),
            argv: arguments(raw.argv.get(..kept).unwrap_or_default()),
            argv_cut: raw.argv_len as usize > ARGV,
            found: flag(IMAGE_FOUND),
        }
    }
}

/// From components, the last one first, each ended by a zero byte.
fn path(components: &[u8]) -> PathBuf {
    let names = components.split(|byte| *byte == 0).filter(|name| !name.is_empty());
    let mut path = PathBuf::from("/");
    for name in names.collect::<Vec<_>>().into_iter().rev() {
        path.push(os_string(name));
    }
    path
}

/// The reverse of [`path`]; `None` when it does not fit.
pub(super) fn components<const N: usize>(path: &Path) -> Option<([u8; N], u32)> {
    use std::os::unix::ffi::OsStrExt as _;

    let mut bytes = Vec::new();
    for name in path.components().rev() {
        if let std::path::Component::Normal(name) = name {
            bytes.extend_from_slice(name.as_bytes());
            bytes.push(0);
        }
    }
    let mut out = [0; N];
    out.get_mut(..bytes.len())?.copy_from_slice(&bytes);
    Some((out, bytes.len() as u32))
}

fn arguments(bytes: &[u8]) -> Vec<String> {
    let bytes = bytes.strip_suffix(&[0]).unwrap_or(bytes);
    if bytes.is_empty() {
        return Vec::new();
    }
    bytes.split(|byte| *byte == 0).map(lossy).collect()
}

fn until_zero(bytes: &[u8]) -> &[u8] {
    bytes.split(|byte| *byte == 0).next().unwrap_or_default()
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn os_string(bytes: &[u8]) -> OsString {
    OsString::from_vec(bytes.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_survives_being_kept_backwards() {
        for text in ["/", "/usr/bin/psql", "/a/b c/d\n"] {
            let (bytes, used) = components::<64>(Path::new(text)).unwrap();
            assert_eq!(path(&bytes[..used as usize]), Path::new(text));
        }
        assert_eq!(components::<8>(Path::new("/too/long/for/this")), None);
    }

    #[test]
    fn arguments_end_at_zero_bytes_and_may_be_empty_or_cut() {
        let cases: [(&[u8], &[&str]); 5] = [
            (b"psql\0-c\0select 1\0", &["psql", "-c", "select 1"]),
            (b"psql\0\0x\0", &["psql", "", "x"]),
            (b"cut-of", &["cut-of"]),
            (b"", &[]),
            (b"\0", &[]),
        ];
        for (bytes, expected) in cases {
            assert_eq!(arguments(bytes), expected, "{bytes:?}");
        }
    }
}
