//! What the kernel programs tell, once a second: into the journal, and to those who act on it. What they refused is
//! refused whatever becomes of it here: the rings drop when they are full, and how much they dropped is recorded.

mod tally;

use std::collections::HashSet;
use std::sync::Arc;

use anyhow::Result;
use tracing::warn;

use crate::intercept::{
    Events, GuardDrop, GuardLog, Intercept, Keeper, KernelLog, Namespaces, Redirects, Sighting, Sightings,
    What,
};
use crate::record::event::Event;
use crate::session::Shared;
use tally::{Balance, Repeated, Tally};

/// Uses of guarded capabilities and unix sockets that are recorded per second; a flood must not fill the journal.
const SEEN_AT_ONCE: usize = 100;

/// Refusals read per second: more than their ring holds, and an end, should they come faster than they are read.
const READ_AT_ONCE: u64 = 100_000;

/// Processes that came into a governed cgroup and are looked at per second, each at the cost of a census. The regular
/// one finds the rest, so whoever moves processes about in a loop gains some seconds and costs little.
const LOOKS_AT_ONCE: usize = 4;

/// Heartbeats between two rounds of the keeper: the kernel keeps thousands of processes that ended since.
const TEND_EVERY: u64 = 10;

pub(super) struct Kernel {
    log: Option<KernelLog>,
    events: Option<Events>,
    sightings: Option<Sightings>,
    guard: Option<GuardLog>,
    keeper: Keeper,
    namespaces: Arc<Namespaces>,
    beats: u64,
    balance: Balance,
}

impl Kernel {
    pub(super) fn new(intercept: &mut Intercept, namespaces: Arc<Namespaces>) -> Result<Self> {
        Ok(Self {
            log: intercept.log(),
            events: intercept.events(),
            sightings: intercept.sightings(),
            guard: intercept.guard_log(),
            keeper: intercept.keeper()?,
            namespaces,
            beats: 0,
            balance: Balance::default(),
        })
    }

    /// Keeps what live processes descend from among the kernel's notes.
    pub(super) fn tend(&mut self) {
        if self.beats.is_multiple_of(TEND_EVERY) {
            self.keeper.tend();
        }
        self.beats += 1;
    }

    /// Records what was refused since the last time, and has a look taken at who came into a governed cgroup. `counted` is
    /// the kernel's count of refusals, taken before.
    pub(super) fn drain(&mut self, shared: &Shared<Redirects>, counted: Option<u64>) {
        if let Some(log) = &mut self.log {
            log.flush();
        }
        let mut refused = Vec::new();
        let mut moved = HashSet::new();
        while let Some(sighting) = self.sightings.as_mut().and_then(Sightings::next_sighting) {
            match sighting.what {
                What::MovedIn if moved.len() < LOOKS_AT_ONCE => drop(moved.insert(sighting.tgid)),
                What::MovedIn => {}
                What::NetRaw => refused.push(seen(sighting, "cap_net_raw".to_owned(), shared)),
                What::Unix { ref name } => {
                    let destination = format!("unix:{name}");
                    refused.push(seen(sighting, destination, shared));
                }
            }
            if refused.len() >= SEEN_AT_ONCE {
                break;
            }
        }
        let mut tally = Tally::default();
        while tally.read() < READ_AT_ONCE
            && let Some(refusal) = self.events.as_mut().and_then(Events::next_refusal)
        {
            tally.add(refusal);
        }
        let lost = counted.map_or(0, |counted| self.balance.lost(counted, tally.read()));
        let (listed, unlisted) = tally.listed();
        refused.extend(listed.into_iter().map(|repeated| event(repeated, shared)));
        if unlisted > 0 || lost > 0 {
            refused.push(Event::RefusalsUnlisted { unlisted, lost });
        }
        refused.extend(self.guard.iter_mut().flat_map(GuardLog::drain).map(dropped));
        for pid in moved {
            self.namespaces.consider(pid);
        }
        if !refused.is_empty()
            && let Err(error) = shared.journal.append(&refused)
        {
            warn!(%error, "what the kernel refused could not be recorded");
        }
    }
}

fn event(Repeated { refusal, count }: Repeated, shared: &Shared<Redirects>) -> Event {
    Event::KernelRefusal {
        kind: refusal.kind.to_owned(),
        destination: refusal.destination.to_string(),
        protocol: refusal.protocol,
        pid: refusal.tgid,
        uid: refusal.uid,
        comm: refusal.comm,
        cgroup: shared.provenance.cgroup(refusal.cgroup_id),
        count,
    }
}

fn dropped(drop: GuardDrop) -> Event {
    Event::GuardDrop {
        source: drop.source.to_string(),
        destination: drop.destination.to_string(),
        protocol: drop.protocol,
        interface: drop.interface,
    }
}

fn seen(sighting: Sighting, destination: String, shared: &Shared<Redirects>) -> Event {
    Event::KernelRefusal {
        kind: sighting.kind.to_owned(),
        destination,
        protocol: 0,
        pid: sighting.tgid,
        uid: sighting.uid,
        comm: sighting.comm,
        cgroup: shared.provenance.cgroup(sighting.cgroup_id),
        count: 1,
    }
}
