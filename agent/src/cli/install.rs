//! `install` and `uninstall`: the agent as a service of systemd.
//!
//! What is to be done is a list first (`plan`), which `--dry-run` prints and everything else carries out. What was
//! written is noted down, with its digest, so that `uninstall` removes what `install` made and nothing else: a file
//! that somebody changed stays, and the state with its journal stays unless it is asked for.

mod plan;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::Failure;
use super::operate;
use crate::app;
use crate::config::Config;
use plan::{Manifest, Plan};

const UNIT: &str = include_str!("../../../packaging/systemd/chaperone.service");
const SLICE: &str = include_str!("../../../packaging/systemd/chaperone.slice");
const CONFIG: &str = include_str!("../../../packaging/chaperone.toml");
const POLICY: &str = include_str!("../../../policy/starter/ai-agents.cedar");

const SERVICE: &str = "chaperone.service";
const UNIT_FILE: &str = "/etc/systemd/system/chaperone.service";
const ETC: &str = "/etc/chaperone";
const STATE: &str = "/var/lib/chaperone";
const MANIFEST: &str = "/etc/chaperone/.installed";

const DRY: &str = "this would be done, and is not (--dry-run):";

#[derive(Debug, clap::Args)]
pub(super) struct Install {
    /// Install below this directory instead of into the running system; for packages and images.
    #[arg(long, default_value = "/")]
    root: PathBuf,
    /// Where the program is to be, seen from below the root; it is copied there.
    #[arg(long, default_value = "/usr/local/bin/chaperone")]
    binary: PathBuf,
    /// Say what would be done, and do nothing.
    #[arg(long)]
    dry_run: bool,
    /// Start the service, too.
    #[arg(long)]
    start: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct Uninstall {
    /// As for `install`.
    #[arg(long, default_value = "/")]
    root: PathBuf,
    /// Say what would be done, and do nothing.
    #[arg(long)]
    dry_run: bool,
    /// Remove configuration, policies, state and journal, too.
    #[arg(long)]
    purge: bool,
}

pub(super) fn install(wanted: &Install, out: &mut dyn Write) -> Result<(), Failure> {
    let live = is_live(&wanted.root);
    if !wanted.binary.is_absolute() {
        return Err(Failure::Usage("--binary must be an absolute path".to_owned()));
    }
    let program = std::env::current_exe()?;
    if wanted.dry_run {
        writeln!(out, "{DRY}")?;
    }
    let mut plan = Plan::new(&wanted.root, wanted.dry_run);
    let unit = UNIT.replace("@BINARY@", &wanted.binary.display().to_string());
    plan.program(&program, &wanted.binary, out)?;
    plan.directory(ETC, 0o750, out)?;
    plan.directory("/etc/chaperone/policy", 0o750, out)?;
    plan.directory(STATE, 0o700, out)?;
    // Which the agent follows is the operator's business from the first day on.
    plan.starter("/etc/chaperone/chaperone.toml", 0o640, CONFIG, out)?;
    if plan.has_none("/etc/chaperone/policy", "cedar")? {
        plan.starter("/etc/chaperone/policy/ai-agents.cedar", 0o640, POLICY, out)?;
    }
    plan.file("/etc/systemd/system/chaperone.slice", 0o644, SLICE, out)?;
    plan.file(UNIT_FILE, 0o644, &unit, out)?;
    plan.note_down(MANIFEST)?;
    if wanted.dry_run {
        return Ok(());
    }
    if !live {
        writeln!(out, "not this system's: nothing is enabled or started")?;
        return Ok(());
    }
    systemctl(&["daemon-reload"], out)?;
    systemctl(&["enable", SERVICE], out)?;
    if wanted.start {
        systemctl(&["restart", SERVICE], out)?;
    } else {
        writeln!(
            out,
            "next: edit {ETC}/chaperone.toml, `chaperone check`, `chaperone doctor`, `systemctl start chaperone`"
        )?;
    }
    Ok(())
}

pub(super) fn uninstall(path: &Path, wanted: &Uninstall, out: &mut dyn Write) -> Result<(), Failure> {
    let live = is_live(&wanted.root);
    if wanted.dry_run {
        writeln!(out, "{DRY}")?;
    }
    let system = wanted.root == Path::new("/");
    if system && let Ok(config) = Config::load(path) {
        app::require_operator(&config)?;
    }
    // A second time there is none left to stop.
    if live && !wanted.dry_run && Path::new(UNIT_FILE).exists() {
        systemctl(&["disable", "--now", SERVICE], out)?;
    }
    if system && !wanted.dry_run {
        // Recorded in the journal, and refused while an agent still runs.
        operate::detach(path, out)?;
    }
    let plan = Plan::new(&wanted.root, wanted.dry_run);
    let manifest = Manifest::read(&wanted.root, MANIFEST)?;
    for entry in manifest.entries() {
        plan.remove_unchanged(entry, out)?;
    }
    if wanted.purge {
        for tree in [ETC, STATE, "/run/chaperone"] {
            plan.remove_tree(tree, out)?;
        }
    } else {
        plan.remove(MANIFEST, out)?;
        for directory in ["/etc/chaperone/policy", ETC] {
            plan.remove_empty(directory, out)?;
        }
        writeln!(out, "kept: {STATE} with the journal; --purge removes it")?;
    }
    if live && !wanted.dry_run {
        systemctl(&["daemon-reload"], out)?;
    }
    Ok(())
}

/// Whether this is the running system, and systemd runs it.
fn is_live(root: &Path) -> bool {
    root == Path::new("/") && Path::new("/run/systemd/system").is_dir()
}

fn systemctl(args: &[&str], out: &mut dyn Write) -> Result<(), Failure> {
    writeln!(out, "systemctl {}", args.join(" "))?;
    let status = Command::new("systemctl").args(args).status()?;
    if status.success() {
        return Ok(());
    }
    Err(Failure::Failed(format!(
        "`systemctl {}` failed: {status}; `journalctl -u {SERVICE}` tells more",
        args.join(" ")
    )))
}
