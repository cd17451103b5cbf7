//! Who exactly connected: the executable as it was run, its digest, its ancestors, in the record and for policy; right
//! also for processes, files and cgroups that are gone before anybody looks.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::harness::report::{self, Case};
use crate::harness::spawn::{Output, Program, wait_for};
use crate::harness::trail::{self, Trail, holds};
use crate::harness::world::{POLICY, Wishes, World};

/// Ends at once: connect, write, exit.
const HASTY: &str = include_str!("../../clients/hasty.pl");

pub(super) fn run(filter: Option<&str>) -> Result<()> {
    let mut world = World::start("provenance", Wishes::default())?;
    report::run("provenance", &mut world, CASES, filter, |world| world.agent.log_tail())
}

const CASES: &[Case<World>] = &[
    Case { name: "a session records executable, digest, arguments, ids and ancestors", run: session },
    Case { name: "two processes of one cgroup get two verdicts, by digest", run: two_verdicts },
    Case {
        name: "100 clients that are gone at once are each recorded with their own executable",
        run: hasty,
    },
    Case { name: "sh, python, psql: the chain is recorded in order", run: chain },
    Case { name: "an orphan's ancestors are those that forked it", run: orphan },
    Case { name: "what a process executes after its connect is not what connected", run: changeling },
    Case { name: "a file exchanged after it was run is not hashed in its place", run: exchanged },
    Case { name: "a file written a moment before it was run is not hashed", run: unsettled },
    Case { name: "an executable without a name is called nameless", run: nameless },
    Case { name: "a name in another mount namespace is not the host's", run: elsewhere },
    Case { name: "a script is recorded with its interpreter", run: script },
    Case { name: "a password among the arguments is not recorded", run: password },
    Case { name: "a cgroup that is gone at once still says who it was", run: fleeting_cgroup },
    Case { name: "a process moved into another cgroup is that one's", run: moved },
    Case { name: "a connection that a process brings along is ended as it is moved in", run: brought_along },
    Case {
        name: "cgroups listed before they exist are bypassed and denied from their first process on",
        run: late,
    },
    Case { name: "a new agent knows what ran before it", run: restarted },
];

fn session(world: &mut World) -> Result<()> {
    world.client("whole").psql(&["select 1"])?.ok()?;
    let psql = psql()?;
    let workload = workload(&world.trail("whole")?)?;
    holds(
        &workload,
        &json!({
            "exe": psql,
            "exe_sha256": sha256(&psql)?,
            "comm": "psql",
            "uid": 65534,
            "gid": 65534,
            "ancestors_complete": true,
            "cgroup": world.places.billing_bot.name(),
        }),
    )?;
    ensure!(workload["argv"][0] == psql.display().to_string(), "{workload}");
    ensure!(
        workload["argv"].as_array().is_some_and(|argv| argv.iter().any(|word| word == "select 1")),
        "{workload}"
    );
    // Debian's psql is a wrapper in Perl that becomes the real one; before it, this program, and so on to the first.
    let ancestors = exes(&workload);
    ensure!(ancestors.first().is_some_and(|exe| exe == "/usr/bin/perl"), "{ancestors:?}");
    let own = std::env::current_exe()?.display().to_string();
    ensure!(ancestors.contains(&own), "{own} is not among {ancestors:?}");
    Ok(())
}

fn two_verdicts(world: &mut World) -> Result<()> {
    let psql = sha256(&psql()?)?;
    let policy = format!(
        "{POLICY}\n@id(\"psql-only\") @reason(\"nothing but psql\")\nforbid(principal, action, resource)\n\
         unless {{ context.workload has exe_sha256 && context.workload.exe_sha256 == \"{psql}\" }};\n"
    );
    with_policy(world, &policy, |world| {
        let said = world.client("psql-may").psql(&["select count(*) from orders"])?.ok()?;
        ensure!(said == "40\n", "{said}");
        let source = "import psycopg2, sys\nh, p, u, d = sys.argv[1:]\npsycopg2.connect(host=h, port=p, user=u, dbname=d)";
        let copy = copy_of(world, Path::new("/usr/bin/python3"), "python-copy")?;
        for python in [Path::new("/usr/bin/python3"), &copy] {
            let said = world.client("python-may-not").run(python, &["-c", source])?;
            ensure!(said.stderr.contains("nothing but psql"), "{}: {said}", python.display());
        }
        Ok(())
    })
}

fn hasty(world: &mut World) -> Result<()> {
    let before = trail::sessions(&world.agent)?.len();
    let mut copies = Vec::new();
    for number in 0..10 {
        let copy = copy_of(world, Path::new("/usr/bin/perl"), &format!("perl-{number}"))?;
        copies.push((sha256(&copy)?, copy));
    }
    settle();
    for run in 0..100 {
        let (_, copy) = &copies[run % copies.len()];
        start(world, copy, &["-e", HASTY, "127.0.0.1", &port(world), "hasty", &format!("run-{run}")])?
            .ok()?;
    }
    let workloads = since(world, before, 100)?;
    let mut right = 0;
    for workload in &workloads {
        let tag = workload["argv"].as_array().and_then(|argv| argv.last()?.as_str()).unwrap_or_default();
        let run: usize = tag.strip_prefix("run-").context("no tag")?.parse()?;
        let (digest, copy) = &copies[run % copies.len()];
        holds(workload, &json!({ "exe": copy, "exe_sha256": digest, "ancestors_complete": true }))?;
        right += 1;
    }
    eprintln!("        right: {right} of {}", workloads.len());
    ensure!(right == 100, "{right} of 100");
    Ok(())
}

fn chain(world: &mut World) -> Result<()> {
    let psql = format!("/usr/bin/psql -XAt -h 127.0.0.1 -p {} -U chain -d shop -c 'select 1'", port(world));
    let python =
        format!("import subprocess; subprocess.run({:?}, shell=False, check=True)", ["sh", "-c", &psql]);
    let script = format!("/usr/bin/python3 -c '{}'; true", python.replace('\'', "'\\''"));
    start(world, Path::new("/bin/sh"), &["-c", &script])?.ok()?;
    let workload = workload(&world.trail("chain")?)?;
    let named = exes(&workload);
    let names: Vec<&str> = named.iter().filter_map(|exe| exe.rsplit('/').next()).collect();
    // psql, before that the wrapper in Perl, before that a shell (which became it, or forked it).
    ensure!(names.first() == Some(&"perl"), "{names:?}");
    let shells = names.iter().filter(|name| matches!(**name, "dash" | "sh" | "bash")).count();
    let python = names.iter().position(|name| name.starts_with("python3")).context("no python")?;
    let outer = names.iter().rposition(|name| matches!(*name, "dash" | "sh" | "bash")).context("no shell")?;
    ensure!(shells >= 2 && python < outer, "{names:?}");
    holds(&workload, &json!({ "ancestors_complete": true }))
}

fn orphan(world: &mut World) -> Result<()> {
    let copy = copy_of(world, Path::new("/usr/bin/perl"), "begetter")?;
    let source = include_str!("../../clients/orphan.pl");
    start(world, &copy, &["-e", source, "127.0.0.1", &port(world), "orphan"])?.ok()?;
    let workload = workload(&world.trail("orphan")?)?;
    let begetter = copy.display().to_string();
    let pids: Vec<&Value> = workload["ancestors"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|ancestor| ancestor["exe"] == begetter)
        .map(|ancestor| &ancestor["pid"])
        .collect();
    // The child and its parent, both gone by the time of the connect.
    ensure!(pids.len() >= 2, "{workload}");
    holds(&workload, &json!({ "ancestors_complete": true }))
}

fn changeling(world: &mut World) -> Result<()> {
    let before = trail::sessions(&world.agent)?.len();
    let source = include_str!("../../clients/changeling.pl");
    let agent = Pid::from_raw(i32::try_from(world.agent.pid()?)?);
    // While the agent stands still, the connection waits and its process becomes another.
    kill(agent, Signal::SIGSTOP)?;
    let running = program(world, Path::new("/usr/bin/perl"))?
        .args(["-e", source, "127.0.0.1", &port(world), "changeling"])
        .start();
    let became = running.and_then(|running| {
        let exe = PathBuf::from(format!("/proc/{}/exe", running.pid()));
        wait_for("the process to become sleep", Duration::from_secs(2), || {
            Ok(fs::read_link(&exe)?.ends_with("sleep").then_some(()))
        })?;
        Ok(running)
    });
    kill(agent, Signal::SIGCONT)?;
    let _running = became?;
    let workloads = since(world, before, 1)?;
    holds(
        &workloads[0],
        &json!({ "exe": "/usr/bin/perl", "exe_sha256": sha256(Path::new("/usr/bin/perl"))? }),
    )
}

fn exchanged(world: &mut World) -> Result<()> {
    let copy = copy_of(world, Path::new("/usr/bin/perl"), "exchanged")?;
    settle();
    let workload = while_stopped(world, |world| {
        start(world, &copy, &["-e", HASTY, "127.0.0.1", &port(world), "exchanged"])?.ok()?;
        let other = copy_of(world, Path::new("/usr/bin/perl"), "exchanged-for")?;
        fs::rename(other, &copy).context("exchanging the file")
    })?;
    ensure!(workload["exe_sha256"].is_null(), "{workload}");
    ensure!(workload["exe"] == copy.display().to_string(), "{workload}");
    ensure!(text(&workload, "exe_unhashed").contains("not there any more, or was changed"), "{workload}");
    Ok(())
}

fn unsettled(world: &mut World) -> Result<()> {
    let before = trail::sessions(&world.agent)?.len();
    let copy = copy_of(world, Path::new("/usr/bin/perl"), "unsettled")?;
    start(world, &copy, &["-e", HASTY, "127.0.0.1", &port(world), "unsettled"])?.ok()?;
    let workload = &since(world, before, 1)?[0];
    ensure!(text(workload, "exe_unhashed").contains("a moment before"), "{workload}");
    Ok(())
}

fn nameless(world: &mut World) -> Result<()> {
    let before = trail::sessions(&world.agent)?.len();
    let client = world.client("nameless");
    client.python(include_str!("../../clients/memfd.py"), &[HASTY])?.ok()?;
    holds(&since(world, before, 1)?[0], &json!({ "exe": "nameless:/memfd:ghost" }))
}

/// Who may make namespaces can put anything under any name, without any privilege.
fn elsewhere(world: &mut World) -> Result<()> {
    let before = trail::sessions(&world.agent)?.len();
    let evil = copy_of(world, Path::new("/usr/bin/perl"), "evil")?;
    // The namespace and its names end with the process: a digest takes one that is there for a moment.
    let lasting = format!("{HASTY}\nsleep 1;");
    let psql = psql()?;
    settle();
    let script = format!(
        "mount --bind {} {psql} && exec {psql} -e \"$1\" 127.0.0.1 {} elsewhere",
        evil.display(),
        port(world),
        psql = psql.display()
    );
    start(world, Path::new("/usr/bin/unshare"), &["-Urm", "/bin/sh", "-c", &script, "sh", &lasting])?.ok()?;
    let workload = &since(world, before, 1)?[0];
    let exe = format!("elsewhere:{}", psql.display());
    holds(workload, &json!({ "exe": exe, "exe_sha256": sha256(&evil)? }))
}

fn script(world: &mut World) -> Result<()> {
    let before = trail::sessions(&world.agent)?.len();
    let path = world.scratch.folder("bin", 0o755)?.join("client.pl");
    fs::write(&path, format!("#!/usr/bin/perl\n{HASTY}"))?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    start(world, &path, &["127.0.0.1", &port(world), "script"])?.ok()?;
    let workload = &since(world, before, 1)?[0];
    holds(workload, &json!({ "exe": "/usr/bin/perl", "script": path }))?;
    ensure!(workload["argv"][1] == path.display().to_string(), "{workload}");
    Ok(())
}

fn password(world: &mut World) -> Result<()> {
    let uri = format!("postgres://argued:hunter2@127.0.0.1:{}/shop", port(world));
    start(world, Path::new("/usr/bin/psql"), &["-XAt", "-d", &uri, "-c", "select 1"])?.ok()?;
    let workload = workload(&world.trail("argued")?)?.to_string();
    ensure!(workload.contains("argued:***@127.0.0.1") && !workload.contains("hunter2"), "{workload}");
    Ok(())
}

fn fleeting_cgroup(world: &mut World) -> Result<()> {
    let fleeting = world.places.billing_bot.path().join("fleeting");
    let workload = while_stopped(world, |world| {
        fs::create_dir(&fleeting)?;
        let script = format!("echo 0 > {}/cgroup.procs; exec /usr/bin/perl -e \"$@\"", fleeting.display());
        // As root, who may move himself.
        let moved = Program::new("/bin/sh").inside(&world.places.billing_bot)?.limit(20);
        moved.args(["-c", &script, "sh", HASTY, "127.0.0.1", &port(world), "fleeting"]).run()?.ok()?;
        wait_for("an empty cgroup", Duration::from_secs(2), || Ok(fs::remove_dir(&fleeting).ok()))
    })?;
    let name = format!("{}/fleeting", world.places.billing_bot.name());
    holds(&workload, &json!({ "cgroup": name }))?;
    let last = trail::sessions(&world.agent)?.pop().context("no session")?;
    ensure!(last["identity"] == "billing-bot", "{last}");
    Ok(())
}

fn moved(world: &mut World) -> Result<()> {
    let script = format!(
        "echo 0 > {}/cgroup.procs; exec /usr/bin/psql -XAt -h 127.0.0.1 -p {} -U moved -d shop -c 'select 1'",
        world.places.idle_bot.path().display(),
        port(world)
    );
    let output =
        Program::new("/bin/sh").inside(&world.places.billing_bot)?.limit(20).args(["-c", &script]).run()?;
    ensure!(
        output.refused()?.contains("no policy permits connect"),
        "an identity without permission was served"
    );
    let last = trail::sessions(&world.agent)?.pop().context("no session")?;
    ensure!(last["identity"] == "idle-bot", "{last}");
    Ok(())
}

fn brought_along(world: &mut World) -> Result<()> {
    let ready = world.scratch.folder("go", 0o777)?.join("brought-along");
    let source = "import socket, sys\ns = socket.create_connection(('127.0.0.1', int(sys.argv[1])))\n\
        open(sys.argv[2], 'w').close()\ns.settimeout(20)\n\
        try: print('bytes', s.recv(1))\n\
        except OSError as error: print(error.strerror)";
    let running = Program::new("/usr/bin/python3")
        .inside(&world.places.outside)?
        .limit(30)
        .args(["-c", source, &port(world)])
        .args([&ready])
        .start()?;
    wait_for("its connection", Duration::from_secs(10), || Ok(ready.exists().then_some(())))?;
    fs::write(world.places.billing_bot.path().join("cgroup.procs"), running.pid().to_string())?;
    let said = running.finish(Duration::from_secs(15))?.ok()?;
    ensure!(said == "Software caused connection abort\n", "{said}");
    Ok(())
}

fn late(world: &mut World) -> Result<()> {
    let [free, barred] =
        ["late-free", "late-barred"].map(|name| format!("{}/{name}", world.places.top.name()));
    let good = fs::read_to_string(&world.agent.config)?;
    let listed = good
        .replace("bypass = [", &format!("bypass = [{free:?}, "))
        .replace("deny = [", &format!("deny = [{barred:?}, "));
    fs::write(&world.agent.config, listed)?;
    reload(world)?;
    let checked = check_late(world);
    world.write_config()?;
    reload(world)?;
    checked
}

fn check_late(world: &World) -> Result<()> {
    let count = trail::sessions(&world.agent)?.len();
    for _ in 0..5 {
        let free = world.places.top.child("late-free")?;
        let client = world.client_in(&free, "127.0.0.1", "shop_scram").env("PGPASSWORD", "wrong");
        let said = client.psql(&["select 1"])?.refused()?;
        ensure!(said.contains("password authentication failed"), "not at the server itself: {said}");
        let barred = world.places.top.child("late-barred")?;
        let below = barred.child("below")?;
        let said = world.client_in(&below, "127.0.0.1", "barred").psql(&["select 1"])?.refused()?;
        ensure!(said.contains("Operation not permitted"), "{said}");
        // Dropped here, and made again: another id under the same name.
    }
    ensure!(trail::sessions(&world.agent)?.len() == count, "a bypassed or barred client became a session");
    Ok(())
}

fn restarted(world: &mut World) -> Result<()> {
    // Started under one agent, connecting under the next.
    let go = world.scratch.folder("go", 0o777)?.join("restarted");
    let script = format!(
        "while ! test -e {}; do sleep 0.05; done; /usr/bin/psql -XAt -h 127.0.0.1 -p {} -U survivor -d shop -c 'select 1'",
        go.display(),
        port(world)
    );
    let running = program(world, Path::new("/bin/sh"))?.args(["-c", &script]).start()?;
    world.agent.stop()?;
    let pins = world.agent.bpffs.join("pins");
    world.agent.command(&["detach"])?.ok()?;
    ensure!(!pins.join("maps/TASKS").exists(), "detach left maps behind");
    world.start_agent()?;
    fs::write(&go, "")?;
    running.finish(Duration::from_secs(20))?.ok()?;
    let workload = workload(&world.trail("survivor")?)?;
    holds(&workload, &json!({ "exe": psql()?, "ancestors_complete": true }))?;
    let named = exes(&workload);
    ensure!(named.iter().any(|exe| exe.ends_with("/dash") || exe.ends_with("/sh")), "{named:?}");
    Ok(())
}

/// Runs something while the agent stands still, and returns the workload of the connection made meanwhile.
fn while_stopped(world: &World, act: impl FnOnce(&World) -> Result<()>) -> Result<Value> {
    let before = trail::sessions(&world.agent)?.len();
    let agent = Pid::from_raw(i32::try_from(world.agent.pid()?)?);
    kill(agent, Signal::SIGSTOP)?;
    let done = act(world);
    kill(agent, Signal::SIGCONT)?;
    done?;
    Ok(since(world, before, 1)?.remove(0))
}

/// The workloads of the sessions after the first `before`, refused ones included, once there are `wanted`.
fn since(world: &World, before: usize, wanted: usize) -> Result<Vec<Value>> {
    let sessions = wait_for(&format!("{wanted} more sessions"), Duration::from_secs(30), || {
        let sessions = trail::sessions(&world.agent)?;
        Ok((sessions.len() >= before + wanted).then_some(sessions))
    })?;
    let mut workloads = Vec::new();
    for session in sessions.iter().skip(before) {
        let id = text(session, "id");
        let events = world.agent.command(&["replay", &id, "--events"])?.ok()?;
        let stream = serde_json::Deserializer::from_str(&events).into_iter::<Value>();
        let found = stream.filter_map(Result::ok).map(|record| record["event"]["workload"].clone());
        let workload = found.into_iter().find(|workload| !workload.is_null());
        workloads.push(workload.with_context(|| format!("no workload in {events}"))?);
    }
    ensure!(workloads.len() == wanted, "{} sessions where {wanted} were due", workloads.len());
    Ok(workloads)
}

fn with_policy(world: &World, policy: &str, act: impl FnOnce(&World) -> Result<()>) -> Result<()> {
    world.write_policy(policy)?;
    let done = reload(world).and_then(|()| act(world));
    world.write_policy(POLICY)?;
    reload(world)?;
    done
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

fn workload(trail: &Trail) -> Result<Value> {
    Ok(trail.first("session_start")?["workload"].clone())
}

fn exes(workload: &Value) -> Vec<String> {
    let ancestors = workload["ancestors"].as_array().into_iter().flatten();
    ancestors.map(|ancestor| text(ancestor, "exe")).collect()
}

fn text(value: &Value, field: &str) -> String {
    value[field].as_str().unwrap_or_default().to_owned()
}

/// A program of the bot's.
fn program(world: &World, path: &Path) -> Result<Program> {
    Program::new(path).user("nobody")?.inside(&world.places.billing_bot).map(|program| program.limit(20))
}

fn start(world: &World, path: &Path, args: &[&str]) -> Result<Output> {
    program(world, path)?.args(args).run()
}

fn port(world: &World) -> String {
    world.postgres.port.to_string()
}

/// A copy with bytes of its own behind the end, so that its digest is its own too.
fn copy_of(world: &World, original: &Path, name: &str) -> Result<PathBuf> {
    let copy = world.scratch.folder("bin", 0o755)?.join(name);
    let mut bytes = fs::read(original).with_context(|| format!("reading {}", original.display()))?;
    bytes.extend_from_slice(name.as_bytes());
    fs::write(&copy, bytes)?;
    fs::set_permissions(&copy, fs::Permissions::from_mode(0o755))?;
    Ok(copy)
}

/// Longer than the agent takes a change for one that may not be the last.
fn settle() {
    std::thread::sleep(Duration::from_millis(120));
}

/// The real psql, which Debian's wrapper runs.
fn psql() -> Result<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").context("no PostgreSQL of Debian's")?;
    let mut found: Vec<PathBuf> = versions
        .flatten()
        .map(|version| version.path().join("bin/psql"))
        .filter(|path| path.exists())
        .collect();
    found.sort();
    found.pop().context("no psql")
}

fn sha256(path: &Path) -> Result<String> {
    let said = Program::new("/usr/bin/sha256sum").args([path]).run()?.ok()?;
    Ok(said.split(' ').next().unwrap_or_default().to_owned())
}
