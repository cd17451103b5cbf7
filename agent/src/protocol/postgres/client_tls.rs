//! TLS towards clients: a certificate of the host's authority for each address that clients connect to.
//!
//! Enough for `sslmode=require` as it stands, and for `verify-full` where clients trust the authority.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustls::ServerConfig;
use sha2::{Digest as _, Sha256};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use crate::trust::{HostCa, LEAF_DAYS, TrustError};
use crate::upstream::Stream;

/// The protocol's name; who opens with TLS at once has to say it (PostgreSQL 17, sslnegotiation=direct).
const ALPN: &[u8] = b"postgresql";

#[derive(Debug, thiserror::Error)]
pub(super) enum ClientTlsError {
    #[error(transparent)]
    Trust(#[from] TrustError),
    #[error("cannot use the certificate made: {0}")]
    Config(#[from] rustls::Error),
    #[error("TLS handshake: {0}")]
    Handshake(#[from] std::io::Error),
    #[error("a connection that opens with TLS has to name the protocol `postgresql` (ALPN)")]
    Alpn,
}

/// Serves TLS for one target.
pub struct ClientTls {
    ca: Arc<HostCa>,
    names: Vec<String>,
    minted: Mutex<HashMap<IpAddr, Ready>>,
}

#[derive(Clone)]
struct Ready {
    acceptor: TlsAcceptor,
    /// RFC 5929, section 4.1: the certificate's hash, which a SCRAM exchange can be bound to.
    end_point: [u8; 32],
    since: Instant,
}

/// An encrypted client.
pub(super) struct Encrypted {
    pub(super) stream: Stream,
    pub(super) end_point: [u8; 32],
}

impl ClientTls {
    /// `names` are what clients call the target.
    #[must_use]
    pub fn new(ca: Arc<HostCa>, names: Vec<String>) -> Self {
        Self { ca, names, minted: Mutex::default() }
    }

    /// Takes the handshake of a client that connected to `address`; `direct` is one that did not ask first.
    pub(super) async fn accept(
        &self,
        stream: TcpStream,
        address: IpAddr,
        direct: bool,
    ) -> Result<Encrypted, ClientTlsError> {
        let ready = self.ready(address)?;
        let stream = ready.acceptor.accept(stream).await?;
        if direct && stream.get_ref().1.alpn_protocol() != Some(ALPN) {
            return Err(ClientTlsError::Alpn);
        }
        Ok(Encrypted { stream: Stream::Tls(Box::new(stream.into())), end_point: ready.end_point })
    }

    fn ready(&self, address: IpAddr) -> Result<Ready, ClientTlsError> {
        const RENEW: Duration = Duration::from_secs(LEAF_DAYS * 24 * 3600 / 2);
        let mut minted = self.minted.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(ready) = minted.get(&address).filter(|ready| ready.since.elapsed() < RENEW) {
            return Ok(ready.clone());
        }
        let made = self.ca.mint(&self.names, address)?;
        let end_point = Sha256::digest(&made.certificate).into();
        let mut config = ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(vec![made.certificate], made.key)?;
        config.alpn_protocols = vec![ALPN.to_vec()];
        let ready = Ready { acceptor: TlsAcceptor::from(Arc::new(config)), end_point, since: Instant::now() };
        minted.insert(address, ready.clone());
        Ok(ready)
    }
}
