//! SSH, protocol 2: from the version line of a redirected connection to its last record.
//!
//! Two transports of our own, one towards the workload and one towards the target, and the connection layer relayed
//! between them message by message. `codec`, `packet`, `kex`, `keys`, `transport`, `auth`, `certificate`, `host`, `flow`, `machine`, `exec`, `mask`, `rsync`, `typed`,
//! `variable` and `sftp` are pure; `decide` asks policy; `serve`, `open` and `relay` do the I/O.

mod access;
mod auth;
mod certificate;
mod codec;
mod decide;
mod exec;
mod flow;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod host;
mod kex;
mod keys;
mod machine;
mod mask;
mod open;
mod packet;
mod relay;
mod rsync;
mod serve;
mod sftp;
mod transport;
mod typed;
mod variable;

pub use keys::HostKeys;
pub use open::{SshError, host_keys};
pub use serve::Ssh;
pub(super) use serve::refuse;
