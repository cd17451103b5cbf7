//! What Chaperone costs an SSH client: files and commands, directly, through a bastion (a second OpenSSH server, as
//! `ProxyJump` uses one), and through the kernel redirect and Chaperone with policy, recording and digests on.

use std::fmt::Write as _;
use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::measure::{cpu_us, median};
use super::{number_of, report};
use crate::harness::spawn::Program;
use crate::harness::sshd::Sshd;
use crate::harness::world::{Wishes, World};

const POLICY: &str = r#"
@id("log-in") permit (principal, action == Action::"connect", resource is Account);
@id("run") permit (principal, action == Action::"ssh:exec", resource)
when { ["true"].containsAll(context.programs) };
@id("transfer") permit (principal, action == Action::"ssh:sftp", resource);
@id("files") permit (principal, action in Action::"file:all", resource) when { context.path like "FILES/*" };
"#;

const ARMS: [Arm; 3] = [Arm::Direct, Arm::Bastion, Arm::Chaperone];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Arm {
    Direct,
    Bastion,
    Chaperone,
}

#[derive(Clone, Copy)]
enum Scenario {
    /// Towards the client, with this cipher.
    Download(&'static str),
    Upload(&'static str),
    /// As `Download`, with new keys every 32 MiB.
    Rekeying(&'static str),
    /// `ssh HOST true` over a connection that is there already (`ControlMaster`).
    Shared,
    /// `ssh HOST true`, a connection each.
    Separate,
}

const SCENARIOS: [Scenario; 7] = [
    Scenario::Download("chacha20-poly1305@openssh.com"),
    Scenario::Download("aes256-gcm@openssh.com"),
    Scenario::Upload("chacha20-poly1305@openssh.com"),
    Scenario::Upload("aes256-gcm@openssh.com"),
    Scenario::Rekeying("aes256-gcm@openssh.com"),
    Scenario::Shared,
    Scenario::Separate,
];

impl Scenario {
    fn name(self) -> String {
        let short = |cipher: &str| cipher.split('@').next().unwrap_or(cipher).to_owned();
        match self {
            Self::Download(cipher) => format!("scp from the host, {}", short(cipher)),
            Self::Upload(cipher) => format!("scp to the host, {}", short(cipher)),
            Self::Rekeying(cipher) => format!("scp from the host, {}, `RekeyLimit=32M`", short(cipher)),
            Self::Shared => "`ssh HOST true`, one connection for all".into(),
            Self::Separate => "`ssh HOST true`, a connection each".into(),
        }
    }

    const fn unit(self) -> &'static str {
        match self {
            Self::Download(_) | Self::Upload(_) | Self::Rekeying(_) => "MiB",
            Self::Shared => "command",
            Self::Separate => "connection",
        }
    }
}

struct Wanted {
    rounds: usize,
    mib: u64,
    commands: u64,
    publish: bool,
}

impl Wanted {
    fn parse(args: &[&str]) -> Result<Self> {
        let mut wanted = Self { rounds: 3, mib: 1024, commands: 2000, publish: true };
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            let mut number = || number_of(arg, args.next());
            match *arg {
                "--rounds" => wanted.rounds = usize::try_from(number()?)?.max(1),
                "--mib" => wanted.mib = number()?.max(1),
                "--commands" => wanted.commands = number()?.max(10),
                "--smoke" => wanted = Self { rounds: 1, mib: 8, commands: 20, publish: false },
                _ => bail!("usage: bench ssh [--rounds N] [--mib N] [--commands N] [--smoke]"),
            }
        }
        Ok(wanted)
    }
}

struct Yard {
    world: World,
    sshd: Sshd,
}

#[derive(Default)]
struct Cell {
    rate: Vec<f64>,
    cpu: Vec<f64>,
}

pub(super) fn run(args: &[&str]) -> Result<()> {
    let wanted = Wanted::parse(args)?;
    let yard = Yard::start(&wanted)?;
    let mut cells = SCENARIOS.map(|_| ARMS.map(|_| Cell::default()));
    let small = peak_mib(&yard)?;
    for round in 0..wanted.rounds {
        for (scenario, cells) in SCENARIOS.iter().zip(&mut cells) {
            for turn in 0..ARMS.len() {
                let at = (turn + round) % ARMS.len();
                yard.measure(*scenario, ARMS[at], &wanted, &mut cells[at])
                    .with_context(|| format!("{} ({})", scenario.name(), at))?;
                let rate = cells[at].rate.last().copied().unwrap_or_default();
                eprintln!(
                    "round {}  {:44} arm {at} {rate:>8.1} {}/s",
                    round + 1,
                    scenario.name(),
                    scenario.unit()
                );
            }
        }
    }
    let table = table(cells, &wanted, small, peak_mib(&yard)?)?;
    eprintln!("\n{table}");
    if wanted.publish { report::write_ssh(&table) } else { Ok(()) }
}

fn table(cells: [[Cell; 3]; 7], wanted: &Wanted, before: f64, after: f64) -> Result<String> {
    let mut table = format!(
        "Medians of {} rounds: scp of {} MiB, {} commands over one connection, {} with a connection each; {} Client, agent and server \
         share the cores; the server does without PAM.\n\n| what | per second | direct | bastion | Chaperone | CPU of the agent |\n|---|---|--:|--:|--:|--:|\n",
        wanted.rounds,
        wanted.mib,
        wanted.commands,
        wanted.commands,
        report::machine()
    );
    for (scenario, cells) in SCENARIOS.iter().zip(cells) {
        let [(direct, _), (bastion, _), (ours, cpu)] =
            cells.map(|cell| (median(cell.rate), median(cell.cpu)));
        writeln!(
            table,
            "| {} | {} | {direct:.0} | {bastion:.0} ({:.2}) | {ours:.0} ({:.2}) | {:.2} ms |",
            scenario.name(),
            scenario.unit(),
            bastion / direct,
            ours / direct,
            cpu / 1000.0
        )?;
    }
    writeln!(
        table,
        "\nIn brackets: the ratio to the direct connection. Memory of the agent: {before:.0} MiB at most before, {after:.0} MiB at most after."
    )?;
    Ok(table)
}

/// The most memory the agent ever had.
fn peak_mib(yard: &Yard) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{}/status", yard.world.agent.pid()?))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no VmHWM")?;
    let kib: f64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kib / 1024.0)
}

impl Yard {
    fn start(wanted: &Wanted) -> Result<Self> {
        let wishes = Wishes { quiet_server: true, record_max_bytes: 16 << 30, ..Wishes::default() };
        let mut world = World::prepare("bench-ssh", wishes)?;
        let sshd = Sshd::bare(&world.scratch)?;
        world.wishes.more = format!(
            "\n[[targets]]\nname = \"host\"\nprotocol = \"ssh\"\naddresses = [\"127.0.0.1\"]\nport = {}\nenv = \"prod\"\n\
             user = \"root\"\n[targets.ssh]\nkey_file = {:?}\nhost_keys = [{:?}]\n",
            sshd.port,
            sshd.file("login"),
            sshd.public("host_ed25519")?
        );
        world.write_config()?;
        let files = world.scratch.folder("files", 0o755)?;
        let policy = POLICY.replace("FILES", &files.display().to_string());
        fs::write(world.agent.policy.join("ssh.cedar"), policy)?;
        let noise: Vec<u8> =
            (0..1 << 20).map(|at: u32| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        fs::write(files.join("down"), noise.repeat(usize::try_from(wanted.mib)?))?;
        world.start_agent()?;
        Ok(Self { world, sshd })
    }

    fn file(&self, name: &str) -> String {
        self.world.scratch.path().join("files").join(name).display().to_string()
    }

    /// Options for this way to the host. Through Chaperone the client has no key.
    fn options(&self, arm: Arm) -> Vec<String> {
        let trusting = "-F /dev/null -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR -o BatchMode=yes";
        let login = format!("-i {}", self.sshd.file("login").display());
        let mut options: Vec<String> = trusting.split(' ').map(str::to_owned).collect();
        if arm != Arm::Chaperone {
            options.extend(login.split(' ').map(str::to_owned));
        }
        if arm == Arm::Bastion {
            options.push("-o".into());
            let port = self.sshd.port;
            options.push(format!(
                "ProxyCommand=/usr/bin/ssh {trusting} {login} -p {port} -W %h:%p root@127.0.0.2"
            ));
        }
        options
    }

    fn client(&self, arm: Arm, path: &str) -> Result<Program> {
        let places = &self.world.places;
        let place = if arm == Arm::Chaperone { &places.billing_bot } else { &places.bypassed };
        Program::new(path).limit(900).inside(place)
    }

    fn measure(&self, scenario: Scenario, arm: Arm, wanted: &Wanted, cell: &mut Cell) -> Result<()> {
        let pid = self.world.agent.pid()?;
        let master = self.world.scratch.path().join("master").display().to_string();
        let host = "root@127.0.0.1";
        let port = self.sshd.port.to_string();
        let ssh = format!("/usr/bin/ssh {} -p {port}", words(&self.options(arm)));
        if let Scenario::Shared = scenario {
            let open = format!("{ssh} -M -S {master} -o ControlPersist=600 {host} true");
            // The master keeps its output open: a pipe would never end.
            let log = self.world.scratch.path().join("master.log");
            self.client(arm, "/bin/sh")?.args(["-c", &open]).log(&log)?.run()?.ok()?;
        }
        let (before, started) = (cpu_us(pid)?, Instant::now());
        let done = match scenario {
            Scenario::Download(cipher) => {
                self.scp(arm, &["-c", cipher], &format!("{host}:{}", self.file("down")), "/dev/null")?;
                wanted.mib
            }
            Scenario::Rekeying(cipher) => {
                let options = ["-c", cipher, "-o", "RekeyLimit=32M"];
                let (there, here) = (format!("{host}:{}", self.file("down")), self.file("back"));
                self.scp(arm, &options, &there, &here)?;
                ensure!(fs::metadata(&here)?.len() == wanted.mib << 20, "not all of it arrived");
                wanted.mib
            }
            Scenario::Upload(cipher) => {
                self.scp(arm, &["-c", cipher], &self.file("down"), &format!("{host}:{}", self.file("up")))?;
                ensure!(fs::metadata(self.file("up"))?.len() == wanted.mib << 20, "not all of it arrived");
                wanted.mib
            }
            Scenario::Shared => self.commands(arm, &format!("{ssh} -S {master}"), wanted.commands)?,
            Scenario::Separate => self.commands(arm, &ssh, wanted.commands)?,
        };
        let seconds = started.elapsed().as_secs_f64();
        // What is still to be recorded belongs to it.
        std::thread::sleep(Duration::from_millis(100));
        let done = done as f64;
        cell.rate.push(done / seconds);
        cell.cpu.push((cpu_us(pid)? - before) / done);
        if let Scenario::Shared = scenario {
            let close = format!("{ssh} -S {master} -O exit {host}");
            self.client(arm, "/bin/sh")?.args(["-c", &close]).run()?;
        }
        Ok(())
    }

    fn scp(&self, arm: Arm, more: &[&str], from: &str, to: &str) -> Result<()> {
        let port = self.sshd.port.to_string();
        let scp = self.client(arm, "/usr/bin/scp")?.args(self.options(arm));
        scp.args(more).args(["-q", "-P", &port, from, to]).run()?.ok().map(drop)
    }

    fn commands(&self, arm: Arm, ssh: &str, count: u64) -> Result<u64> {
        let script = format!(
            "i=0; while [ $i -lt {count} ]; do {ssh} root@127.0.0.1 true || exit 1; i=$((i+1)); done"
        );
        self.client(arm, "/bin/sh")?.args(["-c", &script]).run()?.ok()?;
        Ok(count)
    }
}

/// For a shell.
fn words(options: &[String]) -> String {
    options.iter().map(|word| format!("'{word}'")).collect::<Vec<_>>().join(" ")
}
