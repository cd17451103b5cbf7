//! The hash of a certificate that a login is bound to (RFC 5929, section 4.1). Reads as much DER as that takes.

use sha2::{Digest as _, Sha256, Sha384, Sha512};

/// Hashes the certificate as its own signature does, MD5 and SHA-1 raised to SHA-256.
pub(super) fn hash(certificate: &[u8]) -> Option<Vec<u8>> {
    // Certificate ::= SEQUENCE { tbsCertificate, signatureAlgorithm SEQUENCE { algorithm OID, ... }, signature }
    let (outer, _) = value(certificate, 0x30)?;
    let (_, behind) = value(outer, 0x30)?;
    let (algorithm, _) = value(behind, 0x30)?;
    let (oid, _) = value(algorithm, 0x06)?;
    const RSA: &[u8] = b"\x2a\x86\x48\x86\xf7\x0d\x01\x01";
    const ECDSA_SHA1: &[u8] = b"\x2a\x86\x48\xce\x3d\x04\x01";
    const ECDSA: &[u8] = b"\x2a\x86\x48\xce\x3d\x04\x03";
    match (oid.strip_prefix(RSA), oid.strip_prefix(ECDSA)) {
        (Some([4 | 5 | 11]), _) | (_, Some([2])) => Some(Sha256::digest(certificate).to_vec()),
        (Some([12]), _) | (_, Some([3])) => Some(Sha384::digest(certificate).to_vec()),
        (Some([13]), _) | (_, Some([4])) => Some(Sha512::digest(certificate).to_vec()),
        _ if oid == ECDSA_SHA1 => Some(Sha256::digest(certificate).to_vec()),
        _ => None,
    }
}

/// The content of the element at the front, which has to be of this tag, and what comes behind it.
fn value(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (&found, rest) = der.split_first()?;
    let (&short, rest) = rest.split_first()?;
    let (length, rest) = match short {
        0..=0x7f => (usize::from(short), rest),
        0x81..=0x84 => {
            let (bytes, rest) = rest.split_at_checked(usize::from(short & 0x7f))?;
            (bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)), rest)
        }
        _ => return None,
    };
    let (content, behind) = rest.split_at_checked(length)?;
    (found == tag).then_some((content, behind))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_hashed_as_it_was_signed_and_no_truncation_panics() {
        for (algorithm, length) in [
            (&rcgen::PKCS_ECDSA_P256_SHA256, Some(32)),
            (&rcgen::PKCS_ECDSA_P384_SHA384, Some(48)),
            (&rcgen::PKCS_ED25519, None),
        ] {
            let key = rcgen::KeyPair::generate_for(algorithm).unwrap();
            let params = rcgen::CertificateParams::new(vec!["db.internal".to_owned()]).unwrap();
            let der = params.self_signed(&key).unwrap().der().to_vec();
            assert_eq!(hash(&der).map(|hash| hash.len()), length);
            for cut in 0..der.len() {
                assert_eq!(hash(&der[..cut]), None, "cut at {cut}");
            }
        }
    }
}
