//! Columns in which values of several origins meet: what one's mask shows is not shown of another, and no mask that stands
//! for a value by a secret of the host's is tried on values that a client chose.

#![expect(clippy::expect_used, reason = "a test fails by panicking, in its helpers too")]

#[expect(dead_code, reason = "shared with the case files")]
mod support;

use std::sync::Arc;

use chaperone_sql::{Catalog, How, MaskKind, Output, Partial, RefusalKind, Reshapes, View, analyse};
use support::{catalog, labelled, path, rows};

/// The mask of the first column.
fn mask(sql: &str, masked: &[(&str, MaskKind)]) -> Option<MaskKind> {
    let masked = masked.iter().map(|(column, kind)| (path(column), *kind)).collect();
    let statements = analyse(sql, &View::build(catalog(), &masked)).expect("served");
    match &statements.first().expect("one").output {
        Output::Columns(columns) => Some(columns.first()?.mask.as_ref()?.kind),
        _ => None,
    }
}

#[test]
fn a_stand_in_is_given_for_values_of_its_own_column_only() {
    let served = |kind, rest: &str| {
        mask(&format!("SELECT token FROM users {rest}"), &[("app.users.token", kind)]).expect("masked")
    };
    let chosen = [
        "UNION ALL SELECT 'guess'",
        "UNION ALL SELECT $1",
        "UNION ALL SELECT name FROM users",
        "UNION ALL VALUES ('a'), ('b')",
        "UNION ALL SELECT m FROM log",
    ];
    for rest in chosen {
        assert_eq!(served(MaskKind::Pseudonym, rest), MaskKind::Null, "{rest}");
        // The last four digits of a number that somebody knows are nothing new.
        assert_eq!(
            served(MaskKind::Partial(Partial::Card), rest),
            MaskKind::Partial(Partial::Card),
            "{rest}"
        );
    }
    for rest in ["", "WHERE id = 1", "UNION ALL SELECT token FROM child"] {
        assert_eq!(served(MaskKind::Pseudonym, rest), MaskKind::Pseudonym, "{rest}");
    }
    let inside = [
        "SELECT 'guess' UNION ALL SELECT token FROM users",
        "SELECT x FROM (VALUES ('guess'), ((SELECT token FROM users LIMIT 1))) s(x)",
        "WITH c AS (SELECT token AS x FROM users UNION ALL SELECT 'guess') SELECT x FROM c",
        "WITH RECURSIVE r(x, n) AS (SELECT token, 1 FROM users UNION ALL SELECT 'guess', n + 1 FROM r WHERE n < 2) \
         SELECT x FROM r",
        "WITH RECURSIVE r(x, y, n) AS (SELECT token, name, 1 FROM users \
         UNION ALL SELECT y, x, n + 1 FROM r WHERE n < 3) SELECT x FROM r",
    ];
    for sql in inside {
        assert_eq!(mask(sql, &[("app.users.token", MaskKind::Pseudonym)]), Some(MaskKind::Null), "{sql}");
    }
    // Not a text: the days between are as secret.
    let shifted = [("app.users.pin", MaskKind::Shift)];
    assert_eq!(mask("SELECT pin FROM users", &shifted), Some(MaskKind::Shift));
    assert_eq!(mask("SELECT pin FROM users UNION ALL SELECT 1", &shifted), Some(MaskKind::Null));
}

#[test]
fn no_mask_shows_more_of_a_value_than_its_own() {
    let check = |one, other, expect| {
        let masked = [("app.users.token", one), ("app.users.name", other)];
        for sql in [
            "SELECT token FROM users UNION ALL SELECT name FROM users",
            "SELECT name FROM users UNION ALL SELECT token FROM users",
        ] {
            assert_eq!(mask(sql, &masked), Some(expect), "{one:?} {other:?} {sql}");
        }
    };
    let (card, email) = (MaskKind::Partial(Partial::Card), MaskKind::Partial(Partial::Email));
    check(card, card, card);
    check(card, email, MaskKind::Null);
    check(MaskKind::Pseudonym, MaskKind::Pseudonym, MaskKind::Pseudonym);
    check(MaskKind::Pseudonym, card, MaskKind::Null);
    check(MaskKind::Redact, card, MaskKind::Redact);
    check(MaskKind::Pseudonym, MaskKind::Fixed, MaskKind::Fixed);
    // Buckets are as wide as their own label says, and dates are moved as far.
    for kind in [MaskKind::Bucket, MaskKind::Shift] {
        let masked = [("app.users.pin", kind), ("app.users.id", kind)];
        assert_eq!(
            mask("SELECT pin FROM users UNION ALL SELECT id FROM users", &masked),
            Some(MaskKind::Null)
        );
        assert_eq!(mask("SELECT pin FROM users UNION ALL SELECT pin FROM users", &masked), Some(kind));
    }
}

#[test]
fn two_labels_of_one_column_show_what_both_do() {
    let kinds = [MaskKind::Pseudonym, MaskKind::Partial(Partial::Email)];
    for [one, other] in [kinds, [kinds[1], kinds[0]]] {
        let masked = [("app.users.token", one), ("app.child.token", other)];
        for sql in ["SELECT token FROM users", "SELECT token FROM child"] {
            assert_eq!(mask(sql, &masked), Some(MaskKind::Redact), "{sql}");
        }
    }
}

#[test]
fn numbers_are_not_rounded_before_they_are_masked() {
    let view = |labels: &[&str]| {
        let masked = labels.iter().map(|label| (path(label), MaskKind::Bucket)).collect();
        View::build(catalog(), &masked)
    };
    let (masked, clear) = (view(&["app.users.pin"]), view(&[]));
    for (sql, served) in [
        ("SET extra_float_digits = 3", true),
        ("SET extra_float_digits TO '1'", true),
        ("RESET extra_float_digits", true),
        ("SET extra_float_digits = 0", false),
        ("SET LOCAL Extra_Float_Digits TO -15", false),
        ("SET extra_float_digits = '0x0'", false),
        ("SELECT set_config('extra_float_digits', '-1', false)", false),
    ] {
        assert_eq!(analyse(sql, &masked).is_ok(), served, "{sql}");
        assert!(analyse(sql, &clear).is_ok(), "{sql}");
    }
}

#[test]
fn values_that_meet_others_are_not_brought_to_a_type_that_some_do_not_fit() {
    let mut rows = rows();
    let columns = rows.get_mut("columns").expect("answered");
    // users.pin as a bigint: what is larger than an OID, or negative, is an error as one.
    let pin = |row: &&mut Vec<Option<String>>| row.get(1).and_then(Option::as_deref) == Some("pin");
    columns.iter_mut().filter(pin).for_each(|row| row[3] = Some("20".into()));
    let schemas = ["app".to_owned(), "public".to_owned()];
    let catalog = Arc::new(Catalog::build(&rows, &schemas).expect("built"));
    let masked = [(path("app.users.pin"), MaskKind::Redact), (path("app.users.token"), MaskKind::Redact)];
    let view = View::build(catalog, &masked.into());
    for (sql, served) in [
        ("SELECT 1::oid UNION ALL SELECT pin FROM users", false),
        ("SELECT pin FROM users UNION ALL SELECT id FROM users", false),
        ("SELECT pin FROM users UNION ALL SELECT $1", false),
        ("SELECT NULL UNION ALL SELECT 1::oid UNION ALL SELECT pin FROM users", false),
        ("SELECT pin FROM users UNION ALL SELECT NULL UNION ALL SELECT 1::oid", false),
        ("VALUES (1::oid), ((SELECT pin FROM users LIMIT 1))", false),
        ("SELECT pin FROM users UNION ALL SELECT NULL", true),
        ("VALUES (0), ((SELECT pin FROM users LIMIT 1))", true),
        ("SELECT pin FROM users UNION ALL SELECT pin FROM child", true),
        ("SELECT 1::oid UNION ALL SELECT id FROM users", true),
        ("SELECT token FROM users UNION ALL SELECT 'x'::name", true),
    ] {
        match analyse(sql, &view) {
            Ok(_) => assert!(served, "{sql}"),
            Err(refusal) => {
                assert!(matches!(refusal.kind, RefusalKind::LabelledUse { how: How::Meeting, .. }), "{sql}");
                assert!(!served, "{sql}: {refusal:?}");
            }
        }
    }
}

/// A schema comes into being that a new session would look names up in first: `"$user"` is on every path.
#[test]
fn a_session_keeps_the_schemas_of_its_login() {
    let mut rows = rows();
    let mut add = |query: &str, row: &[&str]| {
        let row = row.iter().map(|value| Some((*value).to_owned())).collect();
        rows.get_mut(query).expect("answered").push(row);
    };
    add("schemas", &["agent", "t"]);
    add("schemas", &["closed", "f"]);
    for (oid, schema) in [("900001", "agent"), ("900002", "closed")] {
        add("relations", &[oid, schema, "users", "r", "f", "f"]);
        add("columns", &[oid, "token", "1", "25"]);
    }
    rows.get_mut("columns").expect("answered").iter_mut().for_each(|row| row.resize(5, None));
    let names = |list: &[&str]| list.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    let catalog = Arc::new(Catalog::build(&rows, &names(&["agent", "app", "public"])).expect("built"));
    let masked = [(path("app.users.token"), MaskKind::Redact)].into();
    let view = |schemas: &[&str]| View::build(Arc::clone(&catalog), &masked).on_path(&names(schemas));
    let sql = "SELECT token || '' FROM users";
    assert!(analyse(sql, &view(&["agent", "app", "public"])).is_ok(), "a table of its own");
    for schemas in
        [&["app", "public"][..], &["gone", "app", "agent"], &["closed", "app"], &["app", "pg_temp"]]
    {
        assert!(analyse(sql, &view(schemas)).is_err(), "{schemas:?}");
    }
    assert!(analyse("SELECT id FROM orgs", &view(&["public", "other"])).is_err(), "not on the path");
}

#[test]
fn no_name_is_put_before_that_of_a_labelled_table() {
    let mut rows = rows();
    rows.get_mut("schemas").expect("answered").push(vec![Some("first".into()), Some("t".into())]);
    let schemas = ["first", "app", "public"].map(str::to_owned);
    let catalog = Arc::new(Catalog::build(&rows, &schemas).expect("built"));
    let masked = [(path("app.users.token"), MaskKind::Redact)].into();
    let view = View::build(catalog, &masked);
    let opaque = |sql: &str, view: &View| {
        let statement = analyse(sql, view).expect("served").remove(0);
        statement.flags.contains(&chaperone_sql::Flag::Opaque)
    };
    for (sql, takes) in [
        ("CREATE TABLE users(id int, token text)", true),
        ("CREATE TABLE first.users AS SELECT 1 AS id", true),
        ("SELECT 1 AS id INTO users", true),
        ("CREATE VIEW first.v_users AS SELECT 1 AS t", true),
        ("CREATE TABLE first.child(id int)", true),
        ("ALTER TABLE app.orgs SET SCHEMA first", false),
        ("CREATE TABLE first.orgs(id int)", false),
        ("CREATE TABLE other.users(id int)", false),
        ("CREATE TABLE public.users(id int)", false),
        ("CREATE TEMP TABLE users(id int)", false),
    ] {
        assert_eq!(opaque(sql, &view), takes, "{sql}");
    }
    // A namesake that is on no path hides nothing, and can go.
    assert!(!opaque("DROP TABLE other.users", &labelled()));
}

/// What one may see is masked for others.
#[test]
fn a_label_is_not_taken_off_by_whom_it_masks_nothing_for() {
    let label = path("app.child.token");
    let masked = [(path("app.orgs.name"), MaskKind::Redact)].into();
    let view = View::build(catalog(), &masked).keeping([&label]);
    for (sql, takes) in [
        ("ALTER TABLE child DROP COLUMN token", true),
        ("ALTER TABLE users DROP COLUMN token", true),
        ("ALTER TABLE users RENAME COLUMN token TO t", true),
        ("ALTER TABLE users DROP COLUMN email", false),
        ("ALTER TABLE users RENAME COLUMN email TO mail", false),
    ] {
        let statement = analyse(sql, &view).expect("served").remove(0);
        assert_eq!(statement.flags.contains(&chaperone_sql::Flag::Opaque), takes, "{sql}");
    }
}

#[test]
fn how_far_a_sequence_is_tells_of_the_column_it_numbers() {
    let mut rows = rows();
    let relations = rows.get("relations").expect("answered");
    let named =
        |row: &&Vec<Option<String>>| row[1].as_deref() == Some("app") && row[2].as_deref() == Some("users");
    let users = relations.iter().find(named).and_then(|row| row[0].clone()).expect("known");
    let all = rows["columns"].clone();
    let mut add = |query: &str, row: &[&str]| {
        let mut row: Vec<_> = row.iter().map(|value| Some((*value).to_owned())).collect();
        row.resize(if query == "columns" { 5 } else { row.len() }, None);
        rows.get_mut(query).expect("answered").push(row);
    };
    let number_of = |column: &str| {
        let mut columns = all.iter().filter(|row| row[0].as_ref() == Some(&users));
        columns.find(|row| row[1].as_deref() == Some(column)).and_then(|row| row[2].clone()).expect("known")
    };
    for (oid, name, column) in [("900001", "pin_seq", "pin"), ("900002", "id_seq", "id")] {
        add("relations", &[oid, "app", name, "S", "f", "f"]);
        for (position, column) in ["last_value", "log_cnt", "is_called"].iter().enumerate() {
            add("columns", &[oid, column, &(position + 1).to_string(), "20"]);
        }
        add("sequences", &[oid, &users, &number_of(column)]);
    }
    let schemas = ["app".to_owned(), "public".to_owned()];
    let catalog = Arc::new(Catalog::build(&rows, &schemas).expect("built"));
    let view = |column| View::build(Arc::clone(&catalog), &[(path(column), MaskKind::Redact)].into());
    let (pin, token) = (view("app.users.pin"), view("app.users.token"));
    for (sql, masked) in [
        ("SELECT last_value FROM pin_seq", true),
        ("SELECT last_value FROM pg_sequences", true),
        ("SELECT last_value FROM id_seq", false),
        ("SELECT sequencename FROM pg_sequences", false),
    ] {
        for (view, masked) in [(&pin, masked), (&token, false)] {
            let statements = analyse(sql, view).expect("served");
            assert_eq!(statements[0].output.is_masked(), masked, "{sql}");
        }
    }
    for (sql, served) in [
        ("SELECT nextval('id_seq')", true),
        ("SELECT currval('app.\"id_seq\"'::regclass), setval('pin_seq', 1)", true),
        ("CREATE TABLE t(id int DEFAULT nextval('id_seq'))", true),
        ("SELECT nextval('pin_seq')", false),
        ("SELECT currval('App.PIN_SEQ'::regclass)", false),
        ("SELECT currval(pg_get_serial_sequence('users', 'pin'))", false),
        ("SELECT nextval($1)", false),
        ("SELECT nextval(900001)", false),
        ("SELECT nextval('900001')", false),
        ("SELECT nextval('unknown_seq')", false),
        ("SELECT lastval()", false),
        ("SELECT pg_sequence_last_value(c.oid) FROM pg_class c", false),
        ("SELECT 1 FROM pg_sequences WHERE last_value > 5", false),
        ("SELECT * FROM id_seq JOIN pin_seq USING (last_value)", false),
    ] {
        assert_eq!(analyse(sql, &pin).is_ok(), served, "{sql}");
        assert!(analyse(sql, &token).is_ok(), "{sql}");
    }
}

#[test]
fn what_other_statements_name_by_then_is_told() {
    let view = labelled();
    let names = |list: &[&str]| Reshapes::Names(list.iter().map(|name| Arc::from(*name)).collect());
    for (sql, expect) in [
        ("CREATE TABLE t(a int)", names(&["t"])),
        ("CREATE TEMP TABLE t(a int)", Reshapes::Nothing),
        ("CREATE TABLE other.t AS SELECT 1 AS a", names(&["t"])),
        ("SELECT 1 AS a INTO t", names(&["t"])),
        ("CREATE VIEW t AS SELECT 1 AS a", names(&["t"])),
        ("CREATE SEQUENCE t", names(&["t"])),
        ("CREATE TABLE IF NOT EXISTS orgs(a int)", Reshapes::Nothing),
        ("CREATE TABLE IF NOT EXISTS t(a int)", names(&["t"])),
        ("CREATE OR REPLACE VIEW v_clean AS SELECT 1 AS id", names(&["v_clean"])),
        ("ALTER TABLE orgs RENAME TO t", names(&["orgs", "t"])),
        ("ALTER TABLE orgs SET SCHEMA other", names(&["orgs"])),
        ("ALTER TABLE users RENAME COLUMN email TO mail", names(&["users", "child"])),
        ("ALTER TABLE users DROP COLUMN email", names(&["users", "child"])),
        ("ALTER TABLE child DROP COLUMN email", names(&["users", "child"])),
        ("ALTER TABLE users DROP COLUMN email CASCADE", Reshapes::Everything),
        ("DROP TABLE orgs, log", names(&["orgs", "log"])),
        ("DROP TABLE orgs CASCADE", Reshapes::Everything),
        ("DROP TYPE mood CASCADE", Reshapes::Everything),
        ("DROP SCHEMA other", Reshapes::Everything),
        ("ALTER SCHEMA other RENAME TO t", Reshapes::Everything),
        ("DROP INDEX t", Reshapes::Nothing),
        ("CREATE INDEX t ON orgs(name)", Reshapes::Nothing),
        ("SELECT token FROM users", Reshapes::Nothing),
    ] {
        assert_eq!(analyse(sql, &view).expect("served")[0].reshapes, expect, "{sql}");
    }
}
