//! Old records go, and what is left proves as much as before; a disk that fails is never taken for one that wrote.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::journal::PROVE;
use super::record::{CAPTURE, folder, full_once};
use crate::harness::disk::{Kind, LoopDisk};
use crate::harness::report::{self, Case};
use crate::harness::spawn::{Program, wait_for};
use crate::harness::trail;
use crate::harness::world::{Wishes, World};

/// A ceiling that a few seconds of traffic reach.
const CEILING: u64 = 2 << 20;
const KILLS: u64 = 6;

pub(super) fn run(filter: Option<&str>) -> Result<()> {
    let wishes = Wishes {
        record_max_bytes: CEILING,
        target: vec![("shop-trust", "durability = \"synced\"")],
        record_more: "when_full = \"prune\"\nkeep_days = 400".to_owned(),
        ..Wishes::default()
    };
    let mut world = World::start("retention", wishes)?;
    report::run("retention", &mut world, CASES, filter, |world| world.agent.log_tail())
}

const CASES: &[Case<World>] = &[
    Case {
        name: "at its ceiling the journal lets the oldest records go, and nobody notices",
        run: serves_on,
    },
    Case { name: "old heads are gone on from, by a program that knows only the RFC", run: proved },
    Case { name: "segments that go without the host's word are missing", run: deleted },
    Case { name: "an operator prunes, with the agent and without it", run: by_hand },
    Case { name: "killed in the middle of it, the next agent goes on", run: killed },
    Case {
        name: "a sync that fails ends all service, and nothing that was served synced is lost",
        run: failing_disk,
    },
    Case { name: "synced: what a client was sent survives a power cut at any moment", run: power_cut },
    Case { name: "ext4 full at random: nothing was sent that is not in the record", run: full_ext4 },
];

fn bytes(world: &World) -> Result<u64> {
    let entries = fs::read_dir(world.agent.journal())?.flatten();
    Ok(entries.filter_map(|entry| entry.metadata().ok()).map(|meta| meta.len()).sum())
}

/// Rows that do not compress, about 11 KB each time.
fn traffic(world: &World, name: &str, times: usize) -> Result<()> {
    let sql = "select g, md5(random()::text) from generate_series(1, 250) g;\n";
    world.client(name).limit(90).script(&sql.repeat(times))?.ok().map(drop)
}

fn report_of(world: &World, more: &[&str]) -> Result<Value> {
    let output = world.agent.command(&[&["verify", "--json"], more].concat())?;
    serde_json::from_str(&output.stdout).with_context(|| format!("{output}"))
}

/// A copy of the head, once there is one.
fn keep_head(world: &World, name: &str) -> Result<PathBuf> {
    let kept = world.scratch.path().join(name);
    wait_for("a head", Duration::from_secs(5), || {
        Ok(fs::copy(world.agent.journal().join("head"), &kept).ok())
    })?;
    Ok(kept)
}

fn serves_on(world: &mut World) -> Result<()> {
    traffic(world, "first", 1)?;
    keep_head(world, "head-0")?;
    for turn in 1..=3 {
        traffic(world, &format!("fills-{turn}"), 150)?;
        let used = bytes(world)?;
        ensure!(used <= CEILING, "{used} bytes in the journal");
        keep_head(world, &format!("head-{turn}"))?;
    }
    let report = report_of(world, &[])?;
    ensure!(report["ok"] == true && report["pruned_through"].as_u64() > Some(100), "{report}");
    ensure!(world.agent.log().contains("pruned"), "nothing in the log");
    // The sessions that are left are found, the first one is gone.
    let listed = world.agent.command(&["sessions", "--json"])?.ok()?;
    ensure!(listed.contains("fills-3") && !listed.contains("\"first\""), "{listed}");
    Ok(())
}

/// Proofs of some events that are left, beside many that are gone; nothing when pruning went on meanwhile.
fn some_left(world: &World) -> Result<Option<Vec<PathBuf>>> {
    let pruned = || report_of(world, &[])?["pruned_through"].as_u64().context("a number");
    let gone = pruned()?;
    let mut proofs = Vec::new();
    for seq in gone + 1..gone + 20 {
        let output = world.agent.command(&["prove", &seq.to_string()])?;
        if output.code == Some(1) && pruned()? != gone {
            return Ok(None);
        }
        let proof = output.ok()?;
        let given: Value = serde_json::from_str(&proof)?;
        let record = &given["record"];
        if record["event"].is_object() || record["payload"].as_str().is_some_and(|it| it.starts_with('{')) {
            let path = world.scratch.path().join(format!("record-{seq}.json"));
            fs::write(&path, proof)?;
            proofs.push(path);
        }
    }
    Ok(Some(proofs))
}

fn proved(world: &mut World) -> Result<()> {
    let mut arguments = vec![world.agent.state.join("journal-key.pub")];
    for turn in 0..=3 {
        let kept = world.scratch.path().join(format!("head-{turn}"));
        let kept = kept.to_string_lossy();
        let report = report_of(world, &["--since", &kept])?;
        ensure!(report["ok"] == true && !report["since"].is_null(), "{report}");
        let path = world.scratch.path().join(format!("growth-{turn}.json"));
        fs::write(&path, world.agent.command(&["prove", "--since", &kept])?.ok()?)?;
        arguments.push(path);
    }
    arguments.extend(wait_for("records that stay while they are proved", Duration::from_secs(20), || {
        some_left(world)
    })?);
    let checked =
        Program::new("/usr/bin/python3").args(["-c", PROVE]).args(&arguments).limit(20).run()?.ok()?;
    ensure!(checked.lines().count() + 1 == arguments.len() && arguments.len() > 10, "{checked}");
    let refused = world.agent.command(&["prove", "1"])?;
    ensure!(refused.code == Some(1) && refused.stderr.contains("pruned"), "{refused}");
    Ok(())
}

fn deleted(world: &mut World) -> Result<()> {
    world.agent.stop()?;
    let copy = world.agent.copy_journal(&world.scratch)?;
    world.start_agent()?;
    world.agent.verify_copy(&copy)?.ok()?;
    let mut segments: Vec<PathBuf> = fs::read_dir(&copy)?.flatten().map(|entry| entry.path()).collect();
    segments.retain(|path| path.extension().is_some_and(|extension| extension == "chj"));
    segments.sort();
    let said = |what: &str| -> Result<()> {
        let output = world.agent.verify_copy(&copy)?;
        ensure!(output.code == Some(1) && output.stdout.contains(what), "{output}");
        Ok(())
    };
    let note = copy.join("pruned");
    let text = fs::read(&note)?;
    fs::remove_file(&note)?;
    said("first_segment_missing")?;
    fs::write(&note, &text)?;
    fs::remove_file(&segments[0])?;
    said("first_segment_missing")?;
    fs::write(&note, String::from_utf8_lossy(&text).replacen("pruned ", "pruned 9", 1))?;
    said("pruned_invalid")
}

fn by_hand(world: &mut World) -> Result<()> {
    traffic(world, "by-hand", 60)?;
    let inside = world.command_inside(&["prune", "--to", "1MiB"])?;
    ensure!(inside.code == Some(1) && inside.stderr.contains("governed"), "{inside}");
    let before = bytes(world)?;
    let told = world.agent.command(&["prune", "--to", "1MiB"])?.ok()?;
    ensure!(
        told.starts_with("pruned ") && bytes(world)? < before.min(1200 << 10),
        "{told} {}",
        bytes(world)?
    );
    let nothing = world.agent.command(&["prune", "--older-than", "1day"])?.ok()?;
    ensure!(nothing.contains("nothing to prune"), "{nothing}");
    world.agent.stop()?;
    let told = world.agent.command(&["prune", "--to", "600KiB"])?.ok()?;
    ensure!(told.starts_with("pruned ") && bytes(world)? < 800 << 10, "{told}");
    let report = report_of(world, &[])?;
    ensure!(report["ok"] == true && report["stopped"] == true, "{report}");
    world.start_agent()?;
    traffic(world, "by-hand-2", 1)?;
    // The act and who did it are in the record.
    let mut text = Vec::new();
    for entry in fs::read_dir(world.agent.written_journal()?)? {
        text.extend(fs::read(entry?.path())?);
    }
    let text = String::from_utf8_lossy(&text).into_owned();
    ensure!(text.contains(r#""why":"an operator asked","by":"uid 0"#), "no word of who pruned");
    Ok(())
}

fn killed(world: &mut World) -> Result<()> {
    let kept = keep_head(world, "head-killed")?;
    let mut gone = 0;
    for kill in 0..KILLS {
        let folder = folder(world)?;
        let arguments = [folder.to_str().context("a path")?, "4", "0", "both"];
        let client = world.client(&format!("killed-{kill}")).limit(60).start_python(CAPTURE, &arguments)?;
        let busy = world
            .client("busy")
            .limit(60)
            .start_script(&"select g, md5(random()::text) from generate_series(1, 2000) g;\n".repeat(400))?;
        served_at_least(&folder, 1_000)?;
        std::thread::sleep(Duration::from_millis(200 + kill * 157 % 700));
        world.agent.kill();
        client.finish(Duration::from_secs(30))?;
        busy.finish(Duration::from_secs(30))?;
        let report = report_of(world, &["--since", &kept.to_string_lossy()])?;
        // What stands unfinished at the end is mended by the start.
        let torn = |problem: &Value| problem["kind"] != "torn";
        ensure!(
            !report["problems"].as_array().is_some_and(|all| all.iter().any(torn)),
            "kill {kill}: {report}"
        );
        world.start_agent()?;
        let report = report_of(world, &["--since", &kept.to_string_lossy()])?;
        ensure!(report["ok"] == true, "kill {kill}: {report}");
        gone = report["pruned_through"].as_u64().context("a number")?;
    }
    eprintln!("        {KILLS} kills, {gone} records pruned by then");
    Ok(())
}

/// The disk below takes no more, so that what the kernel took for it cannot be written.
fn failing_disk(world: &mut World) -> Result<()> {
    world.agent.stop()?;
    // Nothing is to be pruned here: everything is compared.
    world.wishes.record_max_bytes = 1 << 30;
    world.write_config()?;
    let at = world.agent.state.clone();
    let disk =
        LoopDisk::mount(world.scratch.folder("below", 0o700)?, &at, 64 << 10, 24 << 10, Kind::Journaled)?;
    world.start_agent()?;
    let outcome = fails(world, &disk);
    world.agent.kill();
    drop(disk);
    world.start_agent()?;
    outcome
}

fn fails(world: &mut World, disk: &LoopDisk) -> Result<()> {
    let mark = world.agent.log().len();
    let folder = folder(world)?;
    let arguments = [folder.to_str().context("a path")?, "3", "0", "both"];
    let start = |host, name| world.client_at(host, name).limit(60).start_python(CAPTURE, &arguments);
    let (written, synced) = (start("127.0.0.1", "written")?, start("127.0.0.3", "synced")?);
    wait_for("both are served", Duration::from_secs(20), || {
        let received = received(&folder)?;
        let of = |who: &str| -> usize {
            received.iter().filter(|(name, _)| name.starts_with(who)).map(|(_, bytes)| bytes.len()).sum()
        };
        Ok((of("written") > 40_000 && of("synced") > 20_000).then_some(()))
    })?;
    disk.starve()?;
    for client in [written, synced] {
        client.finish(Duration::from_secs(50))?.ok()?;
    }
    let log = world.agent.log_since(mark);
    ensure!(log.contains("cannot sync"), "no failed sync: {log}");
    // Room again: what was lost is not known, and stays so until a start looks.
    disk.feed()?;
    let refused = world.client("after").psql(&["select 1"])?;
    ensure!(refused.code == Some(2) && refused.stderr.contains("record"), "{refused}");
    // What the disk really holds, without what the kernel remembers.
    world.agent.kill();
    disk.remount()?;
    world.start_agent()?;
    ensure!(world.client("again").psql(&["select 1"])?.stdout == "1\n");
    let (kept, lost) = kept_of(world, &folder, "synced")?;
    ensure!(lost == 0 && kept >= 20_000, "{lost} bytes were served synced and are not in the record");
    let (kept_too, lost) = kept_of(world, &folder, "written")?;
    eprintln!(
        "        synced: {kept} bytes served and kept, none lost; written: {kept_too} kept, {lost} lost"
    );
    world.agent.command(&["verify"])?.ok().map(drop)
}

/// Of the bytes that these clients have, how many the record has, and how many not. The last word to a client, that nothing
/// can be recorded, counts as neither.
fn kept_of(world: &World, folder: &Path, who: &str) -> Result<(usize, usize)> {
    let sessions = trail::sessions(&world.agent)?;
    let file = world.scratch.path().join("served");
    let (mut kept, mut lost) = (0, 0);
    for (name, bytes) in received(folder)?.into_iter().filter(|(name, _)| name.starts_with(who)) {
        let is_it = |session: &&Value| session["claimed_user"] == name.as_str();
        let recorded = match sessions.iter().find(is_it).and_then(|session| session["id"].as_str()) {
            Some(id) => {
                world.agent.served(id, &file)?;
                fs::read(&file)?
            }
            None => Vec::new(),
        };
        let same = recorded.iter().zip(&bytes).take_while(|(one, other)| one == other).count();
        let rest = &bytes[same..];
        kept += same;
        lost += if String::from_utf8_lossy(rest).contains("cannot be recorded") && same == recorded.len() {
            0
        } else {
            rest.len()
        };
    }
    Ok((kept, lost))
}

/// The disk as it is at some moment has all that a client of a `synced` target has by then. For a target that is not, it
/// has not: so the comparison can tell.
fn power_cut(world: &mut World) -> Result<()> {
    world.agent.stop()?;
    world.wishes.record_max_bytes = 1 << 30;
    world.write_config()?;
    let at = world.agent.state.clone();
    let disk = LoopDisk::mount(world.scratch.folder("below", 0o700)?, &at, 32 << 10, 80 << 10, Kind::Plain)?;
    world.start_agent()?;
    let outcome = survives(world, &disk);
    world.agent.kill();
    drop(disk);
    world.start_agent()?;
    outcome
}

fn survives(world: &mut World, disk: &LoopDisk) -> Result<()> {
    let (mut kept, mut lost) = (0, 0);
    // What is lost where it may be depends on when the kernel writes it: as often as it takes, within reason.
    for turn in 0..8_u64 {
        if turn >= 2 && lost > 0 {
            break;
        }
        for (host, synced) in [("127.0.0.1", false), ("127.0.0.3", true)] {
            let folder = folder(world)?;
            let arguments = [folder.to_str().context("a path")?, "3", "0", "both"];
            let name = format!("cut-{turn}-{synced}");
            let client = world.client_at(host, &name).limit(60).start_python(CAPTURE, &arguments)?;
            served_at_least(&folder, 20_000)?;
            std::thread::sleep(Duration::from_millis(100 + turn * 170 % 700));
            let received = received(&folder)?;
            let left = disk.snapshot(&world.scratch.folder("left", 0o700)?)?;
            world.agent.kill();
            client.finish(Duration::from_secs(30))?;
            world.start_agent()?;
            let missing = missing(world, &received)?;
            drop(left);
            ensure!(!synced || missing == 0, "{missing} bytes of {name} were sent and are not on the disk");
            if synced {
                kept += received.values().map(Vec::len).sum::<usize>();
            } else {
                lost += missing;
            }
        }
    }
    ensure!(lost > 0, "nothing was lost where it may be: the comparison cannot tell");
    ensure!(kept > 10_000, "{kept} bytes: nothing was under load");
    eprintln!("        synced: {kept} bytes kept, none lost; written: {lost} lost");
    Ok(())
}

fn served_at_least(folder: &Path, bytes: usize) -> Result<()> {
    wait_for("clients that are served", Duration::from_secs(20), || {
        let served: usize = received(folder)?.values().map(Vec::len).sum();
        Ok((served >= bytes).then_some(()))
    })
}

/// What clients have by now, by their names.
fn received(folder: &Path) -> Result<HashMap<String, Vec<u8>>> {
    let mut all = HashMap::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        all.insert(entry.file_name().to_string_lossy().into_owned(), fs::read(entry.path())?);
    }
    Ok(all)
}

/// How many of these bytes the disk that was left does not have.
fn missing(world: &World, received: &HashMap<String, Vec<u8>>) -> Result<usize> {
    let sessions = trail::sessions(&world.agent)?;
    let journal = world.scratch.path().join("left/journal");
    let file = world.scratch.path().join("served");
    let mut missing = 0;
    for (name, bytes) in received.iter().filter(|(_, bytes)| !bytes.is_empty()) {
        let is_it = |session: &&Value| session["claimed_user"] == name.as_str();
        let id = sessions.iter().find(is_it).and_then(|session| session["id"].as_str());
        let id = id.with_context(|| format!("{name} was served and is no session"))?;
        let recorded = match world.agent.served_from(&journal, id, &file) {
            Ok(()) => fs::read(&file)?,
            Err(_not_even_begun) => Vec::new(),
        };
        let same = recorded.iter().zip(bytes).take_while(|(one, other)| one == other).count();
        missing += bytes.len() - same;
    }
    Ok(missing)
}

fn full_ext4(world: &mut World) -> Result<()> {
    world.wishes.record_max_bytes = 1 << 30;
    world.write_config()?;
    for turn in 0..3_u64 {
        world.agent.stop()?;
        let at = world.agent.state.clone();
        let kib = 900 + turn * 311;
        let disk = LoopDisk::mount(world.scratch.folder("below", 0o700)?, &at, kib, 8 << 10, Kind::Plain)?;
        world.start_agent()?;
        let outcome = full_once(world, turn);
        world.agent.kill();
        drop(disk);
        world.start_agent()?;
        outcome.with_context(|| format!("a disk of {kib} KiB"))?;
        ensure!(world.client("between").psql(&["select 1"])?.stdout == "1\n");
    }
    Ok(())
}
