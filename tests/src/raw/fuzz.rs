//! Random sessions in two databases that differ in masked values only. Nothing planted may be in what comes back, and
//! what comes back must be the same: a count, an error or an order that differs tells a value as well.

use std::io::Write;
use std::ops::Range;

use anyhow::Result;

use super::cases;
use super::secrets::Secrets;
use super::session::{self, PROBE, Step};
use super::wire::{self, Connection, Ending, Message, Place};

#[derive(Default)]
struct Tally {
    sessions: usize,
    exchanges: usize,
    rows: usize,
    denied: usize,
    errors: usize,
    ended: usize,
    timed_out: usize,
    findings: usize,
}

/// Plays the sessions of these seeds; prints findings, and a line of counts.
pub(super) fn run(places: &[Place<'_>; 2], secrets: &Secrets, seeds: Range<u64>) -> Result<()> {
    let mut out = std::io::stdout().lock();
    let cases = texts()?;
    let mut tally = Tally::default();
    for seed in seeds {
        let steps = session::session(seed, &cases);
        let mut both = Vec::new();
        for place in places {
            both.push(play(place, &steps)?);
        }
        tally.sessions += 1;
        tally.exchanges += steps.len();
        if let [a, b] = both.as_slice() {
            tally.count(a);
            for finding in findings(&steps, a, b, secrets) {
                tally.findings += 1;
                writeln!(out, "FINDING seed {seed}: {finding}")?;
            }
        }
    }
    writeln!(
        out,
        "sessions {} exchanges {} rows {} denied {} errors {} ended {} timed-out {} findings {}",
        tally.sessions,
        tally.exchanges,
        tally.rows,
        tally.denied,
        tally.errors,
        tally.ended,
        tally.timed_out,
        tally.findings
    )?;
    Ok(())
}

/// Prints what a seed stands for.
pub(super) fn show(seed: u64) -> Result<()> {
    let mut out = std::io::stdout().lock();
    for step in session::session(seed, &texts()?) {
        writeln!(out, "{}", step.shown)?;
    }
    Ok(())
}

/// The statements of the cases that answer alike in both databases.
pub(super) fn texts() -> Result<Vec<String>> {
    let cases = cases::all()?;
    // What waits for rows is sent with rows, elsewhere.
    let waits = |sql: &String| sql.to_ascii_uppercase().contains("FROM STDIN");
    let all = cases.into_iter().flat_map(|case| case.strings).filter(|sql| !waits(sql));
    Ok(all.filter(|sql| !cases::is_own(sql) && sql.len() < 1000).collect())
}

/// What one exchange brought.
struct Answer {
    messages: Vec<Message>,
    ending: Ending,
}

fn play(place: &Place<'_>, steps: &[Step]) -> Result<Vec<Answer>> {
    let mut connection = Connection::open(place)?;
    let mut answers = Vec::new();
    for step in steps {
        let ending = connection.exchange(&step.bytes, step.due)?;
        answers.push(Answer { messages: std::mem::take(&mut connection.received), ending });
        if ending != Ending::Ready {
            break;
        }
    }
    Ok(answers)
}

fn findings(steps: &[Step], a: &[Answer], b: &[Answer], secrets: &Secrets) -> Vec<String> {
    let mut sent = Vec::new();
    let mut found = Vec::new();
    for (index, step) in steps.iter().enumerate() {
        sent.extend_from_slice(&step.bytes);
        let (Some(a), Some(b)) = (a.get(index), b.get(index)) else { break };
        for answer in [a, b] {
            let bytes: Vec<u8> = answer.messages.iter().flat_map(|message| message.body.clone()).collect();
            if let Some(place) = secrets.found(&bytes, &sent) {
                found.push(format!("{place} came back from: {}", story(steps, index)));
            }
            if answer.ending == Ending::Silent {
                found.push(format!("no end of the answer to: {}", story(steps, index)));
            }
        }
        if [a, b].iter().any(|answer| timed_out(answer)) {
            return found;
        }
        // Where the cases speak of what two sessions never share, only the bytes were looked at.
        let own = steps[..=index].iter().any(|step| cases::is_own(&step.shown));
        let (left, right) = (wire::comparable(&a.messages), wire::comparable(&b.messages));
        if !own && left != right {
            let at = left
                .iter()
                .zip(&right)
                .position(|(left, right)| left != right)
                .unwrap_or(left.len().min(right.len()));
            found.push(format!(
                "answers differ, {} against {}, after: {}",
                readable(left.get(at)),
                readable(right.get(at)),
                story(steps, index)
            ));
            return found;
        }
        if step.shown == PROBE && a.ending == Ending::Ready && !in_step(&a.messages) {
            found.push(format!("out of step after: {}", story(steps, index)));
        }
    }
    found
}

pub(super) fn in_step(messages: &[Message]) -> bool {
    let tags: Vec<u8> =
        messages.iter().map(|message| message.tag).filter(|tag| !b"NSA".contains(tag)).collect();
    tags == b"TDCZ" && messages.iter().any(|message| message.body.ends_with(b"in step"))
}

fn timed_out(answer: &Answer) -> bool {
    errors(answer).any(|error| wire::field(error, b'C').is_some_and(|code| code == "57014"))
}

fn errors(answer: &Answer) -> impl Iterator<Item = &Message> {
    answer.messages.iter().filter(|message| message.tag == b'E')
}

fn readable(message: Option<&Message>) -> String {
    let Some(message) = message else { return "nothing".to_owned() };
    let text: String = String::from_utf8_lossy(&message.body).chars().take(160).collect();
    format!("{}:{text:?}", char::from(message.tag))
}

fn story(steps: &[Step], last: usize) -> String {
    let steps: Vec<&str> = steps[..=last].iter().map(|step| step.shown.as_str()).collect();
    steps.join("\n      ")
}

impl Tally {
    fn count(&mut self, answers: &[Answer]) {
        for answer in answers {
            self.rows += answer.messages.iter().filter(|message| message.tag == b'D').count();
            for error in errors(answer) {
                let denied =
                    wire::field(error, b'M').is_some_and(|text| text.starts_with("denied by policy"));
                if denied { self.denied += 1 } else { self.errors += 1 }
            }
            self.timed_out += usize::from(timed_out(answer));
            self.ended += usize::from(answer.ending == Ending::Closed);
        }
    }
}
