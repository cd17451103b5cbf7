//! The closed lists and the ids.

use std::collections::BTreeSet;
use std::str::FromStr;

use cedar_policy::Schema;
use chaperone_policy::{Action, Database, Flag, Kind, MaskWith, RecordMode, SCHEMA};

fn schema() -> Schema {
    Schema::from_cedarschema_str(SCHEMA).unwrap().0
}

#[test]
fn actions_in_rust_are_those_of_the_schema() {
    let schema = schema();
    let in_schema: BTreeSet<String> =
        schema.request_envs().map(|env| env.action().id().unescaped().to_owned()).collect();
    let in_rust: BTreeSet<String> = Action::NAMES.iter().map(|name| (*name).to_owned()).collect();
    assert_eq!(in_rust, in_schema);
    let groups: BTreeSet<String> = schema
        .actions()
        .map(|action| action.id().unescaped().to_owned())
        .filter(|action| !in_schema.contains(action))
        .collect();
    assert_eq!(
        groups,
        BTreeSet::from(["file:all", "sql:all", "sql:read", "sql:write", "ssh:all"].map(str::to_owned))
    );
}

#[test]
fn entity_types_in_rust_are_those_of_the_schema() {
    let in_schema: BTreeSet<String> = schema().entity_types().map(|name| name.to_string()).collect();
    let in_rust: BTreeSet<String> =
        Kind::ALL.iter().map(|kind| kind.as_str().to_owned()).filter(|name| name != "Action").collect();
    assert_eq!(in_rust, in_schema);
}

#[test]
fn flags_in_rust_are_those_of_the_schema() {
    let (_, list) = SCHEMA.split_once("entity Flag enum [").unwrap();
    let (list, _) = list.split_once("];").unwrap();
    let in_schema: Vec<&str> = list.lines().filter_map(|line| line.split('"').nth(1)).collect();
    assert_eq!(Flag::NAMES, in_schema);
}

#[test]
fn a_name_survives_its_spelling() {
    for action in Action::ALL {
        assert_eq!(Action::from_str(action.as_str()), Ok(*action));
    }
    for flag in Flag::ALL {
        assert_eq!(Flag::from_str(flag.as_str()), Ok(*flag));
    }
    for mask in MaskWith::ALL {
        assert_eq!(MaskWith::from_str(mask.as_str()), Ok(*mask));
    }
    for mode in RecordMode::ALL {
        assert_eq!(RecordMode::from_str(mode.as_str()), Ok(*mode));
    }
}

#[test]
fn an_unknown_name_is_refused_with_the_nearest_one() {
    let error = Action::from_str("sql:selct").unwrap_err();
    assert_eq!(error.to_string(), "unknown action \"sql:selct\", did you mean \"sql:select\"?");
    assert_eq!(Flag::from_str("frobnicate").unwrap_err().to_string(), "unknown flag \"frobnicate\"");
}

#[test]
fn paths_are_readable_and_unambiguous() {
    let shop = Database::new("shop", "prod", "crm");
    for (resource, kind, path) in [
        (shop.resource(), Kind::Database, "shop/crm"),
        (shop.schema("public"), Kind::Schema, "shop/crm/public"),
        (shop.table("public", "customers"), Kind::Table, "shop/crm/public.customers"),
        (shop.routine("public", "refund"), Kind::Routine, "shop/crm/public.refund"),
        (
            shop.column("public", "customers", "email", &["pii"]),
            Kind::Column,
            "shop/crm/public.customers.email",
        ),
        (shop.table("a", "b.c"), Kind::Table, r#"shop/crm/a."b.c""#),
        (shop.table("a.b", "c"), Kind::Table, r#"shop/crm/"a.b".c"#),
        (shop.table("a", "say \"hi\""), Kind::Table, r#"shop/crm/a."say ""hi""""#),
        (shop.table("", "t"), Kind::Table, r#"shop/crm/"".t"#),
        (Database::new("a/b", "e", "c").resource(), Kind::Database, r#""a/b"/c"#),
        (shop.table("Public", "Ünï"), Kind::Table, "shop/crm/Public.Ünï"),
    ] {
        assert_eq!((resource.kind(), resource.path()), (kind, path));
    }
}
