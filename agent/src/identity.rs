//! From a workload to the non-human identity that policy knows.
//!
//! By the path of its cgroup, from configuration: either a path with everything below it, or what the path stands for
//! (`workload::grammar`). Both are read from the root and the outermost match wins: what a workload creates below its
//! own cgroup cannot change who it is. Where the configuration says so, an identity is nobody without a token of an
//! identity provider, which the agent obtains itself, and is in the groups that it gives. Nothing the workload presents (user name, password) is looked at.

mod jwt;
mod keeper;
pub mod keys;
pub mod person;
pub mod provider;
mod source;
pub mod token;

use std::sync::Arc;

use chaperone_policy::Principal;

pub use keeper::{KeeperError, Standing, Tokens, check as check_keys, provider as make_provider};

use crate::config::{IdentityRule, Match, Whose};
use crate::workload::Pod;
use crate::workload::grammar::{self, Placement};

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    #[error("the cgroup of the connecting process is gone, so it cannot be identified")]
    CgroupGone,
    #[error("no identity is configured for cgroup {0}")]
    Unknown(String),
    #[error("identity {identity} has no token: {why}")]
    NoToken { identity: String, why: String },
    #[error("identity {identity} goes by what cgroup {cgroup} is called, and that is not confirmed: {why}")]
    Unverified { identity: String, cgroup: String, why: String },
    #[error(
        "identity {identity} goes by what the cluster knows of the pod in cgroup {cgroup}, and nobody told"
    )]
    PodUnknown { identity: String, cgroup: String },
    #[error("cgroup {cgroup} is claimed by several identities ({names}), so it is none of them")]
    Ambiguous { cgroup: String, names: String },
}

/// On whose word a workload is somebody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Word {
    /// The configuration names the cgroup itself.
    Configured,
    /// What the cgroup is called. An authority has to confirm it, unless the name suffices.
    Name { suffices: bool },
}

/// The configured identities.
#[derive(Default)]
pub struct Identities {
    tokens: Arc<Tokens>,
    rules: Vec<(Whose, Principal)>,
    /// Identity and the person behind it.
    owners: Vec<(String, String)>,
    /// Identities that do not wait for approvals.
    retrying: Vec<String>,
}

impl Identities {
    #[must_use]
    pub fn new(rules: Vec<IdentityRule>) -> Self {
        let owner = |rule: &IdentityRule| Some((rule.name.clone(), rule.owner.clone()?));
        let owners = rules.iter().filter_map(owner).collect();
        let retrying = rules.iter().filter(|rule| rule.retry).map(|rule| rule.name.clone()).collect();
        let rules = rules.into_iter().map(|rule| (rule.whose, Principal::new(&rule.name, rule.groups)));
        Self { rules: rules.collect(), owners, retrying, tokens: Arc::default() }
    }

    /// The same, with the tokens that some of them need.
    #[must_use]
    pub fn with_tokens(self, tokens: Tokens) -> Self {
        Self { tokens: Arc::new(tokens), ..self }
    }

    /// The same, with the tokens of others.
    #[must_use]
    pub fn sharing(self, others: &Self) -> Self {
        Self { tokens: Arc::clone(&others.tokens), ..self }
    }

    #[must_use]
    pub fn tokens(&self) -> &Tokens {
        &self.tokens
    }

    /// Whether a cgroup belongs to any identity, be it one that is nobody at the moment.
    #[must_use]
    pub fn claimed(&self, cgroup: &str) -> bool {
        !matches!(self.identify(Some(cgroup), None), Err(IdentityError::Unknown(_)))
    }

    /// Whether it takes more than the path to tell whose a cgroup is: what whoever confirms it knows of its pod.
    #[must_use]
    pub fn needs_pod(&self, cgroup: &str) -> bool {
        let placement = grammar::parse_path(cgroup, grammar::Options::default()).placement;
        self.rules.iter().any(|(whose, _)| match whose {
            Whose::Cgroup(_) => false,
            Whose::Match(rule) => rule.needs_pod() && is_met(rule, &placement),
        })
    }

    /// The person behind an identity.
    #[must_use]
    pub fn owner(&self, name: &str) -> Option<&str> {
        self.owners.iter().find(|(identity, _)| identity == name).map(|(_, owner)| owner.as_str())
    }

    /// The groups it is in by configuration.
    #[must_use]
    pub fn groups(&self, name: &str) -> Vec<String> {
        let of_it = self.rules.iter().find(|(_, principal)| principal.name() == name);
        of_it.map(|(_, principal)| principal.groups().to_vec()).unwrap_or_default()
    }

    /// Whether it sends again what needs an approval, instead of waiting.
    #[must_use]
    pub fn retries(&self, name: &str) -> bool {
        self.retrying.iter().any(|identity| identity == name)
    }

    /// Whether there is an identity of this name.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.rules.iter().any(|(_, principal)| principal.name() == name)
    }

    /// Who a process of this cgroup is, if the cgroup is what it is called. `pod` is the pod in which it was confirmed to be.
    ///
    /// # Errors
    /// When nothing is configured for it, or more than one thing, or it depends on a pod nobody told of: none is anybody.
    pub fn identify(&self, cgroup: Option<&str>, pod: Option<&Pod>) -> Result<Principal, IdentityError> {
        self.find(cgroup, pod).map(|(principal, _)| principal)
    }

    /// The same, and on whose word.
    ///
    /// # Errors
    /// As [`Identities::identify`].
    pub fn find(&self, cgroup: Option<&str>, pod: Option<&Pod>) -> Result<(Principal, Word), IdentityError> {
        let cgroup = cgroup.ok_or(IdentityError::CgroupGone)?;
        let placement = grammar::parse_path(cgroup, grammar::Options::default()).placement;
        let (principal, word) = self.matching(cgroup, &placement, pod)?;
        Ok((self.standing(principal)?, word))
    }

    fn matching(
        &self,
        cgroup: &str,
        placement: &Placement,
        pod: Option<&Pod>,
    ) -> Result<(&Principal, Word), IdentityError> {
        // Who could be somebody by their pod is nobody until that is known, whoever else they would be: an authority
        // that does not answer must not make another identity of them.
        let undecided = self.rules.iter().find(|(whose, _)| {
            matches!(whose, Whose::Match(rule) if is_met(rule, placement) && is_of_pod(rule, pod).is_none())
        });
        if let Some((_, principal)) = undecided {
            let (identity, cgroup) = (principal.name().to_owned(), cgroup.to_owned());
            return Err(IdentityError::PodUnknown { identity, cgroup });
        }
        let by_path = self
            .rules
            .iter()
            .filter_map(|(whose, principal)| match whose {
                Whose::Cgroup(root) => below(cgroup, root).then_some((root.len(), principal)),
                Whose::Match(_) => None,
            })
            .min_by_key(|(length, _)| *length)
            .map(|(_, principal)| (principal, Word::Configured));
        let by_placement = self.rules.iter().filter_map(|(whose, principal)| match whose {
            Whose::Cgroup(_) => None,
            Whose::Match(rule) if !is_met(rule, placement) || is_of_pod(rule, pod) != Some(true) => None,
            Whose::Match(rule) if rule.unverified => Some((principal, Word::Name { suffices: true })),
            Whose::Match(_) => Some((principal, Word::Name { suffices: false })),
        });
        let mut found: Vec<(&Principal, Word)> = by_path.into_iter().chain(by_placement).collect();
        found.dedup_by(|a, b| a.0.name() == b.0.name());
        match found.as_slice() {
            [] => Err(IdentityError::Unknown(cgroup.to_owned())),
            [one] => Ok(*one),
            several => Err(IdentityError::Ambiguous {
                cgroup: cgroup.to_owned(),
                names: several.iter().map(|(principal, _)| principal.name()).collect::<Vec<_>>().join(", "),
            }),
        }
    }

    /// The identity with the groups of its token, where it needs one.
    fn standing(&self, principal: &Principal) -> Result<Principal, IdentityError> {
        match self.tokens.standing(principal.name()) {
            None => Ok(principal.clone()),
            Some(Standing::Good { groups }) => {
                let given = groups.into_iter().filter(|group| !principal.groups().contains(group));
                Ok(principal.joining(given.collect::<Vec<_>>()))
            }
            Some(Standing::Not(why)) => {
                Err(IdentityError::NoToken { identity: principal.name().to_owned(), why })
            }
        }
    }
}

fn below(path: &str, root: &str) -> bool {
    path.strip_prefix(root).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn is_met(rule: &Match, placement: &Placement) -> bool {
    let equal = |wanted: &Option<String>, is: &Option<String>| wanted.is_none() || wanted == is;
    let like = |wanted: &Option<String>, is: &Option<String>| match (wanted, is) {
        (None, _) => true,
        (Some(pattern), Some(text)) => glob(pattern, text),
        (Some(_), None) => false,
    };
    rule.kind == placement.kind
        && (rule.uid.is_none() || rule.uid == placement.uid)
        && like(&rule.unit, &placement.unit)
        && like(&rule.slice, &placement.slice)
        && like(&rule.task, &placement.task)
        && like(&rule.machine, &placement.machine)
        && equal(&rule.runtime, &placement.runtime)
        && equal(&rule.container, &placement.container)
        && equal(&rule.pod, &placement.pod)
        && equal(&rule.alloc, &placement.alloc)
        && equal(&rule.job, &placement.job)
}

/// Whether the pod is one that the rule is for; none if that cannot be told.
fn is_of_pod(rule: &Match, pod: Option<&Pod>) -> Option<bool> {
    let Some(namespace) = &rule.namespace else { return Some(true) };
    let pod = pod?;
    if pod.namespace != *namespace {
        return Some(false);
    }
    if rule.service_account.is_none() && rule.labels.is_empty() {
        return Some(true);
    }
    // Whoever does not know the service account does not know the labels either.
    let account = pod.service_account.as_ref()?;
    let labelled = rule.labels.iter().all(|(name, value)| pod.labels.get(name) == Some(value));
    Some(labelled && rule.service_account.as_ref().is_none_or(|wanted| wanted == account))
}

/// Whether a text is of a pattern in which `*` stands for any text.
fn glob(pattern: &str, text: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else { return pattern == text };
    let Some(mut text) = text.strip_prefix(first) else { return false };
    let mut pieces: Vec<&str> = rest.split('*').collect();
    let last = pieces.pop().unwrap_or_default();
    for piece in pieces {
        let Some((_, after)) = text.split_once(piece) else { return false };
        text = after;
    }
    text.ends_with(last)
}

#[cfg(test)]
mod tests;
