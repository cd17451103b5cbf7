//! `test`, `e2e`, `demo`, `bench`: build what is needed, then hand over to the `e2e` binary.

use std::ffi::OsStr;
use std::fs;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::build::{self, Profile};
use crate::sh;

/// The agent is built first, so that the unit tests find the kernel programs and nothing is compiled twice.
pub(crate) fn all() -> Result<()> {
    build::setup()?;
    build::everything(Profile::Dev)?;
    unit()?;
    e2e(&[])
}

/// What needs neither root nor the BPF toolchain; tidy is among it, as a test of this package.
pub(crate) fn unit() -> Result<()> {
    sh::run(&mut sh::cargo(["test", "--locked", "--workspace"]))
}

/// The tests that mutate inputs run a second each by themselves; here longer, or those whose name holds a word.
pub(crate) fn fuzz(args: &[&str]) -> Result<()> {
    if let Some(at) = args.iter().position(|word| *word == "--libfuzzer") {
        return libfuzzer(args.get(at + 1..).unwrap_or_default());
    }
    let (mut seconds, mut seed, mut name) = ("10", "1", None);
    let mut words = args.iter();
    while let Some(word) = words.next() {
        match *word {
            "--seconds" => seconds = words.next().context("--seconds wants a number")?,
            "--seed" => seed = words.next().context("--seed wants a number")?,
            word => name = Some(word),
        }
    }
    let tests =
        ["test", "--locked", "--package", "chaperone", "--package", "chaperone-sql", "--test", "fuzz"];
    // What is private is mutated by tests beside it, whose names begin so.
    let within = ["test", "--locked", "--package", "chaperone", "--package", "chaperone-sql", "--lib"];
    for (tests, name) in [(&tests[..], name), (&within[..], name.or(Some("fuzz_")))] {
        let mut command = sh::cargo(tests);
        command.args(["--no-fail-fast", "--"]).args(name).arg("--nocapture");
        sh::run(command.env("CHAPERONE_FUZZ_SECONDS", seconds).env("CHAPERONE_FUZZ_SEED", seed))?;
    }
    Ok(())
}

/// One of the targets in fuzz/, by libFuzzer, which learns from what each input reaches. It wants cargo-fuzz.
fn libfuzzer(args: &[&str]) -> Result<()> {
    let (mut seconds, mut target) = ("60", None);
    let mut words = args.iter();
    while let Some(word) = words.next() {
        match *word {
            "--seconds" => seconds = words.next().context("--seconds wants a number")?,
            word => target = Some(word),
        }
    }
    let target = target.context("name a target: codec, machine, prescan, analyser, maskers, ssh")?;
    let fuzz = sh::root().join("fuzz");
    // The versions that everything else is built with; what is missing is added.
    if !fuzz.join("Cargo.lock").exists() {
        fs::copy(sh::root().join("Cargo.lock"), fuzz.join("Cargo.lock"))?;
    }
    // What is found interesting goes into the first folder, the seeds stay as they are.
    let corpus = fuzz.join("corpus").join(target);
    fs::create_dir_all(&corpus)?;
    let mut command = sh::cargo(["fuzz", "run", "--sanitizer", "none", target]);
    command.arg(&corpus).arg(fuzz.join("seeds").join(target));
    command.args(["--", "-max_len=65536", "-timeout=20"]).arg(format!("-max_total_time={seconds}"));
    // Instrumentation is for nightly compilers; the stable one has it all the same.
    command.env("RUSTC_BOOTSTRAP", "1").env("CARGO_TARGET_DIR", sh::root().join("target/fuzz"));
    sh::run(command.current_dir(sh::root())).context("is cargo-fuzz installed (cargo install cargo-fuzz)?")
}

/// All suites, or the one named.
pub(crate) fn e2e(args: &[&str]) -> Result<()> {
    hand_over(Profile::Dev, "suite", args)
}

pub(crate) fn demo() -> Result<()> {
    hand_over(Profile::Dev, "demo", &[])
}

pub(crate) fn bench(args: &[&str]) -> Result<()> {
    if args == ["policy"] {
        // Needs neither an agent nor a server.
        let cost = ["run", "--locked", "--release", "--package", "chaperone-policy", "--example", "cost"];
        return sh::run(&mut sh::cargo(cost));
    }
    if args.first() == Some(&"record") {
        return bench_record(args);
    }
    hand_over(Profile::Release, "bench", args)
}

/// The journal by itself first: it needs neither an agent nor a server.
fn bench_record(args: &[&str]) -> Result<()> {
    build::setup()?;
    build::everything(Profile::Release)?;
    let operations = if args.contains(&"--smoke") { "20000" } else { "1000000" };
    let mut journal =
        sh::cargo(["run", "--locked", "--release", "--package", "chaperone", "--example", "journal"]);
    let output =
        journal.args(["--", operations]).stderr(Stdio::inherit()).output().context("running the example")?;
    if !output.status.success() {
        bail!("the example `journal` ended with {}", output.status);
    }
    let path = std::env::temp_dir().join(format!("chaperone-bench-journal-{}.md", std::process::id()));
    fs::write(&path, output.stdout)?;
    let outcome =
        hand_over_with(Profile::Release, "bench", args, &[("CHAPERONE_BENCH_JOURNAL", path.as_os_str())]);
    let _ = fs::remove_file(path);
    outcome
}

fn hand_over(profile: Profile, command: &str, args: &[&str]) -> Result<()> {
    hand_over_with(profile, command, args, &[])
}

fn hand_over_with(profile: Profile, command: &str, args: &[&str], env: &[(&str, &OsStr)]) -> Result<()> {
    let what: &[&str] = if command == "demo" { &["demo"] } else { &[] };
    build::setup_for(what)?;
    let agent = build::everything(profile)?;
    let e2e = build::e2e_binary()?;
    sh::run(
        Command::new(e2e)
            .arg(command)
            .args(args)
            .env("CHAPERONE_BIN", agent)
            .env("CHAPERONE_ROOT", sh::root())
            .envs(env.iter().copied())
            .current_dir(sh::root()),
    )
}
