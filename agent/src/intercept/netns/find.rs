//! The network namespace behind a question of the kernel programs: they know its cookie, and who connected.

use std::{
    fs::{self, File},
    io,
};

use chaperone_ebpf::Ask;

use super::sys;

/// More descriptors than this of one process are not looked at; the held SYN is sent again and asks again.
const MAX_DESCRIPTORS: usize = 4096;

/// Finds it and moves this thread into it. The cookie is compared inside, so that neither a process id that was given
/// to somebody else meanwhile nor a process that moved on leads anywhere wrong.
pub(super) fn enter(ask: &Ask) -> io::Result<File> {
    let paths = [format!("/proc/{}/task/{}/ns/net", ask.tgid, ask.tid), format!("/proc/{}/ns/net", ask.tgid)];
    for path in paths {
        if let Ok(namespace) = File::open(path)
            && is_it(&namespace, ask.netns)
        {
            return Ok(namespace);
        }
    }
    // A socket made elsewhere: handed over, or left behind by a thread that moved.
    match by_socket(ask)? {
        Some(namespace) if is_it(&namespace, ask.netns) => Ok(namespace),
        _ => Err(io::Error::new(io::ErrorKind::NotFound, "the process is gone, or has closed the socket")),
    }
}

fn is_it(namespace: &File, cookie: u64) -> bool {
    sys::enter(namespace).is_ok() && sys::cookie_here().is_ok_and(|here| here == cookie)
}

fn by_socket(ask: &Ask) -> io::Result<Option<File>> {
    let process = sys::open_process(ask.tgid)?;
    let directory = format!("/proc/{}/fd", ask.tgid);
    for entry in fs::read_dir(directory)?.flatten().take(MAX_DESCRIPTORS) {
        if !is_socket(&entry.path()) {
            continue;
        }
        let Some(number) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // Closed meanwhile, or not ours to take: the next one.
        if let Ok(Some(namespace)) = sys::namespace_of_socket(&process, number, ask.cookie) {
            return Ok(Some(namespace));
        }
    }
    Ok(None)
}

fn is_socket(link: &std::path::Path) -> bool {
    fs::read_link(link).is_ok_and(|target| target.to_string_lossy().starts_with("socket:"))
}
