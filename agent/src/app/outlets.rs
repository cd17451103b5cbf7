//! What the agent tells others about itself, all of it beside the sessions: exports of the journal, and metrics.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use anyhow::{Context as _, Result};

use super::{Agent, hostname};
use crate::config::{Config, Metrics};
use crate::export::{self, Family, Kind, Prepared, Progress, Push};
use crate::intercept::Intercept;
use crate::record::{self, PublicKey};

/// Receivers, known as far as that goes without reaching them.
pub struct Outlets {
    exports: Vec<Prepared>,
    metrics: Metrics,
    push: Option<Push>,
}

impl Outlets {
    /// Reads what receivers are known by: here a configuration that cannot work is found out.
    ///
    /// # Errors
    /// Says which receiver, and why.
    pub fn prepare(config: &Config) -> Result<Self> {
        let push = config.metrics.otlp.as_ref().map(Push::new).transpose().context("metrics.otlp_url")?;
        Ok(Self { exports: export::prepare(&config.exports)?, metrics: config.metrics.clone(), push })
    }

    /// Starts telling.
    pub(super) fn open(self, config: &Config, agent: &Arc<Agent>) -> Result<()> {
        let key = PublicKey::load(&record::public_path(&config.state_dir.join("journal-key")))
            .context("cannot read the journal's public key")?;
        let journal = &agent.shared.journal;
        let exports = export::spawn(self.exports, &config.state_dir, journal, &key, &hostname())?;
        let measures = || {
            let (agent, exports) = (Arc::clone(agent), exports.clone());
            move || measure(&agent, &exports)
        };
        let serves = || {
            let journal = Arc::clone(journal);
            move || journal.is_here()
        };
        if let Some(address) = self.metrics.listen {
            export::serve(address, serves(), measures()).context("cannot start the thread for metrics")?;
        }
        if let Some(push) = self.push {
            push.start(hostname(), serves(), measures()).context("cannot start the thread for metrics")?;
        }
        Ok(())
    }
}

/// What the kernel programs counted.
pub(super) fn counters(intercept: &Intercept) -> Vec<(String, u64)> {
    let Ok(stats) = intercept.stats() else { return Vec::new() };
    stats
        .counters
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .chain([("flows".to_owned(), stats.flows as u64)])
        .chain([("namespaces".to_owned(), stats.namespaces as u64)])
        .chain(stats.guard_dropped.map(|dropped| ("guard_dropped".to_owned(), dropped)))
        .collect()
}

#[expect(clippy::cast_precision_loss, reason = "Prometheus knows no other numbers")]
fn measure(agent: &Agent, exports: &[Arc<Progress>]) -> Vec<Family> {
    use Kind::{Counter, Gauge};
    let shared = &agent.shared;
    let (journal, tally) = (&shared.journal, shared.journal.tally());
    let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed) as f64;
    let policies = shared.gate.policies();
    let since = policies.since.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let (most, used) = (journal.max_bytes() as f64, journal.usage() * journal.max_bytes() as f64);
    let mut all = vec![
        Family::by("build_info", "What runs.", Gauge, "version", [(env!("CARGO_PKG_VERSION").into(), 1.0)]),
        Family::one("sessions", "Sessions that live.", Gauge, shared.registry.len() as f64),
        Family::by(
            "sessions_total",
            "Connections to targets, by what became of them.",
            Counter,
            "outcome",
            [("started".into(), read(&tally.sessions)), ("refused".into(), read(&tally.sessions_refused))],
        ),
        Family::by(
            "decisions_total",
            "Decisions on statements and commands.",
            Counter,
            "verdict",
            [
                ("permit".into(), read(&tally.permitted)),
                ("deny".into(), read(&tally.denied)),
                ("hold".into(), read(&tally.held)),
            ],
        ),
        Family::one(
            "holds",
            "Requests that wait for people.",
            Gauge,
            shared.gate.holds().list().len() as f64,
        ),
        Family::one("served_rows_total", "Rows served to clients.", Counter, read(&tally.rows)),
        Family::one("served_bytes_total", "Bytes of rows as served.", Counter, read(&tally.bytes)),
        Family::one("masked_cells_total", "Cells that were masked.", Counter, read(&tally.masked_cells)),
        Family::one(
            "foreign_credentials_total",
            "Sessions whose client gave a login name that is not its own.",
            Counter,
            read(&tally.foreign),
        ),
        Family::one("journal_bytes", "Bytes of the journal.", Gauge, used.round()),
        Family::one("journal_max_bytes", "Bytes the journal may have.", Gauge, most),
        Family::one(
            "journal_free_bytes",
            "Bytes that are left; with less than a twentieth no new sessions are let in.",
            Gauge,
            (most - used).max(0.0).round(),
        ),
        Family::by(
            "policy_info",
            "Digest of the policies in force.",
            Gauge,
            "sha256",
            [(policies.set.digest().to_owned(), 1.0)],
        ),
        Family::one(
            "policy_loaded_timestamp_seconds",
            "When the policies in force were loaded.",
            Gauge,
            since.as_secs_f64(),
        ),
    ];
    let (gauges, counters): (Vec<_>, Vec<_>) = counters(&agent.intercept())
        .into_iter()
        .map(|(name, value)| (name, value as f64))
        .partition(|(name, _)| matches!(name.as_str(), "flows" | "namespaces"));
    for (name, value) in gauges {
        all.push(match name.as_str() {
            "flows" => Family::one("flows", "Connections whose handshake is not finished.", Gauge, value),
            _ => Family::one("namespaces", "Network namespaces that are served.", Gauge, value),
        });
    }
    all.push(Family::by(
        "kernel_events_total",
        "What the kernel programs counted.",
        Counter,
        "kind",
        counters,
    ));
    all.extend(export::of_exports(exports));
    all
}
