//! RowDescription and DataRow: the cross-check of what the server says against the plan, and the masks.

use bytes::{BufMut, BytesMut};

use super::codec::{CodecError, Fields, put};
use super::plan::{Mask, Output};
use super::style::{REDACTED, Style};
use super::value::Change;
use super::watch::{Place, holds_text};
use crate::detect;
use crate::record::raw::Value;

/// Where an output column comes from, as the server says: table OID and attribute number, 0 for an expression.
pub trait Origins {
    /// True when this column of this table is masked for the session's principal. Attribute 0 of a table is its
    /// whole row.
    fn masked(&self, table: u32, attribute: i16) -> bool;

    /// True when it has a label, whether it is masked or shown: then that is what decides, and not what it looks like.
    fn labelled(&self, table: u32, attribute: i16) -> bool {
        self.masked(table, attribute)
    }
}

/// The server contradicts the plan: something was understood wrongly, so nothing of it may be served.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Mismatch {
    #[error("the server describes {described} columns, the plan has {planned}")]
    Count { described: usize, planned: usize },
    #[error("column {column} comes from a masked column and the plan does not mask it")]
    Unmasked { column: usize },
    #[error("rows where the plan expects none")]
    Unexpected,
    #[error("{0} was changed by another session while the statement was on its way")]
    Overtaken(String),
    #[error(transparent)]
    Codec(#[from] CodecError),
}

/// What a cell is replaced by, per column; decided once per described statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cell {
    Keep,
    Redact,
    Null,
    Styled(Style),
    /// Another value of this type; `binary` as the description says it.
    Changed {
        change: Change,
        type_oid: u32,
        binary: bool,
    },
    /// Kept, unless it looks like personal data or a secret.
    Looked {
        place: Place,
        /// `***` is a value of its type; otherwise only NULL is.
        text: bool,
    },
}

impl Cell {
    /// What is recognised in a value that is looked at.
    fn finds(&self, value: Option<&[u8]>) -> Option<detect::Kind> {
        matches!(self, Self::Looked { .. }).then(|| detect::find(value?))?
    }
}

/// Reads a RowDescription and says which cells are to be looked at: those of types that hold text and have no label.
///
/// # Errors
/// When it is not one.
pub fn looked_at(mut body: Fields<'_>, origins: &impl Origins) -> Result<Vec<Cell>, Mismatch> {
    let count = usize::try_from(body.i16()?).unwrap_or(0);
    let mut cells = Vec::with_capacity(count);
    for column in 1..=count {
        body.c_bytes()?;
        let (table, attribute) = (body.i32()?.cast_unsigned(), body.i16()?);
        let type_oid = body.i32()?.cast_unsigned();
        body.bytes(2 + 4 + 2)?;
        let labelled = table != 0 && origins.labelled(table, attribute);
        cells.push(match !labelled && holds_text(type_oid) {
            true => Cell::Looked { place: Place::of(table, attribute, column), text: is_text(type_oid) },
            false => Cell::Keep,
        });
    }
    body.end()?;
    Ok(cells)
}

/// Cells of a row whose types are not known: all of them are looked at.
#[must_use]
pub fn undescribed(count: usize) -> Vec<Cell> {
    (1..=count).map(|column| Cell::Looked { place: Place::Position(column), text: false }).collect()
}

/// Where a row holds what looks like personal data or a secret.
///
/// # Errors
/// When the row does not have the columns that were described.
pub fn found(mut body: Fields<'_>, cells: &[Cell]) -> Result<Vec<(Place, detect::Kind)>, Mismatch> {
    body.i16()?;
    let mut found = Vec::new();
    for cell in cells {
        let value = body.value()?;
        if let (Cell::Looked { place, .. }, Some(kind)) = (cell, cell.finds(value)) {
            found.push((place.clone(), kind));
        }
    }
    Ok(found)
}

/// Reads a RowDescription, checks it against the plan and says what to do with each cell.
///
/// # Errors
/// When it contradicts the plan.
pub fn check(mut body: Fields<'_>, output: &Output, origins: &impl Origins) -> Result<Vec<Cell>, Mismatch> {
    let count = usize::try_from(body.i16()?).unwrap_or(0);
    let masks: &[Option<Mask>] = match output {
        Output::Columns(columns) if columns.len() != count => {
            return Err(Mismatch::Count { described: count, planned: columns.len() });
        }
        Output::Columns(columns) => columns,
        Output::Opaque => &[],
        Output::Nothing | Output::OfName => return Err(Mismatch::Unexpected),
    };
    let mut cells = Vec::with_capacity(count);
    for column in 0..count {
        body.c_bytes()?;
        let table = body.i32()?.cast_unsigned();
        let attribute = body.i16()?;
        let type_oid = body.i32()?.cast_unsigned();
        body.bytes(2 + 4)?;
        let binary = body.i16()? == 1;
        let mask = masks.get(column).and_then(Option::as_ref);
        if mask.is_none() && table != 0 && origins.masked(table, attribute) {
            return Err(Mismatch::Unmasked { column: column + 1 });
        }
        cells.push(match mask {
            None => Cell::Keep,
            Some(Mask::Redact) if is_text(type_oid) => Cell::Redact,
            Some(Mask::Styled(style)) if is_text(type_oid) => Cell::Styled(style.clone()),
            Some(Mask::Changed { change, .. }) if change.fits(type_oid) => {
                Cell::Changed { change: change.clone(), type_oid, binary }
            }
            Some(Mask::Redact | Mask::Styled(_) | Mask::Null | Mask::Changed { .. }) => Cell::Null,
        });
    }
    body.end()?;
    Ok(cells)
}

/// Types whose text and binary forms are the characters themselves: text, varchar, bpchar, name, "char",
/// cstring, unknown (pg_type.dat). Any other gets NULL, which every format and every driver can read.
fn is_text(type_oid: u32) -> bool {
    matches!(type_oid, 25 | 1043 | 1042 | 19 | 2275 | 705)
}

/// Result formats as Bind gives them: none is text for all, one is for all.
fn is_binary(formats: &[i16], column: usize) -> bool {
    match formats {
        [] => false,
        [all] => *all == 1,
        each => each.get(column) == Some(&1),
    }
}

/// Writes a DataRow with its masked cells replaced, NULLs included: whether a value is there is a value too.
///
/// `formats` is what Bind asked for; without it, the columns are as they were described.
///
/// # Errors
/// When the row does not have the columns that were described.
pub fn put_masked(
    out: &mut BytesMut,
    mut body: Fields<'_>,
    cells: &[Cell],
    formats: Option<&[i16]>,
) -> Result<u64, Mismatch> {
    let count = usize::try_from(body.i16()?).unwrap_or(0);
    if count != cells.len() {
        return Err(Mismatch::Count { described: count, planned: cells.len() });
    }
    let mut replaced = 0;
    let mut outcome = Ok(());
    put(out, b'D', |out| {
        out.put_i16(i16::try_from(count).unwrap_or(0));
        for (column, cell) in cells.iter().enumerate() {
            let value = match body.value() {
                Ok(value) => value,
                Err(error) => {
                    outcome = Err(error);
                    return;
                }
            };
            let (styled, changed);
            let value = match cell {
                Cell::Keep => value,
                Cell::Redact => Some(REDACTED),
                Cell::Null => None,
                Cell::Styled(style) => {
                    styled = style.replace(value);
                    Some(&*styled)
                }
                Cell::Changed { change, type_oid, binary } => {
                    let binary = formats.map_or(*binary, |formats| is_binary(formats, column));
                    changed = change.apply(*type_oid, binary, value);
                    changed.as_deref()
                }
                Cell::Looked { text, .. } if cell.finds(value).is_some() => {
                    replaced += 1;
                    text.then_some(REDACTED)
                }
                Cell::Looked { .. } => value,
            };
            replaced += u64::from(!matches!(cell, Cell::Keep | Cell::Looked { .. }));
            match value {
                None => out.put_i32(-1),
                Some(value) => {
                    out.put_i32(i32::try_from(value.len()).unwrap_or(0));
                    out.put_slice(value);
                }
            }
        }
        outcome = body.end();
    });
    outcome?;
    Ok(replaced)
}

/// The values of a DataRow that masks take away, with the number of their column, from 1.
///
/// # Errors
/// When the row does not have the columns that were described.
pub fn taken(
    mut body: Fields<'_>,
    cells: &[Cell],
    formats: Option<&[i16]>,
) -> Result<Vec<(usize, Value)>, Mismatch> {
    body.i16()?;
    let mut taken = Vec::new();
    for (column, cell) in cells.iter().enumerate() {
        let value = body.value()?;
        let described = matches!(cell, Cell::Changed { binary: true, .. });
        let kept = match cell {
            Cell::Keep => true,
            Cell::Looked { .. } => cell.finds(value).is_none(),
            Cell::Redact | Cell::Null | Cell::Styled(_) | Cell::Changed { .. } => false,
        };
        if !kept {
            let binary = formats.map_or(described, |formats| is_binary(formats, column));
            taken.push((column + 1, Value::of(value, binary)));
        }
    }
    Ok(taken)
}

#[cfg(test)]
mod tests {
    use super::super::codec::{HEADER, WHOLE_MAX, take};
    use super::*;

    struct Table7;

    impl Origins for Table7 {
        fn masked(&self, table: u32, attribute: i16) -> bool {
            table == 7 && matches!(attribute, 0 | 2)
        }
    }

    fn description(columns: &[(u32, i16, u32)]) -> BytesMut {
        let mut out = BytesMut::new();
        out.put_i16(columns.len() as i16);
        for (table, attribute, type_oid) in columns {
            out.put_slice(b"c\0");
            out.put_u32(*table);
            out.put_i16(*attribute);
            out.put_u32(*type_oid);
            out.put_slice(&[0; 8]);
        }
        out
    }

    fn row(values: &[Option<&[u8]>]) -> BytesMut {
        let mut out = BytesMut::new();
        out.put_i16(values.len() as i16);
        for value in values {
            match value {
                None => out.put_i32(-1),
                Some(value) => {
                    out.put_i32(value.len() as i32);
                    out.put_slice(value);
                }
            }
        }
        out
    }

    #[test]
    fn the_servers_word_is_checked_against_the_plan() {
        let check_it = |columns: &[(u32, i16, u32)], output: Output, expect: Result<Vec<Cell>, Mismatch>| {
            assert_eq!(check(Fields::new(b'T', &description(columns)), &output, &Table7), expect);
        };
        let clean = |n| Output::Columns(vec![None; n]);
        let masked = || Output::Columns(vec![None, Some(Mask::Redact)]);
        check_it(&[(7, 1, 23)], clean(1), Ok(vec![Cell::Keep]));
        check_it(&[(7, 2, 25)], clean(1), Err(Mismatch::Unmasked { column: 1 }));
        check_it(&[(7, 0, 2249)], clean(1), Err(Mismatch::Unmasked { column: 1 }));
        check_it(&[(7, 2, 25)], Output::Opaque, Err(Mismatch::Unmasked { column: 1 }));
        check_it(&[(0, 0, 25)], Output::Opaque, Ok(vec![Cell::Keep]));
        check_it(&[(7, 1, 23)], masked(), Err(Mismatch::Count { described: 1, planned: 2 }));
        check_it(&[(7, 1, 23)], Output::Nothing, Err(Mismatch::Unexpected));
        check_it(&[(7, 1, 23), (7, 2, 25)], masked(), Ok(vec![Cell::Keep, Cell::Redact]));
        // An int4 gets NULL: `***` would break its reader.
        check_it(&[(7, 1, 23), (7, 2, 23)], masked(), Ok(vec![Cell::Keep, Cell::Null]));
    }

    #[test]
    fn masked_cells_are_replaced_and_nothing_else_changes() {
        let cells = [Cell::Keep, Cell::Redact, Cell::Null];
        let check = |values: [Option<&[u8]>; 3], expect: [Option<&[u8]>; 3]| {
            let mut out = BytesMut::new();
            let replaced = put_masked(&mut out, Fields::new(b'D', &row(&values)), &cells, None).unwrap();
            assert_eq!(replaced, 2);
            let message = take(&mut out, WHOLE_MAX).unwrap().unwrap();
            assert_eq!(&message.bytes[HEADER..], &row(&expect)[..]);
        };
        check([Some(b"1"), Some(b"secret"), Some(b"42")], [Some(b"1"), Some(b"***"), None]);
        check([None, None, None], [None, Some(b"***"), None]);
        let cells = [Cell::Styled(Style::Partial(chaperone_sql::Partial::Card))];
        let mut out = BytesMut::new();
        put_masked(&mut out, Fields::new(b'D', &row(&[Some(b"4111111111111111")])), &cells, None).unwrap();
        assert!(out.ends_with(b"\0\x10************1111"), "{}", out.escape_ascii());
    }

    #[test]
    fn a_row_of_another_shape_is_an_error_at_every_truncation() {
        let whole = row(&[Some(b"1"), Some(b"secret")]);
        let cells = [Cell::Keep, Cell::Redact];
        for cut in 0..whole.len() {
            let outcome = put_masked(&mut BytesMut::new(), Fields::new(b'D', &whole[..cut]), &cells, None);
            assert!(outcome.is_err(), "cut at {cut}");
        }
        assert!(put_masked(&mut BytesMut::new(), Fields::new(b'D', &whole), &cells[..1], None).is_err());
    }
}
