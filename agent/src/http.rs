//! One HTTPS request at a time, to an identity provider, a kubelet or a webhook: bounded in size and time, no redirects, no
//! second try. Does not know what it carries.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::header::{ACCEPT, CONTENT_TYPE, HOST};
use hyper::{Method, Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;

/// From the first packet to the last byte of the answer.
const LONGEST: Duration = Duration::from_secs(10);

/// Of an answer, unless its reader needs more.
const LARGEST: usize = 1 << 20;

#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    #[error("`{0}` is not an https address (http is for loopback only)")]
    Address(String),
    #[error("cannot connect to {to}: {source}")]
    Connect { to: String, source: std::io::Error },
    #[error("{to}: {source}")]
    Talk { to: String, source: hyper::Error },
    #[error("{to} answered {status}{}", if .body.is_empty() { String::new() } else { format!(": {}", .body) })]
    Status { to: String, status: StatusCode, body: String },
    #[error("{to} answered with more than {} MiB, or broke off", largest >> 20)]
    Body { to: String, largest: usize },
    #[error("{0} did not answer within 10 s")]
    Slow(String),
    #[error("{to} is served by user {uid}, not by root")]
    NotRoot { to: String, uid: u32 },
}

/// An address that may be asked: https, or http on loopback.
/// # Errors
/// When it is anything else.
pub fn address(text: &str) -> Result<Uri, HttpError> {
    let bad = || HttpError::Address(text.to_owned());
    let uri: Uri = text.parse().map_err(|_| bad())?;
    let host = uri.host().filter(|host| !host.is_empty()).ok_or_else(bad)?;
    let loopback = matches!(host, "127.0.0.1" | "localhost" | "[::1]");
    match uri.scheme_str() {
        Some("https") => Ok(uri),
        Some("http") if loopback => Ok(uri),
        _ => Err(bad()),
    }
}

/// TLS for who never needs it: trusts nobody.
#[must_use]
pub fn no_tls() -> ClientConfig {
    ClientConfig::builder().with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth()
}

/// What is sent along: its type, and itself.
type Content = Option<(&'static str, String)>;

#[derive(Clone)]
pub struct Http {
    tls: Arc<ClientConfig>,
    /// What the certificate has to say, where that is not the address's host.
    name: Option<ServerName<'static>>,
    largest: usize,
}

impl Http {
    #[must_use]
    pub fn new(tls: ClientConfig) -> Self {
        Self { tls: Arc::new(tls), name: None, largest: LARGEST }
    }

    /// The same, for answers of up to so many bytes.
    #[must_use]
    pub fn up_to(self, largest: usize) -> Self {
        Self { largest, ..self }
    }

    /// The same, where the server's certificate says another name than its address.
    #[must_use]
    pub fn named(self, name: Option<ServerName<'static>>) -> Self {
        Self { name, ..self }
    }

    /// # Errors
    /// When there is no good answer in time.
    pub async fn get(&self, uri: &Uri) -> Result<Bytes, HttpError> {
        self.limited(uri, Method::GET, None, &[]).await
    }

    /// # Errors
    /// When there is no good answer in time.
    pub async fn get_with(&self, uri: &Uri, headers: &[(&'static str, String)]) -> Result<Bytes, HttpError> {
        self.limited(uri, Method::GET, None, headers).await
    }

    /// Sends a form, already encoded.
    ///
    /// # Errors
    /// When there is no good answer in time.
    pub async fn post(&self, uri: &Uri, form: String) -> Result<Bytes, HttpError> {
        self.limited(uri, Method::POST, Some(("application/x-www-form-urlencoded", form)), &[]).await
    }

    /// Sends a form, already encoded, to somebody whose no says why.
    ///
    /// # Errors
    /// When there is no answer in time.
    pub async fn post_for_any(&self, uri: &Uri, form: String) -> Result<(StatusCode, Bytes), HttpError> {
        let content = Some(("application/x-www-form-urlencoded", form));
        in_time(self.connect(uri, Method::POST, content, &[]), || uri.to_string()).await
    }

    /// # Errors
    /// When there is no good answer in time.
    pub async fn post_json(
        &self,
        uri: &Uri,
        body: String,
        headers: &[(&'static str, String)],
    ) -> Result<(), HttpError> {
        self.limited(uri, Method::POST, Some(("application/json", body)), headers).await.map(drop)
    }

    async fn limited(
        &self,
        uri: &Uri,
        method: Method,
        content: Content,
        headers: &[(&'static str, String)],
    ) -> Result<Bytes, HttpError> {
        let (status, body) = in_time(self.connect(uri, method, content, headers), || uri.to_string()).await?;
        good(uri, status, body)
    }

    async fn connect(
        &self,
        uri: &Uri,
        method: Method,
        content: Content,
        headers: &[(&'static str, String)],
    ) -> Result<(StatusCode, Bytes), HttpError> {
        let bad = || HttpError::Address(uri.to_string());
        let secure = uri.scheme_str() == Some("https");
        let host = uri.host().ok_or_else(bad)?.trim_matches(['[', ']']).to_owned();
        let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
        let failed = |source| HttpError::Connect { to: uri.to_string(), source };
        let stream = TcpStream::connect((host.as_str(), port)).await.map_err(failed)?;
        if !secure {
            return talk(stream, uri, method, content, headers, self.largest).await;
        }
        let name = match &self.name {
            Some(name) => name.clone(),
            None => ServerName::try_from(host).map_err(|_| bad())?,
        };
        let stream = TlsConnector::from(Arc::clone(&self.tls)).connect(name, stream).await.map_err(failed)?;
        talk(stream, uri, method, content, headers, self.largest).await
    }
}

/// Asks a service of this host by its unix socket.
///
/// # Errors
/// When there is no good answer in time, or somebody else than root would give it.
pub async fn get_local(socket: &Path, path: &str) -> Result<Bytes, HttpError> {
    let shown = || socket.display().to_string();
    let uri: Uri =
        format!("http://localhost{path}").parse().map_err(|_| HttpError::Address(path.to_owned()))?;
    let asked = async { talk(local(socket).await?, &uri, Method::GET, None, &[], LARGEST).await };
    let (status, body) = in_time(asked, shown).await?;
    good(&uri, status, body)
}

async fn in_time<T>(
    asked: impl Future<Output = Result<T, HttpError>>,
    whom: impl FnOnce() -> String,
) -> Result<T, HttpError> {
    tokio::time::timeout(LONGEST, asked).await.unwrap_or_else(|_| Err(HttpError::Slow(whom())))
}

/// Connects to a socket of this host that a process of root listens on.
///
/// # Errors
/// When it cannot be reached, or is somebody else's.
pub async fn local(socket: &Path) -> Result<UnixStream, HttpError> {
    let to = || socket.display().to_string();
    let failed = |source| HttpError::Connect { to: to(), source };
    let stream = UnixStream::connect(socket).await.map_err(failed)?;
    match stream.peer_cred().map_err(failed)?.uid() {
        0 => Ok(stream),
        uid => Err(HttpError::NotRoot { to: to(), uid }),
    }
}

async fn talk<S>(
    stream: S,
    uri: &Uri,
    method: Method,
    content: Content,
    headers: &[(&'static str, String)],
    largest: usize,
) -> Result<(StatusCode, Bytes), HttpError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let failed = |source| HttpError::Talk { to: uri.to_string(), source };
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(failed)?;
    let driver = tokio::spawn(connection);
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    let mut request = Request::builder().method(method).uri(path).header(HOST, authority);
    request = request.header(ACCEPT, "application/json");
    for (name, value) in headers {
        request = request.header(*name, value);
    }
    let (kind, body) = content.unzip();
    if let Some(kind) = kind {
        request = request.header(CONTENT_TYPE, kind);
    }
    let body = Full::new(Bytes::from(body.unwrap_or_default()));
    let request = request.body(body).map_err(|_| HttpError::Address(uri.to_string()))?;
    let response = sender.send_request(request).await.map_err(failed)?;
    let status = response.status();
    let body = Limited::new(response.into_body(), largest).collect().await;
    driver.abort();
    let body = body.map_err(|_| HttpError::Body { to: uri.to_string(), largest })?.to_bytes();
    Ok((status, body))
}

fn good(uri: &Uri, status: StatusCode, body: Bytes) -> Result<Bytes, HttpError> {
    if !status.is_success() {
        // Enough to see an OAuth error; whatever it is, it is shown as text.
        let shown = String::from_utf8_lossy(body.get(..body.len().min(200)).unwrap_or_default());
        return Err(HttpError::Status {
            to: uri.to_string(),
            status,
            body: shown.escape_debug().to_string(),
        });
    }
    Ok(body)
}

#[cfg(test)]
pub(crate) mod testing;
