//! A provider's public keys (RFC 7517), and which of them may verify anything here.
//!
//! A set may hold keys of any kind; those that could not be used safely are left out one by one, and say why.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey};
use serde::Deserialize;

/// Keys of one set that are looked at.
const MOST_KEYS: usize = 100;

const SMALLEST_RSA_BITS: usize = 2048;

#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    #[error("it is not a set of keys: {0}")]
    Json(#[from] serde_json::Error),
    #[error("it holds more than {MOST_KEYS} keys")]
    TooMany,
    #[error("it holds no key that can be used ({})", .0.join("; "))]
    NoneUsable(Vec<String>),
}

/// The usable keys of a set.
#[derive(Debug, Clone)]
pub struct Keys {
    keys: Vec<Key>,
}

#[derive(Debug, Clone)]
pub(super) struct Key {
    pub(super) kid: Option<String>,
    /// What it may verify.
    pub(super) algorithms: Vec<Algorithm>,
    pub(super) key: DecodingKey,
}

#[derive(Deserialize)]
struct Set {
    keys: Vec<serde_json::Value>,
}

#[derive(Deserialize)]
struct Jwk {
    kty: String,
    kid: Option<String>,
    #[serde(rename = "use")]
    usage: Option<String>,
    key_ops: Option<Vec<String>>,
    alg: Option<String>,
    n: Option<String>,
    e: Option<String>,
    crv: Option<String>,
    x: Option<String>,
    y: Option<String>,
}

impl Keys {
    /// Reads a set.
    ///
    /// # Errors
    /// When it is none, or no key in it can be used.
    pub fn parse(json: &[u8]) -> Result<Self, KeysError> {
        let set: Set = serde_json::from_slice(json)?;
        if set.keys.len() > MOST_KEYS {
            return Err(KeysError::TooMany);
        }
        let mut keys = Vec::new();
        let mut why_not = Vec::new();
        for value in set.keys {
            match serde_json::from_value(value).map_err(|error| error.to_string()).and_then(usable) {
                Ok(key) => keys.push(key),
                Err(why) => why_not.push(why),
            }
        }
        if keys.is_empty() {
            return Err(KeysError::NoneUsable(why_not));
        }
        Ok(Self { keys })
    }

    /// The one key of this id. Without an id there has to be one key only.
    pub(super) fn find(&self, kid: Option<&str>) -> Option<&Key> {
        let mut found = self.keys.iter().filter(|key| match kid {
            Some(_) => key.kid.as_deref() == kid,
            None => true,
        });
        let one = found.next()?;
        found.next().is_none().then_some(one)
    }
}

fn usable(jwk: Jwk) -> Result<Key, String> {
    let name = jwk.kid.clone().unwrap_or_else(|| "without kid".into());
    let no = |why: &str| Err(format!("key {name}: {why}"));
    if jwk.usage.as_deref().is_some_and(|usage| usage != "sig") {
        return no("not for signatures");
    }
    if jwk.key_ops.as_ref().is_some_and(|ops| !ops.iter().any(|op| op == "verify")) {
        return no("not for verifying");
    }
    let bad = |_| format!("key {name}: its numbers cannot be read");
    let decoded = |text: &Option<String>| {
        let text = text.as_deref().unwrap_or_default();
        URL_SAFE_NO_PAD.decode(text).map_err(|_| format!("key {name}: its numbers cannot be read"))
    };
    let (mut algorithms, key) = match (jwk.kty.as_str(), jwk.crv.as_deref()) {
        ("RSA", None) => {
            let (n, e) = (decoded(&jwk.n)?, decoded(&jwk.e)?);
            if bits(&n) < SMALLEST_RSA_BITS {
                return no("RSA of fewer than 2048 bits");
            }
            (vec![Algorithm::RS256, Algorithm::PS256], DecodingKey::from_rsa_raw_components(&n, &e))
        }
        ("EC", Some(curve @ ("P-256" | "P-384"))) => {
            let (algorithm, size) =
                if curve == "P-256" { (Algorithm::ES256, 32) } else { (Algorithm::ES384, 48) };
            let (x, y) = (decoded(&jwk.x)?, decoded(&jwk.y)?);
            if x.len() != size || y.len() != size {
                return no("a point of the wrong size");
            }
            let key = DecodingKey::from_ec_components(
                jwk.x.as_deref().unwrap_or_default(),
                jwk.y.as_deref().unwrap_or_default(),
            );
            (vec![algorithm], key.map_err(bad)?)
        }
        ("OKP", Some("Ed25519")) => {
            let x = decoded(&jwk.x)?;
            if x.len() != 32 {
                return no("a point of the wrong size");
            }
            (vec![Algorithm::EdDSA], DecodingKey::from_ed_der(&x))
        }
        ("oct", _) => return no("a shared secret"),
        _ => return no("of a kind not known here"),
    };
    if let Some(alg) = &jwk.alg {
        algorithms.retain(|algorithm| format!("{algorithm:?}") == *alg);
    }
    if algorithms.is_empty() {
        return no("for an algorithm that does not fit it");
    }
    Ok(Key { kid: jwk.kid, algorithms, key })
}

fn bits(number: &[u8]) -> usize {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    let rest = number.get(zeros..).unwrap_or_default();
    rest.first().map_or(0, |first| rest.len() * 8 - first.leading_zeros() as usize)
}
