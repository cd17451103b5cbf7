//! PostgreSQL, protocol 3: from the first packet of a redirected connection to its last record.
//!
//! `codec`, `startup`, `options`, `login`, `settings`, `client_auth`, `response`, `machine`, `rows`, `style`, `copy`, `watch` and `plan` are pure: bytes and values in, bytes
//! and questions out. `serve` leads a connection to its session, `relay` runs it, `decide` answers its questions;
//! `greeting`, `open`, `catalogue`, `placing` and `client_tls` do I/O for them.

mod access;
mod blast;
mod catalogue;
mod changes;
pub mod client_auth;
mod client_tls;
pub mod codec;
pub mod copy;
mod decide;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod greeting;
pub mod login;
pub mod machine;
mod open;
mod options;
mod placing;
pub mod plan;
mod powers;
mod relay;
pub mod response;
pub mod rows;
mod serve;
pub mod settings;
pub mod startup;
pub mod style;
mod value;
pub mod watch;

pub use client_tls::ClientTls;
pub use serve::Postgres;
pub(super) use serve::refuse;
