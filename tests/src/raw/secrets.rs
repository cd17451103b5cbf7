//! The planted values, and looking for them in bytes: as they are, in pieces, in another case, backwards, in
//! hexadecimal, in base64, and as binary numbers.

use std::collections::{HashMap, HashSet};

/// A piece this long is enough to say that a value got out. The planted letters make it unlikely by chance.
const PIECE: usize = 7;

/// The same piece in hexadecimal, and what of it is sure to be seen in base64 wherever it begins.
const HEX: usize = 2 * PIECE;
const BASE64: usize = 10;

pub(super) struct Secrets {
    /// Lower case; the value is where it was planted.
    pieces: HashMap<Vec<u8>, String>,
    hex: HashMap<Vec<u8>, String>,
    base64: HashMap<Vec<u8>, String>,
    /// Numbers and dates: their digits, and four bytes.
    exact: Vec<(Vec<u8>, String)>,
    /// How these begin.
    firsts: HashSet<Vec<u8>>,
}

/// What planted texts are made of.
const LETTERS: &[u8] = b"ghjkmnpqrtuvwxyz";

impl Secrets {
    /// From lines of `text COLUMN VALUE`, `int COLUMN VALUE`.
    pub(super) fn new<'a>(lines: impl Iterator<Item = &'a str>) -> Self {
        let mut secrets = Self {
            pieces: HashMap::new(),
            hex: HashMap::new(),
            base64: HashMap::new(),
            exact: Vec::new(),
            firsts: HashSet::new(),
        };
        for line in lines {
            let mut words = line.splitn(3, ' ');
            let (Some(kind), Some(place), Some(value)) = (words.next(), words.next(), words.next()) else {
                continue;
            };
            match kind {
                "text" => secrets.plant(place, value),
                _ => secrets.number(place, value),
            }
        }
        secrets.firsts = secrets.exact.iter().map(|(bytes, _)| bytes[..2].to_vec()).collect();
        secrets
    }

    fn plant(&mut self, place: &str, value: &str) {
        let bytes = value.to_ascii_lowercase().into_bytes();
        let backwards: Vec<u8> = bytes.iter().rev().copied().collect();
        for text in [&bytes, &backwards] {
            for piece in text.windows(PIECE) {
                self.pieces.insert(piece.to_vec(), place.to_owned());
                let hex: String = piece.iter().map(|byte| format!("{byte:02x}")).collect();
                self.hex.insert(hex.into_bytes(), place.to_owned());
            }
        }
        // As it was typed: base64 tells case apart.
        for start in 0..3.min(value.len()) {
            for piece in base64(&value.as_bytes()[start..]).windows(BASE64) {
                self.base64.insert(piece.to_vec(), place.to_owned());
            }
        }
    }

    fn number(&mut self, place: &str, value: &str) {
        self.exact.push((value.as_bytes().to_vec(), place.to_owned()));
        if let Ok(number) = value.parse::<i32>() {
            self.exact.push((number.to_be_bytes().to_vec(), place.to_owned()));
        }
    }

    /// Where what is found in `received` was planted, unless it was in what was `sent`.
    pub(super) fn found(&self, received: &[u8], sent: &[u8]) -> Option<String> {
        let (low, sent_low) = (received.to_ascii_lowercase(), sent.to_ascii_lowercase());
        in_runs(&low, PIECE, |byte| LETTERS.contains(&byte), &self.pieces, &sent_low)
            .or_else(|| in_runs(&low, HEX, |byte| byte.is_ascii_hexdigit(), &self.hex, &sent_low))
            .or_else(|| {
                let digit = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/');
                in_runs(received, BASE64, digit, &self.base64, sent)
            })
            .or_else(|| {
                let begins = |at: usize| self.firsts.contains(received.get(at..at + 2).unwrap_or_default());
                (0..received.len()).filter(|at| begins(*at)).find_map(|at| {
                    let rest = &received[at..];
                    let mut exact = self.exact.iter();
                    let hit = exact.find(|(bytes, _)| rest.starts_with(bytes) && !contains(sent, bytes))?;
                    Some(hit.1.clone())
                })
            })
    }
}

/// Looks for pieces of `size` bytes where that many in a row can be part of one: anything else costs too much.
fn in_runs(
    text: &[u8],
    size: usize,
    part: impl Fn(u8) -> bool,
    pieces: &HashMap<Vec<u8>, String>,
    sent: &[u8],
) -> Option<String> {
    let mut run = 0;
    for (at, byte) in text.iter().enumerate() {
        run = if part(*byte) { run + 1 } else { 0 };
        if run >= size {
            let piece = &text[at + 1 - size..=at];
            if let Some(place) = pieces.get(piece).filter(|_| !contains(sent, piece)) {
                return Some(place.clone());
            }
        }
    }
    None
}

fn contains(text: &[u8], piece: &[u8]) -> bool {
    text.windows(piece.len()).any(|window| window == piece)
}

/// Without the last incomplete group: only what is sure to appear.
fn base64(bytes: &[u8]) -> Vec<u8> {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = Vec::new();
    for group in bytes.chunks_exact(3) {
        let bits = group.iter().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte));
        out.extend([18, 12, 6, 0].map(|shift| DIGITS[(bits >> shift & 63) as usize]));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_found_however_it_is_written() {
        let secrets = Secrets::new(["text users.token kwzpqrtxvmgh", "int users.pin 1734219005"].into_iter());
        for seen in [
            "..kwzpqrtxvmgh..".as_bytes(),
            b"Zpqrtxv",
            b"KWZPQRTXVMGH",
            b"hgmvxtrqpzwk",
            b"\\x6b777a70717274",
            b"6B777A70717274",
            b"a3d6cHFydHh2bWdo",
            b"eGEud3pwcXJ0eHZtZ2g=",
            b"1734219005",
            &[0, 0, 0, 4, 0x67, 0x5e, 0x14, 0xfd],
        ] {
            assert!(secrets.found(seen, b"").is_some(), "{}", String::from_utf8_lossy(seen));
        }
        assert_eq!(secrets.found(b"kwz pqr txv", b""), None);
        assert_eq!(secrets.found(b"echo kwzpqrt", b"select 'kwzpqrt'"), None);
    }
}
