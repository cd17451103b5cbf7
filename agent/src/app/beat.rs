//! Once a second: the kernel learns that the agent lives, what protects is looked after, the journal gets a
//! signature, and what the kernel refused is recorded.
//!
//! The heart has a thread of its own: nothing that waits, for a disk or for another agent that takes over, holds it up.
//! Whether it may beat depends on the others' having come round (`alive`).

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use tracing::{error, warn};

use super::alive::{self, Pulse};
use super::kernel::Kernel;
use super::takeover::Phase;
use super::{Agent, systemd, world};
use crate::record::event::Event;
use crate::record::{Journal, RecordError};

const EVERY: Duration = Duration::from_secs(1);

/// Beats until another agent's heart does, or the process ends.
pub(super) fn start(agent: &Arc<Agent>, pulse: Pulse) -> anyhow::Result<()> {
    let agent = Arc::clone(agent);
    let watchdog = std::env::var_os("WATCHDOG_USEC").is_some();
    let beat = move || {
        while agent.takeover.phase() != Phase::Draining {
            if pulse.is_fresh() {
                agent.beat();
                if watchdog {
                    systemd::notify("WATCHDOG=1");
                }
            }
            std::thread::sleep(EVERY);
        }
    };
    std::thread::Builder::new().name("heart".to_owned()).spawn(beat).context("cannot start the heart")?;
    Ok(())
}

/// What is done once a second and may wait.
pub(super) async fn keep(agent: Arc<Agent>, mut kernel: Kernel) {
    let mut interval = tokio::time::interval(EVERY);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut guard = Guard::default();
    let mut retention = Retention { running: None, records: 0 };
    loop {
        interval.tick().await;
        match agent.takeover.phase() {
            // Its successor's business.
            Phase::Draining => return,
            // The journal is closed for a moment.
            Phase::Moving => {}
            Phase::Serving => {
                guard.look(&agent);
                let counted = agent.intercept().refusals().ok();
                kernel.drain(&agent.shared, counted);
                kernel.tend();
                checkpoint(&agent.shared.journal).await;
                retention.tend(&agent.shared.journal);
            }
        }
    }
}

impl Agent {
    fn beat(&self) {
        if let Err(error) = self.intercept.lock().unwrap_or_else(PoisonError::into_inner).beat() {
            error!(%error, "heartbeat failed; the kernel will refuse connections");
        }
    }
}

async fn checkpoint(journal: &Arc<Journal>) {
    let journal = Arc::clone(journal);
    match tokio::task::spawn_blocking(move || journal.checkpoint()).await {
        Ok(Ok(_)) => {}
        Ok(Err(error @ RecordError::Abandoned)) => alive::fatal(&error.to_string()),
        Ok(Err(error)) => warn!(%error, "checkpoint failed"),
        Err(error) => warn!(%error, "checkpoint panicked"),
    }
}

/// With more records than these since the last look the agent has better things to do than to make indexes; a question
/// that needs one makes it.
const BUSY: u64 = 3_000;

/// Lets old records go and makes indexes, beside everything else: both read whole segments.
struct Retention {
    running: Option<tokio::task::JoinHandle<()>>,
    /// How many records there were at the last look.
    records: u64,
}

impl Retention {
    fn tend(&mut self, journal: &Arc<Journal>) {
        if self.running.as_ref().is_some_and(|running| !running.is_finished()) {
            return;
        }
        let journal = Arc::clone(journal);
        let records = journal.records();
        let busy = records.saturating_sub(std::mem::replace(&mut self.records, records)) > BUSY;
        self.running = Some(tokio::task::spawn_blocking(move || {
            if let Err(error) = journal.retain() {
                error!(%error, "old records could not be pruned");
            }
            if !busy && let Err(error) = journal.index_next() {
                warn!(%error, "a segment of the journal has no index");
            }
        }));
    }
}

/// Watches over links, pins and the agent's own cgroup.
#[derive(Default)]
struct Guard {
    /// What was said last, so that a state that lasts is recorded once.
    said: Option<(String, Option<String>)>,
}

impl Guard {
    fn look(&mut self, agent: &Agent) {
        let mut found = Vec::new();
        let mended = mend(agent, &mut found);
        let error = mended.err().map(|error| format!("{error:#}"));
        if found.is_empty() && error.is_none() {
            self.said = None;
            return;
        }
        if found.is_empty() {
            found.push("whether everything is in force cannot be told".to_owned());
        }
        let said = Some((found.join(", "), error));
        // What was put back and is gone again is another event; what cannot be put back is one for as long as it lasts.
        if self.said == said && said.as_ref().is_some_and(|(_, error)| error.is_some()) {
            return;
        }
        let Some((found, error)) = said.clone() else { return };
        match &error {
            None => warn!(found, "tampering: put back"),
            Some(error) => error!(found, error, "tampering: cannot be put back"),
        }
        if let Err(error) = agent.shared.journal.append(&[Event::Tampered { found, error }]) {
            warn!(%error, "tampering could not be recorded");
        }
        self.said = said;
    }
}

fn mend(agent: &Agent, found: &mut Vec<String>) -> anyhow::Result<()> {
    let mut intercept = agent.intercept.lock().unwrap_or_else(PoisonError::into_inner);
    let own = world::own_cgroup_id()?;
    if own != intercept.agent_cgroup_id() {
        found.push("the agent was moved into another cgroup".to_owned());
        intercept.follow(own)?;
    }
    intercept.mend(found)?;
    Ok(())
}
