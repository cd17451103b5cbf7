//! Staying alive and failing closed: upgrades under load, upgrades that fail half-way, death of every kind, things
//! taken away from a running agent, and who may let go of the kernel.

mod dead;
mod detach;
mod install;
mod tamper;
mod upgrade;

use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::harness::report::{self, Case};
use crate::harness::spawn::{Running, slowness, wait_for};
use crate::harness::world::{Wishes, World};

/// Seconds that sessions of a replaced agent get, on a machine of the usual speed.
const DRAIN_S: u64 = 8;

fn drain_s() -> u64 {
    DRAIN_S * u64::from(slowness())
}

pub(super) fn run(filter: Option<&str>) -> Result<()> {
    let wishes = Wishes {
        hold_timeout_s: 30,
        more: format!("\n[limits]\ndrain_s = {}\n", drain_s()),
        ..Wishes::default()
    };
    let mut world = World::prepare("alive", wishes)?;
    world.agent.use_copy(&world.scratch)?;
    world.start_agent()?;
    let cases: Vec<Case<World>> = [upgrade::CASES, dead::CASES, tamper::CASES, detach::CASES, install::CASES]
        .into_iter()
        .flatten()
        .copied()
        .collect();
    report::run("alive", &mut world, &cases, filter, |world| world.agent.log_tail())
}

/// A governed client that connects all the time, and the length of the server's log when it began.
struct Prober {
    running: Running,
    stop: PathBuf,
    mark: usize,
}

impl Prober {
    fn start(world: &World, name: &str) -> Result<Self> {
        let stop = world.scratch.folder("stop", 0o777)?.join(name);
        let mark = world.postgres.log()?.len();
        let source = include_str!("../../../clients/prober.py");
        let stop_text = stop.to_string_lossy().into_owned();
        let running = world.client("prober").start_python(source, &[&stop_text, "0.005"])?;
        Ok(Self { running, stop, mark })
    }

    /// Ends it; how often it met what. Nothing may ever have reached the server but through an agent.
    fn end(self, world: &World) -> Result<HashMap<String, u64>> {
        fs::write(&self.stop, "")?;
        let said = self.running.finish(Duration::from_secs(30))?.ok()?;
        let log = world.postgres.log()?.split_off(self.mark);
        ensure!(!log.contains("prober"), "the prober reached the server directly:\n{said}\n{log}");
        let counts: HashMap<String, u64> = said
            .lines()
            .filter_map(|line| line.split_once(' '))
            .filter_map(|(name, count)| Some((name.to_owned(), count.parse().ok()?)))
            .collect();
        eprintln!("        prober: {}", said.trim_end().replace('\n', ", "));
        ensure!(counts.get("direct") == Some(&0), "direct connections:\n{said}");
        ensure!(counts.get("served").is_some_and(|served| *served > 0), "it was never served:\n{said}");
        Ok(counts)
    }

    /// Ends it; it must have been served without exception.
    fn end_undisturbed(self, world: &World) -> Result<u64> {
        let counts = self.end(world)?;
        let disturbed: u64 =
            ["refused", "reset", "eperm", "error"].iter().filter_map(|name| counts.get(*name)).sum();
        ensure!(disturbed == 0, "not every connection was served: {counts:?}");
        counts.get("served").copied().context("the prober counted nothing")
    }
}

fn agent_pid(world: &World) -> Result<u64> {
    let status = world.agent.status()?.context("no agent answers")?;
    status["pid"].as_u64().context("status has no pid")
}

fn wait_for_log(world: &World, mark: usize, word: &str) -> Result<()> {
    wait_for(&format!("`{word}` in the agent's log"), Duration::from_secs(15), || {
        Ok(world.agent.log_since(mark).contains(word).then_some(()))
    })
    .with_context(|| world.agent.log_since(mark))
}

fn served(world: &World, user: &str) -> Result<()> {
    let rows = world.client(user).psql(&["select 5"])?.ok()?;
    ensure!(rows == "5\n", "{rows:?}");
    Ok(())
}

fn journal_is_whole(world: &World) -> Result<()> {
    world.agent.command(&["verify"])?.ok().map(drop)
}
