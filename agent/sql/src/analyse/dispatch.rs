//! From the kind of a statement to its analysis, and from the analysis to a [`Statement`]. The match over kinds is an
//! allow-list: a kind nobody thought of is refused.

use pg_raw_parse::Node;
use pg_raw_parse::nodes::{
    CreateTableAsStmt, DeclareCursorStmt, ExplainStmt, PrepareStmt, SelectStmt, ViewStmt,
};
use pg_raw_parse::raw::{CURSOR_OPT_BINARY, CURSOR_OPT_HOLD};

use super::Analyser;
use super::scope::OutRows;
use super::with::rename;
use crate::parse::Tree;
use crate::refusal::{How, Refusal, Res};
use crate::statement::{Class, CopyPlan, Flag, NameOp, OutColumn, Output, Statement, TransactionOp, Verb};
use crate::view::View;

/// A statement in the making.
pub(super) struct Draft<'a> {
    pub(super) class: Class,
    /// Rows the statement sends, unless `output` says otherwise.
    pub(super) rows: Option<OutRows<'a>>,
    pub(super) output: Option<Output>,
    pub(super) names: NameOp,
    pub(super) copy: Option<CopyPlan>,
    pub(super) transaction: Option<TransactionOp>,
    /// Later statements of the same string may mean something else after this one.
    pub(super) changes: bool,
    /// Its own meaning hangs on what the catalogue has.
    pub(super) depends: bool,
}

impl Draft<'_> {
    pub(super) fn new(class: Class) -> Self {
        Self {
            class,
            rows: None,
            output: None,
            names: NameOp::None,
            copy: None,
            transaction: None,
            changes: false,
            depends: true,
        }
    }
}

pub(super) fn statements(tree: &Tree, len: usize, view: &View) -> Res<Vec<Statement>> {
    let mut list = Vec::new();
    let mut changed = false;
    let mut work = 0;
    for (index, raw) in tree.statements().enumerate() {
        let at = |mut refusal: Box<Refusal>| {
            refusal.statement = index;
            refusal
        };
        let mut analyser = Analyser::new(view, view.path());
        analyser.work = work;
        let draft = analyser.statement(raw.node).map_err(at)?;
        if changed && draft.depends {
            return Err(at(Refusal::after_change()));
        }
        changed |= draft.changes;
        work = analyser.work;
        let end = if raw.len == 0 { len } else { raw.start + raw.len };
        let mut statement = analyser.finish(draft).map_err(at)?;
        statement.range = raw.start..end;
        list.push(statement);
    }
    Ok(list)
}

impl<'a> Analyser<'a> {
    pub(super) fn statement(&mut self, node: Node<'a>) -> Res<Draft<'a>> {
        match node {
            Node::SelectStmt(select) if select.into_clause().is_some() => self.select_into(select),
            Node::SelectStmt(_)
            | Node::InsertStmt(_)
            | Node::UpdateStmt(_)
            | Node::DeleteStmt(_)
            | Node::MergeStmt(_) => self.query(node),
            Node::PrepareStmt(prepare) => self.prepare(prepare),
            Node::DeclareCursorStmt(declare) => self.declare(declare),
            Node::ExplainStmt(explain) => self.explain(explain),
            Node::CreateTableAsStmt(create) => self.create_as(create),
            Node::ViewStmt(create) => self.create_view(create),
            Node::CopyStmt(copy) => self.copy(copy),
            _ => self.utility(node),
        }
    }

    fn query(&mut self, node: Node<'a>) -> Res<Draft<'a>> {
        let (class, rows) = match node {
            Node::SelectStmt(select) => (Class::Select, Some(self.select(select)?)),
            Node::InsertStmt(insert) => (Class::Insert, self.insert(insert)?),
            Node::UpdateStmt(update) => (Class::Update, self.update(update)?),
            Node::DeleteStmt(delete) => (Class::Delete, self.delete(delete)?),
            Node::MergeStmt(merge) => (Class::Merge, self.merge(merge)?),
            _ => return Err(Refusal::unsupported("this query")),
        };
        Ok(Draft { rows, ..Draft::new(class) })
    }

    fn prepare(&mut self, prepare: &'a PrepareStmt) -> Res<Draft<'a>> {
        prepare.argtypes().iter().try_for_each(|argument| self.type_name(Some(argument)))?;
        let inner = Box::new(self.inner(prepare.query())?);
        let name = prepare.name().unwrap_or_default().to_owned();
        Ok(Draft { names: NameOp::Prepare { name, inner }, ..Draft::new(Class::Prepare) })
    }

    fn declare(&mut self, declare: &'a DeclareCursorStmt) -> Res<Draft<'a>> {
        let inner = Box::new(self.inner(declare.query())?);
        let has = |option: u32| u32::try_from(declare.options).is_ok_and(|options| options & option != 0);
        let (hold, binary) = (has(CURSOR_OPT_HOLD), has(CURSOR_OPT_BINARY));
        let name = declare.portalname().unwrap_or_default().to_owned();
        Ok(Draft {
            names: NameOp::DeclareCursor { name, hold, binary, inner },
            ..Draft::new(Class::DeclareCursor)
        })
    }

    /// A query under a name. What it does is asked of policy now and again when the name is used.
    fn inner(&mut self, node: Node<'a>) -> Res<Statement> {
        if matches!(node, Node::SelectStmt(select) if select.into_clause().is_some()) {
            return Err(Refusal::unsupported("SELECT INTO inside another statement"));
        }
        let draft = self.query(node)?;
        self.describe(draft)
    }

    /// EXPLAIN shows the plan of a query, and runs it with ANALYZE: the same accesses either way.
    fn explain(&mut self, explain: &'a ExplainStmt) -> Res<Draft<'a>> {
        match explain.query() {
            Node::CreateTableAsStmt(create) => drop(self.create_as(create)?),
            Node::SelectStmt(select) if select.into_clause().is_some() => drop(self.select_into(select)?),
            Node::DeclareCursorStmt(declare) => drop(self.declare(declare)?),
            Node::ExecuteStmt(_) | Node::RefreshMatViewStmt(_) => {
                return Err(Refusal::unsupported("EXPLAIN of a named statement or view"));
            }
            query => {
                let draft = self.query(query)?;
                if draft.class != Class::Select {
                    self.flags.insert(Flag::NestedWrite);
                }
            }
        }
        if self.strict && !self.clear() {
            return Err(Refusal::labelled(self.masked_example(), How::Explain));
        }
        let output = Output::Columns(vec![OutColumn::default()]);
        Ok(Draft { output: Some(output), changes: self.creates(), ..Draft::new(Class::Explain) })
    }

    fn creates(&self) -> bool {
        self.accesses.iter().any(|access| access.action == Verb::Ddl)
    }

    /// A masked column of a relation the statement touched, to name in a refusal.
    fn masked_example(&self) -> String {
        let names = self.accesses.iter().filter_map(|access| access.relation.as_ref());
        let masks = names.filter_map(|name| {
            let id = self.catalog.lookup(Some(&name.schema), &name.table, &[])?;
            let taint = self.view.rel_mask(id)?.taints.iter().copied().find_map(|taint| taint)?;
            self.view.mask(taint).map(|mask| mask.path.to_string())
        });
        masks.into_iter().next().unwrap_or_else(|| "of a view's underlying table".to_owned())
    }

    fn select_into(&mut self, select: &'a SelectStmt) -> Res<Draft<'a>> {
        self.into_allowed = Some(select);
        let rows = self.select(select)?;
        self.require_clean_rows(&rows, How::Store)?;
        let to = select.into_clause().and_then(|into| into.rel());
        self.created(to);
        self.comes(to);
        Ok(Draft { changes: true, ..Draft::new(Class::Ddl) })
    }

    fn create_as(&mut self, create: &'a CreateTableAsStmt) -> Res<Draft<'a>> {
        let Node::SelectStmt(select) = create.query() else {
            return Err(Refusal::unsupported("CREATE TABLE AS EXECUTE"));
        };
        let rows = self.select(select)?;
        self.require_clean_rows(&rows, How::Store)?;
        let to = create.into().and_then(|into| into.rel());
        self.created(to);
        self.comes(to);
        Ok(Draft { changes: true, ..Draft::new(Class::Ddl) })
    }

    fn create_view(&mut self, create: &'a ViewStmt) -> Res<Draft<'a>> {
        let Node::SelectStmt(select) = create.query() else {
            return Err(Refusal::unsupported("this CREATE VIEW"));
        };
        let rows = rename(self.select(select)?, create.aliases())?;
        self.require_clean_rows(&rows, How::Store)?;
        self.created(create.view());
        self.comes(create.view());
        if create.replace {
            self.reshapes(create.view().and_then(|view| view.relname()).unwrap_or_default());
        }
        Ok(Draft { changes: true, ..Draft::new(Class::Ddl) })
    }

    /// The statement so far, leaving the analyser to go on.
    fn describe(&mut self, draft: Draft<'a>) -> Res<Statement> {
        let output = match (draft.output, draft.rows) {
            (Some(output), _) => output,
            (None, None) => Output::NoRows,
            (None, Some(rows)) => self.output(&rows)?,
        };
        if self.accesses.is_empty() {
            self.access(default_verb(draft.class), None);
        }
        if self.sets && draft.class == Class::Ddl {
            // Whoever reads a view, or writes a row, would change the setting without saying so.
            self.opaque_because("it keeps what changes DateStyle, IntervalStyle or TimeZone".into());
        }
        Ok(Statement {
            class: draft.class,
            accesses: self.accesses.clone(),
            flags: self.flags.clone(),
            output,
            strict: self.strict && !self.clear(),
            names: draft.names,
            copy: draft.copy,
            transaction: draft.transaction,
            reshapes: self.reshapes.clone(),
            sets: self.sets,
            range: 0..0,
        })
    }

    fn finish(mut self, draft: Draft<'a>) -> Res<Statement> {
        self.describe(draft)
    }

    fn output(&mut self, rows: &OutRows<'a>) -> Res<Output> {
        if rows.open {
            self.require_clean_rows(rows, How::Unexpanded)?;
            return Ok(Output::CleanRows);
        }
        let mask = |taint: Option<u32>| taint.and_then(|taint| self.view.mask(taint)).cloned();
        Ok(Output::Columns(rows.fields.iter().map(|field| OutColumn { mask: mask(field.taint) }).collect()))
    }
}

fn default_verb(class: Class) -> Verb {
    match class {
        Class::Select | Class::Explain => Verb::Select,
        Class::Insert => Verb::Insert,
        Class::Update => Verb::Update,
        Class::Delete => Verb::Delete,
        Class::Merge => Verb::Merge,
        Class::Copy => Verb::CopyOut,
        Class::Truncate => Verb::Truncate,
        Class::Ddl => Verb::Ddl,
        Class::Call => Verb::Call,
        Class::Admin => Verb::Admin,
        Class::Listen => Verb::Listen,
        Class::Transaction
        | Class::Session
        | Class::Prepare
        | Class::Execute
        | Class::Deallocate
        | Class::DeclareCursor
        | Class::Fetch
        | Class::CloseCursor => Verb::Session,
    }
}
