//! Indexes by their names, and what is done to keep a table fast: ALTER INDEX, REINDEX, CLUSTER, ANALYZE, CREATE STATISTICS,
//! REFRESH MATERIALIZED VIEW. An index is decided on as its table is. What reads all rows again takes the right to
//! everything where some are masked, or where code of the database's own runs for it.

use pg_raw_parse::Node;
use pg_raw_parse::list::NodeList;
use pg_raw_parse::nodes::{
    AlterTableCmd, AlterTableStmt, ClusterStmt, CommentStmt, CreateStatsStmt, RangeVar, RefreshMatViewStmt,
    ReindexStmt, VacuumStmt,
};
use pg_raw_parse::raw::{AlterTableType, ObjectType, ReindexObjectType};

use super::Analyser;
use super::call::qualified;
use super::dispatch::Draft;
use crate::catalog::{RelId, RelKind, System};
use crate::refusal::Res;
use crate::statement::{Class, Verb};

impl<'a> Analyser<'a> {
    /// The table of the index that is meant by this name; none when it means another relation, or nothing that is known.
    pub(super) fn indexed(&self, range: &RangeVar) -> Option<RelId> {
        let temporary = range.relpersistence == b't'.cast_signed();
        let name = range.relname().filter(|_| !temporary)?;
        self.catalog.indexed(range.schemaname(), name, self.path)
    }

    /// Notes a verb on a relation of the catalogue.
    pub(super) fn on_known(&mut self, verb: Verb, id: RelId) {
        if let Some(name) = self.catalog.relation(id).map(|relation| relation.rel_name()) {
            self.named_parts(verb, Some(&name.schema), &name.table, false);
        }
    }

    /// What belongs to a relation is named behind it: columns, triggers, rules, policies. Decided on as the relation is.
    pub(super) fn on_owner(&mut self, parts: &'a NodeList) {
        let owner = parts.len().saturating_sub(1);
        match qualified(parts.iter().take(owner).map(Node::as_str)) {
            Ok(name) => self.named_parts(Verb::Ddl, name.schema, name.name, false),
            Err(_) => self.access(Verb::Ddl, None),
        }
    }

    /// An index, on its table.
    pub(super) fn on_index(&mut self, parts: &'a NodeList) {
        let name = qualified(parts.iter().map(Node::as_str)).ok();
        match name.and_then(|name| self.catalog.indexed(name.schema, name.name, self.path)) {
            Some(table) => self.on_known(Verb::Ddl, table),
            // Made in the same transaction, or temporary.
            None => self.access(Verb::Ddl, None),
        }
    }

    pub(super) fn comment(&mut self, it: &'a CommentStmt) -> Draft<'a> {
        match (it.objtype, it.object()) {
            (
                ObjectType::OBJECT_COLUMN
                | ObjectType::OBJECT_TRIGGER
                | ObjectType::OBJECT_RULE
                | ObjectType::OBJECT_POLICY
                | ObjectType::OBJECT_TABCONSTRAINT,
                Node::NodeList(parts),
            ) => self.on_owner(parts),
            (ObjectType::OBJECT_INDEX, Node::NodeList(parts)) => self.on_index(parts),
            (
                ObjectType::OBJECT_TABLE
                | ObjectType::OBJECT_VIEW
                | ObjectType::OBJECT_MATVIEW
                | ObjectType::OBJECT_FOREIGN_TABLE
                | ObjectType::OBJECT_SEQUENCE,
                Node::NodeList(parts),
            ) => match qualified(parts.iter().map(Node::as_str)) {
                Ok(name) => self.named_parts(Verb::Ddl, name.schema, name.name, false),
                Err(_) => self.access(Verb::Ddl, None),
            },
            _ => self.access(Verb::Ddl, None),
        }
        self.ddl_noted()
    }

    /// A definition of what is there already: of an index, on its table.
    pub(super) fn ddl_of(&mut self, range: Option<&'a RangeVar>) -> Draft<'a> {
        match range.and_then(|range| self.indexed(range)) {
            Some(table) => {
                self.on_known(Verb::Ddl, table);
                self.ddl_noted()
            }
            None => self.ddl(range),
        }
    }

    pub(super) fn alter_index(&mut self, alter: &'a AlterTableStmt, table: RelId) -> Draft<'a> {
        self.on_known(Verb::Ddl, table);
        for node in alter.cmds() {
            match node {
                Node::AlterTableCmd(command) => self.index_command(command),
                _ => self.opaque(),
            }
        }
        self.ddl_noted()
    }

    fn index_command(&mut self, command: &'a AlterTableCmd) {
        match (command.subtype, command.def()) {
            (
                AlterTableType::AT_SetRelOptions
                | AlterTableType::AT_ResetRelOptions
                | AlterTableType::AT_SetStatistics,
                _,
            ) => {}
            (AlterTableType::AT_AttachPartition, Node::PartitionCmd(it)) => {
                match it.name().and_then(|part| self.indexed(part)) {
                    Some(table) => self.on_known(Verb::Ddl, table),
                    None => self.opaque(),
                }
            }
            _ => self.opaque(),
        }
    }

    pub(super) fn reindex(&mut self, it: &'a ReindexStmt) -> Draft<'a> {
        let range = it.relation();
        let table = match it.kind {
            ReindexObjectType::REINDEX_OBJECT_INDEX => range.and_then(|range| self.indexed(range)),
            ReindexObjectType::REINDEX_OBJECT_TABLE => range.and_then(|range| self.named_relation(range)),
            _ => None,
        };
        match table {
            Some(table) => self.read_again([table]),
            None => self.admin(range),
        }
    }

    pub(super) fn cluster(&mut self, it: &'a ClusterStmt) -> Draft<'a> {
        match it.relation().and_then(|range| self.named_relation(range)) {
            Some(table) => self.read_again([table]),
            None => self.admin(it.relation()),
        }
    }

    /// VACUUM and ANALYZE. The first is the operator's; the second is too where not all tables are named and known.
    pub(super) fn vacuum(&mut self, it: &'a VacuumStmt) -> Draft<'a> {
        let relations = || it.rels().iter().filter_map(|rel| rel.relation());
        let known: Option<Vec<RelId>> = relations().map(|range| self.named_relation(range)).collect();
        match known.filter(|known| !it.is_vacuumcmd && !known.is_empty()) {
            Some(known) => self.read_again(known),
            None => self.admin(relations()),
        }
    }

    /// Rows are read for what is made of them.
    fn read_again(&mut self, tables: impl IntoIterator<Item = RelId>) -> Draft<'a> {
        for table in tables {
            let verb = if self.is_plain(table) { Verb::Ddl } else { Verb::Admin };
            self.on_known(verb, table);
        }
        Draft { depends: false, ..Draft::new(Class::Admin) }
    }

    /// Nothing in the table or what it inherits with is masked, and no code runs when it is read for an index.
    fn is_plain(&self, id: RelId) -> bool {
        self.view.kin(id).into_iter().all(|id| {
            let masked = self.view.rel_mask(id);
            let masked = masked.is_some_and(|mask| mask.strict || mask.opaque || !mask.taints.is_empty());
            let relation = self.catalog.relation(id);
            !masked && relation.is_some_and(|relation| !relation.runs_code && relation.system == System::No)
        })
    }

    pub(super) fn create_statistics(&mut self, it: &'a CreateStatsStmt) -> Res<Draft<'a>> {
        let mut ranges = it.relations().iter();
        let (Some(range), None, false) = (ranges.next(), ranges.next(), self.clear()) else {
            self.opaque();
            return Ok(self.ddl(None));
        };
        let draft = self.ddl(Some(range));
        let table = self.table(range, &[])?;
        for element in it.exprs() {
            match element {
                Node::StatsElem(element) => match element.name() {
                    Some(name) => self.kept_column(&table, name)?,
                    None => self.kept_expression(Some(&table), element.expr())?,
                },
                _ => self.opaque(),
            }
        }
        Ok(draft)
    }

    /// Its query runs. That of a view which is served in clear shows nothing and runs no code.
    pub(super) fn refresh(&mut self, it: &'a RefreshMatViewStmt) -> Draft<'a> {
        let view = it
            .relation()
            .and_then(|range| self.named_relation(range))
            .filter(|id| self.catalog.relation(*id).is_some_and(|relation| relation.kind == RelKind::View));
        let clean = !self.clear() && view.is_some_and(|id| self.is_plain(id));
        if !clean {
            self.opaque();
        }
        self.ddl(it.relation())
    }
}
