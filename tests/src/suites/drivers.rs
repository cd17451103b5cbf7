//! Drivers, tools and frameworks as packages ship them, connected as they come: nothing on their side knows of the
//! agent. Each reads (text and binary, prepared and not), is served masked rows it can decode, is denied, rolls back,
//! goes on, and copies rows in and out where it can.

use std::fs;
use std::path::PathBuf;

use anyhow::{Result, ensure};

use crate::harness::client::Client;
use crate::harness::report::{self, Case};
use crate::harness::spawn::{Output, Program};
use crate::harness::world::{POLICY, Wishes, World};

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
        name: "py-postgresql",
        run: |world| python(world, include_str!("../../clients/drivers/py_postgresql.py"), COPIES),
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
    Case {
        name: "Rails' ActiveRecord",
        run: |world| {
            program(world, "/usr/bin/ruby", "-e", include_str!("../../clients/drivers/active_record.rb"))
        },
    },
    Case { name: "Tcl's tdbc::postgres", run: tcl },
    Case {
        name: "Go's pgx: four ways to ask, batches, notifications, cancels",
        run: |world| said(go(world, "pgx")?, COPIES),
    },
    Case { name: "Go's lib/pq: the same", run: |world| said(go(world, "pq")?, NO_COPY) },
    Case { name: "tokio-postgres", run: |world| rust(world, "tokio-postgres") },
    Case { name: "sqlx", run: |world| rust(world, "sqlx") },
];

const SAID: &str = include_str!("../../clients/drivers/said.py");
const PSYCOPG: &str = include_str!("../../clients/drivers/psycopg.py");
const JDBC: &str = include_str!("../../clients/drivers/jdbc.bsh");

/// Drivers wait for notifications.
const LISTENS: &str = r#"
@id("agents-listen")
permit(principal in Group::"ai-agents", action == Action::"sql:listen", resource in Env::"prod");
"#;

/// What a driver says that copies rows out and in.
const COPIES: &str = "5 | 1 Ada Quill *** *** null | 5 1 500 item 5 | 42501 | 40 | 1 *** 2 *** | 1000\n";
/// What one says that does not.
const NO_COPY: &str = "5 | 1 Ada Quill *** *** null | 5 1 500 item 5 | 42501 | 40 | - | 1000\n";

pub(super) fn run(filter: Option<&str>) -> Result<()> {
    let mut world = World::prepare("drivers", Wishes::default())?;
    world.write_policy(&format!("{POLICY}{LISTENS}"))?;
    world.write_config()?;
    world.start_agent()?;
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

/// Its interpreter takes programs from files only.
fn tcl(world: &mut World) -> Result<()> {
    let script = world.scratch.path().join("tdbc.tcl");
    fs::write(&script, include_str!("../../clients/drivers/tdbc.tcl"))?;
    said(world.client("driver").run("/usr/bin/tclsh", &[&script.to_string_lossy()])?, NO_COPY)
}

fn go(world: &World, which: &str) -> Result<Output> {
    let program = go_client(world)?;
    world.client("driver").run(program, &[which])
}

/// The program with Go's drivers, made here: nothing is fetched for it.
pub(super) fn go_client(world: &World) -> Result<PathBuf> {
    let folder = world.scratch.folder("go", 0o755)?;
    let program = folder.join("drivers");
    if program.exists() {
        return Ok(program);
    }
    let mut sources = Vec::new();
    for (name, text) in GO {
        let source = folder.join(name);
        fs::write(&source, text)?;
        sources.push(source);
    }
    let path = format!("{}:/usr/share/gocode", packaged("gopath").display());
    let compiler = Program::new("/usr/bin/go").env("GO111MODULE", "off").env("GOPATH", path);
    let compiler = compiler.env("GOCACHE", packaged("go")).env("HOME", &folder).args(["build", "-o"]);
    compiler.args([&program]).args(sources).limit(180).run()?.ok()?;
    Ok(program)
}

const GO: [(&str, &str); 3] = [
    ("main.go", include_str!("../../clients/drivers/go/main.go")),
    ("pgx.go", include_str!("../../clients/drivers/go/pgx.go")),
    ("pq.go", include_str!("../../clients/drivers/go/pq.go")),
];

/// This program once more, as one of its own clients (crate::drivers).
fn rust(world: &mut World, name: &str) -> Result<()> {
    // Where the account clients run as may execute it, wherever it was built.
    let program = world.scratch.folder("bin", 0o755)?.join("e2e");
    if !program.exists() {
        fs::copy(std::env::current_exe()?, &program)?;
    }
    said(world.client("driver").run(&program, &["driver", name])?, COPIES)
}

/// BeanShell and the JDBC driver.
pub(super) const JARS: &str = "/usr/share/java/bsh.jar:/usr/share/java/postgresql.jar";

fn jdbc(world: &mut World) -> Result<()> {
    let script = world.scratch.path().join("jdbc.bsh");
    fs::write(&script, JDBC)?;
    let script = script.to_string_lossy();
    let args = ["-XX:TieredStopAtLevel=1", "-cp", JARS, "bsh.Interpreter", &script];
    said(world.client("driver").limit(60).run("/usr/bin/java", &args)?, COPIES)
}
