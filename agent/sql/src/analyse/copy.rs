//! COPY: which rows move, and in which format they appear on the wire.

use pg_raw_parse::nodes::{CopyStmt, DefElem};
use pg_raw_parse::{Node, nodes};

use super::Analyser;
use super::dispatch::Draft;
use super::scope::{Fields, Name, OutRows};
use crate::catalog::RelId;
use crate::refusal::{How, Refusal, Res};
use crate::statement::{Class, CopyDirection, CopyFormat, CopyPlan, Verb};

impl<'a> Analyser<'a> {
    pub(super) fn copy(&mut self, copy: &'a CopyStmt) -> Res<Draft<'a>> {
        if copy.is_program {
            return Err(Refusal::class(
                "COPY with a program on the server",
                "use COPY … TO STDOUT or FROM STDIN",
            ));
        }
        if copy.filename().is_some() {
            return Err(Refusal::class(
                "COPY with a file on the server",
                "use COPY … TO STDOUT or FROM STDIN",
            ));
        }
        let plan = plan(copy)?;
        if copy.is_from {
            self.copy_in(copy)?;
            return Ok(Draft { copy: Some(plan), ..Draft::new(Class::Copy) });
        }
        let rows = match copy.query() {
            Node::None => self.copy_out(copy)?,
            query => self.copied_query(query)?,
        };
        if rows.first_taint().is_some() {
            self.maskable(&rows, &plan)?;
        }
        Ok(Draft { copy: Some(plan), rows: Some(rows), ..Draft::new(Class::Copy) })
    }

    fn copied_query(&mut self, query: Node<'a>) -> Res<OutRows<'a>> {
        let rows = match query {
            Node::SelectStmt(select) => Some(self.select(select)?),
            Node::InsertStmt(insert) => self.insert(insert)?,
            Node::UpdateStmt(update) => self.update(update)?,
            Node::DeleteStmt(delete) => self.delete(delete)?,
            Node::MergeStmt(merge) => self.merge(merge)?,
            _ => return Err(Refusal::unsupported("this query in COPY")),
        };
        self.access(Verb::CopyOut, None);
        rows.ok_or_else(|| Refusal::unsupported("COPY of a query without rows"))
    }

    fn copy_target(&mut self, copy: &'a CopyStmt, verb: Verb) -> Res<RelId> {
        let range = copy.relation().ok_or_else(|| Refusal::unsupported("this COPY"))?;
        let id = self.relation(range)?;
        match verb {
            Verb::CopyIn => self.touch_write(id, verb)?,
            _ => self.touch(id, verb)?,
        }
        Ok(id)
    }

    fn copy_out(&mut self, copy: &'a CopyStmt) -> Res<OutRows<'a>> {
        let id = self.copy_target(copy, Verb::CopyOut)?;
        self.clean(copy.where_clause(), How::Filter)?;
        let Fields::Table { columns, taints } = self.table_fields(id)? else { return Ok(OutRows::default()) };
        let mut rows = OutRows::default();
        let mut add = |position: usize| {
            if let Some(column) = columns.list.get(position) {
                rows.push(Name::Given(&column.name), taints.get(position).copied().flatten());
            }
        };
        if copy.attlist().is_empty() {
            let stored = columns.list.iter().enumerate().filter(|(_, column)| column.generated.is_none());
            stored.for_each(|(position, _)| add(position));
        } else {
            for name in copy.attlist().iter().filter_map(Node::as_str) {
                add(columns.position(name).ok_or_else(|| Refusal::column(name))?);
            }
        }
        Ok(rows)
    }

    fn copy_in(&mut self, copy: &'a CopyStmt) -> Res<()> {
        let id = self.copy_target(copy, Verb::CopyIn)?;
        let Fields::Table { columns, .. } = self.table_fields(id)? else { return Ok(()) };
        if copy.attlist().is_empty() {
            (0..columns.list.len()).try_for_each(|position| self.may_write(id, position))?;
        }
        for name in copy.attlist().iter().filter_map(Node::as_str) {
            let position = columns.position(name).ok_or_else(|| Refusal::column(name))?;
            self.may_write(id, position)?;
        }
        let filter = copy.where_clause();
        let Some(range) = copy.relation().filter(|_| !matches!(filter, Node::None)) else { return Ok(()) };
        self.nested(|this| {
            let item = this.table_item(id, range)?;
            this.level()?.items.push(item);
            this.clean(filter, How::Filter)
        })
    }

    /// A mask must be tellable from the marks of the format.
    fn maskable(&mut self, rows: &OutRows<'a>, plan: &CopyPlan) -> Res<()> {
        let marks = [plan.delimiter, plan.quote, plan.escape];
        let fits = match plan.format {
            CopyFormat::Binary => true,
            // A backslash at the end of what stands for NULL would hide the end of its field.
            CopyFormat::Text => {
                plan.delimiter != b'*' && (plan.null == "\\N" || !plan.null.contains(['*', '\\']))
            }
            CopyFormat::Csv => !marks.contains(&b'*') && !plan.null.contains('*'),
        };
        if fits && !rows.open { Ok(()) } else { self.require_clean(rows.first_taint(), How::Copy) }
    }
}

fn plan(copy: &CopyStmt) -> Res<CopyPlan> {
    let mut plan = CopyPlan {
        direction: if copy.is_from { CopyDirection::In } else { CopyDirection::Out },
        format: CopyFormat::Text,
        delimiter: b'\t',
        null: String::new(),
        header: false,
        quote: b'"',
        escape: b'"',
        table: copy.relation().is_some(),
    };
    let (mut delimiter, mut null, mut escape) = (None, None, None);
    for option in copy.options() {
        let text = text(option);
        match option.defname().unwrap_or_default() {
            "format" => {
                plan.format = match text.as_deref() {
                    Some("text") => CopyFormat::Text,
                    Some("csv") => CopyFormat::Csv,
                    Some("binary") => CopyFormat::Binary,
                    _ => return Err(Refusal::unsupported("this format of COPY")),
                }
            }
            "delimiter" => delimiter = Some(byte(text)?),
            "quote" => plan.quote = byte(text)?,
            "escape" => escape = Some(byte(text)?),
            "null" => null = text,
            "header" => {
                let off = |text: &str| matches!(text.to_ascii_lowercase().as_str(), "false" | "off" | "0");
                plan.header = !text.as_deref().is_some_and(off);
            }
            "encoding" => {
                let utf8 = text.as_deref().is_some_and(|text| {
                    text.eq_ignore_ascii_case("utf8") || text.eq_ignore_ascii_case("utf-8")
                });
                if !utf8 {
                    return Err(Refusal::setting("the encoding of COPY"));
                }
            }
            "freeze" | "force_quote" | "force_not_null" | "force_null" | "default" | "on_error"
            | "log_verbosity" | "reject_limit" => {}
            _ => return Err(Refusal::unsupported("this option of COPY")),
        }
    }
    let csv = plan.format == CopyFormat::Csv;
    plan.delimiter = delimiter.unwrap_or(if csv { b',' } else { b'\t' });
    plan.null = null.unwrap_or_else(|| if csv { String::new() } else { "\\N".to_owned() });
    plan.escape = escape.unwrap_or(plan.quote);
    Ok(plan)
}

fn text(option: &DefElem) -> Option<String> {
    Some(match option.arg() {
        Node::String(text) => text.sval()?.to_owned(),
        Node::Boolean(value) => value.boolval.to_string(),
        Node::Integer(nodes::Integer { ival, .. }) => ival.to_string(),
        _ => return None,
    })
}

fn byte(text: Option<String>) -> Res<u8> {
    match text.as_deref().map(str::as_bytes) {
        Some([byte]) => Ok(*byte),
        _ => Err(Refusal::unsupported("this option of COPY")),
    }
}
