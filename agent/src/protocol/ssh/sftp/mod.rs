//! SFTP, version 3 (draft-ietf-secsh-filexfer-02), as it passes through a channel: every request is parsed, what names
//! a path is looked up and asked about, and what is not known is refused.
//!
//! Paths are what the target makes of them: before a question, REALPATH goes to the target on the client's own channel,
//! so `..`, relative paths and symbolic links lead to where they lead. Between that answer and the operation a link can
//! still be changed by somebody else on the target; only the account's own permissions close that gap.

use std::collections::HashMap;

use bytes::{BufMut, Bytes, BytesMut};

mod file;
mod returned;
#[cfg(test)]
mod tests;

use super::codec::{Malformed, Reader, put_string};
use file::{File, Path};

/// Longest packet either side may send; OpenSSH's own limit.
const PACKET_MAX: usize = (256 << 10) + 1024;

/// Longest packet that is looked at as a whole: anything but file content and listings.
const WHOLE_MAX: usize = 64 << 10;

/// Files open at once, and requests unanswered.
const FILES_MAX: usize = 1024;

/// Numbers of our own requests start here; the client's next request waits for ours to be answered.
const OWN_IDS: u32 = 0xc4a9_0000;

mod kind {
    pub(super) const INIT: u8 = 1;
    pub(super) const VERSION: u8 = 2;
    pub(super) const OPEN: u8 = 3;
    pub(super) const CLOSE: u8 = 4;
    pub(super) const READ: u8 = 5;
    pub(super) const WRITE: u8 = 6;
    pub(super) const LSTAT: u8 = 7;
    pub(super) const FSTAT: u8 = 8;
    pub(super) const SETSTAT: u8 = 9;
    pub(super) const FSETSTAT: u8 = 10;
    pub(super) const OPENDIR: u8 = 11;
    pub(super) const READDIR: u8 = 12;
    pub(super) const REMOVE: u8 = 13;
    pub(super) const MKDIR: u8 = 14;
    pub(super) const RMDIR: u8 = 15;
    pub(super) const REALPATH: u8 = 16;
    pub(super) const STAT: u8 = 17;
    pub(super) const RENAME: u8 = 18;
    pub(super) const READLINK: u8 = 19;
    pub(super) const SYMLINK: u8 = 20;
    pub(super) const STATUS: u8 = 101;
    pub(super) const HANDLE: u8 = 102;
    pub(super) const DATA: u8 = 103;
    pub(super) const NAME: u8 = 104;
    pub(super) const EXTENDED: u8 = 200;
}

const NO_SUCH_FILE: u32 = 2;
const PERMISSION_DENIED: u32 = 3;
const UNSUPPORTED: u32 = 8;

/// Extensions whose paths are understood; the client hears of no others.
const EXTENSIONS: &[&str] = &[
    "posix-rename@openssh.com",
    "statvfs@openssh.com",
    "fstatvfs@openssh.com",
    "fsync@openssh.com",
    "lsetstat@openssh.com",
    "limits@openssh.com",
];

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum SftpError {
    #[error("{0}")]
    Malformed(#[from] Malformed),
    #[error("a packet of {0} bytes")]
    TooLong(usize),
    #[error("the session does not begin with INIT")]
    NoInit,
    #[error("more than {FILES_MAX} files or requests open")]
    TooMany,
    #[error("request number {0} is in use")]
    Reused(u32),
}

/// What is done to a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Access {
    List,
    Read,
    Write,
    Remove,
}

/// A request that names paths, these being absolute and as the target resolved them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FileOp {
    pub(super) verb: &'static str,
    pub(super) accesses: Vec<(Access, String)>,
}

/// A file that was closed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FileDone {
    pub(super) op: u64,
    /// Where the operation is about more than one.
    pub(super) path: Option<String>,
    pub(super) read: u64,
    pub(super) written: u64,
    /// Of what was read or written, when it went from front to back.
    pub(super) sha256: Option<String>,
}

/// What is to be done next with the client's side.
pub(super) enum FileStep {
    Wait,
    Ask(FileOp),
    Pass(Bytes),
    /// The request goes nowhere; the client gets this.
    Refuse {
        swallowed: usize,
        answer: Vec<u8>,
    },
    /// A request of our own.
    Query(Bytes),
}

/// What becomes of the target's bytes.
pub(super) enum Returned {
    Pass(Bytes),
    Drop(usize),
}

#[derive(Default)]
pub(super) struct Sftp {
    begun: bool,
    /// From the client, not looked at yet.
    inbox: BytesMut,
    /// Decided, on its way to the target.
    outgoing: BytesMut,
    /// What is still to come of a write that is on its way, and the handle it goes to.
    writing: Option<(usize, Vec<u8>)>,
    pending: Option<Pending>,
    query: Option<u32>,
    queries: u32,
    resend: Option<Bytes>,
    /// From the target, not yet a whole header or packet.
    returned: BytesMut,
    /// What is still to come of a packet that passes as it is, with the handle whose content it is.
    passing: usize,
    reading: Option<Vec<u8>>,
    opening: HashMap<u32, File>,
    reads: HashMap<u32, (Vec<u8>, u64)>,
    files: HashMap<Vec<u8>, File>,
    done: Vec<FileDone>,
}

struct Pending {
    raw: Bytes,
    id: u32,
    verb: &'static str,
    wants: Vec<(Access, Path)>,
    /// An open makes a file of its answer.
    opens: Option<bool>,
    asked: bool,
    decided: Option<Result<(), (u32, String)>>,
}

/// What a request turned out to be.
enum Meaning {
    Plain,
    Wants { verb: &'static str, wants: Vec<(Access, Path)>, opens: Option<bool> },
    Refused { code: u32, why: &'static str },
}

impl Sftp {
    /// Bytes of the client; `next` says what becomes of them.
    pub(super) fn client(&mut self, bytes: &[u8]) {
        self.inbox.put_slice(bytes);
    }

    /// The pending request may pass; it is on record as operation `op`.
    pub(super) fn permit(&mut self, op: u64) {
        if let Some(pending) = &mut self.pending {
            pending.decided = Some(Ok(()));
            if let Some(writable) = pending.opens {
                self.opening.insert(pending.id, File::new(op, writable));
            }
        }
    }

    pub(super) fn deny(&mut self, why: &str) {
        if let Some(pending) = &mut self.pending {
            pending.decided = Some(Err((PERMISSION_DENIED, format!("chaperone: {why}"))));
        }
    }

    /// The window had no room for it.
    pub(super) fn query_later(&mut self, query: Bytes) {
        self.resend = Some(query);
    }

    /// Files that were closed since the last call.
    pub(super) fn take_done(&mut self) -> Vec<FileDone> {
        std::mem::take(&mut self.done)
    }

    /// The channel is over: so are the files.
    pub(super) fn finish(&mut self) -> Vec<FileDone> {
        let mut done = std::mem::take(&mut self.done);
        done.extend(self.files.drain().map(|(_, file)| file.done()));
        done
    }

    /// The next thing to do; data messages of at most `most` bytes.
    pub(super) fn next(&mut self, most: usize) -> Result<FileStep, SftpError> {
        loop {
            if !self.outgoing.is_empty() {
                let count = self.outgoing.len().min(most);
                return Ok(FileStep::Pass(self.outgoing.split_to(count).freeze()));
            }
            if let Some((left, handle)) = &mut self.writing {
                let count = self.inbox.len().min(*left).min(most);
                if count == 0 {
                    return Ok(FileStep::Wait);
                }
                let bytes = self.inbox.split_to(count).freeze();
                if let Some(file) = self.files.get_mut(handle) {
                    file.written.add(&bytes);
                }
                *left -= count;
                if *left == 0 {
                    self.writing = None;
                }
                return Ok(FileStep::Pass(bytes));
            }
            if let Some(query) = self.resend.take() {
                return Ok(FileStep::Query(query));
            }
            if self.query.is_some() {
                return Ok(FileStep::Wait);
            }
            if let Some(step) = self.pending_step() {
                return Ok(step);
            }
            // A request that was permitted is outgoing now, and goes before the next is looked at.
            if self.outgoing.is_empty() && self.pending.is_none() && !self.take_request()? {
                return Ok(FileStep::Wait);
            }
        }
    }

    /// What the pending request needs; none when it became outgoing, or there is none.
    fn pending_step(&mut self) -> Option<FileStep> {
        let pending = self.pending.as_mut()?;
        match pending.decided.take() {
            Some(Ok(())) => {
                self.outgoing.put_slice(&pending.raw);
                self.pending = None;
                return None;
            }
            Some(Err((code, why))) => {
                let (swallowed, answer) = (pending.raw.len(), status(pending.id, code, &why));
                self.pending = None;
                return Some(FileStep::Refuse { swallowed, answer });
            }
            None => {}
        }
        if let Some((_, path)) = pending.wants.iter().find(|(_, path)| path.resolved.is_none()) {
            self.queries = self.queries.wrapping_add(1) & 0xffff;
            let id = OWN_IDS | self.queries;
            self.query = Some(id);
            let mut body = vec![kind::REALPATH];
            body.put_u32(id);
            put_string(&mut body, &path.ask);
            let mut query = BytesMut::new();
            put_string(&mut query, &body);
            return Some(FileStep::Query(query.freeze()));
        }
        if std::mem::replace(&mut pending.asked, true) {
            return Some(FileStep::Wait);
        }
        let resolved = |(access, path): &(Access, Path)| (*access, path.resolved.clone().unwrap_or_default());
        let accesses = pending.wants.iter().map(resolved).collect();
        Some(FileStep::Ask(FileOp { verb: pending.verb, accesses }))
    }

    /// Takes the next request off the inbox; false when it is not there yet.
    fn take_request(&mut self) -> Result<bool, SftpError> {
        let Some(length) = self.inbox.first_chunk::<4>() else { return Ok(false) };
        let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
        let Some(number) = self.inbox.get(4).copied() else { return Ok(false) };
        let most = if number == kind::WRITE { PACKET_MAX } else { WHOLE_MAX };
        if length == 0 || length > most {
            return Err(SftpError::TooLong(length));
        }
        if number == kind::WRITE && self.begun {
            return self.take_write(length);
        }
        if self.inbox.len() < 4 + length {
            return Ok(false);
        }
        let raw = self.inbox.split_to(4 + length).freeze();
        let mut reader = Reader::new(raw.get(5..).unwrap_or_default());
        if !self.begun {
            if number != kind::INIT {
                return Err(SftpError::NoInit);
            }
            self.begun = true;
            // Version 3 is what is understood here, and what servers speak; a client that offers more gets it too.
            self.outgoing.put_slice(raw.get(..5).unwrap_or_default());
            self.outgoing.put_u32(3);
            self.outgoing.put_slice(raw.get(9..).unwrap_or_default());
            return Ok(true);
        }
        let id = reader.u32()?;
        match self.meaning(number, id, reader)? {
            Meaning::Plain => self.outgoing.put_slice(&raw),
            Meaning::Wants { verb, wants, opens } => {
                self.pending = Some(Pending { raw, id, verb, wants, opens, asked: false, decided: None });
            }
            Meaning::Refused { code, why } => {
                let decided = Some(Err((code, format!("chaperone: {why}"))));
                self.pending =
                    Some(Pending { raw, id, verb: "", wants: Vec::new(), opens: None, asked: true, decided });
            }
        }
        Ok(true)
    }

    /// A write passes as it comes: its handle was permitted when it was opened.
    fn take_write(&mut self, length: usize) -> Result<bool, SftpError> {
        let mut reader = Reader::new(self.inbox.get(9..).unwrap_or_default());
        let read = reader.string().and_then(|handle| Ok((handle.to_vec(), reader.u64()?, reader.u32()?)));
        let Ok((handle, offset, size)) = read else {
            // Handles have at most 256 bytes, so a header is never longer than this.
            return if self.inbox.len() > 512 { Err(Malformed.into()) } else { Ok(false) };
        };
        let header = 4 + 1 + 4 + 4 + handle.len() + 8 + 4;
        if length + 4 != header + size as usize {
            return Err(Malformed.into());
        }
        let head = self.inbox.split_to(header);
        self.outgoing.put_slice(&head);
        if let Some(file) = self.files.get_mut(&handle) {
            file.written.seek(offset);
        }
        self.writing = (size > 0).then_some((size as usize, handle));
        Ok(true)
    }

    fn meaning(&mut self, number: u8, id: u32, mut reader: Reader<'_>) -> Result<Meaning, SftpError> {
        let one = |verb, access, path| Meaning::Wants { verb, wants: vec![(access, path)], opens: None };
        Ok(match number {
            kind::OPEN => {
                let path = Path::followed(reader.string()?);
                let flags = reader.u32()?;
                if self.files.len() + self.opening.len() >= FILES_MAX {
                    return Err(SftpError::TooMany);
                }
                // The answer could not be told apart, and a file would pass for one that is open for writing.
                if self.opening.contains_key(&id) {
                    return Err(SftpError::Reused(id));
                }
                let (reads, writes) = (flags & 1 != 0, flags & !1 != 0);
                let mut wants = Vec::new();
                if writes {
                    wants.push((Access::Write, path.clone()));
                }
                if reads || !writes {
                    wants.push((Access::Read, path));
                }
                let verb = if writes { "write" } else { "read" };
                Meaning::Wants { verb, wants, opens: Some(writes) }
            }
            kind::CLOSE => {
                if let Some(file) = self.files.remove(reader.string()?) {
                    self.done.push(file.done());
                }
                Meaning::Plain
            }
            kind::READ => {
                let handle = reader.string()?.to_vec();
                let offset = reader.u64()?;
                if self.reads.len() >= FILES_MAX * 4 {
                    return Err(SftpError::TooMany);
                }
                self.reads.insert(id, (handle, offset));
                Meaning::Plain
            }
            kind::FSETSTAT => match self.files.get(reader.string()?) {
                Some(file) if file.writable => Meaning::Plain,
                _ => Meaning::Refused { code: PERMISSION_DENIED, why: "the file is not open for writing" },
            },
            kind::FSTAT | kind::READDIR | kind::REALPATH => Meaning::Plain,
            kind::LSTAT => one("stat", Access::List, Path::of_name(reader.string()?)),
            kind::STAT => one("stat", Access::List, Path::followed(reader.string()?)),
            kind::READLINK => one("readlink", Access::List, Path::of_name(reader.string()?)),
            kind::OPENDIR => one("list", Access::List, Path::followed(reader.string()?)),
            kind::SETSTAT => one("setstat", Access::Write, Path::followed(reader.string()?)),
            kind::MKDIR => one("mkdir", Access::Write, Path::of_name(reader.string()?)),
            kind::REMOVE => one("remove", Access::Remove, Path::of_name(reader.string()?)),
            kind::RMDIR => one("rmdir", Access::Remove, Path::of_name(reader.string()?)),
            kind::RENAME => rename(reader)?,
            kind::SYMLINK => {
                Meaning::Refused { code: PERMISSION_DENIED, why: "links are not made through here" }
            }
            kind::EXTENDED => match reader.text()? {
                "posix-rename@openssh.com" => rename(reader)?,
                "statvfs@openssh.com" => one("statvfs", Access::List, Path::followed(reader.string()?)),
                "lsetstat@openssh.com" => one("setstat", Access::Write, Path::of_name(reader.string()?)),
                "fstatvfs@openssh.com" | "fsync@openssh.com" | "limits@openssh.com" => Meaning::Plain,
                _ => Meaning::Refused { code: UNSUPPORTED, why: "this extension is not passed on" },
            },
            _ => Meaning::Refused { code: UNSUPPORTED, why: "this request is not known" },
        })
    }
}

fn rename(mut reader: Reader<'_>) -> Result<Meaning, Malformed> {
    let (from, to) = (Path::of_name(reader.string()?), Path::of_name(reader.string()?));
    Ok(Meaning::Wants {
        verb: "rename",
        wants: vec![(Access::Read, from.clone()), (Access::Remove, from), (Access::Write, to)],
        opens: None,
    })
}

fn status(id: u32, code: u32, text: &str) -> Vec<u8> {
    let mut body = vec![kind::STATUS];
    body.put_u32(id);
    body.put_u32(code);
    put_string(&mut body, text.as_bytes());
    put_string(&mut body, b"");
    let mut out = Vec::new();
    put_string(&mut out, &body);
    out
}
