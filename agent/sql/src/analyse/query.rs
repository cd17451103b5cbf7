//! SELECT, VALUES and set operations: one query level each.

use pg_raw_parse::nodes::{ResTarget, SelectStmt, WindowDef};
use pg_raw_parse::raw::SetOperation;
use pg_raw_parse::{Node, list::NodeList};

use super::figure::target_name;
use super::scope::{Field, Name, OutRows};
use super::{Analyser, MAX_COLUMNS};
use crate::refusal::{How, Refusal, Res};
use crate::statement::Flag;

/// bigint and its arrays: the server makes OIDs of them unasked.
const FALLIBLE: [u32; 2] = [20, 1016];

impl<'a> Analyser<'a> {
    /// A query in a level of its own; its columns may carry masks.
    pub(super) fn select(&mut self, select: &'a SelectStmt) -> Res<OutRows<'a>> {
        self.nested(|this| {
            if let Some(with) = select.with_clause() {
                this.with(with)?;
            }
            this.select_body(select)
        })
    }

    /// The same without its WITH clause, in the current level.
    pub(super) fn select_body(&mut self, select: &'a SelectStmt) -> Res<OutRows<'a>> {
        if select.into_clause().is_some()
            && !self.into_allowed.is_some_and(|allowed| std::ptr::eq(allowed, select))
        {
            return Err(Refusal::unsupported("SELECT INTO inside another query"));
        }
        if !select.locking_clause().is_empty() {
            self.flags.insert(Flag::RowLock);
        }
        let out = if select.op != SetOperation::SETOP_NONE {
            self.set_operation(select)?
        } else if select.values_lists().is_empty() {
            self.plain(select)?
        } else {
            self.values(select)?
        };
        self.clean(select.limit_offset(), How::Limit)?;
        self.clean(select.limit_count(), How::Limit)?;
        Ok(out)
    }

    fn plain(&mut self, select: &'a SelectStmt) -> Res<OutRows<'a>> {
        self.source_list(select.from_clause())?;
        let mut out = OutRows::default();
        for target in select.target_list() {
            self.target(target, &mut out)?;
        }
        self.clean(select.where_clause(), How::Filter)?;
        for item in select.group_clause() {
            self.group_item(item, &out)?;
        }
        self.clean(select.having_clause(), How::Filter)?;
        for window in select.window_clause() {
            match window {
                Node::WindowDef(window) => self.window(window)?,
                _ => return Err(Refusal::unsupported("this WINDOW clause")),
            }
        }
        self.distinct(select.distinct_clause(), &out)?;
        for order in select.sort_clause() {
            self.sort_item(order, &out)?;
        }
        Ok(out)
    }

    /// One entry of an output list, stars expanded.
    pub(super) fn target(&mut self, target: &'a ResTarget, out: &mut OutRows<'a>) -> Res<()> {
        if !target.indirection().is_empty() {
            return Err(Refusal::unsupported("this output column"));
        }
        let value = target.val();
        match value {
            Node::ColumnRef(reference)
                if matches!(reference.fields().iter().next_back(), Some(Node::A_Star(_))) =>
            {
                match self.star_item(reference)? {
                    Some(item) => item.fields.expand(out),
                    None => self.star(out)?,
                }
            }
            // The fields of a composite: how many is not known, and none is masked.
            Node::A_Indirection(it)
                if matches!(it.indirection().iter().next_back(), Some(Node::A_Star(_))) =>
            {
                if it.indirection().len() > 1 {
                    return Err(Refusal::unsupported("(…).*"));
                }
                self.clean(it.arg(), How::Unexpanded)?;
                out.open = true;
            }
            _ => {
                let (taint, inner) = self.named_value(value)?;
                let name = match (target.name(), inner) {
                    (None, Some(inner)) => inner,
                    _ => target_name(target, self.catalog.version),
                };
                out.fields.push(Field { name, taint, literal: matches!(value, Node::A_Const(_)) });
            }
        }
        self.spend(1 + out.fields.len() / 64)?;
        if out.fields.len() > MAX_COLUMNS {
            return Err(Refusal::complex("more than 1664 output columns"));
        }
        Ok(())
    }

    /// A bare `*`: every item whose columns are visible without its name.
    fn star(&mut self, out: &mut OutRows<'a>) -> Res<()> {
        for item in self.level()?.items.iter().filter(|item| item.cols_visible) {
            item.fields.expand(out);
        }
        Ok(())
    }

    fn distinct(&mut self, list: &'a NodeList, out: &OutRows<'a>) -> Res<()> {
        for item in list {
            match item {
                // Plain DISTINCT is a list of one empty entry.
                Node::None => self.require_clean_rows(out, How::Distinct)?,
                _ => self.output_or_expression(item, out, How::Distinct)?,
            }
        }
        Ok(())
    }

    pub(super) fn window(&mut self, window: &'a WindowDef) -> Res<()> {
        self.clean_all(window.partition_clause(), How::Window)?;
        window.order_clause().iter().try_for_each(|order| self.sort_expression(order, How::Window))?;
        self.clean(window.start_offset(), How::Window)?;
        self.clean(window.end_offset(), How::Window)
    }

    fn values(&mut self, select: &'a SelectStmt) -> Res<OutRows<'a>> {
        let mut out: Option<OutRows<'a>> = None;
        for row in select.values_lists() {
            let Node::NodeList(row) = row else { return Err(Refusal::unsupported("this VALUES list")) };
            let mut fields = Vec::with_capacity(row.len());
            for (position, value) in row.iter().enumerate() {
                let taint = self.value(value)?;
                let literal = matches!(value, Node::A_Const(_));
                fields.push(Field { name: Name::Numbered(position + 1), taint, literal });
            }
            let row = OutRows { fields, open: false };
            out = Some(match out {
                None => row,
                Some(before) => self.union_all(before, &row)?,
            });
        }
        let out = out.unwrap_or_default();
        for order in select.sort_clause() {
            self.sort_item(order, &out)?;
        }
        Ok(out)
    }

    fn set_operation(&mut self, select: &'a SelectStmt) -> Res<OutRows<'a>> {
        let (Some(left), Some(right)) = (select.larg(), select.rarg()) else {
            return Err(Refusal::unsupported("this set operation"));
        };
        let left = self.select(left)?;
        let right = self.select(right)?;
        let out = self.combine(select, left, &right)?;
        for order in select.sort_clause() {
            self.sort_output(order, &out)?;
        }
        Ok(out)
    }

    /// Columns of a set operation. All but UNION ALL compare rows.
    pub(super) fn combine(
        &mut self,
        select: &'a SelectStmt,
        left: OutRows<'a>,
        right: &OutRows<'a>,
    ) -> Res<OutRows<'a>> {
        let compares = select.op != SetOperation::SETOP_UNION || !select.all;
        if compares {
            self.require_clean_rows(&left, How::SetOperation)?;
            self.require_clean_rows(right, How::SetOperation)?;
        }
        self.union_all(left, right)
    }

    pub(super) fn union_all(&mut self, mut left: OutRows<'a>, right: &OutRows<'a>) -> Res<OutRows<'a>> {
        if left.open || right.open {
            // Positions are not known, so nothing masked may be among them.
            self.require_clean(left.first_taint().or(right.first_taint()), How::Unexpanded)?;
            left.open = true;
            return Ok(left);
        }
        if left.fields.len() != right.fields.len() {
            return Err(Refusal::unsupported("a set operation of rows of different width"));
        }
        for (field, other) in left.fields.iter_mut().zip(&right.fields) {
            self.must_not_fail(field, other)?;
            field.taint = self.meet(field.taint, other.taint);
            field.literal &= other.literal;
        }
        Ok(left)
    }

    /// Values of two origins are brought to one type, which fails for some of a masked column's: a number that is no OID.
    fn must_not_fail(&mut self, one: &Field<'a>, other: &Field<'a>) -> Res<()> {
        if self.lenient {
            return Ok(());
        }
        for (field, met) in [(one, other), (other, one)] {
            let mask = |field: &Field<'_>| field.taint.and_then(|taint| self.view.mask(taint));
            let Some(mask_here) = mask(field).filter(|mask| FALLIBLE.contains(&mask.type_oid)) else {
                continue;
            };
            let alike = mask(met).is_some_and(|met| met.type_oid == mask_here.type_oid);
            if !alike && !met.literal {
                self.require_clean(field.taint, How::Meeting)?;
            }
        }
        Ok(())
    }
}
