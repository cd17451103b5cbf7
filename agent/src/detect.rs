//! What a text looks like: card numbers, IBANs, e-mail addresses, social security numbers, tokens and private keys.
//!
//! A second net and a help for labelling, never the promise: a value that was reversed, cut or encoded looks like
//! nothing. Pure and in one pass with a little looking back: no regular expressions, no memory, no backtracking. What
//! has a checksum is believed by its checksum.

/// What was recognised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// 13 to 19 digits with an issuer's prefix and length, and Luhn's check digit.
    Card,
    /// A country's length, and mod 97.
    Iban,
    Email,
    /// A US social security number with its dashes, in the ranges that are given out.
    Ssn,
    /// An international telephone number: `+`, 8 to 15 digits.
    Phone,
    /// A JSON web token.
    Jwt,
    /// A key or token of a known service, by its prefix and length.
    Token,
    PrivateKey,
}

impl Kind {
    pub const ALL: [Self; 8] = [
        Self::Card,
        Self::Iban,
        Self::Email,
        Self::Ssn,
        Self::Phone,
        Self::Jwt,
        Self::Token,
        Self::PrivateKey,
    ];

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Card => "card number",
            Self::Iban => "IBAN",
            Self::Email => "e-mail address",
            Self::Ssn => "US social security number",
            Self::Phone => "telephone number",
            Self::Jwt => "web token",
            Self::Token => "access token",
            Self::PrivateKey => "private key",
        }
    }

    /// One of these is enough; of the others, single values happen by chance.
    #[must_use]
    pub fn is_secret(self) -> bool {
        matches!(self, Self::Jwt | Self::Token | Self::PrivateKey)
    }
}

/// Longer texts are looked at so far.
pub const LOOKED_AT: usize = 64 << 10;

/// The first thing that is recognised in `text`, as far as it is looked at.
#[must_use]
pub fn look(text: &[u8]) -> Option<Kind> {
    find(text.get(..LOOKED_AT).unwrap_or(text))
}

/// The first thing that is recognised in all of `text`.
#[must_use]
pub fn find(text: &[u8]) -> Option<Kind> {
    let mut at = 0;
    let mut before = b' ';
    while let Some(&byte) = text.get(at) {
        let rest = text.get(at..).unwrap_or_default();
        // Only where a word can begin; an address is found by its `@`.
        let fresh = !before.is_ascii_alphanumeric();
        let found = match byte {
            b'@' => email(text, at).then_some(Kind::Email),
            b'-' => private_key(rest).then_some(Kind::PrivateKey),
            b'+' if fresh => phone(rest).then_some(Kind::Phone),
            b'0'..=b'9' if fresh && before != b'.' && before != b',' => number(rest, before),
            b'A'..=b'Z' | b'a'..=b'z' if fresh => word(rest),
            _ => None,
        };
        if found.is_some() {
            return found;
        }
        // The rest of a word or number begins nothing.
        let step = match byte {
            b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' => {
                rest.iter().take_while(|byte| byte.is_ascii_alphanumeric()).count()
            }
            _ => 1,
        };
        at += step.max(1);
        before = text.get(at - 1).copied().unwrap_or(b' ');
    }
    None
}

/// A number that begins here: a social security number, or a card's, with blanks or dashes between groups or none.
fn number(rest: &[u8], before: u8) -> Option<Kind> {
    if ssn(rest) && before != b'-' {
        return Some(Kind::Ssn);
    }
    let mut digits = [0u8; 19];
    let (mut count, mut gaps, mut last) = (0, 0, 0);
    let mut separator = None;
    for (at, byte) in rest.iter().enumerate().take(24) {
        match byte {
            b'0'..=b'9' => {
                *digits.get_mut(count)? = byte - b'0';
                count += 1;
                last = at + 1;
            }
            b' ' | b'-' if separator.is_none_or(|known| known == *byte) && at == last => {
                separator = Some(*byte);
                gaps += 1;
            }
            _ => break,
        }
    }
    // Grouped as on the card, or not at all.
    let ends =
        rest.get(last).is_none_or(|byte| !byte.is_ascii_alphanumeric() && !matches!(byte, b'.' | b'_'));
    let trailing = usize::from(rest.get(last).is_some_and(|byte| Some(*byte) == separator));
    let digits = digits.get(..count)?;
    (ends && gaps - trailing.min(gaps) <= 4 && issued(digits) && luhn(digits)).then_some(Kind::Card)
}

/// Prefixes and lengths that card schemes use (ISO/IEC 7812; American Express, Diners, Discover, JCB, Maestro,
/// Mastercard, UnionPay, Visa).
fn issued(digits: &[u8]) -> bool {
    let prefix = |count: usize| {
        digits
            .get(..count)
            .map_or(0, |head| head.iter().fold(0u32, |sum, digit| sum * 10 + u32::from(*digit)))
    };
    matches!(
        (digits.len(), prefix(2), prefix(4)),
        (13 | 16 | 19, 40..=49, _)
            | (16, 51..=55, _)
            | (16, _, 2221..=2720)
            | (15, 34 | 37, _)
            | (14, 36 | 38 | 39, _)
            | (14, _, 3000..=3059 | 3095)
            | (16 | 19, 65, _)
            | (16 | 19, _, 6011 | 6440..=6499)
            | (16..=19, 62, _)
            | (16..=19, _, 3528..=3589)
            | (13..=19, _, 5018 | 5020 | 5038 | 6304 | 6759 | 6761..=6763)
    )
}

fn luhn(digits: &[u8]) -> bool {
    let sum: u32 = digits
        .iter()
        .rev()
        .enumerate()
        .map(|(index, digit)| {
            let doubled = u32::from(*digit) * if index % 2 == 1 { 2 } else { 1 };
            doubled / 10 + doubled % 10
        })
        .sum();
    // Nothing but one digit is a placeholder.
    sum.is_multiple_of(10) && digits.iter().any(|digit| Some(digit) != digits.first())
}

/// AAA-GG-SSSS, never with 000, 666 or 900 and above, 00, or 0000.
fn ssn(rest: &[u8]) -> bool {
    let shape = rest.get(..11).is_some_and(|text| {
        text.iter().enumerate().all(|(at, byte)| match at {
            3 | 6 => *byte == b'-',
            _ => byte.is_ascii_digit(),
        })
    });
    let ends = rest.get(11).is_none_or(|byte| !byte.is_ascii_alphanumeric() && *byte != b'-');
    let part = |from: usize, to: usize| rest.get(from..to).unwrap_or_default();
    shape
        && ends
        && !matches!(part(0, 3), b"000" | b"666" | [b'9', ..])
        && part(4, 6) != b"00"
        && part(7, 11) != b"0000"
}

fn phone(rest: &[u8]) -> bool {
    let (mut digits, mut end) = (0, 1);
    for (at, byte) in rest.iter().enumerate().skip(1).take(24) {
        match byte {
            b'0'..=b'9' => {
                digits += 1;
                end = at + 1;
            }
            b' ' | b'-' | b'(' | b')' | b'.' | b'/' if at <= end + 1 => {}
            _ => break,
        }
    }
    let first = rest.get(1).is_some_and(|byte| matches!(byte, b'1'..=b'9'));
    first && (8..=15).contains(&digits) && rest.get(end).is_none_or(|byte| !byte.is_ascii_alphanumeric())
}

/// Something before the `@`, a host name with a dot and letters at its end behind it.
fn email(text: &[u8], at: usize) -> bool {
    let local = |byte: &u8| byte.is_ascii_alphanumeric() || b"._%+-".contains(byte) || *byte >= 0x80;
    let before =
        text.get(..at).unwrap_or_default().iter().rev().take(64).take_while(|byte| local(byte)).count();
    let host = text.get(at + 1..).unwrap_or_default();
    let length = host
        .iter()
        .take(253)
        .take_while(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-') || **byte >= 0x80)
        .count();
    let host = host.get(..length).unwrap_or_default();
    let host = host.strip_suffix(b".").unwrap_or(host);
    let mut parts = host.rsplit(|byte| *byte == b'.');
    let top = parts.next().unwrap_or_default();
    let rest: Vec<&[u8]> = parts.collect();
    before > 0
        && top.len() >= 2
        && top.iter().all(u8::is_ascii_alphabetic)
        && !rest.is_empty()
        && rest.iter().all(|part| !part.is_empty())
}

fn private_key(rest: &[u8]) -> bool {
    let Some(label) = rest.strip_prefix(b"-----BEGIN ") else { return false };
    let label = label.get(..40).unwrap_or(label);
    let end = label.windows(5).position(|window| window == b"-----").unwrap_or(0);
    label.get(..end).is_some_and(|label| label.ends_with(b"PRIVATE KEY") || label == b"PRIVATE KEY BLOCK")
}

/// Prefixes of services whose tokens are random letters behind it, and how many at least.
const TOKENS: &[(&[u8], usize)] = &[
    (b"AKIA", 16),
    (b"ASIA", 16),
    (b"ghp_", 36),
    (b"gho_", 36),
    (b"ghs_", 36),
    (b"github_pat_", 60),
    (b"glpat-", 20),
    (b"xoxb-", 20),
    (b"xoxp-", 20),
    (b"sk_live_", 20),
    (b"rk_live_", 20),
    (b"AIza", 35),
    (b"npm_", 36),
];

/// How these and web tokens begin.
const BEGINNINGS: &[&[u8]] = &[b"AK", b"AS", b"gh", b"gi", b"gl", b"xo", b"sk", b"rk", b"AI", b"np", b"ey"];

/// Longest first part of a web token, and of its second, that is gone through.
const HEAD_MAX: usize = 512;
const BODY_MAX: usize = 4 << 10;

/// A word that begins here: a web token, a token of a service, an IBAN.
fn word(rest: &[u8]) -> Option<Kind> {
    // Most words are neither.
    if !rest.get(..2).is_some_and(|head| BEGINNINGS.contains(&head)) {
        return iban(rest).then_some(Kind::Iban);
    }
    if rest.starts_with(b"eyJ") {
        let url = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        // A part of them is looked at, so that many beginnings in a long text do not each cost the rest of it.
        let length = |text: &[u8], most| text.iter().take(most).take_while(|byte| url(byte)).count();
        let head = length(rest, HEAD_MAX);
        let body = rest.get(head..).and_then(|rest| rest.strip_prefix(b"."));
        if let Some(body) = body.filter(|body| head >= 10 && body.starts_with(b"eyJ")) {
            let length = length(body, BODY_MAX);
            if length == BODY_MAX || length >= 10 && body.get(length) == Some(&b'.') {
                return Some(Kind::Jwt);
            }
        }
    }
    let first = rest.first().copied().unwrap_or_default();
    for (prefix, least) in TOKENS.iter().filter(|(prefix, _)| prefix.first() == Some(&first)) {
        if let Some(behind) = rest.strip_prefix(*prefix) {
            let letters = behind.iter().take(*least);
            let letters =
                letters.take_while(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'));
            if letters.count() == *least {
                return Some(Kind::Token);
            }
        }
    }
    iban(rest).then_some(Kind::Iban)
}

/// Countries of the IBAN registry with their lengths.
const COUNTRIES: &[u8] = b"AD24AE23AL28AT20AZ28BA20BE16BG22BH22BR29BY28CH21CR22CY28CZ24DE22DK18DO28EE20EG29ES24FI18FO18FR27\
GB22GE22GI23GL18GR27GT28HR21HU28IE22IL23IQ23IS26IT27JO30KW30KZ20LB28LC32LI21LT20LU20LV21LY25MC27MD24ME22MK19MR27MT31\
MU30NL18NO15PK24PL28PS29PT25QA29RO24RS22SA24SC31SD18SE24SI19SK24SM27ST25SV28TL23TN24TR26UA29VA22VG24XK20";

fn iban(rest: &[u8]) -> bool {
    let Some([a, b, c, d, ..]) = rest.first_chunk::<4>() else { return false };
    if !(a.is_ascii_uppercase() && b.is_ascii_uppercase() && c.is_ascii_digit() && d.is_ascii_digit()) {
        return false;
    }
    let known = COUNTRIES.chunks_exact(4).find(|country| country.starts_with(&[*a, *b]));
    let Some([_, _, tens, ones]) = known else { return false };
    let length = usize::from(tens - b'0') * 10 + usize::from(ones - b'0');
    let mut characters = [0u8; 34];
    let (mut count, mut end) = (0, 0);
    for (at, byte) in rest.iter().enumerate() {
        match byte {
            b'0'..=b'9' | b'A'..=b'Z' if count < length => {
                let Some(place) = characters.get_mut(count) else { return false };
                *place = *byte;
                count += 1;
                end = at + 1;
            }
            b' ' if at == end && count < length => {}
            _ => break,
        }
    }
    let ends = rest.get(end).is_none_or(|byte| !byte.is_ascii_alphanumeric());
    let Some((head, tail)) = characters.get(..count).and_then(|all| all.split_at_checked(4)) else {
        return false;
    };
    // ISO 7064: country and check digits to the end, letters as 10 to 35.
    let rest = tail.iter().chain(head).fold(0u32, |rest, byte| match byte {
        b'0'..=b'9' => (rest * 10 + u32::from(byte - b'0')) % 97,
        _ => (rest * 100 + u32::from(byte - b'A') + 10) % 97,
    });
    count == length && ends && rest == 1
}

#[cfg(test)]
#[path = "../examples/detect/corpus.rs"]
mod corpus;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_generated_corpus_nearly_all_is_recognised_as_what_it_is() {
        let mut random = corpus::Random(7);
        let (mut right, mut wrong, mut missed) = (0u32, 0u32, 0u32);
        for _ in 0..20_000 {
            let (text, kind) = corpus::value(&mut random);
            match (kind, look(text.as_bytes()).map(Kind::as_str)) {
                (Some(kind), Some(found)) if kind == found => right += 1,
                (Some(_), None) => missed += 1,
                (_, Some(_)) => wrong += 1,
                (None, None) => {}
            }
        }
        assert!(missed * 100 < right && wrong * 50 < right, "{right} right, {wrong} wrong, {missed} missed");
    }

    #[test]
    fn what_looks_like_something_is_recognised() {
        let token = format!("ghp_{}", "a1B2".repeat(9));
        for (text, kind) in [
            ("4111111111111111", Kind::Card),
            ("paid with 5555 5555 5555 4444, thanks", Kind::Card),
            ("3782-822463-10005", Kind::Card),
            ("DE89370400440532013000", Kind::Iban),
            ("to GB82 WEST 1234 5698 7654 32.", Kind::Iban),
            ("ada.quill@example.com", Kind::Email),
            ("<Ada> mail ada+x@mail.example.co.uk!", Kind::Email),
            ("123-45-6789", Kind::Ssn),
            ("+44 20 7946 0958", Kind::Phone),
            ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.c2lnbmF0dXJl", Kind::Jwt),
            ("AKIAIOSFODNN7EXAMPLE", Kind::Token),
            (token.as_str(), Kind::Token),
            ("-----BEGIN OPENSSH PRIVATE KEY-----\nb3Bl", Kind::PrivateKey),
        ] {
            assert_eq!(look(text.as_bytes()), Some(kind), "{text}");
        }
    }

    #[test]
    fn what_only_resembles_it_is_not() {
        for text in [
            "",
            "4111111111111112",
            "0000000000000000",
            "9111111111111111",
            "order 20240131123456789",
            "3.14159265358979323846",
            "DE89370400440532013001",
            "XX89370400440532013000",
            "user@localhost",
            "@example.com",
            "a@b..com",
            "000-45-6789",
            "666-45-6789",
            "123-00-6789",
            "123-45-67890",
            "2024-01-31 12:34:56+00",
            "1+44207946",
            "eyJhbGciOiJIUzI1NiJ9",
            "AKIAshort",
            "-----BEGIN CERTIFICATE-----",
            "550e8400-e29b-41d4-a716-446655440000",
            "d41d8cd98f00b204e9800998ecf8427e",
            "192.168.100.200",
        ] {
            assert_eq!(look(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn any_bytes_are_looked_at_without_harm() {
        let mut state = 7u64;
        let alphabet = b"0123456789-+ @.AKIAeyJDE\xff\x00_BEGIN";
        for _ in 0..50_000 {
            let text: Vec<u8> = (0..40)
                .map(|_| {
                    state =
                        state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    alphabet[usize::try_from(state >> 33).unwrap_or(0) % alphabet.len()]
                })
                .collect();
            let _ = look(&text);
        }
    }
}
