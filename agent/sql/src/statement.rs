//! What a statement does, as plain data for the gate and the rows. Holds nothing of the parse tree, so that a result
//! can be cached and shared.

use std::collections::BTreeSet;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

/// One statement of a string, analysed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statement {
    pub class: Class,
    /// What policy is asked about. Never empty.
    pub accesses: Vec<Access>,
    pub flags: BTreeSet<Flag>,
    pub output: Output,
    /// A relation with masked columns is involved: errors and notices must be scrubbed.
    pub strict: bool,
    pub names: NameOp,
    pub copy: Option<CopyPlan>,
    pub transaction: Option<TransactionOp>,
    pub reshapes: Reshapes,
    /// Changes what dates and times mean: DateStyle, IntervalStyle or TimeZone.
    pub sets: bool,
    /// Where the statement stands in the string that was analysed, in bytes.
    pub range: Range<usize>,
}

/// Of which relations the names, or the names of columns, mean something else after a statement. Others may be naming them
/// right now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Reshapes {
    #[default]
    Nothing,
    /// Those of these names, in whatever schema: what comes into being in one stands in front of the next.
    Names(BTreeSet<Arc<str>>),
    /// Nobody knows of which: a schema that is renamed, what CASCADE takes along.
    Everything,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    Select,
    Insert,
    Update,
    Delete,
    Merge,
    Copy,
    Transaction,
    /// SET, RESET, SHOW, SET CONSTRAINTS, DISCARD of what holds no names.
    Session,
    Prepare,
    Execute,
    Deallocate,
    DeclareCursor,
    Fetch,
    CloseCursor,
    Explain,
    Listen,
    Truncate,
    Ddl,
    Call,
    Admin,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verb {
    Select,
    Insert,
    Update,
    Delete,
    Merge,
    Truncate,
    CopyIn,
    CopyOut,
    Ddl,
    /// Runs code the analysis cannot see into: functions off the list, CALL, DO.
    Call,
    Admin,
    Session,
    Listen,
    /// A command of a replication connection; no SQL, so never said of a text that was analysed.
    Replicate,
}

/// One thing done to one relation, or to none in particular.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Access {
    pub action: Verb,
    /// For [`Verb::Call`] this names the function.
    pub relation: Option<RelName>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RelName {
    pub schema: Arc<str>,
    pub table: Arc<str>,
}

impl fmt::Display for RelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.schema, self.table)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Flag {
    /// UPDATE or DELETE of every row.
    NoWhere,
    /// UPDATE or DELETE whose WHERE names no column, such as `WHERE true`.
    ConstantWhere,
    /// SELECT … FOR UPDATE and the like.
    RowLock,
    /// Calls a function that is not known to only compute. Only where nothing is masked, or where the function
    /// has effects but cannot return a masked value (`pg_sleep`, advisory locks, `setval`).
    OpaqueFunction(String),
    /// Runs, or stores for later, code or expressions that were not analysed. A permit for such a statement is a
    /// permit to read every column of the target, masked ones included.
    Opaque,
    /// Why it is opaque although it only changes the schema. For who may not do everything.
    Because(String),
    /// Compares a masked column with so many constants.
    Compares(String, u32),
    /// Names a relation that has masked columns.
    MaskedRelation,
    /// Drops or truncates what depends on the object, too.
    Cascade,
    /// Writes inside a WITH clause, or by EXPLAIN ANALYZE.
    NestedWrite,
}

/// What rows the statement sends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    NoRows,
    Columns(Vec<OutColumn>),
    /// Rows of which every column is clean and whose number of columns is not known (`*` of some functions).
    CleanRows,
    /// As the prepared statement or cursor in [`Statement::names`] was analysed.
    OfName,
}

impl Output {
    /// Whether any column has to be masked. False for [`Output::OfName`]: ask the named statement.
    pub fn is_masked(&self) -> bool {
        match self {
            Self::Columns(columns) => columns.iter().any(|column| column.mask.is_some()),
            Self::NoRows | Self::CleanRows | Self::OfName => false,
        }
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OutColumn {
    pub mask: Option<Arc<MaskedColumn>>,
}

/// What may be done with a masked column beside serving it masked. The default is nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Knobs {
    pub predicate: Predicate,
    /// `count(column)` is allowed: how many rows have a value.
    pub count: bool,
    /// Expressions that cannot fail may be made of it in an output list; all of the result is NULL.
    pub computed: bool,
}

impl Knobs {
    /// What two columns allow whose values are in one.
    pub(crate) fn both(self, other: Self) -> Self {
        Self {
            predicate: self.predicate.min(other.predicate),
            count: self.count && other.count,
            computed: self.computed && other.computed,
        }
    }
}

/// In which predicates a masked column may stand. Each includes the ones before.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Predicate {
    #[default]
    Deny,
    /// IS NULL and IS NOT NULL.
    IsNull,
    /// Equal to a constant or a parameter.
    Equality,
    Any,
}

/// How a column is masked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    pub kind: MaskKind,
    pub knobs: Knobs,
}

impl From<MaskKind> for Rule {
    fn from(kind: MaskKind) -> Self {
        Self { kind, knobs: Knobs::default() }
    }
}

/// A column that is masked for the principal of a view, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MaskedColumn {
    /// The labelled column the value comes from.
    pub path: ColumnPath,
    pub kind: MaskKind,
    pub knobs: Knobs,
    /// The mask of what is computed from it: one that shows nothing.
    pub(crate) whole: Option<u32>,
    /// Type of the column where it enters the query, domains resolved to their base.
    pub type_oid: u32,
    /// Whether `***` is a value of the type; otherwise only NULL is.
    pub text_like: bool,
}

impl MaskedColumn {
    /// The value to send in place of the cell when nothing of it is to be seen: `None` is NULL.
    pub fn replacement(&self) -> Option<&'static [u8]> {
        match self.kind {
            MaskKind::Null => None,
            _ if self.text_like => Some(b"***"),
            _ => None,
        }
    }

    pub(crate) fn rule(&self) -> Rule {
        Rule { kind: self.kind, knobs: self.knobs }
    }

    /// The more of a value it hides, the higher.
    pub(crate) fn strictness(&self) -> u8 {
        match self.kind {
            MaskKind::Bucket | MaskKind::Shift if !self.text_like => 1,
            _ if self.replacement().is_none() => 3,
            MaskKind::Redact | MaskKind::Null | MaskKind::Fixed | MaskKind::Bucket | MaskKind::Shift => 2,
            MaskKind::Pseudonym => 1,
            MaskKind::Partial(_) => 0,
        }
    }

    /// Whether what is served hangs on the value.
    pub(crate) fn shows(&self) -> bool {
        self.strictness() < 2
    }

    /// Whether values of the other column may come out under this mask, too. What a mask shows was chosen for one column:
    /// another one's buckets may be wider, or nothing of it was to be seen at all but whether two are equal.
    pub(crate) fn may_stand_for(&self, other: &Self) -> bool {
        let own = |kind| matches!(kind, MaskKind::Bucket | MaskKind::Shift | MaskKind::Fixed);
        let alike = self.kind == other.kind && (!own(self.kind) || self.path == other.path);
        alike || !self.shows() || !other.shows()
    }

    /// Whether it may be tried on values that are not masked. Who chooses those could compare, or count the days, and know what
    /// every other value stands for.
    pub(crate) fn may_be_tried(&self) -> bool {
        !self.shows() || !matches!(self.kind, MaskKind::Pseudonym | MaskKind::Shift)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MaskKind {
    /// Part of it where the value has the shape, `***` where it has not; NULL outside text types.
    Partial(Partial),
    /// The same stand-in for the same value; NULL outside text types.
    Pseudonym,
    /// `***` where the type allows it, NULL elsewhere.
    Redact,
    Null,
    /// The same value for all, where it is one of the type; NULL elsewhere.
    Fixed,
    /// Another day, in date types; NULL or `***` elsewhere.
    Shift,
    /// The bucket it lies in, for numbers and dates; NULL or `***` elsewhere.
    Bucket,
}

/// What of a value may be seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Partial {
    /// The last four digits.
    Card,
    /// The first letter and the domain.
    Email,
    /// The last two digits.
    Phone,
    /// The country and the last four characters.
    Iban,
}

/// `schema.table.column`, by the names the catalogue has (no quoting).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ColumnPath {
    pub schema: Arc<str>,
    pub table: Arc<str>,
    pub column: Arc<str>,
}

impl fmt::Display for ColumnPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.schema, self.table, self.column)
    }
}

/// What the statement does to the session's names. Prepared statements of SQL and of the protocol share one name
/// space, cursors and portals another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NameOp {
    None,
    Prepare {
        name: String,
        inner: Box<Statement>,
    },
    Execute(String),
    /// `None` is all.
    Deallocate(Option<String>),
    DeclareCursor {
        name: String,
        hold: bool,
        binary: bool,
        inner: Box<Statement>,
    },
    /// `sends_rows` is false for MOVE.
    Fetch {
        name: String,
        sends_rows: bool,
    },
    /// `None` is all.
    CloseCursor(Option<String>),
}

/// How rows of a COPY look on the wire, for whoever rewrites them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopyPlan {
    pub direction: CopyDirection,
    pub format: CopyFormat,
    pub delimiter: u8,
    /// The text that stands for NULL.
    pub null: String,
    /// The first row is a header.
    pub header: bool,
    pub quote: u8,
    pub escape: u8,
    /// Rows of one table: each column has the type its table gives it.
    pub table: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CopyDirection {
    In,
    Out,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CopyFormat {
    Text,
    Csv,
    Binary,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TransactionOp {
    Begin,
    Commit {
        chain: bool,
    },
    Rollback {
        chain: bool,
    },
    Savepoint(String),
    Release(String),
    RollbackTo(String),
    /// SET CONSTRAINTS: deferred checks are made as at a COMMIT.
    CheckConstraints,
}
