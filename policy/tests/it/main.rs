//! Everything about policies that can be asked through the public interface. One binary: Cedar is slow to link.

mod approvals;
mod combine;
mod decide;
mod errors;
mod load;
mod names;
mod properties;
mod starter;
mod support;
mod world;
