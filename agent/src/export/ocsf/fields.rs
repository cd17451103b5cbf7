//! Objects of the schema, made of what the journal has.

use serde_json::{Map, Value, json};

use crate::record::event::{Identity, Workload};

pub(super) fn put(out: &mut Map<String, Value>, name: &str, value: Value) {
    out.insert(name.to_owned(), value);
}

pub(super) fn user(Identity { name, groups }: &Identity) -> Value {
    let groups: Vec<Value> = groups.iter().map(|group| json!({ "name": group })).collect();
    // 3: a system's account, not a person's.
    json!({ "name": name, "groups": groups, "type_id": 3 })
}

/// Somebody who acted, known by name only.
pub(super) fn by(name: &str) -> Value {
    json!({ "user": { "name": name } })
}

pub(super) fn actor(identity: Option<&Identity>, workload: Option<&Workload>, session: &str) -> Value {
    let mut actor = Map::new();
    put(&mut actor, "session", json!({ "uid": session }));
    if let Some(identity) = identity {
        put(&mut actor, "user", user(identity));
    }
    if let Some(workload) = workload {
        put(&mut actor, "process", process(workload));
    }
    Value::Object(actor)
}

fn process(workload: &Workload) -> Value {
    let mut out = Map::new();
    put(&mut out, "pid", json!(workload.pid));
    put(&mut out, "name", json!(workload.comm));
    put(&mut out, "user", json!({ "uid": workload.uid.to_string() }));
    if !workload.argv.is_empty() {
        put(&mut out, "cmd_line", json!(workload.argv.join(" ")));
    }
    if let Some(exe) = &workload.exe {
        let mut file = Map::new();
        put(&mut file, "path", json!(exe));
        put(&mut file, "name", json!(exe.rsplit('/').next().unwrap_or(exe)));
        put(&mut file, "type_id", json!(1));
        if let Some(sha256) = &workload.exe_sha256 {
            put(&mut file, "hashes", json!([{ "algorithm_id": 3, "algorithm": "SHA-256", "value": sha256 }]));
        }
        put(&mut out, "file", Value::Object(file));
    }
    let lineage: Vec<&String> =
        workload.ancestors.iter().filter_map(|ancestor| ancestor.exe.as_ref()).collect();
    if !lineage.is_empty() {
        put(&mut out, "lineage", json!(lineage));
    }
    Value::Object(out)
}

/// `address` is `ip:port`, or something else that is named.
pub(super) fn endpoint(address: &str, name: Option<&str>) -> Value {
    let mut out = Map::new();
    match address.parse::<std::net::SocketAddr>() {
        Ok(address) => {
            put(&mut out, "ip", json!(address.ip().to_string()));
            put(&mut out, "port", json!(address.port()));
        }
        Err(_not_one) => put(&mut out, "uid", json!(address)),
    }
    if let Some(name) = name {
        put(&mut out, "name", json!(name));
    }
    Value::Object(out)
}
