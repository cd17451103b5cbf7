//! What is recorded for how long, and who alone may read some of it.

use std::time::Duration;

use age::x25519::Recipient;
use serde::Deserialize;

use super::Record;

/// A part is sealed to each of them, so each costs time and bytes.
const AUDITORS_MAX: usize = 16;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RecordFile {
    max_bytes: u64,
    keep_days: Option<u64>,
    when_full: WhenFull,
    auditors: Vec<String>,
}

/// What happens when the journal nears its ceiling.
#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum WhenFull {
    /// No new sessions, then no service.
    Stop,
    /// The oldest records go.
    Prune,
}

impl Default for RecordFile {
    fn default() -> Self {
        Self { max_bytes: 10 << 30, keep_days: None, when_full: WhenFull::Stop, auditors: Vec::new() }
    }
}

pub(super) fn convert(typed: &RecordFile, problems: &mut Vec<String>) -> Record {
    if typed.max_bytes < 1 << 20 {
        problems.push(
            "record.max_bytes: less than 1 MiB leaves no room for a record, and no record means no access"
                .into(),
        );
    }
    if typed.keep_days.is_some_and(|days| !(1..=36_500).contains(&days)) {
        problems
            .push("record.keep_days: between 1 and 36500; without it nothing is removed for its age".into());
    }
    let mut auditors: Vec<Recipient> = Vec::new();
    for text in &typed.auditors {
        match text.parse::<Recipient>() {
            Ok(key) if auditors.contains(&key) => {
                problems.push(format!("record.auditors: `{text}` appears twice"));
            }
            Ok(key) => auditors.push(key),
            // Not repeated in full: it may be the private half.
            Err(_why) => problems.push(format!(
                "record.auditors: `{}...` is not the public key of an age identity (age1..., as `age-keygen -y` \
                 prints it)",
                text.chars().take(8).collect::<String>().escape_debug()
            )),
        }
    }
    if typed.auditors.len() > AUDITORS_MAX {
        problems.push(format!("record.auditors: more than {AUDITORS_MAX}"));
    }
    Record {
        max_bytes: typed.max_bytes,
        keep: typed.keep_days.map(|days| Duration::from_secs(days * 24 * 3600)),
        prune_when_full: typed.when_full == WhenFull::Prune,
        auditors,
    }
}

#[cfg(test)]
mod tests {
    use age::secrecy::ExposeSecret as _;
    use age::x25519::Identity;

    use super::*;

    fn problems(auditors: &[String]) -> Vec<String> {
        let mut problems = Vec::new();
        convert(&RecordFile { auditors: auditors.to_vec(), ..RecordFile::default() }, &mut problems);
        problems
    }

    #[test]
    fn auditors_are_public_keys_each_once() {
        let key = Identity::generate();
        let public = key.to_public().to_string();
        assert!(problems(std::slice::from_ref(&public)).is_empty());
        assert!(problems(&[public.clone(), public.clone()])[0].ends_with("appears twice"));
        assert!(problems(&[public[..20].to_owned()])[0].contains("not the public key"));
        let many = (0..17).map(|_| Identity::generate().to_public().to_string()).collect::<Vec<_>>();
        assert_eq!(problems(&many), ["record.auditors: more than 16"]);
    }

    #[test]
    fn a_private_key_in_its_place_is_not_repeated() {
        let secret = Identity::generate().to_string().expose_secret().to_owned();
        let told = problems(std::slice::from_ref(&secret)).join("");
        assert!(told.contains("not the public key") && !told.contains(&secret[..20]), "{told}");
    }
}
