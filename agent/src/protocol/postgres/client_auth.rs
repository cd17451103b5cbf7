//! Asking a client for a password that is worth nothing (manual, "SASL Authentication"; RFC 5802, RFC 7677, RFC 5929).
//!
//! Clients that insist on proof (`channel_binding=require`, `require_auth=scram-sha-256`) want to see that the other
//! side knows their password. Where the configuration names one for that purpose, it is proved here, to the client and
//! by it. It gives no access: who the client is comes from the kernel. A pure machine: messages in, answers out.

use std::num::NonZeroU32;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{BufMut, BytesMut};
use ring::{digest, hmac, pbkdf2};

use super::codec::{CodecError, Message, put};

const PLAIN: &[u8] = b"SCRAM-SHA-256";
const PLUS: &[u8] = b"SCRAM-SHA-256-PLUS";

/// As the server's default (`scram_iterations`).
const ITERATIONS: NonZeroU32 = NonZeroU32::new(4096).unwrap();

#[derive(Debug, thiserror::Error)]
pub enum ClientAuthError {
    #[error("password authentication failed")]
    Password,
    #[error("malformed SCRAM message: {0}")]
    Malformed(&'static str),
    #[error("SCRAM channel binding check failed")]
    Binding,
    #[error("the client took the connection for one without TLS support, which it is not")]
    Downgrade,
    #[error("unexpected message `{}` during authentication", .0.escape_ascii())]
    Unexpected(u8),
    #[error(transparent)]
    Codec(#[from] CodecError),
}

/// One exchange.
pub struct Scram<'a> {
    password: &'a [u8],
    /// The certificate's hash, on a connection with TLS.
    end_point: Option<&'a [u8]>,
    nonce: String,
    salt: [u8; 16],
    step: Step,
}

enum Step {
    First,
    Final { gs2: Vec<u8>, bound: bool, nonce: String, transcript: String },
    Done,
}

impl<'a> Scram<'a> {
    /// `random` makes the nonce and the salt; it must never be used twice.
    #[must_use]
    pub fn new(password: &'a [u8], end_point: Option<&'a [u8]>, random: [u8; 40]) -> Self {
        let (nonce, salt) = random.split_at(24);
        let salt = salt.try_into().unwrap_or_default();
        Self { password, end_point, nonce: STANDARD.encode(nonce), salt, step: Step::First }
    }

    /// The methods on offer.
    pub fn put_offer(&self, out: &mut BytesMut) {
        put(out, b'R', |out| {
            out.put_i32(10);
            for method in self.end_point.map(|_| PLUS).into_iter().chain([PLAIN]) {
                out.put_slice(method);
                out.put_u8(0);
            }
            out.put_u8(0);
        });
    }

    /// Takes a message of the client; true when it has proved that it knows the password.
    ///
    /// # Errors
    /// When it has not, or does not speak the protocol.
    pub fn message(&mut self, message: &Message, out: &mut BytesMut) -> Result<bool, ClientAuthError> {
        if message.tag != b'p' {
            return Err(ClientAuthError::Unexpected(message.tag));
        }
        match std::mem::replace(&mut self.step, Step::Done) {
            Step::First => self.first(message, out).map(|()| false),
            Step::Final { gs2, bound, nonce, transcript } => {
                let text = text(message.body().rest())?;
                self.last(text, &gs2, bound, &nonce, &transcript, out).map(|()| true)
            }
            Step::Done => Err(ClientAuthError::Unexpected(message.tag)),
        }
    }

    fn first(&mut self, message: &Message, out: &mut BytesMut) -> Result<(), ClientAuthError> {
        let mut fields = message.body();
        let method = fields.c_bytes()?;
        let text = text(fields.value()?.ok_or(ClientAuthError::Malformed("no first message"))?)?;
        fields.end()?;
        // gs2-header: binding flag, authorization identity, each with a comma behind it.
        let mut parts = text.splitn(3, ',');
        let (Some(flag), Some(authzid), Some(bare)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(ClientAuthError::Malformed("no GS2 header"));
        };
        let bound = match (method, flag) {
            (PLUS, "p=tls-server-end-point") if self.end_point.is_some() => true,
            // It saw no binding on offer, and one was: somebody in between took it away.
            (PLAIN, "y") if self.end_point.is_some() => return Err(ClientAuthError::Downgrade),
            (PLAIN, "n" | "y") => false,
            _ => return Err(ClientAuthError::Malformed("method and channel binding do not agree")),
        };
        let mut attributes = bare.split(',');
        let (Some(user), Some(nonce)) = (attributes.next(), attributes.next()) else {
            return Err(ClientAuthError::Malformed("no user or nonce"));
        };
        let nonce = nonce.strip_prefix("r=").filter(|nonce| !nonce.is_empty());
        let Some(nonce) = nonce.filter(|_| user.starts_with("n=")) else {
            return Err(ClientAuthError::Malformed("no user or nonce"));
        };
        let nonce = format!("{nonce}{}", self.nonce);
        let answer = format!("r={nonce},s={},i={ITERATIONS}", STANDARD.encode(self.salt));
        put(out, b'R', |out| {
            out.put_i32(11);
            out.put_slice(answer.as_bytes());
        });
        let gs2 = format!("{flag},{authzid},").into_bytes();
        self.step = Step::Final { gs2, bound, nonce, transcript: format!("{bare},{answer}") };
        Ok(())
    }

    fn last(
        &self,
        text: &str,
        gs2: &[u8],
        bound: bool,
        nonce: &str,
        transcript: &str,
        out: &mut BytesMut,
    ) -> Result<(), ClientAuthError> {
        let (unproved, proof) = text.rsplit_once(",p=").ok_or(ClientAuthError::Malformed("no proof"))?;
        let mut attributes = unproved.split(',');
        let binding = attributes.next().and_then(|part| part.strip_prefix("c="));
        let mut expected = gs2.to_vec();
        if bound {
            expected.extend_from_slice(self.end_point.unwrap_or_default());
        }
        if binding.and_then(|binding| STANDARD.decode(binding).ok()) != Some(expected) {
            return Err(ClientAuthError::Binding);
        }
        if attributes.next().and_then(|part| part.strip_prefix("r=")) != Some(nonce) {
            return Err(ClientAuthError::Malformed("another nonce"));
        }
        let mut salted = [0; 32];
        pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, ITERATIONS, &self.salt, self.password, &mut salted);
        let mac = |key: &[u8], text: &[u8]| hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text);
        let stored = digest::digest(&digest::SHA256, mac(&salted, b"Client Key").as_ref());
        let transcript = format!("{transcript},{unproved}");
        let signature = mac(stored.as_ref(), transcript.as_bytes());
        let proof = STANDARD.decode(proof).map_err(|_| ClientAuthError::Malformed("proof"))?;
        if proof.len() != signature.as_ref().len() {
            return Err(ClientAuthError::Malformed("proof"));
        }
        let key: Vec<u8> = proof.iter().zip(signature.as_ref()).map(|(a, b)| a ^ b).collect();
        if digest::digest(&digest::SHA256, &key).as_ref() != stored.as_ref() {
            return Err(ClientAuthError::Password);
        }
        let server = mac(mac(&salted, b"Server Key").as_ref(), transcript.as_bytes());
        put(out, b'R', |out| {
            out.put_i32(12);
            out.put_slice(format!("v={}", STANDARD.encode(server.as_ref())).as_bytes());
        });
        Ok(())
    }
}

fn text(bytes: &[u8]) -> Result<&str, ClientAuthError> {
    std::str::from_utf8(bytes).map_err(|_| ClientAuthError::Malformed("not UTF-8"))
}

#[cfg(test)]
mod tests {
    use postgres_protocol::authentication::sasl::{ChannelBinding, ScramSha256};

    use super::super::codec::{Fields, WHOLE_MAX, put, take};
    use super::*;

    const HASH: [u8; 32] = [7; 32];

    fn client_first(method: &[u8], text: &[u8]) -> Message {
        let mut out = BytesMut::new();
        put(&mut out, b'p', |out| {
            out.put_slice(method);
            out.put_u8(0);
            out.put_i32(text.len() as i32);
            out.put_slice(text);
        });
        take(&mut out, WHOLE_MAX).unwrap().unwrap()
    }

    fn client_final(text: &[u8]) -> Message {
        let mut out = BytesMut::new();
        put(&mut out, b'p', |out| out.put_slice(text));
        take(&mut out, WHOLE_MAX).unwrap().unwrap()
    }

    fn answer(out: &mut BytesMut, kind: i32) -> Vec<u8> {
        let message = take(out, WHOLE_MAX).unwrap().unwrap();
        let mut fields: Fields<'_> = message.body();
        assert_eq!((message.tag, fields.i32().unwrap()), (b'R', kind));
        fields.rest().to_vec()
    }

    /// A client of another make against ours: whether each believed the other.
    fn exchange(method: &[u8], binding: ChannelBinding, theirs: &[u8]) -> Result<(), ClientAuthError> {
        let mut server = Scram::new(b"worth-nothing", Some(&HASH), [3; 40]);
        let mut client = ScramSha256::new(theirs, binding);
        let mut out = BytesMut::new();
        assert!(!server.message(&client_first(method, client.message()), &mut out)?);
        client.update(&answer(&mut out, 11)).unwrap();
        assert!(server.message(&client_final(client.message()), &mut out)?);
        client.finish(&answer(&mut out, 12)).unwrap();
        Ok(())
    }

    #[test]
    fn both_sides_prove_that_they_know_the_password() {
        let bound = || ChannelBinding::tls_server_end_point(HASH.to_vec());
        exchange(PLUS, bound(), b"worth-nothing").unwrap();
        exchange(PLAIN, ChannelBinding::unsupported(), b"worth-nothing").unwrap();
        let wrong = |outcome| matches!(outcome, Err(ClientAuthError::Password));
        assert!(wrong(exchange(PLUS, bound(), b"guess")));
        assert!(wrong(exchange(PLAIN, ChannelBinding::unsupported(), b"")));
        let other = ChannelBinding::tls_server_end_point(vec![8; 32]);
        assert!(matches!(exchange(PLUS, other, b"worth-nothing"), Err(ClientAuthError::Binding)));
        let unseen = exchange(PLAIN, ChannelBinding::unrequested(), b"worth-nothing");
        assert!(matches!(unseen, Err(ClientAuthError::Downgrade)));
    }

    #[test]
    fn what_is_no_scram_is_refused() {
        for first in
            ["", "n", "n,,", "n,,n=a", "n,,n=a,r=", "n,,r=x,n=a", "p=tls-unique,,n=,r=x", "m=1,,n=,r=x"]
        {
            let mut server = Scram::new(b"x", Some(&HASH), [3; 40]);
            let message = client_first(PLAIN, first.as_bytes());
            assert!(server.message(&message, &mut BytesMut::new()).is_err(), "{first}");
        }
        for last in ["", "c=biws", "c=biws,r=x,p=", "c=biws,r=xy,p=AAAA", "p=AAAA"] {
            let mut server = Scram::new(b"x", None, [3; 40]);
            server.message(&client_first(PLAIN, b"n,,n=,r=x"), &mut BytesMut::new()).unwrap();
            assert!(server.message(&client_final(last.as_bytes()), &mut BytesMut::new()).is_err(), "{last}");
        }
    }
}
