//! A whole small world for one suite: server, cgroups, agent, configuration, policies.

use std::fmt::Write;
use std::fs;
use std::os::unix::fs::PermissionsExt;

use anyhow::{Context, Result, ensure};
use nix::unistd::Uid;

use super::agent::Agent;
use super::cgroup::Cgroup;
use super::client::Client;
use super::postgres::{self, Postgres};
use super::scratch::Scratch;
use super::spawn::{Output, catch_interrupts, slowness};
use super::trail::Trail;

/// What suites may set before the agent starts.
pub(crate) struct Wishes {
    pub(crate) hold_timeout_s: u64,
    pub(crate) record_max_bytes: u64,
    /// Further lines of the section `record`.
    pub(crate) record_more: String,
    pub(crate) quiet_server: bool,
    /// Columns labelled beside those of `customers`.
    pub(crate) labels: Vec<&'static str>,
    /// TOML appended to the identity of that name.
    pub(crate) identity: Vec<(&'static str, String)>,
    /// A line in the section of the target of that name.
    pub(crate) target: Vec<(&'static str, &'static str)>,
    /// TOML appended as it is.
    pub(crate) more: String,
    /// The exact name of the tree at the root, for what is told by its place.
    pub(crate) tree: Option<&'static str>,
}

impl Default for Wishes {
    fn default() -> Self {
        Self {
            hold_timeout_s: 4,
            record_max_bytes: 1 << 30,
            record_more: String::new(),
            quiet_server: false,
            labels: Vec::new(),
            identity: Vec::new(),
            target: Vec::new(),
            more: String::new(),
            tree: None,
        }
    }
}

/// Fields drop in this order: the agent lets go before the server, the cgroups and the files go.
pub(crate) struct World {
    pub(crate) agent: Agent,
    pub(crate) postgres: Postgres,
    pub(crate) places: Places,
    pub(crate) scratch: Scratch,
    pub(crate) listen_port: u16,
    pub(crate) wishes: Wishes,
}

/// The cgroups clients and agent live in. `top` is what the agent attaches to.
pub(crate) struct Places {
    pub(crate) agent: Cgroup,
    /// An identity in the group `ai-agents`.
    pub(crate) billing_bot: Cgroup,
    /// An identity in the groups `ai-agents` and `mail-readers`.
    pub(crate) mail_bot: Cgroup,
    /// An identity no policy permits anything.
    pub(crate) idle_bot: Cgroup,
    /// Below `top`, and no identity.
    pub(crate) unknown: Cgroup,
    pub(crate) bypassed: Cgroup,
    pub(crate) barred: Cgroup,
    /// Beside `top`: the agent's programs are not attached here.
    pub(crate) outside: Cgroup,
    _governed: Cgroup,
    pub(crate) top: Cgroup,
}

impl Places {
    fn make(suite: &str, tree: Option<&str>) -> Result<Self> {
        let top = match tree {
            Some(name) => Cgroup::exactly(name)?,
            None => Cgroup::top(suite)?,
        };
        let governed = top.child("governed")?;
        Ok(Self {
            agent: top.child("agent")?,
            billing_bot: governed.child("billing-bot")?,
            mail_bot: governed.child("mail-bot")?,
            idle_bot: governed.child("idle-bot")?,
            unknown: top.child("unknown")?,
            bypassed: top.child("bypassed")?,
            barred: top.child("barred")?,
            outside: Cgroup::top(&format!("{suite}-outside"))?,
            _governed: governed,
            top,
        })
    }
}

impl World {
    /// Server and agent running.
    pub(crate) fn start(suite: &str, wishes: Wishes) -> Result<Self> {
        let mut world = Self::prepare(suite, wishes)?;
        world.start_agent()?;
        Ok(world)
    }

    /// Everything but the agent's process.
    pub(crate) fn prepare(suite: &str, wishes: Wishes) -> Result<Self> {
        ensure!(Uid::effective().is_root(), "end-to-end tests attach to the kernel: run them as root");
        catch_interrupts()?;
        let scratch = Scratch::new(suite)?;
        let places = Places::make(suite, wishes.tree)?;
        let postgres = match wishes.quiet_server {
            true => Postgres::start_quiet(&scratch)?,
            false => Postgres::start(&scratch)?,
        };
        let agent = Agent::prepare(&scratch)?;
        let world = Self { agent, postgres, places, scratch, listen_port: postgres::free_port()?, wishes };
        world.write_policy(POLICY)?;
        world.write_config()?;
        Ok(world)
    }

    pub(crate) fn start_agent(&mut self) -> Result<()> {
        self.agent.start(&self.places.agent)
    }

    /// A client in the cgroup of `billing-bot`, at the first target, that claims to be `user`.
    pub(crate) fn client(&self, user: &str) -> Client<'_> {
        self.client_at("127.0.0.1", user)
    }

    pub(crate) fn client_at(&self, host: &str, user: &str) -> Client<'_> {
        self.client_in(&self.places.billing_bot, host, user)
    }

    pub(crate) fn client_in<'a>(&self, cgroup: &'a Cgroup, host: &str, user: &str) -> Client<'a> {
        Client::new(Some(cgroup), host, self.postgres.port, user)
    }

    pub(crate) fn trail(&self, user: &str) -> Result<Trail> {
        Trail::of(&self.agent, user)
    }

    /// `chaperone <args>` run by root inside a governed cgroup.
    pub(crate) fn command_inside(&self, args: &[&str]) -> Result<Output> {
        self.agent.program(args).inside(&self.places.billing_bot)?.limit(20).run()
    }

    pub(crate) fn write_policy(&self, text: &str) -> Result<()> {
        fs::write(self.agent.policy.join("shop.cedar"), text).context("writing the policy")
    }

    pub(crate) fn write_config(&self) -> Result<()> {
        fs::write(&self.agent.config, self.config()?).context("writing the configuration")
    }

    fn config(&self) -> Result<String> {
        let mut text = String::new();
        let (agent, places) = (&self.agent, &self.places);
        write!(
            text,
            "state_dir = {:?}\nrun_dir = {:?}\npolicy_dir = {:?}\n\n[intercept]\ncgroup = {:?}\nbypass = [{:?}]\n\
             deny = [{:?}]\nbpffs = {:?}\nguard = \"off\"\nlisten_port = {}\n\n[record]\nmax_bytes = {}\n{}\n\n[hold]\nlock_wait_s = 1\ntimeout_s = {}\n",
            agent.state,
            agent.run,
            agent.policy,
            places.top.name(),
            places.bypassed.name(),
            places.barred.name(),
            agent.bpffs.join("pins"),
            self.listen_port,
            self.wishes.record_max_bytes,
            self.wishes.record_more,
            self.wishes.hold_timeout_s * u64::from(slowness().min(3)),
        )?;
        for (name, groups, cgroup) in [
            ("billing-bot", r#"["ai-agents"]"#, &places.billing_bot),
            ("mail-bot", r#"["ai-agents", "mail-readers"]"#, &places.mail_bot),
            ("idle-bot", "[]", &places.idle_bot),
        ] {
            write!(
                text,
                "\n[[identities]]\nname = {name:?}\ngroups = {groups}\nowner = \"olga\"\ncgroup = {:?}\n",
                cgroup.name()
            )?;
            for (_, more) in self.wishes.identity.iter().filter(|(of, _)| *of == name) {
                text.push_str(more);
            }
        }
        for target in &self.targets()? {
            self.write_target(&mut text, target)?;
        }
        text.push_str(&self.wishes.more);
        Ok(text)
    }

    fn write_target(&self, text: &mut String, target: &Target) -> Result<()> {
        let addresses: Vec<String> = target.addresses.iter().map(|address| format!("{address:?}")).collect();
        write!(
            text,
            "\n[[targets]]\nname = {:?}\nprotocol = \"postgres\"\naddresses = [{}]\nport = {}\nenv = \"prod\"\nuser = {:?}\naccounts = [\"dba\"]\n",
            target.name,
            addresses.join(", "),
            self.postgres.port,
            target.user
        )?;
        for (_, line) in self.wishes.target.iter().filter(|(of, _)| *of == target.name) {
            writeln!(text, "{line}")?;
        }
        if let Some(password) = target.password {
            let file = self.scratch.folder("etc", 0o755)?.join(format!("{}.password", target.name));
            fs::write(&file, password)?;
            fs::set_permissions(&file, fs::Permissions::from_mode(0o600))?;
            writeln!(text, "password_file = {file:?}")?;
        }
        if let Some(ca) = target.ca {
            let (ca, name) = (self.postgres.file(ca), target.server_name);
            write!(
                text,
                "[targets.tls]\nmode = \"verify-full\"\nca_file = {ca:?}\nserver_name = {name:?}\n"
            )?;
        }
        let customers = [
            ("public.customers.email", "redact"),
            ("public.customers.card", "redact"),
            ("public.customers.born", "null"),
        ];
        for (column, mask) in
            customers.into_iter().chain(self.wishes.labels.iter().map(|column| (*column, "redact")))
        {
            let tag = if column.ends_with("email") { r#""pii", "mail""# } else { r#""pii""# };
            write!(text, "[[targets.labels]]\ncolumn = {column:?}\ntags = [{tag}]\nmask = {mask:?}\n")?;
        }
        Ok(())
    }

    fn targets(&self) -> Result<Vec<Target>> {
        let plain = |name, address: &'static str, user, password| Target {
            name,
            addresses: vec![address],
            user,
            password,
            ca: None,
            server_name: "",
        };
        let tls = |name, address, ca, server_name| Target {
            ca: Some(ca),
            server_name,
            ..plain(name, address, "shop_tls", Some(postgres::TLS_PASSWORD))
        };
        let mut shop = plain("shop", "127.0.0.1/32", "shop_scram", Some(postgres::SCRAM_PASSWORD));
        shop.addresses.push("::1/128");
        Ok(vec![
            shop,
            plain("shop-md5", "127.0.0.2", "shop_md5", Some(postgres::MD5_PASSWORD)),
            plain("shop-trust", "127.0.0.3", "shop_trust", None),
            tls("shop-tls", "127.0.0.4", "ca.pem", postgres::SERVER_NAME),
            tls("shop-wrong-ca", "127.0.0.5", "other-ca.pem", postgres::SERVER_NAME),
            tls("shop-wrong-name", "127.0.0.6", "ca.pem", "elsewhere.internal"),
            plain("shop-wrong-password", "127.0.0.7", "shop_scram", Some("not the password")),
        ])
    }
}

struct Target {
    name: &'static str,
    addresses: Vec<&'static str>,
    user: &'static str,
    password: Option<&'static str>,
    ca: Option<&'static str>,
    server_name: &'static str,
}

/// The policies every suite starts with.
pub(crate) const POLICY: &str = include_str!("shop.cedar");
