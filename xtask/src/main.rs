//! The project's own commands: `cargo xtask <command>`.
//!
//! Owns the order in which things are built and run. What is tested, shown and measured lives in tests/.

mod build;
mod ebpf;
mod lint;
mod sh;
mod test;
mod tidy;
mod vm;

use std::process::ExitCode;

use anyhow::{Result, bail};

const USAGE: &str = "\
cargo xtask <command>

  setup                     install what building and testing need (scripts/prereqs.sh, scripts/packages.sh)
  build [--release]         the kernel programs, then the agent
  lint                      fmt, clippy (host and BPF), tidy, licences and sources of dependencies
  tidy                      the house rules: import arrows, pure machines, file sizes, unsafe
  test [unit|e2e]           everything, or one half
  e2e <suite> [filter]      one end-to-end suite, or its cases whose name holds filter: core, bad, journal, record,
                            mask, knobs, labels, retention, sealed, clocks, reload, drivers, servers, dba, regress [--all],
                            tls, exports, holds, bypass, netns, provenance, ssh, unix, identity, pods, alive, upgrade
  e2e mask --statements N|--beside RUNS [--seed S] [--ddl]
                            random sessions: one in two databases, or two in one beside somebody who changes the schema
  e2e record --kills N      the agent killed N times under load of databases and hosts
  e2e upgrade --from PROGRAM
                            a real upgrade from that program, of an older version, and the way back
  fuzz [test] [--seconds N] [--seed S]
                            mutated inputs for what reads others' bytes, each test for so long (10 s)
  fuzz --libfuzzer TARGET [--seconds N]
                            a target of fuzz/ for so long (60 s): codec, machine, prescan, analyser, maskers, ssh
  vm [--kernel 6.1|6.12|newest|5.10] [--release] [suite...]
                            suites (core, alive, service) on another kernel, with systemd, under qemu
  demo                      the main scenario with a throw-away PostgreSQL and plain psql
  bench hooks               what the kernel programs cost, by the kernel's statistics; writes docs/bench.md
  bench record              what recording costs a statement, and how fast a journal of 1,000,000 operations answers;
                            writes docs/bench.md
  bench [hot|copy|connect] [--only SCENARIO] [--arm ARM] [--rounds N] [--seconds N] [--copy-mb N] [--smoke]
                            what Chaperone costs beside direct, HAProxy and PgBouncer; writes docs/bench.md
  bench ssh [--rounds N] [--mib N] [--commands N] [--smoke]
                            what Chaperone costs an SSH client beside direct and a bastion; writes docs/bench.md
  bench policy              what a decision costs with the starter policies and with 10,000 rules more
";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &[String]) -> Result<()> {
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["setup"] => build::setup(),
        ["build"] => build::everything(build::Profile::Dev).map(drop),
        ["build", "--release"] => build::everything(build::Profile::Release).map(drop),
        ["lint"] => lint::lint(),
        ["tidy"] => tidy::report(),
        ["test"] => test::all(),
        ["test", "unit"] => test::unit(),
        ["test", "e2e"] => test::e2e(&[]),
        ["e2e", rest @ ..] if !rest.is_empty() => test::e2e(rest),
        ["fuzz", rest @ ..] => test::fuzz(rest),
        ["vm", rest @ ..] => vm::vm(rest),
        ["demo"] => test::demo(),
        ["bench", rest @ ..] => test::bench(rest),
        _ => {
            bail!("usage:\n\n{USAGE}")
        }
    }
}
