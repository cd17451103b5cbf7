//! The guard on the host's side: packets that pods make without a socket of a governed cgroup (AF_PACKET, TUN and
//! forwarding, forged sources) pass no cgroup hook, but they do pass the host. Those from virtual interfaces that go
//! to a target are dropped there, by an nftables table of the agent's own.
//!
//! The agent's connections to targets start on the host and are not forwarded, so the rules need no exception for
//! them. The table is replaced in one transaction, and stays when the agent ends; [`remove`] takes it away. A packet says
//! nothing of the cgroup it came from: pods that are not governed are stopped as well, unless their interface is
//! exempted.
//!
//! A target with a loopback address is a server on this host, which may answer at the host's other addresses as well:
//! from pods its port is closed at all of them.
//!
//! Not seen here: AF_PACKET in the host's own network namespace (which takes CAP_NET_RAW over the host), and devices
//! that bypass the host's stack (macvlan, SR-IOV, Cilium's host routing).

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Write as _,
    path::Path,
    process::{Command, Stdio},
};

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::{
    InterceptError, Target,
    guard_log::{self, GuardLog},
};

/// Dropped packets that are recorded per second.
const LOGGED_PER_SECOND: u32 = 50;

/// Kinds of interfaces behind which pods are, as `ip -d link` names them. Uplinks have other kinds, or none.
const VIRTUAL: [&str; 4] = ["veth", "bridge", "tun", "netkit"];

/// Where Debian, and where others, put it.
const NFT: [&str; 3] = ["/usr/sbin/nft", "/usr/bin/nft", "/sbin/nft"];

/// Transport protocols with ports.
const WITH_PORTS: [&str; 5] = ["tcp", "udp", "sctp", "dccp", "udplite"];

/// Whether there is to be a guard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum GuardMode {
    /// Where nft can do it.
    #[default]
    Auto,
    /// Or the agent does not start.
    Required,
    Off,
}

/// The agent's table.
#[derive(Debug, Clone)]
pub(super) struct Guard {
    mode: GuardMode,
    table: String,
    exempt: Vec<String>,
}

impl Guard {
    pub(super) fn new(mode: GuardMode, bpffs: &Path, exempt: &[String]) -> Self {
        Self { mode, table: table_name(bpffs), exempt: exempt.to_vec() }
    }

    /// Puts the rules for these targets in force, in place of those there are.
    pub(super) fn apply(&self, targets: &[Target]) -> Result<(), InterceptError> {
        let outcome = match self.mode {
            GuardMode::Off => return remove_table("inet", &self.table).or(Ok(())),
            GuardMode::Auto | GuardMode::Required => self.put("inet", targets),
        };
        match outcome {
            Ok(_done) => {}
            Err(error) if self.mode == GuardMode::Auto => {
                tracing::warn!(
                    %error,
                    "no guard on the host's side: AF_PACKET, TUN and forwarding from a pod are not stopped"
                );
                return Ok(());
            }
            Err(error) => return Err(error),
        }
        // Pods and a target on one bridge: what is bridged is not forwarded.
        if let Err(error) = self.put("bridge", targets) {
            tracing::info!(%error, "no guard between the ports of a bridge");
        }
        Ok(())
    }

    /// With a log of what is dropped; on kernels that cannot log in nftables, without.
    fn put(&self, family: &str, targets: &[Target]) -> Result<Vec<u8>, InterceptError> {
        let rules = |log| rules(family, &self.table, &self.exempt, targets, log);
        nft(&rules(Some(self.group()))).or_else(|error| {
            let done = nft(&rules(None))?;
            tracing::warn!(%error, "the guard's drops are counted, not recorded");
            Ok(done)
        })
    }

    /// What the guard drops, for the record.
    pub(super) fn log(&self) -> Option<GuardLog> {
        (self.mode != GuardMode::Off).then(|| GuardLog::new(self.group()))
    }

    /// The group of the log: one per table, so that agents beside each other do not read each other's.
    fn group(&self) -> u16 {
        let digest = Sha256::digest(self.table.as_bytes());
        // Groups in use by others are small numbers.
        digest.first_chunk::<2>().map_or(u16::MAX, |bytes| u16::from_be_bytes(*bytes) | 0x4000)
    }

    /// Packets dropped since the table was made; `None` without one.
    pub(super) fn dropped(&self) -> Option<u64> {
        if self.mode == GuardMode::Off {
            return None;
        }
        let list = json!({"nftables": [{"list": {"counters": {"family": "inet", "table": self.table}}}]});
        let answer: Value = serde_json::from_slice(&nft(&list).ok()?).ok()?;
        answer
            .get("nftables")?
            .as_array()?
            .iter()
            .find_map(|item| item.get("counter")?.get("packets")?.as_u64())
    }
}

/// Whether nftables answers here.
pub(super) fn is_possible() -> bool {
    nft(&json!({"nftables": [{"list": {"tables": null}}]})).is_ok()
}

/// Takes the table of the agent with these pins away. That there is none, or no nft, is no error.
pub(super) fn remove(bpffs: &Path) -> Result<(), InterceptError> {
    if program().is_none() {
        return Ok(());
    }
    let table = table_name(bpffs);
    if let Err(error) = remove_table("bridge", &table) {
        // A kernel without nftables for bridges has no table there.
        tracing::debug!(%error, "no table for bridges to remove");
    }
    remove_table("inet", &table)
}

fn remove_table(family: &str, table: &str) -> Result<(), InterceptError> {
    let table = json!({"table": {"family": family, "name": table}});
    // Adding what is there changes nothing, and what is not there cannot be deleted.
    nft(&json!({"nftables": [{"add": table}, {"delete": table}]})).map(drop)
}

/// One per agent: the usual one's is called as everybody expects, another's after its pins.
fn table_name(bpffs: &Path) -> String {
    if bpffs == Path::new("/sys/fs/bpf/chaperone") {
        return "chaperone".to_owned();
    }
    let digest = Sha256::digest(bpffs.as_os_str().as_encoded_bytes());
    digest.iter().take(6).fold("chaperone-".to_owned(), |name, byte| format!("{name}{byte:02x}"))
}

fn rules(family: &str, table: &str, exempt: &[String], targets: &[Target], log: Option<u16>) -> Value {
    let of = |mut object: Value| {
        if let Some(members) = object.as_object_mut() {
            members.insert("family".into(), family.into());
            members.insert("table".into(), table.into());
        }
        object
    };
    let named = |name: &str| of(json!({ "name": name }));
    let (v4, v6) = networks(targets);
    let mut commands = vec![
        json!({"add": {"table": {"family": family, "name": table}}}),
        json!({"add": {"counter": named("dropped")}}),
    ];
    for (name, kind) in [("targets4", "ipv4_addr"), ("targets6", "ipv6_addr")] {
        let set = json!({"name": name, "type": [kind, "inet_service"], "flags": ["interval"]});
        commands.push(json!({"add": {"set": of(set)}}));
        commands.push(json!({"flush": {"set": named(name)}}));
    }
    let local = json!({"name": "local", "type": "inet_service"});
    commands.push(json!({"add": {"set": of(local)}}));
    commands.push(json!({"flush": {"set": named("local")}}));
    commands.push(json!({"add": {"chain": named("judge")}}));
    let hooks: &[&str] = if family == "bridge" { &["forward"] } else { &["forward", "input"] };
    for hook in hooks {
        // Behind address translation (-100): what counts is where a packet ends up. Before others' filters (0).
        let chain = json!({"name": hook, "type": "filter", "hook": hook, "prio": -10, "policy": "accept"});
        commands.push(json!({"add": {"chain": of(chain)}}));
    }
    for chain in hooks.iter().chain(&["judge"]) {
        commands.push(json!({"flush": {"chain": named(chain)}}));
    }
    for (name, elements) in [("targets4", v4), ("targets6", v6), ("local", local_ports(targets))] {
        if !elements.is_empty() {
            let mut set = named(name);
            if let Some(members) = set.as_object_mut() {
                members.insert("elem".into(), elements.into());
            }
            commands.push(json!({"add": {"element": set}}));
        }
    }
    let mut rule = |chain: &str, expressions: Value| {
        commands.push(json!({"add": {"rule": of(json!({"chain": chain, "expr": expressions}))}}));
    };
    for hook in hooks {
        rule(hook, json!([one_of("iifkind", &VIRTUAL), {"jump": {"target": "judge"}}]));
    }
    if !exempt.is_empty() {
        rule("judge", json!([one_of("iifname", exempt), {"return": null}]));
    }
    for (protocol, set) in [("ip", "@targets4"), ("ip6", "@targets6")] {
        let destination = json!({"concat": [
            {"payload": {"protocol": protocol, "field": "daddr"}},
            {"payload": {"protocol": "th", "field": "dport"}},
        ]});
        let to_a_target = [
            one_of("l4proto", &WITH_PORTS),
            json!({"match": {"op": "==", "left": destination, "right": set}}),
        ];
        if let Some(group) = log {
            // A flood must not drown the record; what is above the limit is dropped all the same.
            let limit =
                json!({"limit": {"rate": LOGGED_PER_SECOND, "per": "second", "burst": LOGGED_PER_SECOND}});
            let log = json!({"log": {"group": group, "snaplen": guard_log::SNAPSHOT}});
            let [protocol, target] = to_a_target.clone();
            rule("judge", json!([protocol, target, limit, log]));
        }
        let [protocol, target] = to_a_target;
        rule("judge", json!([protocol, target, {"counter": "dropped"}, {"drop": null}]));
    }
    if family != "bridge" {
        // Behind the jump: exempted interfaces come back from it, and would be dropped here.
        let mut expressions = vec![one_of("iifkind", &VIRTUAL)];
        if !exempt.is_empty() {
            let exempted = json!({"meta": {"key": "iifname"}});
            expressions.push(json!({"match": {"op": "!=", "left": exempted, "right": {"set": exempt}}}));
        }
        let port = json!({"payload": {"protocol": "th", "field": "dport"}});
        expressions.extend([
            one_of("l4proto", &WITH_PORTS),
            json!({"match": {"op": "==", "left": port, "right": "@local"}}),
            json!({"counter": "dropped"}),
            json!({"drop": null}),
        ]);
        rule("input", expressions.into());
    }
    json!({ "nftables": commands })
}

fn one_of<T: serde::Serialize>(key: &str, values: &[T]) -> Value {
    json!({"match": {"op": "==", "left": {"meta": {"key": key}}, "right": {"set": values}}})
}

/// Elements of the two sets. A network inside another one of the same port is left out: sets hold no overlaps.
fn networks(targets: &[Target]) -> (Vec<Value>, Vec<Value>) {
    let mut by_port: BTreeMap<u16, Vec<&Target>> = BTreeMap::new();
    for target in targets {
        by_port.entry(target.port).or_default().push(target);
    }
    let (mut v4, mut v6) = (Vec::new(), Vec::new());
    for (port, mut targets) in by_port {
        // The widest first, so that what it covers finds it.
        targets.sort_by_key(|target| target.prefix);
        let mut kept: Vec<&Target> = Vec::new();
        for target in targets {
            if !kept.iter().any(|wider| wider.contains(std::net::SocketAddr::new(target.addr, port))) {
                kept.push(target);
            }
        }
        for target in kept {
            let network = json!({"prefix": {"addr": target.network(), "len": target.prefix}});
            let set = if target.addr.is_ipv4() { &mut v4 } else { &mut v6 };
            let whole = target.prefix == if target.addr.is_ipv4() { 32 } else { 128 };
            let address = if whole { json!(target.addr) } else { network };
            set.push(json!({"concat": [address, port]}));
        }
    }
    (v4, v6)
}

/// Ports of targets that are servers on this host's loopback.
fn local_ports(targets: &[Target]) -> Vec<Value> {
    let local = targets.iter().filter(|target| target.addr.is_loopback()).map(|target| target.port);
    local.collect::<BTreeSet<_>>().into_iter().map(Value::from).collect()
}

fn program() -> Option<&'static str> {
    NFT.into_iter().find(|path| Path::new(path).exists())
}

/// Runs a transaction, or a question, and gives what was answered.
fn nft(commands: &Value) -> Result<Vec<u8>, InterceptError> {
    let program = program().ok_or(InterceptError::NoNft)?;
    let failed = |source| InterceptError::Nft { source };
    let mut child = Command::new(program)
        .args(["-j", "-f", "-"])
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    if let Some(mut input) = child.stdin.take() {
        // It reads all before it writes anything.
        input.write_all(commands.to_string().as_bytes()).map_err(failed)?;
    }
    let output = child.wait_with_output().map_err(failed)?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let said = String::from_utf8_lossy(&output.stderr).lines().next().unwrap_or_default().to_owned();
    Err(InterceptError::NftRefused { said })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(addr: &str, prefix: u8, port: u16) -> Target {
        Target { id: 0, addr: addr.parse().unwrap(), prefix, port }
    }

    #[test]
    fn networks_do_not_overlap_within_a_port() {
        let (v4, v6) = networks(&[
            target("10.1.2.3", 32, 5432),
            target("10.0.0.0", 8, 5432),
            target("10.1.0.0", 16, 5432),
            target("10.1.2.3", 32, 5433),
            target("fd00::1", 128, 5432),
            target("fd00::1", 128, 5432),
        ]);
        let wide = json!({"prefix": {"addr": "10.0.0.0", "len": 8}});
        assert_eq!(v4, [json!({"concat": [wide, 5432]}), json!({"concat": ["10.1.2.3", 5433]})]);
        assert_eq!(v6, [json!({"concat": ["fd00::1", 5432]})]);
    }

    #[test]
    fn each_agent_has_a_table_of_its_own() {
        assert_eq!(table_name(Path::new("/sys/fs/bpf/chaperone")), "chaperone");
        let (one, other) = (table_name(Path::new("/sys/fs/bpf/a")), table_name(Path::new("/sys/fs/bpf/b")));
        assert!(one != other && one.starts_with("chaperone-") && one.len() == 22, "{one} {other}");
    }

    #[test]
    fn exempted_interfaces_return_before_anything_is_dropped() {
        let text = rules("inet", "t", &["docker0".to_owned()], &[], None).to_string();
        let (returns, drops) = (text.find("docker0").unwrap(), text.find("\"drop\"").unwrap());
        assert!(returns < drops);
        assert!(!rules("inet", "t", &[], &[], None).to_string().contains("iifname"));
    }
}
