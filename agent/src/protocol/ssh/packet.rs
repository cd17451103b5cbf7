//! The binary packet protocol (RFC 4253 section 6) and its ciphers.
//!
//! Packets in, payloads out, and back. Every length is checked before it is waited for. No compression: there is
//! none to negotiate.

use aes::cipher::{KeyIvInit, StreamCipher};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use ring::aead::chacha20_poly1305_openssh as chacha;
use ring::{aead, hmac};

/// Longest packet, the same as OpenSSH's.
pub(super) const PACKET_MAX: usize = 256 << 10;

/// Smallest packet body: padding length, a message number, four bytes of padding.
const BODY_MIN: usize = 6;

const TAG: usize = 16;
const BLOCK: usize = 16;
const LENGTH: usize = 4;

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum PacketError {
    #[error("a packet of {0} bytes, which is not between {BODY_MIN} and {PACKET_MAX}")]
    Length(usize),
    #[error("a packet that was altered, or keys that differ")]
    Altered,
    #[error("a packet with more padding than body")]
    Padding,
    #[error("too many packets under one key")]
    Worn,
}

/// A cipher with its integrity, as negotiated for one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Suite {
    ChaCha20Poly1305,
    Aes256Gcm,
    Aes128Gcm,
    /// AES in counter mode with HMAC-SHA-2.
    Aes256Ctr(Mac),
    Aes128Ctr(Mac),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mac {
    /// Over the packet as it is sent, whose length is in clear.
    Sha256Etm,
    Sha512Etm,
    /// Over the packet before it is encrypted, its length with it (RFC 4253 section 6.4).
    Sha256,
    Sha512,
}

impl Suite {
    /// Bytes of key, initial vector and integrity key that are derived for it.
    pub(super) fn key_sizes(self) -> (usize, usize, usize) {
        match self {
            Self::ChaCha20Poly1305 => (chacha::KEY_LEN, 0, 0),
            Self::Aes256Gcm => (32, 12, 0),
            Self::Aes128Gcm => (16, 12, 0),
            Self::Aes256Ctr(mac) => (32, 16, mac.size()),
            Self::Aes128Ctr(mac) => (16, 16, mac.size()),
        }
    }
}

impl Mac {
    fn size(self) -> usize {
        match self {
            Self::Sha256Etm | Self::Sha256 => 32,
            Self::Sha512Etm | Self::Sha512 => 64,
        }
    }

    pub(super) fn encrypts_first(self) -> bool {
        matches!(self, Self::Sha256Etm | Self::Sha512Etm)
    }

    fn key(self, bytes: &[u8]) -> hmac::Key {
        match self {
            Self::Sha256Etm | Self::Sha256 => hmac::Key::new(hmac::HMAC_SHA256, bytes),
            Self::Sha512Etm | Self::Sha512 => hmac::Key::new(hmac::HMAC_SHA512, bytes),
        }
    }
}

/// Keys of one direction.
pub(super) struct Keys {
    pub(super) suite: Suite,
    pub(super) key: Vec<u8>,
    pub(super) iv: Vec<u8>,
    pub(super) mac: Vec<u8>,
}

impl Drop for Keys {
    fn drop(&mut self) {
        use zeroize::Zeroize;
        self.key.zeroize();
        self.iv.zeroize();
        self.mac.zeroize();
    }
}

enum Seal {
    Plain,
    ChaCha(Box<chacha::SealingKey>),
    Gcm(Box<Gcm>),
    Ctr(Box<Ctr>),
}

enum Open {
    Plain,
    ChaCha(Box<chacha::OpeningKey>),
    Gcm(Box<Gcm>),
    Ctr(Box<Ctr>),
}

struct Gcm {
    key: aead::LessSafeKey,
    /// RFC 5647 section 7.1: four fixed bytes, then a counter of packets.
    fixed: [u8; 4],
    counter: u64,
}

impl Gcm {
    fn new(algorithm: &'static aead::Algorithm, keys: &Keys) -> Option<Self> {
        let key = aead::LessSafeKey::new(aead::UnboundKey::new(algorithm, &keys.key).ok()?);
        let (fixed, counter) = keys.iv.split_first_chunk()?;
        Some(Self { key, fixed: *fixed, counter: u64::from_be_bytes(*counter.first_chunk()?) })
    }

    fn nonce(&mut self) -> aead::Nonce {
        let mut nonce = [0; 12];
        let mut rest = &mut nonce[..];
        rest.put_slice(&self.fixed);
        rest.put_u64(self.counter);
        self.counter = self.counter.wrapping_add(1);
        aead::Nonce::assume_unique_for_key(nonce)
    }
}

enum Keystream {
    Aes256(Box<ctr::Ctr128BE<aes::Aes256>>),
    Aes128(Box<ctr::Ctr128BE<aes::Aes128>>),
}

struct Ctr {
    keystream: Keystream,
    mac: hmac::Key,
    mac_size: usize,
    encrypts_first: bool,
}

impl Ctr {
    fn new(keys: &Keys, mac: Mac) -> Option<Self> {
        let keystream = match keys.key.len() {
            32 => Keystream::Aes256(Box::new(ctr::Ctr128BE::new_from_slices(&keys.key, &keys.iv).ok()?)),
            _ => Keystream::Aes128(Box::new(ctr::Ctr128BE::new_from_slices(&keys.key, &keys.iv).ok()?)),
        };
        let (key, mac_size, encrypts_first) = (mac.key(&keys.mac), mac.size(), mac.encrypts_first());
        Some(Self { keystream, mac: key, mac_size, encrypts_first })
    }

    fn apply(&mut self, bytes: &mut [u8]) {
        match &mut self.keystream {
            Keystream::Aes256(cipher) => cipher.apply_keystream(bytes),
            Keystream::Aes128(cipher) => cipher.apply_keystream(bytes),
        }
    }

    /// Over the sequence number and the packet.
    fn context(&self, sequence: u32, packet: &[u8]) -> hmac::Context {
        let mut context = hmac::Context::with_key(&self.mac);
        context.update(&sequence.to_be_bytes());
        context.update(packet);
        context
    }
}

/// Payloads to packets, one direction.
pub(super) struct Sealer {
    how: Seal,
    sequence: u32,
    /// Since the last change of keys.
    pub(super) packets: u64,
    pub(super) bytes: u64,
}

impl Sealer {
    pub(super) fn plain() -> Self {
        Self { how: Seal::Plain, sequence: 0, packets: 0, bytes: 0 }
    }

    /// Changes keys; the sequence number starts again only under strict key exchange. False when the keys do not
    /// fit, which no derivation of ours makes.
    pub(super) fn rekey(&mut self, keys: &Keys, restart: bool) -> bool {
        let how = match keys.suite {
            Suite::ChaCha20Poly1305 => {
                keys.key.first_chunk().map(|key| Seal::ChaCha(Box::new(chacha::SealingKey::new(key))))
            }
            Suite::Aes256Gcm => Gcm::new(&aead::AES_256_GCM, keys).map(|gcm| Seal::Gcm(Box::new(gcm))),
            Suite::Aes128Gcm => Gcm::new(&aead::AES_128_GCM, keys).map(|gcm| Seal::Gcm(Box::new(gcm))),
            Suite::Aes256Ctr(mac) | Suite::Aes128Ctr(mac) => {
                Ctr::new(keys, mac).map(|ctr| Seal::Ctr(Box::new(ctr)))
            }
        };
        let Some(how) = how else { return false };
        self.how = how;
        self.packets = 0;
        self.bytes = 0;
        if restart {
            self.sequence = 0;
        }
        true
    }

    /// Appends a packet with this payload.
    pub(super) fn seal(&mut self, payload: &[u8], out: &mut BytesMut) -> Result<(), PacketError> {
        // Where the length is not encrypted with the rest, it does not count for the alignment either.
        let (block, counted) = match &self.how {
            Seal::Plain => (8, LENGTH),
            Seal::ChaCha(_) => (8, 0),
            Seal::Ctr(ctr) if !ctr.encrypts_first => (BLOCK, LENGTH),
            Seal::Gcm(_) | Seal::Ctr(_) => (BLOCK, 0),
        };
        let bare = counted + 1 + payload.len();
        let mut padding = block - bare % block;
        if padding < 4 {
            padding += block;
        }
        let length = 1 + payload.len() + padding;
        if length > PACKET_MAX {
            return Err(PacketError::Length(length));
        }
        let mut packet = out.split_off(out.len());
        packet.reserve(LENGTH + length + 64);
        packet.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
        packet.put_u8(u8::try_from(padding).unwrap_or(u8::MAX));
        packet.put_slice(payload);
        // Padding hides lengths and nothing else; every cipher here keeps its content as secret as the payload's.
        packet.put_bytes(0, padding);
        self.encrypt(&mut packet)?;
        self.sequence = self.sequence.wrapping_add(1);
        self.packets += 1;
        self.bytes += packet.len() as u64;
        out.unsplit(packet);
        Ok(())
    }

    fn encrypt(&mut self, packet: &mut BytesMut) -> Result<(), PacketError> {
        match &mut self.how {
            Seal::Plain => {}
            Seal::ChaCha(key) => {
                let mut tag = [0; TAG];
                key.seal_in_place(self.sequence, packet, &mut tag);
                packet.put_slice(&tag);
            }
            Seal::Gcm(gcm) => {
                let nonce = gcm.nonce();
                let (length, body) = packet.split_at_mut_checked(LENGTH).ok_or(PacketError::Altered)?;
                let aad = aead::Aad::from(&*length);
                let tag = gcm.key.seal_in_place_separate_tag(nonce, aad, body);
                packet.put_slice(tag.map_err(|_| PacketError::Worn)?.as_ref());
            }
            Seal::Ctr(ctr) if !ctr.encrypts_first => {
                let tag = ctr.context(self.sequence, packet).sign();
                ctr.apply(packet);
                packet.put_slice(tag.as_ref());
            }
            Seal::Ctr(ctr) => {
                if let Some(body) = packet.get_mut(LENGTH..) {
                    ctr.apply(body);
                }
                let tag = ctr.context(self.sequence, packet).sign();
                packet.put_slice(tag.as_ref());
            }
        }
        Ok(())
    }
}

/// Packets to payloads, one direction.
pub(super) struct Opener {
    how: Open,
    /// The first block of what comes next is decrypted already, where the length is in it.
    begun: bool,
    pub(super) sequence: u32,
    pub(super) packets: u64,
    pub(super) bytes: u64,
}

impl Opener {
    pub(super) fn plain() -> Self {
        Self { how: Open::Plain, begun: false, sequence: 0, packets: 0, bytes: 0 }
    }

    pub(super) fn rekey(&mut self, keys: &Keys, restart: bool) -> bool {
        let how = match keys.suite {
            Suite::ChaCha20Poly1305 => {
                keys.key.first_chunk().map(|key| Open::ChaCha(Box::new(chacha::OpeningKey::new(key))))
            }
            Suite::Aes256Gcm => Gcm::new(&aead::AES_256_GCM, keys).map(|gcm| Open::Gcm(Box::new(gcm))),
            Suite::Aes128Gcm => Gcm::new(&aead::AES_128_GCM, keys).map(|gcm| Open::Gcm(Box::new(gcm))),
            Suite::Aes256Ctr(mac) | Suite::Aes128Ctr(mac) => {
                Ctr::new(keys, mac).map(|ctr| Open::Ctr(Box::new(ctr)))
            }
        };
        let Some(how) = how else { return false };
        self.how = how;
        self.packets = 0;
        self.bytes = 0;
        if restart {
            self.sequence = 0;
        }
        true
    }

    /// The payload of the next packet; none until it is whole. An error is final.
    pub(super) fn open(&mut self, input: &mut BytesMut) -> Result<Option<Bytes>, PacketError> {
        if let Open::Ctr(ctr) = &mut self.how
            && !ctr.encrypts_first
            && !self.begun
        {
            let Some(block) = input.first_chunk_mut::<BLOCK>() else { return Ok(None) };
            ctr.apply(block);
            self.begun = true;
        }
        let Some(length) = input.first_chunk::<LENGTH>() else { return Ok(None) };
        let length = match &self.how {
            Open::ChaCha(key) => key.decrypt_packet_length(self.sequence, *length),
            Open::Plain | Open::Gcm(_) | Open::Ctr(_) => *length,
        };
        let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
        if !(BODY_MIN..=PACKET_MAX).contains(&length)
            || (self.begun && !(LENGTH + length).is_multiple_of(BLOCK))
        {
            return Err(PacketError::Length(length));
        }
        let tag_size = match &self.how {
            Open::Plain => 0,
            Open::ChaCha(_) | Open::Gcm(_) => TAG,
            Open::Ctr(ctr) => ctr.mac_size,
        };
        let whole = LENGTH + length + tag_size;
        if input.len() < whole {
            return Ok(None);
        }
        let mut packet = input.split_to(whole);
        let tag = packet.split_off(LENGTH + length);
        self.decrypt(&mut packet, &tag)?;
        self.begun = false;
        self.sequence = self.sequence.wrapping_add(1);
        self.packets += 1;
        self.bytes += whole as u64;
        packet.advance(LENGTH);
        let padding = usize::from(packet.first().copied().unwrap_or_default());
        let payload_end = length.checked_sub(padding).filter(|end| *end >= 2 && padding >= 4);
        packet.truncate(payload_end.ok_or(PacketError::Padding)?);
        packet.advance(1);
        Ok(Some(packet.freeze()))
    }

    fn decrypt(&mut self, packet: &mut BytesMut, tag: &[u8]) -> Result<(), PacketError> {
        match &mut self.how {
            Open::Plain => Ok(()),
            Open::ChaCha(key) => {
                let tag = tag.first_chunk().ok_or(PacketError::Altered)?;
                key.open_in_place(self.sequence, packet, tag).map_err(|_| PacketError::Altered).map(drop)
            }
            Open::Gcm(gcm) => {
                let nonce = gcm.nonce();
                let tag = aead::Tag::try_from(tag).map_err(|_| PacketError::Altered)?;
                let (length, body) = packet.split_at_mut_checked(LENGTH).ok_or(PacketError::Altered)?;
                let aad = aead::Aad::from(&*length);
                let opened = gcm.key.open_in_place_separate_tag(nonce, aad, tag, body, 0..);
                opened.map_err(|_| PacketError::Altered).map(drop)
            }
            Open::Ctr(ctr) if !ctr.encrypts_first => {
                if let Some(body) = packet.get_mut(BLOCK..) {
                    ctr.apply(body);
                }
                let expect = ctr.context(self.sequence, packet).sign();
                if same(expect.as_ref(), tag) { Ok(()) } else { Err(PacketError::Altered) }
            }
            Open::Ctr(ctr) => {
                let expect = ctr.context(self.sequence, packet).sign();
                if !same(expect.as_ref(), tag) {
                    return Err(PacketError::Altered);
                }
                if let Some(body) = packet.get_mut(LENGTH..) {
                    ctr.apply(body);
                }
                Ok(())
            }
        }
    }
}

/// Compares in a time that does not depend on where they differ.
fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |differs, (a, b)| differs | (a ^ b)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(suite: Suite) -> Keys {
        let (key, iv, mac) = suite.key_sizes();
        Keys { suite, key: vec![7; key], iv: vec![9; iv], mac: vec![3; mac] }
    }

    const SUITES: [Suite; 9] = [
        Suite::ChaCha20Poly1305,
        Suite::Aes256Gcm,
        Suite::Aes128Gcm,
        Suite::Aes256Ctr(Mac::Sha256Etm),
        Suite::Aes256Ctr(Mac::Sha512Etm),
        Suite::Aes128Ctr(Mac::Sha256Etm),
        Suite::Aes128Ctr(Mac::Sha512Etm),
        Suite::Aes256Ctr(Mac::Sha256),
        Suite::Aes128Ctr(Mac::Sha512),
    ];

    #[test]
    fn packets_come_back_byte_by_byte_in_every_suite() {
        for suite in SUITES {
            let (mut sealer, mut opener) = (Sealer::plain(), Opener::plain());
            assert!(sealer.rekey(&keys(suite), false) && opener.rekey(&keys(suite), false));
            for size in [1, 2, 7, 8, 9, 100, 32 << 10, PACKET_MAX - 64] {
                let payload = vec![size as u8; size];
                let mut wire = BytesMut::new();
                sealer.seal(&payload, &mut wire).unwrap();
                let (most, mut input) = (wire.len() - 1, BytesMut::new());
                input.extend_from_slice(&wire[..most]);
                assert_eq!(opener.open(&mut input).unwrap(), None, "{suite:?}");
                input.extend_from_slice(&wire[most..]);
                assert_eq!(opener.open(&mut input).unwrap().unwrap(), payload, "{suite:?}");
                assert!(input.is_empty());
            }
        }
    }

    #[test]
    fn any_altered_byte_behind_the_length_is_found() {
        for suite in SUITES {
            let mut wire = BytesMut::new();
            let mut sealer = Sealer::plain();
            assert!(sealer.rekey(&keys(suite), false));
            sealer.seal(b"attack at dawn", &mut wire).unwrap();
            for place in LENGTH..wire.len() {
                let mut opener = Opener::plain();
                assert!(opener.rekey(&keys(suite), false));
                let mut altered = wire.clone();
                altered[place] ^= 1;
                assert_eq!(opener.open(&mut altered), Err(PacketError::Altered), "{suite:?} at {place}");
            }
        }
    }

    #[test]
    fn an_encrypted_length_is_refused_where_no_packet_can_be_so_long() {
        for (length, ok) in
            [(12u32, true), (28, true), (8, false), (13, false), (0, false), (PACKET_MAX as u32 + 12, false)]
        {
            let (mut sender, mut opener) = (keys(Suite::Aes256Ctr(Mac::Sha256)), Opener::plain());
            assert!(opener.rekey(&sender, false));
            let mut ctr = Ctr::new(&sender, Mac::Sha256).unwrap();
            sender.mac.clear();
            let mut block = [0; BLOCK];
            block[..LENGTH].copy_from_slice(&length.to_be_bytes());
            ctr.apply(&mut block);
            let mut input = BytesMut::from(&block[..]);
            let expect = if ok { Ok(None) } else { Err(PacketError::Length(length as usize)) };
            assert_eq!(opener.open(&mut input), expect, "{length}");
        }
    }

    #[test]
    fn lengths_and_paddings_that_cannot_be_are_refused() {
        for (length, body, expect) in [
            (5u32, vec![4, 1, 0, 0, 0], PacketError::Length(5)),
            (u32::MAX, vec![], PacketError::Length(u32::MAX as usize)),
            (12, vec![11; 12], PacketError::Padding),
            (12, vec![3; 12], PacketError::Padding),
            (12, vec![255; 12], PacketError::Padding),
        ] {
            let mut input = BytesMut::new();
            input.put_u32(length);
            input.put_slice(&body);
            assert_eq!(Opener::plain().open(&mut input).unwrap_err(), expect);
        }
    }
}
