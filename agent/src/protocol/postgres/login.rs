//! Logging in to the target with the agent's own credential (manual, "Start-up" and "SASL Authentication").
//!
//! A pure machine: the target's messages in, answers out. The client's own password never comes here.

use bytes::{BufMut, Bytes, BytesMut};
use postgres_protocol::authentication::{md5_hash, sasl};

use super::codec::{CodecError, Fields, Message, put, put_c_str};
use super::response;
use super::settings::Settings;
use super::startup::CancelKey;
use crate::secret::Secret;

#[derive(Debug, thiserror::Error)]
pub enum LoginError {
    #[error("the target refused the agent's login: {message} ({sqlstate})")]
    Refused { sqlstate: String, message: String, raw: Bytes },
    #[error("the target asks for {0}, which the agent does not do")]
    Method(&'static str),
    #[error("the target asks for a password, and the configuration names no password_file")]
    NoPassword,
    #[error("the target asks for the password in clear on a connection without TLS")]
    ClearWithoutTls,
    #[error("SCRAM exchange failed: {0}")]
    Scram(std::io::Error),
    #[error("unexpected message `{}` from the target during login", .0.escape_ascii())]
    Unexpected(u8),
    #[error("the target sends {name} = `{value}`, which the agent's reading of SQL does not allow")]
    Parameter { name: String, value: String },
    #[error(transparent)]
    Codec(#[from] CodecError),
}

/// How far the login is.
#[derive(Debug)]
pub enum Progress {
    More,
    Done(Welcome),
}

/// What the target told at login, to be passed on to the client.
#[derive(Debug, Default)]
pub struct Welcome {
    /// ParameterStatus and notices as they came.
    pub parameters: BytesMut,
    pub key: Option<CancelKey>,
    pub settings: Settings,
}

pub struct Login<'a> {
    user: &'a str,
    password: Option<&'a Secret<Vec<u8>>>,
    tls: bool,
    /// What a login can be bound to: the hash of the target's certificate.
    end_point: Option<Vec<u8>>,
    scram: Option<sasl::ScramSha256>,
    authenticated: bool,
    welcome: Welcome,
}

impl<'a> Login<'a> {
    pub fn new(
        user: &'a str,
        password: Option<&'a Secret<Vec<u8>>>,
        tls: bool,
        end_point: Option<Vec<u8>>,
    ) -> Self {
        let welcome = Welcome::default();
        Self { user, password, tls, end_point, scram: None, authenticated: false, welcome }
    }

    /// Takes one message of the target; answers go to `out`.
    ///
    /// # Errors
    /// When the target refuses, or asks for something that would weaken the login.
    pub fn message(&mut self, message: &Message, out: &mut BytesMut) -> Result<Progress, LoginError> {
        match message.tag {
            b'R' if !self.authenticated => self.authenticate(message, out)?,
            b'E' => {
                let seen = response::read(message.body())?;
                let raw = message.bytes.clone();
                return Err(LoginError::Refused { sqlstate: seen.sqlstate, message: seen.message, raw });
            }
            b'N' => self.welcome.parameters.extend_from_slice(&message.bytes),
            b'S' if self.authenticated => {
                check_parameter(message.body(), false)?;
                self.welcome.settings.hear(message.body())?;
                self.welcome.parameters.extend_from_slice(&message.bytes);
            }
            b'K' if self.authenticated => {
                let mut fields = message.body();
                let pid = fields.i32()?;
                self.welcome.key = Some(CancelKey { pid, secret: Bytes::copy_from_slice(fields.rest()) });
            }
            b'Z' if self.authenticated => return Ok(Progress::Done(std::mem::take(&mut self.welcome))),
            tag => return Err(LoginError::Unexpected(tag)),
        }
        Ok(Progress::More)
    }

    fn authenticate(&mut self, message: &Message, out: &mut BytesMut) -> Result<(), LoginError> {
        let mut fields = message.body();
        match fields.i32()? {
            // A server that skips the end of a SCRAM exchange has not proved that it knows the password.
            0 if self.scram.is_some() => Err(LoginError::Unexpected(b'R')),
            0 => {
                self.authenticated = true;
                Ok(())
            }
            3 if !self.tls => Err(LoginError::ClearWithoutTls),
            3 => {
                let password = self.password()?;
                put(out, b'p', |out| put_c_str(out, password));
                Ok(())
            }
            5 => {
                let salt = fields.bytes(4)?.try_into().unwrap_or_default();
                let hash = md5_hash(self.user.as_bytes(), self.password()?, salt);
                put(out, b'p', |out| put_c_str(out, hash.as_bytes()));
                Ok(())
            }
            10 => {
                let (mut plain, mut plus) = (false, false);
                loop {
                    match fields.c_bytes()? {
                        b"" => break,
                        mechanism => {
                            plain |= mechanism == sasl::SCRAM_SHA_256.as_bytes();
                            plus |= mechanism == sasl::SCRAM_SHA_256_PLUS.as_bytes();
                        }
                    }
                }
                let (method, binding) = match self.end_point.take() {
                    Some(hash) if plus => {
                        (sasl::SCRAM_SHA_256_PLUS, sasl::ChannelBinding::tls_server_end_point(hash))
                    }
                    // Said under the password: a target that did offer it notices that somebody took it away.
                    Some(_) if plain => (sasl::SCRAM_SHA_256, sasl::ChannelBinding::unrequested()),
                    None if plain => (sasl::SCRAM_SHA_256, sasl::ChannelBinding::unsupported()),
                    Some(_) | None => {
                        return Err(LoginError::Method("a SASL mechanism other than SCRAM-SHA-256"));
                    }
                };
                let scram = sasl::ScramSha256::new(self.password()?, binding);
                put(out, b'p', |out| {
                    put_c_str(out, method.as_bytes());
                    out.put_i32(i32::try_from(scram.message().len()).unwrap_or(0));
                    out.put_slice(scram.message());
                });
                self.scram = Some(scram);
                Ok(())
            }
            11 => {
                let scram = self.scram.as_mut().ok_or(LoginError::Unexpected(b'R'))?;
                scram.update(fields.rest()).map_err(LoginError::Scram)?;
                put(out, b'p', |out| out.put_slice(scram.message()));
                Ok(())
            }
            12 => {
                let mut scram = self.scram.take().ok_or(LoginError::Unexpected(b'R'))?;
                scram.finish(fields.rest()).map_err(LoginError::Scram)
            }
            2 => Err(LoginError::Method("Kerberos")),
            7..=9 => Err(LoginError::Method("GSSAPI or SSPI")),
            _ => Err(LoginError::Method("an unknown authentication")),
        }
    }

    fn password(&self) -> Result<&'a [u8], LoginError> {
        self.password.map(|secret| secret.expose().as_slice()).ok_or(LoginError::NoPassword)
    }
}

/// Refuses the settings under which the agent's grammar and the server's would read a text differently.
///
/// A session that is `free` to do anything may have escapes in its literals; then it is told whether it has them.
///
/// # Errors
/// When a ParameterStatus contradicts the pinned value.
pub fn check_parameter(mut fields: Fields<'_>, free: bool) -> Result<Option<bool>, LoginError> {
    let (name, value) = (fields.c_bytes()?, fields.c_bytes()?);
    let mut escapes = None;
    let fits = match name {
        b"client_encoding" => value == b"UTF8",
        b"standard_conforming_strings" => {
            escapes = Some(value != b"on");
            free || value == b"on"
        }
        _ => true,
    };
    if fits {
        return Ok(escapes);
    }
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Err(LoginError::Parameter { name: text(name), value: text(value) })
}
