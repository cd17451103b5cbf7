//! Connections to targets: dialling, TLS, and reading the credential.
//!
//! Always opens sockets in the agent's own network namespace. Knows nothing of protocols beyond handing over a
//! stream; what is sent on it needs a permit, which the gate makes.

mod end_point;
mod plain;

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use ring::rand::SecureRandom as _;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, InvalidDnsNameError, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, TlsStream};

use crate::config::{Target, Tls};
use crate::secret::Secret;

const DIAL_TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Debug, thiserror::Error)]
pub enum UpstreamError {
    #[error("cannot connect to {address}: {source}")]
    Dial { address: SocketAddr, source: io::Error },
    #[error("no answer from {address} within {} s", DIAL_TIMEOUT.as_secs())]
    Timeout { address: SocketAddr },
    #[error("TLS with {address} failed: {source}")]
    Tls { address: SocketAddr, source: io::Error },
    #[error("{path}: {source}")]
    Read { path: PathBuf, source: io::Error },
    #[error("{path} can be read by group or others (mode {mode:o}); chmod 600 it")]
    Exposed { path: PathBuf, mode: u32 },
    #[error("{path}: {problem}")]
    Certificate { path: PathBuf, problem: String },
    #[error("the system gives no random bytes")]
    NoRandomness,
    #[error("the target's server_name is not a name: {0}")]
    Name(#[from] InvalidDnsNameError),
}

/// A plain or an encrypted TCP connection, either side's.
pub enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Stream {
    #[must_use]
    pub fn is_tls(&self) -> bool {
        matches!(self, Self::Tls(_))
    }

    /// What a login can be bound to (RFC 5929, section 4.1): the hash of the certificate the other side showed.
    /// `None` without TLS, and for signatures that section gives no hash for.
    #[must_use]
    pub fn end_point(&self) -> Option<Vec<u8>> {
        let Self::Tls(stream) = self else { return None };
        let (_, connection) = stream.get_ref();
        end_point::hash(connection.peer_certificates()?.first()?)
    }
}

/// A target with what is needed to log in to it.
pub struct Backend {
    pub target: Target,
    pub credentials: Credentials,
}

/// What is needed to log in to a target, read from files once and on reload.
pub struct Credentials {
    pub password: Option<Secret<Vec<u8>>>,
    /// Asked of clients; it gives no access.
    pub client_password: Option<Secret<Vec<u8>>>,
    /// What pseudonyms are made with: the host's own, or one that lives as long as this value.
    pub pseudonym_secret: Secret<Vec<u8>>,
    tls: Option<TlsClient>,
}

struct TlsClient {
    config: Arc<ClientConfig>,
    server_name: Option<ServerName<'static>>,
}

impl Credentials {
    /// Reads the target's password and certificates.
    ///
    /// # Errors
    /// When a file cannot be read, is readable by others, or holds no certificate.
    pub fn load(target: &Target) -> Result<Self, UpstreamError> {
        let password = target.password_file.as_deref().map(read_secret).transpose()?;
        let client_password = target.client_password_file.as_deref().map(read_secret).transpose()?;
        let tls = match &target.tls {
            Tls::Disable => None,
            Tls::VerifyFull { ca_file, server_name, identity } => Some(TlsClient {
                config: Arc::new(tls_config(ca_file.as_deref(), identity.as_ref())?),
                server_name: server_name.clone().map(ServerName::try_from).transpose()?,
            }),
        };
        let mut fresh = vec![0; 32];
        ring::rand::SystemRandom::new().fill(&mut fresh).map_err(|_| UpstreamError::NoRandomness)?;
        Ok(Self { password, client_password, pseudonym_secret: Secret::new(fresh), tls })
    }

    #[must_use]
    pub fn wants_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// Encrypts a connection and checks the certificate's chain and name.
    ///
    /// # Errors
    /// When the handshake fails or the certificate does not prove the name.
    pub async fn encrypt(&self, stream: TcpStream, address: SocketAddr) -> Result<Stream, UpstreamError> {
        let Some(tls) = &self.tls else { return Ok(Stream::Plain(stream)) };
        let name = tls.server_name.clone().unwrap_or_else(|| ServerName::from(address.ip()));
        let connected = TlsConnector::from(Arc::clone(&tls.config)).connect(name, stream);
        match tokio::time::timeout(DIAL_TIMEOUT, connected).await {
            Ok(Ok(stream)) => Ok(Stream::Tls(Box::new(stream.into()))),
            Ok(Err(source)) => Err(UpstreamError::Tls { address, source }),
            Err(_) => Err(UpstreamError::Timeout { address }),
        }
    }
}

/// Opens a TCP connection to a target.
///
/// # Errors
/// When nobody answers.
pub async fn dial(address: SocketAddr) -> Result<TcpStream, UpstreamError> {
    match tokio::time::timeout(DIAL_TIMEOUT, TcpStream::connect(address)).await {
        Ok(Ok(stream)) => {
            // Answers are written whole, so waiting for more to fill a segment only costs time.
            let _ = stream.set_nodelay(true);
            Ok(stream)
        }
        Ok(Err(source)) => Err(UpstreamError::Dial { address, source }),
        Err(_) => Err(UpstreamError::Timeout { address }),
    }
}

fn owner_only(path: &Path) -> Result<(), UpstreamError> {
    let failed = |source| UpstreamError::Read { path: path.to_owned(), source };
    let mode = std::fs::metadata(path).map_err(failed)?.mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(UpstreamError::Exposed { path: path.to_owned(), mode });
    }
    Ok(())
}

/// Reads a secret from a file that nobody else can read; a line break at its end is dropped.
///
/// # Errors
/// When it cannot be read, or others can read it.
pub fn read_secret(path: &Path) -> Result<Secret<Vec<u8>>, UpstreamError> {
    let failed = |source| UpstreamError::Read { path: path.to_owned(), source };
    owner_only(path)?;
    let mut bytes = std::fs::read(path).map_err(failed)?;
    while matches!(bytes.last(), Some(b'\n' | b'\r')) {
        bytes.pop();
    }
    Ok(Secret::new(bytes))
}

/// TLS as a client: certificates of the file, or of the system, are trusted.
///
/// # Errors
/// When there is no certificate in it.
pub fn client_tls(ca_file: Option<&Path>) -> Result<ClientConfig, UpstreamError> {
    tls_config(ca_file, None)
}

fn tls_config(
    ca_file: Option<&Path>,
    identity: Option<&(PathBuf, PathBuf)>,
) -> Result<ClientConfig, UpstreamError> {
    let mut roots = RootCertStore::empty();
    let path = ca_file.unwrap_or(Path::new("/etc/ssl/certs/ca-certificates.crt"));
    let bad = |problem: String| UpstreamError::Certificate { path: path.to_owned(), problem };
    for certificate in CertificateDer::pem_file_iter(path).map_err(|error| bad(error.to_string()))? {
        let certificate = certificate.map_err(|error| bad(error.to_string()))?;
        match (roots.add(certificate), ca_file) {
            // The system's store may hold oddities; a CA file of ours may not.
            (Err(error), Some(_)) => return Err(bad(error.to_string())),
            (Err(_), None) | (Ok(()), _) => {}
        }
    }
    if roots.is_empty() {
        return Err(bad("holds no certificate".into()));
    }
    let builder = ClientConfig::builder().with_root_certificates(roots);
    let Some((certificate, key)) = identity else { return Ok(builder.with_no_client_auth()) };
    let bad = |path: &Path| {
        let path = path.to_owned();
        move |problem: String| UpstreamError::Certificate { path, problem }
    };
    owner_only(key)?;
    let chain = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect)
        .map_err(|error| bad(certificate)(error.to_string()))?;
    let secret = PrivateKeyDer::from_pem_file(key).map_err(|error| bad(key)(error.to_string()))?;
    builder.with_client_auth_cert(chain, secret).map_err(|error| bad(certificate)(error.to_string()))
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => plain::poll_read(stream, cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => plain::poll_write(stream, cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
