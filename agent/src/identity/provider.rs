//! An identity provider: what it says of itself (OpenID Connect Discovery), its keys, and its tokens.
//!
//! Keys are kept ten minutes, and for a day when they cannot be had again. Whoever needs them at the same time waits for one
//! fetch. A token signed with an unknown key causes one fetch, and not another for half a minute.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hyper::{StatusCode, Uri};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;
use tokio::time::Instant;
use tracing::warn;

use super::jwt;
use super::keys::{Keys, KeysError};
use super::token::{self, Rules, Token, TokenError};
use crate::config::ProviderRule;
use crate::http::{Http, HttpError, address};

const FRESH: Duration = Duration::from_secs(600);
const STALE: Duration = Duration::from_secs(24 * 3600);
const BETWEEN_FORCED: Duration = Duration::from_secs(30);
/// How long an assertion is good for: it is used at once.
const ASSERTION_S: u64 = 60;

#[derive(Debug, thiserror::Error)]
pub enum ProviderError {
    #[error("{0}")]
    Http(#[from] HttpError),
    #[error("{what} cannot be read: {source}")]
    Json { what: &'static str, source: serde_json::Error },
    #[error(
        "the provider calls itself {said:?}, not {expected:?}: the issuer has to be the same to the last character"
    )]
    Issuer { said: String, expected: String },
    #[error("the provider's keys: {0}")]
    Keys(#[from] KeysError),
    #[error("{0}")]
    Token(#[from] TokenError),
    #[error("the assertion cannot be signed: {0}")]
    Sign(String),
    #[error("the provider names no token_endpoint")]
    NoEndpoint,
    #[error("the provider answered with a token of type {0}, not Bearer")]
    TokenType(String),
}

/// How a client proves itself to the provider: a key of its own (RFC 7523, section 2.2).
#[derive(Clone)]
pub struct ClientKey {
    pub id: String,
    pub key: EncodingKey,
    pub algorithm: Algorithm,
    pub kid: Option<String>,
}

/// What to ask the provider for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Wanted {
    pub scope: Option<String>,
    /// RFC 8707.
    pub resource: Option<String>,
}

pub struct Provider {
    pub rule: ProviderRule,
    http: Http,
    cache: Mutex<Option<Cached>>,
}

struct Cached {
    keys: Arc<Keys>,
    token_endpoint: Option<Uri>,
    device_endpoint: Option<Uri>,
    fetched: Instant,
    tried: Instant,
    forced: Option<Instant>,
}

#[derive(Deserialize)]
struct Discovered {
    issuer: String,
    jwks_uri: String,
    token_endpoint: Option<String>,
    device_authorization_endpoint: Option<String>,
}

#[derive(Deserialize)]
struct Answer {
    access_token: String,
    token_type: String,
}

#[derive(Serialize)]
struct Assertion<'a> {
    iss: &'a str,
    sub: &'a str,
    aud: &'a str,
    iat: u64,
    exp: u64,
    jti: String,
}

impl Provider {
    pub fn new(rule: ProviderRule, tls: rustls::ClientConfig) -> Self {
        Self { rule, http: Http::new(tls), cache: Mutex::new(None) }
    }

    /// Checks a token that came from somewhere else.
    ///
    /// # Errors
    /// When the token is not good, or the keys cannot be had.
    pub async fn check(&self, token: &str, subject: Option<&str>) -> Result<Token, ProviderError> {
        let rules = Rules {
            issuer: self.rule.issuer.clone(),
            audience: self.rule.audience.clone(),
            algorithms: self.rule.algorithms.clone(),
            subject: subject.map(str::to_owned),
        };
        let keys = self.keys(token::key_id(token).as_deref()).await?;
        Ok(token::check(token, &keys, &rules, unix_s())?)
    }

    /// Obtains a token for a client by its own proof, and checks it like any other.
    ///
    /// # Errors
    /// When the provider gives none, or one that is not good.
    pub async fn obtain(
        &self,
        client: &ClientKey,
        wanted: &Wanted,
        subject: &str,
    ) -> Result<Token, ProviderError> {
        self.granted("client_credentials", client, wanted, &[], subject).await
    }

    /// Exchanges a platform's token for one of this provider (RFC 8693), and checks that like any other.
    ///
    /// # Errors
    /// When the provider gives none, or one that is not good.
    pub async fn exchange(
        &self,
        client: &ClientKey,
        wanted: &Wanted,
        given: &str,
        subject: &str,
    ) -> Result<Token, ProviderError> {
        let more = [
            ("subject_token", Some(given)),
            ("subject_token_type", Some("urn:ietf:params:oauth:token-type:jwt")),
            ("requested_token_type", Some("urn:ietf:params:oauth:token-type:access_token")),
            ("audience", Some(self.rule.audience.as_str())),
        ];
        self.granted("urn:ietf:params:oauth:grant-type:token-exchange", client, wanted, &more, subject).await
    }

    async fn granted(
        &self,
        grant_type: &str,
        client: &ClientKey,
        wanted: &Wanted,
        more: &[(&str, Option<&str>)],
        subject: &str,
    ) -> Result<Token, ProviderError> {
        let endpoint = self.token_endpoint().await?;
        let assertion = self.assertion(client)?;
        let kind = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
        let always = [
            ("grant_type", Some(grant_type)),
            ("client_id", Some(client.id.as_str())),
            ("client_assertion_type", Some(kind)),
            ("client_assertion", Some(assertion.as_str())),
            ("scope", wanted.scope.as_deref()),
            ("resource", wanted.resource.as_deref()),
        ];
        let body = self.http.post(&endpoint, form(&[&always, more].concat())).await?;
        let answer: Answer = serde_json::from_slice(&body)
            .map_err(|source| ProviderError::Json { what: "the provider's token", source })?;
        if !answer.token_type.eq_ignore_ascii_case("bearer") {
            return Err(ProviderError::TokenType(answer.token_type));
        }
        self.check(&answer.access_token, Some(subject)).await
    }

    /// Asks an address that is not the provider's own over the TLS that is the provider's.
    pub(super) async fn get(
        &self,
        uri: &Uri,
        headers: &[(&'static str, String)],
    ) -> Result<bytes::Bytes, ProviderError> {
        Ok(self.http.get_with(uri, headers).await?)
    }

    /// What an endpoint answers to a form, be it yes or no.
    pub(super) async fn post(
        &self,
        uri: &Uri,
        form: String,
    ) -> Result<(StatusCode, bytes::Bytes), ProviderError> {
        Ok(self.http.post_for_any(uri, form).await?)
    }

    fn assertion(&self, client: &ClientKey) -> Result<String, ProviderError> {
        jwt::install();
        let mut random = [0; 16];
        let failed = |error: &dyn std::fmt::Display| ProviderError::Sign(error.to_string());
        ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut random)
            .map_err(|error| failed(&error))?;
        let now = unix_s();
        let claims = Assertion {
            iss: &client.id,
            sub: &client.id,
            // The issuer alone: an assertion for one endpoint must be of no use at another's.
            aud: &self.rule.issuer,
            iat: now,
            exp: now + ASSERTION_S,
            jti: URL_SAFE_NO_PAD.encode(random),
        };
        let mut header = Header::new(client.algorithm);
        header.kid.clone_from(&client.kid);
        jsonwebtoken::encode(&header, &claims, &client.key).map_err(|error| failed(&error))
    }

    pub(super) async fn token_endpoint(&self) -> Result<Uri, ProviderError> {
        let mut cache = self.cache.lock().await;
        let cached = self.fresh(&mut cache).await?;
        cached.token_endpoint.clone().ok_or(ProviderError::NoEndpoint)
    }

    /// Where a login begins (RFC 8628, section 4), if it can.
    pub(super) async fn device_endpoint(&self) -> Result<Option<Uri>, ProviderError> {
        let mut cache = self.cache.lock().await;
        Ok(self.fresh(&mut cache).await?.device_endpoint.clone())
    }

    /// The keys, fetched again if this one is not among them.
    async fn keys(&self, kid: Option<&str>) -> Result<Arc<Keys>, ProviderError> {
        let mut cache = self.cache.lock().await;
        let cached = self.fresh(&mut cache).await?;
        let forced_lately = cached.forced.is_some_and(|forced| forced.elapsed() < BETWEEN_FORCED);
        if cached.keys.find(kid).is_some() || forced_lately {
            return Ok(Arc::clone(&cached.keys));
        }
        cached.forced = Some(Instant::now());
        let just_fetched = cached.fetched.elapsed() < Duration::from_secs(1);
        if !just_fetched {
            match self.fetch().await {
                Ok(mut fetched) => {
                    fetched.forced = cached.forced;
                    *cached = fetched;
                }
                Err(error) => warn!(issuer = self.rule.issuer, %error, "keys cannot be fetched again"),
            }
        }
        Ok(Arc::clone(&cached.keys))
    }

    /// What is known of the provider, fetched when it is old. What cannot be fetched again stays good for a day.
    async fn fresh<'c>(&self, cache: &'c mut Option<Cached>) -> Result<&'c mut Cached, ProviderError> {
        let known = cache.take();
        let next = match known {
            Some(known) if known.fetched.elapsed() < FRESH || known.tried.elapsed() < BETWEEN_FORCED => known,
            Some(mut known) => match self.fetch().await {
                Ok(fetched) => fetched,
                Err(error) if known.fetched.elapsed() < STALE => {
                    warn!(issuer = self.rule.issuer, %error, "the provider's keys are old, and cannot be had again");
                    known.tried = Instant::now();
                    known
                }
                Err(error) => return Err(error),
            },
            None => self.fetch().await?,
        };
        Ok(cache.insert(next))
    }

    async fn fetch(&self) -> Result<Cached, ProviderError> {
        let issuer = &self.rule.issuer;
        let at = format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/'));
        let body = self.http.get(&address(&at)?).await?;
        let found: Discovered = serde_json::from_slice(&body)
            .map_err(|source| ProviderError::Json { what: "the provider's description", source })?;
        if found.issuer != *issuer {
            return Err(ProviderError::Issuer { said: found.issuer, expected: issuer.clone() });
        }
        let keys = self.http.get(&address(&found.jwks_uri)?).await?;
        let now = Instant::now();
        Ok(Cached {
            keys: Arc::new(Keys::parse(&keys)?),
            token_endpoint: found.token_endpoint.as_deref().map(address).transpose()?,
            device_endpoint: found.device_authorization_endpoint.as_deref().map(address).transpose()?,
            fetched: now,
            tried: now,
            forced: None,
        })
    }
}

fn unix_s() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// What is there of these, as a form.
pub(super) fn form(fields: &[(&str, Option<&str>)]) -> String {
    let mut form = String::new();
    for (name, value) in fields {
        let Some(value) = value else { continue };
        if !form.is_empty() {
            form.push('&');
        }
        form.push_str(name);
        form.push('=');
        push_encoded(&mut form, value);
    }
    form
}

/// As in a form (URL Standard, application/x-www-form-urlencoded).
fn push_encoded(out: &mut String, value: &str) {
    use std::fmt::Write;
    for byte in value.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'*' => out.push(char::from(byte)),
            b' ' => out.push('+'),
            byte => {
                let _ = write!(out, "%{byte:02X}");
            }
        }
    }
}

#[cfg(test)]
pub(super) mod tests;
