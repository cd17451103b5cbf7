//! The client's messages (manual, "Message Formats", those marked F).

use std::sync::Arc;

use bytes::{Buf, Bytes, BytesMut};

use super::super::codec::{self, CodecError, Fields, HEADER, Message, WHOLE_MAX};
use super::super::plan::Copy;
use super::super::response::Report;
use super::super::rows::Origins;
use super::names::Found;
use super::{Asked, CopyIn, Expect, Fatal, Machine, Portal, Question, Waiting};
use crate::gate::Staged;
use crate::record::event::Bind;

/// The server cuts longer names (NAMEDATALEN), so that two that differ here would be one there.
const NAME_MAX: usize = 63;

/// Why reading the client's messages stopped.
#[derive(Debug)]
pub enum Next {
    /// More bytes are needed.
    Input,
    /// A statement waits for `permit` or `deny`.
    Ask(Question),
    /// The meaning of the next message depends on an answer the server has not given yet.
    Wait,
    /// The client said goodbye.
    Terminate,
}

impl<O: Origins> Machine<O> {
    /// Reads client messages up to the first that needs a decision; what needs none goes to `staged`.
    ///
    /// # Errors
    /// When the client does not speak the protocol.
    pub fn client(&mut self, input: &mut BytesMut, staged: &mut Staged) -> Result<Next, Fatal> {
        loop {
            if self.client_rest.0 > 0 && !self.stream_copy_data(input, staged) {
                return Ok(Next::Input);
            }
            let Some(header) = codec::header(input).map_err(Fatal::Client)? else { return Ok(Next::Input) };
            if matches!(header.tag, b'd' | b'c' | b'f') && self.copy_is_due() {
                return Ok(Next::Wait);
            }
            if header.tag == b'd' {
                self.start_copy_data(header.total);
                continue;
            }
            // A message that has to wait for the server stays in the buffer.
            if matches!(header.tag, b'B' | b'D' | b'E')
                && !self.skipping
                && self.copy_in != CopyIn::Open
                && self.unsettled(header.tag, input)?
            {
                return Ok(Next::Wait);
            }
            if !codec::is_whole(input, header, WHOLE_MAX).map_err(Fatal::Client)? {
                return Ok(Next::Input);
            }
            let read = !self.skipping && self.copy_in != CopyIn::Open;
            let next = if read && matches!(header.tag, b'Q' | b'P' | b'F') {
                // What is kept until it is decided on is not copied.
                self.asks(codec::split(input, header), staged)?
            } else {
                let message = input.get(..header.total).unwrap_or_default();
                let next = self.goes_on(header.tag, message, staged)?;
                input.advance(header.total);
                next
            };
            if let Some(next) = next {
                return Ok(next);
            }
        }
    }

    /// Query, Parse or FunctionCall.
    fn asks(&mut self, message: Message, staged: &mut Staged) -> Result<Option<Next>, Fatal> {
        match message.tag {
            b'Q' => self.query(message).map(Some),
            b'P' => self.parse(message, staged),
            _ => self.call(message).map(Some),
        }
    }

    /// Any other, or one that is not looked at.
    fn goes_on(&mut self, tag: u8, message: &[u8], staged: &mut Staged) -> Result<Option<Next>, Fatal> {
        if tag == b'X' {
            staged.continuation(message);
            return Ok(Some(Next::Terminate));
        }
        if self.copy_in == CopyIn::Open && matches!(tag, b'S' | b'H') {
            // The server ignores these during COPY (manual, "COPY Operations"): a client that sends
            // Execute and Sync in one go only learns afterwards that it has to send data.
            return Ok(None);
        }
        if self.copy_in == CopyIn::Open && !matches!(tag, b'c' | b'f') {
            return Err(Fatal::Unexpected { tag, why: "may not come inside COPY data" });
        }
        if self.skipping && tag != b'S' {
            return known(tag).map(|()| None);
        }
        match tag {
            b'B' => self.bind(message, staged)?,
            b'D' => self.describe(message, staged)?,
            b'E' => return self.execute(message, staged),
            b'C' => self.close(message, staged)?,
            b'H' => staged.continuation(message),
            b'S' => {
                codec::body(tag, message).end().map_err(Fatal::Client)?;
                self.skipping = false;
                self.group += 1;
                self.expect.push_back(Expect::Sync);
                staged.continuation(message);
            }
            b'c' | b'f' => {
                // Outside COPY the server ignores these; they are not worth sending.
                if self.copy_in == CopyIn::Open {
                    self.copy_in = CopyIn::Closing;
                    staged.continuation(message);
                }
            }
            tag => return known(tag).map(|()| None),
        }
        Ok(None)
    }

    fn query(&mut self, message: Message) -> Result<Next, Fatal> {
        let mut fields = message.body();
        let sql = text(fields.c_bytes().map_err(Fatal::Client)?)?;
        fields.end().map_err(|_| Fatal::Text)?;
        self.ops += 1;
        self.waiting = Some(Waiting::Query { op: self.ops, sql: Arc::clone(&sql), bytes: message.bytes });
        Ok(Next::Ask(Question { op: self.ops, what: Asked::Query { sql } }))
    }

    fn call(&mut self, message: Message) -> Result<Next, Fatal> {
        let (function, binds) = read_call(message.body()).map_err(Fatal::Client)?;
        self.ops += 1;
        self.waiting = Some(Waiting::Call { op: self.ops, bytes: message.bytes });
        Ok(Next::Ask(Question { op: self.ops, what: Asked::Call { function, binds } }))
    }

    fn parse(&mut self, message: Message, staged: &mut Staged) -> Result<Option<Next>, Fatal> {
        let mut fields = message.body();
        let name = message.bytes.slice_ref(fields.c_bytes().map_err(Fatal::Client)?);
        let sql = text(fields.c_bytes().map_err(Fatal::Client)?)?;
        let types = count(&mut fields).map_err(Fatal::Client)?;
        fields.bytes(types * 4).and_then(|_| fields.end()).map_err(Fatal::Client)?;
        self.ops += 1;
        let op = self.ops;
        if name.len() > NAME_MAX {
            self.poison_step(op, long_name(), staged);
            return Ok(None);
        }
        if self.statements.full() && !name.is_empty() {
            let report = Report::new("54000", "too many prepared statements in this session")
                .hint("Close or deallocate statements that are no longer used.");
            self.poison_step(op, report, staged);
            return Ok(None);
        }
        if let Some(report) = self.no_room(sql.len(), name.is_empty()) {
            self.poison_step(op, report, staged);
            return Ok(None);
        }
        self.waiting = Some(Waiting::Parse { op, name, sql: Arc::clone(&sql), bytes: message.bytes });
        Ok(Some(Next::Ask(Question { op, what: Asked::Prepare { sql } })))
    }

    fn bind(&mut self, message: &[u8], staged: &mut Staged) -> Result<(), Fatal> {
        let fields = codec::body(b'B', message);
        let Bound { name, statement, binds, formats } = read_bind(fields).map_err(Fatal::Client)?;
        let Found::This(statement) = self.statements.find(statement, self.group) else {
            self.unknown("26000", "prepared statement", statement, staged);
            return Ok(());
        };
        if name.len() > NAME_MAX || (self.portals.full() && !name.is_empty()) {
            self.ops += 1;
            let many = Report::new("54000", "too many portals in this transaction");
            let report = if name.len() > NAME_MAX { long_name() } else { many };
            self.poison_step(self.ops, report, staged);
            return Ok(());
        }
        if let Some(report) = self.no_room(message.len(), name.is_empty()) {
            self.ops += 1;
            self.poison_step(self.ops, report, staged);
            return Ok(());
        }
        let read_under = self.settings_now().filter(|now| statement.read_under.as_ref() == Some(now));
        let portal = Arc::new(Portal { statement, binds, read_under, formats, cursor: None });
        self.portals.define(name, self.group, Arc::clone(&portal));
        self.expect.push_back(Expect::Bind { name: Bytes::copy_from_slice(name), portal });
        staged.continuation(message);
        Ok(())
    }

    fn describe(&mut self, message: &[u8], staged: &mut Staged) -> Result<(), Fatal> {
        let (kind, name) = read_kind_and_name(codec::body(b'D', message)).map_err(Fatal::Client)?;
        match kind {
            b'S' => match self.statements.find(name, self.group) {
                Found::This(statement) => {
                    self.expect.push_back(Expect::DescribeStatement { statement, parameters_seen: false });
                    staged.continuation(message);
                }
                _ => self.unknown("26000", "prepared statement", name, staged),
            },
            b'P' => match self.portals.find(name, self.group) {
                Found::This(portal) => {
                    self.expect.push_back(Expect::DescribePortal { portal, swallow: false });
                    staged.continuation(message);
                }
                _ => self.unknown("34000", "portal", name, staged),
            },
            _ => return Err(Fatal::Unexpected { tag: b'D', why: "names neither a statement nor a portal" }),
        }
        Ok(())
    }

    fn execute(&mut self, message: &[u8], staged: &mut Staged) -> Result<Option<Next>, Fatal> {
        let mut fields = codec::body(b'E', message);
        let name = fields.c_bytes().map_err(Fatal::Client)?;
        let most = fields.i32().and_then(|most| fields.end().map(|()| most)).map_err(Fatal::Client)?;
        let Found::This(portal) = self.portals.find(name, self.group) else {
            self.unknown("34000", "portal", name, staged);
            return Ok(None);
        };
        self.ops += 1;
        let op = self.ops;
        let name = Bytes::copy_from_slice(name);
        self.waiting = Some(Waiting::Execute { op, portal: Arc::clone(&portal), name, most });
        Ok(Some(Next::Ask(Question { op, what: Asked::Execute { portal } })))
    }

    fn close(&mut self, message: &[u8], staged: &mut Staged) -> Result<(), Fatal> {
        let (kind, name) = read_kind_and_name(codec::body(b'C', message)).map_err(Fatal::Client)?;
        if name.len() > NAME_MAX {
            self.ops += 1;
            self.poison_step(self.ops, long_name(), staged);
            return Ok(());
        }
        let name = Bytes::copy_from_slice(name);
        self.expect.push_back(match kind {
            b'S' => Expect::CloseStatement(name),
            b'P' => Expect::ClosePortal(name),
            _ => return Err(Fatal::Unexpected { tag: b'C', why: "names neither a statement nor a portal" }),
        });
        staged.continuation(message);
        Ok(())
    }

    /// A name the agent does not know must not reach the server, which might know it as something undecided.
    fn unknown(&mut self, code: &'static str, what: &str, name: &[u8], staged: &mut Staged) {
        self.ops += 1;
        let name = String::from_utf8_lossy(name);
        let report = Report::new(code, format!("{what} \"{name}\" does not exist"));
        self.poison_step(self.ops, report, staged);
    }

    /// True when the message at the front names something whose definition the server has yet to confirm.
    fn unsettled(&self, tag: u8, input: &BytesMut) -> Result<bool, Fatal> {
        let Some(header) = codec::header(input).map_err(Fatal::Client)? else { return Ok(false) };
        let end = header.total.min(input.len());
        let mut fields = Fields::new(tag, input.get(HEADER..end).unwrap_or_default());
        // A name that is not whole yet cannot be judged; the message is not whole either.
        let portal = |name: &[u8]| self.portals.is_unsettled(name, self.group);
        let statement = |name: &[u8]| self.statements.is_unsettled(name, self.group);
        Ok(match tag {
            b'B' => {
                let (Ok(_), Ok(name)) = (fields.c_bytes(), fields.c_bytes()) else { return Ok(false) };
                statement(name)
            }
            b'D' => match (fields.u8(), fields.c_bytes()) {
                (Ok(b'S'), Ok(name)) => statement(name),
                (Ok(_), Ok(name)) => portal(name),
                _ => false,
            },
            _ => fields.c_bytes().is_ok_and(portal),
        })
    }

    /// True when a COPY FROM STDIN is on its way and the server has not asked for the rows yet. Some clients send
    /// them all the same; whether they are rows or strays shows with the server's answer.
    fn copy_is_due(&self) -> bool {
        self.copy_in == CopyIn::No
            && self.expect.iter().any(|expect| match expect {
                Expect::Execute(run) | Expect::Query { run, failed: false } => {
                    run.plan.unread
                        || run.plan.statements.iter().any(|statement| statement.copy == Some(Copy::In))
                }
                _ => false,
            })
    }

    fn start_copy_data(&mut self, total: usize) {
        // Outside COPY the server would ignore it, so it goes no further.
        self.client_rest = (total, self.copy_in == CopyIn::Open);
        self.client_head = HEADER;
    }

    /// True when the CopyData at hand is through.
    fn stream_copy_data(&mut self, input: &mut BytesMut, staged: &mut Staged) -> bool {
        let (rest, keep) = self.client_rest;
        let now = rest.min(input.len());
        if keep {
            staged.continuation(input.get(..now).unwrap_or_default());
            self.streamed_to_server(input.get(self.client_head.min(now)..now).unwrap_or_default());
        }
        self.client_head -= self.client_head.min(now);
        input.advance(now);
        self.client_rest.0 = rest - now;
        self.client_rest.0 == 0
    }
}

fn long_name() -> Report {
    Report::new("42622", format!("names of statements and portals have at most {NAME_MAX} bytes"))
}

/// Everything a client of protocol 3 may send after login; all else ends the session.
fn known(tag: u8) -> Result<(), Fatal> {
    match tag {
        b'Q' | b'P' | b'B' | b'D' | b'E' | b'C' | b'H' | b'S' | b'F' | b'c' | b'd' | b'f' => Ok(()),
        b'p' => Err(Fatal::Unexpected { tag, why: "only belongs into a login" }),
        tag => Err(Fatal::Unexpected { tag, why: "is not a message of protocol 3" }),
    }
}

fn text(bytes: &[u8]) -> Result<Arc<str>, Fatal> {
    std::str::from_utf8(bytes).map(Arc::from).map_err(|_| Fatal::Text)
}

fn count(fields: &mut Fields<'_>) -> Result<usize, CodecError> {
    // The field is an Int16 that servers read as unsigned, so that 65,535 parameters fit.
    fields.i16().map(|n| usize::from(n.cast_unsigned()))
}

fn read_kind_and_name(mut fields: Fields<'_>) -> Result<(u8, &[u8]), CodecError> {
    let kind = fields.u8()?;
    let name = fields.c_bytes()?;
    fields.end()?;
    Ok((kind, name))
}

/// What a Bind says.
struct Bound<'a> {
    name: &'a [u8],
    statement: &'a [u8],
    binds: Arc<[Bind]>,
    formats: Box<[i16]>,
}

fn read_bind(mut fields: Fields<'_>) -> Result<Bound<'_>, CodecError> {
    let name = fields.c_bytes()?;
    let statement = fields.c_bytes()?;
    let binds = read_values(&mut fields, b'B')?;
    let results = count(&mut fields)?;
    let mut formats = Vec::with_capacity(results);
    for _ in 0..results {
        formats.push(fields.i16()?);
    }
    fields.end()?;
    Ok(Bound { name, statement, binds, formats: formats.into() })
}

fn read_call(mut fields: Fields<'_>) -> Result<(u32, Arc<[Bind]>), CodecError> {
    let function = fields.i32()?.cast_unsigned();
    let binds = read_values(&mut fields, b'F')?;
    fields.i16()?;
    fields.end()?;
    Ok((function, binds))
}

/// Format codes, then the values they are for.
fn read_values(fields: &mut Fields<'_>, tag: u8) -> Result<Arc<[Bind]>, CodecError> {
    let formats = count(fields)?;
    let mut codes = Fields::new(tag, fields.bytes(formats * 2)?);
    let values = count(fields)?;
    if formats > 1 && formats != values {
        return Err(CodecError::Truncated { tag });
    }
    let mut code = 0;
    let mut binds = Vec::with_capacity(values);
    for _ in 0..values {
        // One counts for all, none means text.
        if codes.left() > 0 {
            code = codes.i16()?;
        }
        binds.push(bind(fields.value()?, code == 1));
    }
    Ok(binds.into())
}

/// A value as the journal keeps it.
fn bind(value: Option<&[u8]>, binary: bool) -> Bind {
    use base64::Engine;
    use sha2::Digest;

    /// Longer values are kept by digest.
    const KEPT: usize = 4 << 10;
    match value {
        None => Bind::Null,
        Some(bytes) if bytes.len() > KEPT => {
            Bind::Digest { bytes: bytes.len() as u64, sha256: crate::hex(&sha2::Sha256::digest(bytes)) }
        }
        Some(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) if !binary => Bind::Text(text.to_owned()),
            _ => Bind::Binary(base64::engine::general_purpose::STANDARD.encode(bytes)),
        },
    }
}
