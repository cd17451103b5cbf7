//! A journal that fills up, from a restart with a small one on. The cases go on from one another.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::{Stage, values};
use crate::harness::client::Client;
use crate::harness::spawn::wait_for;
use crate::harness::trail::Trail;

const CEILING: u64 = 32 << 20;

/// Rows that take about `kib` KiB in the journal, compressed as they are.
pub(super) fn rows(kib: u64) -> String {
    // Hexadecimal digits carry half of their bits.
    format!(
        "select md5(random()::text) || md5(random()::text) from generate_series(1, {});\n",
        kib * 1024 / 36
    )
}

fn usage(stage: &Stage) -> Result<f64> {
    stage.world.agent.status()?.context("no status")?["journal_percent"].as_f64().context("no percentage")
}

pub(super) fn filling(stage: &mut Stage) -> Result<()> {
    let world = &mut stage.world;
    world.agent.stop()?;
    fs::remove_dir_all(world.agent.journal())?;
    world.wishes.record_max_bytes = CEILING;
    world.write_config()?;
    world.start_agent()?;
    let mark = stage.world.agent.log().len();
    let file = stage.file("journal.jsonl");
    let before = values(&file)?.len();
    stage.world.client("filling").limit(60).script(&rows(20 << 10))?.ok()?;
    ensure!(usage(stage)? < 75.0, "too full too soon: {}", usage(stage)?);
    let told = || {
        Ok::<_, anyhow::Error>(
            values(&file)?.iter().skip(before).filter(|it| it["event"] == "journal_filling").count(),
        )
    };
    wait_for("80 %", Duration::from_secs(40), || {
        stage.world.client("filling").script(&rows(512))?.ok()?;
        Ok((usage(stage)? > 82.0).then_some(()))
    })?;
    wait_for("the alert among the exports", Duration::from_secs(10), || Ok((told()? > 0).then_some(())))?;
    ensure!(told()? == 1, "told more than once");
    let log = stage.world.agent.log_since(mark);
    ensure!(log.contains("the journal fills up"), "nothing in the log:\n{log}");
    // It has no class of its own.
    wait_for("the alert as OCSF", Duration::from_secs(20), || {
        Ok((super::by_class(stage)?["0"].as_u64() > Some(0)).then_some(()))
    })?;
    // Another journal began: its events are told from its first one on, and the numbers go on.
    super::no_gaps(values(&file)?.iter()).map(drop)
}

pub(super) fn closing(stage: &mut Stage) -> Result<()> {
    wait_for("95 %", Duration::from_secs(60), || {
        let output = stage.world.client("closing").script(&rows(256))?;
        Ok((output.code != Some(0)).then_some(output))
    })
    .and_then(|output| {
        ensure!(
            output.stdout.is_empty() && output.stderr.contains("FATAL") && output.stderr.contains("95 %"),
            "no clear reason: {output}"
        );
        Ok(())
    })?;
    let usage = usage(stage)?;
    ensure!((95.0..100.0).contains(&usage), "refused at {usage} %");
    Ok(())
}

/// In one session that was let in before, up to its end.
pub(super) fn full(stage: &mut Stage) -> Result<()> {
    let world = &mut stage.world;
    world.agent.stop()?;
    fs::remove_dir_all(world.agent.journal())?;
    world.start_agent()?;
    let output = long(world.client("full")).script(&rows(1024).repeat(40))?;
    ensure!(output.code != Some(0), "more than the ceiling was served");
    ensure!(
        output.stderr.contains("cannot be recorded") || output.stderr.contains("journal"),
        "no clear reason: {}",
        output.stderr
    );
    let used: u64 = fs::read_dir(world.agent.journal())?
        .flatten()
        .filter_map(|it| it.metadata().ok())
        .map(|it| it.len())
        .sum();
    ensure!(used <= CEILING, "{used} bytes in the journal");
    // How it ended is recorded all the same, in what is kept for that.
    let trail = Trail::of(&world.agent, "full")?;
    let reason = trail.first("session_end")?["reason"].as_str().context("no reason")?;
    ensure!(reason.contains("record") || reason.contains("journal"), "{reason}");
    world.agent.command(&["verify"])?.ok().map(drop)
}

fn long(client: Client<'_>) -> Client<'_> {
    client.limit(60)
}
