//! The connection layer (RFC 4254) between two transports: every message of it is looked at, and passed on, answered
//! here, or asked about.
//!
//! Messages in, messages and questions out. A channel runs one program; the program is asked about before the target
//! hears of it, and what comes after it on that channel waits, while other channels go on. Windows are end to end
//! (`flow`). What may not be is refused in the protocol's own words, in the order in which answers are owed.

mod beside;
mod channel;
mod client;
mod output;
mod server;
#[cfg(test)]
mod tests;
mod tunnel;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::{BufMut, BytesMut};

use super::codec::{Malformed, msg};
use super::flow::FlowError;
use super::sftp::{FileOp, SftpError};
use crate::gate::{Permit, Staged};
pub(super) use beside::Place;
pub(super) use channel::Terms;
use channel::{Channel, Exit, Owed, Running, Stage, data, exit_status, signal, simple};
pub(super) use tunnel::Opening;

/// Channels at once; far above what a server takes (OpenSSH's MaxSessions is 10).
const CHANNELS_MAX: usize = 64;

/// Answers a side may be owed at once.
const OWED_MAX: usize = 128;

/// Longest value of a variable that policy is asked about.
const VALUE_MAX: usize = 4 << 10;

/// Longest command line.
pub(super) const COMMAND_MAX: usize = 128 << 10;

/// What a client may send ahead on a channel whose program is not decided yet, over all channels.
const AHEAD_MAX: usize = 4 << 20;

/// The exit status of a command that was refused: found, and not executable (POSIX 2.8.2).
const REFUSED_STATUS: u32 = 126;

/// SSH_OPEN_ADMINISTRATIVELY_PROHIBITED and SSH_OPEN_RESOURCE_SHORTAGE.
const PROHIBITED: u32 = 1;
const SHORTAGE: u32 = 4;

/// The session's own connection to the target; others are known by the channel they are for, which is never 0.
pub(super) const MAIN: u32 = 0;

/// SSH_EXTENDED_DATA_STDERR.
const STDERR: u32 = 1;

#[derive(Debug, thiserror::Error)]
pub(super) enum Fatal {
    #[error("{side}: {source}")]
    Malformed { side: &'static str, source: Malformed },
    #[error("{side}: {source}")]
    Flow { side: &'static str, source: FlowError },
    #[error("{side}: message {number} where it may not be")]
    Unexpected { side: &'static str, number: u8 },
    #[error("{side}: no channel {id}")]
    NoChannel { side: &'static str, id: u32 },
    #[error("the client has more than {OWED_MAX} requests unanswered")]
    TooManyRequests,
    #[error("the client sent more than {AHEAD_MAX} bytes to programs that are not decided yet")]
    TooFarAhead,
    #[error("file transfer: {0}")]
    Sftp(#[from] SftpError),
}

const CLIENT: &str = "the client";
const UPSTREAM: &str = "the target";

/// Something that has to be decided before the target hears of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Question {
    pub(super) channel: u32,
    pub(super) op: u64,
    pub(super) what: Asked,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Asked {
    Exec(Vec<u8>),
    Shell,
    Pty,
    Subsystem(String),
    /// A variable that neither always passes nor never does.
    Env {
        name: String,
        value: String,
    },
    /// A tunnel to another target.
    Forward(Way),
    /// A channel of another kind than a session, with where it would lead to.
    Tunnel {
        kind: String,
        destination: String,
    },
    /// Agent or X11 forwarding, a listening port, an environment variable that is not on the list.
    Feature(String),
    File(FileOp),
}

/// Where a tunnel leads: as it was asked for, and the target and session it ends at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Way {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) target: String,
    pub(super) session: String,
}

impl Asked {
    /// Said in the record with a permit.
    pub(super) fn ends(&self) -> Option<String> {
        let Self::Forward(way) = self else { return None };
        Some(format!("ends at target {}, session {}", way.target, way.session))
    }

    /// Something about a channel on which nothing runs yet, or ever: it goes on either way.
    fn prepares(&self) -> bool {
        matches!(self, Self::Pty | Self::Env { .. })
    }

    /// Whether people can be asked about it.
    pub(super) fn can_wait(&self) -> bool {
        !self.prepares()
    }
}

/// A program that ended, or what is known of it when its channel did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Outcome {
    pub(super) op: u64,
    pub(super) exit: String,
    pub(super) streams: [(u64, String); 3],
    pub(super) files: Vec<super::sftp::FileDone>,
    /// Why some of its files may be missing.
    pub(super) unlisted: Option<&'static str>,
    /// How often each pattern was hidden in what it printed.
    pub(super) masked: Vec<(String, u64)>,
}

/// The connection layer of a session.
#[derive(Default)]
pub(super) struct Machine {
    channels: BTreeMap<u32, Channel>,
    next: u32,
    ops: u64,
    ahead: usize,
    /// Answers to the client's global requests, in order.
    owed_client: VecDeque<Owed>,
    /// Answers to the target's global requests.
    owed_upstream: VecDeque<Owed>,
    /// Framed messages for the client; served when what is recorded of them is.
    pub(super) served: BytesMut,
    /// What of that is recorded as it goes out, as [`crate::record::output`] has it.
    pub(super) said: Vec<u8>,
    /// What the target sent of what is masked, as lines; only of programs where it is to be sealed.
    pub(super) raw: Vec<u8>,
    /// Commands that were read off terminals, with the operation each belongs to.
    pub(super) typed: Vec<(u64, String)>,
    pub(super) outcomes: Vec<Outcome>,
    /// Channels whose held request the client gave up.
    pub(super) withdrawn: Vec<u32>,
    openings: Vec<Opening>,
    /// Channels that went on to a connection of their own; the target has yet to close them on the session's.
    leaving: BTreeSet<u32>,
    /// Questions that have only one answer, to be recorded.
    refused: Vec<(Question, String)>,
}

/// Messages in one buffer, each behind its length.
pub(super) fn put_frame(out: &mut BytesMut, message: &[u8]) {
    out.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    out.put_slice(message);
}

/// The next message of such a buffer.
pub(super) fn take_frame(buffer: &mut BytesMut) -> Option<BytesMut> {
    let length = usize::try_from(u32::from_be_bytes(*buffer.first_chunk()?)).ok()?;
    if buffer.len() < 4 + length {
        return None;
    }
    let mut frame = buffer.split_to(4 + length);
    Some(frame.split_off(4))
}

/// A message for the target on the session's own connection.
fn framed(message: &[u8]) -> BytesMut {
    framed_on(MAIN, message)
}

/// A message for the target, with the connection it goes by in front.
fn framed_on(connection: u32, message: &[u8]) -> BytesMut {
    let mut out = BytesMut::with_capacity(message.len() + 8);
    out.put_u32(connection);
    put_frame(&mut out, message);
    out
}

/// The next message for the target, and the connection it goes by.
pub(super) fn take_framed(buffer: &mut BytesMut) -> Option<(u32, BytesMut)> {
    let (connection, rest) = buffer.split_first_chunk::<4>()?;
    let (connection, length) = (u32::from_be_bytes(*connection), rest.first_chunk::<4>()?);
    let length = usize::try_from(u32::from_be_bytes(*length)).ok()?;
    if rest.len() < 4 + length {
        return None;
    }
    let mut frame = buffer.split_to(8 + length);
    Some((connection, frame.split_off(8)))
}

impl Machine {
    pub(super) fn ops(&self) -> u64 {
        self.ops
    }

    /// What was refused without a question, since the last call.
    pub(super) fn take_refused(&mut self) -> Vec<(Question, String)> {
        std::mem::take(&mut self.refused)
    }

    /// Files that were closed since the last call.
    pub(super) fn take_files(&mut self) -> Vec<super::sftp::FileDone> {
        let mut done = Vec::new();
        for channel in self.channels.values_mut() {
            if let Stage::Running(running) = &mut channel.stage {
                running.sftp.iter_mut().for_each(|sftp| done.append(&mut sftp.take_done()));
                running.transfer.iter_mut().for_each(|transfer| done.append(&mut transfer.take_done()));
            }
        }
        done
    }

    /// The answer to a question: it may be.
    pub(super) fn permit(&mut self, question: &Question, permit: Permit, terms: Terms, staged: &mut Staged) {
        let Some(channel) = self.channels.get_mut(&question.channel) else { return };
        match &mut channel.stage {
            Stage::Running(running) => {
                if let Some(sftp) = &mut running.sftp {
                    sftp.permit(question.op);
                }
                // The bytes of a file operation follow from `resume`; the permit is for them.
                staged.permitted(permit, &[]);
            }
            Stage::Asking(asking) if asking.op == question.op => {
                staged.permitted(permit, &framed_on(channel.connection, &asking.request));
                if asking.want_reply {
                    channel.owed.push_back(Owed::Upstream);
                }
                let (op, sftp, size) = (asking.op, asking.sftp, asking.size);
                if question.what.prepares() {
                    let request = asking.request.clone();
                    channel.remember(&request);
                    channel.terminal = size.or(channel.terminal);
                    channel.stage = Stage::Idle;
                } else {
                    channel.stage = Stage::Running(Box::new(Running::new(op, sftp, terms)));
                    self.say_size(question.channel);
                }
            }
            Stage::Opening if matches!(question.what, Asked::Forward(_)) => {
                staged.permitted(permit, &[]);
                self.enter_tunnel(question.channel);
            }
            Stage::Opening | Stage::Idle | Stage::Asking(_) | Stage::Refused | Stage::Tunnel(_) => {}
        }
    }

    /// The answer to a question: it may not be, and why.
    pub(super) fn deny(&mut self, question: &Question, why: &str, staged: &mut Staged) {
        let id = question.channel;
        let Some(channel) = self.channels.get_mut(&id) else { return };
        match &mut channel.stage {
            Stage::Running(running) => {
                if let Some(sftp) = &mut running.sftp {
                    sftp.deny(why);
                }
            }
            Stage::Asking(asking) if asking.op == question.op => {
                let want_reply = asking.want_reply;
                if question.what.prepares() {
                    channel.stage = Stage::Idle;
                    if want_reply {
                        self.answer(id, false);
                    }
                } else {
                    self.refuse(id, want_reply, why, staged);
                }
            }
            Stage::Opening if matches!(question.what, Asked::Forward(_)) => self.leave_tunnel(id, why),
            Stage::Opening | Stage::Idle | Stage::Asking(_) | Stage::Refused | Stage::Tunnel(_) => {}
        }
    }

    /// The answer to a question: a person decides; the client is told to wait, where it has a channel to be told on.
    pub(super) fn hold(&mut self, question: &Question, notice: &str) {
        if !matches!(question.what, Asked::Forward(_)) {
            self.tell(question.channel, notice);
        }
    }

    /// Goes on with a channel after an answer: with what the client sent meanwhile, up to the next question.
    pub(super) fn resume(&mut self, id: u32, staged: &mut Staged) -> Result<Option<Question>, Fatal> {
        if let Some(question) = self.files(id, staged)? {
            return Ok(Some(question));
        }
        while let Some(channel) = self.channels.get_mut(&id) {
            if matches!(channel.stage, Stage::Asking(_)) {
                return Ok(None);
            }
            let Some(message) = channel.queue.pop_front() else { return Ok(None) };
            self.ahead = self.ahead.saturating_sub(message.len());
            if let Some(question) = self.channel_message(id, &message, staged)? {
                return Ok(Some(question));
            }
        }
        Ok(None)
    }

    /// Words of ours on a channel's standard error, if its window takes them.
    fn tell(&mut self, id: u32, text: &str) {
        let Some(channel) = self.channels.get_mut(&id) else { return };
        let text = format!("chaperone: {text}\r\n");
        let most = usize::try_from(channel.client_packet).unwrap_or(usize::MAX).min(text.len());
        let text = text.as_bytes().get(..most).unwrap_or_default();
        if !text.is_empty() && channel.to_client.inject(text.len()) {
            put_frame(&mut self.served, &data(channel.client, Some(STDERR), text));
        }
    }

    /// Ends a channel's program before it began: the reason on standard error, status 126, and both sides closed.
    fn refuse(&mut self, id: u32, want_reply: bool, why: &str, staged: &mut Staged) {
        if want_reply {
            self.answer(id, true);
        }
        self.forget_queue(id);
        if let Some(channel) = self.channels.get_mut(&id) {
            channel.stage = Stage::Refused;
            channel.to_client.take_over();
        }
        self.tell(id, why);
        let Some(channel) = self.channels.get_mut(&id) else { return };
        for message in [
            exit_status(channel.client, REFUSED_STATUS),
            simple(msg::CHANNEL_EOF, channel.client),
            simple(msg::CHANNEL_CLOSE, channel.client),
        ] {
            put_frame(&mut self.served, &message);
        }
        channel.told_client_closed = true;
        if !channel.told_upstream_closed {
            channel.told_upstream_closed = true;
            staged.continuation(&channel.framed(&simple(msg::CHANNEL_CLOSE, channel.upstream)));
        }
    }

    /// Answers a client's channel request here, behind those the target has yet to answer.
    fn answer(&mut self, id: u32, yes: bool) {
        let Some(channel) = self.channels.get_mut(&id) else { return };
        if channel.owed.is_empty() {
            let number = if yes { msg::CHANNEL_SUCCESS } else { msg::CHANNEL_FAILURE };
            put_frame(&mut self.served, &simple(number, channel.client));
        } else {
            channel.owed.push_back(Owed::Local(yes));
        }
    }

    /// A question and its record's number.
    fn ask(&mut self, channel: u32, what: Asked) -> Question {
        self.ops += 1;
        Question { channel, op: self.ops, what }
    }

    fn refuse_always(&mut self, channel: u32, what: Asked, why: &str) {
        let question = self.ask(channel, what);
        self.refused.push((question, why.to_owned()));
    }

    fn forget_queue(&mut self, id: u32) {
        if let Some(channel) = self.channels.get_mut(&id) {
            let queued: usize = channel.queue.drain(..).map(|message| message.len()).sum();
            self.ahead = self.ahead.saturating_sub(queued);
        }
    }

    /// Takes a channel away when both sides are done with it.
    fn sweep(&mut self, id: u32) {
        if self.channels.get(&id).is_some_and(Channel::over) {
            self.forget_queue(id);
            self.channels.remove(&id);
        }
    }

    /// Asks the target to end what runs (RFC 4254 section 6.9): whoever may not see its end shall not have it run.
    pub(super) fn kill_all(&mut self, staged: &mut Staged) {
        for channel in self.channels.values_mut() {
            if matches!(channel.stage, Stage::Running(_)) && !channel.told_upstream_closed {
                staged.continuation(&channel.framed(&signal(channel.upstream, "KILL")));
                channel.told_upstream_closed = true;
                staged.continuation(&channel.framed(&simple(msg::CHANNEL_CLOSE, channel.upstream)));
            }
        }
    }

    /// What ran when the session ended, for its record.
    pub(super) fn abandoned(&mut self) -> Vec<Outcome> {
        let mut outcomes = std::mem::take(&mut self.outcomes);
        for channel in self.channels.values_mut() {
            outcomes.extend(outcome(channel, "cut off"));
        }
        outcomes
    }
}

/// Takes the program off a channel and says how it went.
fn outcome(channel: &mut Channel, otherwise: &str) -> Option<Outcome> {
    if !matches!(channel.stage, Stage::Running(_)) {
        return None;
    }
    let Stage::Running(mut running) = std::mem::replace(&mut channel.stage, Stage::Refused) else {
        return None;
    };
    let exit = match &channel.exit {
        Some(Exit::Status(status)) => format!("exit {status}"),
        Some(Exit::Signal(name)) => format!("signal {name}"),
        None => otherwise.to_owned(),
    };
    let streams = [&running.stdin, &running.stdout, &running.stderr];
    let mut masked = std::collections::BTreeMap::<String, u64>::new();
    for filter in running.filters.iter().flat_map(|filters| filters.iter()) {
        for (name, count) in filter.found() {
            *masked.entry(name.to_owned()).or_default() += count;
        }
    }
    Some(Outcome {
        op: running.op,
        masked: masked.into_iter().collect(),
        exit,
        streams: streams.map(|stream| (stream.bytes, stream.sha256())),
        unlisted: running.transfer.as_ref().and_then(|transfer| transfer.lost()),
        files: match (&mut running.sftp, &mut running.transfer) {
            (Some(sftp), _) => sftp.finish(),
            (None, Some(transfer)) => transfer.finish(),
            (None, None) => Vec::new(),
        },
    })
}
