//! Holds: the command waits, somebody outside decides, and it runs once or not at all.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::json;

use super::{Stage, TRUSTING};
use crate::harness::report::Case;
use crate::harness::spawn::{Running, wait_for};
use crate::harness::trail::{Trail, holds};

pub(super) const CASES: &[Case<Stage>] = &[
    Case {
        name: "a held command says so, waits, and runs once when approved, with its input",
        run: approved,
    },
    Case { name: "a transfer and a shell wait as commands do", run: transfers_and_shells },
    Case { name: "keys change while a command is held", run: rekeyed },
    Case { name: "a held command that is denied exits 126 and does not run", run: denied },
    Case { name: "a held command nobody decides on is denied after the time limit", run: expired },
    Case { name: "a client that is interrupted takes its held command with it", run: interrupted },
    Case { name: "an agent that dies takes what it held with it", run: restarted },
    Case { name: "other commands of the connection go on while one is held", run: others },
    Case { name: "a session that is killed takes its program on the target with it", run: killed },
];

fn held(stage: &Stage, login: &str, made: &str) -> Result<(Running, String)> {
    let client =
        stage.ssh(login, "127.0.0.1")?.args([&format!("touch {made}; cat")]).stdin("input\n").start()?;
    let id = wait_for_hold(stage, login)?;
    ensure!(!Path::new(made).exists(), "it ran before anybody approved");
    Ok((client, id))
}

pub(super) fn wait_for_hold(stage: &Stage, login: &str) -> Result<String> {
    wait_for("a hold", Duration::from_secs(10), || {
        Ok(Trail::when(&stage.world.agent, login, |_| true)?.open_hold())
    })
    .with_context(|| stage.world.agent.log_tail())
}

fn approved(stage: &mut Stage) -> Result<()> {
    let made = stage.files("in/approved");
    let (client, id) = held(stage, "approved", &made)?;
    let listed = stage.world.agent.command(&["approvals"])?.ok()?;
    ensure!(listed.contains(&format!("touch {made}; cat")), "{listed}");
    stage.world.agent.command(&["approve", &id, "--comment", "ticket 7"])?.ok()?;
    let output = client.finish(Duration::from_secs(20))?;
    ensure!(output.code == Some(0) && output.stdout == "input\n", "{output}");
    ensure!(output.stderr.contains(&format!("held for approval, request {id}")), "{output}");
    ensure!(Path::new(&made).exists(), "it did not run");
    let trail = stage.trail("approved")?;
    holds(trail.first("hold_resolved")?, &json!({"hold": id, "outcome": "approved", "comment": "ticket 7"}))?;
    ensure!(trail.all("streams").len() == 1, "it ran more than once");
    ensure!(stage.world.agent.command(&["approve", &id])?.code == Some(1), "an approval was used twice");
    Ok(())
}

fn transfers_and_shells(stage: &mut Stage) -> Result<()> {
    let there = stage.files("in/held-files");
    let port = stage.sshd.port.to_string();
    let sftp =
        stage.client("/usr/bin/sftp")?.args(TRUSTING).args(["-P", &port, "-b", "-", "held-files@127.0.0.1"]);
    let sftp = sftp.stdin(format!("mkdir {there}\n")).start()?;
    let shell = stage.ssh("held-shell", "127.0.0.1")?;
    let shell = shell.stdin("echo in-shell; exit 3\n").start()?;
    for (login, client, code, shown) in [("held-files", sftp, 0, ""), ("held-shell", shell, 3, "in-shell\n")]
    {
        let id = wait_for_hold(stage, login)?;
        ensure!(!Path::new(&there).exists() || login == "held-shell", "it began before anybody approved");
        stage.world.agent.command(&["approve", &id])?.ok()?;
        let output = client.finish(Duration::from_secs(20))?;
        ensure!(output.code == Some(code) && output.stdout.ends_with(shown), "{login}: {output}");
        ensure!(output.stderr.contains(&format!("held for approval, request {id}")), "{login}: {output}");
    }
    ensure!(Path::new(&there).is_dir(), "nothing was transferred");
    Ok(())
}

fn rekeyed(stage: &mut Stage) -> Result<()> {
    let (made, log) = (stage.files("in/rekeyed"), stage.home("rekeyed.log"));
    let client = stage
        .client("/usr/bin/ssh")?
        .args(["-E".as_ref(), log.as_os_str()])
        .args(["-o", "LogLevel=DEBUG1", "-o", "RekeyLimit=default 1s", "-o", "ServerAliveInterval=1"])
        .args(TRUSTING)
        .args(["-p", &stage.sshd.port.to_string(), "-l", "rekeyed", "127.0.0.1"])
        .args([&format!("touch {made}; cat")])
        .stdin("input\n")
        .start()?;
    let id = wait_for_hold(stage, "rekeyed")?;
    wait_for("new keys", Duration::from_secs(10), || {
        let told = std::fs::read_to_string(&log)?.matches("SSH2_MSG_NEWKEYS received").count();
        Ok((told > 1).then_some(()))
    })?;
    stage.world.agent.command(&["approve", &id])?.ok()?;
    let output = client.finish(Duration::from_secs(20))?;
    ensure!(output.code == Some(0) && output.stdout == "input\n", "{output}");
    Ok(())
}

fn denied(stage: &mut Stage) -> Result<()> {
    let made = stage.files("in/denied");
    let (client, id) = held(stage, "hold-denied", &made)?;
    stage.world.agent.command(&["deny", &id, "--comment", "not today"])?.ok()?;
    let output = client.finish(Duration::from_secs(20))?;
    ensure!(output.code == Some(126) && output.stderr.contains("not today"), "{output}");
    ensure!(!Path::new(&made).exists(), "a denied command ran");
    holds(stage.trail("hold-denied")?.first("hold_resolved")?, &json!({"hold": id, "outcome": "denied"}))
}

fn expired(stage: &mut Stage) -> Result<()> {
    let made = stage.files("in/expired");
    let (client, id) = held(stage, "hold-expired", &made)?;
    let output = client.finish(Duration::from_secs(20))?;
    ensure!(output.code == Some(126) && output.stderr.contains("nobody approved"), "{output}");
    ensure!(output.seconds >= 3.5, "it waited {:.1} s only", output.seconds);
    ensure!(stage.world.agent.command(&["approve", &id])?.code == Some(1), "a late approval was taken");
    ensure!(!Path::new(&made).exists(), "an expired command ran");
    Ok(())
}

fn interrupted(stage: &mut Stage) -> Result<()> {
    let made = stage.files("in/interrupted");
    let (client, id) = held(stage, "hold-interrupted", &made)?;
    client.signal(Signal::SIGINT)?;
    client.finish(Duration::from_secs(10))?;
    let trail = stage.trail("hold-interrupted")?;
    holds(trail.first("hold_resolved")?, &json!({"hold": id, "outcome": "withdrawn"}))?;
    ensure!(stage.world.agent.command(&["approve", &id])?.code == Some(1), "a withdrawn hold was approved");
    ensure!(!Path::new(&made).exists(), "a withdrawn command ran");
    Ok(())
}

fn restarted(stage: &mut Stage) -> Result<()> {
    let made = stage.files("in/restarted");
    let (client, id) = held(stage, "hold-restarted", &made)?;
    stage.world.agent.kill();
    let output = client.finish(Duration::from_secs(20))?;
    ensure!(output.code == Some(255), "{output}");
    stage.world.start_agent()?;
    ensure!(stage.world.agent.command(&["approve", &id])?.code == Some(1), "a hold outlived its agent");
    ensure!(!Path::new(&made).exists(), "it ran");
    let log = stage.sshd.log();
    ensure!(!log.contains("in/restarted"), "the target heard of it: {log}");
    Ok(())
}

fn killed(stage: &mut Stage) -> Result<()> {
    let made = stage.files("in/killed");
    std::fs::write(&made, "")?;
    std::fs::set_permissions(&made, std::fs::Permissions::from_mode(0o666))?;
    // An account that is asked for by name, and not root's, whose programs sshd sends no signals to. sleep would
    // outlive its connection by itself.
    let client = stage
        .ssh_in(&stage.world.places.mail_bot, "postgres", "127.0.0.1")?
        .args([&format!("id -un > {made}; echo $$ >> {made}; sleep 300")])
        .start()?;
    let text = wait_for("the program", Duration::from_secs(10), || {
        Ok(std::fs::read_to_string(&made).ok().filter(|text| text.matches('\n').count() == 2))
    })?;
    let pid = text.strip_prefix("postgres\n").context("it runs as somebody else")?.trim();
    let proc = format!("/proc/{pid}");
    ensure!(Path::new(&proc).exists());
    let started = |trail: &Trail| trail.first("session_start").is_ok();
    let session = Trail::when(&stage.world.agent, "postgres", started)?.session;
    stage.world.agent.command(&["kill", &session, "--reason", "enough"])?.ok()?;
    let output = client.finish(Duration::from_secs(20))?;
    ensure!(output.code == Some(255), "{output}");
    let ended = || Ok((!Path::new(&proc).exists()).then_some(()));
    wait_for("the end of the program", Duration::from_secs(10), ended)
}

fn others(stage: &mut Stage) -> Result<()> {
    let made = stage.files("in/others");
    let path = stage.home("others.control");
    let line = format!(
        "ssh {} -p {} -l hold-others -S {} 127.0.0.1",
        super::TRUSTING.join(" "),
        stage.sshd.port,
        path.display()
    );
    let script = format!(
        "{line} -M -N -f; {line} touch {made} & sleep 1; {line} echo alive; kill $!; wait; {line} -O exit"
    );
    let output = stage.client("/bin/sh")?.args(["-c", &script]).run()?;
    ensure!(output.stdout == "alive\n", "{output}");
    let trail = stage.trail("hold-others")?;
    holds(trail.first("hold_resolved")?, &json!({"outcome": "withdrawn"}))?;
    ensure!(!Path::new(&made).exists(), "a withdrawn command ran");
    Ok(())
}
