//! The guard's table, as nft reads it: the sets of targets, the chains, and what is dropped in them.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::{Target, guard_log};

/// Dropped packets that are recorded per second.
const LOGGED_PER_SECOND: u32 = 50;

/// Kinds of interfaces behind which pods are, as `ip -d link` names them. Uplinks have other kinds, or none.
const VIRTUAL: [&str; 4] = ["veth", "bridge", "tun", "netkit"];

/// Transport protocols with ports.
const WITH_PORTS: [&str; 5] = ["tcp", "udp", "sctp", "dccp", "udplite"];

/// Ports of overlays that take packets from anybody: VXLAN, as it came with Linux and as it was assigned, and Geneve.
const OVERLAYS: [u16; 3] = [4789, 8472, 6081];

/// Protocols that are packets in packets: IPv4 and IPv6 (IPIP, SIT), GRE, Ethernet, MPLS.
const PACKED: [u8; 5] = [4, 41, 47, 97, 137];

/// The commands that put the table in force, in place of one that is there. `log` is the group that hears of drops.
pub(super) fn rules(
    family: &str,
    table: &str,
    exempt: &[String],
    targets: &[Target],
    log: Option<u16>,
) -> Value {
    let mut rules = Rules { family, table, log, commands: Vec::new() };
    // Between the ports of a bridge nothing is taken in by this host.
    let hooks: &[&str] = if family == "bridge" { &["forward"] } else { &["forward", "input"] };
    rules.frame(hooks, targets);
    for hook in hooks {
        rules.add(hook, json!([one_of("iifkind", &VIRTUAL), {"jump": {"target": "judge"}}]));
    }
    if !exempt.is_empty() {
        rules.add("judge", json!([one_of("iifname", exempt), {"return": null}]));
    }
    for (protocol, set) in [("ip", "@targets4"), ("ip6", "@targets6")] {
        let destination = json!({"concat": [address(protocol), th("dport")]});
        rules.drop("judge", vec![one_of("l4proto", &WITH_PORTS), equal(destination, json!(set))]);
    }
    // A later fragment has no ports, and of IPv6 the first may have none either. Where something reassembles on the way
    // (connection tracking does), no fragments come here.
    let offset = json!({"&": [payload("ip", "frag-off"), 0x1fff]});
    let later = json!({"match": {"op": "!=", "left": offset, "right": 0}});
    rules.drop("judge", vec![later, equal(address("ip"), json!("@hosts4"))]);
    let fragment = equal(json!({"exthdr": {"name": "frag"}}), json!(true));
    rules.drop("judge", vec![fragment, equal(address("ip6"), json!("@hosts6"))]);
    // Where they end up is in their options.
    for option in ["lsrr", "ssrr"] {
        rules.drop("judge", vec![equal(json!({"ip option": {"name": option}}), json!(true))]);
    }
    if family != "bridge" {
        // Behind the jump: exempted interfaces come back from it, and would be dropped here.
        let mut from_pods = vec![one_of("iifkind", &VIRTUAL)];
        if !exempt.is_empty() {
            let exempted = json!({"meta": {"key": "iifname"}});
            from_pods.push(json!({"match": {"op": "!=", "left": exempted, "right": {"set": exempt}}}));
        }
        let and = |more: Vec<Value>| from_pods.iter().cloned().chain(more).collect::<Vec<_>>();
        let overlay = equal(payload("udp", "dport"), json!({"set": OVERLAYS}));
        rules.drop("input", and(vec![overlay.clone()]));
        // A service of this host needs no pod for it.
        let own = equal(json!({"meta": {"key": "iifname"}}), json!("lo"));
        rules.drop("input", vec![own, overlay]);
        rules.drop("input", and(vec![one_of("l4proto", &PACKED)]));
        let local =
            [one_of("l4proto", &WITH_PORTS), equal(th("dport"), json!("@local")), counted(), dropped()];
        rules.add("input", and(local.into()).into());
    }
    json!({ "nftables": rules.commands })
}

/// Commands about one table.
struct Rules<'a> {
    family: &'a str,
    table: &'a str,
    log: Option<u16>,
    commands: Vec<Value>,
}

impl Rules<'_> {
    /// Everything but rules: the table, its counter, its sets with what is in them, and its chains without a rule.
    fn frame(&mut self, hooks: &[&str], targets: &[Target]) {
        let (v4, v6) = networks(targets);
        let (hosts4, hosts6) = hosts(targets);
        self.commands.push(json!({"add": {"table": {"family": self.family, "name": self.table}}}));
        self.push("add", "counter", json!({"name": "dropped"}));
        for (name, kind) in [("targets4", "ipv4_addr"), ("targets6", "ipv6_addr")] {
            let set = json!({"name": name, "type": [kind, "inet_service"], "flags": ["interval"]});
            self.push("add", "set", set);
        }
        for (name, kind) in [("hosts4", "ipv4_addr"), ("hosts6", "ipv6_addr")] {
            // Targets of different ports may overlap.
            let set = json!({"name": name, "type": kind, "flags": ["interval"], "auto-merge": true});
            self.push("add", "set", set);
        }
        self.push("add", "set", json!({"name": "local", "type": "inet_service"}));
        self.push("add", "chain", json!({"name": "judge"}));
        for hook in hooks {
            // Behind address translation (-100): what counts is where a packet ends up. Before others' filters (0).
            let chain =
                json!({"name": hook, "type": "filter", "hook": hook, "prio": -10, "policy": "accept"});
            self.push("add", "chain", chain);
        }
        for chain in hooks.iter().chain(&["judge"]) {
            self.push("flush", "chain", json!({"name": chain}));
        }
        let sets = [
            ("targets4", v4),
            ("targets6", v6),
            ("hosts4", hosts4),
            ("hosts6", hosts6),
            ("local", local_ports(targets)),
        ];
        for (name, elements) in sets {
            self.push("flush", "set", json!({"name": name}));
            if !elements.is_empty() {
                self.push("add", "element", json!({"name": name, "elem": elements}));
            }
        }
    }

    fn push(&mut self, what: &str, kind: &str, mut object: Value) {
        if let Some(members) = object.as_object_mut() {
            members.insert("family".into(), self.family.into());
            members.insert("table".into(), self.table.into());
        }
        self.commands.push(json!({what: {kind: object}}));
    }

    fn add(&mut self, chain: &str, expressions: Value) {
        self.push("add", "rule", json!({"chain": chain, "expr": expressions}));
    }

    /// What fits is dropped and counted, and somebody hears of it.
    fn drop(&mut self, chain: &str, fits: Vec<Value>) {
        if let Some(group) = self.log {
            // A flood must not drown the record; what is above the limit is dropped all the same.
            let limit =
                json!({"limit": {"rate": LOGGED_PER_SECOND, "per": "second", "burst": LOGGED_PER_SECOND}});
            let log = json!({"log": {"group": group, "snaplen": guard_log::SNAPSHOT}});
            let logged: Vec<Value> = fits.iter().cloned().chain([limit, log]).collect();
            self.add(chain, logged.into());
        }
        self.add(chain, fits.into_iter().chain([counted(), dropped()]).collect::<Vec<_>>().into());
    }
}

fn counted() -> Value {
    json!({"counter": "dropped"})
}

fn dropped() -> Value {
    json!({"drop": null})
}

fn payload(protocol: &str, field: &str) -> Value {
    json!({"payload": {"protocol": protocol, "field": field}})
}

fn address(protocol: &str) -> Value {
    payload(protocol, "daddr")
}

/// Of the transport header, whichever it is.
fn th(field: &str) -> Value {
    payload("th", field)
}

#[expect(clippy::needless_pass_by_value, reason = "values are made for the place they go to")]
fn equal(left: Value, right: Value) -> Value {
    json!({"match": {"op": "==", "left": left, "right": right}})
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

/// The addresses of targets, whatever their ports.
fn hosts(targets: &[Target]) -> (Vec<Value>, Vec<Value>) {
    let networks = |v4: bool| {
        let of_family = targets.iter().filter(move |target| target.addr.is_ipv4() == v4);
        of_family.map(|target| (target.network(), target.prefix)).collect::<BTreeSet<_>>()
    };
    let elements = |v4| {
        let named = networks(v4).into_iter().map(|(address, prefix)| match prefix {
            32 if v4 => json!(address),
            128 => json!(address),
            _ => json!({"prefix": {"addr": address, "len": prefix}}),
        });
        named.collect()
    };
    (elements(true), elements(false))
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
    fn exempted_interfaces_return_before_anything_is_dropped() {
        let text = rules("inet", "t", &["docker0".to_owned()], &[], None).to_string();
        let (returns, drops) = (text.find("docker0").unwrap(), text.find("\"drop\"").unwrap());
        assert!(returns < drops);
        // Of none exempted only the loopback's name is left.
        assert_eq!(rules("inet", "t", &[], &[], None).to_string().matches("iifname").count(), 1);
    }

    #[test]
    fn a_host_is_listed_once_whatever_its_ports() {
        let (v4, v6) = hosts(&[
            target("10.1.2.3", 32, 5432),
            target("10.1.2.3", 32, 22),
            target("10.1.9.9", 16, 22),
            target("fd00::1", 128, 22),
        ]);
        assert_eq!(v4, [json!({"prefix": {"addr": "10.1.0.0", "len": 16}}), json!("10.1.2.3")]);
        assert_eq!(v6, [json!("fd00::1")]);
    }

    #[test]
    fn nothing_is_dropped_unheard_but_what_is_closed_on_this_host() {
        for (log, logs) in [(Some(7), true), (None, false)] {
            let rules = rules("inet", "t", &[], &[target("10.1.2.3", 32, 5432)], log);
            let rules = rules["nftables"].as_array().unwrap();
            let expressions = rules.iter().filter_map(|command| command["add"]["rule"]["expr"].as_array());
            let with =
                |key: &str| expressions.clone().filter(|rule| rule.iter().any(|e| !e[key].is_null())).count();
            let drops =
                expressions.clone().filter(|rule| rule.iter().any(|e| e.get("drop").is_some())).count();
            assert_eq!(with("log"), if logs { drops - 1 } else { 0 });
        }
    }
}
