//! Packets that no socket of TCP's is behind: the host's side stops them. Each is shown to arrive without the guard.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::harness::net::Netns;
use crate::harness::report::Case;
use crate::harness::spawn::Program;

use super::lab::{Lab, PORT, SERVER_V4, SERVER_V6};
use super::life::counter;

const PACKETS: &str = include_str!("../../../clients/packets.py");

pub(super) const CASES: &[Case<Lab>] = &[
    Case { name: "AF_PACKET, past the queues or not, and TUN reach no target from a pod", run: stopped },
    Case { name: "an exempted interface is let through, and only that", run: exempted },
    Case {
        name: "a target on the host's loopback is closed to pods at the host's other addresses",
        run: local,
    },
    Case { name: "a pod does not reach a target on the same bridge past the host either", run: bridged },
    Case { name: "the guard stays when the agent dies, and goes with `detach`", run: stays },
];

/// How, to which address, and the pod's address that it pretends to come from.
const WAYS: [(&str, &str, &str); 5] = [
    ("packet", SERVER_V4, "10.213.1.2"),
    ("packet", SERVER_V6, "fd13:1::2"),
    ("packet-bypass", SERVER_V4, "10.213.1.2"),
    ("packet-bypass", SERVER_V6, "fd13:1::2"),
    ("tun", SERVER_V4, ""),
];

fn attack(lab: &Lab, pod: usize, (way, server, source): (&str, &str, &str)) -> Result<String> {
    let gateway = mac(&lab.host.ip_says(&["-o", "link", "show", &format!("pod{}", pod + 1)])?)?;
    let args = [way, server, &PORT.to_string(), &gateway, source];
    let said = lab.python(&lab.billing_bot, &lab.pods[pod], PACKETS, &args)?.limit(20).run()?.ok()?;
    Ok(said.trim_end().to_owned())
}

/// The hardware address in what `ip link show` says.
pub(super) fn mac(link: &str) -> Result<String> {
    let address = link.split_once("link/ether ").and_then(|(_, rest)| rest.split(' ').next());
    address.map(str::to_owned).with_context(|| link.to_owned())
}

fn all_ways(lab: &Lab, expected: &str) -> Result<()> {
    for way in WAYS {
        let said = attack(lab, 0, way)?;
        ensure!(said == expected, "{way:?}: {said}, expected {expected}");
    }
    Ok(())
}

fn restart(lab: &mut Lab, more: &str) -> Result<()> {
    lab.agent.stop()?;
    lab.write_config(more)?;
    lab.start_agent()
}

fn stopped(lab: &mut Lab) -> Result<()> {
    restart(lab, "guard = \"off\"")?;
    let without = all_ways(lab, "answered");
    restart(lab, "guard = \"nft\"")?;
    without.context("without the guard")?;
    let before = counter(lab, "guard_dropped")?;
    all_ways(lab, "silence").context("with the guard")?;
    // A forged source gets no further; its answer would go elsewhere, so what is counted is the packet.
    attack(lab, 0, ("packet", SERVER_V4, "10.213.2.2"))?;
    let dropped = counter(lab, "guard_dropped")? - before;
    // More when the server repeats an answer from before, which the pod's kernel rejects.
    ensure!(dropped > WAYS.len() as u64, "only {dropped} packets were dropped");
    // The front door is open as before.
    lab.client(&lab.pods[0], SERVER_V4, "guarded").psql(&["select 1"])?.ok().map(drop)
}

fn exempted(lab: &mut Lab) -> Result<()> {
    lab.write_config("guard_exempt = [\"pod1\"]")?;
    lab.agent.reload()?;
    let reloaded = crate::harness::spawn::wait_for("the exemption", Duration::from_secs(10), || {
        Ok((attack(lab, 0, WAYS[0])? == "answered").then_some(()))
    });
    let other = attack(lab, 1, ("packet", SERVER_V4, "10.213.2.2"));
    restart(lab, "")?;
    reloaded?;
    ensure!(other? == "silence", "the other pod was let through");
    all_ways(lab, "silence")
}

/// A server that listens everywhere on the host, where the configuration names its loopback address.
fn local(lab: &mut Lab) -> Result<()> {
    let server = "import socket, sys\n\
        s = socket.create_server(('0.0.0.0', int(sys.argv[1])))\n\
        print('ready', flush=True)\n\
        while True:\n\
        \x20   s.accept()[0].sendall(b'from the host')\n";
    let client = "import socket, sys\n\
        try:\n\
        \x20   print(socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=2).recv(13).decode())\n\
        except OSError as error:\n\
        \x20   print('failed', error)\n";
    let port = PORT.to_string();
    let _server = lab.python(&lab.outside, &lab.host, server, &[&port])?.start()?;
    let knock = |cgroup, netns, address: &str| {
        lab.python(cgroup, netns, client, &[address, &port])?.limit(20).run()?.ok()
    };
    crate::harness::spawn::wait_for("the server on the host", Duration::from_secs(10), || {
        Ok((knock(&lab.outside, &lab.host, "10.213.1.1")? == "from the host\n").then_some(()))
    })?;
    let said = knock(&lab.outside, &lab.pods[0], "10.213.1.1")?;
    ensure!(said.starts_with("failed"), "a pod reached it: {said}");
    Ok(())
}

/// Two pods on one bridge: what goes between them is not forwarded by the host, only bridged.
fn bridged(lab: &mut Lab) -> Result<()> {
    let (one, server) = (Netns::new("netns", "bridged")?, Netns::new("netns", "served")?);
    lab.host.ip(&["link", "add", "bridge0", "type", "bridge"])?;
    lab.host.ip(&["link", "set", "bridge0", "up"])?;
    // Where bridged packets are shown to the rules for routed ones as well, those would do.
    let _absent = lab.host.sysctl("net.bridge.bridge-nf-call-iptables", "0");
    let address = "10.213.0.78";
    for (pod, port, own) in [(&one, "port1", "10.213.0.77/24"), (&server, "port2", "10.213.0.78/24")] {
        lab.host.cable((port, &[]), pod, ("eth0", &[own]))?;
        lab.host.ip(&["link", "set", port, "master", "bridge0"])?;
    }
    let listen = "import socket, sys\nsocket.create_server(('0.0.0.0', int(sys.argv[1]))).accept()\n";
    let _server = lab.python(&lab.outside, &server, listen, &[&PORT.to_string()])?.start()?;
    let gateway = mac(&server.ip_says(&["-o", "link", "show", "eth0"])?)?;
    let knock = || -> Result<String> {
        let args = ["packet", address, &PORT.to_string(), &gateway, "10.213.0.77"];
        Ok(lab.python(&lab.billing_bot, &one, PACKETS, &args)?.limit(20).run()?.ok()?.trim_end().to_owned())
    };
    let with = knock();
    // The same without the rules, so that it is them that stopped it.
    let table = tables(lab)?;
    let name =
        table.lines().find_map(|line| line.strip_prefix("table bridge ")).context("no table for bridges")?;
    let nft = |args: &[&str]| Program::new("/usr/sbin/nft").args(args).netns(&lab.host.path())?.run()?.ok();
    nft(&["delete", "table", "bridge", name])?;
    let without = knock();
    lab.host.ip(&["link", "delete", "bridge0"])?;
    ensure!(without? == "answered", "the pods cannot reach each other at all");
    ensure!(with? == "silence", "reached over the bridge");
    restart(lab, "")
}

fn tables(lab: &Lab) -> Result<String> {
    let nft = Program::new("/usr/sbin/nft").args(["list", "tables"]).netns(&lab.host.path())?;
    nft.run()?.ok()
}

fn stays(lab: &mut Lab) -> Result<()> {
    ensure!(tables(lab)?.contains("table inet chaperone-"), "{}", tables(lab)?);
    lab.agent.kill();
    let dead = attack(lab, 0, WAYS[0]);
    let detached = lab.agent.command_on_host(&["detach"]).and_then(|output| output.ok());
    let (left, free) = (tables(lab), attack(lab, 0, WAYS[0]));
    lab.start_agent()?;
    ensure!(dead? == "silence", "reached with the agent dead");
    detached?;
    ensure!(!left?.contains("chaperone"), "the table is left after `detach`");
    ensure!(free? == "answered", "not reached after `detach`");
    Ok(())
}
