//! Reads kernel structures through the offsets the agent found, and walks a file's path.
//!
//! Everything is a probe read: a wrong address reads nothing, and what could not be read is said to be unknown.

use aya_ebpf::helpers::{bpf_probe_read_kernel, generated::bpf_probe_read_kernel_str};
use chaperone_ebpf::process::{
    COMPONENT, COMPONENTS, IMAGE_NAMELESS, IMAGE_PATH_CUT, IMAGE_USER_MOUNT, Image, Offsets,
};

use crate::maps::OFFSETS;

/// Steps of a path's walk: components and mount points together.
const MOST_STEPS: u32 = 48;

/// The offsets, once the agent has written them.
#[inline(always)]
pub(crate) fn offsets() -> Option<&'static Offsets> {
    OFFSETS.get(0).filter(|offsets| offsets.known != 0)
}

/// The member at an offset of a kernel structure.
#[inline(always)]
pub(crate) fn read<T>(structure: u64, offset: u32) -> Option<T> {
    let address = structure.wrapping_add(u64::from(offset)) as *const T;
    // SAFETY: a probe read of a wrong address fails.
    unsafe { bpf_probe_read_kernel(address) }.ok()
}

/// Id of the cgroup a task is in, in the unified hierarchy.
#[inline(always)]
pub(crate) fn cgroup_of(task: u64, offsets: &Offsets) -> Option<u64> {
    let set: u64 = read(task, offsets.task_cgroups)?;
    cgroup_id(read(set, offsets.css_set_dfl_cgrp)?, offsets)
}

#[inline(always)]
pub(crate) fn cgroup_id(cgroup: u64, offsets: &Offsets) -> Option<u64> {
    read(read::<u64>(cgroup, offsets.cgroup_kn)?, offsets.kernfs_node_id)
}

/// Start of the thread group leader, nanoseconds since boot.
#[inline(always)]
pub(crate) fn start_of(task: u64, offsets: &Offsets) -> Option<u64> {
    let leader: u64 = read(task, offsets.task_group_leader)?;
    read(leader, offsets.task_start_boottime)
}

/// Inode number of the mount namespace that a mount belongs to; 0 for a mount that is in none.
#[inline(always)]
pub(crate) fn namespace_of(vfsmount: u64, offsets: &Offsets) -> u32 {
    let mount = vfsmount.wrapping_sub(u64::from(offsets.mount_vfsmount));
    let namespace: Option<u64> = read(mount, offsets.mount_ns);
    namespace.and_then(|namespace| read(namespace, offsets.mnt_ns_inum)).unwrap_or(0)
}

/// Which file it is: what can be compared later with the file of the same name.
#[inline(always)]
pub(crate) fn describe_file(file: u64, offsets: &Offsets, image: *mut Image) -> Option<()> {
    let inode: u64 = read(file, offsets.file_inode)?;
    let sb: u64 = read(inode, offsets.inode_sb)?;
    let user_ns: u64 = read(sb, offsets.sb_user_ns)?;
    let mut flags = 0;
    if read::<u32>(user_ns, offsets.user_ns_level)? != 0 {
        flags |= IMAGE_USER_MOUNT;
    }
    if read::<u32>(inode, offsets.inode_nlink)? == 0 {
        flags |= IMAGE_NAMELESS;
    }
    let number: u64 = read(inode, offsets.inode_ino)?;
    let size: u64 = read(inode, offsets.inode_size)?;
    let ctime_s: i64 = read(inode, offsets.inode_ctime_s)?;
    let ctime_ns: u32 = read(inode, offsets.inode_ctime_ns)?;
    let device: u32 = read(sb, offsets.sb_device)?;
    let magic: u64 = read(sb, offsets.sb_magic)?;
    // SAFETY: `image` is this CPU's scratch entry, and no other program uses it while this one runs.
    unsafe {
        (*image).inode = number;
        (*image).size = size;
        (*image).ctime_s = ctime_s;
        // The top bit says that the time was looked at (kernels from 6.13 on).
        (*image).ctime_ns = ctime_ns & 0x7fff_ffff;
        (*image).device = device;
        (*image).magic = magic as u32;
        (*image).flags |= flags;
    }
    walk(file, offsets, image)
}

/// Writes the path's components, the file's own name first, up to the root of the mount namespace: a chroot does not
/// shorten it.
#[inline(always)]
fn walk(file: u64, offsets: &Offsets, image: *mut Image) -> Option<()> {
    let mut vfsmount: u64 = read(file, offsets.file_mnt)?;
    let mut dentry: u64 = read(file, offsets.file_dentry)?;
    let namespace = namespace_of(vfsmount, offsets);
    // SAFETY: as in `describe_file`, here and below.
    unsafe { (*image).mount_ns = namespace };
    let mut flag = IMAGE_PATH_CUT;
    for _ in 0..MOST_STEPS {
        let root: u64 = read(vfsmount, offsets.vfsmount_root)?;
        if dentry == root {
            let mount = vfsmount.wrapping_sub(u64::from(offsets.mount_vfsmount));
            let parent: u64 = read(mount, offsets.mount_parent)?;
            if parent == mount {
                flag = 0;
                break;
            }
            dentry = read(mount, offsets.mount_mountpoint)?;
            vfsmount = parent.wrapping_add(u64::from(offsets.mount_vfsmount));
            continue;
        }
        let name: u64 = read(dentry, offsets.dentry_name)?;
        let parent: u64 = read(dentry, offsets.dentry_parent)?;
        if !append(image, name) {
            break;
        }
        if parent == dentry {
            // Its own root, and not a mount's: never was in a directory.
            flag = IMAGE_NAMELESS;
            break;
        }
        dentry = parent;
    }
    // SAFETY: as above.
    unsafe { (*image).flags |= flag };
    Some(())
}

/// Copies a name behind those that are there; false when there is no room for a whole component.
///
/// The length lives in the map value and not in a register: the verifier would follow every sum it could have.
#[inline(always)]
fn append(image: *mut Image, name: u64) -> bool {
    // SAFETY: `image` is a whole entry, this CPU's scratch, and no other program uses it while this one runs.
    let used = unsafe { (&raw const (*image).path_len).read_volatile() } as usize;
    if used > COMPONENTS - COMPONENT {
        return false;
    }
    // SAFETY: a component fits behind `used`; the helper ends what it writes with a zero byte.
    let length = unsafe {
        let to = (&raw mut (*image).components).cast::<u8>().add(used);
        bpf_probe_read_kernel_str(to.cast(), COMPONENT as u32, name as *const _)
    };
    if length <= 0 || length > COMPONENT as i64 {
        return false;
    }
    // SAFETY: as above.
    unsafe { (&raw mut (*image).path_len).write_volatile((used + length as usize) as u32) };
    true
}
