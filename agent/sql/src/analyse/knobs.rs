//! What the knobs of a masked column allow beside serving it masked. They count for the column of its table alone: what a
//! query made of it is another thing. Everything here is asked before the general rule refuses, and opens nothing else.

use pg_raw_parse::raw::{A_Expr_Kind, NullTestType};
use pg_raw_parse::{ConstValue, Node, nodes};

use super::call::qualified;
use super::scope::Resolved;
use super::{Analyser, Taint};
use crate::refusal::{How, Res};
use crate::statement::{Flag, Knobs, Predicate};

/// Functions of text that give a value for every value: what they say depends on nothing, for all of it is masked.
const TOTAL: &[&str] = &[
    "bit_length",
    "btrim",
    "char_length",
    "character_length",
    "initcap",
    "length",
    "lower",
    "ltrim",
    "md5",
    "octet_length",
    "reverse",
    "rtrim",
    "upper",
];

impl<'a> Analyser<'a> {
    /// The mask and the knobs of a bare column of a table; `None` for everything else.
    fn knobs(&mut self, node: Node<'a>) -> Res<Option<(u32, Knobs)>> {
        let Node::ColumnRef(reference) = node else { return Ok(None) };
        if self.lenient || self.clear() {
            return Ok(None);
        }
        if matches!(reference.fields().iter().next_back(), Some(Node::A_Star(_))) {
            return Ok(None);
        }
        // What cannot be resolved is refused where it is looked at in earnest.
        let Ok(Resolved::Column(Some(taint))) = self.column(reference) else { return Ok(None) };
        let direct = self.direct;
        Ok(self.view.mask(taint).filter(|_| direct).map(|mask| (taint, mask.knobs)))
    }

    /// Whether the column may stand in any predicate.
    pub(super) fn may_filter(&mut self, node: Node<'a>, how: How) -> Res<bool> {
        if !is_predicate(how) {
            return Ok(false);
        }
        Ok(self.knobs(node)?.is_some_and(|(_, knobs)| knobs.predicate == Predicate::Any))
    }

    /// `column IS NULL`, `column IS NOT NULL`.
    pub(super) fn may_test_null(&mut self, test: &'a nodes::NullTest, how: How) -> Res<bool> {
        let plain = matches!(test.nulltesttype, NullTestType::IS_NULL | NullTestType::IS_NOT_NULL);
        if !is_predicate(how) || !plain {
            return Ok(false);
        }
        Ok(self.knobs(test.arg())?.is_some_and(|(_, knobs)| knobs.predicate >= Predicate::IsNull))
    }

    /// `column = constant` and `column IN (constants)`; each is noted, so that they can be counted.
    pub(super) fn may_compare(&mut self, operation: &'a nodes::A_Expr, how: How) -> Res<bool> {
        let equals = matches!(operation.kind, A_Expr_Kind::AEXPR_OP | A_Expr_Kind::AEXPR_IN)
            && operation.name().iter().map(Node::as_str).eq([Some("=")]);
        if !is_predicate(how) || !equals {
            return Ok(false);
        }
        let (left, right) = (operation.lexpr(), operation.rexpr());
        for (column, values) in [(left, right), (right, left)] {
            let values = constants(values);
            if let (Some(values), Some((taint, knobs))) = (values, self.knobs(column)?)
                && knobs.predicate == Predicate::Equality
            {
                self.operation_names(operation)?;
                self.compares(taint, values);
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn compares(&mut self, taint: u32, values: u32) {
        let Some(path) = self.view.mask(taint).map(|mask| mask.path.to_string()) else { return };
        let before = self.flags.iter().find_map(|flag| match flag {
            Flag::Compares(known, count) if *known == path => Some(*count),
            _ => None,
        });
        if let Some(count) = before {
            self.flags.remove(&Flag::Compares(path.clone(), count));
        }
        self.flags.insert(Flag::Compares(path, before.unwrap_or(0).saturating_add(values)));
    }

    /// `count(column)`: how many rows have a value.
    pub(super) fn may_count(&mut self, call: &'a nodes::FuncCall) -> Res<bool> {
        let name = qualified(call.funcname().iter().map(Node::as_str))?;
        let plain = name.name == "count" && name.schema.is_none_or(|schema| schema == "pg_catalog");
        if !plain || call.agg_distinct || call.args().len() != 1 {
            return Ok(false);
        }
        let Some(column) = call.args().first() else { return Ok(false) };
        Ok(self.knobs(column)?.is_some_and(|(_, knobs)| knobs.count))
    }

    /// An output expression of masked columns: masked in whole where the knobs of all of them say so and it cannot fail.
    pub(super) fn computed_mask(&mut self, node: Node<'a>) -> Res<Taint> {
        match node {
            Node::ColumnRef(_) => {
                let known = self.knobs(node)?;
                Ok(known.filter(|(_, knobs)| knobs.computed).map(|(taint, _)| self.view.whole(taint)))
            }
            Node::FuncCall(call) => {
                let name = qualified(call.funcname().iter().map(Node::as_str))?;
                let plain = call.agg_order().is_empty()
                    && matches!(call.agg_filter(), Node::None)
                    && call.over().is_none()
                    && !call.agg_distinct
                    && !call.agg_star
                    && !call.func_variadic;
                if !plain || call.args().len() != 1 || !TOTAL.contains(&name.name) {
                    return Ok(None);
                }
                let Some(argument) = call.args().first() else { return Ok(None) };
                let Some(taint) = self.deeper(|this| this.computed_mask(argument))? else { return Ok(None) };
                self.function(name, Some(call.args()))?;
                Ok(Some(taint))
            }
            Node::CoalesceExpr(it) => self.first_computed(it.args().iter(), false),
            Node::A_Expr(it)
                if it.kind == A_Expr_Kind::AEXPR_OP
                    && it.name().iter().map(Node::as_str).eq([Some("||")]) =>
            {
                self.operation_names(it)?;
                // Joining arrays or JSON fails for some values of them.
                self.first_computed([it.lexpr(), it.rexpr()].into_iter(), true)
            }
            _ => Ok(None),
        }
    }

    /// Of several values: constants, or masked in whole; anything else is looked at by the general rule.
    fn first_computed(&mut self, values: impl Iterator<Item = Node<'a>>, text: bool) -> Res<Taint> {
        let mut result = None;
        for value in values {
            if constants(value).is_some() {
                continue;
            }
            match self.deeper(|this| this.computed_mask(value))? {
                Some(taint) if text && self.view.mask(taint).is_none_or(|mask| !mask.text_like) => {
                    return Ok(None);
                }
                Some(taint) => result = self.join_taints(result, Some(taint)),
                None => return Ok(None),
            }
        }
        Ok(result)
    }
}

fn is_predicate(how: How) -> bool {
    matches!(how, How::Filter | How::Join)
}

/// How many constants or parameters this is; `None` when it is anything else.
fn constants(node: Node<'_>) -> Option<u32> {
    match node {
        Node::ParamRef(_) => Some(1),
        Node::A_Const(constant) => match constant.val() {
            Some(ConstValue::String(_) | ConstValue::Integer(_)) => Some(1),
            _ => None,
        },
        Node::NodeList(list) => {
            list.iter().try_fold(0u32, |sum, value| Some(sum.saturating_add(constants(value)?)))
        }
        _ => None,
    }
}
