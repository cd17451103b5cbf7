//! `chaperone detach` is the only way to let go, and not for everybody.

use std::fs;

use anyhow::{Result, ensure};

use super::{journal_is_whole, served};
use crate::harness::postgres::SCRAM_PASSWORD;
use crate::harness::report::Case;
use crate::harness::spawn::Program;
use crate::harness::world::World;

pub(super) const CASES: &[Case<World>] = &[
    Case { name: "while an agent runs nobody lets go", run: while_running },
    Case { name: "root in a governed cgroup cannot let go, and the attempt is recorded", run: governed },
    Case { name: "nor can root in a cgroup namespace of its own", run: namespaced },
    Case {
        name: "root outside lets go, which is recorded, and the next start takes hold again",
        run: outside,
    },
];

fn while_running(world: &mut World) -> Result<()> {
    let output = world.agent.command(&["detach"])?;
    ensure!(output.code == Some(1) && output.stderr.contains("in use by another agent"), "{output}");
    let inside = world.command_inside(&["detach"])?;
    ensure!(inside.code == Some(1) && inside.stderr.contains("is governed"), "{inside}");
    served(world, "still-attached")
}

fn governed(world: &mut World) -> Result<()> {
    world.agent.stop()?;
    let outcome = refused_to_the_governed(world);
    world.start_agent()?;
    outcome
}

fn refused_to_the_governed(world: &World) -> Result<()> {
    let inside = world.command_inside(&["detach"])?;
    ensure!(inside.code == Some(1) && inside.stderr.contains("is governed"), "{inside}");
    ensure!(journal_says(world, "refused: detach")?, "the attempt is not in the journal");
    still_in_force(world)
}

fn still_in_force(world: &World) -> Result<()> {
    let refused = world.client("shop_scram").env("PGPASSWORD", SCRAM_PASSWORD).psql(&["select 1"])?;
    ensure!(refused.code == Some(2), "{refused}");
    Ok(())
}

fn namespaced(world: &mut World) -> Result<()> {
    world.agent.stop()?;
    let program = world.scratch.path().join("chaperone");
    let output = Program::new("/usr/bin/unshare")
        .args(["--cgroup".as_ref(), program.as_os_str(), "--config".as_ref(), world.agent.config.as_os_str()])
        .args(["detach"])
        .inside(&world.places.billing_bot)?
        .run();
    let force = still_in_force(world);
    world.start_agent()?;
    let output = output?;
    ensure!(output.code == Some(1) && output.stderr.contains("cgroup namespace"), "{output}");
    force
}

fn outside(world: &mut World) -> Result<()> {
    world.agent.stop()?;
    let detached = world.agent.command(&["detach"]);
    let direct = world.client("shop_scram").env("PGPASSWORD", SCRAM_PASSWORD).psql(&["select 7"]);
    world.start_agent()?;
    ensure!(detached?.ok()?.contains("nothing is intercepted any more"));
    ensure!(direct?.ok()? == "7\n", "something was still intercepted");
    ensure!(journal_says(world, "links removed")?, "it is not in the journal");
    served(world, "taken-hold-again")?;
    journal_is_whole(world)
}

fn journal_says(world: &World, words: &str) -> Result<bool> {
    for entry in fs::read_dir(world.agent.written_journal()?)? {
        let bytes = fs::read(entry?.path())?;
        if bytes.windows(words.len()).any(|window| window == words.as_bytes()) {
            return Ok(true);
        }
    }
    Ok(false)
}
