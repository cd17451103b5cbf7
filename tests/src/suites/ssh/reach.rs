//! Getting there: who is let in, whose key is used, whose host key is believed.

use anyhow::{Result, ensure};
use serde_json::json;

use super::Stage;
use crate::harness::report::Case;
use crate::harness::trail::holds;

pub(super) const CASES: &[Case<Stage>] = &[
    Case { name: "a command runs without a key, and its exit status and streams are its own", run: plain },
    Case { name: "the session, the command and its streams are on record", run: recorded },
    Case { name: "a target is logged in to with a certificate that names the identity", run: certificate },
    Case { name: "an RSA host key is verified", run: rsa },
    Case { name: "a target that shows another host key is refused", run: changed },
    Case { name: "a target is believed by a certificate of its authority, for its name only", run: vouched },
    Case { name: "a login the target does not take is a clear error", run: stranger },
    Case { name: "an unknown cgroup is refused before any host key is seen", run: unknown },
    Case { name: "an identity without permission is refused before any host key is seen", run: idle },
    Case { name: "a client outside the governed cgroup is untouched", run: outside },
];

fn plain(stage: &mut Stage) -> Result<()> {
    let output = stage.command("plain", "echo out; echo err 1>&2; cat; false")?;
    ensure!(output.code == Some(1), "{output}");
    ensure!(output.stdout == "out\n" && output.stderr == "err\n", "{output}");
    let output = stage.ssh("plain-stdin", "127.0.0.1")?.args(["cat"]).stdin("through\n").run()?;
    ensure!(output.code == Some(0) && output.stdout == "through\n", "{output}");
    Ok(())
}

fn recorded(stage: &mut Stage) -> Result<()> {
    stage.ssh("recorded", "127.0.0.1")?.args(["cat"]).stdin("abc").run()?.ok()?;
    let trail = stage.trail("recorded")?;
    holds(
        trail.first("session_start")?,
        &json!({"protocol": "ssh", "target": "web1", "claimed_user": "recorded", "upstream_user": "root",
                "database": "root"}),
    )?;
    let identity = &trail.first("session_start")?["identity"]["name"];
    ensure!(identity == "billing-bot", "{identity}");
    holds(trail.statement("cat")?, &json!({"verdict": "permit", "step": "exec", "policies": ["bots-run"]}))?;
    holds(trail.result("cat")?, &json!({"tag": "exit 0", "bytes": 3}))?;
    // sha256 of "abc" (FIPS 180-2, appendix B.1).
    let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    holds(
        trail.first("streams")?,
        &json!({"stdin_bytes": 3, "stdin_sha256": abc, "stdout_bytes": 3, "stdout_sha256": abc, "stderr_bytes": 0}),
    )
}

fn certificate(stage: &mut Stage) -> Result<()> {
    let output = stage.ssh("certified", "127.0.0.2")?.args(["id", "-un"]).run()?.ok()?;
    ensure!(output == "root\n", "{output}");
    let log = stage.sshd.log();
    ensure!(
        log.contains("ID \"chaperone identity=billing-bot session=")
            || log.contains("ID chaperone identity=billing-bot session="),
        "the target's log does not say who it was: {log}"
    );
    Ok(())
}

fn rsa(stage: &mut Stage) -> Result<()> {
    let output = stage.ssh("rsa", "127.0.0.5")?.args(["echo", "rsa"]).run()?.ok()?;
    ensure!(output == "rsa\n", "{output}");
    Ok(())
}

fn changed(stage: &mut Stage) -> Result<()> {
    let error = stage.ssh("changed", "127.0.0.3")?.args(["true"]).run()?.refused()?;
    ensure!(error.contains("host key SHA256:") || error.contains("no host key algorithm"), "{error}");
    Ok(())
}

fn vouched(stage: &mut Stage) -> Result<()> {
    let output = stage.ssh("vouched", "127.0.0.10")?.args(["echo", "vouched"]).run()?.ok()?;
    ensure!(output == "vouched\n", "{output}");
    let trail = stage.trail("vouched")?;
    let application = &trail.first("session_start")?["application"];
    ensure!(application.as_str().is_some_and(|text| text.contains("by authority SHA256:")), "{application}");
    for (login, host, why) in [
        ("misnamed", "127.0.0.11", "is for \"web-vouched.internal"),
        ("unvouched", "127.0.0.12", "which is not one of the target's host_cas"),
    ] {
        let error = stage.ssh(login, host)?.args(["true"]).run()?.refused()?;
        ensure!(error.contains(why), "{error}");
    }
    Ok(())
}

fn stranger(stage: &mut Stage) -> Result<()> {
    let error = stage.ssh("stranger", "127.0.0.4")?.args(["true"]).run()?.refused()?;
    ensure!(error.contains("does not accept the login"), "{error}");
    Ok(())
}

fn unknown(stage: &mut Stage) -> Result<()> {
    let output = stage.ssh_in(&stage.world.places.unknown, "unknown", "127.0.0.1")?.args(["true"]).run()?;
    ensure!(output.code == Some(255) && output.stderr.contains("chaperone:"), "{output}");
    ensure!(!output.stderr.contains("host key"), "{output}");
    Ok(())
}

fn idle(stage: &mut Stage) -> Result<()> {
    let output = stage.ssh_in(&stage.world.places.idle_bot, "idle", "127.0.0.1")?.args(["true"]).run()?;
    ensure!(output.code == Some(255) && output.stderr.contains("denied by policy"), "{output}");
    Ok(())
}

fn outside(stage: &mut Stage) -> Result<()> {
    let output = stage.ssh_in(&stage.world.places.outside, "outside", "127.0.0.1")?.args(["true"]).run()?;
    ensure!(output.code == Some(255) && output.stderr.contains("Permission denied (publickey)"), "{output}");
    Ok(())
}
