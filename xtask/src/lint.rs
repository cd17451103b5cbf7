//! Everything that reads the source without running it.

use std::process::{Command, Stdio};

use anyhow::Result;

use crate::{sh, tidy};

/// The version whose checks were read and whose configuration format deny.toml is written in.
const CARGO_DENY: &str = "0.20.2";

pub(crate) fn lint() -> Result<()> {
    sh::run(&mut sh::cargo(["fmt", "--all", "--check"]))?;
    tidy::report()?;
    sh::run(&mut sh::cargo(["clippy", "--locked", "--workspace", "--all-targets", "--", "-D", "warnings"]))?;
    ebpf()?;
    deny()
}

/// The kernel programs are checked for the host: the lints are the same there and need no BPF toolchain.
fn ebpf() -> Result<()> {
    sh::run(&mut sh::cargo([
        "clippy",
        "--locked",
        "--package",
        "chaperone-ebpf",
        "--bins",
        "--features",
        "kernel",
        // The kernel has no unwinding; for the BPF target cargo knows, for the host it must be told.
        "--config",
        "profile.dev.panic=\"abort\"",
        "--",
        "-D",
        "warnings",
    ]))
}

/// Licences, sources and bans. Advisories are looked at by people: their database is not reachable everywhere,
/// and an advisory published overnight is no fault of the change being tested.
fn deny() -> Result<()> {
    if !installed() {
        sh::run(&mut sh::cargo(["install", "--locked", &format!("cargo-deny@{CARGO_DENY}")]))?;
    }
    sh::run(&mut sh::cargo(["deny", "--locked", "check", "bans", "licenses", "sources"]))
}

fn installed() -> bool {
    Command::new("cargo-deny")
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}
