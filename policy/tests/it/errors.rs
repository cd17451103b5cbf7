//! A policy that cannot be evaluated denies; Cedar alone would skip it.

use chaperone_policy::Cause;

use crate::support::{ask, brief, policies, what, who, yes};

/// Passes validation, fails when evaluated.
const OVERFLOW: &str = "9223372036854775807 + 1 > 0";

#[test]
fn an_evaluation_error_denies_and_names_the_policy() {
    for (name, rules) in [
        (
            "in a forbid",
            r#"@id("ok") permit(principal, action, resource); @id("broken") forbid(principal, action, resource) when { E };"#,
        ),
        (
            "in a permit beside a good one",
            r#"@id("ok") permit(principal, action, resource); @id("broken") permit(principal, action, resource) when { E };"#,
        ),
        (
            "in a forbid with approval",
            r#"@id("ok") permit(principal, action, resource); @id("broken") @approval("dba") forbid(principal, action, resource) when { E };"#,
        ),
        (
            "in a policy of its own scope",
            r#"@id("ok") permit(principal, action, resource); @id("broken") forbid(principal in Group::"ai-agents", action == Action::"sql:select", resource in Target::"shop") when { E };"#,
        ),
    ] {
        let policies = policies(&rules.replace('E', OVERFLOW));
        let decision = ask(&policies, "bot sql:select shop/public.t", &[yes("olga", &["dba"])]);
        assert_eq!((brief(&decision).as_str(), decision.cause), ("deny broken", Cause::Error), "{name}");
        assert!(decision.reason.starts_with("the policy could not be evaluated: "), "{}", decision.reason);
    }
}

#[test]
fn a_policy_that_does_not_concern_the_request_cannot_break_it() {
    let policies = policies(&format!(
        r#"
        @id("ok") permit(principal, action, resource);
        @id("broken") forbid(principal in Group::"ci", action, resource) when {{ {OVERFLOW} }};
        @id("broken-2") forbid(principal, action == Action::"sql:ddl", resource) when {{ {OVERFLOW} }};
        "#
    ));
    assert_eq!(brief(&ask(&policies, "bot sql:select shop/public.t", &[])), "permit ok");
    assert_eq!(brief(&ask(&policies, "ci sql:select shop/public.t", &[])), "deny broken");
}

#[test]
fn an_error_masks() {
    let policies = policies(&format!(
        r#"
        @id("ok") permit(principal, action == Action::"unmask", resource);
        @id("broken") forbid(principal, action == Action::"unmask", resource in Tag::"pii") when {{ {OVERFLOW} }};
        "#
    ));
    assert!(policies.unmask(&who("bot"), &what("shop/public.t.id")));
    assert!(!policies.unmask(&who("bot"), &what("shop/public.t.email#pii")));
}
