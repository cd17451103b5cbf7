//! A catalogue as one principal sees it: which columns are masked, carried from the labelled columns to inheritance
//! children and parents, partitions, generated columns, views and materialised views. Immutable once built.

mod oracles;
mod sequences;
mod ties;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt::Write as _;
use std::sync::Arc;

use crate::analyse::{self, Taint};
use crate::catalog::{Catalog, MASKED_SYSTEM_COLUMNS, RelId, RelKind, Relation, System};
use crate::refusal::{How, RefusalKind};
use crate::statement::{ColumnPath, Knobs, MaskKind, MaskedColumn, Rule};

/// The masks of one principal over one catalogue.
#[derive(Debug)]
pub struct View {
    catalog: Arc<Catalog>,
    /// What names without a schema mean.
    path: Vec<usize>,
    masks: Vec<Arc<MaskedColumn>>,
    relations: HashMap<RelId, RelMask>,
    /// Views not analysed yet; empty once built.
    pending: HashSet<RelId>,
    unmatched: Vec<ColumnPath>,
    /// What views read.
    reads: HashMap<RelId, Vec<RelId>>,
    /// Columns that have a label, whether it masks them for this principal or not, by position.
    kept: HashSet<(RelId, usize)>,
    /// A masked column that a sequence numbers.
    numbered: Option<ColumnPath>,
}

/// What is special about one relation for this principal.
#[derive(Debug, Default)]
pub(crate) struct RelMask {
    /// By position; empty when no column is masked.
    pub(crate) taints: Vec<Taint>,
    /// A view that is not served: its rows depend on masked values, or it was not understood.
    pub(crate) opaque: bool,
    /// Masked columns are involved in reading it, if only in the definition of a view.
    pub(crate) strict: bool,
    /// Errors of a write may show rows of a relation with masked columns.
    pub(crate) strict_write: bool,
    /// By position: how writing the column tells which values exist.
    pub(crate) oracles: Vec<Option<How>>,
    /// By position: whether an UPDATE changes the column is told.
    pub(crate) watched: Vec<bool>,
    /// Positions of columns that are checked together, masked ones among them.
    pub(crate) together: Vec<Vec<usize>>,
    /// Positions of which an UPDATE tells which values a masked column has, and that column.
    pub(crate) referred: Vec<(usize, ColumnPath)>,
    /// Deleting rows tells which values this masked column has.
    pub(crate) delete_tells: Option<ColumnPath>,
    /// So does an UPDATE of any column: a view of such a table.
    pub(crate) update_tells: Option<ColumnPath>,
}

/// Where a result column comes from, as RowDescription says it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    Clean,
    Masked(Arc<MaskedColumn>),
    /// A whole row of a relation that has masked columns: never to be sent.
    LabelledWholeRow,
}

impl View {
    /// `masked` is what labels say less what the principal may unmask. Paths that match no column are kept in
    /// [`View::unmatched`]: a column may have been renamed, so the caller should treat them as a failure to protect.
    pub fn build(catalog: Arc<Catalog>, masked: &BTreeMap<ColumnPath, MaskKind>) -> Self {
        let rules = masked.iter().map(|(path, kind)| (path.clone(), Rule::from(*kind))).collect();
        Self::with_rules(catalog, &rules)
    }

    /// The same, with what may be done with the columns beside serving them masked.
    pub fn with_rules(catalog: Arc<Catalog>, masked: &BTreeMap<ColumnPath, Rule>) -> Self {
        let mut view = Self {
            path: catalog.path.clone(),
            catalog,
            masks: Vec::new(),
            relations: HashMap::new(),
            pending: HashSet::new(),
            unmatched: Vec::new(),
            reads: HashMap::new(),
            kept: HashSet::new(),
            numbered: None,
        };
        if masked.is_empty() {
            return view;
        }
        view.seed(masked);
        view.seed_system();
        view.spread();
        view.mark_sequences();
        view.definitions();
        view.mark_writes();
        view.mark_ties();
        view
    }

    /// Names the columns that have a label. For whom it masks nothing it still must not get lost by the way.
    #[must_use]
    pub fn keeping<'p>(mut self, labels: impl IntoIterator<Item = &'p ColumnPath>) -> Self {
        for path in labels {
            let id = self.catalog.lookup(Some(&path.schema), &path.table, &[]);
            let relation = id.and_then(|id| self.catalog.relation(id));
            let position = relation.and_then(|relation| relation.columns.position(&path.column));
            self.kept.extend(id.zip(position));
        }
        self
    }

    /// As a session sees it that has these schemas on its path: a server goes by the path of the session, not by what a
    /// new one would have.
    #[must_use]
    pub fn on_path(mut self, search_path: &[String]) -> Self {
        self.path = self.catalog.path_of(search_path);
        self
    }

    pub(crate) fn path(&self) -> &[usize] {
        &self.path
    }

    pub fn catalog(&self) -> &Arc<Catalog> {
        &self.catalog
    }

    /// Whether nothing at all is masked for this principal.
    pub fn is_clear(&self) -> bool {
        self.masks.is_empty()
    }

    /// Whether a relation of this name, in whatever schema, has masked columns or reads some.
    pub fn has_masked_namesake(&self, table: &str) -> bool {
        let masked = self.relations.iter().filter(|(_, mask)| mask.strict || mask.opaque);
        masked.filter_map(|(id, _)| self.catalog.relation(*id)).any(|relation| &*relation.name == table)
    }

    /// Labelled paths for which the catalogue has no column.
    pub fn unmatched(&self) -> &[ColumnPath] {
        &self.unmatched
    }

    /// For the cross-check of a RowDescription: what the column with this table OID and column number is.
    pub fn origin(&self, table_oid: u32, number: i16) -> Origin {
        let Some(id) = self.catalog.by_oid.get(&table_oid) else { return Origin::Clean };
        let (Some(relation), Some(mask)) = (self.catalog.relation(*id), self.relations.get(id)) else {
            return Origin::Clean;
        };
        if number == 0 && !mask.taints.is_empty() {
            return Origin::LabelledWholeRow;
        }
        let position = relation.columns.position_of_number(number);
        let taint = position.and_then(|at| mask.taints.get(at).copied().flatten());
        taint
            .and_then(|taint| self.mask(taint))
            .map_or(Origin::Clean, |mask| Origin::Masked(Arc::clone(mask)))
    }

    /// Every (table OID, column number) that is masked, views included.
    pub fn masked_origins(&self) -> impl Iterator<Item = (u32, i16, &Arc<MaskedColumn>)> {
        self.relations.iter().filter_map(|(id, mask)| Some((self.catalog.relation(*id)?, mask))).flat_map(
            |(relation, mask)| {
                let columns = relation.columns.list.iter().zip(&mask.taints);
                columns
                    .filter_map(|(column, taint)| Some((relation.oid, column.number, self.mask((*taint)?)?)))
            },
        )
    }

    /// The mask of what is computed from a column of that mask.
    pub(crate) fn whole(&self, id: u32) -> u32 {
        self.mask(id).and_then(|mask| mask.whole).unwrap_or(id)
    }

    pub(crate) fn mask(&self, id: u32) -> Option<&Arc<MaskedColumn>> {
        self.masks.get(id as usize)
    }

    pub(crate) fn rel_mask(&self, id: RelId) -> Option<&RelMask> {
        self.relations.get(&id)
    }

    /// The labelled column that this one is, or is masked for.
    pub(crate) fn label_of(&self, id: RelId, column: &str) -> Option<String> {
        let relation = self.catalog.relation(id)?;
        let position = relation.columns.position(column)?;
        match self.mask_at(id, position) {
            Some(mask) => Some(mask.path.to_string()),
            None => self.kept.contains(&(id, position)).then(|| column_path(relation, position).to_string()),
        }
    }

    /// A labelled column of the relation, or of one it inherits with.
    pub(crate) fn label_near(&self, id: RelId) -> Option<String> {
        self.kin(id).into_iter().find_map(|id| {
            let columns = &self.catalog.relation(id)?.columns.list;
            columns.iter().find_map(|column| self.label_of(id, &column.name))
        })
    }

    /// The label of the column of that name in the relation or in one it inherits with.
    pub(crate) fn label_in_kin(&self, id: RelId, column: &str) -> Option<String> {
        self.kin(id).into_iter().find_map(|id| self.label_of(id, column))
    }

    /// The label of a column, or of one in a relation that inherits it from this one or the other way round.
    pub(crate) fn label_along(&self, id: RelId, column: &str) -> Option<String> {
        let has = |id: &RelId| {
            self.catalog.relation(*id).is_some_and(|relation| relation.columns.position(column).is_some())
        };
        self.kin_with(id, has).into_iter().find_map(|id| self.label_of(id, column))
    }

    /// The relation and all it inherits with, both ways.
    pub(crate) fn kin(&self, id: RelId) -> Vec<RelId> {
        self.kin_with(id, |_| true)
    }

    fn kin_with(&self, id: RelId, has: impl Fn(&RelId) -> bool) -> Vec<RelId> {
        let mut list = vec![id];
        let mut seen = HashSet::from([id]);
        let mut next = 0;
        while let Some(relation) = list.get(next).and_then(|id| self.catalog.relation(*id)) {
            list.extend(relation.related.iter().filter(|relative| has(relative) && seen.insert(**relative)));
            next += 1;
        }
        list
    }

    pub(crate) fn is_pending(&self, id: RelId) -> bool {
        !self.pending.is_empty() && self.pending.contains(&id)
    }
}

/// Building.
impl View {
    fn seed(&mut self, masked: &BTreeMap<ColumnPath, Rule>) {
        let catalog = Arc::clone(&self.catalog);
        for (path, rule) in masked {
            let id = catalog.lookup(Some(&path.schema), &path.table, &[]);
            let position =
                id.and_then(|id| catalog.relation(id)).and_then(|rel| rel.columns.position(&path.column));
            match (id, position) {
                (Some(id), Some(position)) => {
                    self.taint(id, position, path, *rule);
                }
                _ => self.unmatched.push(path.clone()),
            }
        }
    }

    fn seed_system(&mut self) {
        let catalog = Arc::clone(&self.catalog);
        for (schema, table, column) in MASKED_SYSTEM_COLUMNS {
            let Some(id) = catalog.lookup(Some(schema), table, &[]) else { continue };
            let Some(relation) = catalog.relation(id) else { continue };
            if let Some(position) = relation.columns.position(column) {
                let path = column_path(relation, position);
                self.taint(id, position, &path, MaskKind::Redact.into());
            }
        }
    }

    /// Masks one column as coming from `path`. Where it is masked already the stricter holds, of the mask and of what is
    /// allowed. Returns whether anything changed.
    fn taint(&mut self, id: RelId, position: usize, path: &ColumnPath, rule: Rule) -> bool {
        let catalog = Arc::clone(&self.catalog);
        let Some(relation) = catalog.relation(id) else { return false };
        let Some(column) = relation.columns.list.get(position) else { return false };
        let entry = self.relations.entry(id).or_default();
        entry.strict = true;
        entry.taints.resize(relation.columns.list.len(), None);
        let Some(slot) = entry.taints.get_mut(position) else { return false };
        let number = u32::try_from(self.masks.len()).ok();
        let type_oid = catalog.base_type(column.type_oid);
        let text_like = catalog.is_text_like(type_oid);
        let Rule { kind, knobs } = rule;
        let whole = number.and_then(|number| number.checked_add(1));
        let mut mask = MaskedColumn { path: path.clone(), kind, knobs, whole, type_oid, text_like };
        if let Some(before) = slot.and_then(|before| self.masks.get(before as usize)) {
            if mask.kind != before.kind && mask.shows() && before.shows() {
                mask.kind = MaskKind::Redact;
            } else if mask.strictness() <= before.strictness() {
                mask.path.clone_from(&before.path);
                mask.kind = before.kind;
            }
            mask.knobs = mask.knobs.both(before.knobs);
            if mask.rule() == before.rule() {
                return false;
            }
        }
        *slot = number;
        let kind = mask.kind;
        // Of an expression over the column, a mask that shows part of a value could show another part.
        let kind = if kind == MaskKind::Redact { kind } else { MaskKind::Null };
        let derived = MaskedColumn { kind, knobs: Knobs::default(), whole: None, ..mask.clone() };
        self.masks.push(Arc::new(mask));
        self.masks.push(Arc::new(derived));
        true
    }

    /// To inheritance relatives both ways and to generated columns, until nothing changes.
    fn spread(&mut self) {
        let catalog = Arc::clone(&self.catalog);
        let mut todo: Vec<RelId> = self.relations.keys().copied().collect();
        while let Some(id) = todo.pop() {
            let Some(relation) = catalog.relation(id) else { continue };
            if self.spread_generated(id, relation) {
                todo.push(id);
            }
            for (position, column) in relation.columns.list.iter().enumerate() {
                let Some(mask) = self.mask_at(id, position) else { continue };
                for relative in &relation.related {
                    let columns = catalog.relation(*relative).map(|relative| &relative.columns);
                    let Some(there) = columns.and_then(|columns| columns.position(&column.name)) else {
                        continue;
                    };
                    if self.taint(*relative, there, &mask.path, mask.rule()) {
                        todo.push(*relative);
                    }
                }
            }
        }
    }

    fn mask_at(&self, id: RelId, position: usize) -> Option<Arc<MaskedColumn>> {
        let taint = self.relations.get(&id)?.taints.get(position).copied().flatten()?;
        self.mask(taint).cloned()
    }

    /// A generated column is clean only if its expression is served and reads no masked column.
    fn spread_generated(&mut self, id: RelId, relation: &Relation) -> bool {
        let source = (0..relation.columns.list.len()).find_map(|position| self.mask_at(id, position));
        let Some(source) = source else { return false };
        let mut changed = false;
        for (position, column) in relation.columns.list.iter().enumerate() {
            let Some(expression) = &column.generated else { continue };
            let text =
                format!("SELECT {expression} FROM {}.{}", quoted(&relation.schema), quoted(&relation.name));
            let clean = analyse::definition(&text, self);
            let clean = clean.is_ok_and(|out| !out.implicit && out.taints.iter().all(Option::is_none));
            if !clean {
                // Of an expression, a mask that shows part of a value could show another part.
                let kind = if source.kind == MaskKind::Redact { source.kind } else { MaskKind::Null };
                changed |= self.taint(id, position, &source.path, kind.into());
            }
        }
        changed
    }

    /// Analyses the user's views, each after those it reads.
    fn definitions(&mut self) {
        let catalog = Arc::clone(&self.catalog);
        let all = catalog.relations.iter().zip(0..);
        let views: Vec<RelId> = all
            .filter(|(rel, _)| rel.kind == RelKind::View && rel.system == System::No)
            .map(|(_, id)| id)
            .collect();
        self.pending = views.iter().copied().collect();
        for view in views {
            let mut stack = vec![view];
            while let Some(id) = stack.last().copied() {
                match self.definition(id, &stack) {
                    Some(needed) => stack.push(needed),
                    None => {
                        self.pending.remove(&id);
                        stack.pop();
                    }
                }
            }
        }
    }

    /// Analyses one view unless that is done. `Some` names the view to be analysed before.
    fn definition(&mut self, id: RelId, stack: &[RelId]) -> Option<RelId> {
        if !self.pending.contains(&id) {
            return None;
        }
        let catalog = Arc::clone(&self.catalog);
        let relation = catalog.relation(id)?;
        let columns = relation.columns.list.len();
        let result = match &relation.definition {
            Some(text) => analyse::definition(text, self).map_err(|refusal| refusal.kind),
            None => Err(RefusalKind::Syntax),
        };
        if let Ok(out) = &result {
            let reads =
                out.reads.iter().filter_map(|name| catalog.lookup(Some(&name.schema), &name.table, &[]));
            self.reads.insert(id, reads.collect());
        }
        match result {
            Ok(out) if out.taints.len() == columns && !out.implicit => {
                for (position, taint) in out.taints.iter().enumerate() {
                    if let Some(mask) = taint.and_then(|taint| self.mask(taint).cloned()) {
                        // A view may show it where its rows are others: there, nothing is allowed.
                        self.taint(id, position, &mask.path, mask.kind.into());
                    }
                }
                if out.strict {
                    self.relations.entry(id).or_default().strict = true;
                }
            }
            Err(RefusalKind::Pending(needed)) if !stack.contains(&needed) => return Some(needed),
            // Not understood, or its rows tell: nothing of it is served, and its columns count as masked elsewhere.
            Ok(_) | Err(_) => {
                self.relations.entry(id).or_default().opaque = true;
                for position in 0..columns {
                    self.taint(id, position, &column_path(relation, position), MaskKind::Redact.into());
                }
            }
        }
        None
    }

    /// Which relations tell something about masked values when they are written to.
    fn mark_writes(&mut self) {
        let catalog = Arc::clone(&self.catalog);
        let mut todo: Vec<RelId> =
            self.relations.iter().filter(|(_, mask)| mask.strict).map(|(id, _)| *id).collect();
        let mut referenced: HashMap<RelId, Vec<RelId>> = HashMap::new();
        for (relation, id) in catalog.relations.iter().zip(0..) {
            for key in &relation.foreign_keys {
                referenced.entry(id).or_default().push(key.to);
            }
            if relation.has_triggers || relation.has_rules || relation.kind == RelKind::View {
                self.relations.entry(id).or_default().strict_write = true;
            }
            self.mark_oracles(id, relation);
        }
        // Deleting or updating a referenced row may rewrite rows that refer to it, and their errors show whole rows.
        let mut seen: HashSet<RelId> = todo.iter().copied().collect();
        while let Some(id) = todo.pop() {
            self.relations.entry(id).or_default().strict_write = true;
            let next = referenced.get(&id).into_iter().flatten();
            todo.extend(next.filter(|next| seen.insert(**next)));
        }
    }
}

fn column_path(relation: &Relation, position: usize) -> ColumnPath {
    let column =
        relation.columns.list.get(position).map_or_else(|| Arc::from(""), |column| Arc::clone(&column.name));
    ColumnPath { schema: Arc::clone(&relation.schema), table: Arc::clone(&relation.name), column }
}

fn quoted(name: &str) -> String {
    let mut text = String::with_capacity(name.len() + 2);
    let _ = write!(text, "\"{}\"", name.replace('"', "\"\""));
    text
}
