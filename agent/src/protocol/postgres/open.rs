//! Opening a connection to the target: dial, TLS, login with the agent's credential.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::codec::{self, CodecError, WHOLE_MAX};
use super::login::{Login, LoginError, Progress, Welcome};
use super::response::{Report, sqlstate};
use super::startup::{self, CancelKey, Startup};
use crate::upstream::{self, Backend, Stream, UpstreamError};

/// A target that takes longer is taken for dead.
const LOGIN_TIMEOUT: Duration = Duration::from_secs(15);

#[derive(Debug, thiserror::Error)]
pub(super) enum OpenError {
    #[error(transparent)]
    Upstream(#[from] UpstreamError),
    #[error("connection to the target broke during login: {0}")]
    Io(#[from] std::io::Error),
    #[error("the target did not finish the login within {} s", LOGIN_TIMEOUT.as_secs())]
    Slow,
    #[error("the target does not offer TLS, and the configuration wants it")]
    NoTls,
    #[error(transparent)]
    Login(#[from] LoginError),
    #[error(transparent)]
    Codec(#[from] CodecError),
}

impl OpenError {
    /// What the client is told. The target's own words pass when they are about the client's choice of database
    /// or about the server's state; what is about the agent's credential stays here.
    pub(super) fn report(&self, target: &str) -> Report {
        if let Self::Login(LoginError::Refused { sqlstate, message, .. }) = self
            && !sqlstate.starts_with("28")
        {
            return Report::new(sqlstate.clone(), message.clone());
        }
        let report =
            Report::new(sqlstate::CANNOT_CONNECT, format!("target \"{target}\" cannot be used: {self}"));
        match self {
            Self::Login(_) => report.hint(
                "The login is the agent's own; nothing you send can change it. Tell whoever runs this host.",
            ),
            Self::Upstream(_) | Self::Io(_) | Self::Slow | Self::NoTls | Self::Codec(_) => report,
        }
    }
}

/// A connection that is logged in.
pub(super) struct Opened {
    pub(super) stream: Stream,
    pub(super) welcome: Welcome,
    /// Bytes read beyond the login.
    pub(super) rest: BytesMut,
}

/// Where and how to ask the target to cancel what a session runs.
#[derive(Debug, Clone)]
pub(super) struct CancelAt {
    pub(super) address: SocketAddr,
    pub(super) key: CancelKey,
}

/// How long the target may take to close a connection that asked for a cancel.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(1);

/// Asks the target to cancel what a session runs.
pub(super) async fn cancel(route: CancelAt) {
    let mut request = BytesMut::new();
    startup::put_cancel(&mut request, &route.key);
    if let Ok(mut stream) = upstream::dial(route.address).await {
        let _ = stream.write_all(&request).await;
        // The server closes when it has taken the request; nothing else may be hit by it after that.
        let _ = tokio::time::timeout(CANCEL_TIMEOUT, stream.read_u8()).await;
    }
}

/// Dials and logs in, within `LOGIN_TIMEOUT`.
pub(super) async fn open(
    backend: &Backend,
    address: SocketAddr,
    client: &Startup,
    search_path: Option<&str>,
) -> Result<Opened, OpenError> {
    let opened = log_in(backend, address, client, search_path);
    tokio::time::timeout(LOGIN_TIMEOUT, opened).await.map_err(|_| OpenError::Slow)?
}

async fn log_in(
    backend: &Backend,
    address: SocketAddr,
    client: &Startup,
    search_path: Option<&str>,
) -> Result<Opened, OpenError> {
    let mut socket = upstream::dial(address).await?;
    if backend.credentials.wants_tls() {
        let mut request = BytesMut::new();
        startup::put_ssl_request(&mut request);
        socket.write_all(&request).await?;
        // One byte and no more: what else came in clear must not be taken for part of the encrypted stream.
        if socket.read_u8().await? != b'S' {
            return Err(OpenError::NoTls);
        }
    }
    let mut stream = backend.credentials.encrypt(socket, address).await?;
    let mut out = BytesMut::new();
    startup::put_startup(&mut out, &backend.target.user, &client.database, client, search_path);
    let mut login = Login::new(
        &backend.target.user,
        backend.credentials.password.as_ref(),
        stream.is_tls(),
        stream.end_point(),
    );
    let mut rest = BytesMut::with_capacity(8 << 10);
    loop {
        if !out.is_empty() {
            stream.write_all(&out).await?;
            stream.flush().await?;
            out.clear();
        }
        if stream.read_buf(&mut rest).await? == 0 {
            return Err(OpenError::Io(std::io::ErrorKind::UnexpectedEof.into()));
        }
        while let Some(message) = codec::take(&mut rest, WHOLE_MAX)? {
            if let Progress::Done(welcome) = login.message(&message, &mut out)? {
                return Ok(Opened { stream, welcome, rest });
            }
        }
    }
}
