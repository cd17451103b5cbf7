//! Labels: which columns of a target are sensitive.

use chaperone_sql::Partial;
use serde::Deserialize;

/// A column marked as sensitive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Label {
    pub schema: String,
    pub table: String,
    pub column: String,
    pub tags: Vec<String>,
    pub mask: MaskStyle,
    /// Only in this database; then a session is refused when the database has no such column.
    pub database: Option<String>,
}

impl Label {
    /// Whether it may speak of a column of this database.
    #[must_use]
    pub fn may_be_in(&self, database: &str) -> bool {
        self.database.as_ref().is_none_or(|only| only == database)
    }
}

/// What replaces a masked cell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MaskStyle {
    /// `***` in text types, NULL in every other.
    Redact,
    Null,
    /// Part of it in text types, where the value has the shape.
    Partial(chaperone_sql::Partial),
    /// A stand-in in text types, the same for the same value and identity.
    Pseudonym,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LabelFile {
    column: String,
    tags: Vec<String>,
    #[serde(default)]
    mask: MaskFile,
    database: Option<String>,
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
        labels.push(Label {
            schema: schema.to_owned(),
            table: table.to_owned(),
            column: column.to_owned(),
            tags: label.tags,
            mask: match label.mask {
                MaskFile::Redact => MaskStyle::Redact,
                MaskFile::Null => MaskStyle::Null,
                MaskFile::PartialCard => MaskStyle::Partial(Partial::Card),
                MaskFile::PartialEmail => MaskStyle::Partial(Partial::Email),
                MaskFile::PartialPhone => MaskStyle::Partial(Partial::Phone),
                MaskFile::PartialIban => MaskStyle::Partial(Partial::Iban),
                MaskFile::Pseudonym => MaskStyle::Pseudonym,
            },
            database: label.database,
        });
    }
    labels
}
