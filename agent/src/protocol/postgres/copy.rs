//! CopyData rows of COPY TO STDOUT, with masked fields replaced.
//!
//! The server sends one CopyData per row (manual, "COPY Operations"); a row that has another number of fields
//! than the plan has columns is refused, so a wrong split cannot serve anything.

mod fields;

use std::borrow::Cow;

use bytes::{BufMut, BytesMut};

use self::fields::{csv_fields, put_escaped, put_quoted, text_fields, unescaped, unquoted};
use super::codec::{Fields, put};
use super::plan::{CopyFormat, Mask};
use super::rows::Mismatch;
use super::style::REDACTED;
use crate::detect::{self, Kind};

/// First bytes of a binary COPY: signature, flags, extension length.
const BINARY_SIGNATURE: &[u8] = b"PGCOPY\n\xff\r\n\0";

/// Rewrites the rows of one COPY.
#[derive(Debug)]
pub struct CopyMasker {
    format: CopyFormat,
    masks: Vec<Option<Mask>>,
    header_pending: bool,
    /// Where the fields of a row end; kept between rows for its memory.
    ends: Vec<usize>,
    /// Fields without a mask are looked at: what looks like something is replaced by NULL, because nobody knows its type.
    looking: bool,
    found: Option<Kind>,
}

impl CopyMasker {
    #[must_use]
    pub fn new(format: CopyFormat, masks: Vec<Option<Mask>>) -> Self {
        let header_pending = match &format {
            CopyFormat::Text { header, .. } | CopyFormat::Csv { header, .. } => *header,
            CopyFormat::Binary { .. } => true,
        };
        Self { format, masks, header_pending, ends: Vec::new(), looking: false, found: None }
    }

    /// The same, which also replaces what looks like personal data or a secret.
    #[must_use]
    pub fn looking(self, looking: bool) -> Self {
        Self { looking, ..self }
    }

    /// What was recognised, and replaced, since this was last asked.
    pub fn take_found(&mut self) -> Option<Kind> {
        self.found.take()
    }

    /// Whether its rows are not text.
    #[must_use]
    pub fn is_binary(&self) -> bool {
        matches!(self.format, CopyFormat::Binary { .. })
    }

    /// Writes one CopyData message; returns how many fields were replaced.
    ///
    /// # Errors
    /// When the row does not have the planned number of fields.
    pub fn put(&mut self, out: &mut BytesMut, row: &[u8]) -> Result<u64, Mismatch> {
        let header = std::mem::take(&mut self.header_pending);
        let Self { format, masks, ends, looking, found, .. } = self;
        ends.clear();
        match format {
            CopyFormat::Binary { table } => {
                put_binary(masks, out, row, header, *table, looking.then_some(found))
            }
            CopyFormat::Text { .. } | CopyFormat::Csv { .. } if header => {
                put(out, b'd', |out| out.put_slice(row));
                Ok(0)
            }
            CopyFormat::Text { delimiter, null, .. } => {
                let write = |mask: &Mask, field: &[u8], out: &mut BytesMut| match replacement(mask, || {
                    (field != null.as_bytes()).then(|| unescaped(field))
                }) {
                    None => out.put_slice(null.as_bytes()),
                    Some(value) => put_escaped(out, &value, *delimiter),
                };
                text_fields(row, *delimiter, ends);
                let more = looking.then(|| look(masks, row, ends, unescaped, found)).flatten();
                put_fields(more.as_ref().unwrap_or(masks), out, row, ends, write)
            }
            CopyFormat::Csv { delimiter, quote, escape, null, .. } => {
                let write = |mask: &Mask, field: &[u8], out: &mut BytesMut| match replacement(mask, || {
                    (field != null.as_bytes()).then(|| unquoted(field, *quote, *escape))
                }) {
                    None => out.put_slice(null.as_bytes()),
                    Some(value) => put_quoted(out, &value, *delimiter, *quote, *escape, null.as_bytes()),
                };
                csv_fields(row, *delimiter, *quote, *escape, ends);
                let value = |field| unquoted(field, *quote, *escape);
                let more = looking.then(|| look(masks, row, ends, value, found)).flatten();
                put_fields(more.as_ref().unwrap_or(masks), out, row, ends, write)
            }
        }
    }
}

/// The masks of a row in which something looks like personal data or a secret; none for all others.
fn look<'a>(
    masks: &[Option<Mask>],
    row: &'a [u8],
    ends: &[usize],
    value: impl Fn(&'a [u8]) -> Cow<'a, [u8]>,
    found: &mut Option<Kind>,
) -> Option<Vec<Option<Mask>>> {
    let mut more: Option<Vec<Option<Mask>>> = None;
    let mut start = 0;
    for (column, (end, mask)) in ends.iter().zip(masks).enumerate() {
        let field = row.get(start..*end).unwrap_or_default();
        start = end + 1;
        if mask.is_some() {
            continue;
        }
        if let Some(kind) = detect::find(&value(field)) {
            found.get_or_insert(kind);
            if let Some(place) = more.get_or_insert_with(|| masks.to_vec()).get_mut(column) {
                *place = Some(Mask::Null);
            }
        }
    }
    more
}

/// The row with its masked fields replaced. What stands between two of them goes out in one piece, delimiters and all.
fn put_fields(
    masks: &[Option<Mask>],
    out: &mut BytesMut,
    row: &[u8],
    ends: &[usize],
    write: impl Fn(&Mask, &[u8], &mut BytesMut),
) -> Result<u64, Mismatch> {
    if ends.len() != masks.len() {
        return Err(Mismatch::Count { described: ends.len(), planned: masks.len() });
    }
    let mut replaced = 0;
    put(out, b'd', |out| {
        // Beginning of what was not written yet, and of the field.
        let (mut from, mut start) = (0, 0);
        for (end, mask) in ends.iter().zip(masks) {
            if let Some(mask) = mask {
                replaced += 1;
                out.put_slice(row.get(from..start).unwrap_or_default());
                write(mask, row.get(start..*end).unwrap_or_default(), out);
                from = *end;
            }
            start = end + 1;
        }
        let end = ends.last().copied().unwrap_or_default();
        out.put_slice(row.get(from..end).unwrap_or_default());
        out.put_u8(b'\n');
    });
    Ok(replaced)
}

fn put_binary(
    masks: &[Option<Mask>],
    out: &mut BytesMut,
    row: &[u8],
    header: bool,
    table: bool,
    mut found: Option<&mut Option<Kind>>,
) -> Result<u64, Mismatch> {
    let mut rest = row;
    if header {
        // The server puts the signature in front of the first row or into a message of its own.
        let mut fields = Fields::new(b'd', row);
        if fields.bytes(BINARY_SIGNATURE.len())? != BINARY_SIGNATURE {
            return Err(Mismatch::Unexpected);
        }
        fields.i32()?;
        let extension = usize::try_from(fields.i32()?).unwrap_or(usize::MAX);
        fields.bytes(extension)?;
        rest = fields.rest();
        if rest.is_empty() {
            put(out, b'd', |out| out.put_slice(row));
            return Ok(0);
        }
    }
    let lead = row.len() - rest.len();
    let mut fields = Fields::new(b'd', rest);
    let count = fields.i16()?;
    if count == -1 {
        fields.end()?;
        put(out, b'd', |out| out.put_slice(row));
        return Ok(0);
    }
    let count = usize::try_from(count).unwrap_or(0);
    if count != masks.len() {
        return Err(Mismatch::Count { described: count, planned: masks.len() });
    }
    let mut replaced = 0;
    let mut outcome = Ok(());
    put(out, b'd', |out| {
        out.put_slice(row.get(..lead + 2).unwrap_or_default());
        for mask in masks {
            match (fields.value(), mask) {
                (Err(error), _) => {
                    outcome = Err(error);
                    return;
                }
                (Ok(_), Some(Mask::Redact)) if !table => {
                    // Of what is computed nobody knows the type.
                    replaced += 1;
                    out.put_i32(-1);
                }
                (Ok(_), Some(Mask::Null)) => {
                    replaced += 1;
                    out.put_i32(-1);
                }
                (Ok(value), Some(Mask::Changed { change, type_oid })) => {
                    replaced += 1;
                    // Only a table says what type its columns have: in a query's, another can be read as it.
                    match change.apply(*type_oid, true, value).filter(|_| table) {
                        None => out.put_i32(-1),
                        Some(value) => {
                            out.put_i32(i32::try_from(value.len()).unwrap_or(0));
                            out.put_slice(&value);
                        }
                    }
                }
                (Ok(value), Some(mask)) => {
                    replaced += 1;
                    let value = replacement(mask, || value.map(Cow::Borrowed)).unwrap_or(REDACTED.into());
                    out.put_i32(i32::try_from(value.len()).unwrap_or(0));
                    out.put_slice(&value);
                }
                (Ok(None), None) => out.put_i32(-1),
                (Ok(Some(value)), None) => {
                    if let (Some(found), Some(kind)) = (&mut found, detect::find(value)) {
                        found.get_or_insert(kind);
                        replaced += 1;
                        out.put_i32(-1);
                        continue;
                    }
                    out.put_i32(i32::try_from(value.len()).unwrap_or(0));
                    out.put_slice(value);
                }
            }
        }
        outcome = fields.end();
    });
    outcome?;
    Ok(replaced)
}

/// What stands in place of a field; its value is only looked at by masks that hang on it.
fn replacement<'a>(mask: &Mask, value: impl FnOnce() -> Option<Cow<'a, [u8]>>) -> Option<Cow<'static, [u8]>> {
    match mask {
        Mask::Null => None,
        Mask::Redact => Some(Cow::Borrowed(REDACTED)),
        Mask::Styled(style) => Some(style.replace(value().as_deref())),
        Mask::Changed { change, type_oid } => {
            change.apply(*type_oid, false, value().as_deref()).map(Cow::Owned)
        }
    }
}

#[cfg(test)]
mod tests {
    use chaperone_sql::Partial;

    use super::super::codec::{HEADER, WHOLE_MAX, take};
    use super::super::style::Style;
    use super::*;

    fn text() -> CopyFormat {
        CopyFormat::Text { delimiter: b'\t', null: "\\N".into(), header: false }
    }

    fn csv() -> CopyFormat {
        CopyFormat::Csv { delimiter: b',', quote: b'"', escape: b'"', null: String::new(), header: true }
    }

    fn check(format: CopyFormat, masked: &[bool], rows: &[&[u8]], expect: &[&[u8]]) {
        let masks = masked.iter().map(|m| m.then_some(Mask::Null)).collect();
        let mut masker = CopyMasker::new(format, masks);
        for (row, expect) in rows.iter().zip(expect) {
            let mut out = BytesMut::new();
            masker.put(&mut out, row).unwrap();
            let message = take(&mut out, WHOLE_MAX).unwrap().unwrap();
            assert_eq!(message.bytes[HEADER..].escape_ascii().to_string(), expect.escape_ascii().to_string());
        }
    }

    #[test]
    fn the_masked_field_is_replaced_whatever_its_value_holds() {
        check(text(), &[false, true], &[b"1\tsecret\n", b"2\ta\\tb\n"], &[b"1\t\\N\n", b"2\t\\N\n"]);
        check(text(), &[true, false], &[b"a\\\tb\t2\n", b"\\\\\t3\n"], &[b"\\N\t2\n", b"\\N\t3\n"]);
        check(text(), &[true], &[b"x\n"], &[b"\\N\n"]);
        let rows: [&[u8]; 3] = [b"id,token\n", b"1,\"a,\"\"b\"\"\nc\"\n", b"2,\n"];
        check(csv(), &[false, true], &rows, &[b"id,token\n", b"1,\n", b"2,\n"]);
    }

    #[test]
    fn every_choice_of_masked_fields_leaves_the_others_as_they_came() {
        let fields = ["1", "", "a\\tb", "secret", "\\N"];
        for chosen in 0..1_u32 << fields.len() {
            let masks: Vec<bool> = (0..fields.len()).map(|field| chosen >> field & 1 == 1).collect();
            let served: Vec<&str> = fields
                .iter()
                .zip(&masks)
                .map(|(field, masked)| if *masked { "***" } else { field })
                .collect();
            let row = format!("{}\n", fields.join("\t"));
            let expect = format!("{}\n", served.join("\t"));
            let mut masker =
                CopyMasker::new(text(), masks.iter().map(|masked| masked.then_some(Mask::Redact)).collect());
            // Twice: nothing of one row is left for the next.
            for _ in 0..2 {
                let mut out = BytesMut::new();
                assert_eq!(masker.put(&mut out, row.as_bytes()).unwrap(), u64::from(chosen.count_ones()));
                assert_eq!(
                    out[HEADER..].escape_ascii().to_string(),
                    expect.as_bytes().escape_ascii().to_string()
                );
            }
        }
    }

    #[test]
    fn text_is_redacted_in_every_format() {
        let redacted = |format, row: &[u8]| {
            let mut out = BytesMut::new();
            CopyMasker::new(format, vec![Some(Mask::Redact)]).put(&mut out, row).unwrap();
            out.split_off(HEADER)
        };
        assert_eq!(&redacted(text(), b"secret\n")[..], b"***\n");
        let plain = CopyFormat::Csv {
            delimiter: b',',
            quote: b'"',
            escape: b'"',
            null: String::new(),
            header: false,
        };
        assert_eq!(&redacted(plain, b"\"a,b\"\n")[..], b"***\n");
        let row = [BINARY_SIGNATURE, &[0; 8], &1i16.to_be_bytes(), &6i32.to_be_bytes(), b"secret"].concat();
        assert!(redacted(CopyFormat::Binary { table: true }, &row).ends_with(b"\0\0\0\x03***"));
    }

    #[test]
    fn a_value_that_is_partly_shown_is_read_and_written_as_the_format_has_it() {
        let partial = |format: CopyFormat, partial, row: &[u8]| {
            let mut out = BytesMut::new();
            let mask = Some(Mask::Styled(Style::Partial(partial)));
            CopyMasker::new(format, vec![mask]).put(&mut out, row).unwrap();
            out.split_off(HEADER).escape_ascii().to_string()
        };
        let text = |delimiter: u8| CopyFormat::Text { delimiter, null: "\\N".into(), header: false };
        let csv = |delimiter: u8| {
            let null = String::new();
            CopyFormat::Csv { delimiter, quote: b'"', escape: b'"', null, header: false }
        };
        assert_eq!(partial(text(b'\t'), Partial::Card, b"4111111111111111\n"), "************1111\\n");
        assert_eq!(partial(text(b'\t'), Partial::Email, b"\\N\n"), "***\\n");
        assert_eq!(partial(text(b'\t'), Partial::Email, b"a\\\\b@example.com\n"), "a***@example.com\\n");
        // A delimiter of the client's choice that the mask holds.
        assert_eq!(partial(text(b'@'), Partial::Email, b"ada\\@example.com\n"), "a***\\\\@example.com\\n");
        assert_eq!(
            partial(csv(b'@'), Partial::Email, b"\"ada@example.com\"\n"),
            "\\\"a***@example.com\\\"\\n"
        );
        assert_eq!(
            partial(csv(b','), Partial::Iban, b"DE89370400440532013000\n"),
            "DE****************3000\\n"
        );
        assert_eq!(partial(csv(b','), Partial::Card, b"\"4111,\"\"\"\n"), "***\\n");
        assert_eq!(partial(csv(b','), Partial::Card, b"\n"), "***\\n");
    }

    #[test]
    fn a_row_that_splits_into_another_number_of_fields_is_refused() {
        let mut masker = CopyMasker::new(text(), vec![None, Some(Mask::Null)]);
        for row in [&b"1\n"[..], b"1\t2\t3\n", b""] {
            assert!(masker.put(&mut BytesMut::new(), row).is_err(), "{}", row.escape_ascii());
        }
    }

    #[test]
    fn binary_rows_lose_the_masked_field_and_keep_header_and_trailer() {
        let header = [BINARY_SIGNATURE, &[0; 8]].concat();
        let row =
            [&2i16.to_be_bytes()[..], &1i32.to_be_bytes(), b"a", &6i32.to_be_bytes(), b"secret"].concat();
        let clean = [&2i16.to_be_bytes()[..], &1i32.to_be_bytes(), b"a", &(-1i32).to_be_bytes()].concat();
        let first = [&header[..], &row].concat();
        let first_clean = [&header[..], &clean].concat();
        check(
            CopyFormat::Binary { table: true },
            &[false, true],
            &[&first, &row, b"\xff\xff"],
            &[&first_clean, &clean, b"\xff\xff"],
        );
        let mut masker = CopyMasker::new(CopyFormat::Binary { table: true }, vec![None, Some(Mask::Null)]);
        for cut in 0..first.len() {
            let outcome = masker.put(&mut BytesMut::new(), &first[..cut]);
            assert!(outcome.is_err() || cut == header.len(), "cut at {cut}");
            masker.header_pending = true;
        }
    }
}
