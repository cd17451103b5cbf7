//! The yard the techniques are tried in: four network namespaces that stand for a host, its database network and two
//! containers, with the agent on the host and the witness in place of the database.
//!
//! ```text
//!  pod (10.78.1.2) ────┐
//!                      ├──── host (10.66.0.1, routes, the agent) ──── db (10.66.0.2; all of 10.77.0.0/16, fd77::/32)
//!  admin (10.78.2.2) ──┘
//! ```

use std::fmt::Write as _;
use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::unistd::Uid;

use super::technique::{Aim, Attack, NETWORKS, Seat, Technique, is_protected};
use super::witness::Witness;
use crate::harness::agent::Agent;
use crate::harness::cgroup::{self, Cgroup};
use crate::harness::container::{Container, DOCKER_CAPABILITIES, Wish};
use crate::harness::net::Netns;
use crate::harness::postgres;
use crate::harness::scratch::Scratch;
use crate::harness::spawn::{Output, Program, catch_interrupts, slowness, wait_for};

const SUITE: &str = "bypass";

/// Nobody in the yard may anything: what comes to the agent is refused before the target hears of it.
const POLICY: &str = r#"
@id("customers-connect")
permit(principal in Group::"customers", action == Action::"connect", resource in Env::"prod");
"#;

/// The setting for the ports that the kernel gives to who does not ask for one, and what the host's has.
const HANDED_OUT: &str = "net.ipv4.ip_local_port_range";
const ALL_HANDED_OUT: &str = "20000 60999";

/// Longest time an attack may take, seconds; the programs give up earlier by themselves.
const LIMIT: u64 = 20;

/// Fields drop in this order: the agent lets go before the containers, the namespaces and the cgroups go.
pub(super) struct Yard {
    pub(super) agent: Agent,
    pub(super) witness: Witness,
    /// On the host's own loopback addresses.
    pub(super) local: Witness,
    pod: Container,
    admin: Container,
    pub(super) places: Places,
    nets: Nets,
    pub(super) port: u16,
    pub(super) listen_port: u16,
    pub(super) attacks: PathBuf,
    pub(super) scratch: Scratch,
}

pub(super) struct Places {
    pub(super) agent: Cgroup,
    pub(super) service: Cgroup,
    pub(super) pod: Cgroup,
    pub(super) admin: Cgroup,
    /// The one identity that may connect; nobody attacks from here.
    customer: Cgroup,
    /// Below `top`, and no identity.
    pub(super) unknown: Cgroup,
    pub(super) bypassed: Cgroup,
    _governed: Cgroup,
    top: Cgroup,
}

struct Nets {
    host: Netns,
    db: Netns,
    pod: Netns,
    admin: Netns,
}

impl Yard {
    /// Everything but the agent's process.
    pub(super) fn prepare() -> Result<Self> {
        ensure!(Uid::effective().is_root(), "end-to-end tests attach to the kernel: run them as root");
        catch_interrupts()?;
        let scratch = Scratch::new(SUITE)?;
        let places = Places::make()?;
        let nets = Nets::make()?;
        let attacks = attacks(&scratch)?;
        let (port, listen_port) = (postgres::free_port()?, postgres::free_port()?);
        let cgroups = cgroup::mount_point()?;
        let go = scratch.folder("go", 0o777)?;
        let mounts = [
            (attacks.as_path(), "/attacks", false),
            (cgroups.as_path(), "/sys/fs/cgroup", false),
            (go.as_path(), "/go", true),
        ];
        let pod = Container::start(
            &scratch,
            "pod",
            &places.pod,
            &nets.pod,
            &Wish { mounts: &mounts, ..Wish::default() },
        )?;
        let loose = Wish {
            capabilities: &["CAP_NET_ADMIN"],
            any_call: true,
            tun: true,
            mounts: &mounts,
            ..Wish::default()
        };
        let admin = Container::start(&scratch, "admin", &places.admin, &nets.admin, &loose)?;
        let mut agent = Agent::prepare(&scratch)?;
        agent.netns = Some(nets.host.path());
        let yard = Self {
            witness: Witness::everywhere(&nets.db, port, is_protected)?,
            local: Witness::on_loopback(&nets.host, port)?,
            agent,
            pod,
            admin,
            places,
            nets,
            port,
            listen_port,
            attacks,
            scratch,
        };
        yard.wait_for_neighbours()?;
        fs::write(yard.agent.policy.join("shop.cedar"), POLICY)?;
        fs::write(&yard.agent.config, yard.configuration()?)?;
        Ok(yard)
    }

    /// The first packets over a new cable may be lost, IPv6's above all; later ones are not.
    fn wait_for_neighbours(&self) -> Result<()> {
        for netns in [&self.nets.host, &self.nets.pod, &self.nets.admin] {
            for address in ["10.66.0.2", "fd66::2"] {
                let target = SocketAddr::new(address.parse()?, self.port);
                wait_for("the database's host being reachable", Duration::from_secs(10), || {
                    let limit = Duration::from_millis(200);
                    Ok(netns.enter(|| Ok(TcpStream::connect_timeout(&target, limit).is_ok()))?.then_some(()))
                })?;
            }
        }
        self.witness.forget();
        Ok(())
    }

    pub(super) fn start_agent(&mut self) -> Result<()> {
        self.agent.start(&self.places.agent)
    }

    /// Runs a technique's attack to its end.
    pub(super) fn attack(&self, technique: &Technique, aim: &Aim) -> Result<Output> {
        match technique.attack {
            Attack::Python(file) | Attack::Early(file) => self.python(technique.seat, file, aim)?.run(),
            Attack::Program(name) => self.program(technique.seat, name, aim)?.run(),
            Attack::Staged(run) => run(self, aim),
        }
    }

    /// A plain connection by the identity that may connect, from a container's network namespace.
    pub(super) fn customer(&self, aim: &Aim) -> Result<Program> {
        let path = self.seen_from(Seat::Nobody, "streams.py");
        let program = Program::new("/usr/bin/python3").args(["-B", &path]).args(self.told(aim)).limit(LIMIT);
        program.inside(&self.places.customer)?.netns(&self.nets.pod.path())
    }

    /// A Python program of nobody's, on the host.
    pub(super) fn stranger(&self, args: Vec<String>) -> Result<Program> {
        let program = Program::new("/usr/bin/python3").args(args).inside(&self.places.unknown)?;
        program.netns(&self.nets.host.path())
    }

    pub(super) fn python(&self, seat: Seat, file: &str, aim: &Aim) -> Result<Program> {
        let path = self.seen_from(seat, file);
        self.seated(seat, "/usr/bin/python3", &["-B", &path], aim)
    }

    pub(super) fn program(&self, seat: Seat, name: &str, aim: &Aim) -> Result<Program> {
        let path = self.seen_from(seat, name);
        self.seated(seat, &path, &[], aim)
    }

    fn told(&self, aim: &Aim) -> [String; 5] {
        [
            aim.name.to_owned(),
            aim.v4.to_string(),
            aim.v6.to_string(),
            self.port.to_string(),
            self.listen_port.to_string(),
        ]
    }

    /// A program in the attacker's place, told what to aim at.
    pub(super) fn seated(&self, seat: Seat, path: &str, args: &[&str], aim: &Aim) -> Result<Program> {
        let told = self.told(aim);
        let args: Vec<&str> = args.iter().copied().chain(told.iter().map(String::as_str)).collect();
        let program = match seat {
            Seat::Service => {
                service(path, &args).inside(&self.places.service)?.netns(&self.nets.host.path())?
            }
            Seat::Nobody | Seat::Root => {
                let program = Program::new(path)
                    .args(args)
                    .inside(&self.places.service)?
                    .netns(&self.nets.host.path())?;
                if seat == Seat::Nobody { program.user("nobody")? } else { program }
            }
            Seat::Container => self.pod.exec(path, &args),
            Seat::Admin => self.admin.exec(path, &args),
        };
        Ok(program.limit(LIMIT))
    }

    /// A program of tests/attacks on the host, in a cgroup and network namespace of the caller's choice.
    pub(super) fn helper(&self, file: &str, args: &[&str], cgroup: &Cgroup) -> Result<Program> {
        let path = self.attacks.join(file);
        Program::new("/usr/bin/python3")
            .args(["-B".as_ref(), path.as_os_str()])
            .args(args)
            .limit(LIMIT)
            .netns(&self.nets.host.path())?
            .inside(cgroup)
    }

    fn seen_from(&self, seat: Seat, file: &str) -> String {
        let folder = match seat {
            Seat::Service | Seat::Nobody | Seat::Root => self.attacks.as_path(),
            Seat::Container | Seat::Admin => Path::new("/attacks"),
        };
        folder.join(file).display().to_string()
    }

    /// The network namespace of the container that may do more.
    pub(super) fn containers_netns(&self) -> PathBuf {
        self.nets.admin.path()
    }

    /// Meanwhile the host's kernel hands out a few ports only, of which the listener's is one that it gives to sockets that
    /// listen: those have odd distances from the first, those that connect even ones.
    pub(super) fn with_few_ports<T>(&self, what: impl FnOnce() -> Result<T>) -> Result<T> {
        let first = self.listen_port - 33;
        self.nets.host.sysctl(HANDED_OUT, &format!("{first} {}", first + 63))?;
        let result = what();
        self.nets.host.sysctl(HANDED_OUT, ALL_HANDED_OUT)?;
        result
    }

    /// The root of the governed tree.
    pub(super) fn top(&self) -> &Cgroup {
        &self.places.top
    }

    /// The file that appears when the agent is there, for what got ready before.
    pub(super) fn go(&self) -> PathBuf {
        self.scratch.path().join("go/go")
    }

    pub(super) fn go_seen_from(&self, seat: Seat) -> PathBuf {
        match seat {
            Seat::Service | Seat::Nobody | Seat::Root => self.go(),
            Seat::Container | Seat::Admin => "/go/go".into(),
        }
    }

    pub(super) fn cgroup_of(&self, seat: Seat) -> &Cgroup {
        match seat {
            Seat::Service | Seat::Nobody | Seat::Root => &self.places.service,
            Seat::Container => &self.places.pod,
            Seat::Admin => &self.places.admin,
        }
    }

    fn configuration(&self) -> Result<String> {
        let (agent, places) = (&self.agent, &self.places);
        let mut text = String::new();
        write!(
            text,
            "state_dir = {:?}\nrun_dir = {:?}\npolicy_dir = {:?}\n\n[intercept]\ncgroup = {:?}\nbypass = [{:?}]\n\
             bpffs = {:?}\nlisten_port = {}\n\n[limits]\nlogin_s = 5\n",
            agent.state,
            agent.run,
            agent.policy,
            places.top.name(),
            places.bypassed.name(),
            agent.bpffs.join("pins"),
            self.listen_port,
        )?;
        for (name, groups, cgroup) in [
            ("service", "[]", &places.service),
            ("pod", "[]", &places.pod),
            ("admin", "[]", &places.admin),
            ("customer", r#"["customers"]"#, &places.customer),
        ] {
            write!(
                text,
                "\n[[identities]]\nname = {name:?}\ngroups = {groups}\ncgroup = {:?}\n",
                cgroup.name()
            )?;
        }
        for (name, addresses) in [("shop", NETWORKS), ("shop-local", ["127.0.0.1", "::1"])] {
            write!(
                text,
                "\n[[targets]]\nname = {name:?}\nprotocol = \"postgres\"\naddresses = {addresses:?}\nport = {}\n\
                 env = \"prod\"\nuser = \"shop\"\ntls = {{ mode = \"disable\" }}\n",
                self.port
            )?;
        }
        Ok(text)
    }
}

/// Root with the capabilities that Docker leaves a container, and no others, whatever it runs.
fn service(path: &str, args: &[&str]) -> Program {
    let kept: String =
        DOCKER_CAPABILITIES.iter().map(|name| format!(",+{}", name["CAP_".len()..].to_lowercase())).collect();
    Program::new("/usr/bin/setpriv")
        .args([format!("--bounding-set=-all{kept}").as_str(), "--inh-caps=-all", path])
        .args(args)
}

impl Places {
    fn make() -> Result<Self> {
        let top = Cgroup::top(SUITE)?;
        let governed = top.child("governed")?;
        Ok(Self {
            agent: top.child("agent")?,
            service: governed.child("service")?,
            pod: governed.child("pod")?,
            admin: governed.child("admin")?,
            customer: governed.child("customer")?,
            unknown: top.child("unknown")?,
            bypassed: top.child("bypassed")?,
            _governed: governed,
            top,
        })
    }
}

impl Nets {
    fn make() -> Result<Self> {
        let nets = Self {
            host: Netns::new(SUITE, "host")?,
            db: Netns::new(SUITE, "db")?,
            pod: Netns::new(SUITE, "pod")?,
            admin: Netns::new(SUITE, "admin")?,
        };
        for netns in [&nets.host, &nets.db] {
            netns.sysctl("net.ipv4.conf.default.accept_source_route", "1")?;
        }
        let Self { host, db, pod, admin } = &nets;
        host.cable(
            ("todb", &["10.66.0.1/24", "fd66::1/64"]),
            db,
            ("tohost", &["10.66.0.2/24", "fd66::2/64"]),
        )?;
        for (netns, name, number) in [(pod, "topod", 1), (admin, "toadmin", 2)] {
            let (near, far) = (format!("10.78.{number}.1/24"), format!("10.78.{number}.2/24"));
            let (near6, far6) = (format!("fd78:{number}::1/64"), format!("fd78:{number}::2/64"));
            host.cable((name, &[&near, &near6]), netns, ("eth0", &[&far, &far6]))?;
            netns.ip(&["route", "add", "default", "via", near.trim_end_matches("/24")])?;
            netns.ip(&["-6", "route", "add", "default", "via", near6.trim_end_matches("/64")])?;
        }
        // The host is an end of an overlay, as in a cluster: what comes out of it is forwarded, whoever packed it up.
        let port = super::corpus::OVERLAY_PORT.to_string();
        let overlay = ["link", "add", "overlay", "address", "02:00:00:00:00:77", "type", "vxlan", "id", "77"];
        host.ip(&[&overlay[..], &["dstport", &port, "nolearning"]].concat())?;
        host.ip(&["link", "set", "overlay", "up"])?;
        for interface in ["all", "overlay"] {
            host.sysctl(&format!("net.ipv4.conf.{interface}.rp_filter"), "0")?;
        }
        for netns in [host, db, pod, admin] {
            // TCP Fast Open for everybody, without cookies: data in the very first SYN (ip-sysctl, tcp_fastopen).
            netns.sysctl("net.ipv4.tcp_fastopen", "0x607")?;
        }
        for netns in [host, db] {
            netns.sysctl("net.ipv4.conf.all.accept_source_route", "1")?;
        }
        // The listener's port is among those the kernel hands out, and no connection that has ended keeps it.
        host.sysctl(HANDED_OUT, ALL_HANDED_OUT)?;
        host.sysctl("net.ipv4.tcp_max_tw_buckets", "0")?;
        host.sysctl("net.ipv4.ip_forward", "1")?;
        host.sysctl("net.ipv6.conf.all.forwarding", "1")?;
        for (network, gateway) in NETWORKS.into_iter().zip(["10.66.0.2", "fd66::2"]) {
            host.ip(&["route", "add", network, "via", gateway])?;
            // Every address of the network is the database's own.
            db.ip(&["route", "add", "local", network, "dev", "lo"])?;
        }
        for (network, gateway) in [("10.78.0.0/16", "10.66.0.1"), ("fd78::/16", "fd66::1")] {
            db.ip(&["route", "add", network, "via", gateway])?;
        }
        Ok(nets)
    }
}

/// Puts the attack programs where every seat can read them, the ones in C compiled, and tells them how slow the machine is.
fn attacks(scratch: &Scratch) -> Result<PathBuf> {
    let folder = scratch.folder("attacks", 0o755)?;
    fs::write(folder.join("machine.py"), format!("SLOWNESS = {}\n", slowness()))?;
    for (name, source) in super::corpus::SOURCES {
        let path = folder.join(name);
        fs::write(&path, source)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    }
    for (program, source, flags) in super::corpus::PROGRAMS {
        Program::new("/usr/bin/gcc")
            .args(["-O1", "-Wall", "-o"])
            .args([folder.join(program), folder.join(source)])
            .args(*flags)
            .args([format!("-DSLOWNESS={}", slowness())])
            .run()?
            .ok()
            .with_context(|| format!("compiling {source}"))?;
    }
    Ok(folder)
}

/// How long the agent takes to write what the kernel told it.
pub(super) const TOLD_WITHIN: Duration = Duration::from_secs(5);
