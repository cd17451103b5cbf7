//! What the process and cgroup tracepoints keep: who runs what, who started whom, and what a cgroup was called.
//!
//! A [`Node`] is one process running one image: fork makes one, and so does each exec. Nodes never change and name
//! their predecessor, so the chain of a process stays right when its ancestors go on to run something else, or end.

/// Bytes for an executable's path: its components, the file's own name first, each ended by a zero byte.
pub const COMPONENTS: usize = 768;

/// Most bytes of one component, its zero byte included (NAME_MAX is 255).
pub const COMPONENT: usize = 256;

/// Bytes kept of the name execve was given.
pub const FILENAME: usize = 256;

/// Bytes kept of the argument vector.
pub const ARGV: usize = 512;

/// Longest path of a cgroup that is kept, its zero byte included. A rule for a longer one is refused.
pub const CGROUP_PATH: usize = 256;

/// Bytes for what a [`Notice`] is about: sun_path of a unix address is 108 bytes.
pub const NOTICE_TEXT: usize = 128;

/// The executable had no name in any directory when it was run: a memfd, or a file removed before.
pub const IMAGE_NAMELESS: u32 = 1;
/// The path did not fit, or could not be read to its root.
pub const IMAGE_PATH_CUT: u32 = 2;
/// The file is on a file system that was mounted from inside a user namespace.
pub const IMAGE_USER_MOUNT: u32 = 4;
/// Another file was executed than was named: a script, or what binfmt_misc knows.
pub const IMAGE_INTERPRETED: u32 = 8;
/// Found running by the agent at its start: there is no record of its exec.
pub const IMAGE_FOUND: u32 = 16;

/// The name of a node: the process id is in its low bits, the moment it came about above. 0 is no node.
#[inline(always)]
pub const fn node_id(at: u64, tgid: u32) -> u64 {
    // PID_MAX_LIMIT is 2^22. What is shifted out comes round after 73 minutes, and then only for a process of the
    // same id, to the nanosecond.
    (at << 22) | (tgid as u64 & 0x3f_ffff)
}

/// Value of `TASKS`: what a live process (key: its id) runs now.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Task {
    /// Nanoseconds since boot; whole clock ticks when the agent found the process running.
    pub start_boottime: u64,
    pub node: u64,
    /// Key of `IMAGES`.
    pub image: u64,
}

/// Value of `NODES`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// What this process was before its exec, or the process that forked it; 0 when that is not known.
    pub parent: u64,
    pub image: u64,
    pub start_boottime: u64,
    /// Of the fork or exec, nanoseconds since boot.
    pub at: u64,
    pub tgid: u32,
    /// The process came about by fork and still runs what its parent ran.
    pub forked: u32,
}

/// Value of `IMAGES`: one exec. The key is the node's that it made.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Image {
    /// When it was run, nanoseconds since boot.
    pub at: u64,
    pub inode: u64,
    pub size: u64,
    pub ctime_s: i64,
    pub ctime_ns: u32,
    /// The kernel's own encoding: 20 bits of minor number below the major.
    pub device: u32,
    /// Magic number of the file system.
    pub magic: u32,
    /// Inode number of the mount namespace the path belongs to.
    pub mount_ns: u32,
    pub flags: u32,
    /// Bytes used of `components`.
    pub path_len: u32,
    /// Length of the whole argument vector, of which `argv` keeps the beginning.
    pub argv_len: u32,
    pub pad: u32,
    pub components: [u8; COMPONENTS],
    /// As given to execve: relative to a directory nobody recorded, or a symbolic link.
    pub filename: [u8; FILENAME],
    pub argv: [u8; ARGV],
}

/// Key of `CGRULES` and value of `CGPATHS`: a path below the cgroup2 root, zero-filled.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CgroupPath {
    pub bytes: [u8; CGROUP_PATH],
}

impl CgroupPath {
    /// `None` when it is too long to be kept.
    #[must_use]
    pub fn new(path: &[u8]) -> Option<Self> {
        let mut bytes = [0; CGROUP_PATH];
        if path.len() >= CGROUP_PATH {
            return None;
        }
        bytes.get_mut(..path.len())?.copy_from_slice(path);
        Some(Self { bytes })
    }
}

macro_rules! offsets {
    ($($(#[$doc:meta])* $name:ident = $structure:literal $(. $member:literal)+;)*) => {
        /// The one entry of `OFFSETS`: where members of kernel structures lie, in bytes.
        #[repr(C)]
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Offsets {
            /// 0 until all are known: the tracepoints do nothing then.
            pub known: u32,
            $($(#[$doc])* pub $name: u32,)*
        }

        impl Offsets {
            /// Asks `find` (structure, member path) for each; the name of the first that is missing otherwise.
            ///
            /// # Errors
            /// When one is missing.
            pub fn find(
                find: impl Fn(&'static str, &[&'static str]) -> Option<u32>,
            ) -> Result<Self, &'static str> {
                Ok(Self {
                    known: 1,
                    $($name: find($structure, &[$($member),+]).ok_or(stringify!($name))?,)*
                })
            }
        }
    };
}

// A member path goes through structs by value: each step's offset is added.
offsets! {
    task_pid = "task_struct"."pid";
    task_tgid = "task_struct"."tgid";
    task_group_leader = "task_struct"."group_leader";
    task_start_boottime = "task_struct"."start_boottime";
    task_signal = "task_struct"."signal";
    task_mm = "task_struct"."mm";
    task_fs = "task_struct"."fs";
    task_nsproxy = "task_struct"."nsproxy";
    task_cgroups = "task_struct"."cgroups";
    signal_live = "signal_struct"."live";
    fs_root_mnt = "fs_struct"."root"."mnt";
    fs_root_dentry = "fs_struct"."root"."dentry";
    nsproxy_mnt_ns = "nsproxy"."mnt_ns";
    mnt_ns_inum = "mnt_namespace"."ns"."inum";
    css_set_dfl_cgrp = "css_set"."dfl_cgrp";
    cgroup_kn = "cgroup"."kn";
    cgroup_root = "cgroup"."root";
    cgroup_root_hierarchy = "cgroup_root"."hierarchy_id";
    kernfs_node_id = "kernfs_node"."id";
    mm_arg_start = "mm_struct"."arg_start";
    mm_arg_end = "mm_struct"."arg_end";
    bprm_file = "linux_binprm"."file";
    bprm_filename = "linux_binprm"."filename";
    bprm_interp = "linux_binprm"."interp";
    file_mnt = "file"."f_path"."mnt";
    file_dentry = "file"."f_path"."dentry";
    file_inode = "file"."f_inode";
    dentry_parent = "dentry"."d_parent";
    dentry_name = "dentry"."d_name"."name";
    dentry_inode = "dentry"."d_inode";
    vfsmount_root = "vfsmount"."mnt_root";
    mount_vfsmount = "mount"."mnt";
    mount_parent = "mount"."mnt_parent";
    mount_mountpoint = "mount"."mnt_mountpoint";
    mount_id = "mount"."mnt_id";
    mount_ns = "mount"."mnt_ns";
    inode_ino = "inode"."i_ino";
    inode_size = "inode"."i_size";
    inode_nlink = "inode"."i_nlink";
    inode_ctime_s = "inode"."i_ctime_sec";
    inode_ctime_ns = "inode"."i_ctime_nsec";
    inode_sb = "inode"."i_sb";
    sb_device = "super_block"."s_dev";
    sb_magic = "super_block"."s_magic";
    sb_user_ns = "super_block"."s_user_ns";
    user_ns_level = "user_namespace"."level";
}

/// What `NOTICES` carries beside the refusals of `EVENTS`. Drops when full, like it: nothing may depend on it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Notice {
    /// Nanoseconds since boot.
    pub at: u64,
    /// Of the current task; for a move, the cgroup it was moved into.
    pub cgroup: u64,
    pub tgid: u32,
    pub uid: u32,
    /// One of [`crate::Stat`].
    pub kind: u32,
    pub pad: u32,
    pub comm: [u8; 16],
    pub text: [u8; NOTICE_TEXT],
}

const _: () = {
    assert!(size_of::<Task>() == 24);
    assert!(size_of::<Node>() == 40);
    assert!(size_of::<Image>() == 64 + COMPONENTS + FILENAME + ARGV);
    assert!(size_of::<CgroupPath>() == CGROUP_PATH);
    assert!(size_of::<Notice>() == 48 + NOTICE_TEXT);
};

#[cfg(feature = "user")]
mod pod {
    use super::{CgroupPath, Image, Node, Notice, Offsets, Task};

    macro_rules! pod {
        ($($name:ident),*) => {$(
            // SAFETY: repr(C), integers and bytes only, padding spelled out (the sizes are asserted above; `Offsets`
            // is u32 throughout): every bit pattern is a value and no byte is uninitialised.
            unsafe impl aya::Pod for $name {}
        )*};
    }
    pod!(CgroupPath, Image, Node, Notice, Offsets, Task);
}
