//! The starter rules keep their promise as they stand.

use std::collections::{BTreeMap, BTreeSet};

use chaperone_policy::{Action, PolicySet, Principal, Request, STARTER, Source, Workload, World};

use crate::support::{ask, brief, check, what, who, yes};

fn starter() -> PolicySet {
    let sources: Vec<Source> = STARTER.iter().map(|(name, text)| Source::new(*name, *text)).collect();
    PolicySet::load(&sources).unwrap_or_else(|errors| panic!("{errors}"))
}

#[test]
fn agents_read_masked_write_with_approval_and_change_no_structure() {
    check(
        &starter(),
        "
        bot connect shop                                    => permit agents-connect
        bot sql:select shop/public.customers                => permit agents-read
        bot sql:select shop                                 => permit agents-read
        bot sql:copy-out shop/public.customers              => permit agents-read
        bot sql:session shop                                => permit agents-read
        bot sql:insert shop/public.customers                => hold agents-write-approval
        bot sql:update shop/public.customers                => hold agents-write-approval
        bot sql:delete shop/public.customers                => hold agents-write-approval
        bot sql:merge shop/public.customers                 => hold agents-write-approval
        bot sql:copy-in shop/public.customers               => hold agents-write-approval
        bot sql:update shop/public.customers +no_where      => deny no-unqualified-write
        bot sql:delete shop/public.customers +no_where      => deny no-unqualified-write
        bot sql:delete shop/public.customers +constant_where => deny no-unqualified-write
        bot sql:truncate shop/public.customers              => deny agents-no-truncate
        bot sql:ddl shop/public.customers                   => deny agents-no-ddl
        bot sql:ddl shop                                    => deny agents-no-ddl
        bot sql:call shop/public.refund()                   => deny agents-no-call
        bot sql:admin shop                                  => deny agents-no-admin
        bot sql:listen shop                                 => deny default-deny
        bot unmask shop/public.customers.email#pii          => deny default-deny
        bot unmask shop/public.customers.id                 => deny default-deny
        stranger connect shop                               => deny default-deny
        stranger sql:select shop/public.customers           => deny default-deny
        stranger sql:delete shop/public.customers           => deny default-deny
        ",
    );
}

#[test]
fn who_is_not_confirmed_stays_out() {
    let bot = |unverified| who("bot").through(Workload { unverified, ..Workload::default() });
    let connect = |principal: &Principal| {
        brief(&starter().decide(&Request::new(principal, Action::Connect, &what("shop"))))
    };
    assert_eq!(connect(&bot(false)), "permit agents-connect");
    assert_eq!(connect(&bot(true)), "deny unverified-stay-out");
}

#[test]
fn an_approver_releases_a_write_but_never_one_without_where() {
    let starter = starter();
    let approver = [yes("anna", &["approvers"])];
    for (case, approvals, expected) in [
        ("bot sql:delete shop/public.t", &approver[..], "permit agents-write agents-write-approval"),
        ("bot sql:delete shop/public.t", &[yes("anna", &["sales"])][..], "hold agents-write-approval"),
        ("bot sql:delete shop/public.t +no_where", &approver[..], "deny no-unqualified-write"),
        ("bot sql:ddl shop/public.t", &approver[..], "deny agents-no-ddl"),
    ] {
        assert_eq!(brief(&ask(&starter, case, approvals)), expected, "{case}");
    }
}

#[test]
fn every_refusal_of_the_starter_says_why_and_what_instead() {
    let starter = starter();
    for case in [
        "bot sql:delete shop/public.t",
        "bot sql:update shop/public.t +no_where",
        "bot sql:truncate shop/public.t",
        "bot sql:ddl shop/public.t",
        "bot sql:call shop/public.f()",
        "bot sql:admin shop",
        "bot sql:listen shop",
    ] {
        let decision = ask(&starter, case, &[]);
        assert!(!decision.reason.is_empty(), "{case}");
        assert!(decision.hint.is_some(), "{case}");
    }
}

#[test]
fn the_examples_in_its_comments_work_when_uncommented() {
    let (name, text) = STARTER[0];
    let (rules, examples) = text.split_once("// ---- 6.").unwrap();
    let code = |line: &&str| ["// @id", "// permit", "// unless"].iter().any(|start| line.starts_with(start));
    let opened: Vec<&str> = examples.lines().filter(code).map(|line| &line[3..]).collect();
    assert_eq!(opened.len(), 8, "a line of the examples was not recognised");
    let all = Source::new(name, format!("{rules}\n{}", opened.join("\n")));
    let policies = PolicySet::load(&[all]).unwrap_or_else(|errors| panic!("{errors}"));
    for (principal, column, expected) in [
        ("bot", "shop/p.t.note#internal", true),
        ("bot", "shop/p.t.email#pii", false),
        ("analyst", "shop/p.t.email#pii", true),
        ("analyst", "shop/p.t.key#pii#secret", false),
    ] {
        assert_eq!(policies.unmask(&who(principal), &what(column)), expected, "{principal} {column}");
    }
    assert_eq!(ask(&policies, "bot sql:select shop/p.t", &[]).obligations.max_rows, Some(1000));
}

#[test]
fn the_starter_fits_the_world_its_head_describes() {
    let world = World {
        identities: BTreeSet::from(["billing-bot".into()]),
        groups: BTreeSet::from(["ai-agents".into()]),
        targets: BTreeMap::from([("shop".into(), "prod".into())]),
        approver_groups: Some(BTreeSet::from(["approvers".into()])),
        ..World::default()
    };
    assert_eq!(starter().check_world(&world), []);
}
