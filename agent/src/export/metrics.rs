//! Numbers for Prometheus: text exposition over HTTP, on loopback addresses only.
//!
//! One connection after the other, on a thread of its own, with a time limit; nothing here can hold up a session. Once
//! another agent serves, this one lets go of the address.

use std::fmt::Write as _;
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tracing::warn;

use super::Progress;

/// For a question and its answer.
const TIME_LIMIT: Duration = Duration::from_secs(2);
/// How often it is looked whether this agent still serves, and whether an address is free.
const AGAIN_MS: u16 = 1000;
const LONGEST_QUESTION: usize = 8192;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only grows.
    Counter,
    Gauge,
}

impl Kind {
    const fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
        }
    }
}

/// What is measured, by the name it has behind `chaperone_`.
#[derive(Debug, Clone, PartialEq)]
pub struct Family {
    pub name: &'static str,
    pub help: &'static str,
    pub kind: Kind,
    /// A value for each set of labels.
    pub values: Vec<(Vec<(&'static str, String)>, f64)>,
}

impl Family {
    #[must_use]
    pub fn one(name: &'static str, help: &'static str, kind: Kind, value: f64) -> Self {
        Self { name, help, kind, values: vec![(Vec::new(), value)] }
    }

    /// One value for each value of the one label.
    #[must_use]
    pub fn by(
        name: &'static str,
        help: &'static str,
        kind: Kind,
        label: &'static str,
        values: impl IntoIterator<Item = (String, f64)>,
    ) -> Self {
        let values = values.into_iter().map(|(of, value)| (vec![(label, of)], value)).collect();
        Self { name, help, kind, values }
    }
}

/// Answers on `address` for as long as `serves` says so. An address that another agent still has is waited for.
///
/// # Errors
/// When the thread cannot be started.
pub fn serve(
    address: SocketAddr,
    serves: impl Fn() -> bool + Send + 'static,
    measure: impl Fn() -> Vec<Family> + Send + 'static,
) -> io::Result<()> {
    let run = move || {
        let Some(listener) = listen(address, &serves) else { return };
        while serves() {
            if is_asked(&listener)
                && let Ok((stream, _)) = listener.accept()
            {
                // Whoever asked and went away again misses only the answer.
                let _gone = answer(stream, || exposition(&measure()));
            }
        }
    };
    std::thread::Builder::new().name("metrics".to_owned()).spawn(run).map(drop)
}

fn listen(address: SocketAddr, serves: &impl Fn() -> bool) -> Option<TcpListener> {
    let mut told = false;
    while serves() {
        match TcpListener::bind(address) {
            Ok(listener) => return Some(listener),
            Err(error) if !told => {
                warn!(%address, %error, "metrics cannot be asked for yet");
                told = true;
            }
            Err(_again) => {}
        }
        std::thread::sleep(Duration::from_millis(AGAIN_MS.into()));
    }
    None
}

/// Whether somebody connected within a moment.
fn is_asked(listener: &TcpListener) -> bool {
    let mut waited = [PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
    poll(&mut waited, PollTimeout::from(AGAIN_MS)).is_ok_and(|ready| ready > 0)
}

fn answer(mut stream: TcpStream, body: impl FnOnce() -> String) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_write_timeout(Some(TIME_LIMIT))?;
    let request = question(&mut stream)?;
    let asked = ["GET /metrics ", "GET /metrics?"].iter().any(|known| request.starts_with(known.as_bytes()));
    let (status, body) = if asked { ("200 OK", body()) } else { ("404 Not Found", String::new()) };
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
}

/// The head of a request, as far as it comes in time.
fn question(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let (mut seen, mut part) = (Vec::new(), [0; 1024]);
    let until = Instant::now() + TIME_LIMIT;
    while !seen.windows(4).any(|four| four == b"\r\n\r\n") && seen.len() < LONGEST_QUESTION {
        let left = until.saturating_duration_since(Instant::now());
        stream.set_read_timeout(Some(left.max(Duration::from_millis(1))))?;
        match stream.read(&mut part)? {
            0 => break,
            read => seen.extend_from_slice(part.get(..read).unwrap_or_default()),
        }
    }
    Ok(seen)
}

/// The text format, version 0.0.4.
pub(super) fn exposition(families: &[Family]) -> String {
    let mut out = String::new();
    for Family { name, help, kind, values } in families.iter().filter(|family| !family.values.is_empty()) {
        let _infallible =
            writeln!(out, "# HELP chaperone_{name} {help}\n# TYPE chaperone_{name} {}", kind.name());
        for (labels, value) in values {
            let labels: Vec<String> =
                labels.iter().map(|(label, of)| format!("{label}=\"{}\"", escaped(of))).collect();
            let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
            let _infallible = writeln!(out, "chaperone_{name}{labels} {value}");
        }
    }
    out
}

fn escaped(label: &str) -> String {
    label.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// How far the receivers of exports are.
#[expect(clippy::cast_precision_loss, reason = "Prometheus knows no other numbers")]
pub fn of_exports(exports: &[Arc<Progress>]) -> Vec<Family> {
    let all = |name, help, kind, read: fn(&Progress) -> f64| {
        Family::by(name, help, kind, "export", exports.iter().map(|of| (of.name.clone(), read(of))))
    };
    vec![
        all("export_events_total", "Events the receiver was told.", Kind::Counter, |of| {
            of.sent.load(Ordering::Relaxed) as f64
        }),
        all(
            "export_lag_records",
            "Records that are signed and that the receiver was not told of.",
            Kind::Gauge,
            |of| of.behind.load(Ordering::Relaxed) as f64,
        ),
        all("export_failing", "1 while the receiver cannot be told.", Kind::Gauge, |of| {
            f64::from(u8::from(of.failing.load(Ordering::Relaxed)))
        }),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_cannot_break_out_of_their_quotes() {
        let family = Family::by("x", "X.", Kind::Gauge, "of", [("a\"b\\c\nd".to_owned(), 0.5)]);
        let text = exposition(&[family, Family::by("y", "Y.", Kind::Counter, "of", [])]);
        assert_eq!(
            text,
            "# HELP chaperone_x X.\n# TYPE chaperone_x gauge\nchaperone_x{of=\"a\\\"b\\\\c\\nd\"} 0.5\n"
        );
    }
}
