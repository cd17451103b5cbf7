//! A listener in the namespace this thread is in.

use std::{
    fs::File,
    io,
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::fs::MetadataExt as _,
    },
    path::{Path, PathBuf},
};

use super::{
    super::{Listeners, bpffs::Pins, keep, programs},
    InterceptError, LookupProgram, sys,
};
use crate::intercept::listener;

const NAME: &str = "lookup";

pub(super) struct Served {
    pub(super) cookie: u64,
    pub(super) inode: u64,
    pub(super) listeners: Listeners,
    /// What keeps the lookup program in force, beside its pin.
    pub(super) link: OwnedFd,
}

/// Opens listeners and attaches a lookup program that knows them. The program's link is pinned: when the agent dies,
/// its connections are refused here too, and nobody else gets them. Where it cannot be pinned now it is later
/// ([`mend`]): connections are waiting.
///
/// The thread has entered `namespace`.
pub(super) fn open(namespace: &File, program: &LookupProgram, pins: &Pins) -> Result<Served, InterceptError> {
    let failed = |source| InterceptError::Netns { what: "identify", source };
    let cookie = sys::cookie_here().map_err(failed)?;
    let inode = namespace.metadata().map_err(failed)?.ino();
    let listeners = listener::listen_in_namespace()?;
    let instance = program.instance(&listeners)?;
    let link = programs::attach_lookup(instance.as_fd(), &pin(pins, cookie), namespace)?;
    if let Err(error) = mend(&link, pins, cookie) {
        tracing::warn!(cookie, error = %crate::intercept::chain(&error), "a network namespace is served without a pin");
    }
    Ok(Served { cookie, inode, listeners, link })
}

/// Pins the link if it is not; whether it was not.
pub(super) fn mend(link: &OwnedFd, pins: &Pins, cookie: u64) -> Result<bool, InterceptError> {
    let path = pin(pins, cookie);
    if path.exists() {
        return Ok(false);
    }
    keep::pin(link, &path, NAME).map(|()| true)
}

/// Whether the lookup program is still attached where it was.
pub(super) fn is_in_force(link: &OwnedFd, namespace: &File, pins: &Pins, cookie: u64) -> bool {
    programs::is_in_namespace(link, namespace, &pin(pins, cookie)).unwrap_or(false)
}

/// Where the link of a namespace's lookup program is pinned.
fn pin(pins: &Pins, cookie: u64) -> PathBuf {
    pins.namespaces().join(cookie.to_string())
}

/// Lets go of a namespace. Its listeners are the agent's to close.
pub(super) fn close(pins: &Pins, cookie: u64) {
    let pin = pin(pins, cookie);
    match std::fs::remove_file(&pin) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(pin = %pin.display(), %error, "cannot let go of a network namespace");
        }
        _ => {}
    }
}

/// Cookies of the namespaces with a pinned link.
pub(super) fn pinned(directory: &Path) -> Vec<u64> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}
