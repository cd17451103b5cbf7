//! Receivers to be told: what a syslog daemon and a collector do, so far that it can be seen what they got.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::harness::spawn::wait_for;

pub(super) fn accept(listener: &TcpListener) -> Result<TcpStream> {
    listener.set_nonblocking(true)?;
    let stream = wait_for("the agent's connection", Duration::from_secs(40), || match listener.accept() {
        Ok((stream, _)) => Ok(Some(stream)),
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error.into()),
    })?;
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    Ok(stream)
}

/// One message of RFC 6587, octet counting.
pub(super) fn counted(stream: &mut impl Read) -> Result<String> {
    let mut length = String::new();
    loop {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        if byte == *b" " {
            break;
        }
        length.push(char::from(byte[0]));
    }
    let mut text = vec![0; length.parse().with_context(|| length.clone())?];
    stream.read_exact(&mut text)?;
    Ok(String::from_utf8(text)?)
}

/// The body of a POST to `path`.
pub(super) fn posted(stream: &mut TcpStream, path: &str) -> Result<Vec<u8>> {
    let mut seen = Vec::new();
    let mut part = [0; 65536];
    loop {
        if let Some(end) = seen.windows(4).position(|four| four == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&seen[..end]).to_lowercase();
            ensure!(head.starts_with(&format!("post {path} http/1.1\r\n")), "{head}");
            ensure!(head.contains("\r\ncontent-type: application/json"), "{head}");
            let length = head.split("content-length: ").nth(1).and_then(|rest| rest.lines().next());
            let length: usize = length.context("no length")?.trim().parse()?;
            if seen.len() >= end + 4 + length {
                return Ok(seen[end + 4..end + 4 + length].to_vec());
            }
        }
        let read = stream.read(&mut part)?;
        ensure!(read > 0, "the request ended early");
        seen.extend_from_slice(&part[..read]);
    }
}

pub(super) fn answer(stream: &mut TcpStream, status: &str) -> Result<()> {
    Ok(write!(stream, "HTTP/1.1 {status}\r\nContent-Length: 2\r\n\r\n{{}}")?)
}

/// The events in an ExportLogsServiceRequest.
pub(super) fn logged(body: &[u8]) -> Result<Vec<Value>> {
    let body: Value = serde_json::from_slice(body)?;
    let records = body["resourceLogs"][0]["scopeLogs"][0]["logRecords"].as_array().cloned();
    let texts = records.context("no records")?;
    texts
        .iter()
        .map(|it| Ok(serde_json::from_str(it["body"]["stringValue"].as_str().context("no body")?)?))
        .collect()
}

/// Numbers from 1 on, none missing; a number that comes again is the same event.
pub(super) fn no_gaps<'a>(values: impl Iterator<Item = &'a Value>) -> Result<usize> {
    let mut seen: Vec<&Value> = Vec::new();
    for value in values {
        let number = usize::try_from(value["number"].as_u64().context("no number")?)?;
        ensure!((1..=seen.len() + 1).contains(&number), "{number} after {}", seen.len());
        match seen.get(number - 1) {
            Some(before) => ensure!(before["seq"] == value["seq"], "{before} and {value}"),
            None => seen.push(value),
        }
    }
    Ok(seen.len())
}

pub(super) fn ended(values: &[Value], session: &str) -> bool {
    values.iter().any(|value| value["event"] == "session_end" && value["session"] == session)
}
