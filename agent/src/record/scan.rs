//! Finds the frames of one segment, and past damage the next frame that is whole.
//!
//! Owns reading in bounded memory. Knows checksums, not chains: whether the frames it finds belong together is the
//! business of [`Link`] (strict) and of `verify` (which explains).

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use super::RecordError;
use super::error::io_error;
use super::format::{Decoded, FRAME_LEN, Frame, HEADER_LEN, Hash, Header, HeaderError};

const CHUNK: usize = 256 << 10;
/// Bytes that are checksummed in search of a whole frame before a segment's rest is given up. Random damage needs
/// next to nothing; a segment built to be slow to read does not get more.
const SEARCH_BUDGET: u64 = 1 << 30;

/// What stands next in a segment.
#[derive(Debug)]
pub(super) enum Found<'a> {
    Frame(Frame<'a>),
    Damage(Damage),
}

/// Bytes that are no whole frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Damage {
    pub(super) offset: u64,
    pub(super) len: u64,
    pub(super) extent: Extent,
    /// No whole frame follows in this segment.
    pub(super) to_end: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Extent {
    /// One frame whose length can be believed, since a whole frame or the end follows, but not its content.
    Record,
    /// The segment ends within what may be a frame.
    Torn,
    /// Bytes in which no frame can be told.
    Stretch,
}

pub(super) struct Scanner<R> {
    source: R,
    buf: Vec<u8>,
    /// Where in `buf` the next frame begins.
    start: usize,
    /// Offset of that place in the segment.
    offset: u64,
    ended: bool,
    budget: u64,
}

impl Scanner<File> {
    /// Opens the segment at `path` and reads its header. The bytes of the header come with it, or what there is.
    pub(super) fn open(path: &Path) -> Result<(Self, Vec<u8>), RecordError> {
        let mut file = File::open(path).map_err(io_error("open", path))?;
        let mut head = Vec::with_capacity(HEADER_LEN);
        file.by_ref().take(HEADER_LEN as u64).read_to_end(&mut head).map_err(io_error("read", path))?;
        let offset = head.len() as u64;
        Ok((
            Self { source: file, buf: Vec::new(), start: 0, offset, ended: false, budget: SEARCH_BUDGET },
            head,
        ))
    }
}

impl Scanner<File> {
    /// How long the file is, whether it still has a name or not.
    pub(super) fn len(&self) -> u64 {
        self.source.metadata().map_or(0, |meta| meta.len())
    }

    /// Reads on in `file`, which stands at `offset`, where a frame begins.
    pub(super) const fn at(file: File, offset: u64) -> Self {
        Self { source: file, buf: Vec::new(), start: 0, offset, ended: false, budget: SEARCH_BUDGET }
    }
}

/// Where the next thing lies, without borrowing it.
#[derive(Debug, Clone, Copy)]
pub(super) enum Place {
    Frame(Span),
    Damage(Damage),
}

/// A frame in the scanner's buffer; good until the scanner moves on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Span {
    pub(super) offset: u64,
    at: usize,
    len: usize,
}

impl<R: Read> Scanner<R> {
    /// The next frame or damage, or `None` at the end of the segment.
    pub(super) fn next(&mut self) -> io::Result<Option<Found<'_>>> {
        Ok(match self.find()? {
            None => None,
            Some(Place::Damage(damage)) => Some(Found::Damage(damage)),
            Some(Place::Frame(span)) => self.frame(&span).map(Found::Frame),
        })
    }

    /// As `next`, for callers that cannot hold the borrow.
    pub(super) fn find(&mut self) -> io::Result<Option<Place>> {
        if self.fill(FRAME_LEN)? == 0 {
            return Ok(None);
        }
        if let Some(len) = self.frame_at(0)? {
            let span = Span { offset: self.offset, at: self.start, len };
            self.advance(len);
            return Ok(Some(Place::Frame(span)));
        }
        self.damage().map(|damage| Some(Place::Damage(damage)))
    }

    pub(super) fn frame(&self, span: &Span) -> Option<Frame<'_>> {
        self.buf.get(span.at..span.at + span.len).and_then(Frame::fields)
    }

    /// Offset of what `next` looks at next.
    pub(super) const fn offset(&self) -> u64 {
        self.offset
    }

    fn damage(&mut self) -> io::Result<Damage> {
        let claimed = Frame::claimed_len(self.window());
        if let Some(len) = claimed
            && self.fill(len)? >= len
        {
            let followed = self.frame_at(len)?.is_some();
            let to_end = self.fill(len + 1)? == len;
            if followed || to_end {
                let offset = self.offset;
                self.advance(len);
                return Ok(Damage { offset, len: len as u64, extent: Extent::Record, to_end });
            }
        }
        let torn = self.window().len() < FRAME_LEN || claimed.is_some_and(|len| len > self.window().len());
        self.search(torn)
    }

    /// Skips to the next whole frame.
    fn search(&mut self, torn: bool) -> io::Result<Damage> {
        let offset = self.offset;
        loop {
            self.advance(1);
            let to_end = self.fill(FRAME_LEN)? < FRAME_LEN || self.budget == 0;
            if to_end {
                self.skip_rest()?;
            } else if self.frame_at(0)?.is_none() {
                continue;
            }
            let extent = if to_end && torn { Extent::Torn } else { Extent::Stretch };
            return Ok(Damage { offset, len: self.offset - offset, extent, to_end });
        }
    }

    /// Length of the whole frame that begins `at` bytes from here, if one does.
    fn frame_at(&mut self, at: usize) -> io::Result<Option<usize>> {
        self.fill(at + FRAME_LEN)?;
        let Some(len) = self.window().get(at..at + FRAME_LEN).and_then(Frame::claimed_len) else {
            return Ok(None);
        };
        self.fill(at + len)?;
        let Some(whole) = self.window().get(at..at + len) else { return Ok(None) };
        let decoded = matches!(Frame::decode(whole), Decoded::Frame(_));
        if !decoded {
            self.budget = self.budget.saturating_sub(len as u64);
        }
        Ok(decoded.then_some(len))
    }

    /// Makes at least `want` bytes available, unless the segment ends before; returns how many there are.
    fn fill(&mut self, want: usize) -> io::Result<usize> {
        while self.window().len() < want && !self.ended {
            self.buf.drain(..self.start);
            self.start = 0;
            let have = self.buf.len();
            self.buf.resize(have + CHUNK.max(want - have), 0);
            let got = match self.source.read(self.buf.get_mut(have..).unwrap_or_default()) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
                Err(error) => {
                    self.buf.truncate(have);
                    return Err(error);
                }
                Ok(got) => {
                    self.ended = got == 0;
                    got
                }
            };
            self.buf.truncate(have + got);
        }
        Ok(self.window().len())
    }

    fn skip_rest(&mut self) -> io::Result<()> {
        loop {
            self.advance(self.window().len());
            if self.fill(1)? == 0 {
                return Ok(());
            }
        }
    }

    fn window(&self) -> &[u8] {
        self.buf.get(self.start..).unwrap_or_default()
    }

    fn advance(&mut self, by: usize) {
        let by = by.min(self.window().len());
        self.start += by;
        self.offset += by as u64;
    }
}

/// The place in the chain that the next record must take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) seq: u64,
    pub(super) previous: Hash,
    /// Hash of the newest record itself; differs from `previous` at the beginning of a segment only.
    pub(super) last: Hash,
}

impl Link {
    /// Before the first record of a journal.
    pub(super) const START: Self = Self { seq: 1, previous: [0; 32], last: [0; 32] };

    /// Goes into the segment that begins with `header`, or says why it is not the next one.
    pub(super) fn enter(&mut self, header: &Header, bytes: &[u8]) -> Result<(), String> {
        if header.first_seq != self.seq {
            return Err(format!(
                "the segment begins with record {}, not with {}",
                header.first_seq, self.seq
            ));
        }
        if header.previous != self.last {
            return Err("the segment does not follow the last record of the one before".to_owned());
        }
        self.previous = Header::hash(bytes);
        Ok(())
    }

    /// Steps over `frame`, or says why it is not the next one.
    pub(super) fn step(&mut self, frame: &Frame<'_>) -> Result<(), String> {
        if frame.seq != self.seq {
            return Err(format!("record {} stands where {} belongs", frame.seq, self.seq));
        }
        if frame.previous != self.previous {
            return Err("the record does not follow the one before: one of them was changed".to_owned());
        }
        self.last = frame.hash();
        self.previous = self.last;
        self.seq += 1;
        Ok(())
    }
}

/// The header of the segment at `path`.
pub(super) fn header(path: &Path, bytes: &[u8]) -> Result<Header, RecordError> {
    Header::decode(bytes).map_err(|source: HeaderError| RecordError::Header { path: path.to_owned(), source })
}
