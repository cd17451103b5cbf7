//! Whether policy lets a person say yes: to what is held, and to a grant.
//!
//! `@approval` says whose yes counts, which is `holds`' business; here rules about `approve` are asked. Whoever runs the host
//! and approves because nobody else was named is not asked about.

use chaperone_policy::{self as policy, Principal};

use super::enter::Place;
use super::grants::Given;
use super::holds::{Held, HoldInfo};
use super::{Gate, Terms};

/// What a grant would be for.
#[derive(Debug, Clone, Copy)]
pub struct Granting<'a> {
    pub terms: &'a Terms,
    /// Groups of the identity, without those that the grant lends.
    pub groups: &'a [String],
    pub owner: Option<&'a str>,
    /// Where it would let in.
    pub place: Place<'a>,
}

impl Gate {
    /// Asks about this yes, and about those before it: the policies may be others by now.
    ///
    /// # Errors
    /// Says who may not, and why.
    pub fn may_approve(&self, info: &HoldInfo, given: &Given) -> Result<(), String> {
        self.may_all_approve(info, info.given.iter().chain([given]))
    }

    /// Whether everybody who said yes may still say so: what was approved to be sent again can be older than the policies.
    #[must_use]
    pub fn still_approved(&self, info: &HoldInfo) -> bool {
        self.may_all_approve(info, info.given.iter()).is_ok()
    }

    fn may_all_approve<'g>(
        &self,
        info: &HoldInfo,
        mut given: impl Iterator<Item = &'g Given>,
    ) -> Result<(), String> {
        let identity = Principal::new(&info.identity.name, info.identity.groups.clone());
        let identity = match &info.workload {
            Some(workload) => identity.through(crate::workload::facts(workload)),
            None => identity,
        };
        let kind = match info.what {
            Held::Statement => "statement",
            Held::Access => "access",
        };
        let owner = info.owner.as_deref();
        let approving = policy::Approving { identity: &identity, owner, kind, rules: &info.policies };
        let place = Place { target: &info.target, env: &info.env, database: &info.database, host: info.host };
        given.try_for_each(|given| self.ask(given, place, &approving))
    }

    /// The same about a grant.
    ///
    /// # Errors
    /// Says who may not, and why.
    pub fn may_grant(&self, granting: &Granting<'_>, given: &Given) -> Result<(), String> {
        let identity = Principal::new(&granting.terms.identity, granting.groups.to_vec());
        let approving =
            policy::Approving { identity: &identity, owner: granting.owner, kind: "grant", rules: &[] };
        self.ask(given, granting.place, &approving)
    }

    fn ask(&self, given: &Given, place: Place<'_>, approving: &policy::Approving<'_>) -> Result<(), String> {
        let Some(groups) = &given.groups else { return Ok(()) };
        let person = Principal::person(&given.by, groups.iter().cloned());
        let asked = self.policies().set.may_approve(&person, &place.resource(), approving);
        asked.map_err(|denial| {
            let kind = approving.kind;
            format!("{} may not approve this {kind}: {} [{}]", given.by, denial.reason, denial.rule())
        })
    }
}
