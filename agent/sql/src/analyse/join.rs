//! JOIN: what each arm sees, what ON sees, and the columns that NATURAL and USING merge.

use std::rc::Rc;

use pg_raw_parse::nodes::JoinExpr;

use super::Analyser;
use super::from::{aliased, strings};
use super::scope::{Field, Fields, Found, Item, Name, OutRows};
use crate::refusal::{How, Refusal, Res};

impl<'a> Analyser<'a> {
    pub(super) fn join(&mut self, join: &'a JoinExpr) -> Res<Vec<Item<'a>>> {
        let left = self.source(join.larg())?;
        let first = self.level()?.items.len();
        self.level()?.items.extend(left.into_iter().map(|item| Item { lateral_only: true, ..item }));
        let right = self.source(join.rarg())?;
        let mut items = self.level()?.items.split_off(first);
        items.iter_mut().for_each(|item| item.lateral_only = false);
        let split = items.len();
        items.extend(right);
        self.spend(items.len())?;

        let merged = self.merged(join, &items, split)?;
        let mut items = self.condition(join, items)?;
        match merged {
            // Without merged columns the arms themselves give the same names in the same order.
            None if join.alias().is_none() => Ok(items),
            merged => {
                let rows =
                    Rc::new(self.joined_columns(&items, split, merged.as_deref().unwrap_or_default())?);
                let using = join.join_using_alias().and_then(|alias| alias.aliasname());
                let mut visible = match join.alias() {
                    Some(_) => Vec::new(),
                    None => {
                        items.iter_mut().for_each(|item| item.cols_visible = false);
                        items
                    }
                };
                if let Some(name) = using {
                    let names = merged.iter().flatten().copied();
                    let item = Item::new(name, Fields::List(Rc::new(OutRows::clean(names))));
                    visible.push(Item { cols_visible: false, ..item });
                }
                visible.push(aliased("", Fields::List(rows), join.alias())?);
                Ok(visible)
            }
        }
    }

    /// ON sees the two arms and outer queries, not the items to the left of the join.
    fn condition(&mut self, join: &'a JoinExpr, items: Vec<Item<'a>>) -> Res<Vec<Item<'a>>> {
        let level = self.level()?;
        let outside = std::mem::replace(&mut level.items, items);
        let lateral = std::mem::replace(&mut level.lateral, false);
        let result = self.clean(join.quals(), How::Join);
        let level = self.level()?;
        let items = std::mem::replace(&mut level.items, outside);
        level.lateral = lateral;
        result.map(|()| items)
    }

    /// Names of the merged columns; each must be one clean column of either arm.
    fn merged(&mut self, join: &'a JoinExpr, items: &[Item<'a>], split: usize) -> Res<Option<Vec<&'a str>>> {
        let (left, right) = items.split_at_checked(split).unwrap_or((items, &[]));
        let names: Vec<&'a str> = if join.is_natural {
            self.common_names(left, right)?
        } else {
            strings(join.using_clause()).collect()
        };
        if names.is_empty() {
            return Ok(None);
        }
        self.operator_named("=")?;
        for name in &names {
            for arm in [left, right] {
                let mut found = Found::default();
                for item in arm.iter().filter(|item| item.cols_visible) {
                    item.find(name, &mut found);
                }
                self.spend(arm.len())?;
                self.require_clean(found.taint, How::Merge)?;
                if found.count != 1 || found.open {
                    return Err(Refusal::column(name));
                }
            }
        }
        Ok(Some(names))
    }

    fn common_names(&mut self, left: &[Item<'a>], right: &[Item<'a>]) -> Res<Vec<&'a str>> {
        let (left, right) = (visible_columns(left), visible_columns(right));
        if left.open || right.open {
            return Err(Refusal::unsupported("NATURAL JOIN with columns that are not known"));
        }
        self.spend(left.fields.len() * right.fields.len())?;
        let mut names = Vec::new();
        for field in &left.fields {
            match field.name {
                Name::Given(name) | Name::Figured(name) => {
                    if right.fields.iter().any(|other| other.name.is(name)) {
                        names.push(name);
                    }
                }
                Name::Numbered(_) => {
                    return Err(Refusal::unsupported("NATURAL JOIN of VALUES without column names"));
                }
            }
        }
        Ok(names)
    }

    /// Merged columns first, then the rest of the left arm, then of the right.
    fn joined_columns(&mut self, items: &[Item<'a>], split: usize, merged: &[&'a str]) -> Res<OutRows<'a>> {
        let (left, right) = items.split_at_checked(split).unwrap_or((items, &[]));
        let mut out = OutRows::clean(merged.iter().copied());
        for arm in [visible_columns(left), visible_columns(right)] {
            self.spend(arm.fields.len() * (1 + merged.len()))?;
            let rest = |field: &Field<'a>| !merged.iter().any(|name| field.name.is(name));
            out.fields.extend(arm.fields.into_iter().filter(rest));
            out.open |= arm.open;
        }
        Ok(out)
    }
}

/// The columns an arm gives to `*`.
fn visible_columns<'a>(items: &[Item<'a>]) -> OutRows<'a> {
    let mut out = OutRows::default();
    for item in items.iter().filter(|item| item.cols_visible) {
        item.fields.expand(&mut out);
    }
    out
}
