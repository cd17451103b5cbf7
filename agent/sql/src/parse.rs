//! The seam to the grammar: text in, statements of a parse tree out. Nothing else in the crate calls the parser, so
//! another binding of the same grammar can take its place here. Panics of the binding become refusals.

use std::panic::{AssertUnwindSafe, catch_unwind};

use pg_raw_parse::{Node, ParseResult, parse as raw_parse};

use crate::refusal::{Refusal, Res};

/// A parsed string; owns its memory.
pub(crate) struct Tree(ParseResult);

/// One statement and where it stands in the text, in bytes; a length of 0 reaches to the end.
pub(crate) struct Raw<'a> {
    pub(crate) node: Node<'a>,
    pub(crate) start: usize,
    pub(crate) len: usize,
}

/// Parses with the grammar of PostgreSQL 18.
pub(crate) fn parse(sql: &str) -> Res<Tree> {
    match catch_unwind(|| raw_parse(sql)) {
        Ok(Ok(tree)) => Ok(Tree(tree)),
        Ok(Err(error)) => {
            let text = error.to_string();
            Err(Refusal::syntax(text.strip_prefix("Invalid statement: ").unwrap_or(&text)))
        }
        Err(_) => Err(Refusal::unsupported("this statement")),
    }
}

impl Tree {
    pub(crate) fn statements(&self) -> impl Iterator<Item = Raw<'_>> {
        self.0.iter().map(|raw| Raw {
            node: raw.stmt(),
            start: usize::try_from(raw.stmt_location).unwrap_or(0),
            len: usize::try_from(raw.stmt_len).unwrap_or(0),
        })
    }
}

/// The binding checks the documented type of list elements and panics where the documentation was wrong. That must
/// deny one statement, not end the agent.
pub(crate) fn guarded<T>(work: impl FnOnce() -> Res<T>) -> Res<T> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| Err(Refusal::unsupported("this statement")))
}
