//! Raw values, sealed to auditors where policy says so: opened by `age` itself, and by nobody else.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::harness::auditor::Auditor;
use crate::harness::report::{self, Case};
use crate::harness::spawn::wait_for;
use crate::harness::trail::Trail;
use crate::harness::world::{POLICY, Wishes, World};

/// Nothing of orders is sealed.
const RULE: &str = "@id(\"for-auditors\") @record(\"raw\") permit(principal, action in Action::\"sql:read\", \
                    resource == Table::\"shop/shop/public.customers\");";
const KILLS: u64 = 6;

struct Audited {
    world: World,
    one: Auditor,
    other: Auditor,
    stranger: Auditor,
}

pub(super) fn run(filter: Option<&str>) -> Result<()> {
    let mut world = World::prepare("sealed", Wishes::default())?;
    let make = |name| Auditor::new(&world.scratch, name);
    let (one, other, stranger) = (make("one")?, make("other")?, make("stranger")?);
    world.wishes.record_more = Auditor::line(&[&one, &other]);
    world.write_config()?;
    world.write_policy(&format!("{POLICY}\n{RULE}\n"))?;
    world.start_agent()?;
    let mut audited = Audited { world, one, other, stranger };
    report::run("sealed", &mut audited, CASES, filter, |audited| audited.world.agent.log_tail())
}

const CASES: &[Case<Audited>] = &[
    Case { name: "each auditor opens what was masked, with age alone, and nobody else does", run: opened },
    Case { name: "prepared, binary and copied values are sealed as the target sent them", run: forms },
    Case { name: "what no rule wants sealed is not", run: only_there },
    Case { name: "in clear the values are nowhere in the agent's files", run: nowhere },
    Case { name: "agent killed at random: what a client got masked is there for auditors", run: killed },
    Case { name: "a rule that wants it and nobody to read it: refused before anything starts", run: nobody },
];

/// The lines, as one auditor reads them.
fn lines(audited: &Audited, session: &str) -> Result<Vec<Value>> {
    audited.one.opened(&audited.world.agent, session, &audited.world.scratch)
}

fn opened(audited: &mut Audited) -> Result<()> {
    let Audited { world, one, other, stranger } = audited;
    let sql = "select id, name, email, born from customers order by id limit 2";
    let shown = world.client("opened").script(&format!("{sql};\n"))?.ok()?;
    ensure!(!shown.contains("example"), "{shown}");
    let session = Trail::of(&world.agent, "opened")?.session;
    let expected = [
        json!({"op": 1, "row": 1, "cells": [[3, {"text": "ada.quill@example.com"}], [4, {"text": "1981-03-02"}]]}),
        json!({"op": 1, "row": 2, "cells": [[3, {"text": "bao.lindgren@example.se"}], [4, {"text": "1990-11-17"}]]}),
    ];
    for auditor in [&*one, &*other] {
        let lines = auditor.opened(&world.agent, &session, &world.scratch)?;
        ensure!(lines == expected, "{lines:?}");
    }
    let key = |auditor: &Auditor| auditor.file.to_string_lossy().into_owned();
    let text = world.agent.command(&["unseal", &session, "--identity", &key(one)])?.ok()?;
    ensure!(text.contains(sql), "{text}");
    ensure!(text.contains("email = 'ada.quill@example.com', born = '1981-03-02'"), "{text}");
    let text = world.agent.command(&["unseal", &session, "--identity", &key(one), "--json"])?.ok()?;
    let again = text.lines().map(serde_json::from_str::<Value>).collect::<Result<Vec<_>, _>>()?;
    ensure!(again == expected, "{text}");
    let refused = world.agent.command(&["unseal", &session, "--identity", &key(stranger)])?;
    ensure!(refused.code == Some(1) && refused.stderr.contains("none of the keys opens it"), "{refused}");
    ensure!(!refused.stdout.contains("ada.quill"), "{refused}");
    ensure!(stranger.opened(&world.agent, &session, &world.scratch).is_err());
    let replayed = world.agent.command(&["replay", &session])?.ok()?;
    ensure!(replayed.contains("bytes of raw values") && !replayed.contains("ada.quill"), "{replayed}");
    let report: Value = serde_json::from_str(&world.agent.command(&["verify", "--json"])?.ok()?)?;
    ensure!(report["sealed"].as_u64() > Some(0), "{report}");
    Ok(())
}

fn forms(audited: &mut Audited) -> Result<()> {
    let python = "import psycopg, sys\n\
                  h, p, u, d = sys.argv[1:5]\n\
                  c = psycopg.connect(host=h, port=p, user=u, dbname=d)\n\
                  q = 'select email, born from customers where id = %s'\n\
                  print(c.cursor(binary=True).execute(q, (1,), prepare=True).fetchone())\n\
                  with c.cursor().copy('copy customers (id, email) to stdout') as copy:\n\
                  \x20   print(b''.join(map(bytes, copy)))\n\
                  c.commit()\n";
    let shown = audited.world.client("forms").python(python, &[])?.ok()?;
    ensure!(shown.contains("***") && !shown.contains("ada.quill"), "{shown}");
    let session = Trail::of(&audited.world.agent, "forms")?.session;
    let lines = lines(audited, &session)?;
    let cells = lines.iter().find_map(|line| line["cells"].as_array()).context("no row")?;
    // Days since 2000-01-01, as the protocol's binary format has them.
    let born = json!([2, {"binary": "///lIQ=="}]);
    ensure!(cells.len() == 2 && cells[1] == born, "{lines:?}");
    ensure!(cells[0][1] == json!({"binary": "YWRhLnF1aWxsQGV4YW1wbGUuY29t"}), "{lines:?}");
    let copied = lines.iter().filter_map(|line| line["copy"]["text"].as_str()).collect::<Vec<_>>();
    ensure!(copied.len() == 5 && copied[0] == "1\tada.quill@example.com\n", "{lines:?}");
    Ok(())
}

fn only_there(audited: &mut Audited) -> Result<()> {
    let world = &audited.world;
    world.client("only").script("select * from orders limit 3;\nselect name from customers;\n")?.ok()?;
    let session = Trail::of(&world.agent, "only")?.session;
    ensure!(lines(audited, &session)?.is_empty());
    let text =
        world.agent.command(&["unseal", &session, "--identity", &audited.one.file.to_string_lossy()])?;
    ensure!(text.ok()?.contains("sealed     nothing"));
    Ok(())
}

/// Every file below the agent's state and run directories, and its log.
fn nowhere(audited: &mut Audited) -> Result<()> {
    let world = &audited.world;
    world.client("nowhere").script(&"select email, card from customers;\n".repeat(20))?.ok()?;
    let session = Trail::of(&world.agent, "nowhere")?.session;
    ensure!(lines(audited, &session)?.len() == 100);
    let served = world.scratch.path().join("served");
    world.agent.served(&session, &served)?;
    let secrets = ["ada.quill@example.com", "4012888888881881"];
    let mut files = vec![served];
    let mut folders = vec![world.agent.state.clone(), world.agent.run.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder)? {
            let entry = entry?;
            let kind = entry.file_type()?;
            if kind.is_dir() {
                folders.push(entry.path());
            } else if kind.is_file() {
                files.push(entry.path());
            }
        }
    }
    ensure!(files.len() > 5, "{files:?}");
    for file in &files {
        ensure!(!holds_any(file, &secrets)?, "{} holds a secret", file.display());
    }
    ensure!(!secrets.iter().any(|secret| world.agent.log().contains(secret)));
    Ok(())
}

fn holds_any(file: &Path, secrets: &[&str]) -> Result<bool> {
    let bytes = fs::read(file)?;
    Ok(secrets.iter().any(|secret| bytes.windows(secret.len()).any(|window| window == secret.as_bytes())))
}

/// The client says how many rows it has; the auditors have as many, or more.
fn killed(audited: &mut Audited) -> Result<()> {
    let mut all = 0;
    for kill in 0..KILLS {
        let world = &mut audited.world;
        let name = format!("killed-{kill}");
        let out = world.scratch.folder(&name, 0o777)?.join("rows");
        let script =
            format!("\\o {}\n\\t on\n{}", out.display(), "select email from customers;\n".repeat(4000));
        let client = world.client(&name).limit(60).start_script(&script)?;
        wait_for("the first rows", Duration::from_secs(20), || {
            Ok(fs::metadata(&out).is_ok_and(|meta| meta.len() > 0).then_some(()))
        })?;
        std::thread::sleep(Duration::from_millis(kill * 37 % 150));
        world.agent.kill();
        client.finish(Duration::from_secs(30))?;
        world.start_agent()?;
        let got = fs::read_to_string(&out)?.lines().filter(|line| line.contains("***")).count();
        let session = Trail::when(&world.agent, &name, |_| true)?.session;
        let sealed = lines(audited, &session)?.len();
        ensure!(sealed >= got && got > 0, "{got} rows at the client, {sealed} sealed");
        all += got;
        audited.world.agent.command(&["verify"])?.ok()?;
    }
    eprintln!("        {KILLS} kills; {all} masked rows received: all sealed");
    Ok(())
}

fn nobody(audited: &mut Audited) -> Result<()> {
    let world = &audited.world;
    let line = Auditor::line(&[&audited.one, &audited.other]);
    let config = fs::read_to_string(&world.agent.config)?;
    let elsewhere = world.scratch.folder("nobody", 0o755)?.join("chaperone.toml");
    let told = |text: &str, command: &str| -> Result<String> {
        fs::write(&elsewhere, text)?;
        let path = elsewhere.to_str().context("a path")?;
        let refused = crate::harness::spawn::Program::new(world.agent.binary())
            .args(["--config", path, command])
            .inside(&world.places.agent)?
            .limit(20)
            .run()?;
        ensure!(refused.code == Some(2), "{refused}");
        Ok(refused.stderr)
    };
    ensure!(config.contains(&line), "{config}");
    for command in ["check", "run"] {
        let why = told(&config.replace(&line, ""), command)?;
        ensure!(why.contains("for-auditors") && why.contains("record.auditors"), "{command}: {why}");
    }
    let secret = fs::read_to_string(&audited.one.file)?;
    let secret = secret.lines().find(|line| line.starts_with("AGE-SECRET")).context("no key")?;
    let why = told(&config.replace(&line, &format!("auditors = [{secret:?}]")), "check")?;
    ensure!(why.contains("not the public key") && !why.contains(secret), "{why}");
    Ok(())
}
