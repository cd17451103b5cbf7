//! What ends a live session in the middle of a query: the client is told why, the server stops, the record has the reason.

use super::*;

/// A session of `idle-bot` on this grant that is in the middle of a query.
fn in_mid_query(world: &World, user: &str) -> Result<Running> {
    let client =
        idle(world, user).start_script("select 'begun';\nselect pg_sleep(25);\nselect 'slept';\n")?;
    Trail::when(&world.agent, user, |trail| trail.statement("select pg_sleep(25)").is_ok())?;
    Ok(client)
}

fn sleeping(world: &World) -> Result<String> {
    world.postgres.admin(
        "select count(*) from pg_stat_activity where state = 'active' and query like '%pg_sleep(25)%' \
         and pid <> pg_backend_pid()",
    )
}

fn cut_off(world: &World, output: &Output, why: &str) -> Result<()> {
    ensure!(output.stdout == "begun\n" && output.code != Some(0), "{output}");
    ensure!(output.stderr.contains("FATAL:  57P01: terminated: ") && output.stderr.contains(why), "{output}");
    wait_for("the server having stopped the query", Duration::from_secs(2), || {
        Ok((sleeping(world)? == "0").then_some(()))
    })
}

/// With its reason on record.
fn ended(world: &World, user: &str, why: &str) -> Result<()> {
    let end = world.trail(user)?.first("session_end")?.clone();
    ensure!(end["reason"].as_str().is_some_and(|reason| reason.contains(why)), "no `{why}` in {end}");
    Ok(())
}

pub(super) fn expires(world: &mut World) -> Result<()> {
    revoke_all(world)?;
    let give = || grant(world, &["idle-bot", "--target", "shop", "--for", "3s"]);
    let (id, term) = Term::of(Duration::from_secs(3), give)?;
    let client = in_mid_query(world, "expires")?;
    ensure!(term.goes_on() && sleeping(world)? == "1", "too slow to see it run");
    let output = finish(client)?;
    let late = term.ended(Instant::now()).with_context(|| output.to_string())?;
    cut_off(world, &output, &format!("grant {id}: expired"))?;
    eprintln!("        cut off {} ms after the grant's end", late.as_millis());
    holds(world.trail("expires")?.first("session_end")?, &json!({"reason": format!("grant {id}: expired")}))
}

pub(super) fn revoked(world: &mut World) -> Result<()> {
    revoke_all(world)?;
    let id = grant(world, &["idle-bot", "--for", "60s"])?;
    let client = in_mid_query(world, "revoked")?;
    let started = Instant::now();
    world.agent.command(&["revoke", &id, "--reason", "a mistake"])?.ok()?;
    let output = finish(client)?;
    ensure!(started.elapsed() < Duration::from_millis(1500), "{:?} with the command", started.elapsed());
    cut_off(world, &output, "revoked: a mistake")?;
    ended(world, "revoked", &format!("grant {id}: revoked: a mistake"))?;
    let again = world.agent.command(&["revoke", &id])?;
    ensure!(again.code == Some(1), "revoked twice: {again}");
    Ok(())
}

pub(super) fn killed(world: &mut World) -> Result<()> {
    revoke_all(world)?;
    grant(world, &["idle-bot", "--for", "60s"])?;
    let client = in_mid_query(world, "killed")?;
    let session = Trail::when(&world.agent, "killed", |_| true)?.session;
    let started = Instant::now();
    world.agent.command(&["kill", &session, "--reason", "enough"])?.ok()?;
    let output = finish(client)?;
    ensure!(started.elapsed() < Duration::from_millis(1500), "{:?} with the command", started.elapsed());
    cut_off(world, &output, "enough")?;
    ended(world, "killed", "enough")
}

pub(super) fn policy_closes(world: &mut World) -> Result<()> {
    revoke_all(world)?;
    grant(world, &["idle-bot", "--for", "60s"])?;
    let client = in_mid_query(world, "closes")?;
    let closed = ASKING.replace(
        "permit(principal == NonHumanIdentity::\"idle-bot\", action == Action::\"connect\"",
        "forbid(principal == NonHumanIdentity::\"idle-bot\", action == Action::\"connect\"",
    );
    world.write_policy(&format!("{POLICY}{closed}"))?;
    let started = Instant::now();
    world.agent.reload()?;
    let output = finish(client);
    let took = started.elapsed();
    world.write_policy(&format!("{POLICY}{ASKING}"))?;
    world.agent.reload()?;
    let output = output?;
    ensure!(took < Duration::from_millis(1500), "{took:?} with the reload");
    ensure!(output.stdout == "begun\n" && output.stderr.contains("no longer permitted"), "{output}");
    ended(world, "closes", "no longer permitted")
}

pub(super) fn identity_changes(world: &mut World) -> Result<()> {
    revoke_all(world)?;
    grant(world, &["idle-bot", "--for", "60s"])?;
    let client = in_mid_query(world, "changes")?;
    let good = fs::read_to_string(&world.agent.config)?;
    let other =
        good.replacen("name = \"idle-bot\"\ngroups = []", "name = \"idle-bot\"\ngroups = [\"ai-agents\"]", 1);
    ensure!(other != good, "the configuration is not what the case thinks:\n{good}");
    fs::write(&world.agent.config, other)?;
    let started = Instant::now();
    world.agent.reload()?;
    let output = finish(client);
    let took = started.elapsed();
    world.write_config()?;
    world.agent.reload()?;
    cut_off(world, &output?, "identity idle-bot was changed")?;
    ensure!(took < Duration::from_millis(1500), "{took:?} with the reload");
    ended(world, "changes", "identity idle-bot was changed")
}

/// Nobody can make a session last by not listening.
pub(super) fn stalled(world: &mut World) -> Result<()> {
    revoke_all(world)?;
    let id = grant(world, &["idle-bot", "--for", "60s"])?;
    let query = "select repeat('x', 1000) from generate_series(1, 3000000) as g(n)";
    let client = idle(world, "stalled").start_script(&format!("{query};\n"))?;
    Trail::when(&world.agent, "stalled", |trail| trail.statement(query).is_ok())?;
    client.signal(Signal::SIGSTOP)?;
    let active = || {
        world.postgres.admin(
            "select count(*) from pg_stat_activity where state = 'active' and query like '%repeat(''x'', 1000)%' \
             and pid <> pg_backend_pid()",
        )
    };
    wait_for("the server waiting for its client", Duration::from_secs(20), || {
        let waits = world.postgres.admin(
            "select count(*) from pg_stat_activity where wait_event = 'ClientWrite' and query like '%repeat%'",
        )?;
        Ok((waits == "1").then_some(()))
    })?;
    ensure!(active()? == "1", "it does not run");
    world.agent.command(&["revoke", &id, "--reason", "stalled"])?.ok()?;
    let started = Instant::now();
    let gone = wait_for("the server having stopped the query", Duration::from_secs(20), || {
        Ok((active()? == "0").then_some(()))
    });
    let took = started.elapsed();
    client.signal(Signal::SIGCONT)?;
    let output = finish(client)?;
    gone?;
    ensure!(took < Duration::from_millis(1500), "the server worked on for {took:?}");
    ensure!(output.code != Some(0), "{output}");
    ended(world, "stalled", &format!("grant {id}: revoked: stalled"))
}
