//! `vm`: the end-to-end suites on another kernel, in a virtual machine. Not part of the tests that every change must
//! pass: qemu interprets every instruction where there is no hardware virtualisation.

use std::process::Command;

use anyhow::{Result, bail};

use crate::build::{self, Profile};
use crate::sh;

/// What runs where nothing is said: the whole line, death and upgrades, and the service under a real systemd.
const SUITES: &[&str] = &["core", "alive", "service"];

pub(crate) fn vm(args: &[&str]) -> Result<()> {
    let (mut kernel, mut profile, mut suites) = ("newest", Profile::Dev, Vec::new());
    let mut args = args.iter().copied();
    while let Some(arg) = args.next() {
        match (arg, &args) {
            ("--kernel", _) => match args.next() {
                Some(series) => kernel = series,
                None => bail!("--kernel needs a series such as 6.1, or `newest`"),
            },
            ("--release", _) => profile = Profile::Release,
            (flag, _) if flag.starts_with('-') => bail!("no option {flag}"),
            (suite, _) => suites.push(suite),
        }
    }
    if suites.is_empty() {
        suites = SUITES.to_vec();
    }
    let agent = build::everything(profile)?;
    let e2e = build::e2e_binary()?;
    sh::run(
        Command::new("scripts/vm.sh").arg(kernel).arg(agent).arg(e2e).args(suites).current_dir(sh::root()),
    )
}
