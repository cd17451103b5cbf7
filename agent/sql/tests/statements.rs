//! What a statement is said to do: accesses, flags, names, COPY, transactions, ranges, masks and the cross-check.

#![expect(clippy::expect_used, clippy::panic, reason = "a test fails by panicking, in its helpers too")]

#[expect(dead_code, reason = "shared with the case files")]
mod support;

use std::collections::BTreeMap;
use std::sync::Arc;

use chaperone_sql::{
    Catalog, CatalogError, Class, CopyDirection, CopyFormat, Flag, MaskKind, NameOp, Origin, Output, Partial,
    RefusalKind, Statement, TransactionOp, Verb, View, analyse,
};
use support::{catalog, labelled, path, rows, unlabelled};

fn one(sql: &str) -> Statement {
    let mut list = analyse(sql, &labelled()).unwrap_or_else(|refusal| panic!("{sql}: {refusal:?}"));
    assert_eq!(list.len(), 1, "{sql}");
    list.remove(0)
}

fn check_accesses(cases: &[(&str, &str)]) {
    for (sql, expect) in cases {
        let accesses = one(sql).accesses;
        let text = |access: &chaperone_sql::Access| {
            let relation = access.relation.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string);
            format!("{:?} {relation}", access.action)
        };
        let got = accesses.iter().map(text).collect::<Vec<_>>().join(", ");
        assert_eq!(&got, expect, "{sql}");
    }
}

#[test]
fn policy_is_told_every_relation_and_what_is_done_to_it() {
    check_accesses(&[
        ("SELECT 1", "Select -"),
        ("SELECT id FROM users", "Select app.users"),
        ("SELECT a.id FROM \"users\" a, app.users b", "Select app.users"),
        (
            "SELECT u.id FROM users u JOIN public.pgbench_tellers t ON t.tid = u.id",
            "Select app.users, Select public.pgbench_tellers",
        ),
        (
            "SELECT 1 FROM pg_class WHERE EXISTS (SELECT 1 FROM log)",
            "Select pg_catalog.pg_class, Select app.log",
        ),
        ("WITH log AS (SELECT 1 AS m) SELECT m FROM log", "Select -"),
        ("WITH log AS (SELECT m FROM log) SELECT m FROM log", "Select app.log"),
        ("SELECT id FROM v_plain", "Select app.v_plain"),
        ("INSERT INTO log(m) SELECT name FROM orgs", "Insert app.log, Select app.orgs"),
        (
            "INSERT INTO log(m) VALUES ('a') ON CONFLICT (m) DO UPDATE SET n = 1",
            "Insert app.log, Update app.log",
        ),
        ("UPDATE log SET n = o.id FROM orgs o", "Update app.log, Select app.orgs"),
        ("DELETE FROM log USING orgs o WHERE o.id = n", "Delete app.log, Select app.orgs"),
        (
            "MERGE INTO log l USING orgs o ON o.id = l.n WHEN MATCHED THEN DELETE WHEN NOT MATCHED THEN INSERT (n) VALUES (1)",
            "Merge app.log, Select app.orgs, Delete app.log, Insert app.log",
        ),
        ("WITH d AS (DELETE FROM log RETURNING n) SELECT n FROM d", "Delete app.log"),
        ("TRUNCATE log, orgs", "Truncate app.log, Truncate app.orgs"),
        ("COPY log TO STDOUT", "CopyOut app.log"),
        ("COPY log FROM STDIN", "CopyIn app.log"),
        ("COPY (SELECT n FROM log) TO STDOUT", "Select app.log, CopyOut -"),
        ("CREATE TABLE t(a int)", "Ddl app.t"),
        ("CREATE TEMP TABLE log(a int)", "Ddl pg_temp.log"),
        ("CREATE TABLE public.t AS SELECT n FROM log", "Select app.log, Ddl public.t"),
        ("CREATE VIEW t AS SELECT n FROM log", "Select app.log, Ddl app.t"),
        ("SELECT n INTO t FROM log", "Select app.log, Ddl app.t"),
        ("DROP TABLE IF EXISTS log, other.users, nothing", "Ddl app.log, Ddl other.users, Ddl app.nothing"),
        ("DROP FUNCTION f()", "Ddl -"),
        ("ALTER TABLE log ADD COLUMN x int", "Ddl app.log"),
        ("CREATE INDEX ON log (n)", "Ddl app.log"),
        ("DO 'begin end'", "Call -"),
        ("CALL quiet(1)", "Call app.quiet"),
        ("SELECT pg_sleep(1)", "Call pg_catalog.pg_sleep"),
        ("GRANT SELECT ON log TO PUBLIC", "Admin app.log"),
        ("GRANT EXECUTE ON FUNCTION f() TO PUBLIC", "Admin -"),
        ("GRANT r TO s", "Admin -"),
        ("VACUUM log", "Admin app.log"),
        ("VACUUM", "Admin -"),
        ("LOCK TABLE log", "Admin app.log"),
        ("SET ROLE x", "Admin -"),
        ("SET work_mem = '1MB'", "Session -"),
        ("SHOW work_mem", "Session -"),
        ("BEGIN", "Session -"),
        ("LISTEN x", "Listen -"),
        ("PREPARE p AS DELETE FROM log", "Delete app.log"),
        ("DECLARE c CURSOR FOR SELECT n FROM log", "Select app.log"),
        ("EXPLAIN DELETE FROM log", "Delete app.log"),
        ("EXECUTE p", "Session -"),
    ]);
}

#[test]
fn flags_tell_policy_what_accesses_do_not() {
    let cases: &[(&str, &[Flag])] = &[
        ("UPDATE log SET n = 1", &[Flag::NoWhere]),
        ("DELETE FROM log", &[Flag::NoWhere]),
        ("DELETE FROM log WHERE n = 1", &[]),
        ("SELECT n FROM log FOR SHARE", &[Flag::RowLock]),
        ("WITH d AS (DELETE FROM log RETURNING n) SELECT n FROM d", &[Flag::NoWhere, Flag::NestedWrite]),
        ("EXPLAIN ANALYZE DELETE FROM log WHERE n = 1", &[Flag::NestedWrite]),
        ("TRUNCATE log CASCADE", &[Flag::Cascade]),
        ("DROP TABLE log CASCADE", &[Flag::Cascade]),
        ("DROP TABLE users", &[Flag::MaskedRelation]),
        ("DO 'begin end'", &[Flag::Opaque]),
        ("CREATE TABLE t(a int PRIMARY KEY, b text DEFAULT 'x' NOT NULL REFERENCES log(m))", &[]),
        ("CREATE TABLE t(LIKE log)", &[Flag::Opaque]),
        ("CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'", &[Flag::Opaque]),
    ];
    for (sql, flags) in cases {
        assert_eq!(one(sql).flags.into_iter().collect::<Vec<_>>(), *flags, "{sql}");
    }
}

#[test]
fn functions_off_the_list_are_policys_business_where_nothing_is_masked() {
    let view = unlabelled();
    for (sql, function) in [
        ("SELECT get_token(1)", "app.get_token"),
        ("SELECT x.* FROM query_to_xml('', true, true, '') x", "pg_catalog.query_to_xml"),
    ] {
        let list = analyse(sql, &view).expect("served");
        let call = list[0].accesses.iter().find(|access| access.action == Verb::Call).expect("a call");
        assert_eq!(call.relation.as_ref().map(ToString::to_string).as_deref(), Some(function));
        assert!(list[0].flags.iter().any(|flag| matches!(flag, Flag::OpaqueFunction(_))));
    }
}

#[test]
fn statements_that_touch_masked_relations_are_strict() {
    for sql in [
        "SELECT id FROM users",
        "SELECT id FROM child",
        "SELECT id FROM v_plain",
        "UPDATE users SET id = NULL WHERE id = 1",
        "UPDATE v_plain SET id = NULL",
        // Rows of members refer to orgs: their errors show a whole row of members.
        "DELETE FROM orgs WHERE id = 1",
        "UPDATE watched SET note = 'x' WHERE id = 1",
        "INSERT INTO watched VALUES (1)",
        "DO 'begin end'",
    ] {
        assert!(one(sql).strict, "{sql}");
    }
    for sql in [
        "SELECT 1",
        "SELECT id FROM clean",
        "SELECT id FROM orgs",
        "SELECT * FROM v_clean",
        "INSERT INTO log(n) VALUES (1)",
    ] {
        assert!(!one(sql).strict, "{sql}");
    }
    assert!(!analyse("SELECT id FROM users", &unlabelled()).expect("served")[0].strict);
}

#[test]
fn where_two_masks_meet_nothing_is_shown_but_what_both_show() {
    let kinds = [MaskKind::Partial(Partial::Email), MaskKind::Pseudonym, MaskKind::Redact, MaskKind::Null];
    for (weak, left) in kinds.iter().enumerate() {
        for right in &kinds[weak..] {
            for (token, ssn) in [(left, right), (right, left)] {
                let masked =
                    BTreeMap::from([(path("app.users.token"), *token), (path("app.users.ssn"), *ssn)]);
                let view = View::build(catalog(), &masked);
                let sql = "SELECT token FROM users UNION ALL SELECT ssn FROM users";
                let output = analyse(sql, &view).expect("served").remove(0).output;
                let Output::Columns(columns) = output else { panic!() };
                let shows = |kind| matches!(kind, MaskKind::Partial(_) | MaskKind::Pseudonym);
                let expect = if left != right && shows(*right) { MaskKind::Null } else { *right };
                assert_eq!(columns[0].mask.as_ref().expect("masked").kind, expect);
            }
        }
    }
}

/// The mask of the first output column.
fn first_mask(sql: &str, masked: &[(&str, MaskKind)]) -> MaskKind {
    let masked = masked.iter().map(|(column, kind)| (path(column), *kind)).collect();
    let view = View::build(catalog(), &masked);
    let statement = analyse(sql, &view).unwrap_or_else(|refusal| panic!("{sql}: {refusal:?}")).remove(0);
    let Output::Columns(columns) = statement.output else { panic!("{sql}") };
    let mask = columns.first().and_then(|column| column.mask.as_ref());
    mask.unwrap_or_else(|| panic!("{sql} is masked")).kind
}

#[test]
fn a_value_that_moves_through_a_recursive_query_keeps_its_mask() {
    let email = MaskKind::Partial(Partial::Email);
    for steps in ["b, c, d, a", "b, c, d, d"] {
        let sql = format!(
            "WITH RECURSIVE r(a, b, c, d, n) AS (SELECT email, name, name, token, 1 FROM users
             UNION ALL SELECT {steps}, n + 1 FROM r WHERE n < 9) SELECT a FROM r"
        );
        let masked =
            [("app.users.email", email), ("app.users.name", email), ("app.users.token", MaskKind::Redact)];
        assert_ne!(first_mask(&sql, &masked), email, "{steps}");
    }
}

#[test]
fn a_mask_of_a_table_covers_what_inherits_from_it() {
    let email = MaskKind::Partial(Partial::Email);
    let masked = [("app.users.token", email), ("app.child.token", MaskKind::Redact)];
    for sql in ["SELECT token FROM users", "SELECT token FROM child", "SELECT t FROM v_users"] {
        assert_eq!(first_mask(sql, &masked), MaskKind::Redact, "{sql}");
    }
    // What a view is labelled with does not show more than the table below it.
    let masked = [("app.users.token", MaskKind::Redact), ("app.v_users.t", email)];
    assert_eq!(first_mask("SELECT t FROM v_users", &masked), MaskKind::Redact);
}

#[test]
fn what_a_table_allows_counts_for_what_inherits_from_it() {
    use chaperone_sql::{Knobs, Predicate, Rule};
    let open = Knobs { predicate: Predicate::Any, count: true, computed: true };
    let rule = |knobs| Rule { kind: MaskKind::Redact, knobs };
    let masked = BTreeMap::from([
        (path("app.users.token"), rule(open)),
        (path("app.child.token"), rule(Knobs::default())),
    ]);
    let view = View::with_rules(catalog(), &masked);
    for sql in ["SELECT id FROM users WHERE token = 'x'", "SELECT count(token) FROM users"] {
        assert!(analyse(sql, &view).is_err(), "{sql}");
    }
}

#[test]
fn masks_fit_the_type_of_their_column() {
    let cases = [
        ("SELECT token FROM users", Some("***")),
        ("SELECT ssn FROM users", Some("***")),
        ("SELECT tag FROM members", Some("***")),
        ("SELECT nick FROM members", Some("***")),
        ("SELECT pin FROM users", None),
        ("SELECT blob FROM users", None),
        ("SELECT prof FROM users", None),
        ("SELECT born FROM members", None),
        ("SELECT t FROM v_users", Some("***")),
    ];
    for (sql, expect) in cases {
        let Output::Columns(columns) = one(sql).output else { panic!("{sql}") };
        let mask = columns[0].mask.as_ref().unwrap_or_else(|| panic!("{sql} is masked"));
        assert_eq!(mask.replacement(), expect.map(str::as_bytes), "{sql}");
    }
    let null = BTreeMap::from([(path("app.users.token"), MaskKind::Null)]);
    let view = View::build(catalog(), &null);
    let Output::Columns(columns) = analyse("TABLE child", &view).expect("served").remove(0).output else {
        panic!()
    };
    let mask = columns[4].mask.as_ref().expect("masked");
    assert_eq!((mask.replacement(), mask.path.to_string()), (None, "app.users.token".to_owned()));
}

#[test]
fn names_are_reported_for_the_session_to_keep() {
    let NameOp::Prepare { name, inner } = one("PREPARE p(int) AS SELECT token FROM users").names else {
        panic!()
    };
    assert_eq!((name.as_str(), inner.output.is_masked()), ("p", true));
    let NameOp::DeclareCursor { name, hold, binary, inner } =
        one("DECLARE \"C\" BINARY CURSOR WITH HOLD FOR SELECT token FROM users").names
    else {
        panic!()
    };
    assert_eq!((name.as_str(), hold, binary, inner.output.is_masked()), ("C", true, true, true));
    assert_eq!(one("EXECUTE p(1)").names, NameOp::Execute("p".into()));
    assert_eq!(one("EXECUTE p(1)").output, Output::OfName);
    assert_eq!(one("FETCH ALL FROM c").names, NameOp::Fetch { name: "c".into(), sends_rows: true });
    assert_eq!(one("MOVE c").output, Output::NoRows);
    assert_eq!(one("CLOSE c").names, NameOp::CloseCursor(Some("c".into())));
    assert_eq!(one("CLOSE ALL").names, NameOp::CloseCursor(None));
    assert_eq!(one("DEALLOCATE p").names, NameOp::Deallocate(Some("p".into())));
    assert_eq!(one("DEALLOCATE ALL").names, NameOp::Deallocate(None));
    // Longer names are cut where the server cuts them.
    let long = "p".repeat(80);
    assert_eq!(one(&format!("EXECUTE {long}")).names, NameOp::Execute("p".repeat(63)));
}

#[test]
fn transactions_are_reported() {
    let cases = [
        ("BEGIN", TransactionOp::Begin),
        ("START TRANSACTION READ ONLY", TransactionOp::Begin),
        ("END", TransactionOp::Commit { chain: false }),
        ("COMMIT AND CHAIN", TransactionOp::Commit { chain: true }),
        ("ABORT", TransactionOp::Rollback { chain: false }),
        ("SAVEPOINT s", TransactionOp::Savepoint("s".into())),
        ("RELEASE s", TransactionOp::Release("s".into())),
        ("ROLLBACK TO s", TransactionOp::RollbackTo("s".into())),
        ("SET CONSTRAINTS ALL IMMEDIATE", TransactionOp::CheckConstraints),
    ];
    for (sql, operation) in cases {
        assert_eq!(one(sql).transaction, Some(operation), "{sql}");
    }
}

#[test]
fn copy_tells_how_rows_look_on_the_wire() {
    let plan = one("COPY users(id, token) TO STDOUT").copy.expect("a plan");
    assert_eq!(
        (plan.direction, plan.format, plan.delimiter, plan.null.as_str()),
        (CopyDirection::Out, CopyFormat::Text, b'\t', "\\N")
    );
    let plan = one("COPY users TO STDOUT WITH CSV HEADER DELIMITER ';' NULL 'none' QUOTE ''''")
        .copy
        .expect("a plan");
    assert_eq!((plan.format, plan.delimiter, plan.header), (CopyFormat::Csv, b';', true));
    assert_eq!((plan.quote, plan.escape, plan.null.as_str()), (b'\'', b'\'', "none"));
    let plan = one("COPY clean FROM STDIN (FORMAT binary)").copy.expect("a plan");
    assert_eq!((plan.direction, plan.format), (CopyDirection::In, CopyFormat::Binary));
    // Generated columns are not copied.
    let Output::Columns(columns) = one("COPY gen TO STDOUT").output else { panic!() };
    assert_eq!(columns.iter().map(|column| column.mask.is_some()).collect::<Vec<_>>(), [false, true]);
}

#[test]
fn each_statement_of_a_string_has_its_range() {
    let sql = "SELECT 1; SELECT name FROM users ;BEGIN";
    let list = analyse(sql, &labelled()).expect("served");
    let parts: Vec<&str> = list.iter().map(|statement| &sql[statement.range.clone()]).collect();
    assert_eq!(parts, ["SELECT 1", "SELECT name FROM users ", "BEGIN"]);
    assert_eq!(
        list.iter().map(|it| it.class).collect::<Vec<_>>(),
        [Class::Select, Class::Select, Class::Transaction]
    );
    assert_eq!(analyse("", &labelled()).expect("nothing to refuse"), []);
    let refusal = analyse("SELECT 1; SELECT token || '' FROM users", &labelled()).expect_err("refused");
    assert_eq!(refusal.statement, 1);
    assert!(refusal.reason.contains("app.users.token") && !refusal.hint.is_empty());
}

#[test]
fn origins_of_result_columns_can_be_checked() {
    let view = labelled();
    let masked: Vec<(u32, i16)> = view.masked_origins().map(|(oid, number, _)| (oid, number)).collect();
    let oid = |name: &str| {
        let known = rows()["relations"].iter().find(|row| row[2].as_deref() == Some(name)).cloned();
        known.and_then(|row| row[0].clone()).and_then(|oid| oid.parse::<u32>().ok()).expect("in the fixture")
    };
    assert!(masked.contains(&(oid("mv_users"), 2)));
    assert!(matches!(view.origin(oid("child"), 5), Origin::Masked(_)));
    assert!(matches!(view.origin(oid("v_users"), 3), Origin::Masked(_)));
    assert_eq!(view.origin(oid("v_users"), 1), Origin::Clean);
    assert_eq!(view.origin(oid("v_users"), 0), Origin::LabelledWholeRow);
    assert_eq!(view.origin(oid("child"), 0), Origin::LabelledWholeRow);
    assert_eq!(view.origin(oid("clean"), 0), Origin::Clean);
    assert_eq!(view.origin(0, 0), Origin::Clean);
    assert_eq!(view.origin(oid("child"), -1), Origin::Clean);
    assert!(unlabelled().masked_origins().next().is_none());
}

#[test]
fn labels_without_a_column_are_told() {
    let masked = BTreeMap::from([
        (path("app.users.gone"), MaskKind::Redact),
        (path("app.users.pin"), MaskKind::Redact),
    ]);
    let view = View::build(catalog(), &masked);
    assert_eq!(view.unmatched(), [path("app.users.gone")]);
    assert!(!view.is_clear());
}

#[test]
fn a_label_on_a_child_reaches_its_parent_and_a_label_on_a_partition_its_siblings() {
    for (label, reached) in
        [("app.child.email", "SELECT email FROM users"), ("app.part1.token", "SELECT token FROM part")]
    {
        let view = View::build(catalog(), &BTreeMap::from([(path(label), MaskKind::Redact)]));
        assert!(analyse(reached, &view).expect("served")[0].output.is_masked(), "{label}");
    }
}

#[test]
fn a_catalogue_that_cannot_be_trusted_is_not_built() {
    let path = ["app".to_owned()];
    let built = |change: fn(&mut chaperone_sql::Rows)| {
        let mut rows = rows();
        change(&mut rows);
        Catalog::build(&rows, &path)
    };
    assert!(matches!(built(|rows| drop(rows.remove("inherits"))), Err(CatalogError::Missing("inherits"))));
    let newer = built(|rows| {
        drop(rows.insert("server".into(), vec![vec![Some("190001".into()), Some("UTF8".into())]]))
    });
    assert!(matches!(newer, Err(CatalogError::Version(190_001))));
    let torn = built(|rows| rows.get_mut("columns").expect("there")[0].truncate(2));
    assert!(matches!(torn, Err(CatalogError::Row("columns", _))));
    let user = ["\"$user\"".to_owned(), "$user".to_owned()];
    assert!(matches!(Catalog::build(&rows(), &user), Err(CatalogError::SearchPath(_))));
}

#[test]
fn the_search_path_decides_which_relation_is_meant() {
    let masked = BTreeMap::from([(path("app.users.token"), MaskKind::Redact)]);
    for (schemas, is_masked) in [(["app", "other"], true), (["other", "app"], false)] {
        let schemas = schemas.map(str::to_owned);
        let view = View::build(Arc::new(Catalog::build(&rows(), &schemas).expect("built")), &masked);
        assert_eq!(
            analyse("SELECT token FROM users", &view).expect("served")[0].output.is_masked(),
            is_masked
        );
    }
}

/// Statements at the limits, on a stack of the documented size.
#[test]
fn statements_at_the_limits_neither_overflow_nor_stall() {
    let deep = |open: &str, close: &str, count: usize| {
        format!("SELECT {}1{}", open.repeat(count), close.repeat(count))
    };
    let mut cases = vec![
        format!("SELECT {}1", "1+".repeat(1990)),
        format!("SELECT {}true", "NOT ".repeat(1990)),
        format!("SELECT {}1", "- ".repeat(1990)),
        deep("(", ")", 190),
        deep("(SELECT ", ")", 190),
        deep("coalesce(", ")", 190),
        deep("CASE WHEN true THEN ", " END", 1900),
        format!("SELECT 1{}", " UNION ALL SELECT 1".repeat(490)),
        format!(
            "SELECT 1 FROM orgs o0{}",
            (1..490).map(|n| format!(" JOIN orgs o{n} USING (id)")).collect::<String>()
        ),
        format!("SELECT 1{}", "::int".repeat(20_000)),
        format!("SELECT ('{{}}'::jsonb){}", "['a']".repeat(20_000)),
        format!("SELECT {}1", "1,".repeat(1600)),
        format!("INSERT INTO log(n) VALUES {}(1)", "(1),".repeat(100_000)),
        format!("SELECT * FROM {}orgs", "orgs,".repeat(3000)),
        format!(
            "WITH {} SELECT 1",
            (0..2000).map(|n| format!("c{n} AS (SELECT 1)")).collect::<Vec<_>>().join(",")
        ),
        format!("SELECT '{}'", "x".repeat(5 << 20)),
    ];
    let mut nested = "SELECT x, y, 1 FROM r".to_owned();
    for level in 0..12 {
        nested = format!(
            "WITH RECURSIVE r(x, y, z) AS (SELECT 'a', 'b', {level} UNION ALL SELECT y, x, z FROM ({nested}) q(x, y, z)) SELECT x, y, z FROM r"
        );
    }
    cases.push(nested.replace("SELECT x, y, 1 FROM r", "SELECT 'a', token, 1 FROM users"));
    let worker = std::thread::Builder::new().stack_size(32 << 20).spawn(move || {
        let view = labelled();
        for sql in cases {
            let start = std::time::Instant::now();
            let result = analyse(&sql, &view);
            let head: String = sql.chars().take(60).collect();
            if let Err(refusal) = result {
                let fine = matches!(refusal.kind, RefusalKind::TooComplex | RefusalKind::UnknownColumn(_));
                assert!(fine, "{head}: {refusal:?}");
            }
            assert!(start.elapsed().as_secs() < 10, "{head} took {:?}", start.elapsed());
        }
    });
    worker.expect("a thread").join().expect("no overflow");
}

#[test]
fn a_name_that_a_database_in_another_encoding_would_cut_elsewhere_is_refused_there() {
    let (x, z) = (format!("{}x", "é".repeat(40)), format!("{}z", "é".repeat(40)));
    let sql = format!(
        "SELECT (SELECT \"{x}\" FROM (SELECT 1 AS \"{z}\") s) FROM (SELECT token AS \"{x}\" FROM users) u"
    );
    let masked = BTreeMap::from([(path("app.users.token"), MaskKind::Redact)]);
    let served = |encoding: &str, masked: &BTreeMap<_, _>| {
        let mut rows = rows();
        rows.insert("server".into(), vec![vec![Some("150018".into()), Some(encoding.into())]]);
        let schemas = ["app".to_owned(), "public".to_owned()];
        let catalog = Catalog::build(&rows, &schemas).expect("built");
        analyse(&sql, &View::build(Arc::new(catalog), masked)).is_ok()
    };
    assert!(served("UTF8", &masked), "there both are the same name");
    assert!(!served("LATIN1", &masked) && !served("SQL_ASCII", &masked));
    assert!(served("LATIN1", &BTreeMap::new()));
}

#[test]
fn what_is_computed_of_a_masked_value_cannot_fail_for_some_of_them() {
    use chaperone_sql::{Knobs, Rule};
    let rule = Rule { kind: MaskKind::Redact, knobs: Knobs { computed: true, ..Knobs::default() } };
    let columns = ["app.users.token", "app.users.prof", "app.members.words", "app.clean.c"];
    let masked = columns.map(|column| (path(column), rule)).into();
    let view = View::with_rules(catalog(), &masked);
    for (sql, served) in [
        ("SELECT token || 'x' FROM users", true),
        ("SELECT coalesce(words, '{}') FROM members", true),
        ("SELECT words || '{{1,2}}' FROM members", false),
        ("SELECT '{{1,2}}' || words FROM members", false),
        ("SELECT c || '5' FROM clean", false),
        ("SELECT prof || token FROM users", false),
    ] {
        assert_eq!(analyse(sql, &view).is_ok(), served, "{sql}");
    }
}
