//! Sequences that number a masked column: what one counted to last is a value of that column.

use std::sync::Arc;

use super::View;
use crate::catalog::RelId;
use crate::statement::{ColumnPath, MaskKind};

/// Where the server shows how far every sequence is.
const SHOWN: (&str, &str, &str) = ("pg_catalog", "pg_sequences", "last_value");

impl View {
    /// Masks what sequences say of themselves.
    pub(super) fn mark_sequences(&mut self) {
        let catalog = Arc::clone(&self.catalog);
        let mut any: Option<ColumnPath> = None;
        for (sequence, id) in catalog.relations.iter().zip(0..) {
            let masked = sequence.numbers.iter().find_map(|(table, number)| {
                let position = catalog.relation(*table)?.columns.position_of_number(*number)?;
                self.mask_at(*table, position)
            });
            let Some(mask) = masked else { continue };
            for position in 0..sequence.columns.list.len() {
                self.taint(id, position, &mask.path, MaskKind::Redact.into());
            }
            any.get_or_insert_with(|| mask.path.clone());
        }
        let Some(path) = any else { return };
        let (schema, table, column) = SHOWN;
        let shown = catalog.lookup(Some(schema), table, &[]);
        let position = shown.and_then(|id| catalog.relation(id)?.columns.position(column));
        if let Some((id, position)) = shown.zip(position) {
            self.taint(id, position, &path, MaskKind::Redact.into());
        }
        self.numbered = Some(path);
    }

    /// A masked column that some sequence numbers.
    pub(crate) fn numbered(&self) -> Option<&ColumnPath> {
        self.numbered.as_ref()
    }

    /// Whether the sequence numbers no masked column.
    pub(crate) fn is_plain_sequence(&self, id: RelId) -> bool {
        let relation = self.catalog.relation(id).is_some_and(|relation| !relation.columns.list.is_empty());
        relation && self.rel_mask(id).is_none_or(|mask| mask.taints.iter().all(Option::is_none))
    }
}
