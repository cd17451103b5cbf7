//! INSERT, UPDATE, DELETE, MERGE. What they store must be clean; RETURNING may carry masks.

use pg_raw_parse::list::NodeList;
use pg_raw_parse::nodes::{
    DeleteStmt, InsertStmt, MergeStmt, MergeWhenClause, MultiAssignRef, OnConflictClause, RangeVar,
    ResTarget, ReturningClause, SelectStmt, UpdateStmt,
};
use pg_raw_parse::raw::{CmdType, MergeMatchKind, OnConflictAction, ReturningOptionKind, SetOperation};
use pg_raw_parse::{Node, nodes};

use super::Analyser;
use super::scope::{Fields, Item, OutRows};
use crate::catalog::RelId;
use crate::refusal::{How, Refusal, Res};
use crate::statement::{Flag, Verb};

/// The rows of RETURNING, `None` without one.
pub(super) type Returned<'a> = Option<OutRows<'a>>;

impl<'a> Analyser<'a> {
    pub(super) fn insert(&mut self, insert: &'a InsertStmt) -> Res<Returned<'a>> {
        self.nested(|this| {
            if let Some(with) = insert.with_clause() {
                this.with(with)?;
            }
            let (id, target) = this.target_relation(insert.relation(), Verb::Insert)?;
            let columns = this.insert_columns(id, insert.cols())?;
            let width = this.insert_source(insert.select_stmt())?;
            match columns {
                Some(columns) => columns.into_iter().try_for_each(|at| this.may_write(id, at))?,
                None => {
                    (0..width.unwrap_or(target.fields.len())).try_for_each(|at| this.may_write(id, at))?
                }
            }
            if let Some(conflict) = insert.on_conflict_clause() {
                this.on_conflict(conflict, id, &target)?;
            }
            this.level()?.items = vec![target.clone()];
            this.returning(insert.returning_clause(), &target)
        })
    }

    pub(super) fn update(&mut self, update: &'a UpdateStmt) -> Res<Returned<'a>> {
        self.nested(|this| {
            if let Some(with) = update.with_clause() {
                this.with(with)?;
            }
            let (id, target) = this.target_relation(update.relation(), Verb::Update)?;
            this.target_and_from(&target, update.from_clause())?;
            this.row_filter(update.where_clause())?;
            this.assignments(id, update.target_list().iter())?;
            this.returning(update.returning_clause(), &target)
        })
    }

    pub(super) fn delete(&mut self, delete: &'a DeleteStmt) -> Res<Returned<'a>> {
        self.nested(|this| {
            if let Some(with) = delete.with_clause() {
                this.with(with)?;
            }
            let (id, target) = this.target_relation(delete.relation(), Verb::Delete)?;
            this.may_delete(id)?;
            this.target_and_from(&target, delete.using_clause())?;
            this.row_filter(delete.where_clause())?;
            this.returning(delete.returning_clause(), &target)
        })
    }

    pub(super) fn merge(&mut self, merge: &'a MergeStmt) -> Res<Returned<'a>> {
        self.nested(|this| {
            if let Some(with) = merge.with_clause() {
                this.with(with)?;
            }
            let (id, target) = this.target_relation(merge.relation(), Verb::Merge)?;
            let source = this.source(merge.source_relation())?;
            let mut both = source.clone();
            both.push(target.clone());
            this.level()?.items.clone_from(&both);
            this.clean(merge.join_condition(), How::Join)?;
            for clause in merge.merge_when_clauses() {
                this.level()?.items = match clause.match_kind {
                    MergeMatchKind::MERGE_WHEN_MATCHED => both.clone(),
                    MergeMatchKind::MERGE_WHEN_NOT_MATCHED_BY_SOURCE => vec![target.clone()],
                    MergeMatchKind::MERGE_WHEN_NOT_MATCHED_BY_TARGET => source.clone(),
                    _ => return Err(Refusal::unsupported("this WHEN clause")),
                };
                this.merge_when(clause, id)?;
            }
            this.level()?.items = both;
            this.returning(merge.returning_clause(), &target)
        })
    }

    fn merge_when(&mut self, clause: &'a MergeWhenClause, id: RelId) -> Res<()> {
        self.clean(clause.condition(), How::Condition)?;
        match clause.command_type {
            CmdType::CMD_INSERT => {
                self.touch_write(id, Verb::Insert)?;
                match self.insert_columns(id, clause.target_list())? {
                    Some(columns) => columns.into_iter().try_for_each(|at| self.may_write(id, at))?,
                    None => (0..clause.values().len()).try_for_each(|at| self.may_write(id, at))?,
                }
                clause.values().iter().try_for_each(|value| self.stored(value))
            }
            CmdType::CMD_UPDATE => {
                self.touch_write(id, Verb::Update)?;
                self.assignments(id, res_targets(clause.target_list())?.into_iter())
            }
            CmdType::CMD_DELETE => {
                self.touch_write(id, Verb::Delete)?;
                self.may_delete(id)
            }
            CmdType::CMD_NOTHING => Ok(()),
            _ => Err(Refusal::unsupported("this action of MERGE")),
        }
    }

    /// The relation a statement writes to: never a CTE.
    fn target_relation(&mut self, range: Option<&'a RangeVar>, verb: Verb) -> Res<(RelId, Item<'a>)> {
        let range = range.ok_or_else(|| Refusal::unsupported("this statement"))?;
        let id = self.relation(range)?;
        self.touch_write(id, verb)?;
        Ok((id, self.table_item(id, range)?))
    }

    fn target_and_from(&mut self, target: &Item<'a>, from: &'a NodeList) -> Res<()> {
        self.level()?.items.push(Item { lateral_only: true, ..target.clone() });
        self.source_list(from)?;
        if let Some(first) = self.level()?.items.first_mut() {
            first.lateral_only = false;
        }
        Ok(())
    }

    fn row_filter(&mut self, filter: Node<'a>) -> Res<()> {
        if matches!(filter, Node::None) {
            self.flags.insert(Flag::NoWhere);
        }
        let before = self.columns;
        self.clean(filter, How::Filter)?;
        if self.columns == before && !matches!(filter, Node::None | Node::CurrentOfExpr(_)) {
            self.flags.insert(Flag::ConstantWhere);
        }
        Ok(())
    }

    /// Positions of the named columns; `None` if none are named.
    fn insert_columns(&mut self, id: RelId, columns: &'a NodeList) -> Res<Option<Vec<usize>>> {
        if columns.is_empty() {
            return Ok(None);
        }
        let targets = res_targets(columns)?;
        targets.into_iter().map(|target| self.written_column(id, target)).collect::<Res<Vec<_>>>().map(Some)
    }

    fn written_column(&mut self, id: RelId, target: &'a ResTarget) -> Res<usize> {
        for step in target.indirection() {
            match step {
                Node::A_Indices(indices) => {
                    self.clean(indices.lidx(), How::Store)?;
                    self.clean(indices.uidx(), How::Store)?;
                }
                Node::String(_) => {}
                _ => return Err(Refusal::unsupported("this target column")),
            }
        }
        let name = target.name().unwrap_or_default();
        let position = self.catalog.relation(id).and_then(|relation| relation.columns.position(name));
        position.ok_or_else(|| Refusal::column(name))
    }

    /// Whether writing the column would tell which values exist.
    pub(super) fn may_write(&self, id: RelId, position: usize) -> Res<()> {
        let how = self.view.rel_mask(id).and_then(|mask| mask.oracles.get(position).copied().flatten());
        how.map_or(Ok(()), |how| Err(self.telling(id, position, how)))
    }

    /// Whether changing the column in rows that exist would tell what was there.
    fn may_change(&self, id: RelId, position: usize) -> Res<()> {
        let watched = self.view.rel_mask(id).and_then(|mask| mask.watched.get(position).copied());
        if watched == Some(true) { Err(self.telling(id, position, How::Changed)) } else { Ok(()) }
    }

    fn telling(&self, id: RelId, position: usize, how: How) -> Box<Refusal> {
        let taint = self.view.rel_mask(id).and_then(|mask| mask.taints.get(position).copied().flatten());
        if let Some(taint) = taint {
            return self.labelled(taint, how);
        }
        let column = self.catalog.relation(id).and_then(|relation| relation.columns.list.get(position));
        Refusal::labelled(column.map(|column| column.name.to_string()).unwrap_or_default(), how)
    }

    /// VALUES or a query; gives the number of columns if it is known.
    fn insert_source(&mut self, source: Node<'a>) -> Res<Option<usize>> {
        let select = match source {
            Node::None => return Ok(Some(0)),
            Node::SelectStmt(select) => select,
            _ => return Err(Refusal::unsupported("this source of INSERT")),
        };
        if is_plain_values(select) {
            return self.nested(|this| {
                let mut width = 0;
                for row in select.values_lists() {
                    let Node::NodeList(row) = row else {
                        return Err(Refusal::unsupported("this VALUES list"));
                    };
                    width = width.max(row.len());
                    row.iter().try_for_each(|value| this.stored(value))?;
                }
                Ok(Some(width))
            });
        }
        let rows = self.select(select)?;
        self.require_clean_rows(&rows, How::Store)?;
        Ok((!rows.open).then_some(rows.fields.len()))
    }

    /// One value to be stored.
    fn stored(&mut self, value: Node<'a>) -> Res<()> {
        match value {
            Node::SetToDefault(_) => Ok(()),
            _ => self.clean(value, How::Store),
        }
    }

    fn assignments(&mut self, id: RelId, targets: impl Iterator<Item = &'a ResTarget>) -> Res<()> {
        let mut written = Vec::new();
        for target in targets {
            let position = self.written_column(id, target)?;
            self.may_write(id, position)?;
            self.may_change(id, position)?;
            if !target.indirection().is_empty() {
                // The rest of it stays, and what stands there decides whether the part can be set.
                let taints = self.view.rel_mask(id).map_or(&[][..], |mask| &mask.taints);
                self.require_clean(taints.get(position).copied().flatten(), How::Expression)?;
            }
            written.push(position);
            match target.val() {
                Node::MultiAssignRef(source) => self.multi_assigned(source)?,
                value if self.is_own_excluded(value, id, position) => {}
                value => self.stored(value)?,
            }
        }
        self.may_update(id, &written)
    }

    /// `(a, b) = (…)`: every target refers to the same source, which is looked at once.
    fn multi_assigned(&mut self, source: &'a MultiAssignRef) -> Res<()> {
        if source.colno != 1 {
            return Ok(());
        }
        match source.source() {
            Node::RowExpr(row) => row.args().iter().try_for_each(|value| self.stored(value)),
            value => self.clean(value, How::Store),
        }
    }

    /// `SET c = excluded.c`: the proposed value of a column stays in that column.
    fn is_own_excluded(&self, value: Node<'a>, id: RelId, position: usize) -> bool {
        let Node::ColumnRef(reference) = value else { return false };
        let mut parts = reference.fields().iter().map(Node::as_str);
        let (Some(Some("excluded")), Some(Some(name)), None) = (parts.next(), parts.next(), parts.next())
        else {
            return false;
        };
        let own = self.catalog.relation(id).and_then(|relation| relation.columns.position(name));
        // In the scope of ON CONFLICT the name cannot mean anything else.
        let excluded = self.levels.last().is_some_and(|level| match level.items.as_slice() {
            [item, _] => item.name == "excluded" && item.relation.is_none(),
            _ => false,
        });
        excluded && own == Some(position)
    }

    fn on_conflict(&mut self, conflict: &'a OnConflictClause, id: RelId, target: &Item<'a>) -> Res<()> {
        if let Some(infer) = conflict.infer() {
            self.level()?.items = vec![target.clone()];
            for element in infer.index_elems() {
                self.arbiter(element, id)?;
            }
            self.clean(infer.where_clause(), How::Arbiter)?;
        }
        if conflict.action != OnConflictAction::ONCONFLICT_UPDATE {
            return Ok(());
        }
        self.touch_write(id, Verb::Update)?;
        let excluded = Item::new("excluded", target.fields.clone());
        self.level()?.items = vec![excluded, target.clone()];
        self.assignments(id, conflict.target_list().iter())?;
        self.clean(conflict.where_clause(), How::Filter)
    }

    fn arbiter(&mut self, element: Node<'a>, id: RelId) -> Res<()> {
        let Node::IndexElem(element) = element else {
            return Err(Refusal::unsupported("this conflict target"));
        };
        let element: &nodes::IndexElem = element;
        self.clean(element.expr(), How::Arbiter)?;
        let Some(name) = element.name() else { return Ok(()) };
        let position = self.catalog.relation(id).and_then(|relation| relation.columns.position(name));
        let position = position.ok_or_else(|| Refusal::column(name))?;
        let taints = self.view.rel_mask(id).map_or(&[][..], |mask| &mask.taints);
        self.require_clean(taints.get(position).copied().flatten(), How::Arbiter)
    }

    /// RETURNING, with `old` and `new` (or what WITH calls them) for the target.
    fn returning(&mut self, clause: Option<&'a ReturningClause>, target: &Item<'a>) -> Res<Returned<'a>> {
        let Some(clause) = clause else { return Ok(None) };
        let (mut old, mut new) = ("old", "new");
        for option in clause.options() {
            match option.option {
                ReturningOptionKind::RETURNING_OPTION_OLD => old = option.value().unwrap_or(old),
                ReturningOptionKind::RETURNING_OPTION_NEW => new = option.value().unwrap_or(new),
                _ => return Err(Refusal::unsupported("this option of RETURNING")),
            }
        }
        for name in [old, new] {
            let taken = self.level()?.items.iter().any(|item| item.name == name && item.rel_visible);
            if !taken {
                let fields: Fields<'a> = target.fields.clone();
                let item = Item { cols_visible: false, system_columns: true, ..Item::new(name, fields) };
                self.level()?.items.push(item);
            }
        }
        let mut out = OutRows::default();
        for entry in clause.exprs() {
            match entry {
                Node::ResTarget(entry) => self.target(entry, &mut out)?,
                _ => return Err(Refusal::unsupported("this RETURNING list")),
            }
        }
        Ok(Some(out))
    }
}

fn is_plain_values(select: &SelectStmt) -> bool {
    select.op == SetOperation::SETOP_NONE
        && !select.values_lists().is_empty()
        && select.with_clause().is_none()
        && select.sort_clause().is_empty()
        && matches!(select.limit_count(), Node::None)
        && matches!(select.limit_offset(), Node::None)
        && select.locking_clause().is_empty()
}

fn res_targets(list: &NodeList) -> Res<Vec<&ResTarget>> {
    let target = |node| match node {
        Node::ResTarget(target) => Ok(target),
        _ => Err(Refusal::unsupported("this column list")),
    };
    list.iter().map(target).collect()
}
