//! SSH: a real server behind the kernel redirect, and the clients people use, as they are.

mod access;
mod certificate;
mod decide;
mod ended;
mod files;
mod hold;
mod hostile;
mod mask;
mod reach;
mod record;
mod rsync;
mod streams;
mod tools;
mod trust;
mod tunnel;

use std::fmt::Write as _;
use std::fs;

use anyhow::Result;
use nix::unistd::{Gid, Uid, User, chown};

pub(crate) use streams::noise;

use crate::harness::auditor::Auditor;
use crate::harness::cgroup::Cgroup;
use crate::harness::report::{self, Case};
use crate::harness::spawn::{Output, Program};
use crate::harness::sshd::Sshd;
use crate::harness::trail::Trail;
use crate::harness::world::{Wishes, World};

/// The account clients run as.
const ACCOUNT: &str = "nobody";

/// Fields drop in this order: the agent lets go before the server goes.
pub(crate) struct Stage {
    world: World,
    sshd: Sshd,
    auditor: Auditor,
}

pub(super) fn run(filter: Option<&str>) -> Result<()> {
    let mut stage = Stage::start()?;
    let cases: Vec<Case<Stage>> = [
        reach::CASES,
        decide::CASES,
        record::CASES,
        mask::CASES,
        streams::CASES,
        files::CASES,
        rsync::CASES,
        tools::CASES,
        hold::CASES,
        certificate::CASES,
        access::CASES,
        ended::CASES,
        trust::CASES,
        tunnel::CASES,
        hostile::CASES,
    ]
    .concat();
    report::run("ssh", &mut stage, &cases, filter, |stage| stage.world.agent.log_tail())
}

impl Stage {
    fn start() -> Result<Self> {
        let mut world = World::prepare("ssh", wishes())?;
        let sshd = Sshd::start(&world.scratch)?;
        certificate::signer(&sshd)?;
        world.wishes.more = targets(&sshd)?;
        let auditor = Auditor::new(&world.scratch, "auditor")?;
        world.wishes.record_more = Auditor::line(&[&auditor]);
        world.write_config()?;
        let files = world.scratch.folder("files", 0o755)?;
        fs::create_dir(files.join("in"))?;
        fs::create_dir(files.join("closed"))?;
        fs::write(files.join("in/readme"), "read me\n")?;
        fs::write(files.join("closed/secret"), "s3cr3t\n")?;
        let home = world.scratch.folder("home", 0o755)?;
        let nobody = User::from_name(ACCOUNT)?
            .map_or((Uid::from_raw(65534), Gid::from_raw(65534)), |user| (user.uid, user.gid));
        chown(&home, Some(nobody.0), Some(nobody.1))?;
        let policy = include_str!("hosts.cedar").replace("FILES", &files.display().to_string());
        fs::write(world.agent.policy.join("hosts.cedar"), policy)?;
        world.start_agent()?;
        Ok(Self { world, sshd, auditor })
    }

    /// Where files are that transfers may touch, as the target names it.
    fn files(&self, name: &str) -> String {
        self.world.scratch.path().join("files").join(name).display().to_string()
    }

    /// A file in the client's home.
    fn home(&self, name: &str) -> std::path::PathBuf {
        self.world.scratch.path().join("home").join(name)
    }

    /// A program in the cgroup of `billing-bot`.
    fn client(&self, path: &str) -> Result<Program> {
        self.client_in(&self.world.places.billing_bot, path)
    }

    fn client_in(&self, cgroup: &Cgroup, path: &str) -> Result<Program> {
        Ok(Program::new(path).user(ACCOUNT)?.limit(30).inside(cgroup)?.env("HOME", self.home("")))
    }

    /// ssh as `login` at `host`, trusting whatever host key it sees.
    fn ssh(&self, login: &str, host: &str) -> Result<Program> {
        self.ssh_in(&self.world.places.billing_bot, login, host)
    }

    fn ssh_in(&self, cgroup: &Cgroup, login: &str, host: &str) -> Result<Program> {
        let port = self.sshd.port.to_string();
        Ok(self.client_in(cgroup, "/usr/bin/ssh")?.args(TRUSTING).args(["-p", &port, "-l", login, host]))
    }

    /// One command at the first target.
    fn command(&self, login: &str, command: &str) -> Result<Output> {
        self.ssh(login, "127.0.0.1")?.args([command]).run()
    }

    fn trail(&self, login: &str) -> Result<Trail> {
        Trail::of(&self.world.agent, login)
    }
}

/// `mail-bot` does not wait for approvals.
fn wishes() -> Wishes {
    let retry = vec![("mail-bot", "hold = \"retry\"\n".to_owned())];
    Wishes { quiet_server: true, identity: retry, ..Wishes::default() }
}

/// Options for clients that were not told to trust the agent's keys.
const TRUSTING: [&str; 6] =
    ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR"];

const MASKS: &str = r#"masks = [{ name = "aws-key", pattern = 'AKIA[0-9A-Z]{16}' }, { name = "card", pattern = '\b[0-9]{13,16}\b' }]"#;

fn targets(sshd: &Sshd) -> Result<String> {
    let keys = format!("[{:?}, {:?}]", sshd.public("host_ed25519")?, sshd.public("host_rsa")?);
    let login = format!("key_file = {:?}", sshd.file("login"));
    let vouched = format!("host_cas = [{:?}]", sshd.public("host_ca")?);
    let mut text = String::new();
    for (name, address, credential, keys) in [
        ("web1", "127.0.0.1", login.clone(), keys.clone()),
        ("web-ca", "127.0.0.2", format!("ca_key_file = {:?}", sshd.file("ca")), keys.clone()),
        ("web-changed", "127.0.0.3", login.clone(), format!("[{:?}]", sshd.public("other")?)),
        ("web-stranger", "127.0.0.4", format!("key_file = {:?}", sshd.file("stranger")), keys.clone()),
        ("web-rsa", "127.0.0.5", login.clone(), format!("[{:?}]", sshd.public("host_rsa")?)),
        ("web-masked", "127.0.0.6", format!("{login}\nrecord_input = true\n{MASKS}"), keys.clone()),
        ("web-meta", "127.0.0.7", login.clone(), keys.clone()),
        ("web-signer", "127.0.0.8", certificate::credential(sshd), keys),
        // By what the server's authority says it is.
        ("web-vouched", "127.0.0.10", format!("{login}\n{vouched}"), "[]".to_owned()),
        ("web-misnamed", "127.0.0.11", format!("{login}\n{vouched}"), "[]".to_owned()),
        (
            "web-unvouched",
            "127.0.0.12",
            format!("{login}\nhost_cas = [{:?}]", sshd.public("ca")?),
            "[]".to_owned(),
        ),
    ] {
        let more = match name {
            "web-masked" => "durability = \"synced\"\n",
            "web-meta" => "record = \"meta\"\n",
            _ => "",
        };
        write!(
            text,
            "\n[[targets]]\nname = {name:?}\nprotocol = \"ssh\"\naddresses = [{address:?}]\nport = {}\nenv = \"prod\"\n\
             user = \"root\"\n{more}[targets.ssh]\nlogins = [\"postgres\"]\n{credential}\nhost_keys = {keys}\nhost_names = [{:?}]\n",
            sshd.port,
            format!("{name}.internal")
        )?;
    }
    Ok(text)
}
