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

/// What a string is asked of, and as what.
fn asked(sql: &str, view: &View) -> Vec<String> {
    let statements = analyse(sql, view).unwrap_or_else(|refusal| panic!("{sql}: {refusal}"));
    let accesses = statements.iter().flat_map(|statement| &statement.accesses);
    let text = |access: &chaperone_sql::Access| {
        let name = access.relation.as_ref().map_or("the database".to_owned(), ToString::to_string);
        format!("{:?} {name}", access.action)
    };
    accesses.map(text).collect()
}

#[test]
fn what_belongs_to_a_table_is_decided_on_as_the_table_is() {
    let view = labelled();
    for (sql, expect) in [
        ("DROP INDEX log_m_key", vec!["Ddl app.log"]),
        ("DROP INDEX CONCURRENTLY IF EXISTS app.users_pkey", vec!["Ddl app.users"]),
        ("DROP INDEX log_m_key, orgs_pkey, no_such", vec!["Ddl app.log", "Ddl app.orgs", "Ddl the database"]),
        ("DROP INDEX public.log_m_key", vec!["Ddl the database"]),
        ("ALTER INDEX log_m_key RENAME TO x", vec!["Ddl app.log"]),
        ("ALTER TABLE log_m_key RENAME TO x", vec!["Ddl app.log"]),
        ("ALTER INDEX app.log_m_key SET (fillfactor = 70)", vec!["Ddl app.log"]),
        ("ALTER INDEX log_m_key ATTACH PARTITION orgs_pkey", vec!["Ddl app.log", "Ddl app.orgs"]),
        ("REINDEX INDEX log_m_key", vec!["Ddl app.log"]),
        ("REINDEX INDEX CONCURRENTLY users_pkey", vec!["Admin app.users"]),
        ("REINDEX TABLE log", vec!["Ddl app.log"]),
        ("DROP TRIGGER t ON log", vec!["Ddl app.log"]),
        ("DROP RULE r ON other.users CASCADE", vec!["Ddl other.users"]),
        ("DROP POLICY p ON users", vec!["Ddl app.users"]),
        ("DROP FUNCTION f(int)", vec!["Ddl the database"]),
        ("DROP STATISTICS s", vec!["Ddl the database"]),
        ("COMMENT ON TABLE users IS 'x'", vec!["Ddl app.users"]),
        ("COMMENT ON COLUMN app.log.m IS 'x'", vec!["Ddl app.log"]),
        ("COMMENT ON TRIGGER t ON log IS 'x'", vec!["Ddl app.log"]),
        ("COMMENT ON CONSTRAINT c ON other.users IS 'x'", vec!["Ddl other.users"]),
        ("COMMENT ON INDEX log_m_key IS 'x'", vec!["Ddl app.log"]),
        ("COMMENT ON SCHEMA app IS 'x'", vec!["Ddl the database"]),
        ("ANALYZE log, users, orgs", vec!["Ddl app.log", "Admin app.users", "Ddl app.orgs"]),
    ] {
        let mut asked = asked(sql, &view);
        let mut expect: Vec<String> = expect.into_iter().map(str::to_owned).collect();
        asked.sort();
        expect.sort();
        assert_eq!(asked, expect, "{sql}");
    }
}

#[test]
fn what_runs_code_of_the_databases_own_takes_more() {
    let masked = LABELS.lines().map(|label| (path(label), MaskKind::Redact)).collect();
    let mut rows = rows();
    let indexes = rows.get_mut("indexes").expect("it is asked");
    let index = indexes.iter_mut().find(|row| row[1].as_deref() == Some("log_m_key")).expect("it is there");
    index[3] = Some("t".to_owned());
    let path = ["app".to_owned(), "public".to_owned()];
    let view = View::build(Arc::new(Catalog::build(&rows, &path).expect("a catalogue")), &masked);
    for sql in ["REINDEX INDEX log_m_key", "REINDEX TABLE log", "ANALYZE log", "CLUSTER log USING log_m_key"]
    {
        assert_eq!(asked(sql, &view), ["Admin app.log"], "{sql}");
    }
    assert_eq!(asked("DROP INDEX log_m_key", &view), ["Ddl app.log"]);
}

#[test]
fn a_view_that_is_served_in_clear_may_be_refreshed() {
    let masked = LABELS.lines().map(|label| (path(label), MaskKind::Redact)).collect();
    for (query, plain) in [
        ("SELECT id, b AS token FROM app.clean", true),
        ("SELECT id, lower(b) AS token FROM app.clean", true),
        ("SELECT id, app.get_token(id) AS token FROM app.clean", false),
        ("SELECT id, name AS token FROM app.users WHERE token IS NOT NULL", false),
        ("SELECT id, token FROM app.users", false),
    ] {
        let mut rows = rows();
        let views = rows.get_mut("views").expect("it is asked");
        let relations = &catalog();
        let id = relations.family(&path("app.mv_users.id")).first().expect("it is there").oid.to_string();
        let view = views.iter_mut().find(|row| row[0].as_deref() == Some(&id)).expect("it is there");
        view[1] = Some(query.to_owned());
        let order = ["app".to_owned(), "public".to_owned()];
        let view = View::build(Arc::new(Catalog::build(&rows, &order).expect("a catalogue")), &masked);
        for sql in
            ["REFRESH MATERIALIZED VIEW mv_users", "REFRESH MATERIALIZED VIEW CONCURRENTLY app.mv_users"]
        {
            assert_eq!(taken(sql, &view).is_none(), plain, "{query}: {sql}");
            assert_eq!(asked(sql, &view), ["Ddl app.mv_users"]);
        }
    }
    assert!(taken("REFRESH MATERIALIZED VIEW users", &labelled()).is_some());
}
