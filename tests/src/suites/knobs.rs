//! What labels and policies can say beyond a plain mask: other values of the same type, what may be done with a masked
//! column all the same, and limits of one statement.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::json;

use crate::harness::client::Client;
use crate::harness::report::{self, Case};
use crate::harness::trail::holds;
use crate::harness::world::{POLICY, Wishes, World};

const CASES: &[Case<World>] = &[
    Case { name: "fixed values, shifted dates and buckets keep their types in text", run: changed },
    Case { name: "and are the same in binary", run: changed_in_binary },
    Case { name: "and in COPY, text, csv and binary", run: changed_in_copy },
    Case { name: "what a mask shows it shows of its own column's values only", run: of_its_own },
    Case { name: "a sequence tells nothing of the masked column it numbers", run: numbered },
    Case { name: "predicate = is-null lets IS NULL pass and nothing else", run: is_null },
    Case { name: "predicate = equality compares with constants, so often", run: equality },
    Case { name: "predicate = any filters", run: any },
    Case { name: "aggregate = count counts", run: count },
    Case { name: "computed = mask masks what is computed", run: computed },
    Case { name: "a SELECT beyond its rows fails, and the session goes on", run: rows },
    Case { name: "its transaction has failed, too", run: rows_in_transaction },
    Case { name: "a statement that would never end is cancelled at its limit", run: endless },
    Case { name: "so is one that takes too long", run: slow },
    Case { name: "bytes are limited as rows are", run: bytes },
    Case { name: "COPY is limited as SELECT is", run: copy },
    Case { name: "limits hold in the extended protocol, row by row and pipelined", run: extended },
];

const HOST: &str = "127.0.0.9";

const LABELS: &[(&str, &str)] = &[
    ("customers.email", "predicate = \"equality\"\naggregate = \"count\"\ncomputed = \"mask\""),
    ("customers.card", "mask = \"partial-card\"\npredicate = \"is-null\"\ncomputed = \"mask\""),
    ("customers.name", "mask = { fixed = \"somebody\" }\npredicate = \"any\""),
    ("customers.born", "mask = { date-shift = 90 }"),
    ("orders.cents", "mask = { bucket = 1000 }"),
    ("scratch.id", ""),
    ("orders.placed", "mask = { bucket = \"year\" }"),
];

const LIMITS: &str = r#"
@id("few-orders") @max_rows("10")
permit(principal in Group::"mail-readers", action in Action::"sql:read", resource == Table::"shop/shop/public.orders");
@id("little-of-customers") @max_bytes("1kB")
permit(principal in Group::"mail-readers", action in Action::"sql:read", resource == Table::"shop/shop/public.customers");
@id("not-for-long") @max_time("1s")
permit(principal in Group::"mail-readers", action in Action::"sql:read", resource);
"#;

pub(super) fn run(filter: Option<&str>) -> Result<()> {
    let mut world = World::prepare("knobs", Wishes::default())?;
    let password = world.scratch.folder("etc", 0o755)?.join("shop.password");
    let mut more = format!(
        "\n[[targets]]\nname = \"knobs\"\nprotocol = \"postgres\"\naddresses = [\"{HOST}\"]\nport = {}\n\
         env = \"prod\"\nuser = \"shop_scram\"\npassword_file = {password:?}\n",
        world.postgres.port
    );
    for (column, knobs) in LABELS {
        more += &format!("[[targets.labels]]\ncolumn = \"public.{column}\"\ntags = [\"pii\"]\n{knobs}\n");
    }
    world.wishes.more = more;
    world.write_config()?;
    world.write_policy(&format!("{POLICY}{LIMITS}"))?;
    world.start_agent()?;
    report::run("knobs", &mut world, CASES, filter, |world| world.agent.log_tail())
}

fn client<'a>(world: &'a World, user: &str) -> Client<'a> {
    world.client_at(HOST, user).env("PYTHONDONTWRITEBYTECODE", "1")
}

/// An identity under limits, at the usual target.
fn limited<'a>(world: &'a World, user: &str) -> Client<'a> {
    world.client_in(&world.places.mail_bot, "127.0.0.1", user).env("PYTHONDONTWRITEBYTECODE", "1")
}

const CHANGED: &str = "select name, born, cents, placed from customers c join orders o on o.customer_id = c.id \
                       where o.id = 5";

fn year(world: &World) -> Result<String> {
    world.postgres.admin("select to_char(placed, 'YYYY') from orders where id = 5")
}

/// By how many days the dates are moved for this identity.
fn shift(world: &World, born: &str) -> Result<i64> {
    Ok(world.postgres.admin(&format!("select date '{born}' - born from customers where id = 1"))?.parse()?)
}

fn changed(world: &mut World) -> Result<()> {
    let row = client(world, "changed").psql(&[CHANGED])?.ok()?;
    let [name, born, cents, placed] = row.trim_end().split('|').collect::<Vec<_>>()[..] else {
        anyhow::bail!("{row}")
    };
    let days = shift(world, born)?;
    ensure!(days != 0 && days.abs() <= 90, "{born} is {days} days off");
    ensure!(name == "somebody" && cents == "0", "{row}");
    ensure!(placed.starts_with(&format!("{}-01-01 00:00:00", year(world)?)), "{row}");
    // The time between two dates stays.
    let sql = "select born from customers order by id";
    let all = client(world, "changed").psql(&[sql])?.ok()?;
    for (line, id) in all.lines().zip(1..) {
        let expect = world.postgres.admin(&format!("select born + {days} from customers where id = {id}"))?;
        ensure!(line == expect, "{line}, expected {expect}");
    }
    // Another identity, another shift: here nobody else is masked alike, but the key is the identity's own.
    let other = world.client_in(&world.places.mail_bot, HOST, "changed").psql(&[sql])?.ok()?;
    ensure!(other != all, "two identities have the same shift: {other}");
    Ok(())
}

fn changed_in_binary(world: &mut World) -> Result<()> {
    let text = client(world, "changed").psql(&[CHANGED])?.ok()?;
    let born = text.split('|').nth(1).unwrap_or_default().to_owned();
    let said = client(world, "changed").python(include_str!("../../clients/changed.py"), &[CHANGED])?.ok()?;
    let expect = format!("somebody {born} 0 {}-01-01\n", year(world)?);
    ensure!(said == expect.repeat(3), "{said}expected {expect}");
    Ok(())
}

fn changed_in_copy(world: &mut World) -> Result<()> {
    let client = client(world, "changed");
    let born = client.psql(&["select born from customers where id = 1"])?.ok()?;
    let born = born.trim_end();
    let sql = "copy (select id, name, born from customers where id = 1) to stdout";
    let text = client.psql(&[sql])?.ok()?;
    ensure!(text == format!("1\tsomebody\t{born}\n"), "{text}");
    let csv = client.psql(&["copy orders (id, cents) to stdout (format csv)"])?.ok()?;
    ensure!(csv.contains("\n25,2000\n") && csv.contains("\n5,0\n"), "{csv}");
    let file = world.scratch.folder("copy", 0o777)?.join("customers");
    let script =
        format!("\\copy customers (id, name, email, born) to '{}' (format binary)\n", file.display());
    client.script(&script)?.ok()?;
    world.postgres.admin(&format!(
        "create table copied (id int, name text, email text, born date);\n\\copy copied from '{}' (format binary)\n",
        file.display()
    ))?;
    let row = world.postgres.admin("select * from copied where id = 1; drop table copied")?;
    ensure!(row == format!("1|somebody|***|{born}"), "{row}");
    Ok(())
}

/// Who brings a value along, or another column's, learns nothing of a mask by it; nor does who is told the time elsewhere.
fn of_its_own(world: &mut World) -> Result<()> {
    let client = client(world, "own");
    for sql in [
        "select born from customers where id = 1 union all select date '2000-01-01'",
        "select x from (values ((select born from customers where id = 1)), (date '2000-01-01')) as s(x)",
        "select placed from orders where id = 1 union all select born from customers where id = 1",
        "select born from customers where id = 1 union all select placed from orders where id = 1",
    ] {
        let rows = client.psql(&[sql])?.ok()?;
        ensure!(rows == "\n\n", "{sql}: {rows}");
    }
    // What a number's bucket is everybody knows.
    let sql = "select cents from orders where id = 25 union all select 2999";
    ensure!(client.psql(&[sql])?.ok()? == "2000\n2000\n");
    let placed = "select placed from orders where id = 6";
    world.postgres.admin("update orders set placed = '2025-12-31 23:30:00Z' where id = 6")?;
    for zone in ["<east>-100", "<west>+100", "UTC"] {
        let rows = client.psql(&[&format!("set timezone = '{zone}'"), placed])?.ok()?;
        ensure!(rows == "SET\n2025-01-01 00:00:00+00\n", "{zone}: {rows}");
    }
    check(&client, &[("set extra_float_digits = 2", "SET\n")], &["set extra_float_digits = -3"])
}

fn numbered(world: &mut World) -> Result<()> {
    world
        .postgres
        .admin("create sequence tickets; grant all on sequence tickets, scratch_id_seq to public; insert into scratch (word) values ('x')")?;
    let served = [
        ("select id, word from scratch", "|x\n"),
        ("select last_value from scratch_id_seq", "\n"),
        ("select last_value from pg_sequences where sequencename = 'scratch_id_seq'", "\n"),
        ("select nextval('tickets'), currval('public.tickets'::regclass)", "1|1\n"),
    ];
    let denied = [
        "select nextval('scratch_id_seq')",
        "select pg_sequence_last_value('public.scratch_id_seq')",
        "select currval(pg_get_serial_sequence('scratch', 'id'))",
        "select lastval()",
    ];
    check(&client(world, "numbered"), &served, &denied)
}

fn check(client: &Client<'_>, served: &[(&str, &str)], denied: &[&str]) -> Result<()> {
    for (sql, expect) in served {
        let rows = client.psql(&[sql])?.ok()?;
        ensure!(rows == *expect, "{sql}: {rows:?}, expected {expect:?}");
    }
    for sql in denied {
        let output = client.psql(&[sql])?;
        ensure!(output.stderr.contains("42501") && output.stdout.is_empty(), "{sql}: {output}");
    }
    Ok(())
}

fn is_null(world: &mut World) -> Result<()> {
    check(
        &client(world, "is-null"),
        &[
            ("select id from customers where card is null", ""),
            ("select id from customers where card is not null and id = 2", "2\n"),
        ],
        &[
            "select id from customers where card = '4111111111111111'",
            "select id from customers where card in ('4111111111111111')",
            "select id from customers where (card || '') is null",
            "select card is null from customers",
            "select id from customers where born is null",
            "select id from (select id, card as c from customers) s where c is null",
        ],
    )
}

fn equality(world: &mut World) -> Result<()> {
    let client = client(world, "equality");
    check(
        &client,
        &[
            ("select id from customers where email = 'ada.quill@example.com'", "1\n"),
            ("select id from customers where 'chidi@example.fr' = email or id = 1 order by id", "1\n3\n"),
            ("select id, email from customers where email in ('chidi@example.fr', 'nobody')", "3|***\n"),
            ("select id from customers where email is null", ""),
        ],
        &[
            "select id from customers where email like 'ada%'",
            "select id from customers where email <> 'x'",
            "select id from customers where email > 'b'",
            "select id from customers where lower(email) = 'ada.quill@example.com'",
            "select c.id from customers c join (values ('chidi@example.fr')) v(x) on c.email = v.x",
            "select id from customers where email = (select item from orders where id = 1)",
            "select email = 'ada.quill@example.com' from customers",
            "select id from customers order by email = 'ada.quill@example.com'",
            "select id from (select id, email as e from customers) s where e = 'ada.quill@example.com'",
            "select id from customer_contacts where email = 'ada.quill@example.com'",
        ],
    )?;
    // The guesses of a minute are counted, those above among them.
    let guesses: Vec<String> = (0..55).map(|n| format!("'guess-{n}'")).collect();
    let sql = format!("select id from customers where email in ({})", guesses.join(", "));
    check(&client, &[(&sql, "")], &[&sql])?;
    let output = client.psql(&[&sql])?;
    ensure!(output.stderr.contains("public.customers.email may be compared 60 times"), "{output}");
    // Each comparison is in the record with its values, and so is the one too many, with the rule.
    let trail = world.trail("equality")?;
    let denied = trail.statement(&sql)?;
    holds(denied, &json!({"step": "query", "verdict": "deny"}))?;
    ensure!(
        denied["reason"].as_str().is_some_and(|why| why.contains("may be compared 60 times")),
        "{denied}"
    );
    Ok(())
}

fn any(world: &mut World) -> Result<()> {
    check(
        &client(world, "any"),
        &[
            ("select id, name from customers where name like 'Ada%'", "1|somebody\n"),
            ("select id from customers where lower(name) = 'bao lindgren'", "2\n"),
        ],
        &["select id from customers order by name", "select name, count(*) from customers group by name"],
    )
}

fn count(world: &mut World) -> Result<()> {
    check(
        &client(world, "count"),
        &[("select count(email) from customers", "5\n")],
        &[
            "select count(distinct email) from customers",
            "select max(email) from customers",
            "select count(card) from customers",
            "select count(email || '') from customers",
        ],
    )
}

fn computed(world: &mut World) -> Result<()> {
    check(
        &client(world, "computed"),
        &[
            ("select lower(email), length(email), email || '!' from customers where id = 1", "***||***\n"),
            // The last four digits of what is turned around are the first four.
            ("select reverse(card) from customers where id = 1", "\n"),
            (
                "select x from (select coalesce(email, 'none') as x, id from customers) s where id = 1",
                "***\n",
            ),
        ],
        &[
            "select lower(email) from customers order by 1",
            "select distinct lower(email) from customers",
            "select x from (select lower(email) as x from customers) s where x = 'a'",
            "select substr(email, 1, 4) from customers",
            "select email::int from customers",
            "select lower(name) from customers",
            "select upper(email) || name from customers",
        ],
    )
}

const TOO_MANY: &str = "54000: policy lets a statement return 10 rows at most";

fn rows(world: &mut World) -> Result<()> {
    let sql = "select id from orders";
    let output = limited(world, "rows").script(&format!("{sql};\nselect 'alive';\n"))?;
    ensure!(output.stderr.contains(TOO_MANY) && output.stdout == "alive\n", "{output}");
    holds(world.trail("rows")?.result(sql)?, &json!({"sqlstate": "54000", "rows": 10}))?;
    let rows = limited(world, "rows").psql(&["select id from orders where id <= 10 order by id"])?.ok()?;
    ensure!(rows.lines().count() == 10, "{rows}");
    Ok(())
}

fn rows_in_transaction(world: &mut World) -> Result<()> {
    let script = "begin;\ninsert into scratch (word) values ('limited');\nselect id from orders;\nselect 1;\n\
                  commit;\nselect count(*) from scratch where word = 'limited';\n";
    let output = limited(world, "in-transaction").script(script)?;
    ensure!(output.stderr.contains(TOO_MANY) && output.stderr.contains("25P02"), "{output}");
    ensure!(output.stdout == "BEGIN\nINSERT 0 1\nROLLBACK\n0\n", "{output}");
    Ok(())
}

fn within(started: Instant, seconds: u64) -> Result<()> {
    let limit = Duration::from_secs(seconds * 4);
    ensure!(started.elapsed() < limit, "took {:?}", started.elapsed());
    Ok(())
}

fn endless(world: &mut World) -> Result<()> {
    let started = Instant::now();
    let sql = "select o.id from orders o cross join generate_series(1, 100000000)";
    let output = limited(world, "endless").script(&format!("{sql};\nselect 'alive';\n"))?;
    ensure!(output.stderr.contains("54000") || output.stderr.contains("57014"), "{output}");
    ensure!(output.stdout == "alive\n", "{output}");
    within(started, 5)
}

fn slow(world: &mut World) -> Result<()> {
    let started = Instant::now();
    let sql = "select count(*) from generate_series(1, 4000000000)";
    let output = limited(world, "slow").script(&format!("{sql};\nselect 'alive';\n"))?;
    ensure!(output.stderr.contains("57014: policy lets a statement run for 1 s at most"), "{output}");
    ensure!(output.stdout == "alive\n", "{output}");
    within(started, 5)
}

fn bytes(world: &mut World) -> Result<()> {
    let sql = "select id, repeat('x', 300) from customers";
    let output = limited(world, "bytes").script(&format!("{sql};\nselect 'alive';\n"))?;
    ensure!(output.stderr.contains("54000: policy lets a statement return 1024 bytes at most"), "{output}");
    ensure!(output.stdout == "alive\n", "{output}");
    Ok(())
}

fn copy(world: &mut World) -> Result<()> {
    let output = limited(world, "copy").script("copy orders to stdout;\nselect 'alive';\n")?;
    ensure!(output.stderr.contains(TOO_MANY) && output.stdout.ends_with("alive\n"), "{output}");
    ensure!(output.stdout.lines().count() == 11, "{output}");
    Ok(())
}

fn extended(world: &mut World) -> Result<()> {
    let said = limited(world, "extended").python(include_str!("../../clients/limited.py"), &[])?.ok()?;
    ensure!(said == "54000 54000 25P02 1 54000 10 1\n", "{said}");
    Ok(())
}
