//! The data types of RFC 4251 section 5, read with every length checked, and the message numbers.

use bytes::BufMut;

/// Message numbers (RFC 4250 section 4.1, RFC 8308, RFC 5656).
pub(super) mod msg {
    pub(in super::super) const DISCONNECT: u8 = 1;
    pub(in super::super) const IGNORE: u8 = 2;
    pub(in super::super) const UNIMPLEMENTED: u8 = 3;
    pub(in super::super) const DEBUG: u8 = 4;
    pub(in super::super) const SERVICE_REQUEST: u8 = 5;
    pub(in super::super) const SERVICE_ACCEPT: u8 = 6;
    pub(in super::super) const EXT_INFO: u8 = 7;
    pub(in super::super) const KEXINIT: u8 = 20;
    pub(in super::super) const NEWKEYS: u8 = 21;
    pub(in super::super) const KEX_INIT: u8 = 30;
    pub(in super::super) const KEX_REPLY: u8 = 31;
    pub(in super::super) const USERAUTH_REQUEST: u8 = 50;
    pub(in super::super) const USERAUTH_FAILURE: u8 = 51;
    pub(in super::super) const USERAUTH_SUCCESS: u8 = 52;
    pub(in super::super) const USERAUTH_BANNER: u8 = 53;
    pub(in super::super) const USERAUTH_PK_OK: u8 = 60;
    pub(in super::super) const GLOBAL_REQUEST: u8 = 80;
    pub(in super::super) const REQUEST_SUCCESS: u8 = 81;
    pub(in super::super) const REQUEST_FAILURE: u8 = 82;
    pub(in super::super) const CHANNEL_OPEN: u8 = 90;
    pub(in super::super) const CHANNEL_OPEN_CONFIRMATION: u8 = 91;
    pub(in super::super) const CHANNEL_OPEN_FAILURE: u8 = 92;
    pub(in super::super) const CHANNEL_WINDOW_ADJUST: u8 = 93;
    pub(in super::super) const CHANNEL_DATA: u8 = 94;
    pub(in super::super) const CHANNEL_EXTENDED_DATA: u8 = 95;
    pub(in super::super) const CHANNEL_EOF: u8 = 96;
    pub(in super::super) const CHANNEL_CLOSE: u8 = 97;
    pub(in super::super) const CHANNEL_REQUEST: u8 = 98;
    pub(in super::super) const CHANNEL_SUCCESS: u8 = 99;
    pub(in super::super) const CHANNEL_FAILURE: u8 = 100;
}

/// A message that is shorter than it says, or holds what its type forbids.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("malformed message")]
pub(super) struct Malformed;

/// Reads a message from its front. What is left over is the caller's to refuse, with [`Reader::end`].
#[derive(Debug, Clone, Copy)]
pub(super) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(super) fn take(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(Malformed)?;
        self.0 = rest;
        Ok(taken)
    }

    pub(super) fn u8(&mut self) -> Result<u8, Malformed> {
        let (first, rest) = self.0.split_first().ok_or(Malformed)?;
        self.0 = rest;
        Ok(*first)
    }

    pub(super) fn bool(&mut self) -> Result<bool, Malformed> {
        self.u8().map(|byte| byte != 0)
    }

    pub(super) fn u32(&mut self) -> Result<u32, Malformed> {
        let (first, rest) = self.0.split_first_chunk().ok_or(Malformed)?;
        self.0 = rest;
        Ok(u32::from_be_bytes(*first))
    }

    pub(super) fn u64(&mut self) -> Result<u64, Malformed> {
        let (first, rest) = self.0.split_first_chunk().ok_or(Malformed)?;
        self.0 = rest;
        Ok(u64::from_be_bytes(*first))
    }

    pub(super) fn string(&mut self) -> Result<&'a [u8], Malformed> {
        let length = self.u32()?;
        self.take(usize::try_from(length).map_err(|_| Malformed)?)
    }

    pub(super) fn text(&mut self) -> Result<&'a str, Malformed> {
        std::str::from_utf8(self.string()?).map_err(|_| Malformed)
    }

    /// A name-list. Names are US-ASCII; others cannot be meant.
    pub(super) fn names(&mut self) -> Result<Vec<&'a str>, Malformed> {
        let text = self.text()?;
        Ok(if text.is_empty() { Vec::new() } else { text.split(',').collect() })
    }

    /// A positive mpint without its sign byte.
    pub(super) fn mpint(&mut self) -> Result<&'a [u8], Malformed> {
        let bytes = self.string()?;
        match bytes {
            [0, rest @ ..] => Ok(rest),
            [first, ..] if first & 0x80 != 0 => Err(Malformed),
            bytes => Ok(bytes),
        }
    }

    pub(super) fn rest(&self) -> &'a [u8] {
        self.0
    }

    pub(super) fn end(&self) -> Result<(), Malformed> {
        if self.0.is_empty() { Ok(()) } else { Err(Malformed) }
    }
}

/// Writes a string; longer ones than a `u32` counts cannot exist here, every message is bounded far below.
pub(super) fn put_string(out: &mut impl BufMut, bytes: &[u8]) {
    out.put_u32(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
    out.put_slice(bytes);
}

pub(super) fn put_names(out: &mut impl BufMut, names: &[&str]) {
    put_string(out, names.join(",").as_bytes());
}

/// Writes a positive number given as big-endian bytes.
pub(super) fn put_mpint(out: &mut impl BufMut, bytes: &[u8]) {
    let start = bytes.iter().position(|byte| *byte != 0).unwrap_or(bytes.len());
    let bytes = bytes.get(start..).unwrap_or_default();
    let sign = bytes.first().is_some_and(|byte| byte & 0x80 != 0);
    out.put_u32(u32::try_from(bytes.len() + usize::from(sign)).unwrap_or(u32::MAX));
    if sign {
        out.put_u8(0);
    }
    out.put_slice(bytes);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn numbers_are_written_as_the_rfc_shows_them() {
        // RFC 4251 section 5: 0, 9a378f9b2e332a7, 80.
        for (bytes, expect) in [
            (&[0u8, 0][..], &[0u8, 0, 0, 0][..]),
            (
                &[0x09, 0xa3, 0x78, 0xf9, 0xb2, 0xe3, 0x32, 0xa7],
                &[0, 0, 0, 8, 0x09, 0xa3, 0x78, 0xf9, 0xb2, 0xe3, 0x32, 0xa7],
            ),
            (&[0x80], &[0, 0, 0, 2, 0, 0x80]),
        ] {
            let mut out = Vec::new();
            put_mpint(&mut out, bytes);
            assert_eq!(out, expect);
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back_and_no_truncation_panics(
            text in prop::collection::vec(any::<u8>(), 0..40), number in prop::collection::vec(any::<u8>(), 0..40)
        ) {
            let mut out = Vec::new();
            put_string(&mut out, &text);
            put_mpint(&mut out, &number);
            put_names(&mut out, &["a", "b@c"]);
            let mut reader = Reader::new(&out);
            prop_assert_eq!(reader.string().unwrap(), &text[..]);
            let stripped: Vec<u8> = number.iter().copied().skip_while(|byte| *byte == 0).collect();
            prop_assert_eq!(reader.mpint().unwrap(), &stripped[..]);
            prop_assert_eq!(reader.names().unwrap(), vec!["a", "b@c"]);
            reader.end().unwrap();
            for cut in 0..out.len() {
                let mut reader = Reader::new(&out[..cut]);
                let read = (|| { reader.string()?; reader.mpint()?; reader.names().map(drop) })();
                prop_assert_eq!(read, Err(Malformed));
            }
        }
    }
}
