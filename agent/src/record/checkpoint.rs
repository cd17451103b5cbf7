//! A checkpoint: what the host signs about the journal as it stood after a record.
//!
//! It is a signed note (C2SP signed-note) with the body of a transparency log's checkpoint (C2SP tlog-checkpoint), so
//! that tools for transparency logs can check it. The same text is the payload of a record, the file `head`, and what
//! an auditor keeps elsewhere. Owns its exact text; the key is `key`'s business.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest as _, Sha256};

use super::PublicKey;
use super::format::{Hash, JournalId, hex, unhex};

/// Longest text written or believed.
pub const NOTE_MAX: usize = 512;

/// The type of an Ed25519 signature in a key's id.
const ED25519: u8 = 1;

/// The first four bytes of a digest over the key's name and the key.
pub type KeyId = [u8; 4];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Checkpoint {
    pub journal: JournalId,
    /// Number of the last record it covers, which is the size of the tree.
    pub seq: u64,
    /// Root of the tree over records 1 to `seq`.
    pub root: Hash,
    /// Hash of record `seq`, as the next record names it.
    pub last: Hash,
    pub time_ns: u64,
    pub key: KeyId,
    pub signature: [u8; 64],
}

impl Checkpoint {
    /// Name of the log and of the key that signs it: one for each journal.
    #[must_use]
    pub fn origin(journal: &JournalId) -> String {
        format!("chaperone/journal/{}", hex(journal))
    }

    /// The text that is signed.
    #[must_use]
    pub fn body(&self) -> String {
        format!(
            "{}\n{}\n{}\nlast {}\ntime_ns {}\n",
            Self::origin(&self.journal),
            self.seq,
            STANDARD.encode(self.root),
            STANDARD.encode(self.last),
            self.time_ns,
        )
    }

    /// The whole note.
    #[must_use]
    pub fn text(&self) -> String {
        let signature = STANDARD.encode([self.key.as_slice(), &self.signature].concat());
        format!("{}\n\u{2014} {} {signature}\n", self.body(), Self::origin(&self.journal))
    }

    /// Exactly what `text` writes; lines of other signatures may follow, as witnesses add them. Says nothing of
    /// whether the signature holds.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (body, signatures) = text.split_once("\n\n")?;
        let mut lines = body.lines();
        let journal = unhex(lines.next()?.strip_prefix("chaperone/journal/")?)?;
        let seq = lines.next()?.parse().ok()?;
        let root = decode(lines.next()?)?;
        let last = decode(lines.next()?.strip_prefix("last ")?)?;
        let time_ns = lines.next()?.strip_prefix("time_ns ")?.parse().ok()?;
        let ours = format!("\u{2014} {} ", Self::origin(&journal));
        let signature = signatures.lines().find_map(|line| line.strip_prefix(&ours))?;
        let signature: [u8; 68] = decode(signature)?;
        let (key, signature) = signature.split_first_chunk::<4>()?;
        let signature = *signature.first_chunk::<64>()?;
        let checkpoint = Self { journal, seq, root, last, time_ns, key: *key, signature };
        (checkpoint.body().strip_suffix('\n') == Some(body)).then_some(checkpoint)
    }

    /// The checkpoint that the payload of a record is, byte by byte.
    #[must_use]
    pub fn of_record(payload: &[u8]) -> Option<Self> {
        let checkpoint = Self::parse(str::from_utf8(payload).ok()?)?;
        (checkpoint.text().as_bytes() == payload).then_some(checkpoint)
    }

    /// The checkpoint in `text`, if `key` signed it.
    #[must_use]
    pub fn signed_by(text: &str, key: &PublicKey) -> Option<Self> {
        Self::parse(text).filter(|checkpoint| key.signed(checkpoint))
    }
}

/// The id a signed note gives to the key `public` under the name of this journal.
#[must_use]
pub fn key_id(journal: &JournalId, public: &[u8; 32]) -> KeyId {
    let name = Checkpoint::origin(journal);
    let hash =
        Sha256::new().chain_update(name).chain_update([b'\n', ED25519]).chain_update(public).finalize();
    hash.first_chunk::<4>().copied().unwrap_or_default()
}

/// The key as verifiers of signed notes take it: `name+id+key`.
#[must_use]
pub fn verifier_key(journal: &JournalId, public: &[u8; 32]) -> String {
    let key = STANDARD.encode([[ED25519].as_slice(), public].concat());
    format!("{}+{}+{key}", Checkpoint::origin(journal), hex(&key_id(journal, public)))
}

fn decode<const N: usize>(text: &str) -> Option<[u8; N]> {
    STANDARD.decode(text).ok()?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_read_back_with_or_without_witnesses_and_not_when_touched() {
        let checkpoint = Checkpoint {
            journal: [7; 16],
            seq: u64::MAX,
            root: [1; 32],
            last: [2; 32],
            time_ns: u64::MAX,
            key: [3; 4],
            signature: [4; 64],
        };
        let text = checkpoint.text();
        assert!(text.len() <= NOTE_MAX, "{}", text.len());
        assert_eq!(Checkpoint::parse(&text), Some(checkpoint));
        assert_eq!(Checkpoint::parse(&format!("\u{2014} other AAAA\n{text}")), None);
        assert_eq!(Checkpoint::parse(&format!("{text}\u{2014} witness AAAA\n")), Some(checkpoint));
        for (from, to) in
            [("last ", "past "), ("time_ns 1", "time_ns 01"), ("\n\n", "\nmore\n\n"), ("=\n", "\n")]
        {
            assert_eq!(Checkpoint::parse(&text.replacen(from, to, 1)), None, "{from:?}");
        }
    }
}
