//! A small network: the agent's host, a server behind it, and pods wired to the host, which forwards for them. All of
//! it is in network namespaces of the suite's own.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use nix::unistd::Uid;

use crate::harness::agent::Agent;
use crate::harness::cgroup::Cgroup;
use crate::harness::client::Client;
use crate::harness::net::Netns;
use crate::harness::postgres::{Postgres, SCRAM_PASSWORD};
use crate::harness::scratch::Scratch;
use crate::harness::spawn::{Program, catch_interrupts};
use crate::harness::world::POLICY;

/// The server's addresses, and the agent's towards it.
pub(super) const SERVER_V4: &str = "10.213.0.2";
pub(super) const SERVER_V6: &str = "fd13:0::2";
pub(super) const AGENT_V4: &str = "10.213.0.1";
pub(super) const AGENT_V6: &str = "fd13:0::1";
pub(super) const PORT: u16 = 5432;
pub(super) const LISTEN_PORT: u16 = 15001;

const PYTHON: &str = "/usr/bin/python3";

/// Fields drop in this order: the agent lets go before the server, the wires, the cgroups and the files go.
pub(super) struct Lab {
    pub(super) agent: Agent,
    pub(super) postgres: Postgres,
    pub(super) pods: Vec<Netns>,
    pub(super) host: Netns,
    /// The server's.
    pub(super) there: Arc<Netns>,
    pub(super) agent_cgroup: Cgroup,
    pub(super) billing_bot: Cgroup,
    pub(super) mail_bot: Cgroup,
    pub(super) bypassed: Cgroup,
    /// Governed, and no identity.
    pub(super) unknown: Cgroup,
    /// Beside what is governed.
    pub(super) outside: Cgroup,
    _top: Cgroup,
    pub(super) scratch: Scratch,
}

impl Lab {
    /// Everything wired, two pods, and the agent's process.
    pub(super) fn start() -> Result<Self> {
        let mut lab = Self::prepare()?;
        lab.add_pod()?;
        lab.add_pod()?;
        lab.start_agent()?;
        Ok(lab)
    }

    fn prepare() -> Result<Self> {
        ensure!(Uid::effective().is_root(), "end-to-end tests attach to the kernel: run them as root");
        catch_interrupts()?;
        let scratch = Scratch::new("netns")?;
        let top = Cgroup::top("netns")?;
        let outside = Cgroup::top("netns-outside")?;
        let (host, there) = (Netns::new("netns", "host")?, Arc::new(Netns::new("netns", "there")?));
        host.cable(
            ("uplink", &[&format!("{AGENT_V4}/24"), &format!("{AGENT_V6}/64")]),
            &there,
            ("eth0", &[&format!("{SERVER_V4}/24"), &format!("{SERVER_V6}/64")]),
        )?;
        there.ip(&["route", "add", "default", "via", AGENT_V4])?;
        there.ip(&["-6", "route", "add", "default", "via", AGENT_V6])?;
        host.sysctl("net.ipv4.ip_forward", "1")?;
        host.sysctl("net.ipv6.conf.all.forwarding", "1")?;
        let postgres = Postgres::start_in(&scratch, Arc::clone(&there), vec![SERVER_V4, SERVER_V6])?;
        let mut agent = Agent::prepare(&scratch)?;
        agent.netns = Some(host.path());
        let lab = Self {
            agent,
            postgres,
            pods: Vec::new(),
            host,
            there,
            agent_cgroup: top.child("agent")?,
            billing_bot: top.child("billing-bot")?,
            mail_bot: top.child("mail-bot")?,
            bypassed: top.child("bypassed")?,
            unknown: top.child("unknown")?,
            outside,
            _top: top,
            scratch,
        };
        fs::write(lab.agent.policy.join("shop.cedar"), POLICY)?;
        lab.write_config("")?;
        Ok(lab)
    }

    pub(super) fn start_agent(&mut self) -> Result<()> {
        self.agent.start(&self.agent_cgroup)
    }

    /// One more pod: its addresses and the host's end of its cable are told apart by its number.
    fn add_pod(&mut self) -> Result<()> {
        let number = self.pods.len() + 1;
        let pod = Netns::new("netns", &format!("pod{number}"))?;
        self.wire(&pod, number)?;
        self.pods.push(pod);
        Ok(())
    }

    /// The cable between a pod and the host, `pod<number>` on the host's side.
    pub(super) fn wire(&self, pod: &Netns, number: usize) -> Result<()> {
        let (v4, v6) = (format!("10.213.{number}."), format!("fd13:{number}::"));
        // Of a pod with this number that was there before, and is not let go of yet.
        let _ = self.host.ip(&["link", "delete", &format!("pod{number}")]);
        self.host.cable(
            (&format!("pod{number}"), &[&format!("{v4}1/24"), &format!("{v6}1/64")]),
            pod,
            ("eth0", &[&format!("{v4}2/24"), &format!("{v6}2/64")]),
        )?;
        pod.ip(&["route", "add", "default", "via", &format!("{v4}1")])?;
        pod.ip(&["-6", "route", "add", "default", "via", &format!("{v6}1")])
    }

    /// `more` goes into the section `intercept`.
    pub(super) fn write_config(&self, more: &str) -> Result<()> {
        let mut text = String::new();
        let agent = &self.agent;
        write!(
            text,
            "state_dir = {:?}\nrun_dir = {:?}\npolicy_dir = {:?}\n\n[intercept]\ncgroup = {:?}\nbypass = [{:?}]\n\
             bpffs = {:?}\nlisten_port = {LISTEN_PORT}\n{more}\n",
            agent.state,
            agent.run,
            agent.policy,
            self._top.name(),
            self.bypassed.name(),
            agent.bpffs.join("pins"),
        )?;
        for (name, groups, cgroup) in [
            ("billing-bot", r#"["ai-agents"]"#, &self.billing_bot),
            ("mail-bot", r#"["ai-agents", "mail-readers"]"#, &self.mail_bot),
        ] {
            let cgroup = cgroup.name();
            write!(text, "\n[[identities]]\nname = {name:?}\ngroups = {groups}\ncgroup = {cgroup:?}\n")?;
        }
        let password = self.scratch.folder("etc", 0o755)?.join("shop.password");
        fs::write(&password, SCRAM_PASSWORD)?;
        fs::set_permissions(&password, fs::Permissions::from_mode(0o600))?;
        // The second target is the host's own loopback: what other namespaces call loopback is not it.
        for (name, addresses) in [
            ("shop", "[\"10.213.0.0/24\", \"fd13::/64\"]".to_owned()),
            ("shop-local", "[\"127.0.0.1\", \"::1\"]".to_owned()),
        ] {
            write!(
                text,
                "\n[[targets]]\nname = {name:?}\nprotocol = \"postgres\"\naddresses = {addresses}\nport = {PORT}\n\
                 env = \"prod\"\nuser = \"shop_scram\"\npassword_file = {password:?}\n\
                 [targets.tls]\nmode = \"disable\"\n"
            )?;
            for (column, tags) in [("email", r#""pii", "mail""#), ("card", r#""pii""#), ("born", r#""pii""#)]
            {
                let column = format!("public.customers.{column}");
                write!(text, "[[targets.labels]]\ncolumn = {column:?}\ntags = [{tags}]\n")?;
            }
        }
        fs::write(&agent.config, text).context("writing the configuration")
    }

    /// A client of `billing-bot` in a pod.
    pub(super) fn client<'a>(&'a self, pod: &'a Netns, host: &str, user: &str) -> Client<'a> {
        Client::new(Some(&self.billing_bot), host, PORT, user).netns(pod)
    }

    /// A Python program of root's, as in a container, given `args` as its arguments.
    pub(super) fn python(
        &self,
        cgroup: &Cgroup,
        netns: &Netns,
        source: &str,
        args: &[&str],
    ) -> Result<Program> {
        Program::new(PYTHON).args(["-c", source]).args(args).inside(cgroup)?.netns(&netns.path())
    }

    /// Who connected to the server since its log had this length, by address.
    pub(super) fn visitors_since(&self, mark: usize) -> Result<Vec<String>> {
        let log = self.postgres.log()?;
        let received = log.get(mark..).unwrap_or_default().lines();
        let hosts =
            received.filter_map(|line| line.split_once("connection received: host=")?.1.split(' ').next());
        // Over the unix socket come the suite itself and the agent of nobody.
        Ok(hosts.filter(|host| *host != "[local]").map(str::to_owned).collect())
    }

    /// The server has seen nobody but the agent.
    pub(super) fn only_the_agent_since(&self, mark: usize) -> Result<()> {
        let visitors = self.visitors_since(mark)?;
        let stranger = visitors.iter().find(|host| ![AGENT_V4, "fd13::1"].contains(&host.as_str()));
        ensure!(stranger.is_none(), "the server was reached from {stranger:?}; all: {visitors:?}");
        Ok(())
    }

    pub(super) fn log_length(&self) -> Result<usize> {
        Ok(self.postgres.log()?.len())
    }
}
