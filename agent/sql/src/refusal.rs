//! Why a string of SQL is not served. Owns the closed list of causes and their wording; knows no policy: what policy
//! may decide comes back as a [`Statement`](crate::Statement) instead.

use std::fmt;

/// A statement that cannot be served soundly, whatever the policy says. One refusal refuses the whole string.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Refusal {
    pub kind: RefusalKind,
    /// One sentence for the client: what was refused and why. Names columns and functions, never values.
    pub reason: String,
    /// What may be sent instead; empty when nothing useful can be said.
    pub hint: String,
    /// Index of the offending statement in its string; 0 when the string did not parse.
    pub statement: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RefusalKind {
    /// The text is not SQL of any supported server version.
    Syntax,
    /// Too long, too deep or too wide to analyse; the server would refuse most of these too.
    TooComplex,
    /// The text holds a NUL byte: server and analysis would read different statements.
    Nul,
    /// A relation the catalogue does not have (temporary tables included).
    UnknownRelation(String),
    /// A column name that cannot be resolved, or not to one column only.
    UnknownColumn(String),
    /// A function that is not known to be free of side effects and of reads.
    UnlistedFunction(String),
    /// An operator that may run a function of the database's own.
    UnlistedOperator(String),
    /// A type that may run a function of the database's own, or is not known.
    UnlistedType(String),
    /// A masked column used in any way but flowing unmodified to an output column.
    LabelledUse { column: String, how: How },
    /// A relation that shows data of other relations or sessions (statistics, activity, passwords).
    UnservedRelation(String),
    /// A view whose rows hang on masked values, or whose definition is not understood.
    OpaqueView(String),
    /// A construct the analysis does not know.
    UnsupportedNode(String),
    /// A setting that the soundness of the analysis hangs on, or that is not on the list of known ones.
    PinnedSetting(String),
    /// A statement that no policy can make sound (files and programs on the server, session resets).
    Class(&'static str),
    /// A statement that follows one which changes what the later one means.
    AfterChange,
    /// A view definition that reads a view not analysed yet; never leaves the crate.
    #[doc(hidden)]
    Pending(u32),
}

/// The use of a masked column that was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    Filter,
    Join,
    Merge,
    Order,
    Group,
    Distinct,
    Window,
    Limit,
    SetOperation,
    Meeting,
    Expression,
    Cast,
    Function,
    Source,
    WholeRow,
    Condition,
    Store,
    Arbiter,
    Sample,
    Explain,
    Copy,
    WriteOracle,
    Ordering,
    Changed,
    Together,
    Referring,
    Sequence,
    Unexpanded,
    Definition,
}

impl How {
    fn text(self) -> &'static str {
        match self {
            Self::Filter => "used to choose rows (WHERE, HAVING or FILTER)",
            Self::Join => "used to join",
            Self::Merge => "a merged column of NATURAL JOIN or USING, which compares it",
            Self::Order => "used to order rows",
            Self::Group => "used to group rows",
            Self::Distinct => "compared by DISTINCT",
            Self::Window => "used in a window definition",
            Self::Limit => "used in LIMIT or OFFSET",
            Self::SetOperation => "compared by UNION, INTERSECT or EXCEPT",
            Self::Meeting => {
                "in a column with values of other types: bringing it to theirs could fail for some values"
            }
            Self::Expression => "used inside an expression",
            Self::Cast => "cast or collated",
            Self::Function => "passed to a function",
            Self::Source => "used to make rows in FROM",
            Self::WholeRow => "part of a whole-row reference",
            Self::Condition => "used in a condition",
            Self::Store => "copied into a table, where it would no longer be masked",
            Self::Arbiter => "used to detect a conflict",
            Self::Sample => "used in a sampling clause",
            Self::Explain => "part of the relation being explained",
            Self::Copy => "copied in a format that cannot be masked",
            Self::WriteOracle => "unique or referenced, so that writing it tells which values exist",
            Self::Ordering => {
                "in an index, so that rows may come in its order and tell between which others a value stands"
            }
            Self::Changed => {
                "watched by a key or a trigger, so that it would be told whether an UPDATE changed it"
            }
            Self::Together => "checked together with what is written, so that the outcome would tell of it",
            Self::Referring => {
                "a reference to these rows, so that whether they can go would tell which values exist"
            }
            Self::Sequence => "numbered by a sequence, whose value is one of its own",
            Self::Unexpanded => "at an output position that is not known",
            Self::Definition => "used in an index, a constraint, a default or another column",
        }
    }

    fn hint(self) -> &'static str {
        match self {
            Self::SetOperation => "use UNION ALL, or leave the column out",
            Self::Meeting => "write NULL or a plain number there, or read the column by itself",
            Self::WholeRow => "name the columns, or use * in the output list of the outermost SELECT",
            Self::WriteOracle | Self::Ordering => "leave the column out of the write",
            Self::Changed => "leave the column out of the UPDATE",
            Self::Together => "set that column in the same statement, or leave out what is checked with it",
            Self::Referring => "only someone who may see the column can delete or renumber these rows",
            Self::Sequence => {
                "name a sequence of other columns, or leave the column to its default and read others with RETURNING"
            }
            Self::Merge => "join with ON and another column",
            Self::Explain => "explain a statement that does not read this relation",
            Self::Copy => "use the text or CSV format with its default quoting",
            Self::Cast => "select the column itself, without a cast; its value arrives masked",
            Self::Filter
            | Self::Join
            | Self::Order
            | Self::Group
            | Self::Distinct
            | Self::Window
            | Self::Limit
            | Self::Expression
            | Self::Function
            | Self::Source
            | Self::Condition
            | Self::Store
            | Self::Arbiter
            | Self::Sample
            | Self::Definition
            | Self::Unexpanded => {
                "select the column as it is (its value arrives masked), or use columns that are not masked"
            }
        }
    }
}

impl fmt::Display for How {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

impl How {
    /// Whether only the value made from the column depends on it, and not which rows there are or how they are ordered.
    pub(crate) fn is_value(self) -> bool {
        matches!(self, Self::Expression | Self::Cast | Self::Function)
    }
}

/// Inside the crate refusals travel boxed: the happy path returns a pointer's width.
pub(crate) type Res<T> = Result<T, Box<Refusal>>;

impl Refusal {
    pub(crate) fn boxed(kind: RefusalKind, reason: String, hint: &str) -> Box<Self> {
        Box::new(Self { kind, reason, hint: hint.to_owned(), statement: 0 })
    }

    pub(crate) fn syntax(message: &str) -> Box<Self> {
        Self::boxed(RefusalKind::Syntax, format!("the statement does not parse: {message}"), "")
    }

    pub(crate) fn nul() -> Box<Self> {
        Self::boxed(RefusalKind::Nul, "the statement contains a NUL byte".to_owned(), "")
    }

    pub(crate) fn complex(what: &str) -> Box<Self> {
        let hint = "split the statement, or pass values as parameters or by COPY";
        Self::boxed(RefusalKind::TooComplex, format!("the statement is too complex: {what}"), hint)
    }

    pub(crate) fn relation(name: String) -> Box<Self> {
        let reason = format!("relation {name} is not known");
        let hint = "name a table or view that exists; tables made in this session cannot be analysed";
        Self::boxed(RefusalKind::UnknownRelation(name), reason, hint)
    }

    pub(crate) fn unserved(name: String) -> Box<Self> {
        let reason = format!("system relation {name} shows data of other tables or sessions");
        Self::boxed(RefusalKind::UnservedRelation(name), reason, "")
    }

    pub(crate) fn view(name: String) -> Box<Self> {
        let reason =
            format!("view {name} chooses its rows by masked columns, or its definition cannot be analysed");
        Self::boxed(RefusalKind::OpaqueView(name), reason, "read the tables below it")
    }

    pub(crate) fn column(name: &str) -> Box<Self> {
        let reason = format!("column {name} cannot be resolved");
        let hint = "qualify the column with the name or alias of its table";
        Self::boxed(RefusalKind::UnknownColumn(name.to_owned()), reason, hint)
    }

    pub(crate) fn ambiguous(name: &str) -> Box<Self> {
        let reason = format!("column {name} is ambiguous");
        let hint = "qualify the column with the name or alias of its table";
        Self::boxed(RefusalKind::UnknownColumn(name.to_owned()), reason, hint)
    }

    pub(crate) fn function(name: String) -> Box<Self> {
        let reason =
            format!("function {name} is not on the list of functions that cannot read masked columns");
        Self::boxed(
            RefusalKind::UnlistedFunction(name),
            reason,
            "use functions of pg_catalog that only compute",
        )
    }

    pub(crate) fn operator(name: String) -> Box<Self> {
        let reason = format!("operator {name} may run a function that reads masked columns");
        Self::boxed(
            RefusalKind::UnlistedOperator(name),
            reason,
            "write OPERATOR(pg_catalog.…) for a built-in one",
        )
    }

    pub(crate) fn data_type(name: String) -> Box<Self> {
        let reason = format!("type {name} is not known, or may run a function that reads masked columns");
        Self::boxed(RefusalKind::UnlistedType(name), reason, "")
    }

    pub(crate) fn labelled(column: String, how: How) -> Box<Self> {
        let reason = format!("column {column} is masked for you and may not be {}", how.text());
        let reason = match how {
            How::Merge
            | How::WholeRow
            | How::Explain
            | How::WriteOracle
            | How::Ordering
            | How::Changed
            | How::Together
            | How::Referring
            | How::Meeting
            | How::Sequence
            | How::Unexpanded => {
                format!("column {column} is masked for you and is {}", how.text())
            }
            _ => reason,
        };
        Self::boxed(RefusalKind::LabelledUse { column, how }, reason, how.hint())
    }

    pub(crate) fn unsupported(what: &str) -> Box<Self> {
        let reason = format!("{what} is not supported");
        Self::boxed(RefusalKind::UnsupportedNode(what.to_owned()), reason, "")
    }

    pub(crate) fn setting(name: &str) -> Box<Self> {
        let reason = format!("setting {name} may not be changed here");
        Self::boxed(RefusalKind::PinnedSetting(name.to_owned()), reason, "")
    }

    pub(crate) fn class(what: &'static str, hint: &str) -> Box<Self> {
        Self::boxed(RefusalKind::Class(what), format!("{what} is never served"), hint)
    }

    pub(crate) fn after_change() -> Box<Self> {
        let reason = "an earlier statement of the same string changes what this one means".to_owned();
        Self::boxed(RefusalKind::AfterChange, reason, "send the statements one at a time")
    }

    pub(crate) fn pending(rel: u32) -> Box<Self> {
        Self::boxed(RefusalKind::Pending(rel), String::new(), "")
    }
}
