//! What is read, changed and moved where sessions meet.
//!
//! Whoever is beside the agent neither copies masked values to where no label is, nor puts a masked column under a name
//! or into a place where the last reading of the catalogue has one that is not: those the threat model leaves to column
//! privileges.

/// Of the masked, of what has their names, and of what is changed.
pub(super) const READ: &[&str] = &[
    "SELECT id, token FROM users",
    "SELECT token FROM app.users ORDER BY id",
    "SELECT * FROM users",
    "TABLE app.people",
    "SELECT token FROM people",
    "SELECT upper(name) FROM users",
    "SELECT name || email FROM users",
    "SELECT * FROM v_users",
    "SELECT * FROM v_plain",
    "SELECT t FROM v_over",
    "SELECT * FROM mv_users",
    "SELECT token FROM child",
    "SELECT * FROM part",
    "SELECT * FROM part1",
    "SELECT upper(token) FROM part2",
    "SELECT * FROM part2",
    "SELECT upper(token) FROM grown",
    "SELECT token FROM grown",
    "SELECT * FROM beside",
    "SELECT token FROM other.users",
    "SELECT upper(token) FROM other.users",
    "SELECT * FROM kin",
    "SELECT * FROM hidden",
    "SELECT * FROM tt",
    "SELECT upper(m) FROM log",
    "SELECT m || n FROM log",
    "SELECT * FROM log",
    "SELECT upper(token) FROM other",
    "SELECT upper(name) FROM orgs",
    "SELECT c9 || '' FROM (SELECT l.*, u.* FROM log l RIGHT JOIN users u ON true) s(c1, c2, c3, c4, c5, c6, c7, c8, c9, c10, c11)",
    "SELECT c4 || '' FROM (SELECT l.*, o.* FROM log l RIGHT JOIN other o ON true) s(c1, c2, c3, c4, c5)",
    "SELECT u FROM users u",
    "SELECT row_to_json(o) FROM orgs o",
    "SELECT row_to_json(o) FROM other o",
    "COPY users TO STDOUT",
    "COPY (SELECT upper(token) FROM other) TO STDOUT",
    "SELECT count(*) FROM users WHERE name = 'name1'",
    "SELECT upper(badge) FROM keys",
    "SELECT o.name, u.token FROM orgs o JOIN users u USING (id)",
    "INSERT INTO log(m) SELECT token FROM other RETURNING m",
    "UPDATE users SET name = 'n' WHERE id = 2 RETURNING token, name",
];

/// By who may change the schema: what is not masked comes and goes in front of what is.
pub(super) const CHANGE: &[&str] = &[
    "DROP TABLE log",
    "CREATE TABLE app.log AS SELECT 1 AS a, 2 AS b, 3 AS c",
    "CREATE TABLE app.log(m text, n int)",
    "ALTER TABLE log ADD COLUMN more text",
    "ALTER TABLE log ADD COLUMN token text DEFAULT 'x'",
    "ALTER TABLE log DROP COLUMN m",
    "ALTER TABLE log RENAME COLUMN m TO token",
    "ALTER TABLE log RENAME TO tt",
    "ALTER TABLE tt RENAME TO log",
    "ALTER TABLE app.other RENAME TO kin",
    "ALTER TABLE app.kin RENAME TO other",
    "ALTER TABLE app.other RENAME COLUMN note TO t",
    "ALTER TABLE app.other DROP COLUMN note",
    "ALTER TABLE other.users RENAME TO people",
    "DROP TABLE other.users",
    "CREATE TABLE other.users(token text, id int)",
    "CREATE TABLE app.people(id int, token text)",
    "CREATE TABLE public.users(id int, name text, token text)",
    "CREATE TEMP TABLE log(m text, n int)",
    "CREATE TEMP TABLE other(id int, token text, note text)",
    "DROP VIEW v_plain",
    "CREATE VIEW app.v_plain AS SELECT id, email AS name FROM app.users",
    "CREATE OR REPLACE VIEW app.v_plain AS SELECT id, email AS name FROM app.users",
    "CREATE OR REPLACE VIEW app.v_clean AS SELECT id, b, 1::bigint AS n FROM app.clean",
    "CREATE VIEW app.hidden AS SELECT id, note FROM app.other",
    "DROP VIEW app.hidden",
    "ALTER VIEW app.v_plain RENAME TO hidden",
    "DROP MATERIALIZED VIEW mv_users",
    "REFRESH MATERIALIZED VIEW mv_users",
    "BEGIN",
    "BEGIN",
    "COMMIT",
    "COMMIT",
    "ROLLBACK",
];

/// Changes after which something in [`TURNED`] means another column, and back.
pub(super) const TURNS: &[&[&str]] = &[
    &[
        "ALTER TABLE other RENAME COLUMN token TO gone",
        "SELECT 1",
        "ALTER TABLE other RENAME COLUMN gone TO token",
    ],
    &[
        "BEGIN",
        "ALTER TABLE other RENAME COLUMN token TO gone",
        "COMMIT",
        "ALTER TABLE other RENAME COLUMN gone TO token",
    ],
    &["BEGIN", "ALTER TABLE other RENAME COLUMN token TO gone", "SELECT 1", "ROLLBACK"],
    &["ALTER TABLE log ADD COLUMN more text", "SELECT 1", "ALTER TABLE log DROP COLUMN more"],
    &["BEGIN", "ALTER TABLE log ADD COLUMN more text", "COMMIT", "ALTER TABLE log DROP COLUMN more"],
    &[
        "BEGIN",
        "DROP TABLE log",
        "CREATE TABLE app.log AS SELECT 'name1' AS m, 2 AS n, 3 AS c",
        "COMMIT",
        "ALTER TABLE log DROP COLUMN c",
    ],
    &[
        "BEGIN",
        "ALTER TABLE orgs RENAME COLUMN name TO token",
        "COMMIT",
        "ALTER TABLE orgs RENAME COLUMN token TO name",
    ],
];

/// What these changes turn to a masked column, while it is on its way.
pub(super) const TURNED: &[&str] = &[
    "SELECT (SELECT token FROM other LIMIT 1) FROM users LIMIT 1",
    "SELECT (SELECT upper(token) FROM other LIMIT 1) AS x FROM users",
    "SELECT c9 || '' FROM (SELECT l.*, u.* FROM log l RIGHT JOIN users u ON true) s(c1, c2, c3, c4, c5, c6, c7, c8, c9, c10, c11) WHERE c9 IS NOT NULL",
    "SELECT c6 || '' FROM (SELECT l.*, u.* FROM log l RIGHT JOIN users u ON true) s(c1, c2, c3, c4, c5, c6) WHERE c6 IS NOT NULL",
    "SELECT name FROM users WHERE EXISTS (SELECT name FROM orgs WHERE length(token) > 0)",
];

/// In front of it a statement waits for a row.
pub(super) const WAITS: &str = "UPDATE log SET n = n WHERE m = 'name1'";

/// Holds that row for a while.
pub(super) const HOLDS: &[&str] =
    &["BEGIN", "UPDATE app.log SET n = n WHERE m = 'name1'", "SELECT 1", "COMMIT"];

/// Words of one session to another.
pub(super) const HEARD: &[&str] = &[
    "LISTEN ch",
    "LISTEN ch",
    "NOTIFY ch, 'hello'",
    "SELECT pg_notify('ch', m) FROM log",
    "SELECT pg_notify('ch', token) FROM app.other",
    "SELECT pg_notify('ch', token) FROM app.users",
    "UNLISTEN *",
    "SELECT pg_advisory_lock(1)",
    "LOCK TABLE log",
    "LOCK TABLE users IN ACCESS EXCLUSIVE MODE",
    "SELECT query FROM pg_stat_activity",
    "SELECT * FROM pg_locks",
];

/// Past the agent, by the owner of everything.
pub(super) const ALL: &[&[&str]] = &[
    &["ALTER TABLE app.users RENAME TO people", "SELECT 1", "ALTER TABLE app.people RENAME TO users"],
    &["BEGIN", "ALTER TABLE app.users RENAME TO people", "ROLLBACK"],
    &[
        "BEGIN",
        "ALTER TABLE app.users RENAME TO people",
        "CREATE TABLE app.users AS SELECT * FROM app.people",
        "GRANT ALL ON app.users TO public",
        "COMMIT",
        "SELECT 1",
        "SELECT 1",
    ],
    &[
        "ALTER TABLE app.users RENAME TO people",
        "CREATE TABLE app.users AS SELECT * FROM app.people; GRANT ALL ON app.users TO public",
        "SELECT 1",
        "DROP TABLE app.users",
        "ALTER TABLE app.people RENAME TO users",
    ],
    &["ALTER TABLE app.users SET SCHEMA public", "SELECT 1", "ALTER TABLE public.users SET SCHEMA app"],
    &["ALTER SCHEMA app RENAME TO app2", "ALTER SCHEMA app2 RENAME TO app"],
    &[
        "CREATE TABLE app.grown() INHERITS (app.users); GRANT ALL ON app.grown TO public",
        "INSERT INTO app.grown SELECT * FROM ONLY app.users",
    ],
    &[
        "CREATE TABLE app.part2 PARTITION OF app.part FOR VALUES FROM (100) TO (300); GRANT ALL ON app.part2 TO public",
        "INSERT INTO app.part SELECT id + 100, token FROM app.part WHERE id < 100",
    ],
    &[
        "DROP VIEW app.v_over; DROP VIEW app.v_users",
        "CREATE VIEW app.v_users AS SELECT id, name, token AS t FROM app.users; GRANT ALL ON app.v_users TO public",
    ],
    &[
        "CREATE VIEW app.beside AS SELECT id, reverse(token) AS r FROM app.users; GRANT ALL ON app.beside TO public",
    ],
    &["CREATE OR REPLACE VIEW app.v_plain AS SELECT id, email AS name FROM app.users"],
    &[
        "BEGIN",
        "DROP MATERIALIZED VIEW app.mv_users",
        "CREATE MATERIALIZED VIEW app.mv_users AS SELECT id, token FROM app.users",
        "GRANT ALL ON app.mv_users TO public",
        "COMMIT",
    ],
    &["REFRESH MATERIALIZED VIEW app.mv_users"],
    &["UPDATE app.users SET token = reverse(token) WHERE id = 3"],
    &[
        "ALTER TABLE app.users ALTER COLUMN token TYPE varchar(60)",
        "SELECT 1",
        "ALTER TABLE app.users ALTER COLUMN token TYPE text",
    ],
    &["CREATE INDEX ON app.users (token)", "ANALYZE app.users"],
    &["NOTIFY ch, 'word'", "SELECT pg_notify('ch', token) FROM app.users"],
    &["BEGIN", "LOCK TABLE app.users", "SELECT pg_notify('ch', reverse(token)) FROM app.users", "COMMIT"],
    &["CREATE FUNCTION app.lower(text) RETURNS text LANGUAGE sql AS 'SELECT token FROM app.users LIMIT 1'"],
    &["BEGIN", "ALTER TABLE app.users ADD COLUMN extra text DEFAULT 'x'", "ROLLBACK"],
    &["ALTER TABLE app.log RENAME TO tt", "SELECT 1", "ALTER TABLE app.tt RENAME TO log"],
    &["REVOKE ALL ON app.users FROM public, agent", "SELECT 1", "GRANT ALL ON app.users TO public, agent"],
    &[
        "ALTER TABLE app.users ENABLE ROW LEVEL SECURITY",
        "SELECT 1",
        "ALTER TABLE app.users DISABLE ROW LEVEL SECURITY",
    ],
    &[
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()",
    ],
];
