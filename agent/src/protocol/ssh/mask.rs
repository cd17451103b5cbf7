//! Masking of what programs print: bytes that match a pattern are replaced by as many `*`, wherever packets are cut.
//!
//! Each byte is looked at twice: as it is, and as the text that a terminal would show, without the escape sequences
//! between its letters. What may be the beginning of a match waits for what follows. A pause, or too many control
//! sequences in the middle, lets it go: what comes then is still known to be the rest of a match, and hidden. This is damage
//! limitation, no boundary: whoever may run a program can have it encode what it prints.

use std::sync::Arc;

use bytes::BytesMut;
use regex_automata::dfa::{Automaton, StartKind, dense};
use regex_automata::util::{start, syntax};
use regex_automata::{Anchored, nfa::thompson};
use regex_syntax::hir::Look;

/// Longest text a pattern may match.
pub(super) const MATCH_MAX: usize = 256;
const RULES_MAX: usize = 64;
/// Size of a pattern's automaton.
const AUTOMATON_MAX: usize = 4 << 20;
/// What may wait for the rest of a match, control sequences included.
const WAITING_MAX: usize = 8 << 10;
/// Of what is settled, as much is kept: a match may reach back, and a word boundary one byte further.
const CONTEXT: usize = MATCH_MAX + 1;

#[derive(Debug, thiserror::Error)]
pub enum MaskError {
    #[error("`{pattern}` is no pattern: {why}")]
    Pattern { pattern: String, why: String },
    #[error("`{0}` can match more than {MATCH_MAX} bytes; give every repetition an upper bound")]
    Unbounded(String),
    #[error("`{0}` can match nothing at all")]
    Empty(String),
    #[error("`{0}` looks at the beginning or the end of a line or of everything; only \\b is known here")]
    Look(String),
    #[error("more than {RULES_MAX} patterns")]
    TooMany,
}

struct Rule {
    name: String,
    finder: regex::bytes::Regex,
    /// Anchored at its start: tells whether something may still become a match.
    automaton: dense::DFA<Vec<u32>>,
}

/// The patterns of a target.
pub(super) struct Masks(Vec<Arc<Rule>>);

impl Masks {
    /// From names and patterns. Patterns are about bytes: classes such as `\\w` mean ASCII.
    ///
    /// # Errors
    /// When a pattern is none, or has no bound.
    pub(super) fn new<'a>(rules: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<Self, MaskError> {
        let rules = rules.into_iter().map(|(name, pattern)| Rule::new(name, pattern).map(Arc::new));
        let rules = rules.collect::<Result<Vec<_>, _>>()?;
        if rules.len() > RULES_MAX { Err(MaskError::TooMany) } else { Ok(Self(rules)) }
    }

    /// Those that are not shown to somebody, if any are left.
    pub(super) fn without(&self, shown: impl Fn(&str) -> bool) -> Option<Self> {
        let left: Vec<Arc<Rule>> = self.0.iter().filter(|rule| !shown(&rule.name)).cloned().collect();
        (!left.is_empty()).then_some(Self(left))
    }
}

impl Rule {
    fn new(name: &str, pattern: &str) -> Result<Self, MaskError> {
        let bad = |why: String| MaskError::Pattern { pattern: pattern.to_owned(), why };
        let hir = regex_syntax::ParserBuilder::new()
            .unicode(false)
            .utf8(false)
            .build()
            .parse(pattern)
            .map_err(|error| bad(error.to_string()))?;
        let properties = hir.properties();
        if properties.maximum_len().is_none_or(|most| most > MATCH_MAX) {
            return Err(MaskError::Unbounded(pattern.to_owned()));
        }
        if properties.minimum_len() == Some(0) {
            return Err(MaskError::Empty(pattern.to_owned()));
        }
        let boundary = |look| matches!(look, Look::WordAscii | Look::WordAsciiNegate);
        if !properties.look_set().iter().all(boundary) {
            return Err(MaskError::Look(pattern.to_owned()));
        }
        let finder = regex::bytes::RegexBuilder::new(pattern)
            .unicode(false)
            .build()
            .map_err(|error| bad(error.to_string()))?;
        let automaton = dense::Builder::new()
            .syntax(syntax::Config::new().unicode(false).utf8(false))
            .thompson(thompson::Config::new().utf8(false))
            .configure(
                dense::Config::new()
                    .start_kind(StartKind::Anchored)
                    .dfa_size_limit(Some(AUTOMATON_MAX))
                    .determinize_size_limit(Some(AUTOMATON_MAX)),
            )
            .build(pattern)
            .map_err(|error| bad(error.to_string()))?;
        Ok(Self { name: name.to_owned(), finder, automaton })
    }

    /// Whether what begins at `at` may become a match, or a longer one, with what follows.
    fn may_begin(&self, text: &[u8], at: usize) -> bool {
        let before = at.checked_sub(1).and_then(|before| text.get(before)).copied();
        let start = start::Config::new().anchored(Anchored::Yes).look_behind(before);
        // It refuses only what is not asked of it: other anchors, and bytes that no pattern here gives up at.
        let Ok(mut state) = self.automaton.start_state(&start) else { return true };
        for byte in text.get(at..).unwrap_or_default() {
            state = self.automaton.next_state(state, *byte);
            if self.automaton.is_dead_state(state) {
                return false;
            }
        }
        // A match is known one byte late. It is complete when nothing can follow, or nothing but that knowledge,
        // whatever the byte: one that makes it no match (a word boundary) has to be waited for.
        let after = |state, byte| {
            let next = self.automaton.next_state(state, byte);
            (!self.automaton.is_dead_state(next)).then_some(next)
        };
        let is_last = |state| {
            self.automaton.is_match_state(state) && (0..=u8::MAX).all(|byte| after(state, byte).is_none())
        };
        !is_last(state) && !(0..=u8::MAX).all(|byte| after(state, byte).is_some_and(is_last))
    }
}

/// One way to look at the stream: its bytes, or the text in it.
#[derive(Default)]
struct Lane {
    text: Vec<u8>,
    /// Where in the stream each byte of `text` is.
    places: Vec<u64>,
    /// For each rule, where in `text` the search goes on: behind its last settled match.
    from: Vec<usize>,
    /// Matches of each rule that are settled.
    found: Vec<u64>,
    /// Something was cut off before `text`.
    cut: bool,
}

impl Lane {
    fn push(&mut self, byte: u8, place: u64) {
        self.text.push(byte);
        self.places.push(place);
    }

    fn place(&self, at: usize) -> u64 {
        self.places.get(at).copied().unwrap_or(u64::MAX)
    }

    /// Every match as places in the stream, and the first place that may begin one, `u64::MAX` if none.
    fn scan(&mut self, rules: &[Arc<Rule>], mut hide: impl FnMut(u64)) -> u64 {
        self.from.resize(rules.len(), 0);
        let mut open = self.text.len();
        for (rule, from) in rules.iter().zip(&mut self.from) {
            // The first byte is there for word boundaries only.
            let mut at = (*from).max(usize::from(self.cut));
            while let Some(found) = rule.finder.find_at(&self.text, at) {
                self.places.get(found.range()).unwrap_or_default().iter().for_each(|place| hide(*place));
                at = found.end();
            }
            let last = self.text.len().saturating_sub(MATCH_MAX).max(*from);
            let begins = (last..open).find(|begin| rule.may_begin(&self.text, *begin));
            open = begins.unwrap_or(open);
        }
        self.place(open)
    }

    /// What lies before `served` in the stream is out: matches in it are settled, and little of it is kept.
    fn settle(&mut self, rules: &[Arc<Rule>], served: u64, how: Release) {
        let out = self.places.partition_point(|place| *place < served);
        self.found.resize(rules.len(), 0);
        for ((rule, from), found) in rules.iter().zip(&mut self.from).zip(&mut self.found) {
            let mut at = (*from).max(usize::from(self.cut));
            while let Some(hit) = rule.finder.find_at(&self.text, at).filter(|hit| hit.end() <= out) {
                // What follows may make it longer.
                if how != Release::End && rule.may_begin(&self.text, hit.start()) {
                    break;
                }
                at = hit.end();
                *from = at;
                *found += 1;
            }
        }
        let gone = out.saturating_sub(CONTEXT);
        if gone > 0 {
            self.text.drain(..gone);
            self.places.drain(..gone);
            self.from.iter_mut().for_each(|from| *from = from.saturating_sub(gone));
            self.cut = true;
        }
    }
}

/// What the terminal's parser finds to be text.
struct Printed<'a> {
    lane: &'a mut Lane,
    place: u64,
}

impl vte::Perform for Printed<'_> {
    fn print(&mut self, c: char) {
        if c == char::REPLACEMENT_CHARACTER {
            return;
        }
        let mut buffer = [0; 4];
        let bytes = c.encode_utf8(&mut buffer).as_bytes();
        let first = (self.place + 1).saturating_sub(bytes.len() as u64);
        for (byte, place) in bytes.iter().zip(first..) {
            self.lane.push(*byte, place);
        }
    }

    fn execute(&mut self, byte: u8) {
        if matches!(byte, b'\n' | b'\r' | b'\t') {
            self.lane.push(byte, self.place);
        }
    }
}

/// Masks one stream of one program.
pub(super) struct Filter {
    masks: Arc<Masks>,
    parser: vte::Parser,
    raw: Lane,
    shown: Lane,
    /// Came in, and is not out yet.
    waiting: BytesMut,
    /// How much of the stream is out.
    served: u64,
    came: u64,
}

impl Filter {
    pub(super) fn new(masks: Arc<Masks>) -> Self {
        Self {
            masks,
            parser: vte::Parser::new(),
            raw: Lane::default(),
            shown: Lane::default(),
            waiting: BytesMut::new(),
            served: 0,
            came: 0,
        }
    }

    /// Bytes of the program; returns what may be served now.
    pub(super) fn push(&mut self, bytes: &[u8]) -> BytesMut {
        for byte in bytes {
            self.raw.push(*byte, self.came);
            let printed = &mut Printed { lane: &mut self.shown, place: self.came };
            self.parser.advance(printed, std::slice::from_ref(byte));
            self.came += 1;
        }
        self.waiting.extend_from_slice(bytes);
        self.release(Release::Settled)
    }

    /// Nothing came for a while: returns all that waits.
    pub(super) fn flush(&mut self) -> BytesMut {
        self.release(Release::Pause)
    }

    /// Nothing will come any more: returns all that waits.
    pub(super) fn finish(&mut self) -> BytesMut {
        self.release(Release::End)
    }

    /// Bytes that ever came.
    pub(super) fn came(&self) -> u64 {
        self.came
    }

    pub(super) fn waits(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// How often each rule matched.
    pub(super) fn found(&self) -> impl Iterator<Item = (&str, u64)> {
        let of = |lane: &Lane, at: usize| lane.found.get(at).copied().unwrap_or_default();
        let names = self.masks.0.iter().map(|rule| rule.name.as_str());
        let counted = move |(at, name)| (name, of(&self.raw, at).max(of(&self.shown, at)));
        names.enumerate().map(counted).filter(|(_, count)| *count > 0)
    }

    fn release(&mut self, how: Release) -> BytesMut {
        let (rules, served) = (&self.masks.0, self.served);
        let mut hidden = vec![false; self.waiting.len()];
        let mut hide = |place: u64| {
            let at = place.checked_sub(served).and_then(|at| usize::try_from(at).ok());
            if let Some(flag) = at.and_then(|at| hidden.get_mut(at)) {
                *flag = true;
            }
        };
        let open = self.raw.scan(rules, &mut hide).min(self.shown.scan(rules, &mut hide));
        let settled = if how == Release::Settled { open.min(self.came) } else { self.came };
        let least = self.came.saturating_sub(WAITING_MAX as u64);
        let end = settled.max(least).max(served);
        let count = usize::try_from(end - served).unwrap_or(usize::MAX).min(self.waiting.len());
        let mut out = self.waiting.split_to(count);
        for (byte, _) in out.iter_mut().zip(hidden).filter(|(_, hidden)| *hidden) {
            *byte = b'*';
        }
        self.served = end;
        self.raw.settle(rules, end, how);
        self.shown.settle(rules, end, how);
        out
    }
}

/// Why bytes are let go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Release {
    Settled,
    Pause,
    End,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RULES: [(&str, &str); 3] =
        [("key", "AKIA[0-9A-Z]{16}"), ("card", r"\b[0-9]{13,16}\b"), ("short", "a(bcd)?")];

    fn filter() -> Filter {
        Filter::new(Arc::new(Masks::new(RULES).unwrap()))
    }

    fn masked(parts: &[&[u8]]) -> String {
        let mut filter = filter();
        let mut out = Vec::new();
        for part in parts {
            out.extend_from_slice(&filter.push(part));
        }
        out.extend_from_slice(&filter.finish());
        String::from_utf8_lossy(&out).into_owned()
    }

    #[test]
    fn a_match_is_hidden_and_nothing_else() {
        for (text, expect) in [
            ("no secret\n", "no secret\n".replace('a', "*")),
            ("k=AKIA0123456789ABCDEF;", format!("k={};", "*".repeat(20))),
            ("4111111111111111\n", format!("{}\n", "*".repeat(16))),
            ("41111111111111112\n", "41111111111111112\n".to_owned()),
            ("x4111111111111111\n", "x4111111111111111\n".to_owned()),
            ("abcd abc", "**** *bc".to_owned()),
        ] {
            assert_eq!(masked(&[text.as_bytes()]), expect, "{text}");
        }
    }

    #[test]
    fn escape_sequences_do_not_split_a_match() {
        for text in [
            "AKIA\x1b[01;31m\x1b[K01234567\x1b[m89ABCDEF",
            "AKIA\x1b[?25l0123\x0045678\x079ABCDEF",
            "\x1b]0;AKIA0123456789ABCDEF\x07",
            "AKIA\x1b]8;;http://x/\x1b\\0123456789ABCDEF",
        ] {
            for cut in 1..text.len() {
                let (one, two) = text.as_bytes().split_at(cut);
                let out = masked(&[one, two]);
                assert_eq!(out.len(), text.len());
                assert_eq!(out.matches('*').count(), 20, "{text:?} cut at {cut}: {out:?}");
            }
        }
    }

    #[test]
    fn what_cannot_match_does_not_wait_and_what_can_does() {
        let mut filter = filter();
        assert_eq!(&filter.push(b"$ ")[..], b"$ ");
        assert_eq!(&filter.push(b"x AKI")[..], b"x ");
        assert!(filter.waits());
        assert_eq!(&filter.push(b"N\n")[..], b"AKIN\n");
        assert_eq!(&filter.push(b"AKIA0123456789ABCDEF")[..], [b'*'; 20]);
        assert!(!filter.waits(), "a complete match waits for nothing");
    }

    #[test]
    fn what_follows_can_make_it_no_match() {
        let mut filter = filter();
        assert!(filter.push(b"4111111111111111").is_empty());
        assert_eq!(&filter.push(b"x\n")[..], b"4111111111111111x\n");
        assert!(filter.push(b"4111111111111111").is_empty());
        assert_eq!(&filter.push(b"\n")[..], b"****************\n");
    }

    #[test]
    fn after_a_pause_the_rest_of_a_match_is_still_hidden() {
        let mut filter = filter();
        assert!(filter.push(b"AKIA0123").is_empty());
        assert_eq!(&filter.flush()[..], b"AKIA0123");
        assert_eq!(&filter.push(b"456789ABCDEF\n")[..], b"************\n");
        assert_eq!(filter.found().collect::<Vec<_>>(), [("key", 1)]);
        assert!(filter.push(b"411111111111").is_empty());
        filter.flush();
        let long = filter.push(&b"\x1b[m".repeat(4000));
        assert!(long.len() + WAITING_MAX >= 12_000, "{} bytes wait", 12_000 - long.len());
        assert_eq!(filter.push(b"1111\n").iter().filter(|byte| **byte == b'*').count(), 4);
    }

    #[test]
    fn patterns_without_a_bound_are_refused() {
        for pattern in ["a+", "(", "a{0,4}", "^abc", "abc$", "a{300}", r"\d*x"] {
            assert!(Masks::new([("x", pattern)]).is_err(), "{pattern}");
        }
        assert!(Masks::new(std::iter::repeat_n(("x", "abc"), RULES_MAX + 1)).is_err());
    }

    proptest! {
        /// However the stream is cut, it comes out as if it had come whole.
        #[test]
        fn packets_make_no_difference(
            pieces in prop::collection::vec(
                prop::sample::select(vec![
                    "AKIA", "AKIA0123456789ABCDEF", "0123", "4111111111111111", "\x1b[1m", "\n", " ", "abcd", "a",
                    "\u{e9}", "\x1b]x\x07", "9", "Z", "\0",
                ]), 0..40),
            cuts in prop::collection::vec(1usize..40, 1..200)
        ) {
            let text = pieces.concat().into_bytes();
            let whole = masked(&[&text]);
            let mut rest = text.as_slice();
            let mut parts = Vec::new();
            for cut in cuts {
                let (part, after) = rest.split_at(cut.min(rest.len()));
                parts.push(part);
                rest = after;
            }
            parts.push(rest);
            prop_assert_eq!(masked(&parts), whole);
        }
    }
}
