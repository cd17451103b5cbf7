//! A session for other programs: rows as CSV (RFC 4180), the transcript as an asciicast (version 2) that players show at
//! the speed at which it happened.

use std::io::{self, Write};

use super::super::query::{Table, Transcript};
use super::Paint;
use super::transcript::operation_text;

/// Width and height of the terminal that a cast is said to be of.
const SIZE: (u32, u32) = (120, 40);

/// The rows of one result, with a line of names where they are known. NULL is nothing at all, an empty text is quoted.
///
/// # Errors
/// Those of `out`.
pub fn csv(table: &Table, out: &mut dyn Write) -> io::Result<()> {
    if !table.columns.is_empty() {
        record(table.columns.iter().map(|name| Some(name.as_str())), out)?;
    }
    for row in &table.rows {
        record(row.iter().map(Option::as_deref), out)?;
    }
    Ok(())
}

fn record<'a>(fields: impl Iterator<Item = Option<&'a str>>, out: &mut dyn Write) -> io::Result<()> {
    for (at, field) in fields.enumerate() {
        if at > 0 {
            write!(out, ",")?;
        }
        match field {
            None => {}
            Some(text) if text.is_empty() || text.contains(['"', ',', '\r', '\n']) => {
                write!(out, "\"{}\"", text.replace('"', "\"\""))?;
            }
            Some(text) => write!(out, "{text}")?,
        }
    }
    write!(out, "\r\n")
}

/// # Errors
/// Those of `out`.
pub fn asciicast(transcript: &Transcript, out: &mut dyn Write) -> io::Result<()> {
    let session = &transcript.session;
    let header = serde_json::json!({
        "version": 2,
        "width": SIZE.0,
        "height": SIZE.1,
        "timestamp": session.start.0 / 1_000_000_000,
        "title": format!("session {}", session.id),
    });
    writeln!(out, "{header}")?;
    for operation in &transcript.operations {
        let mut shown = Vec::new();
        operation_text(operation, Paint::Colour, &mut shown)?;
        let text = String::from_utf8_lossy(&shown).replace('\n', "\r\n");
        let at = operation.outcome.as_ref().map_or(operation.offset_ms, |outcome| outcome.offset_ms);
        writeln!(out, "{}", serde_json::json!([seconds(at), "o", text + "\r\n"]))?;
    }
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "milliseconds since a session's start")]
pub(super) fn seconds(millis: u64) -> f64 {
    millis as f64 / 1_000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn csv_is_quoted_where_it_must_be() {
        let text = |text: &str| Some(text.to_owned());
        let table = Table {
            columns: vec!["id".into(), "a,b".into()],
            rows: vec![vec![text("1"), None], vec![text(""), text("say \"hi\"\n")]],
            omitted: 0,
        };
        let mut out = Vec::new();
        csv(&table, &mut out).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), "id,\"a,b\"\r\n1,\r\n\"\",\"say \"\"hi\"\"\n\"\r\n");
    }
}
