use super::*;
use crate::record::Stamp;
use crate::record::event::{AccessAsked, GrantIssued};

fn followed(event: Event) -> Followed {
    let json = serde_json::to_string(&event).unwrap();
    Followed { seq: 7, time: Stamp(1_700_000_000_000_000_000), event: Some(event), json }
}

fn identity() -> Identity {
    Identity { name: "bot".into(), groups: vec!["agents".into()] }
}

fn start(session: &str, protocol: &str) -> Event {
    Event::SessionStart {
        session: session.into(),
        protocol: protocol.into(),
        target: "t".into(),
        original_destination: "192.0.2.1:5432".into(),
        client: "[2001:db8::1]:4242".into(),
        workload: Box::new(Workload {
            pid: 1,
            comm: "psql".into(),
            exe: Some("/usr/bin/psql".into()),
            exe_sha256: Some("ab".repeat(32)),
            argv: vec!["psql".into(), "-c".into()],
            ..Workload::default()
        }),
        identity: identity(),
        claimed_user: "x".into(),
        database: "shop".into(),
        application: None,
        settings: Vec::new(),
        upstream_user: "svc".into(),
    }
}

fn statement(session: &str, step: Step) -> Event {
    Event::Statement {
        session: session.into(),
        op: 1,
        step,
        sql: "select 1".into(),
        sql_sha256: String::new(),
        prepared: None,
        binds: [].into(),
        verdict: Verdict::Deny,
        policies: ["p".into()].into(),
        policy: "0123".into(),
        reason: None,
        masked: vec![],
        hold: None,
    }
}

#[test]
fn each_event_has_its_class() {
    let mut mapper = Mapper::default();
    let mut check = |event: Event, class: u64, activity: u64, status: u64| {
        let followed = followed(event);
        let json = serde_json::from_str(&followed.json).unwrap();
        let out = mapper.map(&followed, &json, &json!({ "number": 1 }));
        assert_eq!(
            (&out["class_uid"], &out["activity_id"], &out["type_uid"], &out["status_id"]),
            (&json!(class), &json!(activity), &json!(class * 100 + activity), &json!(status)),
            "{out}"
        );
        assert_eq!(out["unmapped"]["chaperone"], json);
        assert!(out["severity_id"].is_u64() && out["time"] == json!(1_700_000_000_000_u64));
        out
    };
    let seen = check(start("d", "postgres"), 6005, 3, 1);
    assert_eq!(seen["src_endpoint"], json!({ "ip": "2001:db8::1", "port": 4242 }));
    assert_eq!(seen["actor"]["process"]["file"]["hashes"][0]["algorithm_id"], 3);
    check(start("h", "ssh"), 4007, 1, 1);
    let denied = check(statement("d", Step::Query), 6005, 4, 2);
    assert_eq!(denied["actor"]["user"]["name"], "bot");
    assert_eq!(denied["database"]["name"], "shop");
    assert_eq!((&denied["action_id"], &denied["disposition_id"]), (&json!(2), &json!(2)));
    assert_eq!(denied["actor"]["authorizations"][0]["policy"]["name"], "p");
    let command = check(statement("h", Step::Exec), 4007, 6, 2);
    assert!(command.get("query_info").is_none() && command["dst_endpoint"]["name"] == "t");
    // Of a session whose beginning was not seen, the step tells.
    check(statement("?", Step::Exec), 4007, 6, 2);
    let unknown = check(statement("?", Step::Execute), 6005, 4, 2);
    assert_eq!(unknown["src_endpoint"]["uid"], "?");
    let asked = AccessAsked {
        session: "d".into(),
        hold: "r".into(),
        target: "t".into(),
        database: "shop".into(),
        identity: identity(),
        workload: Workload::default(),
        claimed_user: "x".into(),
        policies: vec![],
        reason: None,
    };
    check(Event::AccessAsked(Box::new(asked)), 3003, 99, 0);
    let grant = GrantIssued {
        grant: "g".into(),
        identity: "bot".into(),
        target: None,
        database: None,
        groups: vec!["dba".into()],
        expires_unix_ms: 0,
        hours: None,
        max_uses: None,
        max_rows: None,
        reason: "because".into(),
        ticket: None,
        by: vec!["anna".into()],
        hold: None,
        signature: None,
        login: None,
    };
    let issued = check(Event::GrantIssued(Box::new(grant)), 3005, 1, 1);
    assert_eq!(issued["privileges"], json!(["connect to */*", "group dba"]));
    check(Event::AgentStop { reason: "x".into() }, 6002, 4, 1);
    let full = check(Event::JournalFilling { used_bytes: 1, max_bytes: 2 }, 0, 99, 0);
    assert_eq!(full["severity_id"], 4);
}
