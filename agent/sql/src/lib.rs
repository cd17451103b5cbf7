//! What does this statement do, and is it sound to serve it to someone for whom these columns are masked?
//!
//! Pure: text and a [`View`] in, [`Statement`]s or a [`Refusal`] out. The crate opens nothing, waits for nothing and
//! decides no policy. What it does not understand it refuses.
//!
//! - [`catalog`]: what the server has, from rows the caller fetched with [`QUERIES`].
//! - [`view`]: the columns masked for one principal, carried through inheritance and views.
//! - [`analyse()`]: parses a string and follows every masked column through it. A masked column may only flow,
//!   unmodified, to an output column (the *flow-only* rule); any other use is refused, so that row counts, errors and
//!   timing cannot depend on a masked value.
//!
//! Names are resolved as the server resolves them, with the search path the catalogue was built for. The caller
//! therefore has to pin that path, `standard_conforming_strings = on` and UTF-8 for the session.
//!
//! Analysis recurses with the nesting of the statement, which is bounded: call it on threads with 32 MiB of stack.

#![forbid(unsafe_code)]

mod analyse;
mod catalog;
mod lexer;
#[cfg(test)]
#[path = "../tests/support/mutate.rs"]
mod mutate;
mod parse;
mod refusal;
mod shape;
mod statement;
mod view;

pub use analyse::{analyse, may_set_at_login};
pub use catalog::{Catalog, CatalogError, CatalogQuery, QUERIES, Rows, Spot};
pub use refusal::{How, Refusal, RefusalKind};
pub use shape::{shape, shared_by_shape};
pub use statement::{
    Access, Class, ColumnPath, CopyDirection, CopyFormat, CopyPlan, Flag, Knobs, MaskKind, MaskedColumn,
    NameOp, OutColumn, Output, Partial, Predicate, RelName, Reshapes, Rule, Statement, TransactionOp, Verb,
};
pub use view::{Origin, View};

/// The scan in front of the parser, for the fuzzer in fuzz/: what it refuses, and it never panics.
///
/// # Errors
/// When the text is too much to analyse.
#[cfg(fuzzing)]
pub fn scan(sql: &str, junk_numbers: bool) -> Result<(), Refusal> {
    lexer::scan(sql, junk_numbers).map_err(|refusal| *refusal)
}
