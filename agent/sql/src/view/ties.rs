//! What writing other columns would tell of a masked one. A row is checked as a whole when it is written: a CHECK over a
//! masked and a plain column, a key or index with both, a generated column made of both, or a row that a masked column
//! refers to. Whether such a write succeeds depends on the masked value, and who may write can ask by trying.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;

use super::{View, column_path};
use crate::analyse::Taint;
use crate::catalog::{RelId, RelKind, Relation};
use crate::statement::{ColumnPath, Predicate};

impl View {
    pub(super) fn mark_ties(&mut self) {
        let catalog = Arc::clone(&self.catalog);
        let masked: HashSet<RelId> = self
            .relations
            .iter()
            .filter(|(_, mask)| mask.taints.iter().any(Option::is_some))
            .map(|(id, _)| *id)
            .collect();
        for id in &masked {
            let Some(relation) = catalog.relation(*id) else { continue };
            let together = self.together(*id, relation);
            self.relations.entry(*id).or_default().together = together;
        }
        self.mark_referred();
        self.mark_views();
    }

    /// Sets of columns that are checked together, in this relation or in one it inherits with, with a masked one.
    fn together(&self, id: RelId, relation: &Relation) -> Vec<Vec<usize>> {
        let mut sets = Vec::new();
        for other in self.kin(id).into_iter().filter_map(|id| self.catalog.relation(id)) {
            for set in &other.together {
                let all = set.contains(&0).then_some(other.columns.list.iter()).into_iter().flatten();
                let named = set.iter().filter_map(|number| {
                    let at = other.columns.position_of_number(*number)?;
                    other.columns.list.get(at)
                });
                let names = all.chain(named).map(|column| &column.name);
                let mut positions: Vec<usize> =
                    names.filter_map(|name| relation.columns.position(name)).collect();
                positions.sort_unstable();
                positions.dedup();
                if positions.iter().any(|at| self.is_secret(id, *at).is_some()) && !sets.contains(&positions)
                {
                    sets.push(positions);
                }
            }
        }
        sets
    }

    /// A column whose value was written by others and may not be told. A generated one is made of those.
    pub(crate) fn is_secret(&self, id: RelId, position: usize) -> Taint {
        let column = self.catalog.relation(id)?.columns.list.get(position)?;
        let taint = self.relations.get(&id)?.taints.get(position).copied().flatten()?;
        let mask = self.mask(taint)?;
        (column.generated.is_none() && mask.knobs.predicate != Predicate::Any).then_some(taint)
    }

    /// Rows that masked columns refer to, and rows that are found by a masked column.
    fn mark_referred(&mut self) {
        let catalog = Arc::clone(&self.catalog);
        let mut telling: BTreeMap<RelId, ColumnPath> = BTreeMap::new();
        for (relation, id) in catalog.relations.iter().zip(0..) {
            for key in &relation.foreign_keys {
                let Some(there) = catalog.relation(key.to) else { continue };
                let secret = key.columns.iter().find_map(|(from, to)| {
                    let ends = [(id, relation, *from), (key.to, there, *to)];
                    ends.into_iter().find_map(|(id, relation, number)| {
                        let position = relation.columns.position_of_number(number)?;
                        self.is_secret(id, position).map(|_| column_path(relation, position))
                    })
                });
                let Some(secret) = secret else { continue };
                for kin in self.kin(key.to) {
                    telling.insert(kin, secret.clone());
                }
                for (_, to) in &key.columns {
                    if let Some(position) = there.columns.position_of_number(*to) {
                        let entry = self.relations.entry(key.to).or_default();
                        entry.referred.push((position, secret.clone()));
                    }
                }
            }
        }
        // Deleting a row deletes what refers to it, and so on.
        let mut todo: VecDeque<(RelId, ColumnPath)> = telling.into_iter().collect();
        let mut cascading: HashMap<RelId, Vec<RelId>> = HashMap::new();
        for (relation, id) in catalog.relations.iter().zip(0..) {
            for key in relation.foreign_keys.iter().filter(|key| key.cascades) {
                cascading.entry(id).or_default().push(key.to);
            }
        }
        while let Some((id, secret)) = todo.pop_front() {
            let entry = self.relations.entry(id).or_default();
            if entry.delete_tells.is_some() {
                continue;
            }
            entry.delete_tells = Some(secret.clone());
            let next = cascading.get(&id).into_iter().flatten();
            todo.extend(next.map(|next| (*next, secret.clone())));
        }
    }

    /// A view that can be written to writes to what it reads.
    fn mark_views(&mut self) {
        let catalog = Arc::clone(&self.catalog);
        let views: Vec<RelId> = self.reads.keys().copied().collect();
        for view in views {
            if catalog.relation(view).is_none_or(|relation| relation.kind != RelKind::View) {
                continue;
            }
            let (mut seen, mut todo) = (HashSet::from([view]), vec![view]);
            let (mut updates, mut deletes) = (None, None);
            while let Some(id) = todo.pop() {
                let relation = catalog.relation(id).filter(|relation| relation.kind != RelKind::View);
                if let (Some(mask), Some(relation)) = (self.relations.get(&id), relation) {
                    let tied = mask.together.iter().flatten().find(|at| self.is_secret(id, **at).is_some());
                    let tied = tied.map(|at| column_path(relation, *at));
                    let referred = mask.referred.first().map(|(_, path)| path.clone());
                    updates = updates.or(tied).or(referred);
                    deletes = deletes.or_else(|| mask.delete_tells.clone());
                }
                let reads = self.reads.get(&id).into_iter().flatten();
                todo.extend(reads.filter(|read| seen.insert(**read)));
            }
            if updates.is_some() || deletes.is_some() {
                let entry = self.relations.entry(view).or_default();
                (entry.update_tells, entry.delete_tells) = (updates, deletes);
            }
        }
    }
}
