//! TLS with a target, as typed and as meant, and the names that its clients use.

use std::path::PathBuf;

use serde::Deserialize;

use super::{Network, Tls};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TlsFile {
    #[serde(default = "verify_full")]
    mode: String,
    ca_file: Option<PathBuf>,
    server_name: Option<String>,
    cert_file: Option<PathBuf>,
    key_file: Option<PathBuf>,
}

fn verify_full() -> String {
    "verify-full".into()
}

pub(super) fn convert(
    key: &str,
    typed: Option<TlsFile>,
    addresses: &[Network],
    problems: &mut Vec<String>,
) -> Tls {
    let Some(typed) = typed else {
        if !addresses.iter().all(Network::is_loopback) {
            problems.push(format!(
                "{key}.tls: missing; a target that is not loopback needs `[targets.tls]`, \
                 or `mode = \"disable\"` said outright"
            ));
        }
        return Tls::Disable;
    };
    match typed.mode.as_str() {
        "verify-full" => {
            let identity = match (typed.cert_file, typed.key_file) {
                (Some(certificate), Some(key)) => Some((certificate, key)),
                (None, None) => None,
                _ => {
                    problems.push(format!("{key}.tls: cert_file and key_file belong together"));
                    None
                }
            };
            Tls::VerifyFull { ca_file: typed.ca_file, server_name: typed.server_name, identity }
        }
        "disable" => {
            let idle = [&typed.ca_file, &typed.cert_file, &typed.key_file];
            if idle.iter().any(|file| file.is_some()) || typed.server_name.is_some() {
                problems.push(format!(
                    "{key}.tls: ca_file, server_name, cert_file and key_file do nothing with mode = \"disable\""
                ));
            }
            Tls::Disable
        }
        other => {
            problems.push(format!("{key}.tls.mode: `{other}` is not known; known: verify-full, disable"));
            Tls::Disable
        }
    }
}

/// The names that clients use: those typed, and the one the target's own certificate is for.
pub(super) fn client_names(
    key: &str,
    typed: &[String],
    tls: &Tls,
    problems: &mut Vec<String>,
) -> Vec<String> {
    let own = match tls {
        Tls::VerifyFull { server_name: Some(name), .. } => Some(name),
        Tls::VerifyFull { .. } | Tls::Disable => None,
    };
    let mut names: Vec<String> = Vec::new();
    for name in typed.iter().chain(own) {
        let plain = name.split('.').all(|part| {
            !part.is_empty()
                && part.len() <= 63
                && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
        });
        if !plain || name.len() > 253 {
            problems.push(format!("{key}.client_names: `{}` is not a host name", name.escape_debug()));
        } else if !names.contains(name) {
            names.push(name.clone());
        }
    }
    names
}
