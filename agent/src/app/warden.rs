//! Ends sessions whose reason to be has ended: an expired or revoked grant, an identity that changed.
//!
//! Looks ten times a second, so that an end is felt well within one. Sessions are told by name until they are gone,
//! because a command to one that is not listening yet can be lost.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::MissedTickBehavior;
use tracing::{info, warn};

use crate::gate::{Gate, Now, Swept};
use crate::identity::Identities;
use crate::record::Journal;
use crate::record::event::Event;
use crate::registry::{Command, Registry};

const EVERY: Duration = Duration::from_millis(100);

/// Runs until it is dropped.
pub(super) async fn watch(gate: Arc<Gate>, journal: Arc<Journal>, registry: Arc<Registry>) {
    let mut interval = tokio::time::interval(EVERY);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        let grants = Arc::clone(gate.grants());
        // It may write to disk, and a slow disk must not hold up the heartbeat.
        match tokio::task::spawn_blocking(move || grants.sweep(&Now::read())).await {
            Ok((swept, failed)) => {
                if let Some(error) = failed {
                    warn!(%error, "what happened to grants could not be stored");
                }
                carry_out(&swept, &journal, &registry);
            }
            Err(error) => warn!(%error, "looking after grants panicked"),
        }
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

/// After a reload: sessions of workloads that are somebody else by now, or in other groups.
pub(super) fn end_changed(registry: &Registry, identities: &Identities) {
    for session in registry.list() {
        let now = identities.identify(session.cgroup.as_deref());
        let same = now.as_ref().is_ok_and(|principal| {
            principal.name() == session.identity && principal.groups() == session.groups
        });
        if !same {
            let why = format!("identity {} was changed in the configuration", session.identity);
            registry.command(&session.id, Command::Kill(why));
        }
    }
}
