//! One agent after another: under load, failing half-way, and asked to where it may not.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::json;

use super::{DRAIN_S, Prober, agent_pid, drain_s, journal_is_whole, served, wait_for_log};
use crate::harness::report::Case;
use crate::harness::spawn::{Running, slowness, wait_for};
use crate::harness::trail::{Trail, holds, sessions};
use crate::harness::world::{POLICY, World};

pub(super) const CASES: &[Case<World>] = &[
    Case { name: "an upgrade under pgbench fails no statement and opens no way around", run: under_load },
    Case { name: "what the old agent holds can be approved, and obeys new policies", run: held },
    Case { name: "sessions that outlast the time to drain are told so", run: outlasting },
    Case { name: "`chaperone upgrade` starts the program that is on disk now", run: command },
    Case { name: "`chaperone upgrade` without a program on disk changes nothing", run: no_program },
    Case { name: "a new agent with a broken configuration leaves the old one serving", run: broken_config },
    Case { name: "a new agent killed half-way leaves the old one serving", run: killed_half_way },
    Case { name: "a new agent that hangs half-way is ended, and the old one serves", run: hung_half_way },
    Case { name: "a new agent of another map layout is refused", run: other_layout },
    Case { name: "a second agent in another cgroup is refused, and says what to do", run: elsewhere },
    Case {
        name: "when the new agent dies the old one's sessions end: no record, no access",
        run: successor_dies,
    },
];

fn under_load(world: &mut World) -> Result<()> {
    let script = world.scratch.path().join("load.sql");
    fs::write(&script, "\\set id random(1, 40)\nselect id, email from customers where id = :id;\n")?;
    let old_pid = agent_pid(world)?;
    let mark = world.postgres.log()?.len();
    let prober = Prober::start(world, "load")?;
    // The first agent drains until the load ends, and two others start before that.
    let seconds = (7 * slowness()).to_string();
    let steady =
        world.client("steady").start_pgbench(&script, &["-c", "4", "-T", &seconds, "-M", "prepared"])?;
    let fresh = world.client("fresh").start_pgbench(&script, &["-C", "-c", "2", "-T", &seconds])?;
    std::thread::sleep(Duration::from_secs(2));
    let old = world.agent.succeed(&world.places.agent)?.context("there was no agent before")?;
    ensure!(agent_pid(world)? != old_pid, "the old agent still answers");
    let refused = refused_start(world)?;
    ensure!(refused.contains("still has"), "a third agent while the first still drains: {refused}");
    for load in [steady, fresh] {
        let output = load.finish(Duration::from_secs(30))?;
        ensure!(output.code == Some(0) && output.stderr.is_empty(), "{output}");
        ensure!(output.stdout.contains("number of failed transactions: 0 (0.000%)"), "{output}");
    }
    let probes = prober.end_undisturbed(world)?;
    eprintln!("        {probes} connections of the prober, all served");
    ended_well(old)?;
    let log = world.postgres.log()?.split_off(mark);
    for name in ["steady@", "fresh@", "prober@"] {
        ensure!(!log.contains(name), "{name} reached the server:\n{log}");
    }
    journal_is_whole(world)?;
    for session in sessions(&world.agent)? {
        let user = session["claimed_user"].as_str().unwrap_or_default();
        if ["steady", "fresh", "prober"].contains(&user) {
            ensure!(session["state"] == "ended", "{session}");
        }
    }
    served(world, "after-upgrade")
}

/// A replaced agent ends by itself, with status 0.
fn ended_well(old: Running) -> Result<()> {
    let output = old.finish(Duration::from_secs(DRAIN_S + 10))?;
    ensure!(output.code == Some(0), "the replaced agent: {output}");
    Ok(())
}

/// A further start in the agent's cgroup, which fails: the end of what it said.
fn refused_start(world: &mut World) -> Result<String> {
    let mark = world.agent.log().len();
    let second = world.agent.launch_beside(&world.places.agent);
    let output = second?.finish(Duration::from_secs(20))?;
    ensure!(output.code.is_some_and(|code| code != 0), "it did not fail: {output}");
    Ok(world.agent.log_since(mark))
}

fn held(world: &mut World) -> Result<()> {
    let script = "select count(*) from orders;\ndelete from orders where id = 30;\n\\! sleep 3\nselect 1;\n";
    let client = world.client("held-over").start_script(script)?;
    let trail = Trail::when(&world.agent, "held-over", |trail| trail.open_hold().is_some())?;
    let id = trail.open_hold().context("no hold")?;
    let old = world.agent.succeed(&world.places.agent)?.context("there was no agent before")?;
    let listed = world.agent.command(&["approvals"])?.ok()?;
    ensure!(listed.contains(&id), "the old agent's hold is not listed: {listed}");
    world.agent.command(&["approve", &id])?.ok()?;
    Trail::when(&world.agent, "held-over", |trail| trail.all("result").len() == 2)?;
    let closed = "@id(\"closed\") @reason(\"closed today\") forbid(principal, action in Action::\"sql:read\", resource);";
    world.write_policy(&format!("{POLICY}\n{closed}\n"))?;
    let mark = world.agent.log().len();
    world.agent.reload()?;
    let reloaded = wait_for("both agents having reloaded", Duration::from_secs(10), || {
        Ok((world.agent.log_since(mark).matches(": reloaded").count() == 2).then_some(()))
    });
    let output = client.finish(Duration::from_secs(20));
    world.write_policy(POLICY)?;
    world.agent.reload()?;
    reloaded.with_context(|| world.agent.log_since(mark))?;
    let output = output?;
    ensure!(output.stdout.contains("DELETE 1"), "{output}");
    ensure!(output.stderr.contains("closed today"), "the old session does not obey the new policy: {output}");
    ended_well(old)?;
    holds(world.trail("held-over")?.first("hold_resolved")?, &json!({"hold": id, "outcome": "approved"}))
}

fn outlasting(world: &mut World) -> Result<()> {
    let script = format!("select 1;\n\\! sleep {}\nselect 2;\n", drain_s() + 3);
    let client = world.client("outlasting").start_script(&script)?;
    Trail::when(&world.agent, "outlasting", |trail| !trail.all("result").is_empty())?;
    let old = world.agent.succeed(&world.places.agent)?.context("there was no agent before")?;
    ended_well(old)?;
    let output = client.finish(Duration::from_secs(20))?;
    ensure!(output.stdout == "1\n" && output.stderr.contains("shutting down"), "{output}");
    let end = world.trail("outlasting")?;
    ensure!(end.first("session_end")?["reason"].to_string().contains("shutting down"));
    served(world, "after-outlasting")
}

fn command(world: &mut World) -> Result<()> {
    let program = world.scratch.path().join("chaperone");
    let next = world.scratch.path().join("chaperone.next");
    fs::copy(&program, &next)?;
    fs::rename(&next, &program)?;
    let inode = std::os::unix::fs::MetadataExt::ino(&fs::metadata(&program)?);
    let prober = Prober::start(world, "command")?;
    let said = world.agent.command(&["upgrade"])?.ok()?;
    let pid = agent_pid(world)?;
    ensure!(said.contains(&format!("runs as pid {pid}")), "{said}");
    let runs = std::os::unix::fs::MetadataExt::ino(&fs::metadata(format!("/proc/{pid}/exe"))?);
    ensure!(runs == inode, "the new agent is not the program on disk");
    let old = world.agent.part().context("there was no agent before")?;
    ended_well(old)?;
    prober.end_undisturbed(world)?;
    // Nobody's child any more: the next one takes over from it, and it ends by itself.
    world.agent.succeed(&world.places.agent)?;
    wait_for("the upgraded agent's end", Duration::from_secs(DRAIN_S), || {
        Ok((!std::path::Path::new(&format!("/proc/{pid}")).exists()).then_some(()))
    })?;
    served(world, "after-command")
}

fn no_program(world: &mut World) -> Result<()> {
    let program = world.scratch.path().join("chaperone");
    let aside = world.scratch.path().join("aside");
    let pid = agent_pid(world)?;
    fs::rename(&program, &aside)?;
    let config = world.agent.config.to_string_lossy().into_owned();
    let output = crate::harness::spawn::Program::new(&aside).args(["--config", &config, "upgrade"]).run();
    let answered = served(world, "no-program");
    fs::rename(&aside, &program)?;
    let output = output?;
    answered?;
    ensure!(output.code == Some(1) && output.stderr.contains("cannot start"), "{output}");
    ensure!(agent_pid(world)? == pid, "another agent runs");
    Ok(())
}

fn broken_config(world: &mut World) -> Result<()> {
    let pid = agent_pid(world)?;
    let prober = Prober::start(world, "broken")?;
    let good = fs::read_to_string(&world.agent.config)?;
    fs::write(&world.agent.config, good.replace("listen_port", "listen_prot"))?;
    let said = refused_start(world);
    world.write_config()?;
    world.write_policy(&POLICY.replace("sql:ddl", "sql:dll"))?;
    let policy = refused_start(world);
    world.write_policy(POLICY)?;
    ensure!(said?.contains("listen_prot"));
    ensure!(policy?.contains("sql:dll"));
    prober.end_undisturbed(world)?;
    ensure!(agent_pid(world)? == pid, "another agent runs");
    Ok(())
}

/// At moments all over the take-over, the last ones past it. Whoever is the agent afterwards serves.
fn killed_half_way(world: &mut World) -> Result<()> {
    let waiting = world.client("waiting").start_script("select 1;\n\\! sleep 4\nselect 2;\n")?;
    Trail::when(&world.agent, "waiting", |trail| !trail.all("result").is_empty())?;
    let prober = Prober::start(world, "killed")?;
    let (mut before, mut replaced) = (0, None);
    for step in 0..8 {
        let pid = agent_pid(world)?;
        let mark = world.agent.log().len();
        let mut new = world.agent.launch_beside(&world.places.agent)?;
        wait_for("the beginning of the hand-over", Duration::from_secs(20), || {
            ensure!(!new.exited()?, "the new agent ended by itself: {}", world.agent.log_since(mark));
            Ok(world.agent.log_since(mark).contains("handing over").then_some(()))
        })?;
        std::thread::sleep(Duration::from_millis(step * 8));
        // Once it serves, this is a death like any other, and another case.
        new.signal(Signal::SIGSTOP)?;
        let serves = world.agent.log_since(mark).contains("another agent took over");
        if serves {
            new.signal(Signal::SIGCONT)?;
            replaced = world.agent.adopt(new);
            break;
        }
        new.kill();
        before += 1;
        wait_for_log(world, mark, "this agent goes on")?;
        ensure!(agent_pid(world)? == pid, "the old agent does not answer");
        served(world, "between")?;
    }
    ensure!(before > 0, "no take-over was interrupted");
    eprintln!("        {before} take-overs interrupted");
    prober.end(world)?;
    let output = waiting.finish(Duration::from_secs(20))?;
    ensure!(output.stdout == "1\n2\n", "the session of the old agent: {output}");
    if let Some(old) = replaced {
        ended_well(old)?;
    }
    journal_is_whole(world)
}

fn hung_half_way(world: &mut World) -> Result<()> {
    let pid = agent_pid(world)?;
    let prober = Prober::start(world, "hung")?;
    let mark = world.agent.log().len();
    let new = world.agent.launch_beside(&world.places.agent)?;
    wait_for("the beginning of the hand-over", Duration::from_secs(20), || {
        Ok(world.agent.log_since(mark).contains("handing over").then_some(()))
    })?;
    new.signal(Signal::SIGSTOP)?;
    let output = new.finish(Duration::from_secs(30))?;
    ensure!(output.signal == Some(9), "the new agent: {output}");
    wait_for_log(world, mark, "this agent goes on")?;
    ensure!(agent_pid(world)? == pid, "the old agent does not answer");
    served(world, "after-hung")?;
    prober.end(world)?;
    journal_is_whole(world)
}

fn other_layout(world: &mut World) -> Result<()> {
    let pid = agent_pid(world)?;
    let source = "import socket, sys\ns = socket.socket(socket.AF_UNIX)\ns.connect(sys.argv[1])\n\
                  s.sendall(b'{\"do\":\"take_over\",\"version\":\"9.9.9\",\"layout\":9999}\\n')\nprint(s.recv(9999).decode())";
    let socket = world.agent.run.join("control.sock");
    let said = crate::harness::spawn::Program::new("/usr/bin/python3")
        .args(["-c".as_ref(), source.as_ref(), socket.as_os_str()])
        .inside(&world.places.agent)?
        .run()?
        .ok()?;
    ensure!(said.contains("refused") && said.contains("layout 9999"), "{said}");
    ensure!(agent_pid(world)? == pid, "another agent runs");
    served(world, "other-layout")
}

fn elsewhere(world: &mut World) -> Result<()> {
    let pid = agent_pid(world)?;
    for governed in [true, false] {
        let mark = world.agent.log().len();
        let place = if governed { &world.places.billing_bot } else { &world.places.outside };
        let output = world.agent.launch_beside(place)?.finish(Duration::from_secs(20))?;
        let said = world.agent.log_since(mark);
        ensure!(output.code.is_some_and(|code| code != 0), "{output}");
        ensure!(said.contains("an agent runs already") && said.contains("chaperone upgrade"), "{said}");
    }
    ensure!(agent_pid(world)? == pid, "another agent runs");
    served(world, "elsewhere")
}

fn successor_dies(world: &mut World) -> Result<()> {
    let script = "select 1;\n\\! sleep 4\nselect count(*) from orders;\n";
    let client = world.client("orphaned").start_script(script)?;
    Trail::when(&world.agent, "orphaned", |trail| !trail.all("result").is_empty())?;
    let prober = Prober::start(world, "orphaned")?;
    let old = world.agent.succeed(&world.places.agent)?.context("there was no agent before")?;
    world.agent.kill();
    let output = old.finish(Duration::from_secs(20))?;
    ensure!(output.code != Some(0), "the old agent could not record its end: {output}");
    let output = client.finish(Duration::from_secs(20))?;
    ensure!(output.stdout == "1\n", "served without a record: {output}");
    world.start_agent()?;
    served(world, "after-orphaned")?;
    prober.end(world)?;
    journal_is_whole(world)
}
