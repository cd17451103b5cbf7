//! People who log in at a provider: the device authorization grant (RFC 8628) as its client, and what makes a token one of
//! a person's.
//!
//! Deliberately does not know what the person may do, nor where a token is kept.

use std::collections::BTreeSet;
use std::time::Duration;

use hyper::StatusCode;
use serde::Deserialize;
use serde_json::{Map, Value};
use tokio::time::Instant;

use super::provider::{Provider, ProviderError, form};
use super::token::{Token, TokenError};
use crate::config::Login;
use crate::http::HttpError;

/// Seconds between two polls where the provider says nothing, and what is added when it says `slow_down`.
const INTERVAL_S: u64 = 5;
const LONGEST_INTERVAL: Duration = Duration::from_secs(60);
/// A person does not take longer, whatever the provider says.
const LONGEST_WAIT_S: u64 = 1800;
/// Claims in which providers name the client that a token was given to.
const CLIENT_CLAIMS: [&str; 4] = ["client_id", "azp", "cid", "appid"];

#[derive(Debug, thiserror::Error)]
pub enum LoginError {
    #[error(transparent)]
    Provider(#[from] ProviderError),
    #[error("{0}")]
    Token(#[from] TokenError),
    #[error("the provider names no device_authorization_endpoint: it does not offer this way to log in")]
    NotOffered,
    #[error("the login was refused at the provider")]
    Refused,
    #[error("nobody logged in in time; start again")]
    TooLate,
    #[error("the provider does not let this client log people in: {0}")]
    Client(String),
    #[error("the token was not given to client {0}, or does not say to whom")]
    OtherClient(String),
    #[error("the token is the client's own, of no person")]
    NoPerson,
    #[error(
        "claim {0} of the token is no name: 1 to 256 characters without spaces, commas, quotes or control characters"
    )]
    Name(String),
}

/// Somebody the provider knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Person {
    pub name: String,
    pub groups: BTreeSet<String>,
    pub issuer: String,
    pub subject: String,
    /// `jti`.
    pub token_id: Option<String>,
    /// Seconds since 1970.
    pub expires: u64,
}

/// A login that a person has to finish with a browser.
#[derive(Debug, Clone, Deserialize)]
pub struct Started {
    device_code: String,
    pub user_code: String,
    pub verification_uri: String,
    /// The same with the code in it.
    pub verification_uri_complete: Option<String>,
    pub expires_in: u64,
    interval: Option<u64>,
}

#[derive(Deserialize)]
struct Failed {
    error: String,
    error_description: Option<String>,
}

#[derive(Deserialize)]
struct Given {
    access_token: String,
    token_type: String,
}

/// Asks the provider for a code that a person can show.
///
/// # Errors
/// When the provider does not give one.
pub async fn begin(provider: &Provider, login: &Login) -> Result<Started, LoginError> {
    let endpoint = provider.device_endpoint().await?.ok_or(LoginError::NotOffered)?;
    let form = form(&[
        ("client_id", Some(&login.client_id)),
        ("scope", login.scope.as_deref()),
        ("resource", login.resource.as_deref()),
    ]);
    let (status, body) = provider.post(&endpoint, form).await?;
    if !status.is_success() {
        return Err(failed(status, &body));
    }
    let read = serde_json::from_slice(&body);
    Ok(read.map_err(|source| ProviderError::Json { what: "the provider's device code", source })?)
}

/// Waits until the person has logged in, or has not. The token is not checked yet.
///
/// # Errors
/// When there will be none.
pub async fn wait(provider: &Provider, login: &Login, started: &Started) -> Result<String, LoginError> {
    let endpoint = provider.token_endpoint().await?;
    let form = form(&[
        ("grant_type", Some("urn:ietf:params:oauth:grant-type:device_code")),
        ("client_id", Some(&login.client_id)),
        ("device_code", Some(&started.device_code)),
        ("resource", login.resource.as_deref()),
    ]);
    let end = Instant::now() + Duration::from_secs(started.expires_in.min(LONGEST_WAIT_S));
    let longer = |interval: Duration, by| interval.saturating_add(by).min(LONGEST_INTERVAL);
    let mut interval =
        longer(Duration::from_secs(started.interval.unwrap_or(INTERVAL_S).max(1)), Duration::ZERO);
    loop {
        tokio::time::sleep(interval).await;
        if Instant::now() >= end {
            return Err(LoginError::TooLate);
        }
        let (status, body) = match provider.post(&endpoint, form.clone()).await {
            Ok(answer) => answer,
            // Section 3.5: whoever does not answer is asked less often.
            Err(ProviderError::Http(
                HttpError::Connect { .. } | HttpError::Talk { .. } | HttpError::Slow(_),
            )) => {
                interval = longer(interval, interval);
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        if status.is_success() {
            let given: Given = serde_json::from_slice(&body)
                .map_err(|source| ProviderError::Json { what: "the provider's token", source })?;
            if !given.token_type.eq_ignore_ascii_case("bearer") {
                return Err(ProviderError::TokenType(given.token_type).into());
            }
            return Ok(given.access_token);
        }
        match said(&body).as_deref() {
            Some("authorization_pending") => {}
            Some("slow_down") => interval = longer(interval, Duration::from_secs(INTERVAL_S)),
            Some("access_denied") => return Err(LoginError::Refused),
            Some("expired_token") => return Err(LoginError::TooLate),
            _ if status.is_server_error() => interval = longer(interval, interval),
            _ => return Err(failed(status, &body)),
        }
    }
}

/// Who a token is of, if it is of a person and was given for this.
///
/// # Errors
/// When it is not good, or of somebody else than a person that logged in here.
pub async fn who(provider: &Provider, login: &Login, token: &str) -> Result<Person, LoginError> {
    let token = provider.check(token, None).await?;
    given_to(&token.claims, &login.client_id)?;
    if token.subject == login.client_id {
        return Err(LoginError::NoPerson);
    }
    let name = token.claims.get(&login.name_claim).and_then(Value::as_str).filter(|name| is_name(name));
    let name = name.ok_or_else(|| LoginError::Name(login.name_claim.clone()))?.to_owned();
    let groups = token.groups(&provider.rule.groups_claim)?;
    let groups = groups.into_iter().filter(|group| provider.rule.groups.contains(group)).collect();
    let Token { subject, expires, claims } = token;
    let token_id = claims.get("jti").and_then(Value::as_str).map(str::to_owned);
    Ok(Person { name, groups, issuer: provider.rule.issuer.clone(), subject, token_id, expires })
}

/// A token of the right audience that another client got, such as a workload's, is nobody's login.
fn given_to(claims: &Map<String, Value>, client: &str) -> Result<(), LoginError> {
    let mut said = CLIENT_CLAIMS.iter().filter_map(|claim| claims.get(*claim)).peekable();
    if said.peek().is_some() && said.all(|said| said.as_str() == Some(client)) {
        Ok(())
    } else {
        Err(LoginError::OtherClient(client.to_owned()))
    }
}

/// Names stand in lists, in records and on terminals.
fn is_name(name: &str) -> bool {
    let bad = |c: char| c.is_control() || c.is_whitespace() || matches!(c, ',' | '"' | '\\');
    !name.is_empty() && name.len() <= 256 && !name.chars().any(bad)
}

fn said(body: &[u8]) -> Option<String> {
    serde_json::from_slice::<Failed>(body).ok().map(|failed| failed.error)
}

fn failed(status: StatusCode, body: &[u8]) -> LoginError {
    match serde_json::from_slice::<Failed>(body) {
        Ok(Failed { error, error_description }) => {
            let more = error_description.map(|more| format!(" ({more})")).unwrap_or_default();
            LoginError::Client(format!("{error}{more}").escape_debug().to_string())
        }
        Err(_) => LoginError::Client(format!("it answered {status}")),
    }
}

#[cfg(test)]
mod tests;
