//! Two processes of one identity get two verdicts, and what is not known matches nothing.

use chaperone_policy::{Action, PolicySet, Principal, Request, Source, Workload};

use crate::support::{brief, policies, what, who};

const PSQL: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
const PYTHON: &str = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";

fn running(exe: Option<&str>, digest: Option<&str>, ancestors: &[&str], complete: bool) -> Workload {
    Workload {
        exe: exe.map(str::to_owned),
        exe_sha256: digest.map(str::to_owned),
        uid: 1000,
        gid: 1000,
        cgroup: Some("/agents/bot".into()),
        ancestors: ancestors.iter().map(|&exe| exe.to_owned()).collect(),
        ancestors_complete: complete,
        ..Workload::default()
    }
}

fn verdict(policies: &PolicySet, principal: &Principal, action: Action, resource: &str) -> String {
    brief(&policies.decide(&Request::new(principal, action, &what(resource))))
}

#[test]
fn every_action_can_ask_who_runs_what() {
    let policies = policies(&format!(
        r#"
        @id("in") permit (principal, action == Action::"connect", resource)
        when {{ context.workload has exe && context.workload.exe == "/usr/bin/psql" }};
        @id("read") permit (principal, action in Action::"sql:read", resource)
        when {{ context.workload has exe_sha256 && context.workload.exe_sha256 == "{PSQL}" }};
        @id("clear") permit (principal, action == Action::"unmask", resource)
        when {{ context.workload.uid == 1000 && context.workload.ancestors.contains("/usr/bin/cron") }};
        @id("no-agent-tools") forbid (principal, action in Action::"sql:all", resource)
        unless {{ context.workload.ancestors_complete && !context.workload.ancestors.contains("/opt/agent") }};
        "#
    ));
    let cases = [
        // who, connect, select, unmask
        (
            running(Some("/usr/bin/psql"), Some(PSQL), &["/usr/bin/cron"], true),
            "permit in",
            "permit read",
            true,
        ),
        (running(Some("/usr/bin/psql"), Some(PYTHON), &[], true), "permit in", "deny default-deny", false),
        (
            running(Some("elsewhere:/usr/bin/psql"), Some(PSQL), &[], true),
            "deny default-deny",
            "permit read",
            false,
        ),
        (
            running(Some("/usr/bin/psql"), Some(PSQL), &["/opt/agent"], true),
            "permit in",
            "deny no-agent-tools",
            false,
        ),
        (running(Some("/usr/bin/psql"), Some(PSQL), &[], false), "permit in", "deny no-agent-tools", false),
        (running(None, None, &[], true), "deny default-deny", "deny default-deny", false),
        (Workload::default(), "deny default-deny", "deny no-agent-tools", false),
    ];
    for (workload, connect, select, unmask) in cases {
        let bot = who("bot").through(workload.clone());
        assert_eq!(verdict(&policies, &bot, Action::Connect, "shop"), connect, "{workload:?}");
        assert_eq!(verdict(&policies, &bot, Action::Select, "shop/public.t"), select, "{workload:?}");
        assert_eq!(policies.unmask(&bot, &what("shop/public.t.email#pii")), unmask, "{workload:?}");
    }
}

#[test]
fn groups_that_are_lent_change_nothing_about_the_process() {
    let policies = policies(
        r#"@id("lent") permit (principal in Group::"lent", action == Action::"connect", resource)
        when { context.workload.uid == 1000 };"#,
    );
    let bot = who("bot").through(running(None, None, &[], true));
    assert_eq!(verdict(&policies, &bot, Action::Connect, "shop"), "deny default-deny");
    assert_eq!(verdict(&policies, &bot.joining(["lent"]), Action::Connect, "shop"), "permit lent");
}

#[test]
fn conditions_that_could_never_hold_are_refused() {
    let refused = |condition: &str| {
        let text = format!(r#"@id("a") permit (principal, action, resource) when {{ {condition} }};"#);
        PolicySet::load(&[Source::new("p.cedar", text)])
            .err()
            .map(|errors| errors.to_string())
            .unwrap_or_default()
    };
    let cases = [
        // Not asked with `has`.
        (r#"context.workload.exe == "/usr/bin/psql""#, "exe"),
        (r#"context.workload has exec && context.workload.uid == 0"#, "did you mean exe"),
        (r#"context.workload has exe && context.workload.exe == "psql""#, "is ever \"psql\""),
        (
            r#"context.workload has exe && ["/usr/bin/a", "b"].contains(context.workload.exe)"#,
            "is ever \"b\"",
        ),
        (r#"context.workload has exe_sha256 && context.workload.exe_sha256 == "ABC""#, "64 lower-case"),
        (r#"context.workload.ancestors.contains("cron")"#, "is ever \"cron\""),
        (r#"context.workload.ancestors.containsAny(["/a", "cron"])"#, "is ever \"cron\""),
        (r#"context.workload has cgroup && context.workload.cgroup == "agents""#, "is ever \"agents\""),
        (
            r#"context.workload has confirmed_by && context.workload.confirmed_by == "dokcer""#,
            "is ever \"dokcer\"",
        ),
    ];
    for (condition, word) in cases {
        assert!(refused(condition).contains(word), "{condition}: {:?}", refused(condition));
    }
    let fine = [
        r#"context.workload has exe && context.workload.exe like "*/psql""#,
        r#"context.workload has exe && context.workload.exe == "elsewhere:/usr/bin/psql""#,
        r#"context.workload.uid == 1000 || context.workload.gid == 1000"#,
    ];
    for condition in fine {
        assert_eq!(refused(condition), "", "{condition}");
    }
}
