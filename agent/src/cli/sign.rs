//! An approver's signature around a request, and the keys it is made with.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::SystemTime;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use ring::rand::SystemRandom;
use ring::signature::{Ed25519KeyPair, KeyPair};
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::pki_types::pem::PemObject;

use super::Failure;
use crate::control::Request;
use crate::gate::Now;
use crate::gate::approvers::{Signed, Statement, message};

/// Signs a request with the key in a PEM file (PKCS#8, as `chaperone new-key` and openssl write it).
pub(super) fn sign(key: &Path, request: Request, binding: Option<String>) -> Result<Request, Failure> {
    let bad = |why: String| Failure::Usage(format!("{}: {why}", key.display()));
    let pem = PrivatePkcs8KeyDer::from_pem_file(key).map_err(|error| bad(error.to_string()))?;
    let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(pem.secret_pkcs8_der())
        .map_err(|error| bad(format!("not an Ed25519 key: {error}")))?;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let statement = Statement {
        request,
        binding,
        unix_s: now.as_secs(),
        nonce: uuid::Uuid::now_v7().simple().to_string(),
        boot: Now::read().boot,
    };
    let text = serde_json::to_string(&statement).map_err(|error| bad(error.to_string()))?;
    let signature = BASE64.encode(pair.sign(&message(&text)).as_ref());
    Ok(Request::Signed { signed: Signed { key: BASE64.encode(pair.public_key().as_ref()), text, signature } })
}

/// Makes a pair of keys, and prints what the agent's configuration needs of it.
pub(super) fn new_key(file: &Path, out: &mut dyn Write) -> Result<(), Failure> {
    let made = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new())
        .map_err(|_| Failure::Failed("no randomness to make a key of".into()))?;
    let pair = Ed25519KeyPair::from_pkcs8(made.as_ref())
        .map_err(|error| Failure::Failed(format!("the key made is no key: {error}")))?;
    let mut target = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(file)
        .map_err(|error| Failure::Failed(format!("{}: {error}", file.display())))?;
    let text = BASE64.encode(made.as_ref());
    writeln!(target, "-----BEGIN PRIVATE KEY-----")?;
    for line in text.as_bytes().chunks(64) {
        target.write_all(line)?;
        writeln!(target)?;
    }
    writeln!(target, "-----END PRIVATE KEY-----")?;
    target.sync_all()?;
    writeln!(out, "key = {:?}", BASE64.encode(pair.public_key().as_ref()))?;
    Ok(())
}
