//! With the agent killed: nothing is served, nothing gets through, nobody can stand in for it.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::super::technique::Record::Kernel;
use super::super::technique::Seat::{Container, Service};
use super::super::technique::When::Dead;
use super::super::technique::{Aim, Attack, Record, Seat, Technique};
use super::super::yard::Yard;
use crate::harness::spawn::{Output, slowness, wait_for};

/// At first there is nobody at the listener's port; from three seconds on the connect itself is refused.
const GONE: &[&str] = &["refused ECONNREFUSED", "refused EPERM", "silent"];
const RECORDS: &[Record] = &[Kernel("unserved"), Kernel("denied_stale")];

pub(super) const TECHNIQUES: &[Technique] = &[
    dead(
        "dead-steal",
        "listen without a bind until the listener's port is ours",
        Service,
        Attack::Staged(steal),
    ),
    dead("dead-detach", "tell the kernel programs to let go (`detach`)", Service, Attack::Staged(detach)),
    dead("dead-v4", "connect", Service, Attack::Python("streams.py")),
    dead("dead-v6", "connect over IPv6", Service, Attack::Python("streams.py")),
    dead("dead-pod", "connect from a container", Container, Attack::Python("streams.py")),
    Technique::new(
        "dead-udp",
        "a UDP datagram",
        Service,
        Attack::Python("datagrams.py"),
        &["refused EPERM"],
        &[Kernel("denied_datagram")],
    )
    .when(Dead),
];

const fn dead(name: &'static str, says: &'static str, seat: Seat, attack: Attack) -> Technique {
    Technique::new(name, says, seat, attack, GONE, RECORDS).when(Dead)
}

fn detach(yard: &Yard, aim: &Aim) -> Result<Output> {
    let program = yard.python(Seat::Service, "inside.py", aim)?;
    // Without a configuration there is nothing that could be let go of.
    if yard.agent.has_run() {
        return program.env("CHAPERONE", yard.agent.binary()).env("CONFIG", &yard.agent.config).run();
    }
    program.run()
}

/// The thief gets the port, because the kernel gives it to a socket that listens without a bind; the victim connects.
fn steal(yard: &Yard, aim: &Aim) -> Result<Output> {
    let ready = yard.scratch.folder("steal", 0o755)?.join("ready");
    let _ = std::fs::remove_file(&ready);
    let port = yard.listen_port.to_string();
    let patience = (2 * slowness()).to_string();
    let args = [port.as_str(), &patience, &ready.display().to_string()];
    let thief = yard.with_few_ports(|| {
        let thief = yard.helper("steal.py", &args, &yard.places.service)?.start()?;
        wait_for("the thief", Duration::from_secs(5), || Ok(ready.exists().then_some(())))?;
        Ok(thief)
    })?;
    let victim = yard.python(Seat::Service, "streams.py", aim)?.run();
    let thief = thief.finish(Duration::from_secs(10))?.ok()?;
    ensure!(thief.contains("has the port"), "the attack did not get to its point: {thief}");
    ensure!(thief.ends_with("stolen: 0\n"), "{thief}");
    victim
}
