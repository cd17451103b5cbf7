//! The one loop that does a session's I/O: packets to messages, messages into the machine, its questions to the
//! decider, events to the journal, and only then messages onward.

mod beside;
mod recording;
mod tunnels;

use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::decide::{Answer, Decider};
use super::machine::{Fatal, Machine, Question};
use super::open::Upstream;
use super::transport::{BACKLOG_MAX, Transport, TransportError, reason};
use crate::gate::{Resolution, Staged, Ticket};
use crate::protocol::wire::{IoError, Progress, Side, Want, Wire};
use crate::protocol::{Admitted, Services};
use crate::record::event::HoldOutcome;
use crate::record::{Journal, RecordError};
use crate::registry::Command;
use beside::{Besides, Woken};
use tunnels::Tunnels;

/// Above this much waiting for one side, the other is not read; far above it, neither is.
const HIGH_WATER: usize = 256 << 10;
const FLOOD: usize = 4 * HIGH_WATER;

/// Messages of each side that share one write to the journal.
const BURST: usize = 32;

/// What may be the beginning of something that is masked waits this long for the rest.
const PAUSE: Duration = Duration::from_millis(200);

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
    journal: &'a Arc<Journal>,
    /// What is recorded is on disk before it counts.
    synced: bool,
    session: &'a str,
    staged: Staged,
    /// Framed messages that are recorded, on their way to the target.
    released: BytesMut,
    held: BTreeMap<u32, Held>,
    /// What tunnels need: where they lead, and what their sessions use.
    services: Services<'a>,
    admitted: &'a Admitted,
    tunnels: Tunnels,
    /// How to log in again, and where that was done.
    login: Upstream<'a>,
    besides: Besides<'a>,
    /// Bytes of what programs printed that are recorded so far.
    recorded: u64,
    /// Bytes of raw values that were sealed so far.
    sealed: u64,
    /// Output that waits for the rest of a match, and until when.
    pausing: Option<(u64, Instant)>,
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
        services: Services<'a>,
        login: Upstream<'a>,
    ) -> Self {
        let admitted = login.admitted;
        Self {
            wire,
            down,
            up,
            machine: Machine::default(),
            synced: decider.synced(),
            decider,
            journal: services.journal,
            session: &admitted.id,
            services,
            admitted,
            tunnels: Tunnels::default(),
            login,
            besides: Besides::default(),
            staged: Staged::default(),
            released: BytesMut::new(),
            held: BTreeMap::new(),
            recorded: 0,
            sealed: 0,
            pausing: None,
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
        if let Err(error) = self.settle().await {
            tracing::warn!(%error, "what the session ends with could not be put on disk");
            self.wire.to_client.clear();
            self.wire.to_upstream.clear();
            self.besides = Besides::default();
        }
        if !self.wire.to_upstream.is_empty() {
            let _ = tokio::time::timeout(GOODBYE, self.wire.flush_upstream()).await;
        }
        let _ = tokio::time::timeout(GOODBYE, self.besides.flush()).await;
        self.besides.sweep(|_| false);
        let words = end.words();
        if let Some((code, text)) = &words {
            self.down.disconnect(*code, text, &mut self.wire.to_client);
        }
        let _ = tokio::time::timeout(GOODBYE, self.farewell(words.is_some())).await;
        let totals = Totals {
            requests: self.machine.ops(),
            client_bytes: self.wire.client_bytes,
            upstream_bytes: self.wire.upstream_bytes + self.besides.bytes,
        };
        (end, totals)
    }

    /// Gives the client what it is owed. Closing with something unread would reset the connection, and take our last words
    /// with it, so what it still sends is read.
    async fn farewell(&mut self, words: bool) {
        let mut open = self.wire.finish().await.is_ok() && words;
        while open {
            self.wire.from_client.clear();
            let more = self.wire.exchange(Want { client: true, upstream: false }).await;
            open = more.is_ok_and(|progress| !progress.client_closed);
        }
    }

    async fn serve(
        &mut self,
        command_rx: &mut mpsc::Receiver<Command>,
        policy_rx: &mut watch::Receiver<u64>,
    ) -> Result<End, End> {
        loop {
            self.work()?;
            self.settle().await?;
            let want = self.want();
            let pause = self.pause();
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
                () = self.tunnels.exchange() => {}
                woken = self.besides.exchange(want.upstream) => match woken {
                    Woken::Opened(channel, held, opened) => self.opened_beside(channel, *held, *opened)?,
                    Woken::Moved => {}
                },
                () = until(pause) => {
                    self.pausing = None;
                    self.machine.output_pauses(&mut self.staged);
                }
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
            self.wire.to_upstream.len() + self.up.backlog() + self.staged.waiting() + self.besides.waiting(),
            self.wire.to_client.len() + self.down.backlog() + self.machine.served.len(),
        ];
        let [upstream, client] = waiting;
        Want {
            client: upstream < HIGH_WATER && client < FLOOD && self.up.backlog() < BACKLOG_MAX,
            upstream: client < HIGH_WATER && upstream < FLOOD && self.down.backlog() < BACKLOG_MAX,
        }
    }

    /// When output that waits for the rest of a match is let go.
    fn pause(&mut self) -> Option<Instant> {
        let now = self.machine.output_waits();
        self.pausing = match (now, self.pausing) {
            (Some(now), Some((then, until))) if now == then => Some((then, until)),
            (Some(now), _) => Some((now, Instant::now() + PAUSE)),
            (None, _) => None,
        };
        self.pausing.map(|(_, until)| until)
    }

    /// Everything that can be done with what has come.
    fn work(&mut self) -> Result<(), End> {
        let mut more = true;
        while more {
            more = false;
            for _ in 0..BURST {
                let moved = match self.work_once() {
                    Ok(moved) => moved,
                    // What came before it counts: a request is on record although its client hung up right behind it.
                    Err(end) => {
                        self.flush()?;
                        return Err(end);
                    }
                };
                more |= moved;
                if !moved {
                    break;
                }
            }
            self.open_tunnels()?;
            if self.machine.served.len() < HIGH_WATER {
                more |= self.tunnels.pump(&mut self.machine);
            }
            self.flush()?;
        }
        Ok(())
    }

    /// Tunnels that lead to a target end here if policy lets them, and all others nowhere.
    fn open_tunnels(&mut self) -> Result<(), Fatal> {
        for opening in self.machine.take_openings() {
            let (host, port) = (opening.host.as_str(), opening.port);
            let found = if self.tunnels.full() {
                Err("too many tunnels".to_owned())
            } else {
                (self.admitted.tunnel_to)(self.admitted, host, port)
            };
            let inner = match found {
                Ok(inner) => inner,
                Err(why) => {
                    self.machine.refuse_tunnel(&opening, &format!("no tunnel to {host}:{port}: {why}"));
                    continue;
                }
            };
            let way = (inner.0.backend.target.name.as_str(), inner.0.id.as_str());
            let Some(question) = self.machine.ask_tunnel(&opening, way) else { continue };
            self.tunnels.wait(question.channel, inner);
            self.ask(Some(question))?;
        }
        Ok(())
    }

    /// A message of each side, if there is one and somewhere for it to go; whether there was.
    fn work_once(&mut self) -> Result<bool, End> {
        let want = self.want();
        let mut moved = false;
        if want.upstream {
            let Wire { from_upstream, to_upstream, .. } = &mut self.wire;
            let message = self.up.receive(from_upstream, to_upstream).map_err(End::Upstream)?;
            if let Some(message) = message {
                moved = true;
                let question = self.machine.server(&message, &mut self.staged)?;
                self.ask(question)?;
            }
            moved |= self.work_beside()?;
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
                self.ask(question)?;
            }
        }
        Ok(moved)
    }

    /// Answers a question, and those that come up behind it.
    fn ask(&mut self, question: Option<Question>) -> Result<(), Fatal> {
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
            Answer::Permit(permit, terms) => {
                self.machine.permit(&question, permit, terms, &mut self.staged);
                if let Err(error) = self.tunnels.open(channel, self.services) {
                    tracing::warn!(%error, "a tunnel could not be begun");
                    self.machine.close_tunnel(channel);
                }
            }
            Answer::Deny(why) => {
                self.tunnels.give_up(channel);
                self.machine.deny(&question, &why, &mut self.staged);
            }
            Answer::Hold(ticket, notice) => {
                self.machine.hold(&question, &notice);
                self.held.insert(channel, Held { ticket, question });
                return Ok(None);
            }
        }
        self.machine.resume(channel, &mut self.staged)
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
                if approved {
                    match self.begin_beside(held) {
                        Some(back) => held = back,
                        None => return Ok(()),
                    }
                }
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
        self.ask(next)?;
        Ok(())
    }

    fn withdraw_all(&mut self) -> Result<(), End> {
        for (_, held) in std::mem::take(&mut self.held) {
            self.record_hold(&held, HoldOutcome::Withdrawn, None, Some("cancelled".into()));
            let next = self.answered(held.question, Answer::Deny("cancelled".to_owned()))?;
            self.ask(next)?;
        }
        for question in self.besides.give_up_all() {
            let answer = self.unrun(&question, "cancelled before it ran");
            let next = self.answered(question, answer)?;
            self.ask(next)?;
        }
        Ok(())
    }
}

/// Never, without a moment to wait for.
async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
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
