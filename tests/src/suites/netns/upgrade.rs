//! One agent after another while containers are at work: nobody in them notices, also when the new agent fails.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::Signal;

use crate::harness::cgroup::Cgroup;
use crate::harness::container::{Container, Wish};
use crate::harness::net::Netns;
use crate::harness::report::Case;
use crate::harness::spawn::{Running, wait_for};

use super::lab::{Lab, PORT, SERVER_V4};
use super::serve::fresh;

const PROBER: &str = include_str!("../../../clients/prober.py");

/// Log in, ask, leave, again and again; at the end how often, how often not, and what was said then.
const LOOP: &str = r#"
n=0 failed=0
while [ ! -e "$1" ]; do
    [ "$("$2" -XAt -h "$3" -p "$4" -U looper -d shop -c 'select 8' 2>>/tmp/said)" = 8 ] || failed=$((failed+1))
    n=$((n+1))
done
echo "$n $failed"
cat /tmp/said
"#;

/// Take-overs that are tried before one is caught at the right moment.
const MOST_TRIES: usize = 12;

pub(super) const CASES: &[Case<Lab>] = &[
    Case { name: "an upgrade fails no client in two containers, and opens no way around", run: upgrade },
    Case {
        name: "a take-over that fails after it reached the kernel leaves every namespace served",
        run: failed_take_over,
    },
];

/// A container with a client that works and one that probes.
struct Busy {
    work: Running,
    prober: Running,
    stop: PathBuf,
    _container: Container,
    _netns: Netns,
    _cgroup: Cgroup,
}

impl Busy {
    fn start(lab: &Lab, number: usize) -> Result<Self> {
        let name = format!("busy{number}");
        let netns = Netns::new("netns", &name)?;
        lab.wire(&netns, number)?;
        let shared = lab.scratch.folder(&name, 0o777)?;
        fs::write(shared.join("prober.py"), PROBER)?;
        let stop = shared.join("stop");
        // Of a run before.
        let _ = fs::remove_file(&stop);
        let mounts = [(shared.as_path(), "/shared", false)];
        let wish = Wish { mounts: &mounts, ..Wish::default() };
        let cgroup = lab.billing_bot.child(&name)?;
        let container = Container::start(&lab.scratch, &name, &cgroup, &netns, &wish)?;
        let (psql, port) = (lab.postgres.program("psql"), PORT.to_string());
        let args = ["-c", LOOP, "loop", "/shared/stop", &psql.to_string_lossy(), SERVER_V4, &port];
        let work = container.exec("/bin/sh", &args).limit(120).start()?;
        let args = ["/shared/prober.py", SERVER_V4, &port, "prober", "shop", "/shared/stop", "0.02"];
        let prober = container.exec("/usr/bin/python3", &args).limit(120).start()?;
        Ok(Self { work, prober, stop, _container: container, _netns: netns, _cgroup: cgroup })
    }

    /// Ends both; how often each was served. Nothing may have gone wrong.
    fn end(self) -> Result<(u64, u64)> {
        fs::write(&self.stop, "")?;
        let work = self.work.finish(Duration::from_secs(30))?.ok()?;
        let counts = work.lines().next().and_then(|line| line.split_once(' ')).context("no counts")?;
        let (all, failed): (u64, u64) = (counts.0.parse()?, counts.1.parse()?);
        ensure!(failed == 0 && all > 0, "{failed} of {all} clients failed:\n{work}");
        let probed = self.prober.finish(Duration::from_secs(30))?.ok()?;
        let of = |name: &str| -> Result<u64> {
            let line = probed.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            Ok(line.with_context(|| probed.clone())?.parse()?)
        };
        for wrong in ["direct", "refused", "reset", "eperm", "error"] {
            ensure!(of(wrong)? == 0, "the prober met {wrong}:\n{probed}");
        }
        Ok((all, of("served")?))
    }
}

fn upgrade(lab: &mut Lab) -> Result<()> {
    let mark = lab.log_length()?;
    let busy = [Busy::start(lab, 96)?, Busy::start(lab, 97)?];
    std::thread::sleep(Duration::from_secs(1));
    let before = lab.agent.pid()?;
    let said = lab.agent.command_on_host(&["upgrade"])?.ok()?;
    let status = lab.agent.status()?.context("no agent answers")?;
    ensure!(status["pid"] != before, "the old agent still answers: {said}");
    std::thread::sleep(Duration::from_secs(2));
    let ended = busy.into_iter().map(Busy::end).collect::<Result<Vec<_>>>();
    let old = lab.agent.part().context("there was no agent before")?;
    let old = old.finish(Duration::from_secs(20));
    // The upgraded agent is nobody's child: one of ours takes over from it.
    lab.agent.succeed(&lab.agent_cgroup)?;
    for (clients, probes) in ended? {
        ensure!(probes > 0);
        eprintln!("        {clients} clients and {probes} probes of one container, 0 failed, 0 direct");
    }
    ensure!(old?.code == Some(0), "the replaced agent did not end well");
    lab.only_the_agent_since(mark)?;
    gone(&status)
}

/// An agent that has been taken over from ends by itself.
fn gone(status: &serde_json::Value) -> Result<()> {
    let path = format!("/proc/{}", status["pid"].as_u64().context("no pid")?);
    wait_for("the upgraded agent's end", Duration::from_secs(20), || {
        Ok((!std::path::Path::new(&path).exists()).then_some(()))
    })
}

fn failed_take_over(lab: &mut Lab) -> Result<()> {
    let mark = lab.log_length()?;
    let busy = Busy::start(lab, 96)?;
    lab.client(&lab.pods[0], SERVER_V4, "before-failure").psql(&["select 1"])?.ok()?;
    let outcome = caught_attached(lab).and_then(|()| {
        // What lived before is served as before, and what is new is found.
        lab.client(&lab.pods[0], SERVER_V4, "after-failure").psql(&["select 1"])?.ok()?;
        fresh(lab, SERVER_V4, "newborn", 3).map(drop)
    });
    let ended = busy.end();
    outcome?;
    let (clients, probes) = ended?;
    eprintln!("        {clients} clients and {probes} probes meanwhile, 0 failed, 0 direct");
    lab.only_the_agent_since(mark)
}

/// Kills a new agent after it has made the kernel programs its own and before it serves, with a connection waiting in a
/// namespace that nobody serves yet. The connection has to be served by the old agent.
fn caught_attached(lab: &mut Lab) -> Result<()> {
    for attempt in 1..=MOST_TRIES {
        let pid = lab.agent.pid()?;
        let mark = lab.agent.log().len();
        let mut new = lab.agent.launch_beside(&lab.agent_cgroup)?;
        let started = Instant::now();
        // The log is looked at without a pause: the moment is short.
        while !lab.agent.log_since(mark).contains("took over pinned links") {
            ensure!(!new.exited()?, "the new agent ended by itself: {}", lab.agent.log_since(mark));
            ensure!(
                started.elapsed() < Duration::from_secs(20),
                "no take-over: {}",
                lab.agent.log_since(mark)
            );
        }
        new.signal(Signal::SIGSTOP)?;
        std::thread::sleep(Duration::from_millis(50));
        if lab.agent.log_since(mark).contains("another agent took over") {
            // Too late: it serves. Then the next one is to fail.
            new.signal(Signal::SIGCONT)?;
            if let Some(old) = lab.agent.adopt(new) {
                ensure!(old.finish(Duration::from_secs(20))?.code == Some(0), "the replaced agent");
            }
            wait_for("the new agent answering", Duration::from_secs(20), || {
                Ok((lab.agent.command(&["status"])?.code == Some(0)).then_some(()))
            })?;
            continue;
        }
        let waiting = start_fresh(lab, "between")?;
        std::thread::sleep(Duration::from_millis(500));
        new.kill();
        let said = waiting.finish(Duration::from_secs(30))?.ok()?;
        let times: Vec<f64> = said.split_whitespace().filter_map(|number| number.parse().ok()).collect();
        ensure!(times.len() == 2, "what waited was not served: {said}\n{}", lab.agent.log_since(mark));
        wait_for("the old agent going on", Duration::from_secs(20), || {
            Ok(lab.agent.log_since(mark).contains("this agent goes on").then_some(()))
        })?;
        let status = lab.agent.status()?.context("no agent answers")?;
        ensure!(status["pid"] == pid, "another agent runs");
        eprintln!(
            "        caught at take-over {attempt}; what connected meanwhile was served after {} ms",
            times[0]
        );
        return Ok(());
    }
    bail!("in {MOST_TRIES} take-overs none was caught between attaching and serving")
}

/// A client that makes a namespace of its own, and connects there.
fn start_fresh(lab: &Lab, user: &str) -> Result<Running> {
    let args = [SERVER_V4, &PORT.to_string(), user, "shop", "1"];
    lab.python(&lab.billing_bot, &lab.host, super::serve::FRESH, &args)?.limit(60).start()
}
