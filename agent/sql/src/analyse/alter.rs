//! ALTER TABLE, command by command, with the columns and constraints that CREATE TABLE has too. An allow-list: a command
//! nobody thought of is opaque.

use pg_raw_parse::Node;
use pg_raw_parse::nodes::{AlterTableCmd, AlterTableStmt, ColumnDef, Constraint, TypeName};
use pg_raw_parse::raw::{AlterTableType, ConstrType, ObjectType};

use super::Analyser;
use super::call::qualified;
use super::define::Table;
use super::dispatch::Draft;
use crate::refusal::{How, Refusal, Res};

impl<'a> Analyser<'a> {
    pub(super) fn alter_table(&mut self, alter: &'a AlterTableStmt) -> Res<Draft<'a>> {
        if let Some(table) = alter.relation().and_then(|range| self.indexed(range)) {
            return Ok(self.alter_index(alter, table));
        }
        let draft = self.ddl(alter.relation());
        let known = matches!(
            alter.objtype,
            ObjectType::OBJECT_TABLE
                | ObjectType::OBJECT_INDEX
                | ObjectType::OBJECT_MATVIEW
                | ObjectType::OBJECT_VIEW
        );
        let Some(range) = alter.relation().filter(|_| known) else {
            self.opaque();
            return Ok(draft);
        };
        let commands = || {
            alter.cmds().iter().filter_map(|node| match node {
                Node::AlterTableCmd(command) => Some(command),
                _ => None,
            })
        };
        let added: Vec<&str> = commands()
            .filter_map(|command| match command.def() {
                Node::ColumnDef(column) if command.subtype == AlterTableType::AT_AddColumn => {
                    column.colname()
                }
                _ => None,
            })
            .collect();
        if self.clear() {
            self.opaque();
        }
        let table = self.table(range, &added)?;
        self.reshapes_all_of(range);
        for command in commands() {
            self.cascades(command.behavior);
            let relates = matches!(
                command.subtype,
                AlterTableType::AT_AddInherit
                    | AlterTableType::AT_DropInherit
                    | AlterTableType::AT_AttachPartition
                    | AlterTableType::AT_DetachPartition
                    | AlterTableType::AT_DetachPartitionFinalize
            );
            if relates {
                self.tied(range);
                self.other(command.def());
            } else if !self.clear() {
                self.command(&table, command, alter.objtype)?;
            }
        }
        Ok(draft)
    }

    /// The relation that is tied or taken off.
    fn other(&mut self, node: Node<'a>) {
        match node {
            Node::RangeVar(range) => self.tied(range),
            Node::PartitionCmd(it) => {
                match it.name() {
                    Some(range) => self.tied(range),
                    None => self.opaque(),
                }
                if let Some(bound) = it.bound() {
                    self.bound(bound);
                }
            }
            _ => self.opaque(),
        }
    }

    fn command(&mut self, table: &Table<'a>, it: &'a AlterTableCmd, kind: ObjectType::Type) -> Res<()> {
        let name = it.name().unwrap_or_default();
        match (it.subtype, it.def()) {
            (AlterTableType::AT_AddColumn, Node::ColumnDef(column)) => {
                let name = column.colname().unwrap_or_default();
                // A column of that name further down becomes part of this one.
                if let Some(column) = table.id.and_then(|id| self.view.label_in_kin(id, name)) {
                    self.loses_label(&column);
                }
                self.new_column(table, column)
            }
            (AlterTableType::AT_ColumnDefault, expression) => self.kept_expression(None, expression),
            (
                AlterTableType::AT_DropNotNull
                | AlterTableType::AT_DropIdentity
                | AlterTableType::AT_DropConstraint
                | AlterTableType::AT_SetStatistics
                | AlterTableType::AT_SetStorage
                | AlterTableType::AT_SetCompression
                | AlterTableType::AT_SetOptions
                | AlterTableType::AT_ResetOptions,
                _,
            ) => Ok(()),
            (AlterTableType::AT_SetRelOptions | AlterTableType::AT_ResetRelOptions, _)
                if kind != ObjectType::OBJECT_VIEW =>
            {
                Ok(())
            }
            (AlterTableType::AT_DropColumn, _) => {
                // For whom it is not masked it is not theirs to take away: without it the label covers nothing.
                let label = table.id.and_then(|id| self.view.label_along(id, name));
                if let Some(column) = label.or_else(|| self.masked_name(table, name)) {
                    self.loses_label(&column);
                }
                Ok(())
            }
            (
                AlterTableType::AT_SetNotNull
                | AlterTableType::AT_AddIdentity
                | AlterTableType::AT_SetIdentity
                | AlterTableType::AT_DropExpression,
                _,
            ) => self.kept_column(table, name),
            (AlterTableType::AT_SetExpression, expression) => {
                self.kept_column(table, name)?;
                self.kept_expression(Some(table), expression)
            }
            (AlterTableType::AT_AlterColumnType, Node::ColumnDef(column)) => {
                self.kept_column(table, name)?;
                self.kept_expression(Some(table), column.raw_default())?;
                self.new_type(column.type_name());
                self.rewrites(table);
                Ok(())
            }
            (AlterTableType::AT_AddConstraint, Node::Constraint(constraint)) => {
                self.constraint(table, constraint)
            }
            (AlterTableType::AT_ValidateConstraint, _) => {
                self.rewrites(table);
                let id = table.id.and_then(|id| self.view.rel_mask(id));
                if id.is_some_and(|mask| !mask.oracles.is_empty()) {
                    self.opaque();
                }
                Ok(())
            }
            _ => {
                self.opaque();
                Ok(())
            }
        }
    }

    /// Every row is checked again, masked columns and all: whether that succeeds would tell something of them.
    fn rewrites(&mut self, table: &Table<'a>) {
        // A masked column elsewhere may refer to this table: its key would be checked again, too.
        let refers = |id| Some(self.view.rel_mask(id)?.delete_tells.as_ref()?.to_string());
        if let Some(column) = table.id.and_then(|id| self.view.label_near(id).or_else(|| refers(id))) {
            self.opaque_because(format!(
                "column {column} has a label, and constraints on it would be checked again"
            ));
        }
    }

    fn masked_name(&self, table: &Table<'a>, name: &str) -> Option<String> {
        let mut found = super::scope::Found::default();
        table.item.find(name, &mut found);
        found.taint.and_then(|taint| self.view.mask(taint)).map(|mask| mask.path.to_string())
    }

    pub(super) fn new_column(&mut self, table: &Table<'a>, column: &'a ColumnDef) -> Res<()> {
        self.spend(1)?;
        self.new_type(column.type_name());
        self.kept_column(table, column.colname().unwrap_or_default())?;
        self.kept_expression(None, column.raw_default())?;
        if !column.fdwoptions().is_empty() {
            self.opaque();
        }
        for node in column.constraints() {
            match node {
                Node::Constraint(constraint) => self.constraint(table, constraint)?,
                _ => self.opaque(),
            }
        }
        Ok(())
    }

    /// The type of a column. One that is not known was made in the same transaction, and runs no code for that.
    fn new_type(&mut self, it: Option<&'a TypeName>) {
        let Some(it) = it else { return };
        let runs_code = match qualified(it.names().iter().map(|part| part.sval())) {
            Ok(name) => self.find_type(name).unwrap_or(false),
            Err(_) => true,
        };
        if runs_code || it.setof || it.pct_type {
            let names: Vec<_> = it.names().iter().filter_map(|part| part.sval()).collect();
            self.opaque_because(Refusal::data_type(names.join(".")).reason);
        }
    }

    pub(super) fn constraint(&mut self, table: &Table<'a>, it: &'a Constraint) -> Res<()> {
        match it.contype {
            ConstrType::CONSTR_NULL
            | ConstrType::CONSTR_IDENTITY
            | ConstrType::CONSTR_ATTR_DEFERRABLE
            | ConstrType::CONSTR_ATTR_NOT_DEFERRABLE
            | ConstrType::CONSTR_ATTR_DEFERRED
            | ConstrType::CONSTR_ATTR_IMMEDIATE => Ok(()),
            ConstrType::CONSTR_NOTNULL => self.kept_columns(table, it.keys()),
            ConstrType::CONSTR_DEFAULT => self.kept_expression(None, it.raw_expr()),
            ConstrType::CONSTR_CHECK | ConstrType::CONSTR_GENERATED => {
                self.kept_expression(Some(table), it.raw_expr())
            }
            ConstrType::CONSTR_PRIMARY | ConstrType::CONSTR_UNIQUE if it.indexname().is_none() => {
                self.kept_columns(table, it.keys())?;
                self.kept_columns(table, it.including())
            }
            ConstrType::CONSTR_FOREIGN => {
                self.kept_columns(table, it.fk_attrs())?;
                self.points_at(it)
            }
            _ => {
                self.opaque();
                Ok(())
            }
        }
    }

    /// A foreign key tells which values exist in the columns it points at.
    fn points_at(&mut self, it: &'a Constraint) -> Res<()> {
        let Some(range) = it.pktable() else { return Ok(()) };
        let there = self.table(range, &[])?;
        self.kept_columns(&there, it.pk_attrs())?;
        let Some(id) = there.id else { return Ok(()) };
        let mask = self.view.rel_mask(id);
        self.strict |= mask.is_some_and(|mask| mask.strict);
        let (Some(mask), Some(relation)) = (mask, self.catalog.relation(id)) else { return Ok(()) };
        if !it.pk_attrs().is_empty() {
            return Ok(());
        }
        // Its primary key: one of these.
        for (column, taint) in relation.columns.list.iter().zip(&mask.taints) {
            let part = relation.uniques.iter().any(|unique| unique.columns.contains(&column.number));
            let result = if part { self.require_clean(*taint, How::Definition) } else { Ok(()) };
            self.judged(result)?;
        }
        Ok(())
    }
}
