//! Statements that are not queries: transactions, the session, names, and what policy decides by its verb alone.

use std::borrow::Cow;

use pg_raw_parse::list::NodeList;
use pg_raw_parse::nodes::{
    CallStmt, FetchStmt, GrantStmt, RangeVar, TransactionStmt, TruncateStmt, VariableSetStmt,
    VariableShowStmt,
};
use pg_raw_parse::raw::{
    DiscardMode, DropBehavior, GrantTargetType, ObjectType, TransactionStmtKind, VariableSetKind,
};
use pg_raw_parse::{ConstValue, Node};

use super::call::qualified;
use super::dispatch::Draft;
use super::{Analyser, settings};
use crate::catalog::Shape;
use crate::refusal::{How, Refusal, Res};
use crate::statement::{Class, Flag, NameOp, OutColumn, Output, RelName, TransactionOp, Verb};

impl<'a> Analyser<'a> {
    pub(super) fn utility(&mut self, node: Node<'a>) -> Res<Draft<'a>> {
        match node {
            Node::TransactionStmt(it) => self.transaction(it),
            Node::VariableSetStmt(it) => self.set(it),
            Node::VariableShowStmt(it) => show(it),
            Node::ConstraintsSetStmt(_) => {
                // What was put off to the end of the transaction is checked now, and speaks now.
                let transaction = Some(TransactionOp::CheckConstraints);
                Ok(Draft { transaction, ..independent(Class::Session) })
            }
            Node::DiscardStmt(it) => match it.target {
                DiscardMode::DISCARD_PLANS | DiscardMode::DISCARD_SEQUENCES => {
                    Ok(independent(Class::Session))
                }
                DiscardMode::DISCARD_TEMP => Ok(self.ddl(None)),
                _ => Err(Refusal::class(
                    "DISCARD ALL",
                    "RESET single settings and DEALLOCATE single statements",
                )),
            },
            Node::ExecuteStmt(it) => {
                self.clean_all(it.params(), How::Function)?;
                let name = it.name().unwrap_or_default().to_owned();
                let output = Some(Output::OfName);
                Ok(Draft { names: NameOp::Execute(name), output, ..Draft::new(Class::Execute) })
            }
            Node::DeallocateStmt(it) => {
                let names = NameOp::Deallocate(it.name().filter(|_| !it.isall).map(str::to_owned));
                Ok(Draft { names, ..independent(Class::Deallocate) })
            }
            Node::FetchStmt(it) => Ok(fetch(it)),
            Node::ClosePortalStmt(it) => {
                let names = NameOp::CloseCursor(it.portalname().map(str::to_owned));
                Ok(Draft { names, ..independent(Class::CloseCursor) })
            }
            Node::ListenStmt(_) | Node::UnlistenStmt(_) | Node::NotifyStmt(_) => {
                Ok(independent(Class::Listen))
            }
            Node::TruncateStmt(it) => self.truncate(it),
            Node::DoStmt(_) => {
                self.opaque();
                Ok(Draft { changes: true, ..Draft::new(Class::Call) })
            }
            Node::CallStmt(it) => self.procedure(it),
            Node::LockStmt(it) => self.admin_on(it.relations().iter()),
            Node::VacuumStmt(it) => Ok(self.vacuum(it)),
            Node::GrantStmt(it) => Ok(self.grant(it)),
            Node::ClusterStmt(it) => Ok(self.cluster(it)),
            Node::ReindexStmt(it) => Ok(self.reindex(it)),
            Node::AlterOwnerStmt(it) => Ok(self.changing_admin(it.relation())),
            Node::GrantRoleStmt(_)
            | Node::AlterDefaultPrivilegesStmt(_)
            | Node::CreateRoleStmt(_)
            | Node::AlterRoleStmt(_)
            | Node::AlterRoleSetStmt(_)
            | Node::DropRoleStmt(_)
            | Node::DropOwnedStmt(_)
            | Node::ReassignOwnedStmt(_)
            | Node::CreatedbStmt(_)
            | Node::AlterDatabaseStmt(_)
            | Node::AlterDatabaseRefreshCollStmt(_)
            | Node::AlterDatabaseSetStmt(_)
            | Node::DropdbStmt(_)
            | Node::AlterSystemStmt(_)
            | Node::CheckPointStmt(_)
            | Node::LoadStmt(_)
            | Node::CreateTableSpaceStmt(_)
            | Node::DropTableSpaceStmt(_)
            | Node::AlterTableSpaceOptionsStmt(_)
            | Node::AlterTableMoveAllStmt(_)
            | Node::CreateSubscriptionStmt(_)
            | Node::AlterSubscriptionStmt(_)
            | Node::DropSubscriptionStmt(_)
            | Node::CreateUserMappingStmt(_)
            | Node::AlterUserMappingStmt(_)
            | Node::DropUserMappingStmt(_)
            | Node::SecLabelStmt(_) => Ok(self.changing_admin(None)),
            _ => self.definition_statement(node),
        }
    }

    /// DDL. What embeds code or expressions is marked opaque: they are stored or run without having been analysed.
    fn definition_statement(&mut self, node: Node<'a>) -> Res<Draft<'a>> {
        let relation = match node {
            Node::CreateStmt(it) => return self.create_table(it),
            Node::AlterTableStmt(it) => return self.alter_table(it),
            Node::IndexStmt(it) => return self.create_index(it),
            Node::DropStmt(it) => return Ok(self.drop_objects(it)),
            Node::CommentStmt(it) => return Ok(self.comment(it)),
            Node::CreateEnumStmt(_) | Node::AlterEnumStmt(_) | Node::CompositeTypeStmt(_) => {
                return Ok(self.ddl(None));
            }
            Node::CreateSeqStmt(it) => {
                self.comes(it.sequence());
                return Ok(self.ddl(it.sequence()));
            }
            Node::AlterSeqStmt(it) => return Ok(self.ddl(it.sequence())),
            Node::RenameStmt(it) => return Ok(self.rename_object(it)),
            Node::AlterObjectSchemaStmt(it) => return Ok(self.set_schema(it)),
            Node::CreateSchemaStmt(it) if it.schema_elts().is_empty() => return Ok(self.ddl(None)),
            Node::CreateTrigStmt(it) => it.relation(),
            Node::RuleStmt(it) => it.relation(),
            Node::CreatePolicyStmt(it) => it.table(),
            Node::AlterPolicyStmt(it) => it.table(),
            Node::RefreshMatViewStmt(it) => return Ok(self.refresh(it)),
            Node::CreateStatsStmt(it) => return self.create_statistics(it),
            // How much is looked at.
            Node::AlterStatsStmt(_) => return Ok(self.ddl(None)),
            Node::AlterObjectDependsStmt(it) => it.relation(),
            Node::CreateSchemaStmt(_)
            | Node::CreateFunctionStmt(_)
            | Node::AlterFunctionStmt(_)
            | Node::DefineStmt(_)
            | Node::CreateDomainStmt(_)
            | Node::AlterDomainStmt(_)
            | Node::CreateRangeStmt(_)
            | Node::AlterTypeStmt(_)
            | Node::AlterCollationStmt(_)
            | Node::CreateExtensionStmt(_)
            | Node::AlterExtensionStmt(_)
            | Node::AlterExtensionContentsStmt(_)
            | Node::CreateFdwStmt(_)
            | Node::AlterFdwStmt(_)
            | Node::CreateForeignServerStmt(_)
            | Node::AlterForeignServerStmt(_)
            | Node::ImportForeignSchemaStmt(_)
            | Node::CreateAmStmt(_)
            | Node::CreateEventTrigStmt(_)
            | Node::AlterEventTrigStmt(_)
            | Node::CreatePLangStmt(_)
            | Node::CreateOpClassStmt(_)
            | Node::CreateOpFamilyStmt(_)
            | Node::AlterOpFamilyStmt(_)
            | Node::AlterOperatorStmt(_)
            | Node::CreateConversionStmt(_)
            | Node::CreateCastStmt(_)
            | Node::CreateTransformStmt(_)
            | Node::AlterTSDictionaryStmt(_)
            | Node::AlterTSConfigurationStmt(_)
            | Node::CreatePublicationStmt(_)
            | Node::AlterPublicationStmt(_) => None,
            _ => return Err(Refusal::unsupported(&super::json::node_name(node))),
        };
        self.opaque();
        Ok(self.ddl(relation))
    }

    pub(super) fn opaque(&mut self) {
        self.flags.insert(Flag::Opaque);
        self.strict = true;
    }

    pub(super) fn ddl(&mut self, relation: Option<&'a RangeVar>) -> Draft<'a> {
        self.created(relation);
        self.ddl_noted()
    }

    /// A definition whose accesses are noted already.
    pub(super) fn ddl_noted(&self) -> Draft<'a> {
        Draft { changes: true, ..independent(Class::Ddl) }
    }

    /// Notes a definition, of the relation if there is one.
    pub(super) fn created(&mut self, relation: Option<&'a RangeVar>) {
        match relation {
            Some(range) => self.named(Verb::Ddl, range),
            None => self.access(Verb::Ddl, None),
        }
    }

    /// Notes an access to a relation that need not exist (yet).
    fn named(&mut self, verb: Verb, range: &'a RangeVar) {
        let table = range.relname().unwrap_or_default();
        self.named_parts(verb, range.schemaname(), table, range.relpersistence == b't'.cast_signed());
    }

    pub(super) fn named_parts(&mut self, verb: Verb, schema: Option<&str>, table: &str, temporary: bool) {
        let id = self.catalog.lookup(schema, table, self.path).filter(|_| !temporary);
        if id.and_then(|id| self.view.rel_mask(id)).is_some_and(|mask| !mask.taints.is_empty()) {
            self.flags.insert(Flag::MaskedRelation);
        }
        if id.and_then(|id| self.view.rel_mask(id)).is_some_and(|mask| mask.strict || mask.strict_write) {
            self.strict = true;
        }
        let name = id.and_then(|id| self.catalog.relation(id)).map(|relation| relation.rel_name());
        let name = name.unwrap_or_else(|| {
            let home = self.catalog.creation_schema(self.path).map_or("", |schema| schema);
            let schema = if temporary { "pg_temp" } else { schema.unwrap_or(home) };
            RelName { schema: schema.into(), table: table.into() }
        });
        self.access(verb, Some(name));
    }

    pub(super) fn admin(&mut self, relations: impl IntoIterator<Item = &'a RangeVar>) -> Draft<'a> {
        for relation in relations {
            self.named(Verb::Admin, relation);
        }
        independent(Class::Admin)
    }

    fn admin_on(&mut self, relations: impl Iterator<Item = Node<'a>>) -> Res<Draft<'a>> {
        for relation in relations {
            match relation {
                Node::RangeVar(range) => self.named(Verb::Admin, range),
                _ => return Err(Refusal::unsupported("this list of relations")),
            }
        }
        Ok(independent(Class::Admin))
    }

    pub(super) fn changing_admin(&mut self, relation: Option<&'a RangeVar>) -> Draft<'a> {
        Draft { changes: true, ..self.admin(relation) }
    }

    /// GRANT and REVOKE; only tables are named one by one.
    fn grant(&mut self, grant: &'a GrantStmt) -> Draft<'a> {
        if grant.objtype == ObjectType::OBJECT_TABLE && grant.targtype == GrantTargetType::ACL_TARGET_OBJECT {
            return Draft { changes: true, ..self.admin(grant.objects()) };
        }
        self.changing_admin(None)
    }

    fn truncate(&mut self, truncate: &'a TruncateStmt) -> Res<Draft<'a>> {
        if truncate.behavior == DropBehavior::DROP_CASCADE {
            self.flags.insert(Flag::Cascade);
        }
        for relation in truncate.relations() {
            match relation {
                Node::RangeVar(range) => {
                    let id = self.relation(range)?;
                    self.touch_write(id, Verb::Truncate)?;
                }
                _ => return Err(Refusal::unsupported("this TRUNCATE")),
            }
        }
        Ok(Draft::new(Class::Truncate))
    }

    /// CALL runs code that was not analysed. What OUT parameters return is not known to be clean.
    fn procedure(&mut self, call: &'a CallStmt) -> Res<Draft<'a>> {
        let call = call.funccall().ok_or_else(|| Refusal::unsupported("this CALL"))?;
        let name = qualified(call.funcname().iter().map(Node::as_str))?;
        self.clean_all(call.args(), How::Function)?;
        let silent =
            self.catalog.functions.get(name.name).is_some_and(|function| function.shape == Shape::Scalar);
        if !silent && !self.clear() {
            return Err(Refusal::function(name.to_string()));
        }
        self.opaque();
        self.opaque_call(name);
        let output = Some(if silent { Output::NoRows } else { Output::CleanRows });
        Ok(Draft { output, changes: true, ..Draft::new(Class::Call) })
    }

    fn transaction(&mut self, it: &'a TransactionStmt) -> Res<Draft<'a>> {
        let name = it.savepoint_name().unwrap_or_default().to_owned();
        let operation = match it.kind {
            TransactionStmtKind::TRANS_STMT_BEGIN | TransactionStmtKind::TRANS_STMT_START => {
                TransactionOp::Begin
            }
            TransactionStmtKind::TRANS_STMT_COMMIT => TransactionOp::Commit { chain: it.chain },
            TransactionStmtKind::TRANS_STMT_ROLLBACK => TransactionOp::Rollback { chain: it.chain },
            TransactionStmtKind::TRANS_STMT_SAVEPOINT => TransactionOp::Savepoint(name),
            TransactionStmtKind::TRANS_STMT_RELEASE => TransactionOp::Release(name),
            TransactionStmtKind::TRANS_STMT_ROLLBACK_TO => TransactionOp::RollbackTo(name),
            // Two-phase commit outlives the session.
            _ => return Ok(independent(Class::Admin)),
        };
        Ok(Draft { transaction: Some(operation), ..independent(Class::Transaction) })
    }

    fn set(&mut self, it: &'a VariableSetStmt) -> Res<Draft<'a>> {
        let name = it.name().unwrap_or_default();
        match it.kind {
            VariableSetKind::VAR_SET_VALUE
            | VariableSetKind::VAR_SET_DEFAULT
            | VariableSetKind::VAR_RESET
                if name.eq_ignore_ascii_case("role") =>
            {
                return Ok(self.changing_admin(None));
            }
            VariableSetKind::VAR_SET_VALUE => {
                let values = values(it.args());
                let values: Vec<&str> = values.iter().map(|value| &**value).collect();
                settings::may_set(name, &values)?;
                if !self.clear() {
                    settings::beside_masks(name, values.first().copied().unwrap_or_default())?;
                }
            }
            VariableSetKind::VAR_SET_DEFAULT | VariableSetKind::VAR_RESET => settings::may_set(name, &[])?,
            VariableSetKind::VAR_SET_MULTI if matches!(name, "TRANSACTION" | "SESSION CHARACTERISTICS") => {}
            VariableSetKind::VAR_RESET_ALL => {
                return Err(Refusal::class("RESET ALL", "RESET the settings one by one"));
            }
            _ => return Err(Refusal::setting(name)),
        }
        self.sets |= settings::gives_meaning(name);
        Ok(independent(Class::Session))
    }
}

/// A statement that means the same whatever the catalogue has.
fn independent<'a>(class: Class) -> Draft<'a> {
    Draft { depends: false, ..Draft::new(class) }
}

fn values(list: &NodeList) -> Vec<Cow<'_, str>> {
    let value = |node| match node {
        Node::A_Const(constant) => match constant.val() {
            Some(ConstValue::String(text) | ConstValue::Float(text)) => text.into(),
            Some(ConstValue::Integer(number)) => number.to_string().into(),
            _ => "".into(),
        },
        _ => "".into(),
    };
    list.iter().map(value).collect()
}

fn show<'a>(it: &'a VariableShowStmt) -> Res<Draft<'a>> {
    let name = it.name().unwrap_or_default();
    settings::may_show(name)?;
    let columns = if name.eq_ignore_ascii_case("all") { 3 } else { 1 };
    let output = Output::Columns(vec![OutColumn::default(); columns]);
    Ok(Draft { output: Some(output), ..independent(Class::Session) })
}

fn fetch<'a>(it: &'a FetchStmt) -> Draft<'a> {
    let name = it.portalname().unwrap_or_default().to_owned();
    let output = if it.ismove { Output::NoRows } else { Output::OfName };
    let names = NameOp::Fetch { name, sends_rows: !it.ismove };
    Draft { names, output: Some(output), ..independent(Class::Fetch) }
}
