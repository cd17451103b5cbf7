//! Pods: a tree of cgroups as the kubelet makes it, and whoever knows what is in it saying so. The kubelet is played, by TLS
//! and JSON as the real one speaks them; the runtime is containerd itself.

mod containerd;
mod kubelet;

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::harness::cgroup::Cgroup;
use crate::harness::report::{self, Case};
use crate::harness::spawn::{Output, wait_for};
use crate::harness::trail::holds;
use crate::harness::world::{POLICY, Wishes, World};

use containerd::Containerd;
use kubelet::Kubelet;

/// Where kubelets have their pods with the driver `cgroupfs`: at the root, so the suite's own tree has this name.
const TREE: &str = "kubepods";

const UNVERIFIED: &str = r#"
@id("unverified-only-read")
forbid(principal, action in Action::"sql:write", resource) when { context.workload.unverified };
"#;

const CASES: &[Case<Stage>] = &[
    Case { name: "a pod is who its service account says, as the kubelet knows it", run: kubelet::account },
    Case { name: "a pod is who its labels say, all of them, in its namespace", run: kubelet::labels },
    Case { name: "a container that its pod does not have is nobody", run: kubelet::forged },
    Case {
        name: "a kubelet that answers badly, late or as somebody else confirms nobody",
        run: kubelet::bad,
    },
    Case {
        name: "without the token's file nobody is confirmed, and then they are again",
        run: kubelet::token,
    },
    Case { name: "identify shows the pod, and check refuses what could never match", run: kubelet::shown },
    Case { name: "containerd confirms a real pod's container, whose psql is governed", run: containerd::pod },
];

struct Stage {
    world: World,
    kubelet: Kubelet,
    containerd: Containerd,
}

pub(super) fn run(filter: Option<&str>) -> Result<()> {
    let mut world = World::prepare("pods", Wishes { tree: Some(TREE), ..Wishes::default() })?;
    let kubelet = Kubelet::start(&world)?;
    let containerd = Containerd::prepare(&world)?;
    world.wishes.more = kubelet.config() + &containerd.config();
    world.write_config()?;
    world.write_policy(&format!("{POLICY}{UNVERIFIED}"))?;
    world.start_agent()?;
    let mut stage = Stage { world, kubelet, containerd };
    report::run("pods", &mut stage, CASES, filter, |stage| stage.world.agent.log_tail())
}

fn identity(name: &str, matching: &str) -> String {
    format!(
        "\n[[identities]]\nname = {name:?}\ngroups = [\"ai-agents\"]\nmatch = {{ kind = \"k8s\", {matching} }}\n"
    )
}

fn select_one(world: &World, at: &Cgroup, user: &str) -> Result<Output> {
    world.client_in(at, "127.0.0.1", user).psql(&["select 1"])
}

/// Refused, in the end with these words, or others behind a bar: what was heard a moment ago is told for a moment.
fn nobody(world: &World, at: &Cgroup, user: &str, why: &str) -> Result<()> {
    wait_for(&format!("nobody, because of `{why}`"), Duration::from_secs(20), || {
        let output = select_one(world, at, user)?;
        ensure!(output.code == Some(2), "it got in: {output}");
        Ok(why.split('|').any(|why| output.stderr.contains(why)).then_some(()))
    })
}

fn confirmed(world: &World, user: &str, identity: &str, by: &str, pod: &Value) -> Result<()> {
    let start = world.trail(user)?.first("session_start")?.clone();
    holds(&start["workload"], &json!({"confirmed_by": by, "pod": pod}))?;
    ensure!(start["identity"]["name"] == identity, "{start}");
    Ok(())
}

fn identified(world: &World, args: &[&str]) -> Result<Value> {
    let text = world.agent.command(&[&["identify", "--json"], args].concat())?.ok()?;
    serde_json::from_str(&text).with_context(|| text.clone())
}
