//! The one loop that does a session's I/O: packets to messages, messages into the machine, its questions to the
//! decider, events to the journal, and only then messages onward.

use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, watch};

use super::decide::{Answer, Decider};
use super::machine::{Fatal, Machine, Outcome, Question, take_frame};
use super::transport::{BACKLOG_MAX, Transport, TransportError, reason};
use crate::gate::{Resolution, Staged, Ticket};
use crate::protocol::wire::{IoError, Progress, Side, Want, Wire};
use crate::record::event::{Event, HoldOutcome};
use crate::record::{Journal, RecordError};
use crate::registry::Command;

/// Above this much waiting for one side, the other is not read; far above it, neither is.
const HIGH_WATER: usize = 256 << 10;
const FLOOD: usize = 4 * HIGH_WATER;

/// How long a closing session waits for a client to take what it is owed.
const GOODBYE: Duration = Duration::from_secs(1);

/// Why a session ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum End {
    #[error("the client said goodbye")]
    Goodbye,
    #[error("the client closed the connection")]
    ClientClosed,
    #[error("the target closed the connection")]
    UpstreamClosed,
    #[error("{0}")]
    Fatal(#[from] Fatal),
    #[error("client: {0}")]
    Client(TransportError),
    #[error("target: {0}")]
    Upstream(TransportError),
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
}

impl End {
    /// What the client is told, if there is anybody to tell.
    fn words(&self) -> Option<(u32, String)> {
        match self {
            Self::Goodbye | Self::ClientClosed | Self::ClientIo(_) => None,
            Self::UpstreamClosed | Self::UpstreamIo(_) => {
                Some((reason::BY_APPLICATION, "the target closed the connection".to_owned()))
            }
            Self::Upstream(TransportError::Disconnected { text, .. }) => {
                Some((reason::BY_APPLICATION, format!("the target says: {text}")))
            }
            Self::Client(error) => Some((reason::PROTOCOL_ERROR, error.to_string())),
            Self::Record(_) => Some((
                reason::BY_APPLICATION,
                "chaperone: the session cannot be recorded, so it cannot go on".to_owned(),
            )),
            Self::Fatal(_) | Self::Upstream(_) => {
                Some((reason::PROTOCOL_ERROR, format!("chaperone: {self}")))
            }
            Self::Killed(why) => Some((reason::BY_APPLICATION, format!("chaperone: terminated: {why}"))),
            Self::Revoked(_) => Some((reason::NOT_ALLOWED, format!("chaperone: {self}"))),
        }
    }
}

/// Totals of a session, for its last record.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Totals {
    pub(super) requests: u64,
    pub(super) client_bytes: u64,
    pub(super) upstream_bytes: u64,
}

pub(super) struct Relay<'a, C, U> {
    wire: Wire<C, U>,
    /// Towards the client and towards the target.
    down: Transport,
    up: Transport,
    machine: Machine,
    decider: Decider,
    journal: &'a Journal,
    session: &'a str,
    staged: Staged,
    /// Framed messages that are recorded, on their way to the target.
    released: BytesMut,
    held: BTreeMap<u32, Held>,
}

struct Held {
    ticket: Box<Ticket>,
    question: Question,
}

impl<'a, C, U> Relay<'a, C, U>
where
    C: AsyncRead + AsyncWrite + Unpin,
    U: AsyncRead + AsyncWrite + Unpin,
{
    pub(super) fn new(
        wire: Wire<C, U>,
        (down, up): (Transport, Transport),
        decider: Decider,
        journal: &'a Journal,
        session: &'a str,
    ) -> Self {
        Self {
            wire,
            down,
            up,
            machine: Machine::default(),
            decider,
            journal,
            session,
            staged: Staged::default(),
            released: BytesMut::new(),
            held: BTreeMap::new(),
        }
    }

    /// Serves the session to its end, tells the client why it ended, and returns what the record needs.
    pub(super) async fn run(
        mut self,
        command_rx: &mut mpsc::Receiver<Command>,
        mut policy_rx: watch::Receiver<u64>,
    ) -> (End, Totals) {
        let end = match self.serve(command_rx, &mut policy_rx).await {
            Ok(end) | Err(end) => end,
        };
        self.staged = Staged::default();
        if matches!(end, End::Killed(_) | End::Revoked(_)) {
            self.machine.kill_all(&mut self.staged);
        }
        if let Err(error) = self.record_the_rest(&end) {
            tracing::warn!(%error, "what the session leaves open could not be recorded");
        }
        if !self.wire.to_upstream.is_empty() {
            let _ = tokio::time::timeout(GOODBYE, self.wire.flush_upstream()).await;
        }
        if let Some((code, text)) = end.words() {
            self.down.disconnect(code, &text, &mut self.wire.to_client);
        }
        let _ = tokio::time::timeout(GOODBYE, self.wire.finish()).await;
        let totals = Totals {
            requests: self.machine.ops(),
            client_bytes: self.wire.client_bytes,
            upstream_bytes: self.wire.upstream_bytes,
        };
        (end, totals)
    }

    async fn serve(
        &mut self,
        command_rx: &mut mpsc::Receiver<Command>,
        policy_rx: &mut watch::Receiver<u64>,
    ) -> Result<End, End> {
        loop {
            self.work()?;
            let want = self.want();
            tokio::select! {
                biased;
                command = command_rx.recv() => match command {
                    Some(Command::Kill(why)) => return Err(End::Killed(why)),
                    Some(Command::Withdraw) => self.withdraw_all()?,
                    None => return Err(End::Killed("the agent is shutting down".into())),
                },
                _ = policy_rx.changed() => {
                    policy_rx.borrow_and_update();
                    self.decider.recheck().map_err(End::Revoked)?;
                }
                (channel, resolution) = any(&mut self.held) => self.resolved(channel, resolution)?,
                progress = self.wire.exchange(want) => {
                    if let Some(end) = self.closed(progress)? {
                        return Ok(end);
                    }
                }
            }
        }
    }

    fn want(&self) -> Want {
        let waiting = [
            self.wire.to_upstream.len() + self.up.backlog(),
            self.wire.to_client.len() + self.down.backlog(),
        ];
        let [upstream, client] = waiting;
        Want {
            client: upstream < HIGH_WATER && client < FLOOD && self.up.backlog() < BACKLOG_MAX,
            upstream: client < HIGH_WATER && upstream < FLOOD && self.down.backlog() < BACKLOG_MAX,
        }
    }

    /// Everything that can be done with what has come.
    fn work(&mut self) -> Result<(), End> {
        loop {
            let want = self.want();
            let mut moved = false;
            if want.upstream {
                let Wire { from_upstream, to_upstream, .. } = &mut self.wire;
                let message = self.up.receive(from_upstream, to_upstream).map_err(End::Upstream)?;
                if let Some(message) = message {
                    moved = true;
                    let question = self.machine.server(&message, &mut self.staged)?;
                    self.settle(question)?;
                }
            }
            if want.client {
                let Wire { from_client, to_client, .. } = &mut self.wire;
                let message = self.down.receive(from_client, to_client).map_err(|error| match error {
                    TransportError::Disconnected { .. } => End::Goodbye,
                    error => End::Client(error),
                })?;
                if let Some(message) = message {
                    moved = true;
                    let question = self.machine.client(&message, &mut self.staged)?;
                    self.settle(question)?;
                }
            }
            if !moved {
                return self.flush();
            }
            self.flush()?;
        }
    }

    /// Answers a question, and those that come up behind it.
    fn settle(&mut self, question: Option<Question>) -> Result<(), Fatal> {
        let mut next = question;
        while let Some(question) = next {
            let answer = self.decider.decide(&question, None, &mut self.staged);
            next = self.answered(question, answer)?;
        }
        Ok(())
    }

    fn answered(&mut self, question: Question, answer: Answer) -> Result<Option<Question>, Fatal> {
        let channel = question.channel;
        match answer {
            Answer::Permit(permit) => self.machine.permit(&question, permit, &mut self.staged),
            Answer::Deny(why) => self.machine.deny(&question, &why, &mut self.staged),
            Answer::Hold(ticket, notice) => {
                self.machine.hold(&question, &notice);
                self.held.insert(channel, Held { ticket, question });
                return Ok(None);
            }
        }
        self.machine.resume(channel, &mut self.staged)
    }

    /// The record first; then what it accounts for moves, both ways.
    fn flush(&mut self) -> Result<(), End> {
        for (question, why) in self.machine.take_refused() {
            let event = self.decider.refused(&question, &why);
            self.staged.record(event);
        }
        for channel in std::mem::take(&mut self.machine.withdrawn) {
            if let Some(held) = self.held.remove(&channel) {
                let why = Some("withdrawn by the client".to_owned());
                self.record_hold(&held, HoldOutcome::Withdrawn, None, why);
            }
        }
        let outcomes = std::mem::take(&mut self.machine.outcomes);
        self.stage_outcomes(outcomes);
        for done in self.machine.take_files() {
            self.stage_file(done);
        }
        self.staged.commit(self.journal, &mut self.released)?;
        while let Some(message) = take_frame(&mut self.released) {
            self.up.send(&message, &mut self.wire.to_upstream).map_err(End::Upstream)?;
        }
        while let Some(message) = take_frame(&mut self.machine.served) {
            self.down.send(&message, &mut self.wire.to_client).map_err(End::Client)?;
        }
        Ok(())
    }

    fn stage_outcomes(&mut self, outcomes: Vec<Outcome>) {
        for outcome in outcomes {
            let [stdin, stdout, stderr] = outcome.streams;
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
            });
            self.staged.record(Event::Result {
                session: self.session.to_owned(),
                op: outcome.op,
                rows: 0,
                bytes: stdout.0 + stderr.0,
                masked_cells: 0,
                tag: outcome.exit,
                sqlstate: None,
                served_to: None,
            });
        }
    }

    fn stage_file(&mut self, done: super::sftp::FileDone) {
        self.staged.record(Event::FileContent {
            session: self.session.to_owned(),
            op: done.op,
            read_bytes: done.read,
            written_bytes: done.written,
            sha256: done.sha256,
        });
    }

    fn closed(&mut self, progress: Result<Progress, IoError>) -> Result<Option<End>, End> {
        match progress {
            Ok(Progress { client_closed: false, upstream_closed: false }) => Ok(None),
            Ok(Progress { client_closed: true, .. }) => Ok(Some(End::ClientClosed)),
            Ok(Progress { upstream_closed: true, .. }) => {
                // Its last words count.
                self.work()?;
                Ok(Some(End::UpstreamClosed))
            }
            Err(IoError { side: Side::Client, source }) => Err(End::ClientIo(source)),
            Err(IoError { side: Side::Upstream, source }) => Err(End::UpstreamIo(source)),
        }
    }

    /// A person decided, or the time is up.
    fn resolved(&mut self, channel: u32, resolution: Option<Resolution>) -> Result<(), End> {
        let Some(mut held) = self.held.remove(&channel) else { return Ok(()) };
        let id = held.ticket.info.id.clone();
        let answer = match resolution {
            None => {
                self.record_hold(&held, HoldOutcome::Expired, None, None);
                Answer::Deny(format!("nobody approved it in time (request {id})"))
            }
            Some(resolution) => {
                let by = Some(resolution.by());
                let Resolution { approved, given, comment, terms: _ } = resolution;
                let outcome = if approved { HoldOutcome::Approved } else { HoldOutcome::Denied };
                self.record_hold(&held, outcome, by, comment.clone());
                held.ticket.info.given = given;
                // Decided again at the release: policy may have moved while it waited.
                match approved
                    .then(|| self.decider.decide(&held.question, Some(&held.ticket.info), &mut self.staged))
                {
                    None => {
                        let why = comment.map(|comment| format!(": {comment}")).unwrap_or_default();
                        Answer::Deny(format!("an approver denied it{why} (request {id})"))
                    }
                    Some(Answer::Hold(..)) => {
                        Answer::Deny("it needs another approval: policy changed".to_owned())
                    }
                    Some(answer) => answer,
                }
            }
        };
        let next = self.answered(held.question, answer)?;
        self.settle(next)?;
        Ok(())
    }

    fn withdraw_all(&mut self) -> Result<(), End> {
        for (_, held) in std::mem::take(&mut self.held) {
            self.record_hold(&held, HoldOutcome::Withdrawn, None, Some("cancelled".into()));
            let next = self.answered(held.question, Answer::Deny("cancelled".to_owned()))?;
            self.settle(next)?;
        }
        Ok(())
    }

    fn record_hold(
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
        });
    }

    /// What the end of the session leaves open: what was held, and what was running.
    fn record_the_rest(&mut self, end: &End) -> Result<(), RecordError> {
        for (_, held) in std::mem::take(&mut self.held) {
            self.record_hold(&held, HoldOutcome::Withdrawn, None, Some(end.to_string()));
        }
        let outcomes = self.machine.abandoned();
        self.stage_outcomes(outcomes);
        self.released.clear();
        self.staged.commit(self.journal, &mut self.released)?;
        while let Some(message) = take_frame(&mut self.released) {
            // The transport may be what broke.
            if self.up.send(&message, &mut self.wire.to_upstream).is_err() {
                break;
            }
        }
        Ok(())
    }
}

/// The first of what is held that is decided, or whose time is up.
async fn any(held: &mut BTreeMap<u32, Held>) -> (u32, Option<Resolution>) {
    type Waiting<'a> = (u32, Pin<Box<dyn Future<Output = Option<Resolution>> + Send + 'a>>);
    let mut waiting: Vec<Waiting<'_>> = Vec::new();
    for (channel, held) in held {
        waiting.push((*channel, Box::pin(held.ticket.wait())));
    }
    poll_fn(|cx| {
        for (channel, wait) in &mut waiting {
            if let Poll::Ready(resolution) = wait.as_mut().poll(cx) {
                return Poll::Ready((*channel, resolution));
            }
        }
        Poll::Pending
    })
    .await
}
