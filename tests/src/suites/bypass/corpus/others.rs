//! Other ways to have a socket made or connected: by the kernel's own threads, by other processes.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use anyhow::{Result, ensure};

use super::super::technique::Record::{Kernel, SessionRefused};
use super::super::technique::Seat::{Nobody, Root, Service};
use super::super::technique::When::Beyond;
use super::super::technique::{Aim, Attack, Seat, Technique};
use super::super::yard::Yard;
use crate::harness::cgroup::{self, Cgroup};
use crate::harness::spawn::{Output, wait_for};

const REFUSAL: &[&str] = &["answered FATAL 28000"];

pub(super) const TECHNIQUES: &[Technique] = &[
    redirected("uring", "socket and connect by io_uring", Nobody, Attack::Program("uring")),
    redirected("uring-sqpoll", "the same by the kernel's own thread", Service, Attack::Program("uring")),
    redirected("static", "a static program", Nobody, Attack::Program("connect-static")),
    redirected(
        "vfork",
        "a child that shares its parent's memory (vfork)",
        Nobody,
        Attack::Program("connect"),
    ),
    redirected("int80", "a 32-bit program with int 0x80", Nobody, Attack::Program("int80"))
        .sees(&["answered by the agent"]),
    redirected("setuid", "a program that is setuid root", Nobody, Attack::Staged(setuid)),
    redirected(
        "clone-into",
        "a child put into the agent's cgroup by clone3",
        Service,
        Attack::Staged(clone_into),
    )
    .recorded_in("agent"),
    redirected(
        "passed-socket",
        "a socket of a bypassed process, connected by us",
        Service,
        Attack::Staged(passed_unconnected),
    ),
    redirected("relay", "a relay in another cgroup, over loopback", Service, Attack::Staged(relay_unknown))
        .recorded_in("unknown"),
    redirected("bpf-child", "a connect hook of our own in a cgroup below", Root, Attack::Staged(own_hook))
        .when(Beyond),
    Technique::new(
        "bpf-beside",
        "a connect hook of our own beside the gate's, attached later",
        Root,
        Attack::Staged(own_hook),
        // Whichever is first: its packets are dropped, and a socket towards a target that a new process holds is ended.
        &["refused by silence", "refused ECONNABORTED"],
        &[Kernel("dropped_egress")],
    )
    .when(Beyond),
    redirected(
        "setns-other",
        "into another container's network namespace, as root of the host",
        Root,
        Attack::Staged(others_namespace),
    )
    .when(Beyond),
    Technique::new(
        "passed-session",
        "a connection made by a bypassed process, handed to us",
        Service,
        Attack::Staged(passed_connected),
        &["reached"],
        &[],
    )
    .when(Beyond),
    Technique::new(
        "relay-bypassed",
        "a relay run by a bypassed process",
        Service,
        Attack::Staged(relay_bypassed),
        &["reached"],
        &[],
    )
    .when(Beyond),
];

const fn redirected(name: &'static str, says: &'static str, seat: Seat, attack: Attack) -> Technique {
    Technique::new(name, says, seat, attack, REFUSAL, &[SessionRefused])
}

/// A copy of the program that belongs to root and runs as root, whoever starts it.
fn setuid(yard: &Yard, aim: &Aim) -> Result<Output> {
    let path = yard.scratch.folder("setuid", 0o755)?.join("connect");
    if !path.exists() {
        fs::copy(yard.attacks.join("connect"), &path)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o4755))?;
    }
    let output = yard.seated(Seat::Nobody, &path.display().to_string(), &[], aim)?.run()?;
    ensure!(output.stdout.starts_with("effective user 0\n"), "not setuid root: {output}");
    Ok(output)
}

fn clone_into(yard: &Yard, aim: &Aim) -> Result<Output> {
    yard.program(Seat::Service, "connect", aim)?.env("CLONE_INTO", yard.places.agent.path()).run()
}

fn others_namespace(yard: &Yard, aim: &Aim) -> Result<Output> {
    yard.python(Seat::Root, "inside.py", aim)?.env("NETNS", yard.containers_netns()).run()
}

fn own_hook(yard: &Yard, aim: &Aim) -> Result<Output> {
    let program = yard.program(Seat::Root, "rewrite", aim)?.env("BESIDE", yard.top().path());
    program.env("CGROUP_MOUNT", cgroup::mount_point()?).run()
}

fn relay_unknown(yard: &Yard, aim: &Aim) -> Result<Output> {
    relay(yard, aim, &yard.places.unknown)
}

fn relay_bypassed(yard: &Yard, aim: &Aim) -> Result<Output> {
    relay(yard, aim, &yard.places.bypassed)
}

/// Somebody in `cgroup` connects to the target for whoever comes.
fn relay(yard: &Yard, aim: &Aim, cgroup: &Cgroup) -> Result<Output> {
    let path = yard.scratch.folder("relay", 0o755)?.join(aim.name);
    // Of the time without the agent.
    let _ = fs::remove_file(&path);
    let args = [aim.v4.to_string(), yard.port.to_string(), path.display().to_string()];
    let relay = yard.helper("relay.py", &args.each_ref().map(String::as_str), cgroup)?.start()?;
    let port = wait_for("the relay", Duration::from_secs(5), || Ok(fs::read_to_string(&path).ok()))?;
    let output = yard.python(Seat::Service, "inside.py", aim)?.env("RELAY", port).run();
    drop(relay);
    output
}

fn passed_connected(yard: &Yard, aim: &Aim) -> Result<Output> {
    passed(yard, aim, "connected")
}

fn passed_unconnected(yard: &Yard, aim: &Aim) -> Result<Output> {
    passed(yard, aim, "unconnected")
}

/// An accomplice in the bypassed cgroup makes the socket, the attacker uses it.
fn passed(yard: &Yard, aim: &Aim, kind: &str) -> Result<Output> {
    let path = yard.scratch.folder("handover", 0o755)?.join(aim.name);
    // Of the time without the agent.
    let _ = fs::remove_file(&path);
    let (place, address, port) = (path.display().to_string(), aim.v4.to_string(), yard.port.to_string());
    let args = ["--accomplice", &place, &address, &port, kind];
    let accomplice = yard.helper("handover.py", &args, &yard.places.bypassed)?.start()?;
    wait_for("the accomplice", Duration::from_secs(5), || Ok(path.exists().then_some(())))?;
    let output = yard.python(Seat::Service, "handover.py", aim)?.env("ACCOMPLICE", &place).run();
    drop(accomplice);
    output
}
