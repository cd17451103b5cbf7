//! Who it is: cgroups that lie about themselves, and groups that an identity provider gives and takes away.

mod authority;
mod host;
mod login;
mod platform;

use std::fs;
use std::os::unix::fs::{chown, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::unistd::User;
use serde_json::{Value, json};

use crate::harness::cgroup::{Cgroup, mount_point};
use crate::harness::postgres::free_port;
use crate::harness::report::{self, Case};
use crate::harness::spawn::{Output, Program, Running, wait_for};
use crate::harness::sshd::Sshd;
use crate::harness::trail::{Trail, everything, holds};
use crate::harness::world::{POLICY, Wishes, World};

use authority::Runtimes;
use platform::Platform;

/// The provider's program; its library is installed by scripts/packages.sh.
const IDP: &str = include_str!("../../clients/idp.mjs");

/// Seconds a token lasts: long enough to be used, short enough to wait for its end.
const TTL: u64 = 6;

const MORE: &str = r#"
@id("agents-sleep")
permit(principal in Group::"ai-agents", action == Action::"sql:call", resource == Routine::"shop/shop/pg_catalog.pg_sleep");
@id("readers-log-in")
permit(principal in Group::"mail-readers", action in [Action::"connect", Action::"ssh:exec"], resource is Account in Env::"prod");
"#;

const MAIL: &str = "select email from customers where id = 1";

pub(super) fn run(filter: Option<&str>) -> Result<()> {
    let mut world = World::prepare("identity.slice", Wishes { hold_timeout_s: 20, ..Wishes::default() })?;
    let mut idp = Idp::prepare(&world)?;
    idp.configure(&mut world)?;
    let runtimes = Runtimes::start(&world)?;
    world.wishes.more += &(login::config(&idp) + &runtimes.config());
    let platform = Platform::start(&mut world, &runtimes)?;
    let sshd = Sshd::start(&world.scratch)?;
    world.wishes.more += &host::target(&sshd)?;
    idp.start()?;
    world.write_config()?;
    world.write_policy(&format!("{POLICY}{MORE}{}", authority::POLICY))?;
    world.start_agent()?;
    let mut stage = Stage { world, idp, runtimes, sshd, _platform: platform };
    report::run("identity", &mut stage, CASES, filter, |stage| stage.world.agent.log_tail())
}

struct Stage {
    world: World,
    idp: Idp,
    runtimes: Runtimes,
    sshd: Sshd,
    _platform: Platform,
}

const CASES: &[Case<Stage>] = &[
    Case { name: "the groups of its token are the identity's", run: groups },
    Case { name: "a group the provider takes away ends live sessions", run: taken_away },
    Case { name: "it ends them on hosts as well, and says why", run: host::taken_away },
    Case { name: "without the provider a token is good until it ends, and then nothing is", run: outage },
    Case { name: "trees a delegated user makes change nothing about who it is", run: forged },
    Case {
        name: "a person who logged in at the provider says yes, and a governed process does not",
        run: login::approves,
    },
    Case {
        name: "a person who logged in grants what their group may, until they log out",
        run: login::grants,
    },
    Case { name: "check refuses a client's key that is none", run: checked },
    Case { name: "a command's token and a SPIFFE one are as good as the provider's", run: platform::tokens },
    Case { name: "a container is who it is called while its engine says so", run: authority::containers },
    Case { name: "whose name is enough is known to policy as unverified", run: authority::trusted },
    Case { name: "the Kubernetes runtime confirms containers and their pods", run: authority::cri },
    Case { name: "a unit is who it is called while systemd's marks say so", run: authority::units },
    Case { name: "podman itself confirms a container that runs, and no other", run: authority::podman },
    Case { name: "identify says what a line or a process is taken for, and why", run: identify },
];

/// A real OpenID provider on loopback.
struct Idp {
    port: u16,
    folder: PathBuf,
    process: Option<Running>,
}

impl Idp {
    fn prepare(world: &World) -> Result<Self> {
        let folder = world.scratch.folder("idp", 0o755)?;
        fs::write(folder.join("idp.mjs"), IDP)?;
        let installed =
            std::env::var_os("CHAPERONE_DRIVERS").unwrap_or_else(|| "/var/cache/chaperone/drivers".into());
        let modules = Path::new(&installed).join("oidc/node_modules");
        ensure!(modules.join("oidc-provider").is_dir(), "no {}: run scripts/packages.sh", modules.display());
        symlink(&modules, folder.join("node_modules"))?;
        let idp = Self { port: free_port()?, folder, process: None };
        idp.give(&["mail-readers", "not-in-the-configuration"])?;
        Ok(idp)
    }

    /// A key for the client, made as an operator makes it, and the configuration on both sides.
    fn configure(&self, world: &mut World) -> Result<()> {
        let key = self.folder.join("bot.pem");
        let line = world.agent.command(&["new-key", &key.display().to_string()])?.ok()?;
        let public = line.split('"').nth(1).context("no key printed")?;
        let x = public.trim_end_matches('=').replace('+', "-").replace('/', "_");
        fs::write(self.folder.join("clients.json"), json!([{"id": "bot-client", "x": x}]).to_string())?;
        world.wishes.identity.push((
            "billing-bot",
            format!(
                "[identities.token]\nprovider = \"corp\"\nclient_id = \"bot-client\"\nclient_key_file = {key:?}\nclient_key_id = \"bot-client\"\n"
            ),
        ));
        world.wishes.more = format!(
            "\n[[providers]]\nname = \"corp\"\nissuer = \"http://127.0.0.1:{}\"\naudience = \"chaperone\"\n\
             algorithms = [\"ES256\"]\ngroups = [\"mail-readers\"]\n",
            self.port
        );
        Ok(())
    }

    /// What the next tokens say.
    fn give(&self, groups: &[&str]) -> Result<()> {
        let state = json!({"ttl": TTL, "groups": {"bot-client": groups, "anna": ["db-oncall", "staff"], "sam": ["sales"]}});
        fs::write(self.folder.join("state.new"), state.to_string())?;
        Ok(fs::rename(self.folder.join("state.new"), self.folder.join("state.json"))?)
    }

    fn start(&mut self) -> Result<()> {
        let log = self.folder.join("log");
        let program = Program::new("/usr/bin/node").args([self.folder.join("idp.mjs").as_os_str()]);
        let program = program.args([self.port.to_string()]).args([&self.folder]).log(&log)?;
        self.process = Some(program.start()?);
        wait_for("the provider", Duration::from_secs(15), || {
            Ok(std::net::TcpStream::connect(("127.0.0.1", self.port)).is_ok().then_some(()))
        })
        .with_context(|| fs::read_to_string(&log).unwrap_or_default())
    }

    fn stop(&mut self) {
        self.process = None;
    }
}

/// The identity has its token, with or without the group.
fn mail_in_clear(world: &World, wanted: bool, limit: u64) -> Result<Output> {
    wait_for(&format!("mail in clear being {wanted}"), Duration::from_secs(limit), || {
        let output = world.client("probe").psql(&[MAIL])?;
        let clear = output.code == Some(0) && output.stdout.contains("@example");
        let masked = output.code == Some(0) && output.stdout == "***\n";
        Ok((if wanted { clear } else { masked }).then_some(output))
    })
}

fn groups(stage: &mut Stage) -> Result<()> {
    let world = &stage.world;
    mail_in_clear(world, true, 15)?;
    let output = world.client("groups").psql(&[MAIL])?;
    ensure!(output.stdout.contains("@example"), "{output}");
    let groups = world.trail("groups")?.first("session_start")?["identity"]["groups"].clone();
    ensure!(groups == json!(["ai-agents", "mail-readers"]), "{groups}");
    let none = world.client_in(&world.places.idle_bot, "127.0.0.1", "idle").psql(&[MAIL])?;
    ensure!(none.code == Some(2), "an identity without a token got in: {none}");
    Ok(())
}

fn in_mid_query(world: &World, user: &str) -> Result<Running> {
    let client =
        world.client(user).start_script("select 'begun';\nselect pg_sleep(40);\nselect 'slept';\n")?;
    Trail::when(&world.agent, user, |trail| trail.statement("select pg_sleep(40)").is_ok())?;
    Ok(client)
}

fn taken_away(stage: &mut Stage) -> Result<()> {
    let world = &stage.world;
    mail_in_clear(world, true, 15)?;
    let client = in_mid_query(world, "taken")?;
    stage.idp.give(&[])?;
    // The next token is asked for when 70 % of this one's time have passed.
    let output = client.finish(Duration::from_secs(TTL + 2))?;
    ensure!(
        output.stdout == "begun\n" && output.stderr.contains("57P01: terminated: identity billing-bot"),
        "{output}"
    );
    let end = world.trail("taken")?.first("session_end")?.clone();
    ensure!(end["reason"] == "identity billing-bot was changed: it is in other groups", "{end}");
    mail_in_clear(world, false, 5)?;
    stage.idp.give(&["mail-readers"])?;
    mail_in_clear(world, true, TTL + 5).map(drop)
}

fn outage(stage: &mut Stage) -> Result<()> {
    let Stage { world, idp, .. } = stage;
    mail_in_clear(world, true, 15)?;
    let client = in_mid_query(world, "outage")?;
    idp.stop();
    let stopped = Instant::now();
    world.client("outage-new").psql(&["select 1"])?.ok().context("a token that is good was not enough")?;
    let output = client.finish(Duration::from_secs(TTL + 3))?;
    ensure!(output.stdout == "begun\n" && output.stderr.contains("its token has ended"), "{output}");
    ensure!(stopped.elapsed() < Duration::from_secs(TTL + 1), "{:?}", stopped.elapsed());
    let refused = world.client("outage-late").psql(&["select 1"])?;
    ensure!(refused.code == Some(2) && refused.stderr.contains("its token has ended"), "{refused}");
    // Who needs no token does not feel it.
    world.client_in(&world.places.mail_bot, "127.0.0.1", "other").psql(&["select 1"])?.ok()?;
    // It comes back with other keys.
    idp.start()?;
    mail_in_clear(world, true, 25).map(drop)
}

fn forged(stage: &mut Stage) -> Result<()> {
    let world = &stage.world;
    mail_in_clear(world, true, 15)?;
    let nobody = User::from_name("nobody")?.context("no user nobody")?;
    let bot = &world.places.billing_bot;
    let delegated = bot.child("delegated")?;
    chown(delegated.path(), Some(nobody.uid.as_raw()), Some(nobody.gid.as_raw()))?;
    let pod = "kubepods-pod1505f8a9_c386_80d2_9fe6_1118d6f7704b.slice";
    let id = "4c318da53e134a0efb886faf41df9ab0edb4d39a5bad68a16b52e55d31238b23";
    for below in [
        format!("kubepods.slice/{pod}/cri-containerd-{id}.scope"),
        format!("docker/{id}"),
        format!("system.slice/docker-{id}.scope"),
        "governed/mail-bot".to_owned(),
    ] {
        // The tree is the user's own work.
        let path = delegated.path().join(&below);
        let made =
            Program::new("/bin/mkdir").args(["-p".as_ref(), path.as_os_str()]).user("nobody")?.run()?;
        made.ok()?;
        let forged = delegated.child(&below)?;
        let client = world.client_in(&forged, "127.0.0.1", "forged");
        client.psql(&["select 1"])?.ok()?;
        let trail = world.trail("forged")?;
        let start = trail.first("session_start")?;
        ensure!(start["identity"]["name"] == "billing-bot", "{start}");
        ensure!(start["workload"]["cgroup"] == forged.name(), "{start}");
        let shown = identified(world, &["--cgroup", forged.name()])?;
        ensure!(shown["identity"] == "billing-bot" && shown["kind"] == "plain", "{shown}");
        remove_below(&forged, delegated.path())?;
    }
    Ok(())
}

/// Takes a branch away from its tip to the folder, which stays.
fn remove_below(branch: &Cgroup, folder: &Path) -> Result<()> {
    let mut at = branch.path().to_owned();
    while at != folder {
        wait_for("an empty cgroup", Duration::from_secs(5), || {
            Ok(fs::remove_dir(&at).is_ok().then_some(()))
        })?;
        at.pop();
    }
    Ok(())
}

fn identified(world: &World, args: &[&str]) -> Result<Value> {
    let text = world.agent.command(&[&["identify", "--json"], args].concat())?.ok()?;
    serde_json::from_str(&text).with_context(|| text.clone())
}

fn checked(stage: &mut Stage) -> Result<()> {
    let Stage { world, idp, .. } = stage;
    world.agent.command(&["check"])?.ok()?;
    let key = idp.folder.join("bot.pem");
    let good = fs::read(&key)?;
    fs::write(&key, "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")?;
    let output = world.agent.command(&["check"]);
    fs::write(&key, good)?;
    let output = output?;
    ensure!(output.code == Some(2) && output.stderr.contains("bot.pem"), "{output}");
    Ok(())
}

fn identify(stage: &mut Stage) -> Result<()> {
    let world = &stage.world;
    let line = "0::/system.slice/actions.runner.acme-shop.build-07.service/x";
    let shown = identified(world, &["--cgroup", line])?;
    holds(&shown, &json!({"kind": "systemd", "unit": "actions.runner.acme-shop.build-07.service"}))?;
    ensure!(shown["why"].as_str().is_some_and(|why| why.contains("does not count")), "{shown}");
    let client = world.client("identify").start_script("\\! sleep 5\n")?;
    let shown = identified(world, &["--pid", &client.pid().to_string()])?;
    ensure!(
        shown["identity"] == "billing-bot" && shown["cgroup"] == world.places.billing_bot.name(),
        "{shown}"
    );
    let plain = world.agent.command(&["identify", "--cgroup", world.places.unknown.name()])?.ok()?;
    ensure!(plain.contains("no identity is configured"), "{plain}");
    Ok(())
}
