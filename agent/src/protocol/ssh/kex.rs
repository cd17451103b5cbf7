//! Key exchange: what both sides can, what is agreed, and the keys that come of it (RFC 4253 section 7, RFC 8731,
//! RFC 5656, and strict key exchange as OpenSSH's PROTOCOL file describes it).

mod share;

use bytes::{BufMut, Bytes};
use ring::digest;
use ring::rand::{SecureRandom, SystemRandom};

use super::codec::{Malformed, Reader, msg, put_mpint, put_names, put_string};
use super::packet::{Keys, Mac, Suite};
pub(super) use share::{Share, answer};

#[derive(Debug, thiserror::Error)]
pub(super) enum KexError {
    #[error("{0}")]
    Malformed(#[from] Malformed),
    #[error("no {what} in common; the other side offers {theirs}")]
    NothingInCommon { what: &'static str, theirs: String },
    #[error("the other side's key share is not one")]
    Share,
    #[error("no randomness to be had")]
    Randomness,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// Towards the workload.
    Server,
    /// Towards the target.
    Client,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Method {
    /// ML-KEM-768 and X25519.
    Hybrid,
    X25519,
    P256,
}

const METHODS: &[(&str, Method)] = &[
    ("mlkem768x25519-sha256", Method::Hybrid),
    ("curve25519-sha256", Method::X25519),
    ("curve25519-sha256@libssh.org", Method::X25519),
    ("ecdh-sha2-nistp256", Method::P256),
];

/// The best first; counter mode is for clients that have nothing newer.
const CIPHERS: &[&str] = &[
    "chacha20-poly1305@openssh.com",
    "aes256-gcm@openssh.com",
    "aes128-gcm@openssh.com",
    "aes256-ctr",
    "aes128-ctr",
];

/// The last two are for clients of libssh2 before 1.11 (Debian 12's curl), and not said to targets.
const MACS: &[(&str, Mac)] = &[
    ("hmac-sha2-256-etm@openssh.com", Mac::Sha256Etm),
    ("hmac-sha2-512-etm@openssh.com", Mac::Sha512Etm),
    ("hmac-sha2-256", Mac::Sha256),
    ("hmac-sha2-512", Mac::Sha512),
];

/// The lists of a KEXINIT, with the payload that goes into the exchange hash.
#[derive(Debug, Clone)]
pub(super) struct Proposal {
    pub(super) payload: Bytes,
    methods: Vec<String>,
    host_keys: Vec<String>,
    ciphers: [Vec<String>; 2],
    macs: [Vec<String>; 2],
    compressions: [Vec<String>; 2],
    guess_follows: bool,
}

impl Proposal {
    /// Ours. `first` adds what is only said in a connection's first exchange.
    pub(super) fn ours(role: Role, host_keys: &[&str], first: bool) -> Result<Self, KexError> {
        let mut methods: Vec<&str> = METHODS.iter().map(|(name, _)| *name).collect();
        if first {
            methods.push(strict_marker(role));
        }
        let said = |mac: &Mac| role == Role::Server || mac.encrypts_first();
        let macs: Vec<&str> = MACS.iter().filter(|(_, mac)| said(mac)).map(|(name, _)| *name).collect();
        let mut payload = vec![msg::KEXINIT];
        let mut cookie = [0; 16];
        SystemRandom::new().fill(&mut cookie).map_err(|_| KexError::Randomness)?;
        payload.put_slice(&cookie);
        put_names(&mut payload, &methods);
        put_names(&mut payload, host_keys);
        for list in [CIPHERS, CIPHERS, &macs, &macs, &["none"], &["none"], &[], &[]] {
            put_names(&mut payload, list);
        }
        payload.put_u8(0);
        payload.put_u32(0);
        Ok(Self::read(Bytes::from(payload))?)
    }

    pub(super) fn read(payload: Bytes) -> Result<Self, Malformed> {
        let mut reader = Reader::new(&payload);
        reader.u8()?;
        reader.take(16)?;
        let mut list = || reader.names().map(|names| names.into_iter().map(str::to_owned).collect());
        let (methods, host_keys) = (list()?, list()?);
        let ciphers = [list()?, list()?];
        let macs = [list()?, list()?];
        let compressions = [list()?, list()?];
        let _languages: [Vec<String>; 2] = [list()?, list()?];
        let guess_follows = reader.bool()?;
        reader.u32()?;
        Ok(Self { methods, host_keys, ciphers, macs, compressions, guess_follows, payload: payload.clone() })
    }

    pub(super) fn names(&self, method: &str) -> bool {
        self.methods.iter().any(|name| name == method)
    }
}

pub(super) fn strict_marker(role: Role) -> &'static str {
    match role {
        Role::Server => "kex-strict-s-v00@openssh.com",
        Role::Client => "kex-strict-c-v00@openssh.com",
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Agreed {
    pub(super) method: Method,
    pub(super) host_key: String,
    pub(super) to_server: Suite,
    pub(super) to_client: Suite,
    /// The other side sent a key share on a guess that was wrong: its next packet is to be ignored.
    pub(super) wrong_guess: bool,
}

/// RFC 4253 section 7.1: the first of the client's list that the server has.
pub(super) fn agree(client: &Proposal, server: &Proposal, theirs: Role) -> Result<Agreed, KexError> {
    let common = |what, client: &[String], server: &[String]| {
        let found = client.iter().find(|name| server.contains(name)).cloned();
        let other = if theirs == Role::Client { client } else { server };
        found.ok_or_else(|| KexError::NothingInCommon { what, theirs: other.join(",") })
    };
    let method_name = common("key exchange method", &client.methods, &server.methods)?;
    let method = METHODS.iter().find(|(name, _)| *name == method_name).map(|(_, method)| *method);
    let method = method.ok_or_else(|| KexError::NothingInCommon {
        what: "key exchange method",
        theirs: method_name.clone(),
    })?;
    let host_key = common("host key algorithm", &client.host_keys, &server.host_keys)?;
    let suite = |way: usize| -> Result<Suite, KexError> {
        let of = |lists: &[Vec<String>; 2]| lists.get(way).cloned().unwrap_or_default();
        let cipher = common("cipher", &of(&client.ciphers), &of(&server.ciphers))?;
        common("compression", &of(&client.compressions), &of(&server.compressions))?;
        let mac = || -> Result<Mac, KexError> {
            let name = common("integrity", &of(&client.macs), &of(&server.macs))?;
            let known = MACS.iter().find(|(known, _)| *known == name).map(|(_, mac)| *mac);
            known.ok_or(KexError::NothingInCommon { what: "integrity", theirs: name })
        };
        Ok(match cipher.as_str() {
            "chacha20-poly1305@openssh.com" => Suite::ChaCha20Poly1305,
            "aes256-gcm@openssh.com" => Suite::Aes256Gcm,
            "aes128-gcm@openssh.com" => Suite::Aes128Gcm,
            "aes256-ctr" => Suite::Aes256Ctr(mac()?),
            "aes128-ctr" => Suite::Aes128Ctr(mac()?),
            _ => return Err(KexError::NothingInCommon { what: "cipher", theirs: cipher }),
        })
    };
    let guesser = if theirs == Role::Client { client } else { server };
    // A guess is right when both sides prefer the same, not when it comes to be agreed on.
    let right = client.methods.first() == server.methods.first()
        && client.host_keys.first() == server.host_keys.first();
    let wrong_guess = guesser.guess_follows && !right;
    Ok(Agreed { method, to_server: suite(0)?, to_client: suite(1)?, host_key, wrong_guess })
}

/// What both sides sign and derive from.
pub(super) struct Exchange<'a> {
    pub(super) client_version: &'a [u8],
    pub(super) server_version: &'a [u8],
    pub(super) client_init: &'a [u8],
    pub(super) server_init: &'a [u8],
    pub(super) host_key: &'a [u8],
    pub(super) client_share: &'a [u8],
    pub(super) server_share: &'a [u8],
    /// As encoded.
    pub(super) secret: &'a [u8],
}

impl Exchange<'_> {
    pub(super) fn hash(&self) -> [u8; 32] {
        let mut text = Vec::new();
        for part in [
            self.client_version,
            self.server_version,
            self.client_init,
            self.server_init,
            self.host_key,
            self.client_share,
            self.server_share,
        ] {
            put_string(&mut text, part);
        }
        text.put_slice(self.secret);
        sha256(&text)
    }
}

pub(super) fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(digest::digest(&digest::SHA256, bytes).as_ref());
    out
}

/// Keys of both directions, from client to server first (RFC 4253 section 7.2).
pub(super) fn derive(agreed: &Agreed, secret: &[u8], hash: &[u8; 32], session_id: &[u8; 32]) -> [Keys; 2] {
    let part = |letter: u8, size: usize| {
        let mut key = Vec::with_capacity(size + 32);
        while key.len() < size {
            let mut text = zeroize::Zeroizing::new(secret.to_vec());
            text.extend_from_slice(hash);
            if key.is_empty() {
                text.push(letter);
                text.extend_from_slice(session_id);
            } else {
                text.extend_from_slice(&key);
            }
            key.extend_from_slice(&sha256(&text));
        }
        key.truncate(size);
        key
    };
    let keys = |suite: Suite, iv: u8, key: u8, mac: u8| {
        let sizes = suite.key_sizes();
        Keys { suite, iv: part(iv, sizes.1), key: part(key, sizes.0), mac: part(mac, sizes.2) }
    };
    [keys(agreed.to_server, b'A', b'C', b'E'), keys(agreed.to_client, b'B', b'D', b'F')]
}
