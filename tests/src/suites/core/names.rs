//! Prepared statements and cursors of SQL, which share their names with the protocol's, and the end of what a client
//! has to say.

use anyhow::{Result, ensure};
use serde_json::json;

use crate::harness::report::Case;
use crate::harness::spawn::wait_for;
use crate::harness::trail::{Trail, holds};
use crate::harness::world::World;

pub(super) const CASES: &[Case<World>] = &[
    Case { name: "PREPARE and EXECUTE are masked by what the name stands for right then", run: prepare },
    Case { name: "DECLARE and FETCH are masked by what the cursor stands for right then", run: cursor },
    Case { name: "names nobody defined, and statements no policy permits, stay closed", run: unknown },
    Case { name: "what is executed under a name is held as if it stood there", run: held },
    Case { name: "a client that closes its sending side is answered to the end", run: half_close },
    Case { name: "a group that waits for an earlier one does not wait for itself", run: no_sync },
    Case { name: "server-side cursors of drivers and ORMs are masked", run: drivers },
];

fn said(world: &World, scenario: &str, expect: &[&str]) -> Result<()> {
    let source = include_str!("../../../clients/names.py");
    let output = world.client(&format!("names-{scenario}")).python(source, &[scenario])?;
    let lines: Vec<&str> = output.stdout.lines().collect();
    for (index, line) in expect.iter().enumerate() {
        let said = lines.get(index).copied().unwrap_or("(nothing)");
        ensure!(said == *line, "step {}: {said:?}, expected {line:?}\n{output}", index + 1);
    }
    ensure!(lines.len() == expect.len(), "{output}");
    Ok(())
}

fn prepare(world: &mut World) -> Result<()> {
    said(
        world,
        "prepare",
        &[
            "PREPARE",
            "*** | SELECT 1",
            "*** | SELECT 1",
            "*** | SELECT 1",
            "*** | SELECT 1",
            "",
            "*** | SELECT 1",
            "42P05",
            "*** | SELECT 1",
            "42P05",
            "*** | SELECT 1",
            "DEALLOCATE | PREPARE | 1 | SELECT 1 | DEALLOCATE | PREPARE | *** | SELECT 1",
            "*** | SELECT 1",
            "DEALLOCATE | PREPARE | 22012",
            "1 | SELECT 1",
            "26000",
            "DEALLOCATE ALL",
            "26000",
            "26000",
            "PREPARE | 1 | SELECT 1 | DEALLOCATE | PREPARE | *** | SELECT 1",
            "1 | SELECT 1 | 1 | SELECT 1",
        ],
    )
}

fn cursor(world: &mut World) -> Result<()> {
    said(
        world,
        "cursor",
        &[
            "BEGIN",
            "DECLARE CURSOR",
            "***,1 | ***,2 | FETCH 2",
            "MOVE 1",
            "***,4 | FETCH 1",
            "CLOSE CURSOR | DECLARE CURSOR",
            "1,*** | FETCH 1",
            "2,*** | FETCH 1 | CLOSE CURSOR | DECLARE CURSOR | ***,1 | FETCH 1",
            "COMMIT",
            "34000",
            "DECLARE CURSOR | ***,1 | FETCH 1",
            "BEGIN | ROLLBACK | FETCH 0 | ***,1 | ***,2 | FETCH 2 | CLOSE CURSOR | 34000",
            "BEGIN | DECLARE CURSOR | ***,\0\0\0\u{1} | FETCH 1 | ROLLBACK",
            "BEGIN",
            "",
            "*** | FETCH 1",
            "DECLARE CURSOR | ***,1 | s",
            "24000",
            "ROLLBACK",
        ],
    )
}

fn unknown(world: &mut World) -> Result<()> {
    said(
        world,
        "unknown",
        &["26000", "BEGIN | 34000", "ROLLBACK | 26000 | 34000", "42501", "26000", "42501", "", "0A000"],
    )
}

fn held(world: &mut World) -> Result<()> {
    let script = "prepare del(int) as delete from orders where id = $1;\nexecute del(38);\nselect 'alive';\n";
    let client = world.client("names-held").start_script(script)?;
    let trail = Trail::when(&world.agent, "names-held", |trail| trail.statement("execute del(38)").is_ok())?;
    let statement = trail.statement("execute del(38)")?;
    holds(statement, &json!({"verdict": "hold", "policies": ["deletes-are-approved"]}))?;
    let id = statement["hold"].as_str().unwrap_or_default().to_owned();
    let waiting = world.agent.command(&["approvals"])?.ok()?;
    ensure!(waiting.contains("delete from orders where id = $1"), "an approver has to see it: {waiting}");
    world.agent.command(&["approve", &id])?.ok()?;
    let output = client.finish(std::time::Duration::from_secs(15))?;
    ensure!(output.stdout == "PREPARE\nDELETE 1\nalive\n", "{output}");
    ensure!(world.postgres.admin("select count(*) from orders where id = 38")? == "0");
    world
        .postgres
        .admin("insert into orders (id, customer_id, item, cents) values (38, 4, 'item 38', 3800)")?;
    Ok(())
}

fn half_close(world: &mut World) -> Result<()> {
    let slow = "*** | SELECT 1 | 3000000,slow | SELECT 1 | closed";
    // As the server itself does it: an unfinished COPY fails, a group without Sync comes to nothing.
    said(world, "half-close", &[slow, "INSERT 0 1 | 08006 | 08P01 | closed", "closed"])?;
    wait_for("the end of what was cut off", std::time::Duration::from_secs(5), || {
        let sql =
            "select count(*) from pg_stat_activity where query like '%half%' and pid <> pg_backend_pid()";
        Ok((world.postgres.admin(sql)? == "0").then_some(()))
    })?;
    let rows = world.postgres.admin("select count(*) from scratch where word = 'half'")?;
    ensure!(rows == "1", "{rows} rows");
    Ok(())
}

fn no_sync(world: &mut World) -> Result<()> {
    said(world, "no-sync", &["1 | SELECT 1 | *** | SELECT 1"])
}

fn drivers(world: &mut World) -> Result<()> {
    let source = include_str!("../../../clients/cursors.py");
    let rows = world.client("cursors").env("PYTHONDONTWRITEBYTECODE", "1").python(source, &[])?.ok()?;
    ensure!(rows == "5 *** 5 *** 5 *** 5 ***\n", "{rows}");
    Ok(())
}
