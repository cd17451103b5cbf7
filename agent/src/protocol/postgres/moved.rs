//! Labelled tables that were renamed or moved beside the agent. A label names a table; what it protects is the table that
//! was called so, wherever that is now, and the one that is called so instead.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

use chaperone_sql::{Catalog, ColumnPath, RelName};

/// Tables of one name, one after another, that are remembered.
const MAX: usize = 64;

/// The tables that had the name of a label since the agent started, by their OIDs.
#[derive(Debug, Default)]
pub(super) struct Moved {
    known: Mutex<BTreeMap<RelName, Tables>>,
}

#[derive(Debug, Default)]
struct Tables {
    oids: BTreeSet<u32>,
    /// Those of which was said that they have another name.
    told: BTreeSet<u32>,
}

impl Moved {
    /// Where else a labelled column is: in the tables that had the label's name in an earlier reading and have another one in
    /// this.
    pub(super) fn elsewhere(&self, catalog: &Catalog, label: &ColumnPath) -> Vec<ColumnPath> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let name = RelName { schema: label.schema.clone(), table: label.table.clone() };
        let now = catalog.oid(&label.schema, &label.table);
        let Tables { oids, told } = known.entry(name).or_default();
        let others = oids.iter().filter(|oid| Some(**oid) != now);
        let found: Vec<(u32, RelName)> =
            others.filter_map(|oid| Some((*oid, catalog.resolve_oid(*oid)?))).collect();
        oids.extend(now);
        if oids.len() > MAX {
            oids.pop_first();
        }
        let elsewhere = found.into_iter().map(|(oid, table)| {
            if told.insert(oid) {
                tracing::warn!(
                    label = %label, table = %table,
                    "a labelled table has another name now; it stays masked until the agent ends: correct the label"
                );
            }
            ColumnPath { schema: table.schema, table: table.table, column: label.column.clone() }
        });
        elsewhere.collect()
    }
}
