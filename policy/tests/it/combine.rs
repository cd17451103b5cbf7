//! A statement that touches several tables is as permitted as its strictest part.

use chaperone_policy::{Effect, RecordMode, combine};

use crate::support::{ask, brief, policies, yes};

const RULES: &str = r#"
@id("read-a") @max_rows("100") @record("rows") permit(principal, action == Action::"sql:select", resource in Table::"shop/crm/p.a");
@id("read-b") @max_rows("10") permit(principal, action == Action::"sql:select", resource in Table::"shop/crm/p.b");
@id("read-all") permit(principal, action == Action::"sql:select", resource);
@id("ask-c") @approval("dba") @reason("c is guarded") @hint("leave c out")
forbid(principal, action == Action::"sql:select", resource in Table::"shop/crm/p.c");
@id("ask-d") @approval("owner") @reason("d is guarded")
forbid(principal, action == Action::"sql:select", resource in Table::"shop/crm/p.d");
@id("never-e") @reason("e is closed") forbid(principal, action == Action::"sql:select", resource in Table::"shop/crm/p.e");
@id("closed") forbid(principal, action == Action::"sql:select", resource in Table::"shop/crm/p.f");
"#;

#[test]
fn the_strictest_decision_wins() {
    let policies = policies(RULES);
    for (tables, expected, reason) in [
        ("a", "permit read-a read-all", None),
        ("a b", "permit read-a read-all read-b", None),
        ("a c", "hold ask-c", Some("c is guarded")),
        ("c d c", "hold ask-c ask-d", Some("c is guarded; d is guarded")),
        ("a e", "deny never-e", Some("e is closed")),
        ("c e", "deny never-e", Some("e is closed")),
        ("e c f", "deny never-e closed", Some("e is closed; sql:select on shop/crm/p.f is forbidden")),
    ] {
        let decisions =
            tables.split(' ').map(|table| ask(&policies, &format!("bot sql:select shop/p.{table}"), &[]));
        let combined = combine(decisions.collect::<Vec<_>>());
        assert_eq!(brief(&combined), expected, "{tables}");
        if let Some(reason) = reason {
            assert_eq!(combined.reason, reason, "{tables}");
        }
    }
}

#[test]
fn obligations_of_all_parts_add_up() {
    let policies = policies(RULES);
    let ask =
        |table: &str, approvals: &[_]| ask(&policies, &format!("bot sql:select shop/p.{table}"), approvals);

    let held = combine([ask("a", &[]), ask("b", &[]), ask("c", &[]), ask("d", &[]), ask("c", &[])]);
    assert_eq!(held.obligations.max_rows, Some(10));
    assert_eq!(held.obligations.record, [RecordMode::Rows].into());
    let rules: Vec<&str> = held.obligations.approvals.iter().map(|need| need.rule.as_str()).collect();
    assert_eq!(rules, ["ask-c", "ask-d"]);

    let half = [yes("olga", &["dba"])];
    let held = combine([ask("c", &half), ask("d", &half)]);
    assert_eq!(brief(&held), "hold ask-d");
    let both = [yes("olga", &["dba"]), yes("anna", &["owner"])];
    assert_eq!(combine([ask("c", &both), ask("d", &both)]).effect, Effect::Permit);

    let denied = combine([ask("a", &[]), ask("c", &[]), ask("e", &[])]);
    assert_eq!(denied.obligations, Default::default());
}

#[test]
fn no_decision_is_a_denial() {
    let decision = combine([]);
    assert_eq!(brief(&decision), "deny invalid-request");
}

#[test]
fn the_order_of_the_parts_changes_neither_effect_nor_obligations() {
    let policies = policies(RULES);
    let parts: Vec<_> = ["a", "b", "c", "d", "e"]
        .iter()
        .map(|table| ask(&policies, &format!("bot sql:select shop/p.{table}"), &[]))
        .collect();
    for first in &parts {
        for second in &parts {
            let one = combine([first.clone(), second.clone()]);
            let other = combine([second.clone(), first.clone()]);
            assert_eq!(one.effect, other.effect);
            assert_eq!(one.effect, first.effect.max(second.effect));
            assert_eq!(one.obligations.max_rows, other.obligations.max_rows);
            assert_eq!(one.obligations.record, other.obligations.record);
            assert_eq!(combine([one.clone()]), one, "combining one decision changes nothing");
        }
    }
}
