//! Which of the bytes that are served stay out of the record, because policy records their statement without its rows.

use std::ops::Range;

/// Places in what was served, in their order and apart from each other.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Unrecorded(Vec<Range<usize>>);

impl Unrecorded {
    pub(super) fn add(&mut self, range: Range<usize>) {
        match self.0.last_mut() {
            Some(last) if last.end == range.start => last.end = range.end,
            _ if range.is_empty() => {}
            _ => self.0.push(range),
        }
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many of the first `at` bytes are recorded.
    #[must_use]
    pub fn recorded_before(&self, at: usize) -> usize {
        let left_out = |range: &Range<usize>| range.end.min(at).saturating_sub(range.start);
        at - self.0.iter().map(left_out).sum::<usize>()
    }

    /// Appends the bytes of `served` that are recorded to `kept`.
    pub fn keep(&self, served: &[u8], kept: &mut Vec<u8>) {
        let mut from = 0;
        for range in &self.0 {
            kept.extend_from_slice(served.get(from..range.start).unwrap_or_default());
            from = range.end;
        }
        kept.extend_from_slice(served.get(from..).unwrap_or_default());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stays_out_is_left_out_and_counted() {
        let mut out = Unrecorded::default();
        for range in [0..0, 2..4, 4..5, 7..9] {
            out.add(range);
        }
        let mut kept = Vec::new();
        out.keep(b"abXXXcdXXe", &mut kept);
        assert_eq!(kept, b"abcde");
        assert_eq!([0, 2, 3, 5, 8, 10].map(|at| out.recorded_before(at)), [0, 2, 2, 2, 4, 5]);
    }
}
