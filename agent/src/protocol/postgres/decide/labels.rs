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
        let place = format!("{}/{}", self.backend.target.name, self.database_name);
        for label in &self.backend.target.labels {
            if !label.may_be_in(&self.database_name) {
                continue;
            }
            let path = label.path();
            let tags: Vec<&str> = label.tags.iter().map(String::as_str).collect();
            let column = self.database.column(&label.schema, &label.table, &label.column, &tags);
            let moved = self.snapshot.elsewhere.get(&path).into_iter().flatten().cloned();
            labelled.insert(path.clone(), Rule { kind: MaskKind::Redact, knobs: label.knobs });
            let shown = self.policies.set.unmask(&self.principal, &column);
            elsewhere.extend(moved.map(|moved| (moved, shown, label.knobs)));
            if !shown {
                let (kind, change) = self.maskers.pseudonyms.style(&label.mask, &place, &path);
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
        self.view = Arc::new(view.on_path(&self.path));
        self.labelled = self
            .masks_detected()
            .then(|| Arc::new(View::with_rules(Arc::clone(&self.snapshot.catalog), &labelled)));
        Ok(())
    }

    /// A label may speak of a table that another database has; but when the table is here, or the label names this
    /// database, a missing column is one that was renamed or mistyped, and would be served in clear. Unless it is known
    /// what its name is now: in that table, or where the table went.
    fn must_match(&self, path: &ColumnPath) -> bool {
        let moved = self.snapshot.elsewhere.get(path).map(Vec::as_slice).unwrap_or_default();
        if self.snapshot.catalog.resolve(Some(&path.schema), &path.table).is_some() {
            return !moved.iter().any(|moved| (&moved.schema, &moved.table) == (&path.schema, &path.table));
        }
        moved.is_empty()
            && self
                .backend
                .target
                .labels
                .iter()
                .any(|label| label.database.as_ref() == Some(&self.database_name) && label.path() == *path)
    }
}
