//! Death and half-death of the agent: nothing is served, nothing is reached, and the next start serves again.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;

use super::{Prober, agent_pid, journal_is_whole, served, wait_for_log};
use crate::harness::report::Case;
use crate::harness::spawn::{Program, wait_for};
use crate::harness::trail::Trail;
use crate::harness::world::World;

pub(super) const CASES: &[Case<World>] = &[
    Case { name: "killed in the middle of everything: refused until the next start", run: killed },
    Case { name: "stopped by a signal: refused within seconds, served when it goes on", run: stopped },
    Case { name: "out of memory: the process ends, and the next start serves", run: out_of_memory },
    Case {
        name: "out of file descriptors: refused without a way around, served when there are some",
        run: out_of_files,
    },
    Case {
        name: "without its configuration file the agent goes on, and a reload is refused",
        run: no_config,
    },
];

fn killed(world: &mut World) -> Result<()> {
    let prober = Prober::start(world, "dead")?;
    for _ in 0..3 {
        let client = world.client("killed").start_script("select 1;\n\\! sleep 9\nselect 2;\n")?;
        Trail::when(&world.agent, "killed", |trail| !trail.all("result").is_empty())?;
        world.agent.kill();
        let refused = world.client("none").psql(&["select 1"])?;
        ensure!(refused.code == Some(2), "{refused}");
        world.start_agent()?;
        served(world, "again")?;
        drop(client);
    }
    let counts = prober.end(world)?;
    ensure!(counts.get("reset").is_some_and(|resets| *resets > 0), "it was never refused: {counts:?}");
    journal_is_whole(world)
}

fn stopped(world: &mut World) -> Result<()> {
    let prober = Prober::start(world, "stopped")?;
    world.agent.signal(Signal::SIGSTOP)?;
    let refused = wait_for("a refusal", Duration::from_secs(8), || {
        let output = world.client("asleep").env("PGCONNECT_TIMEOUT", "2").psql(&["select 1"])?;
        Ok(output.stderr.contains("Operation not permitted").then_some(()))
    });
    world.agent.signal(Signal::SIGCONT)?;
    refused?;
    wait_for("service", Duration::from_secs(10), || {
        Ok((world.client("awake").psql(&["select 5"])?.stdout == "5\n").then_some(()))
    })?;
    prober.end(world).map(drop)
}

/// The address space is limited to what it is, and a statement needs more. Only the limit is artificial: what follows
/// is what follows when an allocation fails.
fn out_of_memory(world: &mut World) -> Result<()> {
    let prober = Prober::start(world, "memory")?;
    let pid = agent_pid(world)?;
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let size = status.lines().find_map(|line| line.strip_prefix("VmSize:")).context("no VmSize")?;
    let kib: u64 = size.trim().trim_end_matches("kB").trim().parse()?;
    let limit = format!("--as={}", kib * 1024 + (1 << 20));
    let pid_text = pid.to_string();
    Program::new("/usr/bin/prlimit").args(["--pid", &pid_text, &limit]).run()?.ok()?;
    let script = format!("select length('{}');\n", "x".repeat(48 << 20));
    let died = wait_for("the agent's end", Duration::from_secs(20), || {
        let _ = world.client("greedy").script(&script)?;
        Ok((!std::path::Path::new(&format!("/proc/{pid}/exe")).exists() || agent_pid(world).is_err())
            .then_some(()))
    });
    let ended = world.agent.part().context("the agent is not running")?.finish(Duration::from_secs(5));
    let refused = world.client("none").psql(&["select 1"])?;
    world.start_agent()?;
    died?;
    ensure!(ended?.signal == Some(Signal::SIGABRT as i32), "it did not end by an abort");
    ensure!(refused.code == Some(2), "{refused}");
    served(world, "after-memory")?;
    prober.end(world)?;
    journal_is_whole(world)
}

fn out_of_files(world: &mut World) -> Result<()> {
    let prober = Prober::start(world, "files")?;
    let pid = agent_pid(world)?.to_string();
    let open = std::fs::read_dir(format!("/proc/{pid}/fd"))?.count();
    let limit = |files: usize| {
        let limit = format!("--nofile={files}:");
        Program::new("/usr/bin/prlimit").args(["--pid", &pid, &limit]).run()?.ok()
    };
    limit(open)?;
    std::thread::sleep(Duration::from_secs(2));
    let alive = agent_pid(world).is_ok() || std::path::Path::new(&format!("/proc/{pid}/exe")).exists();
    limit(20_000)?;
    ensure!(alive, "the agent ended");
    wait_for("service", Duration::from_secs(10), || {
        Ok((world.client("files").psql(&["select 5"])?.stdout == "5\n").then_some(()))
    })?;
    prober.end(world).map(drop)
}

fn no_config(world: &mut World) -> Result<()> {
    let pid = agent_pid(world)?;
    let mark = world.agent.log().len();
    let aside = world.agent.config.with_extension("aside");
    std::fs::rename(&world.agent.config, &aside)?;
    let reloaded = world.agent.reload().and_then(|()| wait_for_log(world, mark, "reload refused"));
    let answered = served(world, "no-config");
    std::fs::rename(&aside, &world.agent.config)?;
    reloaded?;
    answered?;
    ensure!(agent_pid(world)? == pid);
    Ok(())
}
