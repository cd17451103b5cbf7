//! A kubelet that says what it is told to, and cgroups of pods that it knows or does not.

use std::fs;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use super::*;
use crate::harness::postgres::{SERVER_NAME, free_port};
use crate::harness::spawn::{Program, Running};

const KUBELET: &str = include_str!("../../../clients/kubelet.py");
const TOKEN: &str = "eyJhbGciOiJSUzI1NiJ9.e30.c2ln";

const BILLING: &str = "1505f8a9-c386-80d2-9fe6-1118d6f7704b";
const CANARY: &str = "2505f8a9-c386-80d2-9fe6-1118d6f7704b";
const STABLE: &str = "3505f8a9-c386-80d2-9fe6-1118d6f7704b";

/// The id of a container that the list has, or has not.
fn container(name: &str) -> String {
    let digits: String = name.bytes().map(|byte| format!("{byte:02x}")).collect();
    format!("{digits:0<64}")
}

pub(super) struct Kubelet {
    folder: PathBuf,
    port: u16,
    certificates: PathBuf,
    _process: Running,
}

impl Kubelet {
    pub(super) fn start(world: &World) -> Result<Self> {
        let folder = world.scratch.folder("kubelet", 0o755)?;
        let (port, log, program) = (free_port()?, folder.join("log"), folder.join("kubelet.py"));
        fs::write(&program, KUBELET)?;
        let certificates = world.postgres.file("server.pem");
        let certificates = certificates.parent().context("no folder of certificates")?.to_owned();
        let process = Program::new("/usr/bin/python3").args([&program]).args([port.to_string()]);
        let process = process.args([&folder, &certificates]).log(&log)?.start()?;
        wait_for("the kubelet", Duration::from_secs(15), || {
            Ok(TcpStream::connect(("127.0.0.1", port)).is_ok().then_some(()))
        })
        .with_context(|| fs::read_to_string(&log).unwrap_or_default())?;
        let kubelet = Self { folder, port, certificates, _process: process };
        kubelet.give_token()?;
        kubelet.says("list")?;
        Ok(kubelet)
    }

    pub(super) fn config(&self) -> String {
        format!(
            "\n[authorities.kubelet]\nurl = \"https://127.0.0.1:{}/pods\"\nca_file = {:?}\nserver_name = {SERVER_NAME:?}\n\
             token_file = {:?}\n",
            self.port,
            self.certificates.join("ca.pem"),
            self.token(),
        ) + &identity("billing", "namespace = \"shop\", service_account = \"billing\"")
            + &identity(
                "canary",
                "namespace = \"shop\", labels = { app = \"web\", \"x.io/track\" = \"canary\" }",
            )
    }

    fn token(&self) -> PathBuf {
        self.folder.join("token")
    }

    fn give_token(&self) -> Result<()> {
        fs::write(self.token(), format!("{TOKEN}\n"))?;
        Ok(fs::set_permissions(self.token(), fs::Permissions::from_mode(0o600))?)
    }

    fn says(&self, how: &str) -> Result<()> {
        self.told(&json!({"how": how, "token": TOKEN, "list": list()}))
    }

    fn told(&self, state: &Value) -> Result<()> {
        fs::write(self.folder.join("new"), state.to_string())?;
        Ok(fs::rename(self.folder.join("new"), self.folder.join("state.json"))?)
    }
}

/// As kubelets answer, with what no agent needs left out.
fn list() -> Value {
    let status = |id: &str, state: Value| json!({"name": id, "ready": true, "restartCount": 0, "state": state, "containerID": format!("containerd://{}", container(id))});
    let running = || json!({"running": {"startedAt": "2026-11-20T08:00:00Z"}});
    let pod = |name: &str, uid: &str, account: &str, labels: Value, status: Value| {
        json!({
            "metadata": {
                "name": name, "namespace": "shop", "uid": uid, "resourceVersion": "1", "labels": labels,
                "creationTimestamp": "2026-11-20T08:00:00Z", "annotations": {"kubernetes.io/config.source": "api"},
            },
            "spec": {
                "containers": [{"name": "main", "image": "web:1", "resources": {}}],
                "restartPolicy": "Always", "serviceAccountName": account, "serviceAccount": account, "nodeName": "n",
            },
            "status": status,
        })
    };
    let web = |track: &str| json!({"app": "web", "x.io/track": track});
    let in_phase = |containers: Value| json!({"phase": "Running", "podIP": "10.0.0.7", "qosClass": "Burstable", "containerStatuses": containers});
    let mut billing = in_phase(json!([status("main", running())]));
    billing["initContainerStatuses"] = json!([status("init", json!({"terminated": {"exitCode": 0}}))]);
    json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": [
        pod("billing-1", BILLING, "billing", json!({"app": "billing"}), billing),
        pod("web-1", CANARY, "default", web("canary"), in_phase(json!([status("canary", running())]))),
        pod("web-2", STABLE, "default", web("stable"), in_phase(json!([status("stable", running())]))),
    ]})
}

/// The cgroup of a container, called as the kubelet and the runtime call it.
fn place(world: &World, pod: &str, name: &str) -> Result<Cgroup> {
    world.places.top.child(&format!("burstable/pod{pod}/{}", container(name)))
}

pub(super) fn account(stage: &mut Stage) -> Result<()> {
    let world = &stage.world;
    let at = place(world, BILLING, "main")?;
    select_one(world, &at, "billing")?.ok()?;
    let pod = json!({"namespace": "shop", "name": "billing-1", "service_account": "billing"});
    confirmed(world, "billing", "billing", "kubelet", &pod)?;
    // What a process makes below its own changes nothing, and a live session stays who it is when it is looked at again.
    let below = at.child(&format!("kubepods/burstable/pod{CANARY}/{}", container("canary")))?;
    let client = world.client_in(&below, "127.0.0.1", "billing-below");
    let output = client.script("select 1;\n\\! sleep 1.5\nselect 2;\n")?;
    ensure!(output.stdout == "1\n2\n", "{output}");
    confirmed(world, "billing-below", "billing", "kubelet", &pod)
}

pub(super) fn labels(stage: &mut Stage) -> Result<()> {
    let world = &stage.world;
    select_one(world, &place(world, CANARY, "canary")?, "canary")?.ok()?;
    let pod = json!({"namespace": "shop", "name": "web-1", "service_account": "default"});
    confirmed(world, "canary", "canary", "kubelet", &pod)?;
    nobody(world, &place(world, STABLE, "stable")?, "stable", "no identity is configured")
}

pub(super) fn forged(stage: &mut Stage) -> Result<()> {
    let world = &stage.world;
    let known = [
        (BILLING, "init", "the pod has no such container, or it does not run"),
        ("4505f8a9-c386-80d2-9fe6-1118d6f7704b", "main", "no such pod on this node"),
    ];
    for (pod, name, why) in known {
        nobody(world, &place(world, pod, name)?, "forged", why)?;
    }
    let refused = world.agent.command(&["sessions", "--json"])?.ok()?;
    ensure!(refused.contains("no such pod on this node"), "the refusal is not in the record: {refused}");
    Ok(())
}

pub(super) fn bad(stage: &mut Stage) -> Result<()> {
    let Stage { world, kubelet, .. } = stage;
    let outcome = [
        ("500", "answered 500"),
        ("garbage", "its list of pods cannot be read"),
        // Too much, or too late where the machine is busy.
        ("endless", "more than 32 MiB|no list of pods within 2 s"),
        ("silent", "no list of pods within 2 s"),
    ]
    .into_iter()
    .try_for_each(|(how, why)| {
        kubelet.says(how)?;
        // One that the last good list did not have, and that the next one will not.
        nobody(world, &place(world, BILLING, how)?, how, why)
    });
    let outcome = outcome.and_then(|()| {
        let other = json!({"how": "list", "token": TOKEN, "list": list(), "certificate": "other-ca"});
        kubelet.told(&other)?;
        nobody(world, &place(world, BILLING, "certificate")?, "certificate", "certificate")
    });
    kubelet.says("list")?;
    outcome?;
    eventually(world, "bad-again")
}

/// It is confirmed as soon as what was heard before is forgotten, by the cgroup of a fresh child too.
fn eventually(world: &World, user: &str) -> Result<()> {
    let container = place(world, BILLING, "main")?;
    let at = container.child(user)?;
    wait_for("the kubelet being believed again", Duration::from_secs(15), || {
        Ok((select_one(world, &at, user)?.code == Some(0)).then_some(()))
    })
}

pub(super) fn token(stage: &mut Stage) -> Result<()> {
    let Stage { world, kubelet, .. } = stage;
    fs::remove_file(kubelet.token())?;
    let outcome = nobody(world, &place(world, BILLING, "gone")?, "gone", "token: No such file")
        .and_then(|()| {
            fs::write(kubelet.token(), TOKEN)?;
            fs::set_permissions(kubelet.token(), fs::Permissions::from_mode(0o644))?;
            nobody(world, &place(world, BILLING, "open")?, "open", "can be read by group or others")
        })
        .and_then(|()| {
            fs::set_permissions(kubelet.token(), fs::Permissions::from_mode(0o600))?;
            fs::write(kubelet.token(), "another")?;
            nobody(world, &place(world, BILLING, "wrong")?, "wrong", "answered 401")
        });
    kubelet.give_token()?;
    outcome?;
    eventually(world, "token-again")
}

pub(super) fn shown(stage: &mut Stage) -> Result<()> {
    let world = &stage.world;
    let path = place(world, CANARY, "canary")?.name().to_owned();
    let shown = identified(world, &["--cgroup", &path])?;
    holds(&shown, &json!({"kind": "k8s", "identity": "canary", "confirmed_by": "kubelet"}))?;
    holds(&shown["in_pod"], &json!({"namespace": "shop", "name": "web-1", "service_account": "default"}))?;
    let text = world.agent.command(&["identify", "--cgroup", &path])?.ok()?;
    ensure!(text.contains("x.io/track=canary"), "{text}");
    let good = fs::read_to_string(&world.agent.config)?;
    let (before, after) =
        good.split_once("[authorities.kubelet]").context("no kubelet in the configuration")?;
    let rest = after.split_once("[[identities]]").context("no identity after it")?.1;
    fs::write(&world.agent.config, format!("{before}[[identities]]{rest}"))?;
    let output = world.agent.command(&["check"]);
    world.write_config()?;
    let output = output?;
    ensure!(output.code == Some(2) && output.stderr.contains("only the kubelet knows"), "{output}");
    Ok(())
}
