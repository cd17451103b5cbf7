//! Who speaks on the control socket: the caller, and the person whose signature or login it brought.

use std::collections::BTreeSet;
use std::fmt;
use std::pin::Pin;

use serde::{Deserialize, Serialize};

use super::caller::Caller;
use crate::config::Approver;
use crate::gate::Given;
use crate::record::event::{Login, Signature};

/// A token that says who logged in. Whoever has it is that person, so it is shown nowhere.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Bearer(pub String);

impl fmt::Debug for Bearer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Bearer(..)")
    }
}

/// Finds out whose login a token is.
pub type WhoLoggedIn =
    Box<dyn Fn(Bearer) -> Pin<Box<dyn Future<Output = Result<Person, String>> + Send>> + Send + Sync>;

/// Somebody who may approve.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Person {
    pub name: String,
    pub groups: BTreeSet<String>,
    /// Groups this person may lend.
    pub may_lend: BTreeSet<String>,
    /// How that is known, where it is not by a signature.
    pub login: Option<Login>,
}

impl From<&Approver> for Person {
    fn from(approver: &Approver) -> Self {
        Self {
            name: approver.name.clone(),
            groups: approver.groups.clone(),
            may_lend: approver.may_lend.clone(),
            login: None,
        }
    }
}

impl Person {
    /// The groups among these that this person may not lend.
    pub(super) fn may_not_lend<'g>(&self, groups: &'g [String]) -> BTreeSet<&'g str> {
        groups.iter().map(String::as_str).filter(|group| !self.may_lend.contains(*group)).collect()
    }
}

pub(super) struct Voice<'a> {
    pub(super) caller: &'a Caller,
    pub(super) person: Option<Person>,
    /// Of what is held, as the person was shown it.
    pub(super) binding: Option<String>,
    pub(super) signature: Option<Signature>,
}

impl Voice<'_> {
    pub(super) fn describe(&self) -> String {
        match &self.person {
            Some(person) => format!("{} ({})", person.name, self.caller.describe()),
            None => self.caller.describe(),
        }
    }

    pub(super) fn given(&self) -> Given {
        match &self.person {
            Some(person) => Given { by: person.name.clone(), groups: Some(person.groups.clone()) },
            // Not the process: it is the person that counts, and root is one.
            None => Given { by: format!("uid {}", self.caller.uid), groups: None },
        }
    }

    pub(super) fn login(&self) -> Option<Login> {
        self.person.as_ref()?.login.clone()
    }
}
