//! Ways out that are not a socket's: other cgroups, namespaces, processes, and the agent's own doors.

use anyhow::Result;

use super::super::technique::Record::{Kernel, KernelListener, SessionRefused, Unannounced};
use super::super::technique::Seat::{Container, Nobody, Root, Service};
use super::super::technique::When::{Alone, Beyond};
use super::super::technique::Without::NeedsAgent;
use super::super::technique::{Aim, Attack, Record, Seat, Technique};
use super::super::yard::Yard;
use crate::harness::cgroup;
use crate::harness::spawn::Output;

const REFUSAL: &[&str] = &["answered FATAL 28000"];

pub(super) const TECHNIQUES: &[Technique] = &[
    redirected("cgroup-child", "a cgroup of our own below ours", Service),
    redirected("cgroup-agent", "move into the agent's cgroup", Service).recorded_in("agent"),
    redirected("cgroup-unknown", "move into a cgroup nobody configured", Service).recorded_in("unknown"),
    redirected("cgroup-ns", "a cgroup namespace of our own", Nobody),
    redirected("user-ns", "a user namespace of our own", Nobody),
    redirected("mount-ns", "a mount namespace of our own", Nobody),
    redirected("ptrace-agent", "the agent's memory and descriptors", Service),
    redirected("control", "the agent's control socket: approve, deny, kill, detach", Service),
    redirected("flood", "3,000 connections at once, and one more", Service)
        .sees(&["answered FATAL", "refused ECONNRESET", "closed", "silent"])
        .when(Alone),
    redirected("cancel", "cancel somebody else's statement", Service).sees(&["closed"]),
    redirected("cgroup-pod", "the cgroup file system a container sees", Container),
    redirected("ptrace-pod", "the processes a container sees", Container),
    redirected("unshare-pod", "new namespaces from a container", Container),
    redirected("bpf-pod", "bpffs and the bpf system call from a container", Container),
    redirected("runtimes-pod", "Docker, containerd, systemd and D-Bus from a container", Container),
    redirected("user-net-ns", "a network namespace of our own", Nobody).without(NeedsAgent),
    listener("listener-v4", "the listener's port, dialled without a detour", &["refused EPERM"], DENIED),
    listener("listener-v6", "the listener's port over IPv6", &["refused EPERM"], DENIED),
    listener("listener-any", "the listener's port at 0.0.0.0", &["refused EPERM"], DENIED),
    listener(
        "listener-itself",
        "the agent's own socket at its real port",
        &["refused ECONNRESET", "closed"],
        &[Unannounced],
    ),
    listener("bind-listener", "bind to the listener's port", &["refused EPERM"], BOUND),
    listener("bind-reuseport", "join the listener's port (SO_REUSEPORT)", &["refused EPERM"], BOUND),
    listener(
        "bind-any-v6",
        "bind to the listener's port on all addresses",
        &["refused EPERM"],
        &[Kernel("denied_bind"), KernelListener("denied_bind")],
    ),
    Technique::new(
        "cgroup-bypassed",
        "move into a bypassed cgroup, as root of the host",
        Root,
        PROGRAM,
        &["reached"],
        &[],
    )
    .when(Beyond),
    Technique::new(
        "ptrace-root",
        "the agent's descriptors, with CAP_SYS_PTRACE and the host's processes",
        Root,
        PROGRAM,
        &["took a descriptor"],
        &[],
    )
    .without(NeedsAgent)
    .when(Beyond),
];

const PROGRAM: Attack = Attack::Staged(told);
const DENIED: &[Record] = &[KernelListener("denied_listener")];
const BOUND: &[Record] = &[KernelListener("denied_bind")];

const fn redirected(name: &'static str, says: &'static str, seat: Seat) -> Technique {
    Technique::new(name, says, seat, PROGRAM, REFUSAL, &[SessionRefused])
}

const fn listener(
    name: &'static str,
    says: &'static str,
    sees: &'static [&'static str],
    records: &'static [Record],
) -> Technique {
    Technique::new(name, says, Service, PROGRAM, sees, records).without(NeedsAgent)
}

/// The program is told what an attacker on this host could find out: where the agent is, and its files.
fn told(yard: &Yard, aim: &Aim) -> Result<Output> {
    let seat = TECHNIQUES
        .iter()
        .find(|technique| technique.name == aim.name)
        .map_or(Service, |technique| technique.seat);
    let mut program = yard.python(seat, "inside.py", aim)?;
    if let Ok(agent) = yard.agent.pid() {
        program = program.env("AGENT", agent.to_string());
        program = program.env("CHAPERONE", yard.agent.binary()).env("CONFIG", &yard.agent.config);
    }
    program.env("CGROUP_ROOT", yard.top().path()).env("CGROUP_MOUNT", cgroup::mount_point()?).run()
}
