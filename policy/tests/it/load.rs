//! What is refused at load, where it is said to be, and what is suggested.

use chaperone_policy::{PolicySet, Source};

fn refused(text: &str) -> Vec<String> {
    let errors = PolicySet::load(&[Source::new("p.cedar", text)]).expect_err(text);
    errors.iter().map(ToString::to_string).collect()
}

#[test]
fn each_mistake_is_refused_with_its_place_and_a_hint() {
    for text in [
        "permit(principal, action, resource)",
        "@id(\"a\")\npermit(principal, action, resource) wen { true };",
        "@id(\"a\") permit(principal, action resource);",
        "@id(\"a\") permit(principal, action == Action::\"sql:selct\", resource);",
        "@id(\"a\") permit(principal, action == Action::\"sql:raed\", resource);",
        "@id(\"a\") permit(principal, action in [Action::\"sql:frob\"], resource);",
        "@id(\"a\") permit(principal in Grup::\"x\", action, resource);",
        "@id(\"a\") permit(principal, action == Action::\"sql:select\", resource) when { context.flgs.contains(Flag::\"star\") };",
        "@id(\"a\") permit(principal, action == Action::\"sql:select\", resource) when { context.flags.contains(\"star\") };",
        "@id(\"a\") permit(principal, action == Action::\"sql:select\", resource) when { context.flags.contains(Flag::\"no_were\") };",
        "@id(\"a\") forbid(principal, action == Action::\"sql:select\", resource) unless { context has approval && context.approval.by.contains(\"x\") };",
        "@id(\"a\") forbid(principal, action == Action::\"sql:select\", resource) unless { context.approval.by.contains(\"x\") };",
        "@id(\"a\") permit(principal, action, resource) when { context.flags.contains(Flag::\"star\") };",
        "@id(\"a\") permit(principal, action == Action::\"connect\", resource == Table::\"a/b/c.d\");",
        "@id(\"a\") permit(principal, action == Action::\"connect\", resource) when { resource.tags.contains(\"pii\") };",
        "@id(\"a\") permit(principal, action == Action::\"connect\", resource) when { 1 == 2 };",
        "@id(\"a\") permit(principal, action == Action::\"connect\", resource) when { principal == \"bot\" };",
        "@id(\"a\") permit(principal == ?principal, action, resource);",
        "@id(\"a\") permit(principal == Group::\"ai\", action, resource);",
        "@id(\"a\") permit(principal == NonHumanIdentity::\"b\u{202e}ot\", action, resource);",
        "@id(\"a\") permit(principal == NonHumanIdentity::\"b\u{043e}t\", action, resource);",
        "@id(\"a\") @id(\"b\") permit(principal, action, resource);",
        "@id permit(principal, action, resource);",
    ] {
        println!("{text}\n    {}", refused(text).join("\n    "));
    }
}
