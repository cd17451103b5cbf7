//! Values as the target sent them, before masks, as lines of JSON: what is sealed to auditors.
//!
//! Owns the form of a line, which docs/journal.md gives. Who may read them is `seal`'s business; what is masked is the
//! protocols'. Lines are plain text so that an auditor needs nothing but `age` to read them.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

/// A line, written and read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Line {
    Row {
        op: u64,
        /// Which statement of the operation's text, from 0.
        #[serde(default, skip_serializing_if = "is_first")]
        part: usize,
        /// Of that statement's result, from 1.
        row: u64,
        /// With the number of the column, from 1: those that were masked.
        cells: Vec<(usize, Value)>,
    },
    Copied {
        op: u64,
        #[serde(default, skip_serializing_if = "is_first")]
        part: usize,
        row: u64,
        /// The row of COPY, in the format that was asked for.
        copy: Value,
    },
    Printed {
        op: u64,
        /// `stdout` or `stderr`.
        stream: String,
        bytes: Value,
    },
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands it by reference")]
fn is_first(part: &usize) -> bool {
    *part == 0
}

/// Bytes that a target sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Value {
    Null,
    Text(String),
    /// Base64.
    Binary(String),
}

impl Value {
    /// As text where it is text, unless it is known to be `binary`.
    #[must_use]
    pub fn of(bytes: Option<&[u8]>, binary: bool) -> Self {
        let Some(bytes) = bytes else { return Self::Null };
        match str::from_utf8(bytes) {
            Ok(text) if !binary => Self::Text(text.to_owned()),
            _ => Self::Binary(STANDARD.encode(bytes)),
        }
    }
}

impl Line {
    /// The operation it is of.
    #[must_use]
    pub fn op(&self) -> u64 {
        match self {
            Self::Row { op, .. } | Self::Copied { op, .. } | Self::Printed { op, .. } => *op,
        }
    }

    /// Appends it, line feed included.
    pub fn put(&self, out: &mut Vec<u8>) {
        let before = out.len();
        match serde_json::to_writer(&mut *out, self) {
            Ok(()) => out.push(b'\n'),
            // Numbers and text into memory: there is nothing in it that JSON cannot say.
            Err(_never) => out.truncate(before),
        }
    }
}

/// Puts a stream of lines together again that was cut anywhere.
#[derive(Debug, Default)]
pub struct Lines {
    rest: Vec<u8>,
}

impl Lines {
    /// What comes next; calls `each` with every line that is whole by now, and as what it is known here.
    pub fn push(&mut self, bytes: &[u8], mut each: impl FnMut(&[u8], Option<Line>)) {
        self.rest.extend_from_slice(bytes);
        let mut from = 0;
        while let Some(end) = memchr::memchr(b'\n', self.rest.get(from..).unwrap_or_default()) {
            let line = self.rest.get(from..from + end).unwrap_or_default();
            each(line, serde_json::from_slice(line).ok());
            from += end + 1;
        }
        self.rest.drain(..from);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_back_however_they_were_cut() {
        let lines = [
            Line::Row {
                op: 3,
                part: 0,
                row: 1,
                cells: vec![(2, Value::of(Some(b"ada@example.com"), false)), (5, Value::of(None, false))],
            },
            Line::Row { op: 3, part: 1, row: 1, cells: vec![(1, Value::of(Some(b"1\n2"), false))] },
            Line::Copied { op: 4, part: 0, row: 7, copy: Value::of(Some(b"1\tada\n"), false) },
            Line::Printed { op: 5, stream: "stderr".into(), bytes: Value::of(Some(&[0xff, 0]), false) },
            Line::Row { op: 9, part: 0, row: 1, cells: vec![(1, Value::of(Some(b"AAAA"), true))] },
        ];
        let mut stream = Vec::new();
        lines.iter().for_each(|line| line.put(&mut stream));
        assert!(
            stream.starts_with(br#"{"op":3,"row":1,"cells":[[2,{"text":"ada@example.com"}],[5,"null"]]}"#),
            "{}",
            stream.escape_ascii()
        );
        for cut in [1, 7, 60, 10_000] {
            let (mut again, mut found) = (Lines::default(), Vec::new());
            for bytes in stream.chunks(cut) {
                again.push(bytes, |_, line| found.push(line.unwrap()));
            }
            assert_eq!(found, lines, "{cut}");
        }
        assert_eq!(lines.each_ref().map(Line::op), [3, 3, 4, 5, 9]);
    }
}
