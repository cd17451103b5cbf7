//! The rows of a recorded PostgreSQL stream, as tables.
//!
//! Reads what the agent itself served (manual, "Message Formats", those marked B), so it is lenient: what it does not
//! understand it leaves out. It keeps a limited number of rows of each result and counts the others. Columns get their
//! names where it is sure whose description was served: that of the statement itself, or of the statement that the server
//! had just parsed.

use std::collections::{HashMap, VecDeque};

use serde::Serialize;

use super::super::format::hex;
use super::super::served::Served;

/// Rows as they were served. A cell is `None` for NULL; what is not text is `\x` and hex.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Table {
    /// Empty where no description is known to be theirs.
    pub columns: Vec<String>,
    pub rows: Vec<Vec<Option<String>>>,
    /// Rows that are recorded and left out here.
    pub omitted: u64,
}

/// A stream that is read part by part, in order.
pub(super) struct Stream {
    limit: usize,
    /// Offset in the stream of the first byte of `rest`.
    base: u64,
    rest: Vec<u8>,
    /// A part is missing: what follows cannot be told apart any more.
    broken: bool,
    /// What was served since the last statement completed.
    current: Table,
    done: VecDeque<(u64, Table)>,
    /// Statements that were sent to be parsed, and the newest that was.
    parsing: VecDeque<u64>,
    parsed: Option<u64>,
    /// Parameters of a prepared statement came; its columns are next.
    describing: bool,
    prepared: HashMap<u64, Vec<String>>,
}

impl Stream {
    /// Keeps `limit` rows of each result.
    pub(super) fn new(limit: usize) -> Self {
        Self {
            limit,
            base: 0,
            rest: Vec::new(),
            broken: false,
            current: Table::default(),
            done: VecDeque::new(),
            parsing: VecDeque::new(),
            parsed: None,
            describing: false,
            prepared: HashMap::new(),
        }
    }

    /// Statement `op` was let go on to be parsed.
    pub(super) fn parses(&mut self, op: u64) {
        self.parsing.push_back(op);
    }

    pub(super) fn push(&mut self, served: &Served<'_>) {
        if served.offset != self.base + self.rest.len() as u64 {
            self.broken = true;
        }
        if self.broken {
            return;
        }
        self.rest.extend_from_slice(&served.bytes);
        let mut at = 0;
        while let Some((tag, body)) = message(self.rest.get(at..).unwrap_or_default()) {
            at += HEADER + body.len();
            let end = self.base + at as u64;
            match tag {
                b'1' => self.parsed = self.parsing.pop_front(),
                b't' => self.describing = true,
                b'n' => self.describing = false,
                b'T' if std::mem::take(&mut self.describing) => {
                    if let Some((op, names)) = self.parsed.zip(columns(body)) {
                        self.prepared.insert(op, names);
                    }
                }
                b'T' => self.current.columns = columns(body).unwrap_or_default(),
                b'D' => row(&mut self.current, self.limit, || cells(body)),
                b'd' => row(&mut self.current, self.limit, || Some(vec![Some(shown(body.trim_ascii_end()))])),
                b'C' | b's' | b'I' => self.done.push_back((end, std::mem::take(&mut self.current))),
                b'E' => {
                    // The server passes over what else it was sent.
                    self.parsing.clear();
                    self.done.push_back((end, std::mem::take(&mut self.current)));
                }
                _ => {}
            }
        }
        self.rest.drain(..at);
        self.base += at as u64;
    }

    /// The rows of a statement whose result ended at `to` in the stream; `prepared` is the statement it executed.
    pub(super) fn table(&mut self, prepared: Option<u64>, to: u64) -> Option<Table> {
        let mut found = None;
        // What lies before it answered statements that were refused.
        while let Some((end, table)) = self.done.pop_front_if(|(end, _)| *end <= to) {
            found = (end == to).then_some(table);
        }
        let mut table = found?;
        if let Some(prepared) = prepared {
            if table.columns.is_empty() {
                table.columns = self.prepared.get(&prepared).cloned().unwrap_or_default();
            } else {
                self.prepared.insert(prepared, table.columns.clone());
            }
        }
        if table.rows.first().is_some_and(|row| row.len() != table.columns.len()) {
            table.columns.clear();
        }
        (table != Table::default()).then_some(table)
    }
}

fn row(table: &mut Table, limit: usize, read: impl FnOnce() -> Option<Vec<Option<String>>>) {
    match (table.rows.len() < limit).then(read).flatten() {
        Some(row) => table.rows.push(row),
        None => table.omitted += 1,
    }
}

/// Tag and length.
const HEADER: usize = 5;

/// The whole message at the front: its tag and body.
fn message(bytes: &[u8]) -> Option<(u8, &[u8])> {
    let (&[tag, a, b, c, d], rest) = bytes.split_first_chunk::<HEADER>()?;
    let length = usize::try_from(u32::from_be_bytes([a, b, c, d])).ok()?.checked_sub(4)?;
    Some((tag, rest.get(..length)?))
}

fn columns(body: &[u8]) -> Option<Vec<String>> {
    let (count, mut rest) = body.split_first_chunk::<2>()?;
    let mut names = Vec::new();
    for _ in 0..u16::from_be_bytes(*count) {
        let end = rest.iter().position(|byte| *byte == 0)?;
        names.push(String::from_utf8_lossy(rest.get(..end)?).into_owned());
        // Table, attribute, type, its size and modifier, format.
        rest = rest.get(end + 1 + 18..)?;
    }
    Some(names)
}

fn cells(body: &[u8]) -> Option<Vec<Option<String>>> {
    let (count, mut rest) = body.split_first_chunk::<2>()?;
    let mut cells = Vec::new();
    for _ in 0..u16::from_be_bytes(*count) {
        let (length, after) = rest.split_first_chunk::<4>()?;
        let Ok(length) = usize::try_from(i32::from_be_bytes(*length)) else {
            cells.push(None);
            rest = after;
            continue;
        };
        let (value, after) = after.split_at_checked(length)?;
        cells.push(Some(shown(value)));
        rest = after;
    }
    Some(cells)
}

/// Text as it is; a value in binary that happens to be text is taken for text, since its format is not served with it.
fn shown(value: &[u8]) -> String {
    match str::from_utf8(value) {
        Ok(text) if !text.contains(|c: char| c.is_control() && !c.is_whitespace()) => text.to_owned(),
        _ => format!("\\x{}", hex(value)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(tag: u8, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(body.len() + 4).unwrap().to_be_bytes();
        [&[tag], &length[..], body].concat()
    }

    fn described(names: &[&str]) -> Vec<u8> {
        let mut body = u16::try_from(names.len()).unwrap().to_be_bytes().to_vec();
        for name in names {
            body.extend_from_slice(name.as_bytes());
            body.extend_from_slice(&[0; 19]);
        }
        put(b'T', &body)
    }

    fn row(cells: &[Option<&[u8]>]) -> Vec<u8> {
        let mut body = u16::try_from(cells.len()).unwrap().to_be_bytes().to_vec();
        for cell in cells {
            body.extend(cell.map_or(-1, |cell| i32::try_from(cell.len()).unwrap()).to_be_bytes());
            body.extend(cell.unwrap_or_default());
        }
        put(b'D', &body)
    }

    /// Pushes `bytes` in parts of every size.
    fn feed(stream: &mut Stream, at: &mut u64, bytes: &[u8]) {
        for chunk in bytes.chunks(3) {
            stream.push(&Served { offset: *at, bytes: chunk.into() });
            *at += chunk.len() as u64;
        }
    }

    #[test]
    fn rows_are_given_to_the_statement_that_ended_there() {
        let (mut stream, mut at) = (Stream::new(2), 0);
        let result = [
            described(&["id", "note"]),
            row(&[Some(b"1"), Some(b"***")]),
            row(&[Some(b"\0\0\0\x02"), None]),
            row(&[Some(b"3"), None]),
            put(b'C', b"SELECT 3\0"),
        ];
        feed(&mut stream, &mut at, &result.concat());
        let first = at;
        feed(&mut stream, &mut at, &[put(b'Z', b"I"), put(b'E', b"\0"), put(b'Z', b"I")].concat());
        feed(&mut stream, &mut at, &put(b'C', b"UPDATE 1\0"));
        let text = |text: &str| Some(text.to_owned());
        let expected = Table {
            columns: vec!["id".into(), "note".into()],
            rows: vec![vec![text("1"), text("***")], vec![text("\\x00000002"), None]],
            omitted: 1,
        };
        assert_eq!(stream.table(None, first), Some(expected));
        assert_eq!(stream.table(None, at), None);
    }

    #[test]
    fn columns_come_from_the_description_of_what_was_prepared() {
        let (mut stream, mut at) = (Stream::new(9), 0);
        for (op, names) in [(1, &["a"][..]), (2, &["b"])] {
            stream.parses(op);
            feed(&mut stream, &mut at, &[put(b'1', b""), put(b't', b"\0\0"), described(names)].concat());
        }
        // Parsed and never described.
        stream.parses(3);
        feed(&mut stream, &mut at, &put(b'1', b""));
        let answer = [row(&[Some(b"7")]), put(b'C', b"SELECT 1\0")].concat();
        for (prepared, columns) in [(1, &["a"][..]), (2, &["b"]), (1, &["a"]), (3, &[])] {
            feed(&mut stream, &mut at, &answer);
            assert_eq!(stream.table(Some(prepared), at).unwrap().columns, columns);
        }
    }

    #[test]
    fn a_missing_part_ends_the_reading() {
        let mut stream = Stream::new(9);
        stream.push(&Served { offset: 5, bytes: put(b'C', b"\0").into() });
        assert_eq!(stream.table(None, 11), None);
    }
}
