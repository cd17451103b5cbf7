//! People: who may approve, and with which key they sign.

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::Deserialize;

use super::file::{name_is_plain, unique};

/// Somebody who may approve.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Approver {
    pub name: String,
    /// Ed25519, 32 bytes.
    pub key: Vec<u8>,
    pub groups: BTreeSet<String>,
    /// Groups this person may lend to identities by a grant.
    pub may_lend: BTreeSet<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ApproverFile {
    name: String,
    key: String,
    groups: BTreeSet<String>,
    #[serde(default)]
    may_lend: BTreeSet<String>,
}

pub(super) fn convert(typed: Vec<ApproverFile>, problems: &mut Vec<String>) -> Vec<Approver> {
    let mut people = Vec::new();
    for person in typed {
        let at = format!("approvers.{}", person.name);
        name_is_plain("approvers.name", &person.name, problems);
        for group in person.groups.iter().chain(&person.may_lend) {
            name_is_plain(&format!("{at}.groups"), group, problems);
        }
        if person.groups.is_empty() && person.may_lend.is_empty() {
            problems.push(format!("{at}: in no group, so the approval would never count"));
        }
        match BASE64.decode(&person.key).ok().filter(|key| key.len() == 32) {
            Some(key) => people.push(Approver {
                name: person.name,
                key,
                groups: person.groups,
                may_lend: person.may_lend,
            }),
            None => problems.push(format!(
                "{at}.key: not the base64 of an Ed25519 public key; `chaperone new-key FILE` makes a pair and prints it"
            )),
        }
    }
    unique("approvers", people.iter().map(|person| person.name.as_str()), problems);
    for (number, person) in people.iter().enumerate() {
        if people.iter().take(number).any(|other| other.key == person.key) {
            problems.push(format!("approvers.{}.key: somebody else's as well", person.name));
        }
    }
    people
}
