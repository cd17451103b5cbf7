//! What is remembered of the columns that labels name, and what a reading of a catalogue makes of it. Pure: no files.
//!
//! A label names a column. What it protects is the column that is called so, those that inherit with it, and every one
//! that was covered by it before, wherever that is now: by the OID of its table and its number there, which outlive names,
//! and else by the name it was last seen under, which outlives a dump.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use chaperone_sql::{Catalog, ColumnPath, Spot};
use serde::{Deserialize, Serialize};

/// Databases of one target that are remembered; of more, the one that was met first is forgotten, those last that have columns
/// elsewhere: what labels name is found again.
const DATABASES_MAX: usize = 1024;

/// Of these, so many of one name: each took the place of the one before.
const NAMESAKES_MAX: usize = 4;

/// Columns of one label that were elsewhere and are gone; of more, the one that went first is forgotten.
const GONE_MAX: usize = 256;

/// A database, by what its server says of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Home {
    /// The `system_identifier` of its cluster; empty where the account may not ask for it.
    pub cluster: String,
    pub oid: u32,
    pub name: String,
}

/// Columns that a label covers beside those that it names, for each label.
pub type Elsewhere = BTreeMap<ColumnPath, Vec<ColumnPath>>;

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Memory {
    /// In the order they were met.
    databases: Vec<Database>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Database {
    target: String,
    home: Home,
    /// By label, as the configuration has it.
    labels: BTreeMap<String, Vec<Place>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Place {
    /// Of the table; 0 where it is known by its name alone.
    oid: u32,
    number: i16,
    /// What it was called when it was last seen: schema, table and column.
    name: [String; 3],
    standing: Standing,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Standing {
    /// Where the label says, or inheriting with it.
    Named,
    /// The label covered it before.
    Away,
    /// It was away, and is not there any more: a dump may bring it back.
    Gone,
}

impl Database {
    /// Whether it has what labels do not name.
    fn has_more(&self) -> bool {
        self.labels.values().flatten().any(|place| place.standing != Standing::Named)
    }

    fn is(&self, target: &str, home: &Home) -> bool {
        self.target == target && (&self.home.cluster, self.home.oid) == (&home.cluster, home.oid)
    }
}

impl Place {
    fn of(spot: &Spot, standing: Standing) -> Self {
        let ColumnPath { schema, table, column } = &spot.path;
        let name = [schema, table, column].map(|part| part.to_string());
        Self { oid: spot.oid, number: spot.number, name, standing }
    }

    fn path(&self) -> ColumnPath {
        let [schema, table, column] = &self.name;
        ColumnPath {
            schema: schema.as_str().into(),
            table: table.as_str().into(),
            column: column.as_str().into(),
        }
    }

    /// Where it is now.
    fn find(&self, catalog: &Catalog) -> Option<Spot> {
        let by_oid = (self.oid != 0).then(|| catalog.column_at(self.oid, self.number)).flatten();
        catalog.spot(&by_oid.unwrap_or_else(|| self.path()))
    }

    /// What two agents call the same.
    fn key(&self) -> (u32, i16, Option<&[String; 3]>) {
        (self.oid, self.number, (self.oid == 0).then_some(&self.name))
    }
}

impl Memory {
    /// Takes in a reading of a database; the labels that are not to be kept leave no trace.
    pub(super) fn learn(
        &mut self,
        target: &str,
        home: &Home,
        catalog: &Catalog,
        labels: &[ColumnPath],
        keeps: &dyn Fn(&str) -> bool,
    ) -> Elsewhere {
        let mut elsewhere = Elsewhere::new();
        let mut learned = BTreeMap::new();
        for label in labels {
            let name = label.to_string();
            let (places, away) = follow(label, &self.known(target, home, &name), catalog);
            elsewhere.insert(label.clone(), away);
            if keeps(&name) {
                learned.insert(name, places);
            }
        }
        if let Some(database) = self.databases.iter_mut().find(|database| database.is(target, home)) {
            database.home.name.clone_from(&home.name);
            database.labels.extend(learned);
        } else if !learned.is_empty() {
            self.make_room(|database| database.target == target, DATABASES_MAX);
            let namesake = |database: &Database| database.target == target && database.home.name == home.name;
            self.make_room(namesake, NAMESAKES_MAX);
            let target = target.to_owned();
            self.databases.push(Database { target, home: home.clone(), labels: learned });
        }
        elsewhere
    }

    /// Forgets one of such databases when there are so many.
    fn make_room(&mut self, such: impl Fn(&Database) -> bool, most: usize) {
        if self.databases.iter().filter(|database| such(database)).count() < most {
            return;
        }
        let spare = self.databases.iter().position(|database| such(database) && !database.has_more());
        if let Some(first) = spare.or_else(|| self.databases.iter().position(&such)) {
            self.databases.remove(first);
        }
    }

    /// What is known of a label there. A database that was not met under this target before is one that another target leads
    /// to, or one that took the place of another, or a copy: of these names count, not numbers.
    fn known(&self, target: &str, home: &Home, label: &str) -> Vec<Place> {
        let own = self.databases.iter().find(|database| database.is(target, home));
        if let Some(places) = own.and_then(|own| own.labels.get(label)) {
            return places.clone();
        }
        let mut known = Vec::new();
        for database in &self.databases {
            let Some(places) = database.labels.get(label) else { continue };
            let (theirs, ours) = (&database.home.cluster, &home.cluster);
            let in_doubt = theirs.is_empty() || ours.is_empty();
            let same = if in_doubt { database.target == target } else { theirs == ours };
            if same && database.home.oid == home.oid {
                known.extend(places.iter().cloned());
            } else if database.target == target && database.home.name == home.name {
                known.extend(places.iter().map(|place| Place { oid: 0, number: 0, ..place.clone() }));
            } else if database.target == target {
                // A copy may have any name. Like a label, what it covers counts in all databases of the target; what is
                // not there is nothing to be remembered.
                let away = places.iter().filter(|place| place.standing == Standing::Away);
                let named =
                    |place: &Place| Place { oid: 0, number: 0, standing: Standing::Named, ..place.clone() };
                known.extend(away.map(named));
            }
        }
        known
    }

    /// Takes in what another agent knows.
    pub(super) fn merge(&mut self, other: Self, keeps: &dyn Fn(&str, &str) -> bool) {
        for mut theirs in other.databases {
            theirs.labels.retain(|label, _| keeps(&theirs.target, label));
            let found = self.databases.iter_mut().find(|ours| ours.is(&theirs.target, &theirs.home));
            let Some(ours) = found else {
                self.databases.push(theirs);
                continue;
            };
            for (label, places) in theirs.labels {
                let known = ours.labels.entry(label).or_default();
                let mut news = places;
                let keys: HashSet<_> = known.iter().map(Place::key).collect();
                news.retain(|place| !keys.contains(&place.key()));
                known.append(&mut news);
            }
        }
    }

    /// Forgets the labels that are not to be kept; they are returned with their targets.
    pub(super) fn retain(&mut self, keeps: &dyn Fn(&str, &str) -> bool) -> BTreeSet<(String, String)> {
        let mut forgotten = BTreeSet::new();
        for Database { target, labels, .. } in &mut self.databases {
            labels.retain(|label, _| {
                let kept = keeps(target, label);
                if !kept {
                    forgotten.insert((target.clone(), label.clone()));
                }
                kept
            });
        }
        self.databases.retain(|database| !database.labels.is_empty());
        forgotten
    }

    /// Whether the label covers anything in a database of the target.
    pub(super) fn covers(&self, target: &str, label: &str) -> bool {
        let databases = self.databases.iter().filter(|database| database.target == target);
        let mut places = databases.filter_map(|database| database.labels.get(label)).flatten();
        places.any(|place| place.standing != Standing::Gone)
    }

    /// For each database of the target, its name and the columns the label covers although it does not name them.
    pub(super) fn away(&self, target: &str, label: &str) -> Vec<(&str, Vec<ColumnPath>)> {
        let databases = self.databases.iter().filter(|database| database.target == target);
        let found = databases.filter_map(|database| {
            let places = database.labels.get(label)?.iter();
            let away: Vec<_> =
                places.filter(|place| place.standing == Standing::Away).map(Place::path).collect();
            (!away.is_empty()).then_some((database.home.name.as_str(), away))
        });
        found.collect()
    }

    /// The same of several labels, in one database or in all.
    pub(super) fn away_in(
        &self,
        target: &str,
        database: Option<&str>,
        labels: &[ColumnPath],
    ) -> Vec<ColumnPath> {
        let away = labels.iter().flat_map(|label| self.away(target, &label.to_string()));
        let here = away.filter(|(name, _)| database.is_none_or(|database| database == *name));
        let columns: BTreeSet<ColumnPath> = here.flat_map(|(_, columns)| columns).collect();
        columns.into_iter().collect()
    }

    /// The databases of the target that were read with the label.
    pub(super) fn read(&self, target: &str, label: &str) -> BTreeSet<&str> {
        let of_it = |database: &&Database| database.target == target && database.labels.contains_key(label);
        self.databases.iter().filter(of_it).map(|database| database.home.name.as_str()).collect()
    }
}

/// Where a label's columns are now, and which of them it does not name: one of each family.
fn follow(label: &ColumnPath, known: &[Place], catalog: &Catalog) -> (Vec<Place>, Vec<ColumnPath>) {
    let (mut places, mut away) = (Vec::new(), Vec::new());
    let mut seen = HashSet::new();
    let mut add = |seen: &mut HashSet<(u32, i16)>, path: &ColumnPath, standing| {
        let family = catalog.family(path).into_iter();
        let new = family.filter(|spot| seen.insert((spot.oid, spot.number)));
        places.extend(new.map(|spot| Place::of(&spot, standing)));
    };
    add(&mut seen, label, Standing::Named);
    let (mut gone, mut long_gone) = (Vec::new(), Vec::new());
    for place in known {
        match (place.find(catalog), place.standing) {
            (Some(spot), _) if seen.contains(&(spot.oid, spot.number)) => {}
            (Some(spot), _) => {
                add(&mut seen, &spot.path, Standing::Away);
                away.push(spot.path);
            }
            (None, Standing::Named) => {}
            (None, Standing::Away) => gone.push(Place { standing: Standing::Gone, ..place.clone() }),
            (None, Standing::Gone) => long_gone.push(place.clone()),
        }
    }
    let mut names: HashSet<[String; 3]> = places.iter().map(|place| place.name.clone()).collect();
    long_gone.append(&mut gone);
    long_gone.retain(|place| names.insert(place.name.clone()));
    let too_many = long_gone.len().saturating_sub(GONE_MAX);
    places.extend(long_gone.into_iter().skip(too_many));
    // In the same order each time, so that readings that are the same look so.
    away.sort_unstable();
    (places, away)
}
