//! The tree that grows with the walk: what each segment states of it, and whether a checkpoint that was kept fits.
//!
//! A record enters the tree when the next one names it, so that the tree goes on, as the host made it, behind a record
//! that was changed or is the only one missing.

use super::super::super::Stamp;
use super::super::super::format::{Frame, Hash};
use super::super::super::tree::Tree;
use super::super::ProblemKind;
use super::Walk;

impl Walk<'_> {
    /// Puts the newest record into the tree, as `named` by what follows it.
    pub(super) fn enter_tree(&mut self, named: Option<Hash>) {
        if !std::mem::take(&mut self.owed) {
            return;
        }
        let Some((mut tree, named)) = self.tree.take().zip(named) else { return };
        tree.push(&named);
        self.meet(&tree);
        if !self.is_pruned_root(&tree) {
            let detail = "the records up to here are not those this host let go".to_owned();
            self.problem(ProblemKind::PrunedInvalid, 0, 1, tree.size(), detail);
        }
        self.tree = Some(tree);
    }

    /// Compares the tree with what the host signed over as many records.
    pub(super) fn meet(&mut self, tree: &Tree) {
        if let Some(since) = self.since.filter(|since| since.seq == tree.size()) {
            self.since_met = Some(since.root == tree.root());
        }
    }

    /// What a segment says about the tree before it.
    pub(super) fn stated_tree(&mut self, offset: u64, frame: &Frame<'_>) {
        let seq = frame.seq;
        let stated = Tree::from_peaks(seq - 1, frame.payload);
        match (&self.tree, stated) {
            (None, Some(stated)) if self.is_pruned_root(&stated) => self.tree = Some(stated),
            (Some(tree), Some(stated)) if *tree == stated => {}
            _ => {
                let detail = "the tree stated here is not that of the records before it".to_owned();
                self.problem(ProblemKind::TreeMismatch, offset, seq, seq, detail);
            }
        }
    }

    /// Goes on at record `next`. A single record that is not there is still named by the one after it.
    pub(super) fn lose(&mut self, next: u64) {
        self.enter_tree(self.last);
        if next == self.expected + 1 {
            self.owed = true;
        } else {
            self.tree = None;
        }
        self.expected = next;
    }

    /// Whether the journal goes on from the checkpoint that was kept.
    pub(super) fn judge_since(&mut self) {
        let Some(since) = self.since else { return };
        let detail = if self.journal != Some(since.journal) {
            "the checkpoint that was kept is of another journal of this host: this one was begun anew"
                .to_owned()
        } else if since.seq >= self.expected {
            format!(
                "the host signed {} records before {}, and here are {}: an older copy was put in place of the journal",
                since.seq,
                Stamp(since.time_ns),
                self.expected - 1
            )
        } else {
            match self.since_met {
                Some(true) => return,
                Some(false) => format!("the first {} records are not those the host signed then", since.seq),
                None => {
                    format!("records before {} are damaged, so the checkpoint cannot be compared", since.seq)
                }
            }
        };
        self.file("head");
        self.problem(ProblemKind::RolledBack, 0, since.seq.min(self.expected), since.seq, detail);
    }
}
