//! Who a target has to be: one of the keys it is known by, or a key that an authority vouches for, under a name the target is
//! known by (OpenSSH's PROTOCOL.certkeys). Time comes in as a number.

use std::sync::Arc;

use super::codec::{Malformed, Reader, put_string};
use super::keys::{Pinned, fingerprint, verify};

/// SSH_CERT_TYPE_HOST.
const HOST: u32 = 2;

/// What is negotiated for a certificate, the name inside it, that of its key, and what the key signs with.
const CERTIFIED: [(&str, &str, &str, &str); 4] = [
    ("ssh-ed25519-cert-v01@openssh.com", "ssh-ed25519-cert-v01@openssh.com", "ssh-ed25519", "ssh-ed25519"),
    (
        "ecdsa-sha2-nistp256-cert-v01@openssh.com",
        "ecdsa-sha2-nistp256-cert-v01@openssh.com",
        "ecdsa-sha2-nistp256",
        "ecdsa-sha2-nistp256",
    ),
    ("rsa-sha2-512-cert-v01@openssh.com", "ssh-rsa-cert-v01@openssh.com", "ssh-rsa", "rsa-sha2-512"),
    ("rsa-sha2-256-cert-v01@openssh.com", "ssh-rsa-cert-v01@openssh.com", "ssh-rsa", "rsa-sha2-256"),
];

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum HostError {
    #[error("the host key {0} is not one of those configured for the target")]
    Key(String),
    #[error("the host's certificate: {0}")]
    Malformed(#[from] Malformed),
    #[error("the host's certificate is signed by {0}, which is not one of the target's host_cas")]
    Authority(String),
    #[error(
        "the host's certificate is for {0:?}, which is neither the target's address nor among its host_names"
    )]
    Name(String),
    #[error("the host's certificate is not good at this time")]
    Time,
    #[error("the host's certificate is not one for hosts, or asks for what is not known")]
    Kind,
    #[error("the signature of the host's certificate does not hold")]
    Signature,
}

/// What a target is known by.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Known {
    pub(super) keys: Pinned,
    pub(super) authorities: Pinned,
    pub(super) names: Vec<String>,
}

/// The same when it is met: where, and when in Unix seconds.
pub(super) struct Host {
    pub(super) known: Arc<Known>,
    pub(super) address: String,
    pub(super) now: u64,
}

/// The key a host showed and is believed to have.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Shown {
    pub(super) key: Vec<u8>,
    /// What it signs the exchange with.
    pub(super) algorithm: String,
    /// For the record.
    pub(super) said: String,
}

impl Known {
    pub(super) fn is_empty(&self) -> bool {
        self.keys.is_empty() && self.authorities.is_empty()
    }
}

impl Host {
    /// What to offer, so that the target shows what can be believed.
    pub(super) fn algorithms(&self) -> Vec<&'static str> {
        let certified = CERTIFIED.iter().map(|(offered, ..)| *offered);
        let certified = certified.filter(|_| !self.known.authorities.is_empty());
        certified.chain(self.known.keys.algorithms()).collect()
    }

    /// Whether what a host shows under the algorithm that was agreed is believed.
    pub(super) fn believes(&self, algorithm: &str, blob: &[u8]) -> Result<Shown, HostError> {
        let Some((_, inside, family, signs)) = CERTIFIED.iter().find(|(offered, ..)| *offered == algorithm)
        else {
            if !self.known.keys.holds(blob) {
                return Err(HostError::Key(fingerprint(blob)));
            }
            let said = fingerprint(blob);
            return Ok(Shown { key: blob.to_vec(), algorithm: algorithm.to_owned(), said });
        };
        let mut reader = Reader::new(blob);
        if reader.text()? != *inside {
            return Err(HostError::Kind);
        }
        reader.string()?;
        let mut key = Vec::new();
        put_string(&mut key, family.as_bytes());
        // An Ed25519 key is one string; a curve and a point, or two numbers, are two.
        for _ in 0..if *family == "ssh-ed25519" { 1 } else { 2 } {
            put_string(&mut key, reader.string()?);
        }
        reader.u64()?;
        if reader.u32()? != HOST {
            return Err(HostError::Kind);
        }
        reader.string()?;
        self.named(reader.string()?)?;
        let (after, before) = (reader.u64()?, reader.u64()?);
        if !(after..before).contains(&self.now) {
            return Err(HostError::Time);
        }
        // There are none for hosts, and what is critical and not known may not be passed over.
        if !reader.string()?.is_empty() {
            return Err(HostError::Kind);
        }
        reader.string()?;
        reader.string()?;
        let authority = reader.string()?;
        if !self.known.authorities.holds(authority) {
            return Err(HostError::Authority(fingerprint(authority)));
        }
        let signed = blob.get(..blob.len() - reader.rest().len()).ok_or(Malformed)?;
        let signature = reader.string()?;
        reader.end()?;
        let with = Reader::new(signature).text()?.to_owned();
        if !verify(&with, authority, signature, signed)? {
            return Err(HostError::Signature);
        }
        let said = format!("{} by authority {}", fingerprint(&key), fingerprint(authority));
        Ok(Shown { key, algorithm: (*signs).to_owned(), said })
    }

    /// A certificate for nobody in particular is one for nobody.
    fn named(&self, principals: &[u8]) -> Result<(), HostError> {
        let mut reader = Reader::new(principals);
        let mut others = Vec::new();
        while reader.end().is_err() {
            let name = reader.text()?;
            let ours = self.known.names.iter().chain([&self.address]);
            if ours.into_iter().any(|known| known.eq_ignore_ascii_case(name)) {
                return Ok(());
            }
            others.push(name);
        }
        Err(HostError::Name(others.join(",").chars().take(200).collect()))
    }
}

#[cfg(test)]
mod tests {
    use bytes::BufMut as _;

    use super::super::keys::{HostKeys, SignKey};
    use super::*;

    struct Made<'a> {
        kind: u32,
        names: &'a [&'a str],
        time: (u64, u64),
        options: &'a [u8],
    }

    const GOOD: Made<'_> = Made { kind: HOST, names: &["web1.internal"], time: (100, 200), options: b"" };

    fn made(key: &SignKey, ca: &SignKey, what: &Made<'_>) -> (String, Vec<u8>) {
        let (offered, inside, ..) =
            CERTIFIED.iter().find(|(_, _, family, _)| *family == key.algorithm()).unwrap();
        let mut blob = Vec::new();
        put_string(&mut blob, inside.as_bytes());
        put_string(&mut blob, b"nonce");
        key.put_public(&mut blob);
        blob.put_u64(7);
        blob.put_u32(what.kind);
        put_string(&mut blob, b"id");
        let mut names = Vec::new();
        what.names.iter().for_each(|name| put_string(&mut names, name.as_bytes()));
        put_string(&mut blob, &names);
        blob.put_u64(what.time.0);
        blob.put_u64(what.time.1);
        put_string(&mut blob, what.options);
        put_string(&mut blob, b"");
        put_string(&mut blob, b"");
        put_string(&mut blob, &ca.public_blob());
        let signature = ca.sign(&blob).unwrap();
        put_string(&mut blob, &signature);
        ((*offered).to_owned(), blob)
    }

    fn key(algorithm: &str) -> SignKey {
        SignKey::from_pkcs8(algorithm, &SignKey::generate(algorithm).unwrap()).unwrap()
    }

    fn host(ca: SignKey) -> Host {
        let lines = HostKeys(vec![ca]).lines();
        let authorities = Pinned::parse(lines.iter().map(String::as_str)).unwrap();
        let known = Known { authorities, names: vec!["WEB1.internal".to_owned()], ..Known::default() };
        Host { known: Arc::new(known), address: "10.0.0.1".to_owned(), now: 150 }
    }

    #[test]
    fn a_certificate_is_believed_for_its_name_its_time_and_its_authority_only() {
        let pair = || SignKey::generate("ecdsa-sha2-nistp256").unwrap();
        let der = pair();
        let ca = || SignKey::from_pkcs8("ecdsa-sha2-nistp256", &der).unwrap();
        let host = host(ca());
        for family in ["ssh-ed25519", "ecdsa-sha2-nistp256", "ssh-rsa"] {
            let shown = key(family);
            let believed = |ca: &SignKey, what: &Made<'_>| {
                let (algorithm, blob) = made(&shown, ca, what);
                host.believes(&algorithm, &blob).map(|believed| believed.key)
            };
            assert_eq!(believed(&ca(), &GOOD), Ok(shown.public_blob()), "{family}");
            assert!(believed(&ca(), &Made { names: &["other", "10.0.0.1"], ..GOOD }).is_ok());
            let name = |names: &str| Err(HostError::Name(names.to_owned()));
            assert_eq!(believed(&ca(), &Made { names: &["web2.internal"], ..GOOD }), name("web2.internal"));
            assert_eq!(believed(&ca(), &Made { names: &[], ..GOOD }), name(""));
            assert_eq!(believed(&ca(), &Made { time: (100, 150), ..GOOD }), Err(HostError::Time));
            assert_eq!(believed(&ca(), &Made { time: (151, 200), ..GOOD }), Err(HostError::Time));
            // A user's certificate of the same authority makes no host.
            assert_eq!(believed(&ca(), &Made { kind: 1, ..GOOD }), Err(HostError::Kind));
            assert_eq!(believed(&ca(), &Made { options: b"x", ..GOOD }), Err(HostError::Kind));
            let stranger = key("ssh-ed25519");
            assert!(matches!(believed(&stranger, &GOOD), Err(HostError::Authority(_))));
        }
    }

    #[test]
    fn a_certificate_that_was_changed_anywhere_is_refused() {
        let der = SignKey::generate("ssh-ed25519").unwrap();
        let ca = || SignKey::from_pkcs8("ssh-ed25519", &der).unwrap();
        let host = host(ca());
        let (algorithm, blob) = made(&key("ssh-ed25519"), &ca(), &GOOD);
        assert!(host.believes(&algorithm, &blob).is_ok());
        for place in 0..blob.len() {
            let mut changed = blob.clone();
            changed[place] ^= 1;
            assert!(host.believes(&algorithm, &changed).is_err(), "byte {place}");
            assert!(host.believes(&algorithm, &blob[..place]).is_err(), "cut at {place}");
        }
        // The authority's own key is no host key.
        assert!(matches!(host.believes("ssh-ed25519", &ca().public_blob()), Err(HostError::Key(_))));
    }
}
