//! The closed lists of the policy language: actions, flags, masks, recording modes.
//!
//! Owns the spelling. Deliberately does not know what makes a statement a `sql:update` or when a flag is set: that is
//! the parser's knowledge. A test compares these lists with `schema.cedarschema`.

use std::fmt;
use std::str::FromStr;

use cedar_policy::EntityUid;

use crate::entity::{Kind, uid};

/// A name that is not in a closed list.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown {list} {name:?}{}", .nearest.map(|n| format!(", did you mean {n:?}?")).unwrap_or_default())]
pub struct UnknownName {
    pub list: &'static str,
    pub name: String,
    pub nearest: Option<&'static str>,
}

macro_rules! closed_list {
    ($(#[$doc:meta])* $type:ident, $list:literal, { $($(#[$vdoc:meta])* $variant:ident = $name:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $type { $($(#[$vdoc])* $variant,)* }

        impl $type {
            pub const ALL: &'static [$type] = &[$($type::$variant),*];
            pub const NAMES: &'static [&'static str] = &[$($name),*];

            pub fn as_str(self) -> &'static str {
                match self { $($type::$variant => $name,)* }
            }
        }

        impl FromStr for $type {
            type Err = UnknownName;
            fn from_str(name: &str) -> Result<Self, UnknownName> {
                match name {
                    $($name => Ok($type::$variant),)*
                    _ => Err(UnknownName { list: $list, name: name.to_owned(), nearest: nearest(name, Self::NAMES) }),
                }
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

closed_list!(
    /// What is asked for. The names are those of `Action::"..."` in a policy.
    Action, "action", {
        Connect = "connect",
        Select = "sql:select",
        CopyOut = "sql:copy-out",
        /// Transaction control, SET and SHOW of harmless parameters.
        Session = "sql:session",
        Insert = "sql:insert",
        Update = "sql:update",
        Delete = "sql:delete",
        Merge = "sql:merge",
        Truncate = "sql:truncate",
        CopyIn = "sql:copy-in",
        Ddl = "sql:ddl",
        Call = "sql:call",
        Admin = "sql:admin",
        Listen = "sql:listen",
        /// Streams of whole tables as they are stored: backups and changes.
        Replicate = "sql:replicate",
        /// To see a column in clear.
        Unmask = "unmask",
        Exec = "ssh:exec",
        /// A command whose effect is not in its text.
        ExecDynamic = "ssh:exec-dynamic",
        Shell = "ssh:shell",
        Pty = "ssh:pty",
        /// To see in clear what a pattern hides in what programs print.
        Reveal = "ssh:unmask",
        Sftp = "ssh:sftp",
        /// A variable for the programs of a session.
        Env = "ssh:env",
        /// A tunnel to another target.
        Forward = "ssh:forward",
        FileList = "file:list",
        FileRead = "file:read",
        FileWrite = "file:write",
        FileRemove = "file:remove",
        /// A transfer that makes links or devices, or follows links.
        FileLink = "file:link",
        /// A person says yes to what an identity asks for.
        Approve = "approve",
    }
);

impl Action {
    pub(crate) fn uid(self) -> EntityUid {
        uid(Kind::Action, self.as_str().to_owned())
    }

    /// What the context of this action is made of.
    pub(crate) fn context(self) -> ContextOf {
        match self {
            Action::Connect | Action::Unmask => ContextOf::Nothing,
            Action::Approve => ContextOf::Approving,
            Action::Exec | Action::ExecDynamic => ContextOf::Command,
            Action::Shell | Action::Pty | Action::Sftp => ContextOf::Login,
            Action::Reveal => ContextOf::Output,
            Action::Env => ContextOf::Variable,
            Action::Forward => ContextOf::Forward,
            Action::FileList
            | Action::FileRead
            | Action::FileWrite
            | Action::FileRemove
            | Action::FileLink => ContextOf::File,
            Action::Select
            | Action::CopyOut
            | Action::Session
            | Action::Insert
            | Action::Update
            | Action::Delete
            | Action::Merge
            | Action::Truncate
            | Action::CopyIn
            | Action::Ddl
            | Action::Call
            | Action::Admin
            | Action::Listen
            | Action::Replicate => ContextOf::Statement,
        }
    }

    /// What an identity does. The others are decided about what it sees, and about people.
    pub(crate) fn is_done(self) -> bool {
        !matches!(self, Action::Unmask | Action::Reveal | Action::Approve)
    }

    /// Whether rows can come back, so that a row limit or a mask means something.
    pub(crate) fn returns_rows(self) -> bool {
        // The writes are here because of RETURNING.
        matches!(
            self,
            Action::Select
                | Action::CopyOut
                | Action::Insert
                | Action::Update
                | Action::Delete
                | Action::Merge
                | Action::Call
                | Action::Replicate
        )
    }
}

/// The types of context in the schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ContextOf {
    Nothing,
    Statement,
    Command,
    Login,
    Output,
    Variable,
    Forward,
    File,
    Approving,
}

closed_list!(
    /// A fact about a statement. The names are those of `Flag::"..."` in a policy.
    Flag, "flag", {
        NoWhere = "no_where",
        ConstantWhere = "constant_where",
        NoLimit = "no_limit",
        Star = "star",
        Returning = "returning",
        Locking = "locking",
        ModifyingCte = "modifying_cte",
        MultiStatement = "multi_statement",
        Cascade = "cascade",
    }
);

impl Flag {
    pub(crate) fn uid(self) -> EntityUid {
        uid(Kind::Flag, self.as_str().to_owned())
    }
}

closed_list!(
    /// How a masked cell is replaced. Ordered: a later one shows less.
    MaskWith, "mask", {
        Redact = "redact",
        Null = "null",
    }
);

closed_list!(
    /// What is recorded beyond the event itself.
    RecordMode, "recording mode", {
        /// The rows the client received, after masking.
        Rows = "rows",
        /// Nothing more, where the target's configuration asks for rows.
        Meta = "meta",
        /// A terminal session.
        Asciicast = "asciicast",
        /// What masks take away, sealed to auditors.
        Raw = "raw",
    }
);

/// The known name closest to what was typed, if one is close enough to be meant.
pub(crate) fn nearest<'n>(typed: &str, known: &[&'n str]) -> Option<&'n str> {
    let typed = typed.to_lowercase();
    known
        .iter()
        .map(|name| (strsim::damerau_levenshtein(&typed, &name.to_lowercase()), *name))
        .filter(|(distance, name)| *distance <= (name.len().max(typed.len()) / 3).max(1))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}
