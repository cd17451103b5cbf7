use serde_json::json;

use super::*;
use crate::identity::provider::tests::Idp;

fn login() -> Login {
    Login {
        provider: "test".into(),
        client_id: "cli".into(),
        scope: Some("openid".into()),
        resource: Some("urn:x".into()),
        name_claim: "sub".into(),
        may_lend: Default::default(),
    }
}

fn refused(error: &str) -> (u16, Value) {
    (400, json!({"error": error, "error_description": "because\u{1b}"}))
}

#[tokio::test(start_paused = true)]
async fn a_login_is_waited_for_as_the_provider_says() {
    let check = async |answers: Vec<(u16, Value)>, expect: Result<&str, &str>, seconds: u64| {
        let idp = Idp::start().await;
        idp.answers_to_polls(answers);
        let provider = idp.provider();
        let started = begin(&provider, &login()).await.unwrap();
        assert_eq!(started.user_code, "ABCD-EFGH");
        assert_eq!(idp.last_form(), "client_id=cli&scope=openid&resource=urn%3Ax");
        let before = Instant::now();
        let got = wait(&provider, &login(), &started).await.map_err(|error| error.to_string());
        assert_eq!(got.as_deref().map_err(String::as_str), expect);
        // Paused time moves only while everybody waits, so what the sockets take is next to nothing.
        assert_eq!(before.elapsed().as_secs(), seconds);
        assert!(idp.last_form().ends_with("&client_id=cli&device_code=d-1&resource=urn%3Ax"));
    };
    let token = || (200, json!({"access_token": "t", "token_type": "bearer"}));
    let pending = || refused("authorization_pending");
    check(vec![token()], Ok("t"), 2).await;
    check(vec![pending(), pending(), token()], Ok("t"), 6).await;
    // Two seconds, then seven each.
    check(vec![refused("slow_down"), pending(), token()], Ok("t"), 16).await;
    check(vec![(503, json!("not now")), token()], Ok("t"), 6).await;
    check(vec![pending(), refused("access_denied")], Err("the login was refused at the provider"), 4).await;
    check(vec![refused("expired_token")], Err("nobody logged in in time; start again"), 2).await;
    let odd = "the provider does not let this client log people in: invalid_grant (because\\u{1b})";
    check(vec![refused("invalid_grant")], Err(odd), 2).await;
    let forever = std::iter::repeat_with(pending).take(100).collect();
    check(forever, Err("nobody logged in in time; start again"), 60).await;
    let other = (200, json!({"access_token": "t", "token_type": "mac"}));
    check(vec![other], Err("the provider answered with a token of type mac, not Bearer"), 2).await;
}

#[tokio::test]
async fn a_token_is_a_persons_if_it_was_given_to_one_here() {
    let idp = Idp::start().await;
    let mut provider = idp.provider();
    provider.rule.groups = ["dba".to_owned()].into();
    let check = async |claims: Value, expect: Result<&str, &str>| {
        let got = who(&provider, &login(), &idp.token_with(1, &claims)).await;
        match (got, expect) {
            (Ok(person), Ok(name)) => {
                assert_eq!(person.name, name);
                assert_eq!(person.groups, ["dba".to_owned()].into());
            }
            (Err(error), Err(why)) => assert!(error.to_string().contains(why), "{error}, not {why}"),
            (got, expect) => panic!("{claims}: {got:?}, not {expect:?}"),
        }
    };
    let anna = |more: Value| {
        let mut claims = json!({"sub": "anna", "client_id": "cli", "groups": ["dba", "unheard-of"]});
        claims.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        claims
    };
    check(anna(json!({})), Ok("anna")).await;
    check(anna(json!({"azp": "cli", "sub": "auth0|5"})), Ok("auth0|5")).await;
    // What a workload can show: a token of another audience, of its own client, or of the login's client itself.
    check(anna(json!({"aud": "other"})), Err("InvalidAudience")).await;
    check(anna(json!({"client_id": "bot-client"})), Err("not given to client cli")).await;
    check(anna(json!({"azp": "bot-client"})), Err("not given to client cli")).await;
    check(anna(json!({"client_id": ["cli"]})), Err("not given to client cli")).await;
    check(json!({"sub": "anna"}), Err("not given to client cli")).await;
    check(anna(json!({"sub": "cli"})), Err("the client's own")).await;
    for name in ["anna, ben", "uid 0", "an\na", "a\"b", &"x".repeat(257)] {
        check(anna(json!({"sub": name})), Err("is no name")).await;
    }
    check(anna(json!({"groups": "dba", "exp": 1})), Err("Expired")).await;
    check(anna(json!({"groups": {"dba": true}})), Err("not a list of group names")).await;
}
