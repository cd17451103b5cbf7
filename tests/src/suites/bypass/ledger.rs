//! What the journal says of a technique, found field by field.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::{Result, bail};
use serde_json::Value;

use super::technique::{Aim, Record, Technique};
use super::yard::Yard;
use crate::harness::trail;

/// All events, read once.
pub(super) struct Ledger {
    events: Vec<Value>,
}

impl Ledger {
    pub(super) fn read(yard: &Yard) -> Result<Self> {
        Ok(Self { events: trail::everything(&yard.agent)? })
    }

    /// The event that tells of this technique, in a few words.
    pub(super) fn find(&self, yard: &Yard, technique: &Technique, aim: &Aim) -> Result<String> {
        let cgroup = match technique.recorded_in {
            Some(place) => format!("{}/{place}", yard.top().name()),
            None => yard.cgroup_of(technique.seat).name().to_owned(),
        };
        if technique.records.is_empty() {
            return Ok("nothing to record".into());
        }
        let found = technique.records.iter().find_map(|record| {
            self.events
                .iter()
                .find(|event| tells_of(event, record, &cgroup, &destinations(yard, record, aim), aim))
        });
        match found {
            Some(event) => Ok(summary(event)),
            None => bail!("not in the record, whose events of it are: {}", self.about(aim)),
        }
    }

    /// For whoever has to find out why something was not found.
    fn about(&self, aim: &Aim) -> String {
        let mine = self.events.iter().filter(|event| {
            let line = event.to_string();
            line.contains(aim.name)
                || aim.addresses().iter().any(|address| line.contains(&format!("{address}")))
        });
        let lines: Vec<String> = mine.take(5).map(Value::to_string).collect();
        if lines.is_empty() { "none".into() } else { lines.join("\n    ") }
    }
}

/// Whether an event is this record of somebody in `cgroup` who wanted one of the destinations `at`.
fn tells_of(event: &Value, record: &Record, cgroup: &str, at: &[String; 2], aim: &Aim) -> bool {
    let is_at = |field: &str| at.iter().any(|at| at == text(event, field));
    let refusal = |kind: &str| {
        event["event"] == "kernel_refusal"
            && event["kind"] == kind
            && text(event, "cgroup").starts_with(cgroup)
    };
    match record {
        Record::SessionRefused => {
            let workload = &event["workload"];
            event["event"] == "session_refused"
                && is_at("original_destination")
                && text(workload, "cgroup").starts_with(cgroup)
                && workload["pid"].as_u64().is_some_and(|pid| pid > 0)
                && !text(event, "reason").is_empty()
                // Loopback has no address that is one technique's alone.
                && (!aim.means_here() || text(workload, "comm") == aim.name)
        }
        Record::Unannounced => {
            event["event"] == "session_refused"
                && text(event, "reason").contains("no redirected connection is known")
        }
        Record::Kernel(kind) | Record::KernelPacket(kind) => refusal(kind) && is_at("destination"),
        Record::KernelListener(kind) => refusal(kind) && is_at("destination") && event["comm"] == aim.name,
        Record::KernelSocket(kind) => refusal(kind) && event["comm"] == aim.name,
    }
}

/// What the record may name as destination: the technique's own addresses, loopback for those that mean "here", or
/// the listener.
fn destinations(yard: &Yard, record: &Record, aim: &Aim) -> [String; 2] {
    let loopback = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
    let (addresses, port) = match record {
        Record::KernelListener(_) => (loopback, yard.listen_port),
        Record::KernelPacket(_) => (aim.addresses(), 0),
        _ if aim.means_here() => (loopback, yard.port),
        _ => (aim.addresses(), yard.port),
    };
    addresses.map(|address| SocketAddr::new(address, port).to_string())
}

fn summary(event: &Value) -> String {
    match text(event, "event") {
        "session_refused" => format!("recorded: session of {} refused", text(&event["workload"], "comm")),
        _ => format!("recorded: {}", text(event, "kind")),
    }
}

fn text<'a>(event: &'a Value, field: &str) -> &'a str {
    event[field].as_str().unwrap_or_default()
}
