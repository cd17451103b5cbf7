//! What recording costs a statement: one agent, one server, three targets that differ only in what is recorded of them
//! and when it counts. And what the journal itself does, measured beside it (`agent/examples/journal.rs`).

use std::fmt::Write as _;
use std::fs;
use std::time::Instant;

use anyhow::{Context, Result};

use super::measure::{cpu_us, median};
use super::report;
use crate::harness::world::{POLICY, Wishes, World};

/// Address of the target, and what it is called in the table.
const ARMS: [(&str, &str); 3] = [
    ("127.0.0.2", "no rows (`record = \"meta\"`)"),
    ("127.0.0.1", "rows, `written`"),
    ("127.0.0.3", "rows, `synced`"),
];

#[derive(Default)]
struct Cell {
    rate: Vec<f64>,
    cpu: Vec<f64>,
    latency: Vec<f64>,
}

/// `publish` writes docs/bench.md, with what the environment's file says of the journal itself.
pub(super) fn run(publish: bool) -> Result<()> {
    let (rounds, seconds, megabytes) = if publish { (5, 4, 200) } else { (1, 1, 8) };
    let wishes = Wishes {
        quiet_server: true,
        record_max_bytes: 16 << 30,
        target: vec![("shop-md5", "record = \"meta\""), ("shop-trust", "durability = \"synced\"")],
        ..Wishes::default()
    };
    let mut world = World::prepare("bench-record", wishes)?;
    world.write_policy(POLICY)?;
    world.start_agent()?;
    world.postgres.pgbench_tables()?;
    world.postgres.admin(&super::bulk_table(megabytes))?;
    let mut table = format!(
        "Medians of {rounds} rounds of {seconds} s; {} Client, agent and server share the cores, and the disk is the \
         machine's.\n\n| `pgbench -S` | recorded | statements/s | CPU of the agent, µs | mean latency, ms |\n|---|---|--:|--:|--:|\n",
        report::machine()
    );
    for (mode, clients) in [("simple", "1"), ("prepared", "1"), ("simple", "8"), ("prepared", "8")] {
        let mut cells = ARMS.map(|_| Cell::default());
        for round in 0..rounds {
            for turn in 0..ARMS.len() {
                let at = (turn + round) % ARMS.len();
                select(&world, ARMS[at].0, mode, clients, seconds, &mut cells[at])?;
            }
        }
        for ((_, arm), cell) in ARMS.iter().zip(cells) {
            let (rate, cpu, latency) = (median(cell.rate), median(cell.cpu), median(cell.latency));
            writeln!(table, "| {mode}, c={clients} | {arm} | {rate:.0} | {cpu:.1} | {latency:.3} |")?;
        }
    }
    table += "\n| `COPY` out | MB/s | CPU of the agent, ms a MB |\n|---|--:|--:|\n";
    let mut cells = ARMS.map(|_| Cell::default());
    for round in 0..rounds {
        for turn in 0..ARMS.len() {
            let at = (turn + round) % ARMS.len();
            copy(&world, ARMS[at].0, &mut cells[at])?;
        }
    }
    for ((_, arm), cell) in ARMS.iter().zip(cells) {
        writeln!(table, "| {arm} | {:.0} | {:.2} |", median(cell.rate), median(cell.cpu) / 1000.0)?;
    }
    if let Some(path) = std::env::var_os("CHAPERONE_BENCH_JOURNAL") {
        write!(table, "\n{}", fs::read_to_string(path)?)?;
    }
    eprintln!("\n{table}");
    if publish { report::write_record(&table) } else { Ok(()) }
}

fn select(world: &World, host: &str, mode: &str, clients: &str, seconds: u64, cell: &mut Cell) -> Result<()> {
    let pid = world.agent.pid()?;
    let before = cpu_us(pid)?;
    let seconds = seconds.to_string();
    let arguments = ["-M", mode, "-S", "-n", "-c", clients, "-j", "1", "-T", &seconds];
    let output = world.client_at(host, "bench").pgbench_builtin(&arguments)?.ok()?;
    let number = |before: &str| -> Result<f64> {
        let line =
            output.lines().find_map(|line| line.strip_prefix(before)).with_context(|| output.clone())?;
        line.trim().split(' ').next().unwrap_or_default().parse().with_context(|| output.clone())
    };
    let done = number("number of transactions actually processed:")?;
    cell.rate.push(number("tps =")?);
    cell.latency.push(number("latency average =")?);
    cell.cpu.push((cpu_us(pid)? - before) / done);
    Ok(())
}

fn copy(world: &World, host: &str, cell: &mut Cell) -> Result<()> {
    let pid = world.agent.pid()?;
    let (before, started) = (cpu_us(pid)?, Instant::now());
    let bytes = world.client_at(host, "bench").psql_counted("copy bulk (id, word, note) to stdout")?;
    let megabytes = bytes as f64 / 1e6;
    cell.rate.push(megabytes / started.elapsed().as_secs_f64());
    cell.cpu.push((cpu_us(pid)? - before) / megabytes);
    Ok(())
}
