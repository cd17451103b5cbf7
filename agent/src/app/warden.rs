//! Ends sessions whose reason to be has ended: an expired or revoked grant, an identity that changed, a token. Records the
//! end of requests that nobody answered and no session waits for.
//!
//! Looks ten times a second, so that an end is felt well within one. Sessions are told by name until they are gone,
//! because a command to one that is not listening yet can be lost.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::MissedTickBehavior;
use tracing::{info, warn};

use crate::gate::{HoldInfo, Now, Swept};
use crate::identity::{Identities, IdentityError};
use crate::intercept::Redirects;
use crate::record::Journal;
use crate::record::event::{Event, HoldOutcome};
use crate::registry::{Command, Registry};
use crate::session::Shared;

const EVERY: Duration = Duration::from_millis(100);

/// Every so many looks, identities are looked at as well.
const IDENTITIES_EVERY: u64 = 5;

/// Runs until it is dropped.
pub(super) async fn watch(shared: Arc<Shared<Redirects>>) {
    let mut interval = tokio::time::interval(EVERY);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for look in 0u64.. {
        interval.tick().await;
        let grants = Arc::clone(shared.gate.grants());
        // It may write to disk, and a slow disk must not hold up the heartbeat.
        match tokio::task::spawn_blocking(move || grants.sweep(&Now::read())).await {
            Ok((swept, failed)) => {
                if let Some(error) = failed {
                    warn!(%error, "what happened to grants could not be stored");
                }
                carry_out(&swept, &shared.journal, &shared.registry);
            }
            Err(error) => warn!(%error, "looking after grants panicked"),
        }
        record_ends(&shared.journal, shared.gate.holds().take_unanswered(), HoldOutcome::Expired, None);
        if look % IDENTITIES_EVERY == 0 {
            end_changed(&shared.registry, &shared.world().identities);
        }
    }
}

/// The ends of requests that stand without a session.
pub(super) fn record_ends(journal: &Journal, ended: Vec<HoldInfo>, outcome: HoldOutcome, why: Option<&str>) {
    let resolved = |info: HoldInfo| Event::HoldResolved {
        session: info.session,
        op: info.op,
        hold: info.id,
        outcome,
        by: None,
        comment: why.map(str::to_owned),
        settings: info.settings,
    };
    let events: Vec<Event> = ended.into_iter().map(resolved).collect();
    if events.is_empty() {
        return;
    }
    if let Err(error) = journal.append(&events) {
        warn!(%error, requests = events.len(), "requests ended unanswered, and that could not be recorded");
    }
}

fn carry_out(swept: &Swept, journal: &Journal, registry: &Registry) {
    for (session, why) in &swept.cut {
        registry.command(session, Command::Kill(why.clone()));
    }
    let ended = |grant: &crate::gate::Grant| Event::GrantEnded {
        grant: grant.id.clone(),
        identity: grant.identity.clone(),
        why: grant.ended.clone().unwrap_or_default(),
    };
    let events: Vec<Event> = swept.ended.iter().map(ended).collect();
    if events.is_empty() {
        return;
    }
    info!(grants = events.len(), sessions = swept.cut.len(), "grants ended");
    if let Err(error) = journal.append(&events) {
        warn!(%error, "the end of a grant could not be recorded");
    }
}

/// Sessions of workloads that are somebody else by now, in other groups, or without a token that is good.
pub(super) fn end_changed(registry: &Registry, identities: &Identities) {
    for session in registry.list() {
        let why = match identities.identify(session.cgroup.as_deref(), session.pod.as_ref()) {
            Ok(principal) if principal.name() != session.identity => {
                format!("identity {} was changed to another", session.identity)
            }
            Ok(principal) if principal.groups() != session.groups => {
                format!("identity {} was changed: it is in other groups", session.identity)
            }
            Ok(_) => continue,
            // The session goes on as what it was when its cgroup was made away with under it.
            Err(IdentityError::CgroupGone) => continue,
            Err(error) => error.to_string(),
        };
        registry.command(&session.id, Command::Kill(why));
    }
}
