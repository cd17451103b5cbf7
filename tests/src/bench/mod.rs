//! What Chaperone costs, beside a direct connection, HAProxy and PgBouncer, in one run on one machine.
//!
//! The arms take turns within a round, in another order each round, so that what else happens on the machine falls
//! on all of them. Written down are medians over rounds; nothing is left out.

mod arms;
mod hooks;
mod measure;
mod namespaces;
mod record;
mod report;
mod ssh;

use anyhow::{Context, Result, bail};

use crate::harness::world::{POLICY, Wishes, World};
pub(crate) use hooks::load;

use arms::Arms;
use measure::{Plan, Scenario};

/// What was asked for on the command line.
struct Wanted {
    part: Option<String>,
    rounds: usize,
    seconds: u64,
    copy_mb: u64,
    /// A part of the names of scenarios, and of an arm: for a profile of just that.
    only: Option<String>,
    arm: Option<String>,
    /// Whether docs/bench.md is written: a smoke run, or a part, is no publication.
    publish: bool,
}

/// The number behind an option.
fn number_of(option: &str, value: Option<&&str>) -> Result<u64> {
    let value = value.with_context(|| format!("{option} needs a number"))?;
    value.parse().with_context(|| format!("{option}: `{value}` is not a number"))
}

impl Wanted {
    fn parse(args: &[&str]) -> Result<Self> {
        let mut wanted =
            Self { part: None, rounds: 5, seconds: 5, copy_mb: 1024, only: None, arm: None, publish: true };
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            if let "--only" | "--arm" = *arg {
                let text = args.next().with_context(|| format!("{arg} needs a part of a name"))?;
                *(if *arg == "--only" { &mut wanted.only } else { &mut wanted.arm }) =
                    Some((*text).to_owned());
                wanted.publish = false;
                continue;
            }
            let mut number = || number_of(arg, args.next());
            match *arg {
                "--rounds" => wanted.rounds = usize::try_from(number()?)?.max(1),
                "--seconds" => wanted.seconds = number()?.max(1),
                "--copy-mb" => wanted.copy_mb = number()?.max(1),
                "--smoke" => {
                    (wanted.rounds, wanted.seconds, wanted.copy_mb) = (1, 1, 16);
                    wanted.publish = false;
                }
                "hot" | "copy" | "connect" => {
                    wanted.part = Some((*arg).to_owned());
                    wanted.publish = false;
                }
                _ => bail!(
                    "usage: bench [hot|copy|connect] [--only SCENARIO] [--arm ARM] [--rounds N] [--seconds N] [--copy-mb N] \
                     [--smoke]"
                ),
            }
        }
        Ok(wanted)
    }

    fn covers(&self, part: &str) -> bool {
        self.part.as_deref().is_none_or(|wanted| wanted == part)
    }
}

pub(crate) fn run(args: &[&str]) -> Result<()> {
    match args {
        ["hooks"] => return hooks::run(true),
        ["hooks", "--smoke"] => return hooks::run(false),
        ["record"] => return record::run(true),
        ["record", "--smoke"] => return record::run(false),
        ["ssh", rest @ ..] => return ssh::run(rest),
        _ => {}
    }
    let wanted = Wanted::parse(args)?;
    let labels = vec!["public.bulk.email"];
    let mut world = World::prepare(
        "bench",
        Wishes { quiet_server: true, labels, record_max_bytes: 16 << 30, ..Wishes::default() },
    )?;
    world.write_policy(POLICY)?;
    if std::env::var_os("CHAPERONE_BENCH_WITHOUT").is_none() {
        world.start_agent()?;
    }
    let arms = Arms::start(&world)?;
    let mut scenarios = Vec::new();
    if wanted.covers("hot") {
        world.postgres.pgbench_tables()?;
        for clients in [1, 8] {
            for mode in ["simple", "extended", "prepared"] {
                scenarios.push(Scenario::Hot { mode, clients });
            }
        }
    }
    if wanted.covers("connect") {
        world.postgres.pgbench_tables()?;
        scenarios.extend([1, 8].map(|clients| Scenario::Connect { clients }));
    }
    if wanted.covers("copy") {
        eprintln!("filling a table with {} MB", wanted.copy_mb);
        world.postgres.admin(&bulk_table(wanted.copy_mb))?;
        scenarios.extend([false, true].map(|masked| Scenario::Copy { masked }));
    }
    if let Some(only) = &wanted.only {
        scenarios.retain(|scenario| scenario.name().contains(only.as_str()));
    }
    let plan = Plan { rounds: wanted.rounds, seconds: wanted.seconds, arm: wanted.arm.clone() };
    let results = measure::all(&world, &arms, &scenarios, &plan)?;
    let table = report::table(&results, &plan, wanted.copy_mb);
    eprintln!("\n{table}");
    if wanted.publish {
        report::write(&table)?;
    }
    Ok(())
}

/// Rows of about 130 bytes of text each.
fn bulk_table(megabytes: u64) -> String {
    let rows = megabytes * 1_000_000 / 130;
    format!(
        "create unlogged table bulk as select n as id, md5(n::text) as word, 'user' || n || '@example.com' as email, \
         md5((n + 1)::text) || md5((n + 2)::text) as note from generate_series(1, {rows}) as n;\n\
         grant select on bulk to public;\nvacuum analyze bulk;"
    )
}
