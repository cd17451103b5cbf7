//! Changes of the schema by somebody who may do that and nothing more: what is plain passes, what a label hangs on does
//! not, and afterwards everything that was masked still is.

use std::time::Duration;

use super::*;
use crate::harness::spawn::wait_for;
use crate::raw::cases::{self, Expect};

pub(super) fn matrix(world: &mut World) -> Result<()> {
    let (one, other) = (Pair::copy(world, 910)?, Pair::copy(world, 911)?);
    let planted = planted_in(world);
    let start = |place, database: &str, way| -> Result<Running> {
        let args = [database, table::path(&planted)?, way];
        raw(world, place, &["define", HOST, "shop_trust"], &args)?.start()
    };
    // One database for each way: what is committed stays.
    let direct = start(&world.places.bypassed, &one.names[0], "simple")?;
    let bot = &world.places.mail_bot;
    let simple = start(bot, &one.names[1], "simple")?;
    let (direct, simple) = (table::lines(direct)?, table::lines(simple)?);
    let text = start(bot, &other.names[0], "text")?;
    let binary = start(bot, &other.names[1], "binary")?;
    let ways = [("simple", simple), ("text", table::lines(text)?), ("binary", table::lines(binary)?)];
    let (mut wrong, mut passed, mut denied) = (Vec::new(), 0, 0);
    let cases = cases::definitions();
    for case in &cases {
        let Some(beside) = direct.get(&(case.id.clone(), "simple".to_owned())) else {
            bail!("{} was not played directly", case.id);
        };
        // What the server itself refuses shows nothing about what would pass.
        if case.expect == Expect::Allow && beside.verdict != "served" {
            wrong.push(format!("{} {:?}: directly {}", case.id, case.strings, beside.verdict));
        }
        for (way, lines) in &ways {
            let Some(line) = lines.get(&(case.id.clone(), (*way).to_owned())) else {
                bail!("{} was not played in {way}", case.id);
            };
            let expect = if case.expect == Expect::Allow { "served" } else { "denied" };
            *if expect == "served" { &mut passed } else { &mut denied } += 1;
            if line.verdict != expect || !line.leak.is_empty() {
                let (verdict, leak) = (&line.verdict, &line.leak);
                wrong.push(format!("{} ({way}) {:?}: {verdict}, not {expect} {leak}", case.id, case.strings));
            }
        }
    }
    eprintln!("        {} changes in 3 ways: {passed} passed, {denied} denied", cases.len());
    ensure!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
    ensure!(direct.values().any(|line| !line.leak.is_empty()), "directly, nothing planted came out");
    Ok(())
}

/// All of Django's own migrations: tables, keys, indexes, new types of columns, and the rows that note them.
pub(super) fn migrations(world: &mut World) -> Result<()> {
    let pair = Pair::copy(world, 914)?;
    let client = world.client_in(&world.places.mail_bot, HOST, "shop_trust").database(&pair.names[0]);
    let source = include_str!("../../../clients/django_tools.py");
    let said = client.limit(90).python(source, &["migrate"])?.ok()?;
    ensure!(said.contains("[X] 0012_alter_user_first_name_max_length"), "{said}");
    ensure!(said.contains("class AuthUser") && said.contains("class DjangoMigrations"), "{said}");
    Ok(())
}

/// Reads the column before the one it names by the catalogue of before: a table further left has one column more by then.
const SHIFTED: &str = "select c9 || '' as x from (select l.*, u.* from app.log l right join app.users u on true) \
                       s(c1, c2, c3, c4, c5, c6, c7, c8, c9, c10, c11) where c9 is not null limit 1";

const REPLACED: [&str; 2] = ["drop table app.log", "create table app.log as select 1 as a, 2 as b, 3 as c"];

pub(super) fn meanwhile(world: &mut World) -> Result<()> {
    let pair = Pair::copy(world, 912)?;
    let [database, direct] = &pair.names;
    let client = |place, database: &str| world.client_in(place, HOST, "shop_trust").database(database);
    let [drop, create] = REPLACED;
    let script = format!("begin;\n{drop};\n{create};\n{SHIFTED};\nrollback;\n");
    let secret = client(&world.places.bypassed, direct).script(&script)?;
    ensure!(secret.stdout.lines().any(|line| line.len() > 9), "directly, it shows a number: {secret}");
    let bot = client(&world.places.mail_bot, database);
    let tried = bot.script(&script)?;
    ensure!(tried.stderr.contains("denied by policy \"schema-changed\""), "{tried}");
    ensure!(tried.stdout == "BEGIN\nDROP TABLE\nSELECT 1\nROLLBACK\n", "{tried}");
    // Nor is it stored, or kept to be read later.
    for keep in ["create table app.kin as", "create view app.kin as", "prepare kin as"] {
        let kept = bot.script(&format!("begin;\n{drop};\n{create};\n{keep} {SHIFTED};\nrollback;\n"))?;
        ensure!(kept.stderr.contains("denied by policy \"schema-changed\""), "{keep}: {kept}");
    }
    // In a pipeline: in one transaction, and in three.
    let program = format!(
        "import psycopg, sys\nhost, port, user, database = sys.argv[1:5]\n\
         for synced in (False, True):\n    c = psycopg.connect(host=host, port=port, user=user, dbname=database, autocommit=True)\n    \
         cursor = c.cursor()\n    try:\n        with c.pipeline() as p:\n            for sql in ({drop:?}, {create:?}, {SHIFTED:?}):\n                \
         cursor.execute(sql)\n                if synced:\n                    p.sync()\n        print('served', cursor.fetchall())\n    \
         except psycopg.Error as e:\n        print(e.sqlstate, str(e).splitlines()[0])\n"
    );
    let said = bot.python(&program, &[])?.ok()?;
    let lines: Vec<&str> = said.lines().collect();
    ensure!(
        lines.len() == 2
            && lines[0].contains("42501 denied by policy \"schema-changed\"")
            && lines[1].contains("42501 denied by policy \"flow-only\": column app.users.pin"),
        "{said}"
    );
    // Both changes of the second stand, and what was masked is.
    let rows = bot
        .limit(30)
        .psql(&["select a, b, c from app.log", "select id, token from app.users where id = 1"])?;
    ensure!(rows.stdout == "1|2|3\n1|***\n", "{rows}");
    let told =
        client(&world.places.mail_bot, database).psql(&["alter table app.users rename to app_users"])?;
    ensure!(
        told.stderr.contains("42501") && told.stderr.contains("has a label, which would be lost"),
        "{told}"
    );
    Ok(())
}

/// Somebody renames the table itself, and later puts another one in its place, and the agent sees neither.
pub(super) fn renamed(world: &mut World) -> Result<()> {
    let pair = Pair::copy(world, 916)?;
    let database = &pair.names[0];
    let bot = world.client_in(&world.places.mail_bot, HOST, "shop_trust").database(database).limit(30);
    let token = |table: &str| format!("select id, token from app.{table} where id = 1");
    let before = bot.psql(&[&token("users")])?;
    ensure!(before.stdout == "1|***\n", "{before}");
    world.postgres.admin_in(database, "alter table app.users rename to people")?;
    let secret = world.postgres.admin_in(database, &token("people"))?;
    ensure!(!secret.is_empty() && !secret.contains("***"), "{secret}");
    let masked = |table: &str| -> Result<()> {
        // What is not known yet is read a little later, and in clear at no time.
        wait_for(table, Duration::from_secs(30), || {
            let shown = bot.psql(&[&token(table)])?;
            ensure!(shown.stdout.is_empty() || shown.stdout == "1|***\n", "{table}: {shown}");
            Ok((!shown.stdout.is_empty()).then_some(()))
        })?;
        let asked = bot.psql(&[&format!("select id from app.{table} where token = 'x'")])?;
        ensure!(asked.stderr.contains("42501") && asked.stderr.contains("token"), "{table}: {asked}");
        Ok(())
    };
    masked("people")?;
    world.postgres.admin_in(database, "create table app.users as select * from app.people")?;
    world.postgres.admin_in(database, "grant select on app.users to public")?;
    masked("users")?;
    masked("people")?;
    ensure!(world.agent.log().contains("has another name now"), "nothing in the log");
    Ok(())
}

/// Whoever is logged in goes on with the schemas on its path, and what comes between is nothing to it.
const EARLIER: &str = r#"import psycopg, sys, time
host, port, user, database = sys.argv[1:5]
session = psycopg.connect(host=host, port=port, user=user, dbname=database, autocommit=True)
session.execute("set application_name = 'earlier'")
def say(sql):
    try:
        return " ".join(str(row[0]) for row in session.execute(sql))
    except psycopg.Error as e:
        return f"{e.sqlstate} {e}".splitlines()[0]
end = time.time() + 60
while say("select count(*) from fresh.users") != "0" and time.time() < end:
    time.sleep(0.1)
for sql in ("select count(*) from fresh.users", "select token || '' from users where id = 1",
            "select token from users where id = 1"):
    print(say(sql))
"#;

/// A schema comes into being where sessions to come look first: `"$user"` is on most paths.
pub(super) fn path(world: &mut World) -> Result<()> {
    let pair = Pair::copy(world, 917)?;
    let database = &pair.names[0];
    let admin = |sql: &str| world.postgres.admin_in(database, sql);
    admin(&format!("alter role shop_trust in database {database} set search_path = fresh, app, public"))?;
    let bot = world.client_in(&world.places.mail_bot, HOST, "shop_trust").database(database).limit(90);
    let earlier = bot.start_python(EARLIER, &[])?;
    let there = format!(
        "select 1 from pg_stat_activity where application_name = 'earlier' and datname = '{database}'"
    );
    wait_for("the session", Duration::from_secs(30), || Ok((admin(&there)? == "1").then_some(())))?;
    bot.psql(&["create schema fresh"])?.ok()?;
    // Who makes a table that others would write to instead could read what they write.
    let covered = bot.psql(&["create table fresh.users (id int, token text)"])?;
    ensure!(covered.stderr.contains("42501") && covered.stderr.contains("app.users"), "{covered}");
    admin("create table fresh.users (id int, token text); grant select on fresh.users to public")?;
    let said = earlier.finish(Duration::from_secs(90))?.ok()?;
    let lines: Vec<&str> = said.lines().collect();
    ensure!(
        lines.len() == 3
            && lines[0] == "0"
            && lines[1].contains("42501 denied by policy \"flow-only\": column app.users.token")
            && lines[2] == "***",
        "{said}"
    );
    let fresh = bot.psql(&["select token || '' from users", "select count(*) from users"])?.ok()?;
    ensure!(fresh == "0\n", "{fresh}");
    Ok(())
}

/// Indexes have names of their own, and are their tables'; views that show nothing may be filled again.
pub(super) fn upkeep(world: &mut World) -> Result<()> {
    let pair = Pair::copy(world, 918)?;
    let database = &pair.names[0];
    let make = "create index log_n on app.log (n); create materialized view app.mv_log as select n from app.log; \
                insert into app.log values ('later', 7); grant all on app.mv_log to public";
    world.postgres.admin_in(database, make)?;
    let bot = world.client_in(&world.places.mail_bot, HOST, "shop_trust").database(database).limit(30);
    let log = format!("resource == Table::\"leaks/{database}/app.log\"");
    let keep = format!("@id(\"the-log-stays\") forbid(principal, action == Action::\"sql:ddl\", {log});");
    world.write_policy(&format!("{POLICY}\n{keep}\n"))?;
    let mark = world.agent.log().len();
    world.agent.reload()?;
    let reloaded = |mark: usize| {
        let log = || world.agent.log_since(mark).contains(": reloaded").then_some(());
        wait_for("the reload", Duration::from_secs(20), || Ok(log()))
    };
    reloaded(mark)?;
    let changes = [
        "drop index app.log_n",
        "alter index app.log_n set (fillfactor = 80)",
        "reindex index app.log_n",
        "analyze app.log",
    ];
    let denied = changes.map(|sql| bot.psql(&[sql]));
    let beside = bot.psql(&["drop index app.wide_c2_secret_idx"]);
    let refreshed =
        bot.psql(&["refresh materialized view app.mv_log", "select n from app.mv_log where n = 7"]);
    let mark = world.agent.log().len();
    world.write_policy(POLICY)?;
    world.agent.reload()?;
    reloaded(mark)?;
    for denied in denied {
        let denied = denied?;
        ensure!(denied.stderr.contains("the-log-stays"), "{denied}");
    }
    beside?.ok()?;
    ensure!(refreshed?.ok()?.ends_with("7\n"));
    for change in changes.iter().rev() {
        bot.psql(&[change])?.ok()?;
    }
    let masked = bot.psql(&["refresh materialized view app.mv_users"])?;
    ensure!(masked.stderr.contains("42501"), "{masked}");
    Ok(())
}
