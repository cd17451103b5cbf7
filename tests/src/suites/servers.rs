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
    // First: it adds columns that a catalogue read before would not have.
    Case { name: "what PostgreSQL 14 to 18 brought shows nothing of a masked value", run: newer },
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
             resource == Table::\"pg{version}/shop/public.scratch\");\n\
             @id(\"tend-customers-{version}\")\npermit(principal in Group::\"ai-agents\", action in [Action::\"sql:insert\", Action::\"sql:update\", Action::\"sql:delete\", \
             Action::\"sql:merge\"], \
             resource == Table::\"pg{version}/shop/public.customers\");\n"
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

/// Ways to a value that versions after 13 brought, or changed. Where one does not exist, the server or the agent says so.
const NEWER: &str = "\
update customers set notes = 'x' where id = 1 returning old.email, new.card;
update customers set notes = 'x' where id = 1 returning with (old as o, new as n) o.email, n.card, o.*;
update customers set notes = 'x' where id = 1 returning old;
insert into customers values (1, 'a', 'b', 'c', 'GB', '2000-01-01') on conflict (id) do update set notes = 'y' returning old.email, old.*;
delete from customers where id = 99 returning old.email;
merge into scratch s using customers c on s.id = c.id when matched then do nothing when not matched then insert (word) values (c.email);
merge into scratch s using customers c on s.id = c.id when not matched then insert (word) values ('m') returning merge_action(), c.email;
select shown from customers;
select kept from customers;
select customers from customers;
select any_value(email) from customers;
select array_sample(array_agg(email), 1) from customers;
select json_arrayagg(email) from customers;
select json_objectagg(id: email) from customers;
select json_array(select email from customers);
select json_scalar(email), json(email), json_serialize(to_json(email)) from customers;
select * from customers c, json_table(to_jsonb(c), '$' columns (e text path '$.email')) j;
select * from customers c, xmltable('/r' passing xmlelement(name r, c.email) columns e text path '.') x;
select casefold(email), reverse(email::bytea), crc32(card::bytea) from customers;
select (pg_input_error_info(email, 'integer')).message from customers;
select pg_input_is_valid(email, 'integer') from customers;
select email collate pg_c_utf8 from customers where id = 1;
select date_add(born, interval '1 day') from customers;
select * from customers order by email fetch first 1 row with ties;
select distinct on (email) email from customers;
with recursive r(e) as (select email from customers union all select e from r) search depth first by e set o select * from r limit 3;
with recursive r(e, n) as (select email, 1 from customers union all select e, n + 1 from r where n < 2) cycle e set c using p select c, p from r;
select grouping(email), count(*) from customers group by distinct rollup (email);
select range_agg(int4range(id, id + 1)), string_agg(email, '') from customers;
select most_common_vals, histogram_bounds from pg_stats where tablename = 'customers';
select * from pg_stats_ext, pg_stats_ext_exprs;
select stxdexpr from pg_statistic_ext_data;
select * from pg_stat_get_activity(null);
select pg_get_viewdef('secret_view'::regclass), * from secret_view;
explain (generic_plan) select * from customers where email = $1;
explain (analyze, serialize text) select email from customers;
copy customers (shown) to stdout;
copy customers to stdout (format csv, force_quote *);
copy (select old.email from customers old) to stdout;
create temp table t as select email from customers;
table customers;
";

const SECRETS: [&str; 5] = ["ada.quill", "bao.lindgren", "4111111111111111", "555555555555", "1981-03-0"];

fn newer(all: &mut Servers) -> Result<()> {
    for version in VERSIONS {
        let virtually = if version >= 18 { "virtual" } else { "stored" };
        all.server(version)?.admin(
            &format!(
                "alter table customers add shown text generated always as (lower(email)) {virtually};\n\
             alter table customers add kept text generated always as (email || '') stored;\n\
             create view secret_view as select email as e, lower(card) as c from customers;\n\
             grant select on secret_view to public; create statistics spread on email, card from customers;\n\
             create statistics computed on lower(email) from customers; analyze customers;"
            )
            .lines()
            .filter(|line| version >= 14 || !line.contains("statistics computed"))
            .collect::<Vec<_>>()
            .join("\n"),
        )?;
        let direct = all.direct(version)?.script(NEWER)?;
        let leaks = |text: &str| SECRETS.iter().map(|secret| text.matches(secret).count()).sum::<usize>();
        // What leaks nowhere proves nothing.
        ensure!(leaks(&direct.stdout) > 20, "directly only {}: {direct}", leaks(&direct.stdout));
        let governed = all.governed(version, "newer")?.script(&format!("{NEWER}select 'alive';\n"))?;
        let (out, errors) = (leaks(&governed.stdout), leaks(&governed.stderr));
        ensure!(
            out + errors == 0 && governed.stdout.ends_with("alive\n"),
            "PostgreSQL {version}: {governed}"
        );
        ensure!(governed.stdout.matches("***").count() > 5, "nothing was served: {governed}");
    }
    Ok(())
}
