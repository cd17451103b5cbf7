//! Cases as lines of data: `who action what [+flag ...]` against `effect rules`.

use std::time::Duration;

use chaperone_policy::{
    Action, Approval, Database, Decision, Flag, PolicySet, Principal, Request, Resource, Source,
};

pub(crate) const HASH: &str = "hash-of-the-statement";

pub(crate) fn policies(text: &str) -> PolicySet {
    PolicySet::load(&[Source::new("test.cedar", text)]).unwrap_or_else(|errors| panic!("{errors}"))
}

pub(crate) fn who(name: &str) -> Principal {
    match name {
        "bot" => Principal::new("bot", ["ai-agents"]),
        "ci" => Principal::new("ci", ["ci"]),
        "analyst" => Principal::new("analyst", ["ai-agents", "pii-readers"]),
        "stranger" => Principal::new("stranger", [""; 0]),
        other => panic!("no such principal {other}"),
    }
}

/// `db`, `db/schema`, `db/schema.table`, `db/schema.table.column#tag#tag`; `shop` is prod, `analytics` is staging.
/// A routine is written `db/schema.name()`.
pub(crate) fn what(text: &str) -> Resource {
    let (path, tags) = text.split_once('#').unwrap_or((text, ""));
    let tags: Vec<&str> = tags.split('#').filter(|tag| !tag.is_empty()).collect();
    let (database, below) = path.split_once('/').unwrap_or((path, ""));
    let database = match database {
        "shop" => Database::new("shop", "prod", "crm"),
        "analytics" => Database::new("analytics", "staging", "events"),
        other => panic!("no such database {other}"),
    };
    match below.split('.').collect::<Vec<_>>()[..] {
        [""] => database.resource(),
        [schema] => database.schema(schema),
        [schema, routine] if routine.ends_with("()") => {
            database.routine(schema, routine.trim_end_matches("()"))
        }
        [schema, table] => database.table(schema, table),
        [schema, table, column] => database.column(schema, table, column, &tags),
        _ => panic!("no such resource {text}"),
    }
}

pub(crate) fn yes(by: &str, groups: &[&str]) -> Approval {
    Approval {
        by: by.into(),
        groups: groups.iter().map(|group| (*group).to_owned()).collect(),
        statement_hash: HASH.into(),
        age: Duration::from_secs(60),
    }
}

pub(crate) fn ask(policies: &PolicySet, line: &str, approvals: &[Approval]) -> Decision {
    let words: Vec<&str> = line.split_whitespace().collect();
    let [principal, action, resource, flags @ ..] = &words[..] else { panic!("not a case: {line}") };
    let action: Action = action.parse().unwrap();
    let flags: Vec<Flag> = flags.iter().map(|flag| flag.trim_start_matches('+').parse().unwrap()).collect();
    policies.decide(&Request {
        flags: &flags,
        approvals,
        statement_hash: HASH,
        ..Request::new(&who(principal), action, &what(resource))
    })
}

/// The effect and the rules behind it, as one line.
pub(crate) fn brief(decision: &Decision) -> String {
    let effect = format!("{:?}", decision.effect).to_lowercase();
    let rules =
        if decision.policies.is_empty() { decision.rule().into() } else { decision.policies.join(" ") };
    format!("{effect} {rules}")
}

/// Checks lines of `case => expected`.
pub(crate) fn check(policies: &PolicySet, table: &str) {
    let mut checked = 0;
    for line in table.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let (case, expected) = line.split_once("=>").unwrap_or_else(|| panic!("not a case: {line}"));
        let decision = ask(policies, case, &[]);
        assert_eq!(brief(&decision), expected.trim(), "{case}: {}", decision.reason);
        checked += 1;
    }
    assert!(checked > 0, "an empty table checks nothing");
}
