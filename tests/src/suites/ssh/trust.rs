//! Trust with no change at the client: ssh asks the agent, and only governed processes get an answer.

use std::fs;

use anyhow::{Context, Result, ensure};

use super::Stage;
use crate::harness::cgroup::Cgroup;
use crate::harness::container::{Container, Wish};
use crate::harness::report::Case;
use crate::harness::spawn::{Output, Program};

pub(super) const CASES: &[Case<Stage>] = &[
    Case { name: "with trust installed, ssh with StrictHostKeyChecking=yes just works", run: strict },
    Case { name: "a user's own known_hosts with the real keys keeps working", run: own_known_hosts },
    Case { name: "a process that is not governed sees nothing of it", run: ungoverned },
    Case { name: "hosts that are no targets are not spoken for", run: others },
    Case { name: "what is removed is gone", run: removed },
    Case { name: "`trust install` lets ssh ask the agent, `trust remove` leaves no trace", run: command },
    Case {
        name: "ssh in a container knows the targets with nothing changed in it, and forgets them",
        run: contained,
    },
];

impl Stage {
    /// ssh as a person types it, in a mount namespace where ssh's drop-ins are those of the test.
    fn trusting(&self, cgroup: &Cgroup, options: &str, host: &str, command: &str) -> Result<Output> {
        let dir = self.drop_ins()?;
        let port = self.sshd.port;
        let script = format!(
            "mount --bind {dir} /etc/ssh/ssh_config.d && exec setpriv --reuid=nobody --regid=nogroup --clear-groups \
             ssh -o BatchMode=yes {options} -p {port} -l trusting {host} {command:?}"
        );
        Program::new("/usr/bin/unshare")
            .args(["--mount", "--propagation", "private", "/bin/sh", "-c", &script])
            .inside(cgroup)?
            .limit(30)
            .run()
    }

    fn drop_ins(&self) -> Result<String> {
        Ok(self.world.scratch.folder("ssh_config.d", 0o755)?.display().to_string())
    }

    fn install(&self) -> Result<()> {
        let dir = self.drop_ins()?;
        self.world.agent.command(&["hosts", "install", "--dir", &dir])?.ok().map(drop)
    }
}

fn strict(stage: &mut Stage) -> Result<()> {
    let bot = &stage.world.places.billing_bot;
    let before = stage.trusting(bot, "-o StrictHostKeyChecking=yes", "127.0.0.1", "echo in")?;
    ensure!(before.code == Some(255) && before.stderr.contains("Host key verification failed"), "{before}");
    stage.install()?;
    for options in [
        "-o StrictHostKeyChecking=yes",
        "-o StrictHostKeyChecking=yes -o UserKnownHostsFile=/dev/null",
        "-o StrictHostKeyChecking=yes -o HostKeyAlgorithms=ecdsa-sha2-nistp256",
        "-o StrictHostKeyChecking=yes -o HostKeyAlgorithms=rsa-sha2-512",
        "-o StrictHostKeyChecking=yes -o HostKeyAlias=the-web",
        "-o StrictHostKeyChecking=yes -o CheckHostIP=yes",
        "-o StrictHostKeyChecking=accept-new",
        "",
    ] {
        let output = stage.trusting(bot, options, "127.0.0.1", "echo in")?;
        ensure!(output.code == Some(0) && output.stdout == "in\n", "{options}: {output}");
        ensure!(!output.stderr.contains("host key"), "{options}: {output}");
    }
    // By a name that resolves to the address.
    let output = stage.trusting(bot, "-o StrictHostKeyChecking=yes -4", "localhost", "echo in")?;
    ensure!(output.code == Some(0) && output.stdout == "in\n", "{output}");
    Ok(())
}

fn own_known_hosts(stage: &mut Stage) -> Result<()> {
    stage.install()?;
    let file = stage.home("own_known_hosts");
    let port = stage.sshd.port;
    let mut text = String::new();
    for key in ["host_ed25519", "host_ecdsa", "host_rsa"] {
        text.push_str(&format!("[127.0.0.1]:{port} {}\n", stage.sshd.public(key)?));
    }
    fs::write(&file, &text)?;
    let options = format!("-o StrictHostKeyChecking=yes -o UserKnownHostsFile={}", file.display());
    let output = stage.trusting(&stage.world.places.billing_bot, &options, "127.0.0.1", "echo in")?;
    ensure!(output.code == Some(0) && output.stdout == "in\n", "{output}");
    ensure!(fs::read_to_string(&file)? == text, "the user's file was changed");
    Ok(())
}

fn ungoverned(stage: &mut Stage) -> Result<()> {
    stage.install()?;
    for cgroup in [&stage.world.places.outside, &stage.world.places.bypassed] {
        let output = stage.trusting(cgroup, "-o StrictHostKeyChecking=yes", "127.0.0.1", "echo in")?;
        ensure!(
            output.code == Some(255) && output.stderr.contains("Host key verification failed"),
            "{output}"
        );
        // It meets the real host: with the real key it gets as far as a login it has no key for.
        let file = stage.home("real_known_hosts");
        let line = format!("[127.0.0.1]:{} {}\n", stage.sshd.port, stage.sshd.public("host_ed25519")?);
        fs::write(&file, line)?;
        let options = format!("-o StrictHostKeyChecking=yes -o UserKnownHostsFile={}", file.display());
        let output = stage.trusting(cgroup, &options, "127.0.0.1", "echo in")?;
        ensure!(
            output.code == Some(255) && output.stderr.contains("Permission denied (publickey)"),
            "{output}"
        );
    }
    Ok(())
}

fn others(stage: &mut Stage) -> Result<()> {
    stage.install()?;
    let dir = stage.drop_ins()?;
    let text = fs::read_to_string(format!("{dir}/10-chaperone.conf"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("KnownHostsCommand ")).context("no command")?;
    let port = stage.sshd.port;
    let web1 = format!("[127.0.0.1]:{port}");
    for (host, answered) in [
        (web1.clone(), true),
        (format!("[WEB1.internal]:{port}"), true),
        ("web1.internal".to_owned(), false),
        ("127.0.0.1".to_owned(), false),
        (format!("[127.0.0.77]:{port}"), false),
        (format!("[elsewhere.invalid]:{port}"), false),
        (format!("[*]:{port}"), false),
    ] {
        let command = line.replace("%H", &format!("'{host}'")).replace("--at [%h]:%p ", "");
        let output = stage.client("/bin/sh")?.args(["-c", &command]).run()?;
        ensure!(output.code == Some(0) && output.stderr.is_empty(), "{host}: {output}");
        ensure!(output.stdout.contains("ssh-ed25519 ") == answered, "{host}: {output}");
    }
    let keys = stage.world.agent.command(&["hosts", "keys"])?.ok()?;
    ensure!(keys.contains(&format!("[web1.internal]:{port},{web1} ssh-ed25519 ")), "{keys}");
    Ok(())
}

fn removed(stage: &mut Stage) -> Result<()> {
    stage.install()?;
    let dir = stage.drop_ins()?;
    stage.world.agent.command(&["hosts", "remove", "--dir", &dir])?.ok()?;
    ensure!(fs::read_dir(&dir)?.count() == 0, "something is left behind");
    let output = stage.trusting(
        &stage.world.places.billing_bot,
        "-o StrictHostKeyChecking=yes",
        "127.0.0.1",
        "echo in",
    )?;
    ensure!(output.code == Some(255), "{output}");
    Ok(())
}

fn command(stage: &mut Stage) -> Result<()> {
    // A mount namespace of its own: the machine's files stay as they are.
    let script = "set -e\n\
        for folder in /etc/ssl/certs /usr/local/share/ca-certificates /etc/ssh/ssh_config.d; do\n\
        \x20 copy=$(mktemp -d); cp -a $folder/. $copy; mount -t tmpfs none $folder; chmod 755 $folder\n\
        \x20 cp -a $copy/. $folder; rm -rf $copy\n\
        done\n\
        mount --bind /dev/null /etc/ca-certificates.conf; update-ca-certificates --fresh >/dev/null 2>&1\n\
        all() { find /etc/ssh/ssh_config.d /usr/local/share/ca-certificates /etc/ssl/certs | sort; }\n\
        ask() { (echo 0 > $GOVERNED/cgroup.procs; exec setpriv --reuid=nobody --regid=nogroup --clear-groups \
        ssh -o BatchMode=yes -o StrictHostKeyChecking=yes -p $PORT -l trust-command 127.0.0.1 echo in) 2>&1 || true; }\n\
        before=$(all); ask | grep -o 'verification failed'\n\
        $CHAPERONE --config $CONFIG trust install >/dev/null; ask\n\
        $CHAPERONE --config $CONFIG trust remove >/dev/null; ask | grep -o 'verification failed'\n\
        test \"$before\" = \"$(all)\" && echo no trace\n\
        $CHAPERONE --config $CONFIG trust remove || echo nothing\n";
    let world = &stage.world;
    let output = Program::new("/usr/bin/unshare")
        .args(["--mount", "--propagation", "private", "/bin/bash", "-c", script])
        .env("GOVERNED", world.places.billing_bot.path())
        .env("PORT", stage.sshd.port.to_string())
        .env("CHAPERONE", world.agent.binary())
        .env("CONFIG", &world.agent.config)
        .limit(90)
        .run()?;
    let expect = "verification failed\nin\nverification failed\nno trace\nnothing\n";
    ensure!(output.stdout == expect, "{output}");
    Ok(())
}

fn contained(stage: &mut Stage) -> Result<()> {
    let places = &stage.world.places;
    let cgroup = places.billing_bot.child("container")?;
    let container = Container::on_host(&stage.world.scratch, "ssh-client", &cgroup, &Wish::default())?;
    // Where clients are, after the runtime handed controllers down.
    places.billing_bot.admit()?;
    let shell = |script: &str| container.exec("/bin/sh", &["-c", script]).limit(30).run();
    let port = stage.sshd.port;
    let connect =
        format!("ssh -o BatchMode=yes -o StrictHostKeyChecking=yes -p {port} -l contained 127.0.0.1 echo in");
    let pid = container.pid()?.to_string();
    let agent = &stage.world.agent;
    let output = agent.command(&["hosts", "install", "--pid", &pid])?;
    ensure!(output.code == Some(1) && output.stderr.contains("no /etc/ssh"), "{output}");
    shell("mkdir /etc/ssh")?.ok()?;
    let before = shell("ls -lA /etc/ssh; cat /proc/self/mountinfo")?.ok()?;
    let unknown = shell(&connect)?;
    ensure!(
        unknown.code == Some(255) && unknown.stderr.contains("Host key verification failed"),
        "{unknown}"
    );
    // Twice: what was put there before is replaced.
    for _ in 0..2 {
        agent.command(&["hosts", "install", "--pid", &pid])?.ok()?;
    }
    let output = shell(&connect)?;
    ensure!(output.code == Some(0) && output.stdout == "in\n" && output.stderr.is_empty(), "{output}");
    let start = stage.trail("contained")?;
    ensure!(
        start.first("session_start")?["workload"]["cgroup"] == cgroup.name(),
        "another container's session"
    );
    let output = shell("echo forged >> /etc/ssh/ssh_known_hosts2")?;
    ensure!(output.code != Some(0), "the container can write it: {output}");
    agent.command(&["hosts", "remove", "--pid", &pid])?.ok()?;
    let unknown = shell(&connect)?;
    ensure!(
        unknown.code == Some(255) && unknown.stderr.contains("Host key verification failed"),
        "{unknown}"
    );
    let after = shell("ls -lA /etc/ssh; cat /proc/self/mountinfo")?.ok()?;
    ensure!(before == after, "something is left behind:\n{before}\n{after}");
    // Somebody else's file stays.
    shell("echo '# mine' > /etc/ssh/ssh_known_hosts2")?.ok()?;
    let output = agent.command(&["hosts", "install", "--pid", &pid])?;
    ensure!(output.code == Some(1) && output.stderr.contains("somebody else's"), "{output}");
    let output = agent.command(&["hosts", "remove", "--pid", &std::process::id().to_string()])?;
    ensure!(output.code == Some(1) && output.stderr.contains("the host's own files"), "{output}");
    Ok(())
}
