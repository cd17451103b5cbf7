//! What every suite stands on: scratch folders, cgroups, a private PostgreSQL, the agent, unmodified clients.
//!
//! Everything made here is named after the suite and this process, has a time limit, and is taken away by `Drop`.
//! Nothing here knows what a suite wants to show.

pub(crate) mod agent;
pub(crate) mod auditor;
pub(crate) mod cgroup;
pub(crate) mod client;
pub(crate) mod container;
pub(crate) mod disk;
pub(crate) mod net;
mod packed;
pub(crate) mod postgres;
pub(crate) mod report;
pub(crate) mod scratch;
pub(crate) mod spawn;
pub(crate) mod sshd;
pub(crate) mod storm;
pub(crate) mod tamper;
pub(crate) mod term;
pub(crate) mod trail;
pub(crate) mod world;
