//! The system calls behind it: entering a namespace, who a socket belongs to, processes by descriptor.

use std::{
    fs::File,
    io,
    os::fd::{AsRawFd, FromRawFd as _, OwnedFd},
};

use nix::{
    libc,
    sched::{CloneFlags, setns},
};
use socket2::{Domain, Socket, Type};

/// Moves this thread, and no other, into the namespace.
pub(super) fn enter(namespace: &File) -> io::Result<()> {
    setns(namespace, CloneFlags::CLONE_NEWNET).map_err(io::Error::from)
}

/// The cookie of the namespace this thread is in: a socket says whose it is, whatever /proc says by now.
pub(super) fn cookie_here() -> io::Result<u64> {
    let socket = Socket::new(Domain::UNIX, Type::DGRAM, None)?;
    option(&socket, libc::SO_NETNS_COOKIE)
}

pub(super) fn open_process(pid: u32) -> io::Result<OwnedFd> {
    // SAFETY: takes two integers.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    owned(fd)
}

/// The namespace of the process's socket with this cookie, if its descriptor `number` is that socket.
pub(super) fn namespace_of_socket(process: &OwnedFd, number: i32, cookie: u64) -> io::Result<Option<File>> {
    const SIOCGSKNS: libc::Ioctl = 0x894c;
    // SAFETY: takes three integers; the first is an open descriptor.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_getfd, process.as_raw_fd(), number, 0) };
    let socket = owned(fd)?;
    if option(&socket, libc::SO_COOKIE)? != cookie {
        return Ok(None);
    }
    // SAFETY: the request takes no argument and returns a descriptor of the socket's namespace.
    let fd = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCGSKNS) };
    owned(fd.into()).map(|namespace| Some(File::from(namespace)))
}

/// A socket option that is one 64-bit number.
fn option(socket: &impl AsRawFd, name: libc::c_int) -> io::Result<u64> {
    let mut value = 0_u64;
    let mut length = size_of::<u64>() as libc::socklen_t;
    // SAFETY: `value` has `length` bytes, and both outlive the call.
    let status = unsafe {
        libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, name, (&raw mut value).cast(), &raw mut length)
    };
    if status == 0 { Ok(value) } else { Err(io::Error::last_os_error()) }
}

fn owned(fd: libc::c_long) -> io::Result<OwnedFd> {
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    let fd = i32::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: a system call has just returned this descriptor, so nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
