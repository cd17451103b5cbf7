//! The state of one session: what the client asked, what the server still owes, what is in between.
//!
//! Pure: bytes in, bytes and questions out. It knows the order in which the server answers (a queue with one
//! entry per message that is owed an answer), the names the server knows, and which rows belong to which
//! statement. It does not know policy: a statement becomes a `Question`, and nothing of it moves until the
//! answer comes. Client messages are read in `client`, the server's in `server`.

mod client;
mod copying;
mod limit;
mod looking;
mod named;
mod names;
mod room;
mod run;
mod server;
mod settings;
mod streams;
#[cfg(test)]
mod tests;
mod unrecorded;

use std::collections::VecDeque;
use std::sync::{Arc, OnceLock};

use bytes::{BufMut, Bytes, BytesMut};

use self::names::Names;
use self::run::Run;
use super::codec::CodecError;
use super::login::LoginError;
use super::plan::Plan;
use super::response::Report;
use super::rows::{Cell, Mismatch, Origins};
use super::settings::ReadUnder;
use crate::gate::{Permit, Staged};
use crate::record::event::Bind;

pub use self::client::Next;
pub use self::limit::Limit;
pub use self::named::{Named, Schema};
pub use self::names::Found;
pub use self::settings::Under;
pub use self::streams::Streamed;
pub use self::unrecorded::Unrecorded;

/// The session cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum Fatal {
    #[error("client: {0}")]
    Client(CodecError),
    #[error("client sent message `{}`, which {why}", .tag.escape_ascii())]
    Unexpected { tag: u8, why: &'static str },
    #[error("client: statement text is not UTF-8 or holds a NUL")]
    Text,
    #[error("upstream: {0}")]
    Upstream(CodecError),
    #[error("upstream contradicts the plan: {0}")]
    Mismatch(#[from] Mismatch),
    #[error("upstream sent `{}` out of turn", .0.escape_ascii())]
    OutOfTurn(u8),
    #[error("upstream: {0}")]
    Parameter(#[from] LoginError),
    #[error("a row of {0} bytes that has to be masked is longer than the agent holds in memory")]
    RowTooLong(usize),
    #[error("{0}")]
    Limit(Limit),
    #[error("{0} is not supported")]
    Unsupported(&'static str),
}

impl Fatal {
    /// True when the client broke the protocol, false when the server or the agent's plan did.
    #[must_use]
    pub fn by_client(&self) -> bool {
        matches!(self, Self::Client(_) | Self::Unexpected { .. } | Self::Text)
    }
}

/// A prepared statement.
#[derive(Debug)]
pub struct Prepared {
    /// Number of the operation that prepared it.
    pub op: u64,
    pub sql: Arc<str>,
    pub plan: Arc<Plan>,
    /// Which statement of `sql` prepared it, when SQL did.
    pub part: Option<usize>,
    pub read_under: ReadUnder,
    /// What to do with each cell, once the server has described it.
    cells: OnceLock<Arc<[Cell]>>,
    /// A description that was found good, and under which of the machine's origins.
    described: OnceLock<(u64, Box<[u8]>)>,
    /// The same where nothing is masked and values are only looked at.
    looked: OnceLock<Arc<[Cell]>>,
}

/// A portal: a prepared statement with its values.
#[derive(Debug)]
pub struct Portal {
    pub statement: Arc<Prepared>,
    pub binds: Arc<[Bind]>,
    /// Its values and its statement.
    pub read_under: ReadUnder,
    /// Formats of its results, as Bind asked for them.
    pub formats: Box<[i16]>,
    /// Set for a cursor that SQL declared.
    pub cursor: Option<Cursor>,
}

/// How a declared cursor differs from a portal of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cursor {
    /// WITH HOLD: it outlives its transaction.
    pub held: bool,
}

/// A statement that waits for a decision.
#[derive(Debug, Clone)]
pub struct Question {
    pub op: u64,
    pub what: Asked,
}

#[derive(Debug, Clone)]
pub enum Asked {
    /// A simple Query.
    Query { sql: Arc<str> },
    /// A Parse: nothing runs yet.
    Prepare { sql: Arc<str> },
    /// An Execute of what was prepared.
    Execute { portal: Arc<Portal> },
    /// A FunctionCall: a function by its number, with no text.
    Call { function: u32, binds: Arc<[Bind]> },
}

/// What became of a statement, for the record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    pub op: u64,
    pub rows: u64,
    pub bytes: u64,
    pub masked_cells: u64,
    pub tag: String,
    pub sqlstate: Option<String>,
    /// What a stream of replication carried, to the client and to the server.
    pub streamed: Option<Box<(Streamed, Streamed)>>,
    /// Where it ends in what was served with it.
    pub at: usize,
}

/// One answer the server owes, in the order it will give it.
#[derive(Debug)]
enum Expect {
    Parse {
        name: Bytes,
        statement: Arc<Prepared>,
    },
    Bind {
        name: Bytes,
        portal: Arc<Portal>,
    },
    /// ParameterDescription and then RowDescription or NoData.
    DescribeStatement {
        statement: Arc<Prepared>,
        parameters_seen: bool,
    },
    DescribePortal {
        portal: Arc<Portal>,
        swallow: bool,
    },
    /// The agent's own question in front of an execution under a linked plan.
    DescribeLinked(Arc<Plan>),
    Execute(Run),
    CloseStatement(Bytes),
    ClosePortal(Bytes),
    Sync,
    /// A simple Query: results of each statement, then ReadyForQuery.
    Query {
        run: Run,
        failed: bool,
    },
    /// Text that cannot parse stands in the place of what was denied; the server's error becomes this report.
    Poison {
        report: Report,
        simple: bool,
        answered: bool,
    },
}

/// COPY FROM STDIN, as far as the client's side has to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum CopyIn {
    No,
    Open,
    /// CopyDone or CopyFail went by; the server has not answered yet.
    Closing,
}

/// A message of the client that waits for an answer.
#[derive(Debug)]
enum Waiting {
    Query { op: u64, sql: Arc<str>, bytes: Bytes },
    Parse { op: u64, name: Bytes, sql: Arc<str>, bytes: Bytes },
    Execute { op: u64, portal: Arc<Portal>, name: Bytes, most: i32 },
    Call { op: u64, bytes: Bytes },
}

pub struct Machine<O> {
    origins: O,
    /// How often they were exchanged.
    rebased: u64,
    /// False when nothing of this target is masked for the principal: descriptions need no reading.
    guarded: bool,
    expect: VecDeque<Expect>,
    statements: Names<Prepared>,
    portals: Names<Portal>,
    /// Number of the current sync group.
    group: u64,
    ops: u64,
    waiting: Option<Waiting>,
    /// After a denial in extended mode: drop what the server would skip, up to the Sync.
    skipping: bool,
    copy_in: CopyIn,
    /// Bytes of a client CopyData that are still to come, and whether they are forwarded or dropped.
    client_rest: (usize, bool),
    /// How much of that is the message's header.
    client_head: usize,
    /// Bytes of a server message that are still to come and go as they are.
    server_rest: usize,
    /// Whether those are dropped.
    rest_dropped: bool,
    /// Whether those are recorded.
    rest_recorded: bool,
    /// Or is data of a COPY.
    rest_streamed: bool,
    /// Whether what belongs to no statement is recorded.
    recorded: bool,
    unrecorded: Unrecorded,
    /// What masks took out of that, as lines; only of statements where it is to be sealed.
    raw: Vec<u8>,
    transaction: u8,
    /// A statement that touches a masked relation ran in this transaction: its deferred checks may quote values.
    strict_transaction: bool,
    /// Answers of the server so far.
    answers: u64,
    /// The session may change how the server reads its literals.
    free: bool,
    /// It did: there are escapes in them.
    escapes: bool,
    /// The open transaction changed the catalogue; other connections do not see that yet.
    catalogue_changed: bool,
    /// The same for where columns stand.
    schema_changed: bool,
    /// So did one that is over, since it was last asked for.
    catalogue_due: bool,
    /// A statement came to a limit, and the server is to be told.
    cancel_due: bool,
    /// A statement that was cut completed all the same: the server still has to fail it.
    owed: Option<limit::Owed>,
    /// Values without a label are looked at, and replaced where they look like something.
    looking: Option<looking::Looking>,
    settings: settings::Reported,
}

impl<O: Origins> Machine<O> {
    pub fn new(origins: O, guarded: bool, recorded: bool) -> Self {
        Self {
            origins,
            rebased: 0,
            guarded,
            expect: VecDeque::new(),
            statements: Names::default(),
            portals: Names::default(),
            group: 0,
            ops: 0,
            waiting: None,
            skipping: false,
            copy_in: CopyIn::No,
            client_rest: (0, false),
            client_head: 0,
            server_rest: 0,
            rest_dropped: false,
            rest_recorded: recorded,
            rest_streamed: false,
            recorded,
            unrecorded: Unrecorded::default(),
            raw: Vec::new(),
            transaction: b'I',
            strict_transaction: false,
            answers: 0,
            free: false,
            escapes: false,
            catalogue_changed: false,
            schema_changed: false,
            catalogue_due: false,
            cancel_due: false,
            owed: None,
            looking: None,
            settings: settings::Reported::default(),
        }
    }

    /// Origins of another catalogue or another set of permissions.
    pub fn rebase(&mut self, origins: O, guarded: bool) {
        self.origins = origins;
        self.guarded = guarded;
        self.rebased += 1;
    }

    /// True when the server owes nothing.
    pub fn idle(&self) -> bool {
        self.expect.is_empty()
    }

    /// True when nothing that changes the catalogue is under way, and all that did has been taken over.
    pub fn is_settled(&self) -> bool {
        self.idle() && self.transaction == b'I' && !self.catalogue_changed && !self.catalogue_due
    }

    /// How often the server has answered. What had to wait for it is looked at again when this moves.
    pub fn answers(&self) -> u64 {
        self.answers
    }

    /// True when a message of the agent's own may be put between the server's.
    pub fn at_boundary(&self) -> bool {
        self.server_rest == 0
    }

    /// Number of operations so far.
    pub fn ops(&self) -> u64 {
        self.ops
    }

    /// What of that which was served since the last time stays out of the record.
    pub fn take_unrecorded(&mut self) -> Unrecorded {
        std::mem::take(&mut self.unrecorded)
    }

    /// What masks took out of that which was served since the last time, for auditors.
    pub fn take_raw(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.raw)
    }

    /// Says whether the session may do anything; returns whether the server reads its literals in another way.
    pub fn set_free(&mut self, free: bool) -> bool {
        self.free = free;
        self.escapes
    }

    /// True once after a transaction that changed the catalogue.
    pub fn take_catalogue_changed(&mut self) -> bool {
        std::mem::take(&mut self.catalogue_due)
    }

    /// True while the open transaction has changed the catalogue, and holds the locks that come with it.
    pub fn changes_catalogue(&self) -> bool {
        self.catalogue_changed
    }

    /// Lets the waiting statement go on, under the plan that was permitted.
    pub fn permit(&mut self, permit: Permit, plan: Arc<Plan>, staged: &mut Staged) {
        let Some(waiting) = self.waiting.take() else { return };
        if self.skipping {
            // Something earlier in its group failed while it waited: the server would skip it, so it is not sent.
            return;
        }
        self.settings_may_change(&waiting, &plan);
        match waiting {
            Waiting::Query { op, sql, bytes } => {
                let defines = self.define(op, &sql, &plan);
                let run = Run { defines, ..Run::new(op, plan, None, None) };
                self.expect.push_back(Expect::Query { run, failed: false });
                self.group += 1;
                staged.permitted(permit, &bytes);
            }
            Waiting::Parse { op, name, sql, bytes } => {
                let statement = Arc::new(Prepared::new(op, sql, plan, None, self.settings_now()));
                self.statements.define(&name, self.group, Arc::clone(&statement));
                self.expect.push_back(Expect::Parse { name, statement });
                staged.permitted(permit, &bytes);
            }
            Waiting::Execute { op, portal, name, most } => {
                let run = if plan.linked {
                    self.describe_linked(&name, &plan, staged);
                    Run::new(op, plan, None, None)
                } else {
                    self.describe_if_needed(&portal, &name, &plan, staged);
                    let defines = self.define(op, &portal.statement.sql, &plan);
                    let statement = Arc::clone(&portal.statement);
                    let cells = self.cells_of(&statement);
                    Run { defines, portal: Some(portal), ..Run::new(op, plan, Some(statement), cells) }
                };
                self.expect.push_back(Expect::Execute(run));
                staged.permitted_as(permit, |out| {
                    super::codec::put(out, b'E', |out| {
                        super::codec::put_c_str(out, &name);
                        out.put_i32(most);
                    });
                });
            }
            Waiting::Call { op, bytes } => {
                let run = Run { call: true, ..Run::new(op, plan, None, None) };
                self.expect.push_back(Expect::Query { run, failed: false });
                self.group += 1;
                staged.permitted(permit, &bytes);
            }
        }
    }

    /// Puts text that cannot parse in the place of the waiting statement, so that the server itself refuses it
    /// and its transaction state is what the client believes.
    pub fn deny(&mut self, report: Report, staged: &mut Staged) {
        let Some(waiting) = self.waiting.take() else { return };
        if self.skipping {
            return;
        }
        match waiting {
            Waiting::Query { op, .. } | Waiting::Call { op, .. } => self.poison_query(op, report, staged),
            Waiting::Parse { op, .. } | Waiting::Execute { op, .. } => self.poison_step(op, report, staged),
        }
    }

    fn poison_query(&mut self, op: u64, report: Report, staged: &mut Staged) {
        let mut bytes = BytesMut::new();
        super::codec::put(&mut bytes, b'Q', |out| super::codec::put_c_str(out, poison(op).as_bytes()));
        self.expect.push_back(Expect::Poison { report, simple: true, answered: false });
        self.group += 1;
        staged.poison(&bytes);
    }

    fn poison_step(&mut self, op: u64, report: Report, staged: &mut Staged) {
        let mut bytes = BytesMut::new();
        // A name of its own: the client's unnamed statement stays what it is.
        super::codec::put(&mut bytes, b'P', |out| {
            super::codec::put_c_str(out, b"__chaperone");
            super::codec::put_c_str(out, poison(op).as_bytes());
            out.extend_from_slice(&[0, 0]);
        });
        self.expect.push_back(Expect::Poison { report, simple: false, answered: false });
        self.skipping = true;
        staged.poison(&bytes);
    }

    /// Rows are only served when the server has described them: asks on the client's behalf if it does not.
    fn describe_if_needed(&mut self, portal: &Arc<Portal>, name: &Bytes, plan: &Plan, staged: &mut Staged) {
        if !self.reads_rows() || !returns_rows(plan) || self.cells_of(&portal.statement).is_some() {
            return;
        }
        let asked = self.expect.iter().rev().any(|expect| match expect {
            Expect::DescribeStatement { statement, .. } => Arc::ptr_eq(statement, &portal.statement),
            Expect::DescribePortal { portal: described, .. } => {
                Arc::ptr_eq(&described.statement, &portal.statement)
            }
            _ => false,
        });
        if asked {
            return;
        }
        put_describe(name, staged);
        self.expect.push_back(Expect::DescribePortal { portal: Arc::clone(portal), swallow: true });
    }

    /// What EXECUTE and FETCH return is what their names stand for now, so each execution is described anew.
    fn describe_linked(&mut self, name: &Bytes, plan: &Arc<Plan>, staged: &mut Staged) {
        if self.reads_rows() && returns_rows(plan) {
            put_describe(name, staged);
            self.expect.push_back(Expect::DescribeLinked(Arc::clone(plan)));
        }
    }
}

fn returns_rows(plan: &Plan) -> bool {
    plan.statements.iter().any(|statement| !matches!(statement.output, super::plan::Output::Nothing))
}

fn put_describe(portal: &Bytes, staged: &mut Staged) {
    let mut bytes = BytesMut::new();
    super::codec::put(&mut bytes, b'D', |out| {
        out.extend_from_slice(b"P");
        super::codec::put_c_str(out, portal);
    });
    staged.continuation(&bytes);
}

/// Fails in the server's lexer-and-grammar stage, before it looks at anything; shows up in its log.
fn poison(op: u64) -> String {
    format!("/* denied, operation {op} */ chaperone_denied")
}
