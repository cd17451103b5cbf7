//! The kernel programs: loading them, attaching and pinning their links, and replacing the program of a link that
//! is pinned already.
//!
//! A link that is in place is never detached to be attached again: BPF_LINK_UPDATE swaps its program atomically,
//! which aya 0.14 cannot do for cgroup links, hence libbpf-sys here.

use std::{
    ffi::CString,
    fs::{self, File},
    io,
    os::{
        fd::{AsFd as _, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
        unix::{ffi::OsStrExt as _, fs::MetadataExt as _},
    },
    path::Path,
};

use aya::{
    Ebpf,
    programs::{
        CgroupAttachMode, CgroupSkbAttachType, Program, ProgramError, ProgramFd,
        links::{FdLink, PinnedLink},
    },
};
use libbpf_sys as bpf;

use super::{InterceptError, bpffs::Pins};

/// What a program's link is attached to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// The root of the governed tree.
    Governed,
    /// The agent's own cgroup.
    Agent,
    /// The agent's network namespace.
    Netns,
    /// A raw tracepoint of the kernel's: the whole host.
    Tracepoint(&'static str),
}

/// In the order they are attached: what serves a redirected connection is in place before connects are redirected,
/// and the net that drops comes last. The tracepoints come first: who connects has been seen to start.
const PROGRAMS: &[(&str, Place)] = &[
    ("cgroup_made", Place::Tracepoint("cgroup_mkdir")),
    ("cgroup_gone", Place::Tracepoint("cgroup_release")),
    ("cgroup_moved", Place::Tracepoint("cgroup_attach_task")),
    ("process_exit", Place::Tracepoint("sched_process_exit")),
    ("process_exec", Place::Tracepoint("sched_process_exec")),
    ("process_fork", Place::Tracepoint("sched_process_fork")),
    ("lookup", Place::Netns),
    ("accepted", Place::Agent),
    ("sock_events", Place::Governed),
    ("getpeername4", Place::Governed),
    ("getpeername6", Place::Governed),
    ("bind4", Place::Governed),
    ("bind6", Place::Governed),
    ("sock_create", Place::Governed),
    ("sendmsg4", Place::Governed),
    ("sendmsg6", Place::Governed),
    ("connect4", Place::Governed),
    ("connect6", Place::Governed),
    ("egress", Place::Governed),
];

/// All links, by the names of their pins, with their places.
pub(super) fn all() -> impl Iterator<Item = (&'static str, Place)> {
    PROGRAMS.iter().copied()
}

/// Where the links go.
pub(super) struct Places {
    pub(super) governed: OwnedFd,
    pub(super) governed_id: u64,
    pub(super) agent: OwnedFd,
    pub(super) agent_id: u64,
}

/// What became of the links.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Attached {
    /// Links made by this start.
    pub fresh: usize,
    /// Links of an earlier agent whose programs were replaced.
    pub taken_over: usize,
    /// Of the fresh ones, those that stand in for a link an earlier agent had attached elsewhere, or whose cgroup is
    /// gone.
    pub moved: usize,
}

/// Loads every program into the kernel; nothing is attached yet. False when a tracepoint's program was refused: then
/// none of them may run, because half of the notes would be wrong ones.
pub(super) fn load(ebpf: &mut Ebpf) -> Result<bool, InterceptError> {
    let mut traced = true;
    for &(name, place) in PROGRAMS {
        let program = ebpf.program_mut(name).ok_or(InterceptError::Missing { name })?;
        match (load_one(program), place) {
            (Ok(()), _) => {}
            (Err(error), Place::Tracepoint(_)) => {
                tracing::warn!(
                    program = name,
                    %error,
                    "the kernel refused it: executables and ancestors will be unknown, and cgroups listed before they \
                     exist governed until a reload"
                );
                traced = false;
            }
            (Err(source), _) => return Err(InterceptError::LoadProgram { name, source }),
        }
    }
    Ok(traced)
}

/// Attaches and pins all programs, or gives the pinned links the new ones. When this fails half-way, the links it made
/// itself are taken back and those it found stay.
pub(super) fn attach(
    ebpf: &mut Ebpf,
    pins: &Pins,
    places: &Places,
    traced: bool,
) -> Result<Attached, InterceptError> {
    let mut attached = Attached::default();
    let mut fresh = Vec::new();
    for &(name, place) in PROGRAMS {
        if !traced && matches!(place, Place::Tracepoint(_)) {
            continue;
        }
        let program = ebpf.program_mut(name).ok_or(InterceptError::Missing { name })?;
        match attach_one(program, name, place, pins, places) {
            Ok(Outcome::TakenOver) => attached.taken_over += 1,
            Ok(outcome) => {
                attached.fresh += 1;
                match outcome {
                    // Its predecessor is gone: taking it back would leave nothing.
                    Outcome::Moved => attached.moved += 1,
                    Outcome::Fresh | Outcome::TakenOver => fresh.push(pins.link(name)),
                }
            }
            Err(error) => {
                for pin in fresh {
                    if let Err(error) = fs::remove_file(&pin) {
                        tracing::warn!(pin = %pin.display(), %error, "could not take a link back");
                    }
                }
                return Err(error);
            }
        }
    }
    Ok(attached)
}

/// Puts an instance of the lookup program in force in a network namespace, or in place of the one that an earlier agent
/// pinned there. The link lasts as long as somebody holds it; it is for the caller to pin a new one.
pub(super) fn attach_lookup(
    program: BorrowedFd<'_>,
    pin: &Path,
    namespace: &File,
) -> Result<OwnedFd, InterceptError> {
    if let Some(link) = open_link(pin)? {
        if is_in_namespace(&link, namespace, pin)? {
            replace_program(&link, program, pin)?;
            return Ok(link);
        }
        fs::remove_file(pin).map_err(|source| InterceptError::Unpin { path: pin.to_owned(), source })?;
    }
    // SAFETY: both descriptors are open; null options mean defaults.
    let fd = unsafe {
        bpf::bpf_link_create(program.as_raw_fd(), namespace.as_raw_fd(), bpf::BPF_SK_LOOKUP, std::ptr::null())
    };
    if fd < 0 {
        let source = io::Error::from_raw_os_error(-fd);
        return Err(InterceptError::Netns { what: "attach the lookup program to a", source });
    }
    // SAFETY: the call returned a descriptor that nobody else has.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Fresh,
    Moved,
    TakenOver,
}

fn attach_one(
    program: &mut Program,
    name: &'static str,
    place: Place,
    pins: &Pins,
    places: &Places,
) -> Result<Outcome, InterceptError> {
    let pin = pins.link(name);
    let stale = match open_link(&pin)? {
        Some(link) if is_at(&link, place, places, &pin)? => {
            let fd = program_fd(program).map_err(|source| InterceptError::Attach { name, source })?;
            replace_program(&link, fd.as_fd(), &pin)?;
            return Ok(Outcome::TakenOver);
        }
        Some(_elsewhere) => true,
        None => false,
    };
    attach_anew(program, name, place, pins, places, stale)?;
    Ok(match (stale, place) {
        (true, Place::Tracepoint(_)) => Outcome::TakenOver,
        (true, _) => Outcome::Moved,
        (false, _) => Outcome::Fresh,
    })
}

/// Makes a link and pins it; `replace` when something is pinned there that is no use.
pub(super) fn attach_anew(
    program: &mut Program,
    name: &'static str,
    place: Place,
    pins: &Pins,
    places: &Places,
    replace: bool,
) -> Result<(), InterceptError> {
    let pin = pins.link(name);
    let link = match place {
        Place::Governed => attach_to(program, places.governed.as_fd()),
        Place::Agent => attach_to(program, places.agent.as_fd()),
        Place::Netns => attach_to(program, own_netns()?.as_fd()),
        Place::Tracepoint(tracepoint) => attach_to_tracepoint(program, tracepoint),
    }
    .map_err(|source| InterceptError::Attach { name, source })?;
    if replace && matches!(place, Place::Tracepoint(_)) {
        // Such a link cannot change its program: for a moment both run, and the later one's word counts.
        fs::remove_file(&pin).map_err(|source| InterceptError::Unpin { path: pin.clone(), source })?;
    } else if replace {
        // Only now, with the new link in force, so that there is no instant with neither.
        tracing::debug!(program = name, "its link was attached elsewhere: attached anew");
        fs::remove_file(&pin).map_err(|source| InterceptError::Unpin { path: pin.clone(), source })?;
    }
    pin_link(link, &pin, name)
}

fn load_one(program: &mut Program) -> Result<(), ProgramError> {
    match program {
        Program::CgroupSockAddr(program) => program.load(),
        Program::CgroupSock(program) => program.load(),
        Program::CgroupSkb(program) => program.load(),
        Program::SockOps(program) => program.load(),
        Program::SkLookup(program) => program.load(),
        Program::RawTracePoint(program) => program.load(),
        _ => Err(ProgramError::UnexpectedProgramType),
    }
}

fn program_fd(program: &Program) -> Result<&ProgramFd, ProgramError> {
    match program {
        Program::CgroupSockAddr(program) => program.fd(),
        Program::CgroupSock(program) => program.fd(),
        Program::CgroupSkb(program) => program.fd(),
        Program::SockOps(program) => program.fd(),
        Program::SkLookup(program) => program.fd(),
        Program::RawTracePoint(program) => program.fd(),
        _ => Err(ProgramError::UnexpectedProgramType),
    }
}

/// Flags 0 (`Single`): a cgroup *link* coexists with others anyway, and BPF_LINK_CREATE accepts no flags.
fn attach_to(program: &mut Program, to: BorrowedFd<'_>) -> Result<FdLink, ProgramError> {
    const MODE: CgroupAttachMode = CgroupAttachMode::Single;
    fn fd_link<L>(link: L) -> Result<FdLink, ProgramError>
    where
        FdLink: TryFrom<L>,
    {
        // Only kernels before 5.7 have attachments that are no links, and they are refused earlier.
        FdLink::try_from(link).map_err(|_not_a_link| ProgramError::UnexpectedProgramType)
    }
    match program {
        Program::CgroupSockAddr(program) => {
            let id = program.attach(to, MODE)?;
            fd_link(program.take_link(id)?)
        }
        Program::CgroupSock(program) => {
            let id = program.attach(to, MODE)?;
            fd_link(program.take_link(id)?)
        }
        Program::CgroupSkb(program) => {
            let id = program.attach(to, CgroupSkbAttachType::Egress, MODE)?;
            fd_link(program.take_link(id)?)
        }
        Program::SockOps(program) => {
            let id = program.attach(to, MODE)?;
            fd_link(program.take_link(id)?)
        }
        Program::SkLookup(program) => {
            let id = program.attach(to)?;
            Ok(program.take_link(id)?.into())
        }
        _ => Err(ProgramError::UnexpectedProgramType),
    }
}

/// Attaches the guard of CAP_NET_RAW, or takes an earlier agent's away.
pub(super) fn guard_net_raw(ebpf: &mut Ebpf, pins: &Pins, wanted: bool) -> Result<(), InterceptError> {
    const NAME: &str = "net_raw_used";
    let pin = pins.link(NAME);
    let link = if wanted {
        let program = ebpf.program_mut(NAME).ok_or(InterceptError::Missing { name: NAME })?;
        if program_fd(program).is_err() {
            load_one(program).map_err(|source| InterceptError::LoadProgram { name: NAME, source })?;
        }
        let link = attach_to_tracepoint(program, "cap_capable");
        Some(link.map_err(|source| InterceptError::NoCapabilityTracepoint { source })?)
    } else {
        None
    };
    if pin.exists() {
        fs::remove_file(&pin).map_err(|source| InterceptError::Unpin { path: pin.clone(), source })?;
    }
    link.map_or(Ok(()), |link| pin_link(link, &pin, NAME))
}

/// Attaches a program that aya did not load to the governed tree, or gives its pinned link this version's.
pub(super) fn attach_by_hand(
    program: BorrowedFd<'_>,
    kind: bpf::bpf_attach_type,
    pin: &Path,
    name: &'static str,
    places: &Places,
) -> Result<(), InterceptError> {
    let stale = match open_link(pin)? {
        Some(link) if is_at(&link, Place::Governed, places, pin)? => {
            return replace_program(&link, program, pin);
        }
        Some(_elsewhere) => true,
        None => false,
    };
    let failed =
        |status: i32| InterceptError::AttachByHand { name, source: io::Error::from_raw_os_error(-status) };
    // SAFETY: both descriptors are open; null options mean defaults.
    let fd = unsafe {
        bpf::bpf_link_create(program.as_raw_fd(), places.governed.as_raw_fd(), kind, std::ptr::null())
    };
    if fd < 0 {
        return Err(failed(fd));
    }
    // SAFETY: the call returned a descriptor that nobody else has.
    let link = unsafe { OwnedFd::from_raw_fd(fd) };
    if stale {
        // Only now, with the new link in force.
        fs::remove_file(pin).map_err(|source| InterceptError::Unpin { path: pin.to_owned(), source })?;
    }
    let path = CString::new(pin.as_os_str().as_bytes())
        .map_err(|error| InterceptError::Pin { name, source: error.into() })?;
    // SAFETY: `link` is open and `path` is a terminated string that outlives the call.
    let status = unsafe { bpf::bpf_obj_pin(link.as_raw_fd(), path.as_ptr()) };
    if status == 0 { Ok(()) } else { Err(failed(status)) }
}

fn attach_to_tracepoint(program: &mut Program, tracepoint: &str) -> Result<FdLink, ProgramError> {
    let Program::RawTracePoint(program) = program else { return Err(ProgramError::UnexpectedProgramType) };
    let id = program.attach(tracepoint)?;
    Ok(program.take_link(id)?.into())
}

fn pin_link(link: FdLink, pin: &Path, name: &'static str) -> Result<(), InterceptError> {
    // The descriptor is closed again at once: from here on only the pin holds the link.
    let _closed: PinnedLink =
        link.pin(pin).map_err(|error| InterceptError::Pin { name, source: io::Error::other(error) })?;
    Ok(())
}

fn own_netns() -> Result<File, InterceptError> {
    let path = Path::new("/proc/self/ns/net");
    File::open(path).map_err(|source| InterceptError::Read { path: path.to_owned(), source })
}

/// `None` when nothing is pinned there.
pub(super) fn open_link(pin: &Path) -> Result<Option<OwnedFd>, InterceptError> {
    let failed = |source| InterceptError::OpenLink { path: pin.to_owned(), source };
    let path = CString::new(pin.as_os_str().as_bytes()).map_err(|error| failed(error.into()))?;
    // SAFETY: `path` is a terminated string that outlives the call.
    let fd = unsafe { bpf::bpf_obj_get(path.as_ptr()) };
    if fd >= 0 {
        // SAFETY: the call returned a descriptor that nobody else has.
        return Ok(Some(unsafe { OwnedFd::from_raw_fd(fd) }));
    }
    match io::Error::from_raw_os_error(-fd) {
        error if error.kind() == io::ErrorKind::NotFound => Ok(None),
        error => Err(failed(error)),
    }
}

/// Whether the link is attached where the program belongs. One whose cgroup was removed is attached nowhere.
pub(super) fn is_at(
    link: &OwnedFd,
    place: Place,
    places: &Places,
    pin: &Path,
) -> Result<bool, InterceptError> {
    if place == Place::Netns {
        return is_in_namespace(link, &own_netns()?, pin);
    }
    let info = link_info(link).map_err(|source| InterceptError::OpenLink { path: pin.to_owned(), source })?;
    // SAFETY: the union is filled according to the link's type, integers only; of a link of another type we read
    // numbers that mean something else, and the type is compared first.
    let cgroup = unsafe { info.__bindgen_anon_1.cgroup.cgroup_id };
    let wanted = if place == Place::Agent { places.agent_id } else { places.governed_id };
    Ok(info.type_ == bpf::BPF_LINK_TYPE_CGROUP && cgroup == wanted)
}

/// Whether the link is attached to this network namespace. One whose namespace has ended is attached nowhere.
/// Whether the link is attached to this namespace; a link that was detached is attached to none.
pub(super) fn is_in_namespace(link: &OwnedFd, namespace: &File, pin: &Path) -> Result<bool, InterceptError> {
    let failed = |source| InterceptError::OpenLink { path: pin.to_owned(), source };
    let info = link_info(link).map_err(failed)?;
    // SAFETY: as in `is_at`.
    let inode = unsafe { info.__bindgen_anon_1.netns.netns_ino };
    let wanted = namespace.metadata().map_err(failed)?.ino();
    Ok(info.type_ == bpf::BPF_LINK_TYPE_NETNS && u64::from(inode) == wanted)
}

pub(super) fn link_info(link: &OwnedFd) -> io::Result<bpf::bpf_link_info> {
    let mut info = bpf::bpf_link_info::default();
    let mut length = size_of::<bpf::bpf_link_info>() as u32;
    // SAFETY: `info` has `length` bytes and both outlive the call; all zero asks for no strings.
    let status = unsafe { bpf::bpf_link_get_info_by_fd(link.as_raw_fd(), &raw mut info, &raw mut length) };
    if status == 0 { Ok(info) } else { Err(io::Error::from_raw_os_error(-status)) }
}

fn replace_program(link: &OwnedFd, program: BorrowedFd<'_>, pin: &Path) -> Result<(), InterceptError> {
    // SAFETY: both descriptors are open; null options mean defaults.
    let status = unsafe { bpf::bpf_link_update(link.as_raw_fd(), program.as_raw_fd(), std::ptr::null()) };
    if status == 0 {
        return Ok(());
    }
    let source = io::Error::from_raw_os_error(-status);
    Err(InterceptError::UpdateLink { path: pin.to_owned(), source })
}

/// Ids of the cgroups the pinned links are attached to (`None`: pin missing, or not a cgroup's), by link name.
pub(super) fn pinned(pins: &Pins) -> Result<Vec<(&'static str, Option<u64>)>, InterceptError> {
    let mut states = Vec::new();
    for (name, place) in PROGRAMS {
        let pin = pins.link(name);
        let Some(link) = open_link(&pin)? else {
            states.push((*name, None));
            continue;
        };
        let info =
            link_info(&link).map_err(|source| InterceptError::OpenLink { path: pin.clone(), source })?;
        let at = match place {
            // SAFETY: the union is filled according to the link's type, integers only.
            Place::Netns => u64::from(unsafe { info.__bindgen_anon_1.netns.netns_ino }),
            // SAFETY: as above.
            Place::Governed | Place::Agent => unsafe { info.__bindgen_anon_1.cgroup.cgroup_id },
            // Attached to the host as a whole: there is no id to tell, and it is always there.
            Place::Tracepoint(_) => 1,
        };
        states.push((*name, (at != 0).then_some(at)));
    }
    Ok(states)
}
