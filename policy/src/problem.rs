//! What can be wrong with policies, and how it is said: place, rule, problem, and what may have been meant.

use std::fmt;

use crate::annotation::KEYS;
use crate::hints;

/// Where something stands: file, line and column as an editor shows them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) file: String,
    pub(crate) line: usize,
    pub(crate) column: usize,
}

/// Everything that was wrong, in the order of the sources.
#[derive(Debug)]
pub struct LoadErrors(pub(crate) Vec<LoadError>);

impl LoadErrors {
    pub fn iter(&self) -> impl Iterator<Item = &LoadError> {
        self.0.iter()
    }

    pub(crate) fn internal(text: String) -> LoadErrors {
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
    pub(crate) fn at(place: Place, id: Option<String>, problem: Problem) -> LoadError {
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
    #[error(
        "the @id is empty, longer than 100 characters, or has other characters than letters, digits and - _ . /"
    )]
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
    #[error("nothing ever has {attribute:?}, so this condition is always the same")]
    UnknownHas { attribute: String },
    #[error("no workload's {attribute} is ever {value:?}")]
    ImpossibleValue { attribute: String, value: String, shape: &'static str },
    #[error("internal error: {0}")]
    Internal(String),
}

impl Problem {
    pub(crate) fn annotation(&self) -> Option<&str> {
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
            Problem::ImpossibleValue { shape, .. } => Some(format!("it looks like {shape}")),
            Problem::UnknownHas { attribute } => Some(hints::for_has(attribute)),
            _ => None,
        }
    }
}
