//! The beginning of a journal whose oldest records were pruned: what the host's note says is gone, and what is kept of it.

use super::super::super::format::Frame;
use super::super::super::frozen::Piece;
use super::super::super::pruned::Pruned;
use super::super::super::tree::Tree;
use super::super::ProblemKind;
use super::Walk;

impl Walk<'_> {
    /// What is kept of the records that are gone, in order, before [`Self::pruned`].
    pub(in super::super) fn frozen(&mut self, piece: Piece<'_>) {
        let mut tree = self.frozen.take().unwrap_or_default();
        match piece {
            // Whether it fits is known by the root in the end.
            Piece::Subtree(level, root) => drop(tree.push_subtree(level, root)),
            Piece::End(_) => self.meet(&tree),
        }
        self.frozen = Some(tree);
    }

    /// The host's note; `sound` when what is kept makes the root it is signed over.
    pub(in super::super) fn pruned(&mut self, note: Pruned, sound: bool) {
        if self.journal.is_some_and(|journal| journal != note.journal) {
            self.file("pruned");
            let detail = "the note about pruned records is of another journal of this host".to_owned();
            return self.problem(ProblemKind::PrunedInvalid, 0, 1, note.through, detail);
        }
        if !sound {
            (self.frozen, self.since_met) = (None, None);
        }
        self.pruned = Some(note);
    }

    /// The first segment begins with record `first`. Where the host's note covers those before it, nothing is missing.
    pub(super) fn begin_behind_pruned(&mut self, first: u64) {
        let Some(note) = self.pruned.filter(|note| first <= note.through + 1) else {
            // Up to the note the host let them go; what follows is missing.
            if let Some(note) = self.pruned {
                (self.expected, self.last, self.tree) =
                    (note.through + 1, Some(note.last), self.frozen.clone());
            }
            return;
        };
        let all_gone = first == note.through + 1;
        self.expected = first;
        self.previous = None;
        // A pruning that was cut short left some that the note does not speak for one by one.
        self.last = all_gone.then_some(note.last);
        self.tree = if all_gone { self.frozen.clone() } else { None };
    }

    /// Whether a tree that a segment states is that of the records that are gone.
    pub(super) fn is_pruned_root(&self, tree: &Tree) -> bool {
        self.pruned.is_none_or(|note| note.through != tree.size() || note.root == tree.root())
    }

    pub(super) fn told_of_pruning(&mut self, frame: &Frame<'_>) {
        if self.pruned.is_some_and(|note| note.event == frame.seq) {
            self.pruned_told = frame.payload.starts_with(br#"{"event":"pruned""#);
        }
    }

    pub(super) fn judge_pruned(&mut self) {
        if let Some(note) = self.pruned.filter(|_| !self.pruned_told) {
            self.file("pruned");
            let detail = format!("record {} does not tell of the pruning", note.event);
            self.problem(ProblemKind::PrunedInvalid, 0, note.event, note.event, detail);
        }
    }
}
