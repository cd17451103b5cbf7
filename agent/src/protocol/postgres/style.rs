//! Masks that say something: part of a value of a known shape, or a pseudonym.
//!
//! Pure: a value in, what is served out. A value that does not have the shape its mask is for is replaced whole, so
//! that a card number in a column of telephone numbers does not come out as one.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use chaperone_sql::{ColumnPath, MaskKind, Partial};
use ring::hmac;

use super::value::Change;
use crate::config::MaskStyle;

/// What replaces a text cell of which nothing is to be seen.
pub(super) const REDACTED: &[u8] = b"***";

/// How a text cell is replaced where its value matters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Style {
    Partial(Partial),
    Pseudonym(PseudonymKey),
    /// The same for every value.
    Fixed(Arc<str>),
}

/// The key of one identity's pseudonyms: two identities cannot compare what they were served.
#[derive(Clone)]
pub struct PseudonymKey(Arc<hmac::Key>, [u8; 8]);

impl PseudonymKey {
    /// The key of `identity`, under a secret of the host's.
    #[must_use]
    pub fn of(secret: &[u8], identity: &str) -> Self {
        let derive = |label: &[u8]| {
            let mut text = label.to_vec();
            text.extend_from_slice(identity.as_bytes());
            hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), &text)
        };
        let key = hmac::Key::new(hmac::HMAC_SHA256, derive(b"pseudonyms of ").as_ref());
        let name = derive(b"name of ").as_ref().first_chunk().copied().unwrap_or_default();
        Self(Arc::new(key), name)
    }

    /// How a label masks for the identity in a database: what the analysis has to know, and what takes a value's place.
    pub(super) fn style(
        &self,
        mask: &MaskStyle,
        place: &str,
        path: &ColumnPath,
    ) -> (MaskKind, Option<Change>) {
        match mask {
            MaskStyle::Redact => (MaskKind::Redact, None),
            MaskStyle::Null => (MaskKind::Null, None),
            MaskStyle::Partial(partial) => (MaskKind::Partial(*partial), None),
            MaskStyle::Pseudonym => (MaskKind::Pseudonym, None),
            MaskStyle::Fixed(text) => (MaskKind::Fixed, Some(Change::Fixed(text.as_str().into()))),
            MaskStyle::Bucket(bucket) => (MaskKind::Bucket, Some(Change::Bucket(*bucket))),
            MaskStyle::DateShift(most) => {
                (MaskKind::Shift, Some(Change::Shift(self.shift(place, path, *most))))
            }
        }
    }

    /// By how many days the dates of a column move: never none, at most so many, either way; the same for all its rows, so
    /// that the time between two dates stays what it is. In another database a column of that name may be anybody's to fill
    /// with dates they know.
    fn shift(&self, place: &str, path: &ColumnPath, most: u16) -> i32 {
        let tag = hmac::sign(&self.0, format!("days of {path} in {place}").as_bytes());
        let number = tag.as_ref().first_chunk().map_or(0, |bytes| u32::from_be_bytes(*bytes));
        let days = i32::try_from(number / 2 % u32::from(most.max(1))).unwrap_or(0) + 1;
        if number.is_multiple_of(2) { days } else { -days }
    }
}

/// By a name derived beside the key, so that neither comparing nor printing touches it.
impl PartialEq for PseudonymKey {
    fn eq(&self, other: &Self) -> bool {
        self.1 == other.1
    }
}

impl Eq for PseudonymKey {}

impl fmt::Debug for PseudonymKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PseudonymKey")
    }
}

impl Style {
    /// What is served in place of a value. Whether there is one is not said either.
    #[must_use]
    pub fn replace(&self, value: Option<&[u8]>) -> Cow<'static, [u8]> {
        if let Self::Fixed(text) = self {
            return Cow::Owned(text.as_bytes().to_vec());
        }
        let Some(value) = value else { return Cow::Borrowed(REDACTED) };
        let replaced = match self {
            Self::Partial(partial) => std::str::from_utf8(value).ok().and_then(|text| part(*partial, text)),
            Self::Fixed(_) => None,
            Self::Pseudonym(key) => {
                let tag = hmac::sign(&key.0, value);
                Some(format!("p-{}", crate::hex(tag.as_ref().get(..10).unwrap_or_default())))
            }
        };
        replaced.map_or(Cow::Borrowed(REDACTED), |text| Cow::Owned(text.into_bytes()))
    }
}

/// `None` when the value does not have the shape.
fn part(partial: Partial, value: &str) -> Option<String> {
    let value = value.trim_end_matches(' ');
    match partial {
        Partial::Card => last_digits(value, |c| matches!(c, ' ' | '-'), 12..=19, 4),
        Partial::Phone => {
            let plain = |c| matches!(c, ' ' | '-' | '.' | '/' | '(' | ')');
            match value.strip_prefix('+') {
                Some(rest) => last_digits(rest, plain, 7..=15, 2).map(|masked| format!("+{masked}")),
                None => last_digits(value, plain, 7..=15, 2),
            }
        }
        Partial::Email => email(value),
        Partial::Iban => iban(value),
    }
}

/// All digits but the last few are hidden; between them only `separator`s may stand.
fn last_digits(
    value: &str,
    separator: impl Fn(char) -> bool,
    length: std::ops::RangeInclusive<usize>,
    shown: usize,
) -> Option<String> {
    let digits = value.chars().filter(char::is_ascii_digit).count();
    let shape = value.chars().all(|c| c.is_ascii_digit() || separator(c));
    if !shape || !length.contains(&digits) {
        return None;
    }
    let mut left = digits;
    let hide = |c: char| {
        if !c.is_ascii_digit() {
            return c;
        }
        left -= 1;
        if left < shown { c } else { '*' }
    };
    Some(value.chars().map(hide).collect())
}

/// The first letter, and where it is.
fn email(value: &str) -> Option<String> {
    let (local, domain) = value.split_once('@')?;
    let host = |part: &str| !part.is_empty() && part.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
    if local.is_empty() || !local.chars().all(|c| c.is_ascii_graphic()) || local.contains('"') {
        return None;
    }
    if !domain.contains('.') || !domain.split('.').all(host) {
        return None;
    }
    // Of a single letter, the first would be all of it.
    let first = local.get(..1).filter(|_| local.len() > 1).unwrap_or_default();
    Some(format!("{first}***@{domain}"))
}

/// The country and the last four characters.
fn iban(value: &str) -> Option<String> {
    let plain: Vec<char> = value.chars().filter(|c| *c != ' ').collect();
    let shape = |at: usize, c: &char| match at {
        0 | 1 => c.is_ascii_uppercase(),
        2 | 3 => c.is_ascii_digit(),
        _ => c.is_ascii_uppercase() || c.is_ascii_digit(),
    };
    if !(15..=34).contains(&plain.len()) || !plain.iter().enumerate().all(|(at, c)| shape(at, c)) {
        return None;
    }
    let mut at = 0;
    let hide = |c: char| {
        if c == ' ' {
            return c;
        }
        at += 1;
        if at <= 2 || at > plain.len() - 4 { c } else { '*' }
    };
    Some(value.chars().map(hide).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn masked(partial: Partial, value: &str) -> String {
        let masked = Style::Partial(partial).replace(Some(value.as_bytes()));
        String::from_utf8(masked.into_owned()).unwrap()
    }

    #[test]
    fn what_has_the_shape_keeps_the_part_that_may_be_seen() {
        let check = |partial, value, expect| assert_eq!(masked(partial, value), expect, "{value}");
        check(Partial::Card, "4111111111111111", "************1111");
        check(Partial::Card, "3782 822463 10005", "**** ****** *0005");
        check(Partial::Card, "4111-1111-1111-1111  ", "****-****-****-1111");
        check(Partial::Email, "ada.quill@example.com", "a***@example.com");
        check(Partial::Email, "a@example.com", "***@example.com");
        check(Partial::Phone, "+44 20 7946 0958", "+** ** **** **58");
        check(Partial::Phone, "(030) 123456", "(***) ****56");
        check(Partial::Iban, "GB82 WEST 1234 5698 7654 32", "GB** **** **** **** **54 32");
        check(Partial::Iban, "DE89370400440532013000", "DE****************3000");
    }

    #[test]
    fn what_does_not_is_replaced_whole() {
        let values = [
            "",
            "secret",
            "12345",
            "4111111111111111x",
            "ada@",
            "@example.com",
            "ada@localhost",
            "a@b@c.example",
            "ada quill@example.com",
            "GB82",
            "gb82west12345698765432",
            "4111 1111 1111 1111 1111 1111",
            "é@example.com",
            "ada.quill@exämple.com",
            "\u{0}4111111111111111",
        ];
        for value in values {
            for partial in [Partial::Card, Partial::Email, Partial::Phone, Partial::Iban] {
                assert_eq!(masked(partial, value), "***", "{partial:?}: {value:?}");
            }
        }
        // One kind in a column of another.
        assert_eq!(masked(Partial::Email, "4111111111111111"), "***");
        assert_eq!(masked(Partial::Phone, "4111111111111111"), "***");
        assert_eq!(Style::Partial(Partial::Card).replace(None), REDACTED);
        assert_eq!(Style::Partial(Partial::Card).replace(Some(b"\xff")), REDACTED);
    }

    #[test]
    fn dates_are_moved_by_other_days_in_another_database() {
        let path = ColumnPath { schema: "public".into(), table: "customers".into(), column: "born".into() };
        let key = PseudonymKey::of(b"a secret of the host", "bot");
        let shift = |place: &str| key.style(&MaskStyle::DateShift(10_000), place, &path).1;
        assert_eq!(shift("shop/shop"), shift("shop/shop"));
        assert_ne!(shift("shop/shop"), shift("shop/scratch"));
        assert_ne!(shift("shop/shop"), shift("other/shop"));
    }

    #[test]
    fn a_pseudonym_is_the_same_for_the_same_value_and_identity_only() {
        let of = |identity: &str, value: &[u8]| {
            Style::Pseudonym(PseudonymKey::of(b"a secret of the host", identity)).replace(Some(value))
        };
        assert_eq!(of("bot", b"ada"), of("bot", b"ada"));
        assert_ne!(of("bot", b"ada"), of("bot", b"bao"));
        assert_ne!(of("bot", b"ada"), of("other", b"ada"));
        assert_ne!(PseudonymKey::of(b"a", "bot"), PseudonymKey::of(b"b", "bot"));
        assert_eq!(of("bot", b"ada").len(), 22);
    }
}
