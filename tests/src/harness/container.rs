//! Real containers, run by `runc`: own process ids, mounts and host name, in a network namespace and a cgroup of the
//! test's. Root inside, with the capabilities and about the system calls that Docker gives by default.
//!
//! The root file system is made here: the host's /usr read-only, a few files of /etc, fresh /proc, /dev, /tmp and
//! /sys. No image is pulled.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::cgroup::Cgroup;
use super::net::Netns;
use super::scratch::Scratch;
use super::spawn::Program;

const RUNC: &str = "/usr/sbin/runc";

/// What Docker leaves to root in a container (moby, oci/caps/defaults.go).
pub(crate) const DOCKER_CAPABILITIES: [&str; 14] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
];

/// System calls that Docker's profile refuses to a container with its default capabilities. Docker lists what is
/// allowed and refuses the rest; what these suites try is the same in both.
const REFUSED_CALLS: [&str; 25] = [
    "add_key",
    "bpf",
    "clone3",
    "delete_module",
    "finit_module",
    "fsconfig",
    "fsmount",
    "fsopen",
    "init_module",
    "io_uring_enter",
    "io_uring_register",
    "io_uring_setup",
    "kexec_load",
    "keyctl",
    "mount",
    "move_mount",
    "open_by_handle_at",
    "open_tree",
    "perf_event_open",
    "pivot_root",
    "request_key",
    "setns",
    "umount2",
    "unshare",
    "userfaultfd",
];

/// Flags of clone(2) that ask for a new namespace: mounts, cgroup, host name, IPC, users, process ids, network.
const NEW_NAMESPACES: [u64; 7] =
    [0x0002_0000, 0x0200_0000, 0x0400_0000, 0x0800_0000, 0x1000_0000, 0x2000_0000, 0x4000_0000];

/// How a container differs from Docker's default.
#[derive(Default)]
pub(crate) struct Wish<'a> {
    /// Capabilities beside Docker's.
    pub(crate) capabilities: &'a [&'a str],
    /// No system call filter, as with `--security-opt seccomp=unconfined`.
    pub(crate) any_call: bool,
    /// /dev/net/tun, as with `--device /dev/net/tun`.
    pub(crate) tun: bool,
    /// The host's process ids, as with `--pid host`.
    pub(crate) host_pids: bool,
    /// Paths of the host, where they appear inside, and whether they can be written to.
    pub(crate) mounts: &'a [(&'a Path, &'a str, bool)],
}

/// A running container; killed and deleted on drop.
pub(crate) struct Container {
    id: String,
    state: PathBuf,
}

impl Container {
    /// Starts a container that sleeps, in `cgroup` and `netns`; programs are then run in it.
    pub(crate) fn start(
        scratch: &Scratch,
        name: &str,
        cgroup: &Cgroup,
        netns: &Netns,
        wish: &Wish<'_>,
    ) -> Result<Self> {
        Self::begin(scratch, name, cgroup, Some(netns), wish)
    }

    /// The same in the host's network, as with `--network host`.
    pub(crate) fn on_host(scratch: &Scratch, name: &str, cgroup: &Cgroup, wish: &Wish<'_>) -> Result<Self> {
        Self::begin(scratch, name, cgroup, None, wish)
    }

    fn begin(
        scratch: &Scratch,
        name: &str,
        cgroup: &Cgroup,
        netns: Option<&Netns>,
        wish: &Wish<'_>,
    ) -> Result<Self> {
        let bundle = scratch.folder(&format!("containers/{name}"), 0o700)?;
        root_file_system(&bundle.join("rootfs"))?;
        let mut configuration = configuration(cgroup, netns, wish);
        configuration["hostname"] = name.into();
        fs::write(bundle.join("config.json"), configuration.to_string())?;
        let container = Self {
            id: format!("{}-{name}", cgroup.name().replace('/', "")),
            state: scratch.folder("runc", 0o700)?,
        };
        let log = bundle.join("log");
        container
            .runc(&["run", "--detach", "--bundle"])
            .args([bundle.as_path()])
            .args([&container.id])
            // What sleeps inside keeps its output open: a pipe would never end.
            .log(&log)?
            .run()?
            .ok()
            .with_context(|| {
                format!("runc run: {}", fs::read_to_string(&log).unwrap_or_default().trim_end())
            })?;
        Ok(container)
    }

    /// Its first process, as the host numbers it.
    pub(crate) fn pid(&self) -> Result<u32> {
        let state: Value = serde_json::from_str(&self.runc(&["state", &self.id]).run()?.ok()?)?;
        state["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok()).context("no pid")
    }

    /// A program inside, as root with the container's capabilities.
    pub(crate) fn exec(&self, path: &str, args: &[&str]) -> Program {
        self.runc(&["exec", &self.id, path]).args(args)
    }

    fn runc(&self, args: &[&str]) -> Program {
        Program::new(RUNC).args(["--root".as_ref(), self.state.as_os_str()]).args(args)
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let _ = self.runc(&["delete", "--force", &self.id]).limit(20).run();
    }
}

fn root_file_system(root: &Path) -> Result<()> {
    for folder in ["usr", "etc", "proc", "dev", "sys", "tmp", "run", "root", "var"] {
        fs::create_dir_all(root.join(folder))?;
    }
    for link in ["bin", "sbin", "lib", "lib32", "lib64"] {
        let at = root.join(link);
        // A container of the same name was there before.
        if !at.is_symlink() {
            symlink(format!("usr/{link}"), at).with_context(|| format!("linking {link}"))?;
        }
    }
    fs::write(root.join("etc/passwd"), "root:x:0:0::/root:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n")?;
    fs::write(root.join("etc/group"), "root:x:0:\nnogroup:x:65534:\n")?;
    Ok(())
}

/// The OCI runtime configuration.
fn configuration(cgroup: &Cgroup, netns: Option<&Netns>, wish: &Wish<'_>) -> Value {
    let capabilities: Vec<&str> = DOCKER_CAPABILITIES.iter().chain(wish.capabilities).copied().collect();
    let mut namespaces = vec![json!({"type": "mount"}), json!({"type": "uts"}), json!({"type": "ipc"})];
    if let Some(netns) = netns {
        namespaces.push(json!({"type": "network", "path": netns.path()}));
    }
    if !wish.host_pids {
        namespaces.push(json!({"type": "pid"}));
    }
    let devices = if wish.tun {
        json!([{"path": "/dev/net/tun", "type": "c", "major": 10, "minor": 200, "fileMode": 0o666}])
    } else {
        json!([])
    };
    let mut linux = json!({
        "cgroupsPath": cgroup.name(),
        "namespaces": namespaces,
        "devices": devices,
        "resources": {"devices": [{"allow": wish.tun, "access": "rwm"}]},
    });
    if !wish.any_call {
        linux["seccomp"] = system_calls();
    }
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "user": {"uid": 0, "gid": 0},
            "args": ["/usr/bin/sleep", "infinity"],
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root"],
            "cwd": "/",
            "capabilities": {
                "bounding": capabilities, "effective": capabilities, "permitted": capabilities,
            },
            "noNewPrivileges": false,
        },
        "root": {"path": "rootfs", "readonly": false},
        "mounts": mounts(wish),
        "linux": linux,
    })
}

/// The filter of system calls, in place of Docker's.
fn system_calls() -> Value {
    let mut rules = vec![json!({"names": REFUSED_CALLS, "action": "SCMP_ACT_ERRNO", "errnoRet": 1})];
    for flag in NEW_NAMESPACES {
        let asks = json!([{"index": 0, "value": flag, "valueTwo": flag, "op": "SCMP_CMP_MASKED_EQ"}]);
        rules.push(json!({"names": ["clone"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1, "args": asks}));
    }
    json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "syscalls": rules,
    })
}

fn mounts(wish: &Wish<'_>) -> Vec<Value> {
    let made = |kind: &str, to: &str, options: &[&str]| json!({"destination": to, "type": kind, "source": kind, "options": options});
    let mut mounts = vec![
        made("proc", "/proc", &["nosuid", "noexec", "nodev"]),
        made("tmpfs", "/dev", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        made("tmpfs", "/tmp", &["nosuid", "nodev", "mode=1777"]),
        made("tmpfs", "/run", &["nosuid", "nodev", "mode=755"]),
        made("sysfs", "/sys", &["nosuid", "noexec", "nodev", "ro"]),
        json!({"destination": "/usr", "type": "bind", "source": "/usr", "options": ["rbind", "ro", "nodev"]}),
    ];
    for (from, to, writable) in wish.mounts {
        let access = if *writable { "rw" } else { "ro" };
        mounts.push(json!({"destination": to, "type": "bind", "source": from, "options": ["rbind", access]}));
    }
    mounts
}
