//! What a session leaves in the journal as it goes, before anything of it is served.

use std::sync::Arc;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncWrite};

use super::{End, Held, Relay};
use crate::gate::Staged;
use crate::record::event::{Event, HoldOutcome};
use crate::record::{Burst, RecordError};

impl<C, U> Relay<'_, C, U>
where
    C: AsyncRead + AsyncWrite + Unpin,
    U: AsyncRead + AsyncWrite + Unpin,
{
    /// Waits until what was recorded is on disk, where the target asks for that: nothing has left since, in either
    /// direction. Sessions that wait at the same time share one sync.
    pub(super) async fn settle(&self) -> Result<(), RecordError> {
        if !self.synced {
            return Ok(());
        }
        let journal = Arc::clone(self.journal);
        match tokio::task::spawn_blocking(move || journal.sync_all()).await {
            Ok(synced) => synced,
            Err(_panicked) => Err(RecordError::Abandoned),
        }
    }

    /// What the end of the session leaves open: a statement that was held, and those that were running.
    pub(super) fn record_the_rest(&mut self, end: &End) -> Result<(), RecordError> {
        // What had not been recorded yet is not going to be served.
        self.served.clear();
        self.machine.take_unrecorded();
        self.machine.take_raw();
        self.outcomes.iter_mut().for_each(|outcome| outcome.at = 0);
        if let Some(held) = self.take_held() {
            self.staged = Staged::default();
            self.record_hold(&held, HoldOutcome::Withdrawn, None, Some(end.to_string()));
            self.staged.commit(self.journal, &mut BytesMut::new())?;
        }
        self.record_served()
    }

    /// What is about to be served, as far as it is recorded, and the outcomes in it: one write.
    pub(super) fn record_served(&mut self) -> Result<(), RecordError> {
        let unrecorded = self.machine.take_unrecorded();
        let mut kept = Vec::new();
        let bytes = if unrecorded.is_empty() {
            &*self.served
        } else {
            unrecorded.keep(&self.served, &mut kept);
            &kept
        };
        let burst = Burst { session: &self.session, offset: self.recorded, bytes };
        for outcome in self.outcomes.drain(..) {
            self.rows += outcome.rows;
            self.decider.count_rows(outcome.rows);
            let to = self.recorded + unrecorded.recorded_before(outcome.at) as u64;
            self.events.extend(outcome.streamed.map(|streamed| {
                let (to_client, to_server) = *streamed;
                Event::Replicated {
                    session: self.session.to_string(),
                    op: outcome.op,
                    to_client_bytes: to_client.bytes,
                    to_client_sha256: to_client.sha256,
                    to_server_bytes: to_server.bytes,
                    to_server_sha256: to_server.sha256,
                }
            }));
            self.events.push(Event::Result {
                session: Arc::clone(&self.session),
                op: outcome.op,
                rows: outcome.rows,
                bytes: outcome.bytes,
                masked_cells: outcome.masked_cells,
                tag: outcome.tag,
                sqlstate: outcome.sqlstate,
                served_to: (to > 0).then_some(to),
            });
            if outcome.rows > 0 {
                self.events.extend(self.decider.used_events(Some(outcome.op)));
            }
        }
        if let Some(watch) = &mut self.watch {
            watch.feed(&self.served);
            self.events.extend(watch.take().iter().filter_map(|seen| self.decider.detected(seen)));
        }
        let replaced = self.machine.take_sightings();
        self.events.extend(replaced.iter().filter_map(|seen| self.decider.detected(seen)));
        let raw = self.machine.take_raw();
        let raw_burst = Burst { session: &self.session, offset: self.sealed, bytes: &raw };
        let written = self.journal.append_served(burst, raw_burst, &self.events);
        self.events.clear();
        written?;
        self.recorded += bytes.len() as u64;
        self.sealed += raw.len() as u64;
        Ok(())
    }

    pub(super) fn record_hold(
        &mut self,
        held: &Held,
        outcome: HoldOutcome,
        by: Option<String>,
        comment: Option<String>,
    ) {
        self.staged.record(Event::HoldResolved {
            session: self.session.to_string(),
            op: held.question.op,
            hold: held.ticket.info.id.clone(),
            outcome,
            by,
            comment,
            settings: held.ticket.info.settings.clone(),
        });
    }
}
