//! How people log in to approve: at which provider, as which client of it, and who that makes them.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use super::file::name_is_plain;
use super::{IdentityRule, ProviderRule};

/// People who approve are those a provider knows (OAuth 2.0 Device Authorization Grant, RFC 8628).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Login {
    /// Its audience is for this alone, and the groups it may give are those that approve.
    pub provider: String,
    /// A client without a secret, for which alone its tokens are good.
    pub client_id: String,
    pub scope: Option<String>,
    /// RFC 8707.
    pub resource: Option<String>,
    /// The claim that says what the person is called.
    pub name_claim: String,
    /// By group: the groups that those in it may lend to identities.
    pub may_lend: BTreeMap<String, BTreeSet<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LoginFile {
    provider: String,
    client_id: String,
    scope: Option<String>,
    resource: Option<String>,
    #[serde(default = "default_name")]
    name_claim: String,
    #[serde(default)]
    may_lend: BTreeMap<String, BTreeSet<String>>,
}

fn default_name() -> String {
    "sub".into()
}

impl Login {
    /// What somebody in these groups may lend.
    #[must_use]
    pub fn lends(&self, groups: &BTreeSet<String>) -> BTreeSet<String> {
        groups.iter().filter_map(|group| self.may_lend.get(group)).flatten().cloned().collect()
    }
}

pub(super) fn convert(
    typed: Option<LoginFile>,
    providers: &[ProviderRule],
    identities: &[IdentityRule],
    problems: &mut Vec<String>,
) -> Option<Login> {
    let typed = typed?;
    if typed.client_id.is_empty() || typed.name_claim.is_empty() {
        problems.push("login: `client_id` and `name_claim` cannot be empty".into());
    }
    for group in typed.may_lend.values().flatten() {
        name_is_plain("login.may_lend", group, problems);
    }
    let Some(provider) = providers.iter().find(|provider| provider.name == typed.provider) else {
        problems.push(format!("login.provider: no provider `{}`", typed.provider));
        return None;
    };
    if provider.groups.is_empty() {
        problems.push("login.provider: it may give no group, so no approval would ever count".into());
    }
    for group in typed.may_lend.keys().filter(|group| !provider.groups.contains(*group)) {
        problems.push(format!("login.may_lend.{group}: no group of provider `{}`", provider.name));
    }
    // Otherwise a workload's token would be a person's.
    let same = |rule: &&ProviderRule| rule.issuer == provider.issuer && rule.audience == provider.audience;
    for other in providers.iter().filter(same) {
        let of_it = |identity: &&IdentityRule| {
            identity.token.as_ref().is_some_and(|token| token.provider == other.name)
        };
        if let Some(identity) = identities.iter().find(of_it) {
            problems.push(format!(
                "login.provider: identity {} gets tokens of the same issuer for the same audience; people need a \
                 `[[providers]]` with an audience of their own",
                identity.name
            ));
        }
    }
    Some(Login {
        provider: typed.provider,
        client_id: typed.client_id,
        scope: typed.scope,
        resource: typed.resource,
        name_claim: typed.name_claim,
        may_lend: typed.may_lend,
    })
}
