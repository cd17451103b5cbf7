//! Statements and results, packed. They are nearly all that is in a journal, and as JSON each would take three times the
//! room, and longer to write than to decide.
//!
//! Owns the payloads of the two kinds of record: a version, then the fields in the order they are declared here, in the form of
//! postcard (<https://postcard.jamesmunns.com/wire-format>). So whatever changes in them is a new version. What is not as
//! it is in every record, an id that is no UUID or a digest that is none, is not packed: such an event is recorded as JSON.

use std::borrow::Cow;
use std::sync::Arc;

use postcard::ser_flavors::Flavor;
use serde::{Deserialize, Serialize, Serializer};
use uuid::Uuid;

use super::event::{Bind, Event, Step, Verdict};
use super::format::{Frame, Kind, hex, unhex};
use super::served::{self, Served};

/// First number of the payload.
const VERSION: u8 = 0;

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Statement<'a> {
    version: u8,
    session: Uuid,
    pub(super) op: u64,
    step: Step,
    pub(super) verdict: Verdict,
    pub(super) sql: &'a str,
    /// SHA-256 of the text; empty where that is another operation's.
    #[serde(borrow)]
    digest: Raw<'a>,
    prepared: Option<u64>,
    binds: Cow<'a, [Bind]>,
    policies: Cow<'a, [String]>,
    /// The 8 bytes of it that the event has, or none.
    #[serde(borrow)]
    policy: Raw<'a>,
    reason: Option<&'a str>,
    masked: Cow<'a, [String]>,
    hold: Option<&'a str>,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Outcome<'a> {
    version: u8,
    session: Uuid,
    op: u64,
    rows: u64,
    bytes: u64,
    masked_cells: u64,
    tag: &'a str,
    sqlstate: Option<&'a str>,
    served_to: Option<u64>,
    /// What the client is served up to the result, where it was not recorded before.
    #[serde(borrow)]
    part: Option<Part<'a>>,
}

/// Of what a session is served; as in a record of its own ([`served`]).
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Part<'a> {
    pub(super) offset: u64,
    pub(super) coding: u8,
    pub(super) length: u32,
    #[serde(borrow)]
    pub(super) data: Raw<'a>,
}

/// Bytes that are copied as a whole.
#[derive(Debug, PartialEq, Eq, Deserialize)]
pub(super) struct Raw<'a>(#[serde(borrow)] pub(super) &'a [u8]);

impl Serialize for Raw<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(self.0)
    }
}

/// What both begin with.
#[derive(Deserialize)]
struct Beginning {
    version: u8,
    session: Uuid,
}

/// Bytes of a statement that its event has as digits.
#[derive(Default)]
struct Digests {
    text: Option<[u8; 32]>,
    policy: Option<[u8; 8]>,
}

impl<'a> Statement<'a> {
    /// `None` where `event` is no statement, or none that can be packed.
    fn of(event: &'a Event, digests: &'a mut Digests) -> Option<Self> {
        let Event::Statement {
            session,
            op,
            step,
            sql,
            sql_sha256,
            prepared,
            binds,
            verdict,
            policies,
            policy,
            reason,
            masked,
            hold,
        } = event
        else {
            return None;
        };
        let session = uuid(session)?;
        *digests = Digests { text: digits(sql_sha256)?, policy: digits(policy)? };
        Some(Self {
            version: VERSION,
            session,
            op: *op,
            step: *step,
            verdict: *verdict,
            sql,
            digest: Raw(digests.text.as_ref().map_or(&[], <[u8; 32]>::as_slice)),
            prepared: *prepared,
            binds: Cow::Borrowed(binds),
            policies: Cow::Borrowed(policies),
            policy: Raw(digests.policy.as_ref().map_or(&[], <[u8; 8]>::as_slice)),
            reason: reason.as_deref(),
            masked: Cow::Borrowed(masked),
            hold: hold.as_deref(),
        })
    }
}

impl<'a> Outcome<'a> {
    /// `None` where `event` is no result, or none that can be packed.
    pub(super) fn of(event: &'a Event) -> Option<Self> {
        let Event::Result { session, op, rows, bytes, masked_cells, tag, sqlstate, served_to } = event else {
            return None;
        };
        Some(Self {
            version: VERSION,
            session: uuid(session)?,
            op: *op,
            rows: *rows,
            bytes: *bytes,
            masked_cells: *masked_cells,
            tag,
            sqlstate: sqlstate.as_deref(),
            served_to: *served_to,
            part: None,
        })
    }

    pub(super) fn with(self, part: Part<'a>) -> Self {
        Self { part: Some(part), ..self }
    }

    pub(super) fn put(&self, out: &mut Vec<u8>) -> Result<(), postcard::Error> {
        postcard::serialize_with_flavor(self, End(out))
    }
}

/// Packs `event` to the end of `out`, where it is one that is packed.
pub(super) fn pack(event: &Event, out: &mut Vec<u8>) -> Result<Option<Kind>, postcard::Error> {
    let mut digests = Digests::default();
    if let Some(statement) = Statement::of(event, &mut digests) {
        return postcard::serialize_with_flavor(&statement, End(out)).map(|()| Some(Kind::Statement));
    }
    let Some(outcome) = Outcome::of(event) else { return Ok(None) };
    outcome.put(out).map(|()| Some(Kind::Result))
}

/// The event in a record, if it is one that is known here.
pub(super) fn event(frame: &Frame<'_>) -> Option<Event> {
    match frame.kind {
        Kind::Event => serde_json::from_slice(frame.payload).ok(),
        Kind::Statement => statement(frame.payload).map(Event::from),
        Kind::Result => outcome(frame.payload).map(Event::from),
        Kind::Checkpoint | Kind::Tree | Kind::Served | Kind::Sealed => None,
    }
}

/// The statement in the payload of such a record.
pub(super) fn statement(payload: &[u8]) -> Option<Statement<'_>> {
    whole(payload).filter(|statement: &Statement<'_>| statement.version == VERSION)
}

fn outcome(payload: &[u8]) -> Option<Outcome<'_>> {
    whole(payload).filter(|outcome: &Outcome<'_>| outcome.version == VERSION)
}

fn whole<'a, T: Deserialize<'a>>(payload: &'a [u8]) -> Option<T> {
    postcard::take_from_bytes(payload).ok().and_then(|(it, rest)| rest.is_empty().then_some(it))
}

/// What a client was served, in a record that holds some of it.
pub(super) fn served<'a>(frame: &Frame<'a>) -> Option<Served<'a>> {
    match frame.kind {
        Kind::Served => served::decode(frame.payload),
        Kind::Result => {
            let Part { offset, coding, length, data } = outcome(frame.payload)?.part?;
            Some(Served { offset, bytes: served::plain(coding, length, data.0)? })
        }
        Kind::Event | Kind::Statement | Kind::Checkpoint | Kind::Tree | Kind::Sealed => None,
    }
}

/// Whose record it is, of those that are packed; at next to no cost.
pub(super) fn session(frame: &Frame<'_>) -> Option<Uuid> {
    if !matches!(frame.kind, Kind::Statement | Kind::Result) {
        return None;
    }
    let (beginning, _rest) = postcard::take_from_bytes::<Beginning>(frame.payload).ok()?;
    (beginning.version == VERSION).then_some(beginning.session)
}

/// The bytes of a digest, of one that is left out none; `None` where it is something else.
fn digits<const N: usize>(text: &str) -> Option<Option<[u8; N]>> {
    if text.is_empty() { Some(None) } else { unhex(text).map(Some) }
}

/// An id as sessions have it: a UUID, in 32 digits.
pub(super) fn uuid(id: &str) -> Option<Uuid> {
    let uuid = Uuid::try_parse(id).ok()?;
    (uuid.simple().encode_lower(&mut Uuid::encode_buffer()) == id).then_some(uuid)
}

impl Statement<'_> {
    pub(super) fn session(&self) -> String {
        self.session.simple().to_string()
    }
}

impl From<Statement<'_>> for Event {
    fn from(packed: Statement<'_>) -> Self {
        Self::Statement {
            session: packed.session().into(),
            op: packed.op,
            step: packed.step,
            sql: packed.sql.to_owned(),
            sql_sha256: hex(packed.digest.0),
            prepared: packed.prepared,
            binds: packed.binds.into_owned().into(),
            verdict: packed.verdict,
            policies: packed.policies.into_owned().into(),
            policy: hex(packed.policy.0).into(),
            reason: packed.reason.map(str::to_owned),
            masked: packed.masked.into_owned(),
            hold: packed.hold.map(str::to_owned),
        }
    }
}

impl From<Outcome<'_>> for Event {
    fn from(packed: Outcome<'_>) -> Self {
        Self::Result {
            session: Arc::from(packed.session.simple().to_string()),
            op: packed.op,
            rows: packed.rows,
            bytes: packed.bytes,
            masked_cells: packed.masked_cells,
            tag: packed.tag.to_owned(),
            sqlstate: packed.sqlstate.map(str::to_owned),
            served_to: packed.served_to,
        }
    }
}

/// Puts what is serialised at the end.
struct End<'a>(&'a mut Vec<u8>);

impl Flavor for End<'_> {
    type Output = ();

    fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
        self.0.push(byte);
        Ok(())
    }

    fn try_extend(&mut self, bytes: &[u8]) -> postcard::Result<()> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }

    fn finalize(self) -> postcard::Result<()> {
        Ok(())
    }
}
