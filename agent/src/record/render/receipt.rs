//! A receipt in words: what was asked, by whom, who decided and why, and what came of it.

use std::io::{self, Write};

use super::super::event::{GrantUsed, HoldOutcome, Step, Verdict, Vote, Workload};
use super::super::query::{Hold, Receipt};
use super::escape::{visible, visible_lines};
use super::transcript::{hold_text, joined, line, outcome_text, workload_text};
use super::{Paint, Tone};

/// # Errors
/// Those of `out`.
pub fn receipt_text(receipt: &Receipt, paint: Paint, out: &mut dyn Write) -> io::Result<()> {
    let or_unknown = |text: Option<&str>| text.map_or_else(|| "unknown".to_owned(), visible);
    let what = if receipt.step == Step::Connect { "connection" } else { "statement" };
    writeln!(out, "{what} {}: {}", visible(&receipt.id), sentence(receipt, paint))?;
    line(out, "when", &format!("{:#}", receipt.time))?;
    let who = receipt.identity.as_ref().map_or_else(
        || "unknown".to_owned(),
        |identity| match identity.groups.as_slice() {
            [] => visible(&identity.name),
            groups => format!("{}, of {}", visible(&identity.name), joined(groups)),
        },
    );
    line(out, "who", &who)?;
    if let Some(workload) = &receipt.workload {
        workload_text(workload, out)?;
        descent(workload, out)?;
    }
    if let Some(claimed) = &receipt.claimed_user {
        line(out, "claimed", &format!("to be {} (evidence, not identity)", visible(claimed)))?;
    }
    let (target, database) = (or_unknown(receipt.target.as_deref()), or_unknown(receipt.database.as_deref()));
    let upstream = or_unknown(receipt.upstream_user.as_deref());
    line(out, "where", &format!("target {target}, database {database}, as {upstream}"))?;
    let step = match receipt.step {
        Step::Query => "asked",
        Step::Prepare => "prepared",
        Step::Execute => "executed",
        Step::Exec => "command",
        Step::Shell => "shell",
        Step::Pty => "terminal",
        Step::Subsystem => "subsystem",
        Step::File => "file",
        Step::Feature => "feature",
        Step::Connect => "connection",
    };
    if receipt.step != Step::Connect {
        asked(receipt, step, out)?;
    }
    line(out, "rules", &joined(&receipt.policies))?;
    if !receipt.policy_sha256.is_empty() {
        line(out, "policies", &format!("sha256 {}", visible(&receipt.policy_sha256)))?;
    }
    if let Some(reason) = &receipt.reason {
        line(out, "because", &visible(reason))?;
    }
    if !receipt.masked.is_empty() {
        line(out, "masked", &joined(&receipt.masked))?;
    }
    if let Some(hold) = &receipt.hold {
        hold_text(hold, paint, out)?;
        votes(hold, out)?;
    }
    receipt.outcome.as_ref().map_or(Ok(()), |outcome| outcome_text(outcome, paint, out))?;
    for grant in &receipt.grants {
        line(out, "grant", &left(grant))?;
    }
    let rows = if receipt.rows_recorded { "with what was served" } else { "without what was served" };
    line(
        out,
        "record",
        &format!("number {}, {rows}; `chaperone prove {}` proves it", receipt.seq, receipt.seq),
    )
}

/// What was asked for.
fn asked(receipt: &Receipt, step: &str, out: &mut dyn Write) -> io::Result<()> {
    line(out, step, &format!("sha256 {}, {} values", visible(&receipt.sql_sha256), receipt.binds))?;
    visible_lines(&receipt.sql).try_for_each(|sql| writeln!(out, "    | {sql}"))
}

/// The program's digest, and what it descends from.
fn descent(workload: &Workload, out: &mut dyn Write) -> io::Result<()> {
    match (&workload.exe_sha256, &workload.exe_unhashed) {
        (Some(sha256), _) => line(out, "program", &format!("sha256 {}", visible(sha256)))?,
        (None, Some(why)) => line(out, "program", &format!("without a digest: {}", visible(why)))?,
        (None, None) => {}
    }
    if let Some(script) = &workload.script {
        line(out, "script", &visible(script))?;
    }
    if !workload.argv.is_empty() {
        let cut = if workload.argv_cut { " \u{2026}" } else { "" };
        let argv: Vec<String> = workload.argv.iter().map(|word| visible(word)).collect();
        line(out, "arguments", &format!("{}{cut}", argv.join(" ")))?;
    }
    if workload.ancestors.is_empty() {
        return Ok(());
    }
    let named = workload.ancestors.iter().map(|ancestor| {
        let exe = ancestor.exe.as_deref().map_or_else(|| "?".to_owned(), visible);
        format!("{exe} ({})", ancestor.pid)
    });
    let whole = if workload.ancestors_complete { "" } else { ", and what is not known" };
    line(out, "run by", &format!("{}{whole}", named.collect::<Vec<_>>().join(" < ")))
}

/// What people said, as far as it counted: the others are in the session's events.
fn votes(hold: &Hold, out: &mut dyn Write) -> io::Result<()> {
    let counted = |vote: &&Vote| hold.by.as_deref().is_none_or(|by| by.split(", ").any(|one| one == vote.by));
    for vote in hold.votes.iter().filter(counted) {
        let said = if vote.approve { "yes" } else { "no" };
        let comment =
            vote.comment.as_deref().map(|comment| format!(": {}", visible(comment))).unwrap_or_default();
        line(out, "vote", &format!("{said} from {}{comment}", visible(&vote.by)))?;
        if let Some(signed) = &vote.signature {
            line(out, "signed", &format!("by key {}: {}", visible(&signed.key), visible(&signed.signature)))?;
            line(out, "over", &visible(&signed.text))?;
        }
        if let Some(login) = &vote.login {
            let id = login.token_id.as_deref().map_or_else(|| "-".to_owned(), visible);
            let who = format!("at {} as {}, token {id}", visible(&login.issuer), visible(&login.subject));
            line(out, "logged in", &who)?;
        }
    }
    Ok(())
}

fn left(used: &GrantUsed) -> String {
    let of = |left: Option<u64>, what: &str| match left {
        Some(left) => format!("{left} {what} left"),
        None => format!("{what} not limited"),
    };
    let when = if used.op.is_some() { "" } else { " when the session began" };
    format!("{}: {}, {}{when}", visible(&used.grant), of(used.uses_left, "uses"), of(used.rows_left, "rows"))
}

/// What became of it, in one sentence.
fn sentence(receipt: &Receipt, paint: Paint) -> String {
    let connects = receipt.step == Step::Connect;
    let not = if connects { "it was not let in" } else { "it did not run" };
    let ran = match &receipt.outcome {
        // Only what was let in has an account at the target.
        None if connects && receipt.upstream_user.is_some() => "it was let in",
        None if connects => "nothing says that it was let in",
        None => "nothing says that it ran",
        Some(outcome) if outcome.sqlstate.is_some() => "the target answered with an error",
        Some(_) => "it ran",
    };
    let held = receipt.hold.as_ref().and_then(|hold| hold.outcome);
    match (receipt.verdict, held) {
        (Verdict::Permit, _) => format!("{}; {ran}", paint.apply(Tone::Good, "permitted")),
        (Verdict::Deny, _) => format!("{}; {not}", paint.apply(Tone::Bad, "denied")),
        (Verdict::Hold, Some(HoldOutcome::Approved)) => {
            format!("{}; {ran}", paint.apply(Tone::Good, "held, and approved"))
        }
        (Verdict::Hold, Some(HoldOutcome::Denied)) => {
            format!("{}; {not}", paint.apply(Tone::Bad, "held, and denied by an approver"))
        }
        (Verdict::Hold, Some(HoldOutcome::Expired)) => {
            format!("{}; {not}", paint.apply(Tone::Bad, "held, and approved by nobody in time"))
        }
        (Verdict::Hold, Some(HoldOutcome::Withdrawn)) => {
            format!("{}; {not}", paint.apply(Tone::Plain, "held, and withdrawn before anybody answered"))
        }
        (Verdict::Hold, None) => paint.apply(Tone::Waiting, "held for an approval"),
    }
}
