//! The agent killed at random moments, again and again, under clients that come back each time: of databases and hosts.
//!
//! Whatever a client kept of what it was sent is the beginning of what the record has; every transaction that pgbench
//! counted and every file that scp brought is there; and the chain verifies after each start.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::unistd::{Uid, User, chown};

use super::{CAPTURE, sessions};
use crate::harness::spawn::{Program, Running, wait_for};
use crate::harness::sshd::Sshd;
use crate::harness::trail;
use crate::harness::world::{POLICY, World};

/// Kills between two comparisons; then the journal is begun anew, so that verifying stays quick.
const ROUND: u64 = 12;
/// How long it goes on by default, and how many kills there are at least. Where nobody waits for it, longer.
const BUDGET: Duration = Duration::from_secs(30);
const BUDGET_IN_CI: Duration = Duration::from_secs(120);
const LEAST: u64 = ROUND;

const HOSTS: &str = "
@id(\"bots-log-in\")
permit(principal in Group::\"ai-agents\", action == Action::\"connect\", resource is Account in Env::\"prod\");
@id(\"bots-run\")
permit(principal in Group::\"ai-agents\", action in [Action::\"ssh:exec\", Action::\"ssh:sftp\", Action::\"file:all\"],
    resource in Env::\"prod\");
";

/// A folder for each kind of client, where it keeps what it was sent.
struct Load {
    top: PathBuf,
    clients: Vec<Running>,
}

#[derive(Default)]
struct Seen {
    bytes: u64,
    printed: u64,
    transactions: u64,
    files: u64,
}

pub(super) fn for_a_while(world: &mut World) -> Result<()> {
    let started = Instant::now();
    let budget = if std::env::var_os("CI").is_some() { BUDGET_IN_CI } else { BUDGET };
    killed_while(world, |kills| kills < LEAST || started.elapsed() < budget)
}

pub(super) fn killed(world: &mut World, wanted: u64) -> Result<()> {
    killed_while(world, |kills| kills < wanted)
}

fn killed_while(world: &mut World, go_on: impl Fn(u64) -> bool) -> Result<()> {
    let sshd = Sshd::start(&world.scratch)?;
    let before = std::mem::replace(&mut world.wishes.more, target(&sshd)?);
    world.write_config()?;
    world.write_policy(&format!("{POLICY}{HOSTS}"))?;
    restart(world, false)?;
    let outcome = rounds(world, &sshd, go_on);
    world.wishes.more = before;
    world.write_config()?;
    world.write_policy(POLICY)?;
    restart(world, false)?;
    outcome
}

/// `anew`: with a journal that is begun anew.
fn restart(world: &mut World, anew: bool) -> Result<()> {
    world.agent.stop()?;
    if anew {
        fs::remove_dir_all(world.agent.journal())?;
    }
    world.start_agent()
}

fn rounds(world: &mut World, sshd: &Sshd, go_on: impl Fn(u64) -> bool) -> Result<()> {
    let noise = world.scratch.path().join("noise");
    crate::suites::ssh::noise(&noise, 4)?;
    let (mut kills, mut seen) = (0, Seen::default());
    while go_on(kills) {
        restart(world, true)?;
        let load = Load::start(world, sshd, &noise)?;
        for kill in kills.. {
            // From the first login to the middle of the traffic.
            std::thread::sleep(Duration::from_millis(60 + kill * 97 % 340));
            world.agent.kill();
            world.start_agent()?;
            world.agent.command(&["verify"])?.ok().with_context(|| format!("kill {kill}"))?;
            kills = kill + 1;
            if kills % ROUND == 0 || !go_on(kills) {
                break;
            }
        }
        let top = load.stop(world)?;
        compare(world, &top, &noise, &mut seen).with_context(|| format!("up to kill {kills}"))?;
    }
    let Seen { bytes, printed, transactions, files } = seen;
    eprintln!(
        "        {kills} kills; {bytes} bytes of rows and {printed} of output received, {transactions} transactions of \
         pgbench, {files} files by scp: all recorded"
    );
    ensure!(bytes > 10_000 && printed > 10_000 && transactions > 0, "nothing was under load");
    Ok(())
}

impl Load {
    fn start(world: &World, sshd: &Sshd, noise: &Path) -> Result<Self> {
        let top = world.scratch.path().join("load");
        if top.exists() {
            fs::remove_dir_all(&top)?;
        }
        fs::create_dir(&top)?;
        let nobody = User::from_name("nobody")?.map_or(Uid::from_raw(65534), |user| user.uid);
        for name in ["rows", "bench", "printed", "files", "home"] {
            let folder = top.join(name);
            fs::create_dir(&folder)?;
            fs::set_permissions(&folder, fs::Permissions::from_mode(0o777))?;
            chown(&folder, Some(nobody), None)?;
        }
        fs::write(top.join("one.sql"), "select 1 as one;\n")?;
        let rows = top.join("rows");
        let arguments = [rows.to_str().context("a path")?, "2", "-1", "both"];
        let captures = world.client("rows").limit(600).start_python(CAPTURE, &arguments)?;
        let (at, port, noise) = (top.display(), sshd.port, noise.display());
        let again = |name: &str, what: &str| {
            format!(
                "n=0; while [ ! -e {at}/stop ]; do n=$((n+1)); name={name}-$n; {what}; sleep 0.02; done; true"
            )
        };
        let trusting = "-o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=QUIET";
        let scripts = [
            again(
                "bench",
                &format!(
                    "pgbench -n -f {at}/one.sql -c 2 -T 600 -l --log-prefix={at}/bench/$name -h 127.0.0.1 -p {} -U \
                     $name shop >/dev/null 2>&1",
                    world.postgres.port
                ),
            ),
            again(
                "printed",
                &format!(
                    "ssh {trusting} -p {port} -l $name 127.0.0.1 cat {noise} > {at}/printed/$name 2>/dev/null"
                ),
            ),
            again(
                "files",
                &format!(
                    "scp -q {trusting} -P {port} $name@127.0.0.1:{noise} {at}/files/$name 2>/dev/null && touch \
                     {at}/files/$name.done"
                ),
            ),
        ];
        let mut clients = vec![captures];
        for script in scripts {
            let client = Program::new("/bin/bash")
                .args(["-c", &script])
                .user("nobody")?
                .env("HOME", top.join("home"))
                .limit(600)
                .inside(&world.places.billing_bot)?;
            clients.push(client.start()?);
        }
        wait_for("the first bytes of each client", Duration::from_secs(30), || {
            let some = |name: &str| -> Result<bool> {
                let mut files = fs::read_dir(top.join(name))?.flatten();
                Ok(files.any(|file| file.metadata().is_ok_and(|meta| meta.len() > 0)))
            };
            let all =
                ["rows", "printed", "files", "bench"].map(some).into_iter().collect::<Result<Vec<_>>>()?;
            Ok(all.iter().all(|some| *some).then_some(()))
        })?;
        Ok(Self { top, clients })
    }

    /// The last one of each client is cut off with the agent.
    fn stop(self, world: &mut World) -> Result<PathBuf> {
        fs::write(self.top.join("stop"), "")?;
        world.agent.kill();
        world.start_agent()?;
        for client in self.clients {
            client.finish(Duration::from_secs(60))?.ok()?;
        }
        Ok(self.top)
    }
}

fn compare(world: &World, top: &Path, noise: &Path, seen: &mut Seen) -> Result<()> {
    seen.bytes += super::compare(world, &top.join("rows"), false)?;
    seen.printed += super::compare(world, &top.join("printed"), false)?;
    seen.transactions += logged(world, &top.join("bench"))?;
    seen.files += brought(world, &top.join("files"), noise)?;
    Ok(())
}

/// How many transactions pgbench has in its own logs; the record must have the rows of each.
fn logged(world: &World, logs: &Path) -> Result<u64> {
    let mut logged = HashMap::<String, u64>::new();
    for entry in fs::read_dir(logs)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let user = name.split('.').next().unwrap_or_default().to_owned();
        *logged.entry(user).or_default() += fs::read_to_string(entry.path())?.lines().count() as u64;
    }
    let mut recorded = HashMap::<&str, u64>::new();
    let listed = trail::sessions(&world.agent)?;
    for session in &listed {
        let rows = session["rows"].as_u64().unwrap_or_default();
        *recorded.entry(session["claimed_user"].as_str().unwrap_or_default()).or_default() += rows;
    }
    for (user, logged) in &logged {
        let recorded = recorded.get(user.as_str()).copied().unwrap_or_default();
        ensure!(
            recorded >= *logged,
            "{user}: {logged} transactions in the client's log, {recorded} in the record"
        );
    }
    Ok(logged.values().sum())
}

/// How many files came whole; the record must have the digest of each.
fn brought(world: &World, folder: &Path, noise: &Path) -> Result<u64> {
    let digest = Program::new("/usr/bin/sha256sum").args([noise]).run()?.ok()?;
    let digest = digest.split(' ').next().context("no digest")?;
    let sessions = sessions(world)?;
    let mut files = 0;
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        let Some(name) = name.strip_suffix(".done") else { continue };
        ensure!(fs::read(folder.join(name))? == fs::read(noise)?, "{name} is not what it was");
        let session = sessions.get(name).with_context(|| format!("{name} was brought and is no session"))?;
        let events = world.agent.command(&["replay", session, "--events"])?.ok()?;
        let content = events.lines().find(|line| line.contains("\"file_content\"") && line.contains(digest));
        ensure!(content.is_some(), "no record of what {name} brought: {events}");
        files += 1;
    }
    Ok(files)
}

/// One host, beside the databases.
fn target(sshd: &Sshd) -> Result<String> {
    Ok(format!(
        "\n[[targets]]\nname = \"host\"\nprotocol = \"ssh\"\naddresses = [\"127.0.0.1\"]\nport = {}\nenv = \"prod\"\n\
         user = \"root\"\n[targets.ssh]\nkey_file = {:?}\nhost_keys = [{:?}]\n",
        sshd.port,
        sshd.file("login"),
        sshd.public("host_ed25519")?
    ))
}
