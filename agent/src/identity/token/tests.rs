use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair};
use serde_json::json;

use super::*;

const NOW: u64 = 0;

fn ed(seed: u8) -> Ed25519KeyPair {
    Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap()
}

fn jwk(pair: &Ed25519KeyPair, kid: &str) -> Value {
    let x = URL_SAFE_NO_PAD.encode(pair.public_key().as_ref());
    json!({"kty": "OKP", "crv": "Ed25519", "x": x, "kid": kid, "use": "sig", "alg": "EdDSA"})
}

fn keys(list: &[Value]) -> Keys {
    Keys::parse(json!({ "keys": list }).to_string().as_bytes()).unwrap()
}

fn now() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs() + NOW
}

fn signed(header: &Value, claims: &Value, sign: impl Fn(&[u8]) -> Vec<u8>) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let message = format!("{}.{}", part(header), part(claims));
    let signature = sign(message.as_bytes());
    format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
}

fn good_header() -> Value {
    json!({"alg": "EdDSA", "kid": "1", "typ": "at+jwt"})
}

fn good_claims() -> Value {
    json!({
        "iss": "https://idp.test", "aud": "chaperone", "sub": "bot",
        "iat": now(), "nbf": now(), "exp": now() + 300, "groups": ["dba", "ci"],
    })
}

/// The value with one member changed; null takes it away.
fn with(mut value: Value, name: &str, new: Value) -> Value {
    let object = value.as_object_mut().unwrap();
    if new.is_null() {
        object.remove(name)
    } else {
        object.insert(name.into(), new)
    };
    value
}

fn rules() -> Rules {
    Rules {
        issuer: "https://idp.test".into(),
        audience: "chaperone".into(),
        algorithms: vec![Algorithm::EdDSA, Algorithm::ES256],
        subject: Some("bot".into()),
    }
}

fn read(header: &Value, claims: &Value) -> Result<Token, TokenError> {
    let token = signed(header, claims, |message| ed(1).sign(message).as_ref().to_vec());
    check(&token, &keys(&[jwk(&ed(1), "1"), jwk(&ed(2), "2")]), &rules(), now())
}

#[test]
fn a_good_token_passes_with_its_groups() {
    let token = read(&good_header(), &good_claims()).unwrap();
    assert_eq!(token.subject, "bot");
    assert_eq!(token.groups("groups").unwrap(), ["ci", "dba"]);
    let many = with(good_claims(), "aud", json!(["other", "chaperone"]));
    assert!(read(&good_header(), &many).is_ok());
    assert!(read(&with(good_header(), "typ", Value::Null), &good_claims()).is_ok());
    assert!(read(&with(good_header(), "typ", json!("application/AT+JWT")), &good_claims()).is_ok());
}

#[test]
fn a_claim_that_is_not_as_it_has_to_be_is_refused() {
    let text = |error: TokenError| error.to_string();
    for (name, value, part) in [
        ("aud", Value::Null, "not good"),
        ("iss", Value::Null, "claim iss"),
        ("sub", Value::Null, "not good"),
        ("exp", Value::Null, "not good"),
        ("iat", Value::Null, "claim iat"),
        ("aud", json!("somebody-else"), "not good"),
        ("aud", json!([]), "not good"),
        ("iss", json!("https://idp.test/"), "of issuer https://idp.test/"),
        ("iss", json!(["https://idp.test"]), "claim iss"),
        ("iss", json!(["https://idp.test", "https://evil.test"]), "claim iss"),
        ("nbf", json!(now() + 3600), "not good"),
        ("iat", json!(now() + 3600), "ahead"),
        ("exp", json!(now() - 31), "not good"),
        ("exp", json!(now() + 10 * 365 * 86400), "longer than a day"),
        ("exp", json!("soon"), "not good"),
        ("iat", json!("now"), "claim iat"),
        ("sub", json!("other"), "subject other"),
        ("sub", json!(""), "claim sub"),
        ("sub", json!(7), "not good"),
    ] {
        let error = read(&good_header(), &with(good_claims(), name, value.clone())).map_err(text);
        let error = error.expect_err(&format!("{name} = {value} passed"));
        assert!(error.contains(part), "{name} = {value}: `{error}` does not say `{part}`");
    }
}

#[test]
fn a_header_that_is_not_as_it_has_to_be_is_refused() {
    for (name, value, part) in [
        ("alg", json!("none"), "signed by none"),
        ("alg", json!("HS256"), "signed by HS256"),
        ("alg", json!("RS256"), "signed by RS256"),
        ("alg", json!("ES256"), "does not publish"),
        ("alg", Value::Null, "no alg"),
        ("kid", json!("3"), "does not publish"),
        ("kid", Value::Null, "does not publish"),
        ("kid", json!(1), "kid is not text"),
        ("kid", json!("2"), "not good"),
        ("crit", json!(["exp"]), "crit"),
        ("jku", json!("https://evil.test/keys"), "jku"),
        ("jwk", jwk(&ed(9), "9"), "jwk"),
        ("x5u", json!("https://evil.test/cert"), "x5u"),
        ("x5c", json!(["AA"]), "x5c"),
        ("b64", json!(false), "b64"),
        ("zip", json!("DEF"), "compressed"),
        ("typ", json!("logout+jwt"), "typ"),
        ("typ", json!("dpop+jwt"), "typ"),
        ("typ", json!(1), "typ"),
    ] {
        let error = read(&with(good_header(), name, value.clone()), &good_claims());
        let error = error.expect_err(&format!("{name} = {value} passed")).to_string();
        assert!(error.contains(part), "{name} = {value}: `{error}` does not say `{part}`");
    }
}

#[test]
fn text_that_is_no_signed_token_is_refused() {
    let keys = keys(&[jwk(&ed(1), "1")]);
    let good = signed(&good_header(), &good_claims(), |message| ed(1).sign(message).as_ref().to_vec());
    check(&good, &keys, &rules(), now()).unwrap();
    let (message, signature) = good.rsplit_once('.').unwrap();
    for bad in [
        String::new(),
        "opaque-token".into(),
        format!("{message}."),
        message.to_owned(),
        format!("{good}."),
        format!("{good}.{signature}"),
        format!(" {good}"),
        format!("{message}.{}", URL_SAFE_NO_PAD.encode([0; 64])),
        format!("{good}="),
    ] {
        assert!(check(&bad, &keys, &rules(), now()).is_err(), "{bad}");
    }
    let long = with(good_claims(), "filler", json!("x".repeat(LONGEST)));
    assert_eq!(read(&good_header(), &long), Err(TokenError::TooLong));
}

#[test]
fn a_public_key_is_not_a_shared_secret() {
    // The classic confusion: HMAC over the token with the public key everybody knows.
    let public = ed(1).public_key().as_ref().to_vec();
    let header = json!({"alg": "HS256", "kid": "1"});
    let hmac = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, &public);
    let token = signed(&header, &good_claims(), |message| ring::hmac::sign(&hmac, message).as_ref().to_vec());
    let got = check(&token, &keys(&[jwk(&ed(1), "1")]), &rules(), now());
    assert_eq!(got, Err(TokenError::Algorithm("HS256".into())));
}

#[test]
fn other_curves_verify_what_they_signed() {
    let random = SystemRandom::new();
    let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
    let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8.as_ref(), &random).unwrap();
    let (x, y) = pair.public_key().as_ref()[1..].split_at(32);
    let (x, y) = (URL_SAFE_NO_PAD.encode(x), URL_SAFE_NO_PAD.encode(y));
    let key = json!({"kty": "EC", "crv": "P-256", "x": x, "y": y, "kid": "1"});
    let header = with(good_header(), "alg", json!("ES256"));
    let sign = |message: &[u8]| pair.sign(&random, message).unwrap().as_ref().to_vec();
    let token = signed(&header, &good_claims(), sign);
    assert!(check(&token, &keys(std::slice::from_ref(&key)), &rules(), now()).is_ok());
    // Without a kid it does as long as there is one key only.
    let token = signed(&with(header, "kid", Value::Null), &good_claims(), sign);
    assert!(check(&token, &keys(std::slice::from_ref(&key)), &rules(), now()).is_ok());
    assert!(check(&token, &keys(&[key, jwk(&ed(1), "2")]), &rules(), now()).is_err());
}

#[test]
fn keys_that_could_not_be_used_safely_are_left_out() {
    let rsa = |bytes: usize| {
        let n = URL_SAFE_NO_PAD.encode(vec![0xff; bytes]);
        json!({"kty": "RSA", "n": n, "e": "AQAB", "kid": "r"})
    };
    for (key, why) in [
        (json!({"kty": "oct", "k": "c2VjcmV0", "kid": "1"}), "shared secret"),
        (with(rsa(256), "use", json!("enc")), "not for signatures"),
        (with(rsa(256), "key_ops", json!(["encrypt"])), "not for verifying"),
        (rsa(128), "fewer than 2048"),
        (with(rsa(256), "n", json!("AA")), "fewer than 2048"),
        (with(rsa(256), "alg", json!("RSA-OAEP")), "algorithm"),
        (with(jwk(&ed(1), "1"), "crv", json!("Ed448")), "not known"),
        (with(jwk(&ed(1), "1"), "x", json!("AAAA")), "wrong size"),
        (with(jwk(&ed(1), "1"), "x", json!("*")), "cannot be read"),
        (json!({"kid": "1"}), "kty"),
    ] {
        let error = Keys::parse(json!({"keys": [key]}).to_string().as_bytes()).unwrap_err().to_string();
        assert!(error.contains(why), "{key}: `{error}` does not say `{why}`");
        // Beside a good one it does no harm.
        let set = json!({"keys": [key, jwk(&ed(1), "good")]});
        assert!(Keys::parse(set.to_string().as_bytes()).unwrap().find(Some("good")).is_some());
    }
    assert!(Keys::parse(json!({"keys": [rsa(256)]}).to_string().as_bytes()).is_ok());
    assert!(Keys::parse(b"<html>").is_err());
    assert!(Keys::parse(b"{\"keys\":[]}").is_err());
    let many: Vec<Value> = (0..101).map(|n| jwk(&ed(1), &n.to_string())).collect();
    assert!(matches!(
        Keys::parse(json!({ "keys": many }).to_string().as_bytes()),
        Err(super::super::keys::KeysError::TooMany)
    ));
    // Two keys of one id are none.
    assert!(keys(&[jwk(&ed(1), "1"), jwk(&ed(2), "1")]).find(Some("1")).is_none());
}

#[test]
fn groups_are_names_wherever_the_claim_is() {
    let token = |claims: Value| Token {
        subject: "x".into(),
        expires: 0,
        claims: claims.as_object().unwrap().clone(),
    };
    let check = |claims: Value, claim: &str, expect: Option<&[&str]>| {
        let got = token(claims.clone()).groups(claim).ok();
        assert_eq!(
            got,
            expect.map(|names| names.iter().map(|n| (*n).to_owned()).collect()),
            "{claims} {claim}"
        );
    };
    check(json!({"realm": {"roles": ["b", "a", "b"]}}), "realm.roles", Some(&["a", "b"]));
    check(json!({"https://x.test/groups": ["a"]}), "https://x.test/groups", Some(&["a"]));
    check(json!({"groups": "a"}), "groups", Some(&["a"]));
    check(json!({}), "groups", Some(&[]));
    check(json!({"realm": 1}), "realm.roles", Some(&[]));
    check(json!({"groups": [1]}), "groups", None);
    check(json!({"groups": {"a": 1}}), "groups", None);
    check(json!({"groups": ["a\u{0}b"]}), "groups", None);
    check(json!({"groups": [""]}), "groups", None);
    check(json!({"groups": vec!["x"; 201]}), "groups", None);
}
