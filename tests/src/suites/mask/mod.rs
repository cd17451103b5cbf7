//! Masking that holds: every case of the analysis and random sessions against a real server, through the kernel's
//! redirect, with values planted in every masked column and two databases that differ in these alone.

mod beside;
mod deferred;
mod define;
mod harden;
mod latin;
mod overtaken;
mod random;
mod seen;
mod table;
mod telling;
mod tools;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use crate::harness::cgroup::Cgroup;
use crate::harness::report::{self, Case};
use crate::harness::spawn::{Program, Running};
use crate::harness::world::{Wishes, World};

const CASES: &[Case<World>] = &[
    Case {
        name: "every case comes out as published, in the simple and the extended protocol, in text and binary",
        run: table::matrix,
    },
    Case {
        name: "who may change the schema may change what no label hangs on, and no label gets lost",
        run: define::matrix,
    },
    Case {
        name: "Django's migrations run beside labels for who may change the schema, and no more",
        run: define::migrations,
    },
    Case {
        name: "while the schema changes, what is masked is not read, and what comes after is masked",
        run: define::meanwhile,
    },
    Case {
        name: "a labelled table that is renamed beside the agent stays masked, as does the one in its place",
        run: define::renamed,
    },
    Case {
        name: "a session goes on with the schemas it looks names up in, whatever comes before them",
        run: define::path,
    },
    Case {
        name: "an index is decided on as its table is, and what shows nothing may be looked after",
        run: define::upkeep,
    },
    Case {
        name: "what the server says at the end of a transaction, or at SET CONSTRAINTS, shows nothing",
        run: deferred::cases,
    },
    Case { name: "what the server does beside a write tells nothing of a masked value", run: telling::cases },
    Case { name: "plans that the server logs come to nobody who sees masks", run: telling::logged },
    Case { name: "the catalogue queries of psql's backslash commands pass", run: table::catalogue },
    Case { name: "what SQLAlchemy, Django and JDBC ask of a schema passes", run: tools::frameworks },
    Case {
        name: "an account that could read by itself is refused, hardened, and let in",
        run: harden::cases,
    },
    Case {
        name: "columns that hold personal data without a label are told, once, with a label",
        run: seen::cases,
    },
    Case { name: "where they are to be masked, they are, by the types of their columns", run: seen::masked },
    Case { name: "a statement finds no other column than the one it was decided on", run: overtaken::cases },
    Case {
        name: "a database that is not in UTF-8 finds no other names than the analysis",
        run: latin::cases,
    },
    Case { name: "random sessions tell nothing of a masked value", run: random::reading },
    Case { name: "nor where policy lets them change the schema", run: random::changing },
    Case {
        name: "nor do two of them between each other, while somebody changes the schema past the agent",
        run: beside::sessions,
    },
];

/// Where the target is.
const HOST: &str = "127.0.0.8";

/// Databases to copy.
const TEMPLATES: [&str; 2] = ["leak_ta", "leak_tb"];

/// The columns that are masked.
const LABELS: &str = include_str!("../../../../agent/sql/tests/fixture/labels.txt");

/// Tables that tools make and the cases speak of, empty.
const TOOLS: &str = "create table public.pgbench_accounts(aid int, bid int, abalance int, filler char(84));\n\
    create table public.pgbench_branches(bid int, bbalance int, filler char(88));\n\
    create table public.pgbench_tellers(tid int, bid int, tbalance int, filler char(84));\n\
    create table public.pgbench_history(tid int, bid int, aid int, delta int, mtime timestamp, filler char(22));\n\
    grant all on all tables in schema public to public;";

const POLICY: &str = r#"
@id("bots-use-everything")
permit(principal in Group::"ai-agents", action in [Action::"connect", Action::"sql:all"], resource in Env::"prod");
@id("mail-is-shown")
permit(principal in Group::"mail-readers", action == Action::"unmask", resource in Tag::"mail");
@id("no-code")
forbid(principal, action in [Action::"sql:call", Action::"sql:admin"], resource);
@id("no-ddl")
forbid(principal, action == Action::"sql:ddl", resource) unless { principal in Group::"mail-readers" };
"#;

pub(super) fn run(filter: Option<&str>) -> Result<()> {
    let mut world = prepare()?;
    report::run("mask", &mut world, CASES, filter, |world| world.agent.log_tail())
}

/// As many random statements as wanted: `--statements N --seed S [--ddl]`, or of two sessions: `--beside RUNS --seed S`.
pub(crate) fn on_demand(args: &[&str]) -> Result<()> {
    let mut wanted = random::Wanted::default();
    let (mut ddl, mut runs) = (false, None);
    let mut words = args.iter();
    while let Some(word) = words.next() {
        let mut number = || -> Result<u64> { Ok(words.next().context("a number is missing")?.parse()?) };
        match *word {
            "--statements" => wanted.exchanges = number()?,
            "--seed" => wanted.seed = number()?,
            "--beside" => runs = Some(number()?),
            "--ddl" => ddl = true,
            _ => bail!("mask takes --statements N, --beside N, --seed S and --ddl, not {word}"),
        }
    }
    let world = prepare()?;
    if let Some(runs) = runs {
        return beside::run(&world, &beside::Wanted { runs, seed: wanted.seed });
    }
    let place = if ddl { &world.places.mail_bot } else { &world.places.billing_bot };
    random::run(&world, place, &wanted)
}

fn prepare() -> Result<World> {
    let line = ("shop-trust", "detect = \"mask\"");
    let mut world =
        World::prepare("mask", Wishes { quiet_server: true, target: vec![line], ..Wishes::default() })?;
    let [a, b] = TEMPLATES;
    let postgres = &world.postgres;
    postgres.admin(&format!("create database {a}"))?;
    postgres.admin_in(a, include_str!("../../../../agent/sql/tests/fixture/setup.sql"))?;
    postgres.admin_in(a, include_str!("../../../../agent/sql/tests/fixture/more.sql"))?;
    postgres.admin_in(a, TOOLS)?;
    // The account may do all that can be done: what holds, holds by the gate alone.
    postgres.admin_in(
        a,
        "grant usage on schema other to agent; grant all on all tables in schema app, other to agent;\n\
         grant agent, postgres to shop_trust; alter role shop_trust set search_path = app, public;\n\
         alter role shop_trust set statement_timeout = '300ms'",
    )?;
    postgres.admin(&format!("create database {b} template {a}"))?;
    let mut planted = String::new();
    for (database, side) in [(a, "a"), (b, "b")] {
        let sql = format!("\\set s {side}\n{}", include_str!("planted.sql"));
        postgres.admin_in(database, &sql)?;
        planted += &postgres.admin_in(database, include_str!("planted.list.sql"))?;
        planted.push('\n');
    }
    fs::write(planted_in(&world), planted)?;
    world.wishes.more = target(&world);
    world.write_policy(POLICY)?;
    world.write_config()?;
    world.start_agent()?;
    Ok(world)
}

fn target(world: &World) -> String {
    let label = |column: &str| {
        format!("[[targets.labels]]\ncolumn = \"{column}\"\ntags = [\"planted\"]\nmask = \"redact\"\n")
    };
    let labels: String = LABELS.lines().map(label).collect();
    let port = world.postgres.port;
    format!(
        "\n[[targets]]\nname = \"leaks\"\nprotocol = \"postgres\"\naddresses = [\"{HOST}\"]\nport = {port}\nenv = \"prod\"\n\
         user = \"shop_trust\"\ndetect = \"report\"\n{labels}"
    ) + &format!(
        "\n[[targets]]\nname = \"hard\"\nprotocol = \"postgres\"\naddresses = [\"{}\"]\nport = {port}\nenv = \"prod\"\n\
         user = \"{}\"\nleast_privilege = \"refuse\"\n{labels}",
        harden::HOST,
        harden::ACCOUNT
    )
}

fn planted_in(world: &World) -> PathBuf {
    world.scratch.path().join("planted")
}

/// This program as a client in a cgroup.
fn raw(world: &World, place: &Cgroup, what: &[&str], args: &[&str]) -> Result<Program> {
    let &[kind, host, user] = what else { bail!("kind, host and user, not {what:?}") };
    let program = Program::new(std::env::current_exe()?);
    let port = world.postgres.port.to_string();
    Ok(program.args(["raw", kind, host, &port, user]).args(args).inside(place)?.limit(90))
}

/// The two databases of a run, with what belongs to them.
struct Pair<'a> {
    world: &'a World,
    names: [String; 2],
}

impl<'a> Pair<'a> {
    fn copy(world: &'a World, number: u64) -> Result<Self> {
        let names = [format!("leak_a{number}"), format!("leak_b{number}")];
        for (name, template) in names.iter().zip(TEMPLATES) {
            world.postgres.admin(&format!("create database {name} template {template}"))?;
        }
        Ok(Self { world, names })
    }
}

impl Drop for Pair<'_> {
    fn drop(&mut self) {
        for name in &self.names {
            // It goes with the server anyway.
            let _ = self.world.postgres.admin(&format!("drop database {name} with (force)"));
        }
    }
}
