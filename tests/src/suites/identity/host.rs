//! Hosts: what the identity provider takes away ends there, too.

use super::*;
use crate::harness::spawn::Program;

pub(super) fn target(sshd: &Sshd) -> Result<String> {
    Ok(format!(
        "\n[[targets]]\nname = \"web\"\nprotocol = \"ssh\"\naddresses = [\"127.0.0.7\"]\nport = {}\nenv = \"prod\"\nuser = \"root\"\n\
         [targets.ssh]\nkey_file = {:?}\nhost_keys = [{:?}]\n",
        sshd.port,
        sshd.file("login"),
        sshd.public("host_ed25519")?,
    ))
}

pub(super) fn taken_away(stage: &mut Stage) -> Result<()> {
    let world = &stage.world;
    mail_in_clear(world, true, TTL + 5)?;
    let port = stage.sshd.port.to_string();
    let client = Program::new("/usr/bin/ssh").user("nobody")?.inside(&world.places.billing_bot)?.limit(30);
    let trusting = ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"];
    let client = client.args(trusting).args(["-p", &port, "-l", "taken-host", "127.0.0.7"]);
    let client = client.args(["echo begun; sleep 40; echo slept"]).start()?;
    Trail::when(&world.agent, "taken-host", |trail| !trail.all("statement").is_empty())?;
    stage.idp.give(&[])?;
    // The next token is asked for when 70 % of this one's time have passed.
    let output = client.finish(Duration::from_secs(TTL + 3))?;
    let why = "identity billing-bot was changed: it is in other groups";
    ensure!(output.code == Some(255) && !output.stdout.contains("slept"), "{output}");
    ensure!(output.stderr.contains(&format!("chaperone: terminated: {why}")), "{output}");
    let end = world.trail("taken-host")?.first("session_end")?.clone();
    ensure!(end["reason"] == why, "{end}");
    stage.idp.give(&["mail-readers"])?;
    mail_in_clear(world, true, TTL + 5).map(drop)
}
