//! What was decided about a statement text: how its results are to be served.
//!
//! Plain data, shared by `Arc`, never holding the syntax tree. Made by `decide`, obeyed by `machine`.

use std::sync::Arc;
use std::time::Duration;

use super::response::Report;
use super::settings::ReadUnder;
use super::style::Style;
use super::value::Change;

/// The plan of one statement text (a simple Query may hold several statements).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Policy and catalogue this was decided under; another means: decide again.
    pub version: Version,
    pub verdict: Verdict,
    pub statements: Vec<StatementPlan>,
    /// Ids of the policies that decided.
    pub policies: Arc<[String]>,
    pub reason: Option<String>,
    /// What was decided on, statement by statement; empty when the text was not understood.
    pub analysis: Arc<[chaperone_sql::Statement]>,
    /// Made for one execution of EXECUTE or FETCH: it says what the names stood for at that time.
    pub linked: bool,
    /// The texts that defined those names.
    pub texts: Vec<Arc<str>>,
    /// Under which settings the server read those.
    pub read_under: Vec<ReadUnder>,
    /// What the client is served for it is recorded, rows and all.
    pub rows_recorded: bool,
    /// What its masks take away is sealed to auditors.
    pub seals: bool,
    /// Nobody has read it: any number of results may come of it, and rows may move by COPY in either direction. Only
    /// where nothing is masked, for those who may do anything.
    pub unread: bool,
}

impl Plan {
    /// A plan that nobody decided on.
    #[cfg(any(test, fuzzing))]
    pub(super) fn for_test(statements: Vec<StatementPlan>) -> Self {
        Self {
            version: Version::default(),
            verdict: Verdict::Permit,
            statements,
            policies: Arc::default(),
            reason: None,
            analysis: Arc::default(),
            linked: false,
            texts: vec![],
            read_under: vec![],
            rows_recorded: true,
            seals: false,
            unread: false,
        }
    }

    /// False when the text is denied, whatever its names stand for.
    #[must_use]
    pub fn verdict_is_open(&self) -> bool {
        !matches!(self.verdict, Verdict::Deny(_))
    }

    /// The plan of the statement at this position.
    #[must_use]
    pub fn statement(&self, index: usize) -> Option<&StatementPlan> {
        self.statements.get(if self.unread { 0 } else { index })
    }

    /// True when it ran, or left behind, what was not analysed.
    #[must_use]
    pub fn ran_unseen(&self) -> bool {
        use chaperone_sql::Flag;
        let unseen = |flag: &Flag| matches!(flag, Flag::Opaque | Flag::OpaqueFunction(_));
        self.unread || self.analysis.iter().any(|statement| statement.flags.iter().any(unseen))
    }

    /// True for a command of a replication connection.
    #[must_use]
    pub fn replicates(&self) -> bool {
        use chaperone_sql::Verb;
        let command = |statement: &chaperone_sql::Statement| {
            statement.accesses.iter().any(|access| access.action == Verb::Replicate)
        };
        self.unread && self.analysis.iter().any(command)
    }

    /// True when what the text does hangs on names that mean something only when it runs.
    #[must_use]
    pub fn uses_names(&self) -> bool {
        self.statements.iter().any(|statement| statement.names == Names::Uses)
    }
}

/// Under which policy and which catalogue a plan holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Version {
    pub policy: u64,
    pub catalogue: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    Permit,
    /// Needs approvals.
    Hold(HoldTerms),
    Deny(Report),
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HoldTerms {
    pub needs: Vec<chaperone_policy::ApprovalNeed>,
}

/// How the results of one statement are served.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StatementPlan {
    pub output: Output,
    /// `schema.table.column` of what is masked, for the record.
    pub masked: Vec<String>,
    /// The statement touches a masked relation: errors and notices are scrubbed.
    pub strict: bool,
    pub copy: Option<Copy>,
    /// More rows than this are never served.
    pub max_rows: Option<u64>,
    /// Nor more bytes of rows.
    pub max_bytes: Option<u64>,
    /// After this time on the server it is cancelled.
    pub max_time: Option<Duration>,
    /// It only reads, so nothing is lost when the server is told afterwards that it failed.
    pub reads_only: bool,
    /// After this the catalogue must be read again.
    pub changes_catalogue: bool,
    /// Columns may stand in other places after it.
    pub changes_schema: bool,
    pub names: Names,
    /// BEGIN, COMMIT and their kin: deferred checks speak up here about what ran before.
    pub transaction: bool,
    /// Dates and times may mean something else after it.
    pub sets: bool,
    /// It ends a transaction, or goes back in it: settings are what they were before.
    pub restores: bool,
}

/// What the statement returns.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Output {
    /// No rows.
    #[default]
    Nothing,
    /// Rows of these columns; `Some` is replaced.
    Columns(Vec<Option<Mask>>),
    /// Rows whose shape the analysis does not know and that no masked column can reach (SHOW, EXPLAIN).
    Opaque,
    /// Rows of the prepared statement or cursor it names. Served only by a linked plan, which has columns instead.
    OfName,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mask {
    /// `***`; for text types only.
    Redact,
    Null,
    /// What hangs on the value; for text types only.
    Styled(Style),
    /// Another value of the type; the type is the column's own.
    Changed {
        change: Change,
        type_oid: u32,
    },
}

/// What the statement does to the names the server knows, once it completes. SQL and the protocol's messages share
/// them: prepared statements are one name space, cursors and portals another.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Names {
    #[default]
    Nothing,
    /// PREPARE, with the plan of what is prepared.
    Prepare(String, Arc<Plan>),
    Deallocate(String),
    DeallocateAll,
    /// DECLARE CURSOR, with the plan of its query. Held ones outlive their transaction.
    Declare {
        name: String,
        held: bool,
        of: Arc<Plan>,
    },
    Close(String),
    CloseAll,
    /// EXECUTE, FETCH, MOVE.
    Uses,
}

impl Names {
    /// The plan of what it gives a name to.
    #[must_use]
    pub fn defined(&self) -> Option<&Arc<Plan>> {
        match self {
            Self::Prepare(_, of) | Self::Declare { of, .. } => Some(of),
            Self::Nothing
            | Self::Deallocate(_)
            | Self::DeallocateAll
            | Self::Close(_)
            | Self::CloseAll
            | Self::Uses => None,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Copy {
    In,
    Out(CopyFormat),
}

/// How COPY TO STDOUT writes rows, as far as replacing a field needs to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CopyFormat {
    Text {
        delimiter: u8,
        null: String,
        header: bool,
    },
    Csv {
        delimiter: u8,
        quote: u8,
        escape: u8,
        null: String,
        header: bool,
    },
    /// `table` when the rows are those of one table, so that their types are known.
    Binary {
        table: bool,
    },
}
