//! `chaperone trust`: how clients on this host come to trust what governed processes meet at targets. For databases, the
//! host's certificate authority, in and out of the system's store, and what each kind of client needs to look there; for
//! hosts, what `chaperone hosts` does.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use clap::Subcommand;

use super::{Failure, hosts};
use crate::config::{Config, Protocol};
use crate::trust::HostCa;

#[derive(Debug, Subcommand)]
pub(super) enum Trust {
    /// Show the authority, whether this host trusts it, and how clients are told to.
    Show,
    /// Put it into the system's store (it is made if there is none), and let ssh ask the agent for the keys of targets: each where
    /// there are targets it is for.
    Install,
    /// Take both out again.
    Remove,
}

/// Where a distribution keeps authorities of the host's own, and the program that takes them up.
struct Store {
    folder: &'static str,
    file: &'static str,
    program: &'static str,
    arguments: &'static [&'static str],
    /// What clients read.
    bundle: &'static str,
    /// Programs that keep other stores, Java's for one, and what they know the authority as.
    hooks: Option<(&'static str, &'static str)>,
}

const STORES: [Store; 2] = [
    Store {
        folder: "/usr/local/share/ca-certificates",
        file: "chaperone-host-ca.crt",
        program: "update-ca-certificates",
        // Links of what is gone are taken away, too.
        arguments: &["--fresh"],
        bundle: "/etc/ssl/certs/ca-certificates.crt",
        hooks: Some(("/etc/ca-certificates/update.d", "/etc/ssl/certs/chaperone-host-ca.pem")),
    },
    Store {
        folder: "/etc/pki/ca-trust/source/anchors",
        file: "chaperone-host-ca.pem",
        program: "update-ca-trust",
        arguments: &["extract"],
        bundle: "/etc/pki/tls/certs/ca-bundle.crt",
        hooks: None,
    },
];

pub(super) fn trust(config: &Path, what: &Trust, out: &mut dyn Write) -> Result<(), Failure> {
    let config = Config::load(config)?;
    let ca = HostCa::load_or_create(&config.state_dir).map_err(|error| Failure::Failed(error.to_string()))?;
    match what {
        Trust::Show => show(&ca, out)?,
        Trust::Install => {
            let has = |protocol| config.targets.iter().any(|target| target.protocol == protocol);
            if has(Protocol::Postgres) || !has(Protocol::Ssh) {
                let store = store()?;
                let file = store.path();
                fs::write(&file, ca.pem()).map_err(|error| failed(&file, &error))?;
                store.update()?;
                writeln!(out, "this host trusts {} now", ca.fingerprint())?;
                show(&ca, out)?;
            }
            match Path::new(hosts::DROP_INS) {
                _ if !has(Protocol::Ssh) => {}
                folder if has(Protocol::Postgres) && !folder.is_dir() => {
                    writeln!(out, "{} does not exist: no ssh here to tell", folder.display())?;
                }
                folder => hosts::install(&config, folder, out)?,
            }
        }
        Trust::Remove => {
            let store = store();
            let certificate = store.as_ref().is_ok_and(|store| store.path().exists());
            let drop_in = Path::new(hosts::DROP_INS).join(hosts::DROP_IN).exists();
            if !certificate && !drop_in {
                let file = store?.path();
                let text = format!("{} does not exist: nothing to remove", file.display());
                return Err(Failure::Failed(text));
            }
            if certificate {
                let store = store?;
                let file = store.path();
                fs::remove_file(&file).map_err(|error| failed(&file, &error))?;
                store.update()?;
                store.forget()?;
                let print = ca.fingerprint();
                writeln!(out, "this host does not trust {print} any more; the key is still there")?;
            }
            if drop_in {
                hosts::remove(Path::new(hosts::DROP_INS), out)?;
            }
        }
    }
    Ok(())
}

impl Store {
    fn path(&self) -> PathBuf {
        Path::new(self.folder).join(self.file)
    }

    fn update(&self) -> Result<(), Failure> {
        run(Command::new(self.program).args(self.arguments), "")
    }

    /// Tells the other stores that the authority is gone: `--fresh` makes the list of what was removed an empty one
    /// (update-ca-certificates(8) has how the hooks are told).
    fn forget(&self) -> Result<(), Failure> {
        let Some((folder, name)) = self.hooks else { return Ok(()) };
        let Ok(hooks) = fs::read_dir(folder) else { return Ok(()) };
        let mut hooks: Vec<PathBuf> = hooks.flatten().map(|hook| hook.path()).collect();
        hooks.sort();
        hooks.iter().try_for_each(|hook| run(&mut Command::new(hook), &format!("-{name}\n")))
    }
}

fn run(command: &mut Command, input: &str) -> Result<(), Failure> {
    let name = command.get_program().to_string_lossy().into_owned();
    let mut ran = || {
        let piped = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = piped.spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(input.as_bytes())?;
        }
        child.wait_with_output()
    };
    let output = ran().map_err(|error| Failure::Failed(format!("{name}: {error}")))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(Failure::Failed(format!("{name} failed: {}", said.trim())))
}

fn store() -> Result<&'static Store, Failure> {
    STORES.iter().find(|store| Path::new(store.folder).is_dir()).ok_or_else(|| {
        let folders: Vec<&str> = STORES.iter().map(|store| store.folder).collect();
        Failure::Failed(format!(
            "none of {} exists: install ca-certificates, or give clients the file that `trust show` names",
            folders.join(", ")
        ))
    })
}

fn failed(path: &Path, error: &std::io::Error) -> Failure {
    Failure::Failed(format!("{}: {error}", path.display()))
}

fn show(ca: &HostCa, out: &mut dyn Write) -> Result<(), Failure> {
    let file = ca.path().display();
    let bundle = store().map_or("the system's bundle", |store| store.bundle);
    // The agent's own directory is closed to those who have to read it.
    let copy = store().map_or_else(|_| ca.path().to_owned(), Store::path);
    let copy = copy.display();
    let installed =
        store().is_ok_and(|store| fs::read_to_string(store.path()).is_ok_and(|pem| pem == ca.pem()));
    writeln!(out, "authority    {file}")?;
    writeln!(out, "sha256       {}", ca.fingerprint())?;
    writeln!(out, "system store {}", if installed { "installed" } else { "not installed" })?;
    writeln!(
        out,
        "
Once it is in the system's store:
  libpq 16 or newer  sslmode=verify-full sslrootcert=system
  libpq, older       sslmode=verify-full and sslrootcert={bundle}, or the authority in ~/.postgresql/root.crt
  JDBC               sslmode=verify-full&sslfactory=org.postgresql.ssl.DefaultJavaSSLFactory (a Java that uses the
                     system's store, as Debian's does), or sslrootcert={copy}
  Go                 pgx: sslmode=verify-full; lib/pq: and sslrootcert={bundle}
  Python             psycopg: as libpq; asyncpg: ssl='verify-full' with PGSSLROOTCERT={bundle}, or an ssl context
  Node.js            NODE_EXTRA_CA_CERTS={copy}, and ssl: {{ rejectUnauthorized: true }}"
    )?;
    Ok(())
}
