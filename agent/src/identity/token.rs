//! The strict reading of a token (RFC 7519): what is not said plainly is refused.
//!
//! jsonwebtoken checks signatures and times, but as it comes it also takes tokens without audience or issuer, from the
//! future, or good for ten years. Everything that reads a token goes through `check`.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, Validation};
use serde_json::{Map, Value};

use super::jwt;
use super::keys::Keys;

const LONGEST: usize = 16 << 10;
/// How far the clocks of the provider and this host may be apart.
const LEEWAY_S: u64 = 30;
/// A token good for longer is not a token but a password.
const LONGEST_LIFE_S: u64 = 24 * 3600;
const MOST_GROUPS: usize = 200;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    #[error("the token is longer than {LONGEST} bytes")]
    TooLong,
    #[error("it is not a signed token; an opaque one cannot be checked here")]
    NotSigned,
    #[error("the token's header: {0}")]
    Header(&'static str),
    #[error("the token is signed by {0}, which the configuration does not allow for this provider")]
    Algorithm(String),
    #[error("the token is of issuer {0}, not of this provider")]
    Issuer(String),
    #[error("the token is signed with a key that the provider does not publish{}", .0.as_ref().map(|kid| format!(" (kid {kid})")).unwrap_or_default())]
    UnknownKey(Option<String>),
    #[error("the token is not good: {0}")]
    Invalid(String),
    #[error("the token's claim {0} is missing, or not of its form")]
    Claim(&'static str),
    #[error("the token is for subject {0}, which is not this identity")]
    Subject(String),
    #[error("the token is dated {0} s ahead of this host's clock")]
    Future(u64),
    #[error("the token is good for {0} s, longer than a day")]
    TooLasting(u64),
    #[error("the token's claim {0} is not a list of group names")]
    Groups(String),
    #[error("the token does not say that {0} acts for its subject")]
    Actor(String),
}

/// What is expected of a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    pub issuer: String,
    pub audience: String,
    pub algorithms: Vec<Algorithm>,
    pub subject: Option<String>,
}

/// A token that passed.
#[derive(Debug, Clone, PartialEq)]
pub struct Token {
    pub subject: String,
    /// Seconds since 1970.
    pub expires: u64,
    pub claims: Map<String, Value>,
}

/// The id of the key a token says it is signed with. Says nothing about whether it is.
#[must_use]
pub fn key_id(token: &str) -> Option<String> {
    let header = part(token.split('.').next()?)?;
    header.get("kid")?.as_str().map(str::to_owned)
}

/// Checks a token in full.
///
/// # Errors
/// When anything about it is not as it has to be.
pub fn check(token: &str, keys: &Keys, rules: &Rules, now: u64) -> Result<Token, TokenError> {
    jwt::install();
    if token.len() > LONGEST {
        return Err(TokenError::TooLong);
    }
    let mut parts = token.split('.');
    let (Some(header), Some(payload), Some(_), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(TokenError::NotSigned);
    };
    let header = part(header).ok_or(TokenError::NotSigned)?;
    let algorithm = algorithm(&header, rules)?;
    check_header(&header)?;
    let unproven = part(payload).ok_or(TokenError::NotSigned)?;
    // Before any key is looked at: whose token it says it is.
    match unproven.get("iss") {
        Some(Value::String(issuer)) if *issuer == rules.issuer => {}
        Some(Value::String(other)) => return Err(TokenError::Issuer(other.clone())),
        _ => return Err(TokenError::Claim("iss")),
    }
    let kid = match header.get("kid") {
        None => None,
        Some(Value::String(kid)) => Some(kid.as_str()),
        Some(_) => return Err(TokenError::Header("kid is not text")),
    };
    let key = keys.find(kid).filter(|key| key.algorithms.contains(&algorithm));
    let key = key.ok_or_else(|| TokenError::UnknownKey(kid.map(str::to_owned)))?;
    let mut validation = Validation::new(algorithm);
    validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
    validation.set_issuer(&[&rules.issuer]);
    validation.set_audience(&[&rules.audience]);
    validation.validate_nbf = true;
    validation.leeway = LEEWAY_S;
    let proven = jsonwebtoken::decode::<Map<String, Value>>(token, &key.key, &validation)
        .map_err(|error| TokenError::Invalid(error.to_string()))?;
    check_claims(proven.claims, rules, now)
}

fn part(text: &str) -> Option<Map<String, Value>> {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(text).ok()?).ok()
}

fn algorithm(header: &Map<String, Value>, rules: &Rules) -> Result<Algorithm, TokenError> {
    let Some(Value::String(name)) = header.get("alg") else { return Err(TokenError::Header("no alg")) };
    let known = rules.algorithms.iter().find(|algorithm| format!("{algorithm:?}") == *name);
    known.copied().ok_or_else(|| TokenError::Algorithm(name.clone()))
}

/// A header may name a key, and nothing that would say where to get another.
fn check_header(header: &Map<String, Value>) -> Result<(), TokenError> {
    for (name, why) in [
        ("crit", "crit asks for an extension"),
        ("jku", "jku names a key of its own"),
        ("jwk", "jwk brings a key of its own"),
        ("x5u", "x5u names a key of its own"),
        ("x5c", "x5c brings a key of its own"),
        ("b64", "b64 is not known here"),
        ("zip", "it is compressed"),
    ] {
        if header.contains_key(name) {
            return Err(TokenError::Header(why));
        }
    }
    match header.get("typ") {
        None => Ok(()),
        Some(Value::String(typ)) => {
            let typ = typ.to_ascii_lowercase();
            let typ = typ.strip_prefix("application/").unwrap_or(&typ);
            let known = matches!(typ, "jwt" | "at+jwt" | "jose");
            if known {
                Ok(())
            } else {
                Err(TokenError::Header("typ is of something else than an access token"))
            }
        }
        Some(_) => Err(TokenError::Header("typ is not text")),
    }
}

fn check_claims(claims: Map<String, Value>, rules: &Rules, now: u64) -> Result<Token, TokenError> {
    let number = |name: &'static str| {
        let value = claims.get(name).and_then(Value::as_f64).filter(|value| *value >= 0.0);
        value.map(|value| value as u64).ok_or(TokenError::Claim(name))
    };
    let (expires, issued) = (number("exp")?, number("iat")?);
    if issued > now + LEEWAY_S {
        return Err(TokenError::Future(issued - now));
    }
    let life = expires.saturating_sub(issued);
    if life > LONGEST_LIFE_S {
        return Err(TokenError::TooLasting(life));
    }
    let subject = claims.get("sub").and_then(Value::as_str).filter(|sub| !sub.is_empty());
    let subject = subject.ok_or(TokenError::Claim("sub"))?.to_owned();
    if rules.subject.as_ref().is_some_and(|expected| *expected != subject) {
        return Err(TokenError::Subject(subject));
    }
    Ok(Token { subject, expires, claims })
}

impl Token {
    /// The pod that a token of Kubernetes is bound to, by uid.
    #[must_use]
    pub fn pod(&self) -> Option<&String> {
        match self.claims.get("kubernetes.io")?.get("pod")?.get("uid")? {
            Value::String(uid) => Some(uid),
            _ => None,
        }
    }

    /// Whether an exchanged token names this party as the one that acts now (RFC 8693, section 4.1). Whoever acted before is
    /// told further inside, and says nothing about now.
    ///
    /// # Errors
    /// When it names another, or nobody.
    pub fn acted_for_by(&self, actor: &str) -> Result<(), TokenError> {
        let now = self.claims.get("act").and_then(|act| act.get("sub")).and_then(Value::as_str);
        if now == Some(actor) { Ok(()) } else { Err(TokenError::Actor(actor.to_owned())) }
    }

    /// The groups in a claim, which may lie inside others: `realm_access.roles`. A claim that is not there is no group.
    ///
    /// # Errors
    /// When it is there and is something else than names.
    pub fn groups(&self, claim: &str) -> Result<Vec<String>, TokenError> {
        let bad = || TokenError::Groups(claim.to_owned());
        // A claim whose own name has dots, such as a URL, comes first.
        let mut value = self.claims.get(claim);
        if value.is_none() {
            let mut names = claim.split('.');
            value = names.next().and_then(|name| self.claims.get(name));
            for name in names {
                value = value.and_then(|value| value.get(name));
            }
        }
        let names: Vec<&str> = match value {
            None => Vec::new(),
            Some(Value::String(name)) => vec![name.as_str()],
            Some(Value::Array(names)) => {
                names.iter().map(Value::as_str).collect::<Option<_>>().ok_or_else(bad)?
            }
            Some(_) => return Err(bad()),
        };
        let plain =
            |name: &&str| !name.is_empty() && name.len() <= 256 && !name.chars().any(char::is_control);
        if names.len() > MOST_GROUPS || !names.iter().all(plain) {
            return Err(bad());
        }
        let mut groups: Vec<String> = names.into_iter().map(str::to_owned).collect();
        groups.sort();
        groups.dedup();
        Ok(groups)
    }
}

#[cfg(test)]
mod tests;
