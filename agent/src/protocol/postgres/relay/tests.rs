//! Sessions over in-memory sockets: the real analysis, policies, gate and journal, and a target made of bytes.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, BytesMut};
use chaperone_policy::{PolicySet, Principal, Source};
use chaperone_sql::{Catalog, QUERIES};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::task::JoinHandle;

use super::super::catalogue::{Catalogue, Snapshot};
use super::super::codec::{Message, WHOLE_MAX, put, put_c_str, take};
use super::super::response::read;
use super::*;
use crate::config::Config;
use crate::gate::{self, AccessTerms, Entry, Gate, Given, Grants, Place, Vote};
use crate::places::Places;
use crate::protocol::Admitted;
use crate::record::event::{HoldOutcome, Verdict, Workload};
use crate::record::tests::faults::{Faults, on_faulty_disk};
use crate::record::{Body, Check, Options, Reader};
use crate::upstream::{Backend, Credentials};

const POLICIES: &str = r#"
@id("read") permit (principal, action in Action::"sql:read", resource);
@id("write") permit (principal, action in Action::"sql:write", resource);
@id("connect") permit (principal, action == Action::"connect", resource);
@id("no-ddl") @reason("no schema changes here") @hint("ask a person")
forbid (principal, action == Action::"sql:ddl", resource);
@id("approve-delete") @approval("approvers") @reason("deletes need a person")
forbid (principal, action == Action::"sql:delete", resource);
"#;

const CONFIG: &str = r#"
[[targets]]
name = "shop"
protocol = "postgres"
addresses = ["127.0.0.1"]
port = 5432
env = "test"
user = "agent"
[[targets.labels]]
column = "app.users.token"
tags = ["secret"]
"#;

/// The tables of the analyser's fixture, as a real server described them.
fn snapshot() -> Snapshot {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("sql/tests/fixture/pg15");
    let mut rows = HashMap::new();
    for query in QUERIES {
        let text = std::fs::read_to_string(folder.join(format!("{}.tsv", query.name))).unwrap();
        let cell = |cell: &str| (cell != "\\N").then(|| unescape(cell));
        let parsed = text.lines().map(|line| line.split('\t').map(cell).collect()).collect();
        rows.insert(query.name.to_owned(), parsed);
    }
    let catalog = Catalog::build(&rows, &["app".to_owned(), "public".to_owned()]).unwrap();
    Snapshot::for_test(1, Arc::new(catalog))
}

fn unescape(cell: &str) -> String {
    cell.replace("\\n", "\n").replace("\\t", "\t").replace("\\\\", "\\")
}

/// A session between a client and a target that a test plays both of.
struct Session {
    client: DuplexStream,
    server: DuplexStream,
    gate: Arc<Gate>,
    journal: Arc<Journal>,
    command_tx: mpsc::Sender<Command>,
    relay: JoinHandle<(End, Totals)>,
    state: tempfile::TempDir,
}

impl Session {
    fn start() -> Self {
        Self::start_on_faulty_disk().0
    }

    fn start_on_faulty_disk() -> (Self, Arc<Faults>) {
        let state = tempfile::tempdir().unwrap();
        let (journal, faults) = on_faulty_disk(&Options::new(state.path(), 64 << 20));
        let journal = Arc::new(journal);
        let set = PolicySet::load(&[Source::new("test.cedar", POLICIES)]).unwrap();
        let options = gate::Options {
            hold_timeout: Duration::from_secs(5),
            lock_patience: Duration::from_secs(5),
            longest_grant: Duration::from_secs(60),
            approvers: Vec::new(),
            announce_tx: None,
        };
        let gate = Arc::new(Gate::new(set, Grants::open(state.path()).unwrap(), options));
        let config = Config::parse(Path::new("test.toml"), CONFIG).unwrap();
        let target = config.targets[0].clone();
        let credentials = Credentials::load(&target).unwrap();
        let address = "127.0.0.1:5432".parse().unwrap();
        let admitted = Admitted {
            id: "session".to_owned(),
            client: address,
            destination: address,
            workload: Workload {
                pid: 1,
                start_boottime_ns: 1,
                uid: 1,
                comm: "psql".to_owned(),
                cgroup_id: 1,
                netns_cookie: 1,
                ..Workload::default()
            },
            principal: Principal::new("bot", ["ai-agents"]),
            owner: None,
            retry: false,
            backend: Arc::new(Backend { target, credentials }),
            login_timeout: Duration::from_secs(5),
            place: None,
            tunnel_to: Arc::new(|_, _, _| Err("a test has no tunnels".to_owned())),
        };
        let places = Arc::new(Places::in_memory());
        let catalogue = Arc::new(Catalogue::new("crm", address, places, Arc::clone(&journal)));
        let place = Place { target: "shop", env: "test", database: "crm", host: false };
        let entry = gate.enter(&admitted.principal, place, "session").unwrap();
        let Entry::Admitted(admission) = entry else { panic!("{entry:?}") };
        let decider =
            Decider::new(Arc::clone(&gate), &admitted, admission, "crm", catalogue, Arc::new(snapshot()))
                .unwrap();
        let (client, near) = duplex(1 << 16);
        let (far, server) = duplex(1 << 16);
        let (command_tx, mut command_rx) = mpsc::channel(4);
        let policy_rx = gate.subscribe();
        let shared = Arc::clone(&journal);
        let relay = tokio::spawn(async move {
            let settings = Settings::for_test("ISO, MDY");
            let relay = Relay::new(Wire::new(near, far), decider, &shared, "session", None, settings);
            relay.run(&mut command_rx, policy_rx).await
        });
        (Self { client, server, gate, journal, command_tx, relay, state }, faults)
    }

    async fn ask(&mut self, sql: &str) {
        let mut out = BytesMut::new();
        put(&mut out, b'Q', |out| put_c_str(out, sql.as_bytes()));
        self.client.write_all(&out).await.unwrap();
    }

    /// The text of the Query that arrives at the target.
    async fn arrives(&mut self) -> String {
        let message = next(&mut self.server).await;
        assert_eq!(message.tag, b'Q');
        message.body().c_str().unwrap().to_owned()
    }

    async fn answer(&mut self, parts: &[(u8, &[u8])]) {
        let mut out = BytesMut::new();
        for (tag, body) in parts {
            put(&mut out, *tag, |out| out.put_slice(body));
        }
        self.server.write_all(&out).await.unwrap();
    }

    async fn hold(&self) -> String {
        loop {
            if let Some(hold) = self.gate.holds().list().first() {
                return hold.id.clone();
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    fn events(&self) -> Vec<Event> {
        let reader = Reader::open(&self.state.path().join("journal"), Check::Chain).unwrap();
        let events = reader.filter_map(|record| match record.unwrap().body {
            Body::Event(event) => Some(*event),
            _ => None,
        });
        events.collect()
    }

    fn verdicts(&self) -> Vec<Verdict> {
        let events = self.events().into_iter();
        events
            .filter_map(|event| match event {
                Event::Statement { verdict, .. } => Some(verdict),
                _ => None,
            })
            .collect()
    }
}

async fn next(stream: &mut DuplexStream) -> Message {
    let mut buffer = BytesMut::new();
    loop {
        if let Some(message) = take(&mut buffer, WHOLE_MAX).unwrap() {
            assert!(buffer.is_empty());
            return message;
        }
        let mut byte = [0];
        stream.read_exact(&mut byte).await.unwrap();
        buffer.extend_from_slice(&byte);
    }
}

fn description(columns: &[(&str, u32, i16, u32)]) -> Vec<u8> {
    let mut body = BytesMut::new();
    body.put_i16(columns.len() as i16);
    for (name, table, attribute, type_oid) in columns {
        put_c_str(&mut body, name.as_bytes());
        body.put_u32(*table);
        body.put_i16(*attribute);
        body.put_u32(*type_oid);
        body.put_slice(&[0; 8]);
    }
    body.to_vec()
}

const SYNTAX_ERROR: &[u8] = b"SERROR\0VERROR\0C42601\0Msyntax error\0\0";

#[tokio::test]
async fn a_masked_row_is_recorded_and_served_masked() {
    let mut session = Session::start();
    session.ask("SELECT id, token FROM users").await;
    assert_eq!(session.arrives().await, "SELECT id, token FROM users");
    assert_eq!(session.verdicts(), [Verdict::Permit], "recorded before it arrives");
    let row = b"\0\x02\0\0\0\x011\0\0\0\x06secret";
    let shape = description(&[("id", 0, 0, 23), ("token", 0, 0, 25)]);
    session.answer(&[(b'T', &shape), (b'D', row), (b'C', b"SELECT 1\0"), (b'Z', b"I")]).await;
    assert_eq!(next(&mut session.client).await.tag, b'T');
    let row = next(&mut session.client).await;
    assert!(row.bytes.ends_with(b"\0\0\0\x03***"), "{}", row.bytes.escape_ascii());
    assert_eq!(next(&mut session.client).await.tag, b'C');
    let results = session.events();
    assert!(
        matches!(results.last(), Some(Event::Result { rows: 1, masked_cells: 1, .. })),
        "recorded before the completion is served: {results:?}"
    );
}

#[tokio::test]
async fn a_denied_statement_reaches_nobody_and_the_server_has_the_last_word() {
    let mut session = Session::start();
    session.ask("DROP TABLE users").await;
    let text = session.arrives().await;
    assert!(!text.contains("users"), "{text}");
    session.answer(&[(b'E', SYNTAX_ERROR), (b'Z', b"E")]).await;
    let error = read(next(&mut session.client).await.body()).unwrap();
    assert_eq!(error.sqlstate, "42501");
    assert_eq!(error.message, "denied by policy \"no-ddl\": no schema changes here");
    assert_eq!(&next(&mut session.client).await.bytes[5..], b"E", "the server's own transaction status");
    assert_eq!(session.verdicts(), [Verdict::Deny]);
}

fn yes() -> Vote {
    let given = Given { by: "ann".into(), groups: Some(["approvers".to_owned()].into()) };
    Vote { approve: true, given, comment: None, terms: AccessTerms::default() }
}

#[tokio::test]
async fn a_held_statement_runs_once_approved() {
    let mut session = Session::start();
    session.ask("DELETE FROM log WHERE n = 1").await;
    assert_eq!(next(&mut session.client).await.tag, b'N');
    let id = session.hold().await;
    session.gate.holds().vote(&id, yes(), None).unwrap();
    assert_eq!(session.arrives().await, "DELETE FROM log WHERE n = 1");
    assert!(session.gate.holds().vote(&id, yes(), None).is_err());
    assert_eq!(session.verdicts(), [Verdict::Hold, Verdict::Permit]);
}

#[tokio::test(start_paused = true)]
async fn a_hold_nobody_decides_on_is_denied() {
    let mut session = Session::start();
    session.ask("DELETE FROM log WHERE n = 1").await;
    assert_eq!(next(&mut session.client).await.tag, b'N');
    assert!(!session.arrives().await.contains("DELETE"));
}

#[tokio::test]
async fn a_client_that_hangs_up_takes_what_was_held_with_it() {
    let mut session = Session::start();
    session.ask("DELETE FROM log WHERE n = 1").await;
    let id = session.hold().await;
    let Session { client, relay, gate, .. } = &mut session;
    drop(std::mem::replace(client, duplex(1).0));
    let (end, _) = relay.await.unwrap();
    assert!(matches!(end, End::ClientClosed), "{end}");
    assert!(gate.holds().vote(&id, yes(), None).is_err());
    let events = session.events();
    let withdrawn =
        |event: &Event| matches!(event, Event::HoldResolved { outcome: HoldOutcome::Withdrawn, .. });
    assert!(events.iter().any(withdrawn), "{events:?}");
    let mut rest = Vec::new();
    session.server.read_to_end(&mut rest).await.unwrap();
    assert!(rest.is_empty(), "nothing reached the target");
}

/// Whoever shares a write with others is told as well as who writes by himself, and is served nothing of it.
#[tokio::test]
async fn what_a_failing_disk_does_not_take_is_not_served_and_the_reason_is() {
    for before in [0, 20] {
        let (mut session, faults) = Session::start_on_faulty_disk();
        let row = b"\0\x01\0\0\0\x011";
        let shape = description(&[("n", 0, 0, 23)]);
        for _ in 0..before {
            session.ask("SELECT 1").await;
            session.arrives().await;
            session.answer(&[(b'T', &shape), (b'D', row), (b'C', b"SELECT 1\0"), (b'Z', b"I")]).await;
            for tag in *b"TDCZ" {
                assert_eq!(next(&mut session.client).await.tag, tag);
            }
        }
        session.ask("SELECT 1").await;
        session.arrives().await;
        faults.armed.store(true, std::sync::atomic::Ordering::SeqCst);
        session.answer(&[(b'T', &shape), (b'D', row), (b'C', b"SELECT 1\0"), (b'Z', b"I")]).await;
        let error = next(&mut session.client).await;
        assert_eq!(error.tag, b'E', "nothing before it");
        let error = read(error.body()).unwrap();
        assert_eq!((error.sqlstate.as_str(), error.fatal), ("53100", true));
        // And nothing that could not be recorded goes the other way.
        let mut rest = Vec::new();
        session.client.read_to_end(&mut rest).await.unwrap();
        assert!(rest.is_empty());
        let (end, _) = (&mut session.relay).await.unwrap();
        assert!(matches!(end, End::Record(_)), "{end}");
    }
}

#[tokio::test]
async fn no_record_no_access() {
    let mut session = Session::start();
    session.journal.close().unwrap();
    session.ask("SELECT 1").await;
    let error = read(next(&mut session.client).await.body()).unwrap();
    assert_eq!((error.sqlstate.as_str(), error.fatal), ("53100", true));
    let mut rest = Vec::new();
    session.server.read_to_end(&mut rest).await.unwrap();
    assert!(rest.is_empty(), "what could not be recorded did not reach the target");
}

#[tokio::test]
async fn a_killed_session_is_told_why() {
    let mut session = Session::start();
    session.command_tx.send(Command::Kill("operator".into())).await.unwrap();
    let error = read(next(&mut session.client).await.body()).unwrap();
    assert_eq!((error.sqlstate.as_str(), error.fatal), ("57P01", true));
    let (end, _) = session.relay.await.unwrap();
    assert!(matches!(end, End::Killed(_)));
}

#[tokio::test]
async fn a_policy_that_takes_the_permission_back_ends_the_live_session() {
    let mut session = Session::start();
    session.ask("SELECT 1").await;
    session.arrives().await;
    let stricter = POLICIES.replace(
        "@id(\"connect\")",
        "@id(\"nobody\") forbid (principal, action, resource);\n@id(\"connect\")",
    );
    session.gate.replace(PolicySet::load(&[Source::new("test.cedar", &stricter)]).unwrap());
    let error = read(next(&mut session.client).await.body()).unwrap();
    assert_eq!((error.sqlstate.as_str(), error.fatal), ("28000", true));
}

/// What is read is asked for first: whoever keeps a session busy does not keep it from hearing the rest.
#[tokio::test]
async fn a_session_without_a_pause_is_killed_and_revoked_all_the_same() {
    for revoked in [false, true] {
        let Session { client, server, gate, command_tx, relay, journal: _journal, state: _state } =
            Session::start();
        let (mut from_agent, mut to_agent) = tokio::io::split(client);
        let (mut asked, mut answers) = tokio::io::split(server);
        let syncs = b"S\0\0\0\x04".repeat(1000);
        tokio::spawn(async move { while to_agent.write_all(&syncs).await.is_ok() {} });
        tokio::spawn(async move {
            let mut sync = [0; 5];
            while asked.read_exact(&mut sync).await.is_ok() {
                answers.write_all(b"Z\0\0\0\x05I").await.unwrap_or_default();
            }
        });
        let mut some = vec![0; 60_000];
        from_agent.read_exact(&mut some).await.unwrap();
        if revoked {
            let nobody = "@id(\"nobody\") forbid (principal, action, resource);";
            gate.replace(PolicySet::load(&[Source::new("test.cedar", nobody)]).unwrap());
        } else {
            command_tx.send(Command::Kill("operator".into())).await.unwrap();
        }
        tokio::spawn(async move { from_agent.read_to_end(&mut some).await });
        let (end, _) = tokio::time::timeout(Duration::from_secs(30), relay).await.unwrap().unwrap();
        assert!(matches!((revoked, &end), (false, End::Killed(_)) | (true, End::Revoked(_))), "{end}");
    }
}

#[tokio::test]
async fn a_server_that_contradicts_the_analysis_is_not_served() {
    let mut session = Session::start();
    session.ask("SELECT id, name FROM users").await;
    session.arrives().await;
    let row = b"\0\x01\0\0\0\x06secret";
    session.answer(&[(b'T', &description(&[("id", 0, 0, 25)])), (b'D', row)]).await;
    let error = read(next(&mut session.client).await.body()).unwrap();
    assert!(error.fatal && error.sqlstate == "XX000", "{error:?}");
    let mut rest = Vec::new();
    session.client.read_to_end(&mut rest).await.unwrap();
    assert!(!rest.windows(6).any(|window| window == b"secret"));
}

#[tokio::test]
async fn an_approval_is_for_the_settings_by_which_dates_are_read() {
    let mut session = Session::start();
    session.ask("SET DateStyle = 'ISO, DMY'").await;
    // It is sent before the server has said what became of that.
    session.ask("DELETE FROM log WHERE n = 1").await;
    assert_eq!(session.arrives().await, "SET DateStyle = 'ISO, DMY'");
    session.answer(&[(b'C', b"SET\0"), (b'S', b"DateStyle\0ISO, DMY\0"), (b'Z', b"I")]).await;
    let id = session.hold().await;
    let held = session.gate.holds().list().remove(0);
    assert_eq!(held.settings.get("DateStyle").map(String::as_str), Some("ISO, DMY"), "{held:?}");
    session.gate.holds().vote(&id, yes(), None).unwrap();
    assert_eq!(session.arrives().await, "DELETE FROM log WHERE n = 1");
}

#[tokio::test]
async fn what_needs_an_approval_does_not_change_its_own_settings() {
    for first in
        ["SET TIME ZONE 'UTC'", "RESET DateStyle", "SELECT set_config('intervalstyle', 'iso_8601', false)"]
    {
        let mut session = Session::start();
        session.ask(&format!("{first}; DELETE FROM log WHERE n = 1")).await;
        assert!(!session.arrives().await.contains("DELETE"), "{first}");
        assert_eq!(session.verdicts(), [Verdict::Deny], "{first}");
    }
    let session = &mut Session::start();
    session.ask("SET work_mem = '8MB'; DELETE FROM log WHERE n = 1").await;
    session.hold().await;
}
