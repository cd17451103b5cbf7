//! Rules that can never match, because they name what nobody defines.
//!
//! Compares policies with what the configuration knows. Deliberately does not know the catalogue of a database: a table
//! that does not exist yet may be named, a target that is not configured may not.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use cedar_policy::EntityUid;

use crate::entity::Kind;
use crate::load::{PolicySet, Rule};
use crate::vocabulary::{Action, Flag, RecordMode, nearest};

/// What exists. `None` means that it is not known here, and is not compared.
#[derive(Debug, Clone, Default)]
pub struct World {
    pub identities: BTreeSet<String>,
    pub groups: BTreeSet<String>,
    /// Target name -> environment.
    pub targets: BTreeMap<String, String>,
    /// Tags that some label gives to some column.
    pub tags: BTreeSet<String>,
    /// Groups of people who can approve.
    pub approver_groups: Option<BTreeSet<String>>,
    /// People: those who can approve, and those behind identities.
    pub people: Option<BTreeSet<String>>,
    /// The recording modes this agent has.
    pub record_modes: Option<BTreeSet<RecordMode>>,
    /// The flags this agent's parsers set.
    pub flags: Option<BTreeSet<Flag>>,
}

/// A rule that does not do what it says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    pub id: String,
    pub file: String,
    pub line: usize,
    pub column: usize,
    pub message: String,
    pub hint: Option<String>,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}: policy {:?}: {}", self.file, self.line, self.column, self.id, self.message)?;
        if let Some(hint) = &self.hint {
            write!(f, " ({hint})")?;
        }
        Ok(())
    }
}

impl PolicySet {
    /// Everything in the policies that the world does not define, in the order of the sources.
    pub fn check_world(&self, world: &World) -> Vec<Finding> {
        let mut findings = Vec::new();
        for rule in &self.rules {
            let mut literals = rule.policy.entity_literals();
            literals.sort_unstable();
            literals.dedup();
            findings.extend(literals.iter().filter_map(|uid| undefined(rule, uid, world)));
            findings.extend(unapprovable(rule, world));
            findings.extend(unrecordable(rule, world));
        }
        findings
    }
}

fn undefined(rule: &Rule, uid: &EntityUid, world: &World) -> Option<Finding> {
    let kind = Kind::of(uid)?;
    let names = kind.split(uid.id().unescaped())?;
    let name = names.first()?.as_str();
    let (what, known): (&str, Vec<&str>) = match kind {
        Kind::NonHumanIdentity => ("identity", strings(&world.identities)),
        // Where nobody is said to approve, root does, and is of every group.
        Kind::Group if rule.actions == [Action::Approve] && world.approver_groups.is_none() => return None,
        Kind::Group if rule.actions.contains(&Action::Approve) => {
            let people = world.approver_groups.iter().flatten();
            ("group", world.groups.iter().chain(people).map(String::as_str).collect())
        }
        Kind::Group => ("group", strings(&world.groups)),
        Kind::Person => ("person", strings(world.people.as_ref()?)),
        Kind::Env => ("environment", world.targets.values().map(String::as_str).collect()),
        Kind::Target
        | Kind::Database
        | Kind::Schema
        | Kind::Table
        | Kind::Routine
        | Kind::Column
        | Kind::Account => ("target", world.targets.keys().map(String::as_str).collect()),
        Kind::Tag => ("tag", strings(&world.tags)),
        Kind::Flag => ("flag", world.flags.as_ref()?.iter().map(|flag| flag.as_str()).collect()),
        Kind::Action => return None,
    };
    if known.contains(&name) {
        return None;
    }
    Some(finding(rule, format!("names {uid}, but nothing defines the {what} {name:?}"), name, &known))
}

fn unapprovable(rule: &Rule, world: &World) -> Option<Finding> {
    let need = rule.annotations.approval.as_ref()?;
    let known = strings(world.approver_groups.as_ref()?);
    let unknown = need.groups.iter().find(|group| !known.contains(&group.as_str()))?;
    let message = format!("needs approval by {unknown:?}, which is no group of approvers");
    Some(finding(rule, message, unknown, &known))
}

fn unrecordable(rule: &Rule, world: &World) -> Option<Finding> {
    let available = world.record_modes.as_ref()?;
    let mode = rule.annotations.record.iter().find(|mode| !available.contains(mode))?;
    let found = finding(rule, format!("asks to record {mode}, which this agent cannot"), "", &[]);
    let hint = (*mode == RecordMode::Raw)
        .then(|| "raw values are sealed to auditors: name their public keys in record.auditors".to_owned());
    Some(Finding { hint, ..found })
}

fn finding(rule: &Rule, message: String, typed: &str, known: &[&str]) -> Finding {
    let place = rule.place.clone();
    let hint = nearest(typed, known).map(|name| format!("did you mean {name:?}?"));
    Finding { id: rule.id.clone(), file: place.file, line: place.line, column: place.column, message, hint }
}

fn strings(set: &BTreeSet<String>) -> Vec<&str> {
    set.iter().map(String::as_str).collect()
}
