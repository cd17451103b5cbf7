//! Files and the target: reading and making keys, dialling, and logging in with the agent's credential.

use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::{Bytes, BytesMut};
use ring::rand::{SecureRandom as _, SystemRandom};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::auth::{self, AuthError, Certificate, Terms};
use super::keys::{HostKeys, KeyError, Pinned, SignKey};
use super::mask::{MaskError, Masks};
use super::transport::{Local, Transport, TransportError};
use crate::config::{SshTarget, Target};
use crate::protocol::Admitted;
use crate::secret::Secret;
use crate::upstream::{self, Backend, UpstreamError};

const LOGIN_TIMEOUT: Duration = Duration::from_secs(15);

/// How long a certificate is good for, and how far back, because clocks differ.
const CERTIFICATE_LIFE: u64 = 60;
const CLOCK_SKEW: u64 = 30;

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
    #[error(
        "no host key is configured, and Chaperone trusts none on first use; `ssh-keyscan` on the host prints them"
    )]
    NoHostKey,
    #[error("a certificate authority's key is {0}; use an ed25519 or ecdsa key")]
    Authority(KeyError),
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
}

/// How Chaperone logs in.
pub(super) enum Login {
    Key(SignKey),
    /// Signs a fresh key for every session.
    Authority(SignKey),
    Password(Secret<Vec<u8>>),
}

/// What the sessions of one target share.
pub(super) struct Shared {
    pub(super) host_keys: Arc<HostKeys>,
    pub(super) pinned: Arc<Pinned>,
    pub(super) login: Login,
    /// What is hidden in what programs print.
    pub(super) masks: Option<Arc<Masks>>,
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
    let pinned = Pinned::parse(lines.lines()).map_err(SshError::Pinned)?;
    if pinned.is_empty() {
        return Err(SshError::NoHostKey);
    }
    let key = |path: &PathBuf| {
        let bytes = zeroize::Zeroizing::new(secret_file(path)?);
        let text = std::str::from_utf8(&bytes).unwrap_or_default();
        SignKey::from_openssh(text).map_err(|source| SshError::Key { path: path.clone(), source })
    };
    let login = match (&ssh.key_file, &ssh.ca_key_file, &target.password_file) {
        (Some(path), ..) => Login::Key(key(path)?),
        (None, Some(path), _) => Login::Authority(key(path)?),
        (None, None, Some(path)) => {
            let mut bytes = secret_file(path)?;
            while matches!(bytes.last(), Some(b'\n' | b'\r')) {
                bytes.pop();
            }
            Login::Password(Secret::new(bytes))
        }
        // The configuration does not let this happen.
        (None, None, None) => return Err(SshError::Authority(KeyError::Inconsistent)),
    };
    let rules = ssh.masks.iter().map(|mask| (mask.name.as_str(), mask.pattern.as_str()));
    let masks = Masks::new(rules)?;
    let masks = (!ssh.masks.is_empty()).then(|| Arc::new(masks));
    Ok(Shared { host_keys, pinned: Arc::new(pinned), login, masks })
}

fn secret_file(path: &Path) -> Result<Vec<u8>, SshError> {
    let failed = |source| SshError::File { path: path.to_owned(), source };
    let mode = std::fs::metadata(path).map_err(failed)?.mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(SshError::Exposed { path: path.to_owned(), mode });
    }
    std::fs::read(path).map_err(failed)
}

/// Dials and logs in as `user`, within `LOGIN_TIMEOUT`. `pty`: whether a certificate may allow a terminal.
pub(super) async fn open(
    shared: &Shared,
    backend: &Backend,
    admitted: &Admitted,
    user: &str,
    pty: bool,
) -> Result<Opened, OpenError> {
    let opened = log_in(shared, backend, admitted, admitted.destination, user, pty);
    tokio::time::timeout(LOGIN_TIMEOUT, opened).await.map_err(|_| OpenError::Slow)?
}

async fn log_in(
    shared: &Shared,
    backend: &Backend,
    admitted: &Admitted,
    address: SocketAddr,
    user: &str,
    pty: bool,
) -> Result<Opened, OpenError> {
    let mut stream = upstream::dial(address).await?;
    let (mut input, mut output) = (BytesMut::new(), BytesMut::new());
    let mut transport = Transport::start(Local::Client(Arc::clone(&shared.pinned)), &mut output)?;
    transport.send(&auth::service_request(), &mut output)?;
    let mut banners = Vec::new();
    loop {
        while let Some(payload) = transport.receive(&mut input, &mut output)? {
            match auth::answer(&payload)? {
                auth::Answer::Ready => {
                    let request = match &shared.login {
                        Login::Key(key) => auth::key_request(user, key, None, transport.session_id()),
                        Login::Authority(ca) => {
                            certified(ca, backend, admitted, user, pty, transport.session_id())
                        }
                        Login::Password(password) => Ok(auth::password_request(user, password.expose())),
                    };
                    transport.send(&request.map_err(AuthError::from)?, &mut output)?;
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

/// A login with a key made for this session and a certificate that says whose it is.
fn certified(
    ca: &SignKey,
    backend: &Backend,
    admitted: &Admitted,
    user: &str,
    pty: bool,
    session_id: &[u8],
) -> Result<Vec<u8>, KeyError> {
    let key = SignKey::ephemeral()?;
    let mut nonce = [0; 32];
    let mut serial = [0; 8];
    let rng = SystemRandom::new();
    rng.fill(&mut nonce).and_then(|()| rng.fill(&mut serial)).map_err(|_| KeyError::Inconsistent)?;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let key_id = format!(
        "chaperone identity={} session={} target={}",
        admitted.principal.name(),
        admitted.id,
        backend.target.name
    );
    let terms = Terms {
        serial: u64::from_be_bytes(serial) >> 1,
        key_id: &key_id,
        principal: user,
        not_before: now.saturating_sub(CLOCK_SKEW),
        not_after: now + CERTIFICATE_LIFE,
        pty,
    };
    let certificate = Certificate::issue(&key, ca, &nonce, &terms)?;
    auth::key_request(user, &key, Some(&certificate), session_id)
}
