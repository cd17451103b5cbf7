//! Connections that are older than the agent, or were brought along: their owners get an error, not silence.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::harness::cgroup::Cgroup;
use crate::harness::net::Netns;
use crate::harness::report::Case;
use crate::harness::spawn::{Running, wait_for};
use crate::harness::trail::{everything, holds};

use super::lab::{Lab, PORT, SERVER_V4};

pub(super) const CASES: &[Case<Lab>] = &[
    Case { name: "connections older than the agent end with an error, on the host and in a pod", run: older },
    Case {
        name: "a connection that a process brings into a governed cgroup ends with an error",
        run: brought,
    },
    Case {
        name: "a socket made elsewhere and connected in a governed cgroup ends with an error within seconds",
        run: carried,
    },
];

/// Makes a socket, is moved into another cgroup, is looked at there, and only then connects: no program of the agent's is
/// attached where the socket was made.
const CARRIER: &str = "import socket, sys, time\n\
    s = socket.socket()\n\
    open(sys.argv[3], 'w').write('made')\n\
    while 'billing-bot' not in open('/proc/self/cgroup').read():\n\
    \x20   time.sleep(0.05)\n\
    time.sleep(2)\n\
    began = time.monotonic()\n\
    s.connect((sys.argv[1], int(sys.argv[2])))\n\
    s.settimeout(40)\n\
    try:\n\
    \x20   print('received', s.recv(1))\n\
    except OSError as error:\n\
    \x20   print(error.errno, round(time.monotonic() - began, 1))\n";

/// Connects, says so, waits for the server's word for as long as it takes, and prints what ended it.
const WAITER: &str = "import socket, sys, time\n\
    s = socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=20)\n\
    s.settimeout(40)\n\
    open(sys.argv[3], 'w').write('connected')\n\
    try:\n\
    \x20   print('received', s.recv(1))\n\
    except OSError as error:\n\
    \x20   print(error.errno, type(error).__name__)\n";

fn waiter(lab: &Lab, cgroup: &Cgroup, netns: &Netns, name: &str) -> Result<Running> {
    let flag = lab.scratch.path().join(name);
    let args = [SERVER_V4, &PORT.to_string(), &flag.to_string_lossy()];
    let running = lab.python(cgroup, netns, WAITER, &args)?.start()?;
    wait_for("an old connection", Duration::from_secs(10), || Ok(flag.exists().then_some(())))?;
    Ok(running)
}

fn aborted(running: Running) -> Result<()> {
    let output = running.finish(Duration::from_secs(30))?;
    let said = output.ok()?;
    ensure!(said == "103 ConnectionAbortedError\n", "{said:?}");
    Ok(())
}

/// What is recorded of ended connections.
fn recorded(lab: &Lab) -> Result<Vec<Value>> {
    let mut found = Vec::new();
    for event in everything(&lab.agent)?.iter().filter(|event| event["event"] == "old_connections") {
        found.extend(event["connections"].as_array().cloned().unwrap_or_default());
    }
    Ok(found)
}

/// The same, when there are more than `before`: the owner hears of it first.
fn recorded_after(lab: &Lab, before: usize) -> Result<Vec<Value>> {
    wait_for("a record of ended connections", Duration::from_secs(5), || {
        Ok(Some(recorded(lab)?).filter(|found| found.len() > before))
    })
}

fn older(lab: &mut Lab) -> Result<()> {
    lab.agent.stop()?;
    lab.agent.command_on_host(&["detach"])?.ok()?;
    let on_host = waiter(lab, &lab.billing_bot, &lab.host, "old-host")?;
    let in_pod = waiter(lab, &lab.billing_bot, &lab.pods[0], "old-pod")?;
    let mut bypassed = waiter(lab, &lab.bypassed, &lab.host, "old-bypassed")?;
    let mut outside = waiter(lab, &lab.outside, &lab.pods[0], "old-outside")?;
    lab.start_agent()?;
    aborted(on_host)?;
    aborted(in_pod)?;
    ensure!(!bypassed.exited()?, "the connection of a bypassed cgroup was ended too");
    ensure!(!outside.exited()?, "the connection of a cgroup that is not governed was ended too");
    let found = recorded_after(lab, 1)?;
    for netns in [&lab.host, &lab.pods[0]] {
        let inode = netns.inode()?;
        let here: Vec<_> = found.iter().filter(|connection| connection["netns_inode"] == inode).collect();
        ensure!(here.len() == 1, "recorded of {inode}: {here:?}; all: {found:?}");
        holds(here[0], &json!({"destination": format!("{SERVER_V4}:{PORT}"), "uid": 0}))?;
    }
    Ok(())
}

fn brought(lab: &mut Lab) -> Result<()> {
    let before = recorded(lab)?.len();
    let running = waiter(lab, &lab.outside, &lab.host, "brought")?;
    let pid = running.pid();
    std::fs::write(lab.billing_bot.path().join("cgroup.procs"), pid.to_string())?;
    aborted(running)?;
    let found = recorded_after(lab, before)?;
    let ended = found.get(before..).unwrap_or_default();
    ensure!(ended.len() == 1, "{ended:?}");
    holds(&ended[0], &json!({"destination": format!("{SERVER_V4}:{PORT}"), "pid": pid}))
}

fn carried(lab: &mut Lab) -> Result<()> {
    let before = recorded(lab)?.len();
    let flag = lab.scratch.path().join("carried");
    let args = [SERVER_V4, &PORT.to_string(), &flag.to_string_lossy()];
    let running = lab.python(&lab.outside, &lab.host, CARRIER, &args)?.start()?;
    wait_for("a socket", Duration::from_secs(10), || Ok(flag.exists().then_some(())))?;
    let pid = running.pid();
    std::fs::write(lab.billing_bot.path().join("cgroup.procs"), pid.to_string())?;
    let said = running.finish(Duration::from_secs(40))?.ok()?;
    let (error, seconds) = said.trim_end().split_once(' ').context("what became of it")?;
    ensure!(error == "103" && seconds.parse::<f64>().is_ok_and(|seconds| seconds < 15.0), "{said}");
    eprintln!("        ended after {seconds} s");
    let found = recorded_after(lab, before)?;
    let ended = found.get(before..).unwrap_or_default();
    ensure!(ended.len() == 1, "{ended:?}");
    holds(&ended[0], &json!({"destination": format!("{SERVER_V4}:{PORT}"), "pid": pid}))
}
