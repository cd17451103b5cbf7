//! Identity providers, and which identities get their groups from one.

use std::collections::BTreeSet;
use std::path::PathBuf;

use jsonwebtoken::Algorithm;
use serde::Deserialize;

use super::IdentityRule;
use super::file::{name_is_plain, unique};

/// An OpenID Connect issuer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProviderRule {
    pub name: String,
    /// To the last character.
    pub issuer: String,
    pub audience: String,
    pub ca_file: Option<PathBuf>,
    pub algorithms: Vec<Algorithm>,
    pub groups_claim: String,
    /// The groups it may give; others in its tokens are passed over.
    pub groups: BTreeSet<String>,
}

/// Where an identity's token comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenRule {
    pub provider: String,
    /// What its `sub` has to be.
    pub subject: String,
    pub source: TokenSource,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenSource {
    /// client_credentials with a signed assertion.
    Client {
        id: String,
        key_file: PathBuf,
        key_id: Option<String>,
        scope: Option<String>,
        resource: Option<String>,
    },
    /// A file that the platform keeps up to date.
    File { path: PathBuf },
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ProviderFile {
    name: String,
    issuer: String,
    audience: String,
    ca_file: Option<PathBuf>,
    #[serde(default = "default_algorithms")]
    algorithms: Vec<String>,
    #[serde(default = "default_claim")]
    groups_claim: String,
    groups: BTreeSet<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TokenFile {
    provider: String,
    subject: Option<String>,
    client_id: Option<String>,
    client_key_file: Option<PathBuf>,
    client_key_id: Option<String>,
    scope: Option<String>,
    resource: Option<String>,
    file: Option<PathBuf>,
}

fn default_algorithms() -> Vec<String> {
    vec!["RS256".into(), "ES256".into()]
}

fn default_claim() -> String {
    "groups".into()
}

pub(super) fn convert(typed: Vec<ProviderFile>, problems: &mut Vec<String>) -> Vec<ProviderRule> {
    let providers: Vec<ProviderRule> = typed.into_iter().map(|typed| provider(typed, problems)).collect();
    unique("providers", providers.iter().map(|provider| provider.name.as_str()), problems);
    providers
}

fn provider(typed: ProviderFile, problems: &mut Vec<String>) -> ProviderRule {
    let key = format!("providers.{}", typed.name);
    name_is_plain("providers.name", &typed.name, problems);
    let loopback =
        ["http://127.0.0.1:", "http://127.0.0.1/", "http://localhost:", "http://localhost/", "http://[::1]:"];
    let secure = typed.issuer.starts_with("https://");
    if !secure && !loopback.iter().any(|start| typed.issuer.starts_with(start)) {
        problems.push(format!(
            "{key}.issuer: `{}` is not an https address (http is for loopback only)",
            typed.issuer
        ));
    }
    if typed.issuer.contains(['?', '#', ' ']) {
        problems.push(format!("{key}.issuer: an issuer has neither query nor fragment"));
    }
    if typed.audience.is_empty() {
        problems.push(format!("{key}.audience: empty; a token for anybody is for nobody"));
    }
    for group in &typed.groups {
        name_is_plain(&format!("{key}.groups"), group, problems);
    }
    let mut algorithms = Vec::new();
    for name in &typed.algorithms {
        match name.as_str() {
            "RS256" => algorithms.push(Algorithm::RS256),
            "PS256" => algorithms.push(Algorithm::PS256),
            "ES256" => algorithms.push(Algorithm::ES256),
            "ES384" => algorithms.push(Algorithm::ES384),
            "EdDSA" => algorithms.push(Algorithm::EdDSA),
            other => problems
                .push(format!("{key}.algorithms: `{other}` is not one of RS256, PS256, ES256, ES384, EdDSA")),
        }
    }
    if typed.algorithms.is_empty() {
        problems.push(format!("{key}.algorithms: empty, so no token could pass"));
    }
    ProviderRule {
        name: typed.name,
        issuer: typed.issuer,
        audience: typed.audience,
        ca_file: typed.ca_file,
        algorithms,
        groups_claim: typed.groups_claim,
        groups: typed.groups,
    }
}

pub(super) fn token(key: &str, typed: TokenFile, problems: &mut Vec<String>) -> Option<TokenRule> {
    let (subject, source) = match (typed.client_id, typed.client_key_file, typed.file) {
        (Some(id), Some(key_file), None) => {
            let (key_id, scope, resource) = (typed.client_key_id, typed.scope, typed.resource);
            let subject = typed.subject.unwrap_or_else(|| id.clone());
            (subject, TokenSource::Client { id, key_file, key_id, scope, resource })
        }
        (None, None, Some(path)) => {
            if typed.client_key_id.is_some() || typed.scope.is_some() || typed.resource.is_some() {
                problems
                    .push(format!("{key}.token: client_key_id, scope and resource do nothing with `file`"));
            }
            let Some(subject) = typed.subject else {
                problems.push(format!(
                    "{key}.token.subject: missing; without it anybody's token of this provider would do"
                ));
                return None;
            };
            (subject, TokenSource::File { path })
        }
        _ => {
            problems.push(format!("{key}.token: either `client_id` and `client_key_file`, or `file`"));
            return None;
        }
    };
    Some(TokenRule { provider: typed.provider, subject, source })
}

/// Refuses tokens of providers that are not there.
pub(super) fn check(identities: &[IdentityRule], providers: &[ProviderRule], problems: &mut Vec<String>) {
    for identity in identities {
        let Some(token) = &identity.token else { continue };
        if !providers.iter().any(|provider| provider.name == token.provider) {
            problems.push(format!(
                "identities.{}.token.provider: no provider `{}`",
                identity.name, token.provider
            ));
        }
    }
}
