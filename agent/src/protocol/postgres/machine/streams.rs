//! What a stream of replication carries: it is the database itself and is not recorded, but how much of it went which way,
//! and the digest of that, are. Of CopyData only what is in the messages counts, so that whoever kept it can prove it.

use ring::digest;

use super::super::rows::Origins;
use super::Machine;

/// One direction.
#[derive(Clone)]
pub(super) struct Stream {
    bytes: u64,
    hash: digest::Context,
}

impl Default for Stream {
    fn default() -> Self {
        Self { bytes: 0, hash: digest::Context::new(&digest::SHA256) }
    }
}

impl std::fmt::Debug for Stream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes", self.bytes)
    }
}

impl Stream {
    fn add(&mut self, piece: &[u8]) {
        self.bytes += piece.len() as u64;
        self.hash.update(piece);
    }

    fn end(self) -> Streamed {
        Streamed { bytes: self.bytes, sha256: crate::hex(self.hash.finish().as_ref()) }
    }
}

#[derive(Debug, Clone, Default)]
pub(super) struct Streams {
    to_client: Stream,
    to_server: Stream,
}

impl Streams {
    pub(super) fn end(self) -> (Streamed, Streamed) {
        (self.to_client.end(), self.to_server.end())
    }
}

/// What went through one direction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Streamed {
    pub bytes: u64,
    /// In hex.
    pub sha256: String,
}

impl<O: Origins> Machine<O> {
    /// A COPY begins: if it replicates, what it carries is summed up.
    pub(super) fn stream_begins(&mut self) {
        if let Some(run) = self.running().filter(|run| run.plan.replicates()) {
            run.streams.get_or_insert_default();
        }
    }

    /// A piece of data on its way to the client.
    pub(super) fn streamed_to_client(&mut self, piece: &[u8]) {
        if let Some(streams) = self.running().and_then(|run| run.streams.as_mut()) {
            streams.to_client.add(piece);
        }
    }

    /// A piece of a message that is too long to wait for, if it is data.
    pub(super) fn stream_goes_on(&mut self, piece: Option<&[u8]>) {
        if self.rest_streamed {
            self.streamed_to_client(piece.unwrap_or_default());
        }
    }

    /// A piece of data on its way to the server.
    pub(super) fn streamed_to_server(&mut self, piece: &[u8]) {
        if let Some(streams) = self.running().and_then(|run| run.streams.as_mut()) {
            streams.to_server.add(piece);
        }
    }
}
