//! containerd itself, with a store of its own: a pod on the host's network, made the way a kubelet makes it.

use std::fs;
use std::path::{Path, PathBuf};

use super::*;
use crate::harness::spawn::{Program, Running};

const CLIENT: &str = include_str!("../../../clients/cri.py");
const PROTOBUF: &str = include_str!("../../../clients/protobuf.py");
const IMAGE: &str = include_str!("../../../clients/image.py");

const BOX: &str = "chaperone.test/box:1";
const NAMESPACE: &str = "batch";
const UID: &str = "5505f8a9-c386-80d2-9fe6-1118d6f7704b";
const PSQL: &str = "/usr/lib/postgresql/15/bin/psql";

pub(super) struct Containerd {
    folder: PathBuf,
    process: Option<Running>,
}

impl Containerd {
    pub(super) fn prepare(world: &World) -> Result<Self> {
        let folder = world.scratch.folder("containerd", 0o711)?;
        for (name, text) in [("cri.py", CLIENT), ("protobuf.py", PROTOBUF), ("image.py", IMAGE)] {
            fs::write(folder.join(name), text)?;
        }
        let at = |name: &str| folder.join(name).display().to_string();
        let cri = "plugins.\"io.containerd.grpc.v1.cri\"";
        let text = format!(
            "version = 2\nroot = {:?}\nstate = {:?}\n[grpc]\naddress = {:?}\n[{cri}]\nsandbox_image = {BOX:?}\n\
             disable_apparmor = true\nrestrict_oom_score_adj = true\n[{cri}.containerd]\nsnapshotter = \"native\"\n\
             [{cri}.containerd.runtimes.runc]\nruntime_type = \"io.containerd.runc.v2\"\n\
             [{cri}.containerd.runtimes.runc.options]\nSystemdCgroup = false\nBinaryName = \"/usr/sbin/runc\"\n",
            at("root"),
            at("state"),
            at("socket"),
        );
        fs::write(folder.join("config.toml"), text)?;
        Ok(Self { folder, process: None })
    }

    /// In a cgroup that the agent does not govern, where what it leaves behind is found.
    fn start(&mut self, world: &World) -> Result<()> {
        let log = self.folder.join("log");
        let program = Program::new("/usr/bin/containerd")
            .args(["--config".as_ref(), self.folder.join("config.toml").as_os_str()]);
        self.process = Some(program.inside(&world.places.outside)?.log(&log)?.start()?);
        self.ctr(&["version"]).with_context(|| fs::read_to_string(&log).unwrap_or_default())?;
        let archive = self.folder.join("image.tar");
        python(&self.folder.join("image.py")).args([&archive]).run()?.ok()?;
        self.ctr(&["images", "import", &archive.display().to_string()])
    }

    fn ctr(&self, args: &[&str]) -> Result<()> {
        wait_for("containerd", Duration::from_secs(20), || {
            let address = self.socket().display().to_string();
            let program = Program::new("/usr/bin/ctr").args(["--address", &address, "--namespace", "k8s.io"]);
            Ok((program.args(args).limit(30).run()?.code == Some(0)).then_some(()))
        })
    }

    fn socket(&self) -> PathBuf {
        self.folder.join("socket")
    }

    fn kubelet(&self, args: &[&str]) -> Result<String> {
        python(&self.folder.join("cri.py")).args([self.socket()]).args(args).limit(90).run()?.ok()
    }

    pub(super) fn config(&self) -> String {
        identity("batch", &format!("namespace = {NAMESPACE:?}"))
    }

    /// The same with nobody but the runtime to ask.
    fn alone(&self) -> String {
        format!("\n[authorities]\ncri = {:?}\n", self.socket()) + &self.config()
    }
}

fn python(program: &Path) -> Program {
    Program::new("/usr/bin/python3").args([program])
}

pub(super) fn pod(stage: &mut Stage) -> Result<()> {
    let Stage { world, containerd, .. } = stage;
    containerd.start(world)?;
    let before = std::mem::replace(&mut world.wishes.more, containerd.alone());
    world.write_config()?;
    let mark = world.agent.log().len();
    world.agent.reload()?;
    wait_for("the reload", Duration::from_secs(10), || {
        Ok(world.agent.log_since(mark).contains("reloaded").then_some(()))
    })?;
    let parent = format!("{}/burstable/pod{UID}", world.places.top.name());
    let made = containerd.kubelet(&["run", BOX, &parent, UID, NAMESPACE, "nightly-1"]);
    let outcome = made.and_then(|made| {
        let made: Value = serde_json::from_str(&made)?;
        let id = |name: &str| made[name].as_str().context("no id").map(str::to_owned);
        let outcome = in_pod(world, containerd, &id("container")?, &parent);
        let removed = containerd.kubelet(&["remove", &id("sandbox")?]);
        outcome.and(removed.map(drop))
    });
    containerd.process = None;
    world.wishes.more = before;
    world.write_config()?;
    outcome
}

fn in_pod(world: &World, containerd: &Containerd, container: &str, parent: &str) -> Result<()> {
    let port = world.postgres.port.to_string();
    let psql = |user: &str, sql: &str| {
        let to = ["-XAt", "-h", "127.0.0.1", "-p", &port, "-U", user, "-d", "shop", "-c", sql];
        let text = containerd.kubelet(&[&["exec", container, PSQL], &to[..]].concat())?;
        serde_json::from_str::<Value>(&text).with_context(|| text.clone())
    };
    let served = psql("pod", "select 1, email from customers where id = 1")?;
    ensure!(served == json!({"code": 0, "stdout": "1|***\n", "stderr": ""}), "{served}");
    confirmed(world, "pod", "batch", "cri", &json!({"namespace": NAMESPACE, "name": "nightly-1"}))?;
    let denied = psql("pod-denied", "drop table orders")?;
    ensure!(
        denied["stderr"].as_str().is_some_and(|text| text.contains("denied by policy \"no-ddl\"")),
        "{denied}"
    );

    // A cgroup beside it, called like a container that containerd does not know, and like its own in another pod.
    let name = "f".repeat(64);
    let top = &world.places.top;
    let unknown = top.child(&format!("burstable/pod{UID}/{name}"))?;
    nobody(world, &unknown, "pod-unknown", "there is no such container")?;
    let other = format!("burstable/pod6505f8a9-c386-80d2-9fe6-1118d6f7704b/{container}");
    nobody(world, &top.child(&other)?, "pod-other", "belongs to another pod")?;
    let shown = identified(world, &["--cgroup", &format!("{parent}/{container}")])?;
    holds(&shown, &json!({"identity": "batch", "confirmed_by": "cri"}))
}
