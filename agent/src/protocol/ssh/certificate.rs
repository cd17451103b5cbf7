//! User certificates as OpenSSH's PROTOCOL.certkeys describes them: for one account, one minute, and where a person said yes
//! to a command, for that command alone. Signed here, or by somebody else and then read.

use bytes::BufMut;

use super::codec::{Malformed, Reader, put_string};
use super::keys::{KeyError, SignKey, unbase64};

pub(super) const ALGORITHM: &str = "ssh-ed25519-cert-v01@openssh.com";

/// SSH_CERT_TYPE_USER.
const USER: u32 = 1;

const FORCE_COMMAND: &str = "force-command";
const PERMIT_PTY: &str = "permit-pty";

/// What a signer elsewhere made that was not asked for.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum CertificateError {
    #[error("it printed no line that begins with {ALGORITHM}")]
    Line,
    #[error("its certificate: {0}")]
    Malformed(#[from] Malformed),
    #[error("its certificate is for another {0} than was asked for")]
    Other(&'static str),
    #[error("its certificate allows {0:?}, which was not asked for")]
    Extension(String),
}

/// What a certificate says.
pub(super) struct Terms<'a> {
    pub(super) serial: u64,
    /// Shows up in the target's own log.
    pub(super) key_id: &'a str,
    pub(super) principal: &'a str,
    /// Unix seconds.
    pub(super) not_before: u64,
    pub(super) not_after: u64,
    pub(super) pty: bool,
    /// All that it lets run.
    pub(super) command: Option<&'a str>,
}

pub(super) struct Certificate {
    blob: Vec<u8>,
}

impl Terms<'_> {
    fn options(&self) -> Vec<u8> {
        let mut options = Vec::new();
        if let Some(command) = self.command {
            put_string(&mut options, FORCE_COMMAND.as_bytes());
            let mut value = Vec::new();
            put_string(&mut value, command.as_bytes());
            put_string(&mut options, &value);
        }
        options
    }

    /// Never a forwarded port, agent or display: those end at Chaperone.
    fn extensions(&self) -> Vec<u8> {
        let mut extensions = Vec::new();
        if self.pty {
            put_string(&mut extensions, PERMIT_PTY.as_bytes());
            put_string(&mut extensions, b"");
        }
        extensions
    }
}

impl Certificate {
    pub(super) fn blob(&self) -> &[u8] {
        &self.blob
    }

    /// Signs `key` (Ed25519) with the certificate authority's key.
    pub(super) fn issue(
        key: &SignKey,
        ca: &SignKey,
        nonce: &[u8],
        terms: &Terms<'_>,
    ) -> Result<Self, KeyError> {
        let mut blob = Vec::new();
        put_string(&mut blob, ALGORITHM.as_bytes());
        put_string(&mut blob, nonce);
        key.put_public(&mut blob);
        blob.put_u64(terms.serial);
        blob.put_u32(USER);
        put_string(&mut blob, terms.key_id.as_bytes());
        // Never empty: to some versions that means nobody, to others everybody.
        let mut principals = Vec::new();
        put_string(&mut principals, terms.principal.as_bytes());
        put_string(&mut blob, &principals);
        blob.put_u64(terms.not_before);
        blob.put_u64(terms.not_after);
        put_string(&mut blob, &terms.options());
        put_string(&mut blob, &terms.extensions());
        put_string(&mut blob, b"");
        put_string(&mut blob, &ca.public_blob());
        let signature = ca.sign(&blob)?;
        put_string(&mut blob, &signature);
        Ok(Self { blob })
    }

    /// What a signer printed, if it says what was asked for and nothing that allows more. It may be shorter or say more of
    /// what it does not allow. Whether the signature is one that counts is the target's to see.
    pub(super) fn read(printed: &str, key: &SignKey, terms: &Terms<'_>) -> Result<Self, CertificateError> {
        let blob = printed.lines().find_map(|line| {
            let text = line.trim().strip_prefix(ALGORITHM)?.split_ascii_whitespace().next()?;
            unbase64(text)
        });
        let blob = blob.ok_or(CertificateError::Line)?;
        let other = |what| Err(CertificateError::Other(what));
        let mut reader = Reader::new(&blob);
        if reader.text()? != ALGORITHM {
            return other("kind of key");
        }
        reader.string()?;
        let mut public = Vec::new();
        key.put_public(&mut public);
        if reader.take(public.len())? != public {
            return other("key");
        }
        reader.u64()?;
        if reader.u32()? != USER {
            return other("kind of login");
        }
        if reader.text()? != terms.key_id {
            return other("key id");
        }
        let mut principals = Reader::new(reader.string()?);
        if principals.text()? != terms.principal || principals.end().is_err() {
            return other("account");
        }
        reader.u64()?;
        if reader.u64()? > terms.not_after {
            return other("time");
        }
        let mut options = Reader::new(reader.string()?);
        let mut forced = None;
        while options.end().is_err() {
            let name = options.text()?;
            let value = options.string()?;
            if name == FORCE_COMMAND {
                forced = Some(Reader::new(value).text()?);
            }
        }
        if forced != terms.command {
            return other("command");
        }
        let mut extensions = Reader::new(reader.string()?);
        while extensions.end().is_err() {
            let name = extensions.text()?;
            extensions.string()?;
            if !(terms.pty && name == PERMIT_PTY) {
                return Err(CertificateError::Extension(name.chars().take(60).collect()));
            }
        }
        // Reserved, whose signature, and the signature.
        for _ in 0..3 {
            reader.string()?;
        }
        reader.end()?;
        Ok(Self { blob })
    }
}

#[cfg(test)]
mod tests {
    use super::super::keys::base64;
    use super::*;

    fn terms<'a>() -> Terms<'a> {
        Terms {
            serial: 1,
            key_id: "chaperone identity=bot",
            principal: "deploy",
            not_before: 100,
            not_after: 160,
            pty: false,
            command: Some("systemctl restart web"),
        }
    }

    #[test]
    fn what_a_signer_elsewhere_made_has_to_be_what_was_asked_for() {
        let (key, ca) = (SignKey::ephemeral().unwrap(), SignKey::ephemeral().unwrap());
        let stranger = SignKey::ephemeral().unwrap();
        let printed = |key: &SignKey, terms: &Terms<'_>| {
            let made = Certificate::issue(key, &ca, b"nonce", terms).unwrap();
            format!("signed:\n{ALGORITHM} {} comment\n", base64(made.blob()))
        };
        let check = |made: String, expect: Result<(), CertificateError>| {
            assert_eq!(Certificate::read(&made, &key, &terms()).map(drop), expect, "{made}");
        };
        check(printed(&key, &terms()), Ok(()));
        check(printed(&key, &Terms { not_after: 130, serial: 9, ..terms() }), Ok(()));
        let other = |what| Err(CertificateError::Other(what));
        check(printed(&stranger, &terms()), other("key"));
        check(printed(&key, &Terms { key_id: "somebody", ..terms() }), other("key id"));
        check(printed(&key, &Terms { principal: "root", ..terms() }), other("account"));
        check(printed(&key, &Terms { not_after: 161, ..terms() }), other("time"));
        check(printed(&key, &Terms { command: None, ..terms() }), other("command"));
        check(printed(&key, &Terms { command: Some("sh"), ..terms() }), other("command"));
        let more = Err(CertificateError::Extension(PERMIT_PTY.to_owned()));
        check(printed(&key, &Terms { pty: true, ..terms() }), more);
        check("no\n".to_owned(), Err(CertificateError::Line));
    }

    #[test]
    fn a_certificate_that_is_cut_short_is_refused() {
        let (key, ca) = (SignKey::ephemeral().unwrap(), SignKey::ephemeral().unwrap());
        let made = Certificate::issue(&key, &ca, b"nonce", &terms()).unwrap();
        for end in 0..made.blob.len() {
            let printed = format!("{ALGORITHM} {}", base64(&made.blob[..end]));
            assert!(Certificate::read(&printed, &key, &terms()).is_err(), "{end}");
        }
    }
}
