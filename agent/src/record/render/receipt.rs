//! A receipt in words: what was asked, by whom, who decided and why, and what came of it.

use std::io::{self, Write};

use super::super::event::{HoldOutcome, Step, Verdict};
use super::super::query::Receipt;
use super::escape::{visible, visible_lines};
use super::transcript::{hold_text, joined, line, outcome_text, workload_text};
use super::{Paint, Tone};

/// # Errors
/// Those of `out`.
pub fn receipt_text(receipt: &Receipt, paint: Paint, out: &mut dyn Write) -> io::Result<()> {
    let or_unknown = |text: Option<&str>| text.map_or_else(|| "unknown".to_owned(), visible);
    writeln!(out, "statement {}: {}", visible(&receipt.id), sentence(receipt, paint))?;
    line(out, "when", &format!("{:#}", receipt.time))?;
    let who = receipt.identity.as_ref().map_or_else(
        || "unknown".to_owned(),
        |identity| match identity.groups.as_slice() {
            [] => visible(&identity.name),
            groups => format!("{}, of {}", visible(&identity.name), joined(groups)),
        },
    );
    line(out, "who", &who)?;
    receipt.workload.as_ref().map_or(Ok(()), |workload| workload_text(workload, out))?;
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
    };
    line(out, step, &format!("sha256 {}, {} values", visible(&receipt.sql_sha256), receipt.binds))?;
    for sql in visible_lines(&receipt.sql) {
        writeln!(out, "    | {sql}")?;
    }
    line(out, "rules", &joined(&receipt.policies))?;
    line(out, "policies", &format!("sha256 {}", visible(&receipt.policy_sha256)))?;
    if let Some(reason) = &receipt.reason {
        line(out, "because", &visible(reason))?;
    }
    if !receipt.masked.is_empty() {
        line(out, "masked", &joined(&receipt.masked))?;
    }
    receipt.hold.as_ref().map_or(Ok(()), |hold| hold_text(hold, paint, out))?;
    receipt.outcome.as_ref().map_or(Ok(()), |outcome| outcome_text(outcome, paint, out))?;
    let rows = if receipt.rows_recorded { "with what was served" } else { "without what was served" };
    line(
        out,
        "record",
        &format!("number {}, {rows}; `chaperone prove {}` proves it", receipt.seq, receipt.seq),
    )
}

/// What became of it, in one sentence.
fn sentence(receipt: &Receipt, paint: Paint) -> String {
    let ran = match &receipt.outcome {
        None => "nothing says that it ran",
        Some(outcome) if outcome.sqlstate.is_some() => "the target answered with an error",
        Some(_) => "it ran",
    };
    let held = receipt.hold.as_ref().and_then(|hold| hold.outcome);
    match (receipt.verdict, held) {
        (Verdict::Permit, _) => format!("{}; {ran}", paint.apply(Tone::Good, "permitted")),
        (Verdict::Deny, _) => format!("{}; it did not run", paint.apply(Tone::Bad, "denied")),
        (Verdict::Hold, Some(HoldOutcome::Approved)) => {
            format!("{}; {ran}", paint.apply(Tone::Good, "held, and approved"))
        }
        (Verdict::Hold, Some(HoldOutcome::Denied)) => {
            format!("{}; it did not run", paint.apply(Tone::Bad, "held, and denied by an approver"))
        }
        (Verdict::Hold, Some(HoldOutcome::Expired)) => {
            format!("{}; it did not run", paint.apply(Tone::Bad, "held, and approved by nobody in time"))
        }
        (Verdict::Hold, Some(HoldOutcome::Withdrawn)) => {
            format!("{}; it did not run", paint.apply(Tone::Plain, "held, and withdrawn by the client"))
        }
        (Verdict::Hold, None) => paint.apply(Tone::Waiting, "held for an approval"),
    }
}
