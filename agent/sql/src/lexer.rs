//! Counts what could exhaust a stack or the clock, before anything recursive sees the text. Never recurses, keeps no
//! tokens. Follows the server's lexer with `standard_conforming_strings = on` closely enough that text inside quotes
//! and comments is told from text outside; it decides nothing else.

use crate::refusal::{Refusal, Res};

const MAX_OPERATORS: u32 = 2_000;
const MAX_NESTING: u32 = 200;
const MAX_SET_OPERATIONS: u32 = 500;
const MAX_JOINS: u32 = 500;
/// Bytes outside literals and comments.
const MAX_TEXT: usize = 1 << 20;
/// Statements in one string.
const MAX_STATEMENTS: u32 = 5_000;

/// Refuses text that is too much to analyse. `junk_numbers` says that the server reads `0x1F` and `1_000` as a number
/// followed by a name (before 16) where this grammar reads one number: such text is refused there.
pub(crate) fn scan(sql: &str, junk_numbers: bool) -> Res<()> {
    if memchr_nul(sql) {
        return Err(Refusal::nul());
    }
    let mut scanner = Scanner { bytes: sql.as_bytes(), at: 0, junk_numbers, ..Scanner::default() };
    while scanner.at < scanner.bytes.len() {
        scanner.token()?;
    }
    Ok(())
}

/// Bytes of a name that count; the server forgets the rest.
const NAME_MAX: usize = 63;

/// Refuses names that a server whose database is not in UTF-8 would take for others: it cuts them by its own bytes, and
/// may make letters small that this grammar leaves as they are.
pub(crate) fn scan_names(sql: &str) -> Res<()> {
    if sql.is_ascii() && !sql.contains("&\"") {
        return Ok(());
    }
    let mut scanner = Scanner { bytes: sql.as_bytes(), ..Scanner::default() };
    while scanner.at < scanner.bytes.len() {
        scanner.token()?;
    }
    match scanner.ambiguous {
        true => Err(Refusal::unsupported("this name, in a database that is not in UTF-8,")),
        false => Ok(()),
    }
}

fn memchr_nul(sql: &str) -> bool {
    sql.as_bytes().contains(&0)
}

#[derive(Default)]
struct Scanner<'a> {
    bytes: &'a [u8],
    at: usize,
    junk_numbers: bool,
    operators: u32,
    nesting: u32,
    set_operations: u32,
    joins: u32,
    statements: u32,
    text: usize,
    /// A name was met that a server may read in another way.
    ambiguous: bool,
}

const OPERATOR: &[u8] = b"~!@#^&|`?+-*/%<>=";

impl Scanner<'_> {
    fn peek(&self, ahead: usize) -> u8 {
        self.bytes.get(self.at + ahead).copied().unwrap_or(0)
    }

    fn token(&mut self) -> Res<()> {
        let start = self.at;
        let byte = self.peek(0);
        match byte {
            b'\'' => return self.string(false),
            b'"' => return self.quoted(b'"'),
            b'-' if self.peek(1) == b'-' => return self.line_comment(),
            b'/' if self.peek(1) == b'*' => return self.block_comment(),
            b'$' if self.dollar_quote() => return Ok(()),
            b'(' | b'[' => {
                self.nesting += 1;
                self.at += 1;
            }
            b')' | b']' => {
                self.nesting = self.nesting.saturating_sub(1);
                self.at += 1;
            }
            b';' => {
                self.statements += 1;
                self.nesting = 0;
                self.at += 1;
            }
            b'0'..=b'9' => self.number()?,
            b'e' | b'E' if self.peek(1) == b'\'' => {
                self.at += 1;
                return self.string(true);
            }
            b'_' | b'a'..=b'z' | b'A'..=b'Z' | 0x80.. => self.word(),
            byte if OPERATOR.contains(&byte) => self.operator(),
            _ => self.at += 1,
        }
        self.text += self.at - start;
        self.check()
    }

    fn check(&self) -> Res<()> {
        let limits = [
            (self.operators > MAX_OPERATORS, "more than 2000 operators"),
            (self.nesting > MAX_NESTING, "more than 200 levels of nesting"),
            (self.set_operations > MAX_SET_OPERATIONS, "more than 500 set operations"),
            (self.joins > MAX_JOINS, "more than 500 joins"),
            (self.statements > MAX_STATEMENTS, "more than 5000 statements in one string"),
            (self.text > MAX_TEXT, "more than 1 MiB outside literals"),
        ];
        match limits.iter().find(|(over, _)| *over) {
            Some((_, what)) => Err(Refusal::complex(what)),
            None => Ok(()),
        }
    }

    /// At the opening quote. Two strings with a line break between are one, and stay in the mode of the first.
    fn string(&mut self, escapes: bool) -> Res<()> {
        loop {
            self.at += 1;
            loop {
                match self.bytes.get(self.at) {
                    None => return Ok(()),
                    Some(b'\\') if escapes => self.at += 2,
                    Some(b'\'') if self.peek(1) == b'\'' => self.at += 2,
                    Some(b'\'') => break,
                    Some(_) => self.at += 1,
                }
            }
            self.at += 1;
            let gap = self.bytes.get(self.at..).unwrap_or_default();
            let spaces = gap.iter().take_while(|byte| byte.is_ascii_whitespace() || **byte == 0x0b).count();
            let broken = gap.iter().take(spaces).any(|byte| matches!(byte, b'\n' | b'\r'));
            if !(escapes && broken && gap.get(spaces) == Some(&b'\'')) {
                return Ok(());
            }
            self.at += spaces;
        }
    }

    fn quoted(&mut self, quote: u8) -> Res<()> {
        let start = self.at;
        self.at += 1;
        while let Some(byte) = self.bytes.get(self.at) {
            self.at += 1;
            if *byte == quote {
                break;
            }
        }
        let name = self.bytes.get(start..self.at).unwrap_or_default();
        let before = self.bytes.get(..start).unwrap_or_default();
        // A doubled quote makes two of one name, and escapes say what it is made of.
        let pieces = before.ends_with(b"\"") || self.peek(0) == quote;
        let escaped = before.ends_with(b"U&") || before.ends_with(b"u&");
        self.ambiguous |= escaped || !name.is_ascii() && (pieces || name.len() > NAME_MAX + 2);
        self.text += self.at - start;
        self.check()
    }

    fn line_comment(&mut self) -> Res<()> {
        while !matches!(self.peek(0), b'\n' | b'\r') && self.at < self.bytes.len() {
            self.at += 1;
        }
        Ok(())
    }

    fn block_comment(&mut self) -> Res<()> {
        let mut depth = 0u32;
        while self.at < self.bytes.len() {
            match (self.peek(0), self.peek(1)) {
                (b'/', b'*') => {
                    depth += 1;
                    self.at += 2;
                }
                (b'*', b'/') => {
                    depth -= 1;
                    self.at += 2;
                    if depth == 0 {
                        break;
                    }
                }
                _ => self.at += 1,
            }
        }
        Ok(())
    }

    /// `$tag$ … $tag$`; a `$` that opens none (a parameter) is left to the caller.
    fn dollar_quote(&mut self) -> bool {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let is_tag = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_' || *byte >= 0x80;
        let tag = rest.iter().skip(1).take_while(|byte| is_tag(byte)).count();
        if rest.get(tag + 1) != Some(&b'$') || rest.get(1).is_some_and(u8::is_ascii_digit) {
            return false;
        }
        let (Some(open), Some(body)) = (rest.get(..tag + 2), rest.get(tag + 2..)) else { return false };
        let end = find(body, open).map_or(body.len(), |found| found + open.len());
        self.at += open.len() + end;
        true
    }

    fn number(&mut self) -> Res<()> {
        while self.peek(0).is_ascii_digit() {
            self.at += 1;
        }
        let exponent = matches!(self.peek(0), b'e' | b'E')
            && (self.peek(1).is_ascii_digit() || matches!(self.peek(1), b'+' | b'-'));
        if self.junk_numbers && !exponent && (self.peek(0).is_ascii_alphabetic() || self.peek(0) == b'_') {
            return Err(Refusal::unsupported("a number directly followed by a letter or underscore"));
        }
        if exponent {
            self.at += 2;
        }
        Ok(())
    }

    fn word(&mut self) {
        let start = self.at;
        while matches!(self.peek(0), b'_' | b'$' | b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | 0x80..) {
            self.at += 1;
        }
        let word = self.bytes.get(start..self.at).unwrap_or_default();
        if !word.is_ascii() {
            let text = String::from_utf8_lossy(word);
            let small = text.chars().all(|c| c.is_ascii() || c.is_lowercase());
            self.ambiguous |= !small || word.len() > NAME_MAX;
        }
        let is = |keyword: &str| word.eq_ignore_ascii_case(keyword.as_bytes());
        if is("union") || is("intersect") || is("except") {
            self.set_operations += 1;
        } else if is("join") {
            self.joins += 1;
        } else if is("not") || is("case") || is("is") || is("collate") {
            self.operators += 1;
        }
    }

    /// One run of operator characters; a comment may start inside.
    fn operator(&mut self) {
        self.operators += 1;
        self.at += 1;
        while OPERATOR.contains(&self.peek(0)) {
            if matches!((self.peek(0), self.peek(1)), (b'-', b'-') | (b'/', b'*')) {
                return;
            }
            self.at += 1;
        }
    }
}

/// Finds `needle` in `hay`, skipping by its first byte (always `$` here).
fn find(hay: &[u8], needle: &[u8]) -> Option<usize> {
    let first = *needle.first()?;
    let mut from = 0;
    while let Some(found) = hay.get(from..)?.iter().position(|byte| *byte == first) {
        if hay.get(from + found..)?.starts_with(needle) {
            return Some(from + found);
        }
        from += found + 1;
    }
    None
}

/// The name in a text that is read as one (`'public."Seq"'::regclass`), as the server reads it (`stringToQualifiedNameList`); none
/// for a number, or a name with letters beyond ASCII, which fold by the server's locale.
pub(crate) fn relation_name(text: &str) -> Option<(Option<String>, String)> {
    let mut parts = Vec::new();
    let mut rest = text.trim();
    loop {
        let part = match rest.strip_prefix('"') {
            Some(quoted) => {
                let mut part = String::new();
                let mut letters = quoted.char_indices().peekable();
                let end = loop {
                    match letters.next()? {
                        (_, '"') if letters.next_if(|(_, next)| *next == '"').is_some() => part.push('"'),
                        (at, '"') => break at + 1,
                        (_, letter) => part.push(letter),
                    }
                };
                rest = quoted.get(end..)?;
                part
            }
            None => {
                let end =
                    rest.find(|letter: char| !letter.is_ascii_alphanumeric() && !matches!(letter, '_' | '$'));
                let (part, behind) = rest.split_at_checked(end.unwrap_or(rest.len()))?;
                rest = behind;
                if part.starts_with(|letter: char| letter.is_ascii_digit() || letter == '$') {
                    return None;
                }
                part.to_ascii_lowercase()
            }
        };
        if part.is_empty() || part.len() > 63 {
            return None;
        }
        parts.push(part);
        rest = rest.trim_start();
        match rest.strip_prefix('.') {
            Some(behind) => rest = behind.trim_start(),
            None if rest.is_empty() => break,
            None => return None,
        }
    }
    let mut parts = parts.into_iter();
    match (parts.next(), parts.next(), parts.next()) {
        (Some(table), None, _) => Some((None, table)),
        (Some(schema), Some(table), None) => Some((Some(schema), table)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::refusal::RefusalKind;

    /// Any text is counted through, and the stricter reading of numbers lets nothing more pass.
    #[test]
    fn fuzz_any_text_is_counted_or_refused() {
        let seeds = [
            "SELECT 1 + 0x1F, 1_000, 'a''b', E'\\'', U&\"x\" FROM t AS a JOIN b USING (c) -- end",
            "WITH x AS (SELECT $q$ ' $q$ UNION ALL SELECT /* /* */ */ $1) SELECT x[1]::int FROM x;;",
        ];
        crate::mutate::fuzz(&seeds.map(|seed| seed.as_bytes().to_vec()), |input| {
            let text = String::from_utf8_lossy(input);
            let (loose, strict) = (scan(&text, false), scan(&text, true));
            assert!(strict.is_err() || loose.is_ok(), "refused only where less is refused: {text}");
        });
    }

    fn refused(sql: &str) -> bool {
        matches!(scan(sql, false), Err(refusal) if refusal.kind == RefusalKind::TooComplex)
    }

    #[test]
    fn what_is_too_much_outside_quotes_is_nothing_inside() {
        let plus = "1+".repeat(3000);
        assert!(refused(&format!("SELECT {plus}1")));
        for (open, close) in
            [("'", "'"), ("E'\\'", "'"), ("$q$", "$q$"), ("/*", "*/"), ("--", "\n"), ("\"", "\"")]
        {
            assert!(!refused(&format!("SELECT {open}{plus}{close}")), "{open}");
            assert!(refused(&format!("SELECT {open}{close} {plus}1")), "after {open}");
        }
    }

    #[test]
    fn quotes_end_where_the_server_ends_them() {
        let plus = "1+".repeat(3000);
        // A backslash is an ordinary character in a plain string and escapes in an E string, also when it is continued.
        assert!(refused(&format!("SELECT '\\' {plus} '")));
        assert!(!refused(&format!("SELECT E'\\' {plus} '")));
        assert!(!refused(&format!("SELECT E'a'\n'\\' {plus} '")));
        assert!(refused(&format!("SELECT 'a'\n'\\' {plus} '")));
        assert!(refused(&format!("SELECT a$1$ {plus} $1$")));
        assert!(refused(&format!("SELECT /* /* */ */ {plus}1")));
        assert!(!refused(&format!("SELECT /* /* */ {plus}1")));
    }

    #[test]
    fn each_limit_is_a_refusal() {
        assert!(refused(&format!("SELECT {}1{}", "(".repeat(300), ")".repeat(300))));
        assert!(refused(&"SELECT 1 UNION ALL ".repeat(600)));
        assert!(refused(&"a JOIN ".repeat(600)));
        assert!(refused(&"- ".repeat(3000)));
        assert!(refused(&"NOT ".repeat(3000)));
        assert!(refused(&"1,".repeat(600_000)));
        assert!(refused(&";".repeat(6000)));
        assert!(matches!(scan("SELECT 1\0", false), Err(refusal) if refusal.kind == RefusalKind::Nul));
    }

    #[test]
    fn names_that_another_encoding_reads_in_another_way_are_told() {
        let long = "é".repeat(32);
        let longest = "é".repeat(31);
        for sql in [
            format!("SELECT {long}"),
            format!("SELECT \"{long}\""),
            format!("SELECT \"{longest}\"\"{longest}\""),
            "SELECT É".to_owned(),
            "SELECT aÉ FROM t".to_owned(),
            "SELECT U&\"\\00e9\"".to_owned(),
        ] {
            assert!(scan_names(&sql).is_err(), "{sql}");
        }
        for sql in [
            format!("SELECT '{long}É' -- {long}"),
            format!("SELECT {longest}, \"{longest}\", \"É\", é, $É$ É $É$, U&'\\00e9' /* É */"),
            format!("SELECT {}", "a".repeat(99)),
        ] {
            assert!(scan_names(&sql).is_ok(), "{sql}");
        }
    }

    #[test]
    fn numbers_that_older_servers_split_are_refused_there() {
        for sql in ["SELECT 0x1F", "SELECT 1_000", "SELECT 1a", "SELECT 1.5e", "SELECT 0b1"] {
            assert!(scan(sql, true).is_err(), "{sql}");
        }
        for sql in ["SELECT 1e5, 1.5E-3, 1.5, a1_2", "SELECT 1", "SELECT x1"] {
            assert!(scan(sql, true).is_ok(), "{sql}");
        }
    }

    #[test]
    fn names_in_texts_are_read_as_the_server_reads_them() {
        let plain = |text: &str| {
            relation_name(text)
                .map(|(schema, table)| format!("{}{table}", schema.map_or(String::new(), |s| s + "|")))
        };
        for (text, name) in [
            ("some_seq", Some("some_seq")),
            (" Public . \"Some\"\"Seq\" ", Some("public|Some\"Seq")),
            ("\"a.b\"", Some("a.b")),
            ("16384", None),
            ("a.b.c", None),
            ("\"a", None),
            ("a b", None),
            ("", None),
            ("a.", None),
            ("é", None),
            ("$1", None),
        ] {
            assert_eq!(plain(text).as_deref(), name, "{text}");
        }
    }
}
