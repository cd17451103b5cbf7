//! Hints for mistakes Cedar has no words for, or the wrong ones.

use crate::vocabulary::{Action, Flag, nearest};

/// What a context can have, and the workload in it. A test compares this with the schema.
pub(crate) const ATTRIBUTES: &[&str] = &[
    "flags",
    "tables",
    "command",
    "programs",
    "simple",
    "line",
    "login",
    "mask",
    "path",
    "via",
    "identity",
    "owner",
    "kind",
    "rules",
    "name",
    "value",
    "host",
    "port",
    "target",
    "workload",
    "exe",
    "exe_sha256",
    "uid",
    "gid",
    "cgroup",
    "ancestors",
    "ancestors_complete",
    "unverified",
    "confirmed_by",
];

const ACTION_GROUPS: &[&str] = &["sql:all", "sql:read", "sql:write", "ssh:all", "file:all"];
const APPROVAL: &str =
    "approvals are not written in conditions: put @approval(\"group\") on the forbid, without unless";

/// What may have been meant, judged by Cedar's own message.
pub(crate) fn for_validation(message: &str) -> Option<String> {
    if let Some(typed) = between(message, "unrecognized action `Action::\"", "\"") {
        let known: Vec<&str> = Action::NAMES.iter().chain(ACTION_GROUPS).copied().collect();
        return Some(match nearest(typed, &known) {
            Some(name) => format!("did you mean Action::\"{name}\"?"),
            None => format!("known: {}", known.join(", ")),
        });
    }
    if let Some(typed) = between(message, "entity `Flag::\"", "\"") {
        return Some(match nearest(typed, Flag::NAMES) {
            Some(name) => format!("did you mean Flag::\"{name}\"?"),
            None => format!("known: {}", Flag::NAMES.join(", ")),
        });
    }
    if message.contains("in context for Action::\"connect\"")
        || message.contains("in context for Action::\"unmask\"")
        || message.contains("in context for Action::\"approve\"")
    {
        return Some(
            "only statements have facts: name their actions in the scope, for example action in Action::\"sql:all\"".into(),
        );
    }
    if let Some(attribute) = between(message, "attribute `", "`")
        && (attribute == "approval" || attribute == "tags")
    {
        return Some(for_has(attribute));
    }
    if message.contains("the types String and") {
        return Some(
            "names are entities here: Flag::\"no_where\", Table::\"shop/crm/public.t\", Tag::\"pii\"".into(),
        );
    }
    if message.contains("unable to find an applicable action") {
        return Some(
            "the action, the principal and the resource exclude each other: who asks is a NonHumanIdentity `in` a \
             Group, \"connect\" is decided on a Database, \"unmask\" on a Column, and only a Column is in a Tag"
                .into(),
        );
    }
    None
}

/// For text that is not Cedar.
pub(crate) fn for_syntax(message: &str) -> Option<String> {
    message.contains("unexpected end of input").then(|| "a policy ends with a semicolon".into())
}

/// What may have been meant by a condition on an attribute that does not exist.
pub(crate) fn for_has(attribute: &str) -> String {
    match attribute {
        "approval" => APPROVAL.into(),
        "tags" => "write resource in Tag::\"pii\", or resource in [Tag::\"pii\", Tag::\"secret\"]".into(),
        _ => match nearest(attribute, ATTRIBUTES) {
            Some(name) => format!("did you mean {name}?"),
            None => format!("a context can have: {}", ATTRIBUTES.join(", ")),
        },
    }
}

fn between<'t>(text: &'t str, before: &str, after: &str) -> Option<&'t str> {
    Some(text.split_once(before)?.1.split_once(after)?.0)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::SCHEMA;

    #[test]
    fn the_known_attributes_are_those_of_the_schema() {
        let types = SCHEMA.split("\ntype ").skip(1).filter_map(|text| Some(text.split_once('}')?.0));
        let in_schema: BTreeSet<&str> = types
            .flat_map(|text| text.split_once('{').map_or(text, |(_, inside)| inside).split(['\n', ',']))
            .map(str::trim)
            .filter(|line| !line.starts_with("//"))
            .filter_map(|line| Some(line.split_once(':')?.0.trim().trim_end_matches('?')))
            .collect();
        assert_eq!(BTreeSet::from_iter(ATTRIBUTES.iter().copied()), in_schema);
    }
}
