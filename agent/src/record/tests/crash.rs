//! An agent killed at any moment loses nothing it acknowledged.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use super::*;

const STATE: &str = "CHAPERONE_TEST_STATE";
const SPOOL: &str = "CHAPERONE_TEST_SPOOL";

/// Runs an ignored test of this binary, by its name below `record::tests`, as a process of its own.
pub(super) fn child(test: &str, state: &State) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", &format!("record::tests::{test}"), "--ignored", "--nocapture"]);
    if let Some(spool) = &state.options.spool {
        command.env(SPOOL, spool);
    }
    command.env(STATE, state.dir.path()).stdout(Stdio::piped());
    command
}

pub(super) fn options_of_parent() -> Options {
    let dir = std::env::var_os(STATE).expect("run by its parent only");
    let spool = std::env::var_os(SPOOL).map(PathBuf::from);
    Options { segment_bytes: 200_000, spool, ..Options::new(Path::new(&dir), 1 << 30) }
}

/// A process that another test is just making has the parent's lock until it executes.
fn open_when_free(options: &Options) -> Journal {
    for _ in 0..1000 {
        match Journal::open(options) {
            Err(RecordError::InUse { .. }) => std::thread::sleep(Duration::from_millis(10)),
            opened => return opened.unwrap(),
        }
    }
    panic!("somebody keeps the journal");
}

#[test]
#[ignore = "the child of no_acknowledged_record_is_lost_to_kill_9"]
fn child_appends_until_killed() {
    let journal = Arc::new(open_when_free(&options_of_parent()));
    journal.start_scribe().unwrap();
    let mut out = std::io::stdout().lock();
    for op in 0.. {
        let long = if op % 50 == 49 { 300_000 } else { 10 };
        let events = [statement(op, "select 1"), statement(op, &"x".repeat(long))];
        let appended = journal.append(&events).unwrap();
        writeln!(out, "ack {} {op}", appended.last_seq).unwrap();
        if op % 100 == 99 {
            journal.checkpoint().unwrap();
        }
    }
}

/// Two hundred kills, in eight journals, half of them with a spool, so that reading them back stays quick.
#[test]
fn no_acknowledged_record_is_lost_to_kill_9() {
    std::thread::scope(|scope| {
        for thread in 0..4 {
            scope.spawn(move || (0..2).for_each(|turn| killed_in_one_journal(thread * 2 + turn)));
        }
    });
}

fn killed_in_one_journal(journal: u64) {
    let memory = tempfile::tempdir_in("/dev/shm").unwrap();
    let mut state = State::new();
    state.options.spool = journal.is_multiple_of(2).then(|| memory.path().join("spool"));
    let mut acknowledged = Vec::<(u64, u64)>::new();
    for round in 0..25 {
        let mut process = child("crash::child_appends_until_killed", &state).spawn().unwrap();
        let out = process.stdout.take().unwrap();
        let (first_tx, first_rx) = std::sync::mpsc::channel();
        let reader = std::thread::spawn(move || {
            let ack = |line: String| {
                let (seq, op) = line.strip_prefix("ack ")?.split_once(' ')?;
                Some((seq.parse::<u64>().unwrap(), op.parse::<u64>().unwrap()))
            };
            // A line that the kill cut short was not acknowledged in full.
            BufReader::new(out)
                .split(b'\n')
                .map_while(Result::ok)
                .map(|line| String::from_utf8(line).unwrap())
                .filter_map(ack)
                .inspect(|_| first_tx.send(()).unwrap_or_default())
                .collect::<Vec<_>>()
        });
        // Not before it is at work, however busy the machine is.
        first_rx.recv_timeout(Duration::from_secs(60)).unwrap();
        std::thread::sleep(Duration::from_millis((journal * 25 + round) * 37 % 60));
        process.kill().unwrap();
        process.wait().unwrap();
        let mut acks = reader.join().unwrap();
        acks.pop();
        acknowledged.extend(acks);

        drop(state.open());
        let report = state.verify();
        assert!(report.ok, "round {round}: {report:#?}");
    }
    assert!(acknowledged.len() > 25, "only {} were acknowledged", acknowledged.len());
    let records = state.records().unwrap();
    for (seq, acknowledged_op) in acknowledged {
        let record = &records[usize::try_from(seq).unwrap() - 1];
        let Body::Event(event) = &record.body else { panic!("{record:?}") };
        let Event::Statement { op, .. } = event.as_ref() else { panic!("{record:?}") };
        assert_eq!((record.seq, *op), (seq, acknowledged_op));
    }
}
