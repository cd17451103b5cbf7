//! What was sealed to auditors, taken out of a journal and opened: on the auditor's machine, from a copy.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use super::Failure;
use crate::record::query;
use crate::record::raw::{Line, Lines};
use crate::record::render;
use crate::record::seal::Keys;

/// What to do with what is sealed.
#[derive(Debug, clap::Args)]
pub(super) struct Wanted {
    /// Id of the session, or its beginning.
    id: String,
    #[command(flatten)]
    place: super::Place,
    /// A file with the auditor's private keys, as `age-keygen` makes it. Better not on a host that records.
    #[arg(long, required_unless_present = "extract", conflicts_with = "extract")]
    identity: Option<PathBuf>,
    /// Write what is sealed into this directory instead, a file for each record, for `age --decrypt`.
    #[arg(long)]
    extract: Option<PathBuf>,
}

pub(super) fn unseal(config: &Path, wanted: &Wanted, out: &mut dyn Write) -> Result<(), Failure> {
    let dir = wanted.place.dir(config)?;
    match (&wanted.extract, &wanted.identity) {
        (Some(to), _) => extract(&dir, &wanted.id, to, out),
        (None, Some(identity)) => open(&dir, &wanted.id, identity, wanted.place.json, out),
        (None, None) => Err(Failure::Usage("name a file of keys with --identity".into())),
    }
}

fn extract(dir: &Path, id: &str, to: &Path, out: &mut dyn Write) -> Result<(), Failure> {
    let failed = |path: &Path, error: &std::io::Error| {
        Failure::Failed(format!("cannot write {}: {error}", path.display()))
    };
    fs::create_dir_all(to).map_err(|error| failed(to, &error))?;
    let mut written = Ok(());
    let mut files = 0_u64;
    let damage = query::sealed(dir, id, |seq, sealed| {
        if written.is_err() {
            return;
        }
        // So that the names are in the order of what is in them.
        let path = to.join(format!("{seq:020}.age"));
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        written =
            file.and_then(|mut file| file.write_all(sealed.file)).map_err(|error| failed(&path, &error));
        files += 1;
    })?;
    written?;
    writeln!(out, "{files} files in {}", to.display())?;
    read_all(&damage)
}

fn open(dir: &Path, id: &str, identity: &Path, json: bool, out: &mut dyn Write) -> Result<(), Failure> {
    let failed = |why: &dyn std::fmt::Display| Failure::Failed(format!("{}: {why}", identity.display()));
    let text = zeroize::Zeroizing::new(fs::read_to_string(identity).map_err(|error| failed(&error))?);
    let keys = Keys::parse(&text).map_err(|error| failed(&error))?;
    let mut found = BTreeMap::<u64, Vec<Line>>::new();
    let (mut lines, mut problems, mut written, mut next) = (Lines::default(), Vec::new(), Ok(()), 0);
    let damage = query::sealed(dir, id, |seq, sealed| {
        if sealed.offset != next {
            problems
                .push(format!("record {seq}: {} bytes before it are missing", sealed.offset.abs_diff(next)));
            lines = Lines::default();
        }
        next = sealed.offset + u64::from(sealed.length);
        match keys.open(sealed) {
            Ok(bytes) => lines.push(&bytes, |text, line| match line {
                Some(line) if !json => found.entry(line.op()).or_default().push(line),
                _ if written.is_ok() => {
                    written = render::json_line(text, out);
                }
                _ => {}
            }),
            Err(error) => {
                problems.push(format!("record {seq}: {error}"));
                lines = Lines::default();
            }
        }
    })?;
    written?;
    if !json {
        let transcript = query::replay(dir, id, 0)?;
        render::raw_text(&transcript, &found, out)?;
    }
    problems.extend(damage);
    read_all(&problems)
}

/// Status 1 when something is missing; what there was has been shown.
fn read_all(problems: &[String]) -> Result<(), Failure> {
    if problems.is_empty() {
        return Ok(());
    }
    render::damage_text(problems, render::Paint::Plain, &mut std::io::stderr())?;
    Err(Failure::Said)
}
