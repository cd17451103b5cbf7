//! The fields of a row of COPY in text and CSV: where they end, what they stand for, how another value is written.

use std::borrow::Cow;

use bytes::{BufMut, BytesMut};

/// A field of a text row as the value it stands for (manual, "COPY", "Text Format"). The server writes no numbers.
pub(super) fn unescaped(field: &[u8]) -> Cow<'_, [u8]> {
    if !field.contains(&b'\\') {
        return Cow::Borrowed(field);
    }
    let mut value = Vec::with_capacity(field.len());
    let mut bytes = field.iter().copied();
    while let Some(byte) = bytes.next() {
        value.push(match byte {
            b'\\' => match bytes.next() {
                Some(b'b') => 8,
                Some(b'f') => 12,
                Some(b'n') => b'\n',
                Some(b'r') => b'\r',
                Some(b't') => b'\t',
                Some(b'v') => 11,
                Some(other) => other,
                None => b'\\',
            },
            byte => byte,
        });
    }
    Cow::Owned(value)
}

/// A replacement in a text row: printable, so only what would end the field needs a backslash.
pub(super) fn put_escaped(out: &mut BytesMut, value: &[u8], delimiter: u8) {
    if memchr::memchr2(delimiter, b'\\', value).is_none() {
        out.put_slice(value);
        return;
    }
    for byte in value {
        if matches!(*byte, b'\\') || *byte == delimiter {
            out.put_u8(b'\\');
        }
        out.put_u8(*byte);
    }
}

pub(super) fn unquoted(field: &[u8], quote: u8, escape: u8) -> Cow<'_, [u8]> {
    let inner = field.strip_prefix(&[quote]).and_then(|rest| rest.strip_suffix(&[quote]));
    let Some(inner) = inner else { return Cow::Borrowed(field) };
    let mut value = Vec::with_capacity(inner.len());
    let mut bytes = inner.iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        let escapes = byte == escape && bytes.peek().is_some_and(|next| *next == quote || *next == escape);
        value.push(if escapes { bytes.next().unwrap_or(byte) } else { byte });
    }
    Cow::Owned(value)
}

pub(super) fn put_quoted(
    out: &mut BytesMut,
    value: &[u8],
    delimiter: u8,
    quote: u8,
    escape: u8,
    null: &[u8],
) {
    if value != null && !value.iter().any(|byte| [delimiter, quote, b'\n', b'\r'].contains(byte)) {
        out.put_slice(value);
        return;
    }
    out.put_u8(quote);
    for byte in value {
        if *byte == quote || *byte == escape {
            out.put_u8(escape);
        }
        out.put_u8(*byte);
    }
    out.put_u8(quote);
}

/// Ends of the fields of a text row: the server escapes every delimiter inside a value with a backslash.
pub(super) fn text_fields(row: &[u8], delimiter: u8, ends: &mut Vec<usize>) {
    let body = row.strip_suffix(b"\n").unwrap_or(row);
    let mut position = 0;
    while let Some(offset) = memchr::memchr2(delimiter, b'\\', body.get(position..).unwrap_or_default()) {
        let at = position + offset;
        if body.get(at) == Some(&b'\\') {
            position = (at + 2).min(body.len());
        } else {
            ends.push(at);
            position = at + 1;
        }
    }
    ends.push(body.len());
}

/// Ends of the fields of a CSV row: delimiters count outside quotes only.
pub(super) fn csv_fields(row: &[u8], delimiter: u8, quote: u8, escape: u8, ends: &mut Vec<usize>) {
    let body = row.strip_suffix(b"\n").unwrap_or(row);
    let mut quoted = false;
    let mut position = 0;
    while let Some(&byte) = body.get(position) {
        if quoted
            && byte == escape
            && body.get(position + 1).is_some_and(|next| *next == quote || *next == escape)
        {
            position += 1;
        } else if byte == quote {
            quoted = !quoted;
        } else if byte == delimiter && !quoted {
            ends.push(position);
        }
        position += 1;
    }
    ends.push(body.len());
}
