//! What the cases share: clients of the bot's, the agent standing still, the workloads that were recorded.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::harness::spawn::{Output, Program, wait_for};
use crate::harness::trail::{self, Trail};
use crate::harness::world::{POLICY, World};

/// Runs something while the agent stands still, and returns the workload of the connection made meanwhile.
pub(super) fn while_stopped(world: &World, act: impl FnOnce(&World) -> Result<()>) -> Result<Value> {
    let before = trail::sessions(&world.agent)?.len();
    let agent = Pid::from_raw(i32::try_from(world.agent.pid()?)?);
    kill(agent, Signal::SIGSTOP)?;
    let done = act(world);
    kill(agent, Signal::SIGCONT)?;
    done?;
    Ok(since(world, before, 1)?.remove(0))
}

/// The workloads of the sessions after the first `before`, refused ones included, once there are `wanted`.
pub(super) fn since(world: &World, before: usize, wanted: usize) -> Result<Vec<Value>> {
    let sessions = wait_for(&format!("{wanted} more sessions"), Duration::from_secs(30), || {
        let sessions = trail::sessions(&world.agent)?;
        Ok((sessions.len() >= before + wanted).then_some(sessions))
    })?;
    let mut workloads = Vec::new();
    for session in sessions.iter().skip(before) {
        let id = text(session, "id");
        let events = world.agent.command(&["replay", &id, "--events"])?.ok()?;
        let stream = serde_json::Deserializer::from_str(&events).into_iter::<Value>();
        let found = stream.filter_map(Result::ok).map(|record| record["event"]["workload"].clone());
        let workload = found.into_iter().find(|workload| !workload.is_null());
        workloads.push(workload.with_context(|| format!("no workload in {events}"))?);
    }
    ensure!(workloads.len() == wanted, "{} sessions where {wanted} were due", workloads.len());
    Ok(workloads)
}

pub(super) fn with_policy(world: &World, policy: &str, act: impl FnOnce(&World) -> Result<()>) -> Result<()> {
    world.write_policy(policy)?;
    let done = reload(world).and_then(|()| act(world));
    world.write_policy(POLICY)?;
    reload(world)?;
    done
}

/// Until the agent says that it did.
pub(super) fn reload(world: &World) -> Result<()> {
    let mark = world.agent.log().len();
    world.agent.reload()?;
    wait_for("the reload", Duration::from_secs(10), || {
        let log = world.agent.log_since(mark);
        ensure!(!log.contains("reload refused"), "{log}");
        Ok(log.contains("reloaded").then_some(()))
    })
}

pub(super) fn workload(trail: &Trail) -> Result<Value> {
    Ok(trail.first("session_start")?["workload"].clone())
}

pub(super) fn exes(workload: &Value) -> Vec<String> {
    let ancestors = workload["ancestors"].as_array().into_iter().flatten();
    ancestors.map(|ancestor| text(ancestor, "exe")).collect()
}

pub(super) fn text(value: &Value, field: &str) -> String {
    value[field].as_str().unwrap_or_default().to_owned()
}

/// A program of the bot's.
pub(super) fn program(world: &World, path: &Path) -> Result<Program> {
    Program::new(path).user("nobody")?.inside(&world.places.billing_bot).map(|program| program.limit(20))
}

pub(super) fn start(world: &World, path: &Path, args: &[&str]) -> Result<Output> {
    program(world, path)?.args(args).run()
}

pub(super) fn port(world: &World) -> String {
    world.postgres.port.to_string()
}

/// A copy with bytes of its own behind the end, so that its digest is its own too.
pub(super) fn copy_of(world: &World, original: &Path, name: &str) -> Result<PathBuf> {
    let copy = world.scratch.folder("bin", 0o755)?.join(name);
    let mut bytes = fs::read(original).with_context(|| format!("reading {}", original.display()))?;
    bytes.extend_from_slice(name.as_bytes());
    fs::write(&copy, bytes)?;
    fs::set_permissions(&copy, fs::Permissions::from_mode(0o755))?;
    Ok(copy)
}

/// Longer than the agent takes a change for one that may not be the last.
pub(super) fn settle() {
    std::thread::sleep(Duration::from_millis(120));
}

/// The real psql, which Debian's wrapper runs.
pub(super) fn psql() -> Result<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").context("no PostgreSQL of Debian's")?;
    let mut found: Vec<PathBuf> = versions
        .flatten()
        .map(|version| version.path().join("bin/psql"))
        .filter(|path| path.exists())
        .collect();
    found.sort();
    found.pop().context("no psql")
}

pub(super) fn sha256(path: &Path) -> Result<String> {
    let said = Program::new("/usr/bin/sha256sum").args([path]).run()?.ok()?;
    Ok(said.split(' ').next().unwrap_or_default().to_owned())
}
