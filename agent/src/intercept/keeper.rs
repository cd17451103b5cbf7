//! Keeps the kernel's notes on processes whole: writes down those that ran before the tracepoints were there, and
//! saves from eviction what live processes descend from.

use std::{
    collections::HashSet,
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use aya::maps::{HashMap, MapData};
use chaperone_ebpf::process::{
    COMPONENTS, IMAGE_FOUND, IMAGE_NAMELESS, IMAGE_PATH_CUT, IMAGE_USER_MOUNT, Image, Node, Task, node_id,
};
use nix::sys::stat::{major, minor};
use procfs::process::Process;

use super::{InterceptError, bpffs::Pins, process, state};

/// BPF_NOEXIST and BPF_EXIST.
const ONLY_NEW: u64 = 1;
const ONLY_OLD: u64 = 2;

/// Clock ticks of /proc in nanoseconds; user space's clock runs at 100 Hz on every architecture we build for.
const TICK_NS: u64 = 10_000_000;

pub struct Keeper {
    tasks: HashMap<MapData, u32, Task>,
    nodes: HashMap<MapData, u64, Node>,
    images: HashMap<MapData, u64, Image>,
}

impl Keeper {
    pub(super) fn open(pins: &Pins) -> Result<Self, InterceptError> {
        Ok(Self {
            tasks: state::open(pins, "TASKS")?,
            nodes: state::open(pins, "NODES")?,
            images: state::open(pins, "IMAGES")?,
        })
    }

    /// Writes down the processes that are running and not known yet; returns how many. A process that the tracepoints
    /// come to know meanwhile is theirs.
    pub(super) fn find(&mut self) -> usize {
        let host = Namespaces::of(1);
        let Ok(processes) = procfs::process::all_processes() else { return 0 };
        let mut found: Vec<Found> =
            processes.flatten().filter_map(|process| Found::read(&process, &host)).collect();
        // Parents before children.
        found.sort_by_key(|found| (found.start_boottime, found.tgid));
        let mut written = 0;
        for found in &found {
            written += usize::from(self.write_down(found));
        }
        written
    }

    fn write_down(&mut self, found: &Found) -> bool {
        if self.tasks.get(&found.tgid, 0).is_ok() {
            return false;
        }
        let parent = self.tasks.get(&found.parent, 0).map_or(0, |task| task.node);
        let id = node_id(found.start_boottime, found.tgid);
        let node = Node {
            parent,
            image: id,
            start_boottime: found.start_boottime,
            at: found.start_boottime,
            tgid: found.tgid,
            forked: 0,
        };
        let task = Task { start_boottime: found.start_boottime, node: id, image: id };
        if let Some(image) = &found.image {
            // Whatever cannot be written stays unknown.
            let _full = self.images.insert(id, image.as_ref(), 0);
        }
        self.nodes.insert(id, node, 0).is_ok() && self.tasks.insert(found.tgid, task, ONLY_NEW).is_ok()
    }

    /// Renews the entries that live processes descend from, so that the next evictions are others'. Nodes and images
    /// never change, so writing one again changes nothing else.
    pub fn tend(&mut self) {
        let mut seen = HashSet::new();
        let tasks: Vec<u64> = self.tasks.iter().flatten().map(|(_tgid, task)| task.node).collect();
        for mut id in tasks {
            while id != 0 && seen.insert(id) {
                let Ok(node) = self.nodes.get(&id, 0) else { break };
                let _evicted_meanwhile = self.nodes.insert(id, node, ONLY_OLD);
                if seen.insert(node.image)
                    && let Ok(image) = self.images.get(&node.image, 0)
                {
                    let _evicted_meanwhile = self.images.insert(node.image, image, ONLY_OLD);
                }
                id = node.parent;
            }
        }
    }
}

/// A process as /proc tells of it.
struct Found {
    tgid: u32,
    parent: u32,
    start_boottime: u64,
    /// `None` for a kernel thread.
    image: Option<Box<Image>>,
}

impl Found {
    fn read(process: &Process, host: &Namespaces) -> Option<Self> {
        let stat = process.stat().ok()?;
        let tgid = u32::try_from(stat.pid).ok()?;
        let link = PathBuf::from(format!("/proc/{tgid}/exe"));
        Some(Self {
            tgid,
            parent: u32::try_from(stat.ppid).ok()?,
            start_boottime: stat.starttime.saturating_mul(TICK_NS),
            image: image(tgid, &link, host),
        })
    }
}

fn image(tgid: u32, link: &Path, host: &Namespaces) -> Option<Box<Image>> {
    let mut target = fs::read_link(link).ok()?;
    let file = fs::metadata(link).ok()?;
    if let Some(name) = target.to_str().and_then(|name| name.strip_suffix(" (deleted)")) {
        target = name.into();
    }
    let own = Namespaces::of(tgid);
    let mut flags = IMAGE_FOUND;
    let (components, path_len) = match process::components::<COMPONENTS>(&target) {
        Some(kept) => kept,
        None => {
            flags |= IMAGE_PATH_CUT;
            ([0; COMPONENTS], 0)
        }
    };
    if file.nlink() == 0 {
        flags |= IMAGE_NAMELESS;
    }
    if own.user != host.user {
        flags |= IMAGE_USER_MOUNT;
    }
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME).ok()?;
    Some(Box::new(Image {
        at: now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64,
        inode: file.ino(),
        size: file.size(),
        ctime_s: file.ctime(),
        ctime_ns: u32::try_from(file.ctime_nsec()).ok()?,
        device: u32::try_from((major(file.dev()) << 20) | minor(file.dev())).ok()?,
        magic: nix::sys::statfs::statfs(link).ok()?.filesystem_type().0 as u32,
        mount_ns: u32::try_from(own.mount).ok()?,
        flags,
        path_len,
        argv_len: 0,
        pad: 0,
        components,
        filename: [0; chaperone_ebpf::process::FILENAME],
        argv: [0; chaperone_ebpf::process::ARGV],
    }))
}

/// Inode numbers; 0 when they cannot be read.
struct Namespaces {
    mount: u64,
    user: u64,
}

impl Namespaces {
    fn of(tgid: u32) -> Self {
        let inode = |kind| fs::metadata(format!("/proc/{tgid}/ns/{kind}")).map_or(0, |ns| ns.ino());
        Self { mount: inode("mnt"), user: inode("user") }
    }
}
