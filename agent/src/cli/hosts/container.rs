//! known_hosts lines for a container, which has files of its own and does not ask the agent.
//!
//! They appear as a file that OpenSSH reads unless it is told otherwise and that nobody else uses. It is mounted: the container
//! cannot write it, the host keeps no file for it, and it goes with the container.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use nix::unistd::{chroot, fchdir};
use rustix::fs::CWD;
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};

/// The second of ssh_config(5)'s GlobalKnownHostsFile.
const FILE: &str = "/etc/ssh/ssh_known_hosts2";

const HEADER: &str = "# Put here by `chaperone hosts install`";

#[derive(Debug, thiserror::Error)]
pub(super) enum ContainerError {
    #[error("process {pid}: {source}")]
    Process { pid: u32, source: std::io::Error },
    #[error("process {pid} has the host's own files: `chaperone hosts install` without --pid is for those")]
    Host { pid: u32 },
    #[error("a namespace of its own: {0}")]
    Namespace(Errno),
    #[error("making the file: {0}")]
    Make(std::io::Error),
    #[error("a mount without a place (Linux 5.2): {0}")]
    Tree(std::io::Error),
    #[error("entering the container: {0}")]
    Enter(Errno),
    #[error("the container has no /etc/ssh: is OpenSSH's client in it?")]
    NoClient,
    #[error(
        "the container's files are read-only: start it with the output of `chaperone hosts keys` at {FILE} instead"
    )]
    ReadOnly,
    #[error("{FILE} in the container: {0}")]
    File(std::io::Error),
    #[error("{FILE} in the container is somebody else's")]
    NotOurs,
    #[error("there is nothing of ours in the container")]
    Nothing,
    #[error("a bug ended it")]
    Bug,
}

/// A process's files.
struct Container {
    namespace: File,
    root: File,
}

/// Puts the lines where ssh in the container of a process finds them, in the place of what was put there before. `over`, a
/// folder of the host, is where they are made; nobody else sees that.
pub(super) fn put(pid: u32, lines: &str, over: &Path) -> Result<(), ContainerError> {
    let (container, over) = (Container::of(pid)?, over.to_owned());
    let text =
        format!("{HEADER}: what governed processes see at targets. Taken away by `hosts remove`.\n{lines}");
    apart(move || {
        let tree = made(&text, &over)?;
        container.enter()?;
        match taken() {
            Ok(()) | Err(ContainerError::Nothing) => {}
            Err(error) => return Err(error),
        }
        place()?;
        let placed = move_mount(&tree, "", CWD, FILE, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH);
        placed.map_err(|error| ContainerError::File(error.into()))
    })
}

/// Takes them away again.
pub(super) fn take(pid: u32) -> Result<(), ContainerError> {
    let container = Container::of(pid)?;
    apart(move || {
        container.enter()?;
        taken()
    })
}

impl Container {
    fn of(pid: u32) -> Result<Self, ContainerError> {
        let failed = |source| ContainerError::Process { pid, source };
        let namespace = File::open(format!("/proc/{pid}/ns/mnt")).map_err(failed)?;
        let root = OpenOptions::new()
            .read(true)
            .custom_flags((OFlag::O_PATH | OFlag::O_DIRECTORY).bits())
            .open(format!("/proc/{pid}/root"))
            .map_err(failed)?;
        let here = fs::metadata("/proc/self/ns/mnt").map_err(failed)?;
        if namespace.metadata().map_err(failed)?.ino() == here.ino() {
            return Err(ContainerError::Host { pid });
        }
        Ok(Self { namespace, root })
    }

    /// Moves this thread into it. Its links lead nowhere else from then on.
    fn enter(&self) -> Result<(), ContainerError> {
        setns(&self.namespace, CloneFlags::CLONE_NEWNS).map_err(ContainerError::Enter)?;
        fchdir(&self.root).and_then(|()| chroot(".")).map_err(ContainerError::Enter)
    }
}

/// On a thread with files of its own, which the rest of the process does not follow.
fn apart<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ContainerError> + Send + 'static,
) -> Result<T, ContainerError> {
    let thread = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNS).map_err(ContainerError::Namespace)?;
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(None::<&str>, "/", None::<&str>, private, None::<&str>).map_err(ContainerError::Namespace)?;
        work()
    });
    thread.join().unwrap_or(Err(ContainerError::Bug))
}

/// The file, on a file system of its own that cannot be written, and at no place yet.
fn made(text: &str, over: &Path) -> Result<OwnedFd, ContainerError> {
    let failed = |error: Errno| ContainerError::Make(error.into());
    let plain = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("chaperone"), over, Some("tmpfs"), plain, Some("mode=755,size=16m")).map_err(failed)?;
    let file: PathBuf = over.join("known_hosts");
    fs::write(&file, text).map_err(ContainerError::Make)?;
    let read_only = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY | plain;
    mount(None::<&str>, over, None::<&str>, read_only, None::<&str>).map_err(failed)?;
    open_tree(CWD, &file, OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC)
        .map_err(|error| ContainerError::Tree(error.into()))
}

/// An empty file to mount on, if there is none.
fn place() -> Result<(), ContainerError> {
    let made = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o644)
        .custom_flags(OFlag::O_NOFOLLOW.bits())
        .open(FILE);
    match made {
        Ok(_) => Ok(()),
        // Something with content would be hidden by ours.
        Err(error) if error.kind() == ErrorKind::AlreadyExists => match fs::symlink_metadata(FILE) {
            Ok(meta) if meta.is_file() && meta.len() == 0 => Ok(()),
            Ok(_) => Err(ContainerError::NotOurs),
            Err(error) => Err(ContainerError::File(error)),
        },
        Err(error) if error.kind() == ErrorKind::NotFound => Err(ContainerError::NoClient),
        Err(error) if error.kind() == ErrorKind::ReadOnlyFilesystem => Err(ContainerError::ReadOnly),
        Err(error) => Err(ContainerError::File(error)),
    }
}

/// Takes away what was put there, and what it was put on.
fn taken() -> Result<(), ContainerError> {
    let opened = OpenOptions::new().read(true).custom_flags(OFlag::O_NOFOLLOW.bits()).open(FILE);
    let mut file = match opened {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Err(ContainerError::Nothing),
        Err(error) => return Err(ContainerError::File(error)),
    };
    let mut beginning = [0; HEADER.len()];
    match file.read_exact(&mut beginning) {
        Ok(()) if beginning == HEADER.as_bytes() => {}
        // An empty file is one that was left behind, or there before.
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Err(ContainerError::Nothing),
        Ok(()) => return Err(ContainerError::NotOurs),
        Err(error) => return Err(ContainerError::File(error)),
    }
    drop(file);
    match umount2(FILE, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
        Ok(()) => {}
        // It looks like ours and is no mount.
        Err(Errno::EINVAL) => return Err(ContainerError::NotOurs),
        Err(error) => return Err(ContainerError::File(error.into())),
    }
    match fs::symlink_metadata(FILE) {
        Ok(meta) if meta.is_file() && meta.len() == 0 => fs::remove_file(FILE).map_err(ContainerError::File),
        _ => Ok(()),
    }
}
