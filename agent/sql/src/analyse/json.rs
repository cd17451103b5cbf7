//! SQL/JSON constructors and query functions: every argument must be clean. Before PostgreSQL 16 and 17 some of these
//! were ordinary function names, so a function of the database's own with such a name is refused.

use std::fmt::Write;

use pg_raw_parse::Node;
use pg_raw_parse::nodes;

use super::Analyser;
use crate::refusal::{How, Refusal, Res};

impl<'a> Analyser<'a> {
    pub(super) fn json(&mut self, node: Node<'a>, how: How) -> Res<()> {
        match node {
            Node::JsonIsPredicate(it) => self.clean(it.expr(), how),
            Node::JsonParseExpr(it) => {
                self.builtin_syntax("json")?;
                self.json_value(it.expr(), how)?;
                self.json_output(it.output())
            }
            Node::JsonScalarExpr(it) => {
                self.builtin_syntax("json_scalar")?;
                self.clean(it.expr(), how)?;
                self.json_output(it.output())
            }
            Node::JsonSerializeExpr(it) => {
                self.builtin_syntax("json_serialize")?;
                self.json_value(it.expr(), how)?;
                self.json_output(it.output())
            }
            Node::JsonObjectConstructor(it) => {
                self.builtin_syntax("json_object")?;
                for pair in it.exprs() {
                    self.clean(pair.key(), how)?;
                    self.json_value(pair.value(), how)?;
                }
                self.json_output(it.output())
            }
            Node::JsonArrayConstructor(it) => {
                self.builtin_syntax("json_array")?;
                it.exprs().iter().try_for_each(|value| self.json_value(Some(value), how))?;
                self.json_output(it.output())
            }
            Node::JsonArrayQueryConstructor(it) => {
                self.builtin_syntax("json_array")?;
                let rows = self.subquery(it.query())?;
                self.require_clean_rows(&rows, how)?;
                self.json_output(it.output())
            }
            Node::JsonObjectAgg(it) => {
                self.builtin_syntax("json_objectagg")?;
                if let Some(pair) = it.arg() {
                    self.clean(pair.key(), how)?;
                    self.json_value(pair.value(), how)?;
                }
                self.json_aggregate(it.constructor())
            }
            Node::JsonArrayAgg(it) => {
                self.builtin_syntax("json_arrayagg")?;
                self.json_value(it.arg(), how)?;
                self.json_aggregate(it.constructor())
            }
            Node::JsonFuncExpr(it) => self.json_function(it, how),
            Node::JsonValueExpr(it) => self.json_value(Some(it), how),
            _ => Err(Refusal::unsupported(&node_name(node))),
        }
    }

    pub(super) fn json_value(&mut self, value: Option<&'a nodes::JsonValueExpr>, how: How) -> Res<()> {
        let Some(value) = value else { return Ok(()) };
        self.clean(value.raw_expr(), how)
    }

    fn json_output(&mut self, output: Option<&'a nodes::JsonOutput>) -> Res<()> {
        match output {
            Some(output) => self.type_name(output.type_name()),
            None => Ok(()),
        }
    }

    fn json_aggregate(&mut self, it: Option<&'a nodes::JsonAggConstructor>) -> Res<()> {
        let Some(it) = it else { return Ok(()) };
        self.json_output(it.output())?;
        self.clean(it.agg_filter(), How::Filter)?;
        for order in it.agg_order() {
            match order {
                Node::SortBy(order) => self.sort_expression(order, How::Order)?,
                _ => return Err(Refusal::unsupported("this ORDER BY")),
            }
        }
        it.over().map_or(Ok(()), |window| self.window(window))
    }

    fn json_function(&mut self, it: &'a nodes::JsonFuncExpr, how: How) -> Res<()> {
        ["json_exists", "json_query", "json_value"]
            .into_iter()
            .try_for_each(|name| self.builtin_syntax(name))?;
        self.json_value(it.context_item(), how)?;
        self.clean(it.pathspec(), how)?;
        self.json_passing(it.passing(), how)?;
        self.json_output(it.output())?;
        for behavior in [it.on_empty(), it.on_error()].into_iter().flatten() {
            self.clean(behavior.expr(), how)?;
        }
        Ok(())
    }

    pub(super) fn json_passing(&mut self, list: &'a pg_raw_parse::list::NodeList, how: How) -> Res<()> {
        for argument in list {
            match argument {
                Node::JsonArgument(argument) => self.json_value(argument.val(), how)?,
                _ => return Err(Refusal::unsupported("this PASSING clause")),
            }
        }
        Ok(())
    }
}

/// The grammar's name of a node, for a refusal. Stops the formatter at the first character that is not of the name, so
/// that nothing below the node is visited.
pub(super) fn node_name(node: Node<'_>) -> String {
    struct First(String);
    impl Write for First {
        fn write_str(&mut self, text: &str) -> std::fmt::Result {
            let name = text.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').count();
            self.0.extend(text.chars().take(name));
            if name < text.len() { Err(std::fmt::Error) } else { Ok(()) }
        }
    }
    let mut first = First("the construct ".to_owned());
    let _ = write!(first, "{node:?}");
    first.0
}
