//! Whether an identity gets in: by policy alone, by a grant, or by asking.

use std::sync::Arc;
use std::time::Duration;

use chaperone_policy::{self as policy, Approval, Decision, Effect, Principal};

use super::grants::{Given, Grant, GrantError, Lease, Now, Terms};
use super::holds::{HoldInfo, Resolution};
use super::{Gate, Loaded};

/// What approvals of a connection are bound to in the engine's eyes; what they are bound to besides (who, where,
/// until when) is the grant.
const ACCESS: &str = "access";

/// Where a session wants to go.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    pub target: &'a str,
    pub env: &'a str,
    /// With `host`, the account.
    pub database: &'a str,
    pub host: bool,
}

impl Place<'_> {
    pub(super) fn resource(&self) -> policy::Resource {
        match self.host {
            true => policy::account(self.target, self.env, self.database),
            false => policy::Database::new(self.target, self.env, self.database).resource(),
        }
    }
}

/// The answer to who wants in.
#[derive(Debug)]
pub enum Entry {
    Admitted(Admission),
    /// Policy holds it: it may be asked for.
    Ask(Decision),
    Refused(Decision),
}

/// Who a session is, with what it was lent, and what it lives on.
#[derive(Debug)]
pub struct Admission {
    pub principal: Principal,
    pub lease: Lease,
}

impl Gate {
    /// Decides on a connection and takes the grants it needs.
    ///
    /// # Errors
    /// When a use of a grant cannot be stored.
    pub fn enter(&self, base: &Principal, place: Place<'_>, session: &str) -> Result<Entry, GrantError> {
        let now = Now::read();
        let grants = self.grants().matching(&now, base.name(), place.target, place.database);
        let lending: Vec<&Grant> = grants.iter().filter(|grant| !grant.groups.is_empty()).collect();
        let lent =
            lending.iter().flat_map(|grant| &grant.groups).filter(|group| !base.groups().contains(group));
        let principal = if lending.is_empty() { base.clone() } else { base.joining(lent.cloned()) };
        let loaded = self.policies();
        let decision = connect(&loaded, &principal, place, &[]);
        let mut used: Vec<String> = lending.iter().map(|grant| grant.id.clone()).collect();
        match decision.effect {
            Effect::Permit => {}
            Effect::Deny => return Ok(Entry::Refused(decision)),
            Effect::Hold => {
                let lets_in = |grant: &&Grant| {
                    connect(&loaded, &principal, place, &grant.given).effect == Effect::Permit
                };
                match grants.iter().filter(lets_in).max_by_key(|grant| grant.expires_ms()) {
                    Some(grant) if !used.contains(&grant.id) => used.push(grant.id.clone()),
                    Some(_) => {}
                    None => return Ok(Entry::Ask(decision)),
                }
            }
        }
        let lease = self.grants().take(&now, session, &used)?;
        Ok(Entry::Admitted(Admission { principal, lease }))
    }

    /// What a yes to a connection grants.
    #[must_use]
    pub fn access_terms(&self, info: &HoldInfo, resolution: &Resolution) -> Terms {
        let longest = self.longest_grant.as_secs();
        let ttl_s = info.needs.iter().map(|need| need.ttl_s).min().unwrap_or(longest);
        let comment = resolution.comment.clone();
        Terms {
            identity: info.identity.name.clone(),
            target: Some(info.target.clone()),
            database: Some(info.database.clone()),
            groups: Vec::new(),
            for_s: resolution.terms.for_s.unwrap_or(ttl_s).min(longest),
            hours: None,
            max_uses: resolution.terms.max_uses,
            max_rows: resolution.terms.max_rows,
            reason: comment.unwrap_or_else(|| format!("asked for by connecting, {}", info.id)),
            ticket: resolution.terms.ticket.clone(),
        }
    }

    /// How long a grant lasts at most.
    #[must_use]
    pub fn longest_grant(&self) -> Duration {
        self.longest_grant
    }
}

/// The decision on a connection, with the approvals that its grants stand for.
#[must_use]
pub fn connect(loaded: &Arc<Loaded>, principal: &Principal, place: Place<'_>, given: &[Given]) -> Decision {
    let resource = place.resource();
    let request = policy::Request::new(principal, policy::Action::Connect, &resource);
    let decision = loaded.set.decide(&request);
    if decision.effect != Effect::Hold || given.is_empty() {
        return decision;
    }
    let approvals = approvals(given, &decision.obligations.approvals, ACCESS);
    loaded.set.decide(&policy::Request { approvals: &approvals, statement_hash: ACCESS, ..request })
}

/// What people have given, as the engine counts it. Whoever runs the host is of every group that may approve.
#[must_use]
pub fn approvals(given: &[Given], needs: &[policy::ApprovalNeed], hash: &str) -> Vec<Approval> {
    let every = || needs.iter().flat_map(|need| need.groups.iter().cloned()).collect();
    let approval = |given: &Given| Approval {
        by: given.by.clone(),
        groups: given.groups.clone().unwrap_or_else(every),
        statement_hash: hash.to_owned(),
        // How long it is good for is the grant's time, or the hold's.
        age: Duration::ZERO,
    };
    given.iter().map(approval).collect()
}
