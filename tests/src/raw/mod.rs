//! A client that speaks the protocol byte by byte and keeps every byte it is sent.
//!
//! It runs as a process of its own (`e2e raw ...`), because who a client is depends on its cgroup. What it finds it
//! prints; the suites judge.

mod beside;
pub(crate) mod cases;
mod fuzz;
mod matrix;
mod secrets;
mod session;
mod wire;
mod words;

#[path = "../../../agent/sql/examples/noninterference/generate.rs"]
mod generate;

use std::fs;

use anyhow::{Result, bail};

use secrets::Secrets;

pub(crate) fn run(args: &[&str]) -> Result<()> {
    match args {
        ["matrix", host, port, user, database, planted, ways @ ..] => {
            let at = wire::Place { host, port: port.parse()?, user, database };
            matrix::run(&at, &planted_in(planted)?, cases::all()?, ways)
        }
        [set @ ("define" | "deferred"), host, port, user, database, planted, ways @ ..] => {
            let at = wire::Place { host, port: port.parse()?, user, database };
            let cases = if *set == "define" { cases::definitions() } else { cases::deferred() };
            matrix::run(&at, &planted_in(planted)?, cases, ways)
        }
        ["fuzz", host, port, user, a, b, planted, seed, sessions] => {
            let range = seed.parse()?..seed.parse::<u64>()? + sessions.parse::<u64>()?;
            let port = port.parse()?;
            let places = [a, b].map(|database| wire::Place { host, port, user, database });
            fuzz::run(&places, &planted_in(planted)?, range)
        }
        ["beside", host, port, user, database, planted, seed, cgroups @ ..] => {
            let at = wire::Place { host, port: port.parse()?, user, database };
            beside::run(&at, &planted_in(planted)?, seed.parse()?, cgroups)
        }
        ["show-beside", seed] => beside::show(seed.parse()?),
        ["show", seed] => fuzz::show(seed.parse()?),
        _ => bail!(
            "usage: e2e raw matrix HOST PORT USER DATABASE PLANTED WAY... | define|deferred (as matrix) | fuzz HOST PORT USER A B PLANTED SEED SESSIONS \
             | beside HOST PORT USER DATABASE PLANTED SEED CGROUP CGROUP | show SEED | show-beside SEED"
        ),
    }
}

fn planted_in(file: &str) -> Result<Secrets> {
    Ok(Secrets::new(fs::read_to_string(file)?.lines()))
}
