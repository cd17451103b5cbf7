//! cgroup2 by path and by id. An id belongs to one cgroup for the life of the machine: a cgroup made again under
//! the same name has another.

use std::{
    fs::{self, File},
    io,
    os::{
        fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
        unix::fs::MetadataExt as _,
    },
    path::{Path, PathBuf},
};

use nix::libc;

use super::InterceptError;

/// Where the cgroup2 hierarchy is mounted, as this process sees it: `/sys/fs/cgroup`, or beside the older
/// hierarchies on a hybrid host.
pub fn cgroup2_mount() -> Result<PathBuf, InterceptError> {
    let path = Path::new("/proc/self/mountinfo");
    let mounts =
        fs::read_to_string(path).map_err(|source| InterceptError::Read { path: path.to_owned(), source })?;
    find_cgroup2(&mounts).ok_or(InterceptError::NoCgroup2)
}

/// The id of the cgroup whose directory this is (64-bit kernels from 5.5: its inode number).
pub fn cgroup_id(path: &Path) -> Result<u64, InterceptError> {
    let metadata =
        fs::metadata(path).map_err(|source| InterceptError::Cgroup { path: path.to_owned(), source })?;
    Ok(metadata.ino())
}

/// The path of a live cgroup below `mount`, with a leading slash; `None` when it is gone or out of sight.
pub fn cgroup_path(id: u64, mount: &Path) -> Result<Option<PathBuf>, InterceptError> {
    let Some(directory) = open_cgroup(id, mount)? else { return Ok(None) };
    let link = PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd()));
    let target = fs::read_link(&link).map_err(|source| InterceptError::Read { path: link, source })?;
    let Ok(below) = target.strip_prefix(mount) else { return Ok(None) };
    // Removed between the two calls: the kernel says so behind the name.
    if below.to_string_lossy().ends_with(" (deleted)") {
        return Ok(None);
    }
    Ok(Some(Path::new("/").join(below)))
}

/// Opens the directory of a live cgroup; `None` when it is gone.
pub(super) fn open_cgroup(id: u64, mount: &Path) -> Result<Option<OwnedFd>, InterceptError> {
    /// FILEID_KERNFS, include/linux/exportfs.h: the handle is the 64-bit id.
    const FILEID_KERNFS: libc::c_int = 0xfe;
    #[repr(C)]
    struct Handle {
        bytes: libc::c_uint,
        kind: libc::c_int,
        id: [u8; 8],
    }
    let root =
        File::open(mount).map_err(|source| InterceptError::Cgroup { path: mount.to_owned(), source })?;
    let mut handle = Handle { bytes: 8, kind: FILEID_KERNFS, id: id.to_ne_bytes() };
    // SAFETY: `handle` is laid out as struct file_handle with 8 bytes of handle, and outlives the call; `root` is
    // open.
    let fd = unsafe {
        libc::open_by_handle_at(
            root.as_raw_fd(),
            (&raw mut handle).cast(),
            libc::O_RDONLY | libc::O_DIRECTORY | libc::O_CLOEXEC,
        )
    };
    if fd < 0 {
        let source = io::Error::last_os_error();
        return match source.raw_os_error() {
            Some(libc::ESTALE | libc::ENOENT) => Ok(None),
            _ => Err(InterceptError::CgroupById { id, source }),
        };
    }
    // SAFETY: the call returned a descriptor that nobody else has.
    Ok(Some(unsafe { OwnedFd::from_raw_fd(fd) }))
}

/// Of several mounts the first whose root is the hierarchy's root, else the first.
fn find_cgroup2(mountinfo: &str) -> Option<PathBuf> {
    let mounts: Vec<(&str, &str)> = mountinfo.lines().filter_map(cgroup2_line).collect();
    let (_root, point) = mounts.iter().find(|(root, _)| *root == "/").or(mounts.first())?;
    Some(PathBuf::from(unescape(point)))
}

/// Root and mount point of a mountinfo line (proc_pid_mountinfo(5)) when its type is cgroup2.
fn cgroup2_line(line: &str) -> Option<(&str, &str)> {
    let (before, after) = line.split_once(" - ")?;
    if after.split(' ').next()? != "cgroup2" {
        return None;
    }
    let mut fields = before.split(' ').skip(3);
    Some((fields.next()?, fields.next()?))
}

/// The four characters that mountinfo writes in octal.
fn unescape(path: &str) -> String {
    path.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cgroup2_mount_is_found_on_unified_hybrid_and_namespaced_hosts() {
        let unified = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";
        let hybrid = "29 28 0:25 / /sys/fs/cgroup ro - tmpfs tmpfs ro\n\
            30 29 0:26 / /sys/fs/cgroup/unified rw shared:9 - cgroup2 cgroup2 rw\n\
            31 29 0:27 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n";
        let bind_first = "40 1 0:26 /a /mnt/part rw - cgroup2 cgroup2 rw\n\
            41 1 0:26 / /mnt/whole\\040tree rw - cgroup2 cgroup2 rw\n";
        let cases = [
            (unified, Some("/sys/fs/cgroup")),
            (hybrid, Some("/sys/fs/cgroup/unified")),
            (bind_first, Some("/mnt/whole tree")),
            ("1 1 0:1 / / rw - ext4 /dev/vda rw\n", None),
            ("", None),
        ];
        for (mountinfo, expected) in cases {
            assert_eq!(find_cgroup2(mountinfo), expected.map(PathBuf::from), "{mountinfo}");
        }
    }
}
