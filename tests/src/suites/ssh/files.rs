//! File transfers: sftp, scp and git, and what tries to lead them astray.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::{Stage, TRUSTING};
use crate::harness::report::Case;
use crate::harness::spawn::{Output, Program};
use crate::harness::trail::holds;

pub(super) const CASES: &[Case<Stage>] = &[
    Case { name: "scp copies both ways where it may, and the files are on record", run: scp },
    Case { name: "scp of 64 MiB arrives unchanged with its digest on record", run: large },
    Case { name: "no path leads out of where transfers are permitted", run: astray },
    Case { name: "sftp lists, renames and removes where it may", run: sftp },
    Case { name: "scp's old protocol is denied with a hint", run: old_scp },
    Case { name: "git clones and pushes by repository", run: git },
];

impl Stage {
    fn tool(&self, path: &str) -> Result<Program> {
        let port = self.sshd.port.to_string();
        Ok(self.client(path)?.args(TRUSTING).args(["-P", &port]))
    }

    fn sftp_batch(&self, login: &str, commands: &str) -> Result<Output> {
        self.tool("/usr/bin/sftp")?.args(["-b", "-", &format!("{login}@127.0.0.1")]).stdin(commands).run()
    }
}

fn scp(stage: &mut Stage) -> Result<()> {
    let there = stage.files("in/readme");
    let here = stage.home("readme");
    let remote = format!("scp@127.0.0.1:{there}");
    stage.tool("/usr/bin/scp")?.args([remote.as_ref(), here.as_os_str()]).run()?.ok()?;
    ensure!(fs::read_to_string(&here)? == "read me\n");
    let trail = stage.trail("scp")?;
    holds(trail.statement(&format!("read {there}"))?, &json!({"verdict": "permit", "step": "file"}))?;
    let op = trail.statement(&format!("read {there}"))?["op"].clone();
    holds(trail.first("file_content")?, &json!({"op": op, "read_bytes": 8, "written_bytes": 0}))?;
    let target = format!("scp-up@127.0.0.1:{}", stage.files("in/uploaded"));
    stage.tool("/usr/bin/scp")?.args([here.as_os_str(), target.as_ref()]).run()?.ok()?;
    ensure!(fs::read_to_string(stage.files("in/uploaded"))? == "read me\n");
    holds(stage.trail("scp-up")?.first("file_content")?, &json!({"read_bytes": 0, "written_bytes": 8}))
}

fn large(stage: &mut Stage) -> Result<()> {
    let here = stage.world.scratch.path().join("noise");
    if !here.exists() {
        fs::write(&here, vec![7u8; 64 << 20])?;
    }
    let there = stage.files("in/large");
    let target = format!("large@127.0.0.1:{there}");
    stage.tool("/usr/bin/scp")?.args([here.as_os_str(), target.as_ref()]).limit(60).run()?.ok()?;
    ensure!(fs::read(&here)? == fs::read(&there)?, "the copy differs");
    let sum = Program::new("/usr/bin/sha256sum").args([&there]).run()?.ok()?;
    let sum = sum.split_whitespace().next().context("no digest")?.to_owned();
    holds(stage.trail("large")?.first("file_content")?, &json!({"written_bytes": 64 << 20, "sha256": sum}))?;
    let back = stage.home("large");
    let source = format!("large-down@127.0.0.1:{there}");
    stage.tool("/usr/bin/scp")?.args([source.as_ref(), back.as_os_str()]).limit(60).run()?.ok()?;
    ensure!(fs::read(&back)? == fs::read(&there)?, "the copy differs");
    holds(stage.trail("large-down")?.first("file_content")?, &json!({"read_bytes": 64 << 20, "sha256": sum}))
}

fn astray(stage: &mut Stage) -> Result<()> {
    let inside = stage.files("in");
    let secret = stage.files("closed/secret");
    symlink(&secret, stage.files("in/link"))?;
    symlink(stage.files("closed"), stage.files("in/dir"))?;
    for path in [
        secret.clone(),
        format!("{inside}/../closed/secret"),
        format!("{inside}/./../closed/./secret"),
        format!("{inside}/link"),
        format!("{inside}/dir/secret"),
        format!("{inside}//..//closed//secret"),
        "/etc/passwd".to_owned(),
    ] {
        let output =
            stage.sftp_batch("astray-get", &format!("get {path} {}\n", stage.home("stolen").display()))?;
        ensure!(output.code != Some(0), "{path}: {output}");
        ensure!(!stage.home("stolen").exists(), "{path} was read");
    }
    fs::write(stage.home("evil"), "evil\n")?;
    let evil = stage.home("evil").display().to_string();
    for (commands, why) in [
        (format!("put {evil} {inside}/dir/new"), "put through a linked folder"),
        (format!("put {evil} {inside}/link"), "put through a linked file"),
        (format!("rename {inside}/readme {inside}/dir/readme"), "rename out"),
        (format!("rename {secret} {inside}/secret"), "rename in"),
        (format!("symlink {secret} {inside}/link2"), "symlink"),
        (format!("ln {secret} {inside}/link3"), "hard link"),
        (format!("rm {secret}"), "rm"),
        (format!("rmdir {}", stage.files("closed")), "rmdir"),
        (format!("mkdir {inside}/dir/new"), "mkdir through a linked folder"),
        (format!("chmod 777 {secret}"), "chmod"),
        (format!("chmod 777 {inside}/link"), "chmod through a link"),
        (format!("ls {}", stage.files("closed")), "ls"),
        (format!("ls {inside}/dir/"), "ls through a link"),
    ] {
        let output = stage.sftp_batch("astray", &format!("{commands}\n"))?;
        ensure!(output.code != Some(0) && !output.stdout.contains("s3cr3t\n"), "{why}: {output}");
    }
    ensure!(fs::read_to_string(&secret)? == "s3cr3t\n", "the secret changed");
    ensure!(fs::read_dir(stage.files("closed"))?.count() == 1, "something was made in the closed folder");
    for name in ["in/link2", "in/link3", "in/secret"] {
        ensure!(fs::symlink_metadata(stage.files(name)).is_err(), "{name} was made");
    }
    ensure!(Path::new(&stage.files("in/readme")).exists(), "the file was moved away");
    Ok(())
}

fn sftp(stage: &mut Stage) -> Result<()> {
    let inside = stage.files("in");
    fs::write(stage.home("small"), "small\n")?;
    let commands = format!(
        "cd {inside}\nput {} one\nrename one two\nmkdir folder\nrename two folder/three\nls -l folder\nchmod 600 folder/three\n\
         df {inside}\nrm folder/three\nrmdir folder\n",
        stage.home("small").display()
    );
    let output = stage.sftp_batch("sftp", &commands)?;
    ensure!(output.code == Some(0) && output.stdout.contains("three"), "{output}");
    let trail = stage.trail("sftp")?;
    for operation in [
        format!("write {inside}/one"),
        format!("rename {inside}/one -> {inside}/two"),
        format!("mkdir {inside}/folder"),
        format!("remove {inside}/folder/three"),
        format!("rmdir {inside}/folder"),
    ] {
        holds(trail.statement(&operation)?, &json!({"verdict": "permit"}))?;
    }
    // Refusals answer each request by its number, and the session goes on.
    let commands = format!(
        "-rm /etc/hostname\n-get /etc/passwd /dev/null\nput {0} {inside}/after\nrm {inside}/after\n",
        stage.home("small").display()
    );
    let output = stage.sftp_batch("sftp-on", &commands)?;
    ensure!(output.code == Some(0) && output.stderr.contains("Permission denied"), "{output}");
    Ok(())
}

fn old_scp(stage: &mut Stage) -> Result<()> {
    let remote = format!("old@127.0.0.1:{}", stage.files("in/readme"));
    let output = stage
        .tool("/usr/bin/scp")?
        .args(["-O".as_ref(), remote.as_ref(), stage.home("old").as_os_str()])
        .run()?;
    ensure!(output.code != Some(0) && output.stderr.contains("scp without -O"), "{output}");
    Ok(())
}

fn git(stage: &mut Stage) -> Result<()> {
    let repository = stage.files("in/repo.git");
    Program::new("/usr/bin/git").args(["init", "-q", "--bare", &repository]).run()?.ok()?;
    let shell = format!("ssh {} -p {}", TRUSTING.join(" "), stage.sshd.port);
    let clone = stage.home("clone").display().to_string();
    let script = format!(
        "set -e; git clone -q ssh://git@127.0.0.1{repository} {clone}; cd {clone}; echo x > x; git add x; \
         git -c user.name=bot -c user.email=bot@test commit -qm x; git push -q origin HEAD:main; \
         git ls-remote origin main"
    );
    let output = stage.client("/bin/sh")?.env("GIT_SSH_COMMAND", &shell).args(["-c", &script]).run()?;
    ensure!(output.code == Some(0) && output.stdout.contains("refs/heads/main"), "{output}");
    let closed = stage.files("closed");
    let output = stage
        .client("/usr/bin/git")?
        .env("GIT_SSH_COMMAND", &shell)
        .args(["ls-remote", &format!("ssh://git-out@127.0.0.1{closed}")])
        .run()?;
    ensure!(output.code != Some(0) && output.stderr.contains("chaperone: denied"), "{output}");
    Ok(())
}
