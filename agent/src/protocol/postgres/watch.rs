//! Looks at what a client is served: which columns, COPY rows, errors and notices hold what looks like personal data or
//! secrets.
//!
//! Pure, and beside the machine: it reads the same bytes the client reads, after masking, so that nothing it
//! misunderstands can change what is served. Of a message that comes in parts, only the first is looked at. Rows whose
//! description was sent with an earlier exchange are counted without their column.

use std::collections::BTreeMap;

use super::codec::{self, Fields, HEADER};
use crate::detect::{self, Kind};

/// More columns than these are not told apart in one session.
const PLACES_MAX: usize = 1024;

/// Values of one column, after which more of the same say nothing new.
const ENOUGH: u32 = 10_000;

/// By chance, a number here and there looks like something.
const HITS_MIN: u32 = 3;

/// Where something was seen.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// Table OID, column number, and the name in the description.
    Column(u32, i16),
    /// An expression, or a row without a description, by its position from 1.
    Position(usize),
    Copy,
    Error,
    Notice,
    Notification,
}

impl Place {
    /// Of an output column that comes from there, by the server's word.
    pub(super) fn of(table: u32, number: i16, position: usize) -> Self {
        if table == 0 || number == 0 { Self::Position(position) } else { Self::Column(table, number) }
    }
}

/// Something that holds what looks like `kind`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sighting {
    pub place: Place,
    pub kind: Kind,
    /// How many of the values looked at so far.
    pub hits: u32,
    pub values: u32,
}

#[derive(Debug, Default)]
struct Tally {
    values: u32,
    hits: [u32; Kind::ALL.len()],
    told: bool,
}

/// The looking of one session.
#[derive(Debug, Default)]
pub struct Watch {
    /// Bytes of a message that are still to come, and are not looked at.
    rest: usize,
    /// Of the rows that come next; nothing when they were not described here.
    columns: Vec<Described>,
    tallies: BTreeMap<Place, Tally>,
    sightings: Vec<Sighting>,
}

#[derive(Debug)]
struct Described {
    place: Place,
    text: bool,
}

impl Watch {
    /// Looks at bytes that are about to be served.
    pub fn feed(&mut self, served: &[u8]) {
        let mut input = served.get(self.rest.min(served.len())..).unwrap_or_default();
        self.rest -= self.rest.min(served.len());
        while let Ok(Some(header)) = codec::header(input) {
            let here = header.total.min(input.len());
            self.rest = header.total - here;
            let (message, next) = input.split_at(here);
            self.message(header.tag, message.get(HEADER..).unwrap_or_default());
            input = next;
        }
    }

    /// What was recognised since this was last asked; each place and kind once.
    pub fn take(&mut self) -> Vec<Sighting> {
        std::mem::take(&mut self.sightings)
    }

    fn message(&mut self, tag: u8, body: &[u8]) {
        match tag {
            b'T' => self.columns = described(Fields::new(tag, body)).unwrap_or_default(),
            b'D' => self.row(body),
            b'd' => self.value(&Place::Copy, body),
            b'E' => self.value(&Place::Error, body),
            b'N' => self.value(&Place::Notice, body),
            b'A' => self.value(&Place::Notification, body),
            b'Z' => self.columns.clear(),
            _ => {}
        }
    }

    fn row(&mut self, body: &[u8]) {
        let Some((_, mut rest)) = body.split_at_checked(2) else { return };
        let mut index = 0;
        while let Some((length, after)) = rest.split_first_chunk::<4>() {
            let length = usize::try_from(i32::from_be_bytes(*length)).unwrap_or(0);
            // The last one may be there in part.
            let (value, next) = after.split_at(length.min(after.len()));
            rest = next;
            let (place, text) = match self.columns.get(index) {
                Some(column) => (column.place.clone(), column.text),
                None => (Place::Position(index + 1), std::str::from_utf8(value).is_ok()),
            };
            if text && !value.is_empty() {
                self.value(&place, value);
            }
            index += 1;
        }
    }

    fn value(&mut self, place: &Place, text: &[u8]) {
        if !self.tallies.contains_key(place) && self.tallies.len() >= PLACES_MAX {
            return;
        }
        let tally = self.tallies.entry(place.clone()).or_default();
        if tally.told || tally.values >= ENOUGH {
            return;
        }
        tally.values += 1;
        let Some(kind) = detect::look(text) else { return };
        let Some(hits) = tally.hits.get_mut(kind as usize) else { return };
        *hits += 1;
        let plenty = *hits >= HITS_MIN && *hits * 2 >= tally.values;
        let said = matches!(place, Place::Error | Place::Notice | Place::Notification);
        if plenty || kind.is_secret() || said {
            tally.told = true;
            self.sightings.push(Sighting { place: place.clone(), kind, hits: *hits, values: tally.values });
        }
    }
}

fn described(mut body: Fields<'_>) -> Result<Vec<Described>, codec::CodecError> {
    let count = usize::try_from(body.i16()?).unwrap_or(0);
    let mut columns = Vec::new();
    for index in 0..count {
        body.c_bytes()?;
        let (table, number) = (body.i32()?.cast_unsigned(), body.i16()?);
        let type_oid = body.i32()?.cast_unsigned();
        body.bytes(2 + 4 + 2)?;
        columns.push(Described { place: Place::of(table, number, index + 1), text: holds_text(type_oid) });
    }
    Ok(columns)
}

/// Types whose values can be read without knowing the format, in text and binary: text, varchar, bpchar, json, xml,
/// arrays of them and records; jsonb has one byte in front. Types of a database's own (citext, domains) are taken for text.
pub(super) fn holds_text(type_oid: u32) -> bool {
    let scalar = matches!(type_oid, 25 | 1043 | 1042 | 114 | 142 | 3802 | 705);
    scalar || matches!(type_oid, 1009 | 1015 | 1014 | 199 | 143 | 3807 | 2249 | 2287) || type_oid >= 16384
}

#[cfg(test)]
mod tests {
    use bytes::{BufMut, BytesMut};

    use super::*;

    fn message(tag: u8, fill: impl FnOnce(&mut BytesMut)) -> BytesMut {
        let mut out = BytesMut::new();
        codec::put(&mut out, tag, fill);
        out
    }

    fn description(columns: &[(u32, i16, u32)]) -> BytesMut {
        message(b'T', |out| {
            out.put_i16(columns.len() as i16);
            for (table, number, type_oid) in columns {
                out.put_slice(b"c\0");
                out.put_u32(*table);
                out.put_i16(*number);
                out.put_u32(*type_oid);
                out.put_slice(&[0; 8]);
            }
        })
    }

    fn row(values: &[&str]) -> BytesMut {
        message(b'D', |out| {
            out.put_i16(values.len() as i16);
            for value in values {
                out.put_i32(value.len() as i32);
                out.put_slice(value.as_bytes());
            }
        })
    }

    #[test]
    fn a_column_is_told_once_and_by_what_most_of_it_looks_like() {
        let mut watch = Watch::default();
        watch.feed(&description(&[(7, 1, 23), (7, 2, 25), (7, 3, 25)]));
        for n in 0..40 {
            let note = if n == 5 { "ask ada@example.com" } else { "nothing" };
            watch.feed(&row(&["4111111111111111", "4111111111111111", note]));
        }
        // Numbers of number types are not looked at: 23 is int4. One address in many notes is no finding.
        let seen = watch.take();
        assert_eq!(seen, [Sighting { place: Place::Column(7, 2), kind: Kind::Card, hits: 3, values: 3 }]);
        assert!(watch.take().is_empty());
    }

    #[test]
    fn secrets_errors_and_copies_are_seen() {
        let mut watch = Watch::default();
        watch.feed(&row(&["x", "AKIAIOSFODNN7EXAMPLE"]));
        watch.feed(&message(b'E', |out| out.put_slice(b"SERROR\0Mvalue 4111111111111111 is taken\0\0")));
        for _ in 0..3 {
            watch.feed(&message(b'd', |out| out.put_slice(b"1\tada@example.com\n")));
        }
        let places: Vec<(Place, Kind)> =
            watch.take().into_iter().map(|seen| (seen.place, seen.kind)).collect();
        let expect =
            [(Place::Position(2), Kind::Token), (Place::Error, Kind::Card), (Place::Copy, Kind::Email)];
        assert_eq!(places, expect);
    }

    #[test]
    fn messages_in_parts_and_cut_anywhere_do_no_harm() {
        let whole = [description(&[(7, 2, 25)]), row(&["-----BEGIN PRIVATE KEY-----"]), row(&["b"])].concat();
        for cut in 0..whole.len() {
            let (first, second) = whole.split_at(cut);
            let mut watch = Watch::default();
            watch.feed(first);
            watch.feed(second);
            assert!(watch.take().len() <= 1);
        }
        let long = row(&["x".repeat(1000).as_str()]);
        let mut watch = Watch::default();
        watch.feed(&long[..100]);
        watch.feed(&long[100..]);
        watch.feed(&row(&["AKIAIOSFODNN7EXAMPLE"]));
        assert_eq!(watch.take().len(), 1);
    }
}
