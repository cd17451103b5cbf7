//! Framing of PostgreSQL's protocol 3 (manual, chapter "Frontend/Backend Protocol").
//!
//! Finds message boundaries and reads the fields of the messages that matter. It does not know what a message
//! means for a session. Every length is checked before it is used; short input is `None`, wrong input an error.

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// Tag and length of a message: 5 bytes.
pub const HEADER: usize = 5;

/// Largest message that is held whole in memory: those that must be understood before they pass.
pub const WHOLE_MAX: usize = 64 << 20;

/// Largest length field the protocol itself allows.
const LENGTH_MAX: usize = i32::MAX as usize;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    #[error("message `{}` has length {length}, less than 4", .tag.escape_ascii())]
    TooShort { tag: u8, length: usize },
    #[error("message `{}` of {length} bytes is longer than the limit of {limit}", .tag.escape_ascii())]
    TooLong { tag: u8, length: usize, limit: usize },
    #[error("message `{}` ends inside a field", .tag.escape_ascii())]
    Truncated { tag: u8 },
    #[error("message `{}` has bytes after its last field", .tag.escape_ascii())]
    Trailing { tag: u8 },
    #[error("message `{}` holds text that is not UTF-8", .tag.escape_ascii())]
    NotUtf8 { tag: u8 },
}

/// What stands at the front of a buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    pub tag: u8,
    /// Bytes of the whole message, tag and length included.
    pub total: usize,
}

/// Reads the header at the front of `input`; `None` until it is complete.
///
/// # Errors
/// When the length cannot be one.
pub fn header(input: &[u8]) -> Result<Option<Header>, CodecError> {
    let Some((&[tag, a, b, c, d], _)) = input.split_first_chunk::<HEADER>() else { return Ok(None) };
    let length = u32::from_be_bytes([a, b, c, d]) as usize;
    if length < 4 {
        return Err(CodecError::TooShort { tag, length });
    }
    if length > LENGTH_MAX {
        return Err(CodecError::TooLong { tag, length, limit: LENGTH_MAX });
    }
    Ok(Some(Header { tag, total: length + 1 }))
}

/// Whether all of the message at the front of `input` is there, whose header this is.
///
/// # Errors
/// When it is longer than `limit`.
pub fn is_whole(input: &[u8], header: Header, limit: usize) -> Result<bool, CodecError> {
    if header.total > limit {
        return Err(CodecError::TooLong { tag: header.tag, length: header.total, limit });
    }
    Ok(input.len() >= header.total)
}

/// Takes one whole message off the front of `input`; `None` until all of it is there.
///
/// # Errors
/// When the header is wrong or the message longer than `limit`.
pub fn take(input: &mut BytesMut, limit: usize) -> Result<Option<Message>, CodecError> {
    let Some(header) = header(input)? else { return Ok(None) };
    Ok(is_whole(input, header, limit)?.then(|| split(input, header)))
}

/// Takes off the front of `input` the message whose header this is.
pub fn split(input: &mut BytesMut, header: Header) -> Message {
    Message { tag: header.tag, bytes: input.split_to(header.total.min(input.len())).freeze() }
}

/// A whole message as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    pub tag: u8,
    /// Header and body.
    pub bytes: Bytes,
}

impl Message {
    /// The body, for reading field by field.
    #[must_use]
    pub fn body(&self) -> Fields<'_> {
        body(self.tag, &self.bytes)
    }
}

/// The body of a whole message.
#[must_use]
pub fn body(tag: u8, message: &[u8]) -> Fields<'_> {
    Fields { tag, rest: message.get(HEADER..).unwrap_or_default() }
}

/// A cursor over a message's body.
#[derive(Debug, Clone, Copy)]
pub struct Fields<'a> {
    tag: u8,
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    #[must_use]
    pub fn new(tag: u8, rest: &'a [u8]) -> Self {
        Self { tag, rest }
    }

    fn short(&self) -> CodecError {
        CodecError::Truncated { tag: self.tag }
    }

    pub fn u8(&mut self) -> Result<u8, CodecError> {
        let (&value, rest) = self.rest.split_first().ok_or_else(|| self.short())?;
        self.rest = rest;
        Ok(value)
    }

    pub fn i16(&mut self) -> Result<i16, CodecError> {
        let (&value, rest) = self.rest.split_first_chunk().ok_or_else(|| self.short())?;
        self.rest = rest;
        Ok(i16::from_be_bytes(value))
    }

    pub fn i32(&mut self) -> Result<i32, CodecError> {
        let (&value, rest) = self.rest.split_first_chunk().ok_or_else(|| self.short())?;
        self.rest = rest;
        Ok(i32::from_be_bytes(value))
    }

    pub fn bytes(&mut self, length: usize) -> Result<&'a [u8], CodecError> {
        let (value, rest) = self.rest.split_at_checked(length).ok_or_else(|| self.short())?;
        self.rest = rest;
        Ok(value)
    }

    /// A string up to its NUL, which is consumed and not returned.
    pub fn c_bytes(&mut self) -> Result<&'a [u8], CodecError> {
        let end = memchr::memchr(0, self.rest).ok_or_else(|| self.short())?;
        let value = self.bytes(end)?;
        self.u8()?;
        Ok(value)
    }

    pub fn c_str(&mut self) -> Result<&'a str, CodecError> {
        std::str::from_utf8(self.c_bytes()?).map_err(|_| CodecError::NotUtf8 { tag: self.tag })
    }

    /// A value with an i32 length in front, -1 for NULL.
    pub fn value(&mut self) -> Result<Option<&'a [u8]>, CodecError> {
        match self.i32()? {
            -1 => Ok(None),
            length => Ok(Some(self.bytes(usize::try_from(length).map_err(|_| self.short())?)?)),
        }
    }

    /// How many bytes are left.
    #[must_use]
    pub fn left(&self) -> usize {
        self.rest.len()
    }

    #[must_use]
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Says that nothing may be left.
    pub fn end(self) -> Result<(), CodecError> {
        if self.rest.is_empty() { Ok(()) } else { Err(CodecError::Trailing { tag: self.tag }) }
    }
}

/// Appends a message whose body `fill` writes.
pub fn put(out: &mut BytesMut, tag: u8, fill: impl FnOnce(&mut BytesMut)) {
    out.put_u8(tag);
    put_untagged(out, fill);
}

/// Appends a length and a body, as the messages before login have them.
pub fn put_untagged(out: &mut BytesMut, fill: impl FnOnce(&mut BytesMut)) {
    let start = out.len();
    out.put_u32(0);
    fill(out);
    let length = u32::try_from(out.len() - start).unwrap_or(u32::MAX);
    if let Some(mut field) = out.get_mut(start..start + 4) {
        field.put_u32(length);
    }
}

/// Appends a NUL-terminated string; a NUL inside would end it early, so it is cut there.
pub fn put_c_str(out: &mut BytesMut, text: &[u8]) {
    let end = memchr::memchr(0, text).unwrap_or(text.len());
    out.put_slice(text.get(..end).unwrap_or_default());
    out.put_u8(0);
}

/// Moves `count` bytes from the front of one buffer to the end of another.
pub fn forward(input: &mut BytesMut, count: usize, out: &mut BytesMut) {
    let count = count.min(input.len());
    if out.is_empty() && count == input.len() {
        // Nothing to copy: the burst passes as the buffer it was read into.
        std::mem::swap(input, out);
        return;
    }
    out.extend_from_slice(input.get(..count).unwrap_or_default());
    input.advance(count);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_truncation_of_a_message_is_incomplete_and_the_whole_is_itself() {
        let mut whole = BytesMut::new();
        put(&mut whole, b'Q', |out| put_c_str(out, b"SELECT 1"));
        for cut in 0..whole.len() {
            let mut part = BytesMut::from(&whole[..cut]);
            assert_eq!(take(&mut part, WHOLE_MAX), Ok(None), "cut at {cut}");
            assert_eq!(part.len(), cut, "nothing is consumed before the message is whole");
        }
        let message = take(&mut whole.clone(), WHOLE_MAX).unwrap().unwrap();
        assert_eq!(message.bytes, whole);
        assert_eq!(message.body().c_str(), Ok("SELECT 1"));
    }

    #[test]
    fn lengths_that_cannot_be_are_refused_without_waiting_for_the_bytes() {
        let check =
            |bytes: &[u8], expect: Result<Option<Header>, CodecError>| assert_eq!(header(bytes), expect);
        check(b"Q\0\0\0", Ok(None));
        check(b"Q\0\0\0\x02", Err(CodecError::TooShort { tag: b'Q', length: 2 }));
        check(b"Q\0\0\0\x04", Ok(Some(Header { tag: b'Q', total: 5 })));
        check(b"Q\x7f\xff\xff\xff", Ok(Some(Header { tag: b'Q', total: 0x8000_0000 })));
        assert!(matches!(header(b"Q\xff\xff\xff\xff"), Err(CodecError::TooLong { .. })));
        let mut huge = BytesMut::from(&b"Q\x7f\xff\xff\xff"[..]);
        assert!(matches!(take(&mut huge, WHOLE_MAX), Err(CodecError::TooLong { .. })));
    }

    #[test]
    fn fields_never_read_past_the_end() {
        let mut fields = Fields::new(b'B', b"\0\0\0\x05ab");
        assert_eq!(fields.value(), Err(CodecError::Truncated { tag: b'B' }));
        let mut null = Fields::new(b'B', b"\xff\xff\xff\xff");
        assert_eq!(null.value(), Ok(None));
        let mut negative = Fields::new(b'B', b"\xff\xff\xff\xfe");
        assert_eq!(negative.value(), Err(CodecError::Truncated { tag: b'B' }));
        let mut unterminated = Fields::new(b'Q', b"abc");
        assert_eq!(unterminated.c_str(), Err(CodecError::Truncated { tag: b'Q' }));
    }
}
