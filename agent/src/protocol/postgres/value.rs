//! Masks that put another value of the same type in a value's place: a fixed one, a shifted date, the bucket it lies in.
//!
//! Pure: a value in either format in, what is served out. `None` is NULL, which is served for everything that is not
//! understood: another type, another notation, a value out of range.

use std::sync::Arc;

use time::{Date, Month};

use crate::config::Bucket;

/// What takes the place of a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Always this, as the server would print it.
    Fixed(Arc<str>),
    /// Dates and timestamps, so many days later.
    Shift(i32),
    Bucket(Bucket),
}

/// Types by their numbers (pg_type.dat).
mod oid {
    pub(super) const BOOL: u32 = 16;
    pub(super) const INT8: u32 = 20;
    pub(super) const INT2: u32 = 21;
    pub(super) const INT4: u32 = 23;
    pub(super) const FLOAT4: u32 = 700;
    pub(super) const FLOAT8: u32 = 701;
    pub(super) const DATE: u32 = 1082;
    pub(super) const TIMESTAMP: u32 = 1114;
    pub(super) const TIMESTAMPTZ: u32 = 1184;
    pub(super) const NUMERIC: u32 = 1700;
}

/// Julian day of 2000-01-01, from which the server counts.
const EPOCH: i32 = 2_451_545;
const DAY: i64 = 86_400_000_000;

/// A value as far as it can be changed.
enum Value<'a> {
    Bool(bool),
    Whole(i128),
    Date(Date),
    /// A timestamp: its day, and what comes behind it in either format.
    Text(Date, &'a str),
    Micros(Date, i64),
}

impl Change {
    /// Whether there is anything but NULL that this makes of values of the type.
    #[must_use]
    pub fn fits(&self, type_oid: u32) -> bool {
        let date = matches!(type_oid, oid::DATE | oid::TIMESTAMP | oid::TIMESTAMPTZ);
        let number =
            matches!(type_oid, oid::INT2 | oid::INT4 | oid::INT8 | oid::FLOAT4 | oid::FLOAT8 | oid::NUMERIC);
        match self {
            Self::Fixed(text) => decode(type_oid, false, text.as_bytes()).is_some(),
            Self::Shift(_) => date,
            Self::Bucket(Bucket::Size(_)) => number,
            Self::Bucket(_) => date,
        }
    }

    /// What is served in place of a value.
    #[must_use]
    pub fn apply(&self, type_oid: u32, binary: bool, value: Option<&[u8]>) -> Option<Vec<u8>> {
        if let Self::Fixed(text) = self {
            let fixed = decode(type_oid, false, text.as_bytes())?;
            return encode(type_oid, binary, &in_binary(fixed, binary)?);
        }
        let changed = match (self, decode(type_oid, binary, value?)?) {
            (Self::Shift(days), Value::Date(date)) => Value::Date(later(date, *days)?),
            (Self::Shift(days), Value::Text(date, rest)) => Value::Text(later(date, *days)?, rest),
            (Self::Shift(days), Value::Micros(date, rest)) => Value::Micros(later(date, *days)?, rest),
            (Self::Bucket(Bucket::Size(size)), Value::Whole(number)) => {
                let size = i128::from(*size);
                Value::Whole(number.checked_div_euclid(size)?.checked_mul(size)?)
            }
            (Self::Bucket(bucket), Value::Date(date)) => Value::Date(start(*bucket, date)?),
            (Self::Bucket(bucket), Value::Text(date, rest)) => {
                // A client chooses the zone it is told the time in, and could find the moment by trying zones.
                let (date, zone) = match type_oid {
                    oid::TIMESTAMPTZ => (day_of_moment(date, rest)?, "+00"),
                    _ => (date, ""),
                };
                return Some(format!("{} 00:00:00{zone}", iso(start(*bucket, date)?)).into_bytes());
            }
            (Self::Bucket(bucket), Value::Micros(date, _)) => Value::Micros(start(*bucket, date)?, 0),
            _ => return None,
        };
        encode(type_oid, binary, &changed)
    }
}

/// The day, in UTC, of a moment told as the time of a day and its zone's distance from UTC.
fn day_of_moment(date: Date, rest: &str) -> Option<Date> {
    let (time, zone) = rest.trim_start().split_at_checked(rest.trim_start().find(['+', '-'])?)?;
    let (west, zone) = (zone.starts_with('-'), zone.get(1..)?);
    let (time, zone) = (seconds(time.split('.').next()?)?, seconds(zone)?);
    let days = (if west { time + zone } else { time - zone }).div_euclid(24 * 3600);
    later(date, i32::try_from(days).ok()?)
}

/// Hours, and minutes and seconds if they are there.
fn seconds(text: &str) -> Option<i64> {
    let mut parts = text.split(':').map(|part| part.parse::<u16>().ok());
    let mut next = || parts.next().unwrap_or(Some(0)).map(i64::from);
    let (hours, minutes, seconds) = (next()?, next()?, next()?);
    parts.next().is_none().then_some((hours * 60 + minutes) * 60 + seconds)
}

/// The first day of the bucket.
fn start(bucket: Bucket, date: Date) -> Option<Date> {
    let (year, month) = (date.year(), u8::from(date.month()));
    let (year, month) = match bucket {
        Bucket::Size(_) => return None,
        Bucket::Month => (year, month),
        Bucket::Quarter => (year, (month - 1) / 3 * 3 + 1),
        Bucket::Year => (year, 1),
        Bucket::Decade => (year.div_euclid(10) * 10, 1),
    };
    Date::from_calendar_date(year, Month::try_from(month).ok()?, 1).ok()
}

fn later(date: Date, days: i32) -> Option<Date> {
    Date::from_julian_day(date.to_julian_day().checked_add(days)?).ok().filter(|date| date.year() > 0)
}

fn decode(type_oid: u32, binary: bool, bytes: &[u8]) -> Option<Value<'_>> {
    if binary {
        return decode_binary(type_oid, bytes);
    }
    let text = std::str::from_utf8(bytes).ok()?;
    match type_oid {
        oid::BOOL => match text {
            "t" | "true" => Some(Value::Bool(true)),
            "f" | "false" => Some(Value::Bool(false)),
            _ => None,
        },
        oid::INT2 | oid::INT4 | oid::INT8 => text.parse().ok().map(Value::Whole),
        oid::FLOAT4 | oid::FLOAT8 => whole_below(text.parse().ok()?),
        oid::NUMERIC => whole_decimal(text).map(Value::Whole),
        oid::DATE => day(text).map(Value::Date),
        oid::TIMESTAMP | oid::TIMESTAMPTZ => {
            let (date, time) = text.split_once(' ')?;
            let plain = |c: char| c.is_ascii_digit() || matches!(c, ':' | '.' | '+' | '-');
            // No era, and no zone by name.
            time.chars().all(plain).then_some(())?;
            Some(Value::Text(day(date)?, text.get(date.len()..)?))
        }
        _ => None,
    }
}

fn decode_binary(type_oid: u32, bytes: &[u8]) -> Option<Value<'_>> {
    match type_oid {
        oid::INT2 => bytes.try_into().ok().map(|it| Value::Whole(i16::from_be_bytes(it).into())),
        oid::INT4 => bytes.try_into().ok().map(|it| Value::Whole(i32::from_be_bytes(it).into())),
        oid::INT8 => bytes.try_into().ok().map(|it| Value::Whole(i64::from_be_bytes(it).into())),
        oid::FLOAT4 => whole_below(f32::from_be_bytes(bytes.try_into().ok()?).into()),
        oid::FLOAT8 => whole_below(f64::from_be_bytes(bytes.try_into().ok()?)),
        oid::NUMERIC => whole_numeric(bytes).map(Value::Whole),
        oid::DATE => on(i32::from_be_bytes(bytes.try_into().ok()?).into()).map(Value::Date),
        oid::TIMESTAMP | oid::TIMESTAMPTZ => {
            let micros = i64::from_be_bytes(bytes.try_into().ok()?);
            Some(Value::Micros(on(micros.div_euclid(DAY))?, micros.rem_euclid(DAY)))
        }
        _ => None,
    }
}

fn encode(type_oid: u32, binary: bool, value: &Value<'_>) -> Option<Vec<u8>> {
    let text = |text: String| Some(text.into_bytes());
    match (value, binary) {
        (Value::Bool(value), false) => Some(if *value { b"t".to_vec() } else { b"f".to_vec() }),
        (Value::Bool(value), true) => Some(vec![u8::from(*value)]),
        (Value::Whole(number), _) => whole(type_oid, binary, *number),
        (Value::Date(date), false) => text(iso(*date)),
        (Value::Date(date), true) => Some((date.to_julian_day() - EPOCH).to_be_bytes().to_vec()),
        (Value::Text(date, rest), false) => text(format!("{}{rest}", iso(*date))),
        (Value::Micros(date, rest), true) => {
            let days = i64::from(date.to_julian_day() - EPOCH);
            Some(days.checked_mul(DAY)?.checked_add(*rest)?.to_be_bytes().to_vec())
        }
        (Value::Text(..), true) | (Value::Micros(..), false) => None,
    }
}

/// A fixed timestamp is written as text; in binary only midnight can be said.
fn in_binary(value: Value<'_>, binary: bool) -> Option<Value<'_>> {
    match value {
        Value::Text(date, " 00:00:00") if binary => Some(Value::Micros(date, 0)),
        Value::Text(..) if binary => None,
        value => Some(value),
    }
}

fn whole(type_oid: u32, binary: bool, number: i128) -> Option<Vec<u8>> {
    // Both formats have the same range.
    let bytes = match type_oid {
        oid::INT2 => i16::try_from(number).ok()?.to_be_bytes().to_vec(),
        oid::INT4 => i32::try_from(number).ok()?.to_be_bytes().to_vec(),
        oid::INT8 => i64::try_from(number).ok()?.to_be_bytes().to_vec(),
        oid::FLOAT4 => number.to_string().parse::<f32>().ok()?.to_be_bytes().to_vec(),
        oid::FLOAT8 => number.to_string().parse::<f64>().ok()?.to_be_bytes().to_vec(),
        oid::NUMERIC => numeric(number)?,
        _ => return None,
    };
    Some(if binary { bytes } else { number.to_string().into_bytes() })
}

fn whole_below(number: f64) -> Option<Value<'static>> {
    // Beyond this, not every whole number can be said.
    (number.abs() < 9e15).then(|| format!("{:.0}", number.floor()).parse().ok().map(Value::Whole))?
}

/// The whole number at or below a decimal.
fn whole_decimal(text: &str) -> Option<i128> {
    let (digits, negative) = match text.strip_prefix('-') {
        Some(rest) => (rest, true),
        None => (text, false),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let plain = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || !plain(whole) || !plain(fraction) {
        return None;
    }
    below(whole.parse().ok()?, negative, fraction.bytes().any(|byte| byte != b'0'))
}

fn below(magnitude: i128, negative: bool, more: bool) -> Option<i128> {
    match negative {
        false => Some(magnitude),
        true => magnitude.checked_neg()?.checked_sub(i128::from(more)),
    }
}

/// The same for the binary form: digits of base 10,000 (numeric_send).
fn whole_numeric(bytes: &[u8]) -> Option<i128> {
    let mut words = bytes.chunks_exact(2).map(|word| word.try_into().map(i16::from_be_bytes).unwrap_or(0));
    let (count, weight, sign, _scale) = (words.next()?, words.next()?, words.next()?, words.next()?);
    let negative = match sign.cast_unsigned() {
        0 => false,
        0x4000 => true,
        // Not a number, or infinite.
        _ => return None,
    };
    if bytes.len() != 8 + 2 * usize::try_from(count).ok()? {
        return None;
    }
    let (mut magnitude, mut more, mut place) = (0i128, false, i32::from(weight));
    for digit in words {
        match place >= 0 {
            true => magnitude = magnitude.checked_mul(10_000)?.checked_add(digit.into())?,
            false => more |= digit != 0,
        }
        place -= 1;
    }
    while place >= 0 {
        magnitude = magnitude.checked_mul(10_000)?;
        place -= 1;
    }
    below(magnitude, negative, more)
}

fn numeric(number: i128) -> Option<Vec<u8>> {
    let mut digits = Vec::new();
    let mut rest = number.unsigned_abs();
    while rest > 0 {
        digits.push(u16::try_from(rest % 10_000).ok()?);
        rest /= 10_000;
    }
    let weight = digits.len().saturating_sub(1);
    digits.reverse();
    while digits.last() == Some(&0) {
        digits.pop();
    }
    let sign: u16 = if number < 0 { 0x4000 } else { 0 };
    let head = [u16::try_from(digits.len()).ok()?, u16::try_from(weight).ok()?, sign, 0];
    Some(head.into_iter().chain(digits).flat_map(u16::to_be_bytes).collect())
}

/// An ISO date of the common era.
fn day(text: &str) -> Option<Date> {
    let mut parts = text.split('-');
    let (year, month, day) = (parts.next()?, parts.next()?, parts.next()?);
    let shape = parts.next().is_none() && year.len() >= 4 && month.len() == 2 && day.len() == 2;
    let month = Month::try_from(month.parse::<u8>().ok().filter(|_| shape)?).ok()?;
    Date::from_calendar_date(year.parse().ok()?, month, day.parse().ok()?).ok()
}

/// The day so many days after the server's first.
fn on(days: i64) -> Option<Date> {
    let date = Date::from_julian_day(i32::try_from(days).ok()?.checked_add(EPOCH)?).ok()?;
    (date.year() > 0).then_some(date)
}

fn iso(date: Date) -> String {
    format!("{:04}-{:02}-{:02}", date.year(), u8::from(date.month()), date.day())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(change: &Change, type_oid: u32, value: &str, expect: Option<&str>) {
        let got = change.apply(type_oid, false, Some(value.as_bytes()));
        let got = got.map(|bytes| String::from_utf8(bytes).unwrap());
        assert_eq!(got.as_deref(), expect, "{change:?} of {value}");
    }

    #[test]
    fn dates_are_shifted_and_keep_their_time() {
        let shift = Change::Shift(-31);
        check(&shift, oid::DATE, "2024-03-31", Some("2024-02-29"));
        check(&shift, oid::TIMESTAMP, "2024-03-31 23:59:59.5", Some("2024-02-29 23:59:59.5"));
        check(&shift, oid::TIMESTAMPTZ, "2024-03-31 01:00:00+05:30", Some("2024-02-29 01:00:00+05:30"));
        for odd in ["infinity", "31/03/2024", "0044-03-15 BC", "2024-02-30", "", "0001-01-02"] {
            check(&shift, oid::DATE, odd, None);
        }
        check(&shift, oid::TIMESTAMP, "2024-03-31 10:00:00 BC", None);
        check(&shift, oid::TIMESTAMP, "Sun Mar 31 10:00:00 2024", None);
        let binary = |days: i32| shift.apply(oid::DATE, true, Some(&days.to_be_bytes()));
        assert_eq!(binary(100), Some(69i32.to_be_bytes().to_vec()));
        // -infinity and infinity.
        assert_eq!((binary(i32::MIN), binary(i32::MAX)), (None, None));
        let micros = shift.apply(oid::TIMESTAMP, true, Some(&(-1i64).to_be_bytes())).unwrap();
        assert_eq!(micros, (-31 * DAY - 1).to_be_bytes());
    }

    #[test]
    fn a_bucket_is_named_by_its_start() {
        let size = |size| Change::Bucket(Bucket::Size(size));
        check(&size(100), oid::INT4, "1999", Some("1900"));
        check(&size(100), oid::INT4, "-1", Some("-100"));
        check(&size(100), oid::INT2, "-32768", None);
        check(&size(5), oid::NUMERIC, "12.999", Some("10"));
        check(&size(5), oid::NUMERIC, "-10.01", Some("-15"));
        check(&size(5), oid::NUMERIC, "-10.00", Some("-10"));
        check(&size(10), oid::NUMERIC, "NaN", None);
        check(&size(10), oid::FLOAT8, "-0.5", Some("-10"));
        check(&size(10), oid::FLOAT8, "1e300", None);
        check(&size(10), 25, "12", None);
        for (bucket, date, time) in [
            (Bucket::Month, "1981-08-01", "1981-08-01 00:00:00+00"),
            (Bucket::Quarter, "1981-07-01", "1981-07-01 00:00:00+00"),
            (Bucket::Year, "1981-01-01", "1981-01-01 00:00:00+00"),
            (Bucket::Decade, "1980-01-01", "1980-01-01 00:00:00+00"),
        ] {
            check(&Change::Bucket(bucket), oid::DATE, "1981-08-30", Some(date));
            check(&Change::Bucket(bucket), oid::TIMESTAMPTZ, "1981-08-30 12:13:14.15+02", Some(time));
            check(&Change::Bucket(bucket), oid::INT4, "1981", None);
        }
        // Midnight of -0001-12-31 and what is not a date at all.
        // One moment is in one bucket, in whatever zone it is told.
        let month = Change::Bucket(Bucket::Month);
        let told = [
            "2024-01-31 23:30:00-05",
            "2024-02-01 10:00:00+05:30",
            "2024-01-28 00:30:00.5-100",
            "2024-02-08 04:00:30+167:30:30",
        ];
        for text in told {
            check(&month, oid::TIMESTAMPTZ, text, Some("2024-02-01 00:00:00+00"));
        }
        check(&month, oid::TIMESTAMP, "2024-01-31 23:30:00", Some("2024-01-01 00:00:00"));
        for odd in
            ["2024-01-31 23:30:00", "2024-01-31 23:30:00+x", "2024-01-31 1:2:3:4+00", "2024-01-31 23:30:00+"]
        {
            check(&month, oid::TIMESTAMPTZ, odd, None);
        }
        assert_eq!(Change::Bucket(Bucket::Year).apply(oid::DATE, true, Some(b"123")), None);
        assert_eq!(Change::Bucket(Bucket::Year).apply(oid::DATE, true, None), None);
    }

    #[test]
    fn the_binary_form_of_a_decimal_is_read_and_written() {
        let word = |words: &[u16]| words.iter().flat_map(|word| word.to_be_bytes()).collect::<Vec<u8>>();
        // 12345.67, -0.5, 20000, NaN.
        assert_eq!(whole_numeric(&word(&[3, 1, 0, 2, 1, 2345, 6700])), Some(12_345));
        assert_eq!(whole_numeric(&word(&[1, u16::MAX, 0x4000, 1, 5000])), Some(-1));
        assert_eq!(whole_numeric(&word(&[1, 1, 0, 0, 2])), Some(20_000));
        assert_eq!(whole_numeric(&word(&[0, 0, 0xc000, 0])), None);
        assert_eq!(whole_numeric(&word(&[2, 0, 0, 0, 1])), None);
        assert_eq!(numeric(12_345), Some(word(&[2, 1, 0, 0, 1, 2345])));
        assert_eq!(numeric(-20_000), Some(word(&[1, 1, 0x4000, 0, 2])));
        assert_eq!(numeric(0), Some(word(&[0, 0, 0, 0])));
    }

    #[test]
    fn a_fixed_value_is_one_of_its_type_or_null() {
        let fixed = |text: &str| Change::Fixed(text.into());
        check(&fixed("7"), oid::INT4, "123", Some("7"));
        assert_eq!(fixed("7").apply(oid::INT4, true, None), Some(7i32.to_be_bytes().to_vec()));
        assert_eq!(
            fixed("1970-01-01").apply(oid::DATE, true, None),
            Some((-10_957i32).to_be_bytes().to_vec())
        );
        assert_eq!(fixed("true").apply(oid::BOOL, true, Some(b"\0")), Some(vec![1]));
        let midnight = fixed("2000-01-02 00:00:00");
        assert_eq!(midnight.apply(oid::TIMESTAMP, true, None), Some(DAY.to_be_bytes().to_vec()));
        check(&fixed("hidden"), oid::INT4, "123", None);
        assert!(fixed("7").fits(oid::INT8) && !fixed("hidden").fits(oid::INT8));
    }
}
