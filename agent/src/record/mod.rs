//! The record: what happened, written before anything of it is served.
//!
//! Owns the journal (segments of hash-chained, checksummed records with signed checkpoints), its reader, its
//! verification, and the questions the command line asks of it. Deliberately does not know sessions, sockets or
//! policy: it is handed [`event::Event`]s and a directory. docs/journal.md is the format, byte by byte.

pub mod checkpoint;
mod clock;
mod digest;
mod error;
pub mod event;
mod files;
mod follow;
pub mod format;
mod frozen;
mod handover;
pub mod head;
mod journal;
mod key;
pub mod output;
mod packed;
pub mod prove;
pub mod pruned;
pub mod query;
pub mod raw;
pub mod reader;
mod recover;
pub mod render;
mod scan;
mod scribe;
pub mod seal;
pub mod served;
mod spool;
mod stamp;
mod tail;
mod tally;
pub mod tree;
pub mod verify;

pub use checkpoint::Checkpoint;
pub use error::RecordError;
pub use follow::{Followed, Follower};
pub use handover::{Journal, serve_predecessor};
pub use journal::{Appended, Gone, Options, Retention, Wanted, complete};
pub use key::{HostKey, PublicKey, public_path};
pub use reader::{Body, Check, Reader, Record};
pub use recover::Repaired;
pub use served::{Burst, Served};
pub use spool::in_memory;
pub use stamp::Stamp;
pub use tally::Tally;
pub use verify::HEARTBEAT;

#[cfg(test)]
pub(crate) mod tests;
