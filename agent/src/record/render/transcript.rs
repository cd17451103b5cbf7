//! A session as a transcript to read from top to bottom.

use std::io::{self, Write};

use super::super::event::{Bind, Event, HoldOutcome, Step, Verdict, Workload};
use super::super::query::{
    Content, Hold, Operation, Outcome, Output, SessionState, Start, Table as Rows, Transcript,
};
use super::escape::{visible, visible_lines};
use super::table::Table;
use super::{Paint, Tone, damage_text, moment, seconds};

/// # Errors
/// Those of `out`.
pub fn transcript_text(transcript: &Transcript, paint: Paint, out: &mut dyn Write) -> io::Result<()> {
    let session = &transcript.session;
    let or_unknown = |text: Option<&str>| text.map_or_else(|| "unknown".to_owned(), visible);
    writeln!(out, "session {}", visible(&session.id))?;
    let groups = session.groups.iter().map(|group| visible(group)).collect::<Vec<_>>().join(", ");
    let groups = if groups.is_empty() { groups } else { format!(" ({groups})") };
    line(out, "identity", &format!("{}{groups}", or_unknown(session.identity.as_deref())))?;
    line(out, "target", &or_unknown(session.target.as_deref()))?;
    if let Some(start) = &transcript.start {
        start_text(start, out)?;
    }
    if let Some(Event::SessionRefused { client, workload, policies, .. }) = &transcript.refused {
        line(out, "from", &visible(client))?;
        workload.as_ref().map_or(Ok(()), |workload| workload_text(workload, out))?;
        line(out, "policies", &joined(policies))?;
    }
    line(out, "start", &session.start.to_string())?;
    let (tone, state) = match session.state {
        SessionState::Open => (Tone::Good, "no end recorded yet".to_owned()),
        SessionState::Ended => (Tone::Plain, moment(session.end)),
        SessionState::Refused => (Tone::Bad, "refused".to_owned()),
        SessionState::Lost => (Tone::Waiting, format!("before {}", moment(session.end))),
    };
    let reason =
        session.end_reason.as_deref().map(|reason| format!(", {}", visible(reason))).unwrap_or_default();
    line(out, "end", &format!("{}{reason}", paint.apply(tone, &state)))?;
    let (statements, denied, held, rows) = (session.statements, session.denied, session.held, session.rows);
    line(out, "statements", &format!("{statements} ({denied} denied, {held} held), {rows} rows"))?;
    if transcript.sealed_bytes > 0 {
        let bytes = transcript.sealed_bytes;
        line(
            out,
            "sealed",
            &format!("{bytes} bytes of raw values; `chaperone unseal` opens them to auditors"),
        )?;
    }
    for operation in &transcript.operations {
        writeln!(out)?;
        operation_text(operation, paint, out)?;
    }
    damage_text(&transcript.damage, paint, out)
}

fn start_text(start: &Start, out: &mut dyn Write) -> io::Result<()> {
    line(out, "from", &format!("{} to {}", visible(&start.client), visible(&start.original_destination)))?;
    workload_text(&start.workload, out)?;
    let application = start.application.as_deref().map(|name| format!(", application {}", visible(name)));
    let (claimed, database) = (visible(&start.claimed_user), visible(&start.database));
    let upstream = visible(&start.upstream_user);
    let application = application.unwrap_or_default();
    line(out, "login", &format!("as {claimed} to {database}{application}; at the target as {upstream}"))
}

pub(super) fn workload_text(workload: &Workload, out: &mut dyn Write) -> io::Result<()> {
    let exe = workload.exe.as_deref().map(|exe| format!(" {}", visible(exe))).unwrap_or_default();
    let cgroup = workload.cgroup.as_deref().map_or_else(|| workload.cgroup_id.to_string(), visible);
    let (pid, uid, comm) = (workload.pid, workload.uid, visible(&workload.comm));
    line(out, "process", &format!("pid {pid} {comm}{exe}, uid {uid}, cgroup {cgroup}"))
}

/// One statement, as in a transcript.
///
/// # Errors
/// Those of `out`.
pub(super) fn operation_text(operation: &Operation, paint: Paint, out: &mut dyn Write) -> io::Result<()> {
    let (tone, verdict) = match operation.verdict {
        Verdict::Permit => (Tone::Good, "permit"),
        Verdict::Deny => (Tone::Bad, "deny"),
        Verdict::Hold => (Tone::Waiting, "hold"),
    };
    let verdict = paint.apply(tone, verdict);
    let reason =
        operation.reason.as_deref().map(|reason| format!(": {}", visible(reason))).unwrap_or_default();
    let (op, offset, policies) = (operation.op, seconds(operation.offset_ms), joined(&operation.policies));
    let step = match (operation.step, operation.prepared) {
        (Step::Query, _) => String::new(),
        (Step::Exec, _) => "exec ".to_owned(),
        (Step::Connect, _) => "connection ".to_owned(),
        (Step::Shell | Step::Pty | Step::Subsystem | Step::File | Step::Feature, _) => "ssh ".to_owned(),
        (Step::Prepare, _) => "prepare ".to_owned(),
        (Step::Execute, Some(prepared)) => format!("execute #{prepared} "),
        (Step::Execute, None) => "execute ".to_owned(),
    };
    writeln!(out, "#{op} +{offset} {step}{verdict} [{policies}]{reason}")?;
    let asked = (operation.step != Step::Connect).then(|| visible_lines(&operation.sql));
    for sql in asked.into_iter().flatten() {
        writeln!(out, "    | {sql}")?;
    }
    if operation.sql_cut {
        line(out, "cut", &format!("the whole statement has sha256 {}", visible(&operation.sql_sha256)))?;
    }
    for (at, bind) in operation.binds.iter().enumerate() {
        line(out, &format!("${}", at + 1), &bind_text(bind))?;
    }
    if !operation.masked.is_empty() {
        line(out, "masked", &joined(&operation.masked))?;
    }
    operation.hold.as_ref().map_or(Ok(()), |hold| hold_text(hold, paint, out))?;
    operation.table.as_ref().map_or(Ok(()), |table| rows_text(table, out))?;
    operation.output.as_ref().map_or(Ok(()), |output| output_text(output, out))?;
    for seen in &operation.seen {
        let text =
            format!("+{} {} (a guess, read off the screen)", seconds(seen.offset_ms), visible(&seen.text));
        line(out, "command", &text)?;
    }
    let told = |content: &&Content| content.bytes > 0 || content.path.is_some();
    operation.contents.iter().filter(told).try_for_each(|it| content_text(it, out))?;
    if let Some(why) = &operation.unlisted {
        line(out, "unlisted", &format!("files may be missing above: {}", visible(why)))?;
    }
    operation.outcome.as_ref().map_or(Ok(()), |outcome| outcome_text(outcome, paint, out))
}

/// Longest cell that is shown whole.
const CELL: usize = 60;

/// The rows as they were served. NULL is a word of its own, which an empty text is not.
fn rows_text(table: &Rows, out: &mut dyn Write) -> io::Result<()> {
    let width = table.rows.first().map_or(table.columns.len(), Vec::len);
    let named =
        |at: usize| table.columns.get(at).map_or_else(|| format!("column {}", at + 1), |name| visible(name));
    let titles = (0..width).map(named).collect::<Vec<_>>();
    let mut shown = Table::new(&titles.iter().map(String::as_str).collect::<Vec<_>>());
    for row in &table.rows {
        shown.row(row.iter().map(|cell| (Tone::Plain, cell_text(cell.as_deref()))).collect());
    }
    shown.write_behind("    > ", Paint::Plain, out)?;
    if table.omitted > 0 {
        line(out, "more", &format!("{} rows are recorded and not shown here", table.omitted))?;
    }
    Ok(())
}

/// What a program printed, with its control characters spelled out: `replay --play` shows it as it was seen.
fn output_text(output: &Output, out: &mut dyn Write) -> io::Result<()> {
    for text in visible_lines(output.text.strip_suffix('\n').unwrap_or(&output.text)) {
        writeln!(out, "    > {text}")?;
    }
    if output.omitted > 0 {
        line(out, "more", &format!("{} bytes are recorded and not shown here", output.omitted))?;
    }
    Ok(())
}

fn content_text(content: &Content, out: &mut dyn Write) -> io::Result<()> {
    let digest = match (&content.sha256, &content.path) {
        (Some(digest), _) => format!(", sha256 {}", visible(digest)),
        (None, Some(_)) => " of it on the wire, in pieces or packed".to_owned(),
        (None, None) => String::new(),
    };
    let path = content.path.as_deref().map(|path| format!("{}, ", visible(path))).unwrap_or_default();
    line(out, content.what, &format!("{path}{} bytes{digest}", content.bytes))
}

fn cell_text(cell: Option<&str>) -> String {
    let Some(text) = cell else { return "NULL".to_owned() };
    let text = visible(text);
    match text.char_indices().nth(CELL) {
        Some((end, _)) => format!("{}\u{2026}", text.get(..end).unwrap_or_default()),
        None => text,
    }
}

fn bind_text(bind: &Bind) -> String {
    match bind {
        Bind::Null => "NULL".to_owned(),
        Bind::Text(text) => format!("'{}'", visible(text)),
        Bind::Binary(base64) => format!("base64 {}", visible(base64)),
        Bind::Digest { bytes, sha256 } => format!("{bytes} bytes, sha256 {}", visible(sha256)),
    }
}

pub(super) fn hold_text(hold: &Hold, paint: Paint, out: &mut dyn Write) -> io::Result<()> {
    let (tone, outcome) = match hold.outcome {
        None => (Tone::Waiting, "no decision recorded"),
        Some(HoldOutcome::Approved) => (Tone::Good, "approved"),
        Some(HoldOutcome::Denied) => (Tone::Bad, "denied"),
        Some(HoldOutcome::Expired) => (Tone::Bad, "expired"),
        Some(HoldOutcome::Withdrawn) => (Tone::Plain, "withdrawn"),
    };
    let by = hold.by.as_deref().map(|by| format!(" by {}", visible(by))).unwrap_or_default();
    let after = hold.waited_ms.map(|waited| format!(" after {}", seconds(waited))).unwrap_or_default();
    let comment =
        hold.comment.as_deref().map(|comment| format!(": {}", visible(comment))).unwrap_or_default();
    line(out, "hold", &format!("{}, {}{by}{after}{comment}", visible(&hold.id), paint.apply(tone, outcome)))?;
    if hold.settings.is_empty() {
        return Ok(());
    }
    let settings: Vec<String> =
        hold.settings.iter().map(|(name, value)| format!("{name} {}", visible(value))).collect();
    line(out, "read by", &settings.join("; "))
}

pub(super) fn outcome_text(outcome: &Outcome, paint: Paint, out: &mut dyn Write) -> io::Result<()> {
    let answer = match &outcome.sqlstate {
        Some(sqlstate) => paint.apply(Tone::Bad, &format!("error {}", visible(sqlstate))),
        None => visible(&outcome.tag),
    };
    let Outcome { rows, bytes, masked_cells, .. } = outcome;
    let offset = seconds(outcome.offset_ms);
    line(
        out,
        "result",
        &format!("+{offset} {answer}, {rows} rows, {bytes} bytes, {masked_cells} cells masked"),
    )
}

pub(super) fn joined(names: &[String]) -> String {
    names.iter().map(|name| visible(name)).collect::<Vec<_>>().join(", ")
}

pub(super) fn line(out: &mut dyn Write, name: &str, text: &str) -> io::Result<()> {
    writeln!(out, "    {name:<10} {text}")
}
