//! What programs on a host were served, as the journal's stream of a session holds it: parts, each of one program.
//!
//! Bytes of a part are exactly what went out, after masking; or, where that is asked for, what the client typed. The
//! stream is cut into records anywhere, so a reader puts it together again.

use super::served::Served;

/// Kind, number of the operation, length.
const HEADER: usize = 1 + 8 + 4;

/// What a part is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Out,
    Err,
    /// From the client.
    In,
    /// Columns and rows of the terminal, a big-endian `u32` each.
    Size,
}

impl Kind {
    const ALL: [Self; 4] = [Self::Out, Self::Err, Self::In, Self::Size];

    fn byte(self) -> u8 {
        match self {
            Self::Out => b'o',
            Self::Err => b'e',
            Self::In => b'i',
            Self::Size => b's',
        }
    }
}

/// Appends a part of the program of operation `op`.
pub fn put(out: &mut Vec<u8>, op: u64, kind: Kind, bytes: &[u8]) {
    // Longer ones than a number counts cannot come: a message of the protocol is far shorter.
    let Ok(length) = u32::try_from(bytes.len()) else { return };
    out.push(kind.byte());
    out.extend_from_slice(&op.to_be_bytes());
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(bytes);
}

/// A part, read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part<'a> {
    pub op: u64,
    pub kind: Kind,
    pub bytes: &'a [u8],
}

impl Part<'_> {
    /// Columns and rows, if this is what it says.
    #[must_use]
    pub fn size(&self) -> Option<(u32, u32)> {
        let (columns, rest) = self.bytes.split_first_chunk::<4>()?;
        let rows = rest.first_chunk::<4>()?;
        (self.kind == Kind::Size).then(|| (u32::from_be_bytes(*columns), u32::from_be_bytes(*rows)))
    }
}

/// Puts the stream of one session together again.
#[derive(Debug, Default)]
pub struct Parts {
    /// Offset in the stream of the first byte of `rest`.
    base: u64,
    rest: Vec<u8>,
    /// A record is missing: where the next part begins is not known any more.
    broken: bool,
}

impl Parts {
    /// The next record of the stream; calls `each` with the parts that are whole by now.
    pub fn push(&mut self, served: &Served<'_>, mut each: impl FnMut(Part<'_>)) {
        if served.offset != self.base + self.rest.len() as u64 {
            self.broken = true;
        }
        if self.broken {
            return;
        }
        self.rest.extend_from_slice(&served.bytes);
        let mut at = 0;
        while let Some((part, length)) = split(self.rest.get(at..).unwrap_or_default()) {
            match part {
                Some(part) => each(part),
                None => self.broken = true,
            }
            at += length;
        }
        self.rest.drain(..at);
        self.base += at as u64;
    }

    /// Something of the stream is lost, and what came behind it with it.
    #[must_use]
    pub fn broken(&self) -> bool {
        self.broken
    }
}

/// The first part with its length; without the part when it is of a kind that is not known here.
fn split(bytes: &[u8]) -> Option<(Option<Part<'_>>, usize)> {
    let (&kind, rest) = bytes.split_first()?;
    let (op, rest) = rest.split_first_chunk::<8>()?;
    let (length, rest) = rest.split_first_chunk::<4>()?;
    let length = usize::try_from(u32::from_be_bytes(*length)).ok()?;
    let bytes = rest.get(..length)?;
    let kind = Kind::ALL.into_iter().find(|known| known.byte() == kind);
    Some((kind.map(|kind| Part { op: u64::from_be_bytes(*op), kind, bytes }), HEADER + length))
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use super::*;

    fn read(stream: &[u8], cut: usize) -> (Vec<(u64, Kind, Vec<u8>)>, bool) {
        let mut parts = Parts::default();
        let mut found = Vec::new();
        let mut offset = 0;
        for bytes in stream.chunks(cut) {
            let served = Served { offset, bytes: Cow::Borrowed(bytes) };
            parts.push(&served, |part| found.push((part.op, part.kind, part.bytes.to_vec())));
            offset += bytes.len() as u64;
        }
        (found, parts.broken())
    }

    #[test]
    fn parts_come_back_however_the_stream_was_cut() {
        let parts = [
            (1, Kind::Size, [80u32, 24].map(u32::to_be_bytes).concat()),
            (1, Kind::Out, b"hello".to_vec()),
            (700, Kind::Err, Vec::new()),
            (1, Kind::In, vec![0; 3000]),
        ];
        let mut stream = Vec::new();
        for (op, kind, bytes) in &parts {
            put(&mut stream, *op, *kind, bytes);
        }
        for cut in [1, 2, 7, 13, 100, 10_000] {
            assert_eq!(read(&stream, cut), (parts.to_vec(), false), "{cut}");
        }
        let size = Part { op: 1, kind: Kind::Size, bytes: &parts[0].2 };
        assert_eq!((size.size(), Part { kind: Kind::Out, ..size }.size()), (Some((80, 24)), None));
    }

    #[test]
    fn a_gap_or_an_unknown_kind_is_noticed() {
        let mut parts = Parts::default();
        parts.push(&Served { offset: 5, bytes: Cow::Borrowed(b"o") }, |_| unreachable!());
        assert!(parts.broken());
        let mut stream = Vec::new();
        put(&mut stream, 1, Kind::Out, b"x");
        stream[0] = b'?';
        assert!(read(&stream, 100).1);
    }
}
