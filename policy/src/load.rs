//! Sources become a [`PolicySet`], or a list of everything that is wrong with them.
//!
//! Owns what makes a policy acceptable: the schema, an id of its own, annotations that mean something, entity ids
//! that a request can carry. Deliberately does not read files and does not know which tables exist (`world` compares
//! with the configuration).

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;

use cedar_policy::{
    ActionConstraint, Effect, EntityUid, Policy, PolicyId, PolicySet as CedarSet, Schema, ValidationMode, Validator,
};
use miette::Diagnostic;
use sha2::{Digest, Sha256};

use crate::SCHEMA;
use crate::annotation::{self, Annotations, KEYS};
use crate::decide::{DEFAULT_DENY, INVALID_REQUEST};
use crate::entity::Kind;
use crate::index::Index;
use crate::position::line_column;
use crate::vocabulary::{Action, nearest};

const LONGEST_ID: usize = 100;

/// One policy file, already read.
#[derive(Debug, Clone)]
pub struct Source {
    pub name: String,
    pub text: String,
}

impl Source {
    pub fn new(name: impl Into<String>, text: impl Into<String>) -> Source {
        Source { name: name.into(), text: text.into() }
    }
}

/// Policies that passed every check, indexed. Immutable: share it in an `Arc` and replace the whole.
pub struct PolicySet {
    pub(crate) rules: Vec<Rule>,
    pub(crate) index: Index,
    pub(crate) schema: Schema,
    digest: String,
}

/// One policy with what was found out about it. Its place in the list is its number.
pub(crate) struct Rule {
    pub(crate) id: String,
    pub(crate) permit: bool,
    pub(crate) annotations: Annotations,
    pub(crate) policy: Policy,
    pub(crate) actions: Vec<Action>,
    pub(crate) place: Place,
}

/// Where something stands: file, line and column as an editor shows them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) file: String,
    pub(crate) line: usize,
    pub(crate) column: usize,
}

impl PolicySet {
    /// Checks and indexes policies. All of them are good, or none is taken.
    pub fn load(sources: &[Source]) -> Result<PolicySet, LoadErrors> {
        let schema = parse_schema()?;
        let actions = ActionGroups::of(&schema)?;
        let mut rules: Vec<Rule> = Vec::new();
        let mut errors: Vec<LoadError> = Vec::new();
        let mut first_of: HashMap<String, Place> = HashMap::new();

        for source in sources {
            let (found, mut wrong) = Reader { source, schema: &schema, actions: &actions }.read();
            errors.append(&mut wrong);
            for (rule, declared_at) in found {
                match first_of.get(&rule.id) {
                    Some(first) => {
                        let first = format!("{}:{}:{}", first.file, first.line, first.column);
                        let problem = Problem::DuplicateId { first };
                        errors.push(LoadError::at(declared_at, Some(rule.id), problem));
                    }
                    None => {
                        first_of.insert(rule.id.clone(), declared_at);
                        rules.push(rule);
                    }
                }
            }
        }
        if !errors.is_empty() {
            return Err(LoadErrors(errors));
        }
        let index = Index::build(&rules, &schema).map_err(LoadErrors::internal)?;
        Ok(PolicySet { rules, index, schema, digest: digest(sources) })
    }

    /// SHA-256 in hex over the schema and all sources, whatever order they were given in.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    pub fn ids(&self) -> impl Iterator<Item = &str> {
        self.rules.iter().map(|rule| rule.id.as_str())
    }
}

impl fmt::Debug for PolicySet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PolicySet").field("rules", &self.rules.len()).field("digest", &self.digest).finish()
    }
}

pub(crate) fn parse_schema() -> Result<Schema, LoadErrors> {
    let (schema, _warnings) =
        Schema::from_cedarschema_str(SCHEMA).map_err(|error| LoadErrors::internal(error.to_string()))?;
    Ok(schema)
}

fn digest(sources: &[Source]) -> String {
    let mut parts: Vec<(&str, &str)> = sources.iter().map(|s| (s.name.as_str(), s.text.as_str())).collect();
    parts.sort_unstable();
    let mut hash = Sha256::new();
    let mut add = |part: &str| {
        // Lengths make the parts unambiguous.
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part.as_bytes());
    };
    add("chaperone-policy-v1");
    add(SCHEMA);
    for (name, text) in parts {
        add(name);
        add(text);
    }
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Which actions each `Action::"..."` covers, from the schema.
struct ActionGroups(HashMap<EntityUid, Vec<Action>>);

impl ActionGroups {
    fn of(schema: &Schema) -> Result<ActionGroups, LoadErrors> {
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

/// Reads one source.
struct Reader<'a> {
    source: &'a Source,
    schema: &'a Schema,
    actions: &'a ActionGroups,
}

/// One policy as it stands in its source.
struct Found<'a> {
    policy: &'a Policy,
    id: Option<String>,
    offset: usize,
    text: String,
}

impl Reader<'_> {
    fn read(&self) -> (Vec<(Rule, Place)>, Vec<LoadError>) {
        let set = match CedarSet::from_str(&self.source.text) {
            Ok(set) => set,
            Err(errors) => return (Vec::new(), errors.iter().map(|error| self.syntax(error)).collect()),
        };
        let mut errors: Vec<LoadError> = Vec::new();
        let found = self.locate(&set);
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

    /// Strict validation; Cedar's warnings (a rule that can never apply, look-alike characters) are refused as well.
    fn validate(&self, set: &CedarSet, found: &[Found<'_>]) -> Vec<LoadError> {
        let result = Validator::new(self.schema.clone()).validate(set, ValidationMode::Strict);
        let errors = result.validation_errors().map(|e| (e.policy_id(), e as &dyn Diagnostic));
        let warnings = result.validation_warnings().map(|w| (w.policy_id(), w as &dyn Diagnostic));
        errors.chain(warnings).map(|(policy, diagnostic)| self.validation(policy, diagnostic, found)).collect()
    }

    fn validation(&self, policy: &PolicyId, diagnostic: &dyn Diagnostic, found: &[Found<'_>]) -> LoadError {
        let one = found.iter().find(|one| one.policy.id() == policy);
        let offset = label(diagnostic).or(one.map(|one| one.offset)).unwrap_or(0);
        // Cedar's text begins with the number it gave the policy; ours begins with the place and the id.
        let text = diagnostic.to_string();
        let prefix = format!("for policy `{policy}`, ");
        let text = text.strip_prefix(&prefix).unwrap_or(&text).to_owned();
        let mut error = self.error(offset, one.and_then(|one| one.id.clone()), Problem::Schema(text.clone()));
        error.hint = better_hint(&text).or_else(|| diagnostic.help().map(|help| help.to_string()));
        error
    }

    fn syntax(&self, diagnostic: &dyn Diagnostic) -> LoadError {
        let mut error = self.error(label(diagnostic).unwrap_or(0), None, Problem::Syntax(diagnostic.to_string()));
        error.hint = diagnostic.help().map(|help| help.to_string());
        error
    }

    fn error(&self, offset: usize, id: Option<String>, problem: Problem) -> LoadError {
        LoadError::at(self.place(offset), id, problem)
    }

    fn place(&self, offset: usize) -> Place {
        let (line, column) = line_column(&self.source.text, offset);
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

fn bad_entity(uid: &EntityUid) -> Option<Problem> {
    let kind = Kind::of(uid)?;
    let unsplittable = kind.split(uid.id().unescaped()).is_none();
    unsplittable.then(|| Problem::MalformedEntity { entity: uid.to_string(), shape: kind.shape() })
}

/// Hints for the mistakes Cedar has no words for.
fn better_hint(text: &str) -> Option<String> {
    if let Some((_, rest)) = text.split_once("unrecognized action `Action::\"") {
        let typed = rest.split('"').next()?;
        let known: Vec<&str> = Action::NAMES.iter().chain(&["sql:all", "sql:read", "sql:write"]).copied().collect();
        return nearest(typed, &known).map(|name| format!("did you mean Action::\"{name}\"?"));
    }
    if text.contains("`approval`") {
        return Some("approvals are not written in conditions: put @approval(\"group\") on the forbid".into());
    }
    None
}

/// Everything that was wrong, in the order of the sources.
#[derive(Debug)]
pub struct LoadErrors(Vec<LoadError>);

impl LoadErrors {
    pub fn iter(&self) -> impl Iterator<Item = &LoadError> {
        self.0.iter()
    }

    fn internal(text: String) -> LoadErrors {
        let place = Place { file: "schema.cedarschema".into(), line: 1, column: 1 };
        LoadErrors(vec![LoadError::at(place, None, Problem::Internal(text))])
    }
}

impl fmt::Display for LoadErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, error) in self.0.iter().enumerate() {
            let separator = if number == 0 { "" } else { "\n" };
            write!(f, "{separator}{error}")?;
        }
        Ok(())
    }
}

impl std::error::Error for LoadErrors {}

/// One thing that is wrong, where, and what may have been meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadError {
    pub file: String,
    pub line: usize,
    pub column: usize,
    /// The id of the policy, if it has one.
    pub id: Option<String>,
    pub problem: Problem,
    pub hint: Option<String>,
}

impl LoadError {
    fn at(place: Place, id: Option<String>, problem: Problem) -> LoadError {
        let hint = problem.hint();
        LoadError { file: place.file, line: place.line, column: place.column, id, problem, hint }
    }
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}: ", self.file, self.line, self.column)?;
        if let Some(id) = &self.id {
            write!(f, "policy {id:?}: ")?;
        }
        write!(f, "{}", self.problem)?;
        if let Some(hint) = &self.hint {
            write!(f, " ({hint})")?;
        }
        Ok(())
    }
}

impl std::error::Error for LoadError {}

/// What can be wrong with a policy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    #[error("not Cedar: {0}")]
    Syntax(String),
    #[error("{0}")]
    Schema(String),
    #[error("templates (?principal, ?resource) are not used here")]
    Template,
    #[error("the policy has no @id")]
    NoId,
    #[error("the @id is empty, longer than 100 characters, or has other characters than letters, digits and - _ . /")]
    BadId,
    #[error("the @id is one Chaperone itself uses in its answers")]
    ReservedId,
    #[error("the @id was already given to the policy at {first}")]
    DuplicateId { first: String },
    #[error("unknown annotation @{key}")]
    UnknownAnnotation { key: String, nearest: Option<&'static str> },
    #[error("@{key}({value:?}) is not understood, expected {expected}")]
    BadAnnotation { key: String, value: String, expected: &'static str },
    #[error("@{key} has no effect here: {why}")]
    NoEffect { key: String, why: &'static str },
    #[error("no request can ever carry {entity}")]
    MalformedEntity { entity: String, shape: &'static str },
    #[error("the built-in schema is broken: {0}")]
    Internal(String),
}

impl Problem {
    fn annotation(&self) -> Option<&str> {
        match self {
            Problem::UnknownAnnotation { key, .. }
            | Problem::BadAnnotation { key, .. }
            | Problem::NoEffect { key, .. } => Some(key),
            _ => None,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Problem::NoId => Some("write @id(\"a-name-of-its-own\") above it; denials name it".into()),
            Problem::UnknownAnnotation { nearest: Some(name), .. } => Some(format!("did you mean @{name}?")),
            Problem::UnknownAnnotation { nearest: None, .. } => Some(format!("known: @{}", KEYS.join(", @"))),
            Problem::MalformedEntity { shape, .. } => Some(format!("the form is {shape}")),
            _ => None,
        }
    }
}
