//! The end-to-end suites.

mod alive;
mod bad;
mod bypass;
mod clocks;
mod core;
mod dba;
mod drivers;
mod exports;
mod holds;
mod identity;
mod journal;
mod knobs;
mod labels;
pub(crate) mod mask;
mod netns;
mod pods;
mod provenance;
pub(crate) mod record;
mod regress;
mod reload;
mod retention;
mod sealed;
mod servers;
mod service;
mod ssh;
mod tls;
mod unix;
pub(crate) mod upgrade;

use anyhow::{Result, bail};

/// One suite: its name and its entry, which takes a filter for case names.
type Suite = (&'static str, fn(Option<&str>) -> Result<()>);

const SUITES: &[Suite] = &[
    ("core", core::run),
    ("bad", bad::run),
    ("journal", journal::run),
    ("record", record::run),
    ("retention", retention::run),
    ("sealed", sealed::run),
    ("clocks", clocks::run),
    ("reload", reload::run),
    ("mask", mask::run),
    ("knobs", knobs::run),
    ("labels", labels::run),
    ("drivers", drivers::run),
    ("servers", servers::run),
    ("dba", dba::run),
    ("regress", regress::run),
    ("tls", tls::run),
    ("exports", exports::run),
    ("holds", holds::run),
    ("bypass", bypass::run),
    ("netns", netns::run),
    ("provenance", provenance::run),
    ("ssh", ssh::run),
    ("unix", unix::run),
    ("identity", identity::run),
    ("pods", pods::run),
    ("alive", alive::run),
    ("upgrade", upgrade::run),
];

/// Suites for machines of their own, run by name only.
const ON_DEMAND: &[Suite] = &[("service", service::run)];

/// Runs the named suite, or all; a failing suite does not keep the next from running.
pub(crate) fn run(name: Option<&str>, filter: Option<&str>) -> Result<()> {
    let chosen: Vec<&Suite> =
        SUITES.iter().filter(|(suite, _)| name.is_none_or(|name| name == *suite)).collect();
    let on_demand = ON_DEMAND.iter().filter(|(suite, _)| name == Some(*suite));
    let chosen: Vec<&Suite> = chosen.into_iter().chain(on_demand).collect();
    if chosen.is_empty() {
        let known: Vec<&str> = SUITES.iter().map(|(suite, _)| *suite).collect();
        bail!("no suite {}; known: {}", name.unwrap_or_default(), known.join(", "));
    }
    let mut failures = Vec::new();
    for (suite, run) in chosen {
        eprintln!("\n=== {suite}");
        if let Err(error) = run(filter) {
            eprintln!("{error:#}");
            failures.push(format!("{suite}: {error:#}"));
        }
    }
    // Once more at the end, where whoever looks into a long log begins.
    if !failures.is_empty() {
        bail!("these failed:\n{}", failures.join("\n"));
    }
    Ok(())
}
