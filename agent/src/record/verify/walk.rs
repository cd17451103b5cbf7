//! The reasoning of `verify`: what the sequence of headers, records and damaged bytes says about what was done.
//!
//! Fed in file order, in bounded memory. Each record is judged by three witnesses: its own checksum (before it comes
//! here), its number, and the hash its successor names. Signatures say which history is the host's own.

mod beginning;
mod growth;

use super::super::format::{CHECKPOINT_EVERY, Frame, HEADER_LEN, Hash, Header, JournalId, Kind, hex};
use super::super::head::HeadSummary;
use super::super::pruned::Pruned;
use super::super::scan::{Damage, Extent};
use super::super::tree::Tree;
use super::super::{Checkpoint, PublicKey, Stamp};
use super::pulse::Pulse;
use super::{DESCRIBED, Problem, ProblemKind, Report};

/// Gaps remembered, in case their records turn up elsewhere.
const GAPS: usize = 64;

pub(super) struct Walk<'a> {
    key: &'a PublicKey,
    head: Option<Checkpoint>,
    since: Option<Checkpoint>,
    /// What of the beginning is gone with the host's word for it.
    pruned: Option<Pruned>,
    /// The tree over it, from what is kept of it.
    frozen: Option<Tree>,
    /// The record that tells of the pruning was met.
    pruned_told: bool,
    /// Whether what was kept was met, and met as it was.
    since_met: Option<bool>,
    file: String,
    journal: Option<JournalId>,
    /// The number the next record has.
    expected: u64,
    /// What the next record names; `None` after damage, where it cannot be known.
    previous: Option<Hash>,
    /// What the next header names.
    last: Option<Hash>,
    /// The newest record, where a rewriting shows at its successor; no record in a segment's beginning.
    newest: Option<Spot>,
    /// Hash of another record with the newest one's number.
    twin: Option<Hash>,
    pending: Option<(Spot, Damage)>,
    /// Over the records as the chain names them, so that it goes on behind one that was changed; `None` where it cannot
    /// be known, until a segment states it.
    tree: Option<Tree>,
    /// The newest record is not in the tree yet: its successor has not named it.
    owed: bool,
    pulse: Pulse,
    gaps: Vec<Gap>,
    records: u64,
    events: u64,
    served: u64,
    sealed: u64,
    checkpoints: u64,
    repairs: u64,
    /// The last checkpoint that holds: its own number and time.
    signed: Option<(u64, u64)>,
    unsigned: u64,
    /// A checkpoint did not match and none since did.
    forged: bool,
    problems: Vec<Problem>,
    more: u64,
}

/// Where something lies.
#[derive(Clone)]
struct Spot {
    file: String,
    offset: u64,
}

/// Records `from..=to` were passed over.
struct Gap {
    from: u64,
    to: u64,
    previous: Option<Hash>,
    problem: Option<usize>,
}

impl<'a> Walk<'a> {
    pub(super) fn new(key: &'a PublicKey, head: Option<Checkpoint>, since: Option<Checkpoint>) -> Self {
        Self {
            key,
            head,
            since,
            pruned: None,
            frozen: None,
            pruned_told: false,
            since_met: None,
            file: String::new(),
            journal: head.or(since).map(|head| head.journal),
            expected: 1,
            previous: None,
            last: Some([0; 32]),
            newest: None,
            twin: None,
            pending: None,
            tree: Some(Tree::default()),
            owed: false,
            pulse: Pulse::default(),
            gaps: Vec::new(),
            records: 0,
            events: 0,
            served: 0,
            sealed: 0,
            checkpoints: 0,
            repairs: 0,
            signed: None,
            unsigned: 0,
            forged: false,
            problems: Vec::new(),
            more: 0,
        }
    }

    /// What follows is in the file of this name.
    pub(super) fn file(&mut self, name: &str) {
        name.clone_into(&mut self.file);
    }

    /// Goes into a segment whose file name gives `named` as its first record; `false` when it is not to be read.
    pub(super) fn header(&mut self, named: u64, bytes: &[u8], live_end: bool) -> bool {
        self.newest = None;
        self.twin = None;
        if bytes.len() < HEADER_LEN {
            if !live_end {
                let detail =
                    format!("the segment has {} of the {HEADER_LEN} bytes of its header", bytes.len());
                self.problem(ProblemKind::HeaderTruncated, 0, named, named, detail);
            }
            return false;
        }
        let header = match Header::decode(bytes) {
            Ok(header) => header,
            Err(error) => {
                self.settle(named);
                self.problem(ProblemKind::HeaderEdited, 0, named, named, error.to_string());
                self.enter_tree(self.last);
                (self.previous, self.last) = (None, None);
                return true;
            }
        };
        let foreign = if header.host != self.key.host() {
            Some("the segment was not written with the key it is verified by: another host's")
        } else if *self.journal.get_or_insert(header.journal) != header.journal {
            Some("the segment belongs to another journal of this host")
        } else {
            None
        };
        if let Some(detail) = foreign {
            self.problem(ProblemKind::ForeignSegment, 0, named, named, detail.to_owned());
            return false;
        }
        if header.first_seq != named {
            let detail =
                format!("the segment begins with record {}, its name says {named}", header.first_seq);
            self.problem(ProblemKind::Misnamed, 0, header.first_seq, header.first_seq, detail);
        }
        self.follow(&header);
        self.previous = Some(Header::hash(bytes));
        true
    }

    /// Whether the segment is the next one.
    fn follow(&mut self, header: &Header) {
        let first = header.first_seq;
        self.settle(first);
        if self.records == 0 && self.expected == 1 && first > 1 {
            self.begin_behind_pruned(first);
        }
        if first == self.expected {
            self.enter_tree(Some(header.previous));
        }
        if first > self.expected {
            let (kind, detail) = if self.records == 0
                && self.expected == self.pruned.map_or(1, |note| note.through + 1)
            {
                (
                    ProblemKind::FirstSegmentMissing,
                    format!("the journal does not begin with record {}", self.expected),
                )
            } else {
                let detail = "a segment is missing before this one, or the end of the one before was cut off";
                (ProblemKind::SegmentMissing, detail.to_owned())
            };
            self.gap(kind, 0, first, detail);
        } else if first < self.expected {
            let detail = format!("the segment begins with record {first}, which was before it already");
            self.problem(ProblemKind::Inserted, 0, first, first, detail);
        } else if self.last.is_some_and(|last| last != header.previous) {
            let detail =
                "the segment's header names another last record of the segment before: that was rewritten";
            self.problem(ProblemKind::Rewritten, 0, first.saturating_sub(1), first, detail.to_owned());
        }
    }

    pub(super) fn record(&mut self, offset: u64, frame: &Frame<'_>) {
        self.records += 1;
        self.settle(frame.seq);
        if frame.seq == self.expected {
            self.in_order(offset, frame);
        } else if self.previous == Some(frame.previous) {
            // The chain goes on here, only the number is wrong.
            let detail = format!("the record's number was changed to {}, its checksum recomputed", frame.seq);
            self.problem(ProblemKind::Rewritten, offset, self.expected, self.expected, detail);
            self.accept(offset, self.expected, None);
        } else if frame.seq > self.expected {
            let detail = "the records are missing, those before and after them are there".to_owned();
            self.gap(ProblemKind::Deleted, offset, frame.seq, detail);
            self.in_order(offset, frame);
        } else {
            self.out_of_order(offset, frame);
        }
    }

    pub(super) fn damage(&mut self, damage: Damage) {
        self.pending = Some((self.spot(damage.offset), damage));
    }

    pub(super) fn unreadable(&mut self, offset: u64, error: &str) {
        self.problem(ProblemKind::Unreadable, offset, self.expected, self.expected, error.to_owned());
        (self.previous, self.last, self.newest) = (None, None, None);
    }

    fn in_order(&mut self, offset: u64, frame: &Frame<'_>) {
        let seq = frame.seq;
        if self.previous.is_some_and(|previous| previous != frame.previous)
            && self.twin != Some(frame.previous)
        {
            self.rewritten_before(seq);
        }
        self.enter_tree(Some(frame.previous));
        self.pulse.beat(seq, frame);
        match frame.kind {
            Kind::Event => {
                self.events += 1;
                self.told_of_pruning(frame);
                self.repairs += u64::from(frame.payload.starts_with(br#"{"event":"repair""#));
                self.count(offset, seq);
            }
            Kind::Statement | Kind::Result => {
                self.events += 1;
                self.count(offset, seq);
            }
            Kind::Checkpoint => self.checkpoint(offset, frame),
            Kind::Tree => self.stated_tree(offset, frame),
            Kind::Served => {
                self.served += 1;
                self.count(offset, seq);
            }
            Kind::Sealed => {
                self.sealed += 1;
                self.count(offset, seq);
            }
        }
        if let Some(head) = self.head
            && head.seq == seq - 1
            && head.last != frame.previous
        {
            let detail = "the head was signed over other records than those before this one".to_owned();
            self.problem(ProblemKind::CheckpointMismatch, offset, self.signed_after(), seq - 1, detail);
        }
        self.accept(offset, seq, Some(frame.hash()));
    }

    /// A record that a checkpoint has to follow before too many others do.
    fn count(&mut self, offset: u64, seq: u64) {
        self.unsigned += 1;
        if self.unsigned == CHECKPOINT_EVERY + 1 {
            let detail = format!("no checkpoint in more than {CHECKPOINT_EVERY} records");
            self.problem(ProblemKind::CheckpointMissing, offset, seq - CHECKPOINT_EVERY, seq, detail);
        }
    }

    fn accept(&mut self, offset: u64, seq: u64, hash: Option<Hash>) {
        self.expected = seq + 1;
        (self.previous, self.last) = (hash, hash);
        self.newest = Some(self.spot(offset));
        self.twin = None;
        self.owed = true;
    }

    /// Record `seq` names another predecessor than the one that is there, both with checksums that hold.
    fn rewritten_before(&mut self, seq: u64) {
        let Some(newest) = self.newest.clone() else {
            let detail = "the header of the segment is not the one its first record names".to_owned();
            return self.problem(ProblemKind::HeaderEdited, 0, seq, seq, detail);
        };
        if let Some(problem) = self.problems.last_mut()
            && problem.kind == ProblemKind::Rewritten
            && problem.last_seq + 1 == seq - 1
        {
            problem.last_seq = seq - 1;
            return;
        }
        let detail =
            "the next record names another one: this one was changed and its checksum recomputed".to_owned();
        self.problem_at(newest, ProblemKind::Rewritten, seq - 1, seq - 1, detail);
    }

    /// A record whose number was passed already.
    fn out_of_order(&mut self, offset: u64, frame: &Frame<'_>) {
        let seq = frame.seq;
        if let Some(at) = self.gaps.iter().position(|gap| gap.from <= seq && seq <= gap.to) {
            return self.turned_up(at, offset, frame);
        }
        if seq + 1 == self.expected {
            self.twin = Some(frame.hash());
        }
        if let Some(problem) = self.problems.last_mut()
            && problem.kind == ProblemKind::Inserted
            && problem.last_seq + 1 == seq
            && problem.file == self.file
        {
            problem.last_seq = seq;
            return;
        }
        let detail = "a record with this number stands before it already".to_owned();
        self.problem(ProblemKind::Inserted, offset, seq, seq, detail);
    }

    /// A record that was missing where it belongs.
    fn turned_up(&mut self, at: usize, offset: u64, frame: &Frame<'_>) {
        let Some(gap) = self.gaps.get_mut(at) else { return };
        let follows = gap.from != frame.seq || gap.previous.is_none_or(|previous| previous == frame.previous);
        // What is left of the gap after it; records between its beginning and this one stay missing unnoted, and the
        // problem that names the whole range stays with them.
        gap.from = frame.seq + 1;
        gap.previous = Some(frame.hash());
        let (empty, problem) = (gap.from > gap.to, gap.problem);
        if empty {
            self.gaps.remove(at);
        }
        if let Some(problem) = problem.and_then(|at| self.problems.get_mut(at)) {
            problem.kind = ProblemKind::Reordered;
            problem.detail =
                format!("the records are missing here; record {} stands in {}", frame.seq, self.file);
            problem.detail += &format!(", byte {offset}");
        }
        if frame.kind.is_event() {
            self.events += 1;
        }
        if !follows {
            let detail = "the record does not follow the one before it".to_owned();
            self.problem(ProblemKind::Rewritten, offset, frame.seq, frame.seq, detail);
        }
    }

    fn checkpoint(&mut self, offset: u64, frame: &Frame<'_>) {
        let seq = frame.seq;
        let good = Checkpoint::of_record(frame.payload).is_some_and(|checkpoint| {
            self.key.signed(&checkpoint)
                && self.journal == Some(checkpoint.journal)
                && checkpoint.seq == seq - 1
                && checkpoint.last == frame.previous
                && self.tree.as_ref().is_none_or(|tree| tree.root() == checkpoint.root)
        });
        self.unsigned = 0;
        if good {
            self.checkpoints += 1;
            self.signed = Some((seq, frame.time_ns));
            self.forged = false;
        } else if !self.forged {
            self.forged = true;
            let first = self.signed_after();
            let detail = format!(
                "checkpoint {seq} is the first that no longer matches: records were changed or replaced here and the \
                 hashes recomputed, or the checkpoint itself was"
            );
            self.problem(ProblemKind::CheckpointMismatch, offset, first, seq, detail);
        }
    }

    /// The first record that the last good checkpoint does not cover.
    fn signed_after(&self) -> u64 {
        self.signed.map_or(1, |(seq, _)| seq)
    }

    /// Says what damaged bytes were, now that `next` is known to be the record after them.
    fn settle(&mut self, next: u64) {
        let Some((spot, damage)) = self.pending.take() else { return };
        if next <= self.expected {
            let detail = format!("{} bytes that are no record", damage.len);
            return self.problem_at(spot, ProblemKind::Inserted, self.expected, self.expected, detail);
        }
        let (kind, detail) = describe(damage);
        self.problem_at(spot, kind, self.expected, next - 1, detail);
        self.lose(next);
        (self.previous, self.last, self.newest) = (None, None, None);
    }

    fn gap(&mut self, kind: ProblemKind, offset: u64, next: u64, detail: String) {
        let (from, to) = (self.expected, next - 1);
        let described = self.problems.len() < DESCRIBED;
        self.problem(kind, offset, from, to, detail);
        if self.gaps.len() < GAPS {
            let problem = described.then(|| self.problems.len() - 1);
            self.gaps.push(Gap { from, to, previous: self.previous, problem });
        }
        self.lose(next);
        (self.previous, self.last, self.newest) = (None, None, None);
    }

    /// An agent has the journal open.
    pub(super) fn must_be_recent(&mut self) {
        if let Some(detail) = self.pulse.silent_now() {
            self.problem(ProblemKind::Silent, 0, self.expected.saturating_sub(1), self.expected, detail);
        }
    }

    pub(super) fn problem(
        &mut self,
        kind: ProblemKind,
        offset: u64,
        seq: u64,
        last_seq: u64,
        detail: String,
    ) {
        self.problem_at(self.spot(offset), kind, seq, last_seq, detail);
    }

    fn problem_at(&mut self, spot: Spot, kind: ProblemKind, seq: u64, last_seq: u64, detail: String) {
        if self.problems.len() < DESCRIBED {
            self.problems.push(Problem { file: spot.file, offset: spot.offset, seq, last_seq, kind, detail });
        } else {
            self.more += 1;
        }
    }

    fn spot(&self, offset: u64) -> Spot {
        Spot { file: self.file.clone(), offset }
    }

    pub(super) fn finish(mut self, report: Report) -> Report {
        if let Some((spot, damage)) = self.pending.take() {
            let (kind, detail) = describe(damage);
            self.problem_at(spot, kind, self.expected, self.expected, detail);
        }
        if let Some(head) = self.head
            && head.seq + 1 >= self.expected
        {
            let signed = head.seq;
            let detail = format!("the journal ends before record {signed}, up to which the head is signed");
            self.file("head");
            self.problem(ProblemKind::EndMissing, 0, self.expected, signed + 1, detail);
        }
        self.enter_tree(self.last);
        self.judge_pruned();
        self.judge_since();
        Report {
            ok: self.problems.is_empty(),
            records: self.records,
            events: self.events,
            served: self.served,
            sealed: self.sealed,
            checkpoints: self.checkpoints,
            repairs: self.repairs,
            last_seq: self.expected - 1,
            signed_through: self.signed.map_or(0, |(seq, _)| seq - 1),
            signed_time: self.signed.map(|(_, time_ns)| Stamp(time_ns)),
            unsigned_tail: self.expected - 1 - self.signed.map_or(0, |(seq, _)| seq),
            head: self.head.as_ref().map(HeadSummary::of),
            root: self.tree.as_ref().map(|tree| hex(&tree.root())),
            verifier: self.journal.map(|journal| self.key.verifier(&journal)),
            since: self.since.as_ref().map(HeadSummary::of),
            last_time: self.pulse.last_time(),
            stopped: self.pulse.stopped(),
            quiet: self.pulse.quiet(),
            set_back: self.pulse.set_back(),
            pruned_through: self.pruned.map_or(0, |note| note.through),
            problems: self.problems,
            more_problems: self.more,
            ..report
        }
    }
}

fn describe(damage: Damage) -> (ProblemKind, String) {
    match damage.extent {
        Extent::Record => {
            let detail = "the bytes do not match their checksum: edited in place, or damaged on disk";
            (ProblemKind::Edited, detail.to_owned())
        }
        Extent::Stretch => (ProblemKind::Edited, format!("{} bytes that are no record", damage.len)),
        Extent::Torn => (
            ProblemKind::Torn,
            format!("the segment ends within a record, of which it has {} bytes", damage.len),
        ),
    }
}
