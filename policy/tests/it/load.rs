//! What is refused at load, where it is said to be, and what is suggested.

use chaperone_policy::{PolicySet, Problem, Source};

fn refused(text: &str) -> Vec<String> {
    let errors = PolicySet::load(&[Source::new("p.cedar", text)]).expect_err(text);
    errors.iter().map(ToString::to_string).collect()
}

/// Cases are a policy text and where, about which policy, with what text it is refused.
#[track_caller]
fn check(cases: &[(&str, &[&str])]) {
    for (text, expected) in cases {
        assert_eq!(refused(text), *expected, "{text}");
    }
}

#[test]
fn what_is_not_cedar_is_refused() {
    check(&[
        (
            r#"@id("a") permit(principal, action, resource)"#,
            &["p.cedar:1:45: not Cedar: unexpected end of input (a policy ends with a semicolon)"],
        ),
        (
            r#"@id("a") permit(principal, action resource);"#,
            &["p.cedar:1:35: not Cedar: unexpected token `resource`"],
        ),
        (
            "@id(\"a\")\npermit(principal, action, resource) wen { true };",
            &[
                "p.cedar:2:37: not Cedar: invalid policy condition: wen (condition must be either `when` or `unless`)",
            ],
        ),
        (
            r#"@id("a") @id("b") permit(principal, action, resource);"#,
            &["p.cedar:1:10: not Cedar: duplicate annotation: @id"],
        ),
        (
            r#"@id("a") permit(principal == ?principal, action, resource);"#,
            &["p.cedar:1:1: templates (?principal, ?resource) are not used here"],
        ),
    ]);
}

#[test]
fn every_policy_has_an_id_of_its_own() {
    let bad = "the @id is empty, longer than 100 characters, or has other characters than letters, digits and - _ . /";
    let all = "permit(principal, action, resource);";
    for (policy, expected) in [
        (
            all.into(),
            "1:1: the policy has no @id (write @id(\"a-name-of-its-own\") above it; denials name it)".into(),
        ),
        (format!("@id(\"\") {all}"), format!("1:1: policy \"\": {bad}")),
        (format!("@id {all}"), format!("1:1: policy \"\": {bad}")),
        (format!("@id(\"a b\") {all}"), format!("1:1: policy \"a b\": {bad}")),
        (
            format!("@id(\"{0}\") {all}", "x".repeat(101)),
            format!("1:1: policy \"{}\": {bad}", "x".repeat(101)),
        ),
        (
            format!("@id(\"default-deny\") {all}"),
            "1:1: policy \"default-deny\": the @id is one Chaperone itself uses in its answers".to_string(),
        ),
        (
            format!("@id(\"a\") {all}\n  @id(\"a\") {all}"),
            "2:3: policy \"a\": the @id was already given to the policy at p.cedar:1:1".to_string(),
        ),
    ] {
        assert_eq!(refused(&policy), [format!("p.cedar:{expected}")], "{policy}");
    }
}

#[test]
fn an_id_is_unique_over_all_files() {
    let text = r#"@id("a") permit(principal, action, resource);"#;
    let errors =
        PolicySet::load(&[Source::new("one.cedar", text), Source::new("two.cedar", text)]).unwrap_err();
    let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
    assert_eq!(
        errors,
        [r#"two.cedar:1:1: policy "a": the @id was already given to the policy at one.cedar:1:1"#]
    );
}

#[test]
fn a_name_the_schema_does_not_know_is_refused_with_the_nearest_one() {
    check(&[
        (
            r#"@id("a") permit(principal, action == Action::"sql:selct", resource);"#,
            &[
                r#"p.cedar:1:38: policy "a": unrecognized action `Action::"sql:selct"` (did you mean Action::"sql:select"?)"#,
            ],
        ),
        (
            r#"@id("a") permit(principal, action in [Action::"connect", Action::"sql:raed"], resource);"#,
            &[
                r#"p.cedar:1:58: policy "a": unrecognized action `Action::"sql:raed"` (did you mean Action::"sql:read"?)"#,
            ],
        ),
        (
            r#"@id("a") permit(principal in Grup::"x", action, resource);"#,
            &[r#"p.cedar:1:30: policy "a": unrecognized entity type `Grup` (did you mean `Group`?)"#],
        ),
        (
            r#"@id("a") permit(principal, action == Action::"sql:select", resource) when { context.flgs.contains(Flag::"star") };"#,
            &[
                r#"p.cedar:1:77: policy "a": attribute `flgs` in context for Action::"sql:select" not found (did you mean `flags`?)"#,
            ],
        ),
        (
            r#"@id("a") permit(principal, action == Action::"sql:select", resource) when { context.flags.contains(Flag::"no_were") };"#,
            &[
                r#"p.cedar:1:100: policy "a": entity `Flag::"no_were"` is of an enumerated entity type, but `"no_were"` is not declared as a valid eid (did you mean Flag::"no_where"?)"#,
            ],
        ),
        (
            r#"@id("a") permit(principal, action == Action::"sql:select", resource) when { context.flags.contains("star") };"#,
            &[
                r#"p.cedar:1:77: policy "a": the types String and Flag are not compatible (names are entities here: Flag::"no_where", Table::"shop/crm/public.t", Tag::"pii")"#,
            ],
        ),
        (
            r#"@id("a") permit(principal, action == Action::"unmask", resource) when { resource.tags.contains("pii") };"#,
            &[
                r#"p.cedar:1:73: policy "a": attribute `tags` on entity type `Column` not found (write resource in Tag::"pii", or resource in [Tag::"pii", Tag::"secret"])"#,
            ],
        ),
        (
            r#"@id("a") forbid(principal, action == Action::"sql:select", resource) unless { context.approval.by.contains("x") };"#,
            &[
                r#"p.cedar:1:79: policy "a": attribute `approval` in context for Action::"sql:select" not found (approvals are not written in conditions: put @approval("group") on the forbid, without unless)"#,
            ],
        ),
        (
            r#"@id("a") permit(principal, action, resource) when { context.flags.contains(Flag::"star") };"#,
            &[
                r#"p.cedar:1:53: policy "a": attribute `flags` in context for Action::"approve" not found (only statements have facts: name their actions in the scope, for example action in Action::"sql:all")"#,
            ],
        ),
    ]);
}

#[test]
fn a_condition_on_what_nothing_has_is_refused() {
    check(&[
        (
            r#"@id("a") forbid(principal, action == Action::"sql:select", resource) when { context has flgs && true || principal in Group::"x" };"#,
            &[
                r#"p.cedar:1:89: policy "a": nothing ever has "flgs", so this condition is always the same (did you mean flags?)"#,
            ],
        ),
        (
            r#"@id("a") forbid(principal, action == Action::"sql:select", resource) unless { context has approval && context.approval.by.contains("x") };"#,
            &[
                r#"p.cedar:1:91: policy "a": nothing ever has "approval", so this condition is always the same (approvals are not written in conditions: put @approval("group") on the forbid, without unless)"#,
            ],
        ),
        (
            r#"@id("a") forbid(principal, action, resource) when { if principal has manager then true else resource in Env::"prod" };"#,
            &[
                r#"p.cedar:1:70: policy "a": nothing ever has "manager", so this condition is always the same (a context can have: flags, tables, command, programs, simple, line, login, mask, path, via, identity, owner, kind, rules, name, value, host, port, target, workload, exe, exe_sha256, uid, gid, cgroup, ancestors, ancestors_complete, unverified, confirmed_by)"#,
            ],
        ),
    ]);
}

#[test]
fn a_rule_that_can_never_apply_is_refused() {
    let hint = "the action, the principal and the resource exclude each other: who asks is a NonHumanIdentity `in` a \
                Group, \"connect\" is decided on a Database, \"unmask\" on a Column, and only a Column is in a Tag";
    for scope in [
        r#"principal, action == Action::"connect", resource == Table::"a/b/c.d""#,
        r#"principal, action == Action::"sql:select", resource in Tag::"pii""#,
        r#"principal == Group::"ai-agents", action, resource"#,
        r#"principal, action == Action::"unmask", resource is Table"#,
    ] {
        let expected = format!(
            "p.cedar:1:1: policy \"a\": unable to find an applicable action given the policy scope constraints ({hint})"
        );
        assert_eq!(refused(&format!("@id(\"a\") permit({scope});")), [expected], "{scope}");
    }
    check(&[(
        r#"@id("a") permit(principal, action, resource) when { 1 == 2 };"#,
        &[
            r#"p.cedar:1:1: policy "a": policy is impossible: the policy expression evaluates to false for all valid requests"#,
        ],
    )]);
}

#[test]
fn an_id_no_request_can_carry_is_refused() {
    for (entity, form) in [
        (r#"Target::"shop/crm""#, r#"Target::"target""#),
        (r#"Database::"shop""#, r#"Database::"target/database""#),
        (r#"Database::"shop/crm/public""#, r#"Database::"target/database""#),
        (r#"Schema::"shop/crm.public""#, r#"Schema::"target/database/schema""#),
        (r#"Table::"customers""#, r#"Table::"target/database/schema.table""#),
        (r#"Table::"shop/crm/customers""#, r#"Table::"target/database/schema.table""#),
        (r#"Table::"shop/crm/public.customers.email""#, r#"Table::"target/database/schema.table""#),
        (r#"Table::"shop//public.customers""#, r#"Table::"target/database/schema.table""#),
        (r#"Table::"shop/crm/\"public\".customers""#, r#"Table::"target/database/schema.table""#),
        (r#"Table::"shop/crm/public.\"a.b""#, r#"Table::"target/database/schema.table""#),
        (r#"Routine::"shop/crm/refund""#, r#"Routine::"target/database/schema.routine""#),
        (r#"Column::"shop/crm/public.customers""#, r#"Column::"target/database/schema.table.column""#),
    ] {
        let kind = entity.split(':').next().unwrap();
        let action = if kind == "Column" { "unmask" } else { "sql:ddl" };
        let policy =
            format!("@id(\"a\") permit(principal, action == Action::\"{action}\", resource in {entity});");
        let errors = refused(&policy);
        assert_eq!(errors.len(), 1, "{errors:?}");
        assert!(
            errors[0]
                .contains(&format!("policy \"a\": no request can ever carry {entity} (the form is {form})")),
            "{errors:?}"
        );
    }
    for (entity, action) in [
        (r#"Table::"shop/crm/public.\"a.b\"""#, "sql:ddl"),
        (r#"Table::"shop/crm/public.\"say \"\"hi\"\"\"""#, "sql:ddl"),
        (r#"Table::"\"a/b\"/crm/Public.Ünï""#, "sql:ddl"),
        (r#"Column::"shop/crm/public.t.c""#, "unmask"),
    ] {
        let policy =
            format!("@id(\"a\") permit(principal, action == Action::\"{action}\", resource in {entity});");
        assert!(PolicySet::load(&[Source::new("p.cedar", &policy)]).is_ok(), "{policy}");
    }
}

#[test]
fn an_annotation_that_is_not_understood_is_refused() {
    let forbid = r#"forbid(principal, action == Action::"sql:select", resource);"#;
    let permit = r#"permit(principal, action == Action::"sql:select", resource);"#;
    let (bad_ttl, bad_rows) = (
        r#"expected a duration from "1s" to "24h", in s, m or h, for example "15m""#,
        "expected a whole number above 0",
    );
    for (annotations, rule, expected) in [
        ("@aproval(\"x\")", forbid, "unknown annotation @aproval (did you mean @approval?)".to_owned()),
        ("@Reason(\"x\")", forbid, "unknown annotation @Reason (did you mean @reason?)".into()),
        ("@frob(\"x\")", forbid, "unknown annotation @frob (known: @id, @reason, @hint, @approval, @quorum, @approval_ttl, @max_rows, @max_bytes, @max_time, @record, @mask_with)".into()),
        ("@reason(\" \")", forbid, "@reason(\"\") is not understood, expected one line of at most 500 characters, without control characters".into()),
        ("@reason(\"a\\nb\")", forbid, "@reason(\"a\\nb\") is not understood, expected one line of at most 500 characters, without control characters".into()),
        ("@hint(\"a\\u{202e}b\")", forbid, "@hint(\"a\\u{202e}b\") is not understood, expected one line of at most 500 characters, without control characters".into()),
        ("@approval(\"\")", forbid, "@approval(\"\") is not understood, expected a group, or several separated by commas of which any one may approve".into()),
        ("@approval(\"a,,b\")", forbid, "@approval(\"a,,b\") is not understood, expected a group, or several separated by commas of which any one may approve".into()),
        ("@max_bytes(\"1 MB\")", permit, "@max_bytes(\"1 MB\") is not understood, expected a number of bytes above 0, for example \"65536\", \"64kB\" or \"10MB\"".into()),
        ("@max_time(\"25h\")", permit, "@max_time(\"25h\") is not understood, expected a duration from \"1s\" to \"24h\", in s, m or h, for example \"30s\"".into()),
        ("@max_rows(\"ten\")", permit, format!("@max_rows(\"ten\") is not understood, {bad_rows}")),
        ("@max_rows(\"0\")", permit, format!("@max_rows(\"0\") is not understood, {bad_rows}")),
        ("@max_rows(\"-1\")", permit, format!("@max_rows(\"-1\") is not understood, {bad_rows}")),
        ("@record(\"video\")", permit, "@record(\"video\") is not understood, expected \"rows\", \"meta\", \"asciicast\", \"raw\" or several separated by commas".into()),
        ("@mask_with(\"stars\")", permit, "@mask_with(\"stars\") is not understood, expected \"redact\" or \"null\"".into()),
    ] {
        assert_eq!(refused(&format!("@id(\"a\")\n{annotations} {rule}")), [format!("p.cedar:2:1: policy \"a\": {expected}")]);
    }
    for ttl in [
        "",
        "m",
        "15",
        "15 m",
        "0m",
        "-1m",
        "+1m",
        "1d",
        "25h",
        "15min",
        "99999999999999999999s",
        "1.5h",
        "五m",
    ] {
        let errors = refused(&format!("@id(\"a\") @approval(\"x\") @approval_ttl(\"{ttl}\") {forbid}"));
        assert_eq!(
            errors,
            [format!("p.cedar:1:25: policy \"a\": @approval_ttl({ttl:?}) is not understood, {bad_ttl}")]
        );
    }
    for quorum in ["0", "21", "two", "", "1.0"] {
        let errors = refused(&format!("@id(\"a\") @approval(\"x\") @quorum(\"{quorum}\") {forbid}"));
        assert_eq!(
            errors,
            [format!(
                "p.cedar:1:25: policy \"a\": @quorum({quorum:?}) is not understood, expected a whole number from 1 to 20"
            )]
        );
    }
}

#[test]
fn an_annotation_without_effect_is_refused() {
    for (annotation, rule) in [
        (r#"@approval("dba")"#, r#"permit(principal, action == Action::"sql:select", resource);"#),
        (r#"@approval("dba")"#, r#"forbid(principal, action == Action::"unmask", resource);"#),
        (r#"@quorum("2")"#, r#"forbid(principal, action == Action::"sql:select", resource);"#),
        (r#"@approval_ttl("5m")"#, r#"forbid(principal, action == Action::"sql:select", resource);"#),
        (r#"@hint("ask")"#, r#"permit(principal, action == Action::"sql:select", resource);"#),
        (r#"@max_rows("5")"#, r#"forbid(principal, action == Action::"sql:select", resource);"#),
        (r#"@max_rows("5")"#, r#"permit(principal, action == Action::"connect", resource);"#),
        (r#"@mask_with("null")"#, r#"forbid(principal, action == Action::"sql:select", resource);"#),
        (r#"@mask_with("null")"#, r#"permit(principal, action == Action::"unmask", resource);"#),
        (r#"@record("rows")"#, r#"forbid(principal, action == Action::"sql:select", resource);"#),
        (r#"@record("rows")"#, r#"permit(principal, action == Action::"unmask", resource);"#),
    ] {
        let text = format!("@id(\"a\") {annotation} {rule}");
        let errors = PolicySet::load(&[Source::new("p.cedar", &text)]).expect_err(&text);
        let problems: Vec<&Problem> = errors.iter().map(|error| &error.problem).collect();
        assert!(matches!(problems[..], [Problem::NoEffect { .. }]), "{text}: {problems:?}");
    }
}

#[test]
fn letters_that_only_look_alike_are_refused() {
    check(&[
        (
            "@id(\"a\") permit(principal == NonHumanIdentity::\"b\u{43e}t\", action, resource);",
            &["p.cedar:1:1: policy \"a\": identifier `b\u{43e}t` contains mixed scripts"],
        ),
        (
            "@id(\"a\") permit(principal == NonHumanIdentity::\"b\u{202e}ot\", action, resource);",
            &["p.cedar:1:1: policy \"a\": identifier `b\u{202e}ot` contains BIDI control characters"],
        ),
    ]);
}

#[test]
fn every_mistake_of_every_file_is_told_at_once() {
    let sources = [
        Source::new(
            "one.cedar",
            "@id(\"a\") @frob(\"x\") permit(principal in Grup::\"x\", action, resource);\n\npermit(principal, action, resource);",
        ),
        Source::new("two.cedar", "permit("),
        Source::new("three.cedar", "@id(\"fine\") permit(principal, action, resource);"),
        Source::new(
            "four.cedar",
            "@id(\"b\") permit(principal, action == Action::\"no\", resource in Table::\"t\");",
        ),
    ];
    let errors = PolicySet::load(&sources).unwrap_err();
    let places: Vec<String> = errors.iter().map(|e| format!("{}:{}:{}", e.file, e.line, e.column)).collect();
    let expected = [
        "one.cedar:1:10",
        "one.cedar:1:41",
        "one.cedar:3:1",
        "two.cedar:1:8",
        "four.cedar:1:38",
        "four.cedar:1:71",
    ];
    assert_eq!(places, expected, "{errors}");
    assert_eq!(errors.to_string().lines().count(), expected.len());
}

#[test]
fn the_digest_depends_on_names_and_texts_but_not_on_order() {
    let a = Source::new("a.cedar", r#"@id("a") permit(principal, action, resource);"#);
    let b = Source::new("b.cedar", "// nothing");
    let digest = |sources: &[Source]| PolicySet::load(sources).unwrap().digest().to_owned();
    let both = digest(&[a.clone(), b.clone()]);
    assert_eq!(both.len(), 64);
    assert_eq!(both, digest(&[b.clone(), a.clone()]));
    for other in [
        vec![a.clone()],
        vec![],
        vec![Source::new("c.cedar", a.text.clone()), b.clone()],
        vec![Source::new(a.name.clone(), format!("{} ", a.text)), b.clone()],
        vec![Source::new("a.cedar", b.text.clone()), Source::new("b.cedar", a.text.clone())],
    ] {
        assert_ne!(both, digest(&other), "{other:?}");
    }
}

#[test]
fn ids_come_in_the_order_of_the_sources() {
    let policies = PolicySet::load(&[
        Source::new(
            "z.cedar",
            "@id(\"z\") permit(principal, action, resource); @id(\"y\") forbid(principal, action, resource);",
        ),
        Source::new("a.cedar", "@id(\"x\") permit(principal, action, resource);"),
    ])
    .unwrap();
    assert_eq!(policies.ids().collect::<Vec<_>>(), ["z", "y", "x"]);
}

/// A file that is read while it is written: what is cut inside of a rule is no policy set. (Cut between two rules it is one,
/// which is why README tells to rename a whole file into place.)
#[test]
fn a_file_that_ends_inside_a_rule_is_refused() {
    let (_, text) = chaperone_policy::STARTER[0];
    let mut refused = 0;
    for end in (0..text.len()).step_by(41).filter(|end| text.is_char_boundary(*end)) {
        let cut = &text[..end];
        let loaded = PolicySet::load(&[Source::new("p.cedar", cut)]);
        let after = cut.rsplit_once(";\n").map_or(cut, |(_, after)| after);
        let inside = after.lines().any(|line| !line.trim().is_empty() && !line.starts_with("//"));
        if inside && !after.trim_end().ends_with("/") && !after.trim_end().ends_with(';') {
            assert!(loaded.is_err(), "{end}: {after:?}");
            refused += 1;
        }
    }
    assert!(refused > 20, "{refused}");
}

/// As a writer leaves it that was stopped: whatever is taken is whole rules, and everything else is refused with its place.
#[test]
fn half_a_file_is_refused_unless_it_is_whole_rules() {
    let text = include_str!("../../starter/ai-agents.cedar");
    let whole = PolicySet::load(&[Source::new("p.cedar", text)]).unwrap();
    let ids: Vec<&str> = whole.ids().collect();
    let mut taken = 0;
    for end in (0..text.len()).filter(|end| text.is_char_boundary(*end)).step_by(61) {
        match PolicySet::load(&[Source::new("p.cedar", &text[..end])]) {
            Ok(set) => {
                let some: Vec<&str> = set.ids().collect();
                assert!(ids.starts_with(&some), "{end}: {some:?}");
                taken += 1;
            }
            Err(errors) => {
                let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
                assert!(errors.iter().all(|error| error.starts_with("p.cedar:")), "{end}: {errors:?}");
            }
        }
    }
    assert!(taken > 0);
    let some = [Source::new("p.cedar", text), Source::new("empty.cedar", "// later\n")];
    let set = PolicySet::load(&some).unwrap();
    assert!(set.has_any_of("p.cedar") && !set.has_any_of("empty.cedar"));
}
