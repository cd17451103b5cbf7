//! One side of an SSH connection up to and including encryption: bytes in, messages out, and back.
//!
//! Versions, key exchange in both roles and again whenever either side asks, strict key exchange, and the messages
//! that belong to the transport alone. Everything above is handed on undecoded. No I/O and no clock.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};

use super::codec::{Malformed, Reader, msg, put_string};
use super::host::{Host, HostError};
use super::kex::{self, Agreed, Exchange, KexError, Proposal, Role, Share};
use super::keys::{HostKeys, KeyError, verify};
use super::packet::{Keys, Opener, PacketError, Sealer};

const VERSION: &str = "SSH-2.0-Chaperone";

/// RFC 4253 section 4.2: 255 with CR and LF. A server may say other things first.
const LINE_MAX: usize = 255;
const LINES_MAX: usize = 32;

/// New keys are asked for after this much under the old ones (RFC 4344 section 3.2 gives 1 GiB), either way.
const REKEY_BYTES: u64 = 1 << 30;
const REKEY_PACKETS: u64 = 1 << 28;

/// Above this much that waits for the end of a key exchange, the caller should feed no more.
pub(super) const BACKLOG_MAX: usize = 256 << 10;

/// Reason codes of RFC 4250 section 4.2.2.
pub(super) mod reason {
    pub(in super::super) const NOT_ALLOWED: u32 = 1;
    pub(in super::super) const PROTOCOL_ERROR: u32 = 2;
    pub(in super::super) const BY_APPLICATION: u32 = 11;
}

#[derive(Debug, thiserror::Error)]
pub(super) enum TransportError {
    #[error("not an SSH 2 peer: {0:?}")]
    Version(String),
    #[error("{0}")]
    Packet(#[from] PacketError),
    #[error("{0}")]
    Kex(#[from] KexError),
    #[error("{0}")]
    Malformed(#[from] Malformed),
    #[error("{0}")]
    Key(#[from] KeyError),
    #[error("message {0} where it may not be")]
    Unexpected(u8),
    #[error("{0}")]
    Host(#[from] HostError),
    #[error("the host key's signature does not hold")]
    Signature,
    #[error("disconnected: {text:?} (reason {code})")]
    Disconnected { code: u32, text: String },
}

/// Which side this is, with the keys that go with it.
pub(super) enum Local {
    Server(Arc<HostKeys>),
    Client(Host),
}

enum Stage {
    Version,
    /// Nothing under way.
    Open,
    /// Our KEXINIT is sent, theirs is awaited.
    Proposed(Box<Proposal>),
    /// Both are known; the share of the other side is awaited.
    Exchanging(Box<Exchanging>),
    /// We use new keys; the other side is about to.
    Switching(Box<Keys>),
}

struct Exchanging {
    ours: Proposal,
    theirs: Proposal,
    agreed: Agreed,
    /// The client has sent its half already.
    share: Option<Share>,
    ignore_next: bool,
}

pub(super) struct Transport {
    local: Local,
    stage: Stage,
    sealer: Sealer,
    opener: Opener,
    their_version: Vec<u8>,
    lines: usize,
    session_id: Option<[u8; 32]>,
    /// The first exchange is over, both ways.
    established: bool,
    strict: bool,
    ext_info: bool,
    backlog: Vec<Bytes>,
    backlog_bytes: usize,
    /// What was agreed and which host key the target showed, for the record.
    pub(super) method: String,
    pub(super) host_key: Option<String>,
}

impl Transport {
    /// A side that says its version and proposal at once.
    pub(super) fn start(local: Local, out: &mut BytesMut) -> Result<Self, TransportError> {
        out.put_slice(VERSION.as_bytes());
        out.put_slice(b"\r\n");
        Ok(Self {
            local,
            stage: Stage::Version,
            sealer: Sealer::plain(),
            opener: Opener::plain(),
            their_version: Vec::new(),
            lines: 0,
            session_id: None,
            established: false,
            strict: false,
            ext_info: false,
            backlog: Vec::new(),
            backlog_bytes: 0,
            method: String::new(),
            host_key: None,
        })
    }

    fn role(&self) -> Role {
        match self.local {
            Local::Server(_) => Role::Server,
            Local::Client(_) => Role::Client,
        }
    }

    /// The other side's version line.
    pub(super) fn their_version(&self) -> String {
        String::from_utf8_lossy(&self.their_version).into_owned()
    }

    /// What a user signs to log in (RFC 4252 section 7).
    pub(super) fn session_id(&self) -> &[u8] {
        self.session_id.as_ref().map_or(&[], |id| &id[..])
    }

    /// Bytes that wait for a key exchange to end.
    pub(super) fn backlog(&self) -> usize {
        self.backlog_bytes
    }

    /// The next message for the layers above, if the input holds one; answers of the transport itself go to `out`.
    pub(super) fn receive(
        &mut self,
        input: &mut BytesMut,
        out: &mut BytesMut,
    ) -> Result<Option<Bytes>, TransportError> {
        while matches!(self.stage, Stage::Version) {
            if !self.version_line(input, out)? {
                return Ok(None);
            }
        }
        loop {
            let Some(payload) = self.opener.open(input)? else { return Ok(None) };
            if let Some(payload) = self.message(payload, out)? {
                return Ok(Some(payload));
            }
        }
    }

    /// Sends a message of the layers above, or keeps it until the keys are there.
    pub(super) fn send(&mut self, payload: &[u8], out: &mut BytesMut) -> Result<(), TransportError> {
        if !matches!(self.stage, Stage::Open) {
            self.backlog_bytes += payload.len();
            self.backlog.push(Bytes::copy_from_slice(payload));
            return Ok(());
        }
        self.sealer.seal(payload, out)?;
        let worn = self.sealer.bytes > REKEY_BYTES
            || self.sealer.packets > REKEY_PACKETS
            || self.opener.bytes > REKEY_BYTES
            || self.opener.packets > REKEY_PACKETS;
        if worn { self.propose(out) } else { Ok(()) }
    }

    /// Says goodbye; nothing is sent after it. In clear when there are no keys yet, which is what lets a client
    /// show a refusal without having to trust a host key first.
    pub(super) fn disconnect(&mut self, code: u32, text: &str, out: &mut BytesMut) {
        let mut payload = vec![msg::DISCONNECT];
        payload.put_u32(code);
        put_string(&mut payload, text.as_bytes());
        put_string(&mut payload, b"");
        // A message this short always fits.
        let _ = self.sealer.seal(&payload, out);
    }

    fn version_line(&mut self, input: &mut BytesMut, out: &mut BytesMut) -> Result<bool, TransportError> {
        let bad = |line: &[u8]| {
            TransportError::Version(String::from_utf8_lossy(line.get(..60).unwrap_or(line)).into_owned())
        };
        let Some(end) = input.iter().take(LINE_MAX).position(|byte| *byte == b'\n') else {
            return if input.len() >= LINE_MAX { Err(bad(input)) } else { Ok(false) };
        };
        let line = input.split_to(end + 1);
        let line = line.strip_suffix(b"\n").unwrap_or(&line);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.starts_with(b"SSH-2.0-") || line.starts_with(b"SSH-1.99-") {
            self.their_version = line.to_vec();
            self.stage = Stage::Open;
            self.propose(out)?;
            return Ok(true);
        }
        self.lines += 1;
        if self.role() == Role::Server || line.starts_with(b"SSH-") || self.lines > LINES_MAX {
            return Err(bad(line));
        }
        Ok(true)
    }

    fn propose(&mut self, out: &mut BytesMut) -> Result<(), TransportError> {
        let first = self.session_id.is_none();
        let algorithms = match &self.local {
            Local::Server(keys) => keys.algorithms(),
            Local::Client(host) => host.algorithms(),
        };
        let ours = Proposal::ours(self.role(), &algorithms, first)?;
        self.sealer.seal(&ours.payload, out)?;
        self.stage = Stage::Proposed(Box::new(ours));
        Ok(())
    }

    /// One message: handled here, or handed on.
    fn message(&mut self, payload: Bytes, out: &mut BytesMut) -> Result<Option<Bytes>, TransportError> {
        let Some(number) = payload.first().copied() else { return Err(Malformed.into()) };
        if let Stage::Exchanging(exchanging) = &mut self.stage
            && std::mem::take(&mut exchanging.ignore_next)
        {
            return Ok(None);
        }
        match number {
            msg::DISCONNECT => {
                let mut reader = Reader::new(payload.get(1..).unwrap_or_default());
                let code = reader.u32()?;
                let text = String::from_utf8_lossy(reader.string()?).chars().take(500).collect();
                return Err(TransportError::Disconnected { code, text });
            }
            msg::KEXINIT => return self.their_proposal(payload, out).map(|()| None),
            msg::KEX_INIT => return self.client_share(&payload, out).map(|()| None),
            msg::KEX_REPLY => return self.server_share(&payload, out).map(|()| None),
            msg::NEWKEYS => return self.new_keys(out).map(|()| None),
            _ => {}
        }
        // In the first exchange nothing else may come, whether or not the other side knows strict key exchange:
        // a message slipped in here is how Terrapin (CVE-2023-48795) makes room to take one away.
        if !self.established || (matches!(self.stage, Stage::Switching(_)) && number > msg::EXT_INFO) {
            return Err(TransportError::Unexpected(number));
        }
        match number {
            // Since the keys in use were agreed in a first exchange that held nothing but itself, these are harmless.
            msg::IGNORE | msg::DEBUG | msg::UNIMPLEMENTED | msg::EXT_INFO => Ok(None),
            // Between its KEXINIT and its NEWKEYS the other side may send nothing of this kind.
            _ if matches!(self.stage, Stage::Exchanging(_)) => Err(TransportError::Unexpected(number)),
            msg::SERVICE_REQUEST | msg::SERVICE_ACCEPT | 50..=127 => Ok(Some(payload)),
            _ => {
                let mut answer = vec![msg::UNIMPLEMENTED];
                answer.put_u32(self.opener.sequence.wrapping_sub(1));
                self.sealer.seal(&answer, out)?;
                Ok(None)
            }
        }
    }

    fn their_proposal(&mut self, payload: Bytes, out: &mut BytesMut) -> Result<(), TransportError> {
        if matches!(self.stage, Stage::Open) {
            self.propose(out)?;
        }
        let Stage::Proposed(ours) = std::mem::replace(&mut self.stage, Stage::Open) else {
            return Err(TransportError::Unexpected(msg::KEXINIT));
        };
        let theirs = Proposal::read(payload)?;
        let role = self.role();
        let (client, server, their_role) = match role {
            Role::Server => (&theirs, &*ours, Role::Client),
            Role::Client => (&*ours, &theirs, Role::Server),
        };
        let agreed = kex::agree(client, server, their_role)?;
        if self.session_id.is_none() {
            self.strict = theirs.names(kex::strict_marker(their_role));
            self.ext_info = role == Role::Server && theirs.names("ext-info-c");
            self.method = format!("{:?} {} {:?}", agreed.method, agreed.host_key, agreed.to_server);
            // Under strict key exchange the proposal is the very first packet.
            if self.strict && self.opener.packets != 1 {
                return Err(TransportError::Unexpected(msg::KEXINIT));
            }
        }
        let share = match role {
            Role::Server => None,
            Role::Client => {
                let share = Share::make(agreed.method)?;
                let mut message = vec![msg::KEX_INIT];
                put_string(&mut message, &share.public);
                self.sealer.seal(&message, out)?;
                Some(share)
            }
        };
        let ignore_next = agreed.wrong_guess;
        self.stage =
            Stage::Exchanging(Box::new(Exchanging { ours: *ours, theirs, agreed, share, ignore_next }));
        Ok(())
    }

    /// We are the server: the client's half has come.
    fn client_share(&mut self, payload: &[u8], out: &mut BytesMut) -> Result<(), TransportError> {
        let unexpected = TransportError::Unexpected(msg::KEX_INIT);
        let Local::Server(keys) = &self.local else { return Err(unexpected) };
        let Stage::Exchanging(exchanging) = std::mem::replace(&mut self.stage, Stage::Open) else {
            return Err(unexpected);
        };
        let Exchanging { ours, theirs, agreed, .. } = *exchanging;
        let mut reader = Reader::new(payload.get(1..).unwrap_or_default());
        let client_share = reader.string()?;
        reader.end()?;
        let key = keys.find(&agreed.host_key).ok_or(TransportError::Signature)?;
        let (server_share, secret) = kex::answer(agreed.method, client_share)?;
        let host_key = key.public_blob();
        let hash = Exchange {
            client_version: &self.their_version,
            server_version: VERSION.as_bytes(),
            client_init: &theirs.payload,
            server_init: &ours.payload,
            host_key: &host_key,
            client_share,
            server_share: &server_share,
            secret: &secret,
        }
        .hash();
        let mut message = vec![msg::KEX_REPLY];
        put_string(&mut message, &host_key);
        put_string(&mut message, &server_share);
        put_string(&mut message, &key.sign_as(&agreed.host_key, &hash)?);
        self.sealer.seal(&message, out)?;
        self.switch(&agreed, &secret, &hash, out)
    }

    /// We are the client: the server's half has come, with its host key and a signature of everything so far.
    fn server_share(&mut self, payload: &[u8], out: &mut BytesMut) -> Result<(), TransportError> {
        let unexpected = TransportError::Unexpected(msg::KEX_REPLY);
        let Local::Client(host) = &self.local else { return Err(unexpected) };
        let Stage::Exchanging(exchanging) = std::mem::replace(&mut self.stage, Stage::Open) else {
            return Err(unexpected);
        };
        let Exchanging { ours, theirs, agreed, share, .. } = *exchanging;
        let share = share.ok_or(unexpected)?;
        let mut reader = Reader::new(payload.get(1..).unwrap_or_default());
        let (host_key, server_share, signed) = (reader.string()?, reader.string()?, reader.string()?);
        reader.end()?;
        let shown = host.believes(&agreed.host_key, host_key)?;
        let client_share = share.public.clone();
        let secret = share.secret(server_share)?;
        let hash = Exchange {
            client_version: VERSION.as_bytes(),
            server_version: &self.their_version,
            client_init: &ours.payload,
            server_init: &theirs.payload,
            host_key,
            client_share: &client_share,
            server_share,
            secret: &secret,
        }
        .hash();
        if !verify(&shown.algorithm, &shown.key, signed, &hash)? {
            return Err(TransportError::Signature);
        }
        self.host_key = Some(shown.said);
        self.switch(&agreed, &secret, &hash, out)
    }

    /// Ends our use of the old keys; the other side's ends with its NEWKEYS.
    fn switch(
        &mut self,
        agreed: &Agreed,
        secret: &[u8],
        hash: &[u8; 32],
        out: &mut BytesMut,
    ) -> Result<(), TransportError> {
        let session_id = *self.session_id.get_or_insert(*hash);
        let [to_server, to_client] = kex::derive(agreed, secret, hash, &session_id);
        let (sealing, opening) = match self.role() {
            Role::Server => (to_client, to_server),
            Role::Client => (to_server, to_client),
        };
        self.sealer.seal(&[msg::NEWKEYS], out)?;
        if !self.sealer.rekey(&sealing, self.strict) {
            return Err(KexError::Share.into());
        }
        self.stage = Stage::Switching(Box::new(opening));
        Ok(())
    }

    fn new_keys(&mut self, out: &mut BytesMut) -> Result<(), TransportError> {
        let Stage::Switching(opening) = std::mem::replace(&mut self.stage, Stage::Open) else {
            return Err(TransportError::Unexpected(msg::NEWKEYS));
        };
        if !self.opener.rekey(&opening, self.strict) {
            return Err(KexError::Share.into());
        }
        self.established = true;
        Ok(self.opened(out)?)
    }

    fn opened(&mut self, out: &mut BytesMut) -> Result<(), PacketError> {
        if std::mem::take(&mut self.ext_info) {
            let mut message = vec![msg::EXT_INFO];
            message.put_u32(1);
            put_string(&mut message, b"server-sig-algs");
            put_string(&mut message, b"ssh-ed25519,ecdsa-sha2-nistp256,rsa-sha2-512,rsa-sha2-256");
            self.sealer.seal(&message, out)?;
        }
        for payload in self.backlog.drain(..) {
            self.sealer.seal(&payload, out)?;
        }
        self.backlog_bytes = 0;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
