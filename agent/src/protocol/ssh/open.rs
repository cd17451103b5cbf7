//! Files and the target: reading and making keys, dialling, and logging in with the agent's credential.

use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::auth::{self, AuthError};
use super::certificate::CertificateError;
use super::host::{Host, Known};
use super::keys::{HostKeys, KeyError, Pinned, SignKey};
use super::mask::{MaskError, Masks};
use super::transport::{Local, Transport, TransportError};
use crate::command::{self, CommandError};
use crate::config::{SshTarget, Target};
use crate::protocol::Admitted;
use crate::secret::Secret;
use crate::upstream::{self, UpstreamError};

mod beside;
mod signer;

pub(super) use beside::{Beside, beside};
use signer::Authority;

const LOGIN_TIMEOUT: Duration = Duration::from_secs(15);

/// In front of a line of a known_hosts file that is about an authority.
const AUTHORITY_MARKER: &str = "@cert-authority";

/// Banners of a target that are passed on before it logs us in.
const BANNERS_MAX: usize = 8;

#[derive(Debug, thiserror::Error)]
pub enum SshError {
    #[error("{path}: {source}")]
    File { path: PathBuf, source: std::io::Error },
    #[error("{path}: {source}")]
    Key { path: PathBuf, source: KeyError },
    #[error("{path} can be read by group or others (mode {mode:o}); chmod 600 it")]
    Exposed { path: PathBuf, mode: u32 },
    #[error("host_keys: {0}")]
    Pinned(KeyError),
    #[error("host_cas: {0}")]
    HostAuthority(KeyError),
    #[error(
        "no host key and no authority is configured, and Chaperone trusts none on first use; `ssh-keyscan` on the host prints them"
    )]
    NoHostKey,
    #[error("a certificate authority's key is {0}; use an ed25519 or ecdsa key")]
    Authority(KeyError),
    #[error("ca_command: {0}")]
    Signer(#[from] CommandError),
    #[error("masks: {0}")]
    Mask(#[from] MaskError),
}

#[derive(Debug, thiserror::Error)]
pub(super) enum OpenError {
    #[error(transparent)]
    Upstream(#[from] UpstreamError),
    #[error("connection to the target broke during login: {0}")]
    Io(#[from] std::io::Error),
    #[error("the target closed the connection during login")]
    Closed,
    #[error("the target did not finish the login within {} s", LOGIN_TIMEOUT.as_secs())]
    Slow,
    #[error(transparent)]
    Transport(#[from] TransportError),
    #[error(transparent)]
    Auth(#[from] AuthError),
    #[error("the certificate could not be signed: {0}")]
    Signer(#[from] CommandError),
    #[error("the certificate could not be signed: {0}")]
    Certificate(#[from] CertificateError),
    #[error("the system gives no random bytes")]
    NoRandomness,
    #[error("the target does not open a channel")]
    Channel,
}

/// How Chaperone logs in.
pub(super) enum Login {
    Key(SignKey),
    /// Signs a fresh key for every connection.
    Authority(Authority),
    Password(Secret<Vec<u8>>),
}

/// What the sessions of one target share.
pub(super) struct Shared {
    pub(super) host_keys: Arc<HostKeys>,
    pub(super) known: Arc<Known>,
    pub(super) login: Login,
    /// What is hidden in what programs print.
    pub(super) masks: Option<Arc<Masks>>,
}

/// What it takes to log in for a session.
#[derive(Clone, Copy)]
pub(super) struct Upstream<'a> {
    pub(super) shared: &'a Shared,
    pub(super) admitted: &'a Admitted,
    pub(super) user: &'a str,
}

/// What a certificate is asked for, where one is used.
#[derive(Clone, Copy)]
pub(super) struct Asking<'a> {
    pub(super) pty: bool,
    /// The one command that it is for, and the number of its operation.
    pub(super) command: Option<(u64, &'a str)>,
}

impl Shared {
    /// Whether a login can be limited to a command.
    pub(super) fn certifies(&self) -> bool {
        matches!(self.login, Login::Authority(_))
    }
}

/// A connection that is logged in.
pub(super) struct Opened {
    pub(super) stream: TcpStream,
    pub(super) transport: Transport,
    /// Bytes read beyond the login, and bytes still to be written.
    pub(super) input: BytesMut,
    pub(super) output: BytesMut,
    pub(super) banners: Vec<Bytes>,
}

/// The keys shown to clients; made at the first start, so that no two hosts share them.
///
/// # Errors
/// When a file cannot be read or written, or holds no key.
pub fn host_keys(state_dir: &Path) -> Result<HostKeys, SshError> {
    let mut keys = Vec::new();
    for algorithm in ["ssh-ed25519", "ecdsa-sha2-nistp256", "ssh-rsa"] {
        let path = state_dir.join(format!("{algorithm}.pk8"));
        let bad = |source| SshError::Key { path: path.clone(), source };
        let failed = |source| SshError::File { path: path.clone(), source };
        if !path.exists() {
            let der = SignKey::generate(algorithm).map_err(bad)?;
            let partial = path.with_extension("new");
            let _ = std::fs::remove_file(&partial);
            let mut file = std::fs::OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&partial)
                .map_err(failed)?;
            file.write_all(&der).and_then(|()| file.sync_all()).map_err(failed)?;
            std::fs::rename(&partial, &path).map_err(failed)?;
        }
        let der = zeroize::Zeroizing::new(secret_file(&path)?);
        keys.push(SignKey::from_pkcs8(algorithm, &der).map_err(bad)?);
    }
    Ok(HostKeys(keys))
}

/// Reads what a target's configuration names.
pub(super) fn load(target: &Target, ssh: &SshTarget, host_keys: Arc<HostKeys>) -> Result<Shared, SshError> {
    let mut lines = ssh.host_keys.join("\n");
    if let Some(path) = &ssh.known_hosts_file {
        lines.push('\n');
        let text =
            std::fs::read_to_string(path).map_err(|source| SshError::File { path: path.clone(), source })?;
        lines.push_str(&text);
    }
    let known = known(target, ssh, &lines)?;
    let key = |path: &PathBuf| {
        let bytes = zeroize::Zeroizing::new(secret_file(path)?);
        let text = std::str::from_utf8(&bytes).unwrap_or_default();
        SignKey::from_openssh(text).map_err(|source| SshError::Key { path: path.clone(), source })
    };
    if let Some(signer) = &ssh.ca_command {
        command::trusted(signer)?;
    }
    let signer = ssh.ca_command.clone().map(Authority::Command);
    let login = match (&ssh.key_file, &ssh.ca_key_file, signer, &target.password_file) {
        (Some(path), ..) => Login::Key(key(path)?),
        (None, Some(path), ..) => Login::Authority(Authority::Key(key(path)?)),
        (None, None, Some(signer), _) => Login::Authority(signer),
        (None, None, None, Some(path)) => {
            let mut bytes = secret_file(path)?;
            while matches!(bytes.last(), Some(b'\n' | b'\r')) {
                bytes.pop();
            }
            Login::Password(Secret::new(bytes))
        }
        // The configuration does not let this happen.
        (None, None, None, None) => return Err(SshError::Authority(KeyError::Inconsistent)),
    };
    let rules = ssh.masks.iter().map(|mask| (mask.name.as_str(), mask.pattern.as_str()));
    let masks = Masks::new(rules)?;
    let masks = (!ssh.masks.is_empty()).then(|| Arc::new(masks));
    Ok(Shared { host_keys, known: Arc::new(known), login, masks })
}

/// What a target is believed by: keys, and authorities for whom a known_hosts file has a marker.
fn known(target: &Target, ssh: &SshTarget, lines: &str) -> Result<Known, SshError> {
    let marked = |line: &&str| line.trim_start().starts_with(AUTHORITY_MARKER);
    let unmarked =
        lines.lines().filter(marked).map(|line| line.trim_start().trim_start_matches(AUTHORITY_MARKER));
    let authorities = unmarked.chain(ssh.host_cas.iter().map(String::as_str));
    let keys = Pinned::parse(lines.lines().filter(|line| !marked(line))).map_err(SshError::Pinned)?;
    let authorities = Pinned::parse(authorities).map_err(SshError::HostAuthority)?;
    let addresses = target.addresses.iter().filter(|network| network.is_one());
    let names = addresses.map(|network| network.address.to_string()).chain(ssh.host_names.iter().cloned());
    let known = Known { keys, authorities, names: names.collect() };
    if known.is_empty() { Err(SshError::NoHostKey) } else { Ok(known) }
}

fn secret_file(path: &Path) -> Result<Vec<u8>, SshError> {
    let failed = |source| SshError::File { path: path.to_owned(), source };
    let mode = std::fs::metadata(path).map_err(failed)?.mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(SshError::Exposed { path: path.to_owned(), mode });
    }
    std::fs::read(path).map_err(failed)
}

/// Dials and logs in, within `LOGIN_TIMEOUT`.
pub(super) async fn open(login: Upstream<'_>, terms: Asking<'_>) -> Result<Opened, OpenError> {
    tokio::time::timeout(LOGIN_TIMEOUT, log_in(login, terms)).await.map_err(|_| OpenError::Slow)?
}

async fn log_in(login: Upstream<'_>, terms: Asking<'_>) -> Result<Opened, OpenError> {
    let Upstream { shared, admitted, user } = login;
    let mut stream = upstream::dial(admitted.destination).await?;
    let (mut input, mut output) = (BytesMut::new(), BytesMut::new());
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let address = admitted.destination.ip().to_string();
    let host = Host { known: Arc::clone(&shared.known), address, now };
    let mut transport = Transport::start(Local::Client(host), &mut output)?;
    transport.send(&auth::service_request(), &mut output)?;
    let mut banners = Vec::new();
    loop {
        while let Some(payload) = transport.receive(&mut input, &mut output)? {
            match auth::answer(&payload)? {
                auth::Answer::Ready => {
                    let id = transport.session_id();
                    let request = match &shared.login {
                        Login::Key(key) => auth::key_request(user, key, None, id).map_err(AuthError::from)?,
                        Login::Authority(authority) => {
                            let (key, certificate) = authority.certify(login, terms).await?;
                            auth::key_request(user, &key, Some(&certificate), id).map_err(AuthError::from)?
                        }
                        Login::Password(password) => auth::password_request(user, password.expose()),
                    };
                    transport.send(&request, &mut output)?;
                }
                auth::Answer::Banner(banner) if banners.len() < BANNERS_MAX => banners.push(banner),
                auth::Answer::Banner(_) => {}
                auth::Answer::Success => return Ok(Opened { stream, transport, input, output, banners }),
            }
        }
        stream.write_all(&output).await?;
        output.clear();
        if stream.read_buf(&mut input).await? == 0 {
            return Err(OpenError::Closed);
        }
    }
}
