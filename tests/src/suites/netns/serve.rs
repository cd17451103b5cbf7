//! Connections from other namespaces reach the agent, whoever made the namespace and whenever.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::json;

use crate::harness::container::{Container, Wish};
use crate::harness::net::Netns;
use crate::harness::report::Case;
use crate::harness::spawn::Program;
use crate::harness::trail::{Trail, holds, sessions};

use super::lab::{LISTEN_PORT, Lab, PORT, SERVER_V4, SERVER_V6};
use super::life::counter;

pub(super) const FRESH: &str = include_str!("../../../clients/fresh_netns.py");

pub(super) const CASES: &[Case<Lab>] = &[
    Case {
        name: "a client in a pod is served, over IPv4 and IPv6, and its namespace is in the record",
        run: pod,
    },
    Case { name: "the server sees the agent's address, never the pod's", run: address },
    Case { name: "a client that makes its own namespace is served there", run: unshared },
    Case { name: "an unprivileged user's namespace is served too", run: unprivileged },
    Case { name: "a container is served: root inside, with Docker's capabilities", run: container },
    Case { name: "the first connect of a new namespace is held until there is a listener", run: first },
    Case { name: "fifty new namespaces connect at once, and each gets its own session", run: parallel },
    Case { name: "a thread with a namespace of its own is served for as long as it lives", run: thread },
    Case { name: "the same addresses and ports in two namespaces are two clients", run: told_apart },
    Case { name: "loopback in a pod is the pod's own, even at the address of a target", run: own_loopback },
    Case { name: "without loopback a connect fails and goes nowhere", run: no_loopback },
];

fn pod(lab: &mut Lab) -> Result<()> {
    let pod = &lab.pods[0];
    for (host, asked) in
        [(SERVER_V4, format!("{SERVER_V4}:{PORT}")), (SERVER_V6, format!("[fd13::2]:{PORT}"))]
    {
        let user = format!("pod-{host}");
        let rows = lab.client(pod, host, &user).psql(&["select email from customers where id = 1"])?.ok()?;
        ensure!(rows == "***\n", "{rows:?}");
        let trail = Trail::of(&lab.agent, &user)?;
        let start = trail.first("session_start")?;
        holds(start, &json!({"target": "shop", "original_destination": asked}))?;
        holds(&start["workload"], &json!({"netns_inode": pod.inode()?, "comm": "psql"}))?;
        ensure!(start["identity"]["name"] == "billing-bot", "{start}");
    }
    Ok(())
}

fn address(lab: &mut Lab) -> Result<()> {
    let mark = lab.log_length()?;
    lab.client(&lab.pods[1], SERVER_V4, "address").psql(&["select 1"])?.ok()?;
    ensure!(!lab.visitors_since(mark)?.is_empty(), "the server saw nobody");
    lab.only_the_agent_since(mark)
}

fn unshared(lab: &mut Lab) -> Result<()> {
    let rows = in_own_namespace(lab, &["-n"], "unshared", true)?;
    ensure!(rows == "7\n", "{rows:?}");
    Ok(())
}

fn unprivileged(lab: &mut Lab) -> Result<()> {
    let rows = in_own_namespace(lab, &["-U", "-r", "-n"], "unprivileged", false)?;
    ensure!(rows == "7\n", "{rows:?}");
    Ok(())
}

fn container(lab: &mut Lab) -> Result<()> {
    let cgroup = lab.billing_bot.child("container")?;
    let netns = Netns::new("netns", "container")?;
    lab.wire(&netns, 98)?;
    let container = Container::start(&lab.scratch, "shop-client", &cgroup, &netns, &Wish::default())?;
    // Not the wrapper of Debian's, which reads files that a container need not have.
    let psql = lab.postgres.program("psql");
    let port = PORT.to_string();
    let args = ["-XAt", "-h", SERVER_V4, "-p", &port, "-U", "contained", "-d", "shop", "-c", "select 8"];
    let rows = container.exec(&psql.to_string_lossy(), &args).limit(30).run()?.ok()?;
    ensure!(rows == "8\n", "{rows:?}");
    let trail = Trail::of(&lab.agent, "contained")?;
    let start = trail.first("session_start")?;
    holds(&start["identity"], &json!({"name": "billing-bot"}))?;
    holds(&start["workload"], &json!({"netns_inode": netns.inode()?, "cgroup": cgroup.name()}))
}

/// psql below `unshare`, in a namespace that has nothing but a loopback.
fn in_own_namespace(lab: &Lab, how: &[&str], user: &str, root: bool) -> Result<String> {
    let script = format!(
        "ip link set lo up && exec psql -XAt -h {SERVER_V4} -p {PORT} -U {user} -d shop -c 'select 7'"
    );
    let program = Program::new("/usr/bin/unshare").args(how).args(["--", "/bin/sh", "-c", &script]);
    let program = program.inside(&lab.billing_bot)?.netns(&lab.host.path())?.limit(30);
    if root { program } else { program.user("nobody")? }.run()?.ok()
}

fn first(lab: &mut Lab) -> Result<()> {
    let mut connected = Vec::new();
    for number in 0..5 {
        let (connect, ready) =
            *fresh(lab, SERVER_V4, &format!("first-{number}"), 1)?.first().context("one")?;
        connected.push(connect);
        // The kernel's own timeout is a second: with it the listener would have been in time for the second SYN only.
        ensure!(connect < 900.0, "the first connect took {connect} ms, the login {ready} ms");
    }
    connected.sort_by(f64::total_cmp);
    eprintln!("        first connect of a new namespace: {connected:.1?} ms");
    fresh(lab, SERVER_V6, "first-v6", 1).map(drop)
}

fn parallel(lab: &mut Lab) -> Result<()> {
    let mark = lab.log_length()?;
    let mut times = fresh(lab, SERVER_V4, "crowd", 50)?;
    ensure!(times.len() == 50, "{} of 50 were served", times.len());
    times.sort_by(|a, b| a.0.total_cmp(&b.0));
    eprintln!(
        "        50 first connects at once: median {:.1} ms, slowest {:.1} ms; slowest login {:.1} ms",
        times[25].0,
        times[49].0,
        times.iter().map(|(_, ready)| *ready).fold(0.0, f64::max)
    );
    let found = sessions(&lab.agent)?;
    for number in 0..50 {
        let user = format!("crowd-{number}");
        let count = found.iter().filter(|session| session["claimed_user"] == user.as_str()).count();
        ensure!(count == 1, "{user} has {count} sessions");
    }
    lab.only_the_agent_since(mark)
}

/// Times to connect and to log in, in milliseconds.
pub(super) fn fresh(lab: &Lab, host: &str, user: &str, count: usize) -> Result<Vec<(f64, f64)>> {
    let args = [host, &PORT.to_string(), user, "shop", &count.to_string()];
    let said = lab.python(&lab.billing_bot, &lab.host, FRESH, &args)?.limit(60).run()?.ok()?;
    said.lines()
        .map(|line| {
            let numbers = line.split_once(' ').and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
            numbers.with_context(|| line.to_owned())
        })
        .collect()
}

/// Its process lives elsewhere, so that no list of processes leads to the namespace.
fn thread(lab: &mut Lab) -> Result<()> {
    let source = "import ctypes, fcntl, socket, struct, sys, threading, time\n\
        libc = ctypes.CDLL(None)\n\
        def run():\n\
        \x20   assert libc.unshare(0x40000000) == 0\n\
        \x20   with socket.socket() as lo:\n\
        \x20       fcntl.ioctl(lo, 0x8914, struct.pack('16sH14x', b'lo', 1))\n\
        \x20   for _ in range(20):\n\
        \x20       began = time.monotonic()\n\
        \x20       socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=10).close()\n\
        \x20       print(round((time.monotonic() - began) * 1000, 1), flush=True)\n\
        \x20       time.sleep(0.05)\n\
        thread = threading.Thread(target=run)\n\
        thread.start()\n\
        thread.join()\n";
    let held = counter(lab, "held_syn")?;
    let said = lab.python(&lab.billing_bot, &lab.host, source, &[SERVER_V4, &PORT.to_string()])?;
    let said = said.limit(60).run()?.ok()?;
    ensure!(said.lines().count() == 20, "{said}");
    // The first SYN, and at most its repetitions; were the namespace let go of meanwhile, others would be held too.
    let held = counter(lab, "held_syn")? - held;
    eprintln!("        {held} first packets held; milliseconds: {}", said.trim_end().replace('\n', " "));
    ensure!(held <= 4, "{held} first packets were held:\n{said}");
    Ok(())
}

fn told_apart(lab: &mut Lab) -> Result<()> {
    // Logs in from a port of its choice and stays a while.
    let source = "import socket, struct, sys, time\n\
        s = socket.socket()\n\
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)\n\
        s.settimeout(20)\n\
        s.bind(('127.0.0.1', 40123))\n\
        s.connect((sys.argv[1], int(sys.argv[2])))\n\
        body = struct.pack('!i', 196608) + b'user\\0' + sys.argv[3].encode() + b'\\0database\\0shop\\0\\0'\n\
        s.sendall(struct.pack('!i', len(body) + 4) + body)\n\
        print(s.recv(1).decode(), s.getsockname()[1], flush=True)\n\
        time.sleep(3)\n";
    let port = PORT.to_string();
    let start = |cgroup, pod, user: &str| lab.python(cgroup, pod, source, &[SERVER_V4, &port, user])?.start();
    let one = start(&lab.billing_bot, &lab.pods[0], "apart-one")?;
    let two = start(&lab.mail_bot, &lab.pods[1], "apart-two")?;
    for (user, identity, pod) in
        [("apart-one", "billing-bot", &lab.pods[0]), ("apart-two", "mail-bot", &lab.pods[1])]
    {
        let trail = Trail::when(&lab.agent, user, |trail| trail.first("session_start").is_ok())?;
        let start = trail.first("session_start")?;
        holds(start, &json!({"client": "127.0.0.1:40123"}))?;
        holds(&start["identity"], &json!({"name": identity}))?;
        holds(&start["workload"], &json!({"netns_inode": pod.inode()?}))?;
    }
    for client in [one, two] {
        let said = client.finish(Duration::from_secs(20))?.ok()?;
        ensure!(said == "R 40123\n", "{said:?}");
    }
    Ok(())
}

fn own_loopback(lab: &mut Lab) -> Result<()> {
    let before = sessions(&lab.agent)?.len();
    let source = "import socket, sys, threading\n\
        family = socket.AF_INET6 if ':' in sys.argv[1] else socket.AF_INET\n\
        server = socket.socket(family)\n\
        server.bind((sys.argv[1], int(sys.argv[2])))\n\
        server.listen()\n\
        def serve():\n\
        \x20   peer = server.accept()[0]\n\
        \x20   peer.sendall(peer.recv(5) + b' from the pod')\n\
        threading.Thread(target=serve, daemon=True).start()\n\
        s = socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=10)\n\
        s.sendall(b'hello')\n\
        print(s.recv(100).decode())\n";
    for host in ["127.0.0.1", "::1"] {
        let program = lab.python(&lab.billing_bot, &lab.pods[0], source, &[host, &PORT.to_string()])?;
        let said = program.limit(20).run()?.ok()?;
        ensure!(said == "hello from the pod\n", "{host}: {said:?}");
    }
    ensure!(sessions(&lab.agent)?.len() == before, "a session was recorded");
    // On the host the same address is the target's, and governed.
    let client = lab.client(&lab.host, "127.0.0.1", "host-loopback");
    let error = client.psql(&["select 1"])?.refused()?;
    ensure!(error.contains("target \"shop-local\""), "{error}");
    Ok(())
}

fn no_loopback(lab: &mut Lab) -> Result<()> {
    let mark = lab.log_length()?;
    let script = format!("exec psql -XAt -h {SERVER_V4} -p {PORT} -U shop_scram -d shop -c 'select 1'");
    let program = Program::new("/usr/bin/unshare").args(["-n", "--", "/bin/sh", "-c", &script]);
    let error = program.inside(&lab.billing_bot)?.netns(&lab.host.path())?.limit(20).run()?.refused()?;
    ensure!(error.contains("unreachable"), "{error}");
    // Neither is the listener's port any way in.
    let client = lab.client(&lab.pods[0], "127.0.0.1", "sneak").port(LISTEN_PORT);
    client.psql(&["select 1"])?.refused()?;
    ensure!(lab.visitors_since(mark)?.is_empty(), "the server was reached");
    Ok(())
}
