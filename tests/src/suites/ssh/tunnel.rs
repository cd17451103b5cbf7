//! Tunnels to other targets: they end at the agent, and each is a session of its own.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::hold::wait_for_hold;
use super::streams::noise;
use super::{Stage, TRUSTING};
use crate::harness::postgres::free_port;
use crate::harness::report::Case;
use crate::harness::spawn::{Output, wait_for};
use crate::harness::trail::holds;

pub(super) const CASES: &[Case<Stage>] = &[
    Case { name: "a jump host leads to other targets, which decide and mask as ever", run: jump },
    Case { name: "a tunnel to PostgreSQL is a session with PostgreSQL", run: postgres },
    Case { name: "policy forbids tunnels, and has people asked about them", run: decided },
    Case { name: "16 MiB through a jump host arrive unchanged", run: bulk },
    Case {
        name: "tunnels fill the sessions there may be: the next is refused, the others go on",
        run: filled,
    },
    Case { name: "a session that is killed takes its tunnels with it", run: killed },
];

impl Stage {
    fn jump(&self, outer: &str) -> String {
        let (options, port) = (TRUSTING.join(" "), self.sshd.port);
        format!("ProxyCommand=ssh {options} -p {port} -l {outer} -W [%h]:%p 127.0.0.1")
    }

    fn through(&self, outer: &str, login: &str, host: &str, command: &str) -> Result<Output> {
        self.ssh(login, host)?.args(["-o", &self.jump(outer), command]).run()
    }
}

fn jump(stage: &mut Stage) -> Result<()> {
    let before = stage.sshd.log().len();
    let output = stage.through("jump", "jumped", "127.0.0.6", "echo AKIA0123456789ABCDEF")?;
    ensure!(output.code == Some(0) && output.stdout == format!("{}\n", "*".repeat(20)), "{output}");
    let inner = stage.trail("jumped")?;
    holds(inner.first("session_start")?, &json!({"target": "web-masked", "protocol": "ssh"}))?;
    let outer = stage.trail("jump")?;
    let to = format!("direct-tcpip to 127.0.0.6:{}", stage.sshd.port);
    let reason = format!("ends at target web-masked, session {}", inner.session);
    holds(outer.statement(&to)?, &json!({"verdict": "permit", "step": "feature", "reason": reason}))?;
    let log = stage.sshd.log();
    ensure!(
        !log.get(before..).unwrap_or_default().contains("direct-tcpip"),
        "the jump host was asked: {log}"
    );
    let output = stage.through("jump-denied", "jumped-denied", "127.0.0.6", "rm x")?;
    ensure!(output.code == Some(126) && output.stderr.contains("chaperone: denied"), "{output}");
    // What is no target is reached by no tunnel.
    let output = stage.through("jump-out", "jumped-out", "127.0.0.9", "true")?;
    ensure!(output.code == Some(255) && output.stderr.contains("stdio forwarding failed"), "{output}");
    let to = format!("direct-tcpip to 127.0.0.9:{}", stage.sshd.port);
    holds(stage.trail("jump-out")?.statement(&to)?, &json!({"verdict": "deny"}))?;
    // Names of targets lead there as well.
    let output = stage.through("jump-name", "jumped-name", "web-meta.internal", "id -un")?;
    ensure!(output.stdout == "root\n", "{output}");
    Ok(())
}

fn decided(stage: &mut Stage) -> Result<()> {
    let port = stage.sshd.port;
    let output = stage.through("jump-forbidden", "jumped-forbidden", "127.0.0.3", "true")?;
    ensure!(output.code == Some(255), "{output}");
    let to = format!("direct-tcpip to 127.0.0.3:{port}");
    let forbidden = json!({"verdict": "deny", "policies": ["no-way-to-the-changed-one"]});
    holds(stage.trail("jump-forbidden")?.statement(&to)?, &forbidden)?;
    let client = stage.client("/usr/bin/ssh")?.args(TRUSTING).args([
        "-p",
        &port.to_string(),
        "-l",
        "jump-plain",
        "-W",
        &format!("127.0.0.3:{port}"),
        "127.0.0.1",
    ]);
    let output = client.run()?;
    ensure!(output.code == Some(255) && output.stderr.contains("stdio forwarding failed"), "{output}");
    // No rule lets this one tunnel, although it may log in at both ends.
    let output = stage.through("jump-nobody", "jumped-nobody", "127.0.0.6", "id")?;
    ensure!(output.code == Some(255), "{output}");
    let to = format!("direct-tcpip to 127.0.0.6:{port}");
    holds(stage.trail("jump-nobody")?.statement(&to)?, &json!({"verdict": "deny", "policies": []}))?;
    for (round, answer) in ["approve", "deny"].into_iter().enumerate() {
        let (outer, inner) = (format!("jump-held-{round}"), format!("jumped-held-{round}"));
        let jump = stage.jump(&outer);
        let client = stage.ssh(&inner, "127.0.0.6")?.args(["-o", &jump, "echo through"]).start()?;
        let id = wait_for_hold(stage, &outer)?;
        stage.world.agent.command(&[answer, &id])?.ok()?;
        let output = client.finish(Duration::from_secs(20))?;
        let trail = stage.trail(&outer)?;
        if answer == "approve" {
            ensure!(output.code == Some(0) && output.stdout == "through\n", "{output}");
            let reason = format!("ends at target web-masked, session {}", stage.trail(&inner)?.session);
            let ends = |event: &&serde_json::Value| event["verdict"] == "permit" && event["reason"] == reason;
            ensure!(trail.all("statement").iter().any(ends), "{:?}", trail.all("statement"));
        } else {
            ensure!(output.code == Some(255) && output.stdout.is_empty(), "{output}");
            ensure!(trail.all("statement").iter().all(|event| event["verdict"] == "hold"));
        }
    }
    Ok(())
}

fn postgres(stage: &mut Stage) -> Result<()> {
    let port = free_port()?;
    let forward = format!("{port}:127.0.0.1:{}", stage.world.postgres.port);
    let master = stage.ssh("tunnel-pg", "127.0.0.1")?.args(["-N", "-L", &forward]).start()?;
    wait_for("the forwarded port", Duration::from_secs(10), || {
        Ok(fs::read_to_string("/proc/net/tcp")?
            .contains(&format!("0100007F:{port:04X} 00000000"))
            .then_some(()))
    })?;
    let port = port.to_string();
    let psql = |sql: &str| {
        let client = stage.client("/usr/bin/psql")?;
        client
            .args(["-X", "-At", "-h", "127.0.0.1", "-p", &port, "-U", "tunnelled", "-d", "shop", "-c", sql])
            .run()
    };
    let output = psql("select 6*7, email from customers limit 1")?;
    ensure!(output.stdout == "42|***\n", "{output}");
    let output = psql("drop table customers")?;
    ensure!(output.stderr.contains("denied by policy"), "{output}");
    drop(master);
    holds(stage.world.trail("tunnelled")?.first("session_start")?, &json!({"protocol": "postgres"}))
}

fn bulk(stage: &mut Stage) -> Result<()> {
    let file = stage.world.scratch.path().join("noise-16");
    noise(&file, 16)?;
    let there = stage.files("in/bulk");
    let port = stage.sshd.port.to_string();
    let scp = |outer: &str, from: &str, to: &str| {
        let client = stage.client("/usr/bin/scp")?.args(TRUSTING);
        client.args(["-P", &port, "-o", &stage.jump(outer), from, to]).limit(90).run()?.ok()
    };
    let from = file.to_str().context("a path")?;
    scp("bulk-up", from, &format!("bulk@127.0.0.7:{there}"))?;
    ensure!(fs::read(&file)? == fs::read(&there)?, "the copy differs");
    let back = stage.home("bulk");
    scp("bulk-down", &format!("bulk@127.0.0.7:{there}"), back.to_str().context("a path")?)?;
    ensure!(fs::read(&file)? == fs::read(&back)?, "the copy differs");
    Ok(())
}

fn filled(stage: &mut Stage) -> Result<()> {
    const SESSIONS: usize = 5;
    let before = stage.world.wishes.more.clone();
    stage.world.wishes.more = format!("{before}\n[limits]\nsessions = {SESSIONS}\n");
    stage.world.write_config()?;
    stage.world.agent.stop()?;
    stage.world.start_agent()?;
    let outcome = fill(stage, SESSIONS);
    stage.world.wishes.more = before;
    stage.world.write_config()?;
    stage.world.agent.stop()?;
    stage.world.start_agent()?;
    outcome
}

fn fill(stage: &Stage, sessions: usize) -> Result<()> {
    let port = free_port()?;
    let forward = format!("{port}:127.0.0.6:{}", stage.sshd.port);
    let master = stage.ssh("tunnel-full", "127.0.0.1")?.args(["-N", "-L", &forward]).start()?;
    wait_for("the forwarded port", Duration::from_secs(10), || {
        Ok(fs::read_to_string("/proc/net/tcp")?
            .contains(&format!("0100007F:{port:04X} 00000000"))
            .then_some(()))
    })?;
    // A tunnel that lives says its version; what is refused is closed.
    let tunnel = || -> Result<Option<TcpStream>> {
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        let mut words = Vec::new();
        (&mut stream).take(8).read_to_end(&mut words)?;
        Ok((words == b"SSH-2.0-").then_some(stream))
    };
    let mut open = Vec::new();
    for at in 1..sessions {
        open.push(tunnel()?.with_context(|| format!("tunnel {at} was refused"))?);
    }
    ensure!(tunnel()?.is_none(), "there are more sessions than there may be");
    for stream in &mut open {
        stream.write_all(b"SSH-2.0-test\r\n")?;
        let mut more = [0; 100];
        stream.read_exact(&mut more).context("one that was there before does not go on")?;
    }
    drop(open.pop());
    wait_for("a place that is free again", Duration::from_secs(10), || Ok(tunnel()?.map(drop)))?;
    drop(open);
    let to = format!("direct-tcpip to 127.0.0.6:{}", stage.sshd.port);
    let why = format!(
        "no tunnel to 127.0.0.6:{}: there are as many sessions as there may be at once",
        stage.sshd.port
    );
    let told = |trail: &crate::harness::trail::Trail| {
        trail.all("statement").iter().any(|event| event["sql"] == to && event["reason"] == why)
    };
    crate::harness::trail::Trail::when(&stage.world.agent, "tunnel-full", told)?;
    drop(master);
    Ok(())
}

fn killed(stage: &mut Stage) -> Result<()> {
    let jump = stage.jump("jump-killed");
    let client = stage.ssh("jumped-killed", "127.0.0.7")?.args(["-o", &jump, "sleep 60"]).start()?;
    let session = |login: &str, wanted: &str| {
        let enough = |trail: &crate::harness::trail::Trail| trail.first(wanted).is_ok();
        crate::harness::trail::Trail::when(&stage.world.agent, login, enough)
    };
    session("jumped-killed", "statement")?;
    let outer = session("jump-killed", "session_start")?.session;
    stage.world.agent.command(&["kill", &outer, "--reason", "enough"])?.ok()?;
    let output = client.finish(Duration::from_secs(20))?;
    ensure!(output.code == Some(255), "{output}");
    session("jumped-killed", "session_end").map(drop)
}
