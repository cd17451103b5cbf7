//! Removing the oldest records at an operator's word: through the agent where one runs, since the journal is its own.

use std::io::Write;
use std::path::Path;
use std::time::Duration;

use super::{Failure, operate};
use crate::app;
use crate::config::Config;
use crate::control::{ClientError, Request, Response, call};
use crate::record::{self, Gone, Journal};

/// Segments that go with one record that tells of it, where no agent runs.
const AT_ONCE: usize = 32;

/// What is to go.
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = true)]
pub(super) struct Wanted {
    /// Records older than this, such as 90d.
    #[arg(long, value_parser = humantime::parse_duration)]
    older_than: Option<Duration>,
    /// The oldest, until the journal has no more bytes than this, such as 2GiB.
    #[arg(long, value_parser = size)]
    to: Option<u64>,
}

/// A number of bytes, in units of 1,024 when there is one.
fn size(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let unit: u64 = match text.get(digits.len()..).unwrap_or_default() {
        "" | "B" => 1,
        "KiB" | "K" => 1 << 10,
        "MiB" | "M" => 1 << 20,
        "GiB" | "G" => 1 << 30,
        "TiB" | "T" => 1 << 40,
        other => return Err(format!("`{other}` is no unit; known: KiB, MiB, GiB, TiB")),
    };
    let number: u64 = digits.trim().parse().map_err(|_| format!("`{digits}` is not a number"))?;
    number.checked_mul(unit).ok_or_else(|| "more than there can be".to_owned())
}

pub(super) fn prune(path: &Path, wanted: &Wanted, out: &mut dyn Write) -> Result<(), Failure> {
    let config = Config::load(path)?;
    let (mut records, mut bytes, mut through) = (0, 0, 0);
    let mut add = |gone: Gone| {
        records += gone.records;
        bytes += gone.bytes;
        through = gone.through;
    };
    let request =
        Request::Prune { older_than_s: wanted.older_than.map(|age| age.as_secs()), to_bytes: wanted.to };
    loop {
        match call(&config.run_dir, &request) {
            Ok(Response::Pruned { gone: Some(gone) }) => add(gone),
            Ok(Response::Pruned { gone: None }) => break,
            Ok(_) => return Err(operate::unexpected()),
            Err(ClientError::Connect { .. }) => {
                without_an_agent(&config, wanted, add)?;
                break;
            }
            Err(error) => return Err(Failure::Failed(error.to_string())),
        }
    }
    if records == 0 {
        writeln!(out, "nothing to prune: what is wanted to go is not a whole segment, or the newest one")?;
    } else {
        writeln!(out, "pruned {records} records, {bytes} bytes: records 1 to {through} are gone")?;
    }
    Ok(())
}

/// The journal's lock is the proof that no agent runs.
fn without_an_agent(config: &Config, wanted: &Wanted, mut add: impl FnMut(Gone)) -> Result<(), Failure> {
    app::require_operator(config).map_err(|why| Failure::Failed(super::whole(&why)))?;
    let journal = Journal::open(&app::journal_options(config))?;
    let wanted = record::Wanted {
        older_than: wanted.older_than,
        to_bytes: wanted.to,
        at_most: AT_ONCE,
        why: "an operator asked".to_owned(),
        by: Some(format!("uid {} pid {}", nix::unistd::getuid(), std::process::id())),
    };
    let mut outcome = Ok(());
    loop {
        match journal.prune(&wanted) {
            Ok(Some(gone)) => add(gone),
            Ok(None) => break,
            Err(error) => {
                outcome = Err(error);
                break;
            }
        }
    }
    journal.close()?;
    Ok(outcome?)
}

#[cfg(test)]
mod tests {
    use super::size;

    #[test]
    fn sizes_are_read_with_their_units() {
        let cases = [("0", 0), ("17", 17), ("2KiB", 2048), ("3 MiB", 3 << 20), ("1G", 1 << 30)];
        for (text, bytes) in cases {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for text in ["", "MiB", "1.5G", "-1", "1 XiB", "99999999TiB"] {
            assert!(size(text).is_err(), "{text}");
        }
    }
}
