//! Asking for access by connecting: the client is told, waits, and goes on once somebody granted it.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::Stage;
use crate::harness::report::Case;
use crate::harness::spawn::{Program, wait_for};
use crate::harness::trail::holds;

pub(super) const CASES: &[Case<Stage>] = &[
    Case {
        name: "a connection that may be asked for says so, waits, and goes on once granted",
        run: granted,
    },
    Case { name: "access that is denied or that nobody grants is refused with the reason", run: refused },
];

/// ssh that shows what it is told before it is logged in, and logs in where access is asked for.
fn asking(stage: &Stage, login: &str) -> Result<Program> {
    let port = stage.sshd.port.to_string();
    let client = stage.client_in(&stage.world.places.idle_bot, "/usr/bin/ssh")?;
    let trusting = ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"];
    Ok(client.args(trusting).args(["-p", &port, "-l", login, "127.0.0.7", "echo in"]))
}

/// The request of a connection that waits.
fn waiting(stage: &Stage) -> Result<Value> {
    wait_for("a request for access", Duration::from_secs(10), || {
        let text = stage.world.agent.command(&["approvals", "--json"])?.ok()?;
        let waits: Vec<Value> = serde_json::from_str(&text).with_context(|| text.clone())?;
        Ok(waits.into_iter().find(|waits| waits["what"] == "access"))
    })
}

fn granted(stage: &mut Stage) -> Result<()> {
    let before = stage.sshd.log().len();
    let client = asking(stage, "asks")?.start()?;
    let request = waiting(stage)?;
    let wanted = json!({"target": "web-meta", "database": "root", "policies": ["idle-asks"]});
    holds(&request, &wanted)?;
    let log = stage.sshd.log();
    ensure!(log.get(before..).is_some_and(str::is_empty), "the target was dialled before the grant: {log}");
    let id = request["id"].as_str().context("no id")?.to_owned();
    stage.world.agent.command(&["approve", &id, "--for", "60s", "--comment", "release 7"])?.ok()?;
    let output = client.finish(Duration::from_secs(20))?;
    ensure!(output.code == Some(0) && output.stdout == "in\n", "{output}");
    ensure!(output.stderr.contains(&format!("chaperone: access asked for, request {id}")), "{output}");
    let trail = stage.trail("asks")?;
    holds(trail.first("access_asked")?, &json!({"hold": id, "claimed_user": "asks"}))?;
    holds(trail.first("hold_resolved")?, &json!({"hold": id, "outcome": "approved"}))?;
    let grant = trail.first("grant_used")?["grant"].as_str().context("no grant")?.to_owned();
    // The grant outlives the session: the next one goes straight in.
    let output = asking(stage, "asks-again")?.run()?;
    ensure!(output.stdout == "in\n" && !output.stderr.contains("asked for"), "{output}");
    stage.world.agent.command(&["revoke", &grant])?.ok().map(drop)
}

fn refused(stage: &mut Stage) -> Result<()> {
    let client = asking(stage, "asks-denied")?.start()?;
    let request = waiting(stage)?;
    let id = request["id"].as_str().context("no id")?.to_owned();
    stage.world.agent.command(&["deny", &id, "--comment", "not today"])?.ok()?;
    let output = client.finish(Duration::from_secs(20))?;
    ensure!(output.code == Some(255) && output.stderr.contains("denied access: not today"), "{output}");
    let output = asking(stage, "asks-late")?.run()?;
    ensure!(output.code == Some(255) && output.stderr.contains("nobody granted access in time"), "{output}");
    let none = stage.world.agent.command(&["approvals", "--json"])?.ok()?;
    ensure!(none.trim() == "[]", "{none}");
    // Nobody can be asked about other accounts.
    let output =
        stage.ssh_in(&stage.world.places.idle_bot, "asks-elsewhere", "127.0.0.1")?.args(["true"]).run()?;
    ensure!(output.code == Some(255) && output.stderr.contains("denied by policy"), "{output}");
    Ok(())
}
