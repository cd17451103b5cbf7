//! Connections to receivers: TCP or TLS, blocking, with time limits; and one POST at a time.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use super::SinkError;
use super::queue::unacknowledged;
use crate::config::Address;

/// Of each read and write.
const TIME_LIMIT: Duration = Duration::from_secs(10);
/// Of a whole answer.
const PATIENCE: Duration = Duration::from_secs(30);
const LARGEST_ANSWER: usize = 64 * 1024;

/// Where a receiver is, and how to know it.
pub(super) struct Peer {
    /// `host:port`.
    pub(super) address: String,
    tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
}

impl Peer {
    pub(super) fn new(to: &Address) -> Result<Self, SinkError> {
        let address = &to.host;
        let tls = if to.tls {
            let host = address.rsplit_once(':').map_or(address.as_str(), |(host, _port)| host);
            let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
            let name = ServerName::try_from(host)
                .map_err(|_not_one| SinkError::Name { address: address.clone() })?;
            Some((Arc::new(trusting(to.ca_file.as_deref())?), name))
        } else {
            None
        };
        Ok(Self { address: address.clone(), tls })
    }

    pub(super) fn connect(&self) -> Result<Connection, SinkError> {
        let network = |source| SinkError::Network { address: self.address.clone(), source };
        let mut last = None;
        for address in self.address.to_socket_addrs().map_err(network)? {
            match TcpStream::connect_timeout(&address, TIME_LIMIT) {
                Ok(stream) => return self.opened(stream).map_err(network),
                Err(error) => last = Some(error),
            }
        }
        Err(last.map_or_else(|| SinkError::Unknown { address: self.address.clone() }, network))
    }

    /// Sends JSON; the body of an answer that says 2xx.
    pub(super) fn post(&self, path: &str, body: &str) -> Result<Vec<u8>, SinkError> {
        let network = |source| SinkError::Network { address: self.address.clone(), source };
        let mut connection = self.connect()?;
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
            self.address,
            body.len()
        );
        connection
            .write_all(head.as_bytes())
            .and_then(|()| connection.write_all(body.as_bytes()))
            .and_then(|()| connection.flush())
            .map_err(network)?;
        let answer = answer(&mut connection).map_err(network)?;
        let status = answer.split(|byte| *byte == b'\r').next().unwrap_or_default();
        let status = String::from_utf8_lossy(status);
        match status.split(' ').nth(1) {
            Some(code) if code.len() == 3 && code.starts_with('2') => {
                let body =
                    answer.windows(4).position(|four| four == b"\r\n\r\n").map_or(answer.len(), |at| at + 4);
                Ok(answer.get(body..).unwrap_or_default().to_vec())
            }
            _ => {
                let status = status.trim().chars().take(200).collect::<String>().escape_debug().to_string();
                Err(SinkError::Refused { address: self.address.clone(), status })
            }
        }
    }

    fn opened(&self, stream: TcpStream) -> io::Result<Connection> {
        stream.set_read_timeout(Some(TIME_LIMIT))?;
        stream.set_write_timeout(Some(TIME_LIMIT))?;
        let Some((config, name)) = &self.tls else { return Ok(Connection::Plain(stream)) };
        let session = ClientConnection::new(Arc::clone(config), name.clone()).map_err(io::Error::other)?;
        Ok(Connection::Tls(Box::new(StreamOwned::new(session, stream))))
    }
}

/// What comes until the receiver closes, has said all it announced, or said enough.
fn answer(connection: &mut Connection) -> io::Result<Vec<u8>> {
    let (mut seen, mut part) = (Vec::new(), [0; 4096]);
    let begun = Instant::now();
    while seen.len() < LARGEST_ANSWER && !is_whole(&seen) {
        if begun.elapsed() > PATIENCE {
            return Err(io::ErrorKind::TimedOut.into());
        }
        match connection.read(&mut part) {
            Ok(0) => break,
            Ok(read) => seen.extend_from_slice(part.get(..read).unwrap_or_default()),
            // Many close without the goodbye of TLS; what was said before is authentic.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof && !seen.is_empty() => break,
            Err(error) => return Err(error),
        }
    }
    Ok(seen)
}

/// Whether an answer with a length in its head is there as a whole.
fn is_whole(seen: &[u8]) -> bool {
    let Some(head) = seen.windows(4).position(|four| four == b"\r\n\r\n") else { return false };
    let lines = String::from_utf8_lossy(seen.get(..head).unwrap_or_default()).to_lowercase();
    let length = lines.split("\r\n").find_map(|line| line.strip_prefix("content-length:"));
    let length = length.and_then(|length| length.trim().parse::<usize>().ok());
    length.is_some_and(|length| seen.len() >= (head + 4).saturating_add(length))
}

fn trusting(ca_file: Option<&Path>) -> Result<ClientConfig, SinkError> {
    let path = ca_file.unwrap_or(Path::new("/etc/ssl/certs/ca-certificates.crt"));
    let bad = |problem: String| SinkError::Certificate { path: path.to_owned(), problem };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(path).map_err(|error| bad(error.to_string()))? {
        let certificate = certificate.map_err(|error| bad(error.to_string()))?;
        match roots.add(certificate) {
            // Of a system's many, one that is not understood is left out; of a file that was named, it is an error.
            Err(error) if ca_file.is_some() => return Err(bad(error.to_string())),
            Ok(()) | Err(_) => {}
        }
    }
    if roots.is_empty() {
        return Err(bad("holds no certificate".to_owned()));
    }
    Ok(ClientConfig::builder().with_root_certificates(roots).with_no_client_auth())
}

pub(super) enum Connection {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Connection {
    /// Whether the receiver is still there. What it says, session tickets of TLS say, is read away: with bytes unread the
    /// end of this process would be a reset, which throws away what is still on its way to the receiver.
    pub(super) fn is_open(&mut self) -> bool {
        let mut unheard = [0; 4096];
        if self.socket().set_nonblocking(true).is_err() {
            return false;
        }
        let open = loop {
            match self.read(&mut unheard) {
                Ok(0) => break false,
                Ok(_nothing_that_matters) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => break error.kind() == io::ErrorKind::WouldBlock,
            }
        };
        open && self.socket().set_nonblocking(false).is_ok()
    }

    /// Waits until the receiver's host has acknowledged all that was written. What only this host's kernel holds is lost
    /// when the connection breaks.
    pub(super) fn settle(&self) -> io::Result<()> {
        let (begun, mut pause) = (Instant::now(), Duration::from_micros(100));
        while unacknowledged(self.socket())? > 0 {
            if begun.elapsed() > TIME_LIMIT {
                return Err(io::ErrorKind::TimedOut.into());
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(20));
        }
        Ok(())
    }

    const fn socket(&self) -> &TcpStream {
        match self {
            Self::Plain(stream) => stream,
            Self::Tls(stream) => &stream.sock,
        }
    }
}

impl Read for Connection {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.read(buf),
            Self::Tls(stream) => stream.read(buf),
        }
    }
}

impl Write for Connection {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.write(buf),
            Self::Tls(stream) => stream.write(buf),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(stream) => stream.flush(),
            Self::Tls(stream) => stream.flush(),
        }
    }
}
