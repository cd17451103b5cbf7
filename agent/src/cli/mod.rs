//! The subcommands. Human output by default, `--json` where there is something to read, exit codes that scripts
//! can use: 0 done, 1 failed or not as it should be, 2 usage or configuration.

mod db;
mod doctor;
mod grants;
mod hosts;
mod identify;
mod install;
mod journal;
mod login;
mod operate;
mod play;
mod policy;
mod prune;
mod sign;
mod trust;
mod unseal;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::config::{Config, ConfigError};
use crate::{control, record};

/// Supervises non-human identities: intercepts, decides, masks and records what they do.
#[derive(Debug, Parser)]
#[command(name = "chaperone", version, about)]
struct Arguments {
    /// Configuration file.
    #[arg(long, global = true, default_value = "/etc/chaperone/chaperone.toml")]
    config: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the agent (SIGHUP reloads, SIGTERM ends it; interception stays in force).
    Run,
    /// Check the configuration and the policies, and exit.
    Check,
    /// Say what this host has and lacks, and how to mend it.
    Doctor {
        #[arg(long)]
        json: bool,
    },
    /// Say whether the agent runs, and what it does.
    Status {
        #[arg(long)]
        json: bool,
    },
    /// Say what a process or a line of a cgroup file is taken for, and why.
    Identify {
        #[arg(long, conflicts_with = "cgroup", required_unless_present = "cgroup")]
        pid: Option<u32>,
        /// A path below the cgroup2 mount, or the text of a cgroup file.
        #[arg(long)]
        cgroup: Option<String>,
        #[arg(long)]
        json: bool,
    },
    /// List recorded sessions.
    Sessions {
        #[command(flatten)]
        place: Place,
        #[command(flatten)]
        wanted: journal::Wanted,
    },
    /// Show a recorded session, statement by statement.
    Replay {
        /// Id of the session, or its beginning.
        id: String,
        #[command(flatten)]
        place: Place,
        #[command(flatten)]
        shown: journal::Shown,
    },
    /// Find statements by their text, over all sessions.
    Grep {
        /// A regular expression; its case does not matter.
        pattern: String,
        /// Its case matters.
        #[arg(long)]
        exact_case: bool,
        #[command(flatten)]
        place: Place,
    },
    /// Say who asked for a statement or a connection, who decided, why, and what came of it.
    Why {
        /// The statement: SESSION/NUMBER, as denials name it; SESSION/0 is the connection, where it waited or was refused;
        /// or the request that waited for an approval: h-...
        id: String,
        #[command(flatten)]
        place: Place,
    },
    /// Check that the journal is whole and unchanged.
    Verify {
        #[command(flatten)]
        place: Place,
        /// The host's public key; default: journal-key.pub beside the journal's directory.
        #[arg(long)]
        key: Option<PathBuf>,
        /// A checkpoint that was kept elsewhere (a copy of the journal's file `head`): the journal must go on from it.
        #[arg(long)]
        since: Option<PathBuf>,
    },
    /// Prove to others that a record is among those this host signed, or that the journal goes on from a checkpoint.
    Prove {
        /// Number of the record, or of a statement: SESSION/NUMBER, as denials and `replay` name it.
        id: Option<String>,
        #[command(flatten)]
        place: Place,
        #[arg(long)]
        key: Option<PathBuf>,
        /// A checkpoint that was kept elsewhere.
        #[arg(long, conflicts_with = "id")]
        since: Option<PathBuf>,
    },
    /// Show auditors the raw values that were sealed to them.
    Unseal(unseal::Wanted),
    /// Remove the oldest records, in whole segments; what is left can still be verified and proved.
    Prune(prune::Wanted),
    /// List statements that wait for an approval.
    Approvals {
        #[arg(long)]
        json: bool,
    },
    /// Let what is held go: a statement once, a connection by a grant.
    Approve(operate::Approval),
    /// Refuse what is held.
    Deny {
        id: String,
        #[arg(long)]
        comment: Option<String>,
    },
    /// Ask policies without running anything.
    #[command(subcommand)]
    Policy(policy::Policy),
    /// List grants in force.
    Grants {
        /// And those that have ended.
        #[arg(long)]
        all: bool,
        #[arg(long)]
        json: bool,
    },
    /// Grant an identity access, or groups, for a time.
    Grant(grants::Typed),
    /// End a grant, and the sessions that live on it.
    Revoke {
        id: String,
        #[arg(long, default_value = "by an operator")]
        reason: String,
    },
    /// Log in at the identity provider, to approve without a signing key.
    Login,
    /// Forget the login.
    Logout,
    /// Make a signing key for an approver, and print its public half.
    NewKey { file: PathBuf },
    /// Let ssh on this host trust the keys that governed processes see at targets.
    Hosts {
        #[command(subcommand)]
        what: hosts::Hosts,
    },
    /// What the targets' databases should be told.
    Db {
        #[command(subcommand)]
        what: db::Db,
    },
    /// How clients on this host come to trust what they meet at targets: the authority for databases in the system's store, and
    /// ssh's question to the agent.
    Trust {
        #[command(subcommand)]
        what: trust::Trust,
    },
    /// End a live session.
    Kill {
        id: String,
        #[arg(long, default_value = "an operator ended the session")]
        reason: String,
    },
    /// Replace the running agent by its program as it is on disk now: nothing is refused or unprotected meanwhile.
    Upgrade,
    /// Install the agent as a service of systemd: program, directories, starter configuration and policy, units.
    Install(install::Install),
    /// Stop the service, let go of the kernel, and remove what `install` made; the state and its journal stay.
    Uninstall(install::Uninstall),
    /// Let go of the kernel: nothing is intercepted any more. Refused while the agent runs.
    Detach,
}

/// Where the journal is, and how to show it.
#[derive(Debug, clap::Args)]
struct Place {
    /// The journal's directory; default: the configuration's.
    #[arg(long)]
    dir: Option<PathBuf>,
    #[arg(long)]
    json: bool,
}

impl Place {
    fn dir(&self, config: &Path) -> Result<PathBuf, Failure> {
        match &self.dir {
            Some(dir) => Ok(dir.clone()),
            None => {
                let config = Config::load(config)?;
                written(&config);
                Ok(config.state_dir.join("journal"))
            }
        }
    }
}

/// Has written to the journal's files what is recorded and not there yet: by the agent, or here when none lives.
fn written(config: &Config) {
    if control::call(&config.run_dir, &control::Request::Flush).is_ok() {
        return;
    }
    // What is there can be read all the same, and the agent's next start says why the rest has no place.
    if let Err(error) = record::complete(&crate::app::journal_options(config)) {
        eprintln!("chaperone: the newest records are missing: {error}");
    }
}

/// Why a command ended with another status than 0.
#[derive(Debug)]
enum Failure {
    /// Status 2.
    Usage(String),
    /// Status 1.
    Failed(String),
    /// Status 1, and everything was said already.
    Said,
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self::Usage(error.to_string())
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        match error.downcast::<ConfigError>() {
            Ok(error) => error.into(),
            Err(error) => Self::Failed(whole(&error)),
        }
    }
}

/// The error and what caused it, each said once: many say their cause themselves.
fn whole(error: &anyhow::Error) -> String {
    let mut said = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if !said.ends_with(&cause) {
            if !said.is_empty() {
                said.push_str(": ");
            }
            said.push_str(&cause);
        }
    }
    said
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        // `chaperone sessions | head` is not a failure.
        if error.kind() == std::io::ErrorKind::BrokenPipe {
            Self::Said
        } else {
            Self::Failed(error.to_string())
        }
    }
}

impl From<crate::record::RecordError> for Failure {
    fn from(error: crate::record::RecordError) -> Self {
        let nothing = matches!(&error, crate::record::RecordError::Io { attempt: "list", source, .. }
            if source.kind() == std::io::ErrorKind::NotFound);
        let hint = if nothing { "; has an agent with this configuration (state_dir) run yet?" } else { "" };
        Self::Failed(format!("{error}{hint}"))
    }
}

/// Parses the arguments, runs the command, returns the exit status.
#[must_use]
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let stdout = std::io::stdout();
    match dispatch(&arguments, &mut stdout.lock()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Said) => ExitCode::from(1),
        Err(Failure::Failed(why)) => complain(&why, 1),
        Err(Failure::Usage(why)) => complain(&why, 2),
    }
}

fn complain(why: &str, status: u8) -> ExitCode {
    let _ = writeln!(std::io::stderr(), "chaperone: {why}");
    ExitCode::from(status)
}

fn dispatch(arguments: &Arguments, out: &mut dyn Write) -> Result<(), Failure> {
    let config = arguments.config.as_path();
    match &arguments.command {
        Command::Run => {
            crate::log::to_stderr();
            // Told apart from what fails later: this is mended in a file, and trying again does not help.
            crate::app::checked_policies(&Config::load(config)?)
                .map_err(|error| Failure::Usage(whole(&error)))?;
            crate::app::run(config).map_err(Failure::from)
        }
        Command::Check => operate::check(config, out),
        Command::Doctor { json } => doctor::doctor(config, *json, out),
        Command::Status { json } => operate::status(config, *json, out),
        Command::Identify { pid, cgroup, json } => {
            identify::identify(config, *pid, cgroup.as_deref(), *json, out)
        }
        Command::Sessions { place, wanted } => {
            journal::sessions(&place.dir(config)?, wanted, place.json, out)
        }
        Command::Replay { id, place, shown } => {
            journal::replay(&place.dir(config)?, id, shown, place.json, out)
        }
        Command::Grep { pattern, exact_case, place } => {
            journal::grep(&place.dir(config)?, pattern, *exact_case, place.json, out)
        }
        Command::Why { id, place } => journal::why(&place.dir(config)?, id, place.json, out),
        Command::Verify { place, key, since } => {
            journal::verify(&place.dir(config)?, key.as_deref(), since.as_deref(), place.json, out)
        }
        Command::Prove { id, place, key, since } => {
            journal::prove(&place.dir(config)?, key.as_deref(), id.as_deref(), since.as_deref(), out)
        }
        Command::Unseal(wanted) => unseal::unseal(config, wanted, out),
        Command::Prune(wanted) => prune::prune(config, wanted, out),
        Command::Approvals { json } => operate::approvals(config, *json, out),
        Command::Approve(approval) => operate::approve(config, approval, out),
        Command::Deny { id, comment } => operate::deny(config, id, comment.as_deref(), out),
        Command::Policy(command) => policy::run(config, command, out),
        Command::Grants { all, json } => grants::list(config, *all, *json, out),
        Command::Grant(typed) => grants::grant(config, typed, out),
        Command::Revoke { id, reason } => grants::revoke(config, id, reason, out),
        Command::Login => login::login(config, out),
        Command::Logout => login::logout(out),
        Command::NewKey { file } => sign::new_key(file, out),
        Command::Hosts { what } => hosts::hosts(config, what, out),
        Command::Db { what } => db::db(config, what, out),
        Command::Trust { what } => trust::trust(config, what, out),
        Command::Kill { id, reason } => operate::kill(config, id, reason, out),
        Command::Upgrade => operate::upgrade(config, out),
        Command::Install(wanted) => install::install(wanted, out),
        Command::Uninstall(wanted) => install::uninstall(config, wanted, out),
        Command::Detach => operate::detach(config, out),
    }
}
