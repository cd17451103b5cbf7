//! User authentication (RFC 4252): everything a workload offers is taken and none of it means anything; towards the
//! target, a key with or without a certificate, or a password.

use bytes::{BufMut, Bytes};

use super::certificate::{ALGORITHM, Certificate};
use super::codec::{Malformed, Reader, msg, put_string};
use super::keys::{KeyError, SignKey, fingerprint};

const SERVICE: &[u8] = b"ssh-connection";

/// Requests a client gets before it is one too many.
const TRIES_MAX: usize = 64;

#[derive(Debug, thiserror::Error)]
pub(super) enum AuthError {
    #[error("{0}")]
    Malformed(#[from] Malformed),
    #[error("message {0} during login")]
    Unexpected(u8),
    #[error("the service {0:?} is not offered")]
    Service(String),
    #[error("too many login requests")]
    TooMany,
    #[error("{0}")]
    Key(#[from] KeyError),
    #[error("the target does not accept the login; it takes {0}")]
    Refused(String),
}

/// What a client said about itself: evidence, never identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Claim {
    pub(super) user: String,
    /// The method, with the fingerprint of a key that was offered. Never a password.
    pub(super) offered: String,
}

/// The server's side of a login.
#[derive(Debug, Default)]
pub(super) struct Door {
    tries: usize,
}

/// What a message of the client came to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Knock {
    Answer(Vec<u8>),
    /// Ready to be let in; [`success`] says so, once everything else is.
    Claim(Claim),
}

impl Door {
    pub(super) fn message(&mut self, payload: &[u8]) -> Result<Knock, AuthError> {
        let mut reader = Reader::new(payload);
        match reader.u8()? {
            msg::SERVICE_REQUEST => {
                let service = reader.text()?;
                if service != "ssh-userauth" {
                    return Err(AuthError::Service(service.chars().take(60).collect()));
                }
                let mut answer = vec![msg::SERVICE_ACCEPT];
                put_string(&mut answer, service.as_bytes());
                Ok(Knock::Answer(answer))
            }
            msg::USERAUTH_REQUEST => self.request(reader),
            other => Err(AuthError::Unexpected(other)),
        }
    }

    fn request(&mut self, mut reader: Reader<'_>) -> Result<Knock, AuthError> {
        self.tries += 1;
        if self.tries > TRIES_MAX {
            return Err(AuthError::TooMany);
        }
        let user: String = reader.text()?.chars().take(256).collect();
        let service = reader.string()?;
        if service != SERVICE {
            return Err(AuthError::Service(String::from_utf8_lossy(service).chars().take(60).collect()));
        }
        let method = reader.text()?;
        let offered = match method {
            "publickey" => {
                let signed = reader.bool()?;
                let algorithm = reader.string()?;
                let blob = reader.string()?;
                if !signed {
                    // The client asks whether a signature would help. It would, as anything would.
                    let mut answer = vec![msg::USERAUTH_PK_OK];
                    put_string(&mut answer, algorithm);
                    put_string(&mut answer, blob);
                    return Ok(Knock::Answer(answer));
                }
                format!("publickey {}", fingerprint(blob))
            }
            "none" | "password" | "keyboard-interactive" | "hostbased" | "gssapi-with-mic" => {
                method.to_owned()
            }
            _ => "other".to_owned(),
        };
        Ok(Knock::Claim(Claim { user, offered }))
    }
}

pub(super) fn success() -> Vec<u8> {
    vec![msg::USERAUTH_SUCCESS]
}

pub(super) fn service_request() -> Vec<u8> {
    let mut out = vec![msg::SERVICE_REQUEST];
    put_string(&mut out, b"ssh-userauth");
    out
}

/// A login with a key; `certificate` goes in its place, if there is one.
pub(super) fn key_request(
    user: &str,
    key: &SignKey,
    certificate: Option<&Certificate>,
    session_id: &[u8],
) -> Result<Vec<u8>, KeyError> {
    let mut request = vec![msg::USERAUTH_REQUEST];
    put_string(&mut request, user.as_bytes());
    put_string(&mut request, SERVICE);
    put_string(&mut request, b"publickey");
    request.put_u8(1);
    match certificate {
        Some(certificate) => {
            put_string(&mut request, ALGORITHM.as_bytes());
            put_string(&mut request, certificate.blob());
        }
        None => {
            put_string(&mut request, key.signs().first().copied().unwrap_or_default().as_bytes());
            put_string(&mut request, &key.public_blob());
        }
    }
    let mut signed = Vec::new();
    put_string(&mut signed, session_id);
    signed.put_slice(&request);
    put_string(&mut request, &key.sign(&signed)?);
    Ok(request)
}

pub(super) fn password_request(user: &str, password: &[u8]) -> Vec<u8> {
    let mut request = vec![msg::USERAUTH_REQUEST];
    put_string(&mut request, user.as_bytes());
    put_string(&mut request, SERVICE);
    put_string(&mut request, b"password");
    request.put_u8(0);
    put_string(&mut request, password);
    request
}

/// What the target answered to a login.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// The service is there: the login may be sent.
    Ready,
    Success,
    Banner(Bytes),
}

pub(super) fn answer(payload: &Bytes) -> Result<Answer, AuthError> {
    let mut reader = Reader::new(payload);
    match reader.u8()? {
        msg::SERVICE_ACCEPT => Ok(Answer::Ready),
        msg::USERAUTH_SUCCESS => Ok(Answer::Success),
        msg::USERAUTH_BANNER => Ok(Answer::Banner(payload.clone())),
        msg::USERAUTH_FAILURE => {
            let methods: String = reader.text()?.chars().take(200).collect();
            Err(AuthError::Refused(methods))
        }
        other => Err(AuthError::Unexpected(other)),
    }
}

#[cfg(test)]
mod tests {
    use super::super::codec::put_names;
    use super::*;

    fn request(method: &str, rest: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
        let mut out = vec![msg::USERAUTH_REQUEST];
        put_string(&mut out, b"deploy");
        put_string(&mut out, SERVICE);
        put_string(&mut out, method.as_bytes());
        rest(&mut out);
        out
    }

    #[test]
    fn whatever_is_offered_is_a_claim_and_a_password_leaves_no_trace() {
        let key = SignKey::ephemeral().unwrap();
        let signed = key_request("deploy", &key, None, b"id").unwrap();
        let fingerprint = format!("publickey {}", fingerprint(&key.public_blob()));
        for (message, offered) in [
            (request("none", |_| {}), "none"),
            (password_request("deploy", b"hunter2"), "password"),
            (request("keyboard-interactive", |out| put_names(out, &["", ""])), "keyboard-interactive"),
            (request("hunter2", |_| {}), "other"),
            (signed, fingerprint.as_str()),
        ] {
            let claim = Claim { user: "deploy".into(), offered: offered.into() };
            assert_eq!(Door::default().message(&message).unwrap(), Knock::Claim(claim));
        }
    }

    #[test]
    fn a_key_that_is_asked_about_is_welcome() {
        let message = request("publickey", |out| {
            out.put_u8(0);
            put_string(out, b"ssh-rsa");
            put_string(out, b"blob");
        });
        let Knock::Answer(answer) = Door::default().message(&message).unwrap() else { panic!("no answer") };
        assert_eq!(answer.first(), Some(&msg::USERAUTH_PK_OK));
    }

    #[test]
    fn what_does_not_belong_into_a_login_ends_it() {
        let mut door = Door::default();
        assert!(door.message(&[msg::CHANNEL_OPEN]).is_err());
        assert!(door.message(&[msg::USERAUTH_REQUEST, 0, 0]).is_err());
        let mut door = Door::default();
        for _ in 0..TRIES_MAX {
            door.message(&request("none", |_| {})).unwrap();
        }
        assert!(matches!(door.message(&request("none", |_| {})), Err(AuthError::TooMany)));
    }
}
