//! Other ways to have a socket made or connected: by the kernel's own threads, by other processes.

use std::time::Duration;

use anyhow::Result;

use super::super::technique::Record::SessionRefused;
use super::super::technique::Seat::{Nobody, Service};
use super::super::technique::Without::Reaches;
use super::super::technique::{Aim, Attack, Seat, Technique};
use super::super::yard::Yard;
use crate::harness::spawn::{Output, wait_for};

const REFUSAL: &[&str] = &["answered FATAL 28000"];

pub(super) const TECHNIQUES: &[Technique] = &[
    redirected("uring", "socket and connect by io_uring", Nobody, Attack::Program("uring")),
    redirected("uring-sqpoll", "the same by the kernel's own thread", Service, Attack::Program("uring")),
    redirected(
        "passed-socket",
        "a socket made by a bypassed process, connected by us",
        Service,
        Attack::Staged(passed_unconnected),
    ),
];

const fn redirected(name: &'static str, says: &'static str, seat: Seat, attack: Attack) -> Technique {
    Technique { name, says, seat, attack, sees: REFUSAL, record: SessionRefused, without: Reaches }
}

fn passed_unconnected(yard: &Yard, aim: &Aim) -> Result<Output> {
    passed(yard, aim, "unconnected")
}

/// An accomplice in the bypassed cgroup makes the socket, the attacker uses it.
fn passed(yard: &Yard, aim: &Aim, kind: &str) -> Result<Output> {
    let path = yard.scratch.folder("handover", 0o755)?.join(aim.name);
    // Of the time without the agent.
    let _ = std::fs::remove_file(&path);
    let (place, address, port) = (path.display().to_string(), aim.v4.to_string(), yard.port.to_string());
    let args = ["--accomplice", &place, &address, &port, kind];
    let accomplice = yard.helper("handover.py", &args, &yard.places.bypassed)?.start()?;
    wait_for("the accomplice", Duration::from_secs(5), || Ok(path.exists().then_some(())))?;
    let output = yard.python(Seat::Service, "handover.py", aim)?.env("ACCOMPLICE", &place).run();
    drop(accomplice);
    output
}
