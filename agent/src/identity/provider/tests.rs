use std::sync::Mutex as StdMutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use ring::signature::{Ed25519KeyPair, KeyPair};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;
use crate::http::testing::authority;

/// A provider that does as it is told, and counts.
pub(in crate::identity) struct Idp {
    pub(in crate::identity) issuer: String,
    keys: StdMutex<Value>,
    how: StdMutex<How>,
    key_fetches: AtomicUsize,
    /// Forms that were posted.
    posted: StdMutex<Vec<String>>,
    token: StdMutex<String>,
    /// What polls for a login are answered, one after another.
    polls: StdMutex<std::collections::VecDeque<(u16, Value)>>,
}

#[derive(Clone, Copy, PartialEq)]
enum How {
    Well,
    TrailingSlash,
    Error500,
    Garbage,
    Endless,
    Silent,
    Drips,
    Redirects,
    BreaksOff,
}

impl Idp {
    pub(in crate::identity) async fn start() -> Arc<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let issuer = format!("http://{}", listener.local_addr().unwrap());
        let idp = Arc::new(Self {
            issuer,
            keys: StdMutex::new(json!({"keys": [jwk(1)]})),
            how: StdMutex::new(How::Well),
            key_fetches: AtomicUsize::new(0),
            posted: StdMutex::default(),
            token: StdMutex::default(),
            polls: StdMutex::default(),
        });
        let served = Arc::clone(&idp);
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let idp = Arc::clone(&served);
                tokio::spawn(async move { idp.answer(stream).await });
            }
        });
        idp
    }

    async fn answer<S: AsyncRead + AsyncWrite + Unpin>(&self, mut stream: S) -> Option<()> {
        let mut request = Vec::new();
        let text = loop {
            stream.read_buf(&mut request).await.ok().filter(|read| *read > 0)?;
            let text = String::from_utf8_lossy(&request).into_owned();
            let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            if body.len() >= length.map_or(0, |length| length.parse().unwrap()) {
                break text;
            }
        };
        let path = text.split(' ').nth(1)?;
        let how = *self.how.lock().unwrap();
        let body = match path {
            "/.well-known/openid-configuration" => {
                let slash = if how == How::TrailingSlash { "/" } else { "" };
                let issuer = &self.issuer;
                json!({
                    "issuer": format!("{issuer}{slash}"),
                    "jwks_uri": format!("{issuer}/keys"),
                    "token_endpoint": format!("{issuer}/token"),
                    "device_authorization_endpoint": format!("{issuer}/device"),
                })
            }
            "/keys" => {
                self.key_fetches.fetch_add(1, Ordering::Relaxed);
                self.keys.lock().unwrap().clone()
            }
            // As GitHub answers a job that shows what it was given.
            path if path.starts_with("/request") => {
                if !text.contains("authorization: Bearer job-secret\r\n") {
                    stream.write_all(b"HTTP/1.1 401 No\r\ncontent-length: 0\r\n\r\n").await.ok()?;
                    return None;
                }
                json!({"count": 1, "value": *self.token.lock().unwrap()})
            }
            _ => {
                self.posted.lock().unwrap().push(text.split_once("\r\n\r\n")?.1.to_owned());
                if path == "/device" {
                    let code = json!({
                        "device_code": "d-1", "user_code": "ABCD-EFGH", "verification_uri": "https://x/device",
                        "expires_in": 60, "interval": 2,
                    });
                    return stream.write_all(ok(&code.to_string()).as_bytes()).await.ok();
                }
                let polled = self.polls.lock().unwrap().pop_front();
                if let Some((status, body)) = polled {
                    let answer = ok(&body.to_string()).replacen("200", &status.to_string(), 1);
                    return stream.write_all(answer.as_bytes()).await.ok();
                }
                json!({"access_token": *self.token.lock().unwrap(), "token_type": "Bearer", "expires_in": 60})
            }
        };
        let answer = match how {
            How::Well | How::TrailingSlash => ok(&body.to_string()),
            How::Error500 => "HTTP/1.1 500 No\r\ncontent-length: 5\r\n\r\nsorry".into(),
            How::Garbage => "\u{1}\u{2} not http at all\r\n\r\n".into(),
            How::Redirects => {
                "HTTP/1.1 302 There\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n".into()
            }
            How::BreaksOff => "HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\n{\"keys\":".into(),
            How::Silent => std::future::pending().await,
            How::Drips => {
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n").await.ok()?;
                loop {
                    stream.write_all(b" ").await.ok()?;
                    tokio::time::sleep(Duration::from_millis(300)).await;
                }
            }
            How::Endless => {
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 104857600\r\n\r\n").await.ok()?;
                let block = vec![b' '; 1 << 16];
                loop {
                    stream.write_all(&block).await.ok()?;
                }
            }
        };
        stream.write_all(answer.as_bytes()).await.ok()
    }

    fn behave(&self, how: How) {
        *self.how.lock().unwrap() = how;
    }

    fn fetches(&self) -> usize {
        self.key_fetches.load(Ordering::Relaxed)
    }

    pub(in crate::identity) fn provider(&self) -> Provider {
        let rule = ProviderRule {
            name: "test".into(),
            issuer: self.issuer.clone(),
            audience: "chaperone".into(),
            ca_file: None,
            algorithms: vec![Algorithm::EdDSA],
            groups_claim: "groups".into(),
            groups: Default::default(),
        };
        let none = rustls::RootCertStore::empty();
        Provider::new(
            rule,
            rustls::ClientConfig::builder().with_root_certificates(none).with_no_client_auth(),
        )
    }

    /// What polls for a login are answered.
    pub(in crate::identity) fn answers_to_polls(&self, answers: Vec<(u16, Value)>) {
        *self.polls.lock().unwrap() = answers.into();
    }

    /// What it answers when a token is asked for.
    pub(in crate::identity) fn says(&self, token: &str) {
        token.clone_into(&mut self.token.lock().unwrap());
    }

    pub(in crate::identity) fn last_form(&self) -> String {
        self.posted.lock().unwrap().last().cloned().unwrap()
    }

    fn token(&self, key: u8) -> String {
        self.token_with(key, &json!({}))
    }

    /// With these claims besides.
    pub(in crate::identity) fn token_with(&self, key: u8, more: &Value) -> String {
        let mut claims = json!({
            "iss": self.issuer, "aud": "chaperone", "sub": "bot", "iat": unix_s(), "exp": unix_s() + 60,
        });
        claims.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let header = json!({"alg": "EdDSA", "kid": key.to_string()});
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let message = format!("{}.{}", part(&header), part(&claims));
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(pair(key).sign(message.as_bytes())))
    }
}

fn ok(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

fn pair(seed: u8) -> Ed25519KeyPair {
    Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap()
}

fn jwk(key: u8) -> Value {
    let x = URL_SAFE_NO_PAD.encode(pair(key).public_key().as_ref());
    json!({"kty": "OKP", "crv": "Ed25519", "x": x, "kid": key.to_string(), "use": "sig"})
}

/// Lets time pass without waiting for it.
async fn later(seconds: u64) {
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(seconds)).await;
    tokio::time::resume();
}

#[tokio::test]
async fn keys_are_fetched_once_and_kept() {
    let idp = Idp::start().await;
    let provider = Arc::new(idp.provider());
    let token = idp.token(1);
    let checks: Vec<_> = (0..20)
        .map(|_| {
            let (provider, token) = (Arc::clone(&provider), token.clone());
            tokio::spawn(async move { provider.check(&token, Some("bot")).await.map(drop) })
        })
        .collect();
    for check in checks {
        check.await.unwrap().unwrap();
    }
    assert_eq!(idp.fetches(), 1);
    later(601).await;
    provider.check(&token, Some("bot")).await.unwrap();
    assert_eq!(idp.fetches(), 2);
}

#[tokio::test]
async fn a_rotated_key_is_found_and_an_invented_one_is_not_asked_for_twice() {
    let idp = Idp::start().await;
    let provider = idp.provider();
    provider.check(&idp.token(1), None).await.unwrap();
    later(2).await;
    *idp.keys.lock().unwrap() = json!({"keys": [jwk(2)]});
    provider.check(&idp.token(2), None).await.unwrap();
    assert!(provider.check(&idp.token(1), None).await.is_err(), "a key that is gone is gone");
    for invented in 10..30 {
        assert!(provider.check(&idp.token(invented), None).await.is_err());
    }
    assert_eq!(idp.fetches(), 2);
    later(31).await;
    assert!(provider.check(&idp.token(40), None).await.is_err());
    assert_eq!(idp.fetches(), 3);
}

#[tokio::test]
async fn old_keys_do_while_there_are_no_others_for_a_day() {
    let idp = Idp::start().await;
    let provider = idp.provider();
    let token = idp.token(1);
    provider.check(&token, None).await.unwrap();
    idp.behave(How::Error500);
    later(23 * 3600).await;
    provider.check(&token, None).await.unwrap();
    later(2 * 3600).await;
    assert!(provider.check(&token, None).await.is_err(), "a day is the end of it");
    idp.behave(How::Well);
    provider.check(&token, None).await.unwrap();
}

#[tokio::test]
async fn a_provider_that_misbehaves_gives_an_error_and_no_more() {
    let idp = Idp::start().await;
    let token = idp.token(1);
    for (how, part) in [
        (How::TrailingSlash, "to the last character"),
        (How::Error500, "500"),
        (How::Garbage, "HTTP"),
        (How::Redirects, "302"),
        (How::Endless, "1 MiB"),
        (How::BreaksOff, "broke off"),
    ] {
        idp.behave(how);
        let error = idp.provider().check(&token, None).await.unwrap_err().to_string();
        assert!(error.contains(part), "`{error}` does not say `{part}`");
    }
    idp.behave(How::Well);
    *idp.keys.lock().unwrap() = json!({"keys": [{"kty": "oct", "k": "AAAA", "kid": "1"}]});
    let error = idp.provider().check(&token, None).await.unwrap_err().to_string();
    assert!(error.contains("shared secret"), "{error}");
}

#[tokio::test]
async fn a_provider_that_is_slow_is_given_up_on() {
    for how in [How::Silent, How::Drips] {
        let idp = Idp::start().await;
        idp.behave(how);
        let provider = idp.provider();
        let token = idp.token(1);
        let asked = tokio::spawn(async move { provider.check(&token, None).await.unwrap_err().to_string() });
        tokio::time::sleep(Duration::from_millis(300)).await;
        later(11).await;
        let error = asked.await.unwrap();
        assert!(error.contains("did not answer"), "{error}");
    }
}

#[tokio::test]
async fn a_client_proves_itself_by_a_signed_assertion_and_its_token_is_checked() {
    let idp = Idp::start().await;
    let provider = idp.provider();
    let pkcs8 = Ed25519KeyPair::generate_pkcs8(&ring::rand::SystemRandom::new()).unwrap();
    let client = ClientKey {
        id: "bot".into(),
        key: EncodingKey::from_ed_der(pkcs8.as_ref()),
        algorithm: Algorithm::EdDSA,
        kid: Some("k1".into()),
    };
    let wanted = Wanted { scope: Some("db read".into()), resource: None };
    *idp.token.lock().unwrap() = idp.token(1);
    let token = provider.obtain(&client, &wanted, "bot").await.unwrap();
    assert_eq!(token.subject, "bot");
    let form = idp.posted.lock().unwrap()[0].clone();
    assert!(
        form.starts_with("grant_type=client_credentials&client_id=bot&") && form.contains("&scope=db+read"),
        "{form}"
    );
    let assertion = form.split("client_assertion=").nth(1).unwrap().split('&').next().unwrap().to_owned();
    let claims = URL_SAFE_NO_PAD.decode(assertion.split('.').nth(1).unwrap()).unwrap();
    let claims: Value = serde_json::from_slice(&claims).unwrap();
    assert_eq!(
        (&claims["iss"], &claims["sub"], &claims["aud"]),
        (&json!("bot"), &json!("bot"), &json!(idp.issuer))
    );
    assert_eq!(claims["exp"].as_u64().unwrap() - claims["iat"].as_u64().unwrap(), ASSERTION_S);
    let pair = Ed25519KeyPair::from_pkcs8(pkcs8.as_ref()).unwrap();
    let (message, signature) = assertion.rsplit_once('.').unwrap();
    let public =
        ring::signature::UnparsedPublicKey::new(&ring::signature::ED25519, pair.public_key().as_ref());
    public.verify(message.as_bytes(), &URL_SAFE_NO_PAD.decode(signature).unwrap()).unwrap();

    for (answer, part) in [("opaque".to_owned(), "opaque"), (idp.token(9), "does not publish")] {
        *idp.token.lock().unwrap() = answer;
        let error = provider.obtain(&client, &wanted, "bot").await.unwrap_err().to_string();
        assert!(error.contains(part), "`{error}` does not say `{part}`");
    }
    *idp.token.lock().unwrap() = idp.token(1);
    assert!(provider.obtain(&client, &wanted, "other").await.is_err(), "somebody else's token");
}

#[tokio::test]
async fn a_provider_with_an_authority_of_its_own_is_trusted_by_that_one_alone() {
    let dir = tempfile::tempdir().unwrap();
    let (own, other) = (dir.path().join("own.pem"), dir.path().join("other.pem"));
    let server = authority(&own, "localhost");
    authority(&other, "localhost");
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let issuer = format!("https://localhost:{port}");
    let plain = Idp::start().await;
    let idp = Arc::new(Idp {
        issuer: issuer.clone(),
        keys: StdMutex::new(json!({"keys": [jwk(1)]})),
        how: StdMutex::new(How::Well),
        key_fetches: AtomicUsize::new(0),
        posted: StdMutex::default(),
        token: StdMutex::default(),
        polls: StdMutex::default(),
    });
    let (served, acceptor) = (Arc::clone(&idp), tokio_rustls::TlsAcceptor::from(Arc::new(server)));
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            if let Ok(stream) = acceptor.accept(stream).await {
                served.answer(stream).await;
            }
        }
    });
    let rule = |issuer: &str, ca_file: Option<&std::path::PathBuf>| ProviderRule {
        issuer: issuer.to_owned(),
        ca_file: ca_file.cloned(),
        ..plain.provider().rule.clone()
    };
    let check = async |rule: ProviderRule| {
        let tls = super::super::keeper::tls(&rule).unwrap();
        Provider::new(rule, tls).check(&idp.token(1), Some("bot")).await.map(drop).map_err(|e| e.to_string())
    };
    assert_eq!(check(rule(&issuer, Some(&own))).await, Ok(()));
    let error = check(rule(&issuer, Some(&other))).await.unwrap_err();
    assert!(error.contains("cannot connect") && error.contains("certificate"), "{error}");
    // Another name than the certificate's, at the same address.
    let error = check(rule(&format!("https://127.0.0.1:{port}"), Some(&own))).await.unwrap_err();
    assert!(error.contains("certificate"), "{error}");
}
