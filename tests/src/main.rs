//! `e2e`: end-to-end suites, the demo and the benchmark. `cargo xtask` builds what they need and calls this.

#![expect(clippy::indexing_slicing, reason = "test code throughout: a panic is a failed case")]

mod bench;
mod demo;
mod drivers;
mod harness;
mod raw;
mod stage;
mod suites;

use std::process::ExitCode;

use anyhow::{Result, bail};

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("e2e: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &[String]) -> Result<()> {
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["suite"] => suites::run(None, None),
        ["suite", "mask", rest @ ..] if rest.iter().any(|word| word.starts_with("--")) => {
            suites::mask::on_demand(rest)
        }
        ["suite", "record", rest @ ..] if rest.iter().any(|word| word.starts_with("--")) => {
            suites::record::on_demand(rest)
        }
        ["suite", "upgrade", "--from", program] => suites::upgrade::on_demand(program),
        ["suite", name] => suites::run(Some(name), None),
        ["suite", name, filter] => suites::run(Some(name), Some(filter)),
        ["demo"] => demo::run(),
        ["bench", rest @ ..] => bench::run(rest),
        ["load", kind, port, count] => bench::load(kind, port, count),
        ["driver", name, host, port, user, database] => drivers::run(name, &[host, port, user, database]),
        ["raw", rest @ ..] => raw::run(rest),
        ["stage", rest @ ..] => stage::run(rest.contains(&"--no-agent")),
        _ => bail!("usage: e2e suite [NAME [FILTER]] | stage [--no-agent] | demo | bench ..."),
    }
}
