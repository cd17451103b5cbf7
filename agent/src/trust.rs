//! The host's own certificate authority: what clients trust when they want to know whom they talk to.
//!
//! Owns the key (root alone reads it) and the certificates minted with it, one for each target and address. It does
//! not know protocols, nor where clients look for what they trust.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write as _};
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType, SerialNumber,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use sha2::{Digest as _, Sha256};
use time::{Duration, OffsetDateTime};

/// Long enough not to be renewed on a host that lives, and the key never leaves it.
const AUTHORITY_DAYS: i64 = 3650;

/// A certificate is minted anew when half of this is over.
pub const LEAF_DAYS: u64 = 30;

/// Clocks differ; a certificate is good from a while ago.
const BEFORE: Duration = Duration::hours(24);

#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: io::Error },
    #[error("{path} can be reached by group or others (mode {mode:o}); chmod 600 it")]
    Exposed { path: PathBuf, mode: u32 },
    #[error("{path} is not the key of a certificate authority: {problem}")]
    Key { path: PathBuf, problem: String },
    #[error("cannot make a certificate: {0}")]
    Certificate(#[from] rcgen::Error),
}

/// The authority, ready to sign.
pub struct HostCa {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
    path: PathBuf,
}

/// A certificate for a target, with its key.
pub struct Minted {
    pub certificate: CertificateDer<'static>,
    pub key: PrivateKeyDer<'static>,
}

impl HostCa {
    /// Reads the authority below `state_dir`, or makes one when there is none.
    ///
    /// # Errors
    /// When its files cannot be read or written, or others than their owner reach the key.
    pub fn load_or_create(state_dir: &Path) -> Result<Self, TrustError> {
        let dir = state_dir.join("trust");
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| TrustError::Io { path, source }
        };
        fs::DirBuilder::new().recursive(true).mode(0o755).create(&dir).map_err(failed(&dir))?;
        let (key_path, path) = (dir.join("ca.key"), dir.join("ca.pem"));
        let key = match File::open(&key_path) {
            Ok(file) => load(&key_path, &file)?,
            Err(error) if error.kind() == ErrorKind::NotFound => create(&key_path)?,
            Err(error) => return Err(failed(&key_path)(error)),
        };
        let params = authority(&key)?;
        let pem = match fs::read_to_string(&path) {
            Ok(pem) => pem,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let pem = pem("CERTIFICATE", params.clone().self_signed(&key)?.der());
                // Beside it first: a reader finds the whole of it or nothing.
                let half = path.with_extension("pem.new");
                fs::write(&half, &pem).map_err(failed(&half))?;
                fs::rename(&half, &path).map_err(failed(&path))?;
                pem
            }
            Err(error) => return Err(failed(&path)(error)),
        };
        Ok(Self { issuer: Issuer::new(params, key), pem, path })
    }

    /// The authority's certificate, as clients are given it.
    #[must_use]
    pub fn pem(&self) -> &str {
        &self.pem
    }

    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// SHA-256 over the certificate, as tools show it.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        let der = CertificateDer::from_pem_slice(self.pem.as_bytes());
        der.map(|der| crate::hex(&Sha256::digest(&der))).unwrap_or_default()
    }

    /// A certificate for a server of these names at this address.
    ///
    /// # Errors
    /// When a name cannot stand in a certificate, or the crypto provider fails.
    pub fn mint(&self, names: &[String], address: IpAddr) -> Result<Minted, TrustError> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(names)?;
        params.subject_alt_names.push(SanType::IpAddress(address));
        let subject = names.first().cloned().unwrap_or_else(|| address.to_string());
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, subject);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        valid_for(&mut params, i64::try_from(LEAF_DAYS).unwrap_or(1));
        let certificate = params.signed_by(&key, &self.issuer)?.der().clone();
        Ok(Minted { certificate, key: PrivatePkcs8KeyDer::from(key.serialize_der()).into() })
    }
}

/// All of it follows from the key, so that the key alone is what has to be kept.
fn authority(key: &KeyPair) -> Result<CertificateParams, TrustError> {
    let id = Sha256::digest(key.public_key_raw());
    let short = id.get(..8).unwrap_or_default();
    let mut params = CertificateParams::new(Vec::<String>::new())?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "Chaperone");
    params.distinguished_name.push(DnType::CommonName, format!("Chaperone host CA {}", crate::hex(short)));
    params.serial_number = Some(SerialNumber::from_slice(id.get(8..24).unwrap_or_default()));
    // It signs servers and nothing else, no authority below it among them.
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    valid_for(&mut params, AUTHORITY_DAYS);
    Ok(params)
}

fn valid_for(params: &mut CertificateParams, days: i64) {
    let now = OffsetDateTime::now_utc();
    params.not_before = now - BEFORE;
    params.not_after = now + Duration::days(days);
}

fn load(path: &Path, file: &File) -> Result<KeyPair, TrustError> {
    let failed = |source| TrustError::Io { path: path.to_owned(), source };
    let mode = file.metadata().map_err(failed)?.mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(TrustError::Exposed { path: path.to_owned(), mode });
    }
    let bad = |problem: String| TrustError::Key { path: path.to_owned(), problem };
    let der = PrivateKeyDer::from_pem_file(path).map_err(|error| bad(error.to_string()))?;
    KeyPair::try_from(&der).map_err(|error| bad(error.to_string()))
}

fn create(path: &Path) -> Result<KeyPair, TrustError> {
    let failed = |source| TrustError::Io { path: path.to_owned(), source };
    let key = KeyPair::generate()?;
    let text = zeroize::Zeroizing::new(pem("PRIVATE KEY", key.serialized_der()));
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(failed)?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)?;
    Ok(key)
}

fn pem(label: &str, der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let mut pem = format!("-----BEGIN {label}-----\n");
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (line, after) = rest.split_at(rest.len().min(64));
        pem.push_str(line);
        pem.push('\n');
        rest = after;
    }
    pem.push_str(&format!("-----END {label}-----\n"));
    pem
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;
    use std::sync::Arc;

    use rustls::RootCertStore;
    use rustls::client::WebPkiServerVerifier;
    use rustls::client::danger::ServerCertVerifier as _;
    use rustls::pki_types::{ServerName, UnixTime};

    use super::*;

    fn verified(ca: &HostCa, minted: &Minted, name: &'static str) -> bool {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(ca.pem().as_bytes()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier =
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
        let name = ServerName::try_from(name).unwrap();
        verifier.verify_server_cert(&minted.certificate, &[], &name, &[], UnixTime::now()).is_ok()
    }

    #[test]
    fn what_is_minted_is_good_for_its_names_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let ca = HostCa::load_or_create(dir.path()).unwrap();
        let minted = ca.mint(&["db.internal".to_owned()], "10.0.0.5".parse().unwrap()).unwrap();
        assert!(verified(&ca, &minted, "db.internal") && verified(&ca, &minted, "10.0.0.5"));
        assert!(!verified(&ca, &minted, "other.internal") && !verified(&ca, &minted, "10.0.0.6"));
        let other = HostCa::load_or_create(tempfile::tempdir().unwrap().path()).unwrap();
        assert!(!verified(&other, &minted, "db.internal"));
    }

    #[test]
    fn the_authority_is_made_once_and_its_key_is_its_owners_alone() {
        let dir = tempfile::tempdir().unwrap();
        let first = HostCa::load_or_create(dir.path()).unwrap();
        let key = dir.path().join("trust/ca.key");
        assert_eq!(fs::metadata(&key).unwrap().mode() & 0o777, 0o600);
        let second = HostCa::load_or_create(dir.path()).unwrap();
        assert_eq!(first.fingerprint(), second.fingerprint());
        // Certificates of the second are good under what the first gave out.
        let minted = second.mint(&[], "127.0.0.1".parse().unwrap()).unwrap();
        assert!(verified(&first, &minted, "127.0.0.1"));
        fs::set_permissions(&key, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(HostCa::load_or_create(dir.path()), Err(TrustError::Exposed { .. })));
    }
}
