//! Hours of the day in which a grant is in force.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// From one minute of the day (UTC) to another, the second not included; over midnight when it is the smaller one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Hours {
    from: u16,
    to: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a time of day such as 08:00-18:00")]
pub struct BadHours(String);

impl Hours {
    pub(super) fn hold(self, minute: u16) -> bool {
        if self.from <= self.to {
            (self.from..self.to).contains(&minute)
        } else {
            minute >= self.from || minute < self.to
        }
    }
}

impl FromStr for Hours {
    type Err = BadHours;

    fn from_str(text: &str) -> Result<Self, BadHours> {
        let bad = || BadHours(text.to_owned());
        let minute = |text: &str| -> Option<u16> {
            let (hour, minute) = text.split_once(':')?;
            let (hour, minute) = (two_digits(hour)?, two_digits(minute)?);
            (minute < 60 && (hour < 24 || (hour, minute) == (24, 0))).then_some(hour * 60 + minute)
        };
        let (from, to) = text.split_once('-').ok_or_else(bad)?;
        let hours = Self { from: minute(from).ok_or_else(bad)?, to: minute(to).ok_or_else(bad)? };
        if hours.from == hours.to { Err(bad()) } else { Ok(hours) }
    }
}

fn two_digits(text: &str) -> Option<u16> {
    (text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit())).then(|| text.parse().ok())?
}

impl fmt::Display for Hours {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02}:{:02}-{:02}:{:02}", self.from / 60, self.from % 60, self.to / 60, self.to % 60)
    }
}

impl TryFrom<String> for Hours {
    type Error = BadHours;

    fn try_from(text: String) -> Result<Self, BadHours> {
        text.parse()
    }
}

impl From<Hours> for String {
    fn from(hours: Hours) -> Self {
        hours.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hours_hold_from_the_first_to_before_the_last_minute() {
        for (text, minute, holds) in [
            ("08:00-18:00", 8 * 60, true),
            ("08:00-18:00", 18 * 60, false),
            ("22:00-06:00", 23 * 60, true),
            ("22:00-06:00", 5 * 60 + 59, true),
            ("22:00-06:00", 6 * 60, false),
            ("00:00-24:00", 23 * 60 + 59, true),
        ] {
            let hours: Hours = text.parse().unwrap();
            assert_eq!(hours.hold(minute), holds, "{text} {minute}");
            assert_eq!(hours.to_string(), text);
        }
        assert!(!Hours::default().hold(0), "no hours are no hours");
        for bad in ["", "8-18", "08:00", "08:00-08:00", "25:00-26:00", "08:60-09:00", "+8:00-09:00"] {
            assert!(bad.parse::<Hours>().is_err(), "{bad}");
        }
    }
}
