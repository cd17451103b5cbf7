//! Clients that mean harm, or do not know better: the session ends or is refused, the agent lives, memory is bounded.

use std::io::{Read as _, Write as _};

use anyhow::{Result, ensure};

use super::Stage;
use crate::harness::report::Case;

pub(super) const CASES: &[Case<Stage>] = &[
    Case { name: "what is not SSH is turned away, slowly or at once", run: not_ssh },
    Case { name: "messages out of place and floods end the session and nothing else", run: out_of_place },
];

/// Sent by a governed Python, byte for byte, and how the connection ended is printed.
const RAW: &str = r#"
import socket, sys
host, port = sys.argv[1], int(sys.argv[2])
def ends(data, chunk=65536):
    s = socket.create_connection((host, port)); s.settimeout(20)
    try:
        for i in range(0, len(data), chunk): s.sendall(data[i:i+chunk])
        while s.recv(65536): pass
    except (ConnectionError, BrokenPipeError): pass
    return True
hello = b"SSH-2.0-x\r\n"
assert ends(b"GET / HTTP/1.0\r\n\r\n")
assert ends(b"A" * (1 << 20))
assert ends(b"\r\n" * 100000)
assert ends(b"SSH-1.5-old\r\n")
assert ends(hello + b"\xff" * 100)
assert ends(hello + b"\x00\x00\x00\x05" + b"\x04" * 5)
assert ends(hello + b"\x00\x03\xff\xf8" + b"\x04" * 300000)
assert ends(hello + b"\x00\x00\x00\x0c\x0a\x02" + b"\x00" * 10)
assert ends(hello + b"\x00\x00\x00\x0c\x0a\x14" + b"\x00" * 10)
print("ok")
"#;

fn not_ssh(stage: &mut Stage) -> Result<()> {
    let port = stage.sshd.port.to_string();
    let output = stage.client("/usr/bin/python3")?.args(["-c", RAW, "127.0.0.1", &port]).run()?;
    ensure!(output.stdout == "ok\n", "{output}");
    // Silence is ended by the time limit of a login (15 s), so it is only begun here.
    let mut silent = std::net::TcpStream::connect(("127.0.0.1", stage.sshd.port))?;
    silent.write_all(b"")?;
    drop(silent);
    ensure!(stage.command("after-raw", "echo alive")?.stdout == "alive\n");
    Ok(())
}

const MESSAGES: &str = r#"
import sys, paramiko, time
from paramiko.message import Message
host, port = sys.argv[1], int(sys.argv[2])
def connected():
    t = paramiko.Transport((host, port)); t.start_client(timeout=10); t.auth_none("hostile"); return t
def raw(t, *parts):
    m = Message()
    for p in parts:
        if isinstance(p, bytes) and len(p) == 1: m.add_byte(p)
        elif isinstance(p, bytes): m.add_string(p)
        else: m.add_int(p)
    try: t._send_user_message(m)
    except EOFError: pass
def ended(t):
    for _ in range(100):
        if not t.is_active(): return True
        time.sleep(0.1)
    return False
for parts in [
    (b"\x5e", 77, b"data on no channel"),
    (b"\x5b", 77, 1, 2, 3),
    (b"\x63", 77),
    (b"\x51", 0),
    (b"\x62", 77, b"exec"),
    (b"\x5d", 77, 0xffffffff),
    (b"\x5a", b"session"),
]:
    t = connected(); raw(t, *parts)
    assert ended(t), parts
# A window may not grow beyond 32 bits.
t = connected(); c = t.open_session()
for _ in range(3): raw(t, b"\x5d", c.remote_chanid, 0xffffffff)
assert ended(t)
# Data beyond the window that was granted.
t = connected(); c = t.open_session(); c.exec_command("sleep 20")
for _ in range(200): raw(t, b"\x5e", c.remote_chanid, b"x" * 32000)
assert ended(t)
# More channels than anybody needs: refused one by one.
t = connected(); refused = 0; kept = []
for n in range(200):
    try: kept.append(t.open_session(timeout=10))
    except Exception: refused += 1
assert refused > 100, refused
t.close()
# Variables without end are refused from some point on, tunnels to nowhere one by one, and the session goes on.
t = connected(); c = t.open_session()
for _ in range(500): raw(t, b"\x62", c.remote_chanid, b"env", b"\x00", b"RELEASE", b"r" * 4000)
for n in range(300): raw(t, b"\x5a", b"direct-tcpip", 1000 + n, 1 << 20, 1 << 15, b"10.9.9.9", 22, b"::1", 5)
c.exec_command("printenv RELEASE"); assert len(c.recv(5000)) == 4001
t.close()
# A channel that was closed is none any more.
t = connected(); c = t.open_session(); c.exec_command("true"); c.recv_exit_status(); c.close()
raw(t, b"\x5e", c.remote_chanid, b"late")
assert ended(t)
# Ignored messages in number, then the session is as good as before.
t = connected()
for _ in range(20000): raw(t, b"\x02", b"y" * 100)
c = t.open_session(); c.exec_command("echo fine"); assert c.recv(100) == b"fine\n"
t.close()
print("ok")
"#;

fn out_of_place(stage: &mut Stage) -> Result<()> {
    let port = stage.sshd.port.to_string();
    let output =
        stage.client("/usr/bin/python3")?.args(["-c", MESSAGES, "127.0.0.1", &port]).limit(90).run()?;
    ensure!(output.stdout == "ok\n", "{output}");
    let mut status = String::new();
    std::fs::File::open(format!("/proc/{}/status", stage.world.agent.pid()?))?.read_to_string(&mut status)?;
    let peak =
        status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or_default().trim().to_owned();
    let kilobytes: u64 = peak.trim_end_matches(" kB").parse()?;
    ensure!(kilobytes < 300 << 10, "the agent once held {peak}");
    ensure!(stage.command("after-hostile", "echo alive")?.stdout == "alive\n");
    Ok(())
}
