//! Reviewed knowledge about what a server ships: which functions of `pg_catalog` only compute, which have effects but
//! return nothing masked, which system relations show data of others. Reviewed for PostgreSQL 13 to 18; a newer server
//! is refused when its catalogue is built, so that nothing unreviewed passes.

/// Oldest and newest major version the lists were reviewed for.
pub(super) const REVIEWED: std::ops::RangeInclusive<u32> = 13..=18;

/// What a call of a built-in function means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Builtin {
    /// Computes from its arguments, the schema, the session or the clock.
    Computes,
    /// Changes something or waits, but cannot return or move what it was not given.
    Effects,
    /// `set_config`, `current_setting`: decided by the name of the setting.
    Setting,
    /// Reads tables, files, other sessions, or runs SQL from a string; or nobody looked at it.
    Unlisted,
}

/// Judges one function of `pg_catalog` by its name and declared volatility.
pub(super) fn function(name: &str, volatility: u8) -> Builtin {
    if matches!(name, "set_config" | "current_setting") {
        return Builtin::Setting;
    }
    if UNLISTED.binary_search(&name).is_ok()
        || UNLISTED_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
    {
        return Builtin::Unlisted;
    }
    if EFFECTS.binary_search(&name).is_ok() {
        return Builtin::Effects;
    }
    if matches!(volatility, b'i' | b's') || VOLATILE_COMPUTES.binary_search(&name).is_ok() {
        return Builtin::Computes;
    }
    Builtin::Unlisted
}

/// Immutable or stable by declaration, and yet they read rows, statistics, sources or other sessions, or measure what was
/// written: see [`MASKED_SYSTEM_COLUMNS`].
const UNLISTED: &[&str] = &[
    "pg_get_function_sqlbody",
    "pg_get_functiondef",
    "pg_get_replication_slots",
    "pg_input_error_info",
    "pg_input_is_valid",
    "pg_mcv_list_items",
    "pg_show_replication_origin_status",
    "pg_stat_get_activity",
    "pg_stat_get_archiver",
    "pg_stat_get_backend_activity",
    "pg_stat_get_backend_io",
    "pg_stat_get_backend_wal",
    "pg_stat_get_io",
    "pg_stat_get_replication_slot",
    "pg_stat_get_subscription",
    "pg_stat_get_tuples_hot_updated",
    "pg_stat_get_tuples_newpage_updated",
    "pg_stat_get_wal",
    "pg_stat_get_wal_receiver",
    "pg_stat_get_wal_senders",
    "pg_stat_get_xact_tuples_hot_updated",
    "pg_stat_get_xact_tuples_newpage_updated",
    "querytree",
    "ts_rewrite",
    "ts_stat",
];

/// Whole families: rows as XML, SQL from a string, internals of upgrades, event triggers and replication.
const UNLISTED_PREFIXES: &[&str] = &[
    "binary_upgrade_",
    "cursor_to_xml",
    "database_to_xml",
    "pg_event_trigger_",
    "pg_logical_",
    "pg_ls_",
    "pg_read_",
    "query_to_xml",
    "schema_to_xml",
    "table_to_xml",
];

/// Volatile by declaration, harmless in fact.
const VOLATILE_COMPUTES: &[&str] = &[
    "clock_timestamp",
    "currval",
    "gen_random_uuid",
    "lastval",
    "nextval",
    "pg_blocking_pids",
    "pg_collation_actual_version",
    "pg_database_collation_actual_version",
    "pg_database_size",
    "pg_indexes_size",
    "pg_is_in_recovery",
    "pg_is_wal_replay_paused",
    "pg_jit_available",
    "pg_last_xact_replay_timestamp",
    "pg_notification_queue_usage",
    "pg_partition_ancestors",
    "pg_partition_tree",
    "pg_relation_size",
    "pg_safe_snapshot_blocking_pids",
    "pg_sequence_last_value",
    "pg_table_size",
    "pg_tablespace_size",
    "pg_total_relation_size",
    "pg_xact_status",
    "random",
    "random_normal",
    "timeofday",
    "txid_status",
    "uuidv4",
    "uuidv7",
];

/// Asked of policy as a call; what they return is never a masked value.
const EFFECTS: &[&str] = &[
    "pg_advisory_lock",
    "pg_advisory_lock_shared",
    "pg_advisory_unlock",
    "pg_advisory_unlock_all",
    "pg_advisory_unlock_shared",
    "pg_advisory_xact_lock",
    "pg_advisory_xact_lock_shared",
    "pg_cancel_backend",
    "pg_notify",
    "pg_reload_conf",
    "pg_rotate_logfile",
    "pg_sleep",
    "pg_sleep_for",
    "pg_sleep_until",
    "pg_stat_clear_snapshot",
    "pg_stat_force_next_flush",
    "pg_stat_reset",
    "pg_stat_reset_shared",
    "pg_terminate_backend",
    "pg_try_advisory_lock",
    "pg_try_advisory_lock_shared",
    "pg_try_advisory_xact_lock",
    "pg_try_advisory_xact_lock_shared",
    "setseed",
    "setval",
];

/// How a relation of `pg_catalog` or `information_schema` is served to someone with masked columns.
pub(super) fn system_relation_is_served(schema: &str, name: &str) -> bool {
    if schema == "information_schema" {
        return !name.starts_with("_pg_") && !UNSERVED_INFORMATION.contains(&name);
    }
    SERVED.binary_search(&name).is_ok()
}

/// Columns of served system relations that hold statements or sources, or measure what was written; masked as soon as
/// anything is. An UPDATE leaves out of the log what a row has in common with the one before it, at both ends, and its
/// indexes alone where nothing in them changed: how much it wrote tells how much of a guess was right.
pub(crate) const MASKED_SYSTEM_COLUMNS: &[(&str, &str, &str)] = &[
    ("pg_catalog", "pg_attribute", "attmissingval"),
    ("pg_catalog", "pg_proc", "probin"),
    ("pg_catalog", "pg_proc", "prosqlbody"),
    ("pg_catalog", "pg_proc", "prosrc"),
    ("pg_catalog", "pg_stat_activity", "query"),
    ("pg_catalog", "pg_subscription", "subconninfo"),
    ("information_schema", "routines", "routine_definition"),
    ("pg_catalog", "pg_replication_origin_status", "local_lsn"),
    ("pg_catalog", "pg_replication_origin_status", "remote_lsn"),
    ("pg_catalog", "pg_replication_slots", "confirmed_flush_lsn"),
    ("pg_catalog", "pg_replication_slots", "restart_lsn"),
    ("pg_catalog", "pg_replication_slots", "safe_wal_size"),
    ("pg_catalog", "pg_stat_all_tables", "n_tup_hot_upd"),
    ("pg_catalog", "pg_stat_all_tables", "n_tup_newpage_upd"),
    ("pg_catalog", "pg_stat_archiver", "archived_count"),
    ("pg_catalog", "pg_stat_archiver", "last_archived_wal"),
    ("pg_catalog", "pg_stat_archiver", "last_failed_wal"),
    ("pg_catalog", "pg_stat_io", "write_bytes"),
    ("pg_catalog", "pg_stat_io", "writes"),
    ("pg_catalog", "pg_stat_replication", "flush_lsn"),
    ("pg_catalog", "pg_stat_replication", "replay_lsn"),
    ("pg_catalog", "pg_stat_replication", "sent_lsn"),
    ("pg_catalog", "pg_stat_replication", "write_lsn"),
    ("pg_catalog", "pg_stat_replication_slots", "spill_bytes"),
    ("pg_catalog", "pg_stat_replication_slots", "stream_bytes"),
    ("pg_catalog", "pg_stat_replication_slots", "total_bytes"),
    ("pg_catalog", "pg_stat_sys_tables", "n_tup_hot_upd"),
    ("pg_catalog", "pg_stat_sys_tables", "n_tup_newpage_upd"),
    ("pg_catalog", "pg_stat_user_tables", "n_tup_hot_upd"),
    ("pg_catalog", "pg_stat_user_tables", "n_tup_newpage_upd"),
    ("pg_catalog", "pg_stat_wal", "wal_buffers_full"),
    ("pg_catalog", "pg_stat_wal", "wal_bytes"),
    ("pg_catalog", "pg_stat_wal", "wal_write"),
    ("pg_catalog", "pg_stat_xact_all_tables", "n_tup_hot_upd"),
    ("pg_catalog", "pg_stat_xact_all_tables", "n_tup_newpage_upd"),
    ("pg_catalog", "pg_stat_xact_sys_tables", "n_tup_hot_upd"),
    ("pg_catalog", "pg_stat_xact_sys_tables", "n_tup_newpage_upd"),
    ("pg_catalog", "pg_stat_xact_user_tables", "n_tup_hot_upd"),
    ("pg_catalog", "pg_stat_xact_user_tables", "n_tup_newpage_upd"),
];

const UNSERVED_INFORMATION: &[&str] = &["user_mapping_options"];

const SERVED: &[&str] = &[
    "pg_aggregate",
    "pg_am",
    "pg_amop",
    "pg_amproc",
    "pg_attrdef",
    "pg_attribute",
    "pg_auth_members",
    "pg_available_extension_versions",
    "pg_available_extensions",
    "pg_cast",
    "pg_class",
    "pg_collation",
    "pg_config",
    "pg_constraint",
    "pg_conversion",
    "pg_cursors",
    "pg_database",
    "pg_db_role_setting",
    "pg_default_acl",
    "pg_depend",
    "pg_description",
    "pg_enum",
    "pg_event_trigger",
    "pg_extension",
    "pg_foreign_data_wrapper",
    "pg_foreign_server",
    "pg_foreign_table",
    "pg_group",
    "pg_index",
    "pg_indexes",
    "pg_inherits",
    "pg_init_privs",
    "pg_language",
    "pg_largeobject_metadata",
    "pg_locks",
    "pg_matviews",
    "pg_namespace",
    "pg_opclass",
    "pg_operator",
    "pg_opfamily",
    "pg_parameter_acl",
    "pg_partitioned_table",
    "pg_policies",
    "pg_policy",
    "pg_prepared_xacts",
    "pg_proc",
    "pg_publication",
    "pg_publication_namespace",
    "pg_publication_rel",
    "pg_publication_tables",
    "pg_range",
    "pg_replication_origin",
    "pg_replication_origin_status",
    "pg_replication_slots",
    "pg_rewrite",
    "pg_roles",
    "pg_rules",
    "pg_seclabel",
    "pg_seclabels",
    "pg_sequence",
    "pg_sequences",
    "pg_settings",
    "pg_shdepend",
    "pg_shdescription",
    "pg_shseclabel",
    "pg_stat_activity",
    "pg_stat_all_indexes",
    "pg_stat_all_tables",
    "pg_stat_archiver",
    "pg_stat_bgwriter",
    "pg_stat_checkpointer",
    "pg_stat_database",
    "pg_stat_database_conflicts",
    "pg_stat_gssapi",
    "pg_stat_io",
    "pg_stat_progress_analyze",
    "pg_stat_progress_basebackup",
    "pg_stat_progress_cluster",
    "pg_stat_progress_copy",
    "pg_stat_progress_create_index",
    "pg_stat_progress_vacuum",
    "pg_stat_recovery_prefetch",
    "pg_stat_replication",
    "pg_stat_replication_slots",
    "pg_stat_slru",
    "pg_stat_ssl",
    "pg_stat_subscription_stats",
    "pg_stat_sys_indexes",
    "pg_stat_sys_tables",
    "pg_stat_user_functions",
    "pg_stat_user_indexes",
    "pg_stat_user_tables",
    "pg_stat_wal",
    "pg_stat_xact_all_tables",
    "pg_stat_xact_sys_tables",
    "pg_stat_xact_user_functions",
    "pg_stat_xact_user_tables",
    "pg_statio_all_indexes",
    "pg_statio_all_sequences",
    "pg_statio_all_tables",
    "pg_statio_sys_indexes",
    "pg_statio_sys_sequences",
    "pg_statio_sys_tables",
    "pg_statio_user_indexes",
    "pg_statio_user_sequences",
    "pg_statio_user_tables",
    "pg_statistic_ext",
    "pg_subscription",
    "pg_subscription_rel",
    "pg_tables",
    "pg_tablespace",
    "pg_timezone_abbrevs",
    "pg_timezone_names",
    "pg_transform",
    "pg_trigger",
    "pg_ts_config",
    "pg_ts_config_map",
    "pg_ts_dict",
    "pg_ts_parser",
    "pg_ts_template",
    "pg_type",
    "pg_user",
    "pg_views",
    "pg_wait_events",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_sorted_for_binary_search() {
        for list in [UNLISTED, VOLATILE_COMPUTES, EFFECTS, SERVED] {
            assert!(list.is_sorted(), "{:?}", list.windows(2).find(|pair| pair[0] > pair[1]));
        }
    }

    #[test]
    fn functions_that_read_are_unlisted_whatever_they_declare() {
        for name in [
            "query_to_xml",
            "table_to_xml_and_xmlschema",
            "pg_read_file",
            "lo_get",
            "pg_stat_get_activity",
            "pg_current_wal_insert_lsn",
        ] {
            assert_eq!(function(name, b'v'), Builtin::Unlisted, "{name}");
        }
        assert_eq!(function("table_to_xml", b's'), Builtin::Unlisted);
        assert_eq!(function("upper", b'i'), Builtin::Computes);
        assert_eq!(function("anything_new", b'v'), Builtin::Unlisted);
    }
}
