//! What was decided about a statement text: how its results are to be served.
//!
//! Plain data, shared by `Arc`, never holding the syntax tree. Made by `decide`, obeyed by `machine`.

use super::response::Report;

/// The plan of one statement text (a simple Query may hold several statements).
#[derive(Debug, Clone)]
pub struct Plan {
    /// Policy and catalogue this was decided under; another means: decide again.
    pub version: Version,
    pub verdict: Verdict,
    pub statements: Vec<StatementPlan>,
    /// Ids of the policies that decided.
    pub policies: Vec<String>,
    pub reason: Option<String>,
}

/// Under which policy and which catalogue a plan holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Version {
    pub policy: u64,
    pub catalogue: u64,
}

#[derive(Debug, Clone)]
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
    /// After this the catalogue must be read again.
    pub changes_catalogue: bool,
    pub closes: Closes,
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
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mask {
    /// `***`; for text types only.
    Redact,
    Null,
}

/// Which prepared statements the server forgets when the statement completes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Closes {
    #[default]
    Nothing,
    Statement(String),
    AllStatements,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Copy {
    In,
    Out(CopyFormat),
}

/// How COPY TO STDOUT writes rows, as far as replacing a field needs to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CopyFormat {
    Text { delimiter: u8, null: String, header: bool },
    Csv { delimiter: u8, quote: u8, escape: u8, null: String, header: bool },
    Binary,
}
