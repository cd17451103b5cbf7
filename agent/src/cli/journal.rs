//! Commands that read the journal; they need no running agent.

use std::io::{IsTerminal, Write};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use regex::RegexBuilder;

use super::Failure;
use crate::record::query::{self, Filter};
use crate::record::render::{self, Paint};
use crate::record::{PublicKey, Stamp, head, prove, public_path, verify as verification};

/// Which sessions to list.
#[derive(Debug, clap::Args)]
pub(super) struct Wanted {
    /// Only sessions of this identity.
    #[arg(long)]
    identity: Option<String>,
    /// Only sessions with this target.
    #[arg(long)]
    target: Option<String>,
    /// Only sessions that were there at or after this moment: RFC 3339 (`2026-01-31T12:00:00Z`), or how long ago (`2h`).
    #[arg(long, value_parser = moment)]
    since: Option<Stamp>,
    /// Only sessions that began before this moment.
    #[arg(long, value_parser = moment)]
    until: Option<Stamp>,
    /// Only sessions with a denied statement, or that were refused.
    #[arg(long)]
    denied: bool,
    /// Only sessions with a statement that was held for approval.
    #[arg(long)]
    held: bool,
    /// Only sessions with this text in a statement, whatever its case.
    #[arg(long)]
    text: Option<String>,
}

fn moment(text: &str) -> Result<Stamp, String> {
    let time = match humantime::parse_rfc3339_weak(text) {
        Ok(time) => Some(time),
        Err(_not_a_date) => {
            let ago =
                humantime::parse_duration(text).map_err(|_neither| "not a moment, and not a duration")?;
            SystemTime::now().checked_sub(ago)
        }
    };
    let since = time.and_then(|time| time.duration_since(UNIX_EPOCH).ok()).ok_or("before 1970")?;
    // Later than the journal can say is as good as never.
    Ok(Stamp(u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)))
}

pub(super) fn sessions(dir: &Path, wanted: &Wanted, json: bool, out: &mut dyn Write) -> Result<(), Failure> {
    let Wanted { identity, target, since, until, denied, held, text } = wanted;
    let filter = Filter {
        identity: identity.clone(),
        target: target.clone(),
        since: *since,
        until: *until,
        denied: *denied,
        held: *held,
        text: text.clone(),
    };
    let listing = query::sessions(dir, &filter)?;
    if json {
        render::json(&listing, out)?
    } else {
        render::sessions_text(&listing, paint(), out)?
    }
    Ok(())
}

/// How to show a session.
#[derive(Debug, clap::Args)]
pub(super) struct Shown {
    /// The events as recorded, one JSON object per line.
    #[arg(long, conflicts_with_all = ["served", "cast", "csv"])]
    events: bool,
    /// The bytes the client was served, as they went out.
    #[arg(long, conflicts_with_all = ["cast", "csv"])]
    served: bool,
    /// An asciicast, for a player.
    #[arg(long, conflicts_with = "csv")]
    cast: bool,
    #[command(flatten)]
    play: super::play::Play,
    /// All recorded rows of the statement with this number, as CSV.
    #[arg(long)]
    csv: Option<u64>,
    /// How many rows of each result are shown.
    #[arg(long, default_value_t = 20)]
    rows: usize,
}

pub(super) fn replay(
    dir: &Path,
    id: &str,
    shown: &Shown,
    json: bool,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    if shown.events {
        return events(dir, id, out);
    }
    if shown.served {
        let mut written = Ok(());
        query::served(dir, id, |bytes| {
            if written.is_ok() {
                written = out.write_all(bytes);
            }
        })?;
        return Ok(written?);
    }
    if let Some(number) = shown.csv {
        let transcript = query::replay(dir, id, usize::MAX)?;
        let found = transcript.operations.iter().find(|operation| operation.op == number);
        let table = found.and_then(|operation| operation.table.as_ref());
        let why = || Failure::Failed(format!("no rows are recorded of statement {number}"));
        return Ok(render::csv(table.ok_or_else(why)?, out)?);
    }
    if shown.play.wanted() {
        return super::play::play(dir, id, &shown.play, out);
    }
    if shown.cast && super::play::cast(dir, id, shown.play.op(), out)? {
        return Ok(());
    }
    let transcript = query::replay(dir, id, shown.rows)?;
    if shown.cast {
        render::asciicast(&transcript, out)?
    } else if json {
        render::json(&transcript, out)?
    } else {
        render::transcript_text(&transcript, paint(), out)?
    }
    Ok(())
}

/// Statements whose text matches, as they are found; status 1 when there was none.
pub(super) fn grep(
    dir: &Path,
    pattern: &str,
    exact_case: bool,
    json: bool,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    let pattern = RegexBuilder::new(pattern)
        .case_insensitive(!exact_case)
        .build()
        .map_err(|error| Failure::Usage(error.to_string()))?;
    let (mut written, mut hits) = (Ok(()), 0_u64);
    let damage = query::grep(dir, &pattern, |hit| {
        hits += 1;
        if written.is_ok() {
            written = match (json, serde_json::to_string(&hit)) {
                (true, Ok(line)) => writeln!(out, "{line}"),
                _ => render::hit_text(&hit, paint(), out),
            };
        }
    })?;
    written?;
    render::damage_text(&damage, paint(), &mut std::io::stderr())?;
    if hits > 0 { Ok(()) } else { Err(Failure::Said) }
}

/// Why a statement was decided as it was.
pub(super) fn why(dir: &Path, id: &str, json: bool, out: &mut dyn Write) -> Result<(), Failure> {
    let receipt = query::receipt(dir, id)?;
    if json {
        render::json(&receipt, out)?
    } else {
        render::receipt_text(&receipt, paint(), out)?
    }
    Ok(())
}

/// One JSON object per line, as the journal holds them.
fn events(dir: &Path, id: &str, out: &mut dyn Write) -> Result<(), Failure> {
    for recorded in query::recorded(dir, id)? {
        serde_json::to_writer(&mut *out, &recorded).map_err(|error| Failure::Failed(error.to_string()))?;
        writeln!(out)?;
    }
    Ok(())
}

pub(super) fn verify(
    dir: &Path,
    key: Option<&Path>,
    since: Option<&Path>,
    json: bool,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    let key = public_key(dir, key)?;
    let since = since.map(|path| head::kept(path, &key)).transpose()?;
    let report = verification::verify(dir, &key, since)?;
    if json {
        render::json(&report, out)?
    } else {
        render::report_text(&report, paint(), out)?
    }
    if report.ok { Ok(()) } else { Err(Failure::Said) }
}

/// A proof for somebody else, as JSON.
pub(super) fn prove(
    dir: &Path,
    key: Option<&Path>,
    id: Option<&str>,
    since: Option<&Path>,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    let key = public_key(dir, key)?;
    match (id, since) {
        (Some(id), None) => {
            let seq = match id.parse() {
                Ok(seq) => seq,
                Err(_not_a_number) => query::receipt_seq(dir, id)?,
            };
            render::json(&prove::record(dir, &key, seq)?, out)?;
        }
        (None, Some(since)) => render::json(&prove::growth(dir, &key, &head::kept(since, &key)?)?, out)?,
        _ => return Err(Failure::Usage("name one record, or give one checkpoint with --since".into())),
    }
    Ok(())
}

fn public_key(dir: &Path, key: Option<&Path>) -> Result<PublicKey, Failure> {
    let beside = public_path(&dir.parent().unwrap_or(dir).join("journal-key"));
    Ok(PublicKey::load(key.unwrap_or(&beside))?)
}

fn paint() -> Paint {
    if std::io::stdout().is_terminal() { Paint::Colour } else { Paint::Plain }
}
