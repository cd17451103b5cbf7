//! What a yes is good for, and whose policy lets count.

use super::*;
use crate::harness::spawn::Program;
use crate::harness::trail::everything;

const BOUND: &str = include_str!("../../../clients/bound.py");

/// `mail-bot` sends again instead of waiting, so that what was approved can be sent with something else in it.
fn bound(world: &World, user: &str, value: &str) -> Result<Output> {
    let client = world.client_in(&world.places.mail_bot, "127.0.0.1", user);
    client.python(BOUND, &["delete from orders where id = %s::int", value])
}

pub(super) fn exact_to_the_bind(world: &mut World) -> Result<()> {
    let first = bound(world, "bound", "31")?;
    ensure!(first.stdout.contains("pending approval"), "{first}");
    let id = request(world)?;
    approve(world, &id, "anna", &[])?.ok()?;
    for other in ["32", "311", "031", " 31"] {
        let replayed = bound(world, "bound-other", other)?;
        ensure!(replayed.stdout.contains("42501 pending approval"), "{other:?}: {replayed}");
    }
    ensure!(world.postgres.admin("select count(*) from orders where id in (31, 32)")? == "2");
    let passed = bound(world, "bound-passed", "31")?;
    ensure!(passed.stdout == "1\n", "{passed}");
    ensure!(world.postgres.admin("select count(*) from orders where id in (31, 32)")? == "1");
    for left in waiting(world)? {
        let id = left["id"].as_str().context("a request without id")?;
        world.agent.command(&["deny", id])?.ok()?;
    }
    Ok(())
}

/// The group is right, and policy still has a word on who approves what.
pub(super) fn policy_says_who(world: &mut World) -> Result<()> {
    revoke_all(world)?;
    let rules = r#"
@id("oncall-approves")
permit(principal in Group::"db-oncall", action == Action::"approve", resource in Env::"prod")
when { context.kind != "grant" && context.identity in Group::"ai-agents" };
@id("not-ben") @reason("ben is on leave")
forbid(principal == Person::"ben", action == Action::"approve", resource);
"#;
    world.write_policy(&format!("{POLICY}{ASKING}{rules}"))?;
    world.agent.reload()?;
    let outcome = decided(world);
    world.write_policy(&format!("{POLICY}{ASKING}"))?;
    world.agent.reload()?;
    outcome
}

fn decided(world: &World) -> Result<()> {
    let refused = |output: Result<Output>, why: &str| -> Result<()> {
        let output = output?;
        ensure!(output.code == Some(1) && output.stderr.contains(why), "expected `{why}`: {output}");
        Ok(())
    };
    let client = world.client("says-who").start_script("delete from orders where id = 33;\n")?;
    let id = request(world)?;
    // The reload takes a moment; until then ben could.
    wait_for("the rules in force", Duration::from_secs(5), || {
        let key = key(world, "anna");
        let grant = ["grant", "billing-bot", "--for", "9s", "--reason", "x", "--key", &key];
        let output = world.agent.command(&grant)?;
        Ok(output.stderr.contains("may not approve this grant").then_some(()))
    })?;
    refused(approve(world, &id, "ben", &[]), "ben is on leave [not-ben]")?;
    refused(approve(world, &id, "sam", &[]), "no policy permits approve")?;
    let ask = ["policy", "explain", "--identity", "billing-bot", "--action", "approve", "--target", "shop"];
    for (person, decision) in [("anna", "permit"), ("ben", "deny"), ("sam", "deny")] {
        let told = [&ask[..], &["--database", "shop", "--person", person]].concat();
        let told = world.agent.command(&told)?.ok()?;
        ensure!(told.contains(&format!("decision   {decision}")), "{person}: {told}");
    }
    approve(world, &id, "anna", &[])?.ok()?;
    ensure!(finish(client)?.stdout == "DELETE 1\n");
    // For somebody else's identity nobody was permitted to.
    let client = idle(world, "says-who-idle").start_script("select 'in';\n")?;
    let id = request(world)?;
    refused(approve(world, &id, "anna", &[]), "no policy permits approve")?;
    world.agent.command(&["deny", &id])?.ok()?;
    finish(client)?;
    Ok(())
}

/// The approver is told what the statement would touch, and nobody waits long for what its transaction has locked.
pub(super) fn touches_and_locks(world: &mut World) -> Result<()> {
    world.postgres.admin("create table refunds (of integer references orders on delete cascade)")?;
    let outcome = in_the_way(world);
    world.postgres.admin("drop table refunds")?;
    outcome
}

fn in_the_way(world: &World) -> Result<()> {
    let lock = "update orders set cents = cents where id = 39";
    let script = format!("begin;\n{lock};\ndelete from orders where id = 38;\nrollback;\n");
    let client = world.client("in-the-way").start_script(&script)?;
    let id = request(world)?;
    let told = wait_for("what it would touch", Duration::from_secs(10), || {
        Ok(waiting(world)?.into_iter().find(|hold| hold["blast"].is_object()))
    })?;
    ensure!(told["blast"]["rows"] == 1 && told["blast"]["unknown"].is_null(), "{told}");
    let references = told["blast"]["references"][0].as_str().context("no reference")?;
    ensure!(references == "refunds refers to orders: rows go with those they refer to", "{told}");
    let shown = world.agent.command(&["approvals"])?.ok()?;
    ensure!(shown.contains("about 1 row\n") && shown.contains("public.orders"), "{shown}");

    // Somebody else, past the gate, needs the same row.
    let asked = Instant::now();
    world.postgres.admin(lock)?;
    let waited = asked.elapsed();
    let output = finish(client)?;
    ensure!(output.stderr.contains("55P03: the statement cannot wait for its approval"), "{output}");
    ensure!(output.stderr.contains(&format!("request {id}: 1 sessions have waited")), "{output}");
    ensure!(waited < Duration::from_secs(6), "the other waited {waited:?}");
    eprintln!("        the lock was free after {} ms", waited.as_millis());
    let resolved = world.trail("in-the-way")?.first("hold_resolved")?.clone();
    holds(&resolved, &json!({"hold": id, "outcome": "denied", "by": null}))
}

pub(super) fn at_once(world: &mut World) -> Result<()> {
    let client = world.client("at-once").start_script("delete from orders where id = 21;\n")?;
    let id = request(world)?;
    let outputs: Vec<Output> = std::thread::scope(|scope| {
        let votes: Vec<_> =
            ["anna", "ben"].map(|who| scope.spawn(|| approve(world, &id, who, &[]))).into_iter().collect();
        votes.into_iter().filter_map(|vote| vote.join().ok()?.ok()).collect()
    });
    let taken = outputs.iter().filter(|output| output.code == Some(0)).count();
    ensure!(outputs.len() == 2 && taken == 1, "{outputs:?}");
    ensure!(finish(client)?.stdout == "DELETE 1\n");
    Ok(())
}

pub(super) fn quorum(world: &mut World) -> Result<()> {
    world.postgres.admin("insert into scratch (id, word) values (901, 'x')")?;
    let client = world.client("quorum").start_script("delete from scratch where id = 901;\n")?;
    let id = request(world)?;
    let first = approve(world, &id, "anna", &[])?.ok()?;
    ensure!(first.contains("1 more needed"), "{first}");
    let twice = approve(world, &id, "anna", &[])?;
    ensure!(twice.code == Some(1) && twice.stderr.contains("already"), "{twice}");
    ensure!(world.postgres.admin("select count(*) from scratch where id = 901")? == "1");
    approve(world, &id, "ben", &[])?.ok()?;
    let output = finish(client)?;
    ensure!(output.stdout == "DELETE 1\n" && output.stderr.contains("2 people of db-oncall"), "{output}");
    holds(world.trail("quorum")?.first("hold_resolved")?, &json!({"outcome": "approved", "by": "anna, ben"}))
}

/// Instead of being denied: the webhook is told again.
pub(super) fn escalates(world: &mut World) -> Result<()> {
    let good = fs::read_to_string(&world.agent.config)?;
    let other = good.replacen("lock_wait_s = 1\n", "lock_wait_s = 1\nlock_action = \"escalate\"\n", 1);
    ensure!(other != good, "the configuration is not what the case thinks:\n{good}");
    fs::write(&world.agent.config, other)?;
    world.agent.reload()?;
    let outcome = told_again(world);
    fs::write(&world.agent.config, good)?;
    world.agent.reload()?;
    outcome
}

fn told_again(world: &World) -> Result<()> {
    let port = fs::read_to_string(world.scratch.path().join("webhook.port"))?;
    let listener = std::net::TcpListener::bind(format!("127.0.0.1:{port}"))?;
    let lock = "update orders set cents = cents where id = 37";
    let script = format!("begin;\n{lock};\ndelete from orders where id = 36;\ncommit;\n");
    let client = world.client("escalates").start_script(&script)?;
    let id = request(world)?;
    std::thread::scope(|scope| {
        // Somebody past the gate, who gets the row once the approved transaction has ended.
        let other = scope.spawn(|| world.postgres.admin(lock));
        let shown = wait_for("who waits for it", Duration::from_secs(10), || {
            let shown = world.agent.command(&["approvals"])?.ok()?;
            Ok(shown.contains("waited for 1 sessions for").then_some(()))
        });
        approve(world, &id, "anna", &[])?.ok()?;
        other.join().map_err(|_| anyhow::anyhow!("the other one panicked"))??;
        shown
    })?;
    let again = |text: &str| text.contains(&id) && text.contains("\"sessions\":");
    let told = apart::announcement(&listener, again)?;
    let (_, body) = told.split_once("\r\n\r\n").context("no body")?;
    let body: Value = serde_json::from_str(body)?;
    ensure!(body["in_the_way"]["sessions"] == 1 && body["in_the_way"]["who"][0].is_string(), "{body}");
    let output = finish(client)?;
    ensure!(output.stdout.contains("DELETE 1\nCOMMIT\n"), "{output}");
    let trail = world.trail("escalates")?;
    holds(trail.first("hold_escalated")?, &json!({"hold": id, "op": 3, "sessions": 1}))?;
    holds(trail.first("hold_resolved")?, &json!({"hold": id, "outcome": "approved", "by": "anna"}))
}

pub(super) fn too_late(world: &mut World) -> Result<()> {
    let late = |id: &str| -> Result<()> {
        let output = approve(world, id, "anna", &[])?;
        ensure!(output.code == Some(1) && output.stderr.contains("nothing is held under the id"), "{output}");
        let refused = format!("refused: nothing is held under the id {id};");
        let recorded = everything(&world.agent)?.into_iter().any(|event| {
            event["event"] == "control"
                && event["action"].as_str().is_some_and(|action| action.starts_with(&refused))
        });
        ensure!(recorded, "the late answer to {id} is not in the journal");
        Ok(())
    };
    let client = world.client("late-yes").start_script("delete from orders where id = 35;\n")?;
    let id = request(world)?;
    let output = finish(client)?;
    ensure!(output.stderr.contains("nobody approved the statement in time"), "{output}");
    holds(world.trail("late-yes")?.first("hold_resolved")?, &json!({"hold": id, "outcome": "expired"}))?;
    late(&id)?;
    let client = world.client("gone-yes").start_script("delete from orders where id = 35;\n")?;
    let id = request(world)?;
    let session = waiting(world)?[0]["session"].as_str().context("no session")?.to_owned();
    world.agent.command(&["kill", &session])?.ok()?;
    ensure!(finish(client)?.code != Some(0));
    late(&id)?;
    ensure!(world.postgres.admin("select count(*) from orders where id = 35")? == "1");
    Ok(())
}

/// Anybody can check who approved, from the receipt alone.
pub(super) fn receipt(world: &mut World) -> Result<()> {
    world.postgres.admin("insert into scratch (id, word) values (902, 'x')")?;
    let client = world.client("receipt").start_script("delete from scratch where id = 902;\n")?;
    let id = request(world)?;
    approve(world, &id, "anna", &["--comment", "seen"])?.ok()?;
    approve(world, &id, "ben", &[])?.ok()?;
    finish(client)?.ok()?;
    let session = world.trail("receipt")?.session;
    let text = world.agent.command(&["why", &format!("{session}/1"), "--json"])?.ok()?;
    let python =
        Program::new("/usr/bin/python3").args(["-c", include_str!("../../../clients/signatures.py")]);
    let said = python.stdin(text).limit(20).run()?.ok()?;
    ensure!(said == "anna True\nben True\n", "{said}");
    let told = world.agent.command(&["why", &format!("{session}/1")])?.ok()?;
    for word in
        ["yes from anna: seen", "yes from ben", "signed     by key ", "run by     ", "program    sha256 "]
    {
        ensure!(told.contains(word), "no {word:?} in {told}");
    }
    revoke_all(world)?;
    grant(world, &["idle-bot", "--for", "60s", "--uses", "3", "--rows", "10"])?;
    idle(world, "receipt-grant").script("select n from generate_series(1, 4) as g(n);\nselect 1;\n")?.ok()?;
    let session = world.trail("receipt-grant")?.session;
    for (op, left) in [(1, 6), (2, 5)] {
        let text = world.agent.command(&["why", &format!("{session}/{op}"), "--json"])?.ok()?;
        let receipt: Value = serde_json::from_str(&text)?;
        holds(&receipt["grants"][0], &json!({"uses_left": 2, "rows_left": left, "op": op}))?;
        let told = world.agent.command(&["why", &format!("{session}/{op}")])?.ok()?;
        ensure!(told.contains(&format!("2 uses left, {left} rows left")), "{told}");
    }
    revoke_all(world)
}
