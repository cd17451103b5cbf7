//! Protocols, one folder each: pure machines and one relay that does the I/O.

pub mod postgres;
