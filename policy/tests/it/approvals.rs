//! Holds: when they are offered, what releases them, and what does not.

use std::time::Duration;

use chaperone_policy::{Approval, ApprovalNeed, Approving, PolicySet, Principal, Request, Workload};

use crate::support::{HASH, ask, brief, check, policies, what, who, yes};

const RULES: &str = r#"
@id("write") permit(principal in Group::"ai-agents", action in Action::"sql:write", resource);
@id("ask") @approval("dba, oncall") @quorum("2") @approval_ttl("10m") @reason("two people look first") @hint("wait")
forbid(principal, action == Action::"sql:delete", resource);
@id("ask-prod") @approval("owner")
forbid(principal, action == Action::"sql:delete", resource in Env::"prod");
@id("never") forbid(principal, action == Action::"sql:truncate", resource);
@id("ask-truncate") @approval("dba") forbid(principal, action == Action::"sql:truncate", resource);
"#;

#[test]
fn a_hold_says_what_is_missing() {
    let decision = ask(&policies(RULES), "bot sql:delete shop/public.t", &[]);
    assert_eq!(brief(&decision), "hold ask ask-prod");
    assert_eq!((decision.reason.as_str(), decision.hint.as_deref()), ("two people look first", Some("wait")));
    let need = |rule: &str, groups: &[&str], quorum, minutes: u64| ApprovalNeed {
        rule: rule.into(),
        groups: groups.iter().map(|group| (*group).to_owned()).collect(),
        quorum,
        ttl: Duration::from_secs(minutes * 60),
    };
    assert_eq!(
        decision.obligations.approvals,
        [need("ask", &["dba", "oncall"], 2, 10), need("ask-prod", &["owner"], 1, 15)]
    );
}

#[test]
fn a_hold_that_no_approval_could_release_is_a_denial() {
    let policies = policies(RULES);
    for (case, expected) in [
        // Nothing permits it, so an approval would not help.
        ("ci sql:delete shop/public.t", "deny default-deny"),
        ("stranger sql:delete analytics/public.t", "deny default-deny"),
        // Another forbid stays.
        ("bot sql:truncate shop/public.t", "deny never"),
    ] {
        assert_eq!(brief(&ask(&policies, case, &[])), expected, "{case}");
    }
}

#[test]
fn approvals_release_only_what_they_were_given_for() {
    let policies = policies(RULES);
    let stale = Approval { age: Duration::from_secs(601), ..yes("olga", &["dba"]) };
    let just_in_time = Approval { age: Duration::from_secs(600), ..yes("olga", &["dba"]) };
    let other_statement = Approval { statement_hash: "another".into(), ..yes("olga", &["dba"]) };
    let nameless = Approval { by: String::new(), ..yes("x", &["dba"]) };
    let (olga, ivan) = (yes("olga", &["dba"]), yes("ivan", &["oncall", "other"]));
    for (name, approvals, expected) in [
        ("none", vec![], "hold ask"),
        ("one of two", vec![olga.clone()], "hold ask"),
        ("the same person twice", vec![olga.clone(), olga.clone()], "hold ask"),
        ("two people, either group", vec![olga.clone(), ivan.clone()], "permit write ask"),
        ("a person outside the groups", vec![olga.clone(), yes("eve", &["sales"])], "hold ask"),
        ("a person without groups", vec![olga.clone(), yes("eve", &[])], "hold ask"),
        ("too old", vec![stale, ivan.clone()], "hold ask"),
        ("just in time", vec![just_in_time, ivan.clone()], "permit write ask"),
        ("for another statement", vec![other_statement, ivan.clone()], "hold ask"),
        ("nobody in particular", vec![nameless, ivan.clone()], "hold ask"),
        ("the held identity itself", vec![yes("bot", &["dba"]), ivan.clone()], "hold ask"),
    ] {
        let decision = ask(&policies, "bot sql:delete analytics/public.t", &approvals);
        assert_eq!(brief(&decision), expected, "{name}");
    }
}

#[test]
fn every_rule_that_holds_has_to_be_satisfied() {
    let policies = policies(RULES);
    let (olga, ivan, anna) = (yes("olga", &["dba"]), yes("ivan", &["oncall"]), yes("anna", &["owner"]));
    for (approvals, expected) in [
        (vec![olga.clone(), ivan.clone()], "hold ask-prod"),
        (vec![anna.clone()], "hold ask"),
        (vec![olga.clone(), ivan, anna.clone()], "permit write ask ask-prod"),
        (
            vec![olga, Approval { groups: ["owner".into(), "dba".into()].into(), ..anna }],
            "permit write ask ask-prod",
        ),
    ] {
        assert_eq!(brief(&ask(&policies, "bot sql:delete shop/public.t", &approvals)), expected);
    }
}

#[test]
fn without_a_statement_hash_nothing_can_be_approved() {
    let policies = policies(RULES);
    let (bot, table) = (who("bot"), what("analytics/public.t"));
    let empty: Vec<Approval> = ["olga", "ivan"]
        .iter()
        .map(|by| Approval { statement_hash: String::new(), ..yes(by, &["dba"]) })
        .collect();
    let request = Request::new(&bot, "sql:delete".parse().unwrap(), &table);
    assert_eq!(brief(&policies.decide(&Request { approvals: &empty, ..request })), "hold ask");
    let hashed = [yes("olga", &["dba"]), yes("ivan", &["dba"])];
    assert_eq!(brief(&policies.decide(&Request { approvals: &hashed, ..request })), "hold ask");
    let both = Request { approvals: &hashed, statement_hash: HASH, ..request };
    assert_eq!(brief(&policies.decide(&both)), "permit write ask");
}

#[test]
fn approving_releases_nothing_else() {
    let policies = policies(RULES);
    let everyone = [yes("olga", &["dba", "oncall", "owner"]), yes("ivan", &["dba", "oncall", "owner"])];
    for (case, expected) in [
        ("bot sql:truncate shop/public.t", "deny never"),
        ("ci sql:delete shop/public.t", "deny default-deny"),
        ("bot sql:select shop/public.t", "deny default-deny"),
    ] {
        assert_eq!(brief(&ask(&policies, case, &everyone)), expected, "{case}");
    }
}

#[test]
fn who_may_approve_what_is_decided_by_policy() {
    let bot = who("bot");
    let rules = ["two-people".to_owned()];
    let may = |policies: &PolicySet, name: &str, groups: &[&str], kind: &str, resource: &str| {
        let approving = Approving { identity: &bot, owner: Some("olga"), kind, rules: &rules };
        let person = Principal::person(name, groups.to_vec());
        policies.may_approve(&person, &what(resource), &approving).err().map(|denial| brief(&denial))
    };
    let silent = policies(r#"@id("read") permit (principal, action == Action::"connect", resource);"#);
    assert_eq!(may(&silent, "anna", &[], "statement", "shop"), None, "@approval alone says who");

    let said = policies(
        r#"
        @id("oncall") permit (principal in Group::"oncall", action == Action::"approve", resource in Env::"prod")
        when { context.kind != "grant" && context.identity in Group::"ai-agents" };
        @id("lead") permit (principal == Person::"lena", action == Action::"approve", resource)
        when { context.rules.contains("two-people") };
        @id("owner") forbid (principal, action == Action::"approve", resource)
        when { context has owner && context.owner == principal };
        @id("never-by-script") forbid (principal, action == Action::"approve", resource)
        when { context.workload.uid == 0 };
        "#,
    );
    let no = |rule: &str| Some(format!("deny {rule}"));
    assert_eq!(may(&said, "anna", &["oncall"], "statement", "shop"), None);
    assert_eq!(may(&said, "anna", &["oncall"], "grant", "shop"), no("default-deny"));
    assert_eq!(may(&said, "anna", &["oncall"], "statement", "analytics"), no("default-deny"));
    assert_eq!(may(&said, "anna", &["sales"], "statement", "shop"), no("default-deny"));
    assert_eq!(may(&said, "olga", &["oncall"], "statement", "shop"), no("owner"));
    assert_eq!(may(&said, "lena", &[], "grant", "analytics"), None);
    // An identity of the same name is not the person.
    let approving = Approving { identity: &bot, owner: None, kind: "statement", rules: &rules };
    let lena = Principal::new("lena", ["oncall"]);
    assert!(said.may_approve(&lena, &what("shop"), &approving).is_err());
    let root = bot.through(Workload { uid: 0, ..Workload::default() });
    let approving = Approving { identity: &root, ..approving };
    let anna = Principal::person("anna", ["oncall"]);
    let denial = said.may_approve(&anna, &what("shop"), &approving).err().map(|denial| brief(&denial));
    assert_eq!(denial, no("never-by-script"));
    // What an identity does is never decided by a rule about people.
    check(&said, "bot sql:select shop/public.t => deny default-deny");
}
