//! Identities: which workloads are whom.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::TokenRule;
use super::authorities::Authorities;
use super::file::{below, name_is_plain, unique};
use super::intercept::cgroup_path;
use super::providers::{self, TokenFile};
use crate::workload::grammar::Kind;

/// Gives an identity to workloads.
#[derive(Debug, Clone)]
pub struct IdentityRule {
    pub name: String,
    pub groups: Vec<String>,
    /// The person behind it, who does not approve for it.
    pub owner: Option<String>,
    /// What needs an approval does not wait: it is refused, and passes when it is sent again after the approval.
    pub retry: bool,
    /// It is nobody without a token, and in the groups that it gives.
    pub token: Option<TokenRule>,
    pub whose: Whose,
}

/// Which workloads an identity is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Whose {
    /// A cgroup and everything below it.
    Cgroup(String),
    /// What a cgroup's path stands for.
    Match(Box<Match>),
}

/// What has to be true of a workload's placement; what is not said may be anything. In `unit`, `slice`, `task` and
/// `machine` a `*` stands for any text.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Match {
    pub kind: Kind,
    pub uid: Option<u32>,
    pub unit: Option<String>,
    pub slice: Option<String>,
    pub runtime: Option<String>,
    pub container: Option<String>,
    pub pod: Option<String>,
    /// What its cluster knows a pod by: to the letter, and never by the name of a cgroup, which says none of it.
    pub namespace: Option<String>,
    pub service_account: Option<String>,
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    pub task: Option<String>,
    pub alloc: Option<String>,
    pub job: Option<String>,
    pub machine: Option<String>,
    /// Take the path's word for it when no authority confirms it; policies are told.
    #[serde(default)]
    pub unverified: bool,
}

impl Match {
    /// Whether it takes more than a cgroup's path says: what is known of a pod to whoever confirms it.
    #[must_use]
    pub fn needs_pod(&self) -> bool {
        self.namespace.is_some()
    }

    /// Whether there is somebody to ask about workloads like this.
    fn has_authority(&self) -> bool {
        self.kind.is_unit() || matches!(self.kind, Kind::Container | Kind::K8s)
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct IdentityFile {
    name: String,
    #[serde(default)]
    groups: Vec<String>,
    owner: Option<String>,
    #[serde(default)]
    hold: HoldMode,
    cgroup: Option<String>,
    token: Option<TokenFile>,
    #[serde(rename = "match")]
    matching: Option<Match>,
}

#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum HoldMode {
    #[default]
    Wait,
    Retry,
}

pub(super) fn convert(
    typed: Vec<IdentityFile>,
    authorities: &Authorities,
    problems: &mut Vec<String>,
) -> Vec<IdentityRule> {
    let mut rules: Vec<IdentityRule> = Vec::new();
    for identity in typed {
        name_is_plain("identities.name", &identity.name, problems);
        for group in &identity.groups {
            name_is_plain("identities.groups", group, problems);
        }
        let key = format!("identities.{}", identity.name);
        let whose = match (identity.cgroup, identity.matching) {
            (Some(cgroup), None) => {
                cgroup_path(&format!("{key}.cgroup"), &cgroup, problems);
                if cgroup == "/" {
                    problems.push(format!(
                        "{key}.cgroup: `/` would give this identity to every process of the host"
                    ));
                }
                Whose::Cgroup(cgroup)
            }
            (None, Some(matching)) => {
                check_match(&format!("{key}.match"), &matching, problems);
                check_pod(&format!("{key}.match"), &matching, authorities, problems);
                Whose::Match(Box::new(matching))
            }
            (Some(_), Some(_)) => {
                problems.push(format!("{key}: either `cgroup` or `match` says whose it is, not both"));
                continue;
            }
            (None, None) => {
                problems.push(format!("{key}: neither `cgroup` nor `match` says whose it is"));
                continue;
            }
        };
        if rules.iter().any(|before| before.whose == whose && matches!(whose, Whose::Match(_))) {
            problems.push(format!("{key}.match: another identity has the same"));
        }
        let pod = match &whose {
            Whose::Match(rule) => rule.pod.clone(),
            Whose::Cgroup(_) => None,
        };
        let token = identity.token.and_then(|token| providers::token(&key, token, pod.as_deref(), problems));
        let (name, groups, owner) = (identity.name, identity.groups, identity.owner);
        let retry = identity.hold == HoldMode::Retry;
        rules.push(IdentityRule { name, groups, owner, retry, token, whose });
    }
    nested(&rules, problems);
    unique("identities", cgroups(&rules).map(|(_, cgroup)| cgroup), problems);
    rules
}

fn cgroups(rules: &[IdentityRule]) -> impl Iterator<Item = (&str, &str)> {
    rules.iter().filter_map(|rule| match &rule.whose {
        Whose::Cgroup(cgroup) => Some((rule.name.as_str(), cgroup.as_str())),
        Whose::Match(_) => None,
    })
}

/// The outermost match wins, so an identity inside another's cgroup would never be found.
fn nested(rules: &[IdentityRule], problems: &mut Vec<String>) {
    for (name, cgroup) in cgroups(rules) {
        let around =
            cgroups(rules).find(|(other, outer)| *other != name && *outer != cgroup && below(cgroup, outer));
        if let Some((other, outer)) = around {
            problems.push(format!(
                "identities.{name}.cgroup: `{cgroup}` lies inside `{outer}` of `{other}`, and the outermost match wins, \
                 so `{name}` can never match"
            ));
        }
    }
}

/// Refuses what could never match, what would match half the host, and what nobody has confirmed.
fn check_match(key: &str, rule: &Match, problems: &mut Vec<String>) {
    if !rule.kind.is_somebody() || rule.kind == Kind::K8sInfra {
        problems.push(format!("{key}.kind: a workload of this kind is nobody in particular; use `cgroup`"));
    }
    let said: [(&str, Option<&str>, &[Kind]); 11] = [
        ("unit", rule.unit.as_deref(), &[Kind::Systemd, Kind::SystemdUser, Kind::Session]),
        ("slice", rule.slice.as_deref(), &[Kind::Systemd]),
        ("runtime", rule.runtime.as_deref(), &[Kind::Container, Kind::ContainerRootless, Kind::K8s]),
        (
            "container",
            rule.container.as_deref(),
            &[Kind::Container, Kind::ContainerRootless, Kind::K8s, Kind::Ecs, Kind::Lxc],
        ),
        ("pod", rule.pod.as_deref(), &[Kind::K8s]),
        ("namespace", rule.namespace.as_deref(), &[Kind::K8s]),
        ("service_account", rule.service_account.as_deref(), &[Kind::K8s]),
        ("task", rule.task.as_deref(), &[Kind::Ecs, Kind::Nomad]),
        ("alloc", rule.alloc.as_deref(), &[Kind::Nomad]),
        ("job", rule.job.as_deref(), &[Kind::Slurm]),
        ("machine", rule.machine.as_deref(), &[Kind::Nspawn, Kind::Vm]),
    ];
    for (name, value, kinds) in said {
        let Some(value) = value else { continue };
        if !kinds.contains(&rule.kind) {
            problems.push(format!("{key}.{name}: a workload of this kind has none, so it can never match"));
        }
        if value.is_empty() || value == "*" {
            problems.push(format!("{key}.{name}: leave it out to mean any"));
        }
    }
    let with_uid = [Kind::Session, Kind::SystemdUser, Kind::ContainerRootless, Kind::Slurm];
    if rule.uid.is_some() && !with_uid.contains(&rule.kind) {
        problems.push(format!("{key}.uid: a workload of this kind has none, so it can never match"));
    }
    if rule.uid.is_none() && said.iter().all(|(_, value, _)| value.is_none()) {
        problems.push(format!("{key}: says nothing but the kind; say which one"));
    }
    // Whoever has a user's manager names what is in it: only the user id is more than a claim.
    if matches!(rule.kind, Kind::SystemdUser | Kind::ContainerRootless) && rule.uid.is_none() {
        problems.push(format!("{key}.uid: missing; any user of the host could take such a name"));
    }
    if !rule.has_authority() && !rule.unverified {
        problems.push(format!(
            "{key}: nobody can be asked whether this is what its cgroup's name says; `unverified = true` takes the \
             name's word, and policies are told `context.workload.unverified`"
        ));
    }
}

/// What a cluster knows of a pod is its word or nobody's.
fn check_pod(key: &str, rule: &Match, authorities: &Authorities, problems: &mut Vec<String>) {
    let more = rule.service_account.is_some() || !rule.labels.is_empty();
    if more && rule.namespace.is_none() {
        problems.push(format!(
            "{key}.namespace: missing; whoever may make pods in any namespace could use this service account's name or \
             these labels"
        ));
    }
    if more && authorities.kubelet.is_none() {
        problems.push(format!(
            "{key}: only the kubelet knows service accounts and labels, and [authorities.kubelet] is not configured"
        ));
    }
    if rule.needs_pod() && rule.unverified {
        problems.push(format!(
            "{key}.unverified: the path of a cgroup says nothing of namespaces, so there is no name to take"
        ));
    }
    if rule.labels.iter().any(|(name, value)| name.is_empty() || value == "*") {
        problems.push(format!("{key}.labels: a label has one name and one value, to the letter"));
    }
}
