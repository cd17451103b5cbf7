//! Who exactly connected: the executable as it was run, its digest, its ancestors, in the record and for policy; right
//! also for processes, files and cgroups that are gone before anybody looks.

mod tools;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use self::tools::{
    copy_of, exes, port, program, psql, reload, settle, sha256, since, start, text, while_stopped,
    with_policy, workload,
};
use crate::harness::report::{self, Case};
use crate::harness::spawn::{Program, wait_for};
use crate::harness::trail::{self, holds};
use crate::harness::world::{POLICY, Wishes, World};

/// Ends at once: connect, write, exit.
const HASTY: &str = include_str!("../../../clients/hasty.pl");

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
    Case { name: "hashing a large executable holds nobody else up, and is done once", run: large },
    Case { name: "a file system that never answers holds nobody else up", run: silent },
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

fn large(world: &mut World) -> Result<()> {
    let before = trail::sessions(&world.agent)?.len();
    let large = copy_of(world, Path::new("/usr/bin/perl"), "large")?;
    fs::OpenOptions::new().write(true).open(&large)?.set_len(256 << 20)?;
    settle();
    let large_runs = || {
        let client = program(world, &large)?;
        // It waits for the agent's answer, which comes when its session begins.
        let waiting = format!("{HASTY}\nsysread($s, my $answer, 1);");
        let started = Instant::now();
        client.args(["-e", &waiting, "127.0.0.1", &port(world), "large"]).run()?.ok()?;
        anyhow::Ok(started.elapsed())
    };
    let (first, others) = std::thread::scope(|scope| {
        let first = scope.spawn(large_runs);
        let mut slowest = Duration::ZERO;
        for _ in 0..5 {
            let started = Instant::now();
            world.client("beside").psql(&["select 1"])?.ok()?;
            slowest = slowest.max(started.elapsed());
        }
        let first = first.join().map_err(|_panic| anyhow::anyhow!("the client's thread panicked"))??;
        anyhow::Ok((first, slowest))
    })?;
    let second = large_runs()?;
    eprintln!(
        "        256 MiB: first {:.2} s, then {:.2} s; psql beside it at most {:.2} s",
        first.as_secs_f64(),
        second.as_secs_f64(),
        others.as_secs_f64()
    );
    let digest = sha256(&large)?;
    fs::remove_file(&large)?;
    let workloads = since(world, before, 7)?;
    let own: Vec<&Value> =
        workloads.iter().filter(|workload| workload["exe"] == large.display().to_string()).collect();
    ensure!(own.len() == 2 && own.iter().all(|workload| workload["exe_sha256"] == digest), "{own:?}");
    ensure!(second < first, "the second was hashed again");
    Ok(())
}

fn silent(world: &mut World) -> Result<()> {
    let before = trail::sessions(&world.agent)?.len();
    let folder = world.scratch.folder("silent", 0o755)?;
    let client = folder.join("perl");
    fs::copy("/usr/bin/perl", &client)?;
    settle();
    let ready = world.scratch.folder("go", 0o777)?.join("silent");
    let agent = Pid::from_raw(i32::try_from(world.agent.pid()?)?);
    kill(agent, Signal::SIGSTOP)?;
    // As root, who may mount; a container's or a user namespace's would do.
    let running = Program::new("/usr/bin/unshare")
        .inside(&world.places.billing_bot)?
        .limit(20)
        .args(["-m", "/usr/bin/python3", "-c", include_str!("../../../clients/silent_fuse.py")])
        .args([&folder, &ready, &client])
        .args(["-e", HASTY, "127.0.0.1", &port(world), "silent"])
        .start();
    let mounted = running.and_then(|running| {
        wait_for("the mount", Duration::from_secs(2), || Ok(ready.exists().then_some(())))?;
        Ok(running)
    });
    kill(agent, Signal::SIGCONT)?;
    let mut running = mounted?;
    for _ in 0..4 {
        let started = Instant::now();
        world.client("undisturbed").psql(&["select 1"])?.ok()?;
        ensure!(started.elapsed() < Duration::from_millis(1500), "held up for {:?}", started.elapsed());
    }
    let workloads = since(world, before, 5)?;
    running.kill();
    let exe = format!("elsewhere:{}", client.display());
    let workload = workloads.iter().find(|workload| workload["exe"] == exe).context("no such workload")?;
    ensure!(text(workload, "exe_unhashed").contains("took too long"), "{workload}");
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
    let source = include_str!("../../../clients/orphan.pl");
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
    let source = include_str!("../../../clients/changeling.pl");
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
    client.python(include_str!("../../../clients/memfd.py"), &[HASTY])?.ok()?;
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
