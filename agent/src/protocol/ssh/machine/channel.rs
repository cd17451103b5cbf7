//! One channel: its two numbers, its two windows, what runs in it, and the answers it owes.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use ring::digest;

use super::super::codec::{msg, put_string};
use super::super::flow::Flow;
use super::super::mask::{Filter, Masks};
use super::super::rsync::{How, Transfer};
use super::super::sftp::Sftp;
use super::super::typed::Typed;
use super::tunnel::Tunnel;

/// Variables and the terminal of a channel, as they were asked for.
const BEFORE_MAX: usize = 64 << 10;

pub(super) struct Channel {
    /// The client's number for it. Ours, towards both sides, is the key it is kept under.
    pub(super) client: u32,
    /// The target's number, once it confirmed, and the connection where it has it.
    pub(super) upstream: u32,
    pub(super) connection: u32,
    pub(super) to_client: Flow,
    pub(super) to_upstream: Flow,
    /// Largest data message the client takes.
    pub(super) client_packet: u32,
    pub(super) upstream_packet: u32,
    pub(super) stage: Stage,
    /// What the client sent behind something undecided, in order.
    pub(super) queue: VecDeque<Bytes>,
    /// Answers to the client's requests, in the order of the requests.
    pub(super) owed: VecDeque<Owed>,
    pub(super) client_closed: bool,
    pub(super) upstream_closed: bool,
    pub(super) told_client_closed: bool,
    pub(super) told_upstream_closed: bool,
    pub(super) exit: Option<Exit>,
    /// Columns and rows of its terminal, if it has one.
    pub(super) terminal: Option<(u32, u32)>,
    /// What was asked for before a program: variables and a terminal.
    pub(super) before: Vec<Bytes>,
}

pub(super) enum Stage {
    /// The target has not answered the open yet.
    Opening,
    /// Open, nothing runs.
    Idle,
    /// Something was asked for and waits: for a policy's answer, or a person's.
    Asking(Box<Asking>),
    Running(Box<Running>),
    /// A connection to a target, served here.
    Tunnel(Box<Tunnel>),
    /// Refused by us; what still comes from either side is let fall.
    Refused,
}

pub(super) struct Asking {
    /// The request as it goes on when it is permitted.
    pub(super) request: Bytes,
    pub(super) op: u64,
    pub(super) want_reply: bool,
    pub(super) sftp: bool,
    /// Of the terminal that is asked for.
    pub(super) size: Option<(u32, u32)>,
}

/// How a program's streams are treated.
#[derive(Clone, Default)]
pub(in super::super) struct Terms {
    /// What it prints goes into the record.
    pub(in super::super) output: bool,
    /// And what it is sent.
    pub(in super::super) input: bool,
    /// What is hidden in what it prints is sealed to auditors, with all the rest of it.
    pub(in super::super) seals: bool,
    /// What is hidden in what it prints.
    pub(in super::super) masks: Option<Arc<Masks>>,
    /// It is rsync, and how it talks, or why that is not known.
    pub(in super::super) rsync: Option<Result<How, &'static str>>,
}

/// A program with its streams.
pub(super) struct Running {
    pub(super) op: u64,
    pub(super) stdin: Stream,
    pub(super) stdout: Stream,
    pub(super) stderr: Stream,
    pub(super) sftp: Option<Sftp>,
    pub(super) transfer: Option<Box<Transfer>>,
    /// Of a terminal whose output is recorded.
    pub(super) typed: Option<Box<Typed>>,
    pub(super) terms: Terms,
    /// Of standard output and standard error.
    pub(super) filters: Option<Box<[Filter; 2]>>,
}

/// What passed through a stream.
#[derive(Clone)]
pub(super) struct Stream {
    pub(super) bytes: u64,
    hash: digest::Context,
}

impl Stream {
    pub(super) fn new() -> Self {
        Self { bytes: 0, hash: digest::Context::new(&digest::SHA256) }
    }

    pub(super) fn add(&mut self, bytes: &[u8]) {
        self.bytes += bytes.len() as u64;
        self.hash.update(bytes);
    }

    pub(super) fn sha256(&self) -> String {
        crate::hex(self.hash.clone().finish().as_ref())
    }
}

impl Running {
    pub(super) fn new(op: u64, sftp: bool, terms: Terms) -> Self {
        let sftp = sftp.then(Sftp::default);
        let filter = |masks: &Arc<Masks>| Filter::new(Arc::clone(masks));
        let filters = terms.masks.as_ref().map(|masks| Box::new([filter(masks), filter(masks)]));
        let transfer = terms.rsync.as_ref().map(|how| Box::new(Transfer::new(op, how)));
        let [stdin, stdout, stderr] = [Stream::new(), Stream::new(), Stream::new()];
        Self { op, stdin, stdout, stderr, sftp, transfer, typed: None, terms, filters }
    }

    /// What is hidden in a stream of the program.
    pub(super) fn filter(&mut self, stderr: bool) -> Option<&mut Filter> {
        let [out, err] = self.filters.as_deref_mut()?;
        Some(if stderr { err } else { out })
    }
}

/// An answer the client waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Owed {
    /// The target gives it.
    Upstream,
    /// It is ours, and waits for those before it.
    Local(bool),
}

/// How a program ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Exit {
    Status(u32),
    Signal(String),
}

impl Channel {
    pub(super) fn new(client: u32, client_packet: u32) -> Self {
        Self {
            client,
            upstream: 0,
            connection: super::MAIN,
            to_client: Flow::default(),
            to_upstream: Flow::default(),
            client_packet,
            upstream_packet: 0,
            stage: Stage::Opening,
            queue: VecDeque::new(),
            owed: VecDeque::new(),
            client_closed: false,
            upstream_closed: false,
            told_client_closed: false,
            told_upstream_closed: false,
            exit: None,
            terminal: None,
            before: Vec::new(),
        }
    }

    /// A message for the target on this channel.
    pub(super) fn framed(&self, message: &[u8]) -> BytesMut {
        super::framed_on(self.connection, message)
    }

    /// Whether one more variable or terminal can be remembered.
    pub(super) fn remembers(&self, message: &[u8]) -> bool {
        self.before.iter().map(Bytes::len).sum::<usize>() + message.len() <= BEFORE_MAX
    }

    /// Keeps a request for a connection of the channel's own, where nobody waits for the answer a second time.
    pub(super) fn remember(&mut self, message: &[u8]) {
        let mut message = message.to_vec();
        // Behind the message's number, the channel's, and the name with its length.
        let name =
            message.get(5..).and_then(|rest| rest.first_chunk()).copied().map_or(0, u32::from_be_bytes);
        if let Some(want_reply) = usize::try_from(name).ok().and_then(|name| message.get_mut(9 + name)) {
            *want_reply = 0;
        }
        self.before.push(message.into());
    }

    /// Both sides have said their last word.
    pub(super) fn over(&self) -> bool {
        self.client_closed && self.upstream_closed
    }
}

pub(super) fn simple(number: u8, recipient: u32) -> Vec<u8> {
    let mut out = vec![number];
    out.put_u32(recipient);
    out
}

pub(super) fn adjust(recipient: u32, bytes: u32) -> Vec<u8> {
    let mut out = simple(msg::CHANNEL_WINDOW_ADJUST, recipient);
    out.put_u32(bytes);
    out
}

pub(super) fn data(recipient: u32, extended: Option<u32>, bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len() + 16);
    match extended {
        None => out.put_u8(msg::CHANNEL_DATA),
        Some(_) => out.put_u8(msg::CHANNEL_EXTENDED_DATA),
    }
    out.put_u32(recipient);
    if let Some(kind) = extended {
        out.put_u32(kind);
    }
    put_string(&mut out, bytes);
    out
}

pub(super) fn exit_status(recipient: u32, status: u32) -> Vec<u8> {
    let mut out = simple(msg::CHANNEL_REQUEST, recipient);
    put_string(&mut out, b"exit-status");
    out.put_u8(0);
    out.put_u32(status);
    out
}

pub(super) fn signal(recipient: u32, name: &str) -> Vec<u8> {
    let mut out = simple(msg::CHANNEL_REQUEST, recipient);
    put_string(&mut out, b"signal");
    out.put_u8(0);
    put_string(&mut out, name.as_bytes());
    out
}

pub(super) fn open_failure(recipient: u32, code: u32, text: &str) -> Vec<u8> {
    let mut out = simple(msg::CHANNEL_OPEN_FAILURE, recipient);
    out.put_u32(code);
    put_string(&mut out, text.as_bytes());
    put_string(&mut out, b"");
    out
}
