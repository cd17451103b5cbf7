//! The plans of texts that a session sent before, and of texts that differ from those only in values that decide nothing.

use std::collections::HashMap;
use std::sync::Arc;

use crate::protocol::postgres::plan::{Plan, Verdict, Version};

/// Texts longer than this are decided each time, not kept.
const TEXT_MAX: usize = 16 << 10;

/// Most texts, and most shapes, kept per session.
const MAX: usize = 1024;

#[derive(Default)]
pub(super) struct Plans {
    texts: HashMap<Arc<str>, Arc<Plan>>,
    shapes: HashMap<Box<str>, Arc<Plan>>,
    /// The shape of the text that was looked for last; room that is used again.
    shape: String,
    has_shape: bool,
}

impl Plans {
    /// The plan of `text`, if it was made under this very policy and catalogue.
    pub(super) fn find(&mut self, text: &str, version: Version) -> Option<Arc<Plan>> {
        self.has_shape = text.len() <= TEXT_MAX && chaperone_sql::shape(text, &mut self.shape);
        let by_shape = if self.has_shape { self.shapes.get(self.shape.as_str()) } else { None };
        let plan = by_shape.filter(|plan| plan.version == version).or_else(|| {
            // What was not permitted is kept by its text.
            self.texts.get(text).filter(|plan| plan.version == version)
        });
        plan.map(Arc::clone)
    }

    /// Keeps the plan of the text that was looked for last.
    pub(super) fn keep(&mut self, text: &Arc<str>, plan: &Arc<Plan>) {
        // Approvals, and what a client is told of a denial, speak of one text.
        let for_all = plan.verdict == Verdict::Permit && chaperone_sql::shared_by_shape(&plan.analysis);
        if self.has_shape && for_all {
            if self.shapes.len() >= MAX {
                self.shapes.clear();
            }
            self.shapes.insert(self.shape.as_str().into(), Arc::clone(plan));
        } else if text.len() <= TEXT_MAX {
            if self.texts.len() >= MAX {
                self.texts.clear();
            }
            self.texts.insert(Arc::clone(text), Arc::clone(plan));
        }
    }

    pub(super) fn clear(&mut self) {
        self.texts.clear();
        self.shapes.clear();
    }
}
