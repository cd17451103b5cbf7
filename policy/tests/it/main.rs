//! Everything about policies that can be asked through the public interface. One binary: Cedar is slow to link.

#![expect(
    clippy::panic,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod approvals;
mod combine;
mod decide;
mod errors;
mod load;
mod names;
mod properties;
mod readme;
mod starter;
mod support;
mod workload;
mod world;
