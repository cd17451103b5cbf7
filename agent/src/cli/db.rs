//! `chaperone db`: what an operator does about a target's database.

use std::io::Write;
use std::path::Path;

use clap::Subcommand;

use super::Failure;
use crate::config::{Config, Label, Protocol};
use crate::privileges;

#[derive(Debug, Subcommand)]
pub(super) enum Db {
    /// Print the SQL script that takes from the target's account what it could read of labelled columns by itself.
    Harden {
        target: String,
        /// The database it is for; needed when labels are for one database only.
        #[arg(long)]
        database: Option<String>,
    },
}

pub(super) fn db(config: &Path, what: &Db, out: &mut dyn Write) -> Result<(), Failure> {
    let Db::Harden { target, database } = what;
    let config = Config::load(config)?;
    let found = config.targets.iter().find(|known| known.name == *target);
    let Some(found) = found.filter(|found| found.protocol == Protocol::Postgres) else {
        return Err(Failure::Usage(format!("no PostgreSQL target is called `{target}`")));
    };
    let bound: Vec<&str> = found.labels.iter().filter_map(|label| label.database.as_deref()).collect();
    let labels: Vec<&Label> = match database {
        Some(database) => found.labels.iter().filter(|label| label.may_be_in(database)).collect(),
        None if !bound.is_empty() => {
            let known = bound.join(", ");
            return Err(Failure::Usage(format!("say which database (--database): labels name {known}")));
        }
        None => found.labels.iter().collect(),
    };
    if labels.is_empty() {
        return Err(Failure::Usage(format!(
            "target `{target}` has no labels there, so there is nothing to take"
        )));
    }
    out.write_all(privileges::script(target, &found.user, &labels).as_bytes())?;
    Ok(())
}
