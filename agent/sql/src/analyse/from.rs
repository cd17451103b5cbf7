//! FROM: tables, CTEs, sub-selects, functions, sampling, XMLTABLE and JSON_TABLE.

use std::rc::Rc;

use pg_raw_parse::list::{CastNodeList, NodeList};
use pg_raw_parse::nodes::{
    Alias, JsonTable, JsonTableColumn, RangeFunction, RangeSubselect, RangeTableFunc, RangeTableSample,
    RangeVar,
};
use pg_raw_parse::{Node, nodes};

use super::Analyser;
use super::call::qualified;
use super::scope::{Fields, Item, Name, OutRows};
use super::with::rename;
use crate::catalog::{RelId, Shape};
use crate::refusal::{How, Refusal, Res};
use crate::statement::Verb;

impl<'a> Analyser<'a> {
    /// Brings a FROM list into the scope of the current level. While it is read, items to the left are visible to
    /// LATERAL only.
    pub(super) fn source_list(&mut self, list: &'a NodeList) -> Res<()> {
        let first = self.level()?.items.len();
        for node in list {
            let items = self.source(node)?;
            let level = self.level()?;
            level.items.extend(items.into_iter().map(|item| Item { lateral_only: true, ..item }));
        }
        for item in self.level()?.items.iter_mut().skip(first) {
            item.lateral_only = false;
        }
        Ok(())
    }

    pub(super) fn source(&mut self, node: Node<'a>) -> Res<Vec<Item<'a>>> {
        self.spend(1)?;
        match node {
            Node::RangeVar(range) => Ok(vec![self.range_var(range)?]),
            Node::RangeSubselect(range) => Ok(vec![self.range_subselect(range)?]),
            Node::RangeFunction(range) => Ok(vec![self.lateral(true, |this| this.range_function(range))?]),
            Node::RangeTableFunc(range) => Ok(vec![self.lateral(true, |this| this.xml_table(range))?]),
            Node::JsonTable(range) => Ok(vec![self.lateral(true, |this| this.json_table(range))?]),
            Node::RangeTableSample(range) => self.range_sample(range),
            Node::JoinExpr(join) => self.deeper(|this| this.join(join)),
            _ => Err(Refusal::unsupported(&super::json::node_name(node))),
        }
    }

    /// Runs `inner` with the items to the left visible or not.
    fn lateral<T>(&mut self, visible: bool, inner: impl FnOnce(&mut Self) -> Res<T>) -> Res<T> {
        let before = std::mem::replace(&mut self.level()?.lateral, visible);
        let result = inner(self);
        self.level()?.lateral = before;
        result
    }

    fn range_var(&mut self, range: &'a RangeVar) -> Res<Item<'a>> {
        let name = range.relname().unwrap_or_default();
        if range.schemaname().is_none()
            && range.catalogname().is_none()
            && let Some(rows) = self.find_cte(name)?
        {
            return aliased(name, Fields::List(rows), range.alias());
        }
        let id = self.relation(range)?;
        self.touch(id, Verb::Select)?;
        self.table_item(id, range)
    }

    /// The item of a relation, under its alias if it has one.
    pub(super) fn table_item(&self, id: RelId, range: &'a RangeVar) -> Res<Item<'a>> {
        let fields = self.table_fields(id)?;
        let mut item = aliased(range.relname().unwrap_or_default(), fields, range.alias())?;
        item.relation = range.alias().is_none().then_some(id);
        item.system_columns = self.has_system_columns(id);
        Ok(item)
    }

    /// A relation of the catalogue by its name in a statement.
    pub(super) fn relation(&self, range: &RangeVar) -> Res<RelId> {
        let name = range.relname().unwrap_or_default();
        let id = match range.catalogname() {
            None => self.catalog.lookup(range.schemaname(), name, self.path),
            Some(_) => None,
        };
        id.ok_or_else(|| {
            let parts = [range.catalogname(), range.schemaname(), Some(name)];
            Refusal::relation(parts.into_iter().flatten().collect::<Vec<_>>().join("."))
        })
    }

    fn find_cte(&mut self, name: &str) -> Res<Option<Rc<OutRows<'a>>>> {
        let mut work = 1;
        for level in self.levels.iter().rev() {
            work += level.ctes.len() + level.future.len();
            if let Some(cte) = level.ctes.iter().rev().find(|cte| cte.name == name) {
                let fields = cte.fields.clone();
                self.spend(work)?;
                return fields
                    .map(Some)
                    .ok_or_else(|| Refusal::unsupported("this reference of a WITH query to itself"));
            }
            if level.future.contains(&name) {
                return Err(Refusal::unsupported("a reference to a later query of WITH RECURSIVE"));
            }
        }
        self.spend(work)?;
        Ok(None)
    }

    fn range_subselect(&mut self, range: &'a RangeSubselect) -> Res<Item<'a>> {
        let rows = self.lateral(range.lateral, |this| this.subquery(range.subquery()))?;
        aliased("", Fields::List(Rc::new(rows)), range.alias())
    }

    fn range_sample(&mut self, range: &'a RangeTableSample) -> Res<Vec<Item<'a>>> {
        let method = qualified(range.method().iter().map(Node::as_str))?;
        let known =
            matches!(method.name, "bernoulli" | "system") && method.schema.is_none_or(|s| s == "pg_catalog");
        if !known && !self.clear() {
            return Err(Refusal::function(method.to_string()));
        }
        let items = self.source(range.relation())?;
        self.lateral(true, |this| {
            this.clean_all(range.args(), How::Sample)?;
            this.clean(range.repeatable(), How::Sample)
        })?;
        Ok(items)
    }

    fn range_function(&mut self, range: &'a RangeFunction) -> Res<Item<'a>> {
        let mut rows = OutRows::default();
        let mut name = "";
        let several = range.functions().len() > 1;
        for function in range.functions() {
            // Each entry is a pair: the call, and its column definitions or nothing.
            let Node::NodeList(pair) = function else {
                return Err(Refusal::unsupported("this function in FROM"));
            };
            let call = pair.get(0).unwrap_or(Node::None);
            self.clean(call, How::Source)?;
            let called = match call {
                Node::FuncCall(call) => {
                    call.funcname().iter().filter_map(Node::as_str).next_back().unwrap_or_default()
                }
                node => super::figure::expression_name(node, self.catalog.version),
            };
            if name.is_empty() {
                name = called;
            }
            let definitions = match pair.get(1) {
                Some(Node::NodeList(list)) => self.defined_columns(list.iter())?,
                _ => self.defined_columns(range.coldeflist().iter().map(Node::ColumnDef))?,
            };
            if definitions.is_empty() {
                self.function_columns(call, called, range.alias(), several, &mut rows);
            } else {
                rows.fields.extend(OutRows::clean(definitions).fields);
            }
        }
        if range.ordinality {
            rows.push(Name::Given("ordinality"), None);
        }
        aliased(name, Fields::List(Rc::new(rows)), range.alias())
    }

    /// Names in a column definition list, whose types must be harmless.
    fn defined_columns(&mut self, list: impl Iterator<Item = Node<'a>>) -> Res<Vec<&'a str>> {
        let mut names = Vec::new();
        for column in list {
            let Node::ColumnDef(column) = column else {
                return Err(Refusal::unsupported("this column definition list"));
            };
            self.type_name(column.type_name())?;
            names.push(column.colname().unwrap_or_default());
        }
        Ok(names)
    }

    /// Columns of one call. A function of one scalar names its column after the alias.
    fn function_columns(
        &self,
        call: Node<'a>,
        called: &'a str,
        alias: Option<&'a Alias>,
        several: bool,
        rows: &mut OutRows<'a>,
    ) {
        let shape = match call {
            Node::FuncCall(_) => {
                self.catalog.functions.get(called).map_or(&Shape::Unknown, |function| &function.shape)
            }
            _ => &Shape::Scalar,
        };
        match shape {
            Shape::Scalar => {
                let name = alias.filter(|_| !several).and_then(Alias::aliasname).unwrap_or(called);
                rows.push(Name::Given(name), None);
            }
            Shape::Columns(names) if !names.iter().any(|name| name.is_empty()) => {
                rows.fields.extend(OutRows::clean(names.iter().map(|name| &**name)).fields);
            }
            Shape::Columns(_) | Shape::Unknown => rows.open = true,
        }
    }

    fn xml_table(&mut self, range: &'a RangeTableFunc) -> Res<Item<'a>> {
        self.clean(range.docexpr(), How::Source)?;
        self.clean(range.rowexpr(), How::Source)?;
        self.clean_all(range.namespaces(), How::Source)?;
        let mut rows = OutRows::default();
        for column in range.columns() {
            self.type_name(column.type_name())?;
            self.clean(column.colexpr(), How::Source)?;
            self.clean(column.coldefexpr(), How::Source)?;
            rows.push(Name::Given(column.colname().unwrap_or_default()), None);
        }
        aliased("xmltable", Fields::List(Rc::new(rows)), range.alias())
    }

    fn json_table(&mut self, range: &'a JsonTable) -> Res<Item<'a>> {
        self.builtin_syntax("json_table")?;
        self.json_value(range.context_item(), How::Source)?;
        self.json_passing(range.passing(), How::Source)?;
        if let Some(behavior) = range.on_error() {
            self.clean(behavior.expr(), How::Source)?;
        }
        let mut rows = OutRows::default();
        for column in range.columns() {
            self.json_column(column, &mut rows)?;
        }
        aliased("json_table", Fields::List(Rc::new(rows)), range.alias())
    }

    fn json_column(&mut self, column: &'a JsonTableColumn, rows: &mut OutRows<'a>) -> Res<()> {
        self.type_name(column.type_name())?;
        for behavior in [column.on_empty(), column.on_error()].into_iter().flatten() {
            self.clean(behavior.expr(), How::Source)?;
        }
        if column.coltype != pg_raw_parse::raw::JsonTableColumnType::JTC_NESTED {
            rows.push(Name::Given(column.name().unwrap_or_default()), None);
        }
        for nested in column.columns() {
            match nested {
                Node::JsonTableColumn(nested) => self.deeper(|this| this.json_column(nested, rows))?,
                _ => return Err(Refusal::unsupported("this column of JSON_TABLE")),
            }
        }
        Ok(())
    }
}

/// An item under its alias: the name and the column aliases, if any.
pub(super) fn aliased<'a>(name: &'a str, fields: Fields<'a>, alias: Option<&'a Alias>) -> Res<Item<'a>> {
    let Some(alias) = alias else { return Ok(Item::new(name, fields)) };
    let name = alias.aliasname().unwrap_or(name);
    if alias.colnames().is_empty() {
        return Ok(Item::new(name, fields));
    }
    let mut rows = OutRows::default();
    fields.expand(&mut rows);
    Ok(Item::new(name, Fields::List(Rc::new(rename(rows, alias.colnames())?))))
}

/// Names in a list that the binding knows to hold strings only.
pub(super) fn strings(list: &CastNodeList<nodes::String>) -> impl Iterator<Item = &str> {
    list.iter().filter_map(|name| name.sval())
}
