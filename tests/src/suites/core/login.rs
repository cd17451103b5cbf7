//! Logging in: nothing the client presents counts, and the server sees the agent's account.

use anyhow::{Result, ensure};
use serde_json::json;

use crate::harness::report::Case;
use crate::harness::trail::holds;
use crate::harness::world::World;

pub(super) const CASES: &[Case<World>] = &[
    Case { name: "a client logs in without a password", run: no_password },
    Case { name: "a client logs in with a wrong password", run: wrong_password },
    Case { name: "the server sees the agent's account and never the client's claim", run: injected_account },
    Case { name: "each upstream authentication works: SCRAM, md5, trust", run: upstream_methods },
    Case { name: "TLS to the server is verified in full", run: tls_verified },
    Case { name: "a server certificate of another authority is refused", run: tls_wrong_authority },
    Case { name: "a server certificate of another name is refused", run: tls_wrong_name },
    Case { name: "a wrong upstream password is a clear error that gives nothing away", run: wrong_upstream },
    Case { name: "a database that does not exist is the server's own error", run: no_database },
    Case { name: "sslmode prefer, require and disable all connect", run: ssl_modes },
    Case { name: "a GSSENCRequest is answered and the connection goes on", run: gss_request },
    Case { name: "settings in PGOPTIONS count, and those that may not be chosen are an error", run: options },
    Case { name: "the session is recorded from start to end", run: recorded },
];

fn no_password(world: &mut World) -> Result<()> {
    let rows = world.client("no-password").psql(&["select name from customers where id = 1"])?.ok()?;
    ensure!(rows == "Ada Quill\n", "{rows:?}");
    Ok(())
}

fn wrong_password(world: &mut World) -> Result<()> {
    let client = world.client("wrong-password").env("PGPASSWORD", "hunter2");
    let rows = client.psql(&["select count(*) from orders"])?.ok()?;
    ensure!(rows == "40\n", "{rows:?}");
    Ok(())
}

fn injected_account(world: &mut World) -> Result<()> {
    let mark = world.postgres.log()?.len();
    let rows = world.client("postgres").psql(&["select current_user"])?.ok()?;
    ensure!(rows == "shop_scram\n", "{rows:?}");
    let log = world.postgres.log()?.split_off(mark);
    ensure!(log.contains("connection authorized: user=shop_scram database=shop"), "{log}");
    ensure!(!log.contains("user=postgres database=shop"), "the client's claim reached the server:\n{log}");
    Ok(())
}

fn upstream_methods(world: &mut World) -> Result<()> {
    for (host, target, account) in [
        ("127.0.0.1", "shop", "shop_scram"),
        ("127.0.0.2", "shop-md5", "shop_md5"),
        ("127.0.0.3", "shop-trust", "shop_trust"),
    ] {
        let user = format!("method-{account}");
        let rows = world.client_at(host, &user).psql(&["select current_user"])?.ok()?;
        ensure!(rows == format!("{account}\n"), "{host}: {rows:?}");
        let trail = world.trail(&user)?;
        holds(trail.first("session_start")?, &json!({"target": target, "upstream_user": account}))?;
    }
    Ok(())
}

fn tls_verified(world: &mut World) -> Result<()> {
    let mark = world.postgres.log()?.len();
    let rows = world.client_at("127.0.0.4", "over-tls").psql(&["select current_user"])?.ok()?;
    ensure!(rows == "shop_tls\n", "{rows:?}");
    let log = world.postgres.log()?.split_off(mark);
    ensure!(log.contains("user=shop_tls") && log.contains("SSL enabled"), "{log}");
    Ok(())
}

fn tls_wrong_authority(world: &mut World) -> Result<()> {
    refused_upstream(world, "127.0.0.5", "wrong-ca", &["certificate"])
}

fn tls_wrong_name(world: &mut World) -> Result<()> {
    refused_upstream(world, "127.0.0.6", "wrong-name", &["certificate"])
}

fn wrong_upstream(world: &mut World) -> Result<()> {
    refused_upstream(world, "127.0.0.7", "bad-upstream", &[])
}

/// The target cannot be used, and nobody gets in another way.
fn refused_upstream(world: &World, host: &str, user: &str, words: &[&str]) -> Result<()> {
    let mark = world.agent.log().len();
    let output = world.client_at(host, user).psql(&["select 1"])?;
    ensure!(output.code == Some(2), "{output}");
    ensure!(output.stderr.contains("FATAL"), "no clear error: {output}");
    ensure!(!output.stderr.contains("not the password"), "{output}");
    let log = world.agent.log_since(mark);
    for word in words {
        ensure!(output.stderr.contains(word) || log.contains(word), "`{word}` is nowhere: {output}\n{log}");
    }
    ensure!(!log.contains("not the password"), "the agent logged a password");
    Ok(())
}

fn no_database(world: &mut World) -> Result<()> {
    let error = world.client("no-database").database("nowhere").psql(&["select 1"])?.refused()?;
    ensure!(error.contains("FATAL"), "{error}");
    Ok(())
}

fn ssl_modes(world: &mut World) -> Result<()> {
    for mode in ["prefer", "require", "disable", "allow"] {
        let user = format!("sslmode-{mode}");
        let rows = world.client(&user).env("PGSSLMODE", mode).psql(&["select 7"])?.ok()?;
        ensure!(rows == "7\n", "{mode}: {rows:?}");
    }
    Ok(())
}

fn gss_request(world: &mut World) -> Result<()> {
    let source = include_str!("../../../clients/gss.py");
    let said = world.client("gss").python(source, &[])?.ok()?;
    ensure!(said == "N R\n", "answer to GSSENCRequest and type of the first message: {said:?}");
    Ok(())
}

fn options(world: &mut World) -> Result<()> {
    let with = |options: &str, sql: &str| world.client("options").env("PGOPTIONS", options).psql(&[sql]);
    let shown = with("-c statement_timeout=1234 --work-mem=2MB", "show statement_timeout")?.ok()?;
    ensure!(shown == "1234ms\n", "{shown:?}");
    let cut =
        with("-c statement_timeout=50", "select count(*) from generate_series(1, 100000000)")?.refused()?;
    ensure!(cut.contains("57014"), "{cut}");
    // The path that is in force anyway may be asked for, as JDBC's currentSchema does.
    let shown = with("-c search_path=public", "select count(*) from orders")?.ok()?;
    ensure!(shown == "40\n", "{shown:?}");
    let start = world.trail("options")?.first("session_start")?.clone();
    ensure!(start["settings"] == json!([["application_name", "psql"]]), "{start}");
    with("-c statement_timeout=77", "select 1")?.ok()?;
    let start = world.trail("options")?.first("session_start")?.clone();
    ensure!(
        start["settings"] == json!([["statement_timeout", "77"], ["application_name", "psql"]]),
        "{start}"
    );
    for options in [
        "-c search_path=pg_temp",
        "-c search_path=pg_catalog,public",
        "-crole=postgres",
        "--session-replication-role=replica",
        "-O",
    ] {
        let said = with(options, "select 1")?;
        ensure!(said.code == Some(2) && said.stderr.contains("FATAL"), "{options}: {said}");
        ensure!(["may not be chosen", "not served"].iter().any(|word| said.stderr.contains(word)), "{said}");
    }
    // What it is not a value of is the server's own error.
    let wrong = with("-c statement_timeout=soon", "select 1")?;
    ensure!(wrong.code == Some(2) && wrong.stderr.contains("invalid value"), "{wrong}");
    Ok(())
}

fn recorded(world: &mut World) -> Result<()> {
    let sql = "select id, email from customers order by id";
    let client = world.client("recorded").env("PGAPPNAME", "nightly-report");
    client.psql(&[sql])?.ok()?;
    let trail = world.trail("recorded")?;
    let start = trail.first("session_start")?;
    let destination = format!("127.0.0.1:{}", world.postgres.port);
    holds(
        start,
        &json!({
            "protocol": "postgres", "target": "shop", "original_destination": destination, "database": "shop",
            "claimed_user": "recorded", "application": "nightly-report", "upstream_user": "shop_scram",
            "identity": {"name": "billing-bot", "groups": ["ai-agents"]},
        }),
    )?;
    let workload = &start["workload"];
    holds(workload, &json!({"comm": "psql", "cgroup": world.places.billing_bot.name()}))?;
    ensure!(workload["pid"].as_u64().is_some_and(|pid| pid > 1), "{workload}");
    let nobody = nix::unistd::User::from_name("nobody")?.map(|user| user.uid.as_raw());
    ensure!(workload["uid"].as_u64() == nobody.map(u64::from), "{workload}");
    holds(trail.statement(sql)?, &json!({"verdict": "permit", "masked": ["public.customers.email"]}))?;
    holds(trail.result(sql)?, &json!({"rows": 5, "masked_cells": 5, "tag": "SELECT 5"}))?;
    holds(trail.first("session_end")?, &json!({"statements": 1, "rows": 5}))
}
