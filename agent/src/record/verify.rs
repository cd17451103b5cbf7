//! Says whether a journal is what its host wrote, and if not, where and in what way.
//!
//! Needs only the files and the host's public key. Owns the report and its words; the reasoning is in `walk`. What
//! it cannot see: that records which no checkpoint covered yet were changed by somebody who recomputed their hashes
//! (`unsigned_tail` says how many those are), and, without a checkpoint that was kept elsewhere, that everything was
//! replaced by an older copy of itself.

mod pulse;
mod walk;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;

use super::error::io_error;
use super::files::{self, DirLock};
use super::head::HeadSummary;
use super::pruned::Pruned;
use super::scan::Scanner;
use super::tail::file_name;
use super::{Checkpoint, PublicKey, RecordError, Stamp, frozen, head, pruned};
use walk::Walk;

/// An agent that runs records something at least this often.
pub const HEARTBEAT: Duration = Duration::from_secs(30);
/// Without a record for this long, an agent was not running.
const SILENCE: Duration = Duration::from_secs(100);
/// How often a verification begins again because of a pruning.
const PRUNED_MEANWHILE: u32 = 10;
/// Segments that are opened before the first is read.
const AHEAD: usize = 256;
/// Problems described one by one; the others are counted.
const DESCRIBED: usize = 20;

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    pub ok: bool,
    pub dir: PathBuf,
    /// An agent had the journal open; what it was just writing at the end was not judged.
    pub live: bool,
    pub segments: u64,
    pub bytes: u64,
    /// Records 1 to this one are gone with the host's word for it; 0 when nothing was pruned.
    pub pruned_through: u64,
    /// Whole records, those of checkpoints among them.
    pub records: u64,
    pub events: u64,
    /// Records of bytes that clients were served.
    pub served: u64,
    /// Records of values that are sealed to auditors.
    pub sealed: u64,
    /// Checkpoints whose signature holds.
    pub checkpoints: u64,
    /// Incomplete ends that agents found and cut off when they started.
    pub repairs: u64,
    /// Number of the newest record, 0 in an empty journal.
    pub last_seq: u64,
    /// The newest record that a checkpoint covers, 0 for none.
    pub signed_through: u64,
    pub signed_time: Option<Stamp>,
    /// Records after the last checkpoint: chained, but not signed by anybody.
    pub unsigned_tail: u64,
    /// What the head file says, if there is one.
    pub head: Option<HeadSummary>,
    /// The root of the tree over all records, where all of them are known.
    pub root: Option<String>,
    /// The host's key, as verifiers of signed notes take it.
    pub verifier: Option<String>,
    /// The checkpoint that was kept, and that this journal goes on from it.
    pub since: Option<HeadSummary>,
    /// Time of the newest record.
    pub last_time: Option<Stamp>,
    /// The newest event is the agent's own end. If not, and no agent is writing, it died there, or what followed is cut
    /// off and the head is an older one.
    pub stopped: bool,
    /// Times without any record although an agent was running.
    pub quiet: Vec<Quiet>,
    /// Where the clock went back.
    pub set_back: Vec<SetBack>,
    pub problems: Vec<Problem>,
    /// Problems beyond those described.
    pub more_problems: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    pub file: String,
    pub offset: u64,
    /// The first record concerned, and the last where it is a range.
    pub seq: u64,
    pub last_seq: u64,
    pub kind: ProblemKind,
    pub detail: String,
}

/// An agent that runs records something at least every [`HEARTBEAT`]; here it did not. The host may have slept, its
/// clock may have been moved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Quiet {
    /// The record before.
    pub after: u64,
    pub from: Stamp,
    pub to: Stamp,
}

/// Times go back by more than a second from one record to the next.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SetBack {
    /// The record with the earlier time.
    pub at: u64,
    pub from: Stamp,
    pub to: Stamp,
    /// The agent noticed, and said so.
    pub recorded: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ProblemKind {
    /// A record's bytes do not match its checksum.
    Edited,
    /// A record is whole in itself, but its successor names another one.
    Rewritten,
    Deleted,
    /// Bytes or records that the chain does not have.
    Inserted,
    Reordered,
    /// A segment ends within a record.
    Torn,
    HeaderTruncated,
    HeaderEdited,
    Misnamed,
    SegmentMissing,
    FirstSegmentMissing,
    ForeignSegment,
    /// The host signed another history than the one that is here.
    CheckpointMismatch,
    /// More records follow each other without a checkpoint than an agent would write.
    CheckpointMissing,
    /// The journal ends before the record that the head speaks of.
    EndMissing,
    HeadInvalid,
    /// The note about pruned records, or what is kept of them, is not this host's.
    PrunedInvalid,
    /// The tree stated at the beginning of a segment is not that of the records before it.
    TreeMismatch,
    /// The journal does not go on from the checkpoint that was kept: it was put back to an older state, or replaced.
    RolledBack,
    /// An agent has the journal open and has not recorded anything for longer than it ever would.
    Silent,
    Unreadable,
}

impl ProblemKind {
    /// As in JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Edited => "edited",
            Self::Rewritten => "rewritten",
            Self::Deleted => "deleted",
            Self::Inserted => "inserted",
            Self::Reordered => "reordered",
            Self::Torn => "torn",
            Self::HeaderTruncated => "header_truncated",
            Self::HeaderEdited => "header_edited",
            Self::Misnamed => "misnamed",
            Self::SegmentMissing => "segment_missing",
            Self::FirstSegmentMissing => "first_segment_missing",
            Self::ForeignSegment => "foreign_segment",
            Self::CheckpointMismatch => "checkpoint_mismatch",
            Self::CheckpointMissing => "checkpoint_missing",
            Self::EndMissing => "end_missing",
            Self::HeadInvalid => "head_invalid",
            Self::PrunedInvalid => "pruned_invalid",
            Self::TreeMismatch => "tree_mismatch",
            Self::RolledBack => "rolled_back",
            Self::Silent => "silent",
            Self::Unreadable => "unreadable",
        }
    }
}

/// Reads the whole journal in `dir` and judges it by `key`, and by a checkpoint that was kept elsewhere.
///
/// # Errors
/// When the directory cannot be listed. Everything about its files is in the report.
pub fn verify(dir: &Path, key: &PublicKey, since: Option<Checkpoint>) -> Result<Report, RecordError> {
    for _ in 0..PRUNED_MEANWHILE {
        let (report, changed) = judge(dir, key, since)?;
        if report.ok || !changed {
            return Ok(report);
        }
        // An agent pruned while segments were read: what is missing now may be missing by right.
    }
    judge(dir, key, since).map(|(report, _changed)| report)
}

/// The report, and whether segments went while the journal was looked at.
fn judge(dir: &Path, key: &PublicKey, since: Option<Checkpoint>) -> Result<(Report, bool), RecordError> {
    // The head first: records that come while the segments are read must not make it look behind. The note before the
    // segments are listed, so that the record which tells of the pruning is among them.
    let head = head::load(dir, key);
    let note = pruned::load(dir, key);
    let segments = files::segments(dir)?;
    // The oldest are what an agent may prune meanwhile. One that is open can be read to its end.
    let ahead: Vec<_> = segments.iter().take(AHEAD).map(|segment| Scanner::open(&segment.path)).collect();
    let live = DirLock::is_taken(dir);
    let mut walk = Walk::new(key, head.as_ref().ok().copied().flatten(), since);
    if let Err(error) = &head {
        walk.file("head");
        walk.problem(ProblemKind::HeadInvalid, 0, 0, 0, error.to_string());
    }
    let gone = || pruned::load(dir, key).ok().flatten();
    let mut changed = gone() != note.as_ref().ok().copied().flatten();
    begin_after_pruned(&mut walk, dir, note);
    let mut bytes = 0;
    let mut ahead = ahead.into_iter();
    for (at, segment) in segments.iter().enumerate() {
        walk.file(&file_name(&segment.path));
        match ahead.next().unwrap_or_else(|| Scanner::open(&segment.path)) {
            Ok((scanner, header)) => {
                bytes += scanner.len();
                let live_end = live && at + 1 == segments.len();
                read_segment(&mut walk, &segment.path, segment.first_seq, scanner, &header, live_end);
            }
            Err(error) => {
                changed |= error.is_not_found();
                walk.unreadable(0, &error.to_string());
            }
        }
    }
    if live {
        walk.must_be_recent();
    }
    let report = walk.finish(Report {
        ok: false,
        dir: dir.to_owned(),
        live,
        segments: segments.len() as u64,
        bytes,
        pruned_through: 0,
        records: 0,
        events: 0,
        served: 0,
        sealed: 0,
        checkpoints: 0,
        repairs: 0,
        last_seq: 0,
        signed_through: 0,
        signed_time: None,
        unsigned_tail: 0,
        head: None,
        root: None,
        verifier: None,
        since: None,
        last_time: None,
        stopped: false,
        quiet: Vec::new(),
        set_back: Vec::new(),
        problems: Vec::new(),
        more_problems: 0,
    });
    Ok((report, changed))
}

/// Tells the walk of the records that the host let go, and what is kept of them.
fn begin_after_pruned(walk: &mut Walk<'_>, dir: &Path, note: Result<Option<Pruned>, RecordError>) {
    let note = match note {
        Ok(Some(note)) => note,
        Ok(None) => return,
        Err(error) => {
            walk.file("pruned");
            return walk.problem(ProblemKind::PrunedInvalid, 0, 0, 0, error.to_string());
        }
    };
    let kept = frozen::walk(dir, &note, |piece| walk.frozen(piece));
    if let Err(error) = &kept {
        walk.file("pruned");
        walk.problem(ProblemKind::PrunedInvalid, 0, 1, note.through, error.to_string());
    }
    walk.pruned(note, kept.is_ok());
}

fn read_segment(
    walk: &mut Walk<'_>,
    path: &Path,
    named: u64,
    mut scanner: Scanner<File>,
    header: &[u8],
    live_end: bool,
) {
    use super::scan::Found;
    if !walk.header(named, header, live_end) {
        return;
    }
    loop {
        let offset = scanner.offset();
        match scanner.next() {
            Ok(None) => return,
            Ok(Some(Found::Frame(frame))) => walk.record(offset, &frame),
            Ok(Some(Found::Damage(damage))) if live_end && damage.to_end => return,
            Ok(Some(Found::Damage(damage))) => walk.damage(damage),
            Err(error) => return walk.unreadable(offset, &io_error("read", path)(error).to_string()),
        }
    }
}
