//! Every death of the agent, with root in a container trying throughout: not one packet of his reaches the server.

use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::Signal;

use crate::harness::cgroup::{Cgroup, mount_point};
use crate::harness::container::{Container, Wish};
use crate::harness::net::Netns;
use crate::harness::report::Case;
use crate::harness::spawn::{Program, Running, wait_for};

use super::guard::mac;
use super::lab::{AGENT_V4, AGENT_V6, Lab, PORT, SERVER_V4, SERVER_V6};

const ATTACKER: &str = include_str!("../../../clients/attacker.py");

/// The number of the attacker's pod: its addresses.
const POD: usize = 95;

pub(super) const CASES: &[Case<Lab>] = &[
    Case {
        name: "attacked by root in a container: it does reach a server that nobody guards",
        run: unguarded,
    },
    Case {
        name: "attacked by root in a container: the agent killed, and aborted as by a panic",
        run: killed,
    },
    Case { name: "attacked by root in a container: the agent stopped (SIGSTOP)", run: stopped },
    Case {
        name: "attacked by root in a container: the agent out of its cgroup's memory",
        run: out_of_memory,
    },
    Case { name: "attacked by root in a container: bpffs unmounted, and the agent killed", run: unmounted },
];

/// Root in a container with Docker's capabilities, and what the server's host sees of him.
struct Attacker {
    running: Running,
    stop: PathBuf,
    _container: Container,
    _netns: Netns,
    _cgroup: Cgroup,
}

/// How often an attempt met what.
type Met = HashMap<(String, String), u64>;

impl Attacker {
    fn start(lab: &Lab) -> Result<Self> {
        let netns = Netns::new("netns", "attacker")?;
        lab.wire(&netns, POD)?;
        let shared = lab.scratch.folder("attacker", 0o777)?;
        fs::write(shared.join("attacker.py"), ATTACKER)?;
        let stop = shared.join("stop");
        // Of the case before.
        let _ = fs::remove_file(&stop);
        let cgroup = lab.billing_bot.child("attacker")?;
        let cgroups = mount_point()?;
        let mounts = [(shared.as_path(), "/shared", false), (cgroups.as_path(), "/sys/fs/cgroup", false)];
        let wish = Wish { mounts: &mounts, ..Wish::default() };
        let container = Container::start(&lab.scratch, "attacker", &cgroup, &netns, &wish)?;
        let gateway = mac(&lab.host.ip_says(&["-o", "link", "show", &format!("pod{POD}")])?)?;
        let (port, source) = (PORT.to_string(), format!("10.213.{POD}.2"));
        let args =
            ["/shared/attacker.py", SERVER_V4, SERVER_V6, &port, "shop", "/shared/stop", &gateway, &source];
        count_strangers(lab)?;
        let running = container.exec("/usr/bin/python3", &args).limit(120).start()?;
        Ok(Self { running, stop, _container: container, _netns: netns, _cgroup: cgroup })
    }

    fn end(self) -> Result<Met> {
        fs::write(&self.stop, "")?;
        let said = self.running.finish(Duration::from_secs(30))?.ok()?;
        let words = said.lines().map(|line| line.split(' ').collect::<Vec<_>>());
        let met = words.filter_map(|words| match words.as_slice() {
            [name, outcome, count] => {
                Some((((*name).to_owned(), (*outcome).to_owned()), count.parse().ok()?))
            }
            _ => None,
        });
        let met: Met = met.collect();
        eprintln!("        {}", said.trim_end().replace('\n', ", "));
        Ok(met)
    }
}

/// Packets for the server's port whose sender is not the agent, counted where the server is. Resets end connections of
/// the time before, and ask nothing.
fn count_strangers(lab: &Lab) -> Result<()> {
    let rules = format!(
        "table inet witness\ndelete table inet witness\n\
         table inet witness {{\n counter segments {{ }}\n counter datagrams {{ }}\n chain seen {{\n\
         type filter hook prerouting priority -300; policy accept;\n\
         ip saddr != {AGENT_V4} tcp dport {PORT} tcp flags & rst != rst counter name segments\n\
         ip6 saddr != {AGENT_V6} tcp dport {PORT} tcp flags & rst != rst counter name segments\n\
         ip saddr != {AGENT_V4} udp dport {PORT} counter name datagrams\n\
         ip6 saddr != {AGENT_V6} udp dport {PORT} counter name datagrams\n }}\n}}\n"
    );
    let nft = Program::new("/usr/sbin/nft").args(["-f", "-"]).stdin(rules).netns(&lab.there.path())?;
    nft.run()?.ok().map(drop)
}

/// How many there were, TCP and UDP.
fn strangers(lab: &Lab) -> Result<[u64; 2]> {
    let nft = Program::new("/usr/sbin/nft").args(["list", "counters", "table", "inet", "witness"]);
    let said = nft.netns(&lab.there.path())?.run()?.ok()?;
    let of = |name: &str| -> Result<u64> {
        let rest = said.split_once(&format!("counter {name} {{")).context("no such counter")?.1;
        let count = rest.split_once("packets ").and_then(|(_, rest)| rest.split(' ').next());
        Ok(count.with_context(|| said.clone())?.parse()?)
    };
    Ok([of("segments")?, of("datagrams")?])
}

fn times(met: &Met, name: &str, outcomes: &[&str]) -> u64 {
    let of_name =
        met.iter().filter(|((attempt, outcome), _)| attempt == name && outcomes.contains(&outcome.as_str()));
    of_name.map(|(_, count)| count).sum()
}

/// The attack is one: with nothing in force every way of it but the agent's own doors leads to the server.
fn unguarded(lab: &mut Lab) -> Result<()> {
    lab.agent.stop()?;
    let detached = lab.agent.command_on_host(&["detach"]).and_then(|output| output.ok());
    let outcome = Attacker::start(lab).and_then(|attacker| {
        std::thread::sleep(Duration::from_secs(1));
        let met = attacker.end()?;
        Ok((met, strangers(lab)?))
    });
    lab.start_agent()?;
    detached?;
    let (met, [tcp, udp]) = outcome?;
    for name in ["tcp", "tcp6"] {
        ensure!(times(&met, name, &["direct"]) > 0, "{name} did not reach the server: {met:?}");
    }
    for name in ["udp", "raw", "frame", "frame-bypass"] {
        ensure!(times(&met, name, &["sent"]) > 0, "{name} was not sent: {met:?}");
    }
    ensure!(tcp > 0 && udp > 0, "the server's host saw {tcp} segments and {udp} datagrams");
    Ok(())
}

/// Served, then the death, then served again; what the attacker met in between is in the result.
fn attacked(lab: &mut Lab, death: fn(&mut Lab) -> Result<()>) -> Result<()> {
    let attacker = Attacker::start(lab)?;
    std::thread::sleep(Duration::from_secs(1));
    let outcome = death(lab).and_then(|()| {
        std::thread::sleep(Duration::from_secs(1));
        lab.client(&lab.pods[0], SERVER_V4, "after-death").psql(&["select 1"])?.ok().map(drop)
    });
    let met = attacker.end();
    outcome?;
    let met = met?;
    ensure!(strangers(lab)? == [0, 0], "the server's host saw the attacker: {:?}; {met:?}", strangers(lab)?);
    for name in ["tcp", "tcp6"] {
        ensure!(times(&met, name, &["direct"]) == 0, "{name} reached the server: {met:?}");
        ensure!(times(&met, name, &["served"]) > 0, "{name} was never served: {met:?}");
        let refused = ["refused", "closed", "ECONNREFUSED", "ECONNRESET", "EPERM", "TIMEOUT"];
        ensure!(times(&met, name, &refused) > 0, "{name} was never refused: {met:?}");
    }
    for name in ["umount", "pin", "move", "bpf"] {
        ensure!(times(&met, name, &["done"]) == 0, "{name}: {met:?}");
        ensure!(met.keys().any(|(attempt, _)| attempt == name), "{name} was not tried: {met:?}");
    }
    // They were tried, and are in no way refused to who has CAP_NET_RAW: the host's side drops them.
    ensure!(times(&met, "frame", &["sent"]) > 0 && times(&met, "frame-bypass", &["sent"]) > 0, "{met:?}");
    Ok(())
}

/// Refused, while nobody is there.
fn refused(lab: &Lab) -> Result<()> {
    std::thread::sleep(Duration::from_secs(1));
    let output = lab.client(&lab.pods[0], SERVER_V4, "nobody").limit(20).psql(&["select 1"])?;
    ensure!(output.code == Some(2), "{output}");
    Ok(())
}

fn killed(lab: &mut Lab) -> Result<()> {
    attacked(lab, |lab| {
        lab.agent.kill();
        let killed = refused(lab);
        lab.start_agent()?;
        lab.client(&lab.pods[0], SERVER_V4, "between-deaths").psql(&["select 1"])?.ok()?;
        lab.agent.signal(Signal::SIGABRT)?;
        let ended = lab.agent.wait_end(Duration::from_secs(10));
        let aborted = refused(lab);
        lab.start_agent()?;
        ensure!(ended?.signal == Some(Signal::SIGABRT as i32), "it did not end by an abort");
        killed.and(aborted)
    })
}

fn stopped(lab: &mut Lab) -> Result<()> {
    attacked(lab, |lab| {
        lab.agent.signal(Signal::SIGSTOP)?;
        // Until the heartbeat is stale, what connects waits for an answer.
        std::thread::sleep(Duration::from_secs(4));
        let outcome = refused(lab);
        lab.agent.signal(Signal::SIGCONT)?;
        wait_for("service", Duration::from_secs(15), || {
            let output = lab.client(&lab.pods[0], SERVER_V4, "awake").psql(&["select 5"])?;
            Ok((output.stdout == "5\n").then_some(()))
        })?;
        outcome
    })
}

/// The kernel's own killer, because the cgroup of the agent has no memory left for a statement of 48 MiB.
fn out_of_memory(lab: &mut Lab) -> Result<()> {
    attacked(lab, |lab| {
        let limited = limit_memory(lab, 24 << 20)?;
        let script = format!("select length('{}');\n", "x".repeat(48 << 20));
        let greedy = lab.client(&lab.pods[0], SERVER_V4, "greedy").limit(30).script(&script);
        let ended = lab.agent.wait_end(Duration::from_secs(20));
        let outcome = refused(lab);
        fs::write(&limited, "-1").or_else(|_| fs::write(&limited, "max"))?;
        lab.start_agent()?;
        ensure!(greedy?.code != Some(0), "the statement was served");
        ensure!(ended?.signal == Some(Signal::SIGKILL as i32), "the kernel did not kill it");
        outcome
    })
}

/// Limits the memory of the agent's cgroup, in the hierarchy that has the controller here. Gives the file with the limit.
fn limit_memory(lab: &Lab, bytes: u64) -> Result<PathBuf> {
    let pid = lab.agent.pid()?.to_string();
    let unified = lab.agent_cgroup.path().join("memory.max");
    if unified.exists() {
        let used: u64 = fs::read_to_string(unified.with_file_name("memory.current"))?.trim().parse()?;
        fs::write(&unified, (used + bytes).to_string())?;
        return Ok(unified);
    }
    // Goes with the cgroup of the same name.
    let twin = PathBuf::from("/sys/fs/cgroup/memory").join(lab.agent_cgroup.name().trim_start_matches('/'));
    fs::create_dir_all(&twin).context("no cgroup controller of memory on this machine")?;
    let limit = twin.join("memory.limit_in_bytes");
    fs::write(&limit, bytes.to_string())?;
    fs::write(twin.join("cgroup.procs"), pid)?;
    Ok(limit)
}

/// By root of the host, which alone can. The links stay with the agent, those of pods too, which pins them again as soon as
/// there is a bpf file system; then it may die. (Before it could, the links would go with it: that is root of the host's
/// to do.)
fn unmounted(lab: &mut Lab) -> Result<()> {
    attacked(lab, |lab| {
        umount2(&lab.agent.bpffs, MntFlags::MNT_DETACH)?;
        std::thread::sleep(Duration::from_secs(2));
        // From a namespace that is new to the agent, too.
        let served = lab.client(&lab.pods[0], SERVER_V4, "unmounted").psql(&["select 6"]);
        mount(Some("bpf"), &lab.agent.bpffs, Some("bpf"), MsFlags::empty(), None::<&str>)?;
        let pins = lab.agent.bpffs.join("pins");
        wait_for("the pins", Duration::from_secs(15), || {
            let of_pods = fs::read_dir(pins.join("netns")).map_or(0, Iterator::count);
            Ok((pins.join("links/egress").exists() && of_pods > 0).then_some(()))
        })?;
        lab.agent.kill();
        let outcome = refused(lab);
        lab.start_agent()?;
        served?.ok()?;
        outcome
    })
}
