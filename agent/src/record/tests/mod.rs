//! Journals in temporary directories, and ways to damage them.

mod append;
mod clock;
mod crash;
pub(crate) mod faults;
mod follow;
mod handover;
mod index;
mod older;
mod packed;
mod prove;
mod prune;
mod recover;
mod render;
mod seal;
mod sessions;
mod spool;
mod tamper;
mod tamper_segments;

use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::event::{Event, Step, Verdict};
use super::format::{FRAME_LEN, Frame, HEADER_LEN, Kind};
use super::verify::{ProblemKind, Report, verify};
use super::{Body, Check, Journal, Options, PublicKey, Reader, Record, RecordError, public_path};

/// A state directory of its own for each test.
struct State {
    dir: TempDir,
    options: Options,
}

impl State {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let options = Options::new(dir.path(), 1 << 30);
        Self { dir, options }
    }

    fn with_segments_of(bytes: u64) -> Self {
        let mut state = Self::new();
        state.options.segment_bytes = bytes;
        state
    }

    /// The same files in another place.
    fn copy(&self) -> Self {
        let copy = Self::with_segments_of(self.options.segment_bytes);
        for (from, to) in [(self.dir.path(), copy.dir.path()), (self.journal_dir(), copy.journal_dir())] {
            fs::create_dir_all(to).unwrap();
            for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
                if entry.metadata().unwrap().is_file() {
                    fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
                }
            }
        }
        copy
    }

    fn journal_dir(&self) -> &Path {
        &self.options.dir
    }

    fn open(&self) -> Journal {
        Journal::open(&self.options).unwrap()
    }

    fn refusal(&self) -> String {
        Journal::open(&self.options).err().expect("the journal should not open").to_string()
    }

    fn key(&self) -> PublicKey {
        PublicKey::load(&public_path(&self.options.key)).unwrap()
    }

    fn verify(&self) -> Report {
        verify(self.journal_dir(), &self.key(), None).unwrap()
    }

    fn segments(&self) -> Vec<PathBuf> {
        super::files::segments(self.journal_dir()).unwrap().into_iter().map(|segment| segment.path).collect()
    }

    fn records(&self) -> Result<Vec<Record>, RecordError> {
        Reader::open(self.journal_dir(), Check::Chain)?.collect()
    }

    fn events(&self) -> Vec<Event> {
        let event = |record: Record| match record.body {
            Body::Event(event) => Some(*event),
            Body::Checkpoint(_) | Body::Tree | Body::Served(_) | Body::Sealed(_) => None,
            Body::Unknown(json) => panic!("unknown event {json}"),
        };
        self.records().unwrap().into_iter().filter_map(event).collect()
    }

    /// Where every record lies.
    fn places(&self) -> Vec<Place> {
        let mut places = Vec::new();
        for file in self.segments() {
            let bytes = fs::read(&file).unwrap();
            let mut at = HEADER_LEN;
            while at < bytes.len() {
                let len = Frame::claimed_len(&bytes[at..]).unwrap();
                let frame = Frame::fields(&bytes[at..at + len]).unwrap();
                places.push(Place { file: file.clone(), at, len, seq: frame.seq, kind: frame.kind });
                at += len;
            }
        }
        places
    }
}

#[derive(Debug, Clone)]
struct Place {
    file: PathBuf,
    at: usize,
    len: usize,
    seq: u64,
    kind: Kind,
}

fn edit(file: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(file).unwrap();
    change(&mut bytes);
    fs::write(file, bytes).unwrap();
}

/// Asserts that some problem of these kinds names record `seq`.
fn assert_found(report: &Report, seq: u64, kinds: &[ProblemKind]) {
    let names = |problem: &&super::verify::Problem| {
        (problem.seq..=problem.last_seq).contains(&seq) && kinds.contains(&problem.kind)
    };
    assert!(
        !report.ok && report.problems.iter().any(|problem| names(&problem)),
        "{seq} {kinds:?} {report:#?}"
    );
}

fn statement(op: u64, sql: &str) -> Event {
    statement_in("0198c0de-0000-7000-8000-000000000001", op, sql)
}

fn statement_in(session: &str, op: u64, sql: &str) -> Event {
    Event::Statement {
        session: session.into(),
        op,
        step: Step::Query,
        prepared: None,
        sql: sql.into(),
        sql_sha256: super::format::hex(&super::format::payload_digest(sql.as_bytes())),
        binds: [].into(),
        verdict: Verdict::Permit,
        policies: ["read-shop".into()].into(),
        policy: "".into(),
        reason: None,
        masked: vec![],
        hold: None,
    }
}
