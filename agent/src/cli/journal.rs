//! Commands that read the journal; they need no running agent.

use std::io::{IsTerminal, Write};
use std::path::Path;

use super::Failure;
use crate::record::query::{self, Filter};
use crate::record::render::{self, Paint};
use crate::record::{PublicKey, head, prove, public_path, verify as verification};

pub(super) fn sessions(
    dir: &Path,
    identity: Option<&str>,
    target: Option<&str>,
    json: bool,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    let filter = Filter {
        identity: identity.map(str::to_owned),
        target: target.map(str::to_owned),
        ..Filter::default()
    };
    let listing = query::sessions(dir, &filter)?;
    if json {
        render::json(&listing, out)?
    } else {
        render::sessions_text(&listing, paint(), out)?
    }
    Ok(())
}

pub(super) fn replay(dir: &Path, id: &str, json: bool, out: &mut dyn Write) -> Result<(), Failure> {
    let transcript = query::replay(dir, id)?;
    if json {
        render::json(&transcript, out)?
    } else {
        render::transcript_text(&transcript, paint(), out)?
    }
    Ok(())
}

/// One JSON object per line, as the journal holds them.
pub(super) fn events(dir: &Path, id: &str, out: &mut dyn Write) -> Result<(), Failure> {
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
