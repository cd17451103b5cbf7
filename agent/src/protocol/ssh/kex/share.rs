//! The secret that both sides come to: Diffie-Hellman on a curve (RFC 8731, RFC 5656), or on a curve and ML-KEM at once
//! (draft-ietf-sshm-mlkem-hybrid-kex), so that a recording of today cannot be read by a quantum computer of tomorrow.

use bytes::BufMut;
use ml_kem::kem::{Decapsulate as _, KeyExport as _};
use ml_kem::{Ciphertext, DecapsulationKey768, EncapsulationKey768, MlKem768};
use ring::agreement::{self, EphemeralPrivateKey, UnparsedPublicKey};
use ring::rand::{SecureRandom as _, SystemRandom};
use zeroize::Zeroizing;

use super::{KexError, Method, put_mpint, put_string, sha256};

/// Bytes of an ML-KEM-768 public key and ciphertext (FIPS 203, table 3).
const ENCAPSULATION_KEY: usize = 1184;
const CIPHERTEXT: usize = 1088;

/// A secret as the exchange hash and the keys take it.
type Secret = Zeroizing<Vec<u8>>;

/// The client's half of an exchange.
pub(in super::super) struct Share {
    curve: Curve,
    kem: Option<Box<DecapsulationKey768>>,
    pub(in super::super) public: Vec<u8>,
}

impl Share {
    pub(in super::super) fn make(method: Method) -> Result<Self, KexError> {
        let curve = Curve::make(method)?;
        let (mut kem, mut public) = (None, Vec::new());
        if method == Method::Hybrid {
            let mut seed = Zeroizing::new([0; 64]);
            SystemRandom::new().fill(&mut *seed).map_err(|_| KexError::Randomness)?;
            let key = DecapsulationKey768::from_seed((*seed).into());
            public.put_slice(&key.encapsulation_key().to_bytes());
            kem = Some(Box::new(key));
        }
        public.put_slice(&curve.public);
        Ok(Self { curve, kem, public })
    }

    /// The secret, with the server's half.
    pub(in super::super) fn secret(self, theirs: &[u8]) -> Result<Secret, KexError> {
        let Some(kem) = self.kem else { return self.curve.agree(theirs, as_number) };
        let (ciphertext, theirs) = theirs.split_at_checked(CIPHERTEXT).ok_or(KexError::Share)?;
        let ciphertext: &Ciphertext<MlKem768> = ciphertext.try_into().map_err(|_| KexError::Share)?;
        let shared = Zeroizing::new(kem.decapsulate(ciphertext));
        self.curve.agree(theirs, |agreed| hybrid(shared.as_slice(), agreed))
    }
}

/// The server's half, for the client's, and the secret.
pub(in super::super) fn answer(method: Method, theirs: &[u8]) -> Result<(Vec<u8>, Secret), KexError> {
    let curve = Curve::make(method)?;
    if method != Method::Hybrid {
        let public = curve.public.clone();
        return Ok((public, curve.agree(theirs, as_number)?));
    }
    let (key, theirs) = theirs.split_at_checked(ENCAPSULATION_KEY).ok_or(KexError::Share)?;
    let key = key.try_into().map_err(|_| KexError::Share)?;
    // Which checks that its numbers are reduced (FIPS 203 section 7.2).
    let key = EncapsulationKey768::new(key).map_err(|_| KexError::Share)?;
    let mut message = Zeroizing::new([0; 32]);
    SystemRandom::new().fill(&mut *message).map_err(|_| KexError::Randomness)?;
    let (ciphertext, shared) = key.encapsulate_deterministic(&(*message).into());
    let shared = Zeroizing::new(shared);
    let mut public = ciphertext.to_vec();
    public.put_slice(&curve.public);
    Ok((public, curve.agree(theirs, |agreed| hybrid(shared.as_slice(), agreed))?))
}

/// A key of our own on a curve, for one use.
struct Curve {
    algorithm: &'static agreement::Algorithm,
    private: EphemeralPrivateKey,
    public: Vec<u8>,
}

impl Curve {
    fn make(method: Method) -> Result<Self, KexError> {
        let algorithm = match method {
            Method::Hybrid | Method::X25519 => &agreement::X25519,
            Method::P256 => &agreement::ECDH_P256,
        };
        let private = EphemeralPrivateKey::generate(algorithm, &SystemRandom::new())
            .map_err(|_| KexError::Randomness)?;
        let public = private.compute_public_key().map_err(|_| KexError::Randomness)?.as_ref().to_vec();
        Ok(Self { algorithm, private, public })
    }

    fn agree(self, theirs: &[u8], encode: impl FnOnce(&[u8]) -> Secret) -> Result<Secret, KexError> {
        let theirs = UnparsedPublicKey::new(self.algorithm, theirs);
        agreement::agree_ephemeral(self.private, &theirs, encode).map_err(|_| KexError::Share)
    }
}

fn as_number(secret: &[u8]) -> Secret {
    let mut encoded = Vec::with_capacity(secret.len() + 5);
    put_mpint(&mut encoded, secret);
    Zeroizing::new(encoded)
}

/// Both secrets as one string.
fn hybrid(shared: &[u8], agreed: &[u8]) -> Secret {
    let both = Zeroizing::new([shared, agreed].concat());
    let mut encoded = Vec::with_capacity(36);
    put_string(&mut encoded, &sha256(&both));
    Zeroizing::new(encoded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_sides_come_to_the_same_secret_and_nobody_who_changed_a_byte() {
        for method in [Method::Hybrid, Method::X25519, Method::P256] {
            let share = Share::make(method).unwrap();
            let (public, secret) = answer(method, &share.public).unwrap();
            assert_eq!(*share.secret(&public).unwrap(), *secret);
            let share = Share::make(method).unwrap();
            let (mut public, secret) = answer(method, &share.public).unwrap();
            public[1] ^= 1;
            assert!(share.secret(&public).is_err() || method != Method::P256);
            let share = Share::make(method).unwrap();
            let (mut public, other) = answer(method, &share.public).unwrap();
            public[5] ^= 1;
            assert!(share.secret(&public).map_or(true, |it| *it != *other));
            assert_ne!(*secret, *other);
        }
        let share = Share::make(Method::Hybrid).unwrap();
        assert_eq!(share.public.len(), ENCAPSULATION_KEY + 32);
        let (public, _) = answer(Method::Hybrid, &share.public).unwrap();
        assert_eq!(public.len(), CIPHERTEXT + 32);
    }

    #[test]
    fn halves_of_a_wrong_length_and_keys_that_are_not_reduced_are_refused() {
        let good = Share::make(Method::Hybrid).unwrap().public;
        for bad in [&good[..32], &good[1..], &[good.as_slice(), b"x"].concat(), &vec![0xff; good.len()], &[]]
        {
            assert!(answer(Method::Hybrid, bad).is_err());
        }
        for bad in [&[0; CIPHERTEXT][..], &[0; CIPHERTEXT + 32], &[0; 3]] {
            assert!(Share::make(Method::Hybrid).unwrap().secret(bad).is_err());
        }
    }
}
