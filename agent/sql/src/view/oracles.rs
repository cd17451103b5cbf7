//! What writing a masked column would tell of it: that a value is there already, between which others one stands, or that an
//! UPDATE changed nothing because the guess was right.

use std::sync::Arc;

use super::View;
use crate::catalog::{Column, RelId, RelKind, Relation, Telling};
use crate::refusal::How;
use crate::statement::{MaskedColumn, Predicate};

/// What a write of one masked column tells.
#[derive(Default)]
struct Told {
    /// That a value is there already.
    exists: bool,
    /// Where it stands among the others, by the order in which rows come.
    order: bool,
    /// Whether it was another one before.
    change: bool,
}

impl View {
    pub(super) fn mark_oracles(&mut self, id: RelId, relation: &Relation) {
        let catalog = Arc::clone(&self.catalog);
        let columns = relation.columns.list.len();
        let (mut oracles, mut watched) = (vec![None; columns], vec![false; columns]);
        for (position, column) in relation.columns.list.iter().enumerate() {
            let told = self.mask_at(id, position).map_or_else(Told::default, |mask| {
                let exists = relation.kind != RelKind::Table;
                self.told(id, column, &mask, Told { exists, ..Told::default() })
            });
            let points_at_mask = relation.foreign_keys.iter().any(|key| {
                let target = key.columns.iter().find(|(from, _)| *from == column.number);
                let there = target
                    .and_then(|(_, to)| catalog.relation(key.to)?.columns.position_of_number(*to))
                    .and_then(|position| self.mask_at(key.to, position));
                there.is_some()
            });
            if let Some(oracle) = oracles.get_mut(position) {
                let exists = (told.exists || points_at_mask).then_some(How::WriteOracle);
                *oracle = exists.or(told.order.then_some(How::Ordering));
            }
            if let Some(watched) = watched.get_mut(position) {
                *watched = told.change;
            }
        }
        if oracles.iter().any(Option::is_some) {
            self.relations.entry(id).or_default().oracles = oracles;
        }
        if watched.contains(&true) {
            self.relations.entry(id).or_default().watched = watched;
        }
    }

    /// By keys, indexes and triggers of the relation and of those it inherits with.
    fn told(&self, id: RelId, column: &Column, mask: &MaskedColumn, mut told: Told) -> Told {
        let may_compare = mask.knobs.predicate == Predicate::Any;
        for relative in self.kin(id) {
            let Some(relation) = self.catalog.relation(relative) else { continue };
            let number = relation.columns.position(&column.name).and_then(|at| relation.columns.list.get(at));
            let number = number.map(|column| column.number);
            // What is made of it tells as much.
            let made = self.made(relative, relation);
            let has = |columns: &[i16]| {
                columns.iter().any(|column| Some(*column) == number || made.contains(column))
            };
            told.exists |= relation.uniques.iter().any(|unique| unique.opaque || has(&unique.columns));
            if may_compare {
                continue;
            }
            // A key is looked up, and the row it refers to locked, when it is another one.
            told.change |=
                relation.foreign_keys.iter().flat_map(|key| &key.columns).any(|(from, _)| has(&[*from]));
            for telling in &relation.telling {
                match telling {
                    Telling::Changed { columns } => told.change |= columns.contains(&0) || has(columns),
                    Telling::Ordered { columns, alone } => {
                        told.order |= has(columns) && (!alone || mask.shows());
                    }
                }
            }
        }
        told
    }

    /// Masked columns of the relation that are made of others.
    fn made(&self, id: RelId, relation: &Relation) -> Vec<i16> {
        let columns = relation.columns.list.iter().enumerate();
        let made =
            columns.filter(|(at, column)| column.generated.is_some() && self.mask_at(id, *at).is_some());
        made.map(|(_, column)| column.number).collect()
    }
}
