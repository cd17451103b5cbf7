//! A newer reading of the catalogue, and what it means for a session that goes on.

use std::sync::Arc;

use super::Decider;
use crate::protocol::postgres::catalogue::{CatalogueError, Snapshot};
use crate::protocol::postgres::relay::End;

impl Decider {
    /// Whether the catalogue is too old for the next statement. Where policy permits everything and nothing is masked,
    /// nothing hangs on it; while the session's own transaction changes it, a reading would wait for that.
    pub(in crate::protocol::postgres) fn is_due(&self) -> bool {
        !self.free
            && !self.busy
            && self.replication.is_none()
            && self.catalogue.is_due(&self.snapshot, self.backend.target.catalogue_age)
    }

    /// Takes over a newer catalogue, if there is one; true when there was.
    ///
    /// # Errors
    /// When the session may not go on under it.
    pub(in crate::protocol::postgres) async fn poll(&mut self) -> Result<bool, End> {
        match self.catalogue.poll(&self.backend).await {
            Some(snapshot) => self.adopt(Ok(snapshot)),
            None => Ok(false),
        }
    }

    /// The catalogue is not what the server has.
    pub(in crate::protocol::postgres) fn outdate(&self) {
        self.catalogue.outdate();
    }

    /// Reads the catalogue again.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(in crate::protocol::postgres) async fn refresh(&mut self) -> Result<(), CatalogueError> {
        self.catalogue.outdate();
        if self.may_anything() {
            self.behind = true;
            return Ok(());
        }
        let snapshot = self.catalogue.changed(&self.backend).await?;
        self.snapshot = snapshot;
        self.plans.clear();
        self.rebuild().map_err(|report| CatalogueError::Build(report.message))?;
        self.still_sound().map_err(CatalogueError::Build)
    }

    /// Takes a reading over; true when it is another than before.
    pub(super) fn adopt(&mut self, read: Result<Arc<Snapshot>, CatalogueError>) -> Result<bool, End> {
        let snapshot = read.map_err(|error| End::Catalogue(error.to_string()))?;
        if snapshot.epoch == self.snapshot.epoch {
            return Ok(false);
        }
        self.snapshot = snapshot;
        self.plans.clear();
        self.rebuild().map_err(|report| End::Catalogue(report.message))?;
        self.still_sound().map_err(End::Revoked)?;
        Ok(true)
    }
}
