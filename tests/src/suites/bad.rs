//! Bad input, each kind through the kernel: nothing lost, nothing served unrecorded, a clear error each time.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::harness::report::{self, Case};
use crate::harness::spawn::wait_for;
use crate::harness::trail::Trail;
use crate::harness::world::{Wishes, World};

/// Most resident memory the agent may take, whatever is thrown at it.
const MOST_MEMORY_KB: u64 = 400 * 1024;

pub(super) fn run(filter: Option<&str>) -> Result<()> {
    let more = "\n[limits]\nlogin_s = 5\n".to_owned();
    let mut world = World::start("bad", Wishes { more, ..Wishes::default() })?;
    report::run("bad", &mut world, CASES, filter, |world| world.agent.log_tail())
}

const CASES: &[Case<World>] = &[
    Case { name: "random bytes instead of a startup message", run: |world| raw(world, "random_startup") },
    Case { name: "random bytes after the login", run: |world| raw(world, "random_session") },
    Case { name: "every truncation of a startup message", run: |world| raw(world, "truncated_startup") },
    Case { name: "every truncation of a query", run: |world| raw(world, "truncated_query") },
    Case {
        name: "startup messages of impossible and enormous length",
        run: |world| raw(world, "oversized_startup"),
    },
    Case {
        name: "PA20: messages of impossible and enormous length, and unknown ones",
        run: |world| raw(world, "oversized_message"),
    },
    Case { name: "messages where they do not belong", run: |world| raw(world, "misplaced") },
    Case { name: "the fast-path function call is refused", run: |world| raw(world, "fastpath") },
    Case { name: "a replication connection is refused", run: |world| raw(world, "replication") },
    Case { name: "old, new and invented protocol versions", run: |world| raw(world, "versions") },
    Case {
        name: "startup options cannot change who the session is",
        run: |world| raw(world, "startup_options"),
    },
    Case { name: "a client that sends byte by byte is served", run: |world| raw(world, "slowly") },
    Case { name: "a client that sends everything at once is served", run: |world| raw(world, "at_once") },
    Case {
        name: "a client that never reads does not fill the agent's memory",
        run: |world| raw(world, "never_reads"),
    },
    Case {
        name: "text that is not UTF-8 is refused or handled, never misread",
        run: |world| raw(world, "encoding"),
    },
    Case {
        name: "a cancel request with an invented key changes nothing",
        run: |world| raw(world, "false_cancel"),
    },
    Case { name: "10,000 half-open connections", run: half_open },
    Case { name: "PA15: a server that dies mid-row", run: server_dies },
    Case { name: "PA15: a client that dies mid-row", run: client_dies },
    Case {
        name: "prepared statements without end, each as long as can be, do not fill the agent's memory",
        run: |world| raw(world, "keeps"),
    },
    Case { name: "the journal is whole after all of it", run: journal_whole },
];

/// Runs a scenario of clients/bad.py in the governed cgroup; afterwards everything must be as before.
fn raw(world: &mut World, scenario: &str) -> Result<()> {
    let source = include_str!("../../clients/bad.py");
    let said = world.client(scenario).limit(90).python(source, &[scenario])?.ok()?;
    ensure!(said.ends_with("ok\n"), "{said}");
    sound(world)
}

/// The agent lives, is not swollen, and serves the next client.
fn sound(world: &World) -> Result<()> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", world.agent.pid()?))
        .context("the agent is gone")?;
    let memory =
        status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.parse().ok());
    let memory: u64 = memory.context("no VmRSS of the agent")?;
    ensure!(memory < MOST_MEMORY_KB, "the agent holds {memory} kB");
    let rows = world.client("sound").psql(&["select name from customers where id = 2"])?.ok()?;
    ensure!(rows == "Bao Lindgren\n", "{rows:?}");
    ensure!(!world.agent.log().contains("panicked"), "a panic in the agent's log");
    Ok(())
}

fn half_open(world: &mut World) -> Result<()> {
    let source = include_str!("../../clients/half_open.py");
    let flood = world.client("flood").limit(90);
    let ready = world.scratch.folder("flood", 0o777)?.join("ready");
    let flood = flood.start_python(source, &["10000", &ready.to_string_lossy()])?;
    wait_for("10,000 open connections", Duration::from_secs(60), || Ok(ready.exists().then_some(())))?;
    // A client in the middle of it gets its answer, or a clear error within bounds.
    let output = world.client("amid").psql(&["select 1"])?;
    let clear =
        output.stdout == "1\n" || output.stderr.contains("FATAL") || output.stderr.contains("server closed");
    ensure!(clear && output.seconds < 15.0, "{output}");
    // The time limit for a login frees what the flood holds, though its sockets stay open.
    wait_for("service amid the flood", Duration::from_secs(20), || {
        Ok((world.client("amid").psql(&["select 2"])?.stdout == "2\n").then_some(()))
    })?;
    drop(flood);
    wait_for("service after the flood", Duration::from_secs(10), || Ok(sound(world).is_ok().then_some(())))?;
    sound(world)
}

const ROWS: &str = "select n, repeat('x', 2000) from generate_series(1, 2000000) as n";

fn server_dies(world: &mut World) -> Result<()> {
    let client = world.client("server-dies").limit(60).start_script(&format!("{ROWS};\n"))?;
    let backend = backend(world, "2000000")?;
    kill(Pid::from_raw(backend), Signal::SIGKILL)?;
    let output = client.finish(Duration::from_secs(20))?;
    ensure!(output.code != Some(0), "{:?}", output.code);
    ensure!(!output.stderr.is_empty(), "the client got no error");
    world.postgres.wait_ready()?;
    let trail = world.trail("server-dies")?;
    let served = output.stdout.lines().count() as u64;
    let end = trail.first("session_end")?;
    ensure!(end["rows"].as_u64().is_some_and(|rows| rows >= served), "{served} rows served, recorded: {end}");
    ensure!(end["reason"].as_str().is_some_and(|reason| !reason.is_empty()), "{end}");
    sound(world)
}

fn client_dies(world: &mut World) -> Result<()> {
    let sql = ROWS.replace("2000000", "2000001");
    let client = world.client("client-dies").limit(60).start_script(&format!("{sql};\n"))?;
    backend(world, "2000001")?;
    client.signal(Signal::SIGKILL)?;
    drop(client);
    wait_for("the end of the server's side", Duration::from_secs(10), || {
        let running =
            "select count(*) from pg_stat_activity where query like '%2000001%' and pid <> pg_backend_pid()";
        Ok((world.postgres.admin(running)? == "0").then_some(()))
    })?;
    let trail = world.trail("client-dies")?;
    ensure!(trail.statement(&sql)?["verdict"] == "permit");
    trail.first("session_end")?;
    sound(world)
}

/// The server's process that is in the middle of sending rows.
fn backend(world: &World, mark: &str) -> Result<i32> {
    let sql = format!(
        "select pid from pg_stat_activity where state = 'active' and query like '%{mark}%' and pid <> pg_backend_pid()"
    );
    let pid = wait_for("the statement running on the server", Duration::from_secs(10), || {
        Ok(world.postgres.admin(&sql)?.parse().ok())
    })?;
    std::thread::sleep(Duration::from_millis(300));
    Ok(pid)
}

fn journal_whole(world: &mut World) -> Result<()> {
    world.agent.command(&["verify"])?.ok()?;
    Trail::of(&world.agent, "sound").map(drop)
}
