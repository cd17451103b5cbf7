//! Finds the file that was executed, and proves that what was found is that file, unchanged.
//!
//! A name leads to whatever lies there now, in whoever's mount namespace. So a file counts only when inode, size and
//! change time are those the kernel noted as it ran it; nobody can set a change time but by changing the file.

use std::fs::{self, File, OpenOptions};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use nix::libc;
use nix::sys::stat::makedev;
use nix::sys::statfs::fstatfs;
use nix::time::{ClockId, clock_gettime};

use super::hash::LARGEST;
use crate::intercept::{Chain, FileId, Image};

/// A file changed less than this before it was run may have been changed once more within the same tick of the clock
/// that change times are taken from (10 ms at most), and would look the same.
const SETTLED_NS: i128 = 50_000_000;

/// Processes of the cgroup that are asked for a look into their mount namespace.
const MOST_NEIGHBOURS: usize = 16;

/// Opens the executable of `pid`, which may be gone.
///
/// # Errors
/// When it is not there in the state it was run in.
pub(super) fn open(image: &Image, pid: u32, chain: &Chain, cgroup: Option<&Path>) -> Result<File, String> {
    let mut names = vec![PathBuf::from(format!("/proc/{pid}/exe"))];
    if let (Some(path), false) = (&image.path, image.nameless) {
        let below = path.strip_prefix("/").unwrap_or(path);
        let relatives = chain.steps.iter().skip(1).map(|step| step.tgid).filter(|tgid| *tgid != pid);
        let somebody = [std::process::id(), 1].into_iter().chain(relatives).chain(neighbours(cgroup));
        let there = somebody.filter(|tgid| mount_namespace(*tgid) == Some(image.mount_ns));
        names.extend(there.map(|tgid| PathBuf::from(format!("/proc/{tgid}/root")).join(below)));
    }
    let found = names.iter().find_map(|name| exactly(name, image));
    found.ok_or_else(|| "the file that was run is not there any more, or was changed".to_owned())
}

/// Whether what the file system says about the file can be believed, at the exec and later.
///
/// # Errors
/// Why not.
pub(super) fn vouched_for(image: &Image) -> Result<(), String> {
    if image.file.size > LARGEST {
        return Err(format!("it is larger than {} MiB", LARGEST >> 20));
    }
    if answers_for_others(image.magic) || (image.user_mount && !is_memory(image.magic)) {
        return Err("its file system is served by somebody who may say what he likes".to_owned());
    }
    let since_change = run_at(image).map(|at| at - changed_at(&image.file));
    match since_change {
        Some(settled) if settled >= SETTLED_NS => Ok(()),
        Some(_) => Err("it was changed a moment before it was run".to_owned()),
        None => Err("the clock cannot be read".to_owned()),
    }
}

/// When the image was run, nanoseconds since 1970.
fn run_at(image: &Image) -> Option<i128> {
    let now = |clock| {
        let time = clock_gettime(clock).ok()?;
        Some(i128::from(time.tv_sec()) * 1_000_000_000 + i128::from(time.tv_nsec()))
    };
    let since = now(ClockId::CLOCK_BOOTTIME)? - i128::from(image.at_boottime_ns);
    Some(now(ClockId::CLOCK_REALTIME)? - since)
}

fn changed_at(file: &FileId) -> i128 {
    i128::from(file.ctime_s) * 1_000_000_000 + i128::from(file.ctime_ns)
}

/// File systems whose answers come from a process or another host (linux/magic.h and the file systems' own headers).
fn answers_for_others(magic: u32) -> bool {
    const FUSE: u32 = 0x6573_5546;
    const NFS: u32 = 0x6969;
    const SMB: u32 = 0x517b;
    const CIFS: u32 = 0xff53_4d42;
    const SMB2: u32 = 0xfe53_4d42;
    const V9FS: u32 = 0x0102_1997;
    const CEPH: u32 = 0x00c3_6400;
    const AFS: u32 = 0x5346_414f;
    const AFS_FS: u32 = 0x6b41_4653;
    const CODA: u32 = 0x7375_7245;
    matches!(magic, FUSE | NFS | SMB | CIFS | SMB2 | V9FS | CEPH | AFS | AFS_FS | CODA)
}

fn is_memory(magic: u32) -> bool {
    const TMPFS: u32 = 0x0102_1994;
    const RAMFS: u32 = 0x8584_58f6;
    matches!(magic, TMPFS | RAMFS)
}

/// Opens `name` if it is the file in the state that was run.
fn exactly(name: &Path, wanted: &Image) -> Option<File> {
    // Without opening it yet: whoever owns the directory could have put a device or a pipe there.
    let held = OpenOptions::new().read(true).custom_flags(libc::O_PATH | libc::O_CLOEXEC).open(name).ok()?;
    if !is(&held, wanted) {
        return None;
    }
    let file = File::open(format!("/proc/self/fd/{}", held.as_raw_fd())).ok()?;
    is(&file, wanted).then_some(file)
}

/// A file system of another kind could claim the same numbers; one that answers for others is never of this kind. Only
/// overlays can hide such a one below, so there the device counts too. (Elsewhere it need not be the one stat tells.)
fn is(file: &File, wanted: &Image) -> bool {
    const OVERLAY: u32 = 0x794c_7630;
    let (Ok(found), Ok(system)) = (file.metadata(), fstatfs(file)) else { return false };
    let FileId { device, inode, size, ctime_s, ctime_ns } = wanted.file;
    let magic = system.filesystem_type().0 as u32;
    found.is_file()
        && found.ino() == inode
        && found.size() == size
        && found.ctime() == ctime_s
        && found.ctime_nsec() == i64::from(ctime_ns)
        && magic == wanted.magic
        && (magic != OVERLAY || found.dev() == makedev(u64::from(device >> 20), u64::from(device & 0xf_ffff)))
}

fn mount_namespace(tgid: u32) -> Option<u64> {
    fs::metadata(format!("/proc/{tgid}/ns/mnt")).ok().map(|namespace| namespace.ino())
}

/// Processes of the same cgroup: in a container one of them is alive as long as it is.
fn neighbours(cgroup: Option<&Path>) -> impl Iterator<Item = u32> {
    let members = cgroup.and_then(|cgroup| fs::read_to_string(cgroup.join("cgroup.procs")).ok());
    let pids: Vec<u32> =
        members.iter().flat_map(|text| text.lines()).filter_map(|line| line.parse().ok()).collect();
    pids.into_iter().take(MOST_NEIGHBOURS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(path: &Path, at_boottime_ns: u64) -> Image {
        let found = fs::metadata(path).unwrap();
        Image {
            at_boottime_ns,
            path: Some(path.to_owned()),
            nameless: false,
            mount_ns: mount_namespace(std::process::id()).unwrap(),
            user_mount: false,
            magic: nix::sys::statfs::statfs(path).unwrap().filesystem_type().0 as u32,
            file: FileId {
                device: 0,
                inode: found.ino(),
                size: found.size(),
                ctime_s: found.ctime(),
                ctime_ns: found.ctime_nsec() as u32,
            },
            script: None,
            argv: Vec::new(),
            argv_cut: false,
            found: false,
        }
    }

    fn now() -> u64 {
        let time = clock_gettime(ClockId::CLOCK_BOOTTIME).unwrap();
        time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64
    }

    #[test]
    fn only_the_very_file_in_its_very_state_counts() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tool");
        fs::write(&path, "one").unwrap();
        let ran = image(&path, now() + 1_000_000_000);
        assert!(exactly(&path, &ran).is_some());
        let elsewhere = Image { magic: 1, ..ran.clone() };
        assert!(exactly(&path, &elsewhere).is_none(), "the same numbers on another file system");
        fs::write(dir.path().join("other"), "one").unwrap();
        assert!(exactly(&dir.path().join("other"), &ran).is_none(), "another file with the same bytes");
        std::thread::sleep(std::time::Duration::from_millis(20));
        fs::write(&path, "two").unwrap();
        assert!(exactly(&path, &ran).is_none(), "the same file, changed");
        assert!(exactly(dir.path(), &ran).is_none(), "a directory");
    }

    #[test]
    fn what_cannot_be_vouched_for_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tool");
        fs::write(&path, "one").unwrap();
        let settled = image(&path, now() + 1_000_000_000);
        let check = |image: Image, word: &str| {
            let said = vouched_for(&image).err().unwrap_or_default();
            assert!(said.contains(word) && said.is_empty() == word.is_empty(), "{said} against {word}");
        };
        check(settled.clone(), "");
        check(image(&path, now() - 1_000_000), "changed a moment before");
        check(Image { magic: 0x6573_5546, ..settled.clone() }, "file system");
        check(Image { user_mount: true, ..settled.clone() }, "file system");
        check(Image { user_mount: true, magic: 0x0102_1994, ..settled.clone() }, "");
        let huge = FileId { size: LARGEST + 1, ..settled.file };
        check(Image { file: huge, ..settled }, "larger");
    }
}
