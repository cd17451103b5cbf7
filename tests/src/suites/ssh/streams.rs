//! Bytes in bulk and channels in number: nothing hangs, nothing is lost, memory stays bounded.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::{Stage, TRUSTING};
use crate::harness::report::Case;
use crate::harness::spawn::{Program, Running, wait_for};

pub(super) const CASES: &[Case<Stage>] = &[
    Case { name: "64 MiB through cat in both directions at once arrive unchanged", run: full_duplex },
    Case {
        name: "every cipher and key exchange of the client works, and rekeying in both directions",
        run: ciphers,
    },
    Case { name: "a stalled channel does not stall another, and memory stays bounded", run: stalled },
    Case { name: "twenty commands over one connection at once all answer", run: parallel },
    Case { name: "a program ended by a signal is told as such", run: signalled },
    Case { name: "paramiko and asyncssh work as they are", run: libraries },
];

/// A megabyte that no compression and no luck makes shorter.
pub(crate) fn noise(path: &Path, megabytes: usize) -> Result<()> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut bytes = Vec::with_capacity(megabytes << 20);
    while bytes.len() < megabytes << 20 {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    std::fs::write(path, bytes).context("writing noise")
}

pub(super) fn shell(stage: &Stage, script: &str) -> Result<Program> {
    Ok(stage.client("/bin/sh")?.args(["-c", script]).limit(60))
}

pub(super) fn ssh_line(stage: &Stage, login: &str) -> String {
    format!("ssh {} -p {} -l {login} 127.0.0.1", TRUSTING.join(" "), stage.sshd.port)
}

fn full_duplex(stage: &mut Stage) -> Result<()> {
    let file = stage.world.scratch.path().join("noise");
    noise(&file, 64)?;
    let script = format!(
        "cat {} | {} cat | cmp - {} && echo same",
        file.display(),
        ssh_line(stage, "duplex"),
        file.display()
    );
    let output = shell(stage, &script)?.run()?;
    ensure!(output.stdout == "same\n", "{output}");
    let trail = stage.trail("duplex")?;
    let bytes = &trail.first("streams")?["stdout_bytes"];
    ensure!(bytes == 64 << 20, "{bytes}");
    Ok(())
}

fn ciphers(stage: &mut Stage) -> Result<()> {
    let file = stage.world.scratch.path().join("noise-8");
    noise(&file, 8)?;
    for options in [
        "-c chacha20-poly1305@openssh.com -o RekeyLimit=1M",
        "-c aes256-gcm@openssh.com -o RekeyLimit=1M",
        "-c aes128-gcm@openssh.com -o KexAlgorithms=ecdh-sha2-nistp256",
        "-c aes256-ctr -m hmac-sha2-256-etm@openssh.com -o RekeyLimit=1M",
        "-c aes128-ctr -m hmac-sha2-512-etm@openssh.com -o HostKeyAlgorithms=ecdsa-sha2-nistp256",
        "-c aes128-ctr -m hmac-sha2-512 -o RekeyLimit=1M",
        "-o HostKeyAlgorithms=rsa-sha2-256",
        "-o HostKeyAlgorithms=rsa-sha2-512",
    ] {
        let ssh = ssh_line(stage, "ciphers").replacen("ssh ", &format!("ssh {options} "), 1);
        let script = format!("cat {0} | {ssh} cat | cmp - {0} && echo same", file.display());
        let output = shell(stage, &script)?.run()?;
        ensure!(output.stdout == "same\n", "{options}: {output}");
    }
    Ok(())
}

/// A master connection, through which other commands go.
fn master(stage: &Stage, login: &str) -> Result<(Running, String)> {
    let path = stage.home(&format!("{login}.control"));
    let line = format!("{} -S {}", ssh_line(stage, login), path.display());
    let running = shell(stage, &format!("exec {line} -M -N"))?.start()?;
    wait_for("the master connection", Duration::from_secs(10), || Ok(path.exists().then_some(())))?;
    Ok((running, line))
}

fn stalled(stage: &mut Stage) -> Result<()> {
    let (_master, line) = master(stage, "stalled")?;
    // The reader takes nothing, so the remote side fills every window and stops.
    let hog = shell(stage, &format!("{line} cat /dev/zero | sleep 30"))?.start()?;
    let feeder = shell(stage, &format!("cat /dev/zero | {line} sleep 30"))?.start()?;
    std::thread::sleep(Duration::from_secs(2));
    // The stall lasts, and the machine is busy now and then: some command of a few is quick.
    let mut waits = Vec::new();
    while waits.iter().all(|waited| *waited > Duration::from_secs(1)) {
        ensure!(waits.len() < 10, "commands beside it took {waits:?}");
        let started = Instant::now();
        let output = shell(stage, &format!("{line} echo alive"))?.run()?;
        ensure!(output.stdout == "alive\n", "{output}");
        waits.push(started.elapsed());
    }
    let memory = resident(stage.world.agent.pid()?)?;
    ensure!(memory < 200 << 10, "the agent holds {memory} KiB");
    drop((hog, feeder));
    Ok(())
}

/// Kilobytes resident.
fn resident(pid: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

fn parallel(stage: &mut Stage) -> Result<()> {
    let (_master, line) = master(stage, "parallel")?;
    // sshd takes ten sessions on a connection; the client opens connections of its own for the rest.
    let script = format!(
        "for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do {line} echo n$i & done; wait"
    );
    let output = shell(stage, &script)?.run()?;
    let mut lines: Vec<&str> = output.stdout.lines().collect();
    lines.sort_unstable();
    let mut expect: Vec<String> = (1..=20).map(|n| format!("n{n}")).collect();
    expect.sort_unstable();
    ensure!(lines == expect, "{output}");
    Ok(())
}

fn signalled(stage: &mut Stage) -> Result<()> {
    let output = stage.ssh("signalled", "127.0.0.1")?.args(["sh -c 'sleep 0.1'"]).run()?;
    ensure!(output.code == Some(0), "{output}");
    let output =
        stage.ssh_in(&stage.world.places.mail_bot, "signalled", "127.0.0.1")?.args(["kill -9 $$"]).run()?;
    ensure!(output.code == Some(255) || output.code == Some(137), "{output}");
    let trail = stage.trail("signalled")?;
    let tag = &trail.result("kill -9 $$")?["tag"];
    ensure!(tag == "signal KILL", "{tag}");
    Ok(())
}

const PARAMIKO: &str = r#"
import sys, paramiko
host, port = sys.argv[1], int(sys.argv[2])
c = paramiko.SSHClient()
c.set_missing_host_key_policy(paramiko.AutoAddPolicy())
c.connect(host, port, "paramiko", password="whatever", allow_agent=False, look_for_keys=False)
i, o, e = c.exec_command("cat")
i.write("x" * 300000); i.channel.shutdown_write()
assert len(o.read()) == 300000
assert o.channel.recv_exit_status() == 0
i, o, e = c.exec_command("rm x")
assert o.channel.recv_exit_status() == 126
assert b"chaperone: denied" in e.read()
s = c.open_sftp()
with s.open(sys.argv[3], "w") as f: f.write("paramiko")
assert s.stat(sys.argv[3]).st_size == 8
s.remove(sys.argv[3])
print("ok")
"#;

const ASYNCSSH: &str = r#"
import sys, asyncio, asyncssh
async def main():
    async with asyncssh.connect(sys.argv[1], int(sys.argv[2]), username="asyncssh", known_hosts=None) as c:
        r = await asyncio.gather(*[c.run("cat", input="y" * 200000) for _ in range(5)])
        assert all(len(x.stdout) == 200000 and x.exit_status == 0 for x in r)
        r = await c.run("rm x")
        assert r.exit_status == 126 and "chaperone: denied" in r.stderr, r
        async with c.start_sftp_client() as s:
            async with s.open(sys.argv[3], "w") as f: await f.write("asyncssh")
            assert (await s.stat(sys.argv[3])).size == 8
            await s.remove(sys.argv[3])
    print("ok")
asyncio.run(main())
"#;

fn libraries(stage: &mut Stage) -> Result<()> {
    let port = stage.sshd.port.to_string();
    for (name, source) in [("paramiko", PARAMIKO), ("asyncssh", ASYNCSSH)] {
        let file = stage.files(&format!("in/{name}"));
        let output =
            stage.client("/usr/bin/python3")?.args(["-c", source, "127.0.0.1", &port, &file]).run()?;
        ensure!(output.stdout == "ok\n", "{name}: {output}");
    }
    Ok(())
}
