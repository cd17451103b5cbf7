//! Raw values of a session as text, each below the statement it was returned by.

use std::collections::BTreeMap;
use std::io::{self, Write};

use super::super::query::{Operation, Transcript};
use super::super::raw::{Line, Value};
use super::escape::{visible, visible_lines};
use super::transcript::line;

/// `found` by the number of the operation. Columns go by the names that the client was told, where those are recorded.
///
/// # Errors
/// Those of `out`.
pub fn raw_text(
    transcript: &Transcript,
    found: &BTreeMap<u64, Vec<Line>>,
    out: &mut dyn Write,
) -> io::Result<()> {
    writeln!(out, "session {}", visible(&transcript.session.id))?;
    if found.is_empty() {
        return line(out, "sealed", "nothing");
    }
    for (op, lines) in found {
        let operation = transcript.operations.iter().find(|operation| operation.op == *op);
        writeln!(out, "\n#{op}")?;
        for sql in operation.into_iter().flat_map(|operation| visible_lines(&operation.sql)) {
            writeln!(out, "    | {sql}")?;
        }
        lines.iter().try_for_each(|raw| raw_line(raw, operation, out))?;
    }
    Ok(())
}

fn raw_line(raw: &Line, operation: Option<&Operation>, out: &mut dyn Write) -> io::Result<()> {
    match raw {
        Line::Row { part, row, cells, .. } => {
            // The table that is kept of a text of several statements is not this one's for sure.
            let table = operation.and_then(|operation| operation.table.as_ref()).filter(|_| *part == 0);
            let name = |column: usize| {
                let known = table.and_then(|table| table.columns.get(column.checked_sub(1)?));
                known.map_or_else(|| format!("column {column}"), |name| visible(name))
            };
            let cells = cells.iter().map(|(column, value)| format!("{} = {}", name(*column), shown(value)));
            line(out, &numbered("row", *row, *part), &cells.collect::<Vec<_>>().join(", "))
        }
        Line::Copied { part, row, copy, .. } => line(out, &numbered("copy", *row, *part), &shown(copy)),
        Line::Printed { stream, bytes: Value::Text(text), .. } => {
            visible_lines(text.strip_suffix('\n').unwrap_or(text))
                .try_for_each(|text| line(out, &visible(stream), &text))
        }
        Line::Printed { stream, bytes, .. } => line(out, &visible(stream), &shown(bytes)),
    }
}

fn numbered(what: &str, row: u64, part: usize) -> String {
    if part == 0 { format!("{what} {row}") } else { format!("{what} {row} of {}", part + 1) }
}

fn shown(value: &Value) -> String {
    match value {
        Value::Null => "NULL".to_owned(),
        Value::Text(text) => format!("'{}'", visible(text)),
        Value::Binary(base64) => format!("base64 {}", visible(base64)),
    }
}
