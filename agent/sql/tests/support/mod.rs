//! The catalogue of the fixture, the labels of the published cases, and what a default policy makes of a string.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use chaperone_sql::{
    Catalog, ColumnPath, MaskKind, NameOp, Output, QUERIES, Refusal, Rows, Statement, Verb, View, analyse,
};

pub(crate) fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests")
}

pub(crate) fn rows() -> Rows {
    let folder = directory().join("fixture/pg15");
    let read = |name: &str| {
        let text =
            std::fs::read_to_string(folder.join(format!("{name}.tsv"))).expect("the fixture is complete");
        text.lines().map(|line| line.split('\t').map(field).collect()).collect()
    };
    QUERIES.iter().map(|query| (query.name.to_owned(), read(query.name))).collect()
}

/// One value in the text format of COPY.
fn field(text: &str) -> Option<String> {
    if text == "\\N" {
        return None;
    }
    let mut out = String::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (c, c == '\\') {
            (_, true) => match chars.next() {
                Some('n') => out.push('\n'),
                Some('t') => out.push('\t'),
                Some('r') => out.push('\r'),
                Some(other) => out.push(other),
                None => out.push('\\'),
            },
            _ => out.push(c),
        }
    }
    Some(out)
}

pub(crate) fn catalog() -> Arc<Catalog> {
    let path = ["app".to_owned(), "public".to_owned()];
    Arc::new(Catalog::build(&rows(), &path).expect("the fixture is a catalogue"))
}

pub(crate) fn path(text: &str) -> ColumnPath {
    let mut parts = text.split('.').map(Arc::from);
    let mut next = || parts.next().expect("schema.table.column");
    ColumnPath { schema: next(), table: next(), column: next() }
}

/// The labels the cases are written for.
pub(crate) const LABELS: &str = include_str!("../fixture/labels.txt");

pub(crate) fn labelled() -> View {
    let masked: BTreeMap<_, _> = LABELS.lines().map(|label| (path(label), MaskKind::Redact)).collect();
    let view = View::build(catalog(), &masked);
    assert!(view.unmatched().is_empty(), "{:?}", view.unmatched());
    view
}

pub(crate) fn unlabelled() -> View {
    View::build(catalog(), &BTreeMap::new())
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    Allow,
    /// The positions that are masked, of the last statement that masks any.
    Mask(Vec<usize>),
    Deny(String),
}

/// What a client of the default policy sees: DDL, calls and administration are denied, names are followed.
pub(crate) fn outcome<S: AsRef<str>>(view: &View, strings: &[S]) -> Outcome {
    let mut names: HashMap<(bool, String), Statement> = HashMap::new();
    let mut masked = Vec::new();
    for sql in strings {
        match analyse(sql.as_ref(), view) {
            Err(refusal) => return Outcome::Deny(explain(&refusal)),
            Ok(statements) => {
                for statement in statements {
                    match run(statement, &mut names) {
                        Err(denied) => return Outcome::Deny(denied),
                        Ok(positions) if positions.is_empty() => {}
                        Ok(positions) => masked = positions,
                    }
                }
            }
        }
    }
    if masked.is_empty() { Outcome::Allow } else { Outcome::Mask(masked) }
}

fn explain(refusal: &Refusal) -> String {
    format!("{:?}: {}", refusal.kind, refusal.reason)
}

fn run(statement: Statement, names: &mut HashMap<(bool, String), Statement>) -> Result<Vec<usize>, String> {
    assert!(!statement.accesses.is_empty(), "{statement:?}");
    let denied = statement
        .accesses
        .iter()
        .find(|access| matches!(access.action, Verb::Ddl | Verb::Call | Verb::Admin));
    if let Some(access) = denied {
        return Err(format!("policy: {access:?}"));
    }
    if statement.copy.is_some() && statement.output.is_masked() {
        return Err("policy: COPY of masked columns".to_owned());
    }
    let shown = match (&statement.output, &statement.names) {
        (Output::OfName, NameOp::Execute(name)) => names.get(&(false, name.clone())).cloned(),
        (Output::OfName, NameOp::Fetch { name, .. }) => names.get(&(true, name.clone())).cloned(),
        _ => Some(statement.clone()),
    };
    let shown = shown.ok_or_else(|| "a name that is not known".to_owned())?;
    let positions = match &shown.output {
        Output::Columns(columns) => {
            let masked = columns.iter().enumerate().filter(|(_, column)| column.mask.is_some());
            masked.map(|(position, _)| position).collect()
        }
        _ => Vec::new(),
    };
    match statement.names {
        NameOp::Prepare { name, inner } => {
            names.insert((false, name), *inner);
        }
        NameOp::DeclareCursor { name, inner, .. } => {
            names.insert((true, name), *inner);
        }
        _ => {}
    }
    Ok(positions)
}
