//! Byte offsets as the line and column an editor shows.

/// Where the lines of a text begin.
pub(crate) struct Lines<'t> {
    text: &'t str,
    starts: Vec<usize>,
}

impl<'t> Lines<'t> {
    pub(crate) fn of(text: &'t str) -> Lines<'t> {
        let after_newlines = text.match_indices('\n').map(|(at, _)| at + 1);
        Lines { text, starts: std::iter::once(0).chain(after_newlines).collect() }
    }

    /// Line and column, both from 1; the column counts characters.
    pub(crate) fn position(&self, offset: usize) -> (usize, usize) {
        let line = self.starts.partition_point(|start| *start <= offset);
        let start = line.checked_sub(1).and_then(|line| self.starts.get(line)).copied().unwrap_or(0);
        let before = self.text.get(start..offset.min(self.text.len())).unwrap_or_default();
        (line.max(1), before.chars().count() + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_is_what_an_editor_shows() {
        for (text, offset, expected) in [
            ("", 0, (1, 1)),
            ("abc", 2, (1, 3)),
            ("a\nbc", 1, (1, 2)),
            ("a\nbc", 2, (2, 1)),
            ("é\nü b", 6, (2, 3)),
            ("a\n", 2, (2, 1)),
            ("a", 99, (1, 2)),
        ] {
            assert_eq!(Lines::of(text).position(offset), expected, "{text:?} at {offset}");
        }
    }
}
