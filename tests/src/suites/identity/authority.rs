//! Cgroups that are called like containers and units, and whoever gives such names out saying whether they are.

use super::*;

const ENGINE: &str = include_str!("../../../clients/engine.py");
const RUNTIME: &str = include_str!("../../../clients/runtime.py");
const PROTOBUF: &str = include_str!("../../../clients/protobuf.py");

/// Ids of containers.
const BOXED: &str = "4c318da53e134a0efb886faf41df9ab0edb4d39a5bad68a16b52e55d31238b23";
const TRUSTED: &str = "b7c318da53e134a0efb886faf41df9ab0edb4d39a5bad68a16b52e55d31238b2";
const LISTED: &str = "cc318da53e134a0efb886faf41df9ab0edb4d39a5bad68a16b52e55d31238b2d";
const PODMAN: &str = "libpod_parent/libpod-";

pub(super) const POLICY: &str = r#"
@id("unverified-only-read")
forbid(principal, action in Action::"sql:write", resource) when { context.workload.unverified };
"#;

/// Whoever is asked, and what they are told to say.
pub(super) struct Runtimes {
    folder: PathBuf,
    engine: Option<Running>,
    runtime: Option<Running>,
}

impl Runtimes {
    pub(super) fn start(world: &World) -> Result<Self> {
        let folder = world.scratch.folder("runtimes", 0o755)?;
        fs::write(folder.join("engine.py"), ENGINE)?;
        fs::write(folder.join("runtime.py"), RUNTIME)?;
        fs::write(folder.join("protobuf.py"), PROTOBUF)?;
        fs::create_dir_all(folder.join("units"))?;
        let mut runtimes = Self { folder, engine: None, runtime: None };
        runtimes.say("docker.json", &json!({}))?;
        runtimes.say("cri.json", &json!({}))?;
        runtimes.engine = Some(runtimes.serve("engine.py", "docker")?);
        runtimes.runtime = Some(runtimes.serve("runtime.py", "cri")?);
        Ok(runtimes)
    }

    fn serve(&self, program: &str, name: &str) -> Result<Running> {
        self.served(program, name, &self.folder.join(format!("{name}.json")))
    }

    /// What speaks gRPC, saying what that file says.
    pub(super) fn serve_file(&self, name: &str, file: &Path) -> Result<Running> {
        self.served("runtime.py", name, file)
    }

    fn served(&self, program: &str, name: &str, file: &Path) -> Result<Running> {
        let (socket, log) = (self.socket(name), self.folder.join(format!("{name}.log")));
        let running = Program::new("/usr/bin/python3")
            .args([self.folder.join(program).as_path(), &socket, file])
            .log(&log)?
            .start()?;
        wait_for(name, Duration::from_secs(15), || {
            Ok(std::os::unix::net::UnixStream::connect(&socket).is_ok().then_some(()))
        })
        .with_context(|| fs::read_to_string(&log).unwrap_or_default())?;
        Ok(running)
    }

    pub(super) fn say(&self, file: &str, what: &Value) -> Result<()> {
        fs::write(self.folder.join("new"), what.to_string())?;
        Ok(fs::rename(self.folder.join("new"), self.folder.join(file))?)
    }

    pub(super) fn socket(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.sock"))
    }

    /// What the agent's configuration says of them.
    pub(super) fn config(&self) -> String {
        let identity = |name: &str, matching: &str| {
            format!("\n[[identities]]\nname = {name:?}\ngroups = [\"ai-agents\"]\nmatch = {{ {matching} }}\n")
        };
        format!(
            "\n[authorities]\nsystemd = {:?}\ndocker = {:?}\npodman = {:?}\ncri = {:?}\n",
            self.folder.join("units"),
            self.socket("docker"),
            self.socket("podman"),
            self.socket("cri"),
        ) + &identity("boxed", &format!("kind = \"container\", runtime = \"docker\", container = {BOXED:?}"))
            + &identity(
                "trusted",
                &format!("kind = \"container\", container = {TRUSTED:?}, unverified = true"),
            )
            + &identity(
                "listed",
                &format!("kind = \"container\", runtime = \"containerd\", container = {LISTED:?}"),
            )
            + &identity("unit", "kind = \"systemd\", unit = \"e2e-*.service\"")
    }
}

fn place(world: &World, name: &str) -> Result<Cgroup> {
    world.places.top.child(name)
}

/// A process that sits in a cgroup as a container's first.
fn sitter(cgroup: &Cgroup) -> Result<Running> {
    Program::new("/usr/bin/sleep").args(["60"]).inside(cgroup)?.start()
}

fn nobody(world: &World, cgroup: &Cgroup, user: &str, why: &str) -> Result<()> {
    let output = world.client_in(cgroup, "127.0.0.1", user).psql(&["select 1"])?;
    ensure!(output.code == Some(2) && output.stderr.contains("is not confirmed"), "{output}");
    ensure!(output.stderr.contains(why), "expected `{why}`: {output}");
    Ok(())
}

fn confirmed(world: &World, user: &str, identity: &str, by: &str) -> Result<()> {
    let start = world.trail(user)?.first("session_start")?.clone();
    let is = (&start["identity"]["name"], &start["workload"]["confirmed_by"]);
    ensure!(is == (&json!(identity), &json!(by)), "{start}");
    Ok(())
}

pub(super) fn containers(stage: &mut Stage) -> Result<()> {
    let Stage { world, runtimes, .. } = stage;
    let scope = place(world, &format!("docker-{BOXED}.scope"))?;
    // A cgroup of its own each time: answers are remembered by cgroup.
    let step = |name: &str| scope.child(name);
    let told = |running: bool, pid: u32| json!({BOXED: {"running": running, "pid": pid}});
    nobody(world, &step("0")?, "box-unknown", "there is no such container")?;
    let refused = world.agent.command(&["sessions", "--json"])?.ok()?;
    ensure!(refused.contains("there is no such container"), "the refusal is not in the record: {refused}");

    let first = sitter(&step("init")?)?;
    let elsewhere = sitter(&world.places.unknown)?;
    runtimes.say("docker.json", &told(false, first.pid()))?;
    nobody(world, &step("1")?, "box-stopped", "does not run")?;
    runtimes.say("docker.json", &told(true, elsewhere.pid()))?;
    nobody(world, &step("2")?, "box-elsewhere", "that container lives in")?;
    runtimes.say("docker.json", &json!({BOXED: {"running": true, "pid": first.pid(), "as": TRUSTED}}))?;
    nobody(world, &step("3")?, "box-other", "about another container")?;

    runtimes.say("docker.json", &told(true, first.pid()))?;
    let at = step("4")?;
    world.client_in(&at, "127.0.0.1", "box").psql(&["select 1"])?.ok()?;
    confirmed(world, "box", "boxed", "docker")?;
    // Confirmed for this cgroup, so the engine may be gone now; for another it is asked, and time is limited.
    runtimes.say("docker.json", &json!({"hang": true}))?;
    world.client_in(&at, "127.0.0.1", "box-again").psql(&["select 1"])?.ok()?;
    let asked = Instant::now();
    nobody(world, &step("5")?, "box-slow", "did not answer")?;
    ensure!(asked.elapsed() < Duration::from_secs(10), "{:?}", asked.elapsed());
    runtimes.engine = None;
    nobody(world, &step("6")?, "box-down", "cannot be asked")?;
    runtimes.say("docker.json", &json!({}))?;
    runtimes.engine = Some(runtimes.serve("engine.py", "docker")?);
    Ok(())
}

/// `unverified = true`: the identity stands, and policy knows.
pub(super) fn trusted(stage: &mut Stage) -> Result<()> {
    let world = &stage.world;
    let scope = place(world, &format!("docker-{TRUSTED}.scope"))?;
    let client = |user: &str| world.client_in(&scope, "127.0.0.1", user);
    client("trusted").psql(&["select 1"])?.ok()?;
    let start = world.trail("trusted")?.first("session_start")?.clone();
    ensure!(
        start["workload"]["unverified"].as_str().is_some_and(|why| why.contains("no such container")),
        "{start}"
    );
    let write = client("trusted-write").psql(&["update orders set cents = cents where id = 1"])?;
    ensure!(write.stderr.contains("unverified-only-read"), "{write}");
    Ok(())
}

pub(super) fn cri(stage: &mut Stage) -> Result<()> {
    let Stage { world, runtimes, .. } = stage;
    let scope = place(world, &format!("cri-containerd-{LISTED}.scope"))?;
    nobody(world, &scope.child("0")?, "cri-unknown", "there is no such container")?;
    let first = sitter(&scope)?;
    let told = |state: u8| json!({"containers": {LISTED: {"state": state, "pid": first.pid(), "pod": "p"}}});
    runtimes.say("cri.json", &told(2))?;
    nobody(world, &scope.child("1")?, "cri-exited", "does not run")?;
    runtimes.say("cri.json", &told(1))?;
    let at = scope.child("2")?;
    world.client_in(&at, "127.0.0.1", "cri").psql(&["select 1"])?.ok()?;
    confirmed(world, "cri", "listed", "cri")?;
    // The pod is the kubelet's word as well: in another pod's cgroup the same container is a forgery.
    let pod = |uid: &str| format!("/kubepods/burstable/pod{uid}/{LISTED}");
    let shown = identified(world, &["--cgroup", &pod("1505f8a9-c386-80d2-9fe6-1118d6f7704b")])?;
    holds(&shown, &json!({"kind": "k8s"}))?;
    ensure!(
        shown["unverified"].as_str().is_some_and(|why| why.contains("belongs to another pod")),
        "{shown}"
    );
    Ok(())
}

/// systemd is played by its marks: the link it keeps, and the attribute that takes the host's CAP_SYS_ADMIN.
pub(super) fn units(stage: &mut Stage) -> Result<()> {
    let Stage { world, runtimes, .. } = stage;
    let units = runtimes.folder.join("units");
    let invocation = "0123456789abcdef0123456789abcdef";
    let mark = |cgroup: &Cgroup, value: &str| {
        let program =
            format!("import os; os.setxattr({:?}, 'trusted.invocation_id', b'{value}')", cgroup.path());
        Program::new("/usr/bin/python3").args(["-c", &program])
    };
    symlink(invocation, units.join("invocation:e2e-good.service"))?;
    let good = place(world, "e2e-good.service")?;
    nobody(world, &good.child("0")?, "unit-unmarked", "the mark of e2e-good.service")?;
    mark(&good, "ffffffffffffffffffffffffffffffff").run()?.ok()?;
    nobody(world, &good.child("1")?, "unit-before", "as it runs now")?;
    mark(&good, invocation).run()?.ok()?;
    let at = good.child("2")?;
    world.client_in(&at, "127.0.0.1", "unit").psql(&["select 1"])?.ok()?;
    confirmed(world, "unit", "unit", "systemd")?;

    // A user to whom a slice was handed makes a unit of the right name there, and cannot mark it.
    let top = world.places.top.name().trim_start_matches('/').trim_end_matches(".slice").to_owned();
    let slice = place(world, &format!("{top}-handed.slice"))?;
    let user = User::from_name("nobody")?.context("no user nobody")?;
    chown(slice.path(), Some(user.uid.as_raw()), Some(user.gid.as_raw()))?;
    let path = slice.path().join("e2e-good.service");
    Program::new("/bin/mkdir").args([&path]).user("nobody")?.run()?.ok()?;
    let forged = slice.child("e2e-good.service")?;
    let marked = mark(&forged, invocation).user("nobody")?.run()?;
    ensure!(marked.code != Some(0) && marked.stderr.contains("PermissionError"), "{marked}");
    nobody(world, &forged, "unit-forged", "the mark of e2e-good.service")
}

/// Podman itself, for root, with a container that really runs.
pub(super) fn podman(stage: &mut Stage) -> Result<()> {
    let Stage { world, runtimes, .. } = stage;
    let folder = world.scratch.folder("podman", 0o755)?;
    let root = world.scratch.folder("podman/rootfs", 0o755)?;
    for name in ["usr", "proc", "dev", "tmp", "sys", "etc", "run"] {
        fs::create_dir_all(root.join(name))?;
    }
    for name in ["bin", "sbin", "lib", "lib64"] {
        symlink(format!("usr/{name}"), root.join(name))?;
    }
    let podman = |args: &[&str]| {
        let at = |name: &str| folder.join(name).display().to_string();
        Program::new("/usr/bin/podman")
            .args(["--root", &at("store"), "--runroot", &at("run"), "--tmpdir", &at("tmp")])
            .args(["--storage-driver", "vfs", "--cgroup-manager", "cgroupfs", "--events-backend", "file"])
            .args(["--runtime", "/usr/sbin/runc"])
            .args(args)
            .limit(60)
    };
    // Of podman's own making, and left by it.
    let parent = mount_point()?.join("libpod_parent");
    let was_there = parent.exists();
    let socket = runtimes.socket("podman");
    let service = podman(&["system", "service", "--time=0", &format!("unix://{}", socket.display())]);
    let _service = service.log(&folder.join("log"))?.start()?;
    let root = root.display().to_string();
    let run =
        ["run", "-d", "--network", "none", "--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1000:1000"];
    let made =
        podman(&[&run[..], &["--rootfs", "-v", "/usr:/usr:ro", &root, "/usr/bin/sleep", "300"]].concat());
    let id = made.run()?.ok()?.trim().to_owned();
    let outcome = confirmed_by_podman(world, &id, |args| podman(args).run()?.ok());
    podman(&["rm", "--force", "--time", "0", &id]).run()?.ok()?;
    if !was_there {
        wait_for("an empty cgroup", Duration::from_secs(5), || {
            let _ = fs::remove_dir(&parent);
            Ok((!parent.exists()).then_some(()))
        })?;
    }
    outcome
}

fn confirmed_by_podman(world: &World, id: &str, podman: impl Fn(&[&str]) -> Result<String>) -> Result<()> {
    let pid = podman(&["inspect", id, "--format", "{{.State.Pid}}"])?.trim().to_owned();
    let shown = wait_for("the answer of podman", Duration::from_secs(15), || {
        let shown = identified(world, &["--pid", &pid])?;
        Ok((shown["confirmed_by"] == "podman").then_some(shown))
    })?;
    holds(&shown, &json!({"kind": "container", "runtime": "podman", "container": id}))?;
    // The next name of the same form is not known to it.
    let other = identified(world, &["--cgroup", &format!("/{PODMAN}{BOXED}")])?;
    ensure!(other["unverified"].as_str().is_some_and(|why| why.contains("podman says otherwise")), "{other}");
    let cgroup = shown["cgroup"].as_str().context("no cgroup")?;
    podman(&["stop", "--time", "0", id])?;
    let gone = identified(world, &["--cgroup", cgroup])?;
    ensure!(gone["unverified"].as_str().is_some_and(|why| why.contains("does not run")), "{gone}");
    Ok(())
}
