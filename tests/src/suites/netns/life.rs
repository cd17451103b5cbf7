//! Namespaces come and go, and so does the agent: nothing is kept, nothing is left open.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::harness::net::Netns;
use crate::harness::report::Case;
use crate::harness::spawn::{Program, Running, wait_for};
use crate::harness::trail::Trail;

use super::lab::{LISTEN_PORT, Lab, PORT, SERVER_V4};

/// Namespaces made and left in the loop; `CHAPERONE_E2E_CHURN` asks for another number.
const CHURN: usize = 200;

const FRESH: &str = include_str!("../../../clients/fresh_netns.py");

pub(super) const CASES: &[Case<Lab>] = &[
    Case {
        name: "a namespace with a governed process in it has a listener before the first connect",
        run: proactive,
    },
    Case { name: "a namespace that everybody has left is really gone", run: freed },
    Case { name: "namespaces made and left in a loop leave nothing behind", run: churn },
    Case {
        name: "with the agent killed every namespace is refused, and served again after a restart",
        run: killed,
    },
    Case { name: "after `detach` nothing of it is left in other namespaces", run: detached },
];

/// A process that only sits there.
fn dweller(lab: &Lab, netns: &Netns) -> Result<Running> {
    Program::new("/usr/bin/sleep").args(["100"]).inside(&lab.billing_bot)?.netns(&netns.path())?.start()
}

/// Cookies of the namespaces the agent has a listener in.
fn served(lab: &Lab) -> Result<Vec<String>> {
    let directory = lab.agent.bpffs.join("pins/netns");
    let entries = fs::read_dir(&directory).with_context(|| format!("reading {}", directory.display()))?;
    entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
}

fn until_served(lab: &Lab, count: usize) -> Result<()> {
    let what = format!("{count} served namespaces");
    let seen = wait_for(&what, Duration::from_secs(25), || Ok((served(lab)?.len() == count).then_some(())));
    seen.with_context(|| format!("served: {:?}", served(lab)))
}

fn proactive(lab: &mut Lab) -> Result<()> {
    until_served(lab, 0)?;
    let _dweller = dweller(lab, &lab.pods[0])?;
    until_served(lab, 1)?;
    let held = counter(lab, "held_syn")?;
    lab.client(&lab.pods[0], SERVER_V4, "proactive").psql(&["select 1"])?.ok()?;
    ensure!(counter(lab, "held_syn")? == held, "the first connect had to wait");
    Ok(())
}

pub(super) fn counter(lab: &Lab, name: &str) -> Result<u64> {
    lab.agent.counter(name)
}

/// The host's end of a cable goes away with the namespace at its other end: nothing else shows so surely that the
/// kernel has let go of it.
fn freed(lab: &mut Lab) -> Result<()> {
    let gone = Netns::new("netns", "gone")?;
    lab.wire(&gone, 99)?;
    lab.client(&gone, SERVER_V4, "leaver").psql(&["select 1"])?.ok()?;
    Trail::of(&lab.agent, "leaver")?;
    let tracker =
        |lab: &Lab| Ok::<_, anyhow::Error>(lab.host.ip_says(&["-o", "link", "show"])?.contains("pod99"));
    ensure!(tracker(lab)?, "no cable to the pod");
    drop(gone);
    wait_for("the end of the namespace", Duration::from_secs(25), || Ok((!tracker(lab)?).then_some(())))
}

/// What the agent holds: descriptors, threads, served namespaces, unfinished connections.
fn holdings(lab: &Lab) -> Result<(usize, usize, usize, u64)> {
    let pid = lab.agent.pid()?;
    let count = |what: &str| -> Result<usize> { Ok(fs::read_dir(format!("/proc/{pid}/{what}"))?.count()) };
    Ok((count("fd")?, count("task")?, served(lab)?.len(), counter(lab, "flows")?))
}

fn churn(lab: &mut Lab) -> Result<()> {
    let count = std::env::var("CHAPERONE_E2E_CHURN").ok().and_then(|text| text.parse().ok()).unwrap_or(CHURN);
    // Once before counting: what is made at the first use stays.
    visit(lab, "warm-up", 10)?;
    until_served(lab, 0)?;
    settle(lab)?;
    let (before, memory) = (holdings(lab)?, memory(lab)?);
    visit(lab, "churn", count)?;
    until_served(lab, 0)?;
    settle(lab)?;
    let (after, grown) = (holdings(lab)?, memory_since(lab, memory)?);
    // Less is no leak: idle threads of the runtime end by themselves.
    let grew = after.0 > before.0 || after.1 > before.1 || after.2 > before.2 || after.3 > before.3;
    ensure!(!grew, "(descriptors, threads, served, flows) were {before:?} and are {after:?}");
    eprintln!(
        "        {count} namespaces made and left: {before:?} held before and {after:?} after, {grown} KiB more resident"
    );
    Ok(())
}

fn visit(lab: &Lab, user: &str, count: usize) -> Result<()> {
    let args = [SERVER_V4, &PORT.to_string(), user, "shop", &count.to_string(), "10"];
    let said = lab.python(&lab.billing_bot, &lab.host, FRESH, &args)?.limit(300).run()?.ok()?;
    let served =
        said.lines().filter(|line| line.split(' ').all(|number| number.parse::<f64>().is_ok())).count();
    ensure!(served == count, "{served} of {count} were served:\n{said}");
    Ok(())
}

/// Until sessions have ended and their descriptors are closed: the count has stopped changing.
fn settle(lab: &Lab) -> Result<()> {
    let mut last = holdings(lab)?;
    wait_for("an idle agent", Duration::from_secs(20), || {
        std::thread::sleep(Duration::from_millis(400));
        let now = holdings(lab)?;
        let same = now == last;
        last = now;
        Ok(same.then_some(()))
    })
}

/// Resident KiB of the agent.
fn memory(lab: &Lab) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{}/status", lab.agent.pid()?))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

fn memory_since(lab: &Lab, before: u64) -> Result<u64> {
    let grown = memory(lab)?.saturating_sub(before);
    // Sessions' buffers and the allocator's slack; a leak per namespace would show in the long run of this case.
    ensure!(grown < 40 << 10, "{grown} KiB more resident than before");
    Ok(grown)
}

fn killed(lab: &mut Lab) -> Result<()> {
    let _dweller = dweller(lab, &lab.pods[0])?;
    until_served(lab, 1)?;
    lab.client(&lab.pods[0], SERVER_V4, "before-kill").psql(&["select 1"])?.ok()?;
    let mark = lab.log_length()?;
    lab.agent.kill();
    let outcome = refused_everywhere(lab, mark);
    lab.start_agent()?;
    outcome?;
    // The agent that is ready has served it already.
    let held = counter(lab, "held_syn")?;
    lab.client(&lab.pods[0], SERVER_V4, "after-kill").psql(&["select 1"])?.ok()?;
    ensure!(counter(lab, "held_syn")? == held, "the namespace was not served at the start");
    lab.client(&lab.pods[1], SERVER_V4, "after-kill-1").psql(&["select 1"])?.ok().map(drop)
}

fn refused_everywhere(lab: &Lab, mark: usize) -> Result<()> {
    // Whoever listens now on the port that redirected connections go to must not get them.
    let squatter = "import socket\n\
        s = socket.socket()\n\
        try:\n\
        \x20   s.bind(('127.0.0.1', PORT))\n\
        \x20   s.listen()\n\
        \x20   s.settimeout(8)\n\
        \x20   print('caught', s.accept()[1])\n\
        except OSError as error:\n\
        \x20   print('nothing', error)\n"
        .replace("PORT", &LISTEN_PORT.to_string());
    let squatters = [
        lab.python(&lab.billing_bot, &lab.pods[0], &squatter, &[])?.start()?,
        lab.python(&lab.outside, &lab.pods[0], &squatter, &[])?.start()?,
    ];
    for pod in &lab.pods {
        for _ in 0..2 {
            let client = lab.client(pod, SERVER_V4, "shop_scram").limit(20);
            let output = client.psql(&["select 1"])?;
            ensure!(output.code == Some(2), "{output}");
            let said = ["refused", "not permitted", "timed out"];
            ensure!(said.iter().any(|word| output.stderr.contains(word)), "{output}");
        }
    }
    for squatter in squatters {
        let said = squatter.finish(Duration::from_secs(20))?.ok()?;
        ensure!(said.starts_with("nothing"), "somebody else's connection: {said}");
    }
    ensure!(lab.visitors_since(mark)?.is_empty(), "the server was reached");
    Ok(())
}

fn detached(lab: &mut Lab) -> Result<()> {
    let _dweller = dweller(lab, &lab.pods[0])?;
    until_served(lab, 1)?;
    lab.agent.stop()?;
    let outcome = lab.agent.command_on_host(&["detach"])?.ok();
    let left = lab.agent.bpffs.join("pins/netns").exists();
    let mark = lab.log_length()?;
    // Nothing is in the way any more: the pod's own address is what the server sees.
    let direct = lab.client(&lab.pods[0], SERVER_V4, "shop_scram");
    let rows = direct.env("PGPASSWORD", crate::harness::postgres::SCRAM_PASSWORD).psql(&["select 3"])?;
    lab.start_agent()?;
    outcome?;
    ensure!(!left, "the links of other namespaces are still pinned");
    ensure!(rows.ok()? == "3\n", "not reached directly");
    ensure!(lab.visitors_since(mark)?.contains(&"10.213.1.2".to_owned()), "not reached from the pod");
    Ok(())
}
