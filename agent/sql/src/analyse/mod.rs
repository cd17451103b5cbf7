//! Follows masked columns through a statement. Owns the walk and its limits; the rules of each construct live in the
//! modules below, named after the part of the grammar they read.
//!
//! The walk mirrors the server's own parse analysis (`parse_clause.c`, `parse_relation.c`, `parse_target.c`): the same
//! levels, the same visibility of FROM items, the same choice between output names and input columns. Where it cannot
//! follow, it refuses.

mod alter;
mod call;
mod copy;
mod define;
mod dispatch;
mod dml;
mod expr;
mod figure;
mod from;
mod join;
mod json;
mod knobs;
mod query;
mod scope;
mod settings;
mod sort;
mod ties;
mod upkeep;
mod utility;
mod with;

use std::collections::BTreeSet;

use pg_raw_parse::Node;
use pg_raw_parse::nodes::SelectStmt;

use crate::catalog::{Catalog, RelId, System};
use crate::lexer;
use crate::parse::{self, guarded};
use crate::refusal::{How, Refusal, Res};
use crate::statement::{Access, Flag, RelName, Reshapes, Statement, Verb};
use crate::view::View;

use scope::{Level, OutRows};
pub use settings::may_set_at_login;

/// Which mask a value carries, if any: an index into the masks of the view.
pub(crate) type Taint = Option<u32>;

/// Nested calls of the walk. Generous for people, far below what a 32 MiB stack holds.
const MAX_DEPTH: u32 = 2_500;
/// Columns looked at, names compared, nodes visited: bounds the time of one string.
const MAX_WORK: u32 = 4_000_000;
/// An output row of the server has at most 1,664 columns.
const MAX_COLUMNS: usize = 1_664;

/// Analyses every statement of the string. Nothing of a string may be forwarded before all of it passed.
///
/// # Errors
/// The first statement that cannot be served soundly refuses the string.
pub fn analyse(sql: &str, view: &View) -> Result<Vec<Statement>, Refusal> {
    guarded(|| {
        scan(sql, view)?;
        let tree = parse::parse(sql)?;
        dispatch::statements(&tree, sql.len(), view)
    })
    .map_err(|refusal| *refusal)
}

fn scan(sql: &str, view: &View) -> Res<()> {
    lexer::scan(sql, view.catalog().version < 160_000)?;
    if view.catalog().utf8 || view.is_clear() { Ok(()) } else { lexer::scan_names(sql) }
}

/// What a view's definition, or a generated column's expression, gives.
pub(crate) struct Definition {
    pub(crate) taints: Vec<Taint>,
    pub(crate) strict: bool,
    /// Which rows there are, or their order, depends on masked values.
    pub(crate) implicit: bool,
    /// The relations it reads.
    pub(crate) reads: Vec<RelName>,
}

/// Analyses one SELECT as printed by the server with only `pg_catalog` on the search path. A definition is fixed by its
/// author, so computing on masked columns is no refusal here: the column that results is as masked as they are.
pub(crate) fn definition(sql: &str, view: &View) -> Res<Definition> {
    guarded(|| {
        scan(sql, view)?;
        let tree = parse::parse(sql)?;
        let mut statements = tree.statements();
        let (Some(first), None) = (statements.next(), statements.next()) else {
            return Err(Refusal::unsupported("this definition"));
        };
        let Node::SelectStmt(select) = first.node else {
            return Err(Refusal::unsupported("this definition"));
        };
        let mut analyser = Analyser::new(view, &view.catalog().builtin_path);
        analyser.lenient = true;
        let rows = analyser.select(select)?;
        if rows.open {
            return Err(Refusal::unsupported("this definition"));
        }
        let taints = rows.fields.iter().map(|field| field.taint).collect();
        let reads = analyser.accesses.into_iter().filter_map(|access| access.relation).collect();
        Ok(Definition { taints, strict: analyser.strict, implicit: analyser.implicit, reads })
    })
}

/// The state of one statement's analysis.
pub(crate) struct Analyser<'a> {
    view: &'a View,
    catalog: &'a Catalog,
    path: &'a [usize],
    levels: Vec<Level<'a>>,
    accesses: Vec<Access>,
    flags: BTreeSet<Flag>,
    strict: bool,
    reshapes: Reshapes,
    /// A setting that gives values their meaning.
    sets: bool,
    /// The one SELECT that may have an INTO clause: the statement itself.
    into_allowed: Option<&'a SelectStmt>,
    /// Set while the definition of a view is followed: masked values may be used, and what depends on them is noted.
    lenient: bool,
    /// What the expression being followed depends on.
    derived: Taint,
    /// The rows themselves depend on a masked value.
    implicit: bool,
    depth: u32,
    work: u32,
    /// Column references met so far.
    columns: u32,
    /// The last one met is a column of a table itself.
    direct: bool,
}

impl<'a> Analyser<'a> {
    fn new(view: &'a View, path: &'a [usize]) -> Self {
        Self {
            view,
            catalog: view.catalog(),
            path,
            levels: Vec::new(),
            accesses: Vec::new(),
            flags: BTreeSet::new(),
            strict: false,
            reshapes: Reshapes::Nothing,
            sets: false,
            into_allowed: None,
            lenient: false,
            derived: None,
            implicit: false,
            depth: 0,
            work: 0,
            columns: 0,
            direct: false,
        }
    }

    /// Runs `inner` one level of recursion deeper.
    fn deeper<T>(&mut self, inner: impl FnOnce(&mut Self) -> Res<T>) -> Res<T> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(Refusal::complex("nested too deeply"));
        }
        let result = inner(self);
        self.depth -= 1;
        result
    }

    fn spend(&mut self, work: usize) -> Res<()> {
        self.work = self.work.saturating_add(u32::try_from(work).unwrap_or(u32::MAX));
        if self.work > MAX_WORK {
            return Err(Refusal::complex("too many columns and names"));
        }
        Ok(())
    }

    /// Runs `inner` in a query level of its own.
    fn nested<T>(&mut self, inner: impl FnOnce(&mut Self) -> Res<T>) -> Res<T> {
        self.deeper(|this| {
            this.levels.push(Level::default());
            let result = inner(this);
            this.levels.pop();
            result
        })
    }

    fn clear(&self) -> bool {
        self.view.is_clear()
    }

    fn access(&mut self, action: Verb, relation: Option<RelName>) {
        let access = Access { action, relation };
        if !self.accesses.contains(&access) {
            self.accesses.push(access);
        }
    }

    /// Notes that the statement reads the relation.
    fn touch(&mut self, id: RelId, verb: Verb) -> Res<()> {
        self.spend(1 + self.accesses.len())?;
        if self.view.is_pending(id) {
            return Err(Refusal::pending(id));
        }
        let Some(relation) = self.catalog.relation(id) else {
            return Err(Refusal::unsupported("this relation"));
        };
        if relation.system == System::Unserved && !self.clear() {
            return Err(Refusal::unserved(relation.rel_name().to_string()));
        }
        let mask = self.view.rel_mask(id);
        if mask.is_some_and(|mask| mask.opaque) {
            return Err(Refusal::view(relation.rel_name().to_string()));
        }
        if mask.is_some_and(|mask| mask.strict) {
            self.strict = true;
        }
        self.access(verb, Some(relation.rel_name()));
        Ok(())
    }

    /// Notes that the statement writes to the relation.
    fn touch_write(&mut self, id: RelId, verb: Verb) -> Res<()> {
        self.touch(id, verb)?;
        if self.view.rel_mask(id).is_some_and(|mask| mask.strict_write) {
            self.strict = true;
        }
        let rules = self.catalog.relation(id).is_some_and(|relation| relation.has_rules);
        if rules && !self.clear() {
            return Err(Refusal::unsupported("writing to a relation with rewrite rules"));
        }
        Ok(())
    }

    fn labelled(&self, taint: u32, how: How) -> Box<Refusal> {
        let column = self.view.mask(taint).map(|mask| mask.path.to_string()).unwrap_or_default();
        Refusal::labelled(column, how)
    }

    /// Refuses if the value is masked; in a definition, notes what depends on it.
    fn require_clean(&mut self, taint: Taint, how: How) -> Res<()> {
        match taint {
            Some(_) if self.lenient => {
                self.derived = self.join_taints(self.derived, taint);
                self.implicit |= !how.is_value();
                Ok(())
            }
            Some(taint) => Err(self.labelled(taint, how)),
            None => Ok(()),
        }
    }

    fn require_clean_rows(&mut self, rows: &OutRows<'a>, how: How) -> Res<()> {
        rows.fields.iter().try_for_each(|field| self.require_clean(field.taint, how))
    }

    /// The mask of a column that has rows of two origins: the stricter, or none of either is seen where one's mask would
    /// show more of the other.
    fn meet(&self, left: Taint, right: Taint) -> Taint {
        let mask = |taint: Taint| taint.and_then(|taint| self.view.mask(taint));
        let fits = match (mask(left), mask(right)) {
            (Some(left), Some(right)) => left.may_stand_for(right),
            (Some(mask), None) | (None, Some(mask)) => mask.may_be_tried(),
            (None, None) => true,
        };
        let joined = self.join_taints(left, right);
        if fits { joined } else { joined.map(|taint| self.view.whole(taint)) }
    }

    /// The stricter mask of what is computed from two values.
    fn join_taints(&self, left: Taint, right: Taint) -> Taint {
        let (Some(a), Some(b)) = (left, right) else { return left.or(right) };
        let strictness = |taint| self.view.mask(taint).map_or(u8::MAX, |mask| mask.strictness());
        if strictness(b) > strictness(a) { Some(b) } else { Some(a) }
    }
}
