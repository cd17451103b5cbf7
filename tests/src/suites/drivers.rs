//! Drivers, tools and frameworks as packages ship them, connected as they come: nothing on their side knows of the
//! agent. Each reads (text and binary, prepared and not), is served masked rows it can decode, is denied, rolls back,
//! goes on, and copies rows in and out where it can.

use std::path::PathBuf;

use anyhow::{Result, ensure};

use crate::harness::client::Client;
use crate::harness::report::{self, Case};
use crate::harness::spawn::Output;
use crate::harness::world::{Wishes, World};

const CASES: &[Case<World>] = &[
    Case {
        name: "psycopg2",
        run: |world| python(world, include_str!("../../clients/drivers/psycopg2.py"), COPIES),
    },
    Case { name: "PA07: psycopg 3, text and binary, pipeline", run: |world| python(world, PSYCOPG, COPIES) },
    Case { name: "psycopg 3 of today with the newest libpq", run: psycopg_today },
    Case {
        name: "asyncpg",
        run: |world| python(world, include_str!("../../clients/drivers/asyncpg.py"), COPIES),
    },
    Case {
        name: "pg8000",
        run: |world| python(world, include_str!("../../clients/drivers/pg8000.py"), COPIES),
    },
    Case {
        name: "SQLAlchemy",
        run: |world| python(world, include_str!("../../clients/drivers/sqlalchemy.py"), NO_COPY),
    },
    Case {
        name: "Django",
        run: |world| python(world, include_str!("../../clients/drivers/django.py"), NO_COPY),
    },
    Case {
        name: "psqlODBC",
        run: |world| python(world, include_str!("../../clients/drivers/pyodbc.py"), NO_COPY),
    },
    Case { name: "PA07: JDBC, named and unnamed, text and binary", run: jdbc },
    Case {
        name: "node-postgres",
        run: |world| node(world, include_str!("../../clients/drivers/pg.js"), NO_COPY),
    },
    Case {
        name: "postgres.js",
        run: |world| node(world, include_str!("../../clients/drivers/postgres.js"), COPIES),
    },
    Case {
        name: "Ruby's pg",
        run: |world| program(world, "/usr/bin/ruby", "-e", include_str!("../../clients/drivers/pg.rb")),
    },
    Case {
        name: "Perl's DBD::Pg",
        run: |world| program(world, "/usr/bin/perl", "-e", include_str!("../../clients/drivers/dbd.pl")),
    },
    Case {
        name: "PHP's pgsql and PDO",
        run: |world| program(world, "/usr/bin/php", "-r", include_str!("../../clients/drivers/pgsql.php")),
    },
    Case { name: "tokio-postgres", run: |world| rust(world, "tokio-postgres") },
    Case { name: "sqlx", run: |world| rust(world, "sqlx") },
];

const SAID: &str = include_str!("../../clients/drivers/said.py");
const PSYCOPG: &str = include_str!("../../clients/drivers/psycopg.py");
const JDBC: &str = include_str!("../../clients/drivers/jdbc.bsh");

/// What a driver says that copies rows out and in.
const COPIES: &str = "5 | 1 Ada Quill *** *** null | 5 1 500 item 5 | 42501 | 40 | 1 *** 2 *** | 1000\n";
/// What one says that does not.
const NO_COPY: &str = "5 | 1 Ada Quill *** *** null | 5 1 500 item 5 | 42501 | 40 | - | 1000\n";

pub(super) fn run(filter: Option<&str>) -> Result<()> {
    let mut world = World::start("drivers", Wishes::default())?;
    report::run("drivers", &mut world, CASES, filter, |world| world.agent.log_tail())
}

/// Where scripts/packages.sh puts drivers that Debian has no packages of, or old ones.
pub(super) fn packaged(kind: &str) -> PathBuf {
    let folder =
        std::env::var_os("CHAPERONE_DRIVERS").unwrap_or_else(|| "/var/cache/chaperone/drivers".into());
    PathBuf::from(folder).join(kind)
}

fn said(output: Output, expect: &str) -> Result<()> {
    let said = output.ok()?;
    ensure!(said == expect, "said     {said}expected {expect}");
    Ok(())
}

fn python(world: &World, program: &str, expect: &str) -> Result<()> {
    let client = world.client("driver").env("PYTHONDONTWRITEBYTECODE", "1");
    said(client.python(&format!("{SAID}{program}"), &[])?, expect)
}

fn psycopg_today(world: &mut World) -> Result<()> {
    psycopg_steps(world.client("driver").env("PYTHONDONTWRITEBYTECODE", "1"))
}

/// The steps with the newest libpq there is.
pub(super) fn psycopg_steps(client: Client<'_>) -> Result<()> {
    let path = packaged("python").to_string_lossy().into_owned();
    let client = client.env("PYTHONPATH", &path);
    let newest = "import psycopg\nassert psycopg.pq.version() >= 170000, psycopg.pq.version()\n";
    said(client.python(&format!("{newest}{SAID}{PSYCOPG}"), &[])?, COPIES)
}

fn node(world: &World, program: &str, expect: &str) -> Result<()> {
    let path = packaged("node").join("node_modules").to_string_lossy().into_owned();
    // `node -e` leaves the program's arguments where a file's would be, less the file's name.
    let program = program.replace("process.argv.slice(2)", "process.argv.slice(1)");
    let client = world.client("driver").env("NODE_PATH", &path);
    said(client.run("/usr/bin/env", &["node", "-e", &program, "--"])?, expect)
}

/// A program in a language whose interpreter takes it as an argument.
fn program(world: &World, interpreter: &str, flag: &str, source: &str) -> Result<()> {
    said(world.client("driver").run(interpreter, &[flag, source, "--"])?, COPIES)
}

/// This program once more, as one of its own clients (crate::drivers).
fn rust(world: &mut World, name: &str) -> Result<()> {
    // Where the account clients run as may execute it, wherever it was built.
    let program = world.scratch.folder("bin", 0o755)?.join("e2e");
    if !program.exists() {
        std::fs::copy(std::env::current_exe()?, &program)?;
    }
    said(world.client("driver").run(&program, &["driver", name])?, COPIES)
}

fn jdbc(world: &mut World) -> Result<()> {
    let script = world.scratch.path().join("jdbc.bsh");
    std::fs::write(&script, JDBC)?;
    let classes = "/usr/share/java/bsh.jar:/usr/share/java/postgresql.jar";
    let script = script.to_string_lossy();
    let args = ["-XX:TieredStopAtLevel=1", "-cp", classes, "bsh.Interpreter", &script];
    said(world.client("driver").limit(60).run("/usr/bin/java", &args)?, COPIES)
}
