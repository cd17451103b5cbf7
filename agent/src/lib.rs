//! Chaperone's agent. The map of the house is in ARCHITECTURE.md.
pub mod record;
