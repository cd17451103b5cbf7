//! What is permitted, held and denied, and what is said about it.

use chaperone_policy::{Cause, MaskWith, RecordMode, Request};

use crate::support::{ask, brief, check, policies, what, who, yes};

/// The worked example of the design notes, in the vocabulary of this crate.
const WORKED_EXAMPLE: &str = r#"
@id("agents-read-analytics") @max_rows("1000")
permit(principal in Group::"ai-agents", action in Action::"sql:read", resource in Database::"analytics/events");
@id("ci-writes-orders")
permit(principal in Group::"ci", action in Action::"sql:write", resource in Schema::"shop/crm/orders");
@id("no-unqualified-write") @reason("UPDATE/DELETE without WHERE") @hint("add a WHERE")
forbid(principal, action in [Action::"sql:update", Action::"sql:delete"], resource)
when { context.flags.contains(Flag::"no_where") };
@id("prod-destructive") @approval("db-oncall") @approval_ttl("15m") @quorum("1")
forbid(principal, action in [Action::"sql:delete", Action::"sql:ddl"], resource in Env::"prod");
@id("unmask-untagged")
permit(principal, action == Action::"unmask", resource) unless { resource in [Tag::"pii", Tag::"secret"] };
@id("unmask-pii")
permit(principal in Group::"pii-readers", action == Action::"unmask", resource in Tag::"pii")
unless { resource in Tag::"secret" };
"#;

#[test]
fn the_worked_example_decides_as_it_did_on_paper() {
    let policies = policies(WORKED_EXAMPLE);
    check(
        &policies,
        "
        bot sql:select analytics/public.clicks            => permit agents-read-analytics
        bot sql:session analytics                         => permit agents-read-analytics
        bot sql:select shop/orders.items                  => deny default-deny
        ci sql:update shop/orders.items                   => permit ci-writes-orders
        ci sql:update shop/orders.items +no_where         => deny no-unqualified-write
        ci sql:delete shop/orders.items                   => hold prod-destructive
        ci sql:update shop/public.customers               => deny default-deny
        bot sql:delete shop/orders.items                  => deny default-deny
        bot unmask shop/public.customers.email#pii        => deny default-deny
        bot unmask shop/public.customers.id               => permit unmask-untagged
        bot unmask shop/public.customers.note#internal    => permit unmask-untagged
        analyst unmask shop/public.customers.email#pii    => permit unmask-pii
        analyst unmask shop/public.customers.key#pii#secret => deny default-deny
        ",
    );
    let read = ask(&policies, "bot sql:select analytics/public.clicks", &[]);
    assert_eq!(read.obligations.max_rows, Some(1000));

    let oncall = [yes("olga", &["db-oncall"])];
    let approved = ask(&policies, "ci sql:delete shop/orders.items", &oncall);
    assert_eq!(brief(&approved), "permit ci-writes-orders prod-destructive");
    let unqualified = ask(&policies, "ci sql:delete shop/orders.items +no_where", &oncall);
    assert_eq!(brief(&unqualified), "deny no-unqualified-write");
    assert_eq!(unqualified.reason, "UPDATE/DELETE without WHERE");
    assert_eq!(unqualified.hint.as_deref(), Some("add a WHERE"));
}

#[test]
fn nothing_is_permitted_by_default() {
    let none = policies("");
    check(
        &none,
        "
        bot connect shop                          => deny default-deny
        bot sql:select shop/public.customers      => deny default-deny
        bot unmask shop/public.customers.email    => deny default-deny
        ",
    );
    let decision = ask(&none, "bot sql:select shop/public.customers", &[]);
    assert_eq!(decision.reason, "no policy permits sql:select on shop/crm/public.customers");
    assert_eq!((decision.cause, decision.hint), (Cause::NoPermit, None));
}

#[test]
fn a_scope_means_what_it_says() {
    let policies = policies(
        r#"
        @id("eq-principal") permit(principal == NonHumanIdentity::"bot", action == Action::"connect", resource);
        @id("eq-database") permit(principal, action == Action::"sql:select", resource == Database::"shop/crm");
        @id("in-table") permit(principal, action == Action::"sql:insert", resource in Table::"shop/crm/public.log");
        @id("in-target") permit(principal, action == Action::"sql:update", resource in Target::"shop");
        @id("in-env") permit(principal, action == Action::"sql:delete", resource in Env::"prod");
        @id("is-routine") permit(principal, action in [Action::"sql:call", Action::"sql:ddl"], resource is Routine);
        @id("is-in") permit(principal is NonHumanIdentity in Group::"ci", action == Action::"sql:ddl",
                            resource is Schema in Database::"shop/crm");
        @id("column") permit(principal, action == Action::"unmask", resource in Table::"shop/crm/public.log");
        "#,
    );
    check(
        &policies,
        "
        bot connect shop                   => permit eq-principal
        ci connect shop                    => deny default-deny
        bot sql:select shop                => permit eq-database
        bot sql:select shop/public         => deny default-deny
        bot sql:insert shop/public.log     => permit in-table
        bot sql:insert shop/public.log2    => deny default-deny
        bot sql:insert shop/other.log      => deny default-deny
        bot sql:update shop/public.x       => permit in-target
        bot sql:update analytics/public.x  => deny default-deny
        bot sql:delete shop                => permit in-env
        bot sql:delete analytics           => deny default-deny
        bot sql:call shop/public.refund()  => permit is-routine
        bot sql:call shop/public           => deny default-deny
        bot sql:ddl shop/public.refund()   => permit is-routine
        ci sql:ddl shop/public             => permit is-in
        bot sql:ddl shop/public            => deny default-deny
        ci sql:ddl shop/public.t           => deny default-deny
        bot unmask shop/public.log.line#pii => permit column
        bot unmask shop/public.x.line      => deny default-deny
        ",
    );
}

#[test]
fn a_forbid_beats_every_permit_and_says_why() {
    let policies = policies(
        r#"
        @id("all") permit(principal, action, resource);
        @id("a") @reason("first") forbid(principal, action == Action::"sql:ddl", resource);
        @id("b") @reason("second") @hint("ask") forbid(principal, action in Action::"sql:all", resource in Env::"prod");
        @id("c") @reason("first") forbid(principal, action == Action::"sql:ddl", resource);
        "#,
    );
    let decision = ask(&policies, "bot sql:ddl shop/public.t", &[]);
    assert_eq!(brief(&decision), "deny a b c");
    assert_eq!((decision.rule(), decision.reason.as_str()), ("a", "first; second"));
    assert_eq!(decision.hint.as_deref(), Some("ask"));
    check(&policies, "bot connect shop => permit all");
}

#[test]
fn a_denial_without_a_rule_says_what_is_permitted_instead() {
    let policies = policies(
        r#"
        @id("read") permit(principal in Group::"ai-agents", action in Action::"sql:read", resource);
        @id("write") permit(principal in Group::"ai-agents", action == Action::"sql:insert", resource);
        @id("ask") @approval("approvers") forbid(principal, action == Action::"sql:insert", resource);
        "#,
    );
    for (case, hint) in [
        (
            "bot sql:update shop/public.t",
            Some("permitted on shop/crm/public.t: sql:select, sql:copy-out; after approval: sql:insert"),
        ),
        ("stranger sql:update shop/public.t", None),
        (
            "bot connect shop",
            Some("permitted on shop/crm: sql:select, sql:copy-out, sql:session; after approval: sql:insert"),
        ),
    ] {
        assert_eq!(ask(&policies, case, &[]).hint.as_deref(), hint, "{case}");
    }
}

#[test]
fn an_action_on_the_wrong_kind_of_resource_is_denied_whatever_is_permitted() {
    let policies = policies(r#"@id("all") permit(principal, action, resource);"#);
    for (case, expected) in [
        ("bot connect shop/public.t", "connect on shop/crm/public.t is not a possible request"),
        ("bot unmask shop/public.t", "unmask on shop/crm/public.t is not a possible request"),
        ("bot sql:select shop/public.t.c", "sql:select on shop/crm/public.t.c is not a possible request"),
        ("bot sql:call shop/public.t", "sql:call on shop/crm/public.t is not a possible request"),
    ] {
        let decision = ask(&policies, case, &[]);
        assert_eq!(brief(&decision), "deny invalid-request", "{case}");
        assert!(decision.reason.starts_with(expected), "{case}: {}", decision.reason);
    }
}

#[test]
fn conditions_see_flags_and_every_table_of_the_statement() {
    let policies = policies(
        r#"
        @id("read") permit(principal, action == Action::"sql:select", resource);
        @id("no-join") forbid(principal, action == Action::"sql:select", resource)
        when { context.tables.containsAll([Table::"shop/crm/public.a", Table::"shop/crm/public.b"]) };
        @id("no-star") forbid(principal, action, resource)
        when { context has flags && context.flags.contains(Flag::"star") };
        "#,
    );
    let (bot, a, b) = (who("bot"), what("shop/public.a"), what("shop/public.b"));
    let request = Request::new(&bot, "sql:select".parse().unwrap(), &a);
    for (tables, expected) in [
        (vec![], "permit read"),
        (vec![a.clone()], "permit read"),
        (vec![a.clone(), b.clone()], "deny no-join"),
        (vec![what("shop/public")], "deny invalid-request"),
    ] {
        assert_eq!(brief(&policies.decide(&Request { tables: &tables, ..request })), expected, "{tables:?}");
    }
    check(&policies, "bot sql:select shop/public.a +no_limit +star => deny no-star");
}

#[test]
fn an_action_group_means_its_actions_with_and_without_conditions() {
    let policies = policies(
        r#"
        @id("plain") permit(principal, action in Action::"sql:read", resource);
        @id("typed") permit(principal is NonHumanIdentity, action in Action::"sql:write", resource);
        @id("when") forbid(principal, action in Action::"sql:write", resource)
        when { context.flags.contains(Flag::"no_where") };
        @id("inside") forbid(principal, action, resource)
        when { action in [Action::"sql:all"] && principal in Group::"ci" };
        "#,
    );
    check(
        &policies,
        "
        bot sql:select shop/public.t           => permit plain
        bot sql:update shop/public.t           => permit typed
        bot sql:update shop/public.t +no_where => deny when
        ci sql:select shop/public.t            => deny inside
        ci connect shop                        => deny default-deny
        ",
    );
}

#[test]
fn obligations_come_from_every_rule_that_decided() {
    let policies = policies(
        r#"
        @id("wide") @max_rows("5000") @max_time("1m") @max_bytes("64kB") @record("rows")
        permit(principal, action in Action::"sql:all", resource);
        @id("narrow") @max_rows("10") @max_time("2h") @max_bytes("1MB") @mask_with("redact")
        permit(principal in Group::"ai-agents", action == Action::"sql:select", resource);
        @id("nulls") @mask_with("null")
        permit(principal in Group::"pii-readers", action == Action::"sql:select", resource);
        @id("ask") @approval("dba") @record("asciicast")
        forbid(principal, action == Action::"sql:delete", resource);
        "#,
    );
    let rows = |decision: &chaperone_policy::Decision| {
        let obligations = &decision.obligations;
        (obligations.max_rows, obligations.record.iter().copied().collect::<Vec<_>>(), obligations.mask_with)
    };
    let all = vec![RecordMode::Rows, RecordMode::Asciicast];
    for (case, approvals, expected) in [
        ("ci sql:select shop/public.t", vec![], (Some(5000), vec![RecordMode::Rows], None)),
        ("bot sql:select shop/public.t", vec![], (Some(10), vec![RecordMode::Rows], Some(MaskWith::Redact))),
        (
            "analyst sql:select shop/public.t",
            vec![],
            (Some(10), vec![RecordMode::Rows], Some(MaskWith::Null)),
        ),
        ("bot sql:delete shop/public.t", vec![], (Some(5000), all.clone(), None)),
        ("bot sql:delete shop/public.t", vec![yes("olga", &["dba"])], (Some(5000), all, None)),
    ] {
        let decision = ask(&policies, case, &approvals);
        assert_eq!(rows(&decision), expected, "{case}");
        let limits = (decision.obligations.max_bytes, decision.obligations.max_time);
        assert_eq!(limits, (Some(64 << 10), Some(std::time::Duration::from_secs(60))), "{case}");
    }
}

#[test]
fn unmask_is_true_only_for_a_plain_permit() {
    let policies = policies(WORKED_EXAMPLE);
    for (principal, column, expected) in [
        ("bot", "shop/public.customers.email#pii", false),
        ("bot", "shop/public.customers.id", true),
        ("analyst", "shop/public.customers.email#pii", true),
        ("analyst", "shop/public.customers.key#pii#secret", false),
        ("analyst", "shop/public.customers", false),
    ] {
        assert_eq!(policies.unmask(&who(principal), &what(column)), expected, "{principal} {column}");
    }
    let held = self::policies(
        r#"
        @id("all") permit(principal, action, resource);
        @id("ask") @approval("dba") forbid(principal, action, resource);
        "#,
    );
    assert!(!held.unmask(&who("bot"), &what("shop/public.customers.id")));
}

#[test]
fn policies_and_names_are_shared_between_sessions() {
    fn shareable<T: Send + Sync + 'static>() {}
    shareable::<chaperone_policy::PolicySet>();
    shareable::<chaperone_policy::Principal>();
    shareable::<chaperone_policy::Resource>();
    shareable::<chaperone_policy::Decision>();
}
