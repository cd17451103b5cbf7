use std::os::unix::fs::PermissionsExt;

use serde_json::{Value, json};

use super::super::provider::tests::Idp;
use super::*;
use crate::config::Command;

const POD: &str = "1505f8a9-c386-80d2-9fe6-1118d6f7704b";

fn rule(platform: Platform) -> TokenRule {
    TokenRule {
        provider: "test".into(),
        subject: "bot".into(),
        platform: Some(platform),
        client: None,
        actor: None,
        pod: None,
    }
}

async fn obtained(rule: &TokenRule, idp: &Idp) -> Result<Token, String> {
    let source = Source::load(rule).map_err(|error| error.to_string())?;
    source.obtain(&idp.provider()).await.map_err(|error| error.to_string())
}

fn refused(outcome: Result<Token, String>, part: &str) {
    let error = outcome.unwrap_err();
    assert!(error.contains(part), "`{error}` does not say `{part}`");
}

/// What a projected token of Kubernetes says of where it is used.
fn bound_to(pod: &Value) -> Value {
    json!({"kubernetes.io": {"namespace": "shop", "pod": pod, "serviceaccount": {"name": "bot"}}})
}

#[tokio::test]
async fn a_projected_token_is_good_in_the_pod_it_is_bound_to_only() {
    let idp = Idp::start().await;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("token");
    let rule = TokenRule { pod: Some(POD.into()), ..rule(Platform::File(path.clone())) };
    let check = |more: Value| {
        std::fs::write(&path, idp.token_with(1, &more)).unwrap();
        obtained(&rule, &idp)
    };
    check(bound_to(&json!({"name": "bot-0", "uid": POD}))).await.unwrap();
    for other in [
        bound_to(&json!({"name": "bot-1", "uid": "00000000-c386-80d2-9fe6-1118d6f7704b"})),
        bound_to(&json!({"name": "bot-1", "uid": [POD]})),
        bound_to(&json!(POD)),
        json!({"pod": {"uid": POD}}),
        json!({}),
    ] {
        refused(check(other).await, "not bound to pod");
    }
    // A file that is somebody's novel is not read to its end.
    std::fs::write(&path, vec![b'x'; 1 << 20]).unwrap();
    refused(obtained(&rule, &idp).await, "holds no token");
    std::fs::write(&path, " \n").unwrap();
    refused(obtained(&rule, &idp).await, "holds no token");
}

#[tokio::test]
async fn what_is_given_is_asked_for_with_what_the_job_holds() {
    let idp = Idp::start().await;
    let dir = tempfile::tempdir().unwrap();
    let (url_file, bearer_file) = (dir.path().join("url"), dir.path().join("bearer"));
    let request = Platform::Request { url_file: url_file.clone(), bearer_file: bearer_file.clone() };
    std::fs::write(&url_file, format!("{}/request?audience=chaperone\n", idp.issuer)).unwrap();
    std::fs::write(&bearer_file, "job-secret\n").unwrap();
    idp.says(&idp.token_with(1, &json!({})));
    obtained(&rule(request.clone()), &idp).await.unwrap();
    std::fs::write(&bearer_file, "another").unwrap();
    refused(obtained(&rule(request.clone()), &idp).await, "401");
    // The secret is for whom the runner names, over TLS.
    std::fs::write(&url_file, "http://example.com/request").unwrap();
    refused(obtained(&rule(request), &idp).await, "not an https address");
}

#[tokio::test]
async fn a_token_that_is_exchanged_says_who_acts_for_whom() {
    let idp = Idp::start().await;
    let dir = tempfile::tempdir().unwrap();
    let (path, key_file) = (dir.path().join("token"), dir.path().join("key.pem"));
    let key = ring::signature::Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
    let text = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, key.as_ref());
    std::fs::write(&key_file, format!("-----BEGIN PRIVATE KEY-----\n{text}\n-----END PRIVATE KEY-----\n"))
        .unwrap();
    std::fs::set_permissions(&key_file, std::fs::Permissions::from_mode(0o600)).unwrap();
    std::fs::write(&path, "the.platform.s").unwrap();
    let client = Client { id: "agent".into(), key_file, key_id: None, scope: None, resource: None };
    let rule =
        TokenRule { client: Some(client), actor: Some("agent".into()), ..rule(Platform::File(path.clone())) };
    idp.says(&idp.token_with(1, &json!({"act": {"sub": "agent", "act": {"sub": "other"}}})));
    let token = obtained(&rule, &idp).await.unwrap();
    assert_eq!(token.subject, "bot");
    let form = idp.last_form();
    for part in [
        "grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Atoken-exchange",
        "client_id=agent",
        "subject_token=the.platform.s",
        "subject_token_type=urn%3Aietf%3Aparams%3Aoauth%3Atoken-type%3Ajwt",
        "audience=chaperone",
    ] {
        assert!(form.contains(part), "{form}");
    }
    for other in
        [json!({"act": {"sub": "other", "act": {"sub": "agent"}}}), json!({"act": "agent"}), json!({})]
    {
        idp.says(&idp.token_with(1, &other));
        refused(obtained(&rule, &idp).await, "does not say that agent acts");
    }
}

/// As whoever runs this test.
fn command(program: &str, args: &[&str]) -> Command {
    let (uid, gid) = (nix::unistd::getuid().as_raw(), nix::unistd::getgid().as_raw());
    let args = args.iter().map(|arg| (*arg).to_owned()).collect();
    Command { program: program.into(), args, uid, gid }
}

#[test]
fn a_command_that_others_may_change_is_not_run() {
    let dir = tempfile::tempdir().unwrap();
    let program = dir.path().join("token");
    std::fs::write(&program, "#!/bin/sh\necho x\n").unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o777)).unwrap();
    let rule = rule(Platform::Command(Command { program, ..command("/", &[]) }));
    assert!(Source::load(&rule).err().is_some_and(|error| error.to_string().contains("others than root")));
}
