//! An account at the target that could read labelled columns by itself: told once, and refused where the configuration
//! says so.

use tracing::warn;

use super::catalogue::{Catalogue, Snapshot};
use super::relay::End;
use super::response::{Report, sqlstate};
use crate::config::{LeastPrivilege, Target};
use crate::record::Journal;
use crate::record::event::Event;

/// More than these is no news to anybody.
const MOST_TOLD: usize = 50;

pub(super) struct Powers<'a> {
    pub(super) target: &'a Target,
    pub(super) database: &'a str,
}

impl Powers<'_> {
    /// Records what is new of them.
    ///
    /// # Errors
    /// What the client is told, when nobody is let in for it.
    pub(super) fn tell(
        &self,
        catalogue: &Catalogue,
        snapshot: &Snapshot,
        journal: &Journal,
    ) -> Result<(), Report> {
        let found = &snapshot.powers;
        let Some(first) = found.first() else {
            catalogue.is_news(found);
            return Ok(());
        };
        let Target { name, user, least_privilege, .. } = self.target;
        if catalogue.is_news(found) {
            warn!(
                target = name,
                database = self.database,
                account = user,
                findings = found.len(),
                first,
                "the account can reach labelled columns by itself; `chaperone db harden` prints what mends it"
            );
            let event = Event::AccountPowers {
                target: name.clone(),
                database: self.database.to_owned(),
                account: user.clone(),
                findings: found.iter().take(MOST_TOLD).cloned().collect(),
            };
            journal.append(&[event]).map_err(|error| End::from(error).report_for_login())?;
        }
        if *least_privilege != LeastPrivilege::Refuse {
            return Ok(());
        }
        let more = match found.len() {
            1 => String::new(),
            count => format!(", and {} more", count - 1),
        };
        let message = format!("target \"{name}\" cannot be used: its account {user} {first}{more}");
        Err(Report::new(sqlstate::CANNOT_CONNECT, message)
            .hint("Tell whoever runs this host: `chaperone db harden` prints what takes these rights away."))
    }
}
