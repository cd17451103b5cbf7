//! The index of a segment that is full: what questions need of it, so that they need not read it.
//!
//! It lies beside its segment, is made from it alone, and is made anew when it is missing, damaged, or the segment is
//! not the one any more that it was made from (by its header, length and time of change). It answers questions and
//! proves nothing: `verify`, `prove` and the start of an agent never look at it, and records are read from the segment.

use std::collections::HashMap;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::super::RecordError;
use super::super::error::io_error;
use super::super::event::{Event, Verdict};
use super::super::files::{self, DirLock, INDEX, SegmentFile};
use super::super::format::{Decoded, FRAME_LEN, Frame, Hash, Header, Kind};
use super::super::packed;
use super::super::scan::{Found as Next, Scanner};
use super::super::stamp::Stamp;
use super::super::{seal, served};
use super::sessions::{Found, SessionSummary};

const MAGIC: [u8; 8] = *b"\x89CHX\r\n\x1a\n";
const VERSION: u32 = 1;
/// Of the file before its parts.
const HEAD_LEN: usize = 124;
const PARTS: usize = 3;
/// Bytes that say how long a part is, and its checksum.
const PART_LEN: usize = 20;
/// No part of an index is longer, and no more is allocated for one.
const MOST: u64 = 1 << 30;
const LEVEL: i32 = 1;

/// What is looked at in every segment.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Directory {
    /// In the order of their first records here.
    pub(super) sessions: Vec<Entry>,
    pub(super) starts: Vec<AgentStart>,
    /// Digests of policies that came in force.
    pub(super) policies: Vec<String>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Entry {
    pub(super) id: String,
    /// Its first record here.
    pub(super) seq: u64,
    /// As far as this segment tells; `None` when it holds only bytes that were served.
    pub(super) summary: Option<SessionSummary>,
    /// Where in the list of places those of its records are, and how many.
    places: (usize, usize),
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct AgentStart {
    pub(super) seq: u64,
    pub(super) time: Stamp,
    /// It took over from another one, whose sessions live on.
    pub(super) took_over: bool,
    place: u32,
}

/// A statement with a text.
pub(super) struct Text<'a> {
    /// Of [`Directory::sessions`].
    pub(super) session: usize,
    pub(super) op: u64,
    pub(super) seq: u64,
    pub(super) time: Stamp,
    pub(super) verdict: Verdict,
    pub(super) sql: &'a str,
}

pub(super) struct Index {
    segment: File,
    pub(super) directory: Directory,
    parts: Parts,
}

enum Parts {
    /// Read when they are asked for, with the offset, length, unpacked length and checksum of each.
    Stored(File, [(u64, Part); 2]),
    Fresh {
        texts: Vec<u8>,
        places: Vec<u8>,
    },
}

#[derive(Clone, Copy, Default)]
struct Part {
    stored: u64,
    raw: u64,
    crc: u32,
}

/// What a segment must still be for its index to be believed.
#[derive(PartialEq, Eq)]
struct Likeness {
    header: Hash,
    bytes: u64,
    changed_ns: u64,
}

impl Index {
    /// The index of a full segment, made (and kept, where that is possible and no agent does it) when there is none. `None` when the segment
    /// cannot be read in full: then it has to be read anyway, to say what is wrong.
    pub(super) fn of(segment: &SegmentFile) -> Option<Self> {
        Self::stored(segment).or_else(|| {
            let index = Self::made(segment).ok().flatten()?;
            // An agent that runs makes it itself and counts its bytes. On a disk that is full, or somebody else's, it is
            // made again each time.
            if segment.path.parent().is_some_and(|dir| !DirLock::is_taken(dir)) {
                let _kept_or_not = index.store(segment);
            }
            Some(index)
        })
    }

    fn stored(segment: &SegmentFile) -> Option<Self> {
        let file = File::open(path(segment)).ok()?;
        let mut head = [0; HEAD_LEN];
        file.read_exact_at(&mut head, 0).ok()?;
        let (body, crc) = head.split_last_chunk::<4>()?;
        let likeness = Likeness {
            header: *body.get(12..)?.first_chunk()?,
            bytes: u64::from_le_bytes(*body.get(44..)?.first_chunk()?),
            changed_ns: u64::from_le_bytes(*body.get(52..)?.first_chunk()?),
        };
        let good = body.starts_with(&MAGIC)
            && body.get(8..12)? == VERSION.to_le_bytes()
            && u32::from_le_bytes(*crc) == crc32fast::hash(body)
            && Likeness::of(segment).ok()? == likeness;
        if !good {
            return None;
        }
        let mut parts = [(0, Part::default()); PARTS];
        let mut at = HEAD_LEN as u64;
        for (slot, bytes) in parts.iter_mut().zip(body.get(60..)?.chunks_exact(PART_LEN)) {
            let part = Part {
                stored: u64::from_le_bytes(*bytes.first_chunk()?),
                raw: u64::from_le_bytes(*bytes.get(8..)?.first_chunk()?),
                crc: u32::from_le_bytes(*bytes.get(16..)?.first_chunk()?),
            };
            *slot = (at, part);
            at = at.checked_add(part.stored)?;
        }
        let [directory, texts, places] = parts;
        let directory = serde_json::from_slice(&unpack(&file, directory)?).ok()?;
        let segment = File::open(&segment.path).ok()?;
        Some(Self { segment, directory, parts: Parts::Stored(file, [texts, places]) })
    }

    /// Made by reading the segment.
    fn made(segment: &SegmentFile) -> Result<Option<Self>, RecordError> {
        let path = &segment.path;
        let (mut scanner, header) = Scanner::open(path)?;
        if !Header::decode(&header).is_ok_and(|header| header.first_seq == segment.first_seq) {
            return Ok(None);
        }
        let mut builder = Builder::default();
        loop {
            let offset = scanner.offset();
            match scanner.next().map_err(io_error("read", path))? {
                None => break,
                Some(Next::Damage(_)) => return Ok(None),
                Some(Next::Frame(frame)) => {
                    let Ok(place) = u32::try_from(offset) else { return Ok(None) };
                    builder.take(place, &frame);
                }
            }
        }
        let file = File::open(path).map_err(io_error("open", path))?;
        Ok(Some(builder.finish(file)))
    }

    fn store(&self, segment: &SegmentFile) -> Result<u64, RecordError> {
        let Parts::Fresh { texts, places } = &self.parts else { return Ok(0) };
        let likeness = Likeness::of(segment)?;
        let mut head = Vec::with_capacity(HEAD_LEN);
        head.extend(MAGIC);
        head.extend(VERSION.to_le_bytes());
        head.extend(likeness.header);
        head.extend(likeness.bytes.to_le_bytes());
        head.extend(likeness.changed_ns.to_le_bytes());
        let mut parts = Vec::new();
        for raw in [&serde_json::to_vec(&self.directory)?, texts, places] {
            let packed =
                zstd::bulk::compress(raw, LEVEL).map_err(io_error("compress the index of", &segment.path))?;
            head.extend((packed.len() as u64).to_le_bytes());
            head.extend((raw.len() as u64).to_le_bytes());
            head.extend(crc32fast::hash(&packed).to_le_bytes());
            parts.extend(packed);
        }
        head.extend(crc32fast::hash(&head).to_le_bytes());
        head.extend(parts);
        files::replace(&path(segment), 0o600, &head)?;
        Ok(head.len() as u64)
    }

    /// Calls `each` with every statement that has a text, in order; `false` when the index turned out to be damaged.
    pub(super) fn texts(&self, mut each: impl FnMut(Text<'_>)) -> bool {
        let read;
        let bytes = match &self.parts {
            Parts::Fresh { texts, .. } => texts,
            Parts::Stored(file, [texts, _]) => match unpack(file, *texts) {
                Some(bytes) => {
                    read = bytes;
                    &read
                }
                None => return false,
            },
        };
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            let Some((text, after)) = text(rest) else { return false };
            each(text);
            rest = after;
        }
        true
    }

    /// Where the records of session `id` are, and those of agents that started; `None` when the index is damaged.
    pub(super) fn places(&self, id: &str) -> Option<Vec<u32>> {
        let mut found = self.directory.starts.iter().map(|start| start.place).collect::<Vec<_>>();
        if let Some(entry) = self.directory.sessions.iter().find(|entry| entry.id == id) {
            let (from, count) = entry.places;
            let read;
            let bytes = match &self.parts {
                Parts::Fresh { places, .. } => places,
                Parts::Stored(file, [_, places]) => {
                    read = unpack(file, *places)?;
                    &read
                }
            };
            let wanted = bytes.get(from * 4..)?.get(..count * 4)?;
            found.extend(wanted.as_chunks::<4>().0.iter().map(|place| u32::from_le_bytes(*place)));
        }
        found.sort_unstable();
        Some(found)
    }

    /// Calls `each` with the record at `place`; `false` when there is none.
    pub(super) fn record(&self, place: u32, each: impl FnOnce(&Frame<'_>)) -> bool {
        let mut bytes = vec![0; FRAME_LEN];
        let read = |bytes: &mut [u8]| self.segment.read_exact_at(bytes, u64::from(place)).is_ok();
        let Some(len) = read(&mut bytes).then(|| Frame::claimed_len(&bytes)).flatten() else { return false };
        bytes.resize(len, 0);
        match read(&mut bytes).then(|| Frame::decode(&bytes)) {
            Some(Decoded::Frame(frame)) => {
                each(&frame);
                true
            }
            _ => false,
        }
    }
}

/// The first record of a segment, and how long the index is that was made of it, if one could be made.
type Tried = (u64, Result<u64, RecordError>);

/// Makes the index of the first full segment after record `after` that has none. `None` when there is no such segment.
pub(in super::super) fn make_next(dir: &Path, after: u64) -> Result<Option<Tried>, RecordError> {
    let segments = files::segments(dir)?;
    let full = segments.split_last().map(|(_, full)| full).unwrap_or_default();
    let missing =
        full.iter().filter(|segment| segment.first_seq > after).find(|segment| !path(segment).exists());
    let Some(segment) = missing else { return Ok(None) };
    let made = Index::made(segment).and_then(|index| index.map_or(Ok(0), |index| index.store(segment)));
    Ok(Some((segment.first_seq, made)))
}

fn path(segment: &SegmentFile) -> std::path::PathBuf {
    segment.path.with_extension(INDEX.trim_start_matches('.'))
}

impl Likeness {
    fn of(segment: &SegmentFile) -> Result<Self, RecordError> {
        let path = &segment.path;
        let meta = fs::metadata(path).map_err(io_error("inspect", path))?;
        let (_, header) = Scanner::open(path)?;
        let changed_ns = i128::from(meta.mtime()) * 1_000_000_000 + i128::from(meta.mtime_nsec());
        Ok(Self {
            header: Header::hash(&header),
            bytes: meta.len(),
            changed_ns: u64::try_from(changed_ns).unwrap_or(u64::MAX),
        })
    }
}

fn unpack(file: &File, (at, part): (u64, Part)) -> Option<Vec<u8>> {
    let raw = usize::try_from(part.raw).ok().filter(|_| part.raw <= MOST && part.stored <= MOST)?;
    let mut packed = vec![0; usize::try_from(part.stored).ok()?];
    file.read_exact_at(&mut packed, at).ok()?;
    let bytes =
        (crc32fast::hash(&packed) == part.crc).then(|| zstd::bulk::decompress(&packed, raw).ok())??;
    (bytes.len() == raw).then_some(bytes)
}

fn text(bytes: &[u8]) -> Option<(Text<'_>, &[u8])> {
    let (session, rest) = bytes.split_first_chunk::<4>()?;
    let (op, rest) = rest.split_first_chunk::<8>()?;
    let (seq, rest) = rest.split_first_chunk::<8>()?;
    let (time, rest) = rest.split_first_chunk::<8>()?;
    let (verdict, rest) = rest.split_first()?;
    let (len, rest) = rest.split_first_chunk::<4>()?;
    let (sql, rest) = rest.split_at_checked(u32::from_le_bytes(*len) as usize)?;
    let verdict = match verdict {
        0 => Verdict::Permit,
        1 => Verdict::Deny,
        2 => Verdict::Hold,
        _ => return None,
    };
    let text = Text {
        session: u32::from_le_bytes(*session) as usize,
        op: u64::from_le_bytes(*op),
        seq: u64::from_le_bytes(*seq),
        time: Stamp(u64::from_le_bytes(*time)),
        verdict,
        sql: str::from_utf8(sql).ok()?,
    };
    Some((text, rest))
}

#[derive(Default)]
struct Builder {
    found: Found,
    known: HashMap<String, usize>,
    sessions: Vec<(String, u64, Vec<u32>)>,
    starts: Vec<AgentStart>,
    policies: Vec<String>,
    texts: Vec<u8>,
}

impl Builder {
    fn take(&mut self, place: u32, frame: &Frame<'_>) {
        let time = Stamp(frame.time_ns);
        if matches!(frame.kind, Kind::Served | Kind::Sealed) {
            if let Some(session) = served::session(frame.payload).or_else(|| seal::session(frame.payload)) {
                let _known = self.place(session, frame.seq, place);
            }
            return;
        }
        let Some(event) = packed::event(frame) else { return };
        if let Event::AgentStart { predecessor, policy_sha256, .. } = &event {
            let took_over = predecessor.is_some();
            self.starts.push(AgentStart { seq: frame.seq, time, took_over, place });
            self.policies.push(policy_sha256.clone());
        }
        if let Event::Reload { policy_sha256, .. } = &event {
            self.policies.push(policy_sha256.clone());
        }
        let Some(session) = event.session() else { return };
        let at = self.place(session, frame.seq, place);
        self.found.take(time, &event);
        if let Event::Statement { op, sql, verdict, .. } = &event
            && !sql.is_empty()
        {
            let verdict = match verdict {
                Verdict::Permit => 0,
                Verdict::Deny => 1,
                Verdict::Hold => 2,
            };
            // No longer than a record, and no more of them than records.
            self.texts.extend(u32::try_from(at).unwrap_or(u32::MAX).to_le_bytes());
            self.texts.extend(op.to_le_bytes());
            self.texts.extend(frame.seq.to_le_bytes());
            self.texts.extend(frame.time_ns.to_le_bytes());
            self.texts.push(verdict);
            self.texts.extend(u32::try_from(sql.len()).unwrap_or(u32::MAX).to_le_bytes());
            self.texts.extend(sql.as_bytes());
        }
    }

    fn place(&mut self, session: &str, seq: u64, place: u32) -> usize {
        let at = match self.known.get(session) {
            Some(at) => *at,
            None => {
                self.known.insert(session.to_owned(), self.sessions.len());
                self.sessions.push((session.to_owned(), seq, Vec::new()));
                self.sessions.len() - 1
            }
        };
        if let Some((_, _, places)) = self.sessions.get_mut(at) {
            places.push(place);
        }
        at
    }

    fn finish(self, segment: File) -> Index {
        let mut summaries: HashMap<String, SessionSummary> =
            self.found.into_summaries().map(|summary| (summary.id.clone(), summary)).collect();
        let (mut places, mut sessions) = (Vec::new(), Vec::new());
        for (id, seq, own) in self.sessions {
            let summary = summaries.remove(&id);
            sessions.push(Entry { id, seq, summary, places: (places.len() / 4, own.len()) });
            places.extend(own.iter().flat_map(|place| place.to_le_bytes()));
        }
        let directory = Directory { sessions, starts: self.starts, policies: self.policies };
        Index { segment, directory, parts: Parts::Fresh { texts: self.texts, places } }
    }
}
