//! The cases of the analysis, as sessions for a real server.

use anyhow::{Context, Result};
use serde_json::Value;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Expect {
    Allow,
    Mask,
    Deny,
}

#[derive(Debug, Clone)]
pub(crate) struct Case {
    pub(crate) id: String,
    pub(crate) strings: Vec<String>,
    pub(crate) expect: Expect,
}

const PUBLISHED: &str = include_str!("../../../agent/sql/tests/cases/published.json");
const FILES: [(&str, &str); 3] = [
    ("leaks", include_str!("../../../agent/sql/tests/cases/leaks.txt")),
    ("ordinary", include_str!("../../../agent/sql/tests/cases/ordinary.txt")),
    ("psql", include_str!("../../../agent/sql/tests/cases/psql.txt")),
];

pub(crate) fn all() -> Result<Vec<Case>> {
    let published: Vec<Value> = serde_json::from_str(PUBLISHED)?;
    let mut cases = Vec::new();
    for case in &published {
        let strings = case["sql"].as_array().context("a case without SQL")?;
        cases.push(Case {
            id: case["id"].as_str().context("a case without id")?.to_owned(),
            strings: strings.iter().filter_map(|sql| sql.as_str().map(str::to_owned)).collect(),
            expect: expectation(case["expect"].as_str().unwrap_or_default()),
        });
    }
    for (file, text) in FILES {
        for (number, line) in text.lines().enumerate() {
            let Some((expect, sql)) = line.split_once(" | ").filter(|_| !line.starts_with('#')) else {
                continue;
            };
            // The analysis' own test plays a policy that denies COPY of masked columns; here it is masked.
            let copied = expect.starts_with("DENY policy") && sql.starts_with("COPY");
            cases.push(Case {
                id: format!("{file}:{}", number + 1),
                strings: sql.split(" ;; ").map(str::to_owned).collect(),
                expect: if copied { Expect::Mask } else { expectation(expect) },
            });
        }
    }
    for case in &mut cases {
        if matches!(case.id.as_str(), "A47" | "A48") {
            case.expect = Expect::Mask;
        }
    }
    Ok(cases)
}

/// Changes of the schema: for those who may change it and nothing more, what is plain passes.
pub(crate) fn definitions() -> Vec<Case> {
    lines(include_str!("../../../agent/sql/tests/cases/definitions.txt"), "definitions", "PLAIN")
}

/// Sessions to which the server speaks late.
pub(crate) fn deferred() -> Vec<Case> {
    lines(include_str!("../../../agent/sql/tests/cases/deferred.txt"), "deferred", "SAME")
}

/// Lines of a verdict and a session; `served` is the verdict of those that are not denied.
fn lines(text: &str, file: &str, served: &str) -> Vec<Case> {
    let line = |(number, line): (usize, &str)| {
        let (expect, sql) = line.split_once(" | ").filter(|_| !line.starts_with('#'))?;
        Some(Case {
            id: format!("{file}:{}", number + 1),
            strings: sql.split(" ;; ").map(str::to_owned).collect(),
            expect: if expect == served { Expect::Allow } else { Expect::Deny },
        })
    };
    text.lines().enumerate().filter_map(line).collect()
}

fn expectation(text: &str) -> Expect {
    match text.split(' ').next() {
        Some("ALLOW") => Expect::Allow,
        Some("MASK") => Expect::Mask,
        _ => Expect::Deny,
    }
}

/// Statements whose answers differ between two databases, two sessions or two moments for good reasons.
const OWN: &[&str] = &[
    "current_database",
    "current_catalog",
    "pid",
    "pg_locks",
    "xmin",
    "ctid",
    "pg_table_size",
    "pg_total_relation_size",
    "pg_relation_size",
    "pg_database",
    "EXPLAIN (ANALYZE",
    "random",
    "uuid",
    "now()",
    "SHOW ",
    "pg_settings",
    "typeinfo_tree",
    "EXPLAIN ANALYZE",
    "clock_",
    "timeofday",
    "timestamp",
    "current_time",
    "localtime",
    "CURRENT_TIME",
    "LOCALTIME",
    "shobj_description",
    "pg_stat",
    "pg_prepared",
    "pg_cursors",
    "txid",
    "pg_current",
    "nextval",
    "pg_sleep",
    "inet_",
    "pg_postmaster",
    "pg_backend",
];

/// Whether the answer is this session's own, or this moment's.
pub(crate) fn is_own(sql: &str) -> bool {
    OWN.iter().any(|word| sql.contains(word))
}
