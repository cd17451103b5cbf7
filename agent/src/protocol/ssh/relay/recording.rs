//! What a session leaves in the journal as it goes, before anything of it moves.

use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};

use super::{End, Held, Relay};
use crate::protocol::ssh::machine::{MAIN, Outcome, take_frame, take_framed};
use crate::protocol::ssh::sftp::FileDone;
use crate::record::event::{Event, HoldOutcome};
use crate::record::{Burst, RecordError};

impl<C, U> Relay<'_, C, U>
where
    C: AsyncRead + AsyncWrite + Unpin,
    U: AsyncRead + AsyncWrite + Unpin,
{
    /// Waits until what was recorded is on disk, where the target asks for that: nothing has left since, in either
    /// direction. Sessions that wait at the same time share one sync.
    pub(super) async fn settle(&mut self) -> Result<(), RecordError> {
        if !self.synced {
            return Ok(());
        }
        let journal = Arc::clone(self.journal);
        match tokio::task::spawn_blocking(move || journal.sync_all()).await {
            Ok(synced) => synced,
            Err(_panicked) => Err(RecordError::Abandoned),
        }
    }

    /// Events, and what programs printed as far as it is recorded: one write.
    fn commit(&mut self) -> Result<(), RecordError> {
        let said = &self.machine.said;
        let burst = Burst { session: self.session, offset: self.recorded, bytes: said };
        let raw = &self.machine.raw;
        let sealed = Burst { session: self.session, offset: self.sealed, bytes: raw };
        self.staged.commit_with(burst, sealed, self.journal, &mut self.released)?;
        self.recorded += said.len() as u64;
        self.sealed += raw.len() as u64;
        self.machine.said.clear();
        self.machine.raw.clear();
        Ok(())
    }

    /// The record first; then what it accounts for moves, both ways.
    pub(super) fn flush(&mut self) -> Result<(), End> {
        for (question, why) in self.machine.take_refused() {
            let event = self.decider.refused(&question, &why);
            self.staged.record(event);
        }
        for channel in std::mem::take(&mut self.machine.withdrawn) {
            if let Some(held) = self.held.remove(&channel) {
                let why = Some("withdrawn by the client".to_owned());
                self.record_hold(&held, HoldOutcome::Withdrawn, None, why);
            }
            if let Some(question) = self.besides.give_up(channel) {
                let event = self.decider.refused(&question, "the client gave it up before it ran");
                self.staged.record(event);
            }
        }
        let outcomes = std::mem::take(&mut self.machine.outcomes);
        self.stage_outcomes(outcomes);
        for done in self.machine.take_files() {
            self.stage_file(done);
        }
        for (op, text) in std::mem::take(&mut self.machine.typed) {
            let session = self.session.to_owned();
            self.staged.record(Event::CommandSeen { session, op, text, heuristic: true });
        }
        self.commit()?;
        while let Some((connection, message)) = take_framed(&mut self.released) {
            if connection == MAIN {
                self.up.send(&message, &mut self.wire.to_upstream).map_err(End::Upstream)?;
            } else {
                self.besides.send(connection, &message);
            }
        }
        self.besides.sweep(|channel| self.machine.is_beside(channel));
        while let Some(message) = take_frame(&mut self.machine.served) {
            self.down.send(&message, &mut self.wire.to_client).map_err(End::Client)?;
        }
        Ok(())
    }

    fn stage_outcomes(&mut self, outcomes: Vec<Outcome>) {
        for outcome in outcomes {
            let [stdin, stdout, stderr] = outcome.streams;
            let masked_cells = outcome.masked.iter().map(|(_, count)| count).sum();
            for done in outcome.files {
                self.stage_file(done);
            }
            self.staged.record(Event::Streams {
                session: self.session.to_owned(),
                op: outcome.op,
                stdin_bytes: stdin.0,
                stdin_sha256: stdin.1,
                stdout_bytes: stdout.0,
                stdout_sha256: stdout.1,
                stderr_bytes: stderr.0,
                stderr_sha256: stderr.1,
                masked: outcome.masked.into_iter().map(|(name, _)| name).collect(),
                unlisted: outcome.unlisted.map(str::to_owned),
            });
            self.staged.record(Event::Result {
                session: self.session.into(),
                op: outcome.op,
                rows: 0,
                bytes: stdout.0 + stderr.0,
                masked_cells,
                tag: outcome.exit,
                sqlstate: None,
                served_to: None,
            });
        }
    }

    fn stage_file(&mut self, done: FileDone) {
        self.staged.record(Event::FileContent {
            session: self.session.to_owned(),
            op: done.op,
            path: done.path,
            read_bytes: done.read,
            written_bytes: done.written,
            sha256: done.sha256,
        });
    }

    pub(super) fn record_hold(
        &mut self,
        held: &Held,
        outcome: HoldOutcome,
        by: Option<String>,
        comment: Option<String>,
    ) {
        self.staged.record(Event::HoldResolved {
            session: self.session.to_owned(),
            op: held.question.op,
            hold: held.ticket.info.id.clone(),
            outcome,
            by,
            comment,
            settings: held.ticket.info.settings.clone(),
        });
    }

    /// What the end of the session leaves open: what was held, and what was running.
    pub(super) fn record_the_rest(&mut self, end: &End) -> Result<(), RecordError> {
        for (_, held) in std::mem::take(&mut self.held) {
            self.record_hold(&held, HoldOutcome::Withdrawn, None, Some(end.to_string()));
        }
        for question in self.besides.give_up_all() {
            let event = self.decider.refused(&question, &format!("{end}, before it ran"));
            self.staged.record(event);
        }
        let outcomes = self.machine.abandoned();
        self.stage_outcomes(outcomes);
        self.released.clear();
        // What had not been recorded yet is not going to be served.
        self.machine.served.clear();
        self.machine.said.clear();
        self.machine.raw.clear();
        self.staged.commit(self.journal, &mut self.released)?;
        // The transport may be what broke.
        let mut broken = false;
        while let Some((connection, message)) = take_framed(&mut self.released) {
            if connection == MAIN {
                broken = broken || self.up.send(&message, &mut self.wire.to_upstream).is_err();
            } else {
                self.besides.send(connection, &message);
            }
        }
        Ok(())
    }
}
