//! What ends a live session: a program runs on the host, and its reason to may be over at any moment.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::json;

use super::Stage;
use crate::harness::report::Case;
use crate::harness::spawn::{Output, Program, Running, wait_for};
use crate::harness::term::Term;
use crate::harness::trail::{Trail, holds};

/// The command and what it takes to give it; the end itself takes less than a second.
const SOON: Duration = Duration::from_millis(1500);

pub(super) const CASES: &[Case<Stage>] = &[
    Case { name: "a grant that ends cuts off a running program, within a second", run: expires },
    Case { name: "a grant that is revoked cuts off a running program, within a second", run: revoked },
    Case { name: "a policy that no longer lets in cuts off a running program", run: policy_closes },
    Case { name: "a session that is killed is told why, within a second", run: killed },
    Case { name: "an identity that changes cuts off a running program", run: identity_changes },
    Case {
        name: "a client that reads nothing any more is cut off as soon, and its program ends",
        run: stalled,
    },
    Case { name: "who does not wait is told the request, and the same passes once after it", run: retries },
];

fn client(stage: &Stage, login: &str) -> Result<Program> {
    let port = stage.sshd.port.to_string();
    let client = stage.client_in(&stage.world.places.idle_bot, "/usr/bin/ssh")?;
    let trusting = ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"];
    Ok(client.args(trusting).args(["-p", &port, "-l", login, "127.0.0.7"]))
}

fn grant(stage: &Stage, time: &str) -> Result<String> {
    let args = ["grant", "idle-bot", "--target", "web-meta", "--for", time, "--reason", "a test", "--json"];
    let text = stage.world.agent.command(&args)?.ok()?;
    let grant: serde_json::Value = serde_json::from_str(&text).with_context(|| text.clone())?;
    grant["id"].as_str().context("no id").map(str::to_owned)
}

fn running(stage: &Stage, login: &str) -> Result<Running> {
    let client = client(stage, login)?.args(["echo begun; sleep 40; echo slept"]).start()?;
    Trail::when(&stage.world.agent, login, |trail| !trail.all("statement").is_empty())?;
    Ok(client)
}

/// Told why, and on record with the reason.
fn cut_off(stage: &Stage, login: &str, output: &Output, why: &str) -> Result<()> {
    ensure!(output.code == Some(255) && !output.stdout.contains("slept"), "{output}");
    ensure!(output.stderr.contains("chaperone: ") && output.stderr.contains(why), "{output}");
    let end = stage.trail(login)?.first("session_end")?.clone();
    ensure!(end["reason"].as_str().is_some_and(|reason| reason.contains(why)), "no `{why}` in {end}");
    Ok(())
}

fn soon(started: Instant) -> Result<()> {
    let took = started.elapsed();
    ensure!(took < SOON, "{took:?} with the command");
    Ok(())
}

fn expires(stage: &mut Stage) -> Result<()> {
    let (id, term) = Term::of(Duration::from_secs(5), || grant(stage, "5s"))?;
    let client = running(stage, "ends-expired")?;
    ensure!(term.goes_on(), "too slow to see it run");
    let output = client.finish(Duration::from_secs(20))?;
    term.ended(Instant::now()).with_context(|| output.to_string())?;
    cut_off(stage, "ends-expired", &output, &format!("grant {id}: expired"))
}

fn revoked(stage: &mut Stage) -> Result<()> {
    let id = grant(stage, "60s")?;
    let client = running(stage, "ends-revoked")?;
    let started = Instant::now();
    stage.world.agent.command(&["revoke", &id, "--reason", "a mistake"])?.ok()?;
    let output = client.finish(Duration::from_secs(20))?;
    soon(started)?;
    cut_off(stage, "ends-revoked", &output, &format!("grant {id}: revoked: a mistake"))
}

fn policy_closes(stage: &mut Stage) -> Result<()> {
    let id = grant(stage, "60s")?;
    let client = running(stage, "ends-policy")?;
    let path = stage.world.agent.policy.join("hosts.cedar");
    let good = fs::read_to_string(&path)?;
    let closed = "\n@id(\"closed\") @reason(\"closed for today\")\nforbid (principal == NonHumanIdentity::\"idle-bot\", action == Action::\"connect\", resource);\n";
    fs::write(&path, format!("{good}{closed}"))?;
    let started = Instant::now();
    stage.world.agent.reload()?;
    let output = client.finish(Duration::from_secs(20));
    let took = soon(started);
    fs::write(&path, good)?;
    stage.world.agent.reload()?;
    stage.world.agent.command(&["revoke", &id])?.ok()?;
    took?;
    cut_off(stage, "ends-policy", &output?, "no longer permitted: closed for today")
}

fn killed(stage: &mut Stage) -> Result<()> {
    let id = grant(stage, "60s")?;
    let client = running(stage, "ends-killed")?;
    let session = Trail::when(&stage.world.agent, "ends-killed", |_| true)?.session;
    let started = Instant::now();
    stage.world.agent.command(&["kill", &session, "--reason", "enough"])?.ok()?;
    let output = client.finish(Duration::from_secs(20))?;
    soon(started)?;
    stage.world.agent.command(&["revoke", &id])?.ok()?;
    cut_off(stage, "ends-killed", &output, "enough")
}

fn identity_changes(stage: &mut Stage) -> Result<()> {
    let id = grant(stage, "60s")?;
    let client = running(stage, "ends-changed")?;
    let config = &stage.world.agent.config;
    let good = fs::read_to_string(config)?;
    let other =
        good.replacen("name = \"idle-bot\"\ngroups = []", "name = \"idle-bot\"\ngroups = [\"ai-agents\"]", 1);
    ensure!(other != good, "the configuration is not what the case thinks:\n{good}");
    fs::write(config, other)?;
    let started = Instant::now();
    stage.world.agent.reload()?;
    let output = client.finish(Duration::from_secs(20));
    let took = soon(started);
    fs::write(config, good)?;
    stage.world.agent.reload()?;
    stage.world.agent.command(&["revoke", &id])?.ok()?;
    took?;
    cut_off(stage, "ends-changed", &output?, "identity idle-bot was changed")
}

/// Nobody can make a session last by not listening.
fn stalled(stage: &mut Stage) -> Result<()> {
    let id = grant(stage, "60s")?;
    // A number that no other program on this machine has among its arguments.
    let bytes = format!("9000000{:07}", std::process::id());
    let runs = || -> Result<bool> {
        for entry in fs::read_dir("/proc")?.flatten() {
            let command = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let words: Vec<&[u8]> = command.split(|byte| *byte == 0).collect();
            if words.first() == Some(&&b"head"[..]) && words.contains(&bytes.as_bytes()) {
                return Ok(true);
            }
        }
        Ok(false)
    };
    let client = client(stage, "ends-stalled")?.args([&format!("head -c {bytes} /dev/zero")]).count_output();
    let client = client.start()?;
    wait_for("the program", Duration::from_secs(10), || Ok(runs()?.then_some(())))?;
    client.signal(Signal::SIGSTOP)?;
    // Until nothing moves any more.
    std::thread::sleep(Duration::from_secs(1));
    stage.world.agent.command(&["revoke", &id, "--reason", "stalled"])?.ok()?;
    let started = Instant::now();
    let gone = wait_for("the program's end", Duration::from_secs(20), || Ok((!runs()?).then_some(())));
    let took = started.elapsed();
    client.signal(Signal::SIGCONT)?;
    client.finish(Duration::from_secs(20))?;
    gone?;
    ensure!(took < SOON, "the program ran on for {took:?}");
    let end = stage.trail("ends-stalled")?.first("session_end")?.clone();
    ensure!(end["reason"] == format!("grant {id}: revoked: stalled"), "{end}");
    Ok(())
}

/// `mail-bot` sends again instead of waiting.
fn retries(stage: &mut Stage) -> Result<()> {
    let made = stage.files("in/retried");
    let bot = &stage.world.places.mail_bot;
    let send = |login: &str, command: &str| stage.ssh_in(bot, login, "127.0.0.1")?.args([command]).run();
    let command = format!("touch {made}");
    let first = send("retries", &command)?;
    let id = Trail::when(&stage.world.agent, "retries", |trail| trail.open_hold().is_some())?;
    let id = id.open_hold().context("no request")?;
    ensure!(
        first.code == Some(126) && first.stderr.contains(&format!("pending approval, request {id}")),
        "{first}"
    );
    let again = send("retries-again", &command)?;
    ensure!(again.stderr.contains(&id), "the same is another request: {again}");
    stage.world.agent.command(&["approve", &id])?.ok()?;
    // A byte more is not what was approved, and neither is somebody else's.
    let other = send("retries-other", &format!("{command} "))?;
    ensure!(other.code == Some(126) && other.stderr.contains("pending approval"), "{other}");
    let bot = stage.ssh("retries-bot", "127.0.0.1")?.args([&command]).start()?;
    super::hold::wait_for_hold(stage, "retries-bot")?;
    drop(bot);
    ensure!(!fs::exists(&made)?, "it ran before it was sent again");
    let passed = send("retries-passed", &command)?;
    ensure!(passed.code == Some(0) && fs::exists(&made)?, "{passed}");
    let trail = stage.trail("retries-passed")?;
    holds(trail.first("hold_resolved")?, &json!({"hold": id, "outcome": "approved"}))?;
    let once = send("retries-once", &command)?;
    ensure!(once.code == Some(126) && once.stderr.contains("pending approval"), "used twice: {once}");
    let waits = stage.world.agent.command(&["approvals", "--json"])?.ok()?;
    for request in serde_json::from_str::<Vec<serde_json::Value>>(&waits)? {
        stage.world.agent.command(&["deny", request["id"].as_str().context("no id")?])?.ok()?;
    }
    Ok(())
}
