//! Identity providers, and which identities get their groups from one.

use std::collections::BTreeSet;
use std::path::PathBuf;

use jsonwebtoken::Algorithm;
use serde::Deserialize;

use super::Command;
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
    /// What the platform gives; none: the provider itself is asked by the client.
    pub platform: Option<Platform>,
    /// How the agent proves itself to the provider. Besides a platform: its token is exchanged.
    pub client: Option<Client>,
    /// What `act.sub` of an exchanged token has to be.
    pub actor: Option<String>,
    /// The pod that a token of Kubernetes has to be bound to, which is the one the workload is in.
    pub pod: Option<String>,
}

/// A client of the provider that proves itself by a key of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Client {
    pub id: String,
    pub key_file: PathBuf,
    pub key_id: Option<String>,
    pub scope: Option<String>,
    pub resource: Option<String>,
}

/// What gives tokens to workloads of this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Platform {
    /// A file that the platform keeps up to date.
    File(PathBuf),
    /// A command that prints one.
    Command(Command),
    /// GitHub Actions: an address and what to show there, in files that the runner's hook writes for each job.
    Request { url_file: PathBuf, bearer_file: PathBuf },
    /// SPIFFE's Workload API.
    Spiffe { socket: PathBuf },
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
    actor: Option<String>,
    file: Option<PathBuf>,
    command: Option<Vec<String>>,
    command_user: Option<String>,
    request_url_file: Option<PathBuf>,
    request_bearer_file: Option<PathBuf>,
    spiffe_socket: Option<PathBuf>,
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

/// As typed to as meant. `pod` is the one that the identity's workloads are in, where that is said.
pub(super) fn token(
    key: &str,
    mut typed: TokenFile,
    pod: Option<&str>,
    problems: &mut Vec<String>,
) -> Option<TokenRule> {
    let key = format!("{key}.token");
    let client = client(&key, &mut typed, problems)?;
    let platform = platform(&key, &typed, problems)?;
    if client.is_none() && platform.is_none() {
        problems.push(format!(
            "{key}: nothing says where it comes from: `client_id` and `client_key_file`, `file`, `command`, \
             `request_url_file` or `spiffe_socket`"
        ));
        return None;
    }
    let exchanged = client.is_some() && platform.is_some();
    if typed.actor.is_some() && !exchanged {
        problems.push(format!("{key}.actor: only a token that is exchanged says who acts"));
    }
    if pod.is_some() && platform.is_some() && exchanged {
        problems.push(format!(
            "{key}: a token that is exchanged does not say which pod it was bound to; leave `client_id` out"
        ));
    }
    let named = match &client {
        Some(client) if !exchanged => Some(client.id.clone()),
        _ => None,
    };
    let Some(subject) = typed.subject.or(named) else {
        problems
            .push(format!("{key}.subject: missing; without it anybody's token of this provider would do"));
        return None;
    };
    let pod = platform.as_ref().and(pod).map(str::to_owned);
    Some(TokenRule { provider: typed.provider, subject, platform, client, actor: typed.actor, pod })
}

/// `None`: what was typed is no client, and not nothing either.
fn client(key: &str, typed: &mut TokenFile, problems: &mut Vec<String>) -> Option<Option<Client>> {
    let (key_id, scope, resource) = (typed.client_key_id.take(), typed.scope.take(), typed.resource.take());
    match (typed.client_id.take(), typed.client_key_file.take()) {
        (Some(id), Some(key_file)) => Some(Some(Client { id, key_file, key_id, scope, resource })),
        (None, None) => {
            if key_id.is_some() || scope.is_some() || resource.is_some() {
                problems
                    .push(format!("{key}: client_key_id, scope and resource do nothing without a client"));
            }
            Some(None)
        }
        _ => {
            problems.push(format!("{key}: a client takes both `client_id` and `client_key_file`"));
            None
        }
    }
}

fn platform(key: &str, typed: &TokenFile, problems: &mut Vec<String>) -> Option<Option<Platform>> {
    let mut found = Vec::new();
    found.extend(typed.file.clone().map(Platform::File));
    found.extend(typed.spiffe_socket.clone().map(|socket| Platform::Spiffe { socket }));
    match (&typed.request_url_file, &typed.request_bearer_file) {
        (Some(url_file), Some(bearer_file)) => {
            found.push(Platform::Request { url_file: url_file.clone(), bearer_file: bearer_file.clone() });
        }
        (None, None) => {}
        _ => problems.push(format!("{key}: a request takes `request_url_file` and `request_bearer_file`")),
    }
    let words = typed.command.as_deref();
    let command = super::command(&format!("{key}.command"), words, typed.command_user.as_deref(), problems);
    found.extend(command.map(Platform::Command));
    if found.len() > 1 {
        problems.push(format!("{key}: one of `file`, `command`, `request_url_file` and `spiffe_socket`"));
        return None;
    }
    Some(found.pop())
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
