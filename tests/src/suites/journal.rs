//! The record: whole after traffic, telling when it was touched; and without it, no access.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde_json::Value;

use crate::harness::report::{self, Case};
use crate::harness::spawn::{Program, wait_for};
use crate::harness::tamper;
use crate::harness::trail::{Trail, everything};
use crate::harness::world::{Wishes, World};

/// Bytes of the small disk the journal lives on.
const DISK: &str = "size=16m,mode=0700";

pub(super) fn run(filter: Option<&str>) -> Result<()> {
    let world = World::prepare("journal", Wishes::default())?;
    let disk = SmallDisk::mount(world.agent.state.clone())?;
    let mut stage = Stage { world, _disk: disk };
    stage.world.start_agent()?;
    report::run("journal", &mut stage, CASES, filter, |stage| stage.world.agent.log_tail())
}

/// The agent stops before its disk is taken away.
struct Stage {
    world: World,
    _disk: SmallDisk,
}

impl Stage {
    fn remount(&self, flags: MsFlags) -> Result<()> {
        let at = &self.world.agent.state;
        mount(None::<&str>, at, None::<&str>, MsFlags::MS_REMOUNT | flags, Some(DISK)).context("remounting")
    }
}

struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(at: PathBuf) -> Result<Self> {
        mount(Some("tmpfs"), &at, Some("tmpfs"), MsFlags::empty(), Some(DISK))
            .context("mounting a small tmpfs")?;
        Ok(Self(at))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}

const CASES: &[Case<Stage>] = &[
    Case { name: "verify passes while the agent writes", run: verify_live },
    Case {
        name: "a copy with an edited record is refused, its position named",
        run: |stage| tampered(stage, tamper::edit),
    },
    Case {
        name: "a copy with an edited record and a mended checksum is refused",
        run: |stage| tampered(stage, tamper::forge),
    },
    Case {
        name: "a copy without one record is refused, its position named",
        run: |stage| tampered(stage, tamper::delete),
    },
    Case {
        name: "a copy with two records swapped is refused, its position named",
        run: |stage| tampered(stage, tamper::swap),
    },
    Case { name: "a copy without its newest records is refused", run: |stage| tampered(stage, tamper::cut) },
    Case { name: "an untouched copy passes", run: untouched },
    Case { name: "proofs are right by a program that knows only the RFC", run: proved },
    Case { name: "a checkpoint that was kept finds a journal that was put back", run: put_back },
    Case { name: "told to stop the moment it is ready, the agent says goodbye and stops", run: hasty_stop },
    Case { name: "what clients were told before the agent was killed is in the record", run: killed },
    Case {
        name: "with the journal's disk full sessions end and new ones are refused, until there is room",
        run: full,
    },
    Case { name: "with the journal read-only nobody is served, until it is not", run: read_only },
    Case { name: "at its ceiling of bytes the journal stops service", run: ceiling },
];

fn hasty_stop(stage: &mut Stage) -> Result<()> {
    let world = &mut stage.world;
    world.agent.stop()?;
    for turn in 0..2 {
        let mark = world.agent.log().len();
        world.agent.launch(&world.places.agent)?;
        wait_for("the agent being ready", Duration::from_secs(30), || {
            Ok(world.agent.log_since(mark).contains(" ready ").then_some(()))
        })?;
        std::thread::sleep(Duration::from_millis(turn * 5));
        world.agent.stop()?;
        let output = world.agent.command(&["verify", "--json"])?;
        let report: serde_json::Value = serde_json::from_str(&output.stdout)?;
        ensure!(report["ok"] == true && report["stopped"] == true, "{turn}: {report}");
    }
    world.start_agent()
}

fn verify_live(stage: &mut Stage) -> Result<()> {
    let world = &stage.world;
    for _ in 0..5 {
        world.client("traffic").script(&"select name, email from customers;\n".repeat(40))?.ok()?;
        world.agent.command(&["verify"])?.ok()?;
    }
    Ok(())
}

/// A copy of the journal in the scratch folder, made while nobody writes.
fn copy(stage: &mut Stage) -> Result<PathBuf> {
    let world = &mut stage.world;
    world.agent.stop()?;
    let copy = world.agent.copy_journal(&world.scratch);
    world.start_agent()?;
    copy
}

fn untouched(stage: &mut Stage) -> Result<()> {
    let copy = copy(stage)?;
    stage.world.agent.verify_copy(&copy)?.ok().map(drop)
}

/// Every record of a session, and that the journal goes on from an older head.
fn proved(stage: &mut Stage) -> Result<()> {
    let world = &stage.world;
    let agent = &world.agent;
    let kept = world.scratch.path().join("kept-head");
    signed_beyond(world, 0)?;
    fs::copy(agent.journal().join("head"), &kept)?;
    let before = signed(world)?;
    world.client("proved").script(&"select name, email from customers;\n".repeat(50))?.ok()?;
    let session = Trail::of(agent, "proved")?.session;
    signed_beyond(world, before)?;
    wait_for("the session being signed", Duration::from_secs(5), || {
        Ok((agent.command(&["prove", &format!("{session}/50")])?.code == Some(0)).then_some(()))
    })?;
    let mut files = Vec::new();
    let kept = kept.to_string_lossy();
    let numbers = ["1", "2", "3"].map(String::from).into_iter();
    let statements = (1..=50).step_by(7).map(|op| format!("{session}/{op}"));
    for (at, id) in numbers.chain(statements).enumerate() {
        let proof = agent.command(&["prove", &id])?.ok()?;
        let Ok(event) = event_of(&proof) else { continue };
        ensure!(!id.contains('/') || event == "statement", "{id} is a {event}");
        files.push((format!("proof-{at}.json"), proof));
    }
    ensure!(files.len() >= 8, "{} proofs", files.len());
    files.push(("growth.json".into(), agent.command(&["prove", "--since", &kept])?.ok()?));
    let mut arguments = vec![agent.state.join("journal-key.pub")];
    for (name, text) in &files {
        let path = world.scratch.path().join(name);
        fs::write(&path, text)?;
        arguments.push(path);
    }
    let checked =
        Program::new("/usr/bin/python3").args(["-c", PROVE]).args(&arguments).limit(20).run()?.ok()?;
    ensure!(checked.lines().count() == files.len(), "{checked}");

    // And not when a single digit of the record is another.
    let forged = files[5].1.replacen("select name", "select nama", 1);
    ensure!(forged != files[5].1, "{}", files[5].1);
    let path = world.scratch.path().join("forged.json");
    fs::write(&path, forged)?;
    let refused = Program::new("/usr/bin/python3").args(["-c", PROVE]).args([&arguments[0], &path]).run()?;
    ensure!(refused.code == Some(1) && refused.stderr.contains("AssertionError"), "{refused}");
    Ok(())
}

pub(super) const PROVE: &str = include_str!("../../clients/prove.py");

/// What event the record of a proof is; an error for a record that is none.
fn event_of(proof: &str) -> Result<String> {
    let proof: serde_json::Value = serde_json::from_str(proof)?;
    let record = &proof["record"];
    if let Some(event) = record["event"]["event"].as_str() {
        return Ok(event.to_owned());
    }
    let payload = record["payload"].as_str().context("no payload")?;
    let event: serde_json::Value = serde_json::from_str(payload)?;
    Ok(event["event"].as_str().context("no event")?.to_owned())
}

/// How many records the head is signed over.
fn signed(world: &World) -> Result<u64> {
    let head = fs::read_to_string(world.agent.journal().join("head"))?;
    head.lines().nth(1).context("a head of one line")?.parse().context("the second line is the size")
}

fn signed_beyond(world: &World, before: u64) -> Result<()> {
    wait_for("a newer head", Duration::from_secs(5), || {
        Ok(signed(world).is_ok_and(|signed| signed > before).then_some(()))
    })
}

fn put_back(stage: &mut Stage) -> Result<()> {
    let older = copy(stage)?;
    let world = &stage.world;
    signed_beyond(world, 0)?;
    let before = signed(world)?;
    world.client("put-back").script("select 1;\n")?.ok()?;
    signed_beyond(world, before)?;
    let kept = world.scratch.path().join("kept-head");
    fs::copy(world.agent.journal().join("head"), &kept)?;
    let key = world.agent.state.join("journal-key.pub");
    let judged = |dir: &std::path::Path| {
        world
            .agent
            .program(&["verify"])
            .args([
                "--dir".as_ref(),
                dir,
                "--key".as_ref(),
                key.as_path(),
                "--since".as_ref(),
                kept.as_path(),
            ])
            .limit(20)
            .run()
    };
    let good = judged(&world.agent.journal())?.ok()?;
    ensure!(good.contains("goes on from the"), "{good}");
    world.agent.verify_copy(&older)?.ok()?;
    let bad = judged(&older)?;
    ensure!(bad.code == Some(1) && bad.stdout.contains("rolled_back"), "{bad}");
    Ok(())
}

fn tampered(stage: &mut Stage, tamper: fn(&mut tamper::Segment) -> Option<u64>) -> Result<()> {
    let copy = copy(stage)?;
    let position = tamper::newest_segment(&copy, tamper)?;
    let output = stage.world.agent.verify_copy(&copy)?;
    ensure!(output.code == Some(1), "a tampered copy passed: {output}");
    let said = format!("{}{}", output.stdout, output.stderr);
    ensure!(!said.contains("cannot read"), "refused for another reason: {said}");
    if let Some(number) = position {
        ensure!(said.contains(&number.to_string()), "record {number} is not named: {said}");
    }
    stage.world.agent.command(&["verify"])?.ok().map(drop)
}

fn killed(stage: &mut Stage) -> Result<()> {
    let world = &mut stage.world;
    let out = world.scratch.folder("told", 0o777)?.join("answers");
    let asked: String = (0..4000).map(|n| format!("select 'told-{n}';\n")).collect();
    let client = world.client("told").start_script(&format!("\\o {}\n{asked}", out.display()))?;
    wait_for("the first answers", Duration::from_secs(20), || {
        Ok(fs::metadata(&out).is_ok_and(|meta| meta.len() > 0).then_some(()))
    })?;
    world.agent.kill();
    client.finish(Duration::from_secs(20))?;
    world.start_agent()?;
    let answers = fs::read_to_string(&out)?;
    let told: Vec<&str> = answers.lines().filter(|line| line.starts_with("told-")).collect();
    ensure!(!told.is_empty() && told.len() < 4000, "{} answers: the agent was not killed midway", told.len());
    let trail = Trail::when(&world.agent, "told", |_| true)?;
    for word in told {
        let sql = format!("select '{word}'");
        ensure!(trail.result(&sql)?["rows"] == 1, "{sql}");
    }
    world.agent.command(&["verify"])?.ok().map(drop)
}

fn full(stage: &mut Stage) -> Result<()> {
    let filler = stage.world.agent.state.join("filler");
    let outcome = without_record(stage, "full", || fill(&filler));
    let _ = fs::remove_file(&filler);
    let ran = outcome?;
    restored(stage)?;
    // What found room in memory is written when there is room on the disk.
    let recorded = everything(&stage.world.agent)?;
    for word in ran.lines() {
        let word = format!("'{word}'");
        let is_it = |event: &Value| event["sql"].as_str().is_some_and(|sql| sql.contains(&word));
        ensure!(recorded.iter().any(is_it), "{word} ran without a record");
    }
    Ok(())
}

/// Takes all that is left of the small disk.
fn fill(path: &std::path::Path) -> Result<()> {
    use std::io::Write;
    let mut file = fs::File::create(path)?;
    for chunk in [1 << 16, 1 << 9, 1] {
        while file.write_all(&vec![0; chunk]).is_ok() {}
    }
    Ok(())
}

fn read_only(stage: &mut Stage) -> Result<()> {
    stage.world.agent.stop()?;
    stage.remount(MsFlags::MS_RDONLY)?;
    let outcome = refused_while_read_only(&mut stage.world);
    stage.world.agent.kill();
    stage.remount(MsFlags::empty())?;
    stage.world.start_agent()?;
    outcome?;
    restored(stage)
}

/// An agent that cannot record either ends with a reason, or serves nobody; never anything else.
fn refused_while_read_only(world: &mut World) -> Result<()> {
    let mark = world.agent.log().len();
    world.agent.launch(&world.places.agent)?;
    wait_for("a reason in the agent's log", Duration::from_secs(10), || {
        Ok(world.agent.log_since(mark).to_lowercase().contains("read-only").then_some(()))
    })?;
    let output = world.client("read-only").psql(&["select 1"])?;
    ensure!(output.code == Some(2) && output.stdout.is_empty(), "{output}");
    Ok(())
}

/// A session is open, `lose` takes the record away: the session ends, new ones are refused, and it is logged. What ran until
/// then is returned.
fn without_record(stage: &mut Stage, name: &str, lose: impl Fn() -> Result<()>) -> Result<String> {
    let go = stage.world.scratch.folder(name, 0o777)?.join("go");
    let mut script = format!("select 1;\n\\! while ! test -e {}; do sleep 0.05; done\n", go.display());
    // More than finds room in memory.
    for number in 0..400 {
        let long = "x".repeat(8000);
        script += &format!("insert into scratch (word) values ('lost-{number}') /* {long} */;\n");
    }
    let running = stage.world.client(name).start_script(&script)?;
    Trail::when(&stage.world.agent, name, |trail| !trail.all("result").is_empty())?;
    let mark = stage.world.agent.log().len();
    lose()?;
    fs::write(&go, "")?;
    let world = &stage.world;
    let output = running.finish(Duration::from_secs(20))?;
    ensure!(output.code != Some(0), "the session went on without a record: {output}");
    let ran = world.postgres.admin("select word from scratch where word like 'lost-%'")?;
    ensure!(ran.lines().count() < 400, "all statements ran");
    // A few may still be served: as many as find room in the rest of a page.
    let refused = wait_for("a refusal of a new session", Duration::from_secs(20), || {
        Ok(Some(world.client("late").psql(&["select 1"])?).filter(|output| output.code != Some(0)))
    })?;
    ensure!(refused.code == Some(2) && refused.stdout.is_empty(), "{refused}");
    ensure!(refused.stderr.contains("FATAL"), "no clear reason: {refused}");
    let log = world.agent.log_since(mark);
    ensure!(log.to_lowercase().contains("journal") || log.contains("record"), "nothing in the log:\n{log}");
    Ok(ran)
}

/// Service is back by itself, or after a restart of the agent; the journal is whole.
fn restored(stage: &mut Stage) -> Result<()> {
    let world = &mut stage.world;
    let back = wait_for("service by itself", Duration::from_secs(5), || {
        Ok((world.client("restored").psql(&["select 9"])?.stdout == "9\n").then_some(()))
    });
    if back.is_err() {
        world.agent.kill();
        world.start_agent()?;
        let rows = world.client("restored").psql(&["select 9"])?.ok()?;
        ensure!(rows == "9\n", "{rows:?}");
    }
    world.agent.command(&["verify"])?.ok().map(drop)
}

fn ceiling(stage: &mut Stage) -> Result<()> {
    let world = &mut stage.world;
    world.agent.stop()?;
    fs::remove_dir_all(world.agent.journal())?;
    world.wishes.record_max_bytes = 1 << 20;
    world.write_config()?;
    world.start_agent()?;
    let script = format!("select '{}';\n", "x".repeat(4000)).repeat(600);
    let output = world.client("ceiling").limit(60).script(&script)?;
    ensure!(output.code != Some(0), "more than the ceiling was served");
    let used: u64 = fs::read_dir(world.agent.journal())?
        .flatten()
        .filter_map(|e| e.metadata().ok())
        .map(|m| m.len())
        .sum();
    ensure!(used <= 1 << 20, "{used} bytes in the journal");
    // What a large record did not fit into takes a few small ones yet.
    let refused = |turn: u32| -> Result<bool> {
        Ok(world.client(&format!("ceiling-{turn}")).psql(&["select 1"])?.stderr.contains("FATAL"))
    };
    ensure!(
        (0..20).try_fold(false, |done, turn| Ok::<_, anyhow::Error>(done || refused(turn)?))?,
        "never refused"
    );
    world.agent.command(&["verify"])?.ok().map(drop)
}
