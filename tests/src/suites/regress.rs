//! PostgreSQL's own regression suite, run twice at the same time: against a server directly, and against another one like
//! it through kernel and agent, with nothing labelled and everything permitted. A DBA must not be able to tell which is
//! which: psql has to print the same, byte for byte, errors included.
//!
//! Each side has a fresh server, and each file finds what the files before it left. Without its C library (Debian ships
//! none) some functions are missing on both sides alike.

use std::collections::HashSet;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};

use super::drivers::packaged;
use crate::harness::cgroup::Cgroup;
use crate::harness::client::Client;
use crate::harness::postgres::Postgres;
use crate::harness::scratch::Scratch;
use crate::harness::world::{Wishes, World};

const HOST: &str = "127.0.0.9";
const DBA: &str = "shop_trust";

/// What a run without `--all` runs: a file or two of each kind, without those that take long.
const SAMPLE: &[&str] = &[
    "test_setup",
    "boolean",
    "char",
    "varchar",
    "text",
    "int8",
    "numeric",
    "float8",
    "bit",
    "uuid",
    "enum",
    "money",
    "strings",
    "date",
    "timestamp",
    "timestamptz",
    "interval",
    "horology",
    "regex",
    "errors",
    "copy",
    "copyselect",
    "copydml",
    "insert",
    "insert_conflict",
    "create_type",
    "create_schema",
    "create_procedure",
    "create_index",
    "create_function_sql",
    "create_cast",
    "constraints",
    "select",
    "typed_table",
    "drop_if_exists",
    "roleattributes",
    "select_into",
    "select_distinct",
    "select_having",
    "subselect",
    "union",
    "case",
    "transactions",
    "portals",
    "arrays",
    "delete",
    "namespace",
    "prepared_xacts",
    "collate",
    "lock",
    "identity",
    "password",
    "merge",
    "misc",
    "async",
    "psql",
    "psql_crosstab",
    "guc",
    "combocid",
    "advisory_lock",
    "equivclass",
    "json",
    "jsonb",
    "plancache",
    "limit",
    "copy2",
    "temp",
    "prepare",
    "truncate",
    "sequence",
    "polymorphism",
    "rowtypes",
    "returning",
    "largeobject",
    "with",
    "xml",
    "explain",
    "event_trigger",
];

/// Files whose output cannot be the same, and why.
const APART: &[(&str, &str)] = &[];

/// `filter` is `--all`, or one name, which is run behind the sample's set-up.
pub(super) fn run(filter: Option<&str>) -> Result<()> {
    let suite = Suite::find()?;
    let names = suite.chosen(filter)?;
    let more = format!(
        "\n[[targets]]\nname = \"regress\"\nprotocol = \"postgres\"\naddresses = [\"{HOST}\"]\nport = {{port}}\n\
         env = \"test\"\nuser = \"{DBA}\"\n"
    );
    let mut world = World::prepare("regress", Wishes { quiet_server: true, ..Wishes::default() })?;
    world.wishes.more = more.replace("{port}", &world.postgres.port.to_string());
    world.write_config()?;
    world.write_policy("@id(\"anything\")\npermit(principal, action, resource);\n")?;
    world.start_agent()?;
    let scratch = Scratch::new("regress-direct")?;
    let direct = Postgres::start_quiet(&scratch)?;
    let started = Instant::now();
    let inside = Some(&world.places.billing_bot);
    let (through, direct) = std::thread::scope(|scope| {
        let through = scope.spawn(|| Side::run(&suite, &names, &world.postgres, inside, &world.scratch));
        let direct = scope.spawn(|| Side::run(&suite, &names, &direct, None, &scratch));
        (through.join(), direct.join())
    });
    let joined = |side: std::thread::Result<Result<Side>>| {
        side.map_err(|_| anyhow::anyhow!("a side of the comparison panicked"))?
    };
    let outcome = compare(&names, &joined(through)?, &joined(direct)?);
    eprintln!("{} files of {} in {:.0} s", names.len(), suite.what, started.elapsed().as_secs_f64());
    if outcome.is_err() {
        eprintln!("--- the agent's log, its end:\n{}\n---", world.agent.log_tail());
    }
    outcome
}

/// The files, and where they come from.
struct Suite {
    what: String,
    folder: PathBuf,
    /// In the order in which they build on each other.
    order: Vec<String>,
}

impl Suite {
    /// The distribution's source of the server, or else the copy that the parser's crate carries.
    fn find() -> Result<Self> {
        let folder = packaged("regress");
        if let Ok(schedule) = fs::read_to_string(folder.join("parallel_schedule")) {
            let order = schedule.lines().filter_map(|line| line.strip_prefix("test:"));
            let order = order.flat_map(str::split_whitespace).map(str::to_owned).collect();
            return Ok(Self { what: "the distribution's PostgreSQL".into(), folder, order });
        }
        let cargo = std::env::var_os("CARGO_HOME").map(PathBuf::from);
        let home = || std::env::home_dir().map(|home| home.join(".cargo"));
        let sources = cargo.or_else(home).context("no cargo home")?.join("registry/src");
        let crates = fs::read_dir(&sources)?.flatten().flat_map(|index| fs::read_dir(index.path()));
        let parser = crates.flatten().flatten().map(|entry| entry.path()).find(|path| {
            path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("pg_raw_parse-"))
        });
        let folder = parser.context("neither the server's source nor the parser's crate is here")?;
        let folder = folder.join("libpg_query/test/sql/postgres_regress");
        let mut order: Vec<String> = fs::read_dir(&folder)?
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.strip_suffix(".sql").map(str::to_owned))
            .collect();
        order.sort_by_key(|name| (name != "test_setup", name.clone()));
        Ok(Self { what: "the parser's copy of PostgreSQL".into(), folder, order })
    }

    fn chosen(&self, filter: Option<&str>) -> Result<Vec<String>> {
        let wanted: HashSet<&str> = match filter {
            Some("--all") => self.order.iter().map(String::as_str).collect(),
            Some(name) if self.order.iter().any(|known| known == name) => {
                SETUP.iter().copied().chain([name]).collect()
            }
            Some(name) => bail!("no file {name}.sql, and no option of that name: there is --all"),
            None => SAMPLE.iter().copied().collect(),
        };
        Ok(self.order.iter().filter(|name| wanted.contains(name.as_str())).cloned().collect())
    }

    fn text(&self, name: &str) -> Result<Vec<u8>> {
        let path = [self.folder.join("sql"), self.folder.clone()]
            .map(|folder| folder.join(format!("{name}.sql")))
            .into_iter()
            .find(|path| path.exists());
        let path = path.with_context(|| format!("no {name}.sql"))?;
        fs::read(&path).with_context(|| format!("reading {}", path.display()))
    }
}

/// What other files build on.
const SETUP: &[&str] = &["test_setup", "create_index"];

/// What psql printed, file by file.
struct Side(Vec<Printed>);

struct Printed {
    out: String,
    err: String,
    seconds: f64,
}

impl Side {
    fn run(
        suite: &Suite,
        names: &[String],
        server: &Postgres,
        inside: Option<&Cgroup>,
        scratch: &Scratch,
    ) -> Result<Self> {
        server.admin(&format!("alter role {DBA} superuser"))?;
        server.admin("create database regression template template0")?;
        for setting in [
            "lc_messages to 'C'",
            "lc_monetary to 'C'",
            "lc_numeric to 'C'",
            "lc_time to 'C'",
            "bytea_output to 'hex'",
            "timezone_abbreviations to 'Default'",
            "intervalstyle to 'postgres_verbose'",
        ] {
            server.admin(&format!("alter database regression set {setting}"))?;
        }
        let build = scratch.folder("build", 0o777)?;
        scratch.folder("build/results", 0o777)?;
        let client = Client::new(inside, HOST, server.port, DBA)
            .database("regression")
            .env("PG_ABS_SRCDIR", &suite.folder.to_string_lossy())
            .env("PG_ABS_BUILDDIR", &build.to_string_lossy())
            .env("PG_LIBDIR", "/usr/lib/postgresql/15/lib")
            .env("PG_DLSUFFIX", ".so")
            .env("PGTZ", "PST8PDT")
            .env("PGDATESTYLE", "Postgres, MDY")
            .env("LANG", "C")
            .limit(240);
        let run = |name: &String| -> Result<Printed> {
            let started = Instant::now();
            let output = client.regress(suite.text(name)?)?;
            let plain = |text: &str| without_places(text, &build, server.port);
            Ok(Printed {
                out: plain(&output.stdout),
                err: plain(&output.stderr),
                seconds: started.elapsed().as_secs_f64(),
            })
        };
        names.iter().map(run).collect::<Result<_>>().map(Self)
    }
}

/// The two servers have folders and ports of their own. A port's digits within a longer number are not the port.
fn without_places(text: &str, build: &Path, port: u16) -> String {
    let text = text.replace(&*build.to_string_lossy(), "(build)");
    let port = port.to_string();
    let is_digit = |c: Option<char>| c.is_some_and(|c| c.is_ascii_digit());
    let mut parts = text.split(&port).peekable();
    let mut out = String::with_capacity(text.len());
    while let Some(part) = parts.next() {
        out += part;
        let Some(next) = parts.peek() else { break };
        let within = is_digit(part.chars().next_back()) || is_digit(next.chars().next());
        out += if within { &port } else { "(port)" };
    }
    out
}

fn compare(names: &[String], through: &Side, direct: &Side) -> Result<()> {
    let (mut same, mut different) = (0, Vec::new());
    for ((name, through), direct) in names.iter().zip(&through.0).zip(&direct.0) {
        let apart = APART.iter().find(|(apart, _)| apart == name).map(|(_, why)| *why);
        let equal = through.out == direct.out && through.err == direct.err;
        let times = format!("({:.1} s, directly {:.1} s)", through.seconds, direct.seconds);
        match (equal, apart) {
            (true, None) => same += 1,
            (true, Some(why)) => eprintln!("the same this time: {name}, listed for: {why}"),
            (false, Some(why)) => eprintln!("apart   {name} {times}: {why}"),
            (false, None) => {
                eprintln!("DIFFERS {name} {times}");
                show("out", &direct.out, &through.out);
                show("err", &direct.err, &through.err);
                different.push(name.as_str());
            }
        }
        if let Some(folder) = std::env::var_os("CHAPERONE_REGRESS_KEEP").map(PathBuf::from) {
            for (kind, text) in [("direct", direct), ("through", through)] {
                fs::write(folder.join(format!("{name}.{kind}")), format!("{}\n---\n{}", text.out, text.err))?;
            }
        }
    }
    writeln!(std::io::stdout(), "same as direct: {same} of {}", same + different.len())?;
    ensure!(different.is_empty(), "not the same: {}", different.join(", "));
    ensure!(same > 0, "nothing was compared");
    Ok(())
}

/// The first lines that differ.
fn show(kind: &str, direct: &str, through: &str) {
    let (mut direct_lines, mut through_lines) = (direct.lines(), through.lines());
    let mut shown = 0;
    let mut line = 0;
    while shown < 3 {
        line += 1;
        match (direct_lines.next(), through_lines.next()) {
            (None, None) => return,
            (direct, through) if direct == through => {}
            (direct, through) => {
                shown += 1;
                eprintln!("  {kind} {line}: directly {:?}", direct.unwrap_or("(end)"));
                eprintln!("  {kind} {line}: through  {:?}", through.unwrap_or("(end)"));
            }
        }
    }
}
