//! Every case, each in the simple and the extended protocol, in text and binary: one line for each.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Write;

use anyhow::Result;

use super::cases::Case;
use super::secrets::Secrets;
use super::wire::{self, Connection, Ending, Message, Place};

/// Sends each case in these ways, `simple`, `text` or `binary`, and prints `id way verdict rows hash leak` for each case, separated by tabs.
pub(super) fn run(at: &Place<'_>, secrets: &Secrets, cases: Vec<Case>, ways: &[&str]) -> Result<()> {
    let mut out = std::io::stdout().lock();
    let mut connection = None;
    for case in cases {
        for way in ways {
            let mut open = match connection.take() {
                Some(open) => open,
                None => Connection::open(at)?,
            };
            let (ending, sent) = play(&mut open, &case, way)?;
            let received = std::mem::take(&mut open.received);
            let verdict = verdict(&received, ending);
            let rows = received.iter().filter(|message| matches!(message.tag, b'D' | b'd')).count();
            let bytes: Vec<u8> = received.iter().flat_map(|message| message.body.clone()).collect();
            let leak = secrets.found(&bytes, &sent).unwrap_or_default();
            writeln!(out, "{}\t{way}\t{verdict}\t{rows}\t{:016x}\t{leak}", case.id, hash(&received))?;
            // A session that may remember something is not used again.
            if ending == Ending::Ready && case.strings.len() == 1 && !remembers(&case.strings[0]) {
                connection = Some(open);
            }
        }
    }
    Ok(())
}

fn remembers(sql: &str) -> bool {
    let upper = sql.to_ascii_uppercase();
    ["SET", "RESET", "PREPARE", "DECLARE", "LISTEN", "TEMP", "COMMIT", "BEGIN", "DISCARD"]
        .iter()
        .any(|word| upper.contains(word))
}

/// Whether the case begins and ends transactions itself.
fn controls(case: &Case) -> bool {
    case.strings.iter().any(|sql| {
        let upper = sql.trim_start().to_ascii_uppercase();
        ["BEGIN", "START", "COMMIT", "ROLLBACK", "END", "ABORT"].iter().any(|word| upper.starts_with(word))
    })
}

/// Plays the case, rolled back where it does not control transactions itself. Gives all that was sent.
fn play(connection: &mut Connection, case: &Case, way: &str) -> Result<(Ending, Vec<u8>)> {
    let mut sent = Vec::new();
    let own = controls(case);
    if !own && connection.exchange(&wire::query("BEGIN"), 1)? != Ending::Ready {
        return Ok((Ending::Closed, sent));
    }
    connection.received.clear();
    let mut ending = Ending::Ready;
    for sql in &case.strings {
        let bytes = message(sql, way);
        sent.extend_from_slice(&bytes);
        ending = connection.exchange(&bytes, 1)?;
        if ending != Ending::Ready {
            return Ok((ending, sent));
        }
    }
    let kept = connection.received.len();
    if !own {
        ending = connection.exchange(&wire::query("ROLLBACK"), 1)?;
        connection.received.truncate(kept);
    }
    Ok((ending, sent))
}

fn message(sql: &str, way: &str) -> Vec<u8> {
    let upper = sql.to_ascii_uppercase();
    let copies = upper.starts_with("COPY") && upper.contains("STDIN");
    let body = if copies { [wire::copy_data(b"9\n"), wire::copy_done()].concat() } else { Vec::new() };
    if way == "simple" {
        return [wire::query(sql), body].concat();
    }
    let binary = way == "binary";
    let parameters = if sql.contains("$2") { 2 } else { u16::from(sql.contains("$1")) };
    let bind = wire::bind("", "", parameters, binary);
    // In binary the client does not ask what it will get, as drivers with prepared statements do.
    let describe = if binary { Vec::new() } else { wire::describe(b'P', "") };
    [wire::parse("", sql), bind, describe, wire::execute("", 0), body, wire::sync()].concat()
}

fn verdict(received: &[Message], ending: Ending) -> String {
    match ending {
        Ending::Closed => return "closed".to_owned(),
        Ending::Silent => return "silent".to_owned(),
        Ending::Endless => return "endless".to_owned(),
        Ending::Ready => {}
    }
    let Some(error) = received.iter().find(|message| message.tag == b'E') else { return "served".to_owned() };
    let denied = wire::field(error, b'M').is_some_and(|text| text.starts_with("denied by policy"));
    if denied { "denied".to_owned() } else { wire::field(error, b'C').unwrap_or_default() }
}

fn hash(received: &[Message]) -> u64 {
    let mut hasher = DefaultHasher::new();
    for message in wire::comparable(received) {
        (message.tag, message.body).hash(&mut hasher);
    }
    hasher.finish()
}
