//! Runs one scenario through one arm, and all scenarios through all arms in turn.

use std::fs;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, ensure};

use super::arms::{Arm, Arms};
use crate::harness::world::World;

pub(super) struct Plan {
    pub(super) rounds: usize,
    pub(super) seconds: u64,
    /// Only the arms with this in their name.
    pub(super) arm: Option<String>,
}

#[derive(Clone, Copy)]
pub(super) enum Scenario {
    /// `pgbench -S` on connections that stay open.
    Hot { mode: &'static str, clients: u32 },
    /// `pgbench -S -C`: a connection for each statement.
    Connect { clients: u32 },
    /// `COPY (...) TO STDOUT`, with or without a column that Chaperone masks.
    Copy { masked: bool },
}

impl Scenario {
    pub(super) fn name(self) -> String {
        match self {
            Self::Hot { mode, clients } => format!("SELECT, {mode}, c={clients}"),
            Self::Connect { clients } => format!("connect + SELECT, c={clients}"),
            Self::Copy { masked: false } => "COPY out, nothing masked".into(),
            Self::Copy { masked: true } => "COPY out, a masked column".into(),
        }
    }

    pub(super) fn unit(self) -> &'static str {
        match self {
            Self::Hot { .. } => "statements/s",
            Self::Connect { .. } => "connections/s",
            Self::Copy { .. } => "MB/s",
        }
    }
}

/// One arm in one round.
#[derive(Clone, Copy)]
pub(super) struct Sample {
    /// In the scenario's unit.
    pub(super) rate: f64,
    /// Microseconds of the proxy's CPU time for each statement, connection or megabyte.
    pub(super) cpu_us: Option<f64>,
    /// Milliseconds, where pgbench tells.
    pub(super) latency_ms: Option<f64>,
}

pub(super) struct Measured {
    pub(super) scenario: Scenario,
    /// By arm, in the order of `Arm::ALL`; a sample for each round.
    pub(super) samples: Vec<(Arm, Vec<Sample>)>,
}

pub(super) fn all(world: &World, arms: &Arms, scenarios: &[Scenario], plan: &Plan) -> Result<Vec<Measured>> {
    let known: Vec<Arm> = Arm::ALL
        .into_iter()
        .filter(|arm| *arm != Arm::Chaperone || world.agent.pid().is_ok())
        .filter(|arm| plan.arm.as_ref().is_none_or(|wanted| arm.name().contains(wanted.as_str())))
        .collect();
    let mut results: Vec<Measured> = scenarios
        .iter()
        .map(|scenario| Measured {
            scenario: *scenario,
            samples: known.iter().map(|arm| (*arm, Vec::new())).collect(),
        })
        .collect();
    for round in 0..plan.rounds {
        for measured in &mut results {
            let count = measured.samples.len();
            for turn in 0..count {
                let (arm, samples) = &mut measured.samples[(turn + round) % count];
                let sample = one(world, arms, *arm, measured.scenario, plan)
                    .with_context(|| format!("{} through {}", measured.scenario.name(), arm.name()))?;
                eprintln!(
                    "round {}  {:28} {:10} {:>10.0} {}",
                    round + 1,
                    measured.scenario.name(),
                    arm.name(),
                    sample.rate,
                    measured.scenario.unit()
                );
                samples.push(sample);
            }
        }
    }
    Ok(results)
}

fn one(world: &World, arms: &Arms, arm: Arm, scenario: Scenario, plan: &Plan) -> Result<Sample> {
    let process = arms.process(arm, world);
    let before = process.map(cpu_us).transpose()?;
    let (done, rate, latency_ms) = match scenario {
        Scenario::Hot { mode, clients } => pgbench(world, arms, arm, &["-M", mode], clients, plan.seconds)?,
        Scenario::Connect { clients } => pgbench(world, arms, arm, &["-C"], clients, plan.seconds)?,
        Scenario::Copy { masked } => copy(world, arms, arm, masked)?,
    };
    let after = process.map(cpu_us).transpose()?;
    let cpu_us = before.zip(after).map(|(before, after)| (after - before) / done);
    Ok(Sample { rate, cpu_us, latency_ms })
}

type Done = (f64, f64, Option<f64>);

fn pgbench(world: &World, arms: &Arms, arm: Arm, how: &[&str], clients: u32, seconds: u64) -> Result<Done> {
    let (clients, seconds) = (clients.to_string(), seconds.to_string());
    let args = [how, &["-S", "-n", "-c", &clients, "-j", "1", "-T", &seconds]].concat();
    let output = arms.client(arm, world).pgbench_builtin(&args)?.ok()?;
    let number = |before: &str| -> Option<f64> {
        let line = output.lines().find_map(|line| line.strip_prefix(before))?;
        line.trim().split(' ').next()?.parse().ok()
    };
    let done = number("number of transactions actually processed:").with_context(|| output.clone())?;
    ensure!(done > 0.0, "pgbench did nothing: {output}");
    let rate = number("tps =").with_context(|| output.clone())?;
    Ok((done, rate, number("latency average =")))
}

fn copy(world: &World, arms: &Arms, arm: Arm, masked: bool) -> Result<Done> {
    let columns = if masked { "id, email, word, note" } else { "id, word, note" };
    let sql = format!("copy bulk ({columns}) to stdout");
    let started = Instant::now();
    let bytes = arms.client(arm, world).psql_counted(&sql)?;
    let seconds = started.elapsed().as_secs_f64();
    let megabytes = bytes as f64 / 1e6;
    ensure!(megabytes > 1.0, "only {bytes} bytes copied");
    Ok((megabytes, megabytes / seconds, None))
}

/// CPU time of a process and its threads since it began, in microseconds.
pub(super) fn cpu_us(pid: u32) -> Result<f64> {
    let path = format!("/proc/{pid}/stat");
    let stat = fs::read_to_string(Path::new(&path)).with_context(|| format!("reading {path}"))?;
    let (_, fields) = stat.rsplit_once(") ").context("an unknown form of /proc/PID/stat")?;
    let fields: Vec<&str> = fields.split(' ').collect();
    let ticks: u64 = fields[11].parse::<u64>()? + fields[12].parse::<u64>()?;
    let per_second = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK)?.context("no clock tick")?;
    Ok(ticks as f64 * 1e6 / per_second as f64)
}

pub(super) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
