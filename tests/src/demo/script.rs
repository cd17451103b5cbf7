//! The scenes, in order. Each checks what it claims.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::Story;
use crate::harness::client::Client;
use crate::harness::spawn::{Output, wait_for};
use crate::harness::tamper;
use crate::harness::trail::Trail;
use crate::harness::world::{POLICY, World};

const BOT: &str = "billing-bot $";
const OPERATOR: &str = "operator #";

pub(super) fn play(world: &mut World, story: &mut Story) -> Result<()> {
    masked_query(world, story)?;
    denied_drop(world, story)?;
    held_delete(world, story)?;
    access_for_a_time(world, story)?;
    recorded(world, story)?;
    without_agent(world, story)?;
    verified(world, story)
}

fn bot(world: &World) -> Client<'_> {
    world.client("billing")
}

fn masked_query(world: &World, story: &mut Story) -> Result<()> {
    story
        .step("A permitted query. No password was given to the bot; e-mail and card number come out masked.");
    let sql = "select name, email, card from customers order by id";
    let clear = world.postgres.admin(sql)?;
    ensure!(clear.contains("ada.quill@example.com"), "the table is not what the demo thinks: {clear}");
    let rows = said(story, &bot(world), sql)?.ok()?;
    ensure!(rows.contains("Ada Quill") && rows.matches("***").count() == 10, "not masked: {rows}");
    for secret in ["@example", "4111111111111111", "378282246310005"] {
        ensure!(!rows.contains(secret), "{secret} was served: {rows}");
    }
    story.line("(the table itself still holds ada.quill@example.com and 4111111111111111)");
    Ok(())
}

fn denied_drop(world: &World, story: &mut Story) -> Result<()> {
    story.step("DROP TABLE is denied: by which rule, why, and what to do instead. The table is still there.");
    let output = said(story, &bot(world), "drop table customers")?;
    ensure!(output.code == Some(1), "{output}");
    ensure!(
        output.stderr.contains("denied by policy \"no-ddl\": the schema is changed by migrations only"),
        "{output}"
    );
    ensure!(output.stderr.contains("HINT:"), "no hint: {output}");
    ensure!(world.postgres.admin("select count(*) from customers")? == "5");
    Ok(())
}

fn held_delete(world: &World, story: &mut Story) -> Result<()> {
    story.step("DELETE waits for a person. In a second shell, outside the bot's cgroup, it is approved; then it runs, once.");
    let count = || world.postgres.admin("select count(*) from orders where id = 17");
    let (shown, program) = bot(world).typed("delete from orders where id = 17")?;
    let waiting = program.start()?;
    let hold = wait_for("the hold", Duration::from_secs(15), || {
        Ok(Trail::when(&world.agent, "billing", |_| true)?.open_hold())
    })?;
    ensure!(count()? == "1", "it ran before anybody approved");
    let listed = world.agent.command(&["approvals"])?.ok()?;
    ensure!(listed.contains(&hold) && listed.contains("delete from orders"), "{listed}");
    let inside = world.command_inside(&["approve", &hold])?;
    ensure!(inside.code.is_some_and(|code| code != 0), "the bot approved its own request: {inside}");
    let approved =
        world.agent.command(&["approve", &hold, "--comment", "duplicate order, ticket 4711"])?.ok()?;
    let output = waiting.finish(Duration::from_secs(20))?;
    ensure!(output.code == Some(0) && output.stdout.contains("DELETE 1"), "{output}");
    ensure!(output.stderr.contains("held for approval"), "the client was not told: {output}");
    ensure!(count()? == "0");
    story.shell(BOT, &shown, &output.stderr);
    story.shell(OPERATOR, "chaperone approvals", &listed);
    story.shell(BOT, &format!("chaperone approve {hold}"), &inside.stderr);
    let command = format!("chaperone approve {hold} --comment 'duplicate order, ticket 4711'");
    story.shell(OPERATOR, &command, &approved);
    story.line("and the bot's psql goes on:");
    story.line(&format!("    {}", output.stdout.trim_end()));
    Ok(())
}

/// Policy of this chapter: a CI job gets in when somebody grants it.
const CI: &str = r#"
@id("ci-connects")
permit(principal == NonHumanIdentity::"idle-bot", action == Action::"connect", resource in Env::"prod");
@id("ci-reads")
permit(principal == NonHumanIdentity::"idle-bot", action in Action::"sql:read", resource in Env::"prod");
@id("ci-sleeps")
permit(principal == NonHumanIdentity::"idle-bot", action == Action::"sql:call", resource == Routine::"shop/shop/pg_catalog.pg_sleep");
@id("ci-asks") @approval("db-oncall") @reason("CI jobs get in when somebody grants it")
forbid(principal == NonHumanIdentity::"idle-bot", action == Action::"connect", resource);
"#;

fn access_for_a_time(world: &mut World, story: &mut Story) -> Result<()> {
    let seconds: u64 = if std::env::var_os("CI").is_some() { 3 } else { 20 };
    story.step(&format!(
        "A CI job asks for access by connecting. It is granted {seconds} s, and cut off in mid-query when they end."
    ));
    world.write_policy(&format!("{POLICY}{CI}"))?;
    world.agent.reload()?;
    let ci_job = || {
        let client = world.client_in(&world.places.idle_bot, "127.0.0.1", "deploy");
        client.typed("select count(*) from orders; select pg_sleep(60)")
    };
    let (shown, _) = ci_job()?;
    let (job, request) = wait_for("the job's request", Duration::from_secs(15), || {
        // Until the reload has been taken up, the job is refused outright.
        let mut job = ci_job()?.1.start()?;
        let request = wait_for("its request or its end", Duration::from_secs(10), || {
            let waits: serde_json::Value =
                serde_json::from_str(&world.agent.command(&["approvals", "--json"])?.ok()?)?;
            let request = waits[0]["id"].as_str().map(|id| Some(id.to_owned()));
            Ok(if request.is_none() && job.exited()? { Some(None) } else { request })
        })?;
        Ok(request.map(|request| (job, request)))
    })?;
    let listed = world.agent.command(&["approvals"])?.ok()?;
    ensure!(listed.contains("asks for   a connection") && listed.contains("psql"), "{listed}");
    let length = format!("{seconds}s");
    let granted = Instant::now();
    let args = ["approve", &request, "--for", &length, "--comment", "release 7", "--ticket", "T-1208"];
    let approved = world.agent.command(&args)?.ok()?;
    let output = job.finish(Duration::from_secs(seconds + 15))?;
    let lasted = granted.elapsed();
    ensure!(output.code != Some(0) && output.stderr.contains("terminated: grant g-"), "{output}");
    ensure!(
        lasted >= Duration::from_secs(seconds) && lasted < Duration::from_millis(seconds * 1000 + 1500),
        "{lasted:?}"
    );
    let gone = || {
        world.postgres.admin("select count(*) from pg_stat_activity where query like '%pg_sleep(60)%' and state = 'active' and pid <> pg_backend_pid()")
    };
    wait_for("the query's end on the server", Duration::from_secs(2), || Ok((gone()? == "0").then_some(())))?;
    world.write_policy(POLICY)?;
    world.agent.reload()?;
    story.shell("ci-job $", &shown, &output.stderr);
    story.shell(OPERATOR, "chaperone approvals", &listed);
    story.shell(OPERATOR, &format!("chaperone {}", args.join(" ")), &approved);
    let late = lasted.saturating_sub(Duration::from_secs(seconds)).as_millis();
    story.line(&format!("cut off {late} ms after its {seconds} s, counted from before the grant; the server has stopped the query"));
    Ok(())
}

fn recorded(world: &World, story: &mut Story) -> Result<()> {
    story.step("The record of that session: who, what, decided by which rule, approved by whom.");
    let trail = Trail::of(&world.agent, "billing")?;
    let replay = world.agent.command(&["replay", &trail.session])?.ok()?;
    ensure!(replay.contains("delete from orders where id = 17"), "{replay}");
    story.shell(OPERATOR, &format!("chaperone replay {}", trail.session), &replay);
    Ok(())
}

fn without_agent(world: &mut World, story: &mut Story) -> Result<()> {
    story
        .step("The agent is killed. The kernel programs stay: the bot is refused, it does not slip through.");
    let pid = world.agent.pid()?;
    world.agent.kill();
    story.shell(OPERATOR, &format!("kill -9 {pid}"), "");
    let output = said(story, &bot(world), "select 1")?;
    ensure!(output.code == Some(2), "{output}");
    let refused = ["Connection refused", "not permitted"].iter().any(|word| output.stderr.contains(word));
    ensure!(refused, "{output}");
    world.start_agent()?;
    story.line("the agent is started again:");
    let rows = said(story, &bot(world), "select count(*) from customers")?.ok()?;
    ensure!(rows.contains('5'), "{rows}");
    Ok(())
}

fn verified(world: &mut World, story: &mut Story) -> Result<()> {
    story.step(
        "The journal is verified. Then one byte of one record is changed in a copy, and the copy is refused.",
    );
    let whole = world.agent.command(&["verify"])?;
    story.shell(OPERATOR, "chaperone verify", &format!("{}{}", whole.stdout, whole.stderr));
    ensure!(whole.code == Some(0), "{whole}");
    world.agent.stop()?;
    let copy = world.agent.copy_journal(&world.scratch)?;
    tamper::newest_segment(&copy, tamper::edit)?.context("no record was changed")?;
    let touched = world.agent.verify_copy(&copy)?;
    story.shell(
        OPERATOR,
        "chaperone verify --dir copy --key journal-key.pub",
        &format!("{}{}", touched.stdout, touched.stderr),
    );
    ensure!(touched.code == Some(1), "a tampered copy passed: {touched}");
    Ok(())
}

/// Runs psql and puts command and answer into the story.
fn said(story: &mut Story, client: &Client<'_>, sql: &str) -> Result<Output> {
    let (shown, program) = client.typed(sql)?;
    let output = program.run()?;
    story.shell(BOT, &shown, &format!("{}{}", output.stdout, output.stderr));
    Ok(output)
}
