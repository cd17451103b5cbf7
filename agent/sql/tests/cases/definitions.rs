//! Changes of the schema: which take a permit for them alone, and which the right to everything.

use std::collections::BTreeMap;
use std::sync::Arc;

use chaperone_sql::{Catalog, Flag, MaskKind, Verb, View, analyse};

use crate::support::{LABELS, catalog, directory, labelled, path, rows};

/// What a string takes: nothing but its own permits, or why it takes more.
fn taken(sql: &str, view: &View) -> Option<String> {
    let statements = analyse(sql, view).unwrap_or_else(|refusal| panic!("{sql}: {refusal}"));
    let mut flags = statements.iter().flat_map(|statement| &statement.flags);
    let why = flags.find_map(|flag| match flag {
        Flag::Because(why) => Some(why.clone()),
        _ => None,
    });
    let admin = statements.iter().any(|statement| {
        statement.flags.contains(&Flag::Opaque)
            || statement.accesses.iter().any(|access| access.action == Verb::Admin)
    });
    admin.then(|| why.unwrap_or_default())
}

#[test]
fn what_a_change_of_the_schema_takes() {
    let text = std::fs::read_to_string(directory().join("cases/definitions.txt")).expect("readable");
    let view = labelled();
    let mut wrong = Vec::new();
    let mut count = 0;
    for line in text.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#')) {
        let (expect, sql) = line.split_once(" | ").unwrap_or_else(|| panic!("no separator: {line}"));
        count += 1;
        let taken: Vec<String> = sql
            .split(" ;; ")
            // What comes after a change reads a catalogue that is not this one.
            .filter(|sql| !sql.starts_with("SELECT") && !sql.starts_with("TABLE"))
            .filter_map(|sql| taken(sql, &view))
            .collect();
        let fits = match expect.trim().split_once(' ').unwrap_or((expect.trim(), "")) {
            ("PLAIN", _) => taken.is_empty(),
            ("ADMIN", word) => taken.iter().any(|why| why.contains(word)),
            _ => panic!("not a verdict: {line}"),
        };
        if !fits {
            wrong.push(format!("{line}\n    takes {taken:?}"));
        }
    }
    assert!(count >= 140, "{count} cases");
    assert!(wrong.is_empty(), "{} of {count}:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn a_label_stays_for_whom_it_masks_nothing() {
    let labels: Vec<_> = LABELS.lines().map(path).collect();
    let view = View::build(catalog(), &BTreeMap::new()).keeping(&labels);
    assert!(view.is_clear());
    for sql in [
        "ALTER TABLE users RENAME TO u",
        "ALTER TABLE users RENAME COLUMN token TO t",
        "ALTER TABLE users SET SCHEMA public",
        "ALTER SCHEMA app RENAME TO app2",
        "ALTER TABLE child NO INHERIT users",
        "ALTER TABLE part DETACH PARTITION part1",
    ] {
        assert!(taken(sql, &view).is_some_and(|why| why.contains("label")), "{sql}: {:?}", taken(sql, &view));
    }
    for sql in ["ALTER TABLE users RENAME COLUMN name TO n", "ALTER TABLE log RENAME TO log2"] {
        assert_eq!(taken(sql, &view), None, "{sql}");
    }
}

#[test]
fn a_name_that_hides_a_masked_table_stays() {
    let masked = LABELS.lines().map(|label| (path(label), MaskKind::Redact)).collect();
    let order = ["other".to_owned(), "app".to_owned()];
    let view = View::build(Arc::new(Catalog::build(&rows(), &order).expect("a catalogue")), &masked);
    for sql in [
        "DROP TABLE users",
        "DROP TABLE IF EXISTS other.users CASCADE",
        "ALTER TABLE other.users RENAME TO u",
        "ALTER TABLE users SET SCHEMA public",
        "DROP SCHEMA other CASCADE",
        "ALTER SCHEMA other RENAME TO o",
    ] {
        assert!(taken(sql, &view).is_some_and(|why| why.contains("mean the table")), "{sql}");
    }
    assert_eq!(taken("DROP TABLE app.users", &view), None);
    assert_eq!(taken("DROP TABLE app.log", &view), None);
}

#[test]
fn a_table_that_a_label_waits_for_is_not_touched() {
    let masked = BTreeMap::from([(path("app.soon.secret"), MaskKind::Redact)]);
    let view = View::build(catalog(), &masked);
    for sql in ["CREATE INDEX ON soon (a)", "ALTER TABLE app.soon ADD UNIQUE (a)"] {
        assert!(taken(sql, &view).is_some_and(|why| why.contains("app.soon.secret")), "{sql}");
    }
    assert_eq!(taken("CREATE INDEX ON other.soon (a)", &view), None);
}
