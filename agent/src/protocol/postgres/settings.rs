//! Settings that decide what dates and times in a text mean, as the server reports them.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::codec::{CodecError, Fields};

/// As the server writes them.
const NAMES: [&str; 3] = ["DateStyle", "IntervalStyle", "TimeZone"];

/// Their values by their names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings(BTreeMap<&'static str, String>);

/// The settings under which the server read a text or a value; `None` where they were not known.
pub type ReadUnder = Option<Arc<Settings>>;

impl Settings {
    /// Takes over a ParameterStatus, if it is about one of them.
    ///
    /// # Errors
    /// When it is none.
    pub fn hear(&mut self, mut fields: Fields<'_>) -> Result<(), CodecError> {
        let name = fields.c_bytes()?;
        if let Some(name) = NAMES.iter().find(|known| known.as_bytes() == name) {
            self.0.insert(name, fields.c_str()?.to_owned());
        }
        Ok(())
    }

    /// Whether the server said all of them.
    #[must_use]
    pub fn are_known(&self) -> bool {
        self.0.len() == NAMES.len()
    }

    /// As approvers are shown them.
    #[must_use]
    pub fn shown(&self) -> BTreeMap<String, String> {
        self.0.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect()
    }

    #[cfg(test)]
    pub(super) fn for_test(date_style: &str) -> Self {
        Self(NAMES.into_iter().zip([date_style, "postgres", "UTC"].map(str::to_owned)).collect())
    }
}
