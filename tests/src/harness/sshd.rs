//! A private OpenSSH server: its own configuration, port, keys and log, gone with the suite.
//!
//! It listens on several loopback addresses, so that one server can stand behind several targets. Nobody but the agent
//! is told a key that it takes.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use super::postgres::free_port;
use super::scratch::Scratch;
use super::spawn::{Program, Running, wait_for};

/// Loopback addresses the server answers on.
pub(crate) const ADDRESSES: [&str; 11] = [
    "127.0.0.1",
    "127.0.0.2",
    "127.0.0.3",
    "127.0.0.4",
    "127.0.0.5",
    "127.0.0.6",
    "127.0.0.7",
    "127.0.0.8",
    "127.0.0.10",
    "127.0.0.11",
    "127.0.0.12",
];

pub(crate) struct Sshd {
    folder: PathBuf,
    pub(crate) port: u16,
    _server: Running,
}

impl Sshd {
    pub(crate) fn start(scratch: &Scratch) -> Result<Self> {
        Self::with_pam(scratch, true)
    }

    /// Without PAM, whose sessions cost more than all else of a login.
    pub(crate) fn bare(scratch: &Scratch) -> Result<Self> {
        Self::with_pam(scratch, false)
    }

    fn with_pam(scratch: &Scratch, pam: bool) -> Result<Self> {
        let folder = scratch.folder("sshd", 0o755)?;
        for (name, kind) in
            [("host_ed25519", "ed25519"), ("host_ecdsa", "ecdsa"), ("host_rsa", "rsa"), ("other", "ed25519")]
        {
            keygen(&folder.join(name), kind)?;
        }
        for name in ["login", "stranger", "ca", "thief", "host_ca"] {
            keygen(&folder.join(name), "ed25519")?;
        }
        // For some of its addresses, by a name.
        Program::new("/usr/bin/ssh-keygen")
            .args(["-q", "-h", "-I", "host", "-n", "web-vouched.internal,web-unvouched.internal", "-s"])
            .args([folder.join("host_ca"), folder.join("host_ed25519.pub")])
            .run()?
            .ok()?;
        fs::copy(folder.join("login.pub"), folder.join("authorized_keys"))?;
        // Debian's server wants it, and makes it only when it is started as a service.
        fs::create_dir_all("/run/sshd")?;
        let port = free_port()?;
        let listen: String = ADDRESSES.iter().map(|ip| format!("ListenAddress {ip}\n")).collect();
        let config = format!(
            "Port {port}\n{listen}HostKey {0}/host_ed25519\nHostKey {0}/host_ecdsa\nHostKey {0}/host_rsa\n\
             HostCertificate {0}/host_ed25519-cert.pub\n\
             PidFile none\nPermitRootLogin yes\nStrictModes no\nPasswordAuthentication no\n\
             KbdInteractiveAuthentication no\nUsePAM {1}\nAuthorizedKeysFile {0}/authorized_keys\n\
             TrustedUserCAKeys {0}/ca.pub\nAcceptEnv *\nAllowTcpForwarding yes\nX11Forwarding yes\n\
             AllowAgentForwarding yes\nPermitUserEnvironment no\nMaxStartups 100\nLogLevel VERBOSE\n\
             Subsystem sftp internal-sftp\n",
            folder.display(),
            if pam { "yes" } else { "no" }
        );
        fs::write(folder.join("sshd_config"), config)?;
        let server = Program::new("/usr/sbin/sshd")
            .args(["-D", "-e", "-f"])
            .args([folder.join("sshd_config")])
            .log(&folder.join("log"))?
            .start()?;
        let sshd = Self { folder, port, _server: server };
        wait_for("sshd listening", Duration::from_secs(10), || {
            Ok(std::net::TcpStream::connect(("127.0.0.7", port)).is_ok().then_some(()))
        })
        .with_context(|| sshd.log())?;
        Ok(sshd)
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// A public key, as a line of a configuration.
    pub(crate) fn public(&self, name: &str) -> Result<String> {
        let text = fs::read_to_string(self.folder.join(format!("{name}.pub")))?;
        Ok(text.split_whitespace().take(2).collect::<Vec<_>>().join(" "))
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }
}

fn keygen(path: &Path, kind: &str) -> Result<()> {
    let bits = if kind == "rsa" { &["-b", "2048"][..] } else { &[] };
    Program::new("/usr/bin/ssh-keygen")
        .args(["-q", "-N", "", "-C", "test", "-t", kind])
        .args(bits)
        .args(["-f".as_ref(), path.as_os_str()])
        .run()?
        .ok()
        .map(drop)
}
