//! What the server has: relations, columns, inheritance, views, and which functions, operators and types are not its
//! own. Knows nothing of labels or principals; immutable once built, so that any number of views can share one.

mod build;
mod builtins;
mod family;
mod queries;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

pub use build::{CatalogError, Rows};
pub(crate) use builtins::{Builtin, MASKED_SYSTEM_COLUMNS};
pub use family::Spot;
pub use queries::{CatalogQuery, QUERIES};

use crate::statement::{ColumnPath, RelName};

/// Index of a relation in [`Catalog`].
pub(crate) type RelId = u32;

/// A server's catalogue at one moment.
#[derive(Debug, Default)]
pub struct Catalog {
    pub(crate) version: u32,
    /// Names are in UTF-8 in the database itself.
    pub(crate) utf8: bool,
    pub(crate) schemas: Vec<Schema>,
    pub(crate) schema_ids: HashMap<Box<str>, usize>,
    /// Schemas that unqualified names are looked up in, `pg_catalog` first unless the path says otherwise: those that a session
    /// has which logs in now.
    pub(crate) path: Vec<usize>,
    /// The same as it was given.
    search_path: Vec<String>,
    /// Schemas in which the account may look names up. The others of a path are passed over.
    usable: HashSet<Box<str>>,
    /// The path view definitions are printed for.
    pub(crate) builtin_path: Vec<usize>,
    pub(crate) relations: Vec<Relation>,
    pub(crate) by_oid: HashMap<u32, RelId>,
    pub(crate) functions: HashMap<Box<str>, Function>,
    pub(crate) operators: HashMap<Box<str>, Names>,
    pub(crate) types: HashMap<Box<str>, Vec<Type>>,
    /// By OID: (base type if a domain, name).
    pub(crate) type_oids: HashMap<u32, TypeInfo>,
}

#[derive(Debug)]
pub(crate) struct Schema {
    pub(crate) name: Arc<str>,
    pub(crate) relations: HashMap<Arc<str>, RelId>,
    /// The tables of its indexes, by the names of these.
    pub(crate) indexes: HashMap<Box<str>, RelId>,
}

#[derive(Debug)]
pub(crate) struct Relation {
    pub(crate) schema: Arc<str>,
    pub(crate) name: Arc<str>,
    pub(crate) oid: u32,
    pub(crate) kind: RelKind,
    pub(crate) columns: Columns,
    pub(crate) related: Vec<RelId>,
    pub(crate) foreign_keys: Vec<ForeignKey>,
    pub(crate) uniques: Vec<Unique>,
    /// What else shows something of a value that is written.
    pub(crate) telling: Vec<Telling>,
    /// Numbers of columns that the server looks at together when a row is written.
    pub(crate) together: Vec<Vec<i16>>,
    /// Columns that take their numbers from this sequence.
    pub(crate) numbers: Vec<(RelId, i16)>,
    /// Rewrite rules beyond a view's own.
    pub(crate) has_rules: bool,
    pub(crate) has_triggers: bool,
    /// Making one of its indexes, or its statistics, runs code of the database's own.
    pub(crate) runs_code: bool,
    /// Text of a user's view or materialised view.
    pub(crate) definition: Option<Box<str>>,
    pub(crate) system: System,
}

/// Columns of a relation in order, dropped ones left out.
#[derive(Debug, Default)]
pub(crate) struct Columns {
    pub(crate) list: Vec<Column>,
    /// Filled for wide relations only.
    index: HashMap<Arc<str>, usize>,
}

#[derive(Debug)]
pub(crate) struct Column {
    pub(crate) name: Arc<str>,
    pub(crate) number: i16,
    pub(crate) type_oid: u32,
    /// The expression of a generated column.
    pub(crate) generated: Option<Box<str>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RelKind {
    Table,
    View,
    Other,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum System {
    /// A relation of the database's own.
    No,
    Served,
    Unserved,
}

#[derive(Debug)]
pub(crate) struct ForeignKey {
    pub(crate) to: RelId,
    /// Pairs of (referencing, referenced) column numbers.
    pub(crate) columns: Vec<(i16, i16)>,
    /// Deleting a referenced row deletes those that refer to it.
    pub(crate) cascades: bool,
}

#[derive(Debug)]
pub(crate) struct Unique {
    pub(crate) columns: Vec<i16>,
    /// Has expressions or a predicate: any column may be part of it.
    pub(crate) opaque: bool,
}

#[derive(Debug)]
pub(crate) enum Telling {
    /// Whether an UPDATE changed these columns; 0 for any.
    Changed { columns: Vec<i16> },
    /// Rows may come in the order of these columns; where `alone`, nothing of them but the values that order them.
    Ordered { columns: Vec<i16>, alone: bool },
}

/// All functions of one name.
#[derive(Debug, Default)]
pub(crate) struct Function {
    pub(crate) builtin: Option<Builtin>,
    /// Schemas other than `pg_catalog` that have the name, and whether every overload there is trusted.
    pub(crate) others: Vec<(Box<str>, bool)>,
    pub(crate) shape: Shape,
}

/// What a function gives in FROM.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum Shape {
    #[default]
    Scalar,
    Columns(Vec<Box<str>>),
    /// A composite, or overloads that differ.
    Unknown,
}

/// All operators of one name.
#[derive(Debug, Default)]
pub(crate) struct Names {
    pub(crate) builtin: bool,
    pub(crate) others: Vec<(Box<str>, bool)>,
}

#[derive(Debug)]
pub(crate) struct Type {
    pub(crate) schema: usize,
    /// Runs a function of the database's own when something is cast to it.
    pub(crate) opaque: bool,
}

#[derive(Debug)]
pub(crate) struct TypeInfo {
    pub(crate) base: Option<u32>,
    pub(crate) citext: bool,
}

impl Catalog {
    /// Every column of every table and view, in order; system relations left out.
    pub fn columns(&self) -> impl Iterator<Item = ColumnPath> + '_ {
        let own = self.relations.iter().filter(|relation| relation.system == System::No);
        own.flat_map(|relation| {
            relation.columns.list.iter().map(|column| ColumnPath {
                schema: Arc::clone(&relation.schema),
                table: Arc::clone(&relation.name),
                column: Arc::clone(&column.name),
            })
        })
    }

    /// The schemas that a session has on its path which logs in now. Another one keeps those of its own login.
    pub fn search_path(&self) -> &[String] {
        &self.search_path
    }

    /// A path of these schemas, as the server follows it.
    pub(crate) fn path_of(&self, search_path: &[String]) -> Vec<usize> {
        let named =
            search_path.iter().filter(|name| *name != "pg_temp" && self.usable.contains(name.as_str()));
        let mut path: Vec<usize> =
            named.filter_map(|name| self.schema_ids.get(name.as_str()).copied()).collect();
        let builtin = self.builtin_path.first().copied();
        if let Some(builtin) = builtin.filter(|builtin| !path.contains(builtin)) {
            path.insert(0, builtin);
        }
        path
    }

    /// The relation a statement means by this name.
    pub fn resolve(&self, schema: Option<&str>, table: &str) -> Option<RelName> {
        let id = self.lookup(schema, table, &self.path)?;
        self.relation(id).map(Relation::rel_name)
    }

    /// The relation with this OID, as RowDescription names it.
    pub fn resolve_oid(&self, oid: u32) -> Option<RelName> {
        self.by_oid.get(&oid).and_then(|id| self.relation(*id)).map(Relation::rel_name)
    }

    /// The column with this number of the relation with this OID, as RowDescription names them.
    pub fn column_at(&self, oid: u32, number: i16) -> Option<ColumnPath> {
        let relation = self.by_oid.get(&oid).and_then(|id| self.relation(*id))?;
        let column = relation.columns.list.iter().find(|column| column.number == number)?;
        let (schema, table) = (Arc::clone(&relation.schema), Arc::clone(&relation.name));
        Some(ColumnPath { schema, table, column: Arc::clone(&column.name) })
    }

    /// Whether `***` is a value of the type in text and in binary. JSON, XML, arrays and `"char"` are not.
    pub fn is_text_like(&self, oid: u32) -> bool {
        matches!(oid, 25 | 1043 | 1042 | 19) || self.type_oids.get(&oid).is_some_and(|info| info.citext)
    }

    pub(crate) fn relation(&self, id: RelId) -> Option<&Relation> {
        self.relations.get(id as usize)
    }

    pub(crate) fn lookup(&self, schema: Option<&str>, table: &str, path: &[usize]) -> Option<RelId> {
        let find = |schema: &Schema| schema.relations.get(table).copied();
        match schema {
            Some(schema) => self.schema_ids.get(schema).and_then(|id| self.schemas.get(*id)).and_then(find),
            None => path.iter().find_map(|id| self.schemas.get(*id).and_then(find)),
        }
    }

    /// The table of the index that is meant by this name.
    pub(crate) fn indexed(&self, schema: Option<&str>, name: &str, path: &[usize]) -> Option<RelId> {
        let named = schema.map(|schema| self.schema_ids.get(schema).copied());
        let ids = named.map_or_else(|| path.to_vec(), |id| id.into_iter().collect());
        let mut schemas = ids.into_iter().filter_map(|id| self.schemas.get(id));
        // Indexes and other relations share their names: what comes first on the path is meant.
        let meant = schemas
            .find(|schema| schema.relations.contains_key(name) || schema.indexes.contains_key(name))?;
        meant.indexes.get(name).copied()
    }

    /// The schema a new relation would go to.
    pub(crate) fn creation_schema(&self, path: &[usize]) -> Option<&Arc<str>> {
        let own = path.iter().filter_map(|id| self.schemas.get(*id));
        own.map(|schema| &schema.name).find(|name| &***name != "pg_catalog")
    }

    /// The type under a domain, or the type itself.
    pub(crate) fn base_type(&self, oid: u32) -> u32 {
        let mut oid = oid;
        for _ in 0..32 {
            match self.type_oids.get(&oid).and_then(|info| info.base) {
                Some(base) => oid = base,
                None => break,
            }
        }
        oid
    }
}

impl Relation {
    pub(crate) fn rel_name(&self) -> RelName {
        RelName { schema: Arc::clone(&self.schema), table: Arc::clone(&self.name) }
    }
}

impl Columns {
    /// Below this a walk is faster than a hash.
    const WIDE: usize = 12;

    pub(crate) fn new(list: Vec<Column>) -> Self {
        let mut index = HashMap::new();
        if list.len() > Self::WIDE {
            index.extend(list.iter().enumerate().map(|(at, column)| (Arc::clone(&column.name), at)));
        }
        Self { list, index }
    }

    pub(crate) fn position(&self, name: &str) -> Option<usize> {
        if self.list.len() > Self::WIDE {
            return self.index.get(name).copied();
        }
        self.list.iter().position(|column| &*column.name == name)
    }

    pub(crate) fn position_of_number(&self, number: i16) -> Option<usize> {
        self.list.iter().position(|column| column.number == number)
    }
}
