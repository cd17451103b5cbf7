//! `chaperone hosts`: how ssh on this host comes to trust the keys that governed processes see.
//!
//! A drop-in of ssh's own configuration lets ssh ask the agent, each time and for each process; nothing is written into
//! anybody's known_hosts.

mod container;

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Subcommand;

use super::Failure;
use crate::config::Config;
use crate::control::HOSTS_SOCKET;

pub(super) const DROP_IN: &str = "10-chaperone.conf";

/// Where ssh_config(5) includes files from.
pub(super) const DROP_INS: &str = "/etc/ssh/ssh_config.d";

/// ssh waits for the answer, so no answer has to come soon.
const TIMEOUT: Duration = Duration::from_secs(3);

#[derive(Debug, Subcommand)]
pub(super) enum Hosts {
    /// Let ssh on this host ask the agent for the keys of targets (OpenSSH 8.5 or newer).
    Install {
        /// Where ssh_config(5) includes files from.
        #[arg(long, default_value = DROP_INS)]
        dir: PathBuf,
        /// Put the keys into the container of this process instead, where ssh cannot ask (Linux 5.2 or newer).
        #[arg(long, conflicts_with = "dir")]
        pid: Option<u32>,
    },
    /// Take that away again.
    Remove {
        #[arg(long, default_value = DROP_INS)]
        dir: PathBuf,
        /// Out of the container of this process.
        #[arg(long, conflicts_with = "dir")]
        pid: Option<u32>,
    },
    /// Print lines for the known_hosts file of a client that does not ask: containers, libraries.
    Keys,
    /// Answer ssh's question about one host. Prints nothing when there is nothing to say.
    #[command(hide = true)]
    Known {
        #[arg(long)]
        socket: PathBuf,
        /// Where the connection goes, when ssh knows the host by another name (HostKeyAlias).
        #[arg(long)]
        at: Option<String>,
        host: String,
    },
}

pub(super) fn hosts(config: &Path, what: &Hosts, out: &mut dyn Write) -> Result<(), Failure> {
    match what {
        Hosts::Install { pid: Some(pid), .. } => {
            let config = Config::load(config)?;
            let mut lines = Vec::new();
            keys(&config, &mut lines)?;
            container::put(*pid, &String::from_utf8_lossy(&lines), &config.state_dir)
                .map_err(|error| Failure::Failed(error.to_string()))?;
            writeln!(out, "ssh in the container of process {pid} knows the targets from now on")?;
            Ok(())
        }
        Hosts::Remove { pid: Some(pid), .. } => {
            container::take(*pid).map_err(|error| Failure::Failed(error.to_string()))?;
            writeln!(out, "the container of process {pid} is as it was")?;
            Ok(())
        }
        Hosts::Install { dir, pid: None } => install(&Config::load(config)?, dir, out),
        Hosts::Remove { dir, pid: None } => remove(dir, out),
        Hosts::Keys => keys(&Config::load(config)?, out),
        Hosts::Known { socket, at, host } => {
            // Whatever goes wrong, ssh goes on with what it knows itself.
            let at = at.as_deref().unwrap_or(host);
            if let Ok(answer) = ask(socket, at) {
                for key in answer.lines().filter_map(|line| line.strip_prefix(at)) {
                    writeln!(out, "{host}{key}")?;
                }
            }
            Ok(())
        }
    }
}

pub(super) fn install(config: &Config, dir: &Path, out: &mut dyn Write) -> Result<(), Failure> {
    let program = std::env::current_exe()?;
    let socket = config.run_dir.join(HOSTS_SOCKET);
    for path in [&program, &socket] {
        if path.to_string_lossy().contains([' ', '"', '%', '\n']) {
            return Err(Failure::Failed(format!(
                "{}: ssh_config(5) cannot name such a path",
                path.display()
            )));
        }
    }
    if !dir.is_dir() {
        return Err(Failure::Failed(format!(
            "{} does not exist: is OpenSSH's client installed?",
            dir.display()
        )));
    }
    let text = format!(
        "# Written by `chaperone hosts install` or `trust install`, taken away by `remove`.\n\
         # Governed processes meet Chaperone at targets; ssh asks it for the keys to expect. Others get no answer.\n\
         KnownHostsCommand {} hosts known --socket {} --at [%h]:%p %H\n",
        program.display(),
        socket.display()
    );
    let path = dir.join(DROP_IN);
    fs::write(&path, text).map_err(|error| Failure::Failed(format!("{}: {error}", path.display())))?;
    writeln!(out, "{}: ssh asks the agent from now on", path.display())?;
    Ok(())
}

pub(super) fn remove(dir: &Path, out: &mut dyn Write) -> Result<(), Failure> {
    let path = dir.join(DROP_IN);
    fs::remove_file(&path).map_err(|error| Failure::Failed(format!("{}: {error}", path.display())))?;
    writeln!(out, "{} is gone", path.display())?;
    Ok(())
}

fn keys(config: &Config, out: &mut dyn Write) -> Result<(), Failure> {
    let keys = crate::app::ssh_host_keys(config)?;
    for target in &config.targets {
        let Some(ssh) = &target.ssh else { continue };
        // Only whole addresses: a known_hosts file knows no networks.
        let addresses = target
            .addresses
            .iter()
            .filter(|network| network.is_one())
            .map(|network| network.address.to_string());
        let names: Vec<String> = ssh
            .host_names
            .iter()
            .cloned()
            .chain(addresses)
            .map(|name| if target.port == 22 { name } else { format!("[{name}]:{}", target.port) })
            .collect();
        if names.is_empty() {
            continue;
        }
        for key in &keys {
            writeln!(out, "{} {key}", names.join(","))?;
        }
    }
    Ok(())
}

fn ask(socket: &Path, host: &str) -> std::io::Result<String> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    stream.write_all(format!("{host}\n").as_bytes())?;
    let mut answer = String::new();
    stream.take(64 << 10).read_to_string(&mut answer)?;
    Ok(answer)
}
