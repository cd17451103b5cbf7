//! WITH: common table expressions, recursive ones by iteration until no column changes any more.

use std::rc::Rc;

use pg_raw_parse::Node;
use pg_raw_parse::list::NodeList;
use pg_raw_parse::nodes::{CommonTableExpr, SelectStmt, WithClause};
use pg_raw_parse::raw::SetOperation;

use super::scope::{Cte, Name, OutRows};
use super::{Analyser, Taint};
use crate::refusal::{How, Refusal, Res};
use crate::statement::Flag;

impl<'a> Analyser<'a> {
    pub(super) fn with(&mut self, with: &'a WithClause) -> Res<()> {
        if with.recursive {
            let names = with.ctes().iter().filter_map(|cte| cte.ctename());
            self.level()?.future.extend(names);
        }
        for cte in with.ctes() {
            self.cte(cte, with.recursive)?;
        }
        Ok(())
    }

    fn cte(&mut self, cte: &'a CommonTableExpr, recursive: bool) -> Res<()> {
        let name = cte.ctename().unwrap_or_default();
        let level = self.level()?;
        if recursive && !level.future.is_empty() {
            level.future.remove(0);
        }
        let rows = match cte.ctequery() {
            Node::SelectStmt(select) if recursive && select.op != SetOperation::SETOP_NONE => {
                self.recursive(cte, name, select)?
            }
            query => {
                if recursive {
                    // The name means this query itself, and only a set operation may refer to itself.
                    self.level()?.ctes.push(Cte { name, fields: None });
                }
                let rows = self.cte_query(query)?;
                if recursive {
                    self.level()?.ctes.pop();
                }
                rename(rows, cte.aliascolnames())?
            }
        };
        let rows = self.search_and_cycle(cte, rows)?;
        self.level()?.ctes.push(Cte { name, fields: Some(Rc::new(rows)) });
        Ok(())
    }

    fn cte_query(&mut self, query: Node<'a>) -> Res<OutRows<'a>> {
        let written = match query {
            Node::SelectStmt(select) => return self.select(select),
            Node::InsertStmt(insert) => self.insert(insert)?,
            Node::UpdateStmt(update) => self.update(update)?,
            Node::DeleteStmt(delete) => self.delete(delete)?,
            Node::MergeStmt(merge) => self.merge(merge)?,
            _ => return Err(Refusal::unsupported("this query in WITH")),
        };
        self.flags.insert(Flag::NestedWrite);
        Ok(written.unwrap_or_default())
    }

    /// `left UNION [ALL] right`, where `right` may read the result.
    fn recursive(
        &mut self,
        cte: &'a CommonTableExpr,
        name: &'a str,
        select: &'a SelectStmt,
    ) -> Res<OutRows<'a>> {
        let (Some(left), Some(right)) = (select.larg(), select.rarg()) else {
            return Err(Refusal::unsupported("this set operation"));
        };
        let base = self.levels.len().saturating_sub(1);
        self.nested(|this| {
            let set = |this: &mut Self, fields| -> Res<()> {
                let level =
                    this.levels.get_mut(base).ok_or_else(|| Refusal::unsupported("this WITH clause"))?;
                level.ctes.push(Cte { name, fields });
                Ok(())
            };
            set(this, None)?;
            if let Some(with) = select.with_clause() {
                this.with(with)?;
            }
            let left = this.select(left)?;
            this.pop_cte(base);
            let mut rows = rename(left, cte.aliascolnames())?;
            loop {
                // What SEARCH and CYCLE add is visible to the recursive term.
                let visible = this.search_and_cycle(cte, rows.clone())?;
                set(this, Some(Rc::new(visible)))?;
                let step = this.select(right)?;
                this.pop_cte(base);
                // Masks only become stricter, so this ends.
                let before: Vec<Taint> = rows.fields.iter().map(|field| field.taint).collect();
                rows = this.combine(select, rows, &step)?;
                if rows.fields.iter().map(|field| field.taint).eq(before) {
                    break;
                }
            }
            for order in select.sort_clause() {
                this.sort_output(order, &rows)?;
            }
            this.clean(select.limit_offset(), How::Limit)?;
            this.clean(select.limit_count(), How::Limit)?;
            Ok(rows)
        })
    }

    fn pop_cte(&mut self, level: usize) {
        if let Some(level) = self.levels.get_mut(level) {
            level.ctes.pop();
        }
    }

    fn search_and_cycle(&mut self, cte: &'a CommonTableExpr, mut rows: OutRows<'a>) -> Res<OutRows<'a>> {
        if let Some(search) = cte.search_clause() {
            self.named_clean(search.search_col_list(), &rows, How::Order)?;
            rows.push(Name::Given(search.search_seq_column().unwrap_or_default()), None);
        }
        if let Some(cycle) = cte.cycle_clause() {
            self.named_clean(cycle.cycle_col_list(), &rows, How::Group)?;
            self.clean(cycle.cycle_mark_value(), How::Expression)?;
            self.clean(cycle.cycle_mark_default(), How::Expression)?;
            rows.push(Name::Given(cycle.cycle_mark_column().unwrap_or_default()), None);
            rows.push(Name::Given(cycle.cycle_path_column().unwrap_or_default()), None);
        }
        Ok(rows)
    }

    fn named_clean(&mut self, names: &'a NodeList, rows: &OutRows<'a>, how: How) -> Res<()> {
        for name in names.iter().filter_map(Node::as_str) {
            let mut known = false;
            for field in rows.fields.iter().filter(|field| field.name.is(name)) {
                self.require_clean(field.taint, how)?;
                known = true;
            }
            if !known && !rows.open {
                return Err(Refusal::column(name));
            }
        }
        Ok(())
    }
}

/// Applies a list of column aliases from the left.
pub(super) fn rename<'a>(mut rows: OutRows<'a>, names: &'a NodeList) -> Res<OutRows<'a>> {
    if names.is_empty() {
        return Ok(rows);
    }
    if rows.open {
        // Which columns get the names is not known; all of them are clean or the rows are refused.
        if rows.first_taint().is_some() {
            return Err(Refusal::unsupported("column aliases over columns that are not known"));
        }
        for name in names.iter().filter_map(Node::as_str) {
            rows.push(Name::Given(name), None);
        }
        return Ok(rows);
    }
    if names.len() > rows.fields.len() {
        return Err(Refusal::unsupported("more column aliases than columns"));
    }
    for (field, name) in rows.fields.iter_mut().zip(names.iter().filter_map(Node::as_str)) {
        field.name = Name::Given(name);
    }
    Ok(rows)
}
