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
        let cgroup = yard.cgroup_of(technique.seat).name();
        let at = destinations(aim, yard.port);
        let found = match technique.record {
            Record::SessionRefused => self.first("session_refused", |event| {
                let workload = &event["workload"];
                at.iter().any(|at| at == text(event, "original_destination"))
                    && text(workload, "cgroup").starts_with(cgroup)
                    && workload["pid"].as_u64().is_some_and(|pid| pid > 0)
                    && !text(event, "reason").is_empty()
                    // Loopback has no address that is one technique's alone.
                    && (!aim.means_here() || text(workload, "comm") == aim.name)
            }),
            Record::Kernel(kind) => self.first("kernel_refusal", |event| {
                event["kind"] == kind
                    && at.iter().any(|at| at == text(event, "destination"))
                    && text(event, "cgroup").starts_with(cgroup)
            }),
            Record::KernelSocket(kind) => self.first("kernel_refusal", |event| {
                event["kind"] == kind
                    && event["comm"] == aim.name
                    && text(event, "cgroup").starts_with(cgroup)
            }),
        };
        match found {
            Some(event) => Ok(summary(event)),
            None => {
                bail!("not in the record, whose events of it are: {}", self.about(aim))
            }
        }
    }

    fn first(&self, kind: &str, is_it: impl Fn(&Value) -> bool) -> Option<&Value> {
        self.events.iter().find(|event| event["event"] == kind && is_it(event))
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

/// What the record may name as destination: the technique's own addresses, or loopback for those that mean "here".
fn destinations(aim: &Aim, port: u16) -> [String; 2] {
    let [v4, v6] = aim.addresses();
    let (v4, v6) =
        if aim.means_here() { (Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()) } else { (v4, v6) };
    [SocketAddr::new(v4, port).to_string(), SocketAddr::new(v6, port).to_string()]
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
