//! Writes of a masked column that would tell of it by what the server does beside them.

#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test fails by panicking, in its helpers too"
)]

#[expect(dead_code, reason = "shared with the case files")]
mod support;

use std::collections::BTreeMap;
use std::sync::Arc;

use chaperone_sql::{Catalog, How, Knobs, MaskKind, Predicate, RefusalKind, Rule, View, analyse};
use support::{path, rows};

/// With what one relation's triggers and indexes tell.
fn catalog(table: &str, telling: &[(&str, &str)]) -> Arc<Catalog> {
    with("telling", table, telling)
}

/// The catalogue of the fixture with these answers about one relation beside its own.
fn with(query: &str, table: &str, answers: &[(&str, &str)]) -> Arc<Catalog> {
    let mut rows = rows();
    let named =
        |row: &&Vec<Option<String>>| row[1].as_deref() == Some("app") && row[2].as_deref() == Some(table);
    let oid = rows["relations"].iter().find(named).and_then(|row| row[0].clone());
    let list = rows.get_mut(query).expect("answered");
    list.extend(
        answers
            .iter()
            .map(|(columns, kind)| vec![oid.clone(), Some((*columns).to_owned()), Some((*kind).to_owned())]),
    );
    Arc::new(Catalog::build(&rows, &["app".to_owned(), "public".to_owned()]).expect("built"))
}

fn refused(catalog: &Arc<Catalog>, masked: &[(&str, Rule)], sql: &str) -> Option<How> {
    let masked: BTreeMap<_, _> = masked.iter().map(|(column, rule)| (path(column), *rule)).collect();
    match analyse(sql, &View::with_rules(Arc::clone(catalog), &masked)) {
        Ok(_) => None,
        Err(refusal) => match refusal.kind {
            RefusalKind::LabelledUse { how, .. } => Some(how),
            other => panic!("{sql}: {other:?}"),
        },
    }
}

const TOKEN: &str = "app.users.token";
const UPDATE: &str = "UPDATE users SET token = 'guess' WHERE id = 1";
const INSERT: &str = "INSERT INTO users(id, token) VALUES (9, 'guess')";

/// `suppress_redundant_updates_trigger` counts no row, a trigger with `WHEN (old.* IS DISTINCT FROM new.*)` does not fire.
#[test]
fn who_updates_is_not_told_whether_something_changed() {
    let (plain, watched) = (catalog("users", &[]), catalog("users", &[("0", "changed")]));
    let masked = [(TOKEN, MaskKind::Redact.into())];
    assert_eq!(refused(&plain, &masked, UPDATE), None);
    for sql in [
        UPDATE,
        "UPDATE child SET token = 'guess'",
        "UPDATE users SET (name, token) = ('x', 'guess')",
        "INSERT INTO users(id, token) VALUES (1, 'g') ON CONFLICT (id) DO UPDATE SET token = excluded.token",
        "MERGE INTO users u USING log l ON l.n = u.id WHEN MATCHED THEN UPDATE SET token = 'guess'",
    ] {
        assert_eq!(refused(&watched, &masked, sql), Some(How::Changed), "{sql}");
    }
    assert_eq!(refused(&watched, &masked, INSERT), None);
    assert_eq!(refused(&watched, &masked, "UPDATE users SET email = 'x' WHERE id = 1"), None);
    // By the columns of its condition, where it names them.
    for (columns, expect) in [("2 3", None), ("2 5", Some(How::Changed))] {
        assert_eq!(refused(&catalog("users", &[(columns, "changed")]), &masked, UPDATE), expect, "{columns}");
    }
    let any = Rule { kind: MaskKind::Redact, knobs: Knobs { predicate: Predicate::Any, ..Knobs::default() } };
    assert_eq!(refused(&watched, &[(TOKEN, any)], UPDATE), None);
}

/// Of an index over (name, token), rows of one name come by their tokens: a row of one's own stands before or behind.
#[test]
fn no_guess_is_put_where_rows_come_in_the_order_of_masked_values() {
    let redact = [(TOKEN, MaskKind::Redact.into())];
    let ordered = catalog("users", &[("2 5", "ordered")]);
    let copy = "COPY users(id, token) FROM STDIN";
    let merge = "MERGE INTO users u USING log l ON l.n = u.id WHEN NOT MATCHED THEN INSERT (id, token) VALUES (9, 'g')";
    for sql in [UPDATE, INSERT, copy, merge, "INSERT INTO child(id, token) VALUES (9, 'guess')"] {
        assert_eq!(refused(&ordered, &redact, sql), Some(How::Ordering), "{sql}");
    }
    assert_eq!(refused(&ordered, &redact, "INSERT INTO users(id, name) VALUES (9, 'x')"), None);
    assert_eq!(refused(&ordered, &[("app.users.pin", MaskKind::Redact.into())], INSERT), None);
    // By itself, an index gives nothing but masks in its order: that tells where they stand for values.
    let alone = catalog("users", &[("5", "alone")]);
    assert_eq!(refused(&alone, &redact, INSERT), None);
    assert_eq!(refused(&alone, &[(TOKEN, MaskKind::Pseudonym.into())], INSERT), Some(How::Ordering));
    // A generated column of the index is made of what is written.
    let made = catalog("gen", &[("1 3", "ordered")]);
    let insert = "INSERT INTO gen(id, token) VALUES (9, 'guess')";
    assert_eq!(refused(&made, &[("app.gen.token", MaskKind::Redact.into())], insert), Some(How::Ordering));
    assert_eq!(refused(&catalog("gen", &[]), &[("app.gen.token", MaskKind::Redact.into())], insert), None);
}

/// What a masked column refers to is locked when it comes to refer to it, and whoever looks sees that.
#[test]
fn a_masked_reference_is_not_tried() {
    let plain = catalog("users", &[]);
    let masked = [("app.members.tag", MaskKind::Redact.into())];
    let update = "UPDATE members SET tag = 'guess' WHERE id = 1";
    assert_eq!(refused(&plain, &masked, update), Some(How::Changed));
    assert_eq!(refused(&plain, &masked, "INSERT INTO members(id, org_id, tag) VALUES (9, 1, 'x')"), None);
}

/// `lower(email)` as a column of its own, and unique.
#[test]
fn a_unique_column_that_is_made_of_a_masked_one_tells_as_much() {
    let masked = [("app.gen.token", MaskKind::Redact.into())];
    let insert = "INSERT INTO gen(id, token) VALUES (9, 'guess')";
    let unique = with("uniques", "gen", &[("3", "f")]);
    assert_eq!(refused(&unique, &masked, insert), Some(How::WriteOracle));
    assert_eq!(refused(&unique, &masked, "UPDATE gen SET token = 'guess'"), Some(How::WriteOracle));
    assert_eq!(refused(&unique, &masked, "INSERT INTO gen(id) VALUES (9)"), None);
    // Made of what is not masked.
    assert_eq!(refused(&with("uniques", "gen", &[("4", "f")]), &masked, insert), None);
}
