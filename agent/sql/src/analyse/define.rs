//! CREATE TABLE, CREATE INDEX, DROP, RENAME and SET SCHEMA. What may be done for a permit to change the schema must show
//! nothing of a masked value, now or when it is used later, and must leave every label where it is. All else is opaque:
//! it takes the right to everything, and whoever has not got it is told why.

use std::collections::BTreeSet;
use std::rc::Rc;

use pg_raw_parse::Node;
use pg_raw_parse::list::NodeList;
use pg_raw_parse::nodes::{
    AlterObjectSchemaStmt, CreateStmt, DropStmt, IndexElem, IndexStmt, PartitionBoundSpec, RangeVar,
    RenameStmt,
};
use pg_raw_parse::raw::{ConstrType, DropBehavior, ObjectType};

use super::Analyser;
use super::call::qualified;
use super::dispatch::Draft;
use super::scope::{Fields, Item, Name, OutRows};
use crate::catalog::RelId;
use crate::refusal::{How, RefusalKind, Res};
use crate::statement::{Flag, Reshapes, Verb};

/// Access methods that run nothing of the database's own.
const METHODS: [&str; 6] = ["btree", "hash", "gin", "gist", "spgist", "brin"];

/// Operator classes of pg_catalog that migrations name.
const CLASSES: [&str; 8] = [
    "text_ops",
    "text_pattern_ops",
    "varchar_ops",
    "varchar_pattern_ops",
    "bpchar_pattern_ops",
    "jsonb_ops",
    "jsonb_path_ops",
    "array_ops",
];

/// A table that is being defined, or changed.
pub(super) struct Table<'a> {
    /// None for one that the catalogue does not have: made in the same transaction, or temporary.
    pub(super) id: Option<RelId>,
    /// Its columns, those that the statement adds included.
    pub(super) item: Item<'a>,
}

impl<'a> Analyser<'a> {
    /// Opaque, and why: said to whoever is denied.
    pub(super) fn opaque_because(&mut self, reason: String) {
        self.opaque();
        if !self.flags.iter().any(|flag| matches!(flag, Flag::Because(_))) {
            self.flags.insert(Flag::Because(reason));
        }
    }

    pub(super) fn loses_label(&mut self, column: &str) {
        self.opaque_because(format!("column {column} has a label, which would be lost"));
    }

    /// What analysis refuses in a definition takes the right to everything.
    pub(super) fn judged(&mut self, result: Res<()>) -> Res<()> {
        match result {
            Err(refusal) if refusal.kind == RefusalKind::TooComplex => Err(refusal),
            Err(refusal) => {
                self.opaque_because(refusal.reason);
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    /// An expression that is kept and evaluated later, over the columns of a table or over none.
    pub(super) fn kept_expression(&mut self, table: Option<&Table<'a>>, node: Node<'a>) -> Res<()> {
        let result = self.nested(|this| {
            if let Some(table) = table {
                let item = table.item.clone();
                this.spend(item.fields.len())?;
                this.level()?.items.push(item);
            }
            this.clean(node, How::Definition)
        });
        self.judged(result)
    }

    /// A column by its name alone, of which more is asked than to be served.
    pub(super) fn kept_column(&mut self, table: &Table<'a>, name: &str) -> Res<()> {
        let mut found = super::scope::Found::default();
        table.item.find(name, &mut found);
        let result = self.require_clean(found.taint, How::Definition);
        self.judged(result)
    }

    pub(super) fn kept_columns(&mut self, table: &Table<'a>, names: &'a NodeList) -> Res<()> {
        names.iter().try_for_each(|name| self.kept_column(table, name.as_str().unwrap_or_default()))
    }

    /// The table with what the statement adds to it.
    pub(super) fn table(&mut self, range: &'a RangeVar, added: &[&'a str]) -> Res<Table<'a>> {
        let id = self.named_relation(range);
        // A column that is not known was added, or renamed, in the same transaction: those that are masked keep their names.
        let mut rows = OutRows { fields: Vec::new(), open: true };
        if let Some(id) = id {
            self.table_fields(id)?.expand(&mut rows);
        } else {
            self.is_new(range);
        }
        for name in added {
            if !rows.fields.iter().any(|field| field.name.is(name)) {
                rows.push(Name::Given(name), None);
            }
        }
        let known = id.is_some();
        let mut item = Item::new(range.relname().unwrap_or_default(), Fields::List(Rc::new(rows)));
        item.relation = id;
        // Of columns that are not known, `t.name` may be a function.
        item.rel_visible = known;
        Ok(Table { id, item })
    }

    pub(super) fn named_relation(&self, range: &RangeVar) -> Option<RelId> {
        let temporary = range.relpersistence == b't'.cast_signed() || range.schemaname() == Some("pg_temp");
        let name = range.relname().unwrap_or_default();
        self.catalog.lookup(range.schemaname(), name, self.path).filter(|_| !temporary)
    }

    /// A relation that the catalogue does not have yet; if a label waits for its name, nothing is known of it.
    fn is_new(&mut self, range: &RangeVar) {
        self.strict = true;
        let name = range.relname().unwrap_or_default();
        let waits = self.view.unmatched().iter().find(|path| {
            *path.table == *name && range.schemaname().is_none_or(|schema| *path.schema == *schema)
        });
        if let Some(path) = waits {
            self.opaque_because(format!("column {path} has a label, and its table is not known yet"));
        }
    }

    /// A relation that another one is tied to or taken off: neither may have a label, nor those they inherit with.
    pub(super) fn tied(&mut self, range: &'a RangeVar) {
        self.created(Some(range));
        self.reshapes_all_of(range);
        match self.named_relation(range) {
            Some(id) => {
                if let Some(column) = self.view.label_near(id) {
                    self.loses_label(&column);
                }
            }
            None => self.is_new(range),
        }
    }

    pub(super) fn create_table(&mut self, create: &'a CreateStmt) -> Res<Draft<'a>> {
        let draft = self.ddl(create.relation());
        self.comes(create.relation());
        if self.clear() {
            if !is_plain_table(create) {
                self.opaque();
            }
            return Ok(draft);
        }
        let mut rows = OutRows::clean(create.table_elts().iter().filter_map(|node| match node {
            Node::ColumnDef(column) => column.colname(),
            _ => None,
        }));
        for parent in create.inh_relations() {
            let Node::RangeVar(parent) = parent else {
                self.opaque();
                continue;
            };
            self.tied(parent);
            match self.named_relation(parent) {
                Some(id) => self.table_fields(id)?.expand(&mut rows),
                None => rows.open = true,
            }
        }
        let mut item = Item::new("", Fields::List(Rc::new(rows)));
        item.rel_visible = false;
        let table = Table { id: None, item };
        if create.of_typename().is_some() || create.access_method().is_some_and(|method| method != "heap") {
            self.opaque();
        }
        if let Some(bound) = create.partbound() {
            self.bound(bound);
        }
        for node in create.table_elts() {
            match node {
                Node::ColumnDef(column) => self.new_column(&table, column)?,
                Node::Constraint(constraint) => self.constraint(&table, constraint)?,
                _ => self.opaque(),
            }
        }
        for key in create.partspec().into_iter().flat_map(|keys| keys.part_params()) {
            self.kept_expression(Some(&table), key.expr())?;
            self.operator_class(key.opclass());
        }
        Ok(draft)
    }

    /// The bounds of a partition are constants here; anything else would be evaluated now.
    pub(super) fn bound(&mut self, bound: &'a PartitionBoundSpec) {
        let lists = [bound.listdatums(), bound.lowerdatums(), bound.upperdatums()];
        let constant = |node| match node {
            Node::A_Const(_) => true,
            // MINVALUE and MAXVALUE.
            Node::ColumnRef(name) => name.fields().len() == 1,
            _ => false,
        };
        if !lists.into_iter().flatten().all(constant) {
            self.opaque();
        }
    }

    fn operator_class(&mut self, names: &'a NodeList) {
        let known = match qualified(names.iter().map(Node::as_str)) {
            Ok(name) => {
                name.schema.is_none_or(|schema| schema == "pg_catalog") && CLASSES.contains(&name.name)
            }
            Err(_) => names.is_empty(),
        };
        if !known {
            self.opaque();
        }
    }

    pub(super) fn create_index(&mut self, index: &'a IndexStmt) -> Res<Draft<'a>> {
        let draft = self.ddl(index.relation());
        let (Some(range), false) = (index.relation(), self.clear()) else {
            self.opaque();
            return Ok(draft);
        };
        if !index.access_method().is_none_or(|method| METHODS.contains(&method)) {
            self.opaque();
        }
        let table = self.table(range, &[])?;
        for element in index.index_params() {
            self.index_element(&table, element)?;
        }
        for element in index.index_including_params() {
            match element {
                Node::IndexElem(element) => self.index_element(&table, element)?,
                _ => self.opaque(),
            }
        }
        self.kept_expression(Some(&table), index.where_clause())?;
        Ok(draft)
    }

    fn index_element(&mut self, table: &Table<'a>, element: &'a IndexElem) -> Res<()> {
        self.operator_class(element.opclass());
        if !element.opclassopts().is_empty() {
            self.opaque();
        }
        match element.name() {
            Some(name) => self.kept_column(table, name),
            None => self.kept_expression(Some(table), element.expr()),
        }
    }

    pub(super) fn rename_object(&mut self, rename: &'a RenameStmt) -> Draft<'a> {
        match (rename.rename_type, rename.relation()) {
            (ObjectType::OBJECT_COLUMN, Some(range)) => {
                let id = self.named_relation(range);
                let name = rename.subname().unwrap_or_default();
                self.reshapes_all_of(range);
                if let Some(column) = id.and_then(|id| self.view.label_along(id, name)) {
                    self.loses_label(&column);
                }
            }
            (
                ObjectType::OBJECT_TABLE
                | ObjectType::OBJECT_VIEW
                | ObjectType::OBJECT_MATVIEW
                | ObjectType::OBJECT_FOREIGN_TABLE
                | ObjectType::OBJECT_SEQUENCE
                | ObjectType::OBJECT_INDEX,
                Some(range),
            ) => {
                self.leaves(range);
                self.arrives(range, None, rename.newname());
                self.reshapes(rename.newname().unwrap_or_default());
            }
            (ObjectType::OBJECT_TABCONSTRAINT, Some(_)) => {}
            (ObjectType::OBJECT_SCHEMA, None) => {
                let name = rename.subname().unwrap_or_default();
                if let Some(column) = self.labelled_in_schema(name) {
                    self.loses_label(&column);
                }
                self.schema_leaves(name);
                self.reshapes = Reshapes::Everything;
            }
            (ObjectType::OBJECT_ROLE | ObjectType::OBJECT_DATABASE | ObjectType::OBJECT_TABLESPACE, _) => {
                return self.changing_admin(None);
            }
            // Names of functions, operators and types are what expressions are judged by.
            _ => self.opaque(),
        }
        self.ddl_of(rename.relation())
    }

    pub(super) fn set_schema(&mut self, it: &'a AlterObjectSchemaStmt) -> Draft<'a> {
        match it.relation() {
            Some(range) => {
                self.leaves(range);
                self.arrives(range, it.newschema(), None);
            }
            None => self.opaque(),
        }
        self.ddl(it.relation())
    }

    /// A relation goes by another name from now on.
    fn leaves(&mut self, range: &RangeVar) {
        self.reshapes(range.relname().unwrap_or_default());
        let Some(id) = self.named_relation(range) else { return };
        if let Some(column) = self.view.label_near(id) {
            self.loses_label(&column);
        }
        self.uncovers(id);
    }

    /// A relation gets another schema or name.
    fn arrives(&mut self, range: &RangeVar, schema: Option<&str>, name: Option<&str>) {
        let known = self.named_relation(range).and_then(|id| self.catalog.relation(id));
        if let Some(relation) = known {
            self.covers(schema.unwrap_or(&relation.schema), name.unwrap_or(&relation.name));
        }
    }

    /// With a name gone, it means what comes later on the search path: until the catalogue is read again, nobody
    /// knows.
    fn uncovers(&mut self, id: RelId) {
        let Some(relation) = self.catalog.relation(id).filter(|_| !self.clear()) else { return };
        if let Some(column) = self.label_behind(&relation.schema, &relation.name) {
            let name = relation.rel_name();
            self.opaque_because(format!("without {name}, its name would mean the table of column {column}"));
        }
    }

    /// A relation of this name comes into being. What others write to a labelled table by its name alone would go there, and no
    /// label with it.
    fn covers(&mut self, schema: &str, name: &str) {
        if let Some(column) = self.label_behind(schema, name).filter(|_| !self.clear()) {
            self.opaque_because(format!(
                "{schema}.{name} would take the place of the table of column {column}"
            ));
        }
    }

    /// A new relation, under the name the statement gives it.
    pub(super) fn comes(&mut self, range: Option<&RangeVar>) {
        let Some(range) = range.filter(|range| range.relpersistence != b't'.cast_signed()) else { return };
        let catalog = self.catalog;
        let name = range.relname().unwrap_or_default();
        let home = range.schemaname().or_else(|| catalog.creation_schema(self.path).map(|schema| &**schema));
        // What is there already comes nowhere: IF NOT EXISTS.
        if home.is_some_and(|home| catalog.lookup(Some(home), name, &[]).is_some()) {
            return;
        }
        if let Some(home) = home {
            self.covers(home, name);
        }
        self.reshapes(name);
    }

    /// The name means something else from now on.
    pub(super) fn reshapes(&mut self, name: &str) {
        match &mut self.reshapes {
            Reshapes::Nothing => self.reshapes = Reshapes::Names(BTreeSet::from([name.into()])),
            Reshapes::Names(names) => drop(names.insert(name.into())),
            Reshapes::Everything => {}
        }
    }

    /// The relation has other columns from now on, and so have those that inherit them.
    pub(super) fn reshapes_all_of(&mut self, range: &RangeVar) {
        self.reshapes(range.relname().unwrap_or_default());
        let (catalog, view) = (self.catalog, self.view);
        let kin = self.named_relation(range).map(|id| view.kin(id)).unwrap_or_default();
        for relation in kin.into_iter().filter_map(|id| catalog.relation(id)) {
            self.reshapes(&relation.name);
        }
    }

    pub(super) fn cascades(&mut self, behavior: DropBehavior::Type) {
        if behavior == DropBehavior::DROP_CASCADE {
            self.flags.insert(Flag::Cascade);
            self.reshapes = Reshapes::Everything;
        }
    }

    /// A labelled column of a relation of that name, further down the search path than the schema: the session's, or that of
    /// sessions to come.
    fn label_behind(&self, schema: &str, name: &str) -> Option<String> {
        let catalog = self.catalog;
        let home = catalog.schema_ids.get(schema)?;
        let behind = |path: &'a [usize]| path.iter().skip_while(move |schema| *schema != home).skip(1);
        let schemas =
            behind(self.path).chain(behind(&catalog.path)).filter_map(|id| catalog.schemas.get(*id));
        let mut others = schemas.filter_map(|schema| schema.relations.get(name).copied());
        others.find_map(|other| self.view.label_near(other))
    }

    fn labelled_in_schema(&self, name: &str) -> Option<String> {
        self.schema_relations(name).into_iter().find_map(|id| self.view.label_near(id))
    }

    fn schema_leaves(&mut self, name: &str) {
        for relation in self.schema_relations(name) {
            self.uncovers(relation);
        }
    }

    /// In their order, so that the same of them is named each time.
    fn schema_relations(&self, name: &str) -> Vec<RelId> {
        let id = self.catalog.schema_ids.get(name);
        let schema = id.and_then(|id| self.catalog.schemas.get(*id));
        let mut list: Vec<RelId> =
            schema.into_iter().flat_map(|schema| schema.relations.values().copied()).collect();
        list.sort_unstable();
        list
    }

    pub(super) fn drop_objects(&mut self, drop: &'a DropStmt) -> Draft<'a> {
        self.cascades(drop.behavior);
        let relations = matches!(
            drop.remove_type,
            ObjectType::OBJECT_TABLE
                | ObjectType::OBJECT_VIEW
                | ObjectType::OBJECT_MATVIEW
                | ObjectType::OBJECT_FOREIGN_TABLE
                | ObjectType::OBJECT_SEQUENCE
        );
        for object in drop.objects() {
            match object {
                Node::NodeList(parts) if relations => match qualified(parts.iter().map(Node::as_str)) {
                    Ok(name) => {
                        self.named_parts(Verb::Ddl, name.schema, name.name, false);
                        self.reshapes(name.name);
                        if let Some(id) = self.catalog.lookup(name.schema, name.name, self.path) {
                            self.uncovers(id);
                        }
                    }
                    Err(_) => self.access(Verb::Ddl, None),
                },
                Node::NodeList(parts) => match drop.remove_type {
                    ObjectType::OBJECT_INDEX => self.on_index(parts),
                    ObjectType::OBJECT_TRIGGER | ObjectType::OBJECT_RULE => self.on_owner(parts),
                    ObjectType::OBJECT_POLICY => {
                        self.on_owner(parts);
                        self.opaque_because("a policy decides which rows are seen".to_owned());
                    }
                    _ => self.access(Verb::Ddl, None),
                },
                Node::String(schema) if drop.remove_type == ObjectType::OBJECT_SCHEMA => {
                    self.schema_leaves(schema.sval().unwrap_or_default());
                    self.reshapes = Reshapes::Everything;
                }
                Node::TypeName(name) => {
                    let name =
                        name.names().iter().next_back().and_then(|part| part.sval()).unwrap_or_default();
                    let types = self.catalog.types.get(name);
                    // Another type of that name may run code.
                    if types.is_some_and(|types| types.len() > 1 && types.iter().any(|found| found.opaque)) {
                        self.opaque();
                    }
                }
                _ => {}
            }
        }
        self.ddl_noted()
    }
}

/// Columns with types and simple constraints only: no expressions, nothing taken over from other tables.
fn is_plain_table(create: &CreateStmt) -> bool {
    let plain = |node| match node {
        Node::ColumnDef(column) => column.constraints().iter().all(is_plain_constraint),
        node => is_plain_constraint(node),
    };
    create.inh_relations().is_empty()
        && create.partbound().is_none()
        && create.of_typename().is_none()
        && create.table_elts().iter().all(plain)
}

fn is_plain_constraint(node: Node<'_>) -> bool {
    let Node::Constraint(constraint) = node else { return false };
    match constraint.contype {
        ConstrType::CONSTR_DEFAULT => matches!(constraint.raw_expr(), Node::A_Const(_)),
        ConstrType::CONSTR_CHECK | ConstrType::CONSTR_GENERATED | ConstrType::CONSTR_EXCLUSION => false,
        _ => true,
    }
}
