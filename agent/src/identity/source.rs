//! Where an identity's token comes from: the provider itself, or the platform that the workload runs on.
//!
//! What a platform gives is checked like every token. Where the configuration has a client besides, the platform's token is
//! exchanged for one of the provider (RFC 8693), and that one counts.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use jsonwebtoken::{Algorithm, EncodingKey};
use prost::Message;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair};
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::pki_types::pem::PemObject;
use serde::Deserialize;
use tokio::io::AsyncReadExt;

use super::keeper::KeeperError;
use super::provider::{ClientKey, Provider, ProviderError, Wanted};
use super::token::Token;
use crate::command;
use crate::config::{Client, Platform, TokenRule};
use crate::grpc;
use crate::http;

const LARGEST: u64 = 64 << 10;

/// Of the SPIFFE Workload API, and the header it insists on so that nobody is tricked into asking.
const FETCH: &str = "/SpiffeWorkloadAPI/FetchJWTSVID";
const SPIFFE: [(&str, &str); 1] = [("workload.spiffe.io", "true")];

#[derive(Message)]
struct JwtSvidRequest {
    #[prost(string, repeated, tag = "1")]
    audience: Vec<String>,
    #[prost(string, tag = "2")]
    spiffe_id: String,
}

#[derive(Message)]
struct JwtSvidResponse {
    #[prost(message, repeated, tag = "1")]
    svids: Vec<JwtSvid>,
}

#[derive(Message)]
struct JwtSvid {
    #[prost(string, tag = "1")]
    spiffe_id: String,
    #[prost(string, tag = "2")]
    svid: String,
}

/// What GitHub's endpoint answers.
#[derive(Deserialize)]
struct Requested {
    value: String,
}

/// A source with its keys read.
pub(super) struct Source {
    rule: TokenRule,
    client: Option<(ClientKey, Wanted)>,
}

impl Source {
    pub(super) fn load(rule: &TokenRule) -> Result<Self, KeeperError> {
        let client = rule.client.as_ref().map(load_client).transpose()?;
        if let Some(Platform::Command(command)) = &rule.platform {
            command::trusted(command)?;
        }
        Ok(Self { rule: rule.clone(), client })
    }

    /// Whether somebody else renews it, so that it has to be looked at again and again.
    pub(super) fn is_renewed_elsewhere(&self) -> bool {
        matches!(self.rule.platform, Some(Platform::File(_)))
    }

    pub(super) async fn obtain(&self, provider: &Provider) -> Result<Token, KeeperError> {
        let subject = &self.rule.subject;
        let Some(platform) = &self.rule.platform else {
            let (key, wanted) = self.client.as_ref().ok_or(KeeperError::NoSource)?;
            return Ok(provider.obtain(key, wanted, subject).await?);
        };
        let text = self.given(platform, provider).await?;
        let text = text.trim();
        let token = match &self.client {
            None => provider.check(text, Some(subject)).await?,
            Some((key, wanted)) => {
                let token = provider.exchange(key, wanted, text, subject).await?;
                if let Some(actor) = &self.rule.actor {
                    token.acted_for_by(actor)?;
                }
                token
            }
        };
        // Whoever put a token of another pod in this one's place gains nothing.
        match &self.rule.pod {
            Some(pod) if token.pod() != Some(pod) => Err(KeeperError::OtherPod { pod: pod.clone() }),
            _ => Ok(token),
        }
    }

    async fn given(&self, platform: &Platform, provider: &Provider) -> Result<String, KeeperError> {
        match platform {
            Platform::File(path) => read(path).await,
            Platform::Command(command) => Ok(command::run(command, &[]).await?),
            Platform::Request { url_file, bearer_file } => {
                let url = http::address(read(url_file).await?.trim()).map_err(ProviderError::from)?;
                let bearer = read(bearer_file).await?;
                let headers = [("authorization", format!("Bearer {}", bearer.trim()))];
                let body = provider.get(&url, &headers).await?;
                let answer: Requested = serde_json::from_slice(&body).map_err(|source| {
                    ProviderError::Json { what: "the answer to the request for a token", source }
                })?;
                Ok(answer.value)
            }
            Platform::Spiffe { socket } => {
                let request = JwtSvidRequest {
                    audience: vec![provider.rule.audience.clone()],
                    spiffe_id: self.rule.subject.clone(),
                };
                let failed = |why: String| KeeperError::Spiffe { socket: socket.clone(), why };
                let answer = grpc::call(socket, FETCH, &SPIFFE, &request.encode_to_vec()).await;
                let answer = answer.map_err(|error| failed(error.to_string()))?;
                let answer = JwtSvidResponse::decode(answer).map_err(|error| failed(error.to_string()))?;
                let of_it = answer.svids.into_iter().find(|svid| svid.spiffe_id == self.rule.subject);
                of_it.map(|svid| svid.svid).ok_or_else(|| failed("it gave none of this identity".into()))
            }
        }
    }
}

async fn read(path: &Path) -> Result<String, KeeperError> {
    let failed = |source| KeeperError::Read { path: path.to_owned(), source };
    let file = tokio::fs::File::open(path).await.map_err(failed)?;
    let mut text = String::new();
    file.take(LARGEST + 1).read_to_string(&mut text).await.map_err(failed)?;
    if text.len() as u64 > LARGEST || text.trim().is_empty() {
        return Err(KeeperError::NoToken { path: path.to_owned() });
    }
    Ok(text)
}

fn load_client(client: &Client) -> Result<(ClientKey, Wanted), KeeperError> {
    let (key, algorithm) = client_key(&client.key_file)?;
    let wanted = Wanted { scope: client.scope.clone(), resource: client.resource.clone() };
    Ok((ClientKey { id: client.id.clone(), key, algorithm, kid: client.key_id.clone() }, wanted))
}

fn client_key(path: &PathBuf) -> Result<(EncodingKey, Algorithm), KeeperError> {
    let failed = |source| KeeperError::Read { path: path.clone(), source };
    let mode = std::fs::metadata(path).map_err(failed)?.mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(KeeperError::Exposed { path: path.clone(), mode });
    }
    let bad = || KeeperError::Key { path: path.clone() };
    let pem = PrivatePkcs8KeyDer::from_pem_file(path).map_err(|_| bad())?;
    let der = pem.secret_pkcs8_der();
    if Ed25519KeyPair::from_pkcs8_maybe_unchecked(der).is_ok() {
        return Ok((EncodingKey::from_ed_der(der), Algorithm::EdDSA));
    }
    EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der, &SystemRandom::new())
        .map(|_| (EncodingKey::from_ec_der(der), Algorithm::ES256))
        .map_err(|_| bad())
}

#[cfg(test)]
mod tests;
