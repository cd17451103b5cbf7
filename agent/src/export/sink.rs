//! The receivers: a file of JSON lines, syslog over TCP or TLS (RFC 5424, 6587, 5425), OTLP over HTTP.
//!
//! Blocking, with time limits: each has a thread of its own. A message counts as told when the file is synced, the
//! collector answered 200, or the receiver's host acknowledged its bytes: syslog itself has no answer, so what that host
//! had taken when it died is missing there, and the numbers show it.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::json;

use super::SinkError;
use super::message::Message;
use super::peer::{Connection, Peer};
use crate::config::{Export, Receiver};

/// Facility 13 of RFC 5424: log audit.
const FACILITY: u8 = 13;
const WARNING: u8 = 4;
const INFORMATIONAL: u8 = 6;

pub(super) enum Sink {
    File(PathBuf),
    Syslog(Box<Syslog>),
    Otlp(Box<Otlp>),
}

impl Sink {
    pub(super) fn new(export: &Export) -> Result<Self, SinkError> {
        Ok(match &export.to {
            Receiver::File { path } => Self::File(path.clone()),
            Receiver::Syslog(address) => {
                Self::Syslog(Box::new(Syslog { peer: Peer::new(address)?, connection: None }))
            }
            Receiver::Otlp(collector) => Self::Otlp(Box::new(Otlp {
                peer: Peer::new(&collector.address)?,
                path: collector.path.clone(),
            })),
        })
    }

    /// Tells the receiver; when this fails it may have been told some of it.
    pub(super) fn send(&mut self, messages: &[Message]) -> Result<(), SinkError> {
        match self {
            Self::File(path) => {
                append(path, messages).map_err(|source| SinkError::File { path: path.clone(), source })
            }
            Self::Syslog(syslog) => syslog.send(messages),
            Self::Otlp(otlp) => otlp.send(messages),
        }
    }
}

/// Opened anew each time, so that whoever rotates the file need not tell.
fn append(path: &Path, messages: &[Message]) -> io::Result<()> {
    let mut file = OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path)?;
    let mut lines = String::new();
    if !ends_whole(&file)? {
        // What a crash left of a line; the whole line follows again.
        lines.push('\n');
    }
    for message in messages {
        lines.push_str(&message.json);
        lines.push('\n');
    }
    file.write_all(lines.as_bytes())?;
    file.sync_data()
}

fn ends_whole(file: &File) -> io::Result<bool> {
    use std::os::unix::fs::FileExt as _;
    let Some(last) = file.metadata()?.len().checked_sub(1) else { return Ok(true) };
    let mut byte = [0];
    file.read_exact_at(&mut byte, last)?;
    Ok(byte == *b"\n")
}

pub(super) struct Syslog {
    peer: Peer,
    connection: Option<Connection>,
}

impl Syslog {
    fn send(&mut self, messages: &[Message]) -> Result<(), SinkError> {
        let mut out = Vec::new();
        for message in messages {
            let line = line(message);
            // Octet counting: a message may hold anything.
            out.extend_from_slice(format!("{} {line}", line.len()).as_bytes());
        }
        let kept = self.connection.take().and_then(|mut kept| kept.is_open().then_some(kept));
        let mut connection = match kept {
            Some(connection) => connection,
            None => self.peer.connect()?,
        };
        let network = |source| SinkError::Network { address: self.peer.address.clone(), source };
        let written = connection.write_all(&out).and_then(|()| connection.flush());
        written.and_then(|()| connection.settle()).map_err(network)?;
        self.connection = Some(connection);
        Ok(())
    }
}

/// A message of RFC 5424.
fn line(message: &Message) -> String {
    let priority = FACILITY * 8 + if message.bad { WARNING } else { INFORMATIONAL };
    let time = std::time::UNIX_EPOCH + Duration::from_nanos(message.time_ns);
    let time = humantime::format_rfc3339_micros(time);
    let word = |text: &str, most: usize| -> String {
        let plain: String = text.chars().filter(char::is_ascii_graphic).take(most).collect();
        if plain.is_empty() { "-".to_owned() } else { plain }
    };
    let (host, kind) = (word(&message.host, 255), word(&message.kind, 32));
    let pid = std::process::id();
    format!("<{priority}>1 {time} {host} chaperone {pid} {kind} - {}", message.json)
}

pub(super) struct Otlp {
    peer: Peer,
    path: String,
}

impl Otlp {
    fn send(&self, messages: &[Message]) -> Result<(), SinkError> {
        let answer = self.peer.post(&self.path, &otlp(messages).to_string())?;
        warn_of_rejected(&self.peer.address, &answer);
        Ok(())
    }
}

/// A collector may take a request and reject some of it; the protocol forbids to send that again.
pub(super) fn warn_of_rejected(address: &str, answer: &[u8]) {
    let answer: serde_json::Value = serde_json::from_slice(answer).unwrap_or_default();
    let partial = answer.get("partialSuccess");
    let rejected = partial
        .and_then(|partial| partial.get("rejectedLogRecords").or_else(|| partial.get("rejectedDataPoints")));
    // Numbers of 64 bits are text in OTLP's JSON, which not everybody keeps to.
    let is_none = |count: &serde_json::Value| *count == json!(0) || *count == json!("0");
    if let Some(rejected) = rejected.filter(|count| !is_none(count)) {
        let message = partial.and_then(|partial| partial.get("errorMessage"));
        let message = message.and_then(serde_json::Value::as_str).unwrap_or_default();
        tracing::warn!(address, %rejected, message, "the collector rejected some of what it was told");
    }
}

/// An ExportLogsServiceRequest in OTLP's JSON.
fn otlp(messages: &[Message]) -> serde_json::Value {
    let text = |key: &str, value: &str| json!({ "key": key, "value": { "stringValue": value } });
    let records: Vec<serde_json::Value> = messages
        .iter()
        .map(|message| {
            let (number, severity) = if message.bad { (13, "WARN") } else { (9, "INFO") };
            json!({
                "timeUnixNano": message.time_ns.to_string(),
                "observedTimeUnixNano": message.time_ns.to_string(),
                "severityNumber": number,
                "severityText": severity,
                "body": { "stringValue": message.json },
                "attributes": [
                    text("event.name", &message.kind),
                    { "key": "chaperone.number", "value": { "intValue": message.number.to_string() } },
                ],
            })
        })
        .collect();
    let host = messages.first().map_or("", |message| message.host.as_str());
    json!({ "resourceLogs": [{
        "resource": { "attributes": [text("service.name", "chaperone"), text("host.name", host)] },
        "scopeLogs": [{ "scope": { "name": "chaperone", "version": env!("CARGO_PKG_VERSION") }, "logRecords": records }],
    }] })
}
