//! Builds the product: the kernel programs first, because the agent carries them.

use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;

use crate::{ebpf, sh};

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Profile {
    Dev,
    Release,
}

impl Profile {
    fn folder(self) -> &'static str {
        match self {
            Self::Dev => "debug",
            Self::Release => "release",
        }
    }
}

/// Installs what building and testing need, where it is missing. Shell, because a bare machine cannot build this
/// program.
pub(crate) fn setup() -> Result<()> {
    setup_for(&[])
}

/// The same for one thing only: `demo`.
pub(crate) fn setup_for(what: &[&str]) -> Result<()> {
    sh::run(Command::new("bash").arg("scripts/prereqs.sh").current_dir(sh::root()))?;
    sh::run(Command::new("bash").arg("scripts/packages.sh").args(what).current_dir(sh::root()))
}

/// The agent's binary, with the kernel programs in it.
pub(crate) fn everything(profile: Profile) -> Result<PathBuf> {
    // It lands where agent/build.rs looks; saying so in the environment as well would make cargo build twice.
    ebpf::build(&sh::root())?;
    let mut command = sh::cargo(["build", "--locked", "--package", "chaperone"]);
    if profile == Profile::Release {
        command.arg("--release");
    }
    sh::run(&mut command)?;
    Ok(sh::target_dir().join(profile.folder()).join("chaperone"))
}

/// The binary that holds the end-to-end suites, the demo and the benchmark.
pub(crate) fn e2e_binary() -> Result<PathBuf> {
    sh::run(&mut sh::cargo(["build", "--locked", "--package", "chaperone-e2e"]))?;
    Ok(sh::target_dir().join("debug/e2e"))
}
