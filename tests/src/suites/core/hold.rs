//! Holds: the statement waits, somebody outside decides, and it runs once or not at all.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::json;

use crate::harness::report::Case;
use crate::harness::spawn::{Output, Running, wait_for};
use crate::harness::trail::{Trail, holds};
use crate::harness::world::World;

pub(super) const CASES: &[Case<World>] = &[
    Case { name: "PA16: a held statement tells its id, waits, and runs once when approved", run: approved },
    Case { name: "PA16: a held statement that is denied is 42501 and does not run", run: denied },
    Case { name: "a held statement nobody decides on is denied after the time limit", run: expired },
    Case { name: "PA16: a client that hangs up takes its held statement with it", run: hung_up },
    Case { name: "a cancel request withdraws a held statement", run: cancelled },
    Case { name: "nobody inside the governed cgroup can approve", run: inside },
    Case { name: "an approval is good for one statement once", run: single_use },
    Case {
        name: "a held statement of the extended protocol is approved with its bind values",
        run: extended,
    },
];

fn approved(world: &mut World) -> Result<()> {
    let (client, id) = held(world, "approved", 31)?;
    ensure!(orders(world, 31)? == "1", "the row was gone before anybody approved");
    world.agent.command(&["approve", &id, "--comment", "ticket 7"])?.ok()?;
    let output = finish(client)?;
    ensure!(output.stdout == "DELETE 1\nalive\n", "{output}");
    ensure!(output.stderr.contains(&format!("held for approval, request {id}")), "{output}");
    ensure!(orders(world, 31)? == "0");
    let trail = world.trail("approved")?;
    let statement = trail.statement("delete from orders where id = 31")?;
    holds(statement, &json!({"verdict": "hold", "policies": ["deletes-are-approved"], "hold": id}))?;
    let resolved = trail.first("hold_resolved")?;
    holds(resolved, &json!({"hold": id, "outcome": "approved", "comment": "ticket 7"}))?;
    ensure!(resolved["by"].as_str().is_some_and(|by| !by.is_empty()), "{resolved}");
    holds(trail.result("delete from orders where id = 31")?, &json!({"tag": "DELETE 1"}))
}

fn denied(world: &mut World) -> Result<()> {
    let (client, id) = held(world, "hold-denied", 32)?;
    world.agent.command(&["deny", &id, "--comment", "not today"])?.ok()?;
    let output = finish(client)?;
    ensure!(output.stderr.contains("42501") && output.stdout == "alive\n", "{output}");
    ensure!(orders(world, 32)? == "1");
    // All that the client was told of it is the request's id.
    let receipt = world.agent.command(&["why", &id])?.ok()?;
    ensure!(
        receipt.contains("not today") && receipt.contains("delete from orders where id = 32"),
        "{receipt}"
    );
    holds(world.trail("hold-denied")?.first("hold_resolved")?, &json!({"hold": id, "outcome": "denied"}))
}

fn expired(world: &mut World) -> Result<()> {
    let (client, id) = held(world, "hold-expired", 33)?;
    let output = finish(client)?;
    ensure!(output.stderr.contains("42501") && output.stdout == "alive\n", "{output}");
    ensure!(output.seconds >= 3.5, "it waited {:.1} s only", output.seconds);
    ensure!(orders(world, 33)? == "1");
    let late = world.agent.command(&["approve", &id])?;
    ensure!(late.code == Some(1), "a late approval was taken: {late}");
    ensure!(orders(world, 33)? == "1");
    holds(world.trail("hold-expired")?.first("hold_resolved")?, &json!({"hold": id, "outcome": "expired"}))
}

fn hung_up(world: &mut World) -> Result<()> {
    let (client, id) = held(world, "hold-hung-up", 34)?;
    client.signal(Signal::SIGKILL)?;
    drop(client);
    withdrawn(world, "hold-hung-up", &id, 34)
}

fn cancelled(world: &mut World) -> Result<()> {
    let (client, id) = held(world, "hold-cancelled", 35)?;
    client.signal(Signal::SIGINT)?;
    let output = finish(client)?;
    ensure!(output.stderr.contains("57014"), "{output}");
    withdrawn(world, "hold-cancelled", &id, 35)
}

fn withdrawn(world: &World, user: &str, id: &str, order: u32) -> Result<()> {
    let trail = world.trail(user)?;
    holds(trail.first("hold_resolved")?, &json!({"hold": id, "outcome": "withdrawn"}))?;
    let late = world.agent.command(&["approve", id])?;
    ensure!(late.code == Some(1), "a withdrawn hold was approved: {late}");
    ensure!(orders(world, order)? == "1", "a withdrawn statement ran");
    Ok(())
}

fn inside(world: &mut World) -> Result<()> {
    let (client, id) = held(world, "hold-inside", 36)?;
    for command in ["approve", "deny"] {
        let output = world.command_inside(&[command, &id])?;
        ensure!(output.code.is_some_and(|code| code != 0), "a governed process decided: {output}");
    }
    ensure!(pending(world, "hold-inside")?.is_some(), "the hold is gone");
    let output = finish(client)?;
    ensure!(output.stderr.contains("42501"), "{output}");
    ensure!(orders(world, 36)? == "1");
    Ok(())
}

fn single_use(world: &mut World) -> Result<()> {
    let script = "delete from orders where id = 37;\ndelete from orders where id = 37;\nselect 'alive';\n";
    let client = world.client("hold-twice").start_script(script)?;
    let id = wait_for_hold(world, "hold-twice", None)?;
    world.agent.command(&["approve", &id])?.ok()?;
    let second = wait_for_hold(world, "hold-twice", Some(&id))?;
    ensure!(world.agent.command(&["approve", &id])?.code == Some(1), "an approval was used twice");
    world.agent.command(&["deny", &second])?.ok()?;
    let output = finish(client)?;
    ensure!(output.stdout == "DELETE 1\nalive\n", "{output}");
    Ok(())
}

fn extended(world: &mut World) -> Result<()> {
    let script = world.scratch.path().join("delete.sql");
    std::fs::write(&script, "\\set id 38\ndelete from orders where id = :id;\n")?;
    let mut client = None;
    std::thread::scope(|scope| -> Result<()> {
        let bench = world.client("hold-extended");
        let running = scope.spawn(move || bench.pgbench(&script, &["-M", "extended", "-t", "1", "-c", "1"]));
        let id = wait_for_hold(world, "hold-extended", None)?;
        let approvals = world.agent.command(&["approvals"])?.ok()?;
        ensure!(approvals.contains("38"), "the approver is not shown the bind value: {approvals}");
        world.agent.command(&["approve", &id])?.ok()?;
        client = running.join().ok();
        Ok(())
    })?;
    client.context("pgbench's thread panicked")??.ok()?;
    ensure!(orders(world, 38)? == "0");
    Ok(())
}

/// A psql whose DELETE of one order waits, and the id of its hold.
fn held(world: &World, user: &str, order: u32) -> Result<(Running, String)> {
    let client = world
        .client(user)
        .start_script(&format!("delete from orders where id = {order};\nselect 'alive';\n"))?;
    let id = wait_for_hold(world, user, None)?;
    Ok((client, id))
}

fn wait_for_hold(world: &World, user: &str, other_than: Option<&str>) -> Result<String> {
    wait_for("a hold", Duration::from_secs(10), || {
        Ok(pending(world, user)?.filter(|id| other_than.is_none_or(|other| other != id)))
    })
    .with_context(|| format!("log of the agent:\n{}", world.agent.log_tail()))
}

/// The hold `user`'s session waits for, which `approvals` must list too.
fn pending(world: &World, user: &str) -> Result<Option<String>> {
    let Some(id) = Trail::when(&world.agent, user, |_| true)?.open_hold() else { return Ok(None) };
    let listed = world.agent.command(&["approvals", "--json"])?.ok()?;
    Ok(listed.contains(&id).then_some(id))
}

fn finish(client: Running) -> Result<Output> {
    client.finish(Duration::from_secs(20))
}

fn orders(world: &World, id: u32) -> Result<String> {
    world.postgres.admin(&format!("select count(*) from orders where id = {id}"))
}
