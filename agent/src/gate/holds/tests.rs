use super::*;

fn info(id: &str, quorum: u32) -> HoldInfo {
    let need = Need { rule: "r".into(), groups: vec!["dba".into(), "oncall".into()], quorum, ttl_s: 60 };
    HoldInfo {
        id: id.into(),
        what: Held::Statement,
        session: "s".into(),
        op: 1,
        identity: Identity { name: "bot".into(), groups: vec![] },
        owner: Some("olga".into()),
        workload: None,
        target: "shop".into(),
        env: "prod".into(),
        database: "crm".into(),
        host: false,
        sql: "DELETE FROM t".into(),
        binds: vec![],
        settings: BTreeMap::new(),
        request: "b".into(),
        binding: String::new(),
        policies: vec![],
        reason: None,
        needs: vec![need],
        given: vec![],
        blast: None,
        in_the_way: None,
        created_unix_s: 0,
        expires_unix_s: 0,
    }
}

fn vote(by: &str, groups: Option<&[&str]>) -> Vote {
    let groups = groups.map(|groups| groups.iter().map(|group| (*group).to_owned()).collect());
    let given = Given { by: by.into(), groups };
    Vote { approve: true, given, comment: None, terms: AccessTerms::default() }
}

#[tokio::test(start_paused = true)]
async fn a_hold_is_decided_once_or_times_out() {
    let holds = Arc::new(Holds::default());
    let mut ticket = holds.open(info("a", 1), Duration::from_secs(5));
    assert_eq!(holds.list().len(), 1);
    assert!(matches!(holds.vote("a", vote("uid 0", None), None), Ok(Voted::Resolved(_))));
    let again = holds.vote("a", vote("uid 0", None), None);
    assert_eq!(again.unwrap_err(), VoteError::Unknown("a".into()));
    assert!(ticket.wait().await.is_some_and(|resolution| resolution.approved));

    let mut late = holds.open(info("b", 1), Duration::from_secs(5));
    assert_eq!(late.wait().await, None);
}

#[tokio::test]
async fn a_quorum_counts_people_of_the_right_groups_each_once() {
    let holds = Arc::new(Holds::default());
    let mut ticket = holds.open(info("a", 2), Duration::from_secs(5));
    let check = |by: &str, groups: &[&str], binding: Option<&str>, expect: VoteError| {
        assert_eq!(holds.vote("a", vote(by, Some(groups)), binding).unwrap_err(), expect);
    };
    check("bot", &["dba"], None, VoteError::Own("bot".into()));
    check("olga", &["dba"], None, VoteError::Owner("olga".into()));
    let groups = "dba, oncall".to_owned();
    check("max", &["sales"], None, VoteError::WrongGroup { by: "max".into(), groups });
    check("anna", &["dba"], Some("other"), VoteError::Changed("a".into()));
    // A yes is for this request until this deadline.
    let later = holds.open(info("later", 2), Duration::from_secs(50)).info.binding.clone();
    check("anna", &["dba"], Some(&later), VoteError::Changed("a".into()));
    let seen = ticket.info.binding.clone();
    let first = holds.vote("a", vote("anna", Some(&["dba"])), Some(&seen)).unwrap();
    assert!(matches!(first, Voted::Waiting { missing: 1, .. }));
    check("anna", &["oncall"], None, VoteError::Twice("anna".into()));
    assert!(matches!(holds.vote("a", vote("ben", Some(&["oncall"])), None), Ok(Voted::Resolved(_))));
    assert_eq!(ticket.wait().await.unwrap().by(), "anna, ben");
}

#[tokio::test]
async fn one_no_ends_it_whoever_said_yes_before() {
    let holds = Arc::new(Holds::default());
    let mut ticket = holds.open(info("a", 2), Duration::from_secs(5));
    holds.vote("a", vote("anna", Some(&["dba"])), None).unwrap();
    let no = Vote { approve: false, ..vote("uid 0", None) };
    assert!(matches!(holds.vote("a", no, None), Ok(Voted::Resolved(_))));
    let resolution = ticket.wait().await.unwrap();
    assert!(!resolution.approved);
    assert_eq!(resolution.by(), "uid 0");
}

#[tokio::test(start_paused = true)]
async fn what_is_parked_passes_once_in_its_time() {
    let holds = Holds::default();
    let wait = Duration::from_secs(30);
    assert_eq!(holds.park(info("a", 1), wait), Ok(("a".into(), true)));
    assert_eq!(holds.park(info("b", 1), wait), Ok(("a".into(), false)), "the same is one request");
    let Ok(Voted::Parked(parked, resolution)) = holds.vote("a", vote("anna", Some(&["dba"])), None) else {
        panic!("nobody waits")
    };
    assert!(holds.take_ready("b").is_none(), "not before it is carried out");
    holds.release(&parked, resolution.given.clone());
    assert!(holds.take_ready("other").is_none());
    assert!(holds.take_ready("b").is_some_and(|(id, given)| id == "a" && given.len() == 1));
    assert!(holds.take_ready("b").is_none(), "once");

    holds.release(&parked, resolution.given);
    tokio::time::advance(Duration::from_secs(60)).await;
    assert!(holds.take_ready("b").is_none(), "too late");
    assert_eq!(holds.park(info("c", 1), wait), Ok(("c".into(), true)));
    tokio::time::advance(wait).await;
    assert!(holds.vote("c", vote("anna", Some(&["dba"])), None).is_err(), "it stood too long");
}

#[tokio::test]
async fn a_dropped_ticket_withdraws_the_hold() {
    let holds = Arc::new(Holds::default());
    drop(holds.open(info("a", 1), Duration::from_secs(5)));
    assert!(holds.list().is_empty());
    assert!(holds.vote("a", vote("uid 0", None), None).is_err());
}

#[tokio::test(start_paused = true)]
async fn what_nobody_waits_for_and_nobody_answers_is_told_once() {
    let holds = Arc::new(Holds::default());
    let (id, new) = holds.park(info("a", 1), Duration::from_secs(5)).unwrap();
    assert!(new && holds.take_unanswered().is_empty());
    assert_eq!(holds.park(info("again", 1), Duration::from_secs(5)).unwrap(), (id.clone(), false));
    let ticket = holds.open(info("waits", 1), Duration::from_secs(5));
    tokio::time::advance(Duration::from_secs(6)).await;
    assert_eq!(holds.vote("a", vote("anna", None), None).unwrap_err(), VoteError::Unknown("a".into()));
    let ended = |ended: Vec<HoldInfo>| ended.into_iter().map(|info| info.id).collect::<Vec<_>>();
    assert_eq!(ended(holds.take_unanswered()), [id]);
    assert!(holds.take_unanswered().is_empty());
    // The session that waits records its own.
    drop(ticket);
    holds.park(info("b", 1), Duration::from_secs(5)).unwrap();
    assert_eq!(ended(holds.withdraw_parked()), ["b"]);
    assert!(holds.list().is_empty() && holds.take_unanswered().is_empty());
}

#[tokio::test]
async fn what_was_decided_before_is_a_ticket_like_any_other() {
    let holds = Arc::new(Holds::default());
    let given = vec![vote("anna", Some(&["dba"])).given];
    let mut ticket = holds.decided(HoldInfo { given: given.clone(), ..info("a", 1) });
    let resolution = ticket.wait().await.unwrap();
    assert!(resolution.approved && resolution.given == given);
    assert!(holds.list().is_empty());
}
