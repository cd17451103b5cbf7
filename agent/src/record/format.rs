//! The bytes of a segment: its header and its frames, encoded and decoded, and the hashes that chain them.
//!
//! Pure: no files, no clock. All integers are little-endian. What a hash or a checksum covers is decided here and
//! nowhere else.

use super::digest::sha256;

/// First bytes of every segment. The high bit and the line ends show a transfer that was not binary-safe.
pub const MAGIC: [u8; 8] = *b"\x89CHJ\r\n\x1a\n";
/// Version of header and frames. A change that an older reader would misread needs a new one.
pub const VERSION: u32 = 3;
/// The oldest that is read: without the kinds `Statement` and `Result`. A journal of it is gone on with in its own form until
/// the agent that opened it serves; see [`super::Journal::settle`].
pub const OLDEST: u32 = 2;
/// Bytes of a segment header.
pub const HEADER_LEN: usize = 120;
/// Bytes of a frame before its payload.
pub const FRAME_LEN: usize = 60;
/// Longest payload written or believed: a length above it is damage, not a reason to allocate.
pub const MAX_PAYLOAD: usize = 16 << 20;
/// Highest number believed: at a million records a second it is reached in 146,000 years, and one more still fits.
pub const MAX_SEQ: u64 = 1 << 62;
/// Most records between two checkpoints.
pub const CHECKPOINT_EVERY: u64 = 1024;

/// Bytes of a frame that its length field does not count: the length and the checksum.
const UNCOUNTED: usize = 8;

pub type Hash = [u8; 32];

/// Names a host by its key: SHA-256 of the raw Ed25519 public key.
pub type HostId = [u8; 32];

/// Names one journal of a host, random, the same in all its segments.
pub type JournalId = [u8; 16];

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    pub version: u32,
    pub host: HostId,
    pub journal: JournalId,
    /// Number of the first record of this segment; records count from 1 over all segments.
    pub first_seq: u64,
    /// Hash of the last record of the segment before, zeros in the first segment.
    pub previous: Hash,
    /// Nanoseconds since the Unix epoch.
    pub created_ns: u64,
}

/// Why bytes are not a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    #[error("the segment is shorter than its header")]
    Truncated,
    #[error("the segment does not begin with the journal's magic bytes")]
    Magic,
    #[error("the header does not match its checksum")]
    Checksum,
    #[error("the header gives a number that no record has")]
    Number,
    #[error(
        "format version {0} is not known here: a newer version of Chaperone wrote it. Go on with that one; or move the whole \
         journal away, where that one's `chaperone verify --dir` still reads it, and this one begins a new journal"
    )]
    Version(u32),
}

impl Header {
    #[must_use]
    pub fn encode(&self) -> [u8; HEADER_LEN] {
        let mut out = [0; HEADER_LEN];
        let mut put = Put { to: &mut out, at: 0 };
        put.bytes(&MAGIC);
        put.bytes(&self.version.to_le_bytes());
        put.bytes(&self.first_seq.to_le_bytes());
        put.bytes(&self.created_ns.to_le_bytes());
        put.bytes(&self.host);
        put.bytes(&self.journal);
        put.bytes(&self.previous);
        put.bytes(&[0; 8]);
        let crc = crc32fast::hash(prefix(&out, HEADER_LEN - 4));
        let mut put = Put { to: &mut out, at: HEADER_LEN - 4 };
        put.bytes(&crc.to_le_bytes());
        out
    }

    /// # Errors
    /// When `bytes` do not begin with a whole header of a version known here.
    pub fn decode(bytes: &[u8]) -> Result<Self, HeaderError> {
        let bytes = bytes.get(..HEADER_LEN).ok_or(HeaderError::Truncated)?;
        if bytes.get(..8) != Some(&MAGIC) {
            return Err(HeaderError::Magic);
        }
        let crc = crc32fast::hash(prefix(bytes, HEADER_LEN - 4));
        if take_u32(bytes, HEADER_LEN - 4) != crc {
            return Err(HeaderError::Checksum);
        }
        let version = take_u32(bytes, 8);
        if !(OLDEST..=VERSION).contains(&version) {
            return Err(HeaderError::Version(version));
        }
        let first_seq = take_u64(bytes, 12);
        if !(1..=MAX_SEQ).contains(&first_seq) {
            return Err(HeaderError::Number);
        }
        Ok(Self {
            version,
            first_seq,
            created_ns: take_u64(bytes, 20),
            host: take(bytes, 28),
            journal: take(bytes, 60),
            previous: take(bytes, 76),
        })
    }

    /// What the first record of the segment names as the one before it, so that the header is in the chain too.
    #[must_use]
    pub fn hash(bytes: &[u8]) -> Hash {
        sha256([prefix(bytes, HEADER_LEN)])
    }
}

/// What a frame carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// JSON of an [`super::event::Event`].
    Event,
    /// The text of a [`super::Checkpoint`].
    Checkpoint,
    /// The peaks of the tree over all records before it; the first record of every segment but the first.
    Tree,
    /// Bytes a client was served: see [`super::served`].
    Served,
    /// Values before masks, for auditors alone: see [`super::seal`].
    Sealed,
    /// [`super::event::Event::Statement`], packed: see `packed`.
    Statement,
    /// [`super::event::Event::Result`], packed, with the bytes that were served up to it.
    Result,
}

impl Kind {
    /// Whether there is an event in such a record.
    #[must_use]
    pub const fn is_event(self) -> bool {
        matches!(self, Self::Event | Self::Statement | Self::Result)
    }

    pub(super) const fn code(self) -> u32 {
        match self {
            Self::Event => 1,
            Self::Checkpoint => 2,
            Self::Tree => 3,
            Self::Served => 4,
            Self::Sealed => 5,
            Self::Statement => 6,
            Self::Result => 7,
        }
    }

    const fn from_code(code: u32) -> Option<Self> {
        match code {
            1 => Some(Self::Event),
            2 => Some(Self::Checkpoint),
            3 => Some(Self::Tree),
            4 => Some(Self::Served),
            5 => Some(Self::Sealed),
            6 => Some(Self::Statement),
            7 => Some(Self::Result),
            _ => None,
        }
    }
}

/// A frame whose checksum held.
#[derive(Debug, Clone, Copy)]
pub struct Frame<'a> {
    pub kind: Kind,
    pub seq: u64,
    pub time_ns: u64,
    /// Hash of the record before, or of the segment's header for the first record of a segment.
    pub previous: Hash,
    pub payload: &'a [u8],
    /// The first 60 bytes, as found.
    head: &'a [u8],
}

/// What stands at the beginning of some bytes.
#[derive(Debug)]
pub enum Decoded<'a> {
    Frame(Frame<'a>),
    /// The bytes end before the frame does; `need` is how many it claims, when that can be told.
    Short {
        need: usize,
    },
    /// A length, kind, number or checksum that no frame written by a journal has.
    Bad,
}

impl<'a> Frame<'a> {
    #[must_use]
    pub fn decode(bytes: &'a [u8]) -> Decoded<'a> {
        let Some(head) = bytes.get(..FRAME_LEN) else { return Decoded::Short { need: FRAME_LEN } };
        let Some(len) = Self::claimed_len(head) else { return Decoded::Bad };
        let Some(whole) = bytes.get(..len) else { return Decoded::Short { need: len } };
        match Self::fields(whole) {
            Some(frame) if (1..=MAX_SEQ).contains(&frame.seq) && take_u32(head, 4) == checksum(whole) => {
                Decoded::Frame(frame)
            }
            _ => Decoded::Bad,
        }
    }

    /// The fields of exactly one frame whose checksum is known to hold, or does not matter.
    #[must_use]
    pub fn fields(whole: &'a [u8]) -> Option<Self> {
        let head = whole.get(..FRAME_LEN)?;
        Some(Self {
            kind: Kind::from_code(take_u32(head, 8))?,
            seq: take_u64(head, 12),
            time_ns: take_u64(head, 20),
            previous: take(head, 28),
            payload: whole.get(FRAME_LEN..)?,
            head,
        })
    }

    /// Bytes of the whole frame that begins with `head`, if its length and kind are ones a journal writes.
    #[must_use]
    pub fn claimed_len(head: &[u8]) -> Option<usize> {
        let counted = take_u32(head, 0) as usize;
        Kind::from_code(take_u32(head, 8))?;
        (FRAME_LEN - UNCOUNTED..=FRAME_LEN - UNCOUNTED + MAX_PAYLOAD)
            .contains(&counted)
            .then_some(counted + UNCOUNTED)
    }

    /// Bytes of the whole frame.
    #[must_use]
    pub const fn len(&self) -> usize {
        FRAME_LEN + self.payload.len()
    }

    #[must_use]
    pub const fn is_empty(&self) -> bool {
        false
    }

    /// Everything but length and checksum and payload: what the record's hash is over, with the payload's digest.
    #[must_use]
    pub fn fixed(&self) -> &[u8] {
        self.head.get(UNCOUNTED..).unwrap_or_default()
    }

    /// The hash the next record names.
    #[must_use]
    pub fn hash(&self) -> Hash {
        record_hash(self.head, &payload_digest(self.payload))
    }
}

/// Digest of a payload; made apart from the record's hash so that the lock is held for a fixed amount of hashing.
#[must_use]
pub fn payload_digest(payload: &[u8]) -> Hash {
    sha256([payload])
}

/// Writes the fields of the frame that lies in `frame` with its payload already in place, and returns its hash.
#[must_use]
pub fn seal(frame: &mut [u8], kind: Kind, seq: u64, time_ns: u64, previous: &Hash, digest: &Hash) -> Hash {
    let counted = u32::try_from(frame.len().saturating_sub(UNCOUNTED)).unwrap_or(u32::MAX);
    let mut put = Put { to: frame, at: 0 };
    put.bytes(&counted.to_le_bytes());
    put.bytes(&[0; 4]);
    put.bytes(&kind.code().to_le_bytes());
    put.bytes(&seq.to_le_bytes());
    put.bytes(&time_ns.to_le_bytes());
    put.bytes(previous);
    let crc = checksum(frame);
    let mut put = Put { to: frame, at: 4 };
    put.bytes(&crc.to_le_bytes());
    record_hash(frame, digest)
}

/// Over the length field and everything after the checksum.
fn checksum(frame: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(prefix(frame, 4));
    crc.update(frame.get(UNCOUNTED..).unwrap_or_default());
    crc.finalize()
}

fn record_hash(frame: &[u8], digest: &Hash) -> Hash {
    sha256([frame.get(UNCOUNTED..FRAME_LEN).unwrap_or_default(), digest])
}

/// Lower-case hex, as hashes and ids are shown.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut out, byte| {
        let _infallible = write!(out, "{byte:02x}");
        out
    })
}

/// The bytes that `hex` gives for them, and for nothing else.
#[must_use]
pub fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digit = |character: u8| match character {
        b'0'..=b'9' => Some(character - b'0'),
        b'a'..=b'f' => Some(character - b'a' + 10),
        _ => None,
    };
    let (pairs, []) = text.as_bytes().as_chunks::<2>() else { return None };
    let pairs: &[[u8; 2]; N] = pairs.try_into().ok()?;
    let mut out = [0; N];
    for (byte, [high, low]) in out.iter_mut().zip(pairs) {
        *byte = digit(*high)? << 4 | digit(*low)?;
    }
    Some(out)
}

struct Put<'a> {
    to: &'a mut [u8],
    at: usize,
}

impl Put<'_> {
    fn bytes(&mut self, bytes: &[u8]) {
        if let Some(to) = self.to.get_mut(self.at..self.at + bytes.len()) {
            to.copy_from_slice(bytes);
        }
        self.at += bytes.len();
    }
}

fn prefix(bytes: &[u8], len: usize) -> &[u8] {
    bytes.get(..len).unwrap_or(bytes)
}

/// `N` bytes at `at`; zeros where the slice ends before, which every caller has ruled out by its length.
fn take<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes.get(at..).and_then(|rest| rest.first_chunk::<N>()).copied().unwrap_or([0; N])
}

fn take_u32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(take(bytes, at))
}

fn take_u64(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(take(bytes, at))
}
