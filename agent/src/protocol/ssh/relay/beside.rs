//! Connections beside a session's own: each is for one command that a person said yes to, and is logged in to with a
//! certificate for that command alone. What goes through them is the machine's business like all else.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf as _, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_util::io::poll_read_buf;

use super::super::decide::Answer;
use super::super::machine::{Asked, Fatal, Place, Question};
use super::super::open::{self, Asking, Beside, OpenError};
use super::super::transport::{Transport, TransportError, reason};
use super::{End, Held, Relay};

type Opened = Result<Beside, OpenError>;

/// By the number of the channel that each is for.
#[derive(Default)]
pub(super) struct Besides<'a> {
    opening: BTreeMap<u32, Opening<'a>>,
    open: BTreeMap<u32, Line>,
    /// Bytes written to targets so far.
    pub(super) bytes: u64,
}

struct Opening<'a> {
    held: Held,
    login: Pin<Box<dyn Future<Output = Opened> + Send + 'a>>,
}

struct Line {
    stream: TcpStream,
    transport: Transport,
    input: BytesMut,
    output: BytesMut,
    /// Nothing more comes.
    over: bool,
}

/// What a wait brought.
pub(super) enum Woken {
    Opened(u32, Box<Held>, Box<Opened>),
    Moved,
}

impl Besides<'_> {
    /// Bytes that wait for the targets.
    pub(super) fn waiting(&self) -> usize {
        self.open.values().map(|line| line.output.len() + line.transport.backlog()).sum()
    }

    /// Sends a message by the connection of a channel; one that is gone takes it with it.
    pub(super) fn send(&mut self, channel: u32, message: &[u8]) {
        let Some(line) = self.open.get_mut(&channel) else { return };
        if let Err(error) = line.transport.send(message, &mut line.output) {
            line.fail(&error);
        }
    }

    /// The next message of some connection, or that it is over.
    pub(super) fn receive(&mut self) -> Option<(u32, Option<Bytes>)> {
        for (channel, line) in &mut self.open {
            match line.transport.receive(&mut line.input, &mut line.output) {
                Ok(Some(message)) => return Some((*channel, Some(message))),
                Ok(None) => {}
                Err(error) => line.fail(&error),
            }
            if line.over {
                return Some((*channel, None));
            }
        }
        None
    }

    /// Takes a connection down.
    pub(super) fn end(&mut self, channel: u32) {
        if let Some(mut line) = self.open.remove(&channel) {
            line.transport.disconnect(reason::BY_APPLICATION, "", &mut line.output);
            // What does not fit into the socket now is not worth waiting for.
            let _ = line.stream.try_write(&line.output);
        }
    }

    /// Takes down those whose channels need them no more.
    pub(super) fn sweep(&mut self, needed: impl Fn(u32) -> bool) {
        let idle: Vec<u32> = self.open.keys().copied().filter(|channel| !needed(*channel)).collect();
        for channel in idle {
            self.end(channel);
        }
    }

    /// A login that is not awaited any more, with what it was for.
    pub(super) fn give_up(&mut self, channel: u32) -> Option<Question> {
        self.opening.remove(&channel).map(|opening| opening.held.question)
    }

    /// All of those.
    pub(super) fn give_up_all(&mut self) -> Vec<Question> {
        std::mem::take(&mut self.opening).into_values().map(|opening| opening.held.question).collect()
    }

    /// Writes what waits, and waits until something came; with `want`, bytes of the targets count.
    pub(super) async fn exchange(&mut self, want: bool) -> Woken {
        poll_fn(|cx| {
            let mut done = None;
            for (channel, opening) in &mut self.opening {
                if let Poll::Ready(opened) = opening.login.as_mut().poll(cx) {
                    done = Some((*channel, opened));
                    break;
                }
            }
            if let Some((channel, opened)) = done
                && let Some(opening) = self.opening.remove(&channel)
            {
                return Poll::Ready(Woken::Opened(channel, Box::new(opening.held), Box::new(opened)));
            }
            let mut moved = false;
            for line in self.open.values_mut() {
                moved |= line.poll(cx, want, &mut self.bytes);
            }
            if moved { Poll::Ready(Woken::Moved) } else { Poll::Pending }
        })
        .await
    }

    /// Writes what waits, as far as the targets take it.
    pub(super) async fn flush(&mut self) {
        poll_fn(|cx| {
            let mut waits = false;
            for line in self.open.values_mut() {
                line.write(cx, &mut self.bytes);
                waits |= !line.over && !line.output.is_empty();
            }
            if waits { Poll::Pending } else { Poll::Ready(()) }
        })
        .await;
    }
}

impl Line {
    fn fail(&mut self, error: &TransportError) {
        if !std::mem::replace(&mut self.over, true) {
            tracing::warn!(%error, "the connection of an approved command broke");
        }
    }

    /// Whether there is something to do about it.
    fn poll(&mut self, cx: &mut Context<'_>, want: bool, bytes: &mut u64) -> bool {
        if self.over {
            return false;
        }
        // Whoever was not read because too much waited here may be read again.
        let mut moved = self.write(cx, bytes) && !want;
        if want {
            match poll_read_buf(Pin::new(&mut self.stream), cx, &mut self.input) {
                Poll::Ready(Ok(count)) if count > 0 => moved = true,
                Poll::Ready(_) => (self.over, moved) = (true, true),
                Poll::Pending => {}
            }
        }
        moved | self.over
    }

    /// Whether all of what waited is written now.
    fn write(&mut self, cx: &mut Context<'_>, bytes: &mut u64) -> bool {
        let waited = !self.output.is_empty();
        while !self.over && !self.output.is_empty() {
            match Pin::new(&mut self.stream).poll_write(cx, &self.output) {
                Poll::Ready(Ok(count)) if count > 0 => {
                    self.output.advance(count);
                    *bytes += count as u64;
                }
                Poll::Ready(_) => self.over = true,
                Poll::Pending => return false,
            }
        }
        waited
    }
}

impl<C, U> Relay<'_, C, U>
where
    C: AsyncRead + AsyncWrite + Unpin,
    U: AsyncRead + AsyncWrite + Unpin,
{
    /// A command that a person said yes to gets a connection of its own where the login can be limited to it. Gives back what
    /// is to be answered at once.
    pub(super) fn begin_beside(&mut self, held: Held) -> Option<Held> {
        let Asked::Exec(command) = &held.question.what else { return Some(held) };
        let allowed = self.login.shared.certifies() && self.decider.allows(&held.question, &held.ticket.info);
        let (true, Ok(command)) = (allowed, String::from_utf8(command.clone())) else { return Some(held) };
        let (login, op, channel) = (self.login, held.question.op, held.question.channel);
        let (packet, pty) = self.machine.needs_beside(channel);
        let login = Box::pin(async move {
            let asking = Asking { pty, command: Some((op, &command)) };
            open::beside(login, asking, channel, packet).await
        });
        self.besides.opening.insert(channel, Opening { held, login });
        None
    }

    /// The login for an approved command is done, or failed: it runs, or does not.
    pub(super) fn opened_beside(&mut self, channel: u32, held: Held, opened: Opened) -> Result<(), End> {
        let question = held.question;
        let answer = match opened {
            Ok(beside) => {
                let place = Place { number: beside.number, window: beside.window, packet: beside.packet };
                if self.machine.could_go_beside(&question, &place) {
                    // Decided at the release: policy may have moved while the target was dialled.
                    match self.decider.decide(&question, Some(&held.ticket.info), &mut self.staged) {
                        Answer::Permit(permit, terms) => {
                            let open::Opened { stream, transport, input, output, banners: _ } = beside.opened;
                            let line = Line { stream, transport, input, output, over: false };
                            self.besides.open.insert(channel, line);
                            let permitted = (permit, terms);
                            self.machine.permit_beside(&question, permitted, &place, &mut self.staged);
                            let next = self.machine.resume(channel, &mut self.staged)?;
                            self.ask(next)?;
                            return Ok(());
                        }
                        Answer::Hold(..) => {
                            Answer::Deny("it needs another approval: policy changed".to_owned())
                        }
                        Answer::Deny(why) => Answer::Deny(why),
                    }
                } else {
                    self.unrun(&question, "the target has not answered what came before it")
                }
            }
            Err(error) => self.unrun(&question, &format!("no login for this command: {error}")),
        };
        let next = self.answered(question, answer)?;
        self.ask(next)?;
        Ok(())
    }

    /// The record of a command that was approved, and does not run.
    pub(super) fn unrun(&mut self, question: &Question, why: &str) -> Answer {
        let event = self.decider.refused(question, why);
        self.staged.record(event);
        Answer::Deny(format!("{why} (request {}/{})", self.session, question.op))
    }

    /// Messages of the targets beside; whether there were any.
    pub(super) fn work_beside(&mut self) -> Result<bool, Fatal> {
        let Some((channel, message)) = self.besides.receive() else { return Ok(false) };
        match message {
            Some(message) => {
                let question = self.machine.server_beside(channel, &message, &mut self.staged)?;
                self.ask(question)?;
            }
            None => {
                self.machine.lost_beside(channel, &mut self.staged)?;
                self.besides.end(channel);
            }
        }
        Ok(true)
    }
}
