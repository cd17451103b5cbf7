//! The pin directory: on a bpf file system, `maps/`, `links/` and `netns/` below it.

use std::{
    fs,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
};

use nix::{
    mount::{MsFlags, mount},
    sys::statfs::{BPF_FS_MAGIC, statfs},
};

use super::InterceptError;

const USUAL: &str = "/sys/fs/bpf";

/// Paths of what is pinned.
#[derive(Debug, Clone)]
pub(super) struct Pins {
    root: PathBuf,
}

impl Pins {
    pub(super) fn new(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    pub(super) fn maps(&self) -> PathBuf {
        self.root.join("maps")
    }

    pub(super) fn links(&self) -> PathBuf {
        self.root.join("links")
    }

    /// Links of the network namespaces other than the host's, each named by its cookie.
    pub(super) fn namespaces(&self) -> PathBuf {
        self.root.join("netns")
    }

    pub(super) fn map(&self, name: &str) -> PathBuf {
        self.maps().join(name)
    }

    pub(super) fn link(&self, name: &str) -> PathBuf {
        self.links().join(name)
    }

    /// Makes the directories, and mounts the usual bpf file system when nobody has yet.
    pub(super) fn prepare(&self) -> Result<(), InterceptError> {
        if !is_bpffs(&self.root) && self.root.starts_with(USUAL) {
            mount_bpffs(Path::new(USUAL))?;
        }
        if !is_bpffs(&self.root) {
            return Err(InterceptError::NotBpffs { path: self.root.clone() });
        }
        for path in [self.maps(), self.links(), self.namespaces()] {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&path)
                .map_err(|source| InterceptError::PinDirectory { path, source })?;
        }
        Ok(())
    }

    /// Removes all pins, links first, and the directories. Returns the number of links removed.
    pub(super) fn remove(&self) -> Result<usize, InterceptError> {
        if !self.root.exists() {
            return Ok(0);
        }
        let links = remove_files(&self.links())? + remove_files(&self.namespaces())?;
        remove_files(&self.maps())?;
        for path in [self.links(), self.namespaces(), self.maps(), self.root.clone()] {
            match fs::remove_dir(&path) {
                // The root may be shared, or be the mount point itself.
                Err(source) if path != self.root && source.kind() != std::io::ErrorKind::NotFound => {
                    return Err(InterceptError::Unpin { path, source });
                }
                _ => {}
            }
        }
        Ok(links)
    }
}

/// Whether `path`, or its nearest ancestor that exists, is on a bpf file system.
pub(super) fn is_bpffs(path: &Path) -> bool {
    let existing = path.ancestors().find(|ancestor| ancestor.exists());
    existing.is_some_and(|existing| statfs(existing).is_ok_and(|fs| fs.filesystem_type() == BPF_FS_MAGIC))
}

fn mount_bpffs(path: &Path) -> Result<(), InterceptError> {
    let namespace = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/mnt")).ok();
    if let (Some(own), Some(hosts)) = (namespace("self"), namespace("1"))
        && own != hosts
    {
        return Err(InterceptError::BpffsNotShared { path: path.to_owned() });
    }
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC | MsFlags::MS_RELATIME;
    mount(Some("bpf"), path, Some("bpf"), flags, Some("mode=700"))
        .map_err(|source| InterceptError::MountBpffs { path: path.to_owned(), source })?;
    tracing::info!(path = %path.display(), "mounted a bpf file system: there was none");
    Ok(())
}

fn remove_files(directory: &Path) -> Result<usize, InterceptError> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(source) if source.kind() == std::io::ErrorKind::NotFound => return Ok(0),
        Err(source) => return Err(InterceptError::Unpin { path: directory.to_owned(), source }),
    };
    let mut removed = 0;
    for entry in entries {
        let path =
            entry.map_err(|source| InterceptError::Unpin { path: directory.to_owned(), source })?.path();
        fs::remove_file(&path).map_err(|source| InterceptError::Unpin { path, source })?;
        removed += 1;
    }
    Ok(removed)
}
