use super::*;

fn now(seconds: i64) -> Now {
    Now { wall_ms: 1_800_000_000_000 + seconds * 1000, boot_ms: 5_000 + seconds * 1000, boot: "a".into() }
}

fn terms() -> Terms {
    Terms {
        identity: "ci".into(),
        target: Some("shop".into()),
        database: None,
        groups: vec!["deployers".into()],
        for_s: 20,
        hours: None,
        max_uses: Some(2),
        max_rows: Some(10),
        reason: "release 7".into(),
        ticket: Some("T-1".into()),
    }
}

fn given() -> Vec<Given> {
    vec![Given { by: "anna".into(), groups: Some(["db-oncall".to_owned()].into()) }]
}

fn opened(dir: &Path) -> Arc<Grants> {
    Arc::new(Grants::open(dir).unwrap())
}

fn sweep(grants: &Grants, at: &Now) -> Swept {
    let (swept, failed) = grants.sweep(at);
    assert!(failed.is_none(), "{failed:?}");
    swept
}

#[test]
fn a_grant_counts_uses_ends_on_time_and_names_its_sessions_until_they_are_gone() {
    let dir = tempfile::tempdir().unwrap();
    let grants = opened(dir.path());
    let grant = grants.issue(&now(0), terms(), given()).unwrap();
    assert!(grants.matching(&now(1), "ci", "other", "crm").is_empty());
    assert!(grants.matching(&now(1), "other", "shop", "crm").is_empty());
    assert_eq!(grants.matching(&now(1), "ci", "shop", "crm").len(), 1);
    let ids = [grant.id.clone()];
    let first = grants.take(&now(1), "s1", &ids).unwrap();
    let second = grants.take(&now(1), "s2", &ids).unwrap();
    assert!(matches!(grants.take(&now(1), "s3", &ids), Err(GrantError::UsedUp(_))));
    assert!(grants.matching(&now(1), "ci", "shop", "crm").is_empty(), "no use is left");
    assert_eq!(sweep(&grants, &now(19)), Swept::default());
    drop(second);
    let swept = sweep(&grants, &now(20));
    assert_eq!(swept.ended.len(), 1);
    assert_eq!(swept.cut, [("s1".to_owned(), format!("grant {}: expired", grant.id))]);
    let again = sweep(&grants, &now(21));
    assert!(again.ended.is_empty() && again.cut.len() == 1, "named until it is gone: {again:?}");
    drop(first);
    sweep(&grants, &now(22));
    assert_eq!(sweep(&grants, &now(23)), Swept::default());
    assert!(matches!(grants.revoke(&grant.id, "late"), Err(GrantError::Unknown(_))));
}

#[test]
fn of_several_grants_a_session_lives_on_all_or_none() {
    let dir = tempfile::tempdir().unwrap();
    let grants = opened(dir.path());
    let one = grants.issue(&now(0), terms(), given()).unwrap();
    let other = grants.issue(&now(0), Terms { max_uses: Some(1), ..terms() }, given()).unwrap();
    let both = [one.id.clone(), other.id.clone()];
    let lease = grants.take(&now(1), "s1", &both).unwrap();
    assert_eq!(lease.given().len(), 2);
    assert!(matches!(grants.take(&now(1), "s2", &both), Err(GrantError::UsedUp(_))));
    drop(lease);
    assert!(sweep(&grants, &now(20)).cut.is_empty(), "nobody lives on them any more");
}

#[test]
fn what_was_granted_used_and_ended_is_there_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let (kept, ended) = {
        let grants = opened(dir.path());
        let kept = grants.issue(&now(0), terms(), given()).unwrap();
        let ended = grants.issue(&now(0), terms(), given()).unwrap();
        grants.take(&now(1), "s1", std::slice::from_ref(&kept.id)).unwrap().count_rows(4);
        grants.revoke(&ended.id, "revoked by root: mistake").unwrap();
        sweep(&grants, &now(2));
        (kept, ended)
    };
    let grants = opened(dir.path());
    let found = grants.list(false).unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!(found[0], Grant { uses: 1, rows: 4, ..kept });
    let all = grants.list(true).unwrap();
    let why = all.iter().find(|grant| grant.id == ended.id).unwrap().ended.clone();
    assert_eq!(why.as_deref(), Some("revoked by root: mistake"));
}

#[test]
fn rows_are_counted_over_all_sessions_and_end_the_grant() {
    let dir = tempfile::tempdir().unwrap();
    let grants = opened(dir.path());
    let grant = grants.issue(&now(0), terms(), given()).unwrap();
    let ids = [grant.id];
    let one = grants.take(&now(1), "s1", &ids).unwrap();
    let other = grants.take(&now(1), "s2", &ids).unwrap();
    one.count_rows(6);
    assert_eq!(other.rows_left(), Some(4));
    other.count_rows(4);
    let swept = sweep(&grants, &now(2));
    assert_eq!(swept.ended[0].ended.as_deref(), Some("its rows are used up"));
    assert_eq!(swept.cut.len(), 2);
}

#[test]
fn outside_of_its_hours_a_grant_sleeps() {
    let dir = tempfile::tempdir().unwrap();
    let grants = opened(dir.path());
    // 1_800_000_000 s is 08:00 UTC.
    let hours: Hours = "08:00-08:01".parse().unwrap();
    grants.issue(&now(0), Terms { hours: Some(hours), for_s: 100_000, ..terms() }, given()).unwrap();
    let ids = [grants.matching(&now(59), "ci", "shop", "crm")[0].id.clone()];
    let lease = grants.take(&now(59), "s1", &ids).unwrap();
    let swept = sweep(&grants, &now(60));
    assert!(swept.ended.is_empty() && swept.cut.len() == 1, "{swept:?}");
    assert!(grants.matching(&now(60), "ci", "shop", "crm").is_empty());
    drop(lease);
    assert_eq!(grants.matching(&now(24 * 3600), "ci", "shop", "crm").len(), 1);
}

#[test]
fn a_file_that_is_damaged_foreign_or_newer_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("grants.sqlite");
    drop(opened(dir.path()).issue(&now(0), terms(), given()).unwrap());
    let good = std::fs::read(&file).unwrap();
    std::fs::write(&file, b"this is not a database, whatever its name says").unwrap();
    assert!(matches!(Grants::open(dir.path()), Err(GrantError::Store { .. })));
    let mut torn = good;
    torn.iter_mut().skip(100).for_each(|byte| *byte ^= 0x5a);
    std::fs::write(&file, torn).unwrap();
    assert!(Grants::open(dir.path()).is_err());
    for rest in ["grants.sqlite", "grants.sqlite-wal", "grants.sqlite-shm"] {
        let _ = std::fs::remove_file(dir.path().join(rest));
    }
    drop(opened(dir.path()));
    let newer = rusqlite::Connection::open(&file).unwrap();
    newer.pragma_update(None, "user_version", 99).unwrap();
    drop(newer);
    assert!(matches!(Grants::open(dir.path()), Err(GrantError::Newer { version: 99, .. })));
}

#[test]
fn a_use_that_cannot_be_stored_is_no_use() {
    let dir = tempfile::tempdir().unwrap();
    let grants = opened(dir.path());
    let grant = grants.issue(&now(0), terms(), given()).unwrap();
    // As when the disk is full: the file may not grow, and there is no page to spare.
    grants.lock().store.refuse_writes_for_test();
    assert!(matches!(
        grants.take(&now(1), "s1", std::slice::from_ref(&grant.id)),
        Err(GrantError::Store { .. })
    ));
    assert!(matches!(grants.issue(&now(1), terms(), given()), Err(GrantError::Store { .. })));
    // Revoking counts even so.
    assert!(grants.revoke(&grant.id, "revoked").unwrap().unstored.is_some());
    assert!(grants.matching(&now(1), "ci", "shop", "crm").is_empty());
    let (swept, failed) = grants.sweep(&now(2));
    assert!(swept.ended.is_empty() && failed.is_some(), "{swept:?}");
    // What is full now is full in a moment, too: it is tried again after a second, and then the file says it.
    grants.lock().store.accept_writes_for_test();
    let soon = Now { boot_ms: now(2).boot_ms + 500, ..now(2) };
    assert!(grants.sweep(&soon).1.is_none() && grants.lock().live[&grant.id].end_to_store);
    assert!(grants.sweep(&now(3)).1.is_none() && grants.lock().live.is_empty());
    drop(grants);
    assert!(opened(dir.path()).matching(&now(4), "ci", "shop", "crm").is_empty());
}

#[test]
fn on_a_full_disk_nothing_is_granted_and_what_was_stays() {
    let dir = tempfile::tempdir().unwrap();
    let grants = opened(dir.path());
    let first = grants.issue(&now(0), terms(), given()).unwrap();
    // As SQLite does where there is no room for another page.
    grants.lock().store.allow_no_growth();
    let long = Terms { reason: "x".repeat(100_000), ..terms() };
    assert!(matches!(grants.issue(&now(0), long, given()), Err(GrantError::Store { .. })));
    let found = grants.matching(&now(1), "ci", "shop", "crm");
    assert_eq!(found.iter().map(|grant| &grant.id).collect::<Vec<_>>(), [&first.id]);
    drop(grants);
    let found = opened(dir.path()).matching(&now(1), "ci", "shop", "crm");
    assert_eq!(found.len(), 1, "what could not be stored is not there after a restart either");
}
