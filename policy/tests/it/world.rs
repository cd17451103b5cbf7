//! Rules that name what nobody defines.

use std::collections::{BTreeMap, BTreeSet};

use chaperone_policy::{Flag, RecordMode, World};

use crate::support::policies;

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn world() -> World {
    World {
        people: Some(["anna".to_owned(), "olga".to_owned()].into()),
        identities: set(&["billing-bot"]),
        groups: set(&["ai-agents", "ci"]),
        targets: BTreeMap::from([("shop".into(), "prod".into())]),
        tags: set(&["pii"]),
        approver_groups: Some(set(&["approvers"])),
        record_modes: Some([RecordMode::Rows].into()),
        flags: Some([Flag::NoWhere].into()),
    }
}

#[test]
fn a_rule_that_names_what_nobody_defines_is_found() {
    for (rule, expected) in [
        (
            r#"permit(principal == NonHumanIdentity::"biling-bot", action, resource);"#,
            r#"names NonHumanIdentity::"biling-bot", but nothing defines the identity "biling-bot" (did you mean "billing-bot"?)"#,
        ),
        (
            r#"permit(principal in Group::"ai-agent", action, resource);"#,
            r#"names Group::"ai-agent", but nothing defines the group "ai-agent" (did you mean "ai-agents"?)"#,
        ),
        (
            r#"permit(principal, action, resource in Env::"staging");"#,
            r#"names Env::"staging", but nothing defines the environment "staging""#,
        ),
        (
            r#"permit(principal, action, resource in Target::"shopp");"#,
            r#"names Target::"shopp", but nothing defines the target "shopp" (did you mean "shop"?)"#,
        ),
        (
            r#"permit(principal, action, resource in Table::"warehouse/crm/public.t");"#,
            r#"names Table::"warehouse/crm/public.t", but nothing defines the target "warehouse""#,
        ),
        (
            r#"permit(principal, action == Action::"unmask", resource) unless { resource in Tag::"pi" };"#,
            r#"names Tag::"pi", but nothing defines the tag "pi" (did you mean "pii"?)"#,
        ),
        (
            r#"forbid(principal, action == Action::"sql:select", resource) when { context.flags.contains(Flag::"star") };"#,
            r#"names Flag::"star", but nothing defines the flag "star""#,
        ),
        (
            r#"@approval("aprovers") forbid(principal, action == Action::"sql:select", resource);"#,
            r#"needs approval by "aprovers", which is no group of approvers (did you mean "approvers"?)"#,
        ),
        (
            r#"@record("rows,asciicast") permit(principal, action == Action::"sql:select", resource);"#,
            r#"asks to record asciicast, which this agent cannot"#,
        ),
    ] {
        let policies = policies(&format!("\n  @id(\"r\") {rule}"));
        let findings = policies.check_world(&world());
        assert_eq!(findings.len(), 1, "{findings:?}");
        assert_eq!(findings[0].to_string(), format!("test.cedar:2:3: policy \"r\": {expected}"));
    }
}

#[test]
fn a_rule_about_what_exists_is_not_found() {
    let policies = policies(
        r#"
        @id("a") permit(principal == NonHumanIdentity::"billing-bot", action, resource in Env::"prod");
        @id("b") @approval("approvers") @record("rows")
        forbid(principal in Group::"ci", action == Action::"sql:update", resource in Table::"shop/crm/public.any")
        when { context.flags.contains(Flag::"no_where") };
        @id("c") permit(principal, action == Action::"unmask", resource in Tag::"pii");
        "#,
    );
    assert_eq!(policies.check_world(&world()), []);
}

#[test]
fn what_is_not_known_is_not_compared() {
    let policies = policies(
        r#"
        @id("a") @approval("anybody") @record("asciicast")
        forbid(principal, action == Action::"sql:update", resource) when { context.flags.contains(Flag::"star") };
        "#,
    );
    let world = World { approver_groups: None, record_modes: None, flags: None, ..world() };
    assert_eq!(policies.check_world(&world), []);
}
