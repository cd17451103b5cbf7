//! Columns in which values of several origins meet: what one's mask shows is not shown of another, and no mask that stands
//! for a value by a secret of the host's is tried on values that a client chose.

#![expect(clippy::expect_used, reason = "a test fails by panicking, in its helpers too")]

#[expect(dead_code, reason = "shared with the case files")]
mod support;

use chaperone_sql::{MaskKind, Output, Partial, View, analyse};
use support::{catalog, path};

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
