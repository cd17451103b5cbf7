//! TLS towards clients: a certificate of the agent's own, made anew at every start.
//!
//! Enough for `sslmode=require`, which encrypts without asking who answers. `verify-ca` and `verify-full` refuse
//! it, as they should: no client trusts this certificate.

use std::sync::Arc;

use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use crate::upstream::Stream;

#[derive(Debug, thiserror::Error)]
pub enum ClientTlsError {
    #[error("cannot make a certificate: {0}")]
    Certificate(#[from] rcgen::Error),
    #[error("cannot use the certificate made: {0}")]
    Config(#[from] rustls::Error),
}

#[derive(Clone)]
pub struct ClientTls {
    acceptor: TlsAcceptor,
}

impl ClientTls {
    /// Makes a key and a self-signed certificate.
    ///
    /// # Errors
    /// When the crypto provider fails.
    pub fn self_signed() -> Result<Self, ClientTlsError> {
        let made = rcgen::generate_simple_self_signed(vec!["chaperone".to_owned()])?;
        let key = PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
        let mut config = ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)?;
        // A client that opens with TLS at once insists on this name (PostgreSQL 17, sslnegotiation=direct).
        config.alpn_protocols = vec![b"postgresql".to_vec()];
        Ok(Self { acceptor: TlsAcceptor::from(Arc::new(config)) })
    }

    pub(super) async fn accept(&self, stream: TcpStream) -> std::io::Result<Stream> {
        Ok(Stream::Tls(Box::new(self.acceptor.accept(stream).await?.into())))
    }
}
