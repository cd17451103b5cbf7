//! `e2e stage`: the world the suites run in, left standing until Ctrl-C, for trying things by hand.

use std::time::Duration;

use anyhow::Result;

use crate::harness::spawn::check_interrupted;
use crate::harness::world::{Wishes, World};

pub(crate) fn run(without_agent: bool) -> Result<()> {
    let mut world = World::prepare("stage", Wishes { hold_timeout_s: 300, ..Wishes::default() })?;
    if !without_agent {
        world.start_agent()?;
    }
    let port = world.postgres.port;
    eprintln!("server:        127.0.0.1..127.0.0.8 and ::1, port {port}, database shop");
    eprintln!("configuration: {}", world.agent.config.display());
    eprintln!("a governed client:");
    eprintln!(
        "  (echo 0 > {}/cgroup.procs; psql -h 127.0.0.1 -p {port} -U me -d shop)",
        world.places.billing_bot.path().display()
    );
    eprintln!("Ctrl-C takes it all away.");
    while check_interrupted().is_ok() {
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}
