//! Generated values with and without personal data, by a seed: half a table's columns, half free text.

use std::fmt::Write;

/// A value, and the name of what it holds (`Kind::as_str`), if anything.
pub(crate) type Value = (String, Option<&'static str>);

pub(crate) struct Random(pub(crate) u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % limit.max(1)
    }

    pub(crate) fn one(&mut self, list: &[&'static str]) -> &'static str {
        let index = usize::try_from(self.below(list.len() as u64)).unwrap_or(0);
        list.get(index).copied().unwrap_or_default()
    }

    pub(crate) fn digits(&mut self, count: usize) -> String {
        (0..count).map(|_| char::from(b'0' + u8::try_from(self.below(10)).unwrap_or(0))).collect()
    }

    fn letters(&mut self, count: usize, alphabet: &[u8]) -> String {
        let letter = |random: &mut Self| {
            let index = usize::try_from(random.below(alphabet.len() as u64)).unwrap_or(0);
            char::from(alphabet.get(index).copied().unwrap_or(b'a'))
        };
        (0..count).map(|_| letter(self)).collect()
    }
}

pub(crate) const WORDS: &[&str] = &[
    "order",
    "shipment",
    "delayed",
    "customer",
    "called",
    "invoice",
    "paid",
    "box",
    "left",
    "at",
    "the",
    "door",
    "ref",
    "batch",
    "twice",
    "return",
    "A-1029",
    "v2.3.1",
    "19.99",
    "EUR",
    "2024-01-31",
    "12:30:00",
    "#881",
    "o'clock",
];

const BASE64: &[u8] = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";

/// One value; every second one holds something.
pub(crate) fn value(random: &mut Random) -> Value {
    let (text, kind) = if random.below(2) == 0 { sensitive(random) } else { harmless(random) };
    if random.below(2) == 0 {
        return (text, kind);
    }
    let (before, after) = (sentence(random), sentence(random));
    (format!("{before} {text}, {after}"), kind)
}

pub(crate) fn sentence(random: &mut Random) -> String {
    let count = 1 + random.below(8);
    (0..count).map(|_| random.one(WORDS)).collect::<Vec<_>>().join(" ")
}

fn sensitive(random: &mut Random) -> Value {
    match random.below(8) {
        0 => (card(random), Some("card number")),
        1 => (iban(random), Some("IBAN")),
        2 => {
            let (name, host) =
                (random.letters(6, BASE64), random.one(&["example.com", "mail.example.co.uk", "example.se"]));
            (format!("{name}.x@{host}"), Some("e-mail address"))
        }
        3 => {
            let (area, group, serial) = (1 + random.below(665), 1 + random.below(98), 1 + random.below(9998));
            (format!("{area:03}-{group:02}-{serial:04}"), Some("US social security number"))
        }
        4 => {
            let (country, rest) = (random.one(&["+44 20", "+1 (212)", "+49-30", "+46"]), random.digits(7));
            (format!("{country} {rest}"), Some("telephone number"))
        }
        5 => {
            let (body, mark) = (random.letters(40, BASE64), random.letters(43, BASE64));
            (format!("eyJhbGciOiJIUzI1NiJ9.eyJ{body}.{mark}"), Some("web token"))
        }
        6 => {
            let prefix = random.one(&["AKIA", "ASIA"]);
            (
                format!("{prefix}{}", random.letters(16, b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567")),
                Some("access token"),
            )
        }
        _ => {
            let kind = random.one(&["RSA ", "EC ", "OPENSSH ", ""]);
            (
                format!("-----BEGIN {kind}PRIVATE KEY-----\n{}", random.letters(64, BASE64)),
                Some("private key"),
            )
        }
    }
}

/// Numbers that databases are full of and that are nobody's.
pub(crate) fn harmless(random: &mut Random) -> Value {
    let text = match random.below(9) {
        0 => random.digits(16),
        1 => random.digits(13),
        2 => format!("20{}T{}Z", random.digits(6), random.digits(6)),
        3 => random.letters(32, b"0123456789abcdef"),
        4 => format!(
            "{}-{}-4{}-a{}-{}",
            random.letters(8, b"0123456789abcdef"),
            random.letters(4, b"0123456789abcdef"),
            random.letters(3, b"0123456789abcdef"),
            random.letters(3, b"0123456789abcdef"),
            random.letters(12, b"0123456789abcdef")
        ),
        5 => format!("{}.{}", random.digits(3), random.digits(12)),
        6 => format!("user_{}@localhost", random.digits(4)),
        7 => format!("{}-{}-{}", random.digits(4), random.digits(3), random.digits(4)),
        _ => sentence(random),
    };
    (text, None)
}

fn card(random: &mut Random) -> String {
    let (prefix, length) = match random.below(5) {
        0 => ("4", 16),
        1 => ("53", 16),
        2 => ("37", 15),
        3 => ("6011", 16),
        _ => ("2221", 16),
    };
    let mut number = format!("{prefix}{}", random.digits(length - prefix.len() - 1));
    let sum: u32 = number
        .bytes()
        .rev()
        .enumerate()
        .map(|(index, byte)| {
            let doubled = u32::from(byte - b'0') * if index % 2 == 0 { 2 } else { 1 };
            doubled / 10 + doubled % 10
        })
        .sum();
    let _ = write!(number, "{}", (10 - sum % 10) % 10);
    if length == 16 && random.below(2) == 0 {
        let groups: Vec<&str> = [0, 4, 8, 12].iter().filter_map(|at| number.get(*at..at + 4)).collect();
        return groups.join(random.one(&[" ", "-"]));
    }
    number
}

fn iban(random: &mut Random) -> String {
    let (country, bank, length) = match random.below(3) {
        0 => ("DE", String::new(), 18),
        1 => ("GB", "WEST".to_owned(), 14),
        _ => ("SE", String::new(), 20),
    };
    let tail = format!("{bank}{}", random.digits(length));
    let rest = tail.bytes().chain(country.bytes()).chain(*b"00").fold(0u32, |rest, byte| match byte {
        b'0'..=b'9' => (rest * 10 + u32::from(byte - b'0')) % 97,
        _ => (rest * 100 + u32::from(byte - b'A') + 10) % 97,
    });
    let whole = format!("{country}{:02}{tail}", 98 - rest);
    if random.below(2) == 0 {
        return whole;
    }
    whole.as_bytes().chunks(4).map(String::from_utf8_lossy).collect::<Vec<_>>().join(" ")
}
