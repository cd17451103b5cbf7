//! Expressions. One place decides whether a node carries a masked value on ([`Analyser::value`]); everywhere else a
//! masked value is refused ([`Analyser::clean`]). A node that is not listed is refused by its name.

use pg_raw_parse::Node;
use pg_raw_parse::nodes;
use pg_raw_parse::raw::{A_Expr_Kind, SubLinkType};

use super::scope::{Name, OutRows, Resolved};
use super::{Analyser, Taint};
use crate::refusal::{How, Refusal, Res};

impl<'a> Analyser<'a> {
    /// A value on its way to an output column. Only a bare column and a scalar sub-select of one carry a mask.
    pub(super) fn value(&mut self, node: Node<'a>) -> Res<Taint> {
        Ok(self.named_value(node)?.0)
    }

    /// The same, with the name that a scalar sub-select gives its column.
    pub(super) fn named_value(&mut self, node: Node<'a>) -> Res<(Taint, Option<Name<'a>>)> {
        match node {
            Node::ColumnRef(reference) => {
                if matches!(reference.fields().iter().next_back(), Some(Node::A_Star(_))) {
                    return Err(Refusal::unsupported("* in VALUES"));
                }
                match self.column(reference)? {
                    Resolved::Column(taint) => Ok((taint, None)),
                    Resolved::Row => Ok((None, None)),
                }
            }
            Node::SubLink(link) if link.sub_link_type == SubLinkType::EXPR_SUBLINK => {
                let rows = self.subquery(link.subselect())?;
                single(&rows)
            }
            Node::TypeCast(_) | Node::CollateClause(_) => Ok((self.computed(node, How::Cast)?, None)),
            Node::FuncCall(_) => Ok((self.computed(node, How::Function)?, None)),
            _ => Ok((self.computed(node, How::Expression)?, None)),
        }
    }

    /// A computed value: clean, but in a definition as masked as what it depends on.
    fn computed(&mut self, node: Node<'a>, how: How) -> Res<Taint> {
        if let Some(taint) = self.computed_mask(node)? {
            return Ok(Some(taint));
        }
        let outside = self.derived.take();
        self.clean(node, how)?;
        let derived = std::mem::replace(&mut self.derived, outside);
        self.derived = self.join_taints(self.derived, derived);
        Ok(derived.map(|taint| self.view.whole(taint)))
    }

    /// A value that is computed with, compared or stored.
    pub(super) fn clean(&mut self, node: Node<'a>, how: How) -> Res<()> {
        self.spend(1)?;
        match node {
            Node::None | Node::A_Const(_) | Node::ParamRef(_) | Node::SQLValueFunction(_) => Ok(()),
            Node::ColumnRef(_) if self.may_filter(node, how)? => Ok(()),
            Node::ColumnRef(reference) => match self.column(reference)? {
                Resolved::Column(taint) => self.require_clean(taint, how),
                Resolved::Row => Ok(()),
            },
            Node::A_Expr(_) => self.deeper(|this| this.operation(node, how)),
            _ => self.deeper(|this| this.compound(node, how)),
        }
    }

    pub(super) fn clean_all(&mut self, nodes: impl IntoIterator<Item = Node<'a>>, how: How) -> Res<()> {
        nodes.into_iter().try_for_each(|node| self.clean(node, how))
    }

    /// Chains of operators lean to the left and may be long: they are followed in a loop.
    fn operation(&mut self, node: Node<'a>, how: How) -> Res<()> {
        let mut node = node;
        while let Node::A_Expr(operation) = node {
            if self.may_compare(operation, how)? {
                return Ok(());
            }
            self.operation_names(operation)?;
            match operation.rexpr() {
                Node::NodeList(list) => self.clean_all(list, how)?,
                right => self.clean(right, how)?,
            }
            node = operation.lexpr();
            self.spend(1)?;
        }
        self.clean(node, how)
    }

    pub(super) fn operation_names(&mut self, operation: &'a nodes::A_Expr) -> Res<()> {
        match operation.kind {
            A_Expr_Kind::AEXPR_BETWEEN
            | A_Expr_Kind::AEXPR_NOT_BETWEEN
            | A_Expr_Kind::AEXPR_BETWEEN_SYM
            | A_Expr_Kind::AEXPR_NOT_BETWEEN_SYM => {
                ["<", ">", "<=", ">="].into_iter().try_for_each(|name| self.operator_named(name))
            }
            A_Expr_Kind::AEXPR_OP
            | A_Expr_Kind::AEXPR_OP_ANY
            | A_Expr_Kind::AEXPR_OP_ALL
            | A_Expr_Kind::AEXPR_DISTINCT
            | A_Expr_Kind::AEXPR_NOT_DISTINCT
            | A_Expr_Kind::AEXPR_NULLIF
            | A_Expr_Kind::AEXPR_IN
            | A_Expr_Kind::AEXPR_LIKE
            | A_Expr_Kind::AEXPR_ILIKE
            | A_Expr_Kind::AEXPR_SIMILAR => self.operator(operation.name()),
            _ => Err(Refusal::unsupported("this kind of operator")),
        }
    }

    fn compound(&mut self, node: Node<'a>, how: How) -> Res<()> {
        match node {
            Node::BoolExpr(it) => self.clean_all(it.args(), how),
            Node::NullTest(it) if self.may_test_null(it, how)? => Ok(()),
            Node::NullTest(it) => self.clean(it.arg(), how),
            Node::BooleanTest(it) => self.clean(it.arg(), how),
            Node::CaseExpr(it) => {
                if !matches!(it.arg(), Node::None) {
                    self.operator_named("=")?;
                }
                self.clean(it.arg(), how)?;
                self.clean_all(it.args(), how)?;
                self.clean(it.defresult(), how)
            }
            Node::CaseWhen(it) => {
                self.clean(it.expr(), how)?;
                self.clean(it.result(), how)
            }
            Node::CoalesceExpr(it) => self.clean_all(it.args(), how),
            Node::MinMaxExpr(it) => self.clean_all(it.args(), how),
            Node::A_ArrayExpr(it) => self.clean_all(it.elements(), how),
            Node::RowExpr(it) => self.clean_all(it.args(), how),
            Node::NamedArgExpr(it) => self.clean(it.arg(), how),
            Node::GroupingFunc(it) => self.clean_all(it.args(), how),
            Node::CollateClause(it) => self.clean(it.arg(), how),
            Node::TypeCast(it) => {
                self.type_name(it.type_name())?;
                self.clean(it.arg(), how)
            }
            Node::FuncCall(it) => self.call(it, how),
            Node::SubLink(it) => self.sublink(it, how),
            Node::A_Indirection(it) => self.indirection(it, how),
            Node::MergeSupportFunc(_) => self.builtin_syntax("merge_action"),
            Node::XmlExpr(it) => {
                self.clean_all(it.named_args(), how)?;
                self.clean_all(it.args(), how)
            }
            Node::XmlSerialize(it) => {
                self.type_name(it.type_name())?;
                self.clean(it.expr(), how)
            }
            // Named arguments of XML constructors.
            Node::ResTarget(it) => self.clean(it.val(), how),
            Node::CurrentOfExpr(_) => Ok(()),
            _ => self.json(node, how),
        }
    }

    fn sublink(&mut self, link: &'a nodes::SubLink, how: How) -> Res<()> {
        self.clean(link.testexpr(), how)?;
        match link.sub_link_type {
            // Whether rows exist cannot depend on a masked value: nothing in the sub-select does.
            SubLinkType::EXISTS_SUBLINK => self.subquery(link.subselect()).map(|_| ()),
            SubLinkType::ALL_SUBLINK | SubLinkType::ANY_SUBLINK => {
                if link.oper_name().is_empty() {
                    self.operator_named("=")?;
                } else {
                    self.operator(link.oper_name())?;
                }
                let rows = self.subquery(link.subselect())?;
                self.require_clean_rows(&rows, how)
            }
            SubLinkType::EXPR_SUBLINK | SubLinkType::ARRAY_SUBLINK | SubLinkType::MULTIEXPR_SUBLINK => {
                let rows = self.subquery(link.subselect())?;
                self.require_clean_rows(&rows, how)
            }
            _ => Err(Refusal::unsupported("this kind of sub-select")),
        }
    }

    /// Array elements and fields of a clean value. A field name may be a function called on the value, so it must not be
    /// the name of a function that is not listed.
    fn indirection(&mut self, it: &'a nodes::A_Indirection, how: How) -> Res<()> {
        self.clean(it.arg(), how)?;
        for step in it.indirection() {
            match step {
                Node::A_Indices(indices) => {
                    self.clean(indices.lidx(), how)?;
                    self.clean(indices.uidx(), how)?;
                }
                Node::String(name) => self.field_selection(name.sval().unwrap_or_default())?,
                _ => return Err(Refusal::unsupported("(…).* inside an expression")),
            }
        }
        Ok(())
    }

    /// A sub-select in any position; its rows may carry masks.
    pub(super) fn subquery(&mut self, node: Node<'a>) -> Res<OutRows<'a>> {
        match node {
            Node::SelectStmt(select) => self.select(select),
            _ => Err(Refusal::unsupported("this kind of sub-select")),
        }
    }
}

/// The only column of a scalar sub-select.
fn single<'a>(rows: &OutRows<'a>) -> Res<(Taint, Option<Name<'a>>)> {
    match rows.fields.as_slice() {
        [field] if !rows.open => Ok((field.taint, Some(field.name))),
        [] if rows.open => Ok((None, None)),
        _ => Err(Refusal::unsupported("a scalar sub-select of more than one column")),
    }
}
