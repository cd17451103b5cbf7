//! What the kernel programs cost: by the kernel's own run-time statistics, program by program, and on the clock of a
//! process that connects, inside a governed cgroup and outside of every one.
//!
//! The statistics are switched on for the whole machine while they are taken, and put back as they were. Taking them
//! costs time that is in every number of theirs: what a program that does nothing is said to take, the floor, is printed beside them.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::harness::cgroup::Cgroup;
use crate::harness::postgres::free_port;
use crate::harness::spawn::Program;
use crate::harness::world::{Wishes, World};

use super::measure::median;
use super::{namespaces, report};

const SWITCH: &str = "/proc/sys/kernel/bpf_stats_enabled";

/// Attach types as the kernel numbers them (enum bpf_attach_type), of the programs measured.
const ATTACHED: &[(&str, u32)] =
    &[("sock_ops", 3), ("sock_create", 2), ("egress", 1), ("connect4", 10), ("getpeername4", 29)];

pub(super) fn run(publish: bool) -> Result<()> {
    let more = namespaces::CONFIGURATION.to_owned();
    let mut world = World::prepare("bench-hooks", Wishes { quiet_server: true, more, ..Wishes::default() })?;
    world.start_agent()?;
    let sink = Sink::start()?;
    let free = sink.address.port().to_string();
    let closed = free_port()?.to_string();
    let protected = world.postgres.port.to_string();
    let statistics = Statistics::enable()?;
    let floor = floor(&free)?;
    let mut table =
        String::from("| what | program | runs | ns per run | less the floor |\n|---|---|--:|--:|--:|\n");
    writeln!(table, "| the floor: small writes past a program that does nothing | | | {floor:.0} | 0 |")?;
    for (what, load) in [
        ("UDP connect to a port of no target", ["udp-connect", &free, "200000"]),
        ("TCP connect to a port of no target", ["tcp-connect", &free, "4000"]),
        (
            "TCP connect to a port some target has, at another address",
            ["tcp-connect-other", &protected, "4000"],
        ),
        ("small writes on a TCP connection to no target", ["tcp-write", &free, "200000"]),
        ("TCP connect to a target: redirected", ["tcp-connect", &protected, "300"]),
    ] {
        let before = Costs::read(&world)?;
        inside(&world.places.billing_bot, &load)?;
        for (program, runs, ns) in Costs::read(&world)?.since(&before) {
            let each = ns as f64 / runs as f64;
            writeln!(table, "| {what} | `{program}` | {runs} | {each:.0} | {:.0} |", each - floor)?;
        }
    }
    drop(statistics);
    table += "\n| connect() on the clock, ns, median of rounds | outside | governed | difference |\n|---|--:|--:|--:|\n";
    for (what, load) in [
        ("UDP, no target", ["udp-connect", free.as_str(), "100000"]),
        // Refused, so that no server's pace is in it.
        ("TCP, no target, nobody listens", ["tcp-refused", closed.as_str(), "10000"]),
    ] {
        let mut rounds = [Vec::new(), Vec::new()];
        for _ in 0..9 {
            for (place, times) in
                [&world.places.outside, &world.places.billing_bot].into_iter().zip(&mut rounds)
            {
                times.push(inside(place, &load)?);
            }
        }
        let [outside, governed] = rounds.map(median);
        writeln!(table, "| {what} | {outside:.0} | {governed:.0} | {:.0} |", governed - outside)?;
    }
    table += &namespaces::table(&world)?;
    eprintln!("\n{table}");
    if publish {
        report::write_hooks(&format!("{}\n\n{table}", report::machine()))?;
    }
    Ok(())
}

/// Holds a program that lets every packet pass at a cgroup's egress until its input ends, then prints its statistics.
const FLOOR: &str = r#"
import ctypes, os, re, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
def bpf(command, attributes):
    buffer = ctypes.create_string_buffer(attributes, 128)
    got = libc.syscall(321 if os.uname().machine == 'x86_64' else 280, command, buffer, 128)
    if got < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return got
code = ctypes.create_string_buffer(struct.pack('=BBhiBBhi', 0xb7, 0, 0, 1, 0x95, 0, 0, 0))
licence = ctypes.create_string_buffer(b'GPL')
# BPF_PROG_LOAD of a cgroup_skb for egress, BPF_PROG_ATTACH beside others.
program = bpf(5, struct.pack('=IIQQIIQII', 8, 2, ctypes.addressof(code), ctypes.addressof(licence), 0, 0, 0, 0, 0)
    + bytes(16) + struct.pack('=II', 0, 1))
cgroup = os.open(sys.argv[1], os.O_RDONLY)
bpf(8, struct.pack('=IIII', cgroup, program, 1, 2))
print('held', flush=True)
sys.stdin.read()
said = open(f'/proc/self/fdinfo/{program}').read()
bpf(9, struct.pack('=III', cgroup, program, 1))
runs, ns = (int(re.search(rf'{name}:\s*(\d+)', said)[1]) for name in ('run_cnt', 'run_time_ns'))
print(ns / runs if runs > 1000 else f'{runs} runs only')
"#;

/// What the statistics say of a program that does nothing.
fn floor(port: &str) -> Result<f64> {
    let cgroup = Cgroup::top("bench-floor")?;
    let mut holder = Command::new("/usr/bin/python3")
        .args(["-c", FLOOR])
        .arg(cgroup.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut said = BufReader::new(holder.stdout.take().context("no output")?);
    let mut line = String::new();
    said.read_line(&mut line)?;
    ensure!(line == "held\n", "the program was not attached: {line}");
    inside(&cgroup, &["tcp-write", port, "200000"])?;
    drop(holder.stdin.take());
    line.clear();
    said.read_line(&mut line)?;
    holder.wait()?;
    line.trim().parse().with_context(|| line.clone())
}

/// Runs a load in a cgroup; nanoseconds for each of its calls.
fn inside(cgroup: &Cgroup, load: &[&str; 3]) -> Result<f64> {
    let said =
        Program::new(std::env::current_exe()?).args(["load"]).args(load).inside(cgroup)?.run()?.ok()?;
    said.trim().parse().with_context(|| said.clone())
}

/// What `e2e load` does, as a process of its own so that it can be governed.
pub(crate) fn load(kind: &str, port: &str, count: &str) -> Result<()> {
    let (port, count): (u16, u32) = (port.parse()?, count.parse()?);
    if kind == "first-connect" {
        let [median, slowest, again] = namespaces::first_connects(count)?;
        writeln!(std::io::stdout(), "{median:.0} {slowest:.0} {again:.0}")?;
        return Ok(());
    }
    let at = |address| SocketAddr::from((address, port));
    let here = at(Ipv4Addr::LOCALHOST);
    // Where the server listens, and no target is.
    let other = at(Ipv4Addr::new(127, 0, 0, 8));
    let ns = match kind {
        "udp-connect" => {
            let socket = UdpSocket::bind("127.0.0.1:0")?;
            timed(count, || Ok(socket.connect(here)?))?
        }
        "tcp-connect" => timed(count, || connect(here))?,
        "tcp-refused" => refused(count, port)?,
        "tcp-connect-other" => timed(count, || connect(other))?,
        "tcp-write" => {
            let mut stream = TcpStream::connect(here)?;
            stream.set_nodelay(true)?;
            timed(count, || Ok(stream.write_all(b"x")?))?
        }
        _ => bail!("no load {kind}"),
    };
    writeln!(std::io::stdout(), "{ns:.1}")?;
    Ok(())
}

/// Closed by a reset, so that a hundred thousand of them use no ports up.
fn connect(to: SocketAddr) -> Result<()> {
    let stream = TcpStream::connect(to)?;
    nix::sys::socket::setsockopt(
        &stream,
        nix::sys::socket::sockopt::Linger,
        &nix::libc::linger { l_onoff: 1, l_linger: 0 },
    )?;
    Ok(())
}

/// The time of connect() alone, of a TCP socket, to a port where nobody listens: no server's pace is in it, but the SYN
/// and its answer are.
fn refused(count: u32, port: u16) -> Result<f64> {
    use nix::sys::socket::{self, AddressFamily, SockFlag, SockType, SockaddrIn};
    let here = SockaddrIn::new(127, 0, 0, 1, port);
    let mut spent = Duration::ZERO;
    for _ in 0..count {
        let socket = socket::socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
        let started = Instant::now();
        let got = socket::connect(socket.as_raw_fd(), &here);
        spent += started.elapsed();
        ensure!(got == Err(nix::errno::Errno::ECONNREFUSED), "not refused: {got:?}");
    }
    Ok(spent.as_nanos() as f64 / f64::from(count))
}

fn timed(count: u32, mut call: impl FnMut() -> Result<()>) -> Result<f64> {
    let started = Instant::now();
    for _ in 0..count {
        call()?;
    }
    Ok(started.elapsed().as_nanos() as f64 / f64::from(count))
}

/// A server that takes everything and says nothing.
struct Sink {
    address: SocketAddr,
}

impl Sink {
    fn start() -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, free_port()?))?;
        let address = listener.local_addr()?;
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                std::thread::spawn(move || {
                    let mut stream: TcpStream = stream;
                    let mut buffer = [0; 1 << 16];
                    while let Ok(1..) = stream.read(&mut buffer) {}
                });
            }
        });
        Ok(Self { address })
    }
}

/// The machine-wide switch, put back on drop.
struct Statistics {
    before: String,
}

impl Statistics {
    fn enable() -> Result<Self> {
        let before = fs::read_to_string(SWITCH).with_context(|| format!("reading {SWITCH}"))?;
        fs::write(SWITCH, "1").with_context(|| format!("writing {SWITCH}"))?;
        Ok(Self { before })
    }
}

impl Drop for Statistics {
    fn drop(&mut self) {
        let _ = fs::write(SWITCH, self.before.trim());
    }
}

/// Runs and nanoseconds of the agent's programs, by name: from what the kernel says about its descriptors.
struct Costs(BTreeMap<&'static str, (u64, u64)>);

impl Costs {
    fn read(world: &World) -> Result<Self> {
        let folder = format!("/proc/{}/fdinfo", world.agent.pid()?);
        let (mut programs, mut links) = (BTreeMap::new(), Vec::new());
        for entry in fs::read_dir(&folder)? {
            // A descriptor may be closed while we look.
            let Ok(text) = fs::read_to_string(entry?.path()) else { continue };
            let field = |name: &str| {
                text.lines()
                    .find_map(|line| line.strip_prefix(name)?.strip_prefix(':')?.trim().parse::<u64>().ok())
            };
            let Some(id) = field("prog_id") else { continue };
            match (field("run_cnt"), field("attach_type")) {
                (Some(runs), _) => drop(programs.insert(id, (runs, field("run_time_ns").unwrap_or(0)))),
                (None, Some(attached)) => links.push((attached, id)),
                (None, None) => {}
            }
        }
        let mut costs = BTreeMap::new();
        for (name, attached) in ATTACHED {
            let of = links.iter().filter(|(kind, _)| kind == &u64::from(*attached));
            // Of two sock_ops programs the one at the governed cgroup runs for clients; the sum of both is meant.
            let sum = of
                .filter_map(|(_, id)| programs.get(id))
                .fold((0, 0), |sum, (runs, ns)| (sum.0 + runs, sum.1 + ns));
            costs.insert(*name, sum);
        }
        ensure!(costs.values().any(|(runs, _)| *runs > 0) || !links.is_empty(), "no programs in {folder}");
        Ok(Self(costs))
    }

    fn since(&self, before: &Self) -> Vec<(&'static str, u64, u64)> {
        // Give the kernel's per-CPU sums a moment: they are read without stopping anybody.
        std::thread::sleep(Duration::from_millis(1));
        self.0
            .iter()
            .filter_map(|(name, (runs, ns))| {
                let (runs_before, ns_before) = before.0.get(name).copied().unwrap_or_default();
                let runs = runs.checked_sub(runs_before)?;
                (runs >= 100).then(|| (*name, runs, ns.saturating_sub(ns_before)))
            })
            .collect()
    }
}
