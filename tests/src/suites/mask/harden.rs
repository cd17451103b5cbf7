//! The layer below the gate: an account of the target's own that could read labelled columns by itself.

use std::time::Duration;

use super::table::{self, Lines};
use super::*;
use crate::harness::trail;

/// Where the target is that lets nobody in while its account may too much.
pub(super) const HOST: &str = "127.0.0.9";

pub(super) const ACCOUNT: &str = "shop_bench";

pub(super) fn cases(world: &mut World) -> Result<()> {
    let pair = Pair::copy(world, 903)?;
    let [database, _] = &pair.names;
    let admin = |sql: &str| world.postgres.admin_in(database, sql);
    admin(&format!(
        "grant usage, create on schema app, other to {ACCOUNT}; grant all on all tables in schema app to {ACCOUNT};\n\
         grant execute on all functions in schema app to {ACCOUNT}; grant agent to {ACCOUNT};\n\
         alter role {ACCOUNT} set search_path = app, public; alter role {ACCOUNT} set statement_timeout = '300ms';\n\
         create function app.lent() returns text language sql security definer as 'select token from app.users limit 1';\n\
         alter table app.wide owner to {ACCOUNT};\n\
         create table app.audited(id int); grant insert on app.audited to {ACCOUNT};\n\
         create function app.audit() returns trigger language plpgsql security definer as 'begin return new; end';\n\
         create trigger audit before insert on app.audited execute function app.audit()"
    ))?;
    let before = leaks(&directly(world, database)?);
    let client = world.client_at(HOST, "whoever").database(database);
    let sql = ["select id, name from app.users where id = 1"];
    let refused = client.psql(&sql)?.refused()?;
    ensure!(refused.contains("its account shop_bench") && refused.contains("db harden"), "{refused}");

    let script = world.agent.command(&["db", "harden", "hard"])?.ok()?;
    let dry = admin(&format!("\\set dry 1\n{script}"))?;
    ensure!(dry.contains("REVOKE SELECT ON app.users FROM shop_bench"), "{dry}");
    let still = admin(&format!("select has_column_privilege('{ACCOUNT}', 'app.users', 'token', 'select')"))?;
    ensure!(still == "t", "a dry run changed something");
    let done = admin(&script)?;
    ensure!(done == dry_without_findings(&dry), "{done}\nplanned: {dry}");
    let again = admin(&script)?;
    ensure!(again.is_empty(), "the second time: {again}");

    let after = directly(world, database)?;
    eprintln!(
        "        directly, {before} of {} cases leaked; with the account hardened, {}",
        after.len(),
        leaks(&after)
    );
    ensure!(
        before > 200 && leaks(&after) == 0,
        "{:?}",
        after.iter().find(|(_, line)| !line.leak.is_empty()).map(|(key, _)| key)
    );
    // Without waiting for the next reading of the catalogue.
    std::thread::sleep(Duration::from_secs(1));
    let rows = client.psql(&sql)?.ok()?;
    ensure!(rows == "1|name1\n", "{rows}");
    let masked = client.psql(&["select token from app.users"])?;
    ensure!(masked.stderr.contains("42501") && masked.stderr.contains("permission denied"), "{masked}");
    let told = trail::everything(&world.agent)?;
    let mine = |event: &&serde_json::Value| event["event"] == "account_powers" && event["account"] == ACCOUNT;
    let told = told.iter().find(mine);
    let told = told.context("no account_powers in the journal")?.to_string();
    for finding in [
        "reads column app.users.token",
        "owns app.wide",
        "may run app.lent()",
        "may create in schema app",
        "writes to app.audited, which fires app.audit() as postgres",
    ] {
        ensure!(told.contains(finding), "{finding}: {told}");
    }
    Ok(())
}

/// The plan a dry run prints is followed by what is there now.
fn dry_without_findings(dry: &str) -> String {
    let plan = dry.lines().take_while(|line| line.starts_with(|first: char| first.is_ascii_digit()));
    plan.collect::<Vec<_>>().join("\n")
}

fn directly(world: &World, database: &str) -> Result<Lines> {
    let planted = planted_in(world);
    let args = [database, table::path(&planted)?, "simple"];
    table::lines(raw(world, &world.places.bypassed, &["matrix", HOST, ACCOUNT], &args)?.start()?)
}

fn leaks(lines: &Lines) -> usize {
    lines.values().filter(|line| !line.leak.is_empty()).count()
}
