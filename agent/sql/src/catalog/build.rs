//! Rows of the catalogue queries to a [`Catalog`]. Strict: a row that does not read as expected fails the build, since a
//! relation left out would be a relation not protected.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::builtins::{self, Builtin};
use super::{
    Catalog, Column, Columns, ForeignKey, QUERIES, RelId, RelKind, Relation, Schema, Shape, System, Telling,
    Type, TypeInfo, Unique,
};

/// Answers by the name of the query; each row is its columns as text, `None` for NULL.
pub type Rows = HashMap<String, Vec<Vec<Option<String>>>>;

#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    #[error("no answer to the catalogue query {0:?}")]
    Missing(&'static str),
    #[error("the answer to the catalogue query {0:?} has a row that cannot be read: {1}")]
    Row(&'static str, &'static str),
    #[error("server version {0} has not been reviewed; versions 13 to 18 are supported")]
    Version(u32),
    #[error("the search path must be spelled out, without {0:?}")]
    SearchPath(String),
}

type Built<T> = Result<T, CatalogError>;

impl Catalog {
    /// Builds the catalogue from the answers to [`QUERIES`]. `search_path` is what the sessions to be analysed have,
    /// as a list of schemas; `pg_temp` must come last there (and may be left out here).
    pub fn build(rows: &Rows, search_path: &[String]) -> Built<Self> {
        if let Some(missing) = QUERIES.iter().find(|query| !rows.contains_key(query.name)) {
            return Err(CatalogError::Missing(missing.name));
        }
        if let Some(symbolic) = search_path.iter().find(|schema| schema.starts_with('$')) {
            return Err(CatalogError::SearchPath(symbolic.clone()));
        }
        let mut builder = Builder::new(rows);
        builder.version()?;
        builder.schemas()?;
        builder.relations()?;
        builder.kinship()?;
        builder.functions()?;
        builder.operators()?;
        builder.types()?;
        let mut catalog = builder.catalog;
        let builtin = catalog.schema_ids.get("pg_catalog").copied();
        catalog.builtin_path = builtin.into_iter().collect();
        catalog.path = catalog.path_of(search_path);
        catalog.search_path = search_path.to_vec();
        Ok(catalog)
    }
}

struct Builder<'a> {
    rows: &'a Rows,
    catalog: Catalog,
}

/// One row of one query, read by position.
struct Row<'a>(&'static str, &'a [Option<String>]);

impl<'a> Row<'a> {
    fn opt(&self, at: usize) -> Option<&'a str> {
        self.1.get(at).and_then(Option::as_deref)
    }

    fn text(&self, at: usize) -> Built<&'a str> {
        self.opt(at).ok_or(CatalogError::Row(self.0, "a value is missing"))
    }

    fn number<T: std::str::FromStr>(&self, at: usize) -> Built<T> {
        self.text(at)?.trim().parse().map_err(|_| CatalogError::Row(self.0, "a number does not parse"))
    }

    fn flag(&self, at: usize) -> Built<bool> {
        match self.text(at)? {
            "t" | "true" => Ok(true),
            "f" | "false" => Ok(false),
            _ => Err(CatalogError::Row(self.0, "a boolean is neither t nor f")),
        }
    }

    fn numbers(&self, at: usize) -> Built<Vec<i16>> {
        let parts = self.text(at)?.split_ascii_whitespace();
        parts
            .map(|part| part.parse().map_err(|_| CatalogError::Row(self.0, "a list does not parse")))
            .collect()
    }
}

impl<'a> Builder<'a> {
    fn new(rows: &'a Rows) -> Self {
        let catalog = Catalog {
            version: 0,
            utf8: false,
            schemas: Vec::new(),
            schema_ids: HashMap::new(),
            path: Vec::new(),
            search_path: Vec::new(),
            usable: HashSet::new(),
            builtin_path: Vec::new(),
            relations: Vec::new(),
            by_oid: HashMap::new(),
            functions: HashMap::new(),
            operators: HashMap::new(),
            types: HashMap::new(),
            type_oids: HashMap::new(),
        };
        Self { rows, catalog }
    }

    fn answers(&self, name: &'static str) -> impl Iterator<Item = Row<'a>> + use<'a> {
        let rows = self.rows.get(name).map(Vec::as_slice).unwrap_or_default();
        rows.iter().map(move |row| Row(name, row))
    }

    fn schema(&mut self, name: &str) -> usize {
        if let Some(id) = self.catalog.schema_ids.get(name) {
            return *id;
        }
        let id = self.catalog.schemas.len();
        self.catalog.schemas.push(Schema {
            name: Arc::from(name),
            relations: HashMap::new(),
            indexes: HashMap::new(),
        });
        self.catalog.schema_ids.insert(Box::from(name), id);
        id
    }

    fn version(&mut self) -> Built<()> {
        let row = self.answers("server").next().ok_or(CatalogError::Missing("server"))?;
        self.catalog.version = row.number(0)?;
        self.catalog.utf8 = row.text(1)? == "UTF8";
        if !builtins::REVIEWED.contains(&(self.catalog.version / 10_000)) {
            return Err(CatalogError::Version(self.catalog.version));
        }
        Ok(())
    }

    /// One without anything in it is nowhere else.
    fn schemas(&mut self) -> Built<()> {
        for row in self.answers("schemas") {
            let name = row.text(0)?;
            self.schema(name);
            if row.flag(1)? {
                self.catalog.usable.insert(Box::from(name));
            }
        }
        Ok(())
    }

    fn relations(&mut self) -> Built<()> {
        let mut columns: HashMap<u32, Vec<Column>> = HashMap::new();
        for row in self.answers("columns") {
            let column = Column {
                name: Arc::from(row.text(1)?),
                number: row.number(2)?,
                type_oid: row.number(3)?,
                generated: row.opt(4).map(Box::from),
            };
            columns.entry(row.number(0)?).or_default().push(column);
        }
        let mut views: HashMap<u32, &str> = HashMap::new();
        for row in self.answers("views") {
            views.insert(row.number(0)?, row.text(1)?);
        }
        for row in self.answers("relations") {
            let oid: u32 = row.number(0)?;
            let mut list = columns.remove(&oid).unwrap_or_default();
            list.sort_by_key(|column| column.number);
            let definition = views.get(&oid).map(|text| Box::from(*text));
            self.relation(&row, oid, Columns::new(list), definition)?;
        }
        Ok(())
    }

    fn relation(
        &mut self,
        row: &Row<'_>,
        oid: u32,
        columns: Columns,
        definition: Option<Box<str>>,
    ) -> Built<()> {
        let schema_id = self.schema(row.text(1)?);
        let id = RelId::try_from(self.catalog.relations.len())
            .map_err(|_| CatalogError::Row("relations", "too many"))?;
        let Some(schema) = self.catalog.schemas.get_mut(schema_id) else { return Ok(()) };
        let name: Arc<str> = Arc::from(row.text(2)?);
        let is_system = matches!(&*schema.name, "pg_catalog" | "information_schema");
        let system = match builtins::system_relation_is_served(&schema.name, &name) {
            _ if !is_system => System::No,
            true => System::Served,
            false => System::Unserved,
        };
        let kind = match row.text(3)? {
            "r" | "p" | "f" => RelKind::Table,
            "v" | "m" => RelKind::View,
            _ => RelKind::Other,
        };
        schema.relations.insert(Arc::clone(&name), id);
        self.catalog.by_oid.insert(oid, id);
        self.catalog.relations.push(Relation {
            schema: Arc::clone(&schema.name),
            name,
            oid,
            kind,
            columns,
            related: Vec::new(),
            foreign_keys: Vec::new(),
            uniques: Vec::new(),
            telling: Vec::new(),
            together: Vec::new(),
            numbers: Vec::new(),
            has_rules: row.flag(4)?,
            has_triggers: row.flag(5)?,
            runs_code: false,
            definition,
            system,
        });
        Ok(())
    }

    /// Inheritance, foreign keys, unique indexes, and columns that are checked together. Rows about relations that are not served (TOAST, temporary) are
    /// passed over.
    fn kinship(&mut self) -> Built<()> {
        for row in self.answers("inherits") {
            let (parent, child) = (self.known(row.number(0)?), self.known(row.number(1)?));
            if let (Some(parent), Some(child)) = (parent, child) {
                self.change(parent, |relation| relation.related.push(child));
                self.change(child, |relation| relation.related.push(parent));
            }
        }
        for row in self.answers("foreign_keys") {
            let (from, to) = (self.known(row.number(0)?), self.known(row.number(1)?));
            if let (Some(from), Some(to)) = (from, to) {
                let columns = row.numbers(2)?.into_iter().zip(row.numbers(3)?).collect();
                let key = ForeignKey { to, columns, cascades: row.flag(4)? };
                self.change(from, |relation| relation.foreign_keys.push(key));
            }
        }
        for row in self.answers("uniques") {
            let unique = Unique { columns: row.numbers(1)?, opaque: row.flag(2)? };
            if let Some(relation) = self.known(row.number(0)?) {
                self.change(relation, |relation| relation.uniques.push(unique));
            }
        }
        for row in self.answers("telling") {
            let telling = match row.text(2)? {
                "changed" => Telling::Changed { columns: row.numbers(1)? },
                "ordered" => Telling::Ordered { columns: row.numbers(1)?, alone: false },
                "alone" => Telling::Ordered { columns: row.numbers(1)?, alone: true },
                _ => return Err(CatalogError::Row("telling", "of no known kind")),
            };
            if let Some(relation) = self.known(row.number(0)?) {
                self.change(relation, |relation| relation.telling.push(telling));
            }
        }
        for row in self.answers("sequences") {
            if let (Some(sequence), Some(table)) = (self.known(row.number(0)?), self.known(row.number(1)?)) {
                let number = row.number(2)?;
                self.change(sequence, |relation| relation.numbers.push((table, number)));
            }
        }
        for row in self.answers("indexes") {
            let Some(table) = self.known(row.number(2)?) else { continue };
            if row.flag(3)? {
                self.change(table, |relation| relation.runs_code = true);
            }
            let (Some(schema), Some(name)) = (row.opt(0), row.opt(1)) else { continue };
            let schema = self.schema(schema);
            if let Some(schema) = self.catalog.schemas.get_mut(schema) {
                schema.indexes.insert(Box::from(name), table);
            }
        }
        for row in self.answers("together") {
            let columns = row.numbers(1)?;
            if let Some(relation) = self.known(row.number(0)?) {
                self.change(relation, |relation| relation.together.push(columns));
            }
        }
        Ok(())
    }

    fn known(&self, oid: u32) -> Option<RelId> {
        self.catalog.by_oid.get(&oid).copied()
    }

    fn change(&mut self, id: RelId, change: impl FnOnce(&mut Relation)) {
        if let Some(relation) = self.catalog.relations.get_mut(id as usize) {
            change(relation);
        }
    }

    fn functions(&mut self) -> Built<()> {
        for row in self.answers("functions") {
            let (schema, name) = (row.text(0)?, row.text(1)?);
            let volatility = row.text(2)?.bytes().next().unwrap_or(b'v');
            let (trusted, inner) = (row.flag(3)?, row.flag(5)?);
            let shape = match row.opt(4) {
                None => Shape::Scalar,
                Some("*" | "?") => Shape::Unknown,
                Some(names) => Shape::Columns(names.split('\u{1f}').map(Box::from).collect()),
            };
            let fresh = !self.catalog.functions.contains_key(name);
            let function = self.catalog.functions.entry(Box::from(name)).or_default();
            if fresh {
                function.shape = shape;
            } else if function.shape != shape {
                function.shape = Shape::Unknown;
            }
            match schema {
                "pg_catalog" => {
                    let judged = if inner { Builtin::Unlisted } else { builtins::function(name, volatility) };
                    function.builtin = Some(match function.builtin {
                        None => judged,
                        Some(before) if before == judged => judged,
                        // Overloads that differ are as bad as the worst of them.
                        Some(_) => Builtin::Unlisted,
                    });
                }
                "information_schema" => add(&mut function.others, schema, true),
                _ => add(&mut function.others, schema, trusted),
            }
        }
        Ok(())
    }

    fn operators(&mut self) -> Built<()> {
        for row in self.answers("operators") {
            let (schema, name) = (row.text(0)?, row.text(1)?);
            let operator = self.catalog.operators.entry(Box::from(name)).or_default();
            match schema {
                "pg_catalog" => operator.builtin = true,
                _ => add(&mut operator.others, schema, row.flag(2)?),
            }
        }
        Ok(())
    }

    fn types(&mut self) -> Built<()> {
        for row in self.answers("types") {
            let (oid, name) = (row.number(0)?, row.text(2)?);
            let schema = self.schema(row.text(1)?);
            let base = match row.text(3)? {
                "d" => Some(row.number(4)?),
                _ => None,
            };
            self.catalog.type_oids.insert(oid, TypeInfo { base, citext: name == "citext" });
            let entry = self.catalog.types.entry(Box::from(name)).or_default();
            entry.push(Type { schema, opaque: row.flag(5)? });
        }
        Ok(())
    }
}

/// Notes that a schema has the name; one untrusted overload makes the whole schema's untrusted.
fn add(others: &mut Vec<(Box<str>, bool)>, schema: &str, trusted: bool) {
    match others.iter_mut().find(|(known, _)| &**known == schema) {
        Some((_, all)) => *all &= trusted,
        None => others.push((Box::from(schema), trusted)),
    }
}
