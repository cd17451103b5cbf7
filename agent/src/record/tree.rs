//! The Merkle tree over the records (RFC 6962, section 2.1): its root, and which parts of it prove what.
//!
//! Pure. Entry `n` of the tree is the 32-byte hash of record `n + 1`. A tree that grows is kept as the roots of its
//! complete subtrees, largest first, so that it costs a few hashes a record and no more memory than their number.
//! Proofs are made in one pass over the entries: first which ranges they need, then the root of each.

use std::ops::Range;

use super::digest::sha256;
use super::format::Hash;

/// The tree as far as it has grown.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tree {
    size: u64,
    /// Roots of the complete subtrees that the binary digits of `size` name, largest first.
    peaks: Vec<Hash>,
}

impl Tree {
    /// The tree of `size` entries with these peaks, 32 bytes each; `None` when it has another number of them.
    #[must_use]
    pub fn from_peaks(size: u64, bytes: &[u8]) -> Option<Self> {
        let (peaks, rest) = bytes.as_chunks::<32>();
        (rest.is_empty() && peaks.len() as u64 == u64::from(size.count_ones()))
            .then(|| Self { size, peaks: peaks.to_vec() })
    }

    #[must_use]
    pub fn peaks(&self) -> Vec<u8> {
        self.peaks.concat()
    }

    #[must_use]
    pub const fn size(&self) -> u64 {
        self.size
    }

    pub fn push(&mut self, entry: &Hash) {
        self.grow(0, leaf(entry));
    }

    /// Puts a complete subtree of 2^`level` entries at the end; `false` when none of that size can stand here.
    #[must_use]
    pub fn push_subtree(&mut self, level: u32, root: &Hash) -> bool {
        let fits = level < MOST_LEVELS && self.size.trailing_zeros() >= level;
        if fits {
            self.grow(level, *root);
        }
        fits
    }

    fn grow(&mut self, level: u32, mut hash: Hash) {
        // As in a binary counter: every complete subtree of the same size makes one of twice the size.
        for _ in 0..(self.size >> level).trailing_ones() {
            let Some(left) = self.peaks.pop() else { break };
            hash = node(&left, &hash);
        }
        self.peaks.push(hash);
        self.size += 1 << level;
    }

    #[must_use]
    pub fn root(&self) -> Hash {
        let mut peaks = self.peaks.iter().rev();
        let Some(smallest) = peaks.next() else { return sha256([]) };
        peaks.fold(*smallest, |right, left| node(left, &right))
    }
}

/// No tree has that many: records are numbered up to 2^62.
const MOST_LEVELS: u32 = 63;

/// A range of entries by the roots of the largest complete subtrees that lie in it: enough for every proof that begins
/// or ends at its ends, without the entries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stretch {
    next: u64,
    /// With the level of each: 2^level entries.
    subtrees: Vec<(u32, Hash)>,
}

impl Stretch {
    /// An empty one whose first entry will be entry `from`.
    #[must_use]
    pub const fn new(from: u64) -> Self {
        Self { next: from, subtrees: Vec::new() }
    }

    pub fn push(&mut self, entry: &Hash) {
        let (mut level, mut hash) = (0, leaf(entry));
        self.next += 1;
        // A subtree is complete when it ends at a multiple of its size and its left half is here too.
        while self.next.trailing_zeros() > level
            && let Some((_, left)) = self.subtrees.pop_if(|(last, _)| *last == level)
        {
            hash = node(&left, &hash);
            level += 1;
        }
        self.subtrees.push((level, hash));
    }

    /// Entries before its end.
    #[must_use]
    pub const fn end(&self) -> u64 {
        self.next
    }

    #[must_use]
    pub fn subtrees(&self) -> &[(u32, Hash)] {
        &self.subtrees
    }

    /// The levels of the subtrees that the entries `from..to` have.
    pub fn levels(from: u64, to: u64) -> impl Iterator<Item = u32> {
        let mut at = from;
        std::iter::from_fn(move || {
            let left = to.checked_sub(at).filter(|left| *left > 0)?;
            let level = at.trailing_zeros().min(u64::BITS - 1 - left.leading_zeros());
            at += 1 << level;
            Some(level)
        })
    }
}

fn leaf(entry: &Hash) -> Hash {
    sha256([&[0], entry])
}

fn node(left: &Hash, right: &Hash) -> Hash {
    sha256([&[1], left, right])
}

/// The entries whose subtrees' roots are a proof, in the proof's order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted(Vec<Range<u64>>);

/// That entry `index` is in the tree of `size` (section 2.1.1). Nothing when it has no such entry.
#[must_use]
pub fn inclusion(index: u64, size: u64) -> Wanted {
    let mut wanted = Vec::new();
    let (mut low, mut high) = (0, size);
    while index < size && high - low > 1 {
        let middle = low + split(high - low);
        if index < middle {
            wanted.push(middle..high);
            high = middle;
        } else {
            wanted.push(low..middle);
            low = middle;
        }
    }
    wanted.reverse();
    Wanted(wanted)
}

/// That the tree of `old` entries is the beginning of the tree of `size` (section 2.1.2).
#[must_use]
pub fn consistency(old: u64, size: u64) -> Wanted {
    let mut wanted = Vec::new();
    if old == 0 || old >= size {
        return Wanted(wanted);
    }
    let (mut low, mut high) = (0, size);
    // Whether what remains is the whole of the older tree, which whoever checks has already.
    let mut known = true;
    while old != high {
        let middle = low + split(high - low);
        if old <= middle {
            wanted.push(middle..high);
            high = middle;
        } else {
            wanted.push(low..middle);
            low = middle;
            known = false;
        }
    }
    if !known {
        wanted.push(low..high);
    }
    wanted.reverse();
    Wanted(wanted)
}

/// The largest power of two below `length`, which is above 1.
const fn split(length: u64) -> u64 {
    1 << (u64::BITS - 1 - (length - 1).leading_zeros())
}

/// Makes a proof from the entries, shown to it in their order.
pub struct Prover {
    /// Each wanted range, and how far its subtree has grown.
    parts: Vec<(Range<u64>, Tree)>,
    next: u64,
}

impl Prover {
    #[must_use]
    pub fn new(wanted: Wanted) -> Self {
        Self { parts: wanted.0.into_iter().map(|range| (range, Tree::default())).collect(), next: 0 }
    }

    pub fn push(&mut self, entry: &Hash) {
        for (range, tree) in &mut self.parts {
            if range.contains(&self.next) {
                tree.push(entry);
            }
        }
        self.next += 1;
    }

    /// The same for a complete subtree of 2^`level` entries. What a proof wants of its inside is missing then.
    pub fn push_subtree(&mut self, level: u32, root: &Hash) {
        let end = self.next.saturating_add(1 << level.min(MOST_LEVELS));
        for (range, tree) in &mut self.parts {
            if range.start <= self.next && end <= range.end {
                let _or_incomplete = tree.push_subtree(level, root);
            }
        }
        self.next = end;
    }

    /// The proof; `None` when not all entries were shown.
    #[must_use]
    pub fn finish(self) -> Option<Vec<Hash>> {
        let whole =
            |(range, tree): (Range<u64>, Tree)| (tree.size == range.end - range.start).then(|| tree.root());
        self.parts.into_iter().map(whole).collect()
    }
}

/// Whether `proof` shows that `entry` is entry `index` of the tree of `size` with this root (RFC 9162, 2.1.3.2).
#[must_use]
pub fn included(entry: &Hash, index: u64, size: u64, proof: &[Hash], root: &Hash) -> bool {
    if index >= size {
        return false;
    }
    let (mut at, mut last, mut hash) = (index, size - 1, leaf(entry));
    for step in proof {
        if last == 0 {
            return false;
        }
        if at & 1 == 1 || at == last {
            hash = node(step, &hash);
            while at & 1 == 0 && at != 0 {
                (at, last) = (at >> 1, last >> 1);
            }
        } else {
            hash = node(&hash, step);
        }
        (at, last) = (at >> 1, last >> 1);
    }
    last == 0 && hash == *root
}

/// Whether `proof` shows that the tree of `old` entries is the beginning of that of `size` (RFC 9162, 2.1.4.2).
#[must_use]
pub fn consistent(old: u64, old_root: &Hash, size: u64, root: &Hash, proof: &[Hash]) -> bool {
    if old == size {
        return proof.is_empty() && old_root == root;
    }
    if old == 0 || old > size {
        return old == 0 && proof.is_empty();
    }
    // The older tree is one complete subtree: its root is the beginning of the path.
    let first = if old.is_power_of_two() { Some(old_root) } else { None };
    let mut steps = first.into_iter().chain(proof);
    let Some(start) = steps.next() else { return false };
    let (mut at, mut last) = (old - 1, size - 1);
    while at & 1 == 1 {
        (at, last) = (at >> 1, last >> 1);
    }
    let (mut older, mut newer) = (*start, *start);
    for step in steps {
        if last == 0 {
            return false;
        }
        if at & 1 == 1 || at == last {
            older = node(step, &older);
            newer = node(step, &newer);
            while at & 1 == 0 && at != 0 {
                (at, last) = (at >> 1, last >> 1);
            }
        } else {
            newer = node(&newer, step);
        }
        (at, last) = (at >> 1, last >> 1);
    }
    last == 0 && older == *old_root && newer == *root
}

#[cfg(test)]
mod tests {
    use sha2::{Digest as _, Sha256};

    use super::super::format::hex;
    use super::*;

    /// The definition of section 2.1, word for word.
    fn root_of(leaves: &[Hash]) -> Hash {
        match leaves {
            [] => Sha256::digest([]).into(),
            [one] => *one,
            more => {
                let (left, right) = more.split_at(usize::try_from(split(more.len() as u64)).unwrap());
                node(&root_of(left), &root_of(right))
            }
        }
    }

    fn entries(count: u64) -> Vec<Hash> {
        (0..count).map(|n| Sha256::digest(n.to_le_bytes()).into()).collect()
    }

    fn grown(entries: &[Hash]) -> Tree {
        entries.iter().fold(Tree::default(), |mut tree, entry| {
            tree.push(entry);
            tree
        })
    }

    fn proof(wanted: Wanted, entries: &[Hash]) -> Vec<Hash> {
        let mut prover = Prover::new(wanted);
        entries.iter().for_each(|entry| prover.push(entry));
        prover.finish().unwrap()
    }

    #[test]
    fn roots_are_those_that_certificate_transparency_publishes() {
        // The eight leaves and roots of the reference implementation's tests.
        let leaves: [&[u8]; 8] = [
            b"",
            b"\0",
            b"\x10",
            b"\x20\x21",
            b"\x30\x31",
            b"\x40\x41\x42\x43",
            b"\x50\x51\x52\x53\x54\x55\x56\x57",
            b"\x60\x61\x62\x63\x64\x65\x66\x67\x68\x69\x6a\x6b\x6c\x6d\x6e\x6f",
        ];
        let hashes = leaves.map(|data| Sha256::new().chain_update([0]).chain_update(data).finalize().into());
        let expect = |count: usize, root: &str| assert_eq!(hex(&root_of(&hashes[..count])), root);
        expect(1, "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d");
        expect(2, "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125");
        expect(3, "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77");
        expect(5, "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4");
        expect(8, "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328");
    }

    #[test]
    fn a_tree_that_grows_has_the_root_of_its_definition_and_is_kept_by_its_peaks() {
        for count in 0..70 {
            let all = entries(count);
            let tree = grown(&all);
            assert_eq!(tree.root(), root_of(&all.iter().map(leaf).collect::<Vec<_>>()), "{count}");
            assert_eq!(Tree::from_peaks(count, &tree.peaks()), Some(tree.clone()));
            assert_eq!(Tree::from_peaks(count, &[tree.peaks(), vec![0; 32]].concat()), None);
            assert_eq!(Tree::from_peaks(count, &[tree.peaks(), vec![0]].concat()), None);
        }
    }

    #[test]
    fn stretches_make_the_tree_and_every_proof_that_begins_at_their_ends() {
        let all = entries(50);
        let at = |n: u64| usize::try_from(n).unwrap();
        for (first, second) in (0..20).flat_map(|first| (first..34).map(move |second| (first, second))) {
            let mut tree = Tree::default();
            for size in first.max(1)..50 {
                let mut prover = Prover::new(consistency(first, size));
                let mut late = Prover::new(inclusion(second, size));
                tree = Tree::default();
                for (from, to) in [(0, first), (first, second)] {
                    let mut stretch = Stretch::new(from);
                    all[at(from)..at(to)].iter().for_each(|entry| stretch.push(entry));
                    let levels = stretch.subtrees().iter().map(|(level, _)| *level).collect::<Vec<_>>();
                    assert_eq!((Stretch::levels(from, to).collect(), stretch.end()), (levels, to));
                    for (level, root) in stretch.subtrees() {
                        assert!(tree.push_subtree(*level, root));
                        prover.push_subtree(*level, root);
                        late.push_subtree(*level, root);
                    }
                }
                for entry in all.iter().take(at(size)).skip(at(second)) {
                    tree.push(entry);
                    prover.push(entry);
                    late.push(entry);
                }
                if size <= second {
                    continue;
                }
                let (old, root) = (grown(&all[..at(first)]).root(), grown(&all[..at(size)]).root());
                assert_eq!(tree.root(), root);
                assert!(consistent(first, &old, size, &root, &prover.finish().unwrap()));
                assert!(included(&all[at(second)], second, size, &late.finish().unwrap(), &root));
            }
            assert!(!tree.push_subtree(tree.size().trailing_zeros() + 1, &[0; 32]));
        }
    }

    #[test]
    fn every_inclusion_is_proved_and_of_nothing_else() {
        for size in 1..40 {
            let all = entries(size);
            let root = grown(&all).root();
            for (index, entry) in (0..).zip(&all) {
                let mut path = proof(inclusion(index, size), &all);
                assert!(included(entry, index, size, &path, &root), "{index} of {size}");
                assert!(!included(&[7; 32], index, size, &path, &root));
                assert!(size == 1 || !included(entry, (index + 1) % size, size, &path, &root));
                if let Some(step) = path.first_mut() {
                    step[0] ^= 1;
                    assert!(!included(entry, index, size, &path, &root));
                    path.pop();
                    assert!(!included(entry, index, size, &path, &root));
                }
            }
        }
    }

    #[test]
    fn every_beginning_is_proved_and_of_nothing_else() {
        for size in 1..40 {
            let all = entries(size);
            let root = grown(&all).root();
            for old in 1..=size {
                let old_root = grown(&all[..usize::try_from(old).unwrap()]).root();
                let mut path = proof(consistency(old, size), &all);
                assert!(consistent(old, &old_root, size, &root, &path), "{old} of {size}");
                assert!(!consistent(old, &[7; 32], size, &root, &path));
                assert!(!consistent(old, &old_root, size, &[7; 32], &path));
                if let Some(step) = path.first_mut() {
                    step[0] ^= 1;
                    assert!(!consistent(old, &old_root, size, &root, &path), "{old} of {size}");
                }
            }
        }
    }
}
