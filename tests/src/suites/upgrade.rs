//! The journal across versions: one that an agent of the form before left is gone on with, and can be gone back to until the
//! new agent serves.
//!
//! `--from PROGRAM` does it with that older program itself, sessions open across the change.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;

use super::journal::PROVE;
use crate::harness::report::{self, Case};
use crate::harness::spawn::{Program, wait_for};
use crate::harness::trail::{Trail, sessions};
use crate::harness::world::{Wishes, World};

/// A session of the fixture.
const READER: &str = "01a21ead719575eeb248e591ef300e02";

/// The form that agents of now write.
const FORM: u32 = 3;

pub(super) fn run(filter: Option<&str>) -> Result<()> {
    let mut world = World::prepare("upgrade", Wishes::default())?;
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("../agent/src/record/tests/older");
    fs::create_dir(world.agent.journal())?;
    for file in ["journal-key", "journal-key.pub", "journal/head", "journal/journal-00000000000000000001.chj"]
    {
        let to = world.agent.state.join(file);
        fs::copy(fixture.join(file), &to).with_context(|| format!("copying {file}"))?;
        fs::set_permissions(&to, fs::Permissions::from_mode(0o600))?;
    }
    report::run("upgrade", &mut world, CASES, filter, |world| world.agent.log_tail())
}

/// In this order: each goes on with the journal as the one before left it.
const CASES: &[Case<World>] = &[
    Case { name: "a start that fails leaves the journal in the form it had", run: failed_start },
    Case { name: "an agent goes on behind it, and all of it answers", run: gone_on },
    Case { name: "killed and started again, it is one journal", run: killed },
    Case { name: "what is older is pruned, and its heads are gone on from", run: pruned },
];

/// With an older program: it is the agent first.
pub(crate) fn on_demand(program: &str) -> Result<()> {
    let mut world =
        World::prepare("upgrade", Wishes { more: "\n[limits]\ndrain_s = 8\n".into(), ..Wishes::default() })?;
    let old = fs::canonicalize(program).with_context(|| program.to_owned())?;
    let new = world.agent.use_program(old.clone());
    world.start_agent()?;
    ensure!(forms(&world)?.iter().all(|form| *form < FORM), "{program} writes the form of now");
    let mut stage = Stage { world, old, new };
    report::run("upgrade", &mut stage, FROM, None, |stage| stage.world.agent.log_tail())
}

struct Stage {
    world: World,
    old: PathBuf,
    new: PathBuf,
}

const FROM: &[Case<Stage>] = &[
    Case { name: "a new agent killed half-way: the old one serves and has its journal", run: half_way },
    Case { name: "sessions live through it, in one journal", run: across },
    Case { name: "the way back: the old one refuses, and serves with a journal of its own", run: back },
];

/// The form of each segment.
fn forms(world: &World) -> Result<Vec<u32>> {
    let mut segments: Vec<PathBuf> =
        fs::read_dir(world.agent.written_journal()?)?.flatten().map(|entry| entry.path()).collect();
    segments.retain(|path| path.extension().is_some_and(|extension| extension == "chj"));
    segments.sort();
    let form = |path: PathBuf| {
        let bytes = fs::read(path)?;
        Ok(u32::from_le_bytes(bytes.get(8..12).context("a header")?.try_into()?))
    };
    segments.into_iter().map(form).collect()
}

fn ask(world: &World, words: &[&str]) -> Result<String> {
    world.agent.command(words)?.ok()
}

fn verified(world: &World, more: &[&str]) -> Result<Value> {
    let text = ask(world, &[&["verify", "--json"], more].concat())?;
    let report: Value = serde_json::from_str(&text).with_context(|| text.clone())?;
    ensure!(report["ok"] == true, "{text}");
    Ok(report)
}

/// Nothing but a name stands in its way, after it has recorded its start.
fn failed_start(world: &mut World) -> Result<()> {
    let in_the_way = world.agent.run.join("hosts.sock");
    fs::create_dir_all(in_the_way.join("full"))?;
    world.agent.launch(&world.places.agent)?;
    let output = world.agent.wait_end(Duration::from_secs(30))?;
    fs::remove_dir_all(&in_the_way)?;
    ensure!(output.code.is_some_and(|code| code != 0), "it did not fail: {output}");
    ensure!(world.agent.log().contains("cannot open the hosts socket"), "{}", world.agent.log_tail());
    let forms = forms(world)?;
    ensure!(!forms.is_empty() && forms.iter().all(|form| *form < FORM), "{forms:?}");
    let records = verified(world, &[])?["records"].as_u64().context("a number")?;
    ensure!(records > 46, "the start that failed is not in the record: {records}");
    Ok(())
}

fn gone_on(world: &mut World) -> Result<()> {
    world.start_agent()?;
    let said =
        world.client("later").script("select email from customers where id = 1;\ndrop table orders;\n")?;
    ensure!(said.stdout == "***\n" && said.stderr.contains("no-ddl"), "{said}");
    let later = Trail::of(&world.agent, "later")?.session;
    let forms = forms(world)?;
    ensure!(forms.first().is_some_and(|form| *form < FORM) && forms.last() == Some(&FORM), "{forms:?}");
    verified(world, &[])?;
    let listed = sessions(&world.agent)?;
    for user in ["reader", "keeper", "bench", "later"] {
        let found = listed.iter().find(|session| session["claimed_user"] == user);
        let found = found.with_context(|| format!("{user} is not listed: {listed:?}"))?;
        ensure!(found["state"] == "ended" && found["identity"] == "billing-bot", "{found}");
    }
    let hits = ask(world, &["grep", "drop table orders"])?;
    for session in [READER, &later] {
        ensure!(hits.contains(session), "{session} is not found: {hits}");
        let denied = if session == READER { "3" } else { "2" };
        let why = ask(world, &["why", &format!("{session}/{denied}")])?;
        ensure!(why.contains("no-ddl") && why.contains("drop table orders"), "{why}");
        let shown = ask(world, &["replay", session])?;
        ensure!(shown.contains("***"), "{shown}");
        proved(world, &format!("{session}/{denied}"))?;
    }
    ensure!(ask(world, &["replay", READER])?.contains("grün"));
    Ok(())
}

/// By a program that knows only what docs/journal.md says.
fn proved(world: &World, id: &str) -> Result<()> {
    let proof = wait_for("a proof", Duration::from_secs(10), || {
        let output = world.agent.command(&["prove", id])?;
        Ok((output.code == Some(0)).then_some(output.stdout))
    })?;
    let file = world.scratch.path().join("proof.json");
    fs::write(&file, proof)?;
    let arguments = [world.agent.state.join("journal-key.pub"), file];
    let checked =
        Program::new("/usr/bin/python3").args(["-c", PROVE]).args(arguments).limit(20).run()?.ok()?;
    ensure!(checked.lines().count() == 1, "{checked}");
    Ok(())
}

fn killed(world: &mut World) -> Result<()> {
    let before = forms(world)?.len();
    for _ in 0..2 {
        world.agent.kill();
        world.start_agent()?;
        let rows = world.client("again").psql(&["select 5"])?.ok()?;
        ensure!(rows == "5\n", "{rows:?}");
    }
    ensure!(forms(world)?.len() == before, "a segment was begun at a start");
    verified(world, &[]).map(drop)
}

fn pruned(world: &mut World) -> Result<()> {
    if !world.agent.has_run() {
        world.start_agent()?;
    }
    let kept = Path::new(env!("CARGO_MANIFEST_DIR")).join("../agent/src/record/tests/older/journal/head");
    let kept = kept.to_string_lossy();
    verified(world, &["--since", &kept])?;
    let told = ask(world, &["prune", "--to", "1"])?;
    ensure!(told.starts_with("pruned "), "{told}");
    let forms = forms(world)?;
    ensure!(forms.iter().all(|form| *form == FORM), "{forms:?}");
    let report = verified(world, &["--since", &kept])?;
    ensure!(report["pruned_through"].as_u64() >= Some(46), "{report}");
    let gone = world.agent.command(&["prove", &format!("{READER}/3")])?;
    ensure!(gone.code != Some(0), "{gone}");
    Ok(())
}

/// Starts of agents that took over, as the files have them.
fn starts(world: &World) -> Result<usize> {
    let mut count = 0;
    for entry in fs::read_dir(world.agent.journal())? {
        let bytes = fs::read(entry?.path())?;
        count += String::from_utf8_lossy(&bytes).matches("\"predecessor\":").count();
    }
    Ok(count)
}

fn half_way(stage: &mut Stage) -> Result<()> {
    let world = &mut stage.world;
    let mut interrupted = 0;
    for step in 0..6 {
        world.agent.use_program(stage.new.clone());
        let starts = starts(world)?;
        let mark = world.agent.log().len();
        let launched = world.agent.launch_beside(&world.places.agent);
        world.agent.use_program(stage.old.clone());
        let mut new = launched?;
        wait_for("the beginning of the hand-over", Duration::from_secs(20), || {
            ensure!(!new.exited()?, "the new agent ended by itself: {}", world.agent.log_since(mark));
            Ok(world.agent.log_since(mark).contains("handing over").then_some(()))
        })?;
        // At moments all over it, and right after it recorded its start.
        match step % 2 {
            0 => std::thread::sleep(Duration::from_millis(step * 8)),
            _ => wait_for("the record of its start", Duration::from_secs(20), || {
                Ok((self::starts(world)? > starts).then_some(()))
            })?,
        }
        new.signal(Signal::SIGSTOP)?;
        new.kill();
        wait_for("the old agent going on", Duration::from_secs(15), || {
            Ok(world.agent.log_since(mark).contains("this agent goes on").then_some(()))
        })?;
        interrupted += 1;
        world.agent.command(&["status"])?.ok()?;
        let rows = world.client("between").psql(&["select 5"])?.ok()?;
        ensure!(rows == "5\n", "{rows:?}");
        ensure!(forms(world)?.iter().all(|form| *form < FORM), "{:?}", forms(world)?);
    }
    ensure!(interrupted > 0, "no take-over was interrupted");
    eprintln!("        {interrupted} take-overs interrupted");
    world.agent.command(&["verify"])?.ok().map(drop)
}

fn across(stage: &mut Stage) -> Result<()> {
    let world = &mut stage.world;
    let go = world.scratch.folder("go", 0o777)?.join("on");
    let wait = format!("\\! while [ ! -e {} ]; do sleep 0.1; done\n", go.display());
    let script = format!(
        "select id, email from customers where id = 1;\n{wait}select id, email from customers where id = 2;\n"
    );
    let client = world.client("across").start_script(&script)?;
    Trail::when(&world.agent, "across", |trail| !trail.all("result").is_empty())?;
    world.agent.use_program(stage.new.clone());
    let old = world.agent.succeed(&world.places.agent)?.context("there was no agent before")?;
    let rows = world.client("fresh").psql(&["select 5"])?.ok()?;
    ensure!(rows == "5\n", "{rows:?}");
    fs::write(&go, "")?;
    let output = client.finish(Duration::from_secs(20))?;
    ensure!(output.stdout == "1|***\n2|***\n" && output.code == Some(0), "{output}");
    let ended = old.finish(Duration::from_secs(20))?;
    ensure!(ended.code == Some(0), "{ended}");
    let trail = Trail::of(&world.agent, "across")?;
    ensure!(trail.all("result").len() == 2, "{:?}", trail.verdicts());
    let forms = forms(world)?;
    ensure!(forms.first().is_some_and(|form| *form < FORM) && forms.last() == Some(&FORM), "{forms:?}");
    let shown = ask(world, &["replay", &trail.session])?;
    ensure!(shown.contains("id = 1") && shown.contains("id = 2"), "{shown}");
    for op in ["1", "2"] {
        proved(world, &format!("{}/{op}", trail.session))?;
    }
    world.agent.kill();
    world.start_agent()?;
    verified(world, &[]).map(drop)
}

fn back(stage: &mut Stage) -> Result<()> {
    let world = &mut stage.world;
    let kept = world.agent.journal();
    let aside = world.scratch.path().join("journal-of-the-newer");
    world.agent.stop()?;
    world.agent.use_program(stage.old.clone());
    let mark = world.agent.log().len();
    world.agent.launch(&world.places.agent)?;
    let output = world.agent.wait_end(Duration::from_secs(30))?;
    let said = world.agent.log_since(mark);
    ensure!(output.code.is_some_and(|code| code != 0) && said.contains("format version"), "{output}\n{said}");
    let refused = world.client("none").psql(&["select 1"])?;
    ensure!(refused.code == Some(2), "{refused}");
    fs::rename(&kept, &aside)?;
    world.start_agent()?;
    let rows = world.client("back").psql(&["select 5"])?.ok()?;
    ensure!(rows == "5\n", "{rows:?}");
    world.agent.command(&["verify"])?.ok()?;
    world.agent.use_program(stage.new.clone());
    world.agent.verify_copy(&aside)?.ok().map(drop)
}
