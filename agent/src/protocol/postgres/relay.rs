//! The one loop that does a session's I/O: bytes into the machine, its questions to the decider, events to the
//! journal, and only then bytes onward.

mod held;
mod limits;
mod recording;
mod wake;

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, watch};

use super::blast;
use super::decide::{Answer, Decider};
use super::machine::{Fatal, Machine, Next, Outcome};
use super::open::CancelAt;
use super::response::{Report, sqlstate};
use super::settings::Settings;
use super::watch::Watch;
use crate::gate::Staged;
use crate::protocol::wire::{IoError, Progress, Side, Want, Wire};
use crate::record::event::Event;
use crate::record::{Journal, RecordError};
use crate::registry::Command;

use super::decide::MaskedOrigins;
use held::{Held, Woken};
use wake::{Ears, Wake, wait};

/// Above this much waiting for one side, the other is not read.
const HIGH_WATER: usize = 256 << 10;

/// Read ahead from a client whose next message cannot be looked at yet, so that a hang-up is seen.
const AHEAD_MAX: usize = 64 << 10;

/// How long a closing session waits for a client to take what it is owed.
const GOODBYE: Duration = Duration::from_secs(1);

/// Why a session ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum End {
    #[error("the client said goodbye")]
    Terminate,
    #[error("the client closed the connection")]
    ClientClosed,
    #[error("the target closed the connection")]
    UpstreamClosed,
    #[error("{0}")]
    Fatal(#[from] Fatal),
    #[error("client connection: {0}")]
    ClientIo(std::io::Error),
    #[error("upstream connection: {0}")]
    UpstreamIo(std::io::Error),
    #[error("cannot record: {0}")]
    Record(#[from] RecordError),
    #[error("{0}")]
    Killed(String),
    #[error("no longer permitted: {0}")]
    Revoked(String),
    #[error("cannot read the catalogue: {0}")]
    Catalogue(String),
}

impl End {
    /// What a client is told that never got as far as a session.
    pub(super) fn report_for_login(&self) -> Report {
        self.report().unwrap_or_else(|| Report::new(sqlstate::INTERNAL_ERROR, self.to_string()))
    }

    /// What the client is told, if there is anybody to tell.
    fn report(&self) -> Option<Report> {
        let report = match self {
            Self::Terminate | Self::ClientClosed | Self::ClientIo(_) => return None,
            Self::UpstreamClosed | Self::UpstreamIo(_) => {
                Report::new(sqlstate::CONNECTION_FAILURE, "the target closed the connection")
            }
            Self::Fatal(fatal) if fatal.by_client() => {
                Report::new(sqlstate::PROTOCOL_VIOLATION, format!("protocol violation: {fatal}"))
            }
            Self::Fatal(Fatal::Limit(limit)) => limit.report(),
            Self::Fatal(fatal) => {
                Report::new(sqlstate::INTERNAL_ERROR, "the session was ended to protect masked data")
                    .detail(fatal.to_string())
            }
            Self::Record(_) => {
                Report::new(sqlstate::DISK_FULL, "the session cannot be recorded, so it cannot go on")
                    .hint("Tell whoever runs this host: the agent's log names the cause.")
            }
            Self::Killed(why) => Report::new(sqlstate::ADMIN_SHUTDOWN, format!("terminated: {why}")),
            Self::Revoked(why) => {
                Report::new(sqlstate::INVALID_AUTHORIZATION, format!("no longer permitted: {why}"))
            }
            Self::Catalogue(_) => {
                Report::new(sqlstate::INTERNAL_ERROR, "the target's catalogue cannot be read")
            }
        };
        Some(report)
    }
}

/// Totals of a session, for its last record.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Totals {
    pub(super) statements: u64,
    pub(super) rows: u64,
    pub(super) client_bytes: u64,
    pub(super) upstream_bytes: u64,
}

pub(super) struct Relay<'a, C, U> {
    wire: Wire<C, U>,
    machine: Machine<MaskedOrigins>,
    decider: Decider,
    journal: &'a Arc<Journal>,
    /// What is recorded is on disk before it counts.
    synced: bool,
    session: Arc<str>,
    staged: Staged,
    outcomes: Vec<Outcome>,
    events: Vec<Event>,
    served: BytesMut,
    notices: BytesMut,
    pause: Pause,
    limits: limits::Limits,
    hearing: Hearing,
    rows: u64,
    /// Looks at what is served, where that is wanted.
    watch: Option<Watch>,
    /// Bytes served so far that were recorded.
    recorded: u64,
    /// Bytes of raw values that were sealed so far.
    sealed: u64,
    /// What was put there for the client ends with a whole message.
    whole: bool,
}

/// Whether more is to come from the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hearing {
    Open,
    /// It closed its sending side, and may still read answers.
    Ended,
    /// And the target was told.
    Told,
}

/// What the client's side waits for.
enum Pause {
    None,
    /// The next message's meaning depends on the server, which had given this many answers.
    Server(u64),
    /// So does what a statement names.
    Named(u64, super::machine::Question),
    Hold(Held),
    Goodbye,
}

impl<'a, C, U> Relay<'a, C, U>
where
    C: AsyncRead + AsyncWrite + Unpin,
    U: AsyncRead + AsyncWrite + Unpin,
{
    pub(super) fn new(
        wire: Wire<C, U>,
        decider: Decider,
        journal: &'a Arc<Journal>,
        session: &'a str,
        cancel_route: Option<CancelAt>,
        settings: Settings,
    ) -> Self {
        let (origins, guarded) = decider.origins();
        let watch = decider.watches().then(Watch::default);
        let mut machine = Machine::new(origins, guarded, decider.rows_recorded());
        machine.begin_under(settings);
        if decider.masks_detected() {
            machine.look();
        }
        Self {
            wire,
            machine,
            synced: decider.synced(),
            decider,
            journal,
            session: session.into(),
            staged: Staged::default(),
            outcomes: Vec::new(),
            events: Vec::new(),
            served: BytesMut::new(),
            notices: BytesMut::new(),
            pause: Pause::None,
            limits: limits::Limits::new(cancel_route),
            hearing: Hearing::Open,
            rows: 0,
            recorded: 0,
            sealed: 0,
            watch,
            whole: true,
        }
    }

    /// Serves the session to its end, tells the client why it ended, and returns what the record needs.
    pub(super) async fn run(
        mut self,
        command_rx: &mut mpsc::Receiver<Command>,
        policy_rx: watch::Receiver<u64>,
    ) -> (End, Totals) {
        let end = match self.serve(&mut Ears::new(command_rx, policy_rx)).await {
            Ok(end) | Err(end) => end,
        };
        // Somebody changed a table beside the agent: nobody else need be ended for it.
        if matches!(end, End::Fatal(Fatal::Mismatch(_))) {
            self.decider.outdate();
        }
        self.outcomes.extend(self.machine.abandoned());
        if let Err(error) = self.record_the_rest(&end) {
            tracing::warn!(%error, "what the session leaves open could not be recorded");
        }
        // What waits for the client was recorded before it was put there; behind it comes only the reason.
        if let Some(report) = end.report()
            && self.whole
        {
            report.put_fatal(&mut self.served);
            // Where nothing can be recorded any more, the client still learns that.
            if let Err(error) = self.record_served() {
                tracing::warn!(%error, "the last word to the client could not be recorded");
            }
            self.wire.to_client.extend_from_slice(&self.served);
        }
        if let Err(error) = self.settle().await {
            tracing::warn!(%error, "what the session ends with could not be put on disk");
            self.wire.to_client.clear();
        }
        let _ = tokio::time::timeout(GOODBYE, self.wire.finish()).await;
        let totals = Totals {
            statements: self.machine.ops(),
            rows: self.rows,
            client_bytes: self.wire.client_bytes,
            upstream_bytes: self.wire.upstream_bytes,
        };
        (end, totals)
    }

    async fn serve(&mut self, ears: &mut Ears<'_>) -> Result<End, End> {
        loop {
            self.serve_client()?;
            self.keep_limits();
            self.adopt_changes().await?;
            if self.machine.is_settled() {
                self.decider.settled();
            }
            self.decider.set_busy(self.machine.changes_catalogue());
            self.decider.set_misread(self.machine.set_free(self.decider.is_free()));
            if let Some(question) = self.may_go_on() {
                self.pause = self.read_client(question).await?;
            }
            self.staged.commit(self.journal, &mut self.wire.to_upstream)?;
            self.settle().await?;
            // What the client asked for before its goodbye is still answered, as the server itself does it.
            if matches!(self.pause, Pause::Goodbye) && self.machine.idle() {
                let _ = tokio::time::timeout(GOODBYE, self.wire.flush_upstream()).await;
                return Ok(End::Terminate);
            }
            if self.hearing != Hearing::Open && matches!(self.pause, Pause::None) {
                if self.machine.idle() {
                    return Ok(End::ClientClosed);
                }
                self.pass_on_the_end().await;
            }
            self.keep_time();
            let want = self.want();
            let held = match &mut self.pause {
                Pause::Hold(held) => Some(held),
                Pause::None | Pause::Server(_) | Pause::Named(..) | Pause::Goodbye => None,
            };
            match wait(ears, held, &mut self.limits, (&mut self.wire, want)).await {
                Wake::Command(Some(Command::Kill(why))) => return Err(End::Killed(why)),
                Wake::Command(Some(Command::Withdraw)) => self.withdraw(),
                Wake::Command(None) => return Err(End::Killed("the agent is shutting down".into())),
                Wake::Policy => self.policy_changed().await?,
                Wake::Held(woken) => {
                    if let Some(held) = self.take_held() {
                        match woken {
                            Woken::Resolved(resolution) => self.resolved(held, resolution).await?,
                            Woken::InTheWay(found) if self.decider.escalates() => {
                                self.escalate(held, found)?
                            }
                            Woken::InTheWay(found) => self.stand_aside(&held, found),
                        }
                    }
                }
                Wake::Over(over) => self.limit_reached(over),
                Wake::Moved(progress) => self.closed(progress)?,
            }
        }
    }

    /// Whether the client's side may be looked at (again), and the question that was open, if one was.
    fn may_go_on(&mut self) -> Option<Option<super::machine::Question>> {
        if self.machine.is_cut() {
            return None;
        }
        let moved = |then: u64| then != self.machine.answers();
        match &self.pause {
            Pause::None => Some(None),
            Pause::Server(then) if moved(*then) => Some(None),
            Pause::Named(then, _) if moved(*then) => match std::mem::replace(&mut self.pause, Pause::None) {
                Pause::Named(_, question) => Some(Some(question)),
                _ => Some(None),
            },
            Pause::Server(_) | Pause::Named(..) | Pause::Hold(_) | Pause::Goodbye => None,
        }
    }

    fn want(&self) -> Want {
        let room = self.wire.to_upstream.len() < HIGH_WATER;
        let client = match self.pause {
            Pause::None if !self.machine.is_cut() => room,
            Pause::None | Pause::Server(_) | Pause::Named(..) | Pause::Hold(_) => {
                self.wire.from_client.len() < AHEAD_MAX
            }
            Pause::Goodbye => false,
        };
        let client = client && self.hearing == Hearing::Open;
        Want { client, upstream: self.wire.to_client.len() < HIGH_WATER }
    }

    fn closed(&mut self, progress: Result<Progress, IoError>) -> Result<(), End> {
        match progress {
            Ok(Progress { client_closed: false, upstream_closed: false }) => Ok(()),
            Ok(Progress { upstream_closed: true, .. }) => {
                self.serve_client()?;
                match self.pause {
                    Pause::Goodbye => Err(End::Terminate),
                    _ if self.hearing != Hearing::Open => Err(End::ClientClosed),
                    _ => Err(End::UpstreamClosed),
                }
            }
            // What was asked for is answered; what waits for an approval is not going to be asked for any more.
            Ok(Progress { client_closed: true, .. }) => match self.pause {
                Pause::Hold(_) => Err(End::ClientClosed),
                _ => {
                    self.hearing = Hearing::Ended;
                    Ok(())
                }
            },
            // Many leave without TLS's goodbye.
            Err(IoError { side: Side::Client, source })
                if source.kind() == std::io::ErrorKind::UnexpectedEof =>
            {
                Err(End::ClientClosed)
            }
            Err(IoError { side: Side::Client, source }) => Err(End::ClientIo(source)),
            Err(IoError { side: Side::Upstream, source }) => Err(End::UpstreamIo(source)),
        }
    }

    /// The target sees the client's end as it would see it directly: a COPY fails, a group without Sync is dropped.
    async fn pass_on_the_end(&mut self) {
        if self.hearing == Hearing::Ended && self.wire.to_upstream.is_empty() {
            self.hearing = Hearing::Told;
            let _ = tokio::time::timeout(GOODBYE, self.wire.end_upstream()).await;
        }
    }

    /// Server bytes to the client; they, and the outcomes among them, are recorded first.
    fn serve_client(&mut self) -> Result<(), End> {
        if !self.wire.from_upstream.is_empty() && self.wire.to_client.len() < HIGH_WATER {
            self.decider.not_overtaken(&self.machine).map_err(Fatal::from)?;
            self.machine.server(&mut self.wire.from_upstream, &mut self.served, &mut self.outcomes)?;
        }
        if !self.notices.is_empty() && self.machine.at_boundary() {
            self.served.extend_from_slice(&self.notices);
            self.notices.clear();
        }
        if self.served.is_empty() && self.outcomes.is_empty() {
            return Ok(());
        }
        self.record_served()?;
        if self.wire.to_client.is_empty() {
            std::mem::swap(&mut self.wire.to_client, &mut self.served);
        } else {
            self.wire.to_client.extend_from_slice(&self.served);
        }
        self.served.clear();
        self.whole = self.machine.at_boundary();
        Ok(())
    }

    /// Client messages up to the first that has to wait; `open` was asked before them and had to wait itself.
    async fn read_client(&mut self, mut open: Option<super::machine::Question>) -> Result<Pause, End> {
        loop {
            let question = match open.take() {
                Some(question) => question,
                None => match self.machine.client(&mut self.wire.from_client, &mut self.staged)? {
                    Next::Input => return Ok(Pause::None),
                    Next::Wait => return Ok(Pause::Server(self.machine.answers())),
                    Next::Terminate => return Ok(Pause::Goodbye),
                    Next::Ask(question) => question,
                },
            };
            match self.decider.decide(&question, None, &self.machine, &mut self.staged).await? {
                Answer::Permit(permit, plan) => self.machine.permit(permit, plan, &mut self.staged),
                Answer::Deny(report) => self.machine.deny(report, &mut self.staged),
                Answer::Wait => return Ok(Pause::Named(self.machine.answers(), question)),
                Answer::Hold(ticket, notice, waiting) => {
                    notice.put_notice(&mut self.notices);
                    // The record of the hold goes first, as of everything the client is told.
                    self.staged.commit(self.journal, &mut self.wire.to_upstream)?;
                    self.serve_client()?;
                    let watch = Box::pin(blast::watch(*waiting));
                    return Ok(Pause::Hold(Held { ticket, question, watch }));
                }
            }
        }
    }

    async fn policy_changed(&mut self) -> Result<(), End> {
        if let Err(why) = self.decider.recheck().await {
            return Err(End::Revoked(why));
        }
        let (origins, guarded) = self.decider.origins();
        self.machine.rebase(origins, guarded);
        Ok(())
    }

    /// Reads the catalogue again after a statement that changed it, and when it is too old for the next one.
    async fn adopt_changes(&mut self) -> Result<(), End> {
        if self.machine.take_catalogue_changed() {
            self.decider.refresh().await.map_err(|error| End::Catalogue(error.to_string()))?;
            let (origins, guarded) = self.decider.origins();
            self.machine.rebase(origins, guarded);
        } else if !self.wire.from_client.is_empty() {
            self.poll_catalogue().await?;
        }
        Ok(())
    }

    /// Takes over a newer catalogue where this one is too old.
    async fn poll_catalogue(&mut self) -> Result<(), End> {
        // The locks of its own changes would keep a reading waiting.
        if !self.machine.changes_catalogue() && self.decider.is_due() && self.decider.poll().await? {
            let (origins, guarded) = self.decider.origins();
            self.machine.rebase(origins, guarded);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
