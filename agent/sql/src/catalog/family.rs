//! Columns by what outlives their names, and the columns that hold the same rows.

use std::collections::HashSet;
use std::sync::Arc;

use super::{Catalog, RelId, Relation};
use crate::statement::ColumnPath;

/// A column of a relation, by what stays when either is renamed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spot {
    pub oid: u32,
    pub number: i16,
    /// What it is called now.
    pub path: ColumnPath,
}

impl Catalog {
    /// The column of that name.
    pub fn spot(&self, path: &ColumnPath) -> Option<Spot> {
        let id = self.lookup(Some(&path.schema), &path.table, &[])?;
        self.relation(id)?.spot(&path.column)
    }

    /// The column of that name and, behind it, those of the tables that its table inherits with, both ways; nothing when
    /// there is no such column.
    pub fn family(&self, path: &ColumnPath) -> Vec<Spot> {
        let mut todo: Vec<RelId> = self.lookup(Some(&path.schema), &path.table, &[]).into_iter().collect();
        let mut seen: HashSet<RelId> = todo.iter().copied().collect();
        let mut found = Vec::new();
        while let Some(relation) = todo.pop().and_then(|id| self.relation(id)) {
            let Some(spot) = relation.spot(&path.column) else { continue };
            found.push(spot);
            todo.extend(relation.related.iter().filter(|relative| seen.insert(**relative)));
        }
        found
    }
}

impl Relation {
    fn spot(&self, column: &str) -> Option<Spot> {
        let column = self.columns.position(column).and_then(|at| self.columns.list.get(at))?;
        let (schema, table) = (Arc::clone(&self.schema), Arc::clone(&self.name));
        let path = ColumnPath { schema, table, column: Arc::clone(&column.name) };
        Some(Spot { oid: self.oid, number: column.number, path })
    }
}
