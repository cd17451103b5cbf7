//! The versions of PostgreSQL that packages offer, 13 to 18, behind one agent: all the other suites run against Debian's.
//! What differs between them is the catalogue the agent reads, the protocol's version, and what drivers ask.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};

use super::drivers::{self, packaged};
use crate::harness::client::Client;
use crate::harness::postgres::{Postgres, SCRAM_PASSWORD};
use crate::harness::report::{self, Case};
use crate::harness::world::{POLICY, Wishes, World};

const VERSIONS: [u32; 5] = [13, 14, 16, 17, 18];

const CASES: &[Case<Servers>] = &[
    Case { name: "PostgreSQL 13: a driver's steps, psql's own questions, masks", run: steps::<13> },
    Case { name: "PostgreSQL 14: a driver's steps, psql's own questions, masks", run: steps::<14> },
    Case { name: "PostgreSQL 16: a driver's steps, psql's own questions, masks", run: steps::<16> },
    Case { name: "PostgreSQL 17: a driver's steps, psql's own questions, masks", run: steps::<17> },
    Case { name: "PostgreSQL 18: a driver's steps, psql's own questions, masks", run: steps::<18> },
    Case { name: "PA04: protocol 3.0 and 3.2 at PostgreSQL 18, and cancels", run: versions::<18> },
];

/// The agent goes before the servers.
struct Servers {
    world: World,
    servers: Vec<(u32, Postgres)>,
}

impl Servers {
    fn server(&self, version: u32) -> Result<&Postgres> {
        let found = self.servers.iter().find(|(number, _)| *number == version);
        found.map(|(_, server)| server).with_context(|| format!("no PostgreSQL {version}"))
    }

    fn governed(&self, version: u32, user: &str) -> Result<Client<'_>> {
        let port = self.server(version)?.port;
        Ok(Client::new(Some(&self.world.places.billing_bot), "127.0.0.1", port, user))
    }

    fn direct(&self, version: u32) -> Result<Client<'_>> {
        let port = self.server(version)?.port;
        Ok(Client::new(Some(&self.world.places.bypassed), "127.0.0.3", port, "shop_trust"))
    }
}

pub(super) fn run(filter: Option<&str>) -> Result<()> {
    let mut world = World::prepare("servers", Wishes::default())?;
    let (mut servers, mut policy) = (Vec::new(), POLICY.to_owned());
    let password = world.scratch.folder("etc", 0o755)?.join("shop.password");
    let wanted = VERSIONS.map(|version| (format!("pg{version}"), programs(version)));
    let started = Postgres::start_versions(&world.scratch, wanted.to_vec())?;
    for (version, server) in VERSIONS.into_iter().zip(started) {
        ensure!(server.admin("show server_version")?.starts_with(&version.to_string()), "not {version}");
        world.wishes.more += &format!(
            "\n[[targets]]\nname = \"pg{version}\"\nprotocol = \"postgres\"\naddresses = [\"127.0.0.1\"]\nport = {}\n\
             env = \"prod\"\nuser = \"shop_scram\"\npassword_file = {password:?}\n",
            server.port
        );
        for (column, mask) in [("email", "redact"), ("card", "redact"), ("born", "null")] {
            world.wishes.more += &format!(
                "[[targets.labels]]\ncolumn = \"public.customers.{column}\"\ntags = [\"pii\"]\nmask = \"{mask}\"\n"
            );
        }
        policy += &format!(
            "\n@id(\"keep-scratch-{version}\")\npermit(principal in Group::\"ai-agents\", action in Action::\"sql:write\", \
             resource == Table::\"pg{version}/shop/public.scratch\");\n"
        );
        servers.push((version, server));
    }
    world.write_policy(&policy)?;
    world.write_config()?;
    std::fs::write(&password, SCRAM_PASSWORD)?;
    world.start_agent()?;
    let mut all = Servers { world, servers };
    report::run("servers", &mut all, CASES, filter, |all| all.world.agent.log_tail())
}

/// Where scripts/packages.sh puts them.
fn programs(version: u32) -> PathBuf {
    packaged("servers").join(format!("node_modules/pg{version}/native/bin"))
}

fn steps<const VERSION: u32>(all: &mut Servers) -> Result<()> {
    let client = all.governed(VERSION, "steps")?.env("PYTHONDONTWRITEBYTECODE", "1");
    drivers::psycopg_steps(client)?;
    let script =
        "\\dt\n\\d customers\n\\d+ orders\n\\dv+\n\\df\n\\dn+\n\\di+\n\\du\n\\dT\n\\sv customer_names\n";
    let (direct, governed) =
        (all.direct(VERSION)?.script(script)?, all.governed(VERSION, "psql")?.script(script)?);
    ensure!(direct.stdout == governed.stdout, "{governed}\ndirectly {direct}");
    ensure!(!governed.stderr.contains("denied by policy"), "{governed}");
    let masks = "select email, card, born from customers where id = 1;\nselect * from customer_contacts where id = 2;\n\
                 copy (select id, email from customers where id = 3) to stdout;\n";
    let output = all.governed(VERSION, "masks")?.script(masks)?.ok()?;
    ensure!(output == "***|***|\n2|Bao Lindgren|***\n3\t***\n", "{output}");
    let uses = "select id from customers where email like 'a%';\nselect lower(email) from customers;\n\
                select pg_read_file('PG_VERSION');\nselect query_to_xml('select 1', true, true, '');\n";
    let output = all.governed(VERSION, "uses")?.script(uses)?;
    ensure!(output.stdout.is_empty() && output.stderr.matches("42501").count() == 4, "{output}");
    Ok(())
}

fn versions<const VERSION: u32>(all: &mut Servers) -> Result<()> {
    super::tls::cancelled(all.governed(VERSION, "versions")?)
}
