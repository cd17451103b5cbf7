-- Planted values in every masked column; :s is `a` or `b`. The two databases differ in them alone: in text, order,
-- equality and NULL. The letters are those no word or number is made of.
SET session_replication_role = replica;
SELECT set_config('plant.side', :'s', false) \g /dev/null
CREATE FUNCTION pg_temp.plant(tag text, i int) RETURNS text LANGUAGE sql AS $$
    SELECT translate(left(md5(current_setting('plant.side') || tag || i), 20), '0123456789abcdef', 'ghjkmnpqrtuvwxyz')
$$;
TRUNCATE app.users, app.child, app.part, app."Users Q", app.members, app.keys, app.gen, app.wide, app.log, app.orgs,
    app.clean, app.other, other.users;
INSERT INTO app.users SELECT i, 'name' || i, 'mail' || i,
    CASE WHEN :'s' = 'b' AND i = 2 THEN 'name2' ELSE pg_temp.plant('ssn', i) END,
    CASE WHEN :'s' = 'a' AND i = 4 THEN NULL ELSE pg_temp.plant('token', CASE :'s' WHEN 'a' THEN i * 7 % 3 ELSE 9 - i END) END,
    CASE :'s' WHEN 'a' THEN 1500000011 + i * 7919 ELSE 1900000013 - i * 104729 END,
    date '2000-01-01' + i, pg_temp.plant('blob', i)::bytea, jsonb_build_object('ssn', pg_temp.plant('prof', i))
    FROM generate_series(1, 4) i;
INSERT INTO app.child SELECT i, 'name' || i, 'mail' || i, pg_temp.plant('ssn', i), pg_temp.plant('token', i),
    CASE :'s' WHEN 'a' THEN 1500000011 + i * 7919 ELSE 1900000013 - i * 104729 END,
    date '2000-01-01' + i, pg_temp.plant('blob', i)::bytea, jsonb_build_object('ssn', pg_temp.plant('prof', i))
    FROM generate_series(5, 6) i;
INSERT INTO app.part SELECT i, pg_temp.plant('part', CASE :'s' WHEN 'a' THEN i % 2 ELSE 9 - i END) FROM generate_series(1, 3) i;
INSERT INTO app."Users Q" SELECT pg_temp.plant('quoted', i) FROM generate_series(1, 2) i;
INSERT INTO app.orgs SELECT i, 'org' || i FROM generate_series(1, 3) i;
INSERT INTO app.members SELECT i, i % 3 + 1, pg_temp.plant('badge', i), pg_temp.plant('nick', i)::public.citext,
    left(pg_temp.plant('tag', i), 8), 'c' || i, 'x', date '1700-03-04' + CASE :'s' WHEN 'a' THEN 37 * i ELSE 9001 - 41 * i END,
    '{}', ARRAY['w'], i FROM generate_series(1, 4) i;
INSERT INTO app.keys SELECT NULL, 'note' || i FROM generate_series(1, 2) i;
INSERT INTO app.gen(id, token) SELECT i, pg_temp.plant('gen', CASE :'s' WHEN 'a' THEN 1 ELSE 9 - i END) FROM generate_series(1, 3) i;
INSERT INTO app.wide(c1, c13, secret) SELECT i, i, pg_temp.plant('wide', i) FROM generate_series(1, 2) i;
INSERT INTO app.log SELECT 'name' || i, i FROM generate_series(1, 4) i;
INSERT INTO app.clean(id, a, b, c, d, m, p, ts) SELECT i, i % 2, 'b' || i, '{"k": 1}', ARRAY[i], 'a', i, '2020-01-01' FROM generate_series(1, 4) i;
INSERT INTO app.other SELECT i, 'plain' || i, 'note' || i FROM generate_series(1, 4) i;
INSERT INTO other.users SELECT i, 'plain' || i, 'name' || i FROM generate_series(1, 4) i;
REFRESH MATERIALIZED VIEW app.mv_users;
ANALYZE;
