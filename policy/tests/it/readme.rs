//! What the README shows works.

use chaperone_policy::{Action, Flag, Kind, PolicySet, Source};

const README: &str = include_str!("../../README.md");

#[test]
fn every_example_loads() {
    let blocks: Vec<Source> = README
        .split("```cedar\n")
        .skip(1)
        .enumerate()
        .map(|(n, block)| Source::new(format!("example {n}"), block.split("```").next().unwrap()))
        .collect();
    assert!(blocks.len() > 4);
    let policies = PolicySet::load(&blocks).unwrap_or_else(|errors| panic!("{errors}"));
    assert!(policies.ids().count() > blocks.len());
}

#[test]
fn every_action_flag_kind_and_annotation_is_listed() {
    let kinds = Kind::ALL.into_iter().filter(|kind| !matches!(kind, Kind::Action | Kind::Flag));
    let names = Action::NAMES.iter().chain(Flag::NAMES).map(|name| format!("`{name}`"));
    let annotations = [
        "id",
        "reason",
        "hint",
        "approval",
        "quorum",
        "approval_ttl",
        "max_rows",
        "max_bytes",
        "max_time",
        "record",
        "mask_with",
    ];
    for name in names
        .chain(kinds.map(|kind| format!("{}::\"", kind.as_str())))
        .chain(annotations.iter().map(|key| format!("| `@{key}` |")))
    {
        assert!(README.contains(&name), "README.md says nothing about {name}");
    }
}
