//! What can go wrong between the agent and the kernel, with what to do about it.

use std::{io, path::PathBuf};

use thiserror::Error;

#[derive(Debug, Error)]
pub enum InterceptError {
    #[error("this binary was built without its kernel programs; build them with `cargo xtask build`")]
    NoObject,

    #[error("cannot read {}", path.display())]
    Read { path: PathBuf, source: io::Error },

    #[error("no cgroup2 file system is mounted; mount one with `mount -t cgroup2 cgroup2 /sys/fs/cgroup`")]
    NoCgroup2,

    #[error("cannot open cgroup {}", path.display())]
    Cgroup { path: PathBuf, source: io::Error },

    #[error("cannot resolve cgroup id {id} (needs CAP_DAC_READ_SEARCH)")]
    CgroupById { id: u64, source: io::Error },

    #[error("cgroup path {path} is too long to be watched for; the longest has 255 bytes")]
    LongCgroupPath { path: String },

    #[error(
        "unix sockets of targets are configured, and this kernel has no hook for them (from 6.7 on, with BTF); protect \
         them by file permissions and the server's own rules instead, and take `unix_sockets` out"
    )]
    NoUnixHook,

    #[error("the kernel refused program connect_unix: {log}")]
    UnixProgram { source: io::Error, log: String },

    #[error("intercept.unix_allow: {name} is too long for the name of a unix socket")]
    UnixName { name: String },

    #[error(
        "intercept.unix_allow: {name} lies in {}, where others than root can put a link to a protected socket",
        directory.display()
    )]
    UnixDirectory { name: String, directory: PathBuf },

    #[error("cannot attach program {name}")]
    AttachByHand { name: &'static str, source: io::Error },

    #[error(
        "cannot watch for CAP_NET_RAW: the kernel has no tracepoint of capability checks (from 6.14 on); set \
         intercept.guard_net_raw to \"off\" and drop the capability instead"
    )]
    NoCapabilityTracepoint { source: aya::programs::ProgramError },

    #[error("cgroup id {id} does not exist (any more)")]
    CgroupGone { id: u64 },

    #[error(
        "the agent runs in a pid namespace of its own, where the kernel's process ids mean nothing; use the host's"
    )]
    PidNamespace,

    #[error(
        "the agent runs in a cgroup namespace of its own, where it cannot tell which cgroup it is in; use the host's (in \
         Kubernetes: a privileged container)"
    )]
    CgroupNamespace,

    #[error("cannot mount a bpf file system on {}", path.display())]
    MountBpffs { path: PathBuf, source: nix::Error },

    #[error("{} is not on a bpf file system; choose a directory below /sys/fs/bpf or mount one there", path.display())]
    NotBpffs { path: PathBuf },

    #[error(
        "{} is not mounted, and this process has a mount namespace of its own: what it mounted and pinned there would \
         end with it; mount a bpf file system there in the host's namespace", path.display()
    )]
    BpffsNotShared { path: PathBuf },

    #[error(
        "kernel {release} is older than {}.{}, the oldest Chaperone runs on: it loses a socket's cgroup once a v1 net \
         controller is used; boot a newer one, 6.1 or later is recommended", floor.0, floor.1
    )]
    KernelTooOld { release: String, floor: (u32, u32) },

    #[error("cannot prepare pin directory {}", path.display())]
    PinDirectory { path: PathBuf, source: io::Error },

    #[error(
        "pinned map {name} has another layout than this version's, which therefore cannot take over; what runs and \
         is pinned stays in force. Stop the agent, run `chaperone detach` and start this version (nothing is \
         intercepted in between)"
    )]
    PinnedMapDiffers { name: &'static str },

    #[error("cannot load the kernel programs")]
    Load(#[from] aya::EbpfError),

    #[error("the kernel refused program {name}")]
    LoadProgram { name: &'static str, source: aya::programs::ProgramError },

    #[error("cannot attach program {name}")]
    Attach { name: &'static str, source: aya::programs::ProgramError },

    #[error("the object has no program or map {name} of the right kind")]
    Missing { name: &'static str },

    #[error("cannot pin the link of program {name}")]
    Pin { name: &'static str, source: io::Error },

    #[error("cannot open pinned link {}", path.display())]
    OpenLink { path: PathBuf, source: io::Error },

    #[error("cannot replace the program of pinned link {}", path.display())]
    UpdateLink { path: PathBuf, source: io::Error },

    #[error("cannot remove pin {}", path.display())]
    Unpin { path: PathBuf, source: io::Error },

    #[error("cannot use map {name}")]
    Map { name: &'static str, source: aya::maps::MapError },

    #[error("cannot listen on {address}")]
    Listen { address: std::net::SocketAddr, source: io::Error },

    #[error("cannot hold the listener")]
    ListenAgain { source: io::Error },

    #[error("target {addr}/{prefix} port {port}: {reason}")]
    Target { addr: std::net::IpAddr, prefix: u8, port: u16, reason: &'static str },

    #[error("cannot read the accepted socket's origin")]
    Origin { source: aya::maps::MapError },

    #[error("cannot {what} network namespace")]
    Netns { what: &'static str, source: io::Error },

    #[error("nft is missing; install nftables, or say `guard = \"off\"`")]
    NoNft,

    #[error("cannot run nft")]
    Nft { source: io::Error },

    #[error("nft refused the rules: {said}")]
    NftRefused { said: String },

    #[error("cannot read the clock")]
    Clock { source: nix::Error },
}
