//! The questions the agent asks a server to learn its catalogue. They read only what every role may read, work from
//! PostgreSQL 13 to 18, and return text. [`Catalog::build`](super::Catalog::build) reads the answers by position.

/// One query of the simple protocol. To be run in the order of [`QUERIES`], in one session of its own.
#[derive(Debug, Clone, Copy)]
pub struct CatalogQuery {
    pub name: &'static str,
    pub sql: &'static str,
}

const fn query(name: &'static str, sql: &'static str) -> CatalogQuery {
    CatalogQuery { name, sql }
}

/// A function of the database's own that is still harmless: part of an extension, and declared to depend on nothing but
/// its arguments. For operators settings may matter, too (`stable`); stable functions include some that run SQL.
macro_rules! trusted {
    () => {
        trusted!("'i'")
    };
    ($volatility:literal) => {
        concat!(
            "(p.provolatile IN (",
            $volatility,
            ") AND EXISTS (SELECT 1 FROM pg_depend e WHERE e.classid = 'pg_proc'::regclass
             AND e.objid = p.oid AND e.deptype = 'e' AND e.refclassid = 'pg_extension'::regclass))"
        )
    };
}

/// Relations that statements can name; temporary ones and TOAST are left out and so unknown.
macro_rules! relations {
    () => {
        "pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
          WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S') AND n.nspname !~ '^pg_(toast|temp)'"
    };
}

pub const QUERIES: &[CatalogQuery] = &[
    // First: the texts of views and expressions below name everything but built-ins in full.
    query("pin", "SELECT set_config('search_path', 'pg_catalog', false)"),
    query("server", "SELECT current_setting('server_version_num'), current_setting('server_encoding')"),
    query(
        "schemas",
        "SELECT nspname, has_schema_privilege(oid, 'USAGE') FROM pg_namespace WHERE nspname !~ '^pg_(toast|temp)' ORDER BY 1",
    ),
    query(
        "relations",
        concat!(
            "SELECT c.oid, n.nspname, c.relname, c.relkind,
       EXISTS (SELECT 1 FROM pg_rewrite r WHERE r.ev_class = c.oid AND r.rulename <> '_RETURN'),
       EXISTS (SELECT 1 FROM pg_trigger t WHERE t.tgrelid = c.oid AND NOT t.tgisinternal)
  FROM ",
            relations!(),
            " ORDER BY c.oid"
        ),
    ),
    query(
        "columns",
        concat!(
            "SELECT a.attrelid, a.attname, a.attnum, a.atttypid,
       CASE WHEN a.attgenerated <> '' THEN pg_get_expr(d.adbin, d.adrelid) END
  FROM pg_attribute a LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
 WHERE a.attnum > 0 AND NOT a.attisdropped AND a.attrelid IN (SELECT c.oid FROM ",
            relations!(),
            ") ORDER BY a.attrelid, a.attnum"
        ),
    ),
    query("inherits", "SELECT inhparent, inhrelid FROM pg_inherits ORDER BY inhrelid, inhseqno"),
    query(
        "views",
        "SELECT c.oid, pg_get_viewdef(c.oid) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind IN ('v', 'm') AND n.nspname NOT IN ('pg_catalog', 'information_schema')
   AND n.nspname !~ '^pg_(toast|temp)' ORDER BY c.oid",
    ),
    query(
        "foreign_keys",
        "SELECT conrelid, confrelid, array_to_string(conkey, ' '), array_to_string(confkey, ' '),
       confdeltype = 'c'
  FROM pg_constraint WHERE contype = 'f' ORDER BY oid",
    ),
    // What tells by itself whether a value was there.
    query(
        "uniques",
        "SELECT indrelid, indkey::text, indexprs IS NOT NULL OR indpred IS NOT NULL FROM pg_index
 WHERE indisunique OR indisexclusion ORDER BY 1, 2",
    ),
    // What else shows something of a value that is written. Triggers: the server's own that drops updates which change
    // nothing, and those of the database that fire under a condition, by the columns in it; 0 for the whole row. Indexes,
    // by the columns that order them: rows may come in that order. One of a single column and all rows can only give the
    // values themselves in it.
    query(
        "telling",
        "SELECT t.tgrelid, coalesce(s.whole, q.columns), 'changed'
  FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid,
       LATERAL (SELECT '0' AS whole WHERE p.oid < 16384 AND p.proname = 'suppress_redundant_updates_trigger'
                UNION ALL SELECT NULL LIMIT 1) s,
       LATERAL (SELECT string_agg(DISTINCT m[1], ' ') AS columns
                  FROM regexp_matches(t.tgqual::text, ':varattno ([0-9]+)', 'g') m) q
 WHERE t.tgtype & 16 <> 0 AND coalesce(s.whole, q.columns) IS NOT NULL
UNION ALL SELECT i.indrelid, CASE WHEN i.indexprs IS NULL
       THEN (SELECT string_agg(k.key::text, ' ' ORDER BY k.at) FROM unnest(i.indkey::int2[]) WITH ORDINALITY k(key, at)
              WHERE k.at <= i.indnkeyatts)
       ELSE (SELECT coalesce(string_agg(DISTINCT d.refobjsubid::text, ' '), '') FROM pg_depend d
              WHERE d.classid = 'pg_class'::regclass AND d.objid = i.indexrelid
                AND d.refclassid = 'pg_class'::regclass AND d.refobjid = i.indrelid AND d.refobjsubid > 0) END,
       CASE WHEN i.indnatts > 1 OR i.indpred IS NOT NULL THEN 'ordered' ELSE 'alone' END
  FROM pg_index i WHERE i.indexrelid >= 16384 AND pg_index_has_property(i.indexrelid, 'index_scan') ORDER BY 1, 2, 3",
    ),
    // By their names, and whether making them runs code of the database's own; so do statistics, which have no name here.
    query(
        "indexes",
        "SELECT n.nspname, c.relname, i.indrelid,
       EXISTS (SELECT 1 FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid
                AND d.refclassid IN ('pg_proc'::regclass, 'pg_operator'::regclass, 'pg_opclass'::regclass))
  FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname !~ '^pg_(toast|temp)'
UNION ALL
SELECT NULL, NULL, s.stxrelid, true FROM pg_statistic_ext s
 WHERE EXISTS (SELECT 1 FROM pg_depend d WHERE d.classid = 'pg_statistic_ext'::regclass AND d.objid = s.oid
                AND d.refclassid IN ('pg_proc'::regclass, 'pg_operator'::regclass))
 ORDER BY 1, 2",
    ),
    // Columns of one row that are looked at together when it is written: by checks, keys, indexes of expressions,
    // generated columns, policies and the bounds of partitions. A check of the whole row says 0.
    query(
        "together",
        concat!(
            "SELECT d.refobjid, string_agg(DISTINCT d.refobjsubid::text, ' ')
  FROM pg_depend d LEFT JOIN pg_index i ON d.classid = 'pg_class'::regclass AND i.indexrelid = d.objid
 WHERE d.refclassid = 'pg_class'::regclass AND d.refobjsubid > 0 AND d.refobjid IN (SELECT c.oid FROM ",
            relations!(),
            ")
   AND (d.classid IN ('pg_constraint'::regclass, 'pg_attrdef'::regclass, 'pg_policy'::regclass)
     OR d.classid = 'pg_class'::regclass AND d.objid = d.refobjid AND d.objsubid > 0
     OR i.indisunique OR i.indisexclusion OR i.indexprs IS NOT NULL OR i.indpred IS NOT NULL)
 GROUP BY d.classid, d.objid, d.objsubid, d.refobjid HAVING count(DISTINCT d.refobjsubid) > 1
UNION SELECT partrelid, partattrs::text FROM pg_partitioned_table WHERE partnatts > 1
UNION SELECT conrelid, '0' FROM pg_constraint WHERE contype = 'c' AND 0 = ANY (conkey) ORDER BY 1, 2"
        ),
    ),
    // Sequences, and the columns they number: their own, and those whose defaults take from them.
    query(
        "sequences",
        "SELECT d.objid, d.refobjid, d.refobjsubid FROM pg_depend d JOIN pg_class s ON s.oid = d.objid AND s.relkind = 'S'
 WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass AND d.refobjsubid > 0
   AND d.deptype IN ('a', 'i')
UNION SELECT s.oid, a.adrelid, a.adnum FROM pg_attrdef a
  JOIN pg_depend d ON d.classid = 'pg_attrdef'::regclass AND d.objid = a.oid AND d.refclassid = 'pg_class'::regclass
  JOIN pg_class s ON s.oid = d.refobjid AND s.relkind = 'S' ORDER BY 1, 2, 3",
    ),
    query(
        "functions",
        concat!(
            "SELECT DISTINCT n.nspname, p.proname, p.provolatile, ",
            trusted!(),
            ",
       CASE WHEN p.proargmodes IS NOT NULL AND p.proargmodes && '{o,b,t}'::\"char\"[]
            THEN (SELECT string_agg(coalesce(p.proargnames[i], ''), chr(31) ORDER BY i)
                    FROM generate_subscripts(p.proargmodes, 1) i WHERE p.proargmodes[i] IN ('o', 'b', 't'))
            WHEN t.typtype = 'c' OR t.typname = 'record' THEN '*'
            WHEN t.typtype = 'p' AND t.typname NOT IN ('void', 'trigger', 'event_trigger', 'internal', 'cstring')
                 AND p.prokind <> 'a' THEN '?' END,
       EXISTS (SELECT 1 FROM unnest(p.proargtypes) a WHERE a IN ('cstring'::regtype, 'internal'::regtype))
       OR p.oid >= 16384 AND n.nspname = 'pg_catalog' AND NOT ",
            trusted!(),
            "
  FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace JOIN pg_type t ON t.oid = p.prorettype
 ORDER BY 1, 2, 3, 4, 5, 6"
        ),
    ),
    query(
        "operators",
        concat!(
            "SELECT DISTINCT n.nspname, o.oprname, ",
            trusted!("'i', 's'"),
            " FROM pg_operator o JOIN pg_namespace n ON n.oid = o.oprnamespace LEFT JOIN pg_proc p ON p.oid = o.oprcode
 ORDER BY 1, 2, 3"
        ),
    ),
    query(
        "types",
        concat!(
            "SELECT t.oid, n.nspname, t.typname, t.typtype, t.typbasetype,
       t.oid IN (SELECT k.contypid FROM pg_constraint k JOIN pg_depend d ON d.classid = 'pg_constraint'::regclass
                   AND d.objid = k.oid WHERE k.contypid <> 0 AND d.refclassid = 'pg_proc'::regclass AND d.deptype = 'n')
       OR t.oid IN (SELECT k.casttarget FROM pg_cast k JOIN pg_proc p ON p.oid = k.castfunc
                     WHERE p.oid >= 16384 AND NOT ",
            trusted!(),
            ")
  FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace WHERE n.nspname !~ '^pg_(toast|temp)' ORDER BY t.oid"
        ),
    ),
];
