//! How often an identity may compare a masked column with a value (`predicate = "equality"`): each comparison is a guess.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use chaperone_sql::Flag;

use super::{Decider, Plan, Report};
use crate::protocol::postgres::response::sqlstate;

/// Comparisons of one identity with one column within `WINDOW`.
const MOST: u32 = 60;
const WINDOW: Duration = Duration::from_secs(60);

/// Beyond this many pairs of identity and column, windows that are over are forgotten.
const KEPT: usize = 1_000;

/// The comparisons of all sessions in one database.
#[derive(Debug, Default)]
pub(in crate::protocol::postgres) struct Comparisons(Mutex<HashMap<(String, String), (Instant, u32)>>);

impl Comparisons {
    /// Counts so many more; false when that is too many.
    pub(in crate::protocol::postgres) fn spend(
        &self,
        now: Instant,
        identity: &str,
        column: &str,
        count: u32,
    ) -> bool {
        let mut spent = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if spent.len() >= KEPT {
            spent.retain(|_, (since, _)| now.duration_since(*since) < WINDOW);
        }
        let entry = spent.entry((identity.to_owned(), column.to_owned())).or_insert((now, 0));
        if now.duration_since(entry.0) >= WINDOW {
            *entry = (now, 0);
        }
        match entry.1.checked_add(count).filter(|sum| *sum <= MOST) {
            Some(sum) => {
                entry.1 = sum;
                true
            }
            None => false,
        }
    }
}

impl Decider {
    /// Whether the comparisons of a statement are within what the identity may make; a report when they are not.
    pub(super) fn compare(&self, plan: &Plan) -> Result<(), Report> {
        for flag in plan.analysis.iter().flat_map(|statement| &statement.flags) {
            let Flag::Compares(column, count) = flag else { continue };
            if !self.catalogue.may_compare(&self.identity.name, column, *count) {
                let why = format!(
                    "denied by policy \"equality\": column {column} may be compared {MOST} times in {} s",
                    WINDOW.as_secs()
                );
                return Err(
                    Report::new(sqlstate::INSUFFICIENT_PRIVILEGE, why).hint("Wait, or select other columns.")
                );
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guesses_are_counted_by_identity_and_column_and_forgotten_after_a_while() {
        let (comparisons, start) = (Comparisons::default(), Instant::now());
        assert!(comparisons.spend(start, "bot", "t.c", MOST));
        assert!(!comparisons.spend(start, "bot", "t.c", 1));
        assert!(comparisons.spend(start, "bot", "t.d", 1) && comparisons.spend(start, "other", "t.c", 1));
        let later = start + WINDOW;
        assert!(!comparisons.spend(later, "bot", "t.c", MOST + 1));
        assert!(comparisons.spend(later, "bot", "t.c", 1));
    }
}
