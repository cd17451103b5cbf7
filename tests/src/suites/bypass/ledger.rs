//! What the journal says of a technique, found field by field.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::MetadataExt as _;

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
        let name = match technique.recorded_in {
            Some(place) => format!("{}/{place}", yard.top().name()),
            None => yard.cgroup_of(technique.seat).name().to_owned(),
        };
        let id = fs::metadata(yard.cgroup_of(technique.seat).path()).ok().map(|metadata| metadata.ino());
        let cgroup = Cgroup { name, id };
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

/// Where the attacker was: some events name it by path, some by id.
struct Cgroup {
    name: String,
    id: Option<u64>,
}

/// Whether an event is this record of somebody in `cgroup` who wanted one of the destinations `at`.
fn tells_of(event: &Value, record: &Record, cgroup: &Cgroup, at: &[String; 2], aim: &Aim) -> bool {
    let is_at = |field: &str| at.iter().any(|at| at == text(event, field));
    let refusal = |kind: &str| {
        event["event"] == "kernel_refusal"
            && event["kind"] == kind
            && text(event, "cgroup").starts_with(&cgroup.name)
    };
    match record {
        Record::SessionRefused => {
            let workload = &event["workload"];
            event["event"] == "session_refused"
                && is_at("original_destination")
                && text(workload, "cgroup").starts_with(&cgroup.name)
                && workload["pid"].as_u64().is_some_and(|pid| pid > 0)
                && !text(event, "reason").is_empty()
                // Loopback has no address that is one technique's alone.
                && (!aim.means_here() || text(workload, "comm") == aim.name)
        }
        Record::Unannounced => {
            event["event"] == "session_refused"
                && text(event, "reason").contains("no redirected connection is known")
        }
        Record::OldConnection => {
            let ended = event["connections"].as_array().into_iter().flatten();
            event["event"] == "old_connections"
                && ended.into_iter().any(|connection| {
                    at.iter().any(|at| at == text(connection, "destination"))
                        && connection["cgroup_id"].as_u64().is_some_and(|id| Some(id) == cgroup.id)
                })
        }
        Record::GuardDrop | Record::GuardPart | Record::GuardAt(..) => {
            let cable = format!("to{}", cgroup.name.rsplit('/').next().unwrap_or_default());
            // From the host to itself there is no cable.
            let interface = text(event, "interface");
            event["event"] == "guard_drop"
                && is_at("destination")
                && (interface == cable || interface == "lo")
        }
        Record::Kernel(kind) | Record::KernelPacket(kind) | Record::KernelHop(kind, _) => {
            refusal(kind) && is_at("destination")
        }
        Record::KernelListener(kind) => refusal(kind) && is_at("destination") && event["comm"] == aim.name,
        Record::KernelSocket(kind) => refusal(kind) && event["comm"] == aim.name,
    }
}

/// What the record may name as destination: the technique's own addresses, loopback for those that mean "here", or
/// the listener.
fn destinations(yard: &Yard, record: &Record, aim: &Aim) -> [String; 2] {
    let loopback = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
    let at = |hop: &str| hop.parse().map_or(loopback, |hop: IpAddr| [hop; 2]);
    let (addresses, port) = match record {
        Record::KernelListener(_) => (loopback, yard.listen_port),
        Record::KernelPacket(_) | Record::GuardPart => (aim.addresses(), 0),
        Record::KernelHop(_, hop) => (at(hop), 0),
        Record::GuardAt(hop, port) => (at(hop), port.unwrap_or(yard.port)),
        _ if aim.means_here() => (loopback, yard.port),
        _ => (aim.addresses(), yard.port),
    };
    addresses.map(|address| SocketAddr::new(address, port).to_string())
}

fn summary(event: &Value) -> String {
    match text(event, "event") {
        "session_refused" => format!("recorded: session of {} refused", text(&event["workload"], "comm")),
        "guard_drop" => format!("recorded: dropped at {}", text(event, "interface")),
        "old_connections" => "recorded: ended by the agent".into(),
        _ => format!("recorded: {}", text(event, "kind")),
    }
}

fn text<'a>(event: &'a Value, field: &str) -> &'a str {
    event[field].as_str().unwrap_or_default()
}
