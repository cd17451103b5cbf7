//! What a running agent holds of the kernel besides the pins, and how it puts back what somebody took away.
//!
//! A pin that is removed takes nothing with it while the agent lives: the agent holds every link and map itself, and
//! pins it again. A link that was detached is gone at once; it is attached anew at the next look, and until then the
//! hooks of that link do not run. Only root on the host can do either.

use std::{
    ffi::CString,
    fs, io,
    os::{
        fd::{AsFd as _, AsRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::{Path, PathBuf},
};

use aya::{Ebpf, maps::MapInfo};
use libbpf_sys as bpf;

use super::{
    InterceptError,
    bpffs::Pins,
    programs::{self, Place, Places},
    state,
};

/// Descriptors of everything that is pinned.
pub(super) struct Held {
    links: Vec<Link>,
    /// Links of programs that are only attached on some kernels or when configured, by the names of their pins.
    optional: Vec<(PathBuf, OwnedFd)>,
    maps: Vec<(&'static str, OwnedFd)>,
}

struct Link {
    name: &'static str,
    place: Place,
    fd: OwnedFd,
}

impl Held {
    pub(super) fn nothing() -> Self {
        Self { links: Vec::new(), optional: Vec::new(), maps: Vec::new() }
    }

    /// Opens what is pinned.
    pub(super) fn take(pins: &Pins) -> Result<Self, InterceptError> {
        let links = programs::all().filter_map(|(name, place)| match programs::open_link(&pins.link(name)) {
            Ok(Some(fd)) => Some(Ok(Link { name, place, fd })),
            // A kernel that does not take the tracepoints' programs has none of their links.
            Ok(None) if matches!(place, Place::Tracepoint(_)) => None,
            Ok(None) => Some(Err(InterceptError::Missing { name })),
            Err(error) => Some(Err(error)),
        });
        let maps = state::pinned_names().map(|name| {
            let info = MapInfo::from_pin(pins.map(name));
            let fd =
                info.and_then(|info| info.fd()).map_err(|source| InterceptError::Map { name, source })?;
            let fd = fd.as_fd().try_clone_to_owned();
            Ok((name, fd.map_err(|source| InterceptError::Pin { name, source })?))
        });
        Ok(Self {
            links: links.collect::<Result<_, InterceptError>>()?,
            optional: optional(pins)?,
            maps: maps.collect::<Result<_, InterceptError>>()?,
        })
    }

    /// Puts back what is missing; says what that was.
    pub(super) fn mend(
        &mut self,
        ebpf: &mut Ebpf,
        pins: &Pins,
        places: &Places,
        found: &mut Vec<String>,
    ) -> Result<(), InterceptError> {
        if !pins.links().is_dir() || !pins.maps().is_dir() {
            found.push("the pin directory is gone".to_owned());
            pins.prepare()?;
        }
        for link in &mut self.links {
            link.mend(ebpf, pins, places, found)?;
        }
        for (path, fd) in &self.optional {
            if !path.exists() {
                found.push(format!("the pin {} was removed", path.display()));
                pin(fd, path, "optional")?;
            }
        }
        for (name, fd) in &self.maps {
            let path = pins.map(name);
            if !path.exists() {
                found.push(format!("the pin of map {name} was removed"));
                pin(fd, &path, name)?;
            }
        }
        Ok(())
    }
}

/// Whatever else is pinned among the links.
fn optional(pins: &Pins) -> Result<Vec<(PathBuf, OwnedFd)>, InterceptError> {
    let folder = pins.links();
    let failed = |source| InterceptError::Read { path: folder.clone(), source };
    let mut held = Vec::new();
    for entry in fs::read_dir(&folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let known = programs::all().any(|(name, _)| pins.link(name) == path);
        if !known && let Some(fd) = programs::open_link(&path)? {
            held.push((path, fd));
        }
    }
    Ok(held)
}

impl Link {
    fn mend(
        &mut self,
        ebpf: &mut Ebpf,
        pins: &Pins,
        places: &Places,
        found: &mut Vec<String>,
    ) -> Result<(), InterceptError> {
        let Self { name, place, .. } = *self;
        let path = pins.link(name);
        let pinned = programs::open_link(&path)?;
        // A tracepoint's link cannot be detached, only dropped, and we hold it.
        if !matches!(place, Place::Tracepoint(_)) && !programs::is_at(&self.fd, place, places, &path)? {
            found.push(format!("program {name} was detached"));
            let program = ebpf.program_mut(name).ok_or(InterceptError::Missing { name })?;
            programs::attach_anew(program, name, place, pins, places, pinned.is_some())?;
            self.fd = programs::open_link(&path)?.ok_or(InterceptError::Missing { name })?;
            return Ok(());
        }
        let id = |fd| programs::link_info(fd).map(|info| info.id);
        let failed = |source| InterceptError::OpenLink { path: path.clone(), source };
        match pinned {
            Some(pinned) if id(&pinned).map_err(failed)? == id(&self.fd).map_err(failed)? => Ok(()),
            Some(_another) => {
                found.push(format!("another link was pinned in the place of {name}"));
                fs::remove_file(&path)
                    .map_err(|source| InterceptError::Unpin { path: path.clone(), source })?;
                pin(&self.fd, &path, name)
            }
            None => {
                found.push(format!("the pin of {name} was removed"));
                pin(&self.fd, &path, name)
            }
        }
    }
}

/// Pins what is held.
pub(super) fn pin(fd: &OwnedFd, path: &Path, name: &'static str) -> Result<(), InterceptError> {
    let failed = |source| InterceptError::Pin { name, source };
    let path = CString::new(path.as_os_str().as_bytes()).map_err(|error| failed(error.into()))?;
    // SAFETY: the descriptor is open, and `path` is a terminated string that outlives the call.
    let status = unsafe { bpf::bpf_obj_pin(fd.as_raw_fd(), path.as_ptr()) };
    if status == 0 { Ok(()) } else { Err(failed(io::Error::from_raw_os_error(-status))) }
}
