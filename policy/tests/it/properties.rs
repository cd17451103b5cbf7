//! What holds for any policies and any request.

use std::collections::{HashMap, HashSet};
use std::str::FromStr;
use std::sync::LazyLock;

use cedar_policy::{
    Authorizer, Context, Decision as Answer, Entities, Entity, EntityUid, Policy, PolicySet as Cedar,
};
use cedar_policy::{Request as CedarRequest, RestrictedExpression, Schema};
use chaperone_policy::{Action, Approval, Effect, Flag, Kind, PolicySet, Request, Source, combine};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};

use crate::support::{HASH, what, who, yes};

const PRINCIPALS: &[&str] = &[
    "principal",
    "principal in Group::\"ai-agents\"",
    "principal in Group::\"ci\"",
    "principal == NonHumanIdentity::\"bot\"",
    "principal is NonHumanIdentity",
    "principal is NonHumanIdentity in Group::\"pii-readers\"",
];

const ACTIONS: &[&str] = &[
    "action",
    "action in Action::\"sql:all\"",
    "action in Action::\"sql:read\"",
    "action in Action::\"sql:write\"",
    "action == Action::\"sql:delete\"",
    "action == Action::\"unmask\"",
    "action in [Action::\"connect\", Action::\"sql:ddl\", Action::\"sql:select\"]",
];

const RESOURCES: &[&str] = &[
    "resource",
    "resource in Env::\"prod\"",
    "resource in Target::\"analytics\"",
    "resource in Database::\"shop/crm\"",
    "resource == Database::\"shop/crm\"",
    "resource in Schema::\"shop/crm/public\"",
    "resource == Schema::\"shop/crm/public\"",
    "resource in Table::\"shop/crm/public.t\"",
    "resource == Table::\"shop/crm/public.t\"",
    "resource in Tag::\"pii\"",
    "resource is Table",
    "resource is Table in Schema::\"shop/crm/public\"",
    "resource is Column in Target::\"shop\"",
];

const CONDITIONS: &[&str] = &[
    "",
    "",
    "when { principal in Group::\"ci\" }",
    "unless { resource in Env::\"prod\" }",
    "unless { resource in [Tag::\"pii\", Tag::\"secret\"] }",
    "when { context has flags && context.flags.contains(Flag::\"no_where\") }",
    "unless { context has tables && context.tables.contains(Table::\"shop/crm/public.t\") }",
    "when { context has flags && context.flags.isEmpty() && 9223372036854775807 + 1 > 0 }",
];

const WHAT: &[&str] = &[
    "shop",
    "shop/public",
    "shop/public.t",
    "shop/other.t",
    "shop/public.f()",
    "shop/public.t.email#pii",
    "shop/public.t.key#pii#secret",
    "shop/public.t.id",
    "analytics",
    "analytics/public.t",
];

#[derive(Debug, Clone)]
struct Rule {
    permit: bool,
    approval: bool,
    text: String,
}

fn rule() -> impl Strategy<Value = Rule> {
    let scope = (select(PRINCIPALS), select(ACTIONS), select(RESOURCES), select(CONDITIONS));
    (any::<bool>(), any::<bool>(), scope).prop_map(
        |(permit, approval, (principal, action, resource, condition))| {
            let approval = approval && !permit && !action.contains("unmask");
            let annotation = if approval { "@approval(\"dba\") " } else { "" };
            let effect = if permit { "permit" } else { "forbid" };
            let text = format!("{annotation}{effect}({principal}, {action}, {resource}) {condition};");
            Rule { permit, approval, text }
        },
    )
}

#[derive(Debug, Clone)]
struct Asked {
    principal: &'static str,
    action: Action,
    resource: &'static str,
    flags: Vec<Flag>,
    tables: Vec<&'static str>,
    approved: bool,
}

fn asked() -> impl Strategy<Value = Asked> {
    (
        select(&["bot", "ci", "analyst", "stranger"][..]),
        // People are asked about in another way.
        select(Action::ALL.iter().copied().filter(|action| *action != Action::Approve).collect::<Vec<_>>()),
        select(WHAT),
        subsequence(Flag::ALL.to_vec(), 0..3),
        subsequence(vec!["shop/public.t", "shop/other.t"], 0..=2),
        any::<bool>(),
    )
        .prop_map(|(principal, action, resource, flags, tables, approved)| Asked {
            principal,
            action,
            resource,
            flags,
            tables,
            approved,
        })
}

/// Some combinations cannot apply and are refused at load; they are left out. Returns the rules that were taken.
fn load(rules: &[Rule]) -> (PolicySet, Vec<(String, Rule)>) {
    let mut taken: Vec<(String, Rule)> =
        rules.iter().enumerate().map(|(n, rule)| (format!("r{n:03}"), rule.clone())).collect();
    loop {
        let text: String = taken.iter().map(|(id, rule)| format!("@id(\"{id}\") {}\n", rule.text)).collect();
        match PolicySet::load(&[Source::new("random.cedar", text)]) {
            Ok(policies) => return (policies, taken),
            Err(errors) => {
                let refused: HashSet<String> = errors.iter().filter_map(|error| error.id.clone()).collect();
                assert!(!refused.is_empty(), "{errors}");
                taken.retain(|(id, _)| !refused.contains(id));
            }
        }
    }
}

fn decide(policies: &PolicySet, asked: &Asked) -> (Effect, Vec<String>) {
    let (principal, resource) = (who(asked.principal), what(asked.resource));
    let tables: Vec<_> = asked.tables.iter().map(|table| what(table)).collect();
    let approvals: Vec<Approval> = asked.approved.then(|| yes("olga", &["dba"])).into_iter().collect();
    let decision = policies.decide(&Request {
        flags: &asked.flags,
        tables: &tables,
        approvals: &approvals,
        statement_hash: HASH,
        ..Request::new(&principal, asked.action, &resource)
    });
    let again = combine([decision.clone()]);
    assert_eq!(again.effect, decision.effect);
    (decision.effect, decision.policies)
}

/// Parsed once: reading it takes longer than a case.
static SCHEMA: LazyLock<Schema> =
    LazyLock::new(|| Schema::from_cedarschema_str(chaperone_policy::SCHEMA).unwrap().0);

fn uid(kind: &str, id: &str) -> EntityUid {
    EntityUid::from_str(&format!("{kind}::{id:?}")).unwrap()
}

/// The whole hierarchy, level by level, as Cedar's own documentation would build it.
fn hierarchy(asked: &Asked) -> (EntityUid, EntityUid, Entities) {
    let (principal, resource) = (who(asked.principal), what(asked.resource));
    let mut parents: HashMap<EntityUid, HashSet<EntityUid>> = HashMap::new();
    let who = uid("NonHumanIdentity", principal.name());
    parents.insert(who.clone(), principal.groups().iter().map(|group| uid("Group", group)).collect());

    let mut link = |child: EntityUid, parent: EntityUid| {
        parents.entry(child).or_default().insert(parent);
    };
    let (path, env) = (resource.path(), if resource.path().starts_with("shop") { "prod" } else { "staging" });
    let levels: Vec<&str> = path.splitn(3, '/').collect();
    let target = uid("Target", levels[0]);
    link(target.clone(), uid("Env", env));
    let database = uid("Database", &format!("{}/{}", levels[0], levels[1]));
    link(database.clone(), target);
    let mut above = database;
    if let Some(below) = levels.get(2) {
        let names: Vec<&str> = below.split('.').collect();
        let third = if resource.kind() == Kind::Routine { "Routine" } else { "Table" };
        let mut id = format!("{}/{}/", levels[0], levels[1]);
        for (name, kind) in names.iter().zip(["Schema", third, "Column"]) {
            id.push_str(name);
            let here = uid(kind, &id);
            link(here.clone(), above);
            above = here;
            id.push('.');
        }
        for tag in asked.resource.split('#').skip(1) {
            link(above.clone(), uid("Tag", tag));
        }
    }
    let entities = parents.into_iter().map(|(uid, parents)| Entity::new_no_attrs(uid, parents));
    (who, above, Entities::from_entities(entities, None).unwrap())
}

/// The same question put to Cedar alone, one policy at a time: which apply, and does any fail.
fn plain_cedar(rules: &[(String, Rule)], asked: &Asked) -> (Vec<bool>, bool) {
    let (principal, resource, mut entities) = hierarchy(asked);
    entities = entities.add_entities(SCHEMA.action_entities().unwrap(), None).unwrap();
    let set = |uids: Vec<EntityUid>| {
        RestrictedExpression::new_set(uids.into_iter().map(RestrictedExpression::new_entity_uid))
    };
    let context = if matches!(asked.action, Action::Connect | Action::Unmask) {
        Context::empty()
    } else {
        let flags = asked.flags.iter().map(|flag| uid("Flag", flag.as_str())).collect();
        let tables = asked.tables.iter().map(|table| uid("Table", what(table).path())).collect();
        Context::from_pairs([("flags".into(), set(flags)), ("tables".into(), set(tables))]).unwrap()
    };
    let action = uid("Action", asked.action.as_str());
    let request = CedarRequest::new(principal, action, resource, context, None).unwrap();
    let mut applies = Vec::new();
    let mut failed = false;
    for (_, rule) in rules {
        // As a permit, so that "allow" means "applies" whatever the rule does.
        let text = rule.text.replacen("forbid(", "permit(", 1);
        let policy = Policy::parse(None, text).unwrap();
        let response =
            Authorizer::new().is_authorized(&request, &Cedar::from_policies([policy]).unwrap(), &entities);
        failed |= response.diagnostics().errors().next().is_some();
        applies.push(response.decision() == Answer::Allow);
    }
    (applies, failed)
}

/// The lattice again, as plainly as it can be written.
fn expected(rules: &[(String, Rule)], asked: &Asked) -> (Effect, Vec<String>) {
    let (applies, _) = plain_cedar(rules, asked);
    let ids = |wanted: &dyn Fn(&Rule) -> bool| -> Vec<String> {
        let chosen = rules.iter().zip(&applies).filter(|((_, rule), applies)| **applies && wanted(rule));
        chosen.map(|((id, _), _)| id.clone()).collect()
    };
    let plain = ids(&|rule| !rule.permit && !rule.approval);
    let permits = ids(&|rule| rule.permit);
    let held = ids(&|rule| rule.approval);
    match (plain.is_empty(), permits.is_empty(), held.is_empty() || asked.approved) {
        (false, _, _) => (Effect::Deny, plain),
        (true, true, _) => (Effect::Deny, Vec::new()),
        (true, false, false) => (Effect::Hold, held),
        (true, false, true) => (Effect::Permit, [permits, held].concat()),
    }
}

fn possible(asked: &Asked) -> bool {
    let kind = what(asked.resource).kind();
    SCHEMA.request_envs().any(|env| {
        env.action().id().unescaped() == asked.action.as_str() && env.resource().to_string() == kind.as_str()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(150) })]

    /// Deny over hold over permit: one more forbid can only move a decision up.
    #[test]
    fn one_more_forbid_never_permits_more(
        rules in vec(rule(), 1..8),
        more in rule().prop_filter("a forbid", |rule| !rule.permit),
        at in any::<prop::sample::Index>(),
        asked in vec(asked(), 10),
    ) {
        let mut longer = rules.clone();
        longer.insert(at.index(rules.len() + 1), more);
        let ((shorter, _), (longer, _)) = (load(&rules), load(&longer));
        for asked in &asked {
            let (before, after) = (decide(&shorter, asked).0, decide(&longer, asked).0);
            prop_assert!(after >= before, "{before:?} became {after:?} for {asked:?}");
        }
    }

    /// The index, the flat entities and the rules that are never evaluated change nothing.
    #[test]
    fn decisions_are_those_of_plain_cedar_over_the_whole_hierarchy(
        rules in vec(rule(), 1..12),
        asked in vec(asked(), 12),
    ) {
        let (policies, rules) = load(&rules);
        for asked in asked.iter().filter(|asked| possible(asked)) {
            let (effect, decisive) = decide(&policies, asked);
            if plain_cedar(&rules, asked).1 {
                prop_assert_eq!(effect, Effect::Deny, "a policy fails for {:?}", asked);
            } else {
                prop_assert_eq!((effect, decisive), expected(&rules, asked), "{:?}", asked);
            }
        }
    }

    /// An approval never helps where the answer was not a hold.
    #[test]
    fn an_approval_changes_nothing_but_a_hold(rules in vec(rule(), 1..8), asked in vec(asked(), 10)) {
        let (policies, _) = load(&rules);
        for asked in asked {
            let before = decide(&policies, &Asked { approved: false, ..asked.clone() });
            let after = decide(&policies, &Asked { approved: true, ..asked.clone() });
            match before.0 {
                Effect::Hold => prop_assert_eq!(after.0, Effect::Permit),
                Effect::Permit | Effect::Deny => prop_assert_eq!(before, after),
            }
        }
    }

    /// Loading anything at all ends in policies or errors, never in a panic, and errors point into the text.
    #[test]
    fn any_text_loads_or_is_refused_with_a_place_in_it(
        text in "[ -~\\n\u{e9}\u{202e}]{0,200}|(@id\\(\"[a-c]\"\\) )?(permit|forbid)\\(principal, action, resource\\)( when \\{ [a-z.0-9 ]{0,20} \\})?;?",
        cut in option::of(any::<prop::sample::Index>()),
    ) {
        let text: String = match cut {
            Some(at) => text.chars().take(at.index(text.chars().count() + 1)).collect(),
            None => text,
        };
        if let Err(errors) = PolicySet::load(&[Source::new("any.cedar", text.clone())]) {
            for error in errors.iter() {
                prop_assert!(error.line <= text.matches('\n').count() + 1, "{error}");
            }
        }
    }
}
