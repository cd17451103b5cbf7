//! What was seen in what a session is served, in the words of the record.

use super::Decider;
use crate::config::Detect;
use crate::protocol::postgres::watch::{Place, Sighting};
use crate::record::event::Event;

impl Decider {
    /// Whether what is served is looked at.
    pub(in crate::protocol::postgres) fn watches(&self) -> bool {
        self.backend.target.detect == Detect::Report
    }

    /// Whether what is recognised there is replaced.
    pub(in crate::protocol::postgres) fn masks_detected(&self) -> bool {
        self.backend.target.detect == Detect::Mask
    }

    /// The record of a sighting; none when it is no news, or of a column that is labelled and shown by policy.
    pub(in crate::protocol::postgres) fn detected(&self, seen: &Sighting) -> Option<Event> {
        let (place, column) = match seen.place {
            Place::Column(table, number) => match self.snapshot.catalog.column_at(table, number) {
                Some(path) => {
                    let labelled = self.backend.target.labels.iter().any(|label| {
                        let names = (label.schema.as_str(), label.table.as_str(), label.column.as_str());
                        label.may_be_in(&self.database_name)
                            && names == (&*path.schema, &*path.table, &*path.column)
                    });
                    if labelled {
                        return None;
                    }
                    (path.to_string(), true)
                }
                None => (format!("column {number} of relation {table}"), false),
            },
            Place::Position(position) => (format!("output column {position}"), false),
            Place::Copy => ("COPY".to_owned(), false),
            Place::Error => ("error".to_owned(), false),
            Place::Notice => ("notice".to_owned(), false),
            Place::Notification => ("notification".to_owned(), false),
        };
        self.catalogue.is_new(&place, seen.kind).then(|| Event::Detected {
            session: self.session.to_string(),
            target: self.backend.target.name.clone(),
            database: self.database_name.clone(),
            place,
            column,
            kind: seen.kind.as_str().to_owned(),
            hits: seen.hits,
            values: seen.values,
        })
    }
}
