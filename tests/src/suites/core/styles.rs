//! Masks that show part of a value, and pseudonyms: the same in every protocol and format.

use anyhow::{Result, ensure};

use crate::harness::client::Client;
use crate::harness::report::Case;
use crate::harness::world::World;

pub(super) const CASES: &[Case<World>] = &[
    Case { name: "parts of cards and addresses come out alike in text, binary and COPY", run: partial },
    Case {
        name: "pseudonyms are equal for equal values, in every format, to one identity only",
        run: pseudonyms,
    },
];

/// Where the target with these masks is.
const HOST: &str = "127.0.0.9";

/// The target, for the configuration.
pub(super) fn target(world: &World) -> Result<String> {
    let password = world.scratch.folder("etc", 0o755)?.join("shop.password");
    let label = |column: &str, mask: &str| {
        format!("[[targets.labels]]\ncolumn = \"public.{column}\"\ntags = [\"pii\"]\nmask = \"{mask}\"\n")
    };
    Ok(format!(
        "\n[[targets]]\nname = \"shop-styles\"\nprotocol = \"postgres\"\naddresses = [\"{HOST}\"]\nport = {}\n\
         env = \"prod\"\nuser = \"shop_scram\"\npassword_file = {password:?}\n{}{}{}{}",
        world.postgres.port,
        label("customers.email", "partial-email"),
        label("customers.card", "partial-card"),
        label("customers.name", "pseudonym"),
        // Not a text: nothing of it can be shown.
        label("customers.born", "pseudonym"),
    ))
}

fn client<'a>(world: &'a World, user: &str) -> Client<'a> {
    world.client_at(HOST, user).env("PYTHONDONTWRITEBYTECODE", "1")
}

fn partial(world: &mut World) -> Result<()> {
    let client = client(world, "partial");
    let expect = "a***@example.com|************1111||GB\n";
    let sql = "select email, card, born, country from customers where id = 1";
    let rows = client.psql(&[sql])?.ok()?;
    ensure!(rows == expect, "{rows}");
    let cursor = format!("begin;\ndeclare c cursor for {sql};\nfetch c;\n");
    let rows = client.script(&cursor)?.ok()?;
    ensure!(rows.ends_with(expect), "{rows}");
    for (copy, expect) in [
        ("copy customers (email, card, born) to stdout", "c***@example.fr\t************1881\t\\N\n"),
        (
            "copy customers (email, card) to stdout (format csv, delimiter '@')",
            "\"c***@example.fr\"@************1881\n",
        ),
    ] {
        let rows = client.psql(&[copy])?.ok()?;
        ensure!(rows.contains(expect), "{copy}: {rows}");
        ensure!(!rows.contains("chidi") && !rows.contains("4012"), "{copy}: {rows}");
    }
    // What meets another mask on its way is replaced whole.
    let union = "select email from customers where id = 1 union all select name from customers where id = 1";
    let rows = client.psql(&[union])?.ok()?;
    ensure!(rows == "\n\n", "{rows}");
    Ok(())
}

fn pseudonyms(world: &mut World) -> Result<()> {
    let sql = "select name from customers where id = 1";
    let text = client(world, "pseudonyms").psql(&[sql])?.ok()?;
    let name = text.trim_end();
    ensure!(name.len() == 22 && name.starts_with("p-"), "{text}");
    let copied = client(world, "pseudonyms").psql(&[&format!("copy ({sql}) to stdout")])?.ok()?;
    ensure!(copied == text, "{copied}");
    let binary = "import psycopg, sys\n\
                  with psycopg.connect(host=sys.argv[1], port=sys.argv[2], user='p', dbname='shop') as c:\n\
                  \x20   rows = c.cursor(binary=True).execute('select name from customers where id in (1, 2)')\n\
                  \x20   print(*sorted(row[0] for row in rows))\n\
                  \x20   with c.cursor().copy('copy customers (name) to stdout (format csv)') as copy:\n\
                  \x20       print(*sorted(b''.join(copy).decode().split()))\n";
    let said = client(world, "pseudonyms").python(binary, &[])?.ok()?;
    let mut lines = said.lines();
    let (two, all) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
    ensure!(two.contains(name) && all.contains(name), "{name} in {said}");
    // Nor can a guess be compared with it.
    let guesses = [
        format!("{sql} union all select 'Ada Quill'"),
        format!("select x from (values (({sql})), ('Ada Quill')) as s(x)"),
        format!("with recursive r(x, n) as ({sql}, 1 union all select 'Ada Quill', n + 1 from r where n < 2) select x from r")
            .replace("name from customers where id = 1, 1", "name, 1 from customers where id = 1"),
    ];
    for guess in &guesses {
        let rows = client(world, "pseudonyms").psql(&[guess])?.ok()?;
        ensure!(rows == "\n\n", "{guess}: {rows}");
    }
    let distinct: std::collections::BTreeSet<&str> = all.split(' ').collect();
    ensure!(distinct.len() == 5, "{said}");
    let other = world.client_in(&world.places.mail_bot, HOST, "pseudonyms").psql(&[sql])?.ok()?;
    ensure!(other.starts_with("p-") && other != text, "another identity sees the same: {other}");
    let mode = std::fs::metadata(world.agent.state.join("pseudonyms.key"))?;
    ensure!(std::os::unix::fs::PermissionsExt::mode(&mode.permissions()) & 0o777 == 0o600);
    Ok(())
}
