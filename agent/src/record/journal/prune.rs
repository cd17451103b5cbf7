//! Pruning: the oldest segments go, and what they prove stays.
//!
//! Whole segments only, from the first one on, and never the one that is written. Each is read and checked before: a
//! pruning must not take away the traces of tampering. The order of steps is what makes a crash harmless: what is kept
//! of the records, then the record that tells of the pruning, signed and synced, then the host's note, and only then
//! are files removed. Before the note nothing has happened; after it whoever opens the journal next finishes.

use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::super::error::io_error;
use super::super::event::Event;
use super::super::files::{self, SegmentFile};
use super::super::format::{Frame, HEADER_LEN, Hash, Kind};
use super::super::frozen::Freezer;
use super::super::pruned::{self, Pruned};
use super::super::query::make_next_index;
use super::super::scan::{self, Found, Link, Scanner};
use super::super::served::Burst;
use super::super::tree::Tree;
use super::super::{Checkpoint, PublicKey, RecordError};
use super::{Journal, Retention, lock};

/// Segments that go at once by the configuration, so that an agent that takes over waits no longer; others go next.
const AT_ONCE: usize = 4;
const PAUSE: Duration = Duration::from_secs(60);

/// What may go.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// Records older than this, if any: in whole segments, so the newest of a segment decides.
    pub older_than: Option<Duration>,
    /// The oldest, until the journal has no more bytes than this.
    pub to_bytes: Option<u64>,
    /// Segments at once: each is read, and nothing else can be pruned meanwhile.
    pub at_most: usize,
    /// What asks for it, for the record.
    pub why: String,
    /// Who, if it was somebody.
    pub by: Option<String>,
}

/// What went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gone {
    /// All records up to this one are gone now.
    pub through: u64,
    pub records: u64,
    pub segments: u64,
    pub bytes: u64,
}

impl Journal {
    /// Removes the oldest segments as `wanted`. `None` when there is nothing that may go. Blocks on
    /// storage, and reads what it removes.
    ///
    /// # Errors
    /// `Damaged` when what would go is not what this host wrote; nothing was removed then. Otherwise when files cannot
    /// be read, written or removed.
    pub(in super::super) fn prune(&self, wanted: &Wanted) -> Result<Option<Gone>, RecordError> {
        self.prune_by_steps(wanted, &mut |_| Ok(()))
    }

    /// `step` is called before each step with its number; what it fails with ends the pruning there, as a crash would.
    pub(in super::super) fn prune_by_steps(
        &self,
        wanted: &Wanted,
        step: &mut dyn FnMut(u32) -> Result<(), RecordError>,
    ) -> Result<Option<Gone>, RecordError> {
        let _one_at_a_time = lock(&self.pruning)?;
        let dir = &self.fixed.dir;
        let segments = files::segments(dir)?;
        let (going, bytes) = self.going(&segments, wanted)?;
        let Some((first, next)) = segments.first().zip(segments.get(going)).filter(|_| going > 0) else {
            return Ok(None);
        };
        let key = self.fixed.key.public();
        let mut walk = Walk::from(pruned::load(dir, &key)?, &self.fixed.journal, key, first)?;
        let mut kept = 0;
        for segment in segments.iter().take(going) {
            step(0)?;
            kept += walk.freeze(segment)?.store(dir, segment.first_seq)?;
        }
        let (through, root, last) = walk.reach(&next.path)?;
        files::sync_dir(dir)?;
        self.fixed.add_used(kept);

        step(1)?;
        let gone = Gone { through, records: through + 1 - first.first_seq, segments: going as u64, bytes };
        let told = self.write(Burst::NOTHING, &[], &[event(&gone, wanted)], u64::MAX)?;
        step(2)?;
        let signed = self.sign(false)?;
        self.publish(signed)?;
        self.sync(told.last_seq)?;

        step(3)?;
        let time_ns = self.fixed.clocks.wall_ns();
        let note = Pruned::signed_with(
            &self.fixed.key,
            self.fixed.journal,
            (through, root, last),
            told.first_seq,
            time_ns,
        );
        pruned::store(&note, dir)?;
        for segment in segments.iter().take(going) {
            step(4)?;
            self.fixed.sub_used(pruned::remove(dir, segment.first_seq, through)?);
        }
        tracing::info!(records = gone.records, bytes, through, why = wanted.why, "pruned the journal");
        Ok(Some(gone))
    }

    /// What the configuration says is to go. Meant to be called every second; looks once a minute, and at once when room
    /// gets scarce.
    ///
    /// # Errors
    /// As [`Self::prune`]; it is tried again after a minute.
    pub(in super::super) fn retain(&self) -> Result<Option<Gone>, RecordError> {
        let Retention { keep, when_full } = self.retention;
        let much = self.max_bytes / 4 * 3;
        let scarce = when_full && self.fixed.used() > much;
        let due = {
            let mut looks = lock(&self.looks)?;
            let now = Instant::now();
            if now < looks.broken {
                return Ok(None);
            }
            let due = keep.is_some() && now >= looks.age;
            if due {
                looks.age = now + PAUSE;
            }
            due
        };
        // A clock that leapt while the agent ran would make everything old.
        let keep = keep.filter(|_| due && !lock(&self.tail).is_ok_and(|tail| tail.watch.leapt()));
        let by_age = keep.map(|age| Wanted {
            older_than: Some(age),
            to_bytes: None,
            at_most: AT_ONCE,
            why: format!("older than {} days (record.keep_days)", age.as_secs() / 86_400),
            by: None,
        });
        let by_room = scarce.then(|| Wanted {
            older_than: None,
            to_bytes: Some(much),
            at_most: AT_ONCE,
            why: "three quarters of the ceiling are used (record.when_full)".to_owned(),
            by: None,
        });
        for wanted in by_age.iter().chain(&by_room) {
            if let Some(gone) = self.prune_or_pause(wanted)? {
                // There may be more of the kind.
                lock(&self.looks)?.age = Instant::now();
                return Ok(Some(gone));
            }
        }
        Ok(None)
    }

    /// What keeps segments from going keeps them for a while, and is read anew each time.
    fn prune_or_pause(&self, wanted: &Wanted) -> Result<Option<Gone>, RecordError> {
        let pruned = self.prune(wanted);
        if pruned.is_err() {
            lock(&self.looks)?.broken = Instant::now() + PAUSE;
        }
        pruned
    }

    /// Lets the oldest records go for those that come now; `false` when that is not possible.
    pub(super) fn make_room(&self) -> bool {
        let wanted = Wanted {
            older_than: None,
            to_bytes: Some(self.max_bytes / 4 * 3),
            // Somebody waits for it.
            at_most: 1,
            why: "the ceiling is reached (record.when_full)".to_owned(),
            by: None,
        };
        if lock(&self.looks).is_ok_and(|looks| Instant::now() < looks.broken) {
            return false;
        }
        match self.prune_or_pause(&wanted) {
            // Nothing: somebody else made room meanwhile.
            Ok(_) => true,
            Err(error) => {
                tracing::error!(%error, "the journal is full, and its oldest records cannot go");
                false
            }
        }
    }

    /// Makes the index of one full segment that has none. Meant to be called every second.
    ///
    /// # Errors
    /// When files cannot be read or written; the segment is left alone from then on.
    pub(in super::super) fn index_next(&self) -> Result<(), RecordError> {
        // Records come first where room is scarce.
        if self.fixed.used() > self.max_bytes / 10 * 9 {
            return Ok(());
        }
        let newest = self.indexed.load(Ordering::Relaxed);
        if let Some((segment, made)) = make_next_index(&self.fixed.dir, newest)? {
            self.indexed.store(segment, Ordering::Relaxed);
            self.fixed.add_used(made?);
        }
        Ok(())
    }

    /// How many segments go, and their bytes.
    fn going(&self, segments: &[SegmentFile], wanted: &Wanted) -> Result<(usize, u64), RecordError> {
        let now = self.fixed.clocks.wall_ns();
        let before = wanted
            .older_than
            .map(|age| now.saturating_sub(u64::try_from(age.as_nanos()).unwrap_or(u64::MAX)));
        let used = self.fixed.used();
        let (mut going, mut bytes) = (0, 0);
        for pair in segments.windows(2).take(wanted.at_most) {
            let [segment, next] = pair else { break };
            let (_, head) = Scanner::open(&next.path)?;
            // The next segment was begun right behind the last record of this one.
            let ended_ns = scan::header(&next.path, &head)?.created_ns;
            let old = before.is_some_and(|before| ended_ns <= before);
            let much = wanted.to_bytes.is_some_and(|to| used.saturating_sub(bytes) > to);
            if !old && !much {
                break;
            }
            going += 1;
            for path in files::beside(&self.fixed.dir, segment)?.iter().chain([&segment.path]) {
                bytes += std::fs::metadata(path).map_or(0, |meta| meta.len());
            }
        }
        Ok((going, bytes))
    }
}

fn event(gone: &Gone, wanted: &Wanted) -> Event {
    Event::Pruned {
        through: gone.through,
        records: gone.records,
        segments: gone.segments,
        bytes: gone.bytes,
        why: wanted.why.clone(),
        by: wanted.by.clone(),
    }
}

/// Reads the segments that go, as strictly as a start reads the last ones.
struct Walk<'a> {
    key: PublicKey,
    journal: &'a [u8; 16],
    link: Link,
    /// `None` before the first record of a journal that was pruned before, which states it.
    tree: Option<Tree>,
    /// The root that it has to have then.
    root: Hash,
}

impl<'a> Walk<'a> {
    /// Begins where the last pruning ended.
    fn from(
        before: Option<Pruned>,
        journal: &'a [u8; 16],
        key: PublicKey,
        first: &SegmentFile,
    ) -> Result<Self, RecordError> {
        let (link, root) = match before {
            Some(note) => (Link { seq: note.through + 1, previous: note.last, last: note.last }, note.root),
            None => (Link::START, [0; 32]),
        };
        if first.first_seq != link.seq {
            return Err(damaged(&first.path, 0, link.seq, "the segments before this one are missing"));
        }
        Ok(Self { key, journal, link, tree: before.is_none().then(Tree::default), root })
    }

    fn freeze(&mut self, segment: &SegmentFile) -> Result<Freezer, RecordError> {
        let path = &segment.path;
        let mut scanner = self.enter(path)?;
        let mut freezer = Freezer::new(self.journal, segment.first_seq);
        loop {
            let offset = scanner.offset();
            match scanner.next().map_err(io_error("read", path))? {
                None => return Ok(freezer),
                Some(Found::Damage(damage)) => {
                    let problem = format!("{} bytes are no record", damage.len);
                    return Err(damaged(path, offset, self.link.seq, problem));
                }
                Some(Found::Frame(frame)) => {
                    let judged = self.judge(offset, &frame);
                    judged.map_err(|problem| damaged(path, offset, frame.seq, problem))?;
                    if frame.kind == Kind::Checkpoint {
                        freezer.end();
                    }
                    let hash = frame.hash();
                    if let Some(tree) = &mut self.tree {
                        tree.push(&hash);
                    }
                    freezer.push(&hash);
                }
            }
        }
    }

    /// Goes into the segment that stays; the state of the tree before it.
    fn reach(&mut self, path: &Path) -> Result<(u64, Hash, Hash), RecordError> {
        self.enter(path)?;
        let tree = self.tree.clone().unwrap_or_default();
        Ok((tree.size(), tree.root(), self.link.last))
    }

    fn enter(&mut self, path: &Path) -> Result<Scanner<std::fs::File>, RecordError> {
        let (scanner, bytes) = Scanner::open(path)?;
        let header = scan::header(path, &bytes)?;
        let entered = if header.host != self.key.host() || header.journal != *self.journal {
            Err("the segment is not of this journal".to_owned())
        } else {
            self.link.enter(&header, &bytes)
        };
        entered.map_err(|problem| damaged(path, 0, self.link.seq, problem))?;
        Ok(scanner)
    }

    fn judge(&mut self, offset: u64, frame: &Frame<'_>) -> Result<(), String> {
        self.link.step(frame)?;
        let begins = offset == HEADER_LEN as u64 && frame.seq > 1;
        if begins != (frame.kind == Kind::Tree) {
            return Err("the segment does not begin with the tree of the records before it".to_owned());
        }
        if begins {
            let stated = Tree::from_peaks(frame.seq - 1, frame.payload);
            let good = stated.filter(|stated| match &self.tree {
                Some(tree) => stated == tree,
                None => stated.root() == self.root,
            });
            let problem = "the segment begins with another tree than that of the records before it";
            self.tree = Some(good.ok_or(problem)?);
        }
        let signed = frame.kind != Kind::Checkpoint
            || Checkpoint::of_record(frame.payload).is_some_and(|checkpoint| {
                self.key.signed(&checkpoint)
                    && checkpoint.journal == *self.journal
                    && checkpoint.seq == frame.seq - 1
                    && checkpoint.last == frame.previous
                    && self.tree.as_ref().is_some_and(|tree| tree.root() == checkpoint.root)
            });
        let problem = "the checkpoint is not this host's signature of what stands before it";
        signed.then_some(()).ok_or_else(|| problem.to_owned())
    }
}

fn damaged(path: &Path, offset: u64, seq: u64, problem: impl Into<String>) -> RecordError {
    RecordError::Damaged { path: path.to_owned(), offset, seq, problem: problem.into() }
}
