//! Host keys and user keys: signing with ours, verifying theirs, and the formats they are written in.
//!
//! Ed25519, ECDSA on P-256 and RSA (SHA-2 only) to sign with; those and P-384 to verify. Host keys of targets are pinned:
//! a key that is not in the list is not the target. Knows no files; `open` reads them.

use bytes::BufMut;
use ring::rand::SystemRandom;
use ring::signature::{self, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RsaKeyPair, UnparsedPublicKey};
use rsa::pkcs8::EncodePrivateKey as _;
use rsa::rand_core::OsRng;

use super::codec::{Malformed, Reader, put_mpint, put_string};
use super::kex::sha256;

#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error("not a private key in OpenSSH's format: {0}")]
    Format(String),
    #[error("the key is encrypted; Chaperone has nobody to ask for the passphrase")]
    Encrypted,
    #[error("{0} keys cannot be used to log in; use ed25519, ecdsa on nistp256 or rsa")]
    Unsupported(String),
    #[error("the parts of the key do not belong together")]
    Inconsistent,
    #[error("not a public key line such as `ssh-ed25519 AAAA...`: {0}")]
    Line(String),
}

/// A key to sign with.
pub(super) enum SignKey {
    Ed25519(Ed25519KeyPair),
    P256(Box<EcdsaKeyPair>),
    Rsa(Box<RsaKeyPair>),
}

/// Bits of an RSA key that is made here.
const RSA_BITS: usize = 3072;

impl SignKey {
    /// From PKCS#8, as `generate` writes it.
    pub(super) fn from_pkcs8(algorithm: &str, der: &[u8]) -> Result<Self, KeyError> {
        match algorithm {
            "ssh-ed25519" => {
                Ed25519KeyPair::from_pkcs8(der).map(Self::Ed25519).map_err(|_| KeyError::Inconsistent)
            }
            "ssh-rsa" => RsaKeyPair::from_pkcs8(der)
                .map(|pair| Self::Rsa(Box::new(pair)))
                .map_err(|_| KeyError::Inconsistent),
            _ => EcdsaKeyPair::from_pkcs8(
                &signature::ECDSA_P256_SHA256_FIXED_SIGNING,
                der,
                &SystemRandom::new(),
            )
            .map(|pair| Self::P256(Box::new(pair)))
            .map_err(|_| KeyError::Inconsistent),
        }
    }

    /// From a file as ssh-keygen writes it.
    pub(super) fn from_openssh(text: &str) -> Result<Self, KeyError> {
        use ssh_key::private::{EcdsaKeypair, KeypairData};
        let key =
            ssh_key::PrivateKey::from_openssh(text).map_err(|error| KeyError::Format(error.to_string()))?;
        match key.key_data() {
            KeypairData::Ed25519(pair) => {
                let pair = Ed25519KeyPair::from_seed_and_public_key(pair.private.as_ref(), &pair.public.0);
                pair.map(Self::Ed25519).map_err(|_| KeyError::Inconsistent)
            }
            KeypairData::Ecdsa(EcdsaKeypair::NistP256 { public, private }) => {
                let pair = EcdsaKeyPair::from_private_key_and_public_key(
                    &signature::ECDSA_P256_SHA256_FIXED_SIGNING,
                    private.as_slice(),
                    public.as_bytes(),
                    &SystemRandom::new(),
                );
                pair.map(|pair| Self::P256(Box::new(pair))).map_err(|_| KeyError::Inconsistent)
            }
            KeypairData::Rsa(pair) => {
                let number = |number: &ssh_key::Mpint| {
                    rsa::BigUint::from_bytes_be(number.as_positive_bytes().unwrap_or_default())
                };
                let (public, private) = (&pair.public, &pair.private);
                let primes = vec![number(&private.p), number(&private.q)];
                let key = rsa::RsaPrivateKey::from_components(
                    number(&public.n),
                    number(&public.e),
                    number(&private.d),
                    primes,
                );
                Self::from_pkcs8("ssh-rsa", &rsa_pkcs8(&key.map_err(|_| KeyError::Inconsistent)?)?)
            }
            KeypairData::Encrypted(_) => Err(KeyError::Encrypted),
            _ => Err(KeyError::Unsupported(key.algorithm().to_string())),
        }
    }

    /// A key nobody else ever sees.
    pub(super) fn ephemeral() -> Result<Self, KeyError> {
        Self::from_pkcs8("ssh-ed25519", &Self::generate("ssh-ed25519")?)
    }

    /// A fresh key as PKCS#8.
    pub(super) fn generate(algorithm: &str) -> Result<zeroize::Zeroizing<Vec<u8>>, KeyError> {
        let rng = SystemRandom::new();
        let document = match algorithm {
            "ssh-rsa" => {
                let key =
                    rsa::RsaPrivateKey::new(&mut OsRng, RSA_BITS).map_err(|_| KeyError::Inconsistent)?;
                return rsa_pkcs8(&key);
            }
            "ssh-ed25519" => Ed25519KeyPair::generate_pkcs8(&rng),
            _ => EcdsaKeyPair::generate_pkcs8(&signature::ECDSA_P256_SHA256_FIXED_SIGNING, &rng),
        };
        Ok(zeroize::Zeroizing::new(document.map_err(|_| KeyError::Inconsistent)?.as_ref().to_vec()))
    }

    pub(super) fn algorithm(&self) -> &'static str {
        match self {
            Self::Ed25519(_) => "ssh-ed25519",
            Self::P256(_) => "ecdsa-sha2-nistp256",
            Self::Rsa(_) => "ssh-rsa",
        }
    }

    /// What it signs with, the best first.
    pub(super) fn signs(&self) -> &'static [&'static str] {
        algorithms_of(self.algorithm()).unwrap_or_default()
    }

    /// The public key as it goes over the wire (RFC 4253 section 6.6).
    pub(super) fn public_blob(&self) -> Vec<u8> {
        let mut blob = Vec::new();
        put_string(&mut blob, self.algorithm().as_bytes());
        self.put_public(&mut blob);
        blob
    }

    /// The public key without the name of its algorithm, as certificates hold it.
    pub(super) fn put_public(&self, out: &mut Vec<u8>) {
        match self {
            Self::Rsa(pair) => {
                let public = ring::rsa::PublicKeyComponents::<Vec<u8>>::from(pair.public_key());
                put_mpint(out, &public.e);
                put_mpint(out, &public.n);
            }
            Self::Ed25519(pair) => put_string(out, pair.public_key().as_ref()),
            Self::P256(pair) => {
                put_string(out, b"nistp256");
                put_string(out, pair.public_key().as_ref());
            }
        }
    }

    /// A signature as it goes over the wire, with the best it has.
    pub(super) fn sign(&self, data: &[u8]) -> Result<Vec<u8>, KeyError> {
        self.sign_as(self.signs().first().copied().unwrap_or_default(), data)
    }

    /// The same with one of what it signs with.
    pub(super) fn sign_as(&self, algorithm: &str, data: &[u8]) -> Result<Vec<u8>, KeyError> {
        let mut raw = Vec::new();
        match self {
            Self::Ed25519(pair) => raw.put_slice(pair.sign(data).as_ref()),
            Self::P256(pair) => {
                let signed = pair.sign(&SystemRandom::new(), data).map_err(|_| KeyError::Inconsistent)?;
                let (r, s) = signed.as_ref().split_at_checked(32).ok_or(KeyError::Inconsistent)?;
                put_mpint(&mut raw, r);
                put_mpint(&mut raw, s);
            }
            Self::Rsa(pair) => {
                let padding: &dyn signature::RsaEncoding = match algorithm {
                    "rsa-sha2-512" => &signature::RSA_PKCS1_SHA512,
                    "rsa-sha2-256" => &signature::RSA_PKCS1_SHA256,
                    _ => return Err(KeyError::Unsupported(algorithm.to_owned())),
                };
                raw.resize(pair.public().modulus_len(), 0);
                pair.sign(padding, &SystemRandom::new(), data, &mut raw)
                    .map_err(|_| KeyError::Inconsistent)?;
            }
        }
        let mut out = Vec::new();
        put_string(&mut out, algorithm.as_bytes());
        put_string(&mut out, &raw);
        Ok(out)
    }
}

fn rsa_pkcs8(key: &rsa::RsaPrivateKey) -> Result<zeroize::Zeroizing<Vec<u8>>, KeyError> {
    let document = key.to_pkcs8_der().map_err(|_| KeyError::Inconsistent)?;
    Ok(zeroize::Zeroizing::new(document.as_bytes().to_vec()))
}

/// The keys Chaperone shows to clients, the preferred first.
pub struct HostKeys(pub(super) Vec<SignKey>);

impl HostKeys {
    /// No keys at all: enough to check what a configuration names, and to refuse before key exchange.
    #[must_use]
    pub fn none() -> Self {
        Self(Vec::new())
    }

    pub(super) fn algorithms(&self) -> Vec<&'static str> {
        self.0.iter().flat_map(SignKey::signs).copied().collect()
    }

    pub(super) fn find(&self, algorithm: &str) -> Option<&SignKey> {
        self.0.iter().find(|key| key.signs().contains(&algorithm))
    }

    /// The public keys as lines of a known_hosts file have them: algorithm and base64.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        self.0.iter().map(|key| format!("{} {}", key.algorithm(), base64(&key.public_blob()))).collect()
    }
}

/// The host keys a target is known by.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Pinned(Vec<Vec<u8>>);

impl Pinned {
    /// Reads `algorithm base64 [comment]`, or a line of a known_hosts file with host names in front.
    ///
    /// # Errors
    /// When a line holds no key, or one of an algorithm that cannot be verified.
    pub(super) fn parse<'a>(lines: impl IntoIterator<Item = &'a str>) -> Result<Self, KeyError> {
        let mut keys = Vec::new();
        for line in lines {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let bad = || KeyError::Line(line.chars().take(60).collect());
            // A marker changes what the line means: a CA is not a host, and a revoked key is nobody.
            if line.starts_with('@') {
                return Err(bad());
            }
            let words: Vec<&str> = line.split_ascii_whitespace().take(3).collect();
            let place = words.iter().position(|word| algorithms_of(word).is_some()).ok_or_else(bad)?;
            let text = words.get(place + 1).ok_or_else(bad)?;
            let blob = unbase64(text).ok_or_else(bad)?;
            let named = Reader::new(&blob).text().map_err(|_| bad())?.to_owned();
            if words.get(place) != Some(&named.as_str()) {
                return Err(bad());
            }
            keys.push(blob);
        }
        Ok(Self(keys))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn holds(&self, blob: &[u8]) -> bool {
        self.0.iter().any(|key| key == blob)
    }

    /// What to offer, so that the target shows a key that is known.
    pub(super) fn algorithms(&self) -> Vec<&'static str> {
        let mut names = Vec::new();
        for blob in &self.0 {
            let family = Reader::new(blob).text().unwrap_or_default();
            for name in algorithms_of(family).unwrap_or_default() {
                if !names.contains(name) {
                    names.push(*name);
                }
            }
        }
        names
    }
}

/// The signature algorithms that go with a type of key.
fn algorithms_of(family: &str) -> Option<&'static [&'static str]> {
    match family {
        "ssh-ed25519" => Some(&["ssh-ed25519"]),
        "ecdsa-sha2-nistp256" => Some(&["ecdsa-sha2-nistp256"]),
        "ecdsa-sha2-nistp384" => Some(&["ecdsa-sha2-nistp384"]),
        "ssh-rsa" => Some(&["rsa-sha2-512", "rsa-sha2-256"]),
        _ => None,
    }
}

/// Whether `signed` is a signature of `data` by the key in `blob`, made with exactly this algorithm.
pub(super) fn verify(algorithm: &str, blob: &[u8], signed: &[u8], data: &[u8]) -> Result<bool, Malformed> {
    let mut key = Reader::new(blob);
    let family = key.text()?;
    let mut signature = Reader::new(signed);
    if signature.text()? != algorithm || !algorithms_of(family).unwrap_or_default().contains(&algorithm) {
        return Ok(false);
    }
    let raw = signature.string()?;
    signature.end()?;
    let verified = match algorithm {
        "ssh-ed25519" => UnparsedPublicKey::new(&signature::ED25519, key.string()?).verify(data, raw),
        "ecdsa-sha2-nistp256" => {
            key.string()?;
            let raw = fixed(raw, 32)?;
            UnparsedPublicKey::new(&signature::ECDSA_P256_SHA256_FIXED, key.string()?).verify(data, &raw)
        }
        "ecdsa-sha2-nistp384" => {
            key.string()?;
            let raw = fixed(raw, 48)?;
            UnparsedPublicKey::new(&signature::ECDSA_P384_SHA384_FIXED, key.string()?).verify(data, &raw)
        }
        _ => {
            let (e, n) = (key.mpint()?, key.mpint()?);
            let parameters = match algorithm {
                "rsa-sha2-512" => &signature::RSA_PKCS1_2048_8192_SHA512,
                _ => &signature::RSA_PKCS1_2048_8192_SHA256,
            };
            signature::RsaPublicKeyComponents { n, e }.verify(parameters, data, raw)
        }
    };
    Ok(verified.is_ok() && key.end().is_ok())
}

/// Two mpints as two numbers of a fixed width.
fn fixed(raw: &[u8], width: usize) -> Result<Vec<u8>, Malformed> {
    let mut reader = Reader::new(raw);
    let mut out = Vec::with_capacity(width * 2);
    for _ in 0..2 {
        let number = reader.mpint()?;
        out.put_bytes(0, width.checked_sub(number.len()).ok_or(Malformed)?);
        out.put_slice(number);
    }
    reader.end()?;
    Ok(out)
}

/// `SHA256:...`, as ssh-keygen -l prints it.
pub(super) fn fingerprint(blob: &[u8]) -> String {
    use ::base64::Engine as _;
    format!("SHA256:{}", ::base64::engine::general_purpose::STANDARD_NO_PAD.encode(sha256(blob)))
}

pub(super) fn base64(bytes: &[u8]) -> String {
    use ::base64::Engine as _;
    ::base64::engine::general_purpose::STANDARD.encode(bytes)
}

pub(super) fn unbase64(text: &str) -> Option<Vec<u8>> {
    use ::base64::Engine as _;
    ::base64::engine::general_purpose::STANDARD.decode(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_holds_for_its_key_its_algorithm_and_its_data_only() {
        for algorithm in ["ssh-ed25519", "ecdsa-sha2-nistp256"] {
            let made = || SignKey::from_pkcs8(algorithm, &SignKey::generate(algorithm).unwrap()).unwrap();
            let (key, other) = (made(), made());
            for round in 0..50u8 {
                let data = [round; 40];
                let signed = key.sign(&data).unwrap();
                assert!(verify(algorithm, &key.public_blob(), &signed, &data).unwrap());
                assert!(!verify(algorithm, &other.public_blob(), &signed, &data).unwrap());
                assert!(!verify(algorithm, &key.public_blob(), &signed, b"another text").unwrap());
                assert!(!verify("rsa-sha2-256", &key.public_blob(), &signed, &data).unwrap());
            }
        }
    }

    #[test]
    fn an_rsa_key_signs_with_sha_2_only_and_comes_from_ssh_keygen_as_well() {
        let key = SignKey::from_pkcs8("ssh-rsa", &SignKey::generate("ssh-rsa").unwrap()).unwrap();
        for algorithm in ["rsa-sha2-256", "rsa-sha2-512"] {
            let signed = key.sign_as(algorithm, b"data").unwrap();
            assert!(verify(algorithm, &key.public_blob(), &signed, b"data").unwrap());
            assert!(!verify(algorithm, &key.public_blob(), &signed, b"other").unwrap());
        }
        assert!(key.sign_as("ssh-rsa", b"data").is_err());
        assert!(verify("rsa-sha2-512", &key.public_blob(), &key.sign(b"data").unwrap(), b"data").unwrap());
    }

    #[test]
    fn pinned_keys_are_read_from_key_lines_and_known_hosts_lines_and_nothing_else() {
        let key = HostKeys(vec![SignKey::ephemeral().unwrap()]);
        let line = &key.lines()[0];
        let blob = key.0[0].public_blob();
        for text in [line.clone(), format!("web1,10.0.0.1 {line} root@web1"), format!("|1|x|y= {line}")] {
            let pinned = Pinned::parse([text.as_str(), "", "# comment"]).unwrap();
            assert!(pinned.holds(&blob), "{text}");
            assert_eq!(pinned.algorithms(), ["ssh-ed25519"]);
        }
        let marked = format!("@cert-authority * {line}");
        let swapped = line.replacen("ssh-ed25519", "ssh-rsa", 1);
        for text in [marked.as_str(), swapped.as_str(), "ssh-ed25519", "ssh-dss AAAA", "web1 ssh-ed25519 !!"]
        {
            assert!(Pinned::parse([text]).is_err(), "{text}");
        }
    }
}
