use std::collections::BTreeMap;

use super::*;
use crate::workload::grammar::Kind;

fn rule(name: &str, whose: Whose) -> IdentityRule {
    IdentityRule { name: name.into(), groups: vec![], owner: None, retry: false, token: None, whose }
}

fn check(identities: &Identities, cgroup: Option<&str>, expect: Result<&str, IdentityError>) {
    let got = identities.identify(cgroup, None).map(|principal| principal.name().to_owned());
    assert_eq!(got, expect.map(str::to_owned), "{cgroup:?}");
}

#[test]
fn a_cgroup_names_its_identity_and_cannot_be_talked_out_of_it() {
    let at = |name: &str, cgroup: &str| rule(name, Whose::Cgroup(cgroup.into()));
    let identities = Identities::new(vec![at("bot", "/agents/bot"), at("root", "/agents/bot/x/other")]);
    let check = |cgroup, expect| check(&identities, cgroup, expect);
    check(Some("/agents/bot"), Ok("bot"));
    check(Some("/agents/bot/child"), Ok("bot"));
    check(Some("/agents/bot/x/other"), Ok("bot"));
    check(Some("/agents/botnet"), Err(IdentityError::Unknown("/agents/botnet".into())));
    check(Some("/x/agents/bot"), Err(IdentityError::Unknown("/x/agents/bot".into())));
    check(Some("/"), Err(IdentityError::Unknown("/".into())));
    check(None, Err(IdentityError::CgroupGone));
}

#[test]
fn a_placement_names_its_identity_unless_two_claim_it() {
    let unit = |name: &str, pattern: &str| {
        let unit = Some(pattern.to_owned());
        let any = Match {
            kind: Kind::Systemd,
            unit,
            uid: None,
            slice: None,
            runtime: None,
            container: None,
            pod: None,
            namespace: None,
            service_account: None,
            labels: BTreeMap::new(),
            task: None,
            alloc: None,
            job: None,
            machine: None,
            unverified: false,
        };
        rule(name, Whose::Match(Box::new(any)))
    };
    let identities = Identities::new(vec![
        unit("runner", "actions.runner.acme-*.service"),
        unit("shop-runner", "actions.runner.*-shop.*.service"),
        rule("cron", Whose::Cgroup("/system.slice/cron.service".into())),
    ]);
    let check = |cgroup: &str, expect| check(&identities, Some(cgroup), expect);
    check("/system.slice/actions.runner.acme-web.b1.service", Ok("runner"));
    check("/system.slice/actions.runner.acme-web.b1.service/job", Ok("runner"));
    check("/system.slice/cron.service/x", Ok("cron"));
    let forged = "/user.slice/user-1.slice/user@1.service/actions.runner.acme-web.b1.service";
    check(forged, Err(IdentityError::Unknown(forged.into())));
    let both = "/system.slice/actions.runner.acme-shop.b1.service";
    let names = "runner, shop-runner".to_owned();
    check(both, Err(IdentityError::Ambiguous { cgroup: both.into(), names }));
}

#[test]
fn a_star_stands_for_any_text() {
    for (pattern, text, expect) in [
        ("a", "a", true),
        ("a", "ab", false),
        ("a*", "ab", true),
        ("*b", "ab", true),
        ("a*b", "ab", true),
        ("a*b", "a.b.c", false),
        ("a*b*c", "a1b2c", true),
        ("a*b*c", "a1c2b", false),
        ("ab*ba", "aba", false),
    ] {
        assert_eq!(glob(pattern, text), expect, "{pattern} {text}");
    }
}

#[test]
fn a_pod_is_somebody_by_what_its_cluster_knows_and_nobody_when_that_is_not_told() {
    let of_pod = |name: &str, rule: &str| {
        let text = format!("kind = 'k8s'\n{rule}");
        rule_of(name, toml::from_str(&text).unwrap())
    };
    let rule_by_pod = "unverified = true\npod = '2505f8a9-c386-80d2-9fe6-1118d6f7704b'";
    let identities = Identities::new(vec![
        of_pod("billing", "namespace = 'shop'\nservice_account = 'billing'"),
        of_pod("canary", "namespace = 'shop'\nlabels = { app = 'web', track = 'canary' }"),
        of_pod("batch", "namespace = 'batch'"),
        of_pod("pinned", rule_by_pod),
    ]);
    let at = |uid: &str| format!("/kubepods/burstable/pod{uid}/{}/x", "a".repeat(64));
    let cgroup = at("1505f8a9-c386-80d2-9fe6-1118d6f7704b");
    let pod = |namespace: &str, account: Option<&str>, labels: &[(&str, &str)]| Pod {
        namespace: namespace.into(),
        name: "p".into(),
        service_account: account.map(str::to_owned),
        labels: labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
    };
    let check = |pod: &Pod, expect: Result<&str, IdentityError>| {
        let got = identities.identify(Some(&cgroup), Some(pod)).map(|principal| principal.name().to_owned());
        assert_eq!(got, expect.map(str::to_owned), "{pod:?}");
    };
    let canary = [("app", "web"), ("track", "canary"), ("more", "x")];
    let unknown = || IdentityError::Unknown(cgroup.clone());
    check(&pod("shop", Some("billing"), &[]), Ok("billing"));
    check(&pod("shop", Some("billing2"), &[]), Err(unknown()));
    check(&pod("shop2", Some("billing"), &canary), Err(unknown()));
    check(&pod("shop", Some("default"), &canary), Ok("canary"));
    check(&pod("shop", Some("default"), &canary[..1]), Err(unknown()));
    check(&pod("batch", None, &[]), Ok("batch"));
    let names = "billing, canary".to_owned();
    check(
        &pod("shop", Some("billing"), &canary),
        Err(IdentityError::Ambiguous { cgroup: cgroup.clone(), names }),
    );
    // The runtime knows the namespace alone, and nobody may know nothing.
    let untold = IdentityError::PodUnknown { identity: "billing".into(), cgroup: cgroup.clone() };
    check(&pod("shop", None, &[]), Err(untold.clone()));
    let nobody = identities.identify(Some(&cgroup), None).map(|principal| principal.name().to_owned());
    assert_eq!(nobody, Err(untold));
    // Nor is somebody else whoever could be one of them.
    let pinned = at("2505f8a9-c386-80d2-9fe6-1118d6f7704b");
    assert!(matches!(identities.identify(Some(&pinned), None), Err(IdentityError::PodUnknown { .. })));
    let elsewhere = pod("elsewhere", Some("x"), &[]);
    assert_eq!(identities.identify(Some(&pinned), Some(&elsewhere)).unwrap().name(), "pinned");
    assert!(identities.claimed(&cgroup) && identities.needs_pod(&cgroup));
    assert!(!identities.needs_pod("/system.slice/a.service"));
}

fn rule_of(name: &str, matching: Match) -> IdentityRule {
    rule(name, Whose::Match(Box::new(matching)))
}
