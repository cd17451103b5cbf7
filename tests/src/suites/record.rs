//! What a client was sent is in the record, byte by byte, whatever happens to the agent or its disk a moment later.
//!
//! `--kills N` kills the agent N times under load.

mod kills;

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde_json::Value;

use crate::harness::report::{self, Case};
use crate::harness::spawn::{Program, wait_for};
use crate::harness::trail::{self, Trail, holds};
use crate::harness::world::{POLICY, Wishes, World};

pub(super) const CAPTURE: &str = include_str!("../../clients/capture.py");

pub(super) fn run(filter: Option<&str>) -> Result<()> {
    let mut world = World::start("record", Wishes::default())?;
    report::run("record", &mut world, CASES, filter, |world| world.agent.log_tail())
}

/// `--kills N`: nothing but that.
pub(crate) fn on_demand(words: &[&str]) -> Result<()> {
    let ["--kills", number] = words else { bail!("usage: e2e record --kills N") };
    let kills = number.parse().context("--kills wants a number")?;
    let mut world = World::start("record", Wishes::default())?;
    kills::killed(&mut world, kills)
}

const CASES: &[Case<World>] = &[
    Case { name: "what a client is sent is in the record, byte by byte", run: byte_by_byte },
    Case { name: "rows are shown as tables, as they were served", run: tables },
    Case { name: "rows come out as CSV, sessions as a cast", run: exports },
    Case { name: "a masked value is nowhere in the record", run: nowhere },
    Case { name: "a policy that records no rows leaves them out", run: meta },
    Case { name: "a denial's id leads to its receipt", run: why },
    Case { name: "sessions are found by identity, time, decision and text", run: found },
    Case {
        name: "agent killed at random: nothing was sent that is not in the record",
        run: kills::for_a_while,
    },
    Case { name: "disk full at random: nothing was sent that is not in the record", run: full_often },
    Case { name: "a second agent on the same journal is refused", run: second },
];

/// A folder that clients may write to.
pub(super) fn folder(world: &World) -> Result<PathBuf> {
    let folder = world.scratch.folder("captured", 0o777)?;
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o777))?;
    for entry in fs::read_dir(&folder)? {
        fs::remove_file(entry?.path())?;
    }
    Ok(folder)
}

/// Sessions by the name their client claimed.
fn sessions(world: &World) -> Result<HashMap<String, String>> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let listed = trail::sessions(&world.agent)?;
    Ok(listed.iter().map(|session| (text(&session["claimed_user"]), text(&session["id"]))).collect())
}

/// Compares every file in `folder` with the record of its session; returns how many bytes there were.
fn compare(world: &World, folder: &Path, whole: bool) -> Result<u64> {
    let sessions = sessions(world)?;
    let mut bytes = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let received = fs::read(entry.path())?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if received.is_empty() {
            continue;
        }
        let session = sessions.get(&name).with_context(|| format!("{name} was served and is no session"))?;
        let file = world.scratch.path().join("served");
        world.agent.served(session, &file)?;
        let recorded = fs::read(&file)?;
        ensure!(
            recorded.starts_with(&received) && (!whole || recorded.len() == received.len()),
            "{name}: {} bytes received, {} recorded, the same up to {}",
            received.len(),
            recorded.len(),
            recorded.iter().zip(&received).take_while(|(one, other)| one == other).count()
        );
        bytes += received.len() as u64;
    }
    Ok(bytes)
}

fn byte_by_byte(world: &mut World) -> Result<()> {
    for style in ["simple", "both"] {
        let folder = folder(world)?;
        let arguments = [folder.to_str().context("a path")?, "3", "60", style];
        world.client(&format!("whole-{style}")).python(CAPTURE, &arguments)?.ok()?;
        for number in 0..3 {
            Trail::of(&world.agent, &format!("whole-{style}-{number}"))?;
        }
        let bytes = compare(world, &folder, true)?;
        ensure!(bytes > 100_000, "{bytes} bytes");
    }
    world.agent.command(&["verify"])?.ok().map(drop)
}

fn tables(world: &mut World) -> Result<()> {
    let script = "select 1 as one, null as nothing, '' as empty;\nselect name, email from customers order by id limit 2;\n";
    world.client("tables").script(script)?.ok()?;
    let session = Trail::of(&world.agent, "tables")?.session;
    let shown: Value = serde_json::from_str(&world.agent.command(&["replay", &session, "--json"])?.ok()?)?;
    let table = |at: usize| &shown["operations"][at]["table"];
    holds(table(0), &serde_json::json!({"columns": ["one", "nothing", "empty"], "rows": [["1", null, ""]]}))?;
    ensure!(table(1)["columns"] == serde_json::json!(["name", "email"]), "{}", table(1));
    ensure!(table(1)["rows"][0][1] == "***" && table(1)["rows"][0][0] != "***", "{}", table(1));
    let text = world.agent.command(&["replay", &session])?.ok()?;
    ensure!(text.contains("> one  nothing  empty") && text.contains("> 1    NULL"), "{text}");
    let cut = world.agent.command(&["replay", &session, "--rows", "1"])?.ok()?;
    ensure!(cut.contains("1 rows are recorded and not shown"), "{cut}");
    Ok(())
}

fn exports(world: &mut World) -> Result<()> {
    world
        .client("exports")
        .script("select g as n, 'a,\"b' as text from generate_series(1, 300) g;\n")?
        .ok()?;
    let session = Trail::of(&world.agent, "exports")?.session;
    let csv = world.agent.command(&["replay", &session, "--csv", "1"])?.ok()?;
    ensure!(csv.starts_with("n,text\r\n1,\"a,\"\"b\"\r\n") && csv.lines().count() == 301, "{csv}");
    let cast = world.agent.command(&["replay", &session, "--cast"])?.ok()?;
    let lines = cast.lines().map(serde_json::from_str::<Value>).collect::<Result<Vec<_>, _>>()?;
    ensure!(lines[0]["version"] == 2 && lines[1][1] == "o", "{cast}");
    ensure!(lines[1][2].as_str().is_some_and(|text| text.contains("generate_series")), "{cast}");
    Ok(())
}

/// Not in the bytes of the journal, and not in what it holds compressed.
fn nowhere(world: &mut World) -> Result<()> {
    let secret = world.postgres.admin("select email from customers order by id limit 1")?;
    let secret = secret.lines().find(|line| line.contains('@')).context("no address")?.trim().to_owned();
    world.client("nowhere").script(&"select name, email from customers;\n".repeat(20))?.ok()?;
    let session = Trail::of(&world.agent, "nowhere")?.session;
    let file = world.scratch.path().join("served");
    world.agent.served(&session, &file)?;
    let contains = |bytes: &[u8]| bytes.windows(secret.len()).any(|window| window == secret.as_bytes());
    let served = fs::read(&file)?;
    ensure!(served.len() > 1_000 && !contains(&served), "the record holds {secret}");
    for entry in fs::read_dir(world.agent.written_journal()?)? {
        ensure!(!contains(&fs::read(entry?.path())?), "the journal holds {secret}");
    }
    Ok(())
}

fn meta(world: &mut World) -> Result<()> {
    let rule = "@id(\"quietly\") @record(\"meta\") permit(principal, action == Action::\"sql:select\", \
                resource == Table::\"shop/shop/public.customers\");";
    world.write_policy(&format!("{POLICY}\n{rule}\n"))?;
    let mark = world.agent.log().len();
    world.agent.reload()?;
    wait_for("the reload", Duration::from_secs(5), || {
        Ok(world.agent.log_since(mark).contains("reloaded").then_some(()))
    })?;
    let outcome = meta_rows(world);
    world.write_policy(POLICY)?;
    world.agent.reload()?;
    outcome
}

fn meta_rows(world: &World) -> Result<()> {
    let script = "select 'kept-1';\nselect name from customers;\nselect 'kept-2';\n";
    let told = world.client("meta").script(script)?.ok()?;
    ensure!(told.lines().count() > 4, "{told}");
    let trail = Trail::of(&world.agent, "meta")?;
    ensure!(trail.result("select name from customers")?["rows"] != 0);
    let text = world.agent.command(&["replay", &trail.session, "--json"])?.ok()?;
    let shown: Value = serde_json::from_str(&text)?;
    let rows = |at: usize| &shown["operations"][at]["table"]["rows"];
    ensure!(rows(0)[0][0] == "kept-1" && rows(2)[0][0] == "kept-2", "{text}");
    ensure!(shown["operations"][1]["table"].is_null(), "{text}");
    Ok(())
}

fn why(world: &mut World) -> Result<()> {
    let told = world.client("why").psql(&["drop table customers"])?.stderr;
    let id = told.split("request ").nth(1).and_then(|rest| rest.split_whitespace().next());
    let id = id.with_context(|| format!("no id in {told}"))?;
    Trail::of(&world.agent, "why")?;
    let receipt: Value = serde_json::from_str(&world.agent.command(&["why", id, "--json"])?.ok()?)?;
    holds(&receipt, &serde_json::json!({"id": id, "verdict": "deny", "target": "shop", "database": "shop"}))?;
    ensure!(receipt["identity"]["name"] == "billing-bot", "{receipt}");
    ensure!(receipt["policy_sha256"].as_str().is_some_and(|digest| digest.len() == 64), "{receipt}");
    ensure!(receipt["workload"]["comm"] == "psql", "{receipt}");
    let text = world.agent.command(&["why", id])?.ok()?;
    ensure!(text.contains("denied; it did not run") && text.contains("drop table customers"), "{text}");
    world.client("why-2").script("select name, email from customers;\n")?.ok()?;
    let session = Trail::of(&world.agent, "why-2")?.session;
    let text = world.agent.command(&["why", &format!("{session}/1")])?.ok()?;
    for word in ["permitted; it ran", "public.customers.email", "cells masked", "who        billing-bot"] {
        ensure!(text.contains(word), "no {word:?} in {text}");
    }
    ensure!(world.agent.command(&["why", &format!("{session}/99")])?.code == Some(1));
    Ok(())
}

fn found(world: &mut World) -> Result<()> {
    world.client("found").script("select 'needle in a haystack';\ndrop table customers;\n")?;
    let session = Trail::of(&world.agent, "found")?.session;
    let listed = |arguments: &[&str]| -> Result<bool> {
        let all = [&["sessions", "--json"], arguments].concat();
        Ok(world.agent.command(&all)?.ok()?.contains(&session))
    };
    for yes in [
        &["--identity", "billing-bot"][..],
        &["--target", "shop"],
        &["--since", "1m"],
        &["--until", "2999-01-01T00:00:00Z"],
        &["--denied"],
        &["--text", "NEEDLE in"],
    ] {
        ensure!(listed(yes)?, "not listed with {yes:?}");
    }
    for no in [&["--identity", "mail-bot"][..], &["--until", "1h"], &["--held"], &["--text", "noodle"]] {
        ensure!(!listed(no)?, "listed with {no:?}");
    }
    let hit: Value = serde_json::from_str(
        world.agent.command(&["grep", "needle.*hay", "--json"])?.ok()?.lines().next().context("none")?,
    )?;
    holds(
        &hit,
        &serde_json::json!({"id": format!("{session}/1"), "identity": "billing-bot", "verdict": "permit"}),
    )?;
    ensure!(world.agent.command(&["grep", "no such thing at all"])?.code == Some(1));
    Ok(())
}

/// The journal's own small disk, taken away with it.
struct SmallDisk(PathBuf);

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}

/// A file system that is full after so and so many bytes, other ones each time.
fn full_often(world: &mut World) -> Result<()> {
    for turn in 0..6_u64 {
        world.agent.stop()?;
        let kib = 600 + turn * 411 % 900;
        let options = format!("size={kib}k,mode=0700");
        let at = world.agent.state.clone();
        mount(Some("tmpfs"), &at, Some("tmpfs"), MsFlags::empty(), Some(options.as_str()))
            .context("mounting a small tmpfs")?;
        let disk = SmallDisk(at);
        world.start_agent()?;
        let outcome = full_once(world, turn);
        world.agent.kill();
        drop(disk);
        world.start_agent()?;
        outcome.with_context(|| format!("a disk of {kib} KiB"))?;
    }
    Ok(())
}

pub(super) fn full_once(world: &World, turn: u64) -> Result<()> {
    let folder = folder(world)?;
    let arguments = [folder.to_str().context("a path")?, "3", "0", "both"];
    world.client(&format!("full-{turn}")).limit(60).python(CAPTURE, &arguments)?.ok()?;
    let bytes = compare_until_full(world, &folder)?;
    ensure!(bytes > 10_000, "{bytes} bytes until the disk was full");
    world.agent.command(&["verify"])?.ok().map(drop)
}

/// The last word to the client is that nothing can be recorded: it is all that may be missing.
fn compare_until_full(world: &World, folder: &Path) -> Result<u64> {
    let sessions = sessions(world)?;
    let mut bytes = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let received = fs::read(entry.path())?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(session) = sessions.get(&name) else {
            ensure!(received.is_empty(), "{name} was served and is no session");
            continue;
        };
        let file = world.scratch.path().join("served");
        world.agent.served(session, &file)?;
        let recorded = fs::read(&file)?;
        let same = recorded.iter().zip(&received).take_while(|(one, other)| one == other).count();
        let rest = String::from_utf8_lossy(&received[same..]).into_owned();
        ensure!(
            same == received.len() || (same == recorded.len() && rest.contains("cannot be recorded")),
            "{name}: {} bytes received, {} recorded, {same} the same; then {rest:?}",
            received.len(),
            recorded.len()
        );
        bytes += received.len() as u64;
    }
    Ok(bytes)
}

fn second(world: &mut World) -> Result<()> {
    let config = fs::read_to_string(&world.agent.config)?;
    let elsewhere = world.scratch.folder("second", 0o755)?;
    let run = format!("run_dir = {:?}", world.agent.run);
    ensure!(config.contains(&run), "{config}");
    let path = elsewhere.join("chaperone.toml");
    fs::write(&path, config.replace(&run, &format!("run_dir = {:?}", elsewhere.join("run"))))?;
    let refused = Program::new(world.agent.binary())
        .args(["--config".as_ref(), path.as_os_str(), "run".as_ref()])
        .inside(&world.places.agent)?
        .limit(20)
        .run()?;
    ensure!(refused.code == Some(1) && refused.stderr.contains("in use by another agent"), "{refused}");
    ensure!(world.client("second").psql(&["select 1"])?.stdout == "1\n");
    Ok(())
}
