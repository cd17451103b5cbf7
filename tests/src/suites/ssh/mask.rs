//! Masking of what programs print, wherever the pieces are cut.

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::{Stage, TRUSTING};
use crate::harness::report::Case;
use crate::harness::trail::holds;

pub(super) const CASES: &[Case<Stage>] = &[
    Case { name: "a secret that a command prints is hidden, on both streams and in the record", run: hidden },
    Case { name: "who may see what a pattern hides sees it, and nothing else", run: revealed },
    Case { name: "neither packets, colours nor a terminal split a secret", run: split },
    Case { name: "what was hidden is sealed to auditors where a rule says so", run: sealed },
    Case { name: "a prompt does not wait, and a transfer is left as it is", run: untouched },
];

const KEY: &str = "AKIA0123456789ABCDEF";

/// The target that masks.
const MASKED: &str = "127.0.0.6";

fn hidden(stage: &mut Stage) -> Result<()> {
    let command = format!("echo a {KEY} b; echo c {KEY} d 1>&2");
    let output = stage.ssh("mask", MASKED)?.args([&command]).run()?;
    let stars = "*".repeat(KEY.len());
    ensure!(
        output.stdout == format!("a {stars} b\n") && output.stderr == format!("c {stars} d\n"),
        "{output}"
    );
    let trail = stage.trail("mask")?;
    holds(trail.result(&command)?, &json!({"masked_cells": 2}))?;
    holds(trail.first("streams")?, &json!({"masked": ["aws-key"]}))?;
    let served = stage.world.agent.command(&["replay", &trail.session, "--served"])?.ok()?;
    ensure!(served.contains(&stars) && !served.contains(KEY), "{served}");
    // Other targets show what they show.
    ensure!(stage.ssh("mask-not", "127.0.0.1")?.args(["echo", KEY]).run()?.stdout == format!("{KEY}\n"));
    Ok(())
}

fn revealed(stage: &mut Stage) -> Result<()> {
    let command = format!("echo {KEY} 4111111111111111");
    let printed = |login: &str| stage.ssh(login, MASKED)?.args([&command]).run()?.ok();
    let (key, card) = ("*".repeat(KEY.len()), "*".repeat(16));
    ensure!(printed("no-auditor")? == format!("{key} {card}\n"));
    ensure!(printed("auditor")? == format!("{key} 4111111111111111\n"));
    holds(stage.trail("auditor")?.first("streams")?, &json!({"masked": ["aws-key"]}))
}

fn sealed(stage: &mut Stage) -> Result<()> {
    let output = stage.ssh("mask-raw", MASKED)?.args([format!("printf 'a {KEY} b'")]).run()?.ok()?;
    ensure!(output == format!("a {} b", "*".repeat(KEY.len())), "{output}");
    stage.ssh("mask-raw-not", MASKED)?.args(["echo", KEY]).run()?.ok()?;
    let opened =
        |login| stage.auditor.opened(&stage.world.agent, &stage.trail(login)?.session, &stage.world.scratch);
    let lines = opened("mask-raw")?;
    let printed = lines.iter().map(|line| {
        ensure!(line["op"] == 1 && line["stream"] == "stdout", "{line}");
        line["bytes"]["text"].as_str().context("no text")
    });
    ensure!(printed.collect::<Result<String>>()? == format!("a {KEY} b"), "{lines:?}");
    ensure!(opened("mask-raw-not")?.is_empty());
    Ok(())
}

fn split(stage: &mut Stage) -> Result<()> {
    let mail_bot = &stage.world.places.mail_bot;
    for command in [
        "for c in A K I A 0 1 2 3 4 5 6 7 8 9 A B C D E F; do printf $c; sleep 0.02; done; echo",
        "printf 'AKIA\\033[1;31m0123456789\\033[0mABCDEF\\n'",
        "printf 'AKIA\\0000123456789ABCDEF\\n'",
        "printf '\\033]0;AKIA0123456789ABCDEF\\007\\n'",
    ] {
        for terminal in [&[][..], &["-tt"]] {
            let output =
                stage.ssh_in(mail_bot, "mask-split", MASKED)?.args(terminal).args([command]).run()?;
            ensure!(output.stdout.matches('*').count() == 20, "{command}: {output}");
        }
    }
    // After a pause what came before it is out; what comes then is not.
    let output = stage
        .ssh_in(mail_bot, "mask-pause", MASKED)?
        .args(["printf AKIA0123; sleep 1; echo 456789ABCDEF"])
        .run()?;
    ensure!(output.stdout == "AKIA0123************\n", "{output}");
    Ok(())
}

fn untouched(stage: &mut Stage) -> Result<()> {
    // The prompt is there before the answer is given, although it might be the beginning of a secret.
    let port = stage.sshd.port;
    let line = format!("ssh {} -p {port} -l mask-prompt {MASKED}", TRUSTING.join(" "));
    let script = format!("(sleep 2; echo yes) | {line} 'printf \"go on? AK\"; read x; echo got $x'");
    let mail_bot = &stage.world.places.mail_bot;
    let output = stage.client_in(mail_bot, "/bin/sh")?.args(["-c", &script]).run()?;
    ensure!(output.stdout == "go on? AKgot yes\n", "{output}");
    let secret = stage.files("in/key");
    std::fs::write(&secret, format!("{KEY}\n"))?;
    let here = stage.home("key");
    stage
        .client("/usr/bin/scp")?
        .args(TRUSTING)
        .args(["-P", &port.to_string(), &format!("mask-scp@{MASKED}:{secret}"), &here.display().to_string()])
        .run()?
        .ok()?;
    ensure!(std::fs::read_to_string(&here)? == format!("{KEY}\n"));
    Ok(())
}
