//! Numbers for an OpenTelemetry collector, sent to it: OTLP's JSON over HTTP.

use std::io;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};
use tracing::{info, warn};

use super::SinkError;
use super::metrics::{Family, Kind};
use super::peer::Peer;
use super::sink::warn_of_rejected;
use crate::config::Collector;

const EVERY: Duration = Duration::from_secs(15);

/// A collector that is known as far as that goes without reaching it.
pub struct Push {
    peer: Peer,
    path: String,
}

impl Push {
    /// # Errors
    /// As [`super::prepare`].
    pub fn new(collector: &Collector) -> Result<Self, SinkError> {
        Ok(Self { peer: Peer::new(&collector.address)?, path: collector.path.clone() })
    }

    /// Sends what is measured every quarter of a minute, for as long as `serves` says so. What could not be sent is
    /// not sent later: the next numbers say as much.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn start(
        self,
        host: String,
        serves: impl Fn() -> bool + Send + 'static,
        measure: impl Fn() -> Vec<Family> + Send + 'static,
    ) -> io::Result<()> {
        let run = move || {
            let (begun, mut failing) = (now(), false);
            while serves() {
                match self.peer.post(&self.path, &request(&host, begun, now(), &measure()).to_string()) {
                    Ok(answer) => {
                        warn_of_rejected(&self.peer.address, &answer);
                        if std::mem::take(&mut failing) {
                            info!("the collector takes metrics again");
                        }
                    }
                    Err(error) if !std::mem::replace(&mut failing, true) => {
                        warn!(%error, "the collector takes no metrics");
                    }
                    Err(_told) => {}
                }
                std::thread::sleep(EVERY);
            }
        };
        std::thread::Builder::new().name("metrics-push".to_owned()).spawn(run).map(drop)
    }
}

fn now() -> u128 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_nanos()
}

/// An ExportMetricsServiceRequest.
fn request(host: &str, begun: u128, now: u128, families: &[Family]) -> Value {
    let text = |key: &str, value: &str| json!({ "key": key, "value": { "stringValue": value } });
    let metrics: Vec<Value> = families
        .iter()
        .filter(|family| !family.values.is_empty())
        .map(|family| {
            let points: Vec<Value> = family
                .values
                .iter()
                .map(|(labels, value)| {
                    let attributes: Vec<Value> = labels.iter().map(|(label, of)| text(label, of)).collect();
                    json!({
                        "attributes": attributes,
                        "startTimeUnixNano": begun.to_string(),
                        "timeUnixNano": now.to_string(),
                        "asDouble": value,
                    })
                })
                .collect();
            let name = format!("chaperone.{}", family.name);
            match family.kind {
                // 2: cumulative.
                Kind::Counter => json!({ "name": name, "description": family.help,
                    "sum": { "dataPoints": points, "aggregationTemporality": 2, "isMonotonic": true } }),
                Kind::Gauge => json!({ "name": name, "description": family.help,
                    "gauge": { "dataPoints": points } }),
            }
        })
        .collect();
    json!({ "resourceMetrics": [{
        "resource": { "attributes": [text("service.name", "chaperone"), text("host.name", host)] },
        "scopeMetrics": [{
            "scope": { "name": "chaperone", "version": env!("CARGO_PKG_VERSION") },
            "metrics": metrics,
        }],
    }] })
}
