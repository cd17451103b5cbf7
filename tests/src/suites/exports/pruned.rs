//! A receiver that was away while old records went: it is told which.

use std::fs;
use std::net::TcpListener;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::full::rows;
use super::receive::{accept, counted, ended};
use super::{Stage, values};
use crate::harness::spawn::wait_for;

/// Little, and then the oldest go.
const CEILING: u64 = 2 << 20;

pub(super) fn gap(stage: &mut Stage) -> Result<()> {
    let file = stage.file("journal.jsonl");
    let world = &mut stage.world;
    world.agent.stop()?;
    fs::remove_dir_all(world.agent.journal())?;
    world.wishes.record_max_bytes = CEILING;
    world.wishes.record_more = "when_full = \"prune\"".to_owned();
    world.write_config()?;
    let before = values(&file)?.len();
    world.start_agent()?;
    // Otherwise that one might come too late as well.
    wait_for("the new journal's beginning in the file", Duration::from_secs(20), || {
        Ok(values(&file)?.iter().skip(before).any(|it| it["event"] == "agent_start").then_some(()))
    })?;
    let report = || -> Result<Value> {
        let output = stage.world.agent.command(&["verify", "--json"])?;
        serde_json::from_str(&output.stdout).with_context(|| format!("{output}"))
    };
    let through = wait_for("records being pruned", Duration::from_secs(60), || {
        stage.world.client("prunes").limit(60).script(&rows(300).repeat(4))?.ok()?;
        Ok(report()?["pruned_through"].as_u64().filter(|through| *through > 0))
    })?;
    let session = stage.traffic("behind-the-gap")?;
    let listener = TcpListener::bind(("127.0.0.1", stage.syslog))?;
    let mut stream = std::io::BufReader::new(accept(&listener)?);
    let mut told: Vec<Value> = Vec::new();
    while !ended(&told, &session) {
        let line = counted(&mut stream)?;
        let (_, json) = line.split_once(" - {").with_context(|| line.clone())?;
        told.push(serde_json::from_str(&format!("{{{json}"))?);
    }
    let number = |value: &Value, of: &str| value[of].as_u64().with_context(|| format!("no {of} in {value}"));
    let numbers = told.iter().map(|it| number(it, "number")).collect::<Result<Vec<_>>>()?;
    ensure!(numbers.windows(2).all(|pair| pair[1] == pair[0] + 1), "{numbers:?}");
    let at = told.iter().position(|it| it["event"] == "export_gap").context("it was not told of the gap")?;
    let (from, to) = (number(&told[at], "from_seq")?, number(&told[at], "to_seq")?);
    ensure!(from <= through && to >= through, "{from} to {to} are told to be gone, {through} records are");
    // Of what is left, everything: the one that says that they go is among it.
    let next = told.get(at + 1).context("nothing behind the gap")?;
    ensure!(number(next, "seq")? > to, "{next}");
    ensure!(told.iter().skip(at).any(|it| it["event"] == "pruned"), "nobody said why");
    // One that was there all the time has the same events under numbers without a gap.
    wait_for("the session in the file", Duration::from_secs(20), || {
        Ok(ended(&values(&file)?, &session).then_some(()))
    })?;
    super::no_gaps(values(&file)?.iter()).map(drop)
}
