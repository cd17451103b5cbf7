//! `chaperone db`: what an operator does about a target's database.

use std::io::Write;
use std::path::Path;

use clap::Subcommand;

use super::{Failure, Place};
use crate::config::{Config, Label, Protocol};
use crate::places;
use crate::privileges;
use crate::record::query;

#[derive(Debug, Subcommand)]
pub(super) enum Db {
    /// Print the SQL script that takes from the target's account what it could read of labelled columns by itself.
    Harden {
        target: String,
        /// The database it is for; needed when labels are for one database only.
        #[arg(long)]
        database: Option<String>,
    },
    /// List columns without a label that were seen to hold what looks like personal data or secrets, with labels for
    /// them; of targets with `detect = "report"`, from the journal.
    Discover {
        target: Option<String>,
        #[command(flatten)]
        place: Place,
    },
}

pub(super) fn db(config: &Path, what: &Db, out: &mut dyn Write) -> Result<(), Failure> {
    let (target, database) = match what {
        Db::Harden { target, database } => (target, database),
        Db::Discover { target, place } => {
            return discover(&place.dir(config)?, target.as_deref(), place.json, out);
        }
    };
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
    let mut labels: Vec<_> = labels.into_iter().map(Label::path).collect();
    let away = places::away(&config, target, database.as_deref(), &labels);
    labels.extend(away.map_err(|error| Failure::Usage(error.to_string()))?);
    out.write_all(privileges::script(target, &found.user, &labels).as_bytes())?;
    Ok(())
}

fn discover(dir: &Path, target: Option<&str>, json: bool, out: &mut dyn Write) -> Result<(), Failure> {
    let (seen, damage) = query::detected(dir, target)?;
    for problem in damage {
        writeln!(std::io::stderr(), "chaperone: {problem}")?;
    }
    for seen in seen {
        if json {
            serde_json::to_writer(&mut *out, &seen).map_err(std::io::Error::from)?;
            writeln!(out)?;
            continue;
        }
        let query::Seen { target, database, place, kind, hits, values, session, .. } = &seen;
        writeln!(
            out,
            "# {target}/{database}: {place} looks like {kind} ({hits} of {values} values, session {session})"
        )?;
        if seen.column {
            // As TOML, to be pasted below the target.
            writeln!(
                out,
                "[[targets.labels]]\ncolumn = {place:?}\ntags = [\"pii\"]\ndatabase = {database:?}\n"
            )?;
        }
    }
    Ok(())
}
