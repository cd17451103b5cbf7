//! Which settings a session may change and show. Closed lists: a setting that is not on one is refused, since it may
//! change how text is read, how names resolve, or what reaches the client.

use crate::refusal::{Refusal, Res};

/// Settings that change formats, limits and plans, and nothing the analysis hangs on.
const SETTABLE: &[&str] = &[
    "application_name",
    "array_nulls",
    "bytea_output",
    "check_function_bodies",
    "commit_delay",
    "commit_siblings",
    "constraint_exclusion",
    "cpu_index_tuple_cost",
    "cpu_operator_cost",
    "cpu_tuple_cost",
    "cursor_tuple_fraction",
    "datestyle",
    "default_statistics_target",
    "default_table_access_method",
    "default_tablespace",
    "default_text_search_config",
    "default_toast_compression",
    "default_transaction_deferrable",
    "default_transaction_isolation",
    "default_transaction_read_only",
    "effective_cache_size",
    "effective_io_concurrency",
    "escape_string_warning",
    "extra_float_digits",
    "from_collapse_limit",
    "geqo",
    "geqo_threshold",
    "gin_fuzzy_search_limit",
    "gin_pending_list_limit",
    "hash_mem_multiplier",
    "idle_in_transaction_session_timeout",
    "idle_session_timeout",
    "intervalstyle",
    "jit",
    "jit_above_cost",
    "join_collapse_limit",
    "lc_monetary",
    "lc_numeric",
    "lc_time",
    "lock_timeout",
    "logical_decoding_work_mem",
    "maintenance_work_mem",
    "max_parallel_maintenance_workers",
    "max_parallel_workers",
    "max_parallel_workers_per_gather",
    "min_parallel_index_scan_size",
    "min_parallel_table_scan_size",
    "parallel_leader_participation",
    "parallel_setup_cost",
    "parallel_tuple_cost",
    "password_encryption",
    "plan_cache_mode",
    "quote_all_identifiers",
    "random_page_cost",
    "recursive_worktable_factor",
    "seed",
    "seq_page_cost",
    "statement_timeout",
    "synchronize_seqscans",
    "synchronous_commit",
    "tcp_keepalives_count",
    "tcp_keepalives_idle",
    "tcp_keepalives_interval",
    "tcp_user_timeout",
    "temp_buffers",
    "timezone",
    "timezone_abbreviations",
    "transaction_deferrable",
    "transaction_isolation",
    "transaction_read_only",
    "transaction_timeout",
    "vacuum_cost_delay",
    "work_mem",
    "xmlbinary",
    "xmloption",
];

/// Whether the session may set it to this; `values` is empty for DEFAULT and RESET.
pub(super) fn may_set(name: &str, values: &[&str]) -> Res<()> {
    let lower = name.to_ascii_lowercase();
    let name = match lower.as_str() {
        "time zone" => "timezone",
        name => name,
    };
    let allowed = match name {
        // Only what they are pinned to.
        "client_encoding" => matches!(values, [one] if is_utf8(one)),
        "standard_conforming_strings" => {
            matches!(values, [one] if matches!(one.to_ascii_lowercase().as_str(), "on" | "true" | "yes" | "1"))
        }
        // More verbose levels send internals of plans and parse trees.
        "client_min_messages" => {
            let levels = ["log", "notice", "warning", "error"];
            matches!(values, [one] if levels.iter().any(|level| one.eq_ignore_ascii_case(level)))
        }
        _ => SETTABLE.binary_search(&name).is_ok() || is_planner_switch(name),
    };
    if allowed { Ok(()) } else { Err(Refusal::setting(name)) }
}

/// Whether dates and times in a text mean something else under another value.
pub(super) fn gives_meaning(name: &str) -> bool {
    let names = ["datestyle", "intervalstyle", "timezone", "time zone"];
    names.iter().any(|other| name.eq_ignore_ascii_case(other))
}

/// Whether a session may ask for this at login.
#[must_use]
pub fn may_set_at_login(name: &str, value: &str) -> bool {
    may_set(name, &[value]).and_then(|()| beside_masks(name, value)).is_ok()
}

/// Whether it may be set to this where something is masked. Numbers are printed as they are: rounded ones would be served in
/// the buckets next to their own, and tell that they lie at the border. What the server writes into its log, plans of
/// statements among it, does not come to the client as well.
pub(super) fn beside_masks(name: &str, value: &str) -> Res<()> {
    let fine = if name.eq_ignore_ascii_case("extra_float_digits") {
        matches!(value.trim(), "1" | "2" | "3")
    } else {
        !name.eq_ignore_ascii_case("client_min_messages") || !value.eq_ignore_ascii_case("log")
    };
    if fine { Ok(()) } else { Err(Refusal::setting(name)) }
}

/// Whether the session may see it. Settings with a dot are the application's own and may hold anything.
pub(super) fn may_show(name: &str) -> Res<()> {
    if name.contains('.') { Err(Refusal::setting(name)) } else { Ok(()) }
}

/// `enable_hashjoin` and its kin.
fn is_planner_switch(name: &str) -> bool {
    name.strip_prefix("enable_").is_some_and(|rest| rest.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'))
}

fn is_utf8(value: &str) -> bool {
    let plain: String = value.chars().filter(char::is_ascii_alphanumeric).collect();
    plain.eq_ignore_ascii_case("utf8") || plain.eq_ignore_ascii_case("unicode")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_sorted_for_binary_search() {
        assert!(SETTABLE.is_sorted());
    }

    #[test]
    fn settings_the_analysis_hangs_on_are_pinned() {
        for name in
            ["search_path", "role", "session_authorization", "backslash_quote", "row_security", "my.own"]
        {
            assert!(may_set(name, &["x"]).is_err(), "{name}");
        }
        assert!(may_set("client_encoding", &["UTF-8"]).is_ok());
        assert!(may_set("client_encoding", &["SJIS"]).is_err());
        assert!(may_set("client_encoding", &[]).is_err());
        assert!(may_set("standard_conforming_strings", &["off"]).is_err());
        assert!(may_set("DateStyle", &["ISO"]).is_ok());
        assert!(may_set("client_min_messages", &["debug5"]).is_err());
        assert!(may_set_at_login("extra_float_digits", "3"));
        assert!(
            may_set_at_login("client_min_messages", "notice")
                && !may_set_at_login("client_min_messages", "LOG")
        );
        assert!(
            !may_set_at_login("Extra_Float_Digits", "-1") && !may_set_at_login("extra_float_digits", "0x0")
        );
    }
}
