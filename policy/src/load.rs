//! Sources become a [`PolicySet`], or a list of everything that is wrong with them.
//!
//! Owns the rules as a whole: ids that are unique, the digest, the index. `reader` owns what makes one policy
//! acceptable. Deliberately does not read files.

use std::collections::HashMap;
use std::fmt;

use cedar_policy::{Policy, Schema};
use sha2::{Digest, Sha256};

use crate::SCHEMA;
use crate::annotation::Annotations;
use crate::index::Index;
use crate::position::Lines;
use crate::problem::{LoadError, LoadErrors, Place, Problem};
use crate::reader::{ActionGroups, Reader};
use crate::vocabulary::Action;

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

impl PolicySet {
    /// Checks and indexes policies. All of them are good, or none is taken.
    pub fn load(sources: &[Source]) -> Result<PolicySet, LoadErrors> {
        let schema = parse_schema()?;
        let actions = ActionGroups::of(&schema)?;
        let mut rules: Vec<Rule> = Vec::new();
        let mut errors: Vec<LoadError> = Vec::new();
        let mut first_of: HashMap<String, Place> = HashMap::new();

        for source in sources {
            let lines = Lines::of(&source.text);
            let reader = Reader { source, schema: &schema, actions: &actions, lines };
            let (found, mut wrong) = reader.read();
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

    /// Whether there is a policy of that source: one without any may have been cut short.
    pub fn has_any_of(&self, source: &str) -> bool {
        self.rules.iter().any(|rule| rule.place.file == source)
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

fn parse_schema() -> Result<Schema, LoadErrors> {
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
