//! Names in scope: query levels, FROM items, their columns. Knows how the server looks a name up, not what it is used
//! for.

use std::rc::Rc;

use pg_raw_parse::Node;
use pg_raw_parse::nodes::ColumnRef;

use super::{Analyser, Taint};
use crate::catalog::{Columns, RelId, RelKind};
use crate::refusal::{How, Refusal, Res};

/// One query level: what FROM and WITH brought into scope.
#[derive(Default)]
pub(super) struct Level<'a> {
    pub(super) items: Vec<Item<'a>>,
    pub(super) ctes: Vec<Cte<'a>>,
    /// Names of a WITH RECURSIVE that are yet to come.
    pub(super) future: Vec<&'a str>,
    /// Whether items that only LATERAL may see can be seen now.
    pub(super) lateral: bool,
}

pub(super) struct Cte<'a> {
    pub(super) name: &'a str,
    /// `None` where a reference would be an error.
    pub(super) fields: Option<Rc<OutRows<'a>>>,
}

/// Something a column can be taken from.
#[derive(Clone)]
pub(super) struct Item<'a> {
    /// The alias, or the name of an unaliased relation; empty for none.
    pub(super) name: &'a str,
    /// Set for an unaliased relation: it can be named with its schema.
    pub(super) relation: Option<RelId>,
    pub(super) fields: Fields<'a>,
    pub(super) rel_visible: bool,
    pub(super) cols_visible: bool,
    pub(super) lateral_only: bool,
    /// `ctid`, `xmin` and the like exist.
    pub(super) system_columns: bool,
}

#[derive(Clone)]
pub(super) enum Fields<'a> {
    Table { columns: &'a Columns, taints: &'a [Taint] },
    List(Rc<OutRows<'a>>),
}

/// Columns that a query, CTE, join or function gives.
#[derive(Clone, Default)]
pub(super) struct OutRows<'a> {
    pub(super) fields: Vec<Field<'a>>,
    /// There are more columns, all clean, with names not known.
    pub(super) open: bool,
}

#[derive(Clone, Copy)]
pub(super) struct Field<'a> {
    pub(super) name: Name<'a>,
    pub(super) taint: Taint,
    /// A literal: it takes the type of what it meets.
    pub(super) literal: bool,
}

impl<'a> Field<'a> {
    pub(super) fn new(name: Name<'a>, taint: Taint) -> Self {
        Self { name, taint, literal: false }
    }
}

#[derive(Clone, Copy)]
pub(super) enum Name<'a> {
    /// Written in the statement: an alias or the name of a column.
    Given(&'a str),
    /// Derived from an expression; versions of the server differ in some of these.
    Figured(&'a str),
    /// `column1`, `column2`, … of VALUES.
    Numbered(usize),
}

impl Name<'_> {
    pub(super) fn is(&self, name: &str) -> bool {
        match self {
            Self::Given(own) | Self::Figured(own) => *own == name,
            Self::Numbered(number) => {
                let digits = name.strip_prefix("column").filter(|digits| !digits.starts_with(['0', '+']));
                digits.and_then(|digits| digits.parse().ok()) == Some(*number)
            }
        }
    }
}

impl<'a> OutRows<'a> {
    pub(super) fn clean(names: impl IntoIterator<Item = &'a str>) -> Self {
        let fields = names.into_iter().map(|name| Field::new(Name::Given(name), None)).collect();
        Self { fields, open: false }
    }

    pub(super) fn first_taint(&self) -> Taint {
        self.fields.iter().find_map(|field| field.taint)
    }

    pub(super) fn push(&mut self, name: Name<'a>, taint: Taint) {
        self.fields.push(Field::new(name, taint));
    }
}

/// Result of looking for a name among the columns of one or more items.
#[derive(Clone, Copy, Default)]
pub(super) struct Found {
    pub(super) count: usize,
    pub(super) taint: Taint,
    /// It is a column of a table, and not what a query made of one.
    pub(super) direct: bool,
    /// An item with unknown columns was among them.
    pub(super) open: bool,
}

impl<'a> Fields<'a> {
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Table { columns, .. } => columns.list.len(),
            Self::List(rows) => rows.fields.len(),
        }
    }

    pub(super) fn first_taint(&self) -> Taint {
        match self {
            Self::Table { taints, .. } => taints.iter().copied().find_map(|taint| taint),
            Self::List(rows) => rows.first_taint(),
        }
    }

    fn find(&self, name: &str, found: &mut Found) {
        match self {
            Self::Table { columns, taints } => {
                if let Some(position) = columns.position(name) {
                    found.direct = found.count == 0;
                    found.count += 1;
                    found.taint = found.taint.or(taints.get(position).copied().flatten());
                }
            }
            Self::List(rows) => {
                for field in rows.fields.iter().filter(|field| field.name.is(name)) {
                    found.direct = false;
                    found.count += 1;
                    found.taint = found.taint.or(field.taint);
                }
                found.open |= rows.open;
            }
        }
    }

    /// Appends the columns to `out`, as `*` does.
    pub(super) fn expand(&self, out: &mut OutRows<'a>) {
        match self {
            Self::Table { columns, taints } => {
                out.fields.extend(columns.list.iter().enumerate().map(|(position, column)| {
                    Field::new(Name::Given(&column.name), taints.get(position).copied().flatten())
                }));
            }
            Self::List(rows) => {
                out.fields.extend(rows.fields.iter().copied());
                out.open |= rows.open;
            }
        }
    }
}

const SYSTEM_COLUMNS: [&str; 6] = ["ctid", "xmin", "cmin", "xmax", "cmax", "tableoid"];

impl<'a> Item<'a> {
    pub(super) fn new(name: &'a str, fields: Fields<'a>) -> Self {
        Self {
            name,
            relation: None,
            fields,
            rel_visible: !name.is_empty(),
            cols_visible: true,
            lateral_only: false,
            system_columns: false,
        }
    }

    pub(super) fn find(&self, name: &str, found: &mut Found) {
        let before = found.count;
        self.fields.find(name, found);
        if found.count == before && self.system_columns && SYSTEM_COLUMNS.contains(&name) {
            found.count += 1;
        }
    }
}

/// What a column reference turned out to be.
pub(super) enum Resolved {
    Column(Taint),
    /// A whole row that holds no masked column.
    Row,
}

impl<'a> Analyser<'a> {
    pub(super) fn level(&mut self) -> Res<&mut Level<'a>> {
        self.levels.last_mut().ok_or_else(|| Refusal::unsupported("an expression outside a query"))
    }

    /// The item for a relation of the catalogue.
    pub(super) fn table_fields(&self, id: RelId) -> Res<Fields<'a>> {
        let Some(relation) = self.catalog.relation(id) else {
            return Err(Refusal::unsupported("this relation"));
        };
        let taints = self.view.rel_mask(id).map_or(&[][..], |mask| &mask.taints);
        Ok(Fields::Table { columns: &relation.columns, taints })
    }

    pub(super) fn has_system_columns(&self, id: RelId) -> bool {
        self.catalog.relation(id).is_some_and(|relation| relation.kind == RelKind::Table)
    }

    pub(super) fn column(&mut self, reference: &'a ColumnRef) -> Res<Resolved> {
        self.columns += 1;
        self.direct = false;
        let fields = reference.fields();
        let mut parts = [""; 3];
        if fields.len() > parts.len() {
            return Err(Refusal::unsupported("a column name with a database"));
        }
        for (part, node) in parts.iter_mut().zip(fields) {
            match node {
                Node::String(text) => *part = text.sval().unwrap_or_default(),
                Node::A_Star(_) => return self.star_in_expression(reference),
                _ => return Err(Refusal::unsupported("this column reference")),
            }
        }
        match (fields.len(), parts) {
            (1, [name, ..]) => self.unqualified(name),
            (2, [relation, name, _]) => self.qualified(None, relation, name),
            (3, [schema, relation, name]) => self.qualified(Some(schema), relation, name),
            _ => Err(Refusal::unsupported("this column reference")),
        }
    }

    /// `t.*` as an argument is the whole row.
    fn star_in_expression(&mut self, reference: &'a ColumnRef) -> Res<Resolved> {
        let item = self.star_item(reference)?;
        let item = item.ok_or_else(|| Refusal::unsupported("* inside an expression"))?;
        self.whole_row(&item.fields)
    }

    fn whole_row(&mut self, fields: &Fields<'a>) -> Res<Resolved> {
        self.require_clean(fields.first_taint(), How::WholeRow)?;
        Ok(Resolved::Row)
    }

    fn unqualified(&mut self, name: &'a str) -> Res<Resolved> {
        let mut open = false;
        for depth in (0..self.levels.len()).rev() {
            let found = self.find_in_level(depth, name)?;
            match found.count {
                0 => open |= found.open,
                1 if open && found.taint.is_some() => return Err(Refusal::ambiguous(name)),
                1 => {
                    self.direct = found.direct;
                    return Ok(Resolved::Column(found.taint));
                }
                _ => return Err(Refusal::ambiguous(name)),
            }
        }
        if let Some(item) = self.find_item(None, name)? {
            return self.whole_row(&item.fields);
        }
        if open { Ok(Resolved::Column(None)) } else { Err(Refusal::column(name)) }
    }

    /// Columns of this name among the visible items of one level.
    pub(super) fn find_in_level(&mut self, depth: usize, name: &str) -> Res<Found> {
        let mut found = Found::default();
        let mut work = 0;
        if let Some(level) = self.levels.get(depth) {
            for item in &level.items {
                if item.cols_visible && (!item.lateral_only || level.lateral) {
                    item.find(name, &mut found);
                    work += 1 + if matches!(item.fields, Fields::List(_)) { item.fields.len() } else { 0 };
                }
            }
        }
        self.spend(work + 1)?;
        Ok(found)
    }

    fn qualified(&mut self, schema: Option<&str>, relation: &'a str, name: &'a str) -> Res<Resolved> {
        let Some(item) = self.find_item(schema, relation)? else {
            return Err(Refusal::column(&format!("{relation}.{name}")));
        };
        let mut found = Found::default();
        item.find(name, &mut found);
        match found.count {
            // A column that is not known, or a function called on the row, in the notation of a column.
            0 if found.open => self.field_selection(name).map(|()| Resolved::Column(None)),
            0 => Err(Refusal::column(&format!("{relation}.{name}"))),
            1 => {
                self.direct = found.direct;
                Ok(Resolved::Column(found.taint))
            }
            _ => Err(Refusal::ambiguous(&format!("{relation}.{name}"))),
        }
    }

    /// The innermost item that goes by this name.
    fn find_item(&mut self, schema: Option<&str>, name: &str) -> Res<Option<Item<'a>>> {
        let wanted = match schema {
            Some(schema) => match self.catalog.lookup(Some(schema), name, &[]) {
                Some(id) => Some(id),
                None => return Ok(None),
            },
            None => None,
        };
        let mut work = 1;
        let mut result = None;
        for level in self.levels.iter().rev() {
            work += level.items.len();
            let mut matching = level.items.iter().filter(|item| {
                let named = match wanted {
                    Some(id) => item.relation == Some(id),
                    None => item.name == name,
                };
                named && item.rel_visible && (!item.lateral_only || level.lateral)
            });
            if let Some(item) = matching.next() {
                if matching.next().is_some() {
                    return Err(Refusal::ambiguous(name));
                }
                result = Some(item.clone());
                break;
            }
        }
        self.spend(work)?;
        Ok(result)
    }

    /// The item of `t.*` or `s.t.*`; `None` for a bare `*`.
    pub(super) fn star_item(&mut self, reference: &'a ColumnRef) -> Res<Option<Item<'a>>> {
        let names: Vec<&'a str> = reference.fields().iter().filter_map(Node::as_str).collect();
        let item = match names.as_slice() {
            [] => return Ok(None),
            [relation] => self.find_item(None, relation)?,
            [schema, relation] => self.find_item(Some(schema), relation)?,
            _ => return Err(Refusal::unsupported("a column name with a database")),
        };
        match item {
            Some(item) => Ok(Some(item)),
            None => Err(Refusal::relation(names.join("."))),
        }
    }
}
