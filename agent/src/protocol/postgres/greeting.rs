//! The client's side before its session: encryption, version, the placeholder password, and how it is told no.

use std::net::IpAddr;

use bytes::BytesMut;
use ring::rand::SecureRandom as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::client_auth::{ClientAuthError, Scram};
use super::client_tls::{ClientTls, ClientTlsError};
use super::codec;
use super::response::{Report, sqlstate};
use super::serve::GOODBYE;
use super::startup::{self, Startup, StartupError};
use crate::secret::Secret;
use crate::upstream::Stream;

/// A message of an authentication is never longer.
const AUTH_MAX: usize = 8 << 10;

const PLACEHOLDER: &str =
    "This target asks clients for the placeholder password of its client_password_file.";

/// Why a login did not become a session.
#[derive(Debug, thiserror::Error)]
pub(super) enum LoginFailure {
    #[error("the client closed the connection during login")]
    Closed,
    #[error("the client took too long to log in")]
    Slow,
    #[error("client connection: {0}")]
    Io(#[from] std::io::Error),
    #[error("the client opens with TLS, which is not offered for this target")]
    NoTls,
    #[error("bytes in clear follow the request for encryption")]
    ClearBehindRequest,
    #[error("{0}")]
    Startup(#[from] StartupError),
    #[error("{0}")]
    Tls(#[from] ClientTlsError),
    #[error("{0}")]
    Authentication(#[from] ClientAuthError),
    #[error("no randomness for the authentication")]
    NoRandomness,
    #[error("{}", .0.message)]
    Refused(Box<Report>),
}

impl LoginFailure {
    pub(super) fn report(&self) -> Option<Report> {
        match self {
            Self::Closed | Self::Io(_) | Self::NoTls | Self::Tls(_) | Self::ClearBehindRequest => None,
            Self::Authentication(ClientAuthError::Password) => {
                Some(Report::new("28P01", self.to_string()).hint(PLACEHOLDER))
            }
            Self::Authentication(_) | Self::NoRandomness => {
                Some(Report::new(sqlstate::PROTOCOL_VIOLATION, self.to_string()))
            }
            Self::Slow => Some(Report::new(sqlstate::PROTOCOL_VIOLATION, self.to_string())),
            Self::Startup(StartupError::Version { .. }) => {
                Some(Report::new(sqlstate::FEATURE_NOT_SUPPORTED, self.to_string()))
            }
            Self::Startup(StartupError::Options(error)) => {
                Some(Report::new(sqlstate::INSUFFICIENT_PRIVILEGE, self.to_string()).hint(error.hint()))
            }
            Self::Startup(_) => Some(Report::new(sqlstate::PROTOCOL_VIOLATION, self.to_string())),
            Self::Refused(report) => Some((**report).clone()),
        }
    }
}

/// The client's side before the relay takes over.
pub(super) struct Client {
    pub(super) stream: Option<Stream>,
    pub(super) input: BytesMut,
    /// It was told already that it is logged in.
    pub(super) welcomed: bool,
    /// The hash of the certificate it was shown, on a connection with TLS.
    end_point: Option<[u8; 32]>,
}

impl Client {
    pub(super) fn new(stream: TcpStream) -> Self {
        let stream = Some(Stream::Plain(stream));
        Self { stream, input: BytesMut::new(), welcomed: false, end_point: None }
    }

    pub(super) fn is_tls(&self) -> bool {
        self.stream.as_ref().is_some_and(Stream::is_tls)
    }

    /// 0x16 opens a TLS handshake (RFC 8446 section 5.1): a client that does not ask first (PostgreSQL 17).
    pub(super) async fn opens_with_tls(&mut self) -> Result<bool, LoginFailure> {
        let Some(Stream::Plain(stream)) = &self.stream else { return Ok(false) };
        if !self.input.is_empty() {
            return Ok(false);
        }
        let mut first = [0];
        match stream.peek(&mut first).await? {
            0 => Err(LoginFailure::Closed),
            _ => Ok(first == [0x16]),
        }
    }

    /// Bytes it has sent that nobody has looked at.
    pub(super) fn ahead(&self) -> usize {
        self.input.len()
    }

    pub(super) async fn read(&mut self) -> Result<(), LoginFailure> {
        let stream = self.stream.as_mut().ok_or(LoginFailure::Closed)?;
        match stream.read_buf(&mut self.input).await? {
            0 => Err(LoginFailure::Closed),
            _ => Ok(()),
        }
    }

    pub(super) async fn write(&mut self, bytes: &[u8]) -> Result<(), LoginFailure> {
        let stream = self.stream.as_mut().ok_or(LoginFailure::Closed)?;
        stream.write_all(bytes).await?;
        Ok(stream.flush().await?)
    }

    pub(super) async fn encrypt(
        &mut self,
        tls: &ClientTls,
        address: IpAddr,
        direct: bool,
    ) -> Result<(), LoginFailure> {
        let Some(Stream::Plain(stream)) = self.stream.take() else { return Err(LoginFailure::Closed) };
        let encrypted = tls.accept(stream, address, direct).await?;
        self.stream = Some(encrypted.stream);
        self.end_point = Some(encrypted.end_point);
        Ok(())
    }

    /// Says which version is spoken, and asks for the placeholder password if there is one.
    pub(super) async fn authenticate(
        &mut self,
        startup: &Startup,
        password: Option<&Secret<Vec<u8>>>,
    ) -> Result<(), LoginFailure> {
        let mut out = BytesMut::new();
        startup::put_negotiation(&mut out, startup);
        let Some(password) = password else {
            return if out.is_empty() { Ok(()) } else { self.write(&out).await };
        };
        let mut random = [0; 40];
        ring::rand::SystemRandom::new().fill(&mut random).map_err(|_| LoginFailure::NoRandomness)?;
        let end_point = self.end_point;
        let mut scram = Scram::new(password.expose(), end_point.as_ref().map(<[u8; 32]>::as_slice), random);
        scram.put_offer(&mut out);
        loop {
            self.write(&out).await?;
            out.clear();
            let message = loop {
                match codec::take(&mut self.input, AUTH_MAX).map_err(ClientAuthError::from)? {
                    Some(message) => break message,
                    None => self.read().await?,
                }
            };
            if scram.message(&message, &mut out)? {
                return self.write(&out).await;
            }
        }
    }

    /// Tells the client why it cannot be, and closes.
    pub(super) async fn goodbye(mut self, report: &Report) {
        let Some(stream) = &mut self.stream else { return };
        let mut out = BytesMut::new();
        report.put_fatal(&mut out);
        let said = async {
            stream.write_all(&out).await?;
            stream.shutdown().await
        };
        let _ = tokio::time::timeout(GOODBYE, said).await;
    }
}
