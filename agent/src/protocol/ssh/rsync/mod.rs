//! rsync: which files went through a transfer, and the digest of each that was sent whole.
//!
//! Follows what the two ends say and changes nothing of it. It knows protocols 30 to 32 with the options that change
//! nothing of the wire it does not know. Of a file that was sent as differences to what the receiver had, or packed, the digest
//! cannot be told from the wire, and of what is not understood nothing can: both are said in the record, and the streams'
//! digests are there in any case.
//!
//! What is told is what the sending end says it sends. What the receiving end does with it, it does by itself.

mod list;
mod sender;
#[cfg(test)]
mod tests;
mod wire;

use bytes::{Buf as _, BytesMut};

use super::sftp::FileDone;
use sender::{Sender, Sent};
use wire::{Input, Stop};

/// What each end may say before files are named: versions, and lists of names of algorithms.
const HANDSHAKE_MAX: usize = 4 << 10;

/// The client's end of a transfer, by its command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct How {
    /// The target sends.
    pub(super) pulls: bool,
    /// The short options.
    letters: String,
    numeric: bool,
    /// The sender says first what is not to be deleted.
    rules: bool,
    // What the two ends agree on.
    version: u32,
    /// Flags of names are numbers of the protocol's own kind.
    varint_flags: bool,
    /// Folders are listed one by one.
    recurses: bool,
    /// Whatever has number 0 is named, too.
    root_named: bool,
    /// Length of a checksum.
    sum: usize,
}

/// Options that do not change how things are written.
const HARMLESS: &str = "vqtprduLkKHIWSEOJxbhy";
/// Options that do, and are known.
const KNOWN: &str = "logDmczU";

impl How {
    /// From the options of `rsync --server`.
    pub(super) fn new(pulls: bool, options: &[String]) -> Result<Self, &'static str> {
        let (mut letters, mut other) = (String::new(), String::new());
        for short in options.iter().filter(|option| !option.starts_with("--")) {
            let short = short.trim_start_matches('-');
            let (how, what) = short.split_once('e').unwrap_or((short, ""));
            letters.push_str(how);
            other.push_str(what);
        }
        if !letters.chars().all(|letter| HARMLESS.contains(letter) || KNOWN.contains(letter)) {
            return Err("an option that is not known here");
        }
        // Behind the dot is what the client can; before it, the version of something that was never released.
        if !other.starts_with('.') || other.contains('V') {
            return Err("a client of another kind");
        }
        let deletes = options.iter().any(|option| option.starts_with("--delete"));
        Ok(Self {
            pulls,
            numeric: options.iter().any(|option| option == "--numeric-ids"),
            rules: !pulls && (deletes || letters.contains('m')),
            letters,
            version: 0,
            varint_flags: other.contains('v'),
            recurses: false,
            root_named: false,
            sum: 0,
        })
    }

    fn has(&self, letter: char) -> bool {
        self.letters.contains(letter)
    }
}

/// One transfer.
pub(super) struct Transfer {
    op: u64,
    how: How,
    stage: Stage,
    client: BytesMut,
    server: BytesMut,
    done: Vec<FileDone>,
}

enum Stage {
    Handshake,
    Files(Box<Files>),
    /// Something was not understood.
    Lost(&'static str),
}

struct Files {
    sender: Sender,
    /// Of the message that is under way: how much is left, and whether it is data.
    left: usize,
    data: bool,
    inner: BytesMut,
}

impl Transfer {
    pub(super) fn new(op: u64, how: &Result<How, &'static str>) -> Self {
        let (how, stage) = match how {
            Ok(how) => (how.clone(), Stage::Handshake),
            Err(why) => (How::none(), Stage::Lost(why)),
        };
        Self { op, how, stage, client: BytesMut::new(), server: BytesMut::new(), done: Vec::new() }
    }

    /// Bytes of the client.
    pub(super) fn client(&mut self, bytes: &[u8]) {
        match self.stage {
            Stage::Handshake => self.client.extend_from_slice(bytes),
            Stage::Files(_) if !self.how.pulls => self.client.extend_from_slice(bytes),
            Stage::Files(_) | Stage::Lost(_) => return,
        }
        self.work();
    }

    /// Bytes of the target.
    pub(super) fn server(&mut self, bytes: &[u8]) {
        match self.stage {
            Stage::Handshake => self.server.extend_from_slice(bytes),
            Stage::Files(_) if self.how.pulls => self.server.extend_from_slice(bytes),
            Stage::Files(_) | Stage::Lost(_) => return,
        }
        self.work();
    }

    /// Files that are complete since the last call.
    pub(super) fn take_done(&mut self) -> Vec<FileDone> {
        std::mem::take(&mut self.done)
    }

    /// The transfer is over: so is the file that was under way.
    pub(super) fn finish(&mut self) -> Vec<FileDone> {
        if let Stage::Files(files) = &mut self.stage {
            let cut = files.sender.cut().map(|sent| self.how.done(self.op, sent));
            self.done.extend(cut);
        }
        self.take_done()
    }

    /// Why files may be missing, if they may.
    pub(super) fn lost(&self) -> Option<&'static str> {
        match &self.stage {
            Stage::Lost(why) => Some(why),
            Stage::Handshake | Stage::Files(_) => None,
        }
    }

    fn work(&mut self) {
        if let Stage::Handshake = self.stage {
            match self.handshake() {
                Ok(sender) => {
                    let files = Files { sender, left: 0, data: false, inner: BytesMut::new() };
                    self.stage = Stage::Files(Box::new(files));
                }
                Err(Stop::Short) if self.client.len().max(self.server.len()) <= HANDSHAKE_MAX => return,
                Err(Stop::Short) => return self.lose("a beginning that is too long"),
                Err(Stop::Odd(why)) => return self.lose(why),
            }
        }
        let Self { op, how, stage: Stage::Files(files), done, .. } = self else { return };
        let outer = if how.pulls { &mut self.server } else { &mut self.client };
        let each = |sent| done.push(how.done(*op, sent));
        if let Err(why) = files.take(outer, each) {
            self.lose(why);
        }
    }

    /// What both ends say first. All of it is looked at again until it is complete.
    fn handshake(&mut self) -> Result<Sender, Stop> {
        let (mut client, mut server) = (Input::new(&self.client), Input::new(&self.server));
        let version = client.count()?.min(server.count()?);
        self.how.version = u32::try_from(version).unwrap_or(u32::MAX);
        if !(30..=32).contains(&version) {
            return Err(Stop::Odd("a version that is not known here"));
        }
        let flags = server.varint()?;
        self.how.recurses = flags & 1 != 0;
        let negotiates = flags & 1 << 7 != 0;
        self.how.root_named = flags & 1 << 8 != 0;
        if negotiates != self.how.varint_flags {
            // The server is too old for what the client offers; it cannot be the other way round.
            if negotiates {
                return Err(Stop::Odd("more than was asked for"));
            }
            self.how.varint_flags = false;
        }
        self.how.sum = if negotiates { sum_of(client.string()?, server.string()?)? } else { 16 };
        if negotiates && self.how.has('z') {
            client.string()?;
            server.string()?;
        }
        server.int()?;
        let (client, server) = (client.left(), server.left());
        let keep = |buffer: &mut BytesMut, left: usize, sends: bool| {
            buffer.advance(buffer.len() - left);
            if !sends {
                *buffer = BytesMut::new();
            }
        };
        keep(&mut self.client, client, !self.how.pulls);
        keep(&mut self.server, server, self.how.pulls);
        Ok(Sender::new(self.how.clone()))
    }

    fn lose(&mut self, why: &'static str) {
        self.stage = Stage::Lost(why);
        (self.client, self.server) = (BytesMut::new(), BytesMut::new());
    }
}

impl How {
    fn done(&self, op: u64, Sent { path, bytes, sha256 }: Sent) -> FileDone {
        let (read, written) = if self.pulls { (bytes, 0) } else { (0, bytes) };
        FileDone { op, path: Some(path), read, written, sha256 }
    }

    /// Of a transfer nothing is known of.
    fn none() -> Self {
        let letters = String::new();
        Self {
            pulls: false,
            letters,
            numeric: false,
            rules: false,
            version: 0,
            varint_flags: false,
            recurses: false,
            root_named: false,
            sum: 0,
        }
    }
}

/// Length of the checksum both ends choose: of those both know, each takes its own first.
fn sum_of(client: &[u8], server: &[u8]) -> Result<usize, Stop> {
    let odd = Stop::Odd("checksums that are not known here");
    let text = |bytes| std::str::from_utf8(bytes).map_err(|_| odd);
    let (client, server) = (text(client)?, text(server)?);
    let first = |of: &str, other: &str| -> Option<String> {
        of.split(' ').find(|name| other.split(' ').any(|theirs| theirs == *name)).map(str::to_owned)
    };
    let chosen = first(client, server).filter(|name| first(server, client).as_ref() == Some(name));
    match chosen.as_deref() {
        Some("xxh128" | "md5" | "md4") => Ok(16),
        Some("xxh3" | "xxh64") => Ok(8),
        Some("sha1") => Ok(20),
        Some("sha256") => Ok(32),
        Some("sha512") => Ok(64),
        Some("none") => Ok(1),
        _ => Err(odd),
    }
}

impl Files {
    /// Messages of the sending end: data, and others that are for its peer's eyes.
    fn take(&mut self, outer: &mut BytesMut, mut each: impl FnMut(Sent)) -> Result<(), &'static str> {
        while !outer.is_empty() {
            if self.left == 0 {
                let Some(head) = outer.first_chunk::<4>() else { return Ok(()) };
                let head = u32::from_le_bytes(*head);
                // Kinds are written with 7 added; 0 is data.
                self.data = head >> 24 == 7;
                if head >> 24 < 7 {
                    return Err("what is no message");
                }
                self.left = usize::try_from(head & 0xff_ffff).unwrap_or(usize::MAX);
                outer.advance(4);
            }
            let bytes = outer.split_to(outer.len().min(self.left));
            self.left -= bytes.len();
            if self.data {
                self.inner.extend_from_slice(&bytes);
                self.sender.take(&mut self.inner, &mut each)?;
            }
        }
        Ok(())
    }
}
