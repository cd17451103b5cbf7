//! The record of what programs print: what was served is there, can be played, and without it nothing is served.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::streams::{noise, shell, ssh_line};
use super::{Stage, TRUSTING};
use crate::harness::report::Case;
use crate::harness::spawn::wait_for;
use crate::harness::trail::{Trail, holds};

pub(super) const CASES: &[Case<Stage>] = &[
    Case { name: "what a command prints is on record, and is shown, played and exported", run: commands },
    Case { name: "a terminal is on record with its size and its times", run: terminal },
    Case { name: "commands typed into a terminal are told as guesses, and passwords are not", run: seen },
    Case { name: "what is typed is on record only where that is asked for", run: typed },
    Case { name: "a target, or a rule, leaves the output out of the record", run: meta },
    Case { name: "whatever a client got is on record when the agent is killed", run: killed },
    Case { name: "a journal that is full ends the session", run: full },
];

impl Stage {
    fn replay(&self, login: &str, how: &[&str]) -> Result<String> {
        let session = self.trail(login)?.session;
        self.world.agent.command(&[&["replay", &session], how].concat())?.ok()
    }

    fn cast(&self, login: &str, how: &[&str]) -> Result<Vec<Value>> {
        let text = self.replay(login, &[&["--cast"], how].concat())?;
        text.lines().map(|line| serde_json::from_str(line).with_context(|| text.clone())).collect()
    }
}

/// What was printed according to a cast.
fn printed(cast: &[Value]) -> String {
    let texts = cast.iter().filter(|line| line[1] == "o").filter_map(|line| line[2].as_str());
    texts.collect()
}

fn commands(stage: &mut Stage) -> Result<()> {
    let output = stage.command("rec", "echo out; echo err 1>&2; printenv LC_NONE")?;
    ensure!(output.code == Some(1), "{output}");
    ensure!(stage.replay("rec", &["--served"])?.len() == 8);
    let text = stage.replay("rec", &[])?;
    ensure!(text.contains("    > out\n") && text.contains("    > err\n"), "{text}");
    ensure!(text.contains("stdout     4 bytes, sha256 "), "{text}");
    let cast = stage.cast("rec", &[])?;
    holds(cast.first().context("an empty cast")?, &json!({"version": 2, "width": 80, "height": 24}))?;
    let said = printed(&cast);
    ensure!(said.contains("out\r\n") && said.contains("err\r\n"), "{said:?}");
    let played = stage.replay("rec", &["--play", "--speed", "100"])?;
    ensure!(played.contains("out\r\n") && played.contains("#1 echo out"), "{played:?}");
    let port = stage.sshd.port.to_string();
    let line = format!(
        "ssh {} -p {port} -l rec-two -S {} 127.0.0.1",
        TRUSTING.join(" "),
        stage.home("rec").display()
    );
    shell(stage, &format!("{line} -M -N -f; {line} echo one; {line} echo two; {line} -O exit"))?.run()?;
    ensure!(printed(&stage.cast("rec-two", &["--op", "2"])?) == "two\r\n");
    // A player of our own shows nothing that asks the terminal questions.
    stage
        .ssh_in(&stage.world.places.mail_bot, "rec-evil", "127.0.0.1")?
        .args(["printf 'a\\033[6nb\\033]0;t\\007c'"])
        .run()?
        .ok()?;
    let played = stage.replay("rec-evil", &["--play"])?;
    ensure!(
        played.contains("abc") && !played.contains("\x1b[6n") && !played.contains("\x1b]0;"),
        "{played:?}"
    );
    Ok(())
}

fn terminal(stage: &mut Stage) -> Result<()> {
    let port = stage.sshd.port;
    let ssh = format!("ssh {} -p {port} -l rec-tty -tt 127.0.0.1", TRUSTING.join(" "));
    let script = format!("stty cols 101 rows 31; {ssh} 'stty size; sleep 0.5; echo later'");
    let mail_bot = &stage.world.places.mail_bot;
    let output = stage.client_in(mail_bot, "/usr/bin/script")?.args(["-qec", &script, "/dev/null"]).run()?;
    ensure!(output.stdout.contains("31 101"), "{output}");
    let cast = stage.cast("rec-tty", &[])?;
    holds(cast.first().context("an empty cast")?, &json!({"width": 101, "height": 31}))?;
    let at = |text: &str| -> Result<f64> {
        let found =
            cast.iter().find(|line| line[1] == "o" && line[2].as_str().is_some_and(|it| it.contains(text)));
        found.and_then(|line| line[0].as_f64()).with_context(|| format!("`{text}` is not in {cast:?}"))
    };
    let apart = at("later")? - at("31 101")?;
    ensure!((0.4..5.0).contains(&apart), "{apart} s between what was half a second apart");
    Ok(())
}

/// Types as a person does: when the prompt is there, and on when the answer is.
const TYPIST: &str = r#"
import sys, paramiko
c = paramiko.SSHClient()
c.set_missing_host_key_policy(paramiko.AutoAddPolicy())
c.connect("127.0.0.1", int(sys.argv[1]), "rec-seen", password="x", allow_agent=False, look_for_keys=False)
shell = c.invoke_shell(width=60, height=20)
seen = ""
def until(text):
    global seen
    while text not in seen:
        more = shell.recv(4096).decode()
        assert more, seen
        seen += more
    seen = seen.split(text, 1)[1]
shell.send("PS1='rea''dy$ '\r")
until("ready$ ")
for line, answer in [
    ("echo ans$((20+22))wer", "ans42wer"),
    ("stty -echo; echo go$((0+1))o; read word; stty echo; echo ba$((1+1))ck", "go1o"),
    ("hunter2", "ba2ck"),
    ("echo " + "long " * 20 + "$((1+1))end", "2end"),
    ("echo wron\x7fng-$((3+4))", "wrong-7"),
]:
    shell.send(line + "\r")
    until(answer)
    if line != "stty -echo; echo go$((0+1))o; read word; stty echo; echo ba$((1+1))ck":
        until("ready$ ")
shell.send("exit\r")
while shell.recv(4096): pass
print("ok")
"#;

fn seen(stage: &mut Stage) -> Result<()> {
    let python = stage.client_in(&stage.world.places.mail_bot, "/usr/bin/python3")?;
    let output = python.args(["-c", TYPIST, &stage.sshd.port.to_string()]).run()?;
    ensure!(output.stdout == "ok\n", "{output}");
    let trail = stage.trail("rec-seen")?;
    let seen = trail.all("command_seen");
    ensure!(seen.iter().all(|event| event["heuristic"] == true && event["op"] == 2), "{seen:?}");
    let texts: Vec<&str> = seen.iter().filter_map(|event| event["text"].as_str()).collect();
    let long = format!("echo {}$((1+1))end", "long ".repeat(20));
    let expect = [
        "echo ans$((20+22))wer",
        "stty -echo; echo go$((0+1))o; read word; stty echo; echo ba$((1+1))ck",
        &long,
        "echo wrong-$((3+4))",
        "exit",
    ];
    ensure!(texts.ends_with(&expect), "{texts:?}");
    let text = stage.replay("rec-seen", &[])?;
    ensure!(text.contains(" echo wrong-$((3+4)) (a guess, read off the screen)"), "{text}");
    ensure!(!text.contains("hunter2"), "a password is on record: {text}");
    let cast = stage.cast("rec-seen", &[])?;
    let marked = |line: &Value| line[1] == "m" && line[2] == "heuristic: echo wrong-$((3+4))";
    ensure!(cast.iter().any(marked), "{cast:?}");
    Ok(())
}

fn typed(stage: &mut Stage) -> Result<()> {
    stage.ssh("rec-in", "127.0.0.1")?.args(["cat"]).stdin("typed\n").run()?.ok()?;
    let kinds = |cast: Vec<Value>| {
        cast.iter().filter_map(|line| line[1].as_str().map(str::to_owned)).collect::<Vec<_>>()
    };
    ensure!(!kinds(stage.cast("rec-in", &[])?).contains(&"i".to_owned()));
    stage.ssh("rec-in-on", "127.0.0.6")?.args(["cat"]).stdin("typed\n").run()?.ok()?;
    let cast = stage.cast("rec-in-on", &[])?;
    ensure!(cast.iter().any(|line| line[1] == "i" && line[2] == "typed\r\n"), "{cast:?}");
    Ok(())
}

fn meta(stage: &mut Stage) -> Result<()> {
    for (login, host, command) in
        [("rec-meta", "127.0.0.7", "echo quiet"), ("rec-rule", "127.0.0.1", "id -un")]
    {
        let output = stage.ssh(login, host)?.args([command]).run()?.ok()?;
        ensure!(output == "quiet\n" || output == "root\n", "{output}");
        ensure!(stage.replay(login, &["--served"])?.is_empty(), "{login}: it is on record");
        holds(stage.trail(login)?.first("streams")?, &json!({"stdout_bytes": output.len()}))?;
    }
    let there = stage.files("in/readme");
    stage.ssh("rec-own", "127.0.0.7")?.args([&format!("wc -c {there}")]).run()?.ok()?;
    // A rule that asks for it has it where the target does not.
    ensure!(stage.replay("rec-own", &["--served"])? == format!("8 {there}\n"));
    Ok(())
}

fn killed(stage: &mut Stage) -> Result<()> {
    let file = stage.world.scratch.path().join("noise-16");
    noise(&file, 16)?;
    for round in 0..3u64 {
        let login = format!("rec-killed-{round}");
        let captured = stage.home(&login);
        let line = format!("{} cat {} > {}", ssh_line(stage, &login), file.display(), captured.display());
        let client = shell(stage, &line)?.start()?;
        wait_for("some output", Duration::from_secs(20), || {
            let size = fs::metadata(&captured).map(|it| it.len()).unwrap_or_default();
            Ok((size > 200_000 + round * 700_000).then_some(()))
        })?;
        stage.world.agent.kill();
        client.finish(Duration::from_secs(20))?;
        stage.world.start_agent()?;
        let got = fs::read(&captured)?;
        let session =
            Trail::when(&stage.world.agent, &login, |trail| trail.first("session_start").is_ok())?.session;
        let record = stage.world.scratch.path().join(&login);
        stage.world.agent.served(&session, &record)?;
        let kept = fs::read(&record)?;
        ensure!(kept.starts_with(&got), "the client got {} bytes, {} are on record", got.len(), kept.len());
        ensure!(got.len() < 16 << 20, "it was over before the agent was killed");
    }
    stage.world.agent.command(&["verify"])?.ok().map(drop)
}

fn full(stage: &mut Stage) -> Result<()> {
    let used: u64 = fs::read_dir(stage.world.agent.journal())?
        .flatten()
        .filter_map(|it| it.metadata().ok())
        .map(|it| it.len())
        .sum();
    let before = stage.world.wishes.record_max_bytes;
    stage.world.wishes.record_max_bytes = used + used / 8 + (4 << 20);
    stage.world.write_config()?;
    stage.world.agent.stop()?;
    stage.world.start_agent()?;
    let file = stage.world.scratch.path().join("noise-16");
    let many = format!(" {}", file.display()).repeat(12);
    let output = stage
        .ssh("rec-full", "127.0.0.1")?
        .args([&format!("cat{many} | wc -c; cat{many}")])
        .count_output()
        .limit(60)
        .run()?;
    let outcome = (output.code, output.stderr.contains("cannot be recorded"));
    stage.world.wishes.record_max_bytes = before;
    stage.world.write_config()?;
    stage.world.agent.stop()?;
    stage.world.start_agent()?;
    ensure!(outcome == (Some(255), true), "{outcome:?}: {output}");
    let end = stage.trail("rec-full")?;
    let reason = end.first("session_end")?["reason"].as_str().unwrap_or_default().to_owned();
    ensure!(reason.contains("cannot record"), "{reason}");
    ensure!(stage.command("rec-after", "echo alive")?.stdout == "alive\n");
    Ok(())
}
