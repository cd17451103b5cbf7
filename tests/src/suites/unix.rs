//! Databases on unix sockets, and raw capabilities: what passes no network hook.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::harness::report::{self, Case};
use crate::harness::spawn::{Output, Program, Running, wait_for};
use crate::harness::trail;
use crate::harness::world::{Wishes, World};

/// Connects to the socket of that name, `@` for an abstract one, and says what came of it.
const TRY: &str = "import socket, sys\ns = socket.socket(socket.AF_UNIX)\nname = sys.argv[1]\n\
    try: s.connect('\\0' + name[1:] if name[0] == '@' else name); print('connected')\n\
    except OSError as error: print(error.strerror)";

/// Listens on a name until it is killed.
const LISTEN: &str = "import socket, sys, time, os\ns = socket.socket(socket.AF_UNIX)\nname = sys.argv[1]\n\
    s.bind('\\0' + name[1:] if name[0] == '@' else name)\n\
    if name[0] != '@': os.chmod(name, 0o666)\n\
    s.listen(8); print('listening', flush=True); time.sleep(600)";

pub(super) fn run(filter: Option<&str>) -> Result<()> {
    let mut yard = Yard::new()?;
    report::run("unix", &mut yard, CASES, filter, |yard| yard.world.agent.log_tail())
}

const CASES: &[Case<Yard>] = &[
    Case { name: "without a protected socket unix sockets are nobody's business", run: unprotected },
    Case {
        name: "a protected socket is not reached by its own name, and the attempt is recorded",
        run: direct,
    },
    Case {
        name: "nor by a symbolic link, a relative name or a detour through what is allowed",
        run: other_names,
    },
    Case { name: "nor by an abstract name that leads to it", run: abstract_name },
    Case {
        name: "nor by a mount over an allowed name, which anybody may make for himself",
        run: mounted_over,
    },
    Case { name: "nor by an allowed name below a root directory of the attacker's", run: chrooted },
    Case { name: "what is allowed is reached, by path and by abstract name", run: allowed },
    Case { name: "a bypassed cgroup and everybody outside reach it", run: others },
    Case { name: "an allow-list with holes is refused", run: holes },
    Case { name: "datagrams are left alone", run: datagrams },
    Case { name: "a use of CAP_NET_RAW is recorded, or kills, as configured", run: net_raw },
];

struct Yard {
    world: World,
    /// The server's socket.
    socket: PathBuf,
    /// A directory that is root's alone.
    own: PathBuf,
    abstract_name: String,
    listeners: Vec<Running>,
}

impl Yard {
    fn new() -> Result<Self> {
        let world = World::start("unix", Wishes::default())?;
        let socket = world.postgres.file(&format!(".s.PGSQL.{}", world.postgres.port));
        ensure!(socket.exists(), "no socket at {}", socket.display());
        let id = std::process::id();
        let own = PathBuf::from(format!("/run/chaperone-e2e-unix-{id}"));
        fs::create_dir(&own)?;
        fs::set_permissions(&own, fs::Permissions::from_mode(0o755))?;
        let abstract_name = format!("@chaperone-e2e-unix-{id}");
        let mut yard = Self { world, socket, own, abstract_name, listeners: Vec::new() };
        let served = yard.own.join("served.sock").display().to_string();
        for name in [served, yard.abstract_name.clone(), format!("{}-other", yard.abstract_name)] {
            yard.listen(&name)?;
        }
        Ok(yard)
    }

    fn listen(&mut self, name: &str) -> Result<()> {
        let running = Program::new("/usr/bin/python3").args(["-c", LISTEN, name]).start()?;
        let table = name.to_owned();
        wait_for("the listener", Duration::from_secs(10), || {
            Ok(fs::read_to_string("/proc/net/unix")?.contains(&table).then_some(()))
        })?;
        self.listeners.push(running);
        Ok(())
    }

    /// The configuration with the server's socket protected and `allow` allowed, in force while `act` runs.
    fn protected(&mut self, allow: &[&str], act: impl FnOnce(&Self) -> Result<()>) -> Result<()> {
        self.configure(allow, "off")?;
        let done = reload(&self.world).and_then(|()| act(self));
        self.world.write_config()?;
        reload(&self.world)?;
        done
    }

    fn configure(&self, allow: &[&str], guard: &str) -> Result<()> {
        self.world.write_config()?;
        let plain = fs::read_to_string(&self.world.agent.config)?;
        let text = plain
            .replacen(
                "listen_port",
                &format!("unix_allow = {allow:?}\nguard_net_raw = {guard:?}\nlisten_port"),
                1,
            )
            .replacen("env = \"prod\"", &format!("env = \"prod\"\nunix_sockets = [{:?}]", self.socket), 1);
        Ok(fs::write(&self.world.agent.config, text)?)
    }

    fn program(&self, path: &str) -> Result<Program> {
        Ok(Program::new(path).user("nobody")?.inside(&self.world.places.billing_bot)?.limit(20))
    }

    /// What a governed process is told that connects to `name`.
    fn tries(&self, name: impl AsRef<Path>) -> Result<String> {
        let output = self.program("/usr/bin/python3")?.args(["-c", TRY]).args([name.as_ref()]).run()?;
        Ok(output.ok()?.trim().to_owned())
    }

    fn refused(&self, name: impl AsRef<Path>) -> Result<()> {
        let said = self.tries(name.as_ref())?;
        ensure!(said == "Operation not permitted", "{}: {said}", name.as_ref().display());
        Ok(())
    }

    fn psql(&self, program: Program) -> Result<Output> {
        let folder = self.socket.parent().context("no folder")?;
        let port = self.world.postgres.port.to_string();
        program
            .args(["-XAt", "-U", "postgres", "-d", "shop", "-c", "select 1", "-p", &port, "-h"])
            .args([folder])
            .run()
    }

    /// The record of a refused name.
    fn recorded(&self, kind: &str, destination: &str) -> Result<Value> {
        wait_for(&format!("the record of {kind} {destination}"), Duration::from_secs(10), || {
            let events = trail::everything(&self.world.agent)?;
            Ok(events.into_iter().rev().find(|event| {
                event["event"] == "kernel_refusal"
                    && event["kind"] == kind
                    && event["destination"] == destination
            }))
        })
    }
}

impl Drop for Yard {
    fn drop(&mut self) {
        self.listeners.clear();
        let _ = fs::remove_dir_all(&self.own);
    }
}

fn unprotected(yard: &mut Yard) -> Result<()> {
    let psql = yard.program("/usr/bin/psql")?;
    ensure!(yard.psql(psql)?.ok()? == "1\n", "the server was not reached");
    Ok(())
}

fn direct(yard: &mut Yard) -> Result<()> {
    yard.protected(&[], |yard| {
        let error = yard.psql(yard.program("/usr/bin/psql")?)?.refused()?;
        ensure!(error.contains("Operation not permitted"), "{error}");
        // Root is no exception, nor is a cgroup without an identity.
        let unknown = &yard.world.places.unknown;
        let error = yard.psql(Program::new("/usr/bin/psql").inside(unknown)?.limit(20))?.refused()?;
        ensure!(error.contains("Operation not permitted"), "{error}");
        let event = yard.recorded("denied_unix", &format!("unix:{}", yard.socket.display()))?;
        ensure!(event["comm"] == "psql", "{event}");
        Ok(())
    })
}

fn other_names(yard: &mut Yard) -> Result<()> {
    let folder = yard.world.scratch.folder("links", 0o777)?;
    let link = folder.join("harmless.sock");
    symlink(&yard.socket, &link)?;
    let allow = format!("{}/*", yard.own.display());
    yard.protected(&[&allow], |yard| {
        yard.refused(&link)?;
        yard.refused(format!("{}/../..{}", yard.own.display(), yard.socket.display()))?;
        yard.refused(format!("/.{}", yard.socket.display()))?;
        let socket = yard.socket.file_name().context("no name")?;
        let folder = yard.socket.parent().context("no folder")?.display();
        let script = format!("cd {folder} && exec /usr/bin/python3 -c \"$0\" ./{}", socket.display());
        let said = yard.program("/bin/sh")?.args(["-c", &script, TRY]).run()?.ok()?;
        ensure!(said == "Operation not permitted\n", "a relative name: {said}");
        let descriptor = "import os, socket\nd = os.open(os.path.dirname(S), os.O_PATH)\n\
            s = socket.socket(socket.AF_UNIX)\n\
            try: s.connect(f'/proc/self/fd/{d}/' + os.path.basename(S)); print('connected')\n\
            except OSError as error: print(error.strerror)";
        let source = descriptor.replace("(S)", &format!("({:?})", yard.socket));
        let said = yard.program("/usr/bin/python3")?.args(["-c", &source]).run()?.ok()?;
        ensure!(said == "Operation not permitted\n", "through a descriptor: {said}");
        Ok(())
    })
}

fn abstract_name(yard: &mut Yard) -> Result<()> {
    yard.protected(&[], |yard| {
        yard.refused(&yard.abstract_name)?;
        yard.recorded("denied_unix", &format!("unix:{}", yard.abstract_name)).map(drop)
    })
}

fn mounted_over(yard: &mut Yard) -> Result<()> {
    let served = yard.own.join("served.sock").display().to_string();
    yard.protected(&[&served], |yard| {
        ensure!(yard.tries(&served)? == "connected", "the allowed name itself");
        // The file under the allowed name is the database's socket, in a mount namespace of the attacker's.
        let script = format!(
            "mount --bind {} {served} && exec /usr/bin/python3 -c \"$0\" {served}",
            yard.socket.display()
        );
        let said =
            yard.program("/usr/bin/unshare")?.args(["-Urm", "/bin/sh", "-c", &script, TRY]).run()?.ok()?;
        ensure!(said == "Operation not permitted\n", "{said}");
        Ok(())
    })
}

fn chrooted(yard: &mut Yard) -> Result<()> {
    // The server's folder as root directory: an allowed name in it is whatever its owner made there.
    let folder = yard.socket.parent().context("no folder")?.to_owned();
    let name = yard.socket.file_name().context("no name")?.to_owned();
    let cage = folder.join("run");
    fs::create_dir_all(&cage)?;
    let inner = PathBuf::from("/run/caged.sock");
    symlink(Path::new("/").join(&name), folder.join("run/caged.sock"))?;
    let source = "import os, socket\nos.chroot(R)\nos.chdir('/')\ns = socket.socket(socket.AF_UNIX)\n\
        try: s.connect('/run/caged.sock'); print('connected')\n\
        except OSError as error: print(error.strerror)"
        .replace("(R)", &format!("({folder:?})"));
    let attempt = |yard: &Yard| {
        let program = yard.program("/usr/bin/unshare")?.args(["-Ur", "/usr/bin/python3", "-c", &source]);
        anyhow::Ok(program.run()?.ok()?.trim().to_owned())
    };
    let reached = attempt(yard)?;
    let done = yard.protected(&[&inner.display().to_string()], |yard| {
        let said = attempt(yard)?;
        ensure!(said == "Operation not permitted", "{said}");
        Ok(())
    });
    fs::remove_dir_all(&cage)?;
    ensure!(reached == "connected", "the way there does not exist: {reached}");
    done
}

fn allowed(yard: &mut Yard) -> Result<()> {
    let served = yard.own.join("served.sock").display().to_string();
    let name = yard.abstract_name.clone();
    yard.protected(&[&served, &name], |yard| {
        ensure!(yard.tries(&served)? == "connected", "the allowed path");
        ensure!(yard.tries(&yard.abstract_name)? == "connected", "the allowed abstract name");
        // A longer name is another name.
        yard.refused(format!("{}-other", yard.abstract_name))
    })?;
    let below = format!("{}/*", yard.own.display());
    yard.protected(&[&below, &format!("{name}*")], |yard| {
        ensure!(yard.tries(&served)? == "connected", "a path below the allowed one");
        ensure!(yard.tries(format!("{name}-other"))? == "connected", "a name with the allowed beginning");
        Ok(())
    })
}

fn others(yard: &mut Yard) -> Result<()> {
    yard.protected(&[], |yard| {
        for cgroup in [&yard.world.places.bypassed, &yard.world.places.outside] {
            let program = Program::new("/usr/bin/psql").user("nobody")?.inside(cgroup)?.limit(20);
            ensure!(yard.psql(program)?.ok()? == "1\n", "{} did not reach it", cgroup.name());
        }
        Ok(())
    })
}

fn holes(yard: &mut Yard) -> Result<()> {
    let folder = yard.socket.parent().context("no folder")?.display().to_string();
    for (allow, word) in [
        (format!("{folder}/*"), "protects"),
        ("/tmp/harmless.sock".to_owned(), "others than root"),
        ("/*".to_owned(), "everything"),
    ] {
        yard.configure(&[&allow], "off")?;
        let mark = yard.world.agent.log().len();
        yard.world.agent.reload()?;
        let said = wait_for("the refusal", Duration::from_secs(10), || {
            let log = yard.world.agent.log_since(mark);
            Ok(log.contains("reload refused").then_some(log))
        });
        yard.world.write_config()?;
        let said = said?;
        ensure!(said.contains(word), "{allow}: {said}");
    }
    reload(&yard.world)
}

fn datagrams(yard: &mut Yard) -> Result<()> {
    let path = yard.own.join("datagrams.sock");
    let source = "import socket, sys, time, os\ns = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)\n\
        s.bind(sys.argv[1]); os.chmod(sys.argv[1], 0o666); print(s.recv(100).decode())";
    let receiver = Program::new("/usr/bin/python3").args(["-c", source]).args([&path]).limit(20).start()?;
    wait_for("the receiver", Duration::from_secs(10), || Ok(path.exists().then_some(())))?;
    yard.protected(&[], |yard| {
        let send = "import socket, sys, time\ns = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)\n\
            time.sleep(0.2); s.connect(sys.argv[1]); s.send(b'logged')";
        yard.program("/usr/bin/python3")?.args(["-c", send]).args([&path]).run()?.ok().map(drop)
    })?;
    ensure!(receiver.finish(Duration::from_secs(10))?.ok()? == "logged\n", "the datagram did not come");
    Ok(())
}

/// As root, who has the capability; the socket itself is opened and closed, nothing is sent.
fn net_raw(yard: &mut Yard) -> Result<()> {
    let attempt = |yard: &Yard| {
        let source = "import socket; socket.socket(socket.AF_PACKET, socket.SOCK_RAW); print('opened')";
        let program = Program::new("/usr/bin/python3").inside(&yard.world.places.billing_bot)?;
        program.limit(20).args(["-c", source]).run()
    };
    for (guard, opened) in [("record", true), ("kill", false)] {
        yard.world.agent.stop()?;
        yard.configure(&[], guard)?;
        yard.world.start_agent()?;
        let output = attempt(yard)?;
        if opened {
            ensure!(output.ok()? == "opened\n", "recording is not killing");
            yard.recorded("net_raw_used", "cap_net_raw")?;
        } else {
            ensure!(output.signal == Some(Signal::SIGKILL as i32), "{output}");
            yard.recorded("net_raw_killed", "cap_net_raw")?;
        }
    }
    yard.world.agent.stop()?;
    yard.world.write_config()?;
    yard.world.start_agent()?;
    ensure!(attempt(yard)?.ok()? == "opened\n", "the guard is still there");
    Ok(())
}

/// Until the agent says that it did.
fn reload(world: &World) -> Result<()> {
    let mark = world.agent.log().len();
    world.agent.reload()?;
    wait_for("the reload", Duration::from_secs(10), || {
        let log = world.agent.log_since(mark);
        ensure!(!log.contains("reload refused"), "{log}");
        Ok(log.contains("reloaded").then_some(()))
    })
}
