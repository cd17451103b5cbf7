//! Functions, operators and types: which may run where masked columns exist. An unqualified name is judged by the worst
//! thing it can resolve to in any schema, so nothing hangs on overload resolution.

use pg_raw_parse::list::NodeList;
use pg_raw_parse::nodes::{FuncCall, TypeName};
use pg_raw_parse::{ConstValue, Node};

use super::{Analyser, settings};
use crate::catalog::{Builtin, Function, Names};
use crate::lexer;
use crate::refusal::{How, Refusal, Res};
use crate::statement::{Flag, RelName, Verb};

/// A name as written, without a database.
#[derive(Clone, Copy)]
pub(super) struct Qualified<'a> {
    pub(super) schema: Option<&'a str>,
    pub(super) name: &'a str,
}

impl std::fmt::Display for Qualified<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.schema {
            Some(schema) => write!(f, "{schema}.{}", self.name),
            None => f.write_str(self.name),
        }
    }
}

pub(super) fn qualified<'a>(mut names: impl Iterator<Item = Option<&'a str>>) -> Res<Qualified<'a>> {
    match (names.next().flatten(), names.next().flatten(), names.next()) {
        (Some(name), None, _) => Ok(Qualified { schema: None, name }),
        (Some(schema), Some(name), None) => Ok(Qualified { schema: Some(schema), name }),
        _ => Err(Refusal::unsupported("a name with a database")),
    }
}

impl<'a> Analyser<'a> {
    pub(super) fn call(&mut self, it: &'a FuncCall, how: How) -> Res<()> {
        let name = qualified(it.funcname().iter().map(Node::as_str))?;
        self.function(name, Some(it.args()))?;
        // In an output column the interesting thing to say is that it went through a function.
        let how = if how == How::Expression { How::Function } else { how };
        if !self.may_count(it)? {
            self.clean_all(it.args(), how)?;
        }
        it.agg_order().iter().try_for_each(|order| self.sort_expression(order, How::Order))?;
        self.clean(it.agg_filter(), How::Filter)?;
        it.over().map_or(Ok(()), |window| self.window(window))
    }

    /// Whether the function may run. `args` is `None` where it is called without a call's syntax.
    pub(super) fn function(&mut self, name: Qualified<'a>, args: Option<&'a NodeList>) -> Res<()> {
        let catalog = self.catalog;
        let judged = match catalog.functions.get(name.name) {
            Some(function) => judge(function, name.schema),
            // Not a function: a type's name used as one.
            None if args.is_some_and(|args| args.len() == 1) && self.is_builtin_type(name) => {
                Builtin::Computes
            }
            None => Builtin::Unlisted,
        };
        match judged {
            Builtin::Computes => self.counting(name.name, args),
            Builtin::Setting => self.setting_function(name, args),
            Builtin::Effects => {
                self.opaque_call(name);
                Ok(())
            }
            Builtin::Unlisted if self.clear() => {
                self.opaque_call(name);
                Ok(())
            }
            Builtin::Unlisted => Err(Refusal::function(name.to_string())),
        }
    }

    /// How far a sequence has counted is a value of the column it numbers.
    fn counting(&self, name: &str, args: Option<&'a NodeList>) -> Res<()> {
        let Some(column) = self.view.numbered() else { return Ok(()) };
        if !matches!(name, "nextval" | "currval" | "lastval" | "pg_sequence_last_value") {
            return Ok(());
        }
        let sequence = args.and_then(NodeList::first).and_then(|node| match node {
            Node::TypeCast(cast) => constant(cast.arg()),
            node => constant(node),
        });
        let named = sequence.and_then(|text| lexer::relation_name(text).map(|name| (text, name)));
        let id = match named {
            // One that came into being since the catalogue was read is looked for again.
            Some((text, (schema, table))) => {
                let found = self.catalog.lookup(schema.as_deref(), &table, self.path);
                Some(found.ok_or_else(|| Refusal::relation(text.to_owned()))?)
            }
            None => None,
        };
        match id {
            Some(id) if self.view.is_plain_sequence(id) => Ok(()),
            _ => Err(Refusal::labelled(column.to_string(), How::Sequence)),
        }
    }

    pub(super) fn opaque_call(&mut self, name: Qualified<'_>) {
        self.flags.insert(Flag::OpaqueFunction(name.to_string()));
        let function = self.catalog.functions.get(name.name);
        let schema = match name.schema {
            Some(schema) => schema,
            None if function.is_some_and(|function| function.builtin.is_some()) => "pg_catalog",
            None => function.and_then(|function| function.others.first()).map_or("", |(schema, _)| schema),
        };
        self.access(Verb::Call, Some(RelName { schema: schema.into(), table: name.name.into() }));
    }

    /// `current_setting('x')` is SHOW, `set_config('x', …)` is SET: allowed for the settings those allow.
    fn setting_function(&mut self, name: Qualified<'a>, args: Option<&'a NodeList>) -> Res<()> {
        let first = args.and_then(NodeList::first);
        let setting = match &first {
            Some(Node::A_Const(constant)) => match constant.val() {
                Some(ConstValue::String(setting)) => Some(setting),
                _ => None,
            },
            _ => None,
        };
        let setting = setting.ok_or_else(|| Refusal::function(name.to_string()))?;
        if name.name == "current_setting" {
            return settings::may_show(setting);
        }
        let value = args.and_then(|args| args.get(1));
        let constant = match value {
            Some(Node::A_Const(constant)) => constant,
            _ => return Err(Refusal::setting(setting)),
        };
        match constant.val() {
            Some(ConstValue::String(value)) => {
                settings::may_set(setting, &[value])?;
                if !self.clear() {
                    settings::beside_masks(setting, value)?;
                }
            }
            _ => return Err(Refusal::setting(setting)),
        }
        self.sets |= settings::gives_meaning(setting);
        self.access(Verb::Session, None);
        Ok(())
    }

    /// `(expr).name`: a field, unless a function of that name takes the value.
    pub(super) fn field_selection(&mut self, name: &'a str) -> Res<()> {
        match self.catalog.functions.get(name) {
            Some(_) => self.function(Qualified { schema: None, name }, None),
            None => Ok(()),
        }
    }

    /// Syntax that is a plain function call to an older server.
    pub(super) fn builtin_syntax(&mut self, name: &'a str) -> Res<()> {
        let others = self.catalog.functions.get(name).map_or(&[][..], |function| &function.others);
        if self.clear() || others.iter().all(|(_, trusted)| *trusted) {
            return Ok(());
        }
        Err(Refusal::function(name.to_owned()))
    }

    pub(super) fn operator(&mut self, names: &'a NodeList) -> Res<()> {
        if self.clear() {
            return Ok(());
        }
        let name = qualified(names.iter().map(Node::as_str))?;
        self.operator_judged(name)
    }

    pub(super) fn operator_named(&mut self, name: &'a str) -> Res<()> {
        if self.clear() { Ok(()) } else { self.operator_judged(Qualified { schema: None, name }) }
    }

    fn operator_judged(&mut self, name: Qualified<'a>) -> Res<()> {
        let fine = self.catalog.operators.get(name.name).is_some_and(|names| is_trusted(names, name.schema));
        if fine { Ok(()) } else { Err(Refusal::operator(name.to_string())) }
    }

    /// A type in a cast: casting to some types runs functions of the database's own.
    pub(super) fn type_name(&mut self, it: Option<&'a TypeName>) -> Res<()> {
        let Some(it) = it else { return Ok(()) };
        if it.setof || it.pct_type {
            return Err(Refusal::unsupported("this type name"));
        }
        if self.clear() {
            return Ok(());
        }
        let name = qualified(it.names().iter().map(|part| part.sval()))?;
        let found = self.find_type(name);
        match found {
            Some(opaque) if !opaque => Ok(()),
            _ => Err(Refusal::data_type(name.to_string())),
        }
    }

    /// Whether the type runs functions of the database's own; `None` if there is no such type.
    pub(super) fn find_type(&self, name: Qualified<'_>) -> Option<bool> {
        let types = self.catalog.types.get(name.name)?;
        match name.schema {
            Some(schema) => {
                let schema = self.catalog.schema_ids.get(schema)?;
                types.iter().find(|found| found.schema == *schema).map(|found| found.opaque)
            }
            None => {
                let mut path = self.path.iter();
                path.find_map(|schema| types.iter().find(|found| found.schema == *schema))
                    .map(|found| found.opaque)
            }
        }
    }

    fn is_builtin_type(&self, name: Qualified<'_>) -> bool {
        let builtin = self.catalog.builtin_path.first();
        let types = self.catalog.types.get(name.name);
        name.schema.is_none_or(|schema| schema == "pg_catalog")
            && types.is_some_and(|types| types.iter().all(|found| Some(&found.schema) == builtin))
    }
}

fn constant<'a>(node: Node<'a>) -> Option<&'a str> {
    let Node::A_Const(constant) = node else { return None };
    match constant.val() {
        Some(ConstValue::String(text)) => Some(text),
        _ => None,
    }
}

fn judge(function: &Function, schema: Option<&str>) -> Builtin {
    let others_trusted = |wanted: Option<&str>| {
        let mut matching =
            function.others.iter().filter(|(schema, _)| wanted.is_none_or(|wanted| **schema == *wanted));
        matching.all(|(_, trusted)| *trusted)
    };
    match schema {
        Some("pg_catalog") => function.builtin.unwrap_or(Builtin::Unlisted),
        Some(schema) => {
            let known = function.others.iter().any(|(known, _)| **known == *schema);
            if known && others_trusted(Some(schema)) { Builtin::Computes } else { Builtin::Unlisted }
        }
        None if !others_trusted(None) => Builtin::Unlisted,
        None => function.builtin.unwrap_or(Builtin::Computes),
    }
}

fn is_trusted(names: &Names, schema: Option<&str>) -> bool {
    match schema {
        Some("pg_catalog") => names.builtin,
        Some(schema) => names.others.iter().any(|(known, trusted)| **known == *schema && *trusted),
        None => {
            (names.builtin || !names.others.is_empty()) && names.others.iter().all(|(_, trusted)| *trusted)
        }
    }
}
