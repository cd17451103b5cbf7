//! The protocol in all its dialects: simple, extended, prepared, pipelined, cancelled, large.

use std::time::Duration;

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;
use serde_json::json;

use crate::harness::report::Case;
use crate::harness::spawn::wait_for;
use crate::harness::trail::{Trail, holds};
use crate::harness::world::World;

pub(super) const CASES: &[Case<World>] = &[
    Case { name: "pgbench runs in simple, extended and prepared mode", run: pgbench },
    Case { name: "psycopg2 and psycopg work as they are", run: drivers },
    Case { name: "bind values are recorded", run: binds },
    Case { name: "psql's own \\dt and \\d work", run: describe },
    Case { name: "PA05: Ctrl-C in psql cancels the statement on the server", run: cancel },
    Case { name: "a large result is the same byte for byte", run: large },
    Case { name: "COPY in and out moves rows unchanged", run: copy },
    Case { name: "twenty clients at once each get their own answers", run: crowd },
];

fn pgbench(world: &mut World) -> Result<()> {
    let script = world.scratch.path().join("mixed.sql");
    std::fs::write(
        &script,
        "\\set id random(1, 5)\nbegin;\nselect id, name, email from customers where id = :id;\n\
         insert into scratch (word) values ('bench-' || :id);\nend;\n",
    )?;
    for mode in ["simple", "extended", "prepared"] {
        let user = format!("pgbench-{mode}");
        let client = world.client(&user);
        let output = client.pgbench(&script, &["-M", mode, "-c", "4", "-t", "50"])?;
        ensure!(output.stdout.contains("200/200") || output.stdout.contains("processed: 200"), "{output}");
        ensure!(!output.stdout.contains("failed transactions: 1"), "{output}");
        output.ok()?;
    }
    let rows = world.postgres.admin("select count(*) from scratch where word like 'bench-%'")?;
    ensure!(rows == "600", "{rows}");
    Ok(())
}

fn drivers(world: &mut World) -> Result<()> {
    let source = include_str!("../../../clients/drivers.py");
    for driver in ["psycopg2", "psycopg"] {
        let said = world.client(&format!("driver-{driver}")).python(source, &[driver])?.ok()?;
        ensure!(said == "5 Ada Quill *** 42501 rolled back 5\n", "{driver}: {said}");
    }
    Ok(())
}

fn binds(world: &mut World) -> Result<()> {
    let script = world.scratch.path().join("bind.sql");
    let sql = "select name from customers where id = :id and id < :other;";
    std::fs::write(&script, format!("\\set id 3\n\\set other 9\n{sql}\n"))?;
    world.client("binds").pgbench(&script, &["-M", "extended", "-t", "1"])?.ok()?;
    let trail = world.trail("binds")?;
    let statement = trail.statement("select name from customers where id = $1 and id < $2")?;
    holds(statement, &json!({"binds": [{"text": "3"}, {"text": "9"}], "verdict": "permit"}))
}

fn describe(world: &mut World) -> Result<()> {
    let tables = world.client("describe").script("\\dt\n")?.ok()?;
    ensure!(tables.contains("public|customers|table|") && tables.contains("orders"), "{tables}");
    let columns = world.client("describe").script("\\d orders\n")?;
    ensure!(columns.stdout.contains("customer_id|integer"), "{columns}");
    Ok(())
}

fn cancel(world: &mut World) -> Result<()> {
    let sql = "select count(*) from generate_series(1, 4000000000)";
    let client = world.client("cancel").limit(40).start_script(&format!("{sql};\nselect 'alive';\n"))?;
    Trail::when(&world.agent, "cancel", |trail| trail.statement(sql).is_ok())?;
    std::thread::sleep(Duration::from_millis(300));
    client.signal(Signal::SIGINT)?;
    let output = client.finish(Duration::from_secs(15))?;
    ensure!(output.stderr.contains("57014"), "{output}");
    holds(world.trail("cancel")?.result(sql)?, &json!({"sqlstate": "57014"}))?;
    let still = "select count(*) from pg_stat_activity where state = 'active' and query like '%4000000000%' \
                 and pid <> pg_backend_pid()";
    wait_for("the statement's end on the server", Duration::from_secs(5), || {
        Ok((world.postgres.admin(still)? == "0").then_some(()))
    })
}

fn large(world: &mut World) -> Result<()> {
    let sql = "select n, repeat('chaperone', (n % 40)::int) from generate_series(1, 200000) as n";
    let direct = world.client_in(&world.places.bypassed, "127.0.0.3", "shop_trust");
    let expect = direct.psql(&[sql])?.ok()?;
    let rows = world.client("large").psql(&[sql])?.ok()?;
    ensure!(rows == expect, "{} bytes, expected {}", rows.len(), expect.len());
    holds(world.trail("large")?.result(sql)?, &json!({"rows": 200_000, "tag": "SELECT 200000"}))
}

fn copy(world: &mut World) -> Result<()> {
    let rows: String = (1..=20_000).map(|n| format!("copied-{n}\n")).collect();
    let output = world.client("copy").script(&format!("copy scratch (word) from stdin;\n{rows}\\.\n"))?;
    ensure!(output.stdout == "COPY 20000\n", "{output}");
    let back = world
        .client("copy")
        .psql(&["copy (select word from scratch where word like 'copied-%' order by id) to stdout"])?
        .ok()?;
    ensure!(back == rows, "{} bytes, expected {}", back.len(), rows.len());
    Ok(())
}

fn crowd(world: &mut World) -> Result<()> {
    let clients = (1..=20)
        .map(|n| {
            let script = format!("select {n};\n").repeat(50);
            Ok((n, world.client(&format!("crowd-{n}")).start_script(&script)?))
        })
        .collect::<Result<Vec<_>>>()?;
    for (n, client) in clients {
        let rows = client.finish(Duration::from_secs(30))?.ok()?;
        ensure!(rows == format!("{n}\n").repeat(50), "client {n}: {rows}");
    }
    Ok(())
}
