//! What is served beside what plans mask: values without a label that look like personal data or a secret, and what the
//! server says of its own accord. A second net, never the rule.

use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock};

use bytes::BytesMut;

use super::super::codec::{Fields, Header};
use super::super::plan::{Output, Plan};
use super::super::response;
use super::super::rows::{self, Cell, Mismatch, Origins};
use super::super::settings::ReadUnder;
use super::super::watch::{Place, Sighting};
use super::server::Act;
use super::{Fatal, Machine, Prepared, Run};
use crate::detect::{self, Kind};

/// What was replaced so far.
#[derive(Debug, Default)]
pub(super) struct Looking {
    told: BTreeSet<(Place, Kind)>,
    sightings: Vec<Sighting>,
}

/// More places than these are not told apart in one session.
const PLACES_MAX: usize = 1024;

impl Looking {
    pub(super) fn row(&mut self, found: Vec<(Place, Kind)>) {
        found.into_iter().for_each(|(place, kind)| self.tell(place, kind));
    }

    /// Each place and kind once.
    pub(super) fn tell(&mut self, place: Place, kind: Kind) {
        if self.told.len() < PLACES_MAX && self.told.insert((place.clone(), kind)) {
            self.sightings.push(Sighting { place, kind, hits: 1, values: 1 });
        }
    }
}

impl Prepared {
    pub(super) fn new(
        op: u64,
        sql: Arc<str>,
        plan: Arc<Plan>,
        part: Option<usize>,
        read_under: ReadUnder,
    ) -> Self {
        Self {
            op,
            sql,
            plan,
            part,
            read_under,
            cells: OnceLock::new(),
            described: OnceLock::new(),
            looked: OnceLock::new(),
        }
    }
}

impl Run {
    /// Rows that nobody described are looked at all the same.
    pub(super) fn look_undescribed(&mut self, body: Option<&[u8]>) -> Result<(), Fatal> {
        if let (None, Some(body)) = (&self.cells, body) {
            let count = Fields::new(b'D', body).i16().map_err(Fatal::Upstream)?;
            self.cells = Some(rows::undescribed(usize::try_from(count).unwrap_or(0)).into());
        }
        Ok(())
    }
}

impl<O: Origins> Machine<O> {
    /// From now on values are looked at, and replaced where they look like something.
    pub fn look(&mut self) {
        self.looking = Some(Looking::default());
    }

    /// What was replaced since this was last asked; each place and kind once.
    pub fn take_sightings(&mut self) -> Vec<Sighting> {
        self.looking.as_mut().map(|looking| std::mem::take(&mut looking.sightings)).unwrap_or_default()
    }

    /// Whether rows are read, and so have to be described.
    pub(super) fn reads_rows(&self) -> bool {
        self.guarded || self.looking.is_some()
    }

    pub(super) fn cells_of(&self, statement: &Prepared) -> Option<Arc<[Cell]>> {
        // What was only looked at has not been checked.
        if self.guarded { statement.cells.get().cloned() } else { statement.looked.get().cloned() }
    }

    /// What a description says is to be done with the cells, if they are read at all.
    ///
    /// # Errors
    /// When it contradicts the plan.
    pub(super) fn read_cells(
        &self,
        fields: Fields<'_>,
        shape: &Output,
    ) -> Result<Option<Arc<[Cell]>>, Mismatch> {
        let looked = self.looking.is_some().then(|| rows::looked_at(fields, &self.origins)).transpose()?;
        if !self.guarded {
            return Ok(looked.map(Into::into));
        }
        let mut cells = rows::check(fields, shape, &self.origins)?;
        // What a mask replaces is not looked at.
        for (cell, looked) in cells.iter_mut().zip(looked.into_iter().flatten()) {
            if *cell == Cell::Keep {
                *cell = looked;
            }
        }
        Ok(Some(cells.into()))
    }

    pub(super) fn keep_cells(
        &self,
        fields: Fields<'_>,
        shape: &Output,
        statement: &Prepared,
    ) -> Result<(), Mismatch> {
        let described = fields.rest();
        // Whoever describes each execution says the same each time.
        if statement
            .described
            .get()
            .is_some_and(|(under, good)| *under == self.rebased && **good == *described)
        {
            return Ok(());
        }
        if let Some(cells) = self.read_cells(fields, shape)? {
            let kept = if self.guarded { &statement.cells } else { &statement.looked };
            let _ = kept.set(cells);
            let _ = statement.described.set((self.rebased, described.into()));
        }
        Ok(())
    }

    /// Looks at what the server says of its own accord, and would go as it came.
    pub(super) fn look_at(
        &mut self,
        header: Header,
        body: Option<&[u8]>,
        act: Act,
        out: &mut BytesMut,
    ) -> Result<Act, Fatal> {
        let (Some(looking), Some(body), Act::Pass) = (&mut self.looking, body, &act) else { return Ok(act) };
        let mut fields = Fields::new(header.tag, body);
        let found =
            match header.tag {
                b'E' => response::put_looked(out, b'E', fields)
                    .map(|found| found.map(|kind| (Place::Error, kind))),
                b'N' => response::put_looked(out, b'N', fields)
                    .map(|found| found.map(|kind| (Place::Notice, kind))),
                b'A' => fields.i32().and_then(|pid| {
                    let channel = fields.c_bytes()?;
                    let kind = detect::find(channel).or(detect::find(fields.rest()));
                    if kind.is_some() {
                        response::put_notification(out, pid, channel);
                    }
                    Ok(kind.map(|kind| (Place::Notification, kind)))
                }),
                _ => return Ok(act),
            };
        Ok(match found.map_err(Fatal::Upstream)? {
            Some((place, kind)) => {
                looking.tell(place, kind);
                Act::Replaced
            }
            None => act,
        })
    }

    pub(super) fn notice(&mut self, fields: Fields<'_>, out: &mut BytesMut) -> Result<Act, Fatal> {
        if !self.strict() {
            return Ok(Act::Pass);
        }
        response::put_scrubbed(out, b'N', fields).map_err(Fatal::Upstream)?;
        Ok(Act::Replaced)
    }

    /// Other sessions write what a notification carries, triggers on masked relations among them; the agent has not
    /// seen it. Where something is masked, the client learns that it was notified, and looks for itself.
    pub(super) fn notification(&mut self, mut fields: Fields<'_>, out: &mut BytesMut) -> Result<Act, Fatal> {
        let pid = fields.i32().map_err(Fatal::Upstream)?;
        let channel = fields.c_bytes().map_err(Fatal::Upstream)?;
        let payload = fields.c_bytes().map_err(Fatal::Upstream)?;
        fields.end().map_err(Fatal::Upstream)?;
        if !self.guarded || payload.is_empty() {
            return Ok(Act::Pass);
        }
        response::put_notification(out, pid, channel);
        Ok(Act::Replaced)
    }
}
