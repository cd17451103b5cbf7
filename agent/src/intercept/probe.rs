//! What this kernel and host offer of what the programs need, for `chaperone doctor`.
//!
//! Program types, maps and helpers are probed by asking the kernel (libbpf loads tiny programs), never derived from
//! its version: distributions carry features back. Needs the agent's own privileges; without them most probes
//! fail, which is why the capabilities come first.

mod attach;
mod pinned;

use std::{fs, net::Ipv6Addr, os::unix::fs::MetadataExt as _, path::Path};

use libbpf_sys as bpf;
use nix::sys::utsname::uname;

use super::{InterceptError, OBJECT, bpffs, cgroup2_mount, guard, netns};

/// Oldest kernel whose cgroup hooks behave as the design needs.
const FLOOR: (u32, u32) = (5, 15);

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Feature {
    pub name: String,
    pub ok: bool,
    /// Without a required feature the agent does not start; without another it works in the way `otherwise` says.
    pub required: bool,
    pub why: &'static str,
    /// What to do about it, or what is lost.
    pub otherwise: String,
}

/// All of them, in the order an operator should mend them.
#[must_use]
pub fn features() -> Vec<Feature> {
    silence_libbpf();
    let mut features = host();
    features.extend(PROGRAM_TYPES.iter().map(probe_program_type));
    features.extend(MAP_TYPES.iter().map(probe_map_type));
    features.extend(HELPERS.iter().map(probe_helper));
    features.extend(attach_types());
    features
}

/// What is pinned at this place and in force now, whose heart beats there, and for whom.
#[must_use]
pub fn in_force(bpffs: &Path) -> Vec<Feature> {
    silence_libbpf();
    pinned::features(bpffs)
}

/// What only a program of the very kind can tell.
fn attach_types() -> Vec<Feature> {
    vec![
        optional(
            "raw tracepoints (sched_process_exec)",
            attach::attaches_to_tracepoint(c"sched_process_exec"),
            "they tell which program a process runs, also when it is gone by the time it is asked",
            "what a process runs is read from /proc, which misses those that have ended",
        ),
        optional(
            "typed tracepoints (tp_btf)",
            attach::loads_for_typed_tracepoint(c"sched_process_exec"),
            "tracepoints whose arguments the verifier checks",
            "nothing needs them yet",
        ),
        optional(
            "raw tracepoint cap_capable (6.14)",
            attach::attaches_to_tracepoint(c"cap_capable"),
            "it shows who uses CAP_NET_RAW",
            "drop CAP_NET_RAW from workloads",
        ),
        optional(
            "attach type connect_unix (6.7)",
            attach::loads(SOCK_ADDR, bpf::BPF_CGROUP_UNIX_CONNECT),
            "connections to a local database's unix socket can be governed",
            "unix sockets of databases are not governed: use their permissions and pg_hba.conf",
        ),
    ]
}

/// Refuses kernels on which the design does not hold.
pub(super) fn require_floor() -> Result<(), InterceptError> {
    let release = release();
    if version(&release).is_some_and(|version| version >= FLOOR) {
        return Ok(());
    }
    Err(InterceptError::KernelTooOld { release, floor: FLOOR })
}

fn release() -> String {
    uname().map(|name| name.release().to_string_lossy().into_owned()).unwrap_or_default()
}

/// bpf_set_retval for sock_create (5.18).
pub(super) fn can_set_retval() -> bool {
    silence_libbpf();
    has_helper(bpf::BPF_PROG_TYPE_CGROUP_SOCK, bpf::BPF_FUNC_set_retval)
}

fn host() -> Vec<Feature> {
    let release = release();
    let (major, minor) = FLOOR;
    vec![
        required(
            "kernel programs in this binary",
            !OBJECT.is_empty(),
            "they are the interception",
            "build the agent with `cargo xtask build`",
        ),
        required(
            format!("kernel {release}, at least {major}.{minor}"),
            version(&release).is_some_and(|version| version >= FLOOR),
            "older kernels lose a socket's cgroup once a v1 net controller is used",
            format!("boot a kernel from {major}.{minor} on; 6.1 or newer is recommended"),
        ),
        required(
            "capabilities CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON, CAP_DAC_READ_SEARCH",
            has_capabilities(&fs::read_to_string("/proc/self/status").unwrap_or_default()),
            "loading and attaching programs, reading process start times, resolving cgroup ids",
            "run as root, or give the service these capabilities",
        ),
        optional(
            "unified cgroups only",
            !has_v1_cgroups(),
            "where older hierarchies are mounted beside it, a runtime may put several containers into one cgroup",
            "boot with systemd.unified_cgroup_hierarchy=1; until then a cgroup may be more than one workload",
        ),
        required(
            "the host's cgroup namespace",
            super::in_initial_cgroup_namespace(),
            "the agent is known to the kernel by its cgroup, and workloads by theirs",
            "start the agent in the host's cgroup namespace (in Kubernetes: privileged)",
        ),
        required(
            "cgroup2 mounted",
            cgroup2_mount().is_ok(),
            "identity is a cgroup, and the programs are attached to one",
            "mount it: `mount -t cgroup2 cgroup2 /sys/fs/cgroup`",
        ),
        required(
            "the host's pid namespace",
            in_initial_pid_namespace(),
            "the kernel reports process ids of the host",
            "start the agent with the host's pid namespace",
        ),
        optional(
            "bpf file system on /sys/fs/bpf",
            bpffs::is_bpffs(Path::new("/sys/fs/bpf")),
            "pins keep the programs in force when the agent dies",
            "the agent mounts one when it starts",
        ),
        optional(
            "kernel type information (BTF)",
            Path::new("/sys/kernel/btf/vmlinux").exists(),
            "with its start time a process has a name that is never reused",
            "records carry no process start time; use a kernel with CONFIG_DEBUG_INFO_BTF",
        ),
        optional(
            "connect hook of unix sockets (6.7)",
            super::unix::has_hook(),
            "governed processes reach unix sockets of databases only if their names are allowed",
            "`unix_sockets` of targets cannot be protected: use file permissions and pg_hba.conf",
        ),
        optional(
            "IPv6 loopback",
            std::net::TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_ok(),
            "IPv6 connects are redirected to ::1",
            "IPv6 connections to targets are refused",
        ),
        optional(
            "capabilities CAP_SYS_ADMIN, CAP_SYS_PTRACE",
            can_enter_namespaces(&fs::read_to_string("/proc/self/status").unwrap_or_default()),
            "entering the network namespaces of containers",
            "connections from other network namespaces are refused",
        ),
        optional(
            "nftables answers (the guard on the host's side)",
            guard::is_possible(),
            "stops what pods send to targets by AF_PACKET, TUN and forwarding, which no cgroup hook sees",
            "install nftables; without it drop CAP_NET_RAW and CAP_NET_ADMIN from containers",
        ),
        optional(
            "sockets can be ended (CONFIG_INET_DIAG_DESTROY)",
            netns::can_destroy(),
            "connections to targets that are older than the agent get an error at once",
            "their packets are dropped, and their owners wait until they time out",
        ),
    ]
}

const PROGRAM_TYPES: &[(&str, bpf::bpf_prog_type, &str)] = &[
    ("cgroup_sock_addr", bpf::BPF_PROG_TYPE_CGROUP_SOCK_ADDR, "redirects connect, denies datagrams"),
    ("cgroup_sock", bpf::BPF_PROG_TYPE_CGROUP_SOCK, "denies raw sockets"),
    ("sock_ops", bpf::BPF_PROG_TYPE_SOCK_OPS, "announces redirected connections"),
    ("cgroup_skb", bpf::BPF_PROG_TYPE_CGROUP_SKB, "drops what went around connect"),
    ("sk_lookup", bpf::BPF_PROG_TYPE_SK_LOOKUP, "makes the listener a socket instead of a port"),
];

const MAP_TYPES: &[(&str, bpf::bpf_map_type, &str)] = &[
    ("sk_storage", bpf::BPF_MAP_TYPE_SK_STORAGE, "a socket's origin lives and dies with it"),
    ("sockmap", bpf::BPF_MAP_TYPE_SOCKMAP, "holds the listeners"),
    ("lpm_trie", bpf::BPF_MAP_TYPE_LPM_TRIE, "targets are networks"),
    ("ringbuf", bpf::BPF_MAP_TYPE_RINGBUF, "diagnostics"),
];

const SOCK_ADDR: bpf::bpf_prog_type = bpf::BPF_PROG_TYPE_CGROUP_SOCK_ADDR;

/// Name, program type, helper, required, why, what is lost without it.
const HELPERS: &[(&str, bpf::bpf_prog_type, bpf::bpf_func_id, bool, &str, &str)] = &[
    (
        "get_netns_cookie in cgroup_sock_addr",
        SOCK_ADDR,
        bpf::BPF_FUNC_get_netns_cookie,
        true,
        "connections of different namespaces must not be mixed up",
        "use a kernel from 5.15 on",
    ),
    (
        "get_netns_cookie in sock_ops",
        bpf::BPF_PROG_TYPE_SOCK_OPS,
        bpf::BPF_FUNC_get_netns_cookie,
        true,
        "connections of different namespaces must not be mixed up",
        "use a kernel from 5.15 on",
    ),
    (
        "sk_storage_get in sock_ops",
        bpf::BPF_PROG_TYPE_SOCK_OPS,
        bpf::BPF_FUNC_sk_storage_get,
        true,
        "carries the origin to the accepted socket",
        "use a kernel from 5.15 on",
    ),
    (
        "sk_storage_get in cgroup_skb",
        bpf::BPF_PROG_TYPE_CGROUP_SKB,
        bpf::BPF_FUNC_sk_storage_get,
        true,
        "tells the agent's packets from others",
        "use a kernel from 5.15 on",
    ),
    (
        "get_current_ancestor_cgroup_id in cgroup_sock_addr",
        SOCK_ADDR,
        bpf::BPF_FUNC_get_current_ancestor_cgroup_id,
        true,
        "a cgroup is judged by its ancestors",
        "use a kernel from 5.15 on",
    ),
    (
        "skb_ancestor_cgroup_id in cgroup_skb",
        bpf::BPF_PROG_TYPE_CGROUP_SKB,
        bpf::BPF_FUNC_skb_ancestor_cgroup_id,
        true,
        "a packet is judged by its socket's cgroup",
        "use a kernel from 5.15 on",
    ),
    (
        "get_current_task and probe_read_kernel in cgroup_sock_addr",
        SOCK_ADDR,
        bpf::BPF_FUNC_probe_read_kernel,
        true,
        "reads the process's start time",
        "lift the kernel lockdown, or grant CAP_PERFMON",
    ),
    (
        "setsockopt in cgroup_sock_addr",
        SOCK_ADDR,
        bpf::BPF_FUNC_setsockopt,
        true,
        "sockets bound to a device are rebound to loopback",
        "use a kernel from 5.15 on",
    ),
    (
        "get_netns_cookie in cgroup_skb (6.15)",
        bpf::BPF_PROG_TYPE_CGROUP_SKB,
        bpf::BPF_FUNC_get_netns_cookie,
        false,
        "a packet's network namespace can be asked for",
        "it is taken from what connect noted on the socket",
    ),
    (
        "set_retval in cgroup_sock",
        bpf::BPF_PROG_TYPE_CGROUP_SOCK,
        bpf::BPF_FUNC_set_retval,
        false,
        "MPTCP is refused in a way that makes applications use TCP",
        "applications that ask for MPTCP get EPERM (kernels before 5.18)",
    ),
];

fn probe_program_type(&(name, kind, why): &(&str, bpf::bpf_prog_type, &'static str)) -> Feature {
    // SAFETY: the options must be null.
    let ok = unsafe { bpf::libbpf_probe_bpf_prog_type(kind, std::ptr::null()) } == 1;
    required(
        format!("program type {name}"),
        ok,
        why,
        "use a kernel with CONFIG_CGROUP_BPF and CONFIG_BPF_SYSCALL",
    )
}

fn probe_map_type(&(name, kind, why): &(&str, bpf::bpf_map_type, &'static str)) -> Feature {
    // SAFETY: the options must be null.
    let ok = unsafe { bpf::libbpf_probe_bpf_map_type(kind, std::ptr::null()) } == 1;
    required(format!("map type {name}"), ok, why, "use a kernel from 5.15 on with CONFIG_BPF_STREAM_PARSER")
}

fn probe_helper(
    &(name, kind, helper, required, why, otherwise): &(
        &str,
        bpf::bpf_prog_type,
        bpf::bpf_func_id,
        bool,
        &'static str,
        &str,
    ),
) -> Feature {
    let ok = has_helper(kind, helper);
    Feature { name: format!("helper {name}"), ok, required, why, otherwise: otherwise.to_owned() }
}

fn has_helper(kind: bpf::bpf_prog_type, helper: bpf::bpf_func_id) -> bool {
    // SAFETY: the options must be null.
    unsafe { bpf::libbpf_probe_bpf_helper(kind, helper, std::ptr::null()) == 1 }
}

fn required(name: impl Into<String>, ok: bool, why: &'static str, otherwise: impl Into<String>) -> Feature {
    Feature { name: name.into(), ok, required: true, why, otherwise: otherwise.into() }
}

fn optional(name: impl Into<String>, ok: bool, why: &'static str, otherwise: impl Into<String>) -> Feature {
    Feature { required: false, ..required(name, ok, why, otherwise) }
}

/// libbpf prints what it probes to standard error unless told otherwise.
fn silence_libbpf() {
    // SAFETY: no callback is allowed; the setting is process-wide and idempotent.
    unsafe { bpf::libbpf_set_print(None) };
}

fn has_v1_cgroups() -> bool {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    mounts.lines().any(|line| line.contains(" - cgroup cgroup "))
}

fn in_initial_pid_namespace() -> bool {
    fs::metadata("/proc/self/ns/pid").is_ok_and(|metadata| metadata.ino() == super::INITIAL_PID_NAMESPACE)
}

/// Major and minor number of a release such as `6.1.0-18-amd64`.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|character: char| !character.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// CAP_SYS_ADMIN stands in for CAP_BPF and CAP_PERFMON, capabilities(7).
fn has_capabilities(status: &str) -> bool {
    const DAC_READ_SEARCH: u32 = 2;
    const NET_ADMIN: u32 = 12;
    const SYS_ADMIN: u32 = 21;
    const PERFMON: u32 = 38;
    const BPF: u32 = 39;
    let has = |capability: u32| has_capability(status, capability);
    has(DAC_READ_SEARCH) && has(NET_ADMIN) && (has(SYS_ADMIN) || (has(PERFMON) && has(BPF)))
}

/// setns(2), and a look at another user's process.
fn can_enter_namespaces(status: &str) -> bool {
    const SYS_PTRACE: u32 = 19;
    const SYS_ADMIN: u32 = 21;
    has_capability(status, SYS_PTRACE) && has_capability(status, SYS_ADMIN)
}

fn has_capability(status: &str, capability: u32) -> bool {
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .unwrap_or(0);
    (effective >> capability) & 1 == 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_releases_of_all_kinds() {
        let cases = [
            ("6.1.0-18-amd64", Some((6, 1))),
            ("5.15.0", Some((5, 15))),
            ("6.18.44-fc-v445", Some((6, 18))),
            ("5.10-rc1", Some((5, 10))),
            ("strange", None),
            ("", None),
        ];
        for (release, expected) in cases {
            assert_eq!(version(release), expected, "{release}");
        }
        assert!(version("5.10.0").unwrap() < FLOOR && version("5.15.1").unwrap() >= FLOOR);
    }

    #[test]
    fn capabilities_are_judged_together() {
        let cases = [
            ("CapEff:\t000001ffffffffff\n", true),
            // BPF, PERFMON, NET_ADMIN, DAC_READ_SEARCH
            ("CapEff:\t000000c000001004\n", true),
            // the same without NET_ADMIN
            ("CapEff:\t000000c000000004\n", false),
            ("CapEff:\t0000000000000000\n", false),
            ("", false),
        ];
        for (status, expected) in cases {
            assert_eq!(has_capabilities(status), expected, "{status}");
        }
    }
}
