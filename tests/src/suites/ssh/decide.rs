//! What may run: every evasion of a command list, and every way out that is not a command.

use anyhow::{Result, ensure};
use serde_json::json;

use super::Stage;
use crate::harness::report::Case;
use crate::harness::trail::holds;

pub(super) const CASES: &[Case<Stage>] = &[
    Case { name: "a denied command exits 126 with the reason, and never reaches the target", run: denied },
    Case { name: "no spelling of a command gets it past the list", run: evasions },
    Case { name: "a shell and a terminal are denied, and permitted by rule", run: shells },
    Case { name: "every kind of forwarding is denied, but to other targets", run: forwards },
    Case { name: "channels and requests of every other kind are denied, each on record", run: kinds },
    Case { name: "variables pass by a list, or by rule, and some never", run: variables },
    Case { name: "the connection lives on after a denial", run: lives_on },
];

fn denied(stage: &mut Stage) -> Result<()> {
    let output = stage.command("denied", "rm -rf /nonexistent/x")?;
    ensure!(output.code == Some(126) && output.stdout.is_empty(), "{output}");
    ensure!(
        output.stderr.contains("chaperone: denied by policy") && output.stderr.contains("ssh:exec"),
        "{output}"
    );
    let trail = stage.trail("denied")?;
    holds(trail.statement("rm -rf /nonexistent/x")?, &json!({"verdict": "deny", "step": "exec"}))?;
    ensure!(trail.all("streams").is_empty(), "something ran");
    let log = stage.sshd.log();
    ensure!(!log.contains("nonexistent"), "{log}");
    Ok(())
}

fn evasions(stage: &mut Stage) -> Result<()> {
    let made = stage.files("in/evaded");
    for command in [
        "r\\m -rf X",
        "'rm' X",
        "\"r\"m X",
        "echo a; rm X",
        "echo a && rm X",
        "true || rm X",
        "echo a | rm X",
        "echo a\nrm X",
        "echo a & rm X",
        "bash -c 'rm X'",
        "sh -c \"sh -c 'rm X'\"",
        "echo $(rm X)",
        "echo `rm X`",
        "echo a > X",
        "echo a >> X",
        "cat < X",
        "echo cm0gWA== | base64 -d | sh",
        "find / -maxdepth 0 -exec rm X ;",
        "xargs rm X",
        "env rm X",
        "sudo rm X",
        "python3 -c pass",
        "$SHELL -c 'rm X'",
        "PATH=/tmp ls",
        "eval rm X",
        "/bin/ls X",
        "./ls",
        "(ls)",
        "{ ls; }",
        "if true; then ls; fi",
        "ls *",
        "ls ~",
        "echo {a,b}",
        "scp -t X",
        "echo \u{4e03}\\; rm X",
        "echo \u{4e03}|rm X",
        "rsync --server --daemon .",
        "",
    ] {
        let command = command.replace('X', &made);
        let output = stage.command("evasions", &command)?;
        // ssh takes an empty command for a shell.
        ensure!(output.code == Some(126), "{command:?}: {output}");
        ensure!(output.stderr.contains("chaperone: denied"), "{command:?}: {output}");
        ensure!(!std::path::Path::new(&made).exists(), "{command:?} made a file");
    }
    Ok(())
}

fn shells(stage: &mut Stage) -> Result<()> {
    let output = stage.ssh("shell", "127.0.0.1")?.stdin("id\n").run()?;
    ensure!(output.code == Some(126) && output.stdout.is_empty(), "{output}");
    let output = stage.ssh("terminal", "127.0.0.1")?.args(["-tt", "id"]).run()?;
    ensure!(output.stderr.contains("PTY allocation request failed") || output.code == Some(255), "{output}");
    let mail_bot = &stage.world.places.mail_bot;
    let output = stage.ssh_in(mail_bot, "shell-ok", "127.0.0.1")?.stdin("echo in-shell; exit 3\n").run()?;
    ensure!(output.code == Some(3) && output.stdout.contains("in-shell"), "{output}");
    let output = stage
        .ssh_in(mail_bot, "terminal-ok", "127.0.0.1")?
        .args(["-tt", "echo $((6*7)); test -t 0"])
        .run()?;
    ensure!(output.code == Some(0) && output.stdout.contains("42"), "{output}");
    // A certificate allows a terminal only when policy does.
    let output = stage.ssh_in(mail_bot, "terminal-ca", "127.0.0.2")?.args(["-tt", "echo $((6*7))"]).run()?;
    ensure!(output.code == Some(0) && output.stdout.contains("42"), "{output}");
    Ok(())
}

fn forwards(stage: &mut Stage) -> Result<()> {
    let port = stage.sshd.port.to_string();
    let output = stage.ssh("forward-w", "127.0.0.1")?.args(["-W", &format!("127.0.0.9:{port}")]).run()?;
    ensure!(output.code == Some(255) && output.stderr.contains("stdio forwarding failed"), "{output}");
    holds(
        stage.trail("forward-w")?.statement(&format!("direct-tcpip to 127.0.0.9:{port}"))?,
        &json!({"verdict": "deny", "step": "feature"}),
    )?;
    let output = stage
        .client("/usr/bin/ssh")?
        .args(super::TRUSTING)
        .args([
            "-p",
            &port,
            "-o",
            "ExitOnForwardFailure=yes",
            "-l",
            "forward-r",
            "-R",
            "0:127.0.0.1:1",
            "127.0.0.1",
            "true",
        ])
        .run()?;
    ensure!(output.code == Some(255), "a listening port was opened: {output}");
    let output = stage
        .client("/usr/bin/ssh")?
        .args(super::TRUSTING)
        .args(["-p", &port, "-l", "jump", "-J", &format!("jump@127.0.0.1:{port}"), "127.0.0.9", "true"])
        .run()?;
    ensure!(output.code == Some(255), "{output}");
    let output = stage
        .client("/usr/bin/ssh")?
        .args(super::TRUSTING)
        .args(["-p", &port, "-l", "tunnel", "-s", "127.0.0.1", "netconf"])
        .run()?;
    ensure!(output.code == Some(126), "{output}");
    Ok(())
}

/// What OpenSSH's server would do if it was asked; its own client asks for some of it with options only.
const KINDS: &str = r#"
import sys, paramiko
from paramiko.message import Message
t = paramiko.Transport((sys.argv[1], int(sys.argv[2])))
t.start_client(timeout=10)
t.auth_none("kinds")
for kind in ["direct-streamlocal@openssh.com", "tun@openssh.com", "auth-agent@openssh.com", "made-up"]:
    try:
        t.open_channel(kind, timeout=10)
        raise SystemExit(kind + " was opened")
    except paramiko.ChannelException as refused:
        assert refused.code == 1, refused
for ask in [("tcpip-forward", ("127.0.0.1", 0)), ("streamlocal-forward@openssh.com", ("/tmp/x",)), ("made-up", ())]:
    assert t.global_request(ask[0], ask[1], wait=True) is None, ask
for ask in ["x11-req", "auth-agent-req@openssh.com", "made-up"]:
    s = t.open_session(timeout=10)
    m = Message()
    m.add_byte(b"\x62"); m.add_int(s.remote_chanid); m.add_string(ask); m.add_boolean(True)
    s._event_pending()
    t._send_user_message(m)
    try:
        s._wait_for_event()
        raise SystemExit(ask + " was taken")
    except paramiko.SSHException:
        pass
print("ok")
"#;

fn kinds(stage: &mut Stage) -> Result<()> {
    let port = stage.sshd.port.to_string();
    let output = stage.client("/usr/bin/python3")?.args(["-c", KINDS, "127.0.0.1", &port]).run()?;
    ensure!(output.stdout == "ok\n", "{output}");
    let trail = stage.trail("kinds")?;
    for text in [
        "tun@openssh.com to elsewhere",
        "auth-agent@openssh.com to elsewhere",
        "made-up to elsewhere",
        "tcpip-forward",
        "streamlocal-forward@openssh.com",
        "made-up",
        "x11-req",
        "auth-agent-req@openssh.com",
    ] {
        holds(trail.statement(text)?, &json!({"verdict": "deny", "step": "feature"}))?;
    }
    ensure!(trail.all("statement").len() == 10, "{:?}", trail.verdicts());
    Ok(())
}

fn variables(stage: &mut Stage) -> Result<()> {
    let output = stage
        .client("/usr/bin/ssh")?
        .env("LC_TEST", "passes")
        .env("LD_PRELOAD_X", "does not")
        .env("RELEASE", "7")
        .env("RELEASE_NOTE", "secret")
        .env("OTHER", "no rule")
        .args(super::TRUSTING)
        .args(["-o", "SendEnv=LC_TEST LD_PRELOAD_X RELEASE RELEASE_NOTE OTHER"])
        .args(["-p", &stage.sshd.port.to_string(), "-l", "variables", "127.0.0.1"])
        .args(["printenv LC_TEST; printenv LD_PRELOAD_X; printenv RELEASE; printenv RELEASE_NOTE; printenv OTHER"])
        .run()?;
    ensure!(output.stdout == "passes\n7\n", "{output}");
    let trail = stage.trail("variables")?;
    holds(trail.statement("env LD_PRELOAD_X")?, &json!({"verdict": "deny", "policies": []}))?;
    let by_rule = json!({"verdict": "permit", "step": "feature", "policies": ["bots-name-the-release"]});
    holds(trail.statement("env RELEASE=7")?, &by_rule)?;
    for denied in ["env RELEASE_NOTE=secret", "env OTHER=no rule"] {
        holds(trail.statement(denied)?, &json!({"verdict": "deny"}))?;
    }
    Ok(())
}

fn lives_on(stage: &mut Stage) -> Result<()> {
    let path = stage.home("lives-on.control");
    let line = format!(
        "ssh {} -p {} -l lives-on -S {} 127.0.0.1",
        super::TRUSTING.join(" "),
        stage.sshd.port,
        path.display()
    );
    let script = format!(
        "{line} -M -N -f && for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15; do {line} rm x; done; {line} echo alive; {line} -O exit"
    );
    let output = stage.client("/bin/sh")?.args(["-c", &script]).run()?;
    ensure!(output.stdout.ends_with("alive\n"), "{output}");
    ensure!(output.stderr.matches("chaperone: denied").count() == 15, "{output}");
    Ok(())
}
