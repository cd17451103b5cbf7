//! Events in the words of the Open Cybersecurity Schema Framework, version 1.3.
//!
//! Sessions and statements at databases are Datastore Activity (class 6005), those at hosts SSH Activity (4007);
//! connections that were refused are Network Activity (4001); grants and approvals are User Access Management (3005)
//! and Authorize Session (3003), a login with somebody else's name is Authentication (3002), the agent's own life is
//! Application Lifecycle (6002). What has no class is a Base Event. Numbers and the journal's event are always under
//! `unmapped`: nothing gets lost by the translation.
//!
//! Owns what is known of sessions, so that their statements say who and where. What it has not seen begin (before a
//! restart) has the session's id only.

mod fields;

use std::collections::{HashMap, VecDeque};

use serde_json::{Map, Value, json};

use self::fields::{actor, by, endpoint, put, user};
use crate::record::Followed;
use crate::record::event::{Event, HoldOutcome, Identity, Step, Verdict, Workload};

const VERSION: &str = "1.3.0";
/// Sessions that are remembered at most; the oldest are forgotten.
const MOST_SESSIONS: usize = 10_000;

/// A class with its category, by uid and name.
#[derive(Clone, Copy)]
struct Class(u64, &'static str, u64, &'static str);

const BASE: Class = Class(0, "Base Event", 0, "Uncategorized");
const AUTHENTICATION: Class = Class(3002, "Authentication", 3, "Identity & Access Management");
const AUTHORIZE: Class = Class(3003, "Authorize Session", 3, "Identity & Access Management");
const USER_ACCESS: Class = Class(3005, "User Access Management", 3, "Identity & Access Management");
const NETWORK: Class = Class(4001, "Network Activity", 4, "Network Activity");
const SSH: Class = Class(4007, "SSH Activity", 4, "Network Activity");
const LIFECYCLE: Class = Class(6002, "Application Lifecycle", 6, "Application Activity");
const DATASTORE: Class = Class(6005, "Datastore Activity", 6, "Application Activity");

/// What became of it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Said {
    Allowed,
    Refused,
    /// Nobody decided on it, or not yet.
    Nothing,
}

struct Known {
    identity: Identity,
    workload: Workload,
    ssh: bool,
    target: String,
    database: String,
    client: String,
    destination: String,
}

#[derive(Default)]
pub(super) struct Mapper {
    sessions: HashMap<String, Known>,
    order: VecDeque<String>,
}

impl Mapper {
    /// `event` is the event as JSON, `numbers` what the exporter adds to it.
    pub(super) fn map(&mut self, followed: &Followed, event: &Value, numbers: &Value) -> Value {
        let mut out = base(followed, event, numbers);
        match &followed.event {
            Some(known) => {
                self.learn(known);
                self.describe(known, &mut out);
            }
            None => class(&mut out, BASE, 99, "Unknown", Said::Nothing),
        }
        Value::Object(out)
    }

    fn learn(&mut self, event: &Event) {
        let Event::SessionStart {
            session,
            protocol,
            target,
            original_destination,
            client,
            workload,
            identity,
            database,
            ..
        } = event
        else {
            return;
        };
        let known = Known {
            identity: identity.clone(),
            workload: (**workload).clone(),
            ssh: protocol == "ssh",
            target: target.clone(),
            database: database.clone(),
            client: client.clone(),
            destination: original_destination.clone(),
        };
        if self.sessions.insert(session.clone(), known).is_none() {
            self.order.push_back(session.clone());
        }
        if self.order.len() > MOST_SESSIONS
            && let Some(oldest) = self.order.pop_front()
        {
            self.sessions.remove(&oldest);
        }
    }

    fn describe(&self, event: &Event, out: &mut Map<String, Value>) {
        match event {
            Event::SessionStart { session, .. } => {
                self.activity(out, session, None, ("Connect", 3), ("Open", 1))
            }
            Event::SessionEnd { session, reason, .. } => {
                self.activity(out, session, None, ("Disconnect", 99), ("Close", 2));
                put(out, "message", json!(reason));
            }
            Event::Statement { session, op, step, sql, verdict, policies, policy, reason, .. } => {
                self.activity(out, session, Some(*step), ("Query", 4), ("Traffic", 6));
                say(
                    out,
                    match verdict {
                        Verdict::Permit => Said::Allowed,
                        Verdict::Deny => Said::Refused,
                        Verdict::Hold => Said::Nothing,
                    },
                );
                authorized(out, *verdict, policies, policy);
                let text = reason.as_ref().unwrap_or(sql);
                put(out, "message", json!(text));
                query(out, session, *op, sql, None);
            }
            Event::Result { session, op, bytes, tag, sqlstate, .. } => {
                self.activity(out, session, None, ("Query", 4), ("Traffic", 6));
                say(out, Said::Allowed);
                query(out, session, *op, tag, Some(*bytes));
                if let Some(sqlstate) = sqlstate {
                    put(out, "status_id", json!(2));
                    put(out, "status", json!("Failure"));
                    put(out, "status_code", json!(sqlstate));
                }
            }
            Event::Replicated { session, op, to_client_bytes, .. } => {
                self.activity(out, session, None, ("Query", 4), ("Traffic", 6));
                say(out, Said::Allowed);
                query(out, session, *op, "replication stream", Some(*to_client_bytes));
            }
            Event::Streams { session, .. } | Event::FileContent { session, .. } => {
                self.activity(out, session, Some(Step::File), ("Other", 99), ("Traffic", 6));
            }
            Event::CommandSeen { session, text, .. } => {
                self.activity(out, session, Some(Step::Shell), ("Other", 99), ("Traffic", 6));
                put(out, "message", json!(format!("typed, by a guess: {text}")));
            }
            Event::SessionRefused {
                client,
                original_destination,
                target,
                identity,
                workload,
                reason,
                session,
                ..
            } => {
                let destination = original_destination.as_deref().unwrap_or("unknown");
                refused(out, destination, target.as_deref());
                put(out, "src_endpoint", endpoint(client, None));
                put(out, "actor", actor(identity.as_ref(), workload.as_deref(), session));
                put(out, "message", json!(reason));
            }
            Event::KernelRefusal { destination, pid, comm, .. } => {
                refused(out, destination, None);
                if *pid > 0 {
                    put(out, "actor", json!({ "process": { "pid": pid, "name": comm } }));
                }
            }
            Event::GuardDrop { source, destination, .. } => {
                refused(out, destination, None);
                put(out, "src_endpoint", endpoint(source, None));
            }
            _ => self.describe_access(event, out),
        }
    }

    /// Who may what, and the agent itself.
    fn describe_access(&self, event: &Event, out: &mut Map<String, Value>) {
        match event {
            Event::AccessAsked(asked) => {
                class(out, AUTHORIZE, 99, "Ask", Said::Nothing);
                put(out, "user", user(&asked.identity));
                put(out, "session", json!({ "uid": asked.session }));
                put(out, "privileges", json!([format!("connect to {}/{}", asked.target, asked.database)]));
            }
            Event::HoldResolved { session, op, outcome, by: who, .. } => {
                let said = if *outcome == HoldOutcome::Approved { Said::Allowed } else { Said::Refused };
                class(out, AUTHORIZE, 1, "Assign Privileges", said);
                self.identify(out, session);
                put(out, "privileges", json!([format!("operation {session}/{op}")]));
                if let Some(who) = who {
                    put(out, "actor", by(who));
                }
            }
            Event::HoldEscalated { session, op, sessions, .. } => {
                class(out, AUTHORIZE, 99, "Escalate", Said::Nothing);
                self.identify(out, session);
                put(out, "privileges", json!([format!("operation {session}/{op}")]));
                put(out, "message", json!(format!("{sessions} sessions wait for what it has locked")));
            }
            Event::GrantUsed(used) => {
                class(out, AUTHORIZE, 1, "Assign Privileges", Said::Allowed);
                self.identify(out, &used.session);
                put(out, "privileges", json!([format!("grant {}", used.grant)]));
            }
            Event::Vote(vote) => {
                class(out, AUTHORIZE, 99, if vote.approve { "Approve" } else { "Deny" }, Said::Allowed);
                self.identify(out, &vote.session);
                put(out, "privileges", json!([format!("operation {}/{}", vote.session, vote.op)]));
                put(out, "actor", by(&vote.by));
            }
            Event::GrantIssued(grant) => {
                class(out, USER_ACCESS, 1, "Assign Privileges", Said::Allowed);
                put(out, "user", json!({ "name": grant.identity }));
                let place = format!(
                    "connect to {}/{}",
                    grant.target.as_deref().unwrap_or("*"),
                    grant.database.as_deref().unwrap_or("*")
                );
                let groups = grant.groups.iter().map(|group| format!("group {group}"));
                let privileges: Vec<String> = std::iter::once(place).chain(groups).collect();
                put(out, "privileges", json!(privileges));
                put(out, "actor", by(&grant.by.join(", ")));
                put(out, "message", json!(grant.reason));
            }
            Event::GrantEnded { grant, identity, why } => {
                class(out, USER_ACCESS, 2, "Revoke Privileges", Said::Allowed);
                put(out, "user", json!({ "name": identity }));
                put(out, "privileges", json!([format!("grant {grant}")]));
                put(out, "message", json!(why));
            }
            Event::ForeignCredential { session, identity, claimed_user, belongs_to } => {
                class(out, AUTHENTICATION, 1, "Logon", Said::Refused);
                put(out, "user", json!({ "name": claimed_user }));
                put(out, "actor", by(identity));
                let known = self.sessions.get(session);
                let destination = known.map_or(session.as_str(), |known| &known.destination);
                put(out, "dst_endpoint", endpoint(destination, known.map(|known| known.target.as_str())));
                put(out, "message", json!(format!("the name belongs to {belongs_to}")));
            }
            Event::AgentStart { .. } => lifecycle(out, 3, "Start"),
            Event::AgentStop { .. } => lifecycle(out, 4, "Stop"),
            Event::HandOver { .. } => lifecycle(out, 8, "Update"),
            Event::Reload { error, .. } => {
                lifecycle(out, 99, "Reload");
                if error.is_some() {
                    say(out, Said::Refused);
                }
            }
            Event::Tampered { found, .. } => {
                alert(out, "Tampered", 5, "Critical");
                put(out, "message", json!(found));
            }
            Event::JournalFilling { .. } => {
                alert(out, "Journal filling", 4, "High");
                put(out, "message", json!("the journal fills up; at 95 % no new sessions are let in"));
            }
            Event::OldConnections { .. } => alert(out, "Old connections", 4, "High"),
            _ => class(out, BASE, 99, "Other", Said::Nothing),
        }
    }

    /// Something in a session, under the name its class has for it: at a database, and at a host.
    fn activity(
        &self,
        out: &mut Map<String, Value>,
        session: &str,
        step: Option<Step>,
        database: (&str, u64),
        host: (&str, u64),
    ) {
        let known = self.sessions.get(session);
        let of_host = |step| !matches!(step, Step::Query | Step::Prepare | Step::Execute);
        let ssh = known.map_or_else(|| step.is_some_and(of_host), |known| known.ssh);
        let (kind, (name, activity)) = if ssh { (SSH, host) } else { (DATASTORE, database) };
        class(out, kind, activity, name, Said::Allowed);
        put(
            out,
            "actor",
            actor(known.map(|known| &known.identity), known.map(|known| &known.workload), session),
        );
        let unknown = || json!({ "uid": session });
        put(out, "src_endpoint", known.map_or_else(unknown, |known| endpoint(&known.client, None)));
        let destination =
            known.map_or_else(unknown, |known| endpoint(&known.destination, Some(&known.target)));
        put(out, "dst_endpoint", destination);
        if !ssh {
            let name = known.map_or("unknown", |known| &known.database);
            put(out, "database", json!({ "name": name, "type_id": 1, "type": "Relational" }));
            // A database, as opposed to a table or a bucket.
            put(out, "type_id", json!(1));
        }
    }

    fn identify(&self, out: &mut Map<String, Value>, session: &str) {
        let known = self.sessions.get(session);
        put(out, "user", known.map_or_else(|| json!({ "name": "unknown" }), |known| user(&known.identity)));
        put(out, "session", json!({ "uid": session }));
    }
}

fn base(followed: &Followed, event: &Value, numbers: &Value) -> Map<String, Value> {
    let mut out = Map::new();
    put(&mut out, "time", json!(followed.time.0 / 1_000_000));
    let product =
        json!({ "name": "Chaperone", "vendor_name": "Chaperone", "version": env!("CARGO_PKG_VERSION") });
    let metadata = json!({
    "version": VERSION,
    "product": product,
    "uid": followed.seq.to_string(),
    "event_code": event.get("event"),
    "log_name": "journal",
    });
    put(&mut out, "metadata", metadata);
    put(&mut out, "unmapped", json!({ "chaperone": event, "export": numbers }));
    out
}

fn class(out: &mut Map<String, Value>, class: Class, activity: u64, name: &str, said: Said) {
    let Class(uid, class_name, category, category_name) = class;
    put(out, "class_uid", json!(uid));
    put(out, "class_name", json!(class_name));
    put(out, "category_uid", json!(category));
    put(out, "category_name", json!(category_name));
    put(out, "activity_id", json!(activity));
    put(out, "activity_name", json!(name));
    put(out, "type_uid", json!(uid * 100 + activity));
    put(out, "type_name", json!(format!("{class_name}: {name}")));
    // Profiles are what a class has beside its own attributes: who acts on a host, and what was let pass.
    let profiles: &[&str] = match uid {
        4001 | 4007 => &["host", "security_control"],
        6005 => &["security_control"],
        3003 | 3005 => &["host"],
        _ => &[],
    };
    if let Some(metadata) = out.get_mut("metadata").and_then(Value::as_object_mut) {
        put(metadata, "profiles", json!(profiles));
    }
    say(out, said);
}

fn say(out: &mut Map<String, Value>, said: Said) {
    let (status, action, disposition) = match said {
        Said::Allowed => ((1, "Success"), (1, "Allowed"), (1, "Allowed")),
        Said::Refused => ((2, "Failure"), (2, "Denied"), (2, "Blocked")),
        Said::Nothing => ((0, "Unknown"), (0, "Unknown"), (0, "Unknown")),
    };
    let severity = if said == Said::Refused { (3, "Medium") } else { (1, "Informational") };
    let mut told = vec![("status", status), ("severity", severity)];
    let controlled = [NETWORK, SSH, DATASTORE].map(|class| json!(class.0));
    if out.get("class_uid").is_some_and(|uid| controlled.contains(uid)) {
        told.extend([("action", action), ("disposition", disposition)]);
    }
    for (name, (id, text)) in told {
        put(out, &format!("{name}_id"), json!(id));
        put(out, name, json!(text));
    }
}

fn alert(out: &mut Map<String, Value>, name: &str, severity: u64, word: &str) {
    class(out, BASE, 99, name, Said::Nothing);
    put(out, "severity_id", json!(severity));
    put(out, "severity", json!(word));
}

fn lifecycle(out: &mut Map<String, Value>, activity: u64, name: &str) {
    class(out, LIFECYCLE, activity, name, Said::Allowed);
    let version = env!("CARGO_PKG_VERSION");
    put(out, "app", json!({ "name": "Chaperone", "vendor_name": "Chaperone", "version": version }));
}

fn refused(out: &mut Map<String, Value>, destination: &str, target: Option<&str>) {
    class(out, NETWORK, 5, "Refuse", Said::Refused);
    put(out, "dst_endpoint", endpoint(destination, target));
}

fn query(out: &mut Map<String, Value>, session: &str, op: u64, text: &str, bytes: Option<u64>) {
    if out.get("class_uid") != Some(&json!(DATASTORE.0)) {
        return;
    }
    let mut query = Map::new();
    put(&mut query, "query_string", json!(text));
    put(&mut query, "uid", json!(format!("{session}/{op}")));
    if let Some(bytes) = bytes {
        put(&mut query, "bytes", json!(bytes));
    }
    put(out, "query_info", Value::Object(query));
}

/// Which rules decided, with the digest of the set they are of.
fn authorized(out: &mut Map<String, Value>, verdict: Verdict, policies: &[String], digest: &str) {
    let decision = match verdict {
        Verdict::Permit => "permit",
        Verdict::Deny => "deny",
        Verdict::Hold => "hold",
    };
    let rule = |rule: &String| json!({ "decision": decision, "policy": { "name": rule, "version": digest } });
    let rules: Vec<Value> = policies.iter().map(rule).collect();
    if let Some(actor) = out.get_mut("actor").and_then(Value::as_object_mut) {
        put(actor, "authorizations", Value::Array(rules));
    }
}

#[cfg(test)]
mod tests;
