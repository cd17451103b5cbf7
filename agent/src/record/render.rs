//! Shows listings, transcripts and reports: as text for people, as JSON for programs.
//!
//! Whatever comes out of a journal was in part written by those it watches. Nothing of it reaches a terminal but
//! visible characters, in text and in JSON alike; when a recording is played, what moves the cursor and colours, too.

mod escape;
mod export;
mod json;
mod raw;
mod receipt;
mod screen;
mod table;
mod transcript;

use std::io::{self, Write};

pub use escape::visible;
pub use export::{asciicast, csv};
pub use json::{json, json_line};
pub use raw::raw_text;
pub use receipt::receipt_text;
pub use screen::{Cast, Player, harmless};
pub use transcript::transcript_text;

use super::event::Verdict;
use super::query::{Hit, Listing, SessionState, SessionSummary};
use super::stamp::Stamp;
use super::verify::Report;
use table::Table;

/// Whether colour may be used: the caller knows if it writes to a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Paint {
    Plain,
    Colour,
}

/// What something is, as far as colour goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tone {
    Plain,
    Good,
    Bad,
    Waiting,
}

impl Paint {
    pub(super) fn apply(self, tone: Tone, text: &str) -> String {
        let code = match (self, tone) {
            (Self::Plain, _) | (_, Tone::Plain) => return text.to_owned(),
            (Self::Colour, Tone::Good) => 32,
            (Self::Colour, Tone::Bad) => 31,
            (Self::Colour, Tone::Waiting) => 33,
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }
}

/// A table of sessions, oldest first.
///
/// # Errors
/// Those of `out`.
pub fn sessions_text(listing: &Listing, paint: Paint, out: &mut dyn Write) -> io::Result<()> {
    let mut table = Table::new(&[
        "SESSION",
        "START",
        "END",
        "IDENTITY",
        "TARGET",
        ">STATEMENTS",
        ">DENIED",
        ">HELD",
        ">ROWS",
        "STATE",
        "REASON",
    ]);
    for session in &listing.sessions {
        table.row(session_row(session));
    }
    table.write(paint, out)?;
    damage_text(&listing.damage, paint, out)
}

fn session_row(session: &SessionSummary) -> Vec<(Tone, String)> {
    let plain = |text: String| (Tone::Plain, text);
    let or_dash = |text: Option<&str>| plain(text.map_or_else(|| "-".to_owned(), visible));
    let counted = |tone: Tone, count: u64| (if count > 0 { tone } else { Tone::Plain }, count.to_string());
    let (tone, state) = match session.state {
        SessionState::Open => (Tone::Good, "open"),
        SessionState::Ended => (Tone::Plain, "ended"),
        SessionState::Refused => (Tone::Bad, "refused"),
        SessionState::Lost => (Tone::Waiting, "lost"),
    };
    vec![
        plain(visible(&session.id)),
        plain(session.start.to_string()),
        plain(session.end.map_or_else(|| "-".to_owned(), |end| end.to_string())),
        or_dash(session.identity.as_deref()),
        or_dash(session.target.as_deref()),
        plain(session.statements.to_string()),
        counted(Tone::Bad, session.denied),
        counted(Tone::Waiting, session.held),
        plain(session.rows.to_string()),
        (tone, state.to_owned()),
        or_dash(session.end_reason.as_deref()),
    ]
}

/// A statement that was found, on one line.
///
/// # Errors
/// Those of `out`.
pub fn hit_text(hit: &Hit, paint: Paint, out: &mut dyn Write) -> io::Result<()> {
    let (tone, verdict) = match hit.verdict {
        Verdict::Permit => (Tone::Good, "permit"),
        Verdict::Deny => (Tone::Bad, "deny"),
        Verdict::Hold => (Tone::Waiting, "hold"),
    };
    let verdict = paint.apply(tone, verdict);
    let or_dash = |text: Option<&str>| text.map_or_else(|| "-".to_owned(), visible);
    let (identity, target) = (or_dash(hit.identity.as_deref()), or_dash(hit.target.as_deref()));
    writeln!(out, "{} {} {identity} {target} {verdict} {}", visible(&hit.id), hit.time, visible(&hit.sql))
}

/// # Errors
/// Those of `out`.
pub fn report_text(report: &Report, paint: Paint, out: &mut dyn Write) -> io::Result<()> {
    let verdict = if report.ok && report.records == 0 {
        paint.apply(Tone::Waiting, "the journal is empty")
    } else if report.ok {
        paint.apply(Tone::Good, "the journal is what its host wrote")
    } else {
        let count = report.problems.len() as u64 + report.more_problems;
        paint.apply(Tone::Bad, &format!("{count} problem{}", if count == 1 { "" } else { "s" }))
    };
    writeln!(out, "{}: {verdict}", visible(&report.dir.to_string_lossy()))?;
    let Report { records, events, served, checkpoints, segments, bytes, .. } = report;
    writeln!(
        out,
        "  {records} records ({events} events, {served} of served bytes, {checkpoints} good checkpoints), {segments} segments, {bytes} bytes"
    )?;
    match report.signed_time {
        Some(time) => writeln!(out, "  signed through record {} at {time}", report.signed_through)?,
        None => writeln!(out, "  not signed")?,
    }
    writeln!(out, "  unsigned tail: {} records", report.unsigned_tail)?;
    if let Some(root) = &report.root {
        writeln!(out, "  root of the tree over {} records: {root}", report.last_seq)?;
    }
    if let Some(verifier) = &report.verifier {
        writeln!(out, "  key: {}", visible(verifier))?;
    }
    if let (Some(since), true) = (&report.since, report.ok) {
        writeln!(out, "  goes on from the {} records signed at {}", since.seq, since.time)?;
    }
    if let (Some(last), false, false) = (report.last_time, report.stopped, report.live) {
        let text = "ends at {} without the agent's end: it died then, or what followed was cut off";
        writeln!(out, "  {}", paint.apply(Tone::Waiting, &text.replace("{}", &last.to_string())))?;
    }
    if report.pruned_through > 0 {
        writeln!(out, "  records 1 to {} were pruned; proofs that involve them hold", report.pruned_through)?;
    }
    for back in &report.set_back {
        let (at, from, to) = (back.at, back.from, back.to);
        let told = if back.recorded { "the agent noted it" } else { "without a word of the agent" };
        writeln!(out, "  the clock went back before record {at}, from {from} to {to}; {told}")?;
    }
    for quiet in &report.quiet {
        let (after, from, to) = (quiet.after, quiet.from, quiet.to);
        writeln!(
            out,
            "  nothing was recorded after record {after}, from {from} to {to}, though an agent ran"
        )?;
    }
    if report.repairs > 0 {
        writeln!(out, "  incomplete ends cut off after crashes: {}", report.repairs)?;
    }
    if report.live {
        writeln!(out, "  an agent is writing; what it had not finished was not judged")?;
    }
    for problem in &report.problems {
        let records = match (problem.seq, problem.last_seq) {
            (0, 0) => String::new(),
            (seq, last) if last <= seq => format!(", record {seq}"),
            (seq, last) => format!(", records {seq} to {last}"),
        };
        let kind = paint.apply(Tone::Bad, problem.kind.name());
        let (file, detail) = (visible(&problem.file), visible(&problem.detail));
        writeln!(out, "{kind}: {file}, byte {}{records}: {detail}", problem.offset)?;
    }
    if report.more_problems > 0 {
        writeln!(out, "and {} more", report.more_problems)?;
    }
    Ok(())
}

/// # Errors
/// Those of `out`.
pub fn damage_text(damage: &[String], paint: Paint, out: &mut dyn Write) -> io::Result<()> {
    for place in damage {
        writeln!(out, "{}: {}", paint.apply(Tone::Bad, "not readable"), visible(place))?;
    }
    Ok(())
}

pub(super) fn seconds(millis: u64) -> String {
    format!("{}.{:03}s", millis / 1000, millis % 1000)
}

pub(super) fn moment(stamp: Option<Stamp>) -> String {
    stamp.map_or_else(|| "-".to_owned(), |stamp| stamp.to_string())
}
