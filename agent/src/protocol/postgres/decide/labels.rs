//! Labels, policy and catalogue put together: which columns are masked for the session's principal, and how.

use std::collections::BTreeMap;
use std::sync::Arc;

use chaperone_sql::{ColumnPath, MaskKind, Rule, View};

use super::Decider;
use crate::protocol::postgres::response::{Report, sqlstate};

impl Decider {
    /// Works out which columns are masked for this principal: labelled, and no policy permits to unmask.
    pub(super) fn rebuild(&mut self) -> Result<(), Report> {
        let (mut masked, mut labelled) = (BTreeMap::new(), BTreeMap::new());
        let mut elsewhere = Vec::new();
        self.maskers.changes.clear();
        for label in &self.backend.target.labels {
            if label.database.as_ref().is_some_and(|database| *database != self.database_name) {
                continue;
            }
            let path = ColumnPath {
                schema: label.schema.as_str().into(),
                table: label.table.as_str().into(),
                column: label.column.as_str().into(),
            };
            let tags: Vec<&str> = label.tags.iter().map(String::as_str).collect();
            let column = self.database.column(&label.schema, &label.table, &label.column, &tags);
            let moved = self.catalogue.moved.elsewhere(&self.snapshot.catalog, &path);
            labelled.insert(path.clone(), Rule { kind: MaskKind::Redact, knobs: label.knobs });
            let shown = self.policies.set.unmask(&self.principal, &column);
            elsewhere.extend(moved.into_iter().map(|moved| (moved, shown, label.knobs)));
            if !shown {
                let (kind, change) = self.maskers.pseudonyms.style(&label.mask, &path);
                if let Some(change) = change {
                    self.maskers.changes.insert(path.clone(), change);
                }
                masked.insert(path, Rule { kind, knobs: label.knobs });
            }
        }
        // A label of its own says more of a column than the one that it had.
        for (path, shown, knobs) in elsewhere {
            let rule = Rule { kind: MaskKind::Redact, knobs };
            if !labelled.contains_key(&path) {
                labelled.insert(path.clone(), rule);
                if !shown {
                    masked.insert(path, rule);
                }
            }
        }
        let view = View::with_rules(Arc::clone(&self.snapshot.catalog), &masked).keeping(labelled.keys());
        if let Some(path) = view.unmatched().iter().find(|path| self.must_match(path)) {
            let what = format!("column {path} is labelled, and database \"{}\" has none", self.database_name);
            return Err(Report::new(sqlstate::INVALID_AUTHORIZATION, what).hint(
                "A mask that can never match is refused; correct the label in the agent's configuration.",
            ));
        }
        self.view = Arc::new(view);
        self.labelled = self
            .masks_detected()
            .then(|| Arc::new(View::with_rules(Arc::clone(&self.snapshot.catalog), &labelled)));
        Ok(())
    }

    /// A label may speak of a table that another database has; but when the table is here, or the label names this
    /// database, a missing column is one that was renamed or mistyped, and would be served in clear.
    fn must_match(&self, path: &ColumnPath) -> bool {
        let here = self.snapshot.catalog.resolve(Some(&path.schema), &path.table).is_some();
        here || self.backend.target.labels.iter().any(|label| {
            label.database.as_ref() == Some(&self.database_name)
                && (label.schema.as_str(), label.table.as_str(), label.column.as_str())
                    == (&*path.schema, &*path.table, &*path.column)
        })
    }
}
