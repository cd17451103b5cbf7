//! What the account at a target may do past every mask: the strongest layer under the gate, if it is next to nothing.
//!
//! SQL in, SQL out: one query that lists what a role could read of labelled columns without anybody's help, and the
//! script that takes it away. Both ask PostgreSQL's own catalogue (13 and newer) and share one notion of what is
//! sensitive: the labelled columns, the same columns of parents, children and partitions, columns generated from them,
//! and views and rules that read them. What functions do is not looked into: those that run as a reader count, whether they
//! are called or fired by a trigger. Knows
//! nothing of connections.

use std::fmt::Write;

use chaperone_sql::ColumnPath;

/// Lists what `user` may do, one finding a row: text for people. No row: the account cannot reach a labelled column.
#[must_use]
pub fn check(user: &str, labels: &[ColumnPath]) -> String {
    sensitive(user, labels) + CHECK
}

/// The script that leaves `user` nothing of these columns, for psql, run by a superuser in the database.
#[must_use]
pub fn script(target: &str, user: &str, labels: &[ColumnPath]) -> String {
    let mut columns = String::new();
    for label in labels {
        // A name with a line break in it must not end the comment.
        let _ = writeln!(columns, "--   {}", label.to_string().escape_debug());
    }
    let user_line = user.escape_debug();
    let sensitive = sensitive(user, labels);
    format!(
        "-- Takes from role {user_line}, the account of target {target}, what it could read of these columns and what is\n\
         -- made from them:\n{columns}\
         -- Run it with psql as a superuser, in the database: psql -X -d DATABASE -f THIS_FILE\n\
         -- It may be run again; then it changes what has changed since. Everything happens in one transaction.\n\
         -- What it revokes from PUBLIC, other roles lose as well: read the plan it prints first (`-v dry=1` prints only).\n\
         -- Afterwards the server itself refuses statements that name these columns, `SELECT *` among them.\n\n\
         \\set ON_ERROR_STOP on\nBEGIN;\nSET LOCAL search_path = pg_catalog;\nSET LOCAL client_min_messages = warning;\n\n\
         CREATE TEMP TABLE chaperone_plan(step int, why text, statement text) ON COMMIT DROP;\n\
         INSERT INTO chaperone_plan\n{sensitive}{PLAN};\n\n\
         SELECT DISTINCT step, why, statement FROM chaperone_plan ORDER BY 1, 3;\n\
         \\if :{{?dry}}\n\\else\n\
         SELECT statement FROM (SELECT DISTINCT step, statement FROM chaperone_plan) AS plan ORDER BY step, statement\n\
         \\gexec\n\\endif\n\n\
         -- What is left that the script does not mend by itself; nothing, if there are no rows.\n\
         {sensitive}{CHECK};\nCOMMIT;\n"
    )
}

/// A literal, whatever `standard_conforming_strings` says.
fn literal(text: &str) -> String {
    format!("E'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"))
}

/// The head of both: `who(r)`, `marked(rel, num)` and `views(rel)`.
fn sensitive(user: &str, labels: &[ColumnPath]) -> String {
    let rows: Vec<String> = labels
        .iter()
        .map(|label| {
            let parts = [&label.schema, &label.table, &label.column];
            format!("({})", parts.map(|part| literal(part) + "::name").join(", "))
        })
        .collect();
    format!(
        "WITH RECURSIVE who(r, super) AS (SELECT rolname, rolsuper FROM pg_roles WHERE rolname = {}::name),\n\
         label(s, t, c) AS (VALUES {}),\n{SENSITIVE}",
        literal(user),
        rows.join(", ")
    )
}

const SENSITIVE: &str = "\
named(rel, att) AS (
    SELECT c.oid, a.attname FROM label l JOIN pg_namespace n ON n.nspname = l.s
      JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = l.t
      JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = l.c AND a.attnum > 0 AND NOT a.attisdropped
    UNION
    SELECT a.attrelid, m.att FROM named m JOIN pg_inherits i ON m.rel IN (i.inhparent, i.inhrelid)
      JOIN pg_attribute a ON a.attrelid = CASE m.rel WHEN i.inhparent THEN i.inhrelid ELSE i.inhparent END
       AND a.attname = m.att AND a.attnum > 0 AND NOT a.attisdropped),
based(rel, num) AS (
    SELECT m.rel, a.attnum FROM named m JOIN pg_attribute a ON a.attrelid = m.rel AND a.attname = m.att
     WHERE NOT a.attisdropped),
marked(rel, num) AS (
    SELECT rel, num FROM based
    UNION SELECT d.adrelid, d.adnum FROM based b
      JOIN pg_depend p ON p.refclassid = 'pg_class'::regclass AND p.refobjid = b.rel AND p.refobjsubid = b.num
       AND p.classid = 'pg_attrdef'::regclass
      JOIN pg_attrdef d ON d.oid = p.objid
      JOIN pg_attribute a ON a.attrelid = d.adrelid AND a.attnum = d.adnum AND a.attgenerated <> ''
    UNION SELECT p.objid, p.objsubid::int2 FROM based b
      JOIN pg_depend p ON p.refclassid = 'pg_class'::regclass AND p.refobjid = b.rel AND p.refobjsubid = b.num
       AND p.classid = 'pg_class'::regclass AND p.objsubid > 0
      JOIN pg_attribute a ON a.attrelid = p.objid AND a.attnum = p.objsubid AND a.attgenerated <> ''),
reading(rel, kind, source, num) AS (
    SELECT w.ev_class, v.relkind IN ('v', 'm'), p.refobjid, p.refobjsubid FROM pg_depend p
      JOIN pg_rewrite w ON w.oid = p.objid JOIN pg_class v ON v.oid = w.ev_class
     WHERE p.classid = 'pg_rewrite'::regclass AND p.refclassid = 'pg_class'::regclass AND p.refobjid <> w.ev_class),
views(rel) AS (
    SELECT r.rel FROM marked m JOIN reading r ON r.source = m.rel AND r.num = m.num WHERE r.kind
    UNION SELECT r.rel FROM views v JOIN reading r ON r.source = v.rel WHERE r.kind),
ruled(rel) AS (
    SELECT r.rel FROM marked m JOIN reading r ON r.source = m.rel AND r.num = m.num WHERE NOT r.kind
    UNION SELECT r.rel FROM views v JOIN reading r ON r.source = v.rel WHERE NOT r.kind),
readers(role, name) AS (
    SELECT g.oid, g.rolname FROM pg_roles g WHERE g.rolsuper
        OR EXISTS (SELECT FROM marked m WHERE has_column_privilege(g.oid, m.rel, m.num, 'SELECT'))
        OR EXISTS (SELECT FROM views v WHERE has_any_column_privilege(g.oid, v.rel, 'SELECT'))),
fired(rel, func, name, kind) AS (
    SELECT t.tgrelid, p.oid, g.name, t.tgtype FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid
      JOIN readers g ON g.role = p.proowner WHERE p.prosecdef AND NOT t.tgisinternal AND t.tgenabled <> 'D')
";

/// Superusers may do everything; then nothing else is worth a line.
const CHECK: &str = "\
SELECT 'is a superuser' FROM who WHERE super
UNION ALL SELECT format('is a member of %s', g.rolname) FROM who CROSS JOIN pg_roles g
 WHERE NOT super AND pg_has_role(r, g.oid, 'MEMBER') AND (g.rolsuper OR g.rolname IN ('pg_read_all_data',
  'pg_write_all_data', 'pg_read_server_files', 'pg_write_server_files', 'pg_execute_server_program',
  'pg_read_all_stats', 'pg_monitor'))
UNION ALL SELECT format('reads column %s.%I', m.rel::regclass, a.attname) FROM who, marked m
  JOIN pg_attribute a ON a.attrelid = m.rel AND a.attnum = m.num
 WHERE NOT super AND has_column_privilege(r, m.rel, m.num, 'SELECT')
UNION ALL SELECT format('owns %s', c.oid::regclass) FROM who, pg_class c
 WHERE NOT super AND c.oid IN (SELECT rel FROM marked UNION SELECT rel FROM views) AND pg_has_role(r, c.relowner, 'MEMBER')
UNION ALL SELECT format('reads %s, which reads labelled columns', v.rel::regclass) FROM who, views v
 WHERE NOT super AND has_any_column_privilege(r, v.rel, 'SELECT')
UNION ALL SELECT format('writes to %s, whose rules read labelled columns', d.rel::regclass) FROM who, ruled d
 WHERE NOT super AND has_table_privilege(r, d.rel, 'INSERT, UPDATE, DELETE')
UNION ALL SELECT format('may run %s as %s, who reads labelled columns', p.oid::regprocedure, g.name)
  FROM who, pg_proc p JOIN readers g ON g.role = p.proowner
 WHERE NOT super AND p.prosecdef AND p.pronamespace <> 'pg_catalog'::regnamespace
   AND p.prorettype <> 'trigger'::regtype AND has_function_privilege(r, p.oid, 'EXECUTE')
UNION ALL SELECT format('writes to %s, which fires %s as %s, who reads labelled columns', f.rel::regclass,
                        f.func::regprocedure, f.name)
  FROM who, fired f
 WHERE NOT super AND (f.kind & 4 <> 0 AND has_any_column_privilege(r, f.rel, 'INSERT')
    OR f.kind & 16 <> 0 AND has_any_column_privilege(r, f.rel, 'UPDATE')
    OR f.kind & 8 <> 0 AND has_table_privilege(r, f.rel, 'DELETE')
    OR f.kind & 32 <> 0 AND has_table_privilege(r, f.rel, 'TRUNCATE'))
UNION ALL SELECT format('may create in schema %I', n.nspname) FROM who, pg_namespace n
 WHERE NOT super AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema' AND has_schema_privilege(r, n.oid, 'CREATE')
ORDER BY 1";

/// Statements, decided on what is there before the first of them runs.
const PLAN: &str = ",
gone(role, name) AS (
    SELECT g.oid, g.rolname FROM who JOIN pg_roles u ON u.rolname = r JOIN pg_auth_members m ON m.member = u.oid
      JOIN pg_roles g ON g.oid = m.roleid
     WHERE g.oid IN (SELECT role FROM readers) OR pg_has_role(g.oid, 'pg_read_server_files', 'MEMBER')
        OR pg_has_role(g.oid, 'pg_write_server_files', 'MEMBER') OR pg_has_role(g.oid, 'pg_execute_server_program', 'MEMBER')
        OR pg_has_role(g.oid, 'pg_read_all_stats', 'MEMBER')
        OR EXISTS (SELECT FROM pg_class c WHERE c.oid IN (SELECT rel FROM marked UNION SELECT rel FROM views)
                    AND pg_has_role(g.oid, c.relowner, 'MEMBER'))),
direct(rel, grantee, name) AS (
    SELECT c.oid, x.grantee, coalesce(quote_ident(r.rolname), 'PUBLIC')
      FROM pg_class c CROSS JOIN LATERAL aclexplode(c.relacl) x LEFT JOIN pg_roles r ON r.oid = x.grantee, who
     WHERE x.privilege_type = 'SELECT' AND (x.grantee = 0 OR r.rolname = who.r)
       AND c.oid IN (SELECT rel FROM marked UNION SELECT rel FROM views)),
losing AS (SELECT (SELECT super FROM who) OR EXISTS (SELECT FROM gone) AS all)
SELECT 10, 'an owner can grant itself anything',
       format('ALTER TABLE %s OWNER TO %I', c.oid::regclass, current_user)
  FROM who JOIN pg_roles u ON u.rolname = r JOIN pg_class c ON c.relowner = u.oid
 WHERE c.oid IN (SELECT rel FROM marked UNION SELECT rel FROM views)
UNION ALL SELECT 20, 'members may do what the role may', format('REVOKE %I FROM %I', name, r) FROM who, gone
UNION ALL SELECT 30, 'labelled columns, or a view over them', format('REVOKE SELECT ON %s FROM %s', rel::regclass, name) FROM direct
UNION ALL SELECT 40, 'a labelled column', format('REVOKE SELECT (%I) ON %s FROM %s', a.attname, m.rel::regclass, coalesce(quote_ident(g.rolname), 'PUBLIC'))
  FROM marked m JOIN pg_attribute a ON a.attrelid = m.rel AND a.attnum = m.num CROSS JOIN LATERAL aclexplode(a.attacl) x
  LEFT JOIN pg_roles g ON g.oid = x.grantee, who
 WHERE x.privilege_type = 'SELECT' AND (x.grantee = 0 OR g.rolname = r)
UNION ALL SELECT 50, 'what has no label stays readable',
       format('GRANT SELECT (%s) ON %s TO %I', string_agg(quote_ident(a.attname), ', ' ORDER BY a.attnum), a.attrelid::regclass, r)
  FROM who, losing, pg_attribute a
 WHERE a.attrelid IN (SELECT rel FROM marked) AND a.attnum > 0 AND NOT a.attisdropped
   AND (a.attrelid, a.attnum) NOT IN (SELECT rel, num FROM marked)
   AND has_column_privilege(r, a.attrelid, a.attnum, 'SELECT')
   AND (losing.all OR a.attrelid IN (SELECT rel FROM direct))
 GROUP BY a.attrelid, r
UNION ALL SELECT 50, 'what it had by another role, without the labelled columns', format('GRANT %s ON %s TO %I', p.kind, c.oid::regclass, r)
  FROM who, losing, pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace,
       (VALUES ('SELECT'), ('INSERT'), ('UPDATE'), ('DELETE')) AS p(kind)
 WHERE losing.all AND c.relkind IN ('r', 'p', 'v', 'm', 'f') AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
   AND NOT (p.kind = 'SELECT' AND c.oid IN (SELECT rel FROM marked))
   AND NOT (p.kind <> 'SELECT' AND c.oid IN (SELECT rel FROM fired))
   AND c.oid NOT IN (SELECT rel FROM views UNION SELECT rel FROM ruled) AND has_table_privilege(r, c.oid, p.kind)
UNION ALL SELECT 50, 'what it had by another role', format('GRANT USAGE ON SCHEMA %I TO %I', n.nspname, r)
  FROM who, losing, pg_namespace n
 WHERE losing.all AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema' AND has_schema_privilege(r, n.oid, 'USAGE')
UNION ALL SELECT 50, 'what it had by another role', format('GRANT USAGE ON SEQUENCE %s TO %I', c.oid::regclass, r)
  FROM who, losing, pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE losing.all AND c.relkind = 'S' AND n.nspname !~ '^pg_' AND has_sequence_privilege(r, c.oid, 'USAGE')
UNION ALL SELECT 60, 'a rule reads labelled columns with the rights of the owner',
       format('REVOKE INSERT, UPDATE, DELETE ON %s FROM %s', c.oid::regclass, coalesce(quote_ident(g.rolname), 'PUBLIC'))
  FROM pg_class c JOIN ruled d ON d.rel = c.oid CROSS JOIN LATERAL aclexplode(c.relacl) x
  LEFT JOIN pg_roles g ON g.oid = x.grantee, who
 WHERE x.privilege_type IN ('INSERT', 'UPDATE', 'DELETE') AND (x.grantee = 0 OR g.rolname = r)
UNION ALL SELECT 60, 'a trigger runs as somebody who reads labelled columns',
       format('REVOKE INSERT, UPDATE, DELETE, TRUNCATE ON %s FROM %s', c.oid::regclass, coalesce(quote_ident(g.rolname), 'PUBLIC'))
  FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
  CROSS JOIN LATERAL (SELECT * FROM aclexplode(c.relacl) UNION ALL SELECT * FROM aclexplode(a.attacl)) x
  LEFT JOIN pg_roles g ON g.oid = x.grantee, who
 WHERE c.oid IN (SELECT rel FROM fired) AND x.privilege_type IN ('INSERT', 'UPDATE', 'DELETE', 'TRUNCATE')
   AND (x.grantee = 0 OR g.rolname = r)
UNION ALL SELECT 70, 'it runs as somebody who reads labelled columns',
       format('REVOKE EXECUTE ON ROUTINE %s FROM %s', p.oid::regprocedure, coalesce(quote_ident(g.rolname), 'PUBLIC'))
  FROM pg_proc p JOIN readers o ON o.role = p.proowner
  CROSS JOIN LATERAL aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) x LEFT JOIN pg_roles g ON g.oid = x.grantee, who
 WHERE p.prosecdef AND p.pronamespace <> 'pg_catalog'::regnamespace AND (x.grantee = 0 OR g.rolname = r)
UNION ALL SELECT 80, 'what it makes there could hide what others use',
       format('REVOKE CREATE ON SCHEMA %I FROM %s', n.nspname, coalesce(quote_ident(g.rolname), 'PUBLIC'))
  FROM pg_namespace n CROSS JOIN LATERAL aclexplode(n.nspacl) x LEFT JOIN pg_roles g ON g.oid = x.grantee, who
 WHERE x.privilege_type = 'CREATE' AND n.nspname !~ '^pg_' AND (x.grantee = 0 OR g.rolname = r)
UNION ALL SELECT 90, 'with these, no grant counts',
       format('ALTER ROLE %I NOSUPERUSER NOBYPASSRLS NOCREATEROLE NOREPLICATION', r)
  FROM who JOIN pg_roles u ON u.rolname = r WHERE u.rolsuper OR u.rolbypassrls OR u.rolcreaterole OR u.rolreplication";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_end_literals_or_comments() {
        let label = ColumnPath { schema: "a'; DROP".into(), table: "b\\".into(), column: "c\nd".into() };
        let script = script("shop", "o'brien\n", &[label]);
        assert!(script.contains(r"(E'a\'; DROP'::name, E'b\\'::name, E'c"), "{script}");
        assert!(script.contains("--   a\\'; DROP.b\\\\.c\\nd\n"), "{script}");
        assert!(script.contains(r"E'o\'brien"), "{script}");
        assert!(script.lines().next().is_some_and(|line| line.starts_with("-- ")), "{script}");
    }
}
