use serde_json::Value;

use super::*;

/// Real shapes and forgeries, one JSON object a line; ids are random.
const CASES: &str = include_str!("cases.jsonl");

#[test]
fn every_known_shape_is_read_as_expected() {
    let mut wrong = Vec::new();
    let mut count = 0;
    for line in CASES.lines() {
        let case: Value = serde_json::from_str(line).unwrap();
        let options = Options { nested: case["opts"]["nested"] == true };
        let parsed = parse_lines(case["cgroup"].as_str().unwrap(), options);
        let got = serde_json::to_value(&parsed.placement).unwrap();
        let mut expect = case["expect"].clone();
        // An absent runtime is written as null in the table.
        expect.as_object_mut().unwrap().retain(|_, value| !value.is_null());
        if got != expect {
            wrong.push(format!("{}: expected {expect}, got {got} ({})", case["name"], parsed.why));
        }
        count += 1;
    }
    assert!(count >= 70 && wrong.is_empty(), "{count} cases\n{}", wrong.join("\n"));
}

#[test]
fn no_text_makes_the_parser_panic_or_be_somebody_outside_of_known_roots() {
    use proptest::prelude::*;
    proptest!(|(text in r"(/[a-z0-9.@\\:-]{0,12}(slice|scope|service)?){0,6}")| {
        let parsed = parse_path(&text, Options::default());
        // Whatever is put in front of a shape takes its meaning away, unless it is a slice it is nested in.
        let below = parse_path(&format!("/own{text}"), Options::default());
        prop_assert!(!below.placement.kind.is_container(), "{text}: {parsed:?} {below:?}");
    });
}
