//! What works without a session that waits: requests sent again, announcements, questions to policies.

use std::io::{Read, Write};

use super::*;
use crate::harness::spawn::Program;

/// `mail-bot` sends again instead of waiting.
fn mail_bot<'a>(world: &'a World, user: &str) -> Client<'a> {
    world.client_in(&world.places.mail_bot, "127.0.0.1", user)
}

pub(super) fn retries(world: &mut World) -> Result<()> {
    let delete = "delete from orders where id = 22";
    let first = mail_bot(world, "retries").psql(&[delete])?;
    let id = request(world)?;
    ensure!(
        first.stderr.contains(&format!("42501: pending approval, request {id}")) && first.seconds < 5.0,
        "{first}"
    );
    let again = mail_bot(world, "retries").psql(&[delete])?;
    ensure!(again.stderr.contains(&id) && waiting(world)?.len() == 1, "the same is another request: {again}");
    // Whoever decides sees as much as where somebody waits.
    wait_for("what it would touch", Duration::from_secs(10), || {
        let blast = waiting(world)?[0]["blast"].clone();
        Ok((blast["rows"] == 1 && blast["tables"] == json!(["public.orders"])).then_some(()))
    })?;
    approve(world, &id, "anna", &[])?.ok()?;
    // One byte more is not what was approved, and neither is somebody else's.
    let other = mail_bot(world, "retries-other").psql(&["delete from orders where id = 22 "])?;
    ensure!(other.stderr.contains("pending approval"), "{other}");
    let other_bot = world.client("retries-bot").start_script("delete from orders where id = 22;\n")?;
    wait_for("its own request", Duration::from_secs(5), || Ok((waiting(world)?.len() == 2).then_some(())))?;
    drop(other_bot);
    ensure!(world.postgres.admin("select count(*) from orders where id = 22")? == "1");
    // Sent twice at the same time it passes once.
    let send =
        |user: &'static str| Ok::<_, anyhow::Error>((user, mail_bot(world, user).typed(delete)?.1.start()?));
    let mut passed = Vec::new();
    for (user, client) in [send("retries-passed")?, send("retries-beside")?] {
        let output = finish(client)?;
        match output.stdout.as_str() {
            "DELETE 1\n" => passed.push(user),
            _ => ensure!(output.stderr.contains("pending approval"), "{output}"),
        }
    }
    ensure!(passed.len() == 1, "{passed:?}");
    let trail = world.trail(passed[0])?;
    let sent = trail.all("statement").into_iter().find(|event| event["verdict"] == "permit");
    holds(sent.context("no permit")?, &json!({"hold": id}))?;
    let once = mail_bot(world, "retries-once").psql(&[delete])?;
    ensure!(once.stderr.contains("pending approval"), "an approval was used twice: {once}");
    wait_for("the requests' end", Duration::from_secs(10), || Ok(waiting(world)?.is_empty().then_some(())))
}

/// A date in the text means what DateStyle says, so a yes is for that, too.
pub(super) fn dates(world: &mut World) -> Result<()> {
    let delete = "delete from orders where id = 25 and placed > '01/02/2001'";
    let sent = |user: &str, style: &str| {
        let set = format!("set datestyle = 'ISO, {style}'");
        mail_bot(world, user).psql(&[&set, delete])
    };
    let first = sent("dates", "MDY")?;
    let id = request(world)?;
    ensure!(first.stderr.contains(&format!("pending approval, request {id}")), "{first}");
    let shown = &waiting(world)?[0]["settings"].clone();
    ensure!(shown["DateStyle"] == "ISO, MDY" && shown["TimeZone"].is_string(), "{shown}");
    let listed = world.agent.command(&["approvals"])?.ok()?;
    ensure!(listed.contains("DateStyle ISO, MDY; IntervalStyle "), "{listed}");
    approve(world, &id, "anna", &[])?.ok()?;
    let resolved = |trail: &Trail| trail.first("hold_resolved").is_ok();
    let trail = Trail::when(&world.agent, "dates", resolved)?;
    ensure!(&trail.first("hold_resolved")?["settings"] == shown, "{:?}", trail.first("hold_resolved")?);
    let other = sent("dates-other", "DMY")?;
    ensure!(other.stderr.contains("pending approval") && !other.stderr.contains(&id), "{other}");
    // Nor is it approved as one and made another on the way.
    let inside = format!("set datestyle = 'ISO, DMY'; {delete}");
    let inside = mail_bot(world, "dates-inside").psql(&["set datestyle = 'ISO, MDY'", &inside])?;
    ensure!(inside.stderr.contains("its own text may change them"), "{inside}");
    ensure!(world.postgres.admin("select count(*) from orders where id = 25")? == "1");
    let same = sent("dates-same", "MDY")?;
    ensure!(same.stdout.ends_with("DELETE 1\n"), "{same}");
    world.agent.command(&["deny", &request(world)?])?.ok()?;
    nothing_waits(world)
}

/// Nobody waits for it and nobody answers: its end is recorded all the same, with what it was.
pub(super) fn unanswered(world: &mut World) -> Result<()> {
    let delete = "delete from orders where id = 24";
    mail_bot(world, "unanswered").psql(&[delete])?;
    let id = request(world)?;
    let resolved = |trail: &Trail| trail.first("hold_resolved").is_ok();
    let limit = Duration::from_secs(30);
    wait_for("its end", limit, || Ok(waiting(world)?.is_empty().then_some(())))?;
    let trail = Trail::when(&world.agent, "unanswered", resolved)?;
    holds(trail.first("hold_resolved")?, &json!({"hold": id, "outcome": "expired"}))?;
    let op = trail.statement(delete)?["op"].clone();
    let told = world.agent.command(&["why", &format!("{}/{op}", trail.session)])?.ok()?;
    ensure!(told.contains("held, and approved by nobody in time; it did not run"), "{told}");
    // The agent's end is the end of what it keeps.
    mail_bot(world, "unanswered-end").psql(&[delete])?;
    let id = request(world)?;
    world.agent.stop()?;
    world.start_agent()?;
    let trail = Trail::when(&world.agent, "unanswered-end", resolved)?;
    holds(trail.first("hold_resolved")?, &json!({"hold": id, "outcome": "withdrawn"}))?;
    nothing_waits(world)
}

pub(super) fn retries_access(world: &mut World) -> Result<()> {
    let asking = ASKING.replace("@id(\"idle-asks\")", "@id(\"mail-asks\") @approval(\"db-oncall\")\nforbid(principal == NonHumanIdentity::\"mail-bot\", action == Action::\"connect\", resource);\n@id(\"idle-asks\")");
    world.write_policy(&format!("{POLICY}{asking}"))?;
    world.agent.reload()?;
    let told = wait_for("the policy in force", Duration::from_secs(5), || {
        let output = mail_bot(world, "again").psql(&["select 1"])?;
        Ok((output.code == Some(2)).then_some(output))
    })?;
    let id = request(world)?;
    let approved = approve(world, &id, "anna", &["--for", "20s"]);
    let passed = mail_bot(world, "again-granted").psql(&["select 1"]);
    world.write_policy(&format!("{POLICY}{ASKING}"))?;
    world.agent.reload()?;
    ensure!(told.stderr.contains(&format!("access asked for, request {id}")), "{told}");
    approved?.ok()?;
    ensure!(passed?.stdout == "1\n");
    Ok(())
}

pub(super) fn announced(world: &mut World) -> Result<()> {
    let port = fs::read_to_string(world.scratch.path().join("webhook.port"))?;
    let listener = std::net::TcpListener::bind(format!("127.0.0.1:{port}"))?;
    let client = world.client("announced").start_script("delete from orders where id = 23;\n")?;
    let id = request(world)?;
    let told = announcement(&listener, |text| text.contains(&id))?;
    world.agent.command(&["deny", &id])?.ok()?;
    finish(client)?;
    let (head, body) = told.split_once("\r\n\r\n").context("no body")?;
    ensure!(head.starts_with("POST /told HTTP/1.1") && !body.contains("delete from"), "{told}");
    holds(
        &serde_json::from_str(body)?,
        &json!({"what": "statement", "identity": "billing-bot", "target": "shop"}),
    )?;
    let header = |name: &str| head.lines().find_map(|line| line.strip_prefix(name)).map(str::to_owned);
    let timestamp = header("x-chaperone-timestamp: ").context("no timestamp")?;
    let signature = header("x-chaperone-signature: v1=").context("no signature")?;
    let program = Program::new("/usr/bin/openssl").args(["dgst", "-sha256", "-hmac", "0123456789abcdef0123"]);
    let made = program.stdin(format!("{timestamp}.{body}")).run()?.ok()?;
    ensure!(made.trim_end().ends_with(&signature), "{made} is not {signature}");
    Ok(())
}

/// Takes announcements until the one that is meant: what other cases held is still being announced.
pub(super) fn announcement(listener: &std::net::TcpListener, meant: impl Fn(&str) -> bool) -> Result<String> {
    listener.set_nonblocking(true)?;
    wait_for("the announcement", Duration::from_secs(8), || {
        let Ok((mut stream, _)) = listener.accept() else { return Ok(None) };
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(Duration::from_millis(300)))?;
        let mut bytes = Vec::new();
        // Until it waits for the answer.
        let _ = stream.read_to_end(&mut bytes);
        stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n")?;
        let text = String::from_utf8_lossy(&bytes).into_owned();
        Ok(meant(&text).then_some(text))
    })
}

pub(super) fn asked_offline(world: &mut World) -> Result<()> {
    let file = world.scratch.path().join("tests.toml");
    fs::write(&file, include_str!("../../harness/shop-tests.toml"))?;
    let file = file.display().to_string();
    let output = world.agent.command(&["policy", "test", &file])?.ok()?;
    ensure!(output.ends_with("6 passed, 0 failed\n"), "{output}");
    let wrong = include_str!("../../harness/shop-tests.toml").replace("\"hold\"", "\"permit\"");
    fs::write(&file, wrong)?;
    let output = world.agent.command(&["policy", "test", &file])?;
    ensure!(output.code == Some(1), "{output}");
    ensure!(
        output.stdout.contains("FAILED  deletes wait: expected permit by deletes-are-approved, got hold"),
        "{output}"
    );
    fs::write(&file, "[[test]]\nname = 'x'\nexpct = 'deny'\n")?;
    ensure!(world.agent.command(&["policy", "test", &file])?.code == Some(2), "an unknown key was taken");
    let args =
        ["--identity", "billing-bot", "--target", "shop", "--database", "shop", "--table", "public.orders"];
    let explain = [&["policy", "explain", "--action", "sql:delete"], &args[..]].concat();
    let output = world.agent.command(&explain)?.ok()?;
    for part in ["decision   hold", "by         deletes-are-approved", "needs      1 of db-oncall"] {
        ensure!(output.contains(part), "`{part}` is not in {output}");
    }
    let typo = [&["policy", "explain", "--action", "sql:delte"], &args[..]].concat();
    let output = world.agent.command(&typo)?;
    ensure!(output.code == Some(2) && output.stderr.contains("sql:delete"), "{output}");
    Ok(())
}
