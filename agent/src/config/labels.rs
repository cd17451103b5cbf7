//! Labels: which columns of a target are sensitive.

use chaperone_sql::{ColumnPath, Knobs, Partial, Predicate};
use serde::Deserialize;

/// A column marked as sensitive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Label {
    pub schema: String,
    pub table: String,
    pub column: String,
    pub tags: Vec<String>,
    pub mask: MaskStyle,
    /// What may be done with it beside.
    pub knobs: Knobs,
    /// Only in this database; then a session is refused when the database has no such column.
    pub database: Option<String>,
}

impl Label {
    /// Whether it may speak of a column of this database.
    #[must_use]
    pub fn may_be_in(&self, database: &str) -> bool {
        self.database.as_ref().is_none_or(|only| only == database)
    }

    #[must_use]
    pub fn path(&self) -> ColumnPath {
        let Self { schema, table, column, .. } = self;
        ColumnPath {
            schema: schema.as_str().into(),
            table: table.as_str().into(),
            column: column.as_str().into(),
        }
    }
}

/// What replaces a masked cell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MaskStyle {
    /// `***` in text types, NULL in every other.
    Redact,
    Null,
    /// Part of it in text types, where the value has the shape.
    Partial(chaperone_sql::Partial),
    /// A stand-in in text types, the same for the same value and identity.
    Pseudonym,
    /// Always this, where it is a value of the column's type.
    Fixed(String),
    /// Dates, moved by at most so many days.
    DateShift(u16),
    /// Numbers and dates, by the bucket they lie in.
    Bucket(Bucket),
}

/// Which values look the same: all of a bucket look like its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bucket {
    /// Numbers, in steps of this.
    Size(u32),
    Month,
    Quarter,
    Year,
    Decade,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LabelFile {
    column: String,
    tags: Vec<String>,
    #[serde(default)]
    mask: MaskFile,
    #[serde(default)]
    predicate: PredicateFile,
    #[serde(default)]
    aggregate: AggregateFile,
    #[serde(default)]
    computed: ComputedFile,
    database: Option<String>,
}

#[derive(Debug, Default, Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum PredicateFile {
    #[default]
    Deny,
    IsNull,
    Equality,
    Any,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum AggregateFile {
    #[default]
    Deny,
    Count,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum ComputedFile {
    #[default]
    Deny,
    Mask,
}

impl From<PredicateFile> for Predicate {
    fn from(typed: PredicateFile) -> Self {
        match typed {
            PredicateFile::Deny => Self::Deny,
            PredicateFile::IsNull => Self::IsNull,
            PredicateFile::Equality => Self::Equality,
            PredicateFile::Any => Self::Any,
        }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum MaskFile {
    #[default]
    Redact,
    Null,
    PartialCard,
    PartialEmail,
    PartialPhone,
    PartialIban,
    Pseudonym,
    Fixed(String),
    DateShift(u16),
    Bucket(BucketFile),
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum BucketFile {
    Size(u32),
    Unit(UnitFile),
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum UnitFile {
    Month,
    Quarter,
    Year,
    Decade,
}

/// Longer than any date a person could guess by.
const LONGEST_SHIFT: u16 = 3_650;

/// What is wrong with a mask, if anything is.
fn problem(mask: &MaskStyle) -> Option<&'static str> {
    match mask {
        MaskStyle::Fixed(text)
            if text.is_empty() || text.len() > 200 || text.chars().any(char::is_control) =>
        {
            Some("a fixed value has 1 to 200 bytes, and no control characters")
        }
        MaskStyle::DateShift(days) if !(7..=LONGEST_SHIFT).contains(days) => {
            Some("dates are shifted by at most 7 to 3650 days")
        }
        MaskStyle::Bucket(Bucket::Size(0 | 1)) => Some("a bucket of numbers holds more than one"),
        _ => None,
    }
}

pub(super) fn convert(key: &str, typed: Vec<LabelFile>, problems: &mut Vec<String>) -> Vec<Label> {
    let mut labels: Vec<Label> = Vec::new();
    for label in typed {
        let mut parts = label.column.split('.');
        let (Some(schema), Some(table), Some(column), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            problems.push(format!("{key}.labels: `{}` is not schema.table.column", label.column));
            continue;
        };
        if label.tags.is_empty() {
            problems
                .push(format!("{key}.labels: `{}` has no tags, so no policy could name it", label.column));
        }
        if labels.iter().any(|l| {
            l.schema == schema && l.table == table && l.column == column && l.database == label.database
        }) {
            problems.push(format!("{key}.labels: `{}` is labelled twice", label.column));
        }
        let mask = match label.mask {
            MaskFile::Redact => MaskStyle::Redact,
            MaskFile::Null => MaskStyle::Null,
            MaskFile::PartialCard => MaskStyle::Partial(Partial::Card),
            MaskFile::PartialEmail => MaskStyle::Partial(Partial::Email),
            MaskFile::PartialPhone => MaskStyle::Partial(Partial::Phone),
            MaskFile::PartialIban => MaskStyle::Partial(Partial::Iban),
            MaskFile::Pseudonym => MaskStyle::Pseudonym,
            MaskFile::Fixed(text) => MaskStyle::Fixed(text),
            MaskFile::DateShift(days) => MaskStyle::DateShift(days),
            MaskFile::Bucket(BucketFile::Size(size)) => MaskStyle::Bucket(Bucket::Size(size)),
            MaskFile::Bucket(BucketFile::Unit(unit)) => MaskStyle::Bucket(match unit {
                UnitFile::Month => Bucket::Month,
                UnitFile::Quarter => Bucket::Quarter,
                UnitFile::Year => Bucket::Year,
                UnitFile::Decade => Bucket::Decade,
            }),
        };
        if let Some(why) = problem(&mask) {
            problems.push(format!("{key}.labels: `{}`: {why}", label.column));
        }
        labels.push(Label {
            schema: schema.to_owned(),
            table: table.to_owned(),
            column: column.to_owned(),
            tags: label.tags,
            mask,
            knobs: Knobs {
                predicate: label.predicate.into(),
                count: label.aggregate == AggregateFile::Count,
                computed: label.computed == ComputedFile::Mask,
            },
            database: label.database,
        });
    }
    labels
}
