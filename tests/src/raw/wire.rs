//! Messages of protocol 3.0, made and taken apart; a connection that keeps all it receives.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result, bail};

/// Longer than any statement may run on the server, on a machine that is busy with other things.
const PATIENCE: Duration = Duration::from_secs(20);

/// More than any answer to a case has.
const MOST: usize = 8 << 20;

/// How an exchange came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// As many ReadyForQuery as were due.
    Ready,
    Closed,
    /// Nothing came for a long time: somebody lost count.
    Silent,
    /// More came than anybody wants to look at.
    Endless,
}

/// What has to come before an answer is whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Due {
    /// As many ReadyForQuery.
    Ready(usize),
    /// ParseComplete, or an error instead.
    Parsed,
    /// The end of the connection.
    Close,
}

impl Due {
    fn after(self, tag: u8) -> Self {
        match (self, tag) {
            (Self::Ready(count), b'Z') => Self::Ready(count.saturating_sub(1)),
            (Self::Parsed, b'1' | b'E') => Self::Ready(0),
            (due, _) => due,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) tag: u8,
    pub(super) body: Vec<u8>,
}

/// Where to connect to, as whom.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) host: &'a str,
    pub(super) port: u16,
    pub(super) user: &'a str,
    pub(super) database: &'a str,
}

pub(super) struct Connection {
    stream: TcpStream,
    unread: Vec<u8>,
    pub(super) received: Vec<Message>,
}

impl Connection {
    pub(super) fn open(at: &Place<'_>) -> Result<Self> {
        let stream = TcpStream::connect((at.host, at.port)).context("connecting")?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        let mut connection = Self { stream, unread: Vec::new(), received: Vec::new() };
        let mut body = 196_608u32.to_be_bytes().to_vec();
        for text in ["user", at.user, "database", at.database, "client_encoding", "UTF8", ""] {
            string(&mut body, text);
        }
        let mut startup = length(&body).to_vec();
        startup.extend_from_slice(&body);
        match connection.exchange(&startup, 1)? {
            Ending::Ready => {
                connection.received.clear();
                Ok(connection)
            }
            ending => bail!("no login: {ending:?}, {:?}", connection.received),
        }
    }

    /// Sends all of it and reads until that many ReadyForQuery came.
    pub(super) fn exchange(&mut self, bytes: &[u8], due: usize) -> Result<Ending> {
        let mut due = if self.send(bytes) { Due::Ready(due) } else { Due::Close };
        self.read(&mut due)
    }

    /// Whether it went out; who closed the connection may have said why.
    pub(super) fn send(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).is_ok()
    }

    /// How long it is waited for more, from now on.
    pub(super) fn patience(&self, patience: Duration) -> Result<()> {
        Ok(self.stream.set_read_timeout(Some(patience))?)
    }

    /// Reads on; `due` stays as it is where nothing more came in time.
    pub(super) fn read(&mut self, due: &mut Due) -> Result<Ending> {
        let mut chunk = [0; 16 << 10];
        let mut sum = 0;
        loop {
            while let Some(message) = take(&mut self.unread) {
                *due = due.after(message.tag);
                self.received.push(message);
            }
            if *due == Due::Ready(0) && self.unread.is_empty() {
                return Ok(Ending::Ready);
            }
            match self.stream.read(&mut chunk) {
                Ok(0) => return Ok(Ending::Closed),
                Ok(_) if sum > MOST => return Ok(Ending::Endless),
                Ok(count) => {
                    sum += count;
                    self.unread.extend_from_slice(&chunk[..count]);
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return Ok(Ending::Silent),
                Err(_) => return Ok(Ending::Closed),
            }
        }
    }
}

fn take(bytes: &mut Vec<u8>) -> Option<Message> {
    let [tag, size @ ..] = *bytes.first_chunk::<5>()?;
    let end = 1 + u32::from_be_bytes(size) as usize;
    if bytes.len() < end {
        return None;
    }
    let rest = bytes.split_off(end);
    let whole = std::mem::replace(bytes, rest);
    Some(Message { tag, body: whole[5..].to_vec() })
}

fn length(body: &[u8]) -> [u8; 4] {
    u32::try_from(body.len() + 4).unwrap_or(u32::MAX).to_be_bytes()
}

fn string(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(text.as_bytes());
    out.push(0);
}

fn message(tag: u8, fill: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut body = Vec::new();
    fill(&mut body);
    let mut out = vec![tag];
    out.extend_from_slice(&length(&body));
    out.extend_from_slice(&body);
    out
}

pub(super) fn query(sql: &str) -> Vec<u8> {
    message(b'Q', |out| string(out, sql))
}

pub(super) fn parse(name: &str, sql: &str) -> Vec<u8> {
    message(b'P', |out| {
        string(out, name);
        string(out, sql);
        out.extend_from_slice(&[0, 0]);
    })
}

/// All parameters are the text `1`; all results come as text, or all binary.
pub(super) fn bind(portal: &str, statement: &str, parameters: u16, binary: bool) -> Vec<u8> {
    message(b'B', |out| {
        string(out, portal);
        string(out, statement);
        out.extend_from_slice(&[0, 0]);
        out.extend_from_slice(&parameters.to_be_bytes());
        for _ in 0..parameters {
            out.extend_from_slice(&[0, 0, 0, 1, b'1']);
        }
        out.extend_from_slice(&[0, 1, 0, u8::from(binary)]);
    })
}

/// `kind` is `S` for a statement and `P` for a portal.
pub(super) fn describe(kind: u8, name: &str) -> Vec<u8> {
    message(b'D', |out| {
        out.push(kind);
        string(out, name);
    })
}

pub(super) fn execute(portal: &str, rows: u32) -> Vec<u8> {
    message(b'E', |out| {
        string(out, portal);
        out.extend_from_slice(&rows.to_be_bytes());
    })
}

pub(super) fn close(kind: u8, name: &str) -> Vec<u8> {
    message(b'C', |out| {
        out.push(kind);
        string(out, name);
    })
}

pub(super) fn sync() -> Vec<u8> {
    message(b'S', |_| {})
}

pub(super) fn flush() -> Vec<u8> {
    message(b'H', |_| {})
}

pub(super) fn copy_data(rows: &[u8]) -> Vec<u8> {
    message(b'd', |out| out.extend_from_slice(rows))
}

pub(super) fn copy_done() -> Vec<u8> {
    message(b'c', |_| {})
}

pub(super) fn copy_fail(why: &str) -> Vec<u8> {
    message(b'f', |out| string(out, why))
}

/// Calls a function by its number, without arguments, as libpq's PQfn does.
pub(super) fn function_call(oid: u32) -> Vec<u8> {
    message(b'F', |out| {
        out.extend_from_slice(&oid.to_be_bytes());
        out.extend_from_slice(&[0, 0, 0, 0, 0, 0]);
    })
}

/// The fields of an error or a notice.
pub(super) fn field(message: &Message, wanted: u8) -> Option<String> {
    let fields = message.body.split(|byte| *byte == 0);
    let mut found = fields.filter_map(|field| field.split_first());
    let text = found.find(|(kind, _)| **kind == wanted)?.1;
    Some(String::from_utf8_lossy(text).into_owned())
}

/// What may differ between two sessions, taken out: keys, process ids, the numbers of requests.
pub(super) fn comparable(messages: &[Message]) -> Vec<Message> {
    let comparable = |message: &Message| match message.tag {
        b'K' => None,
        b'A' => Some(Message { tag: b'A', body: message.body.get(4..).unwrap_or_default().to_vec() }),
        b'T' => Some(Message { tag: b'T', body: without_tables(&message.body) }),
        b'E' | b'N' => Some(Message { tag: message.tag, body: without_requests(&message.body) }),
        _ => Some(message.clone()),
    };
    messages.iter().filter_map(comparable).collect()
}

/// Long runs of hexadecimal digits are a session's id, and the two databases have names: one `#` stands for either.
fn without_requests(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.first() {
        let digits = rest.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
        let database = rest.strip_prefix(b"leak_a").or_else(|| rest.strip_prefix(b"leak_b"));
        if digits >= 32 {
            out.push(b'#');
            rest = &rest[digits..];
        } else if let Some(number) = database {
            out.push(b'#');
            rest = &number[number.iter().take_while(|byte| byte.is_ascii_digit()).count()..];
        } else {
            out.push(*first);
            rest = &rest[1..];
        }
    }
    out
}

/// A row description without the numbers of tables, which are not the same in two databases.
fn without_tables(description: &[u8]) -> Vec<u8> {
    /// Table, column, type, size, modifier, format.
    const NUMBERS: usize = 18;
    let (count, mut rest) = description.split_at(description.len().min(2));
    let mut out = count.to_vec();
    while let Some(end) = rest.iter().position(|byte| *byte == 0) {
        let Some(numbers) = rest.get(end + 1..end + 1 + NUMBERS) else { break };
        out.extend_from_slice(&rest[..=end]);
        out.extend_from_slice(&numbers[4..]);
        rest = &rest[end + 1 + NUMBERS..];
    }
    out
}
