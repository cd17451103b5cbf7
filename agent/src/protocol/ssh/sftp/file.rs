//! What a transfer is about: a path as the target resolves it, and a file with what went into it and out of it.

use ring::digest;

use super::FileDone;

pub(super) struct Path {
    /// What is sent to REALPATH, and what is put behind the answer.
    pub(super) ask: Vec<u8>,
    pub(super) last: Option<Vec<u8>>,
    pub(super) resolved: Option<String>,
}

impl Clone for Path {
    fn clone(&self) -> Self {
        Self { ask: self.ask.clone(), last: self.last.clone(), resolved: None }
    }
}

impl Path {
    /// The operation follows a link at the end of the path.
    pub(super) fn followed(path: &[u8]) -> Self {
        Self { ask: path.to_vec(), last: None, resolved: None }
    }

    /// The operation is on the name itself.
    pub(super) fn of_name(path: &[u8]) -> Self {
        let end = path.iter().rposition(|byte| *byte != b'/').map_or(0, |place| place + 1);
        let trimmed = path.get(..end).unwrap_or_default();
        let (parent, last) = match trimmed.iter().rposition(|byte| *byte == b'/') {
            Some(place) => (trimmed.get(..place.max(1)), trimmed.get(place + 1..)),
            None => (Some(&b"."[..]), Some(trimmed)),
        };
        match (parent, last) {
            (Some(parent), Some(last)) if !matches!(last, b"" | b"." | b"..") => {
                Self { ask: parent.to_vec(), last: Some(last.to_vec()), resolved: None }
            }
            _ => Self::followed(path),
        }
    }
}

pub(super) struct File {
    pub(super) op: u64,
    pub(super) writable: bool,
    pub(super) read: Content,
    pub(super) written: Content,
}

pub(super) struct Content {
    pub(super) bytes: u64,
    pub(super) next: u64,
    pub(super) in_order: bool,
    pub(super) hash: digest::Context,
}

impl Content {
    pub(super) fn new() -> Self {
        Self { bytes: 0, next: 0, in_order: true, hash: digest::Context::new(&digest::SHA256) }
    }

    pub(super) fn seek(&mut self, offset: u64) {
        self.in_order &= offset == self.next;
        self.next = offset;
    }

    pub(super) fn add(&mut self, bytes: &[u8]) {
        self.bytes += bytes.len() as u64;
        self.next += bytes.len() as u64;
        if self.in_order {
            self.hash.update(bytes);
        }
    }
}

impl File {
    pub(super) fn new(op: u64, writable: bool) -> Self {
        Self { op, writable, read: Content::new(), written: Content::new() }
    }

    pub(super) fn done(self) -> FileDone {
        let content = match (self.read.bytes, self.written.bytes) {
            (_, 0) => Some(self.read),
            (0, _) => Some(self.written),
            _ => None,
        };
        let (read, written) = match &content {
            Some(content) if self.writable && content.bytes > 0 => (0, content.bytes),
            Some(content) => (content.bytes, 0),
            None => (0, 0),
        };
        let sha256 = content
            .filter(|content| content.in_order && content.bytes > 0)
            .map(|content| crate::hex(content.hash.finish().as_ref()));
        FileDone { op: self.op, path: None, read, written, sha256 }
    }
}
