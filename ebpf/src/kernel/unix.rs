//! connect of unix sockets (kernels from 6.7 on): where some database's socket is protected, governed processes connect
//! to allowed names only, and to paths only as the host's own root directory has them.
//!
//! aya knows no such hook: the program stands here as one of another, and the agent loads and attaches it under its real
//! type. The context of that type has no word for the name; a probe read of the kernel's own context has.

use aya_ebpf::{
    helpers::{
        bpf_get_current_pid_tgid, bpf_probe_read_kernel,
        generated::{bpf_get_current_cgroup_id, bpf_get_current_task, bpf_probe_read_kernel as read_bytes},
    },
    macros::cgroup_sock_addr,
    programs::SockAddrContext,
};
use chaperone_ebpf::{
    Stat,
    unix::{
        UNIX_ABSTRACT, UNIX_ABSTRACT_PREFIX, UNIX_NAME, UNIX_PATH, UNIX_PATH_MAX, UNIX_PATH_PREFIX,
        UnixConfig, UnixName, UnixRule,
    },
};

use crate::{
    address,
    maps::{CFG, UNIXALLOW, UNIXCFG},
    policy::{self, Standing},
    report,
    task::{self, read},
};

const SOCK_DGRAM: u32 = 2;

/// The kernel's context; the agent compares this with its type information before it loads the program.
#[repr(C)]
#[derive(Clone, Copy)]
struct Kern {
    sk: u64,
    uaddr: u64,
    tmp_reg: u64,
    t_ctx: u64,
    uaddrlen: u32,
}

enum Outcome {
    Pass,
    Deny(UnixName),
}

#[cgroup_sock_addr(connect4)]
pub(crate) fn connect_unix(ctx: SockAddrContext) -> i32 {
    match try_connect(&ctx) {
        Outcome::Pass => 1,
        // The caller gets EPERM.
        Outcome::Deny(name) => {
            let tgid = (bpf_get_current_pid_tgid() >> 32) as u32;
            // SAFETY: a helper without arguments.
            let cgroup = unsafe { bpf_get_current_cgroup_id() };
            report::notice(Stat::DeniedUnix, tgid, cgroup, |text| {
                // SAFETY: a notice's text is as long as a name.
                unsafe { text.cast::<UnixName>().write_unaligned(name) };
            });
            0
        }
    }
}

#[inline(always)]
fn try_connect(ctx: &SockAddrContext) -> Outcome {
    let unknown = UnixName { bytes: [0; UNIX_NAME] };
    let Some(unix) = UNIXCFG.get(0) else { return Outcome::Deny(unknown) };
    // Databases talk over streams; datagrams are for logs and notifications.
    if unix.active == 0 || address::kind(ctx) == SOCK_DGRAM {
        return Outcome::Pass;
    }
    let Some(config) = CFG.get(0) else { return Outcome::Deny(unknown) };
    match policy::current(config) {
        Standing::Agent | Standing::Bypassed => return Outcome::Pass,
        Standing::Denied | Standing::Governed => {}
    }
    let mut name = unknown;
    let Some(length) = read_name(ctx, &mut name) else { return Outcome::Deny(unknown) };
    let key = aya_ebpf::btf_maps::lpm_trie::Key::new((UNIX_NAME * 8) as u32, name);
    match UNIXALLOW.get(&key) {
        Some(rule) if is_allowed(*rule, unix, &name, length) => Outcome::Pass,
        _ => Outcome::Deny(name),
    }
}

/// The name as the kernel copied it from the caller, and its length.
#[inline(always)]
fn read_name(ctx: &SockAddrContext, name: &mut UnixName) -> Option<u32> {
    // SAFETY: a probe read; the context's address is the kernel's own context.
    let kern = unsafe { bpf_probe_read_kernel(ctx.sock_addr.cast::<Kern>().cast_const()) }.ok()?;
    let length = kern.uaddrlen.wrapping_sub(2);
    if length == 0 || length > UNIX_PATH_MAX as u32 {
        return None;
    }
    // Changes nothing any more; the verifier takes its word for it.
    let length = core::hint::black_box(length) & (UNIX_NAME as u32 - 1);
    // SAFETY: at most the name's own size is written.
    let status =
        unsafe { read_bytes(name.bytes.as_mut_ptr().cast(), length, kern.uaddr.wrapping_add(2) as *const _) };
    (status == 0).then_some(length)
}

#[inline(always)]
fn is_allowed(rule: UnixRule, unix: &UnixConfig, name: &UnixName, length: u32) -> bool {
    match rule.kind {
        UNIX_PATH => is_at_home(unix),
        UNIX_PATH_PREFIX => ends_there(name, rule.length) && is_at_home(unix),
        UNIX_ABSTRACT => length == rule.length,
        UNIX_ABSTRACT_PREFIX => true,
        _ => false,
    }
}

/// Whether the path goes no deeper than the directory that is allowed: `..` would lead out of it.
#[inline(always)]
fn ends_there(name: &UnixName, prefix: u32) -> bool {
    for (index, byte) in name.bytes.iter().enumerate() {
        if index as u32 >= prefix {
            match byte {
                0 => return true,
                b'/' => return false,
                _ => {}
            }
        }
    }
    true
}

/// Whether the current task's root directory is one of the host's: neither a container's, nor a chroot, nor one in a mount
/// namespace of its own making.
#[inline(always)]
fn is_at_home(unix: &UnixConfig) -> bool {
    let Some((mount, inode)) = root() else { return false };
    let [first, second] = unix.root_mounts;
    let [first_inode, second_inode] = unix.root_inodes;
    (mount == first && inode == first_inode) || (mount == second && inode == second_inode)
}

#[inline(always)]
fn root() -> Option<(u32, u64)> {
    let offsets = task::offsets()?;
    // SAFETY: a helper without arguments.
    let current = unsafe { bpf_get_current_task() };
    let fs: u64 = read(current, offsets.task_fs)?;
    let vfsmount: u64 = read(fs, offsets.fs_root_mnt)?;
    let dentry: u64 = read(fs, offsets.fs_root_dentry)?;
    let mount = vfsmount.wrapping_sub(u64::from(offsets.mount_vfsmount));
    let inode: u64 = read(dentry, offsets.dentry_inode)?;
    Some((read(mount, offsets.mount_id)?, read(inode, offsets.inode_ino)?))
}
