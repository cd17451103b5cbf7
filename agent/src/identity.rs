//! From a workload to the non-human identity that policy knows.
//!
//! First form: by cgroup path, from configuration. Paths are matched from the root, whole components at a time,
//! and the outermost match wins: what a workload creates below its own cgroup cannot change who it is. Nothing
//! the workload presents (user name, password) is looked at.

use chaperone_policy::Principal;

use crate::config::IdentityRule;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    #[error("the cgroup of the connecting process is gone, so it cannot be identified")]
    CgroupGone,
    #[error("no identity is configured for cgroup {0}")]
    Unknown(String),
}

/// The configured identities.
#[derive(Debug, Default)]
pub struct Identities {
    /// Cgroup path and who lives there.
    rules: Vec<(String, Principal)>,
}

impl Identities {
    #[must_use]
    pub fn new(rules: Vec<IdentityRule>) -> Self {
        let rules = rules.into_iter().map(|rule| (rule.cgroup, Principal::new(&rule.name, rule.groups)));
        Self { rules: rules.collect() }
    }

    /// Who a process of this cgroup is.
    ///
    /// # Errors
    /// When nothing is configured for it: unknown is not anybody.
    pub fn identify(&self, cgroup: Option<&str>) -> Result<Principal, IdentityError> {
        let cgroup = cgroup.ok_or(IdentityError::CgroupGone)?;
        self.rules
            .iter()
            .filter(|(root, _)| below(cgroup, root))
            .min_by_key(|(root, _)| root.len())
            .map(|(_, principal)| principal.clone())
            .ok_or_else(|| IdentityError::Unknown(cgroup.to_owned()))
    }
}

fn below(path: &str, root: &str) -> bool {
    path.strip_prefix(root).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cgroup_names_its_identity_and_cannot_be_talked_out_of_it() {
        let rule = |name: &str, cgroup: &str| IdentityRule {
            name: name.into(),
            groups: vec![],
            cgroup: cgroup.into(),
        };
        let identities =
            Identities::new(vec![rule("bot", "/agents/bot"), rule("root", "/agents/bot/x/other")]);
        let check = |cgroup: Option<&str>, expect: Result<&str, IdentityError>| {
            let got = identities.identify(cgroup).map(|principal| principal.name().to_owned());
            assert_eq!(got, expect.map(str::to_owned), "{cgroup:?}");
        };
        check(Some("/agents/bot"), Ok("bot"));
        check(Some("/agents/bot/child"), Ok("bot"));
        check(Some("/agents/bot/x/other"), Ok("bot"));
        check(Some("/agents/botnet"), Err(IdentityError::Unknown("/agents/botnet".into())));
        check(Some("/x/agents/bot"), Err(IdentityError::Unknown("/x/agents/bot".into())));
        check(Some("/"), Err(IdentityError::Unknown("/".into())));
        check(None, Err(IdentityError::CgroupGone));
    }
}
