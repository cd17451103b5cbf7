//! Raw values, sealed: encrypted to the public keys of auditors, so that this host can write them and not read them.
//!
//! Owns the payload of such a record: an age file (age-encryption.org/v1) for each part of a session's stream of raw
//! values. Each is sealed by itself, with a key that is made for it and forgotten: what is recorded can be opened although
//! the agent died a moment later, and whoever takes the agent's memory finds no key that opens what was sealed before.
//! Nothing is compressed: how much shorter something gets tells of what is in it.

use std::io::{Read as _, Write as _};
use std::sync::Arc;

use age::x25519::{Identity, Recipient};

use super::RecordError;
use super::served::Burst;

/// First byte of the payload. Neither that of served bytes nor of an event.
pub(super) const VERSION: u8 = 1;

/// Whose public keys raw values are sealed to; by default nobody's.
#[derive(Clone, Default)]
pub struct Auditors(Arc<[Recipient]>);

impl std::fmt::Debug for Auditors {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.0.iter().map(ToString::to_string)).finish()
    }
}

impl Auditors {
    #[must_use]
    pub fn new(keys: &[Recipient]) -> Self {
        Self(keys.into())
    }

    /// The payloads of the records that hold `raw`, none when it is empty.
    ///
    /// # Errors
    /// When there is nobody who could read it, or no randomness to be had.
    pub(super) fn seal(&self, raw: Burst<'_>) -> Result<Vec<Vec<u8>>, RecordError> {
        raw.parts().map(|part| self.part(part)).collect()
    }

    fn part(&self, part: Burst<'_>) -> Result<Vec<u8>, RecordError> {
        let Burst { session, offset, bytes } = part;
        let failed = |problem: String| RecordError::Seal(problem);
        let recipients = self.0.iter().map(|recipient| recipient as &dyn age::Recipient);
        // Refuses an empty list.
        let encryptor =
            age::Encryptor::with_recipients(recipients).map_err(|error| failed(error.to_string()))?;
        let id = session.as_bytes().get(..usize::from(u8::MAX)).unwrap_or(session.as_bytes());
        let mut out = vec![VERSION, u8::try_from(id.len()).unwrap_or(u8::MAX)];
        out.extend_from_slice(id);
        out.extend_from_slice(&offset.to_le_bytes());
        out.extend_from_slice(&u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes());
        let mut writer = encryptor.wrap_output(out).map_err(|error| failed(error.to_string()))?;
        writer.write_all(bytes).map_err(|error| failed(error.to_string()))?;
        writer.finish().map_err(|error| failed(error.to_string()))
    }
}

/// A record of sealed values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sealed<'a> {
    pub session: &'a str,
    /// Bytes of the session's stream of raw values before these.
    pub offset: u64,
    /// How many bytes are sealed here.
    pub length: u32,
    /// The age file.
    pub file: &'a [u8],
}

/// A payload of a form known here. What is in the file shows only to those who can open it.
#[must_use]
pub fn decode(payload: &[u8]) -> Option<Sealed<'_>> {
    let (&[version, length], rest) = payload.split_first_chunk::<2>()?;
    let (session, rest) = rest.split_at_checked(usize::from(length))?;
    let (offset, rest) = rest.split_first_chunk::<8>()?;
    let (length, file) = rest.split_first_chunk::<4>()?;
    (version == VERSION && file.starts_with(b"age-encryption.org/v1\n")).then_some(Sealed {
        session: str::from_utf8(session).ok()?,
        offset: u64::from_le_bytes(*offset),
        length: u32::from_le_bytes(*length),
        file,
    })
}

/// The session alone.
#[must_use]
pub fn session(payload: &[u8]) -> Option<&str> {
    decode(payload).map(|sealed| sealed.session)
}

/// Private keys of auditors. They are never on a host that records.
pub struct Keys(Vec<Identity>);

/// Why something sealed could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("line {line} is no age identity (AGE-SECRET-KEY-1...)")]
    Identity { line: usize },
    #[error("no key in it; `age-keygen` makes one")]
    Empty,
    #[error("none of the keys opens it")]
    NotForUs,
    #[error("it is damaged: {0}")]
    Damaged(String),
}

impl Keys {
    /// From a file as `age-keygen` writes it: a key a line, and comments.
    ///
    /// # Errors
    /// `Identity`, `Empty`.
    pub fn parse(text: &str) -> Result<Self, OpenError> {
        let lines = text.lines().map(str::trim).enumerate();
        let keys = lines
            .filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
            .map(|(at, line)| line.parse().map_err(|_why| OpenError::Identity { line: at + 1 }))
            .collect::<Result<Vec<Identity>, _>>()?;
        if keys.is_empty() { Err(OpenError::Empty) } else { Ok(Self(keys)) }
    }

    /// What is sealed there.
    ///
    /// # Errors
    /// `NotForUs`, `Damaged`.
    pub fn open(&self, sealed: &Sealed<'_>) -> Result<Vec<u8>, OpenError> {
        let damaged = |error: &dyn std::fmt::Display| OpenError::Damaged(error.to_string());
        let decryptor = age::Decryptor::new(sealed.file).map_err(|error| damaged(&error))?;
        let keys = self.0.iter().map(|key| key as &dyn age::Identity);
        let reader = decryptor.decrypt(keys).map_err(|error| match error {
            age::DecryptError::NoMatchingKeys => OpenError::NotForUs,
            other => damaged(&other),
        })?;
        let mut bytes = Vec::new();
        // One more than there should be, to see that there are not more.
        reader.take(u64::from(sealed.length) + 1).read_to_end(&mut bytes).map_err(|error| damaged(&error))?;
        if bytes.len() as u64 != u64::from(sealed.length) {
            return Err(damaged(&"another number of bytes than its record says"));
        }
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use age::secrecy::ExposeSecret as _;

    use super::super::served::PART;
    use super::*;

    fn burst(bytes: &[u8]) -> Burst<'_> {
        Burst { session: "s-1", offset: 7, bytes }
    }

    fn keys(of: &[&Identity]) -> Keys {
        let lines = of.iter().map(|key| key.to_string().expose_secret().to_owned());
        Keys::parse(&lines.fold("# created: today\n\n".to_owned(), |all, line| all + &line + "\n")).unwrap()
    }

    #[test]
    fn each_auditor_opens_it_and_nobody_else_does() {
        let [one, other, stranger] = [0; 3].map(|_| Identity::generate());
        let auditors = Auditors::new(&[one.to_public(), other.to_public()]);
        for bytes in [&b"x"[..], b"secret", &[b'x'; PART], &[b'x'; PART + 1]] {
            let payloads = auditors.seal(burst(bytes)).unwrap();
            for key in [&one, &other] {
                let (mut at, mut all) = (7, Vec::new());
                for payload in &payloads {
                    let sealed = decode(payload).unwrap();
                    assert_eq!((sealed.session, sealed.offset, session(payload)), ("s-1", at, Some("s-1")));
                    let part = keys(&[&stranger, key]).open(&sealed).unwrap();
                    at += part.len() as u64;
                    all.extend(part);
                }
                assert!(all == bytes, "{} bytes", bytes.len());
            }
            let sealed = decode(&payloads[0]).unwrap();
            assert!(matches!(keys(&[&stranger]).open(&sealed), Err(OpenError::NotForUs)));
            assert!(bytes.len() < 6 || !payloads[0].windows(6).any(|window| window == &bytes[..6]));
        }
        assert!(auditors.seal(burst(b"")).unwrap().is_empty());
    }

    #[test]
    fn with_nobody_to_read_it_nothing_is_recorded() {
        assert!(matches!(Auditors::default().seal(burst(b"x")), Err(RecordError::Seal(_))));
    }

    #[test]
    fn what_was_changed_or_cut_is_not_opened() {
        let key = Identity::generate();
        let payload = Auditors::new(&[key.to_public()]).seal(burst(b"secret")).unwrap().remove(0);
        let opened = |payload: &[u8]| decode(payload).map(|sealed| keys(&[&key]).open(&sealed));
        assert_eq!(opened(&payload).unwrap().unwrap(), b"secret");
        for cut in 0..payload.len() {
            assert!(!matches!(opened(&payload[..cut]), Some(Ok(_))), "cut at {cut}");
        }
        let begin = payload.len() - decode(&payload).unwrap().file.len();
        for at in begin..payload.len() {
            let mut changed = payload.clone();
            changed[at] ^= 1;
            assert!(!matches!(opened(&changed), Some(Ok(_))), "changed at {at}");
        }
    }

    #[test]
    fn a_file_of_keys_holds_keys() {
        let refused = |text: &str| Keys::parse(text).err().unwrap().to_string();
        assert!(refused("# only a comment\n").starts_with("no key"));
        let key = Identity::generate();
        assert!(refused(&format!("\n{}\n", key.to_public())).starts_with("line 2 is no age identity"));
    }
}
