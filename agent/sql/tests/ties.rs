//! What the server looks at together with a masked column, beyond what the fixture has.

#![expect(clippy::expect_used, reason = "a test fails by panicking, in its helpers too")]

#[expect(dead_code, reason = "shared with the case files")]
mod support;

use std::sync::Arc;

use chaperone_sql::{Catalog, How, MaskKind, RefusalKind, View, analyse};
use support::{LABELS, path, rows};

/// How a write is refused where these columns of a table are looked at together.
fn refused(table: &str, together: &str, sql: &str) -> Option<How> {
    let mut rows = rows();
    let relations = rows.get("relations").expect("answered");
    let named = |row: &&Vec<Option<String>>| row.get(2).and_then(Option::as_deref) == Some(table);
    let oid = relations.iter().find(named).and_then(|row| row.first()).cloned().expect("known");
    rows.get_mut("together").expect("answered").push(vec![oid, Some(together.to_owned())]);
    let schemas = ["app".to_owned(), "public".to_owned()];
    let catalog = Catalog::build(&rows, &schemas).expect("built");
    let masked = LABELS.lines().map(|label| (path(label), MaskKind::Redact)).collect();
    match analyse(sql, &View::build(Arc::new(catalog), &masked)) {
        Err(refusal) => match refusal.kind {
            RefusalKind::LabelledUse { how, .. } => Some(how),
            _ => None,
        },
        Ok(_) => None,
    }
}

#[test]
fn a_check_of_the_whole_row_ties_all_its_columns() {
    let sql = "UPDATE users SET name = 'x' WHERE id = 1";
    assert_eq!(refused("users", "0", sql), Some(How::Together));
    assert_eq!(refused("users", "1 2", sql), None);
    assert_eq!(refused("users", "2 5", sql), Some(How::Together));
    assert_eq!(refused("users", "2 5", "UPDATE users SET name = 'x', token = 'y'"), None);
}

#[test]
fn what_ties_columns_of_a_table_ties_those_of_its_kin() {
    let sql = |table: &str| format!("UPDATE {table} SET name = 'x' WHERE id = 1");
    for (tied, written) in [("users", "child"), ("child", "users")] {
        assert_eq!(refused(tied, "2 5", &sql(written)), Some(How::Together), "{tied} and {written}");
    }
    assert_eq!(refused("users", "2 5", &sql("v_plain")), Some(How::Together));
    assert_eq!(refused("users", "2 5", "INSERT INTO users(id, name) VALUES (9, 'x')"), None);
}
