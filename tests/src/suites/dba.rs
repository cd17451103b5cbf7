//! What a DBA does, where nothing is labelled and policy permits everything: dump and restore, large objects, cursors that
//! outlive their transaction, binary COPY, notifications; and the limits a policy sets on one statement.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::harness::client::Client;
use crate::harness::report::{self, Case};
use crate::harness::spawn::Program;
use crate::harness::trail::{self, holds};
use crate::harness::world::{Wishes, World};

const CASES: &[Case<World>] = &[
    Case { name: "pg_dump writes the same as directly, and pg_restore restores it", run: dump },
    Case { name: "psql moves large objects in and out by function calls", run: large_objects },
    Case { name: "function calls are denied where columns are masked", run: no_calls },
    Case { name: "what the analysis does not serve runs for those who may do anything", run: unread },
    Case { name: "and for nobody else", run: unread_denied },
    Case { name: "so is the search_path they ask for at login", run: own_path },
    Case { name: "Django's migrations run", run: migrations },
    Case { name: "a transaction that changes the catalogue does not wait for itself", run: own_locks },
    Case { name: "a cursor WITH HOLD outlives its transaction", run: held_cursor },
    Case { name: "binary COPY goes out and in again", run: binary_copy },
    Case { name: "PA14: a notification arrives with what it carries, within a second", run: notified },
    Case { name: "a base backup is taken by who may, and is sound", run: base_backup },
    Case { name: "pg_receivewal and pg_recvlogical receive", run: receivers },
    Case { name: "the record holds how much of a stream went which way, and its digest", run: summed },
    Case { name: "replication is denied where anything is masked, and to who may not", run: no_replication },
    Case { name: "a stream is cut off at its limit", run: limited_stream },
];

/// The target without labels.
const FREE: &str = "127.0.0.9";
const DBA: &str = "shop_trust";

const POLICY: &str = r#"
@id("anything")
permit(principal, action, resource) unless { action == Action::"unmask" && resource in Tag::"pii" };

@id("idle-reads")
@reason("only reading")
forbid(principal, action in [Action::"sql:admin", Action::"sql:call", Action::"sql:replicate"], resource)
when { principal in Group::"mail-readers" };

@id("small-streams")
@max_bytes("100000")
permit(principal == NonHumanIdentity::"idle-bot", action == Action::"sql:replicate", resource);
"#;

pub(super) fn run(filter: Option<&str>) -> Result<()> {
    let mut world = World::prepare("dba", Wishes::default())?;
    world.wishes.more = format!(
        "\n[[targets]]\nname = \"free\"\nprotocol = \"postgres\"\naddresses = [\"{FREE}\"]\nport = {}\n\
         env = \"test\"\nuser = \"{DBA}\"\n",
        world.postgres.port
    );
    world.write_config()?;
    world.write_policy(POLICY)?;
    world.postgres.admin(&format!("alter role {DBA} superuser"))?;
    world.start_agent()?;
    report::run("dba", &mut world, CASES, filter, |world| world.agent.log_tail())
}

fn through(world: &World) -> Client<'_> {
    world.client_at(FREE, DBA)
}

fn directly(world: &World) -> Client<'_> {
    world.client_in(&world.places.bypassed, FREE, DBA)
}

/// A dump, less the lines that are different each time.
fn dumped(client: &Client<'_>) -> Result<String> {
    let text = client.tool("/usr/bin/pg_dump", &["--no-password"])?.run()?.ok()?;
    let mine = |line: &&str| !line.starts_with("\\restrict") && !line.starts_with("\\unrestrict");
    Ok(text.lines().filter(mine).collect::<Vec<_>>().join("\n"))
}

fn dump(world: &mut World) -> Result<()> {
    world.postgres.admin("select lo_from_bytea(424242, '\\x00ff10')")?;
    let expect = dumped(&directly(world))?;
    ensure!(expect.contains("Ada Quill") && expect.contains("lowrite"), "{expect}");
    let dump = dumped(&through(world))?;
    ensure!(dump == expect, "{} bytes, directly {}", dump.len(), expect.len());
    let file = world.scratch.folder("dump", 0o777)?.join("shop.dump");
    let file = file.to_string_lossy();
    through(world).tool("/usr/bin/pg_dump", &["-Fc", "-f", &file])?.run()?.ok()?;
    through(world).psql(&["create database restored template template0"])?.ok()?;
    let restored = through(world).database("restored");
    restored.tool("/usr/bin/pg_restore", &[])?.args([&*file]).run()?.ok()?;
    let again = dumped(&directly(world).database("restored"))?;
    ensure!(again == expect, "{} bytes restored, {} dumped", again.len(), expect.len());
    Ok(())
}

fn large_objects(world: &mut World) -> Result<()> {
    let folder = world.scratch.folder("lo", 0o777)?;
    let (from, to) = (folder.join("in"), folder.join("out"));
    let bytes: Vec<u8> = (0..300_000u32).map(|n| n.to_le_bytes()[n as usize % 3]).collect();
    std::fs::write(&from, &bytes)?;
    let script = format!(
        "\\lo_import '{}'\n\\lo_export :LASTOID '{}'\n\\lo_unlink :LASTOID\n",
        from.display(),
        to.display()
    );
    let client = world.client_at(FREE, "large-objects");
    client.script(&script)?.ok()?;
    ensure!(std::fs::read(&to)? == bytes, "the object came out as something else");
    let trail = world.trail("large-objects")?;
    let statement = trail.statement("/* function call */ pg_catalog.lo_creat")?;
    holds(statement, &json!({"verdict": "permit", "policies": ["anything"]}))
}

fn no_calls(world: &mut World) -> Result<()> {
    let file = world.scratch.folder("lo", 0o777)?.join("in");
    std::fs::write(&file, b"x")?;
    let script = format!("\\lo_import '{}'\nselect 'alive';\n", file.display());
    let output = world.client("no-calls").script(&script)?;
    ensure!(output.stderr.contains("function call messages are denied"), "{output}");
    ensure!(output.stdout.contains("alive"), "{output}");
    Ok(())
}

fn unread(world: &mut World) -> Result<()> {
    let script = "create schema odd;\nset search_path = odd, public;\ncreate temp table fleeting (n int);\n\
                  insert into fleeting values (1), (2);\nselect sum(n) from fleeting;\n\
                  copy (select 7) to program 'cat >/dev/null';\nselct 1;\nselect count(*) from orders;\n\
                  discard all;\nshow search_path;\ndrop schema odd;\n";
    let output = world.client_at(FREE, "unread").script(script)?;
    ensure!(output.stdout.contains("\n3\n") && output.stdout.contains("\n40\n"), "{output}");
    ensure!(output.stdout.contains("COPY 1") && output.stdout.contains("DISCARD ALL"), "{output}");
    ensure!(output.stderr.contains("42601: syntax error at or near \"selct\""), "{output}");
    holds(world.trail("unread")?.statement("set search_path = odd, public")?, &json!({"verdict": "permit"}))
}

fn unread_denied(world: &mut World) -> Result<()> {
    let reader = world.client_in(&world.places.mail_bot, FREE, "reader");
    for sql in [
        "set search_path = pg_temp",
        "copy (select 7) to program 'true'",
        "selct 1",
        "discard all",
        "set standard_conforming_strings = off",
    ] {
        let output = reader.psql(&[sql])?;
        ensure!(output.stderr.contains("42501"), "{sql}: {output}");
    }
    // The agent's own reading of the protocol hangs on this.
    let output = through(world).psql(&["set client_encoding = 'sjis'"])?;
    ensure!(output.stderr.contains("42501"), "{output}");
    Ok(())
}

fn own_path(world: &mut World) -> Result<()> {
    let asked = "-c search_path=pg_catalog,public";
    let shown =
        world.client_at(FREE, "own-path").env("PGOPTIONS", asked).psql(&["show search_path"])?.ok()?;
    ensure!(shown == "pg_catalog,public\n", "{shown}");
    let reader = world.client_in(&world.places.mail_bot, FREE, "reader").env("PGOPTIONS", asked);
    let output = reader.psql(&["select 1"])?;
    ensure!(output.code == Some(2) && output.stderr.contains("may not be chosen at login"), "{output}");
    Ok(())
}

/// What they define is not analysed, so that they take `sql:admin`.
fn migrations(world: &mut World) -> Result<()> {
    world.postgres.admin("create database migrated")?;
    let source = include_str!("../../clients/django_tools.py");
    let said = through(world).database("migrated").limit(60).python(source, &["migrate"])?.ok()?;
    ensure!(said.contains("[X] 0012_alter_user_first_name_max_length"), "{said}");
    ensure!(said.contains("class AuthUser") && said.contains("class DjangoMigrations"), "{said}");
    Ok(())
}

fn own_locks(world: &mut World) -> Result<()> {
    let started = Instant::now();
    let script = "create view seen as select id, item from orders;\nbegin;\nalter table orders add column extra int;\n\
                  create temp table scrap as select 1 as n;\nselect n from scrap;\nselect extra from orders limit 1;\n\
                  rollback;\ndrop view seen;\n";
    let output = through(world).script(script)?;
    ensure!(output.stdout.ends_with("ROLLBACK\nDROP VIEW\n"), "{output}");
    ensure!(started.elapsed() < Duration::from_secs(15), "took {:?}", started.elapsed());
    Ok(())
}

fn held_cursor(world: &mut World) -> Result<()> {
    let script = "begin;\ndeclare c cursor with hold for select id, email from customers order by id;\n\
                  fetch 1 from c;\ncommit;\nfetch 2 from c;\nclose c;\nfetch c;\n";
    let output = world.client("held").script(script)?;
    ensure!(
        output.stdout == "BEGIN\nDECLARE CURSOR\n1|***\nCOMMIT\n2|***\n3|***\nCLOSE CURSOR\n",
        "{output}"
    );
    ensure!(output.stderr.contains("34000"), "{output}");
    Ok(())
}

fn binary_copy(world: &mut World) -> Result<()> {
    let file = world.scratch.folder("copy", 0o777)?.join("orders");
    let script = format!(
        "\\copy orders to '{file}' (format binary)\ncreate table orders_again (like orders);\n\
         \\copy orders_again from '{file}' (format binary)\n\
         select count(*) from (table orders except table orders_again) as gone;\ndrop table orders_again;\n",
        file = file.display()
    );
    let output = through(world).script(&script)?.ok()?;
    ensure!(output == "COPY 40\nCREATE TABLE\nCOPY 40\n0\nDROP TABLE\n", "{output}");
    Ok(())
}

fn notified(world: &mut World) -> Result<()> {
    let said = through(world).python(include_str!("../../clients/notified.py"), &[])?.ok()?;
    ensure!(said == "news hello\n", "{said}");
    Ok(())
}

fn base_backup(world: &mut World) -> Result<()> {
    let folder = world.scratch.folder("backup", 0o777)?.join("base");
    let to = folder.to_string_lossy();
    let program = world.postgres.program("pg_basebackup").to_string_lossy().into_owned();
    let args = ["--no-password", "--no-sync", "--checkpoint=fast", "--wal-method=stream", "-D", &to];
    world.client_at(FREE, DBA).limit(60).bare_tool(&program, &args)?.run()?.ok()?;
    let verify = world.postgres.program("pg_verifybackup");
    let output = Program::new(verify).args(["-n", &to]).user("nobody")?.limit(60).run()?.ok()?;
    ensure!(output.contains("successfully verified"), "{output}");
    // The two connections say they are the same client: one of them took the backup.
    let sessions = trail::sessions(&world.agent)?;
    let mine: Vec<_> = sessions.iter().filter(|session| session["database"] == "replication").collect();
    ensure!(mine.len() == 2, "{mine:?}");
    let (command, result) = base_backups(world)?.pop().context("no BASE_BACKUP in the record")?;
    holds(&command, &json!({"verdict": "permit", "policies": ["anything"]}))?;
    // Counted, and not kept: it is the database itself.
    let number = |field: &str| result[field].as_u64().unwrap_or_default();
    ensure!(number("bytes") > 10_000_000 && number("served_to") < 100_000, "{result}");
    Ok(())
}

/// The commands of that name in the record, each with the largest of its results.
fn base_backups(world: &World) -> Result<Vec<(Value, Value)>> {
    let events = trail::everything(&world.agent)?;
    let is_command = |event: &&Value| event["sql"].as_str().is_some_and(|sql| sql.starts_with("BASE_BACKUP"));
    let result = |command: &Value| {
        let of = |event: &&Value| {
            event["event"] == "result"
                && ["session", "op"].iter().all(|field| event[*field] == command[*field])
        };
        events.iter().filter(of).max_by_key(|event| event["bytes"].as_u64()).cloned()
    };
    Ok(events.iter().filter(is_command).filter_map(|it| Some((it.clone(), result(it)?))).collect())
}

fn receivers(world: &mut World) -> Result<()> {
    let folder = world.scratch.folder("received", 0o777)?;
    let to = folder.to_string_lossy();
    let program = |name| world.postgres.program(name).to_string_lossy().into_owned();
    // The end is where the log is now; what is written behind it lets a receiver see that it is there.
    let here = || -> Result<String> {
        let end = world.postgres.admin("select pg_current_wal_flush_lsn()")?;
        world.postgres.admin("insert into scratch (word) values ('behind')")?;
        Ok(end)
    };
    world.postgres.admin("insert into scratch (word) values ('received')")?;
    let args = ["--no-password", "--no-loop", "--endpos", &here()?, "-D", &to];
    through(world).bare_tool(&program("pg_receivewal"), &args)?.run()?.ok()?;
    ensure!(std::fs::read_dir(&folder)?.count() > 0, "no log was received");
    let logical = |args: &[&str]| -> Result<String> {
        let args = [&["--no-password", "-d", "shop", "-S", "chaperone_test"], args].concat();
        through(world).bare_tool(&program("pg_recvlogical"), &args)?.run()?.ok()
    };
    logical(&["--create-slot", "-P", "test_decoding"])?;
    world.postgres.admin("insert into scratch (word) values ('decoded')")?;
    let end = here()?;
    let said = logical(&["--start", "--no-loop", "--endpos", &end, "-f", "-"])?;
    ensure!(said.contains("table public.scratch: INSERT") && said.contains("'decoded'"), "{said}");
    logical(&["--drop-slot"])?;
    // SQL on such a connection is SQL, and decided as that.
    let reader = world.client_at(FREE, "logical").database("replication=database dbname=shop");
    let output = reader.script("IDENTIFY_SYSTEM;\nselect count(*) from customers;\n")?.ok()?;
    ensure!(output.ends_with("|shop\n5\n"), "{output}");
    holds(world.trail("logical")?.statement("select count(*) from customers")?, &json!({"verdict": "permit"}))
}

/// The same sums as of a client that kept every byte.
fn summed(world: &mut World) -> Result<()> {
    world.postgres.admin("select pg_create_logical_replication_slot('chaperone_sum', 'test_decoding')")?;
    world.postgres.admin("insert into scratch (word) values ('summed-up')")?;
    let client = world.client_at(FREE, "summed").limit(90);
    let told =
        client.python(include_str!("../../clients/replicated.py"), &["chaperone_sum", "summed-up"])?.ok()?;
    world.postgres.admin("select pg_drop_replication_slot('chaperone_sum')")?;
    let told: Value = serde_json::from_str(&told)?;
    let events = trail::everything(&world.agent)?;
    for (what, command) in
        [("backup", "BASE_BACKUP (LABEL 'summed'"), ("stream", "START_REPLICATION SLOT \"chaperone_sum\"")]
    {
        let is_command = |event: &&Value| event["sql"].as_str().is_some_and(|sql| sql.starts_with(command));
        let statement = events.iter().find(is_command).with_context(|| format!("no {command}"))?;
        let (session, op) = (&statement["session"], &statement["op"]);
        let of = |event: &&Value| {
            event["event"] == "replicated" && event["session"] == *session && event["op"] == *op
        };
        let summed: Vec<_> = events.iter().filter(of).collect();
        ensure!(summed.len() == 1, "{what}: {summed:?}");
        let [down, up] = [&told[what][0], &told[what][1]];
        holds(
            summed[0],
            &json!({
                "to_client_bytes": down[0], "to_client_sha256": down[1],
                "to_server_bytes": up[0], "to_server_sha256": up[1],
            }),
        )?;
        let replay = world.agent.command(&["replay", session.as_str().unwrap_or_default()])?.ok()?;
        // What is empty is not shown.
        let shown = [("to client", down), ("to server", up)].into_iter().filter(|(_, side)| side[0] != 0);
        for (name, side) in shown {
            let line = format!("{name}  {} bytes, sha256 {}", side[0], side[1].as_str().unwrap_or_default());
            ensure!(replay.contains(&line), "no `{line}` in {replay}");
        }
    }
    // The backup is some megabytes, in messages that come in pieces.
    ensure!(told["backup"][0][0].as_u64().is_some_and(|bytes| bytes > 10_000_000), "{told}");
    Ok(())
}

fn no_replication(world: &mut World) -> Result<()> {
    for kind in ["database", "true"] {
        let database = format!("replication={kind} dbname=shop");
        let labelled = world.client("no-replication").database(&database).psql(&["IDENTIFY_SYSTEM"])?;
        ensure!(labelled.code == Some(2), "{labelled}");
        ensure!(labelled.stderr.contains("where something is masked"), "{labelled}");
        let reader = world.client_in(&world.places.mail_bot, FREE, "reader").database(&database);
        let output = reader.psql(&["IDENTIFY_SYSTEM"])?;
        ensure!(output.code == Some(2) && output.stderr.contains("only reading"), "{output}");
    }
    Ok(())
}

fn limited_stream(world: &mut World) -> Result<()> {
    let to = world.scratch.folder("limited", 0o777)?.join("base");
    let program = world.postgres.program("pg_basebackup").to_string_lossy().into_owned();
    let args =
        ["--no-password", "--no-sync", "--checkpoint=fast", "--wal-method=none", "-D", &to.to_string_lossy()];
    let client = world.client_in(&world.places.idle_bot, FREE, DBA).limit(60);
    let output = client.bare_tool(&program, &args)?.run()?;
    ensure!(output.code == Some(1) && output.stderr.contains("ended before last file"), "{output}");
    // pg_basebackup does not say why; the record does.
    let (_, result) = base_backups(world)?.pop().context("no second backup in the record")?;
    holds(&result, &json!({"sqlstate": "54000"}))?;
    ensure!(result["bytes"].as_u64().is_some_and(|bytes| bytes <= 100_000), "{result}");
    Ok(())
}
