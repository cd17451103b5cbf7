//! The techniques, a table for each family.

mod admin;
mod datagrams;
mod dead;
mod early;
mod frames;
mod inside;
mod kinds;
mod others;
mod streams;

use super::technique::Technique;
pub(super) use frames::OVERLAY_PORT;

/// All techniques, in the order they are reported.
pub(super) fn all() -> impl Iterator<Item = &'static Technique> {
    [
        streams::TECHNIQUES,
        others::TECHNIQUES,
        datagrams::TECHNIQUES,
        kinds::TECHNIQUES,
        early::TECHNIQUES,
        inside::TECHNIQUES,
        admin::TECHNIQUES,
        frames::TECHNIQUES,
        dead::TECHNIQUES,
    ]
    .into_iter()
    .flatten()
}

macro_rules! sources {
    ($($name:literal),* $(,)?) => {
        &[$(($name, include_str!(concat!("../../../../attacks/", $name)))),*]
    };
}

/// Files of tests/attacks, as they lie beside each other at run time.
pub(super) const SOURCES: &[(&str, &str)] = sources![
    "admin.py",
    "common.py",
    "connect.c",
    "datagrams.py",
    "early.py",
    "frames.py",
    "handover.py",
    "inside.py",
    "int80.c",
    "kinds.py",
    "packets.py",
    "relay.py",
    "rewrite.c",
    "steal.py",
    "streams.py",
    "uring.c",
];

/// Programs compiled from them: name, source, flags for the compiler.
pub(super) const PROGRAMS: &[(&str, &str, &[&str])] = &[
    ("connect", "connect.c", &[]),
    ("connect-static", "connect.c", &["-static"]),
    ("int80", "int80.c", BARE_32_BIT),
    ("rewrite", "rewrite.c", &[]),
    ("uring", "uring.c", &[]),
];

/// Needs no 32-bit library, of C or of the compiler.
const BARE_32_BIT: &[&str] = &[
    "-m32",
    "-nostdlib",
    "-static",
    "-ffreestanding",
    "-fno-builtin",
    "-fno-pie",
    "-no-pie",
    "-fno-stack-protector",
];
