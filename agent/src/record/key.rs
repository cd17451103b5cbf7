//! The host's Ed25519 key: made at first start, kept as PKCS#8 PEM that only its owner reads, the public half beside it.
//!
//! Owns signing and checking of checkpoints, so that a key in a TPM changes this file only.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::rand::{SecureRandom as _, SystemRandom};
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use super::checkpoint::{Checkpoint, KeyId, key_id, verifier_key};
use super::error::io_error;
use super::format::{HostId, JournalId};
use super::{RecordError, files};

/// PKCS#8 version 1 (RFC 8410, section 7) before the 32 bytes of the seed.
const PKCS8: &[u8; 16] = b"\x30\x2e\x02\x01\x00\x30\x05\x06\x03\x2b\x65\x70\x04\x22\x04\x20";
/// SubjectPublicKeyInfo (RFC 8410, section 4) before the 32 bytes of the key.
const SPKI: &[u8; 12] = b"\x30\x2a\x30\x05\x06\x03\x2b\x65\x70\x03\x21\x00";

pub struct HostKey {
    pair: Ed25519KeyPair,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PublicKey([u8; 32]);

impl HostKey {
    /// Reads the key at `path`, or makes one when there is none; writes the public half to `path` + `.pub`.
    ///
    /// # Errors
    /// When the file cannot be read or written, is no Ed25519 key, or can be read by others than its owner.
    pub fn load_or_create(path: &Path) -> Result<Self, RecordError> {
        let key = match File::open(path) {
            Ok(file) => Self::load(path, &file)?,
            Err(error) if error.kind() == ErrorKind::NotFound => Self::create(path)?,
            Err(error) => return Err(io_error("open", path)(error)),
        };
        let public = public_path(path);
        let pem = pem("PUBLIC KEY", &[SPKI.as_slice(), &key.public().0].concat());
        if fs::read(&public).ok().as_deref() != Some(pem.as_bytes()) {
            files::replace(&public, 0o644, pem.as_bytes())?;
        }
        Ok(key)
    }

    #[must_use]
    pub fn public(&self) -> PublicKey {
        let bytes = self.pair.public_key().as_ref().first_chunk::<32>();
        PublicKey(bytes.copied().unwrap_or([0; 32]))
    }

    /// Puts the key's id and its signature into `checkpoint`.
    #[must_use]
    pub fn sign(&self, checkpoint: Checkpoint) -> Checkpoint {
        let (key, signature) = self.sign_body(&checkpoint.journal, &checkpoint.body());
        Checkpoint { key, signature, ..checkpoint }
    }

    /// What a signed note of this journal carries besides its `body`.
    pub(super) fn sign_body(&self, journal: &JournalId, body: &str) -> (KeyId, [u8; 64]) {
        let signature = self.pair.sign(body.as_bytes());
        let signature = signature.as_ref().first_chunk::<64>().copied().unwrap_or([0; 64]);
        (key_id(journal, &self.public().0), signature)
    }

    fn load(path: &Path, file: &File) -> Result<Self, RecordError> {
        let bad = |problem| RecordError::Key { path: path.to_owned(), problem };
        let mode = file.metadata().map_err(io_error("inspect", path))?.permissions().mode();
        if mode & 0o077 != 0 {
            return Err(bad("can be reached by others than its owner; make it mode 0600"));
        }
        let text = Zeroizing::new(fs::read_to_string(path).map_err(io_error("read", path))?);
        let der = Zeroizing::new(unpem("PRIVATE KEY", &text).ok_or(bad("is not PEM of a private key"))?);
        let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(&der)
            .map_err(|_rejected| bad("is not an Ed25519 key in PKCS#8"))?;
        Ok(Self { pair })
    }

    fn create(path: &Path) -> Result<Self, RecordError> {
        let bad = |problem| RecordError::Key { path: path.to_owned(), problem };
        let mut seed = Zeroizing::new([0; 32]);
        random(seed.as_mut(), path)?;
        let der = Zeroizing::new([PKCS8.as_slice(), seed.as_ref()].concat());
        let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(&der)
            .map_err(|_rejected| bad("could not be made from a fresh seed"))?;
        let text = Zeroizing::new(pem("PRIVATE KEY", &der));
        // A journal signed with a key that a power cut took away could not be continued: on disk before first use.
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)
            .map_err(io_error("create", path))?;
        file.write_all(text.as_bytes()).map_err(io_error("write", path))?;
        file.sync_all().map_err(io_error("sync", path))?;
        if let Some(dir) = path.parent() {
            files::sync_dir(dir)?;
        }
        Ok(Self { pair })
    }
}

impl PublicKey {
    /// # Errors
    /// When the file cannot be read or is not an Ed25519 public key in PEM.
    pub fn load(path: &Path) -> Result<Self, RecordError> {
        let text = fs::read_to_string(path).map_err(io_error("read the public key", path))?;
        unpem("PUBLIC KEY", &text)
            .and_then(|der| der.strip_prefix(SPKI)?.try_into().ok())
            .map(Self)
            .ok_or(RecordError::Key { path: path.to_owned(), problem: "is not an Ed25519 public key in PEM" })
    }

    /// The id of the host that holds the private half.
    #[must_use]
    pub fn host(&self) -> HostId {
        Sha256::digest(self.0).into()
    }

    /// Whether the host signed `checkpoint`.
    #[must_use]
    pub fn signed(&self, checkpoint: &Checkpoint) -> bool {
        self.signed_body(&checkpoint.journal, &checkpoint.body(), checkpoint.key, &checkpoint.signature)
    }

    /// Whether the host signed a note of this journal with this `body`.
    pub(super) fn signed_body(
        &self,
        journal: &JournalId,
        body: &str,
        key: KeyId,
        signature: &[u8; 64],
    ) -> bool {
        key == key_id(journal, &self.0)
            && UnparsedPublicKey::new(&ED25519, &self.0).verify(body.as_bytes(), signature).is_ok()
    }

    /// The key in the form that verifiers of signed notes take.
    #[must_use]
    pub fn verifier(&self, journal: &JournalId) -> String {
        verifier_key(journal, &self.0)
    }
}

/// Where the public half of the key at `path` lies.
#[must_use]
pub fn public_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".pub");
    name.into()
}

/// Fills `bytes` from the system's random source.
pub(super) fn random(bytes: &mut [u8], path: &Path) -> Result<(), RecordError> {
    SystemRandom::new().fill(bytes).map_err(|_unspecified| RecordError::Key {
        path: path.to_owned(),
        problem: "cannot be made: the system gives no random bytes",
    })
}

fn pem(label: &str, der: &[u8]) -> String {
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", STANDARD.encode(der))
}

fn unpem(label: &str, text: &str) -> Option<Vec<u8>> {
    let body = text.trim().strip_prefix(&format!("-----BEGIN {label}-----"))?;
    let body = body.strip_suffix(&format!("-----END {label}-----"))?;
    let body = Zeroizing::new(body.split_whitespace().collect::<String>());
    STANDARD.decode(body.as_bytes()).ok()
}
