//! Which rules can apply to a request, found without looking at the others.
//!
//! Cedar evaluates every policy of a set, about 3 us each. Here policies are kept in small sets by action, by the principal
//! and by the resource their scope names; a request looks only into the sets its own names lead to. A rule whose
//! scope says everything (no `when`, no `unless`, no `is`) needs no evaluation at all: being found is being satisfied.
//!
//! The scope is thus understood twice, by Cedar and here. A test asks both about random policies and requests.

use std::collections::{HashMap, HashSet};

use cedar_policy::{
    Entity, EntityUid, PolicyId, PolicySet as CedarSet, PrincipalConstraint, ResourceConstraint, Schema,
};

use crate::entity::{Kind, Lineage, uid};
use crate::load::Rule;
use crate::vocabulary::Action;

/// The place of a rule in the list of rules.
pub(crate) type RuleNo = usize;

pub(crate) struct Index {
    buckets: HashMap<(Action, Term, Term), Bucket>,
    /// Only names that some scope mentions; everything else cannot lead anywhere.
    names: HashMap<EntityUid, u32>,
    numbers: HashMap<PolicyId, RuleNo>,
    applies: HashSet<(Action, Kind)>,
    /// `action in Action::"sql:read"` is true only if the request brings the action with its groups.
    actions: HashMap<Action, Entity>,
}

/// One side of a scope.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Term {
    Any,
    /// `== name`
    Is(u32),
    /// `in name`
    In(u32),
}

/// The rules with the same action, principal and resource in their scope.
#[derive(Default)]
pub(crate) struct Bucket {
    pub(crate) permits: Stage,
    pub(crate) forbids: Stage,
}

/// Permits and forbids are kept apart: asked about a mixed set, Cedar does not tell the permits once a forbid applies.
#[derive(Default)]
pub(crate) struct Stage {
    pub(crate) certain: Vec<RuleNo>,
    pub(crate) conditional: CedarSet,
}

impl Index {
    pub(crate) fn build(rules: &[Rule], schema: &Schema) -> Result<Index, String> {
        let mut index = Index {
            buckets: HashMap::new(),
            names: HashMap::new(),
            numbers: HashMap::new(),
            applies: applies(schema),
            actions: actions(schema)?,
        };
        for (number, rule) in rules.iter().enumerate() {
            index.numbers.insert(rule.policy.id().clone(), number);
            let (principal, principal_exact) = index.principal_term(&rule.policy.principal_constraint());
            let (resource, resource_exact) = index.resource_term(&rule.policy.resource_constraint());
            let certain = principal_exact && resource_exact && !rule.policy.has_non_scope_constraint();
            for action in &rule.actions {
                let bucket = index.buckets.entry((*action, principal, resource)).or_default();
                let stage = if rule.permit { &mut bucket.permits } else { &mut bucket.forbids };
                if certain {
                    stage.certain.push(number);
                } else {
                    stage.conditional.add(rule.policy.clone()).map_err(|error| error.to_string())?;
                }
            }
        }
        Ok(index)
    }

    /// Whether the schema knows this action on this kind of resource.
    pub(crate) fn applies(&self, action: Action, kind: Kind) -> bool {
        self.applies.contains(&(action, kind))
    }

    pub(crate) fn action(&self, action: Action) -> Option<&Entity> {
        self.actions.get(&action)
    }

    pub(crate) fn number(&self, id: &PolicyId) -> Option<RuleNo> {
        self.numbers.get(id).copied()
    }

    /// The rules that can apply; those that are left out certainly do not.
    pub(crate) fn candidates(&self, action: Action, principal: &Lineage, resource: &Lineage) -> Vec<&Bucket> {
        let principals = self.terms(principal);
        let resources = self.terms(resource);
        let mut found = Vec::new();
        for principal in &principals {
            for resource in &resources {
                found.extend(self.buckets.get(&(action, *principal, *resource)));
            }
        }
        found
    }

    fn terms(&self, lineage: &Lineage) -> Vec<Term> {
        let mut terms = vec![Term::Any];
        if let Some(name) = self.names.get(&lineage.uid) {
            terms.extend([Term::Is(*name), Term::In(*name)]);
        }
        terms.extend(
            lineage.ancestors.iter().filter_map(|uid| self.names.get(uid)).map(|name| Term::In(*name)),
        );
        terms.dedup();
        terms
    }

    fn principal_term(&mut self, constraint: &PrincipalConstraint) -> (Term, bool) {
        match constraint {
            PrincipalConstraint::Any => (Term::Any, true),
            PrincipalConstraint::Eq(uid) => (Term::Is(self.name(uid)), true),
            PrincipalConstraint::In(uid) => (Term::In(self.name(uid)), true),
            // The type is left to Cedar.
            PrincipalConstraint::Is(_) => (Term::Any, false),
            PrincipalConstraint::IsIn(_, uid) => (Term::In(self.name(uid)), false),
        }
    }

    fn resource_term(&mut self, constraint: &ResourceConstraint) -> (Term, bool) {
        match constraint {
            ResourceConstraint::Any => (Term::Any, true),
            ResourceConstraint::Eq(uid) => (Term::Is(self.name(uid)), true),
            ResourceConstraint::In(uid) => (Term::In(self.name(uid)), true),
            ResourceConstraint::Is(_) => (Term::Any, false),
            ResourceConstraint::IsIn(_, uid) => (Term::In(self.name(uid)), false),
        }
    }

    fn name(&mut self, uid: &EntityUid) -> u32 {
        let next = self.names.len() as u32;
        *self.names.entry(uid.clone()).or_insert(next)
    }
}

fn applies(schema: &Schema) -> HashSet<(Action, Kind)> {
    let mut pairs = HashSet::new();
    for env in schema.request_envs() {
        for action in Action::ALL.iter().filter(|action| action.uid() == *env.action()) {
            for kind in Kind::ALL.iter().filter(|kind| uid(**kind, "x".into()).type_name() == env.resource())
            {
                pairs.insert((*action, *kind));
            }
        }
    }
    pairs
}

fn actions(schema: &Schema) -> Result<HashMap<Action, Entity>, String> {
    let entities = schema.action_entities().map_err(|error| error.to_string())?;
    let entity = |action: &Action| {
        let uid = action.uid();
        let groups = entities.ancestors(&uid).into_iter().flatten().cloned().collect();
        (*action, Entity::new_no_attrs(uid, groups))
    };
    Ok(Action::ALL.iter().map(entity).collect())
}
