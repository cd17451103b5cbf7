//! What a network namespace costs: its first connect, which waits for a listener, and what agent and kernel keep for each.

use std::fmt::Write as _;
use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sched::{CloneFlags, unshare};

use crate::harness::cgroup::Cgroup;
use crate::harness::spawn::{Program, Running, wait_for};
use crate::harness::world::World;

/// A target nobody is at: the agent answers before it dials.
const TARGET: &str = "198.51.100.7:5432";

/// Namespaces that are served at once for the figures of memory.
const SERVED: usize = 100;

const ROUNDS: usize = 3;

/// What the configuration says of [`TARGET`].
pub(super) const CONFIGURATION: &str = "\n[[targets]]\nname = \"elsewhere\"\nprotocol = \"postgres\"\n\
    addresses = [\"198.51.100.7\"]\nport = 5432\nenv = \"prod\"\nuser = \"nobody\"\ntls = { mode = \"disable\" }\n";

/// Figures for the table of `bench hooks`.
pub(super) fn table(world: &World) -> Result<String> {
    let mut table = String::from("\n| a network namespace other than the host's | |\n|---|--:|\n");
    let said =
        Program::new(std::env::current_exe()?).args(["load", "first-connect", "5432", "20"]).limit(120);
    let said = said.inside(&world.places.billing_bot)?.run()?.ok()?;
    let mut times =
        said.split_whitespace().map(str::parse::<f64>).collect::<Result<Vec<_>, _>>()?.into_iter();
    let mut next = || times.next().with_context(|| said.clone());
    let (first, slowest, again) = (next()?, next()?, next()?);
    writeln!(table, "| first connect, from socket to connected, median of 20 | {:.1} ms |", first / 1e6)?;
    writeln!(table, "| slowest of them | {:.1} ms |", slowest / 1e6)?;
    writeln!(table, "| second connect, median | {:.2} ms |", again / 1e6)?;

    // The first time, what is made once for all is made too.
    drop(Crowd::gather(&world.places.billing_bot, 10)?.served(world)?);
    idle(world)?;
    let agent = Holdings::read(world)?;
    let (mut holds, mut kernel) = (None, [Vec::new(), Vec::new()]);
    // The kernel's figures are the whole machine's: medians of some rounds.
    for _ in 0..ROUNDS {
        for (governed, figures) in [false, true].into_iter().zip(&mut kernel) {
            let before = kernel_kib()?;
            let place = if governed { &world.places.billing_bot } else { &world.places.outside };
            let mut crowd = Crowd::gather(place, SERVED)?;
            if governed {
                crowd = crowd.served(world)?;
                holds = Some(Holdings::read(world)?);
            }
            figures.push(kernel_kib()?.saturating_sub(before));
            drop(crowd);
            idle(world)?;
        }
    }
    kernel.iter_mut().for_each(|figures| figures.sort_unstable());
    let [plain, governed] = kernel.each_ref().map(|figures| figures.get(ROUNDS / 2).copied().unwrap_or(0));
    let holds = holds.context("no rounds")?;
    let each = |total: u64| total as f64 / SERVED as f64;
    writeln!(
        table,
        "| memory of the agent for each that is served ({SERVED} at once) | {:.1} KiB |",
        each(holds.resident_kib.saturating_sub(agent.resident_kib))
    )?;
    writeln!(
        table,
        "| descriptors of the agent for each | {:.0} |",
        each((holds.descriptors - agent.descriptors) as u64)
    )?;
    writeln!(
        table,
        "| kernel memory of a namespace with one process that is not governed, and of one that is served | {:.0} KiB, {:.0} KiB |",
        each(plain),
        each(governed)
    )?;
    Ok(table)
}

/// What `e2e load first-connect` does: in namespaces of its own, connects twice; prints the median and the slowest of the
/// first connects, and the median of the second, in nanoseconds.
pub(super) fn first_connects(count: u32) -> Result<[f64; 3]> {
    let mut times = [Vec::new(), Vec::new()];
    for _ in 0..count {
        let pair = std::thread::spawn(connect_twice).join().ok().context("a thread failed")??;
        for (all, one) in times.iter_mut().zip(pair) {
            all.push(one.as_nanos() as f64);
        }
    }
    times.iter_mut().for_each(|times| times.sort_by(f64::total_cmp));
    let [first, second] = &times;
    let median = |times: &[f64]| times.get(times.len() / 2).copied().context("no times");
    Ok([median(first)?, *first.last().context("no times")?, median(second)?])
}

/// A thread may have a network namespace of its own.
fn connect_twice() -> Result<[Duration; 2]> {
    unshare(CloneFlags::CLONE_NEWNET).context("making a network namespace")?;
    Program::new("/usr/sbin/ip").args(["link", "set", "lo", "up"]).run()?.ok()?;
    let target: SocketAddr = TARGET.parse()?;
    let connect = || -> Result<Duration> {
        let started = Instant::now();
        let _stream = TcpStream::connect(target)?;
        Ok(started.elapsed())
    };
    Ok([connect()?, connect()?])
}

/// Processes in namespaces of their own.
struct Crowd(Vec<Running>);

impl Crowd {
    fn gather(cgroup: &Cgroup, count: usize) -> Result<Self> {
        let mut crowd = Vec::new();
        for _ in 0..count {
            let program = Program::new("/usr/bin/unshare").args(["-n", "/usr/bin/sleep", "300"]);
            crowd.push(program.inside(cgroup)?.start()?);
        }
        std::thread::sleep(Duration::from_secs(2));
        Ok(Self(crowd))
    }

    /// Once the agent has a listener for each.
    fn served(self, world: &World) -> Result<Self> {
        wait_for("a listener for each namespace", Duration::from_secs(60), || {
            Ok((served(world)? >= self.0.len()).then_some(()))
        })?;
        std::thread::sleep(Duration::from_secs(1));
        Ok(self)
    }
}

fn served(world: &World) -> Result<usize> {
    Ok(fs::read_dir(world.agent.bpffs.join("pins/netns"))?.count())
}

/// Until the agent has let go of all.
fn idle(world: &World) -> Result<()> {
    wait_for("no namespace being served", Duration::from_secs(60), || {
        Ok((served(world)? == 0).then_some(()))
    })?;
    std::thread::sleep(Duration::from_secs(2));
    Ok(())
}

struct Holdings {
    resident_kib: u64,
    descriptors: usize,
}

impl Holdings {
    fn read(world: &World) -> Result<Self> {
        let pid = world.agent.pid()?;
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let descriptors = fs::read_dir(format!("/proc/{pid}/fd"))?.count();
        Ok(Self { resident_kib: kib(&status, "VmRSS:")?, descriptors })
    }
}

/// What the kernel has taken for itself on this machine, others' included: the rest of the machine should be quiet.
fn kernel_kib() -> Result<u64> {
    let info = fs::read_to_string("/proc/meminfo")?;
    let parts = ["Slab:", "Percpu:", "VmallocUsed:", "KernelStack:", "PageTables:"];
    parts.iter().map(|name| kib(&info, name)).sum()
}

fn kib(text: &str, name: &str) -> Result<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name)).with_context(|| format!("no {name}"))?;
    let number = line.trim().trim_end_matches("kB").trim();
    ensure!(!number.is_empty(), "{line}");
    Ok(number.parse()?)
}
