//! Certificates: what a login is good for when somebody else gets hold of it.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::unistd::{User, chown};
use serde_json::json;

use super::hold::wait_for_hold;
use super::{ACCOUNT, Stage, TRUSTING};
use crate::harness::report::Case;
use crate::harness::spawn::{Output, Program};
use crate::harness::sshd::Sshd;
use crate::harness::trail::holds;

pub(super) const CASES: &[Case<Stage>] = &[
    Case {
        name: "an approved command runs by a certificate for it alone, as if by the session's",
        run: forced,
    },
    Case { name: "the session goes on beside an approved command, which ends with it", run: beside },
    Case { name: "a certificate that is stolen runs the approved command and no other", run: stolen },
    Case { name: "a signer that fails, or allows more than was asked for, is refused", run: signers },
];

/// Has certificates signed as a signer elsewhere would, by what it is told. It is robbed: what is signed for the agent's key is
/// signed for the thief's as well.
const SIGNER: &str = r#"#!/bin/sh
set -e
cd FOLDER
test ! -e fails
here=$(mktemp -d)
trap 'rm -rf "$here"' EXIT
for name in $CHAPERONE_EXTENSIONS; do set -- "$@" -O "$name"; done
test -e generous || set -- -O clear "$@"
printf '%s\n' "$CHAPERONE_PUBLIC_KEY" > "$here/agent.pub"
cp thief.pub "$here/thief.pub"
for key in agent thief; do
  ssh-keygen -q -s ca -I "$CHAPERONE_KEY_ID" -n "$CHAPERONE_PRINCIPAL" \
    -V "$(printf '0x%x:0x%x' "$CHAPERONE_VALID_AFTER" "$CHAPERONE_VALID_BEFORE")" "$@" \
    ${CHAPERONE_FORCE_COMMAND+-O "force-command=$CHAPERONE_FORCE_COMMAND"} "$here/$key.pub"
done
cat "$here/agent-cert.pub"
if test -n "$CHAPERONE_FORCE_COMMAND"; then cat "$here/thief-cert.pub" > stolen-cert.pub; fi
"#;

pub(super) fn signer(sshd: &Sshd) -> Result<()> {
    let folder = sshd.file("signer");
    fs::create_dir(&folder)?;
    for name in ["ca", "thief.pub"] {
        fs::copy(sshd.file(name), folder.join(name))?;
    }
    let owner = User::from_name(ACCOUNT)?.context("no such account")?;
    for path in [folder.clone(), folder.join("ca")] {
        chown(&path, Some(owner.uid), Some(owner.gid))?;
    }
    fs::write(sshd.file("sign"), SIGNER.replace("FOLDER", &folder.display().to_string()))?;
    Ok(fs::set_permissions(sshd.file("sign"), Permissions::from_mode(0o755))?)
}

pub(super) fn credential(sshd: &Sshd) -> String {
    format!("ca_command = [{:?}]\nca_command_user = {ACCOUNT:?}", sshd.file("sign"))
}

/// A command that needs an approval, which it gets; its output is what it was asked for.
fn approved(stage: &Stage, login: &str, host: &str, made: &str) -> Result<Output> {
    let client = stage
        .ssh(login, host)?
        .env("LC_TEST", "passes")
        .args(["-o", "SendEnv=LC_TEST"])
        .args([&format!("touch {made}; printenv SSH_ORIGINAL_COMMAND; printenv LC_TEST; cat; false")])
        .stdin("input\n")
        .start()?;
    let id = wait_for_hold(stage, login)?;
    stage.world.agent.command(&["approve", &id])?.ok()?;
    client.finish(Duration::from_secs(20))
}

fn forced(stage: &mut Stage) -> Result<()> {
    let made = stage.files("in/forced");
    let output = approved(stage, "forced", "127.0.0.2", &made)?;
    let command = format!("touch {made}; printenv SSH_ORIGINAL_COMMAND; printenv LC_TEST; cat; false");
    ensure!(output.code == Some(1) && output.stdout == format!("{command}\npasses\ninput\n"), "{output}");
    let trail = stage.trail("forced")?;
    let decided = trail.all("statement");
    let permitted = json!({"sql": command, "verdict": "permit", "step": "exec"});
    holds(decided.last().context("nothing on record")?, &permitted)?;
    holds(trail.result(&command)?, &json!({"tag": "exit 1"}))?;
    ensure!(trail.all("streams").len() == 1, "it ran more than once");
    let log = stage.sshd.log();
    let forced = format!("Starting session: forced-command (key-option) '{command}' for root");
    ensure!(log.contains(&forced), "the target did not force it: {log}");
    let id = format!("session={} target=web-ca op=", trail.session);
    ensure!(log.contains(&id), "the certificate does not say which operation it is for: {log}");
    // With a key there is nothing to limit.
    let made = stage.files("in/unforced");
    let output = approved(stage, "unforced", "127.0.0.1", &made)?;
    ensure!(output.code == Some(1) && output.stdout == "passes\ninput\n", "{output}");
    Ok(())
}

fn beside(stage: &mut Stage) -> Result<()> {
    let made = stage.files("in/beside");
    let path = stage.home("beside.control");
    let line = format!(
        "ssh {} -p {} -l beside -S {} 127.0.0.2",
        TRUSTING.join(" "),
        stage.sshd.port,
        path.display()
    );
    let script = format!(
        "{line} -M -N -f; {line} 'touch {made}; echo began; sleep 300' | {{ read began; {line} echo $began again; \
         {line} -O exit; }}"
    );
    let client = stage.client("/bin/sh")?.args(["-c", &script]).start()?;
    let id = wait_for_hold(stage, "beside")?;
    stage.world.agent.command(&["approve", &id])?.ok()?;
    let output = client.finish(Duration::from_secs(20))?;
    ensure!(output.stdout == "began again\n", "{output}");
    let trail = stage.trail("beside")?;
    let tag = &trail.result(&format!("touch {made}; echo began; sleep 300"))?["tag"];
    ensure!(tag == "cut off" || tag == "closed", "{tag}");
    Ok(())
}

fn stolen(stage: &mut Stage) -> Result<()> {
    let made = stage.files("in/stolen");
    let output = approved(stage, "robbed", "127.0.0.8", &made)?;
    ensure!(output.code == Some(1) && output.stdout.ends_with("passes\ninput\n"), "{output}");
    let secret = stage.files("closed/secret");
    let (key, certificate) = (stage.sshd.file("thief"), stage.sshd.file("signer/stolen-cert.pub"));
    let steal = |more: &[&str]| {
        // From where nothing is governed, and as root, who reads the key.
        Program::new("/usr/bin/ssh")
            .args(["-F", "none", "-o", "IdentitiesOnly=yes"])
            .args(TRUSTING)
            .args(["-p", &stage.sshd.port.to_string(), "-l", "root", "-i"])
            .args([key.as_os_str()])
            .args([format!("-oCertificateFile={}", certificate.display())])
            .args(more)
            .inside(&stage.world.places.outside)?
            .stdin("stolen input\n")
            .limit(20)
            .run()
    };
    // Whatever is asked for, the target runs what was approved, and says what was asked for.
    let read = format!("cat {secret}");
    let output = steal(&["127.0.0.8", &read])?;
    ensure!(output.code == Some(1) && output.stdout == format!("{read}\nstolen input\n"), "{output}");
    let output = steal(&["-s", "127.0.0.8", "sftp"])?;
    ensure!(output.stdout.ends_with("stolen input\n") && !output.stdout.contains("s3cr3t"), "{output}");
    let output = steal(&["-tt", "127.0.0.8", "true"])?;
    ensure!(output.stderr.contains("PTY allocation request failed"), "{output}");
    let port = stage.sshd.port.to_string();
    let output = steal(&["-W", &format!("127.0.0.1:{port}"), "127.0.0.8"])?;
    ensure!(output.code == Some(255) && output.stderr.contains("stdio forwarding failed"), "{output}");
    Ok(())
}

fn signers(stage: &mut Stage) -> Result<()> {
    for (flag, why) in [
        ("fails", "it ended with"),
        ("generous", "allows \"permit-X11-forwarding\", which was not asked for"),
    ] {
        let flag = stage.sshd.file("signer").join(flag);
        fs::write(&flag, "")?;
        let output = stage.ssh("unsigned", "127.0.0.8")?.args(["echo", "in"]).run()?;
        fs::remove_file(&flag)?;
        ensure!(output.code == Some(255) && output.stdout.is_empty(), "{output}");
        ensure!(output.stderr.contains("could not be signed") && output.stderr.contains(why), "{output}");
    }
    let output = stage.ssh("signed", "127.0.0.8")?.args(["echo", "in"]).run()?;
    ensure!(output.code == Some(0) && output.stdout == "in\n", "{output}");
    Ok(())
}
