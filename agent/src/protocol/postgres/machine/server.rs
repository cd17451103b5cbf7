//! The server's messages (manual, "Message Formats", those marked B), matched against what it owes.

use std::sync::Arc;

use bytes::{Buf, BytesMut};

use super::super::codec::{self, Fields, HEADER, Header};
use super::super::login::check_parameter;
use super::super::plan::{Output, StatementPlan};
use super::super::response;
use super::super::rows::{self, Cell, Mismatch, Origins};
use super::limit::Completed;
use super::named::Definition;
use super::{CopyIn, Expect, Fatal, Machine, Outcome, Prepared, Run};
use crate::record::raw::Line;

/// A row that has to be rewritten is held whole; a longer one ends the session.
const ROW_MAX: usize = 64 << 20;

/// Longest message that waits until it is whole.
const SHORT: usize = 16 << 10;

/// What happens to a message of the server.
pub(super) enum Act {
    /// It goes on as it came.
    Pass,
    /// What goes on instead was written to the output.
    Replaced,
    /// It goes no further.
    Dropped,
    /// The rest of it has to be read first.
    Incomplete,
}

impl<O: Origins> Machine<O> {
    /// Reads the server's messages; what the client gets is appended to `out`, what was learned to `outcomes`.
    ///
    /// # Errors
    /// When the server does not speak the protocol, or says something the plan excludes.
    pub fn server(
        &mut self,
        input: &mut BytesMut,
        out: &mut BytesMut,
        outcomes: &mut Vec<Outcome>,
    ) -> Result<(), Fatal> {
        // Bytes at the front that go as they came: copied once, not once a message.
        let mut clean = self.server_rest.min(input.len());
        self.server_rest -= clean;
        if self.rest_dropped {
            input.advance(std::mem::take(&mut clean));
            self.rest_dropped = self.server_rest > 0;
        }
        self.stream_goes_on(input.get(..clean));
        if clean > 0 && !self.rest_recorded {
            self.leave_out(input, std::mem::take(&mut clean), out);
        }
        // What stands in place of a message; kept between them for its memory.
        let mut replaced = BytesMut::new();
        while self.server_rest == 0 {
            let recorded = self.records();
            if !recorded {
                codec::forward(input, std::mem::take(&mut clean), out);
            }
            let rest = input.get(clean..).unwrap_or_default();
            let Some(header) = codec::header(rest).map_err(Fatal::Upstream)? else { break };
            // A short message goes as a whole: a session that ends here has room for its reason behind it.
            if rest.len() < header.total && header.total <= SHORT {
                break;
            }
            let body = rest.get(HEADER..header.total);
            replaced.clear();
            let before = outcomes.len();
            let act = self.server_message(header, body, &mut replaced, outcomes)?;
            match self.look_at(header, body, act, &mut replaced)? {
                Act::Pass => {
                    let here = header.total.min(rest.len());
                    self.server_rest = header.total - here;
                    self.rest_recorded = recorded;
                    self.rest_streamed = header.tag == b'd' && body.is_none();
                    self.stream_goes_on(rest.get(HEADER..here));
                    if recorded {
                        clean += here;
                    } else {
                        self.leave_out(input, here, out);
                    }
                }
                Act::Replaced => {
                    codec::forward(input, clean, out);
                    clean = 0;
                    input.advance(header.total);
                    let start = out.len();
                    out.extend_from_slice(&replaced);
                    if !recorded {
                        self.unrecorded.add(start..out.len());
                    }
                }
                Act::Dropped => {
                    let here = header.total.min(rest.len());
                    codec::forward(input, std::mem::take(&mut clean), out);
                    input.advance(here);
                    self.server_rest = header.total - here;
                    self.rest_dropped = self.server_rest > 0;
                }
                Act::Incomplete if header.total > ROW_MAX => return Err(Fatal::RowTooLong(header.total)),
                Act::Incomplete => break,
            }
            for outcome in outcomes.iter_mut().skip(before) {
                outcome.at = out.len() + clean;
            }
        }
        codec::forward(input, clean, out);
        Ok(())
    }

    /// Lets bytes go that are not recorded.
    fn leave_out(&mut self, input: &mut BytesMut, count: usize, out: &mut BytesMut) {
        let start = out.len();
        codec::forward(input, count, out);
        self.unrecorded.add(start..out.len());
    }

    /// Whether what the server says next is recorded: its statement's plan says so.
    fn records(&self) -> bool {
        match self.expect.front() {
            Some(Expect::Execute(run) | Expect::Query { run, .. }) => run.plan.rows_recorded,
            Some(Expect::DescribeLinked(plan)) => plan.rows_recorded,
            Some(Expect::Parse { statement, .. } | Expect::DescribeStatement { statement, .. }) => {
                statement.plan.rows_recorded
            }
            Some(Expect::Bind { portal, .. } | Expect::DescribePortal { portal, .. }) => {
                portal.statement.plan.rows_recorded
            }
            Some(
                Expect::CloseStatement(_) | Expect::ClosePortal(_) | Expect::Sync | Expect::Poison { .. },
            )
            | None => self.recorded,
        }
    }

    fn server_message(
        &mut self,
        header: Header,
        body: Option<&[u8]>,
        out: &mut BytesMut,
        outcomes: &mut Vec<Outcome>,
    ) -> Result<Act, Fatal> {
        // Rows first: they are what there is most of, and may pass before they are whole.
        match header.tag {
            b'D' => return self.data_row(header, body, out),
            b'd' => return self.copy_data(header, body, out),
            _ => {}
        }
        let Some(body) = body else { return Ok(Act::Incomplete) };
        let fields = Fields::new(header.tag, body);
        self.answers += 1;
        match header.tag {
            b'1' | b'2' | b'3' => self.confirmed(header.tag),
            b't' | b'n' | b'T' => self.description(header.tag, fields),
            b'C' | b'I' | b's' => self.completed(header.tag, fields, outcomes),
            b'E' => self.error(fields, out, outcomes),
            b'N' => self.notice(fields, out),
            b'Z' => self.ready(fields),
            b'G' | b'H' => self.copy_begins(header.tag, fields),
            b'c' => match self.running() {
                Some(run) if run.copying_out && run.dropped => Ok(Act::Dropped),
                Some(run) if run.copying_out => Ok(Act::Pass),
                _ => Err(Fatal::OutOfTurn(b'c')),
            },
            b'S' => {
                if let Some(escapes) = check_parameter(fields, self.free)? {
                    self.escapes = escapes;
                }
                self.settings.hear(fields).map_err(Fatal::Upstream)?;
                Ok(Act::Pass)
            }
            b'A' => self.notification(fields, out),
            b'V' => self.function_result(outcomes),
            b'W' => self.copy_both_begins(),
            tag => Err(Fatal::OutOfTurn(tag)),
        }
    }

    fn function_result(&mut self, outcomes: &mut Vec<Outcome>) -> Result<Act, Fatal> {
        let run = self.running().filter(|run| run.call).ok_or(Fatal::OutOfTurn(b'V'))?;
        outcomes.push(run.outcome("FUNCTION CALL".into(), None));
        let plan = Arc::clone(&run.plan);
        self.finished(plan.statement(0), None);
        Ok(Act::Pass)
    }

    /// The statement that is answering right now.
    pub(super) fn running(&mut self) -> Option<&mut Run> {
        match self.expect.front_mut() {
            Some(Expect::Execute(run) | Expect::Query { run, failed: false }) => Some(run),
            _ => None,
        }
    }

    fn data_row(&mut self, header: Header, body: Option<&[u8]>, out: &mut BytesMut) -> Result<Act, Fatal> {
        let guarded = self.guarded;
        let looking = self.looking.is_some();
        let run = self.running().ok_or(Fatal::OutOfTurn(b'D'))?;
        if run.cells.is_none() && guarded {
            return Err(Mismatch::Unexpected.into());
        }
        if looking {
            run.look_undescribed(body)?;
        }
        let masks = run.cells.as_ref().is_some_and(|cells| cells.iter().any(|cell| *cell != Cell::Keep));
        let masks = masks || looking && run.cells.is_none();
        if masks && body.is_none() && run.cut.is_none() {
            return Ok(Act::Incomplete);
        }
        let newly = run.cut.is_none();
        if !run.count_row(header.total as u64) {
            self.cancel_due |= newly;
            return Ok(Act::Dropped);
        }
        match (&run.cells, guarded) {
            (None, true) => Err(Mismatch::Unexpected.into()),
            (Some(cells), _) if cells.iter().any(|cell| *cell != Cell::Keep) => {
                let Some(body) = body else { return Ok(Act::Incomplete) };
                let formats = run.portal.as_ref().map(|portal| &*portal.formats);
                let masked = rows::put_masked(out, Fields::new(b'D', body), cells, formats)?;
                run.masked_cells += masked;
                run.bytes += out.len() as u64;
                let found = match looking && masked > 0 {
                    true => rows::found(Fields::new(b'D', body), cells)?,
                    false => Vec::new(),
                };
                if run.plan.seals {
                    let cells = rows::taken(Fields::new(b'D', body), cells, formats)?;
                    let line = Line::Row { op: run.op, part: run.index, row: run.rows, cells };
                    line.put(&mut self.raw);
                }
                if let Some(looking) = &mut self.looking {
                    looking.row(found);
                }
                Ok(Act::Replaced)
            }
            _ => {
                run.bytes += header.total as u64;
                Ok(Act::Pass)
            }
        }
    }

    fn confirmed(&mut self, tag: u8) -> Result<Act, Fatal> {
        match (tag, self.expect.pop_front()) {
            (b'1', Some(Expect::Parse { name, statement })) => self.statements.confirm(&name, statement),
            (b'2', Some(Expect::Bind { name, portal })) => self.portals.confirm(&name, portal),
            (b'3', Some(Expect::CloseStatement(name))) => self.statements.close(&name),
            (b'3', Some(Expect::ClosePortal(name))) => self.portals.close(&name),
            _ => return Err(Fatal::OutOfTurn(tag)),
        }
        Ok(Act::Pass)
    }

    /// Checks what the server says a statement returns. Executions that were queued before it said so take it now.
    fn described(&mut self, tag: u8, fields: Fields<'_>, statement: &Arc<Prepared>) -> Result<(), Fatal> {
        let shape = shape(&statement.plan.statements);
        // What a name returns is checked when it is executed, and its rows are not served before that.
        if tag == b'T' && *shape != Output::OfName {
            self.keep_cells(fields, shape, statement)?;
        }
        let cells = self.cells_of(statement);
        for expect in &mut self.expect {
            if let Expect::Execute(run) = expect
                && run.cells.is_none()
                && run.statement.as_ref().is_some_and(|of| Arc::ptr_eq(of, statement))
            {
                run.cells.clone_from(&cells);
            }
        }
        Ok(())
    }

    fn description(&mut self, tag: u8, fields: Fields<'_>) -> Result<Act, Fatal> {
        match self.expect.front_mut() {
            Some(Expect::DescribeStatement { parameters_seen: seen @ false, .. }) if tag == b't' => {
                *seen = true;
                return Ok(Act::Pass);
            }
            Some(Expect::DescribeStatement { statement, parameters_seen: true }) if tag != b't' => {
                let statement = Arc::clone(statement);
                self.expect.pop_front();
                self.described(tag, fields, &statement)?;
                return Ok(Act::Pass);
            }
            Some(Expect::DescribePortal { .. }) if tag != b't' => {
                if let Some(Expect::DescribePortal { portal, swallow }) = self.expect.pop_front() {
                    self.described(tag, fields, &portal.statement)?;
                    return Ok(if swallow { Act::Replaced } else { Act::Pass });
                }
            }
            Some(Expect::DescribeLinked(plan)) if tag != b't' => {
                let plan = Arc::clone(plan);
                self.expect.pop_front();
                if tag == b'T' {
                    let cells = self.read_cells(fields, shape(&plan.statements))?;
                    let runs = self.expect.iter_mut().filter_map(|expect| match expect {
                        Expect::Execute(run) if Arc::ptr_eq(&run.plan, &plan) => Some(run),
                        _ => None,
                    });
                    runs.for_each(|run| run.cells.clone_from(&cells));
                }
                return Ok(Act::Replaced);
            }
            Some(Expect::Query { run, failed: false }) if tag == b'T' => {
                let (plan, index) = (Arc::clone(&run.plan), run.index);
                if self.reads_rows() {
                    let statement = plan.statement(index).ok_or(Mismatch::Unexpected)?;
                    let cells = self.read_cells(fields, &statement.output)?;
                    if let Some(run) = self.running() {
                        run.cells = cells;
                    }
                }
                return Ok(Act::Pass);
            }
            _ => {}
        }
        Err(Fatal::OutOfTurn(tag))
    }

    /// CommandComplete, EmptyQueryResponse or PortalSuspended.
    fn completed(
        &mut self,
        tag: u8,
        mut fields: Fields<'_>,
        outcomes: &mut Vec<Outcome>,
    ) -> Result<Act, Fatal> {
        let text = match tag {
            b'C' => String::from_utf8_lossy(fields.c_bytes().map_err(Fatal::Upstream)?).into_owned(),
            b's' => "(suspended)".to_owned(),
            _ => String::new(),
        };
        let failed = matches!(self.cut_completed()?, Completed::Failed);
        let sqlstate = |run: &Run| match (failed, run.cut) {
            (true, Some(limit)) => Some(limit.report().sqlstate.into_owned()),
            _ => None,
        };
        match self.expect.front_mut() {
            Some(Expect::Execute(run)) => {
                let code = sqlstate(run);
                outcomes.push(run.outcome(text, code));
                // A suspended portal has not done yet what its statement does to names.
                let defined = if tag == b's' { None } else { run.take_definition() };
                let plan = Arc::clone(&run.plan);
                self.expect.pop_front();
                self.finished(plan.statements.first(), defined);
            }
            Some(Expect::Query { run, failed: false }) if tag != b's' => {
                let code = sqlstate(run);
                outcomes.push(run.outcome(text, code));
                let (plan, index, defined) = (Arc::clone(&run.plan), run.index, run.take_definition());
                run.index += 1;
                if plan.statement(index).is_none() && tag == b'C' {
                    return Err(Mismatch::Unexpected.into());
                }
                self.finished(plan.statement(index), defined);
            }
            _ => return Err(Fatal::OutOfTurn(tag)),
        }
        Ok(if failed { Act::Dropped } else { Act::Pass })
    }

    fn finished(&mut self, statement: Option<&StatementPlan>, defined: Option<Definition>) {
        self.copy_in = CopyIn::No;
        let Some(statement) = statement else { return };
        self.catalogue_changed |= statement.changes_catalogue;
        self.schema_changed |= statement.changes_schema;
        self.strict_transaction |= statement.strict;
        self.settle_names(defined, statement);
    }

    fn error(
        &mut self,
        fields: Fields<'_>,
        out: &mut BytesMut,
        outcomes: &mut Vec<Outcome>,
    ) -> Result<Act, Fatal> {
        let seen = response::read(fields).map_err(Fatal::Upstream)?;
        self.copy_in = CopyIn::No;
        let strict = self.strict();
        let mut act = Act::Pass;
        let cut = self.running().and_then(|run| run.cut).filter(|_| !seen.fatal);
        let code = cut.map_or(seen.sqlstate, |limit| limit.report().sqlstate.into_owned());
        match self.expect.front_mut() {
            Some(Expect::Poison { report, simple, answered: answered @ false, .. }) => {
                *answered = true;
                let simple = *simple;
                if !seen.fatal {
                    report.put_error(out);
                    act = Act::Replaced;
                }
                if !simple {
                    self.skip_to_sync();
                }
                return Ok(act);
            }
            Some(Expect::Query { run, failed: failed @ false }) => {
                outcomes.push(run.outcome(String::new(), Some(code)));
                *failed = true;
                let defines = std::mem::take(&mut run.defines);
                self.abandon_names(defines);
            }
            Some(Expect::Execute(run)) => {
                outcomes.push(run.outcome(String::new(), Some(code)));
                self.skip_to_sync();
            }
            Some(Expect::Sync) if !seen.fatal => {
                // An error while the implicit transaction commits; ReadyForQuery still follows.
            }
            Some(Expect::Query { .. } | Expect::Poison { .. }) if !seen.fatal => {
                return Err(Fatal::OutOfTurn(b'E'));
            }
            Some(_) => self.skip_to_sync(),
            // Said when nothing was asked: the server ends the session (57P01 and the like).
            None => {}
        }
        if let Some(limit) = cut {
            limit.report().put_error(out);
            return Ok(Act::Replaced);
        }
        if strict {
            response::put_scrubbed(out, b'E', fields).map_err(Fatal::Upstream)?;
            act = Act::Replaced;
        }
        Ok(act)
    }

    /// True when what the server says right now can quote values of a masked relation. Binding and describing
    /// plan the statement, and planning evaluates: it is not only the running statement that can.
    pub(super) fn strict(&self) -> bool {
        let any = |statements: &[StatementPlan]| statements.iter().any(|statement| statement.strict);
        // Deferred constraints and held cursors are checked and filled when the transaction ends.
        let late = |statements: &[StatementPlan]| {
            self.strict_transaction && statements.iter().any(|statement| statement.transaction)
        };
        match self.expect.front() {
            Some(Expect::Execute(run) | Expect::Query { run, .. }) => {
                any(&run.plan.statements) || late(&run.plan.statements)
            }
            Some(Expect::Bind { portal, .. } | Expect::DescribePortal { portal, .. }) => {
                any(&portal.statement.plan.statements)
            }
            Some(Expect::Parse { statement, .. } | Expect::DescribeStatement { statement, .. }) => {
                any(&statement.plan.statements)
            }
            Some(Expect::DescribeLinked(plan)) => any(&plan.statements),
            Some(Expect::Sync) => self.strict_transaction,
            Some(Expect::CloseStatement(_) | Expect::ClosePortal(_) | Expect::Poison { .. }) | None => false,
        }
    }

    /// After an error the server reads and drops everything up to the next Sync.
    fn skip_to_sync(&mut self) {
        while let Some(expect) = self.expect.pop_front() {
            match expect {
                Expect::Sync => {
                    self.expect.push_front(Expect::Sync);
                    return;
                }
                Expect::Parse { name, statement } => self.statements.abandon(&name, &statement),
                Expect::Bind { name, portal } => self.portals.abandon(&name, &portal),
                Expect::Execute(run) => self.abandon_names(run.defines),
                _ => {}
            }
        }
        // The Sync has not been sent yet: what comes before it is dropped here, as the server would.
        self.skipping = true;
    }

    fn ready(&mut self, mut fields: Fields<'_>) -> Result<Act, Fatal> {
        self.transaction = fields.u8().map_err(Fatal::Upstream)?;
        match self.expect.pop_front() {
            Some(Expect::Sync | Expect::Query { .. }) => {}
            Some(Expect::Poison { simple: true, answered: true, .. }) => {}
            _ => return Err(Fatal::OutOfTurn(b'Z')),
        }
        self.copy_in = CopyIn::No;
        self.settings.ready(self.transaction);
        if self.transaction == b'I' {
            // Portals end with their transaction, unless they were declared to outlive it.
            self.portals.keep(|portal| portal.cursor.is_some_and(|cursor| cursor.held));
            self.strict_transaction = false;
            self.catalogue_due |= std::mem::take(&mut self.catalogue_changed);
            self.schema_changed = false;
        }
        Ok(if self.owes_a_failure() { Act::Dropped } else { Act::Pass })
    }
}

/// What an extended-protocol statement returns; it holds one statement, or none when the text is empty.
fn shape(statements: &[StatementPlan]) -> &Output {
    statements.first().map_or(&Output::Nothing, |statement| &statement.output)
}
