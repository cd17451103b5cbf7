//! `test`, `e2e`, `demo`, `bench`: build what is needed, then hand over to the `e2e` binary.

use std::process::Command;

use anyhow::Result;

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
    hand_over(Profile::Release, "bench", args)
}

fn hand_over(profile: Profile, command: &str, args: &[&str]) -> Result<()> {
    build::setup()?;
    let agent = build::everything(profile)?;
    let e2e = build::e2e_binary()?;
    sh::run(
        Command::new(e2e)
            .arg(command)
            .args(args)
            .env("CHAPERONE_BIN", agent)
            .env("CHAPERONE_ROOT", sh::root())
            .current_dir(sh::root()),
    )
}
