//! Every case of the published matrix and of the files beside it, against a real server's catalogue.

#![expect(clippy::expect_used, clippy::panic, reason = "a test fails by panicking, in its helpers too")]

#[path = "cases/definitions.rs"]
mod definitions;
mod support;

use support::{Outcome, directory, labelled, outcome, unlabelled};

#[derive(serde::Deserialize)]
struct Case {
    id: String,
    sql: Vec<String>,
    expect: String,
}

#[test]
fn published_cases_come_out_as_published() {
    let text = std::fs::read_to_string(directory().join("cases/published.json")).expect("readable");
    let cases: Vec<Case> = serde_json::from_str(&text).expect("well formed");
    assert_eq!(cases.len(), 60);
    let view = labelled();
    let mut wrong = Vec::new();
    for case in cases {
        let got = outcome(&view, &case.sql);
        let name = match &got {
            Outcome::Allow => "ALLOW",
            Outcome::Mask(_) => "MASK",
            Outcome::Deny(_) => "DENY",
        };
        if name != case.expect {
            wrong.push(format!("{} {:?}: wanted {}, got {got:?}", case.id, case.sql, case.expect));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A line is `ALLOW`, `MASK` with positions, or `DENY` with a word of the refusal, then ` | ` and the SQL; strings of one
/// session are separated by ` ;; `.
fn check_file(name: &str, at_least: usize) {
    let text = std::fs::read_to_string(directory().join("cases").join(name)).expect("readable");
    let view = labelled();
    let mut wrong = Vec::new();
    let mut count = 0;
    for line in text.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#')) {
        let (expect, sql) = line.split_once(" | ").unwrap_or_else(|| panic!("no separator: {line}"));
        let strings: Vec<&str> = sql.split(" ;; ").collect();
        let got = outcome(&view, &strings);
        count += 1;
        let (verdict, detail) = expect.trim().split_once(' ').unwrap_or((expect.trim(), ""));
        let fits = match (verdict, &got) {
            ("ALLOW", Outcome::Allow) => true,
            ("MASK", Outcome::Mask(positions)) => {
                let wanted: Vec<usize> =
                    detail.split(',').map(|at| at.trim().parse().expect("a position")).collect();
                *positions == wanted
            }
            ("DENY", Outcome::Deny(why)) => why.contains(detail),
            ("ALLOW" | "MASK" | "DENY", _) => false,
            _ => panic!("not a verdict: {line}"),
        };
        if !fits {
            wrong.push(format!("{line}\n    got {got:?}"));
        }
    }
    assert!(count >= at_least, "{name} has {count} cases");
    assert!(wrong.is_empty(), "{} of {count}:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn attempts_to_leak_are_masked_or_denied() {
    check_file("leaks.txt", 500);
}

#[test]
fn ordinary_statements_pass() {
    check_file("ordinary.txt", 180);
}

#[test]
fn what_psql_asks_of_the_catalogue_passes() {
    check_file("psql.txt", 70);
}

#[test]
fn nothing_is_masked_or_refused_for_its_columns_where_nothing_is_labelled() {
    let view = unlabelled();
    for sql in [
        "SELECT u FROM users u WHERE token LIKE 'Z%' ORDER BY token",
        "SELECT row_to_json(u), reverse(token), token::int FROM users u",
        "INSERT INTO log(m) SELECT token FROM users",
        "EXPLAIN SELECT * FROM users",
        "SELECT most_common_vals FROM pg_stats",
    ] {
        assert_eq!(outcome(&view, &[sql]), Outcome::Allow, "{sql}");
    }
}
