//! One source, policy by policy: what makes a policy acceptable.
//!
//! The schema, an id of its own, annotations that mean something, entity ids that a request can carry, no condition on what
//! does not exist. Deliberately does not know which tables or identities exist (`world` compares with the configuration).

use std::collections::{HashMap, HashSet};
use std::str::FromStr;

use cedar_policy::{
    ActionConstraint, Effect, EntityUid, Policy, PolicyId, PolicySet as CedarSet, Schema, ValidationMode,
    Validator,
};
use miette::Diagnostic;

use crate::annotation;
use crate::decide::{DEFAULT_DENY, INVALID_REQUEST};
use crate::entity::Kind;
use crate::hints;
use crate::load::{Rule, Source};
use crate::position::Lines;
use crate::problem::{LoadError, LoadErrors, Place, Problem};
use crate::vocabulary::Action;
use crate::workload;

const LONGEST_ID: usize = 100;

/// Reads one source.
pub(crate) struct Reader<'a> {
    pub(crate) source: &'a Source,
    pub(crate) schema: &'a Schema,
    pub(crate) actions: &'a ActionGroups,
    pub(crate) lines: Lines<'a>,
}

/// One policy as it stands in its source.
struct Found<'a> {
    policy: &'a Policy,
    id: Option<String>,
    offset: usize,
    text: String,
}

impl Reader<'_> {
    pub(crate) fn read(&self) -> (Vec<(Rule, Place)>, Vec<LoadError>) {
        let set = match CedarSet::from_str(&self.source.text) {
            Ok(set) => set,
            Err(errors) => return (Vec::new(), errors.iter().map(|error| self.syntax(error)).collect()),
        };
        let mut errors: Vec<LoadError> = Vec::new();
        let found = self.locate(&set);
        if found.len() != set.num_of_policies() {
            errors.push(self.error(
                0,
                None,
                Problem::Internal("policies got lost between Cedar and here".into()),
            ));
        }
        if set.num_of_templates() > 0 {
            errors.push(self.error(0, None, Problem::Template));
        }

        let mut rules = Vec::new();
        for one in &found {
            match self.rule(one) {
                Ok(rule) => rules.push((rule, self.place(one.offset))),
                Err(problems) => errors.extend(
                    problems.into_iter().map(|(offset, problem)| self.error(offset, one.id.clone(), problem)),
                ),
            }
        }
        errors.extend(self.validate(&set, &found));
        errors.sort_by_cached_key(|error| (error.line, error.column, error.problem.to_string()));
        // The validator repeats itself for every action a policy covers.
        errors.dedup_by(|later, earlier| {
            let schema = |error: &LoadError| matches!(error.problem, Problem::Schema(_));
            let place = |error: &LoadError| (error.line, error.column);
            schema(later) && schema(earlier) && place(later) == place(earlier)
        });
        (rules, errors)
    }

    /// Cedar numbers the policies of a text in order and keeps the text of each.
    fn locate<'s>(&self, set: &'s CedarSet) -> Vec<Found<'s>> {
        let mut found = Vec::new();
        let mut from = 0;
        for number in 0..set.num_of_policies() + set.num_of_templates() {
            let Some(policy) = set.policy(&PolicyId::new(format!("policy{number}"))) else { continue };
            let text = policy.to_cedar().unwrap_or_default();
            let rest = self.source.text.get(from..).unwrap_or_default();
            let offset = from + rest.find(text.as_str()).unwrap_or(0);
            from = offset + text.len();
            let id = policy.annotation("id").map(str::to_owned);
            found.push(Found { policy, id, offset, text });
        }
        found
    }

    fn rule(&self, found: &Found<'_>) -> Result<Rule, Vec<(usize, Problem)>> {
        let Some(id) = found.id.clone() else { return Err(vec![(found.offset, Problem::NoId)]) };
        let mut problems = Vec::new();
        if let Some(problem) = bad_id(&id) {
            problems.push((found.offset, problem));
        }
        for uid in found.policy.entity_literals() {
            if let Some(problem) = bad_entity(&uid) {
                problems.push((found.offset_of(&format!("{:?}", uid.id().unescaped())), problem));
            }
        }
        if let Some(attribute) = unknown_has(found) {
            let problem = Problem::UnknownHas { attribute: attribute.clone() };
            problems.push((found.offset_of(&attribute), problem));
        }
        if let Some((attribute, value, shape)) = impossible_value(found) {
            problems.push((
                found.offset_of(&format!("{value:?}")),
                Problem::ImpossibleValue { attribute, value, shape },
            ));
        }
        let actions = self.actions.covered_by(found.policy.action_constraint());
        match annotation::read(found.policy, &id, &actions) {
            Ok(annotations) if problems.is_empty() => Ok(Rule {
                permit: found.policy.effect() == Effect::Permit,
                annotations,
                policy: found.policy.new_id(PolicyId::new(&id)),
                actions,
                place: self.place(found.offset),
                id,
            }),
            Ok(_) => Err(problems),
            Err(wrong) => {
                problems.extend(wrong.into_iter().map(|problem| match problem.annotation() {
                    Some(key) => (found.offset_of(&format!("@{key}")), problem),
                    None => (found.offset, problem),
                }));
                Err(problems)
            }
        }
    }

    /// Strict validation; Cedar's warnings (a rule that can never apply, look-alike characters) are refused as well,
    /// once per rule and only where there is no error they could follow from.
    fn validate(&self, set: &CedarSet, found: &[Found<'_>]) -> Vec<LoadError> {
        let result = Validator::new(self.schema.clone()).validate(set, ValidationMode::Strict);
        let mut reported: HashSet<&PolicyId> = HashSet::new();
        let mut refused: Vec<LoadError> = Vec::new();
        for error in result.validation_errors() {
            reported.insert(error.policy_id());
            refused.push(self.validation(error.policy_id(), error, found));
        }
        for warning in result.validation_warnings() {
            if reported.insert(warning.policy_id()) {
                refused.push(self.validation(warning.policy_id(), warning, found));
            }
        }
        refused
    }

    fn validation(&self, policy: &PolicyId, diagnostic: &dyn Diagnostic, found: &[Found<'_>]) -> LoadError {
        let one = found.iter().find(|one| one.policy.id() == policy);
        let offset = label(diagnostic).or(one.map(|one| one.offset)).unwrap_or(0);
        // Cedar's text begins with the number it gave the policy; ours begins with the place and the id.
        let strip = |text: String| {
            [", ", ": "]
                .iter()
                .fold(text, |text, end| text.replace(&format!("for policy `{policy}`{end}"), ""))
        };
        let text = strip(diagnostic.to_string());
        let hint =
            hints::for_validation(&text).or_else(|| diagnostic.help().map(|help| strip(help.to_string())));
        let id = one.and_then(|one| one.id.clone());
        LoadError { hint, ..self.error(offset, id, Problem::Schema(text)) }
    }

    fn syntax(&self, diagnostic: &dyn Diagnostic) -> LoadError {
        let text = diagnostic.to_string();
        let hint = diagnostic.help().map(|help| help.to_string()).or_else(|| hints::for_syntax(&text));
        let problem = Problem::Syntax(text);
        LoadError { hint, ..self.error(label(diagnostic).unwrap_or(0), None, problem) }
    }

    fn error(&self, offset: usize, id: Option<String>, problem: Problem) -> LoadError {
        LoadError::at(self.place(offset), id, problem)
    }

    fn place(&self, offset: usize) -> Place {
        let (line, column) = self.lines.position(offset);
        Place { file: self.source.name.clone(), line, column }
    }
}

impl Found<'_> {
    /// Where `needle` stands in this policy; its beginning if it does not stand there literally.
    fn offset_of(&self, needle: &str) -> usize {
        self.offset + self.text.find(needle).unwrap_or(0)
    }
}

fn label(diagnostic: &dyn Diagnostic) -> Option<usize> {
    diagnostic.labels()?.next().map(|label| label.offset())
}

fn bad_id(id: &str) -> Option<Problem> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/');
    if id == DEFAULT_DENY || id == INVALID_REQUEST {
        return Some(Problem::ReservedId);
    }
    (id.is_empty() || id.len() > LONGEST_ID || !id.chars().all(plain)).then_some(Problem::BadId)
}

fn impossible_value(found: &Found<'_>) -> Option<(String, String, &'static str)> {
    found.text.contains("workload").then(|| workload::impossible(&found.policy.to_json().ok()?)).flatten()
}

/// Cedar accepts `x has y` for any `y` and takes it for false. A condition on a misspelt attribute would then switch
/// a rule off without a word.
fn unknown_has(found: &Found<'_>) -> Option<String> {
    if !found.text.contains("has") {
        return None;
    }
    let json = found.policy.to_json().ok()?;
    let mut open: Vec<&serde_json::Value> = json.get("conditions").into_iter().collect();
    while let Some(value) = open.pop() {
        if let Some(attribute) =
            value.get("has").and_then(|has| has.get("attr")).and_then(|attr| attr.as_str())
            && !hints::ATTRIBUTES.contains(&attribute)
        {
            return Some(attribute.to_owned());
        }
        open.extend(value.as_array().into_iter().flatten());
        open.extend(value.as_object().into_iter().flat_map(|object| object.values()));
    }
    None
}

fn bad_entity(uid: &EntityUid) -> Option<Problem> {
    let kind = Kind::of(uid)?;
    let unsplittable = kind.split(uid.id().unescaped()).is_none();
    unsplittable.then(|| Problem::MalformedEntity { entity: uid.to_string(), shape: kind.shape() })
}

/// Which actions each `Action::"..."` covers, from the schema.
pub(crate) struct ActionGroups(HashMap<EntityUid, Vec<Action>>);

impl ActionGroups {
    pub(crate) fn of(schema: &Schema) -> Result<ActionGroups, LoadErrors> {
        let entities = schema.action_entities().map_err(|error| LoadErrors::internal(error.to_string()))?;
        let mut covers: HashMap<EntityUid, Vec<Action>> = HashMap::new();
        for action in Action::ALL {
            let uid = action.uid();
            for ancestor in entities.ancestors(&uid).into_iter().flatten() {
                covers.entry(ancestor.clone()).or_default().push(*action);
            }
            covers.entry(uid).or_default().push(*action);
        }
        Ok(ActionGroups(covers))
    }

    fn covered_by(&self, constraint: ActionConstraint) -> Vec<Action> {
        let named = match constraint {
            ActionConstraint::Any => return Action::ALL.to_vec(),
            ActionConstraint::Eq(uid) => vec![uid],
            ActionConstraint::In(uids) => uids,
        };
        let mut actions: Vec<Action> =
            named.iter().filter_map(|uid| self.0.get(uid)).flatten().copied().collect();
        actions.sort_unstable();
        actions.dedup();
        actions
    }
}
