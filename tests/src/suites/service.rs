//! The agent as systemd's service: installed, started, upgraded, killed, stopped and taken away again. It changes the
//! machine it runs on, and wants systemd as PID 1; so it is run by name only, in `cargo xtask vm`.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::harness::postgres::{Postgres, SCRAM_PASSWORD};
use crate::harness::report::{self, Case};
use crate::harness::scratch::Scratch;
use crate::harness::spawn::{Output, Program, catch_interrupts, wait_for};

const BINARY: &str = "/usr/local/bin/chaperone";

struct Host {
    postgres: Postgres,
    _scratch: Scratch,
}

pub(super) fn run(filter: Option<&str>) -> Result<()> {
    catch_interrupts()?;
    ensure!(
        Path::new("/run/systemd/system").is_dir(),
        "this suite wants a machine of its own, with systemd as PID 1"
    );
    ensure!(
        !Path::new("/etc/chaperone").exists(),
        "Chaperone is installed here: this suite would take it away"
    );
    let scratch = Scratch::new("service")?;
    let postgres = Postgres::start(&scratch)?;
    let mut host = Host { postgres, _scratch: scratch };
    let outcome =
        report::run("service", &mut host, CASES, filter, |_| log().unwrap_or_else(|error| error.to_string()));
    // Whatever failed: nothing stays.
    let _ = program(BINARY, &["uninstall", "--purge"]);
    outcome
}

const CASES: &[Case<Host>] = &[
    Case { name: "install makes a service that starts, and is ready when systemd says so", run: install },
    Case { name: "a client in agents.slice is served by it, others at a target are refused", run: serves },
    Case { name: "a reload reaches it", run: reload },
    Case { name: "an upgrade leaves the unit active, with the new main process", run: upgrade },
    Case { name: "killed, it is back by itself, and the journal has what was served", run: killed },
    Case { name: "the kernel spares it when memory runs out", run: spared },
    Case {
        name: "over its memory limit it dies, nothing is reachable, and it is back by itself",
        run: out_of_memory,
    },
    Case { name: "installing again changes nothing and keeps the configuration", run: again },
    Case { name: "stopped, nothing passes; uninstall lets go and keeps the journal", run: uninstall },
];

fn program(path: &str, args: &[&str]) -> Result<Output> {
    Program::new(path).args(args).limit(120).run()
}

fn systemctl(args: &[&str]) -> Result<String> {
    program("/usr/bin/systemctl", args)?.ok()
}

fn property(name: &str) -> Result<String> {
    Ok(systemctl(&["show", "--value", "-p", name, "chaperone.service"])?.trim().to_owned())
}

/// psql in a slice, as `nobody`.
fn client(host: &Host, slice: &str, user: &str, sql: &str) -> Result<Output> {
    asking(host, slice, user, &[sql.to_owned()]).run()
}

fn asking(host: &Host, slice: &str, user: &str, statements: &[String]) -> Program {
    let port = host.postgres.port.to_string();
    let slice = format!("--slice={slice}");
    let args =
        ["--quiet", "--pipe", "--wait", "--collect", "--uid=nobody", "-E", "PGCONNECT_TIMEOUT=20", "-E"];
    let password = format!("PGPASSWORD={SCRAM_PASSWORD}");
    let psql = ["/usr/bin/psql", "-XAt", "-h", "127.0.0.1", "-p", &port, "-U", user, "-d", "shop"];
    let asked = statements.iter().flat_map(|statement| ["-c", statement]);
    Program::new("/usr/bin/systemd-run")
        .args(args)
        .args([&password, &slice])
        .args(psql)
        .args(asked)
        .limit(120)
}

fn served(host: &Host, user: &str) -> Result<()> {
    wait_for("service", Duration::from_secs(60), || {
        let output = client(host, "agents.slice", user, "select 5")?;
        Ok((output.stdout == "5\n").then_some(()))
    })
}

fn install(host: &mut Host) -> Result<()> {
    let agent = std::env::var("CHAPERONE_BIN").context("CHAPERONE_BIN says which agent is installed")?;
    program(&agent, &["install"])?.ok()?;
    let password = Path::new("/etc/chaperone/shop.password");
    fs::write(password, SCRAM_PASSWORD)?;
    fs::set_permissions(password, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    let mut config = fs::read_to_string("/etc/chaperone/chaperone.toml")?;
    config.push_str(&format!(
        "\n[[targets]]\nname = \"shop\"\nprotocol = \"postgres\"\naddresses = [\"127.0.0.1\"]\nport = {}\n\
         env = \"prod\"\nuser = \"shop_scram\"\npassword_file = \"/etc/chaperone/shop.password\"\n",
        host.postgres.port
    ));
    fs::write("/etc/chaperone/chaperone.toml", config)?;
    program(BINARY, &["check"])?.ok()?;
    systemctl(&["start", "chaperone.service"])?;
    ensure!(property("ActiveState")? == "active");
    program(BINARY, &["status"])?.ok()?;
    let cgroup = property("ControlGroup")?;
    ensure!(cgroup == "/chaperone.slice/chaperone.service", "it runs in {cgroup}");
    Ok(())
}

fn serves(host: &mut Host) -> Result<()> {
    served(host, "served")?;
    let masked = client(host, "agents.slice", "writer", "drop table customers")?;
    ensure!(masked.stderr.contains("denied by policy"), "{masked}");
    let stranger = client(host, "other.slice", "shop_scram", "select 1")?;
    ensure!(stranger.code == Some(2), "{stranger}");
    Ok(())
}

/// The end of what it said.
fn log() -> Result<String> {
    let args = ["-u", "chaperone", "-n", "30", "--no-pager", "-o", "cat"];
    Ok(program("/usr/bin/journalctl", &args)?.stdout)
}

fn reload(_: &mut Host) -> Result<()> {
    let before = property("MainPID")?;
    systemctl(&["reload", "chaperone.service"])?;
    // Until it is through with it, the state is "reloading".
    wait_for("the reload", Duration::from_secs(10), || {
        Ok((log()?.contains(": reloaded") && property("ActiveState")? == "active").then_some(()))
    })?;
    ensure!(property("MainPID")? == before, "it was started anew");
    Ok(())
}

fn upgrade(host: &mut Host) -> Result<()> {
    let before = property("MainPID")?;
    program(BINARY, &["upgrade"])?.ok()?;
    let after = property("MainPID")?;
    ensure!(after != before, "the main process is the old one, {before}");
    served(host, "upgraded")?;
    wait_for("the old agent's end", Duration::from_secs(60), || {
        Ok((!Path::new("/proc").join(&before).exists()).then_some(()))
    })?;
    ensure!(property("ActiveState")? == "active" && property("MainPID")? == after);
    ensure!(property("NRestarts")? == "0", "systemd restarted it");
    // The watchdog is fed by the new one.
    std::thread::sleep(Duration::from_secs(35));
    ensure!(property("MainPID")? == after, "it did not live on");
    Ok(())
}

/// Its run directory stays, and in it what was recorded and not written yet.
fn killed(host: &mut Host) -> Result<()> {
    let before = property("MainPID")?;
    let statements: Vec<String> = (100_000..105_000).map(|number| format!("select {number}")).collect();
    let client = asking(host, "agents.slice", "cut-off", &statements).start()?;
    wait_for("statements", Duration::from_secs(60), || {
        Ok(program(BINARY, &["grep", "select 1000[1-9]"])?.stdout.contains("select 1000").then_some(()))
    })?;
    systemctl(&["kill", "--signal=KILL", "--kill-whom=main", "chaperone.service"])?;
    wait_for("the restart", Duration::from_secs(60), || {
        let now = property("MainPID")?;
        Ok((now != before && now != "0" && property("ActiveState")? == "active").then_some(()))
    })?;
    served(host, "restarted")?;
    let output = client.finish(Duration::from_secs(60))?;
    ensure!(output.code == Some(2), "it was not cut off: {output}");
    let last = output.stdout.lines().last().context("nothing was served")?;
    let found = program(BINARY, &["grep", &format!("select {last}")])?.ok()?;
    ensure!(
        found.contains(&format!("select {last}")),
        "{last} was served and is not in the journal: {found}"
    );
    program(BINARY, &["verify"])?.ok().map(drop)
}

fn spared(_: &mut Host) -> Result<()> {
    let score = fs::read_to_string(format!("/proc/{}/oom_score_adj", property("MainPID")?))?;
    ensure!(score.trim() == "-900", "oom_score_adj is {score}");
    Ok(())
}

fn out_of_memory(host: &mut Host) -> Result<()> {
    let before = property("MainPID")?;
    systemctl(&["set-property", "--runtime", "chaperone.service", "MemorySwapMax=0", "MemoryMax=4M"])?;
    let died = wait_for("the kernel's verdict", Duration::from_secs(90), || {
        // Every connection takes memory.
        client(host, "agents.slice", "greedy", "select 7")?;
        Ok((property("MainPID")? != before).then_some(()))
    });
    systemctl(&["set-property", "--runtime", "chaperone.service", "MemoryMax=infinity"])?;
    died?;
    served(host, "after-memory")?;
    program(BINARY, &["verify"])?.ok().map(drop)
}

fn again(_: &mut Host) -> Result<()> {
    let before = fs::read("/etc/chaperone/chaperone.toml")?;
    let said = program(BINARY, &["install"])?.ok()?;
    ensure!(!said.contains("made") && !said.contains("replaced"), "{said}");
    ensure!(fs::read("/etc/chaperone/chaperone.toml")? == before);
    Ok(())
}

fn uninstall(host: &mut Host) -> Result<()> {
    systemctl(&["stop", "chaperone.service"])?;
    let refused = client(host, "agents.slice", "shop_scram", "select 1")?;
    ensure!(refused.code == Some(2), "{refused}");
    let agent = std::env::var("CHAPERONE_BIN").context("CHAPERONE_BIN")?;
    program(&agent, &["uninstall"])?.ok()?;
    let direct = client(host, "agents.slice", "shop_scram", "select 6")?;
    ensure!(direct.stdout == "6\n", "{direct}");
    for gone in ["/etc/systemd/system/chaperone.service", "/etc/systemd/system/chaperone.slice", BINARY] {
        ensure!(!Path::new(gone).exists(), "{gone} is still there");
    }
    for kept in ["/etc/chaperone/chaperone.toml", "/var/lib/chaperone/journal"] {
        ensure!(Path::new(kept).exists(), "{kept} is gone");
    }
    program(&agent, &["verify"])?.ok()?;
    program(&agent, &["uninstall", "--purge"])?.ok()?;
    ensure!(!Path::new("/var/lib/chaperone").exists() && !Path::new("/etc/chaperone").exists());
    Ok(())
}
