//! Chaperone's agent. The map of the house is in ARCHITECTURE.md; the arrows between the modules are held by
//! `cargo xtask tidy`.

pub mod app;
pub mod authority;
pub mod cli;
pub mod command;
pub mod config;
pub mod control;
pub mod detect;
pub mod export;
pub mod gate;
pub mod grpc;
pub mod http;
pub mod identity;
pub mod intercept;
pub mod log;
pub mod places;
pub mod privileges;
pub mod protocol;
pub mod record;
pub mod registry;
pub mod secret;
pub mod session;
pub mod trust;
pub mod upstream;
pub mod workload;

#[cfg(test)]
#[path = "../sql/tests/support/mutate.rs"]
mod mutate;

/// Bytes as lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |nibble: u8| char::from(*DIGITS.get(usize::from(nibble & 15)).unwrap_or(&b'0'));
    let mut out = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        out.push(digit(byte >> 4));
        out.push(digit(*byte));
    }
    out
}
