//! Permit and deny, and the state a denial leaves behind.

use anyhow::{Result, ensure};
use serde_json::json;

use crate::harness::report::Case;
use crate::harness::trail::holds;
use crate::harness::world::World;

pub(super) const CASES: &[Case<World>] = &[
    Case {
        name: "a denial is 42501 with the rule's id, its reason and a hint, and the session lives on",
        run: denied,
    },
    Case { name: "a statement no policy permits is denied", run: not_permitted },
    Case { name: "a statement that does not parse is denied and never reaches the server", run: unparsable },
    Case { name: "a function that reads the server's files is denied", run: server_file },
    Case { name: "SET ROLE and friends are denied", run: set_role },
    Case {
        name: "PA09: a denial inside BEGIN leaves a failed transaction until ROLLBACK",
        run: inside_transaction,
    },
    Case { name: "PA10: a denial outside a transaction leaves none", run: outside_transaction },
    Case { name: "PA11: a message of several statements with a denied one runs nothing", run: several },
    Case { name: "PA08: INSERT, denied, INSERT, Sync in one pipeline inserts nothing", run: pipeline },
    Case { name: "a denied prepared statement fails at Parse and the connection goes on", run: extended },
    Case { name: "an UPDATE without WHERE is denied and the same with WHERE runs", run: flags },
    Case { name: "a writing CTE inside a SELECT is decided as the write it is", run: hidden_write },
    Case { name: "DO and EXECUTE cannot carry SQL past the gate", run: smuggled },
];

const NO_DDL: &str = "42501: denied by policy \"no-ddl\": the schema is changed by migrations only";

fn denied(world: &mut World) -> Result<()> {
    let sql = "drop table customers";
    let output = world.client("denied").script(&format!("{sql};\nselect count(*) from customers;\n"))?;
    ensure!(output.stdout == "5\n", "the session did not live on: {output}");
    ensure!(output.stderr.contains(NO_DDL), "{output}");
    ensure!(output.stderr.contains("HINT:  ask the shop team for a migration"), "{output}");
    let trail = world.trail("denied")?;
    ensure!(output.stderr.contains(&format!("request {}/", trail.session)), "{output}");
    holds(
        trail.statement(sql)?,
        &json!({"verdict": "deny", "policies": ["no-ddl"], "reason": "the schema is changed by migrations only"}),
    )?;
    ensure!(
        trail.verdicts().last().map(|(_, verdict)| verdict.as_str()) == Some("permit"),
        "{:?}",
        trail.verdicts()
    );
    never_sent(world, sql)
}

/// The server's log holds each statement it was sent.
fn never_sent(world: &World, sql: &str) -> Result<()> {
    let log = world.postgres.log()?;
    let sent = log.lines().find(|line| line.contains("statement: ") && line.contains(sql));
    ensure!(sent.is_none(), "the server was sent a denied statement: {sent:?}");
    Ok(())
}

fn not_permitted(world: &mut World) -> Result<()> {
    let sql = "insert into customers values (77, 'x', 'x', 'x', 'XX', '2000-01-01', null)";
    let error = world.client("not-permitted").psql(&[sql])?.refused()?;
    ensure!(error.contains("42501"), "{error}");
    ensure!(world.postgres.admin("select count(*) from customers where id = 77")? == "0");
    holds(world.trail("not-permitted")?.statement(sql)?, &json!({"verdict": "deny"}))
}

fn unparsable(world: &mut World) -> Result<()> {
    let sql = "selct unparsable_marker frm customers";
    let output = world.client("unparsable").script(&format!("{sql};\nselect 3;\n"))?;
    ensure!(output.stdout == "3\n" && output.stderr.contains("ERROR:  42"), "{output}");
    holds(world.trail("unparsable")?.all("statement")[0], &json!({"verdict": "deny"}))?;
    never_sent(world, "unparsable_marker")
}

fn server_file(world: &mut World) -> Result<()> {
    for sql in [
        "select pg_read_file('/etc/passwd')",
        "copy orders to '/tmp/chaperone-stolen'",
        "copy orders to program 'cat'",
        "select * from dblink('host=/tmp', 'select 1') as t(a int)",
        "select query_to_xml('select email from customers', true, false, '')",
    ] {
        let error = world.client("server-file").psql(&[sql])?.refused()?;
        ensure!(error.contains("42501"), "{sql}: {error}");
        never_sent(world, sql)?;
    }
    Ok(())
}

fn set_role(world: &mut World) -> Result<()> {
    for sql in [
        "set role postgres",
        "set session authorization postgres",
        "reset session authorization",
        "alter system set work_mem = '1GB'",
    ] {
        let error = world.client("set-role").psql(&[sql])?.refused()?;
        ensure!(error.contains("42501"), "{sql}: {error}");
        never_sent(world, sql)?;
    }
    Ok(())
}

fn inside_transaction(world: &mut World) -> Result<()> {
    let script = "begin;\ninsert into scratch (word) values ('in-failed-tx');\ndrop table orders;\nselect 1;\n\
                  commit;\nselect 'alive';\n";
    let output = world.client("in-transaction").script(script)?;
    ensure!(output.stderr.contains(NO_DDL), "{output}");
    ensure!(output.stderr.contains("25P02"), "the transaction is not failed: {output}");
    ensure!(output.stdout == "BEGIN\nINSERT 0 1\nROLLBACK\nalive\n", "{output}");
    ensure!(world.postgres.admin("select count(*) from scratch where word = 'in-failed-tx'")? == "0");
    Ok(())
}

fn outside_transaction(world: &mut World) -> Result<()> {
    let said = world.client("status").python(include_str!("../../../clients/status.py"), &[])?.ok()?;
    ensure!(
        said == "after denial: INERROR=False IDLE=True\ninside: INERROR=True\n25P02\nafter rollback: IDLE=True\n",
        "{said}"
    );
    Ok(())
}

fn several(world: &mut World) -> Result<()> {
    let sql = "insert into scratch (word) values ('multi-1'); drop table orders; insert into scratch (word) values ('multi-2')";
    let error = world.client("several").psql(&[sql])?.refused()?;
    ensure!(error.contains("42501"), "{error}");
    ensure!(world.postgres.admin("select count(*) from scratch where word like 'multi-%'")? == "0");
    let permitted =
        "insert into scratch (word) values ('both-1'); insert into scratch (word) values ('both-2')";
    world.client("several-ok").psql(&[permitted])?.ok()?;
    ensure!(world.postgres.admin("select count(*) from scratch where word like 'both-%'")? == "2");
    Ok(())
}

fn pipeline(world: &mut World) -> Result<()> {
    let said = world.client("pipeline").python(include_str!("../../../clients/pipeline.py"), &[])?.ok()?;
    ensure!(said == "42501\nalive 1\n", "{said}");
    let rows = world.postgres.admin("select count(*) from scratch where word like 'pipe-%'")?;
    ensure!(rows == "0", "{rows} rows were inserted");
    Ok(())
}

fn extended(world: &mut World) -> Result<()> {
    let said = world
        .client("prepared-denied")
        .python(include_str!("../../../clients/prepared_denied.py"), &[])?
        .ok()?;
    ensure!(said == "42501\n5\n42501\n5\n", "{said}");
    Ok(())
}

fn flags(world: &mut World) -> Result<()> {
    let error = world.client("flags").psql(&["update orders set cents = 0"])?.refused()?;
    ensure!(error.contains("denied by policy \"no-unqualified-write\""), "{error}");
    let tag = world.client("flags").psql(&["update orders set cents = cents where id = 1"])?.ok()?;
    ensure!(tag == "UPDATE 1\n", "{tag}");
    ensure!(world.postgres.admin("select min(cents) from orders")? == "100");
    Ok(())
}

fn hidden_write(world: &mut World) -> Result<()> {
    let sql = "with gone as (delete from customers where id = 5 returning id) select count(*) from gone";
    let error = world.client("hidden-write").psql(&[sql])?.refused()?;
    ensure!(error.contains("42501"), "{error}");
    ensure!(world.postgres.admin("select count(*) from customers")? == "5");
    Ok(())
}

fn smuggled(world: &mut World) -> Result<()> {
    for script in [
        "do $$ begin execute 'drop table orders'; end $$;\n",
        "prepare p as delete from customers where id = 4;\nexecute p;\n",
        "explain analyze delete from customers where id = 4;\n",
        "begin;\ndeclare c cursor for select upper(email) from customers;\n",
        "create temp table t as select email from customers;\nselect * from t;\n",
    ] {
        let output = world.client("smuggled").script(script)?;
        ensure!(output.stderr.contains("42501"), "{script}: {output}");
        ensure!(!output.stdout.contains('@'), "{script}: {output}");
    }
    ensure!(world.postgres.admin("select count(*) from customers")? == "5");
    Ok(())
}
