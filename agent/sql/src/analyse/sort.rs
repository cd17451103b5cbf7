//! ORDER BY, GROUP BY and DISTINCT ON: whether an entry means an output column, an input column or an expression
//! (`findTargetlistEntrySQL92` of the server).

use pg_raw_parse::nodes::{A_Const, SortBy};
use pg_raw_parse::raw::CoercionForm;
use pg_raw_parse::{ConstValue, Node};

use super::Analyser;
use super::scope::{Name, OutRows};
use crate::refusal::{How, Refusal, Res};

impl<'a> Analyser<'a> {
    /// ORDER BY of a query.
    pub(super) fn sort_item(&mut self, order: &'a SortBy, out: &OutRows<'a>) -> Res<()> {
        self.sort_operator(order)?;
        self.output_or_expression(order.node(), out, How::Order)
    }

    /// ORDER BY of an aggregate or window: never an output column.
    pub(super) fn sort_expression(&mut self, order: &'a SortBy, how: How) -> Res<()> {
        self.sort_operator(order)?;
        self.clean(order.node(), how)
    }

    /// ORDER BY of a set operation: only output columns.
    pub(super) fn sort_output(&mut self, order: &'a SortBy, out: &OutRows<'a>) -> Res<()> {
        self.sort_operator(order)?;
        let matched = match order.node() {
            Node::A_Const(constant) => self.ordinal(constant, out, How::Order)?,
            node => match simple_name(node) {
                Some(name) => self.output_named(name, out, How::Order)?.is_some() || out.open,
                None => false,
            },
        };
        if matched { Ok(()) } else { Err(Refusal::unsupported("this ORDER BY of a set operation")) }
    }

    fn sort_operator(&mut self, order: &'a SortBy) -> Res<()> {
        if order.use_op().is_empty() { Ok(()) } else { self.operator(order.use_op()) }
    }

    /// ORDER BY and DISTINCT ON prefer output columns.
    pub(super) fn output_or_expression(&mut self, node: Node<'a>, out: &OutRows<'a>, how: How) -> Res<()> {
        if let Node::A_Const(constant) = node {
            self.ordinal(constant, out, how)?;
            return Ok(());
        }
        if let Some(name) = simple_name(node)
            && let Some(matched) = self.output_named(name, out, how)?
        {
            // Versions differ in the names they derive: then the input column must be clean, too.
            return if matches!(matched, Name::Figured(_)) {
                self.local_column(name, how).map(|_| ())
            } else {
                Ok(())
            };
        }
        self.clean(node, how)
    }

    /// GROUP BY prefers input columns of the same level.
    pub(super) fn group_item(&mut self, node: Node<'a>, out: &OutRows<'a>) -> Res<()> {
        match node {
            Node::GroupingSet(set) => {
                self.deeper(|this| set.content().iter().try_for_each(|item| this.group_item(item, out)))
            }
            Node::RowExpr(row) if row.row_format == CoercionForm::COERCE_IMPLICIT_CAST => {
                self.deeper(|this| row.args().iter().try_for_each(|item| this.group_item(item, out)))
            }
            Node::A_Const(constant) => self.ordinal(constant, out, How::Group).map(|_| ()),
            _ => {
                if let Some(name) = simple_name(node)
                    && !self.local_column(name, How::Group)?
                    && self.output_named(name, out, How::Group)?.is_some()
                {
                    return Ok(());
                }
                self.clean(node, How::Group)
            }
        }
    }

    /// An integer names an output column by position. Whether it did.
    fn ordinal(&mut self, constant: &'a A_Const, out: &OutRows<'a>, how: How) -> Res<bool> {
        let Some(ConstValue::Integer(position)) = constant.val() else { return Ok(false) };
        if out.open {
            self.require_clean_rows(out, how)?;
            return Ok(true);
        }
        let index = usize::try_from(position).ok().and_then(|position| position.checked_sub(1));
        match index.and_then(|index| out.fields.get(index)) {
            Some(field) => self.require_clean(field.taint, how).map(|()| true),
            None => Err(Refusal::column(&position.to_string())),
        }
    }

    /// The output column of this name, which must be clean.
    fn output_named(&mut self, name: &str, out: &OutRows<'a>, how: How) -> Res<Option<Name<'a>>> {
        self.spend(out.fields.len())?;
        let mut matched = None;
        for field in out.fields.iter().filter(|field| field.name.is(name)) {
            self.require_clean(field.taint, how)?;
            // A given name is surer than a derived one.
            matched = match (matched, field.name) {
                (Some(Name::Given(given)), _) => Some(Name::Given(given)),
                (_, name) => Some(name),
            };
        }
        Ok(matched)
    }

    /// Whether FROM of this level has the column, which must be clean.
    fn local_column(&mut self, name: &str, how: How) -> Res<bool> {
        let Some(depth) = self.levels.len().checked_sub(1) else { return Ok(false) };
        let found = self.find_in_level(depth, name)?;
        self.require_clean(found.taint, how)?;
        Ok(found.count > 0)
    }
}

fn simple_name(node: Node<'_>) -> Option<&str> {
    let Node::ColumnRef(reference) = node else { return None };
    match reference.fields().len() {
        1 => reference.fields().first().and_then(Node::as_str),
        _ => None,
    }
}
