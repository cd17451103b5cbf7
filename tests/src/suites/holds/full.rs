//! The disk under the grants is full: nothing new is granted or used, who is in goes on, and what ended has ended.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::*;
use crate::harness::trail::everything;

/// Room for the file and what SQLite keeps beside it, and little more.
const KIB: u64 = 1024;

/// The state directory on a small tmpfs, but for the folders in it; as it was before when dropped.
struct Small {
    state: PathBuf,
    real: PathBuf,
}

impl Small {
    fn mount(world: &World) -> Result<Self> {
        let small =
            Self { state: world.agent.state.clone(), real: world.scratch.folder("state-real", 0o700)? };
        bind(&small.state, &small.real)?;
        let options = format!("size={KIB}k,mode=0700");
        mount(Some("tmpfs"), &small.state, Some("tmpfs"), MsFlags::empty(), Some(options.as_str()))?;
        for entry in fs::read_dir(&small.real)? {
            let entry = entry?;
            let (from, to) = (entry.path(), small.state.join(entry.file_name()));
            if entry.file_type()?.is_dir() {
                // The journal has room.
                fs::create_dir(&to)?;
                bind(&from, &to)?;
            } else {
                fs::copy(from, to)?;
            }
        }
        Ok(small)
    }

    /// Until not a byte more fits.
    fn fill(&self) -> Result<()> {
        let mut filler = fs::File::create(self.state.join("filler"))?;
        while filler.write(&[0; 512]).is_ok_and(|written| written > 0) {}
        Ok(())
    }

    fn empty(&self) -> Result<()> {
        Ok(fs::remove_file(self.state.join("filler"))?)
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        for entry in fs::read_dir(&self.state).into_iter().flatten().flatten() {
            let _ = umount2(&entry.path(), MntFlags::MNT_DETACH);
        }
        let _ = umount2(&self.state, MntFlags::MNT_DETACH);
        let _ = umount2(&self.real, MntFlags::MNT_DETACH);
    }
}

fn bind(from: &Path, to: &Path) -> Result<()> {
    mount(Some(from), to, None::<&str>, MsFlags::MS_BIND, None::<&str>)
        .with_context(|| format!("binding {} to {}", from.display(), to.display()))
}

pub(super) fn full(world: &mut World) -> Result<()> {
    revoke_all(world)?;
    world.agent.stop()?;
    let small = Small::mount(world);
    let outcome = small.as_ref().map_or_else(
        |error| bail!("{error:#}"),
        |small| {
            world.start_agent()?;
            let outcome = starved(world, small);
            world.agent.stop()?;
            outcome
        },
    );
    drop(small);
    world.start_agent()?;
    outcome
}

fn starved(world: &mut World, small: &Small) -> Result<()> {
    // A session lives on the one that lasts longest when it begins.
    let ends = grant(world, &["idle-bot", "--target", "shop", "--for", "120s"])?;
    let cut = idle(world, "full-ends").start_script("select 'begun';\nselect pg_sleep(25);\n")?;
    Trail::when(&world.agent, "full-ends", |trail| trail.statement("select pg_sleep(25)").is_ok())?;
    let live = grant(world, &["idle-bot", "--target", "shop", "--for", "300s"])?;
    let go = world.scratch.folder("full", 0o777)?.join("go");
    let wait =
        format!("select 'begun';\n\\! while ! test -e {}; do sleep 0.05; done\nselect 'on';\n", go.display());
    let goes_on = idle(world, "full-live").start_script(&wait)?;
    Trail::when(&world.agent, "full-live", |trail| !trail.all("result").is_empty())?;
    small.fill()?;

    let key = key(world, "anna");
    let args = ["grant", "billing-bot", "--for", "60s", "--reason", "more", "--key", &key];
    let output = world.agent.command(&args)?;
    let is_full = |text: &str| text.contains("grants.sqlite: database or disk is full");
    ensure!(output.code == Some(1) && is_full(&output.stderr), "{output}");
    // A use that cannot be counted is none, and neither is a yes that cannot be kept.
    let output = idle(world, "full-new").psql(&["select 1"])?;
    ensure!(output.code == Some(2) && is_full(&output.stderr), "{output}");
    let asks =
        world.client_in(&world.places.idle_bot, "127.0.0.2", "full-asks").start_script("select 1;\n")?;
    approve(world, &request(world)?, "anna", &[])?.ok()?;
    let output = finish(asks)?;
    ensure!(output.code == Some(2) && is_full(&output.stderr), "{output}");
    // A revocation counts at once, whatever can be stored of it.
    let started = Instant::now();
    let output = world.agent.command(&["revoke", &ends, "--reason", "no room"])?;
    ensure!(output.code == Some(1) && output.stderr.contains("cannot be stored yet"), "{output}");
    let output = finish(cut)?;
    ensure!(started.elapsed() < Duration::from_millis(1500), "{:?} with the command", started.elapsed());
    ensure!(output.stdout == "begun\n" && output.stderr.contains("revoked: no room"), "{output}");
    let ended = |event: &Value| event["event"] == "grant_ended" && event["grant"] == *ends;
    ensure!(everything(&world.agent)?.iter().any(ended), "its end is not on record");
    fs::write(&go, "")?;
    let output = finish(goes_on)?;
    ensure!(output.stdout == "begun\non\n", "{output}");

    // With room again its end is stored without anybody asking, and nothing half-stored comes back with a restart.
    small.empty()?;
    let grants = |args: &[&str]| -> Result<Vec<Value>> {
        Ok(serde_json::from_str(&world.agent.command(&[&["grants", "--json"], args].concat())?.ok()?)?)
    };
    wait_for("the end being stored", Duration::from_secs(15), || {
        let stored =
            grants(&["--all"])?.into_iter().any(|grant| grant["id"] == *ends && !grant["ended"].is_null());
        Ok(stored.then_some(()))
    })?;
    world.agent.kill();
    world.start_agent()?;
    let text = world.agent.command(&["grants", "--json"])?.ok()?;
    let left: Vec<Value> = serde_json::from_str(&text)?;
    ensure!(left.len() == 1 && left[0]["id"] == *live, "{text}");
    idle(world, "full-after").psql(&["select 1"])?.ok().map(drop)
}
