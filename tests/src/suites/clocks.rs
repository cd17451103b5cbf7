//! Somebody sets the host's clock: the record keeps its order and says so, and nothing lasts longer for it.
//!
//! The clock of this machine is left alone: a library that is loaded into the agent shifts what it is told the time is,
//! and nothing else. The time since boot stays what it is, as it does where a clock is set.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::harness::report::{self, Case};
use crate::harness::spawn::{Program, Running};
use crate::harness::trail::{self, Trail, holds};
use crate::harness::world::{POLICY, Wishes, World};

const CLOCK: &str = include_str!("../../clients/clock.c");
/// For a query that takes long.
const NAPS: &str = "@id(\"naps\") permit(principal, action == Action::\"sql:call\", \
                    resource == Routine::\"shop/shop/pg_catalog.pg_sleep\");";
const HOUR: i64 = 3600;
/// Of grants, in seconds; long enough to have something running on one on a busy machine.
const GRANT: u64 = 8;

struct Stage {
    world: World,
    ahead: PathBuf,
}

impl Stage {
    /// Written in place: the agent has the file mapped.
    fn set(&self, seconds: i64) -> Result<()> {
        set(&self.ahead, seconds)
    }
}

fn set(path: &Path, seconds: i64) -> Result<()> {
    use std::os::unix::fs::FileExt as _;
    let file = fs::OpenOptions::new().write(true).create(true).truncate(false).open(path)?;
    file.write_all_at(&seconds.to_ne_bytes(), 0).context("setting the clock")
}

pub(super) fn run(filter: Option<&str>) -> Result<()> {
    let mut world = World::prepare("clocks", Wishes::default())?;
    let (source, library) = (world.scratch.path().join("clock.c"), world.scratch.path().join("clock.so"));
    fs::write(&source, CLOCK)?;
    Program::new("/usr/bin/cc")
        .args(["-O2", "-shared", "-fPIC", "-o"])
        .args([&library, &source])
        .run()?
        .ok()
        .context("compiling the clock")?;
    let ahead = world.scratch.path().join("ahead");
    set(&ahead, 0)?;
    let text = |path: &Path| path.display().to_string();
    world.agent.env = vec![("LD_PRELOAD", text(&library)), ("CLOCK_AHEAD", text(&ahead))];
    world.write_policy(&format!("{POLICY}\n{NAPS}\n"))?;
    world.start_agent()?;
    let mut stage = Stage { world, ahead };
    report::run("clocks", &mut stage, CASES, filter, |stage| stage.world.agent.log_tail())
}

const CASES: &[Case<Stage>] = &[
    Case { name: "records keep their order, and where times go back or leap is on record", run: order },
    Case { name: "a clock that was set back while no agent ran is told of at the start", run: between },
    Case { name: "a grant is not extended by setting the clock back", run: |stage| grant(stage, -HOUR) },
    Case { name: "a grant is over when the clock says so", run: |stage| grant(stage, HOUR) },
];

fn report_of(world: &World) -> Result<Value> {
    let output = world.agent.command(&["verify", "--json"])?;
    serde_json::from_str(&output.stdout).with_context(|| format!("{output}"))
}

/// One query as `user`, recorded in full.
fn ask(stage: &Stage, user: &str) -> Result<Trail> {
    stage.world.client(user).psql(&["select 'told'"])?.ok()?;
    Trail::of(&stage.world.agent, user)
}

/// Clocks that were set, by how many seconds.
fn told(world: &World) -> Result<Vec<i64>> {
    let all = trail::everything(&world.agent)?;
    let by = all.iter().filter(|event| event["event"] == "clock_set");
    Ok(by.filter_map(|event| event["by_ms"].as_i64()).map(|ms| (ms as f64 / 1000.0).round() as i64).collect())
}

fn order(stage: &mut Stage) -> Result<()> {
    for (name, ahead) in [("before", 0), ("back", -HOUR), ("forward", 2 * HOUR), ("again", 0)] {
        stage.set(ahead)?;
        ask(stage, name)?;
    }
    // By number, whatever their times: sessions are listed by when they began.
    let all = trail::everything(&stage.world.agent)?;
    let begun = all.iter().filter(|event| event["event"] == "session_start");
    let begun: Vec<_> = begun.filter_map(|event| event["claimed_user"].as_str()).collect();
    ensure!(begun == ["before", "back", "forward", "again"], "{begun:?}");
    let near = |found: i64, wanted: i64| (found - wanted).abs() <= 30;
    let told = told(&stage.world)?;
    let wanted = [-HOUR, 3 * HOUR, -2 * HOUR];
    ensure!(
        told.len() == 3 && told.iter().zip(wanted).all(|(found, wanted)| near(*found, wanted)),
        "{told:?}"
    );
    let report = report_of(&stage.world)?;
    ensure!(report["ok"] == true, "{report}");
    let back = report["set_back"].as_array().context("a list")?;
    ensure!(back.len() == 2 && back.iter().all(|back| back["recorded"] == true), "{back:?}");
    let shown = stage.world.agent.command(&["verify"])?.ok()?;
    ensure!(shown.contains("back"), "{shown}");
    Ok(())
}

fn between(stage: &mut Stage) -> Result<()> {
    stage.set(HOUR)?;
    ask(stage, "late")?;
    let before = told(&stage.world)?.len();
    stage.world.agent.stop()?;
    stage.set(0)?;
    stage.world.start_agent()?;
    ask(stage, "early")?;
    let told = told(&stage.world)?;
    ensure!(told.len() == before + 1 && told[before] < -HOUR / 2, "{told:?}");
    let report = report_of(&stage.world)?;
    ensure!(report["ok"] == true, "{report}");
    Ok(())
}

/// Somebody in the middle of a query that only the grant permits.
fn begun(stage: &Stage, user: &str) -> Result<Running> {
    let script = "select 'begun';\nselect pg_sleep(60);\nselect 'slept';\n";
    let idle = stage.world.client_in(&stage.world.places.idle_bot, "127.0.0.1", user);
    let client = idle.limit(90).start_script(script)?;
    Trail::when(&stage.world.agent, user, |trail| trail.statement("select pg_sleep(60)").is_ok())?;
    Ok(client)
}

fn grant(stage: &mut Stage, by: i64) -> Result<()> {
    stage.set(0)?;
    let lasts = format!("{}s", if by < 0 { GRANT } else { 60 });
    let words =
        ["grant", "idle-bot", "--group", "ai-agents", "--for", &lasts, "--reason", "a test", "--json"];
    let started = Instant::now();
    stage.world.agent.command(&words)?.ok()?;
    let user = if by < 0 { "set-back" } else { "set-forward" };
    let client = begun(stage, user)?;
    stage.set(by)?;
    let output = client.finish(Duration::from_secs(GRANT + 30))?;
    let lasted = started.elapsed();
    ensure!(output.stdout == "begun\n" && output.stderr.contains("57P01"), "{output}");
    ensure!(by > 0 || lasted >= Duration::from_secs(GRANT), "{lasted:?}");
    // The query alone takes 60 s, the grant back by an hour would.
    ensure!(lasted < Duration::from_secs(GRANT + 20), "{lasted:?}");
    let end = Trail::of(&stage.world.agent, user)?;
    holds(end.first("session_start")?, &json!({"claimed_user": user}))?;
    let reason = end.first("session_end")?["reason"].as_str().unwrap_or_default().to_owned();
    ensure!(reason.contains("expired"), "{reason}");
    // With the clock where it is now, and where it was.
    for ahead in [by, 0] {
        stage.set(ahead)?;
        let refused =
            stage.world.client_in(&stage.world.places.idle_bot, "127.0.0.1", "over").psql(&["select 1"])?;
        ensure!(refused.code == Some(2) && refused.stdout.is_empty(), "{ahead}: {refused}");
    }
    Ok(())
}
