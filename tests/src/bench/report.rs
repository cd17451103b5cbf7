//! The numbers as a table, and its place in docs/bench.md.

use std::fmt::Write;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};

use super::arms::Arm;
use super::measure::{Measured, Plan, Sample};

const BEGIN: &str = "<!-- results -->";
const END: &str = "<!-- /results -->";
const HOOKS_BEGIN: &str = "<!-- hooks -->";
const HOOKS_END: &str = "<!-- /hooks -->";
const RECORD_BEGIN: &str = "<!-- record -->";
const RECORD_END: &str = "<!-- /record -->";
const SSH_BEGIN: &str = "<!-- ssh -->";
const SSH_END: &str = "<!-- /ssh -->";

pub(super) fn table(results: &[Measured], plan: &Plan, copy_mb: u64) -> String {
    let mut text = format!("{}\n\n", conditions(plan, copy_mb));
    text += "| scenario | unit | direct | HAProxy | PgBouncer | Chaperone |\n|---|---|--:|--:|--:|--:|\n";
    for measured in results {
        let direct = median(measured, Arm::Direct, |sample| Some(sample.rate));
        let _ = write!(text, "| {} | {} |", measured.scenario.name(), measured.scenario.unit());
        for arm in Arm::ALL {
            let cell = match (median(measured, arm, |sample| Some(sample.rate)), direct) {
                (Some(rate), Some(_)) if arm == Arm::Direct => format!("{rate:.0}"),
                (Some(rate), Some(direct)) => format!("{rate:.0} ({:.2})", rate / direct),
                _ => "-".into(),
            };
            let _ = write!(text, " {cell} |");
        }
        text.push('\n');
    }
    text += "\nIn brackets: the ratio to the direct connection, of medians.\n\n";
    text += "| CPU of the proxy, µs | per | HAProxy | PgBouncer | Chaperone |\n|---|---|--:|--:|--:|\n";
    for measured in results {
        let per = measured.scenario.unit().trim_end_matches("/s").trim_end_matches('s');
        let _ = write!(text, "| {} | {per} |", measured.scenario.name());
        for arm in [Arm::HaProxy, Arm::PgBouncer, Arm::Chaperone] {
            let cpu = median(measured, arm, |sample| sample.cpu_us);
            let _ = write!(text, " {} |", cpu.map_or("-".into(), |cpu| format!("{cpu:.1}")));
        }
        text.push('\n');
    }
    text += "\n| mean latency, ms | direct | HAProxy | PgBouncer | Chaperone |\n|---|--:|--:|--:|--:|\n";
    for measured in results {
        let cells = Arm::ALL.map(|arm| median(measured, arm, |sample| sample.latency_ms));
        if cells.iter().any(Option::is_some) {
            let _ = write!(text, "| {} |", measured.scenario.name());
            for cell in cells {
                let _ = write!(text, " {} |", cell.map_or("-".into(), |ms| format!("{ms:.3}")));
            }
            text.push('\n');
        }
    }
    text
}

fn conditions(plan: &Plan, copy_mb: u64) -> String {
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model =
        cpu.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": ")).map(|(_, name)| name);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    format!(
        "Medians of {} rounds of {} s for each cell (COPY: one pass over {copy_mb} MB), {cores} cores of {}, kernel {}. \
         Client, proxy and server share these cores.",
        plan.rounds,
        plan.seconds,
        model.unwrap_or("an unnamed CPU"),
        kernel.trim(),
    )
}

fn median(measured: &Measured, arm: Arm, value: fn(&Sample) -> Option<f64>) -> Option<f64> {
    let samples = measured.samples.iter().find(|(of, _)| *of == arm)?;
    let mut values: Vec<f64> = samples.1.iter().filter_map(value).collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    let upper = values.get(middle).copied()?;
    Some(if values.len() % 2 == 1 { upper } else { (values[middle - 1] + upper) / 2.0 })
}

/// The table of the benchmark proper.
pub(super) fn write(table: &str) -> Result<()> {
    put(table, BEGIN, END)
}

/// The table of what the kernel programs cost.
pub(super) fn write_hooks(table: &str) -> Result<()> {
    put(table, HOOKS_BEGIN, HOOKS_END)
}

/// The table of what recording costs.
pub(super) fn write_record(table: &str) -> Result<()> {
    put(table, RECORD_BEGIN, RECORD_END)
}

/// The table of what SSH costs.
pub(super) fn write_ssh(table: &str) -> Result<()> {
    put(table, SSH_BEGIN, SSH_END)
}

/// The machine, in a line.
pub(super) fn machine() -> String {
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model =
        cpu.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": ")).map(|(_, name)| name);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    format!(
        "{}, kernel {}, load average {}.",
        model.unwrap_or("An unnamed CPU"),
        kernel.trim(),
        load.split(' ').next().unwrap_or("?")
    )
}

/// Puts the table between its marks in docs/bench.md and leaves the words around it alone.
fn put(table: &str, begin: &str, end: &str) -> Result<()> {
    let path = std::env::var_os("CHAPERONE_ROOT")
        .map_or_else(|| PathBuf::from("."), PathBuf::from)
        .join("docs/bench.md");
    let page = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    let (before, rest) = page.split_once(begin).context("docs/bench.md has lost its results mark")?;
    let (_, after) = rest.split_once(end).context("docs/bench.md has lost its end mark")?;
    fs::write(&path, format!("{before}{begin}\n{table}{end}{after}"))?;
    eprintln!("written to {}", path.display());
    Ok(())
}
