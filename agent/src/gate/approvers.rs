//! People who may approve, and how their word is known to be theirs: an Ed25519 signature (RFC 8032) over exactly
//! what they say.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use ring::signature::{ED25519, UnparsedPublicKey};
use serde::{Deserialize, Serialize};

use crate::config::Approver;

/// Put before the text, so that a signature made for something else can never be one of these.
const DOMAIN: &[u8] = b"chaperone operator v1\n";

/// How far apart the clocks of signer and agent may be.
const SKEW_S: u64 = 60;

/// What a person says: a request in JSON, when, and a number used once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signed {
    /// Base64 of the public key.
    pub key: String,
    /// JSON of a [`Statement`].
    pub text: String,
    /// Base64.
    pub signature: String,
}

/// The text that is signed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Statement<R> {
    pub request: R,
    /// Of the hold, as the signer was shown it.
    pub binding: Option<String>,
    pub unix_s: u64,
    pub nonce: String,
    /// Which boot of which host it is said to: what is overheard there is of no use elsewhere.
    pub boot: String,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    #[error("the key belongs to no approver in the agent's configuration")]
    UnknownKey,
    #[error("the signature is not that of {0}")]
    Bad(String),
    #[error("what was signed cannot be read: {0}")]
    Text(String),
    #[error("it was signed {0} s away from this host's time; sign it again, and look at the clocks")]
    Old(u64),
    #[error("it was signed for another host, or before this one was booted")]
    Elsewhere,
    #[error("it was sent before; a signature counts once")]
    Replayed,
    #[error("an approver's signature is needed: add --key with your signing key")]
    Missing,
    #[error("an approver is needed: `chaperone login` first, or add --key with your signing key")]
    NobodyLoggedIn,
}

#[derive(Debug, Default)]
pub struct Approvers {
    people: Vec<Approver>,
    /// Numbers seen, with the time they were signed at.
    seen: Mutex<BTreeMap<String, u64>>,
}

impl Approvers {
    #[must_use]
    pub fn new(people: Vec<Approver>) -> Self {
        Self { people, seen: Mutex::default() }
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.people.is_empty()
    }

    /// The same numbers stay seen under other people.
    #[must_use]
    pub fn with(&self, people: Vec<Approver>) -> Self {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Self { people, seen: Mutex::new(seen) }
    }

    /// Checks who says it, that it was said just now, and that it was not heard before.
    ///
    /// # Errors
    /// When any of that is not so.
    pub fn verify<R: serde::de::DeserializeOwned>(
        &self,
        signed: &Signed,
        now_unix_s: u64,
        boot: &str,
    ) -> Result<(&Approver, Statement<R>), SignatureError> {
        let key = BASE64.decode(&signed.key).map_err(|_| SignatureError::UnknownKey)?;
        let person = self.people.iter().find(|person| person.key.as_slice() == key);
        let person = person.ok_or(SignatureError::UnknownKey)?;
        let bad = || SignatureError::Bad(person.name.clone());
        let signature = BASE64.decode(&signed.signature).map_err(|_| bad())?;
        let message = message(&signed.text);
        UnparsedPublicKey::new(&ED25519, &key).verify(&message, &signature).map_err(|_| bad())?;
        let statement: Statement<R> =
            serde_json::from_str(&signed.text).map_err(|error| SignatureError::Text(error.to_string()))?;
        if statement.boot != boot {
            return Err(SignatureError::Elsewhere);
        }
        let apart = statement.unix_s.abs_diff(now_unix_s);
        if apart > SKEW_S {
            return Err(SignatureError::Old(apart));
        }
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        // Those that are too old by now are refused for that.
        seen.retain(|_, at| at.abs_diff(now_unix_s) <= SKEW_S);
        // Ed25519 signatures of one text can differ, its number cannot.
        match seen.insert(format!("{} {}", person.name, statement.nonce), statement.unix_s) {
            None => Ok((person, statement)),
            Some(_) => Err(SignatureError::Replayed),
        }
    }
}

/// The bytes a signature is over.
#[must_use]
pub fn message(text: &str) -> Vec<u8> {
    [DOMAIN, text.as_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use ring::signature::{Ed25519KeyPair, KeyPair};

    fn pair(seed: u8) -> Ed25519KeyPair {
        Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap()
    }

    fn sign(pair: &Ed25519KeyPair, unix_s: u64, nonce: &str) -> Signed {
        let statement = Statement {
            request: "x".to_owned(),
            binding: None,
            unix_s,
            nonce: nonce.into(),
            boot: "b".into(),
        };
        let text = serde_json::to_string(&statement).unwrap();
        let signature = BASE64.encode(pair.sign(&message(&text)).as_ref());
        Signed { key: BASE64.encode(pair.public_key().as_ref()), text, signature }
    }

    #[test]
    fn a_word_counts_once_from_whom_it_comes_when_it_is_said() {
        let anna = pair(1);
        let person = Approver {
            name: "anna".into(),
            key: anna.public_key().as_ref().to_vec(),
            groups: ["dba".to_owned()].into(),
            may_lend: BTreeSet::new(),
        };
        let approvers = Approvers::new(vec![person]);
        let check = |signed: &Signed, expect: Result<(), SignatureError>| {
            let got = approvers.verify::<String>(signed, 1000, "b");
            assert_eq!(got.map(|(person, _)| assert_eq!(person.name, "anna")), expect);
        };
        let good = sign(&anna, 1000, "1");
        let bad = || SignatureError::Bad("anna".into());
        check(&Signed { text: good.text.replace('x', "y"), ..good.clone() }, Err(bad()));
        let other = sign(&pair(2), 1000, "1");
        check(&Signed { signature: other.signature.clone(), ..good.clone() }, Err(bad()));
        check(&Signed { signature: String::new(), ..good.clone() }, Err(bad()));
        check(&other, Err(SignatureError::UnknownKey));
        check(&sign(&anna, 939, "2"), Err(SignatureError::Old(61)));
        check(&sign(&anna, 1061, "3"), Err(SignatureError::Old(61)));
        assert_eq!(approvers.verify::<String>(&good, 1000, "c").unwrap_err(), SignatureError::Elsewhere);
        check(&good, Ok(()));
        check(&good, Err(SignatureError::Replayed));
        check(&sign(&anna, 1001, "1"), Err(SignatureError::Replayed));
        check(&sign(&anna, 1001, "4"), Ok(()));
    }
}
