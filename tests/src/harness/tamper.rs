//! Touches a copy of the journal the way somebody would who knows its format.
//!
//! Knows of the format only what docs/journal.md says: a header of 120 bytes, then frames; a frame begins with its
//! length (which counts neither itself nor the checksum after it), its CRC-32, its kind and its number.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

const HEADER: usize = 120;

/// A segment as header and frames.
pub(crate) struct Segment {
    header: Vec<u8>,
    pub(crate) frames: Vec<Vec<u8>>,
}

/// Reads the newest segment of a copy, has it touched, and writes it back. The change gives the number of the record
/// that should be complained of, if one number is sure.
pub(crate) fn newest_segment(copy: &Path, touch: fn(&mut Segment) -> Option<u64>) -> Result<Option<u64>> {
    let mut segments: Vec<PathBuf> = fs::read_dir(copy)?.flatten().map(|entry| entry.path()).collect();
    segments.retain(|path| path.extension().is_some_and(|extension| extension == "chj"));
    segments.sort();
    let path = segments.pop().context("no segment in the copy")?;
    let mut segment = Segment::read(&fs::read(&path)?)?;
    ensure!(segment.frames.len() > 8, "too few records to touch");
    let position = touch(&mut segment);
    fs::write(&path, segment.write())?;
    Ok(position)
}

impl Segment {
    fn read(bytes: &[u8]) -> Result<Self> {
        let (header, mut rest) =
            bytes.split_at_checked(HEADER).context("a segment shorter than its header")?;
        let mut frames = Vec::new();
        while let Some(length) = rest.first_chunk::<4>() {
            let length = 8 + u32::from_le_bytes(*length) as usize;
            let (frame, after) =
                rest.split_at_checked(length).context("a frame that ends after its segment")?;
            frames.push(frame.to_vec());
            rest = after;
        }
        Ok(Self { header: header.to_vec(), frames })
    }

    fn write(&self) -> Vec<u8> {
        [self.header.clone(), self.frames.concat()].concat()
    }

    /// A frame in the middle that holds an event, as the one after it does.
    fn middle(&self) -> usize {
        let from = self.frames.len() / 2;
        let is_event = |at: usize| matches!(self.frames[at][8], 1 | 6 | 7);
        (from..self.frames.len() - 1).find(|at| is_event(*at) && is_event(*at + 1)).unwrap_or(from)
    }
}

fn number(frame: &[u8]) -> Option<u64> {
    Some(u64::from_le_bytes(frame.get(12..20)?.try_into().ok()?))
}

pub(crate) fn edit(segment: &mut Segment) -> Option<u64> {
    let at = segment.middle();
    let frame = &mut segment.frames[at];
    let last = frame.len() - 3;
    frame[last] ^= 1;
    number(frame)
}

/// An edit by somebody who puts the checksum right afterwards.
pub(crate) fn forge(segment: &mut Segment) -> Option<u64> {
    edit(segment)?;
    let at = segment.middle();
    let frame = &mut segment.frames[at];
    let sum = crc32(&frame[8..]).to_le_bytes();
    frame[4..8].copy_from_slice(&sum);
    None
}

pub(crate) fn delete(segment: &mut Segment) -> Option<u64> {
    let at = segment.middle();
    number(&segment.frames.remove(at))
}

pub(crate) fn swap(segment: &mut Segment) -> Option<u64> {
    let at = segment.middle();
    segment.frames.swap(at, at + 1);
    number(&segment.frames[at + 1])
}

pub(crate) fn cut(segment: &mut Segment) -> Option<u64> {
    segment.frames.truncate(segment.frames.len() - 3);
    None
}

/// CRC-32 as zlib computes it.
fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg());
        }
    }
    !crc
}
