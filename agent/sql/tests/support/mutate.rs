//! Seeded mutations of known inputs, for as long as is wanted: `CHAPERONE_FUZZ_SECONDS` (default 1) and
//! `CHAPERONE_FUZZ_SEED` (default 1). A panic is told with the input that made it.

use std::fmt::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

/// Longer inputs only take longer.
const LONGEST: usize = 8 << 10;

/// Lengths, counts and marks that decide something in the formats at hand.
const PIECES: &[&[u8]] = &[
    b"\0",
    b"\xff\xff\xff\xff",
    b"\x7f\xff\xff\xff",
    b"\x80\0\0\0",
    b"\0\0\0\x04",
    b"\0\0",
    b"\xff\xff",
    b"'",
    b"\"",
    b"$$",
    b"/*",
    b"*/",
    b"--",
    b"(",
    b")",
    b"((((((((",
    b"SELECT ",
    b"token",
    b"users",
    b" FROM ",
    b", ",
    b"::",
    b"\\",
    b"\t",
    b"\n",
    b"*",
    b"e'\\",
    b"U&'",
    b";",
    b"\xc3\x28",
    b"\xf0\x9f\x92\xa9",
];

struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 11).unwrap_or(0) % limit.max(1)
    }

    /// A place in the text, and how many bytes from there.
    fn range(&mut self, length: usize) -> (usize, usize) {
        let at = self.below(length + 1);
        (at, self.below((length - at).min(40) + 1))
    }

    fn mutate(&mut self, seeds: &[Vec<u8>]) -> Vec<u8> {
        let one = |random: &mut Self| seeds.get(random.below(seeds.len())).cloned().unwrap_or_default();
        let mut input = one(self);
        for _ in 0..self.below(6) {
            let (at, count) = self.range(input.len());
            match self.below(7) {
                0 => {
                    if let Some(byte) = input.get_mut(at) {
                        *byte ^= 1 << self.below(8);
                    }
                }
                1 => drop(input.drain(at..at + count)),
                2 => {
                    let again = input.get(at..at + count).unwrap_or_default().to_vec();
                    drop(input.splice(at..at, again));
                }
                3 | 4 => {
                    let piece = PIECES.get(self.below(PIECES.len())).copied().unwrap_or_default();
                    let end = if self.below(2) == 0 { at } else { (at + piece.len()).min(input.len()) };
                    drop(input.splice(at..end, piece.iter().copied()));
                }
                5 => {
                    let other = one(self);
                    let (from, length) = self.range(other.len());
                    drop(input.splice(at..at, other.get(from..from + length).unwrap_or_default().to_vec()));
                }
                _ => input.truncate(at),
            }
        }
        input.truncate(LONGEST);
        input
    }
}

/// Gives `run` mutations of `seeds`. At least a hundred, however slow the machine is.
pub(crate) fn fuzz(seeds: &[Vec<u8>], run: impl Fn(&[u8])) {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let limit = Duration::from_secs(number("CHAPERONE_FUZZ_SECONDS").unwrap_or(1));
    let mut random =
        Random(number("CHAPERONE_FUZZ_SEED").unwrap_or(1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let started = Instant::now();
    let mut count = 0u64;
    while count < 100 || started.elapsed() < limit {
        let input = random.mutate(seeds);
        let outcome = catch_unwind(AssertUnwindSafe(|| run(&input)));
        if let Err(panic) = outcome {
            let mut text = String::new();
            let _ = write!(text, "after {count} inputs: b\"{}\"", input.escape_ascii());
            eprintln!("{text}");
            std::panic::resume_unwind(panic);
        }
        count += 1;
    }
    eprintln!("{count} inputs");
}
