//! Exports: everything, in order, numbered without gaps, at least once; a receiver that is not there holds up nobody; and
//! the formats are what those who own them say. Metrics. What operators and clients are told when the journal fills up.

mod full;
mod pruned;
mod receive;

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use self::receive::{accept, answer, counted, ended, logged, no_gaps, posted};
use super::drivers::packaged;
use crate::harness::postgres::free_port;
use crate::harness::report::{self, Case};
use crate::harness::spawn::{Program, Running, wait_for};
use crate::harness::sshd::Sshd;
use crate::harness::trail::Trail;
use crate::harness::world::{Wishes, World};

struct Stage {
    world: World,
    sshd: Sshd,
    _tls: Running,
    folder: PathBuf,
    syslog: u16,
    otlp: u16,
    metrics: u16,
    pushed: u16,
}

impl Stage {
    fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Traffic, and the session it was in.
    fn traffic(&self, user: &str) -> Result<String> {
        self.world.client(user).script("select name, email from customers;\ndrop table customers;\n")?;
        Ok(Trail::of(&self.world.agent, user)?.session)
    }

    /// A program that reads a format as its owners publish it.
    fn reader(&self, source: &str) -> Program {
        Program::new("/usr/bin/python3")
            .env("PYTHONPATH", packaged("export"))
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .args(["-c", source])
            .limit(60)
    }
}

pub(super) fn run(filter: Option<&str>) -> Result<()> {
    let mut world = World::prepare("exports", Wishes::default())?;
    let sshd = Sshd::start(&world.scratch)?;
    let folder = world.scratch.folder("exports", 0o700)?;
    let [syslog, otlp, metrics, pushed, tls] = [(); 5].map(|()| free_port());
    let (syslog, otlp, metrics, pushed, tls) = (syslog?, otlp?, metrics?, pushed?, tls?);
    let receiver = tls_receiver(&folder, tls)?;
    world.wishes.more = format!(
        "[metrics]\nlisten = \"127.0.0.1:{metrics}\"\notlp_url = \"http://127.0.0.1:{pushed}\"\n\
         [[exports]]\nname = \"lines\"\nto = \"file\"\npath = {lines:?}\n\
         [[exports]]\nname = \"ocsf\"\nto = \"file\"\nformat = \"ocsf\"\npath = {ocsf:?}\n\
         [[exports]]\nname = \"syslog\"\nto = \"syslog\"\naddress = \"127.0.0.1:{syslog}\"\n\
         [[exports]]\nname = \"syslog-tls\"\nto = \"syslog\"\naddress = \"127.0.0.1:{tls}\"\ntls = true\nca_file = {ca:?}\n\
         [[exports]]\nname = \"otlp\"\nto = \"otlp\"\nurl = \"http://127.0.0.1:{otlp}/v1/logs\"\n\
         [[targets]]\nname = \"web\"\nprotocol = \"ssh\"\naddresses = [\"127.0.0.1\"]\nport = {port}\nenv = \"prod\"\n\
         user = \"root\"\n[targets.ssh]\nkey_file = {login:?}\nhost_keys = [{host:?}]\n",
        lines = folder.join("journal.jsonl"),
        ocsf = folder.join("ocsf.jsonl"),
        ca = folder.join("tls.pem"),
        port = sshd.port,
        login = sshd.file("login"),
        host = sshd.public("host_ed25519")?,
    );
    world.write_config()?;
    let hosts = "@id(\"bots-log-in\") permit (principal, action == Action::\"connect\", resource is Account);\n\
                 @id(\"bots-echo\") permit (principal, action == Action::\"ssh:exec\", resource)\n\
                 when { [\"echo\"].containsAll(context.programs) };\n";
    fs::write(world.agent.policy.join("hosts.cedar"), hosts)?;
    world.start_agent()?;
    let mut stage = Stage { world, sshd, _tls: receiver, folder, syslog, otlp, metrics, pushed };
    report::run("exports", &mut stage, CASES, filter, |stage| stage.world.agent.log_tail())
}

const CASES: &[Case<Stage>] = &[
    Case { name: "a file gets every event once, in order, also when the agent is killed", run: lines },
    Case { name: "everything told as OCSF is what its published schema asks for", run: ocsf },
    Case { name: "a syslog receiver that was not there is told everything when it is", run: syslog },
    Case { name: "syslog over TLS goes to who has the certificate", run: syslog_tls },
    Case { name: "a collector that fails, and is slow, is told again what it did not confirm", run: otlp },
    Case { name: "Prometheus understands the metrics, and they are what happened", run: metrics },
    Case { name: "a collector is sent the metrics", run: pushed },
    Case { name: "a configuration with a receiver that cannot work is refused", run: refused },
    Case { name: "at 80 % of the journal operators are told", run: full::filling },
    Case { name: "at 95 % no new sessions are let in, and their clients are told why", run: full::closing },
    Case { name: "a full journal ends sessions, and their clients are told why", run: full::full },
    Case { name: "a receiver that was away while records were pruned is told which", run: pruned::gap },
];

/// A receiver with a certificate that only its own file vouches for.
fn tls_receiver(folder: &Path, port: u16) -> Result<Running> {
    let (certificate, key) = (folder.join("tls.pem"), folder.join("tls.key"));
    Program::new("/usr/bin/openssl")
        .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=receiver"])
        .args(["-addext", "subjectAltName=IP:127.0.0.1", "-addext", "basicConstraints=critical,CA:FALSE"])
        .args(["-out".as_ref(), certificate.as_os_str(), "-keyout".as_ref(), key.as_os_str()])
        .run()?
        .ok()?;
    Program::new("/usr/bin/python3")
        .args(["-c", include_str!("../../clients/exports/syslog_tls.py"), &port.to_string()])
        .args([certificate, key, folder.join("syslog-tls")])
        .log(&folder.join("syslog-tls.log"))?
        .start()
}

fn values(path: &Path) -> Result<Vec<Value>> {
    whole_lines(path)
        .lines()
        .map(|line| serde_json::from_str(line).with_context(|| line.to_owned()))
        .collect()
}

/// Without the line that is just being written.
fn whole_lines(path: &Path) -> String {
    let mut text = fs::read_to_string(path).unwrap_or_default();
    text.truncate(text.rfind('\n').map_or(0, |end| end + 1));
    text
}

fn lines(stage: &mut Stage) -> Result<()> {
    let file = stage.file("journal.jsonl");
    let first = stage.traffic("lines-1")?;
    wait_for("the session in the file", Duration::from_secs(10), || {
        Ok(ended(&values(&file)?, &first).then_some(()))
    })?;
    let client = stage.world.client("lines-2").start_script(&"select 'x';\n".repeat(3000))?;
    std::thread::sleep(Duration::from_millis(1300));
    stage.world.agent.kill();
    client.finish(Duration::from_secs(20))?;
    stage.world.start_agent()?;
    let last = stage.traffic("lines-3")?;
    wait_for("the last session in the file", Duration::from_secs(20), || {
        Ok(ended(&values(&file)?, &last).then_some(()))
    })?;
    let told = values(&file)?;
    no_gaps(told.iter())?;
    for user in ["lines-1", "lines-3"] {
        let trail = Trail::of(&stage.world.agent, user)?;
        let of = |value: &&Value| value["event"] == "statement" && value["session"] == trail.session.as_str();
        ensure!(
            told.iter().filter(of).count() == trail.all("statement").len(),
            "of {user}, some are missing"
        );
    }
    Ok(())
}

fn ocsf(stage: &mut Stage) -> Result<()> {
    let session = stage.traffic("ocsf")?;
    let command = ["-F", "/dev/null", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"];
    let port = stage.sshd.port.to_string();
    let ssh = |command_line: &str| {
        let ssh = Program::new("/usr/bin/ssh").inside(&stage.world.places.billing_bot)?;
        ssh.args(command).args(["-p", &port, "-l", "ocsf-ssh", "127.0.0.1", command_line]).limit(20).run()
    };
    ensure!(ssh("echo hello")?.ok()?.contains("hello"), "no answer over SSH");
    ssh("touch /nowhere")?.refused()?;
    // Somebody else's name, and nobody's identity.
    stage.world.client("dba").psql(&["select 1"])?;
    stage.world.client_in(&stage.world.places.unknown, "127.0.0.1", "nobody").psql(&["select 1"])?;
    let granted =
        ["grant", "billing-bot", "--group", "mail-readers", "--for", "1h", "--reason", "a test", "--json"];
    let grant: Value = serde_json::from_str(&stage.world.agent.command(&granted)?.ok()?)?;
    stage.traffic("ocsf-granted")?;
    let id = grant["id"].as_str().with_context(|| grant.to_string())?.to_owned();
    stage.world.agent.command(&["revoke", &id, "--reason", "tested"])?.ok()?;
    let file = stage.file("ocsf.jsonl");
    wait_for("the end of the grant in the file", Duration::from_secs(20), || {
        let told = values(&file)?;
        Ok(told.iter().any(|it| it["class_uid"] == 3005 && it["activity_id"] == 2).then_some(()))
    })?;
    let seen = by_class(stage)?;
    for class in ["3002", "3003", "3005", "4001", "4007", "6002", "6005"] {
        ensure!(seen[class].as_u64() > Some(0), "nothing of class {class}: {seen}");
    }
    let told = values(&file)?;
    let of = |value: &&Value| value["actor"]["session"]["uid"] == session.as_str();
    let denied = told.iter().find(|value| of(value) && value["status_id"] == 2).context("no denial")?;
    ensure!(
        denied["query_info"]["query_string"].as_str().is_some_and(|sql| sql.contains("drop table"))
            && denied["actor"]["user"]["name"] == "billing-bot"
            && denied["action_id"] == 2,
        "{denied}"
    );
    Ok(())
}

/// How many events of each class were told, all of them as the schema wants them.
fn by_class(stage: &Stage) -> Result<Value> {
    let reader = stage.reader(include_str!("../../clients/exports/ocsf.py"));
    Ok(serde_json::from_str(&reader.stdin(whole_lines(&stage.file("ocsf.jsonl"))).run()?.ok()?)?)
}

fn syslog(stage: &mut Stage) -> Result<()> {
    let started = Instant::now();
    let session = stage.traffic("syslog")?;
    ensure!(started.elapsed() < Duration::from_secs(8), "a receiver that is not there held up a session");
    let listener = TcpListener::bind(("127.0.0.1", stage.syslog))?;
    let mut stream = std::io::BufReader::new(accept(&listener)?);
    let mut told = Vec::new();
    while !ended(&told, &session) {
        let line = counted(&mut stream)?;
        ensure!(line.starts_with("<110>1 2") || line.starts_with("<108>1 2"), "{line}");
        if line.contains(" statement - ") {
            ensure!(line.contains("\"verdict\":\"deny\"") == line.starts_with("<108>"), "{line}");
        }
        let (_, json) = line.split_once(" - {").with_context(|| line.clone())?;
        told.push(serde_json::from_str(&format!("{{{json}"))?);
    }
    ensure!(no_gaps(told.iter())? == told.len(), "the first time everything comes once");
    Ok(())
}

fn syslog_tls(stage: &mut Stage) -> Result<()> {
    let session = stage.traffic("syslog-tls")?;
    let (file, log) = (stage.file("syslog-tls"), stage.file("syslog-tls.log"));
    let told = || -> Result<Vec<Value>> {
        let text = whole_lines(&file);
        let json = |line: &str| line.split_once(" - {").map(|(_, json)| format!("{{{json}"));
        text.lines().map(|line| Ok(serde_json::from_str(&json(line).context("no JSON")?)?)).collect()
    };
    wait_for("the session at the receiver", Duration::from_secs(20), || {
        Ok(ended(&told()?, &session).then_some(()))
    })
    .with_context(|| fs::read_to_string(log).unwrap_or_default())?;
    no_gaps(told()?.iter()).map(drop)
}

fn otlp(stage: &mut Stage) -> Result<()> {
    let session = stage.traffic("otlp")?;
    let listener = TcpListener::bind(("127.0.0.1", stage.otlp))?;
    let mut told = Vec::new();
    let mut turn = 0;
    while !ended(&told, &session) {
        let mut stream = accept(&listener)?;
        // The third time it takes its time, and nobody waits for it.
        if turn == 2 {
            let started = Instant::now();
            stage.traffic("otlp-slow")?;
            ensure!(started.elapsed() < Duration::from_secs(8), "a slow receiver held up a session");
        }
        let body = posted(&mut stream, "/v1/logs")?;
        turn += 1;
        // Twice it falls over, and must be told the same again.
        if turn <= 2 {
            answer(&mut stream, ["503 Service Unavailable", "500 Internal Server Error"][turn - 1])?;
            continue;
        }
        if turn == 3 {
            stage
                .reader(include_str!("../../clients/exports/otlp.py"))
                .args(["logs"])
                .stdin(body.clone())
                .run()?
                .ok()?;
        }
        answer(&mut stream, "200 OK")?;
        told.extend(logged(&body)?);
    }
    ensure!(no_gaps(told.iter())? == told.len() && told[0]["number"] == 1, "{}", told[0]);
    Ok(())
}

fn scraped(stage: &Stage) -> Result<Value> {
    let url = format!("http://127.0.0.1:{}/metrics", stage.metrics);
    let text = stage.reader(include_str!("../../clients/exports/prometheus.py")).args([url]).run()?.ok()?;
    Ok(serde_json::from_str(&text)?)
}

fn metrics(stage: &mut Stage) -> Result<()> {
    let before = scraped(stage)?;
    let statements =
        "select name, email from customers;\ndrop table customers;\nselect count(*) from orders;\n";
    stage.world.client("metrics").script(statements)?;
    let trail = Trail::of(&stage.world.agent, "metrics")?;
    let cells: u64 = trail.all("result").iter().filter_map(|result| result["masked_cells"].as_u64()).sum();
    ensure!(cells > 0, "nothing was masked");
    stage.world.client("dba").psql(&["select 1"])?.ok()?;
    let after = scraped(stage)?;
    let grew = |name: &str| -> Result<f64> {
        let of = |values: &Value| values[name].as_f64().with_context(|| format!("no {name} in {values}"));
        Ok(of(&after)? - of(&before)?)
    };
    for (name, by) in [
        ("chaperone_decisions_total,verdict=permit", 3.0),
        ("chaperone_foreign_credentials_total", 1.0),
        ("chaperone_decisions_total,verdict=deny", 1.0),
        ("chaperone_sessions_total,outcome=started", 2.0),
        #[expect(clippy::cast_precision_loss, reason = "a few cells")]
        ("chaperone_masked_cells_total", cells as f64),
    ] {
        ensure!((grew(name)? - by).abs() < 0.5, "{name} grew by {}, not {by}", grew(name)?);
    }
    ensure!(grew("chaperone_served_rows_total")? > 1.0 && grew("chaperone_journal_bytes")? > 0.0, "{after}");
    let digest = stage.world.agent.status()?.context("no status")?["policy_sha256"].clone();
    for name in [
        format!("chaperone_policy_info,sha256={}", digest.as_str().context("no digest")?),
        format!("chaperone_build_info,version={}", env!("CARGO_PKG_VERSION")),
        "chaperone_policy_loaded_timestamp_seconds".into(),
        "chaperone_sessions".into(),
        "chaperone_holds".into(),
        "chaperone_namespaces".into(),
        "chaperone_journal_free_bytes".into(),
        "chaperone_export_lag_records,export=lines".into(),
        "chaperone_export_failing,export=otlp".into(),
        "chaperone_export_events_total,export=syslog-tls".into(),
    ] {
        ensure!(after[&name].is_number(), "no {name} in {after}");
    }
    ensure!(after["chaperone_export_failing,export=lines"] == 0.0, "{after}");
    Ok(())
}

fn pushed(stage: &mut Stage) -> Result<()> {
    let listener = TcpListener::bind(("127.0.0.1", stage.pushed))?;
    let mut stream = accept(&listener)?;
    let body = posted(&mut stream, "/v1/metrics")?;
    answer(&mut stream, "200 OK")?;
    let read = stage.reader(include_str!("../../clients/exports/otlp.py")).args(["metrics"]).stdin(body);
    let read: Value = serde_json::from_str(&read.run()?.ok()?)?;
    let metrics =
        read["resourceMetrics"][0]["scopeMetrics"][0]["metrics"].as_array().context("no metrics")?;
    let of = |name: &str| metrics.iter().find(|metric| metric["name"] == name);
    let decisions = of("chaperone.decisions_total").context("no decisions")?;
    ensure!(decisions["sum"]["isMonotonic"] == true, "{decisions}");
    ensure!(of("chaperone.sessions").is_some_and(|it| it["gauge"]["dataPoints"][0]["asDouble"].is_number()));
    Ok(())
}

fn refused(stage: &mut Stage) -> Result<()> {
    let good = fs::read_to_string(&stage.world.agent.config)?;
    let check = |change: (&str, &str), problem: &str| -> Result<()> {
        ensure!(good.contains(change.0), "nothing to change: {}", change.0);
        fs::write(&stage.world.agent.config, good.replacen(change.0, change.1, 1))?;
        let said = stage.world.agent.command(&["check"])?;
        ensure!(said.code != Some(0) && said.stderr.contains(problem), "{problem:?} is not in {said}");
        Ok(())
    };
    let checked = check(("name = \"lines\"\nto = \"file\"", "name = \"lines\"\nto = \"pipe\""), "pipe")
        .and_then(|()| check(("to = \"file\"\npath = \"/", "to = \"file\"\npath = \"./"), "absolute"))
        .and_then(|()| check(("tls.pem\"", "no.pem\""), "no.pem"))
        .and_then(|()| check(("address = \"127.0.0.1:", "address = \"192.0.2.1:"), "tls"))
        .and_then(|()| check(("url = \"http://127.0.0.1:", "url = \"http://192.0.2.1:"), "https"))
        .and_then(|()| check(("listen = \"127.0.0.1:", "listen = \"0.0.0.0:"), "loopback"));
    fs::write(&stage.world.agent.config, &good)?;
    checked
}
