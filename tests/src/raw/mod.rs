//! A client that speaks the protocol byte by byte and keeps every byte it is sent.
//!
//! It runs as a process of its own (`e2e raw ...`), because who a client is depends on its cgroup. What it finds it
//! prints; the suites judge.

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
        ["matrix", host, port, database, planted] => {
            matrix::run(host, port.parse()?, database, &planted_in(planted)?)
        }
        ["fuzz", host, port, a, b, planted, seed, sessions] => {
            let range = seed.parse()?..seed.parse::<u64>()? + sessions.parse::<u64>()?;
            fuzz::run(host, port.parse()?, [a, b], &planted_in(planted)?, range)
        }
        ["show", seed] => fuzz::show(seed.parse()?),
        _ => bail!(
            "usage: e2e raw matrix HOST PORT DATABASE PLANTED | fuzz HOST PORT A B PLANTED SEED SESSIONS"
        ),
    }
}

fn planted_in(file: &str) -> Result<Secrets> {
    Ok(Secrets::new(fs::read_to_string(file)?.lines()))
}
