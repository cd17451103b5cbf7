//! Labelled columns that somebody renames while no agent runs, or moves, takes off, dumps and restores: the next agent
//! masks them wherever they are, until the label is taken out of the configuration.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::harness::report::{self, Case};
use crate::harness::spawn::{Output, wait_for};
use crate::harness::trail::{Trail, everything, holds};
use crate::harness::world::{Wishes, World};

const CASES: &[Case<World>] = &[
    Case { name: "a table and its column that were renamed while no agent ran are masked", run: renamed },
    Case { name: "of two tables that change their names while no agent runs both are masked", run: swapped },
    Case { name: "a partition that is taken off while no agent runs stays masked", run: detached },
    Case { name: "a dump that comes back in the database's place is known by its names", run: restored },
    Case { name: "an agent that takes over knows what the one before it learned", run: taken_over },
    Case { name: "a label that is taken out takes its memory with it, and that is said", run: taken_out },
    Case { name: "an agent that cannot read what it knew does not start, and says what to do", run: damaged },
];

/// A label beside those of the customers, for what is taken out again.
const TOKEN: &str = "public.visits.token";

/// What everybody in these tables has, and nobody may see.
const SECRET: &str = "4111111111111111";

pub(super) fn run(filter: Option<&str>) -> Result<()> {
    let mut world = World::start("labels", Wishes { labels: vec![TOKEN], ..Wishes::default() })?;
    report::run("labels", &mut world, CASES, filter, |world| world.agent.log_tail())
}

/// A database with one table, which one session has seen.
fn database(world: &World, name: &str, sql: &str) -> Result<()> {
    world.postgres.admin(&format!("create database {name}"))?;
    fill(world, name, sql)
}

fn fill(world: &World, name: &str, sql: &str) -> Result<()> {
    world.postgres.admin_in(name, sql)?;
    world.postgres.admin_in(name, "grant select on all tables in schema public to public").map(drop)
}

fn customers(table: &str) -> String {
    format!(
        "create table {table}(id int, name text, email text, card text, born date); insert into {table} values(1, 'Ada', 'a@b', '{SECRET}', '2000-01-01')"
    )
}

fn ask(world: &World, database: &str, sql: &str) -> Result<Output> {
    let output = world.client("asking").database(database).psql(&[sql])?;
    ensure!(!format!("{output}").contains(SECRET), "{sql}: {output}");
    Ok(output)
}

/// The column comes masked, in rows and in COPY, and is good for nothing else.
fn masked(world: &World, database: &str, table: &str, column: &str) -> Result<()> {
    // What another agent or an earlier reading knows of names may be older than they are.
    wait_for(table, Duration::from_secs(40), || {
        let shown = ask(world, database, &format!("select id, {column} from {table}"))?;
        ensure!(shown.stdout.is_empty() || shown.stdout == "1|***\n", "{table}: {shown}");
        Ok((!shown.stdout.is_empty()).then_some(()))
    })?;
    let copied = ask(world, database, &format!("copy (select {column} from {table}) to stdout"))?;
    ensure!(copied.stdout == "***\n", "{table}: {copied}");
    let asked = ask(world, database, &format!("select id from {table} where {column} like '4%'"))?;
    ensure!(asked.stdout.is_empty() && asked.stderr.contains("42501"), "{table}: {asked}");
    Ok(())
}

fn between_agents(world: &mut World, act: impl FnOnce(&World) -> Result<()>) -> Result<()> {
    world.agent.stop()?;
    act(world)?;
    world.start_agent()
}

fn renamed(world: &mut World) -> Result<()> {
    database(world, "renamed", &customers("customers"))?;
    masked(world, "renamed", "customers", "card")?;
    let sql = "create schema kept; grant usage on schema kept to public; alter table customers rename to clients; \
               alter table clients rename card to pan; alter table clients set schema kept";
    between_agents(world, |world| world.postgres.admin_in("renamed", sql).map(drop))?;
    masked(world, "renamed", "kept.clients", "pan")?;
    masked(world, "renamed", "kept.clients", "email")?;
    let oid = world.postgres.admin_in("renamed", "select 'kept.clients'::regclass::oid::int8")?;
    let moved = json!({"target": "shop", "database": "renamed", "from": "public.customers.card", "to": "kept.clients.pan",
        "table_oid": oid.trim().parse::<u64>()?, "column_number": 4});
    let recorded = everything(&world.agent)?;
    let told = recorded.iter().find(|event| event["event"] == "label_moved" && event["to"] == moved["to"]);
    holds(told.with_context(|| format!("no word of {moved} in the record"))?, &moved)?;
    let clear = ask(world, "renamed", "select name from kept.clients")?;
    ensure!(clear.stdout == "Ada\n", "{clear}");
    // And what comes in its place, and once more after that.
    fill(
        world,
        "renamed",
        "create table customers as select id, name, email, pan as card, born from kept.clients",
    )?;
    masked(world, "renamed", "customers", "card")?;
    between_agents(world, |world| {
        let sql = "alter table kept.clients rename to older; alter table customers rename card to number";
        world.postgres.admin_in("renamed", sql).map(drop)
    })?;
    masked(world, "renamed", "kept.older", "pan")?;
    masked(world, "renamed", "customers", "number")?;
    ensure!(world.agent.log().contains("has another name now"), "nothing in the log");
    // Whoever hardens the account takes it from there, too; with labels for any database, the script is for any.
    let script = world.agent.command(&["db", "harden", "shop", "--database", "renamed"])?.ok()?;
    ensure!(script.contains("(E'kept'::name, E'older'::name, E'pan'::name)"), "{script}");
    for args in [vec!["doctor"], vec!["check"]] {
        let said = world.agent.command(&args)?;
        let said = format!("{}{}", said.stdout, said.stderr);
        ensure!(
            said.contains("public.customers.card") && said.contains("kept.older.pan"),
            "{args:?}: {said}"
        );
    }
    Ok(())
}

fn swapped(world: &mut World) -> Result<()> {
    database(world, "swapped", &format!("{}; {}", customers("customers"), customers("leads")))?;
    masked(world, "swapped", "customers", "card")?;
    // Killed: what it knew was on disk before anybody was served by it.
    world.agent.kill();
    let sql = "begin; alter table customers rename to x; alter table leads rename to customers; \
               alter table x rename to leads; commit";
    world.postgres.admin_in("swapped", sql)?;
    world.start_agent()?;
    masked(world, "swapped", "leads", "card")?;
    masked(world, "swapped", "customers", "card")
}

fn detached(world: &mut World) -> Result<()> {
    let sql = format!(
        "create table visits(id int, token text) partition by range (id); \
         create table visits_1 partition of visits for values from (0) to (10); \
         create table visits_2 partition of visits for values from (10) to (20); \
         insert into visits values (1, '{SECRET}')"
    );
    database(world, "detached", &sql)?;
    masked(world, "detached", "visits_1", "token")?;
    between_agents(world, |world| {
        let sql = "alter table visits detach partition visits_1; alter table visits_1 rename to archive";
        world.postgres.admin_in("detached", sql).map(drop)
    })?;
    masked(world, "detached", "archive", "token")
}

fn restored(world: &mut World) -> Result<()> {
    database(world, "restored", &customers("customers"))?;
    masked(world, "restored", "customers", "card")?;
    world.postgres.admin_in("restored", "alter table customers rename to clients")?;
    masked(world, "restored", "clients", "card")?;
    between_agents(world, |world| {
        world.postgres.admin("drop database restored")?;
        // Other numbers for everything.
        database(world, "restored", &format!("create table earlier(id int); {}", customers("clients")))
    })?;
    masked(world, "restored", "clients", "card")
}

fn taken_over(world: &mut World) -> Result<()> {
    database(world, "taken", &customers("customers"))?;
    masked(world, "taken", "customers", "card")?;
    // A session that the old agent goes on with, and that comes back to the table once it has another name.
    let done = world.scratch.path().join("renamed");
    let wait = format!("for n in $(seq 400); do test -e {} && break; sleep 0.1; done", done.display());
    let script = format!("select card from customers;\n\\! {wait}\nselect card from clients;\n");
    let lasting = world.client("lasting").database("taken").limit(60).start_script(&script)?;
    Trail::when(&world.agent, "lasting", |trail| !trail.all("result").is_empty())?;
    let old = world.agent.succeed(&world.places.agent)?.context("there was no agent before")?;
    world.postgres.admin_in("taken", "alter table customers rename to clients")?;
    masked(world, "taken", "clients", "card")?;
    fs::write(&done, "")?;
    let output = lasting.finish(Duration::from_secs(40))?;
    ensure!(output.stdout == "***\n***\n", "{output}");
    old.finish(Duration::from_secs(40))?.ok()?;
    between_agents(world, |world| {
        world.postgres.admin_in("taken", "alter table clients rename to folk").map(drop)
    })?;
    masked(world, "taken", "folk", "card")
}

fn file(world: &World) -> PathBuf {
    world.agent.state.join("labels")
}

fn taken_out(world: &mut World) -> Result<()> {
    let sql = format!("create table visits(id int, token text); insert into visits values (1, '{SECRET}')");
    database(world, "out", &sql)?;
    masked(world, "out", "visits", "token")?;
    world.postgres.admin_in("out", "alter table visits rename to calls")?;
    masked(world, "out", "calls", "token")?;
    let configured = |world: &mut World, labels: Vec<&'static str>| -> Result<()> {
        let mark = world.agent.log().len();
        world.wishes.labels = labels;
        world.write_config()?;
        world.agent.reload()?;
        wait_for("the reload", Duration::from_secs(20), || {
            Ok(world.agent.log_since(mark).contains(": reloaded").then_some(()))
        })
    };
    let mark = world.agent.log().len();
    configured(world, Vec::new())?;
    let said = world.agent.log_since(mark);
    ensure!(said.contains("not configured any more") && said.contains(TOKEN), "{said}");
    let kept = fs::read_to_string(file(world))?;
    ensure!(!kept.contains("calls") && kept.contains("card"), "{kept}");
    ensure!(!kept.contains("\"cluster\":\"\""), "every account may ask which cluster it is: {kept}");
    configured(world, vec![TOKEN])?;
    let clear = world.client("asking").database("out").psql(&["select token from calls"])?;
    ensure!(clear.stdout == format!("{SECRET}\n"), "{clear}");
    world.postgres.admin_in("out", "alter table calls rename to visits")?;
    masked(world, "out", "visits", "token")
}

fn damaged(world: &mut World) -> Result<()> {
    database(world, "damaged", &customers("customers"))?;
    masked(world, "damaged", "customers", "card")?;
    world.agent.stop()?;
    world.postgres.admin_in("damaged", "alter table customers rename to clients")?;
    let whole = fs::read(file(world))?;
    let mut spoilt = whole.clone();
    let middle = spoilt.len() / 2;
    *spoilt.get_mut(middle).context("nothing in the file")? ^= 1;
    fs::write(file(world), &spoilt)?;
    world.agent.launch(&world.places.agent)?;
    let ended = world.agent.wait_end(Duration::from_secs(20))?;
    ensure!(ended.code != Some(0), "{ended}");
    let log = world.agent.log_tail();
    ensure!(log.contains("is damaged") && log.contains("remove the file"), "{log}");
    let refused = ask(world, "damaged", "select card from clients")?;
    ensure!(refused.stdout.is_empty() && refused.code != Some(0), "{refused}");
    let doctor = world.agent.command(&["doctor"])?;
    ensure!(doctor.code == Some(1) && doctor.stdout.contains("is damaged"), "{doctor}");
    let check = world.agent.command(&["check"])?;
    ensure!(check.code == Some(2) && check.stderr.contains("is damaged"), "{check}");
    fs::write(file(world), &whole)?;
    world.start_agent()?;
    masked(world, "damaged", "clients", "card")
}
