//! Bytes that a client was served, as the journal keeps them: after masking, exactly as they went out.
//!
//! Owns the payload of such a record. The bytes of a session that are recorded make one stream; a record holds a part
//! of it and says where in the stream it begins. Each is compressed for itself (zstd), so that any of them can be read
//! without those before it. What the bytes mean is the protocol's business.

use std::borrow::Cow;

use super::packed::{Part, Raw};

/// First byte of the payload: its version. No event begins with it, since those are JSON.
pub(super) const VERSION: u8 = 0;
/// Longest part of a stream in one record, before compression.
pub(super) const PART: usize = 1 << 20;
/// Shorter parts are kept as they are: they would not get much shorter.
const COMPRESSED_FROM: usize = 256;
/// Of zstd. Rows must not wait for their record: the fastest that still finds most of what repeats.
const LEVEL: i32 = 1;

const PLAIN: u8 = 0;
const ZSTD: u8 = 1;

/// What a session serves next, on its way into the journal.
#[derive(Debug, Clone, Copy)]
pub struct Burst<'a> {
    pub session: &'a str,
    /// Bytes of the session's stream before these.
    pub offset: u64,
    pub bytes: &'a [u8],
}

impl<'a> Burst<'a> {
    pub const NOTHING: Self = Self { session: "", offset: 0, bytes: &[] };

    /// In parts that fit into a record each.
    pub(super) fn parts(self) -> impl Iterator<Item = Self> {
        let Self { session, offset, bytes } = self;
        bytes.chunks(PART).scan(offset, move |at, bytes| {
            let offset = *at;
            *at += bytes.len() as u64;
            Some(Burst { session, offset, bytes })
        })
    }
}

/// A record of served bytes, read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Served<'a> {
    pub offset: u64,
    pub bytes: Cow<'a, [u8]>,
}

/// Encodes parts of streams; keeps the compressor's memory between them.
#[derive(Default)]
pub(super) struct Encoder {
    zstd: Option<zstd::bulk::Compressor<'static>>,
    squeezed: Vec<u8>,
}

impl Encoder {
    /// Appends the payload of `part` to `out`.
    pub(super) fn put(&mut self, part: Burst<'_>, out: &mut Vec<u8>) {
        let session = part.session;
        let Part { offset, coding, length, data } = self.part(part);
        let id = session.as_bytes().get(..usize::from(u8::MAX)).unwrap_or(session.as_bytes());
        out.extend_from_slice(&[VERSION, coding, u8::try_from(id.len()).unwrap_or(u8::MAX)]);
        out.extend_from_slice(id);
        out.extend_from_slice(&offset.to_le_bytes());
        out.extend_from_slice(&length.to_le_bytes());
        out.extend_from_slice(data.0);
    }

    /// As it is recorded.
    pub(super) fn part<'a>(&'a mut self, part: Burst<'a>) -> Part<'a> {
        let Burst { offset, bytes, .. } = part;
        let squeezed = if bytes.len() < COMPRESSED_FROM { None } else { self.squeeze(bytes) };
        let (coding, data) = squeezed.map_or((PLAIN, bytes), |data| (ZSTD, data));
        Part { offset, coding, length: u32::try_from(bytes.len()).unwrap_or(u32::MAX), data: Raw(data) }
    }

    /// The bytes compressed, if that makes them shorter and works at all: the record does not depend on it.
    fn squeeze(&mut self, bytes: &[u8]) -> Option<&[u8]> {
        if self.zstd.is_none() {
            self.zstd = zstd::bulk::Compressor::new(LEVEL).ok();
        }
        self.squeezed.clear();
        self.squeezed.reserve(zstd::zstd_safe::compress_bound(bytes.len()));
        let length = self.zstd.as_mut()?.compress_to_buffer(bytes, &mut self.squeezed).ok()?;
        (length < bytes.len()).then_some(self.squeezed.as_slice())
    }
}

/// A payload, whole and of a form known here.
#[must_use]
pub fn decode(payload: &[u8]) -> Option<Served<'_>> {
    let (_session, rest) = split(payload)?;
    let coding = *payload.get(1)?;
    let (offset, rest) = rest.split_first_chunk::<8>()?;
    let (length, data) = rest.split_first_chunk::<4>()?;
    let bytes = plain(coding, u32::from_le_bytes(*length), data)?;
    Some(Served { offset: u64::from_le_bytes(*offset), bytes })
}

/// A part as it was before it was recorded.
pub(super) fn plain(coding: u8, length: u32, data: &[u8]) -> Option<Cow<'_, [u8]>> {
    let length = usize::try_from(length).ok().filter(|length| *length <= PART)?;
    let bytes = match coding {
        PLAIN => Cow::Borrowed(data),
        // Never more than the length that was checked, whatever the data claims to hold.
        ZSTD => Cow::Owned(zstd::bulk::decompress(data, length).ok()?),
        _ => return None,
    };
    (bytes.len() == length).then_some(bytes)
}

/// The session alone, at next to no cost.
#[must_use]
pub fn session(payload: &[u8]) -> Option<&str> {
    split(payload).map(|(session, _)| session)
}

fn split(payload: &[u8]) -> Option<(&str, &[u8])> {
    let (&[version, _coding, length], rest) = payload.split_first_chunk::<3>()?;
    let (session, rest) = rest.split_at_checked(usize::from(length))?;
    (version == VERSION).then_some((str::from_utf8(session).ok()?, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(bytes: &[u8]) -> Vec<Vec<u8>> {
        let mut encoder = Encoder::default();
        let burst = Burst { session: "s-1", offset: 7, bytes };
        burst
            .parts()
            .map(|part| {
                let mut out = Vec::new();
                encoder.put(part, &mut out);
                out
            })
            .collect()
    }

    #[test]
    fn a_stream_comes_back_as_it_went_in() {
        let noise =
            (0..3_000_000_u32).map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect::<Vec<_>>();
        for bytes in [&b""[..], b"x", &[b'x'; 255], &[b'x'; 256], &[b'x'; PART], &[b'x'; PART + 1], &noise] {
            let payloads = encoded(bytes);
            let parts = payloads.iter().map(|payload| decode(payload).unwrap()).collect::<Vec<_>>();
            let mut at = 7;
            for (part, payload) in parts.iter().zip(&payloads) {
                assert_eq!((part.offset, session(payload)), (at, Some("s-1")));
                at += part.bytes.len() as u64;
            }
            assert_eq!(parts.iter().flat_map(|part| part.bytes.to_vec()).collect::<Vec<_>>(), bytes);
        }
        assert!(encoded(&[b'x'; PART])[0].len() < 1_000);
    }

    #[test]
    fn every_truncation_and_a_claim_of_too_much_are_refused() {
        for bytes in [&b"abc"[..], &[b'x'; 500]] {
            let payload = encoded(bytes).remove(0);
            for cut in 0..payload.len() {
                assert_eq!(decode(&payload[..cut]), None, "{cut}");
            }
            let mut claim = payload.clone();
            claim[3 + 3 + 8..3 + 3 + 8 + 4].copy_from_slice(&u32::MAX.to_le_bytes());
            assert_eq!(decode(&claim), None);
        }
    }
}
